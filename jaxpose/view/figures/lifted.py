"""Poses in space as flat pictures: from the front and from the side. The page that can be turned is `jaxpose.view.space`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxpose.skeleton import Skeleton
from jaxpose.view.figures.base import draw_pose, printable, pyplot, save, sides

GREY = "#9a9a9a"


def lifted(
    poses: np.ndarray,
    skeleton: Skeleton,
    path: str | Path,
    *,
    truth: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
) -> Path:
    """Draws poses from the front (x, y) above and from the side (z, y) below, with the labels in grey.

    Args:
        poses: (N, K, 3) in mm in the axes of the camera, relative to the root.
        skeleton: the joints.
        path: path of the picture.
        truth: (N, K, 3) labels; None: there are none.
        titles: N titles.

    Returns:
        The path.
    """
    count = len(poses)
    figure, axes = pyplot().subplots(2, count, figsize=(1.7 * count, 4.2), squeeze=False, sharey=True)
    for column in range(count):
        for row, plane in enumerate(([0, 1], [2, 1])):
            axis = axes[row, column]
            if truth is not None:
                draw_pose(axis, truth[column][:, plane], skeleton, color=GREY)
            draw_pose(axis, poses[column][:, plane], skeleton, color=sides(skeleton))
            axis.set_aspect("equal")
            axis.set_xlim(-900, 900)
            axis.set_ylim(1200, -1200)  # y points down
            axis.set_xticks([])
            axis.set_yticks([])
        if titles is not None:
            axes[0, column].set_title(printable(titles[column]), fontsize=8)
    axes[0, 0].set_ylabel("front", fontsize=8)
    axes[1, 0].set_ylabel("side", fontsize=8)
    return save(figure, path)
