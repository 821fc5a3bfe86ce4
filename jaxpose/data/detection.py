"""Whole images as detectors take them: scaled to a short side, and padded on the right and below.

The two code bases scale differently (QUIRK E7): torchvision interpolates floats bilinearly without a filter and rounds the sides down,
so that 640x480 becomes 1066x800; Detectron2 resizes bytes with PIL, which filters, and rounds to the nearest, 1067x800.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def in_picture(
    rows: Mapping[str, np.ndarray], *, picture_hw: np.ndarray, half_pixel: bool = False
) -> dict[str, np.ndarray]:
    """Maps boxes and joints in a scaled image to the picture as it is stored.

    Args:
        rows: "size_hw" (..., 2), the height and width of the scaled image; "boxes" (..., D, 4) xyxy in its pixels; if present
            "keypoints" (..., D, K, 2) and their scales "keypoint_sigma" (..., D, K, 2).
        picture_hw: (..., 2) height and width of the picture, px.
        half_pixel: True if half a pixel has been subtracted from the joints: it is one of the picture, since Detectron2 scales
            first and subtracts then (QUIRK E8).

    Returns:
        "box" (..., D, 4) x, y, w, h within the picture, float64; with joints "xy" (..., D, K, 2), and "sigma" (..., D, K, 2).

    >>> rows = {"size_hw": np.array([50, 100]), "boxes": np.array([[10.0, 10.0, 120.0, 30.0]])}
    >>> in_picture(rows, picture_hw=np.array([100, 200]))["box"].tolist()
    [[20.0, 20.0, 180.0, 40.0]]
    """
    # The ratio of the sides in float32, as the code bases compute it.
    scale = np.float32(picture_hw) / np.asarray(rows["size_hw"]).astype(np.float32)
    scale = scale[..., None, ::-1].astype(np.float64)  # (..., 1, 2): x, y
    limit = np.asarray(picture_hw)[..., None, ::-1]
    low, high = (
        np.clip(rows["boxes"][..., part].astype(np.float64) * scale, 0, limit) for part in (slice(2), slice(2, 4))
    )
    result = {"box": np.concatenate([low, high - low], -1)}
    half = 0.5 if half_pixel else 0.0
    if "keypoints" in rows:
        result["xy"] = (rows["keypoints"].astype(np.float64) + half) * scale[..., None, :] - half
    if "keypoint_sigma" in rows:
        result["sigma"] = rows["keypoint_sigma"].astype(np.float64) * scale[..., None, :]
    return result
