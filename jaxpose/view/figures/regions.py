"""Pictures with boxes, a panel for each step of a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.view.figures.base import add_legend, grid, limit_to_image, printable, save


def boxes_by_step(
    image: np.ndarray,
    panels: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    colors: Mapping[str, str],
    width: float = 4.0,
) -> Path:
    """Draws one picture several times, each time with other boxes.

    Args:
        image: (H, W, 3) uint8 RGB.
        panels: per panel "title", and "boxes": a sequence of (boxes (N, 4) xyxy in continuous coordinates, meaning, opacity), whose
            opacity is a number or (N,).
        path: path of the picture.
        colors: colour of each meaning.
        width: width of a panel in inches.

    >>> from tempfile import mkdtemp
    >>> panels = [{"title": "labels", "boxes": [(np.array([[2.0, 2.0, 20.0, 30.0]]), "labelled", 1.0)]}]
    >>> boxes_by_step(np.zeros((32, 48, 3), np.uint8), panels, Path(mkdtemp()) / "a.png", colors={"labelled": "green"}).name
    'a.png'
    """
    from matplotlib.patches import Rectangle

    figure, axes = grid(len(panels), len(panels), aspect=image.shape[0] / image.shape[1], width=width)
    for ax, panel in zip(axes.flat, panels, strict=True):
        ax.imshow(image)
        for boxes, meaning, opacity in panel["boxes"]:
            opacities = np.broadcast_to(np.clip(opacity, 0.0, 1.0), len(boxes))
            for (x1, y1, x2, y2), alpha in zip(np.asarray(boxes, np.float64) - 0.5, opacities, strict=True):
                ax.add_patch(
                    Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colors[meaning], lw=1.1, alpha=float(alpha))
                )
        ax.set_title(printable(panel["title"]), fontsize=8)
        limit_to_image(ax, image)
    add_legend(figure, colors)
    return save(figure, path)
