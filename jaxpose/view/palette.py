"""The colours of every picture, and the limbs of a pose that are drawn.

Three drawing libraries are used, each for what it does best: matplotlib for figures (`jaxpose.view.figures`), Pillow for the
tiles of reports (`jaxpose.view.tiles`), OpenCV for videos (`jaxpose.view.overlay`). The meaning of a colour is the same in all
of them:

    green     the truth: labelled joints
    orange    a prediction; the left side of a body
    blue      a standard deviation; the right side of a body
    yellow    joints in the middle of a body
    pink      the error between a labelled joint and its prediction

Several people in one picture have the colours of `PEOPLE` in turn, none of which is green. On small photographs (tiles) the
same hues are brighter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["Color", "limbs_shown"]


class Color(str):
    """A colour as "#rrggbb", which matplotlib and style sheets take, with its RGB values for Pillow and OpenCV.

    >>> Color("#e07a1f"), Color("#e07a1f").rgb
    ('#e07a1f', (224, 122, 31))
    """

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue from 0 to 255."""
        return int(self[1:3], 16), int(self[3:5], 16), int(self[5:7], 16)


TRUTH = Color("#2a9d3f")
LEFT = PREDICTION = Color("#e07a1f")
RIGHT = DEVIATION = Color("#2f6fb5")
MIDDLE = Color("#f2c318")
INK = Color("#222222")
"""Lines and crosses on a light background."""
LIGHT = Color("#fafafa")
"""Rings and outlines on a photograph."""
PEOPLE = (
    PREDICTION, RIGHT, Color("#d4308e"), Color("#8b5cd6"), MIDDLE, Color("#18b6c9"), Color("#c0392b"), Color("#8d6e63"),
)  # fmt: skip
"""People of one picture, in turn."""

TILE_TRUTH, TILE_PREDICTION, TILE_ERROR = Color("#42c95c"), Color("#ff922b"), Color("#ec4899")
"""The hues of truth, prediction and error, bright enough for small photographs."""
NO_IMAGE = Color("#808084")
"""Grey where there is no image."""


def limbs_shown(limbs: Iterable[tuple[int, int]], is_drawn: Sequence[bool] | np.ndarray) -> list[tuple[int, int]]:
    """Returns the limbs of a pose to draw: those between two joints that are drawn.

    Args:
        limbs: pairs of joints, such as `jaxpose.skeleton.Skeleton.limbs`.
        is_drawn: ``(K,)`` bool, the joints that are drawn.

    >>> limbs_shown([(0, 1), (1, 2)], [True, True, False])
    [(0, 1)]
    """
    return [(a, b) for a, b in limbs if is_drawn[a] and is_drawn[b]]
