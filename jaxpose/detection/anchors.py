"""The anchors of a feature pyramid: boxes at every cell of every level, from which a region proposal network starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Variant = Literal["torchvision", "detectron2"]
SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
RATIOS = (0.5, 1.0, 2.0)


def pyramid(
    padded_hw: tuple[int, int],
    *,
    variant: Variant = "torchvision",
    sizes: Sequence[float] = SIZES,
    ratios: Sequence[float] = RATIOS,
    first_level: int = 2,
) -> np.ndarray:
    """Returns the anchors of all levels, in the order level, y, x, ratio.

    Level l has ceil(H / 2^l) rows. An anchor of ratio r has the area size^2 and the height r times its width. The code bases differ
    twice (QUIRK E2, E3): torchvision rounds the corners of the anchor at the origin to whole pixels, half to even,
    and its stride is the padded size // the number of cells, which at p6 of 800 rows is 61; Detectron2 does not round, and its
    stride is 2^l. Both place the anchors at the corners of the cells, not at their centres.

    Args:
        padded_hw: The height and width of the images with their padding, px; the anchors depend on the padding.
        variant: The code base.
        sizes: The side of a square anchor of each level, px.
        ratios: Heights over widths of the anchors of each cell.
        first_level: The level of the first size; 2 has stride 4.

    Returns:
        (A, 4) float32 xyxy, px: constants of a program, which depend on no weights.

    Raises:
        ValueError: The variant is unknown, a size, ratio or side is not positive, or there are none.

    >>> pyramid((64, 64), sizes=(32,), ratios=(0.5,)).shape
    (256, 4)
    >>> pyramid((64, 64), sizes=(32,), ratios=(0.5,))[1].tolist()
    [-19.0, -11.0, 27.0, 11.0]
    """
    if variant not in ("torchvision", "detectron2"):
        raise ValueError(f"variant={variant!r}: expected 'torchvision' or 'detectron2'")
    if not sizes or not ratios or min(*sizes, *ratios, *padded_hw) <= 0:
        raise ValueError(
            f"padded_hw={tuple(padded_hw)}, sizes={tuple(sizes)}, ratios={tuple(ratios)}: expected positive numbers"
        )
    levels = []
    for level, size in enumerate(sizes, first_level):
        grid = grid_hw(padded_hw, level=level)
        strides = [2**level] * 2 if variant == "detectron2" else [n // g for n, g in zip(padded_hw, grid, strict=True)]
        y, x = (np.arange(n, dtype=np.float32) * stride for n, stride in zip(grid, strides, strict=True))
        x, y = np.meshgrid(x, y)
        shift = np.stack([x, y, x, y], -1)
        levels.append((shift[:, :, None] + _cell(size, ratios, variant)).reshape(-1, 4))
    return np.concatenate(levels)


def grid_hw(padded_hw: tuple[int, int], *, level: int) -> tuple[int, int]:
    """Returns the rows and columns of a level: those of convolutions that halve, rounding up.

    Args:
        padded_hw: The height and width of the images with their padding, px.
        level: The level; its stride is 2^level.

    >>> grid_hw((800, 1344), level=6)
    (13, 21)
    """
    return tuple(-(-n // 2**level) for n in padded_hw)


def _cell(size: float, ratios: Sequence[float], variant: Variant) -> np.ndarray:
    """Returns the anchors at the origin, (number of ratios, 4) float32."""
    if variant == "torchvision":
        height = np.sqrt(np.asarray(ratios, np.float32))
        half = np.stack([1 / height * np.float32(size), height * np.float32(size)], -1) / 2
        return np.round(np.concatenate([-half, half], -1))
    ratios = np.asarray(ratios, np.float64)
    width = np.sqrt(size**2 / ratios)
    half = np.stack([width, ratios * width], -1) / 2
    return np.concatenate([-half, half], -1).astype(np.float32)
