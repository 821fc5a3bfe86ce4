"""The shared parts of figures: matplotlib on demand, grids of panels, poses, titles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxpose.skeleton import Skeleton
from jaxpose.view.palette import INK, LEFT, MIDDLE, RIGHT, limbs_shown

DPI = 110
"""Pixels per inch of every figure."""


def require() -> None:
    """Checks that pictures can be drawn, before a long training.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
    """
    pyplot()


def pyplot() -> ModuleType:
    """Imports matplotlib.pyplot with a backend that needs no screen.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'jaxpose[plot]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure, path: str | Path) -> Path:
    """Writes a figure, creating its folder, and closes it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, bbox_inches="tight")
    pyplot().close(figure)
    return path


def draw_pose(
    axis,
    xy: np.ndarray,
    skeleton: Skeleton,
    *,
    color: str | Sequence[str],
    shown: np.ndarray | None = None,
    lw: float = 1.5,
) -> None:
    """Draws one pose: joints as dots, and the limbs between them.

    Args:
        axis: matplotlib's axes.
        xy: ``(K, 2)`` joints in the pixels of the picture.
        skeleton: the skeleton of the pose.
        color: one colour for the pose, or K colours of the joints; a limb has the colour of its second joint, or of its
            first if the second is in the middle of the body.
        shown: ``(K,)`` bool, the joints to draw; None draws all.
        lw: width of the limbs in points.
    """
    is_drawn = np.ones(len(xy), bool) if shown is None else np.asarray(shown, bool)
    colors = [color] * len(xy) if isinstance(color, str) else list(color)
    for a, b in limbs_shown(skeleton.limbs, is_drawn):
        ink = colors[a] if colors[b] == MIDDLE else colors[b]
        axis.plot(xy[[a, b], 0], xy[[a, b], 1], color=ink, lw=lw, alpha=0.9)
    for ink in dict.fromkeys(colors):
        dots = is_drawn & [color == ink for color in colors]
        axis.plot(xy[dots, 0], xy[dots, 1], "o", color=ink, ms=2.2)


def sides(skeleton: Skeleton) -> list[str]:
    """Chooses a colour for every joint: left orange, right blue, others yellow; by name, so that a wrong mirror shows.

    Args:
        skeleton: K joints with names, and their mirror pairs.

    Returns:
        K colours.

    >>> from jaxpose.skeleton import COCO17
    >>> sides(COCO17)[0] == MIDDLE, sides(COCO17)[1] == LEFT, sides(COCO17)[2] == RIGHT
    (True, True, True)
    """
    pairs = {joint for pair in skeleton.flip_pairs for joint in pair}
    names = [re.sub(r"[^a-z]", "", name.lower()) for name in skeleton.joints]
    side = lambda name: LEFT if name.startswith("l") or "left" in name else RIGHT  # noqa: E731
    return [side(name) if k in pairs else MIDDLE for k, name in enumerate(names)]


def printable(text: str) -> str:
    """Makes a name from a file fit for a title: control characters become "?", and lines over 60 characters are cut.

    >>> printable("a\\x00b" + "c" * 99)[:4], len(printable("c" * 99))
    ('a?bc', 60)
    """
    lines = [line if len(line) <= 60 else line[:29] + "\u2026" + line[-30:] for line in text.split("\n")]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def check_one_per_image(count: int, **entries: Sequence | None) -> None:
    """Checks that there are images, and that each argument is None or has one entry per image.

    Raises:
        ValueError: there are no images, or the number of entries differs.
    """
    if not count:
        raise ValueError("no images to draw: give one or more")
    for name, values in entries.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{name} must have one entry for each of the {count} images, got {len(values)}")


def median_aspect(images: Sequence[np.ndarray]) -> float:
    """Returns the median of height / width over the images, for the cells of a grid."""
    return float(np.median([image.shape[0] / image.shape[1] for image in images]))


def grid(count: int, columns: int, *, aspect: float, width: float, **options: Any):
    """Makes a figure of panels without axes.

    Args:
        count: number of panels.
        columns: largest number of panels side by side.
        aspect: height / width of a panel.
        width: width of a panel in inches.
        **options: further options of matplotlib's `subplots`.

    Returns:
        The figure and its ``(rows, columns)`` array of axes.
    """
    plt = pyplot()
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (width * columns, (width * aspect + 0.25) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for ax in axes.flat:
        ax.axis("off")
    return figure, axes


def add_legend(figure, colors: Mapping[str, str], *, hollow: str | None = None) -> None:
    """Explains the colours of a figure in one line above its panels.

    Args:
        figure: matplotlib's figure.
        colors: meaning -> colour.
        hollow: meaning of a hollow dot; None: there are none.
    """
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, lw=2, label=meaning) for meaning, color in colors.items()]
    if hollow is not None:
        handles.append(Line2D([], [], ls="", marker="o", mfc="white", mec=INK, ms=4, label=hollow))
    height = 1.0
    if figure.get_layout_engine() is None:  # the panels end below the figure's edge: directly above their titles
        height = max(ax.get_position().y1 for ax in figure.axes) + 0.3 / figure.get_figheight()
    options = {"ncols": len(handles), "fontsize": 8, "frameon": False}
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, height), **options)


def limit_to_image(ax, image: np.ndarray) -> None:
    """Sets the limits of a panel to the image's edges, regardless of other content."""
    ax.set_xlim(-0.5, image.shape[1] - 0.5)
    ax.set_ylim(image.shape[0] - 0.5, -0.5)
