"""Whole images as detectors take them: scaled to a short side, and padded on the right and below.

The two code bases scale differently (QUIRK E7): torchvision interpolates floats bilinearly without a filter and rounds the sides down,
so that 640x480 becomes 1066x800; Detectron2 resizes bytes with PIL, which filters, and rounds to the nearest, 1067x800.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from jaxpose.data.pixels import opencv

Rule = Literal["torchvision", "detectron2"]
DIVISOR = 32
"""Padded sides are multiples of the coarsest stride of the backbone."""


def resized_hw(size_hw: tuple[int, int], *, short: int, longest: int, rule: Rule = "torchvision") -> tuple[int, int]:
    """Returns the height and width of a scaled image.

    Args:
        size_hw: Height and width of the image, px.
        short: The shorter side after scaling, px, unless the longer one would exceed `longest`.
        longest: The largest length of the longer side, px.
        rule: The code base whose rounding is used; a side is never less than one pixel.

    >>> resized_hw((480, 640), short=800, longest=1333), resized_hw((480, 640), short=800, longest=1333, rule="detectron2")
    ((800, 1066), (800, 1067))
    """
    height, width = size_hw
    if rule == "torchvision":
        scale = min(short / min(size_hw), longest / max(size_hw))
        sides = (int(side * scale) for side in size_hw)
    else:
        scale = short / min(size_hw)
        sides = (short, scale * width) if height < width else (scale * height, short)
        if max(sides) > longest:
            sides = tuple(side * (longest / max(sides)) for side in sides)
        sides = (int(side + 0.5) for side in sides)
    return tuple(max(side, 1) for side in sides)


def resized(image: np.ndarray, size_hw: tuple[int, int], *, rule: Rule = "torchvision") -> np.ndarray:
    """Returns an image in 0..255 of another size, as float32.

    Args:
        image: (h, w, 3) uint8.
        size_hw: The height and width that it gets, px.
        rule: The code base whose interpolation is used.
    """
    if rule == "detectron2":
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BILINEAR), np.float32)
    cv2 = opencv()
    return cv2.resize(image.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_LINEAR)


def padded(image: np.ndarray, *, divisor: int = DIVISOR) -> np.ndarray:
    """Returns an image with zeros on the right and below, so that its sides are multiples of a number.

    Args:
        image: (h, w, 3).
        divisor: The number.

    >>> padded(np.ones((800, 1066, 3), np.float32)).shape
    (800, 1088, 3)
    """
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % divisor), (0, -width % divisor), (0, 0)))
