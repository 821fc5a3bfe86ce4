"""Rectangles of noise over a part of training pictures: the synthetic occlusion of the RLE code in space and of 3DMPPE PoseNet.

A rectangle has an area uniform in 0..0.7 of the person's box and a ratio of height to width uniform in 0.3..1 / 0.3. It is drawn
again until it lies inside the picture. It is in the picture before any mirroring and cropping, so that it turns with the crop; labels
do not change. Both codes state the numbers; neither paper mentions them. As in both codes the place is drawn in the box less the
rectangle, so that a rectangle wider or higher than the box sticks out of it (QUIRK V8).

A draw is stateless: a function of (seed, epoch, annotation id), like those of `jaxpose.data.augment`. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpose.data.augment import OCCLUSION_NOISE, OCCLUSIONS, philox

__all__ = ["cover", "rectangles"]

LARGEST = 0.7
"""Largest area of a rectangle, as a part of the box."""
FLATTEST = 0.3
"""Smallest ratio of height to width; the largest is its reciprocal."""
ATTEMPTS = 100
"""Number of draws after which a person whose box hardly lies inside the picture stays visible; the codes draw without end."""


def rectangles(
    probability: float,
    *,
    boxes: np.ndarray,
    image_wh: np.ndarray,
    seed: int,
    epochs: Sequence[int],
    ids: Sequence[int],
) -> np.ndarray:
    """Draws the rectangle that covers a part of each of some persons.

    Args:
        probability: The probability of a rectangle: 1 in the RLE code, 0.5 in PoseNet's.
        boxes: ``(B, 4)`` xywh, the persons' boxes in image pixels, without padding.
        image_wh: ``(B, 2)`` widths and heights of the images.
        seed: The seed of the run.
        epochs: ``(B,)`` epochs.
        ids: ``(B,)`` ids of the annotations.

    Returns:
        ``(B, 4)`` int64 x, y, width, height in whole pixels of the images; a width or a height of 0 stands for none.

    >>> box, size = np.array([[20.0, 10, 60, 80]]), np.array([[200, 100]])
    >>> rectangles(1.0, boxes=box, image_wh=size, seed=0, epochs=[3], ids=[7]).shape
    (1, 4)
    >>> rectangles(0.0, boxes=box, image_wh=size, seed=0, epochs=[3], ids=[7])
    array([[0, 0, 0, 0]])
    """
    rows = [
        _rectangle(probability, np.asarray(box, np.float64), size, philox(seed, OCCLUSIONS, int(epoch), int(item)))
        for box, size, epoch, item in zip(boxes, image_wh, epochs, ids, strict=True)
    ]
    return np.array(rows, np.int64).reshape(-1, 4)


def _rectangle(probability: float, box: np.ndarray, image_wh: np.ndarray, rng: np.random.Generator) -> Sequence[int]:
    """Draws one rectangle, x, y, width, height; zeros for none."""
    if rng.random() >= probability:
        return 0, 0, 0, 0
    for _ in range(ATTEMPTS):
        area = LARGEST * rng.random() * box[2:].clip(0).prod()
        ratio = FLATTEST + (1 / FLATTEST - FLATTEST) * rng.random()
        size = np.sqrt([area / ratio, area * ratio])
        corner = box[:2] + rng.random(2) * (box[2:] - size - 1)
        if (corner >= 0).all() and (corner + size < image_wh).all():
            return np.concatenate([corner, size]).astype(np.int64)
    return 0, 0, 0, 0


def cover(
    region: np.ndarray,
    rectangle: np.ndarray,
    *,
    key: Sequence[int],
    origin: Sequence[int] = (0, 0),
    ratio: int = 1,
) -> np.ndarray:
    """Returns a region of an image with noise in the rectangle, uniform over the values of each channel of each pixel.

    The noise is that of the whole rectangle, so that a pixel is the same in whichever region it lies.

    Args:
        region: ``(h, w, 3)`` uint8.
        rectangle: ``(4,)`` x, y, width, height in pixels of the image, from `rectangles`.
        key: Three whole numbers that seed the noise: the seed of the run, the epoch and the id of the annotation.
        origin: x and y of the region's first pixel in the decoded image.
        ratio: By which the image is decoded smaller; the noise is then that of the smaller pixels.

    Returns:
        ``(h, w, 3)`` uint8, a copy; the region itself if the rectangle does not reach into it.

    >>> region = np.zeros((4, 5, 3), np.uint8)
    >>> (cover(region, np.array([1, 2, 3, 9]), key=(0, 0, 0)) > 0).any(-1).astype(int)
    array([[0, 0, 0, 0, 0],
           [0, 0, 0, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 1, 1, 1, 0]])
    """
    first = np.round(np.asarray(rectangle[:2]) / ratio).astype(int)
    last = np.round((np.asarray(rectangle[:2]) + rectangle[2:]) / ratio).astype(int)
    width, height = last - first
    start = np.maximum(first, origin)
    stop = np.minimum(last, np.asarray(origin) + region.shape[1::-1])
    if (stop <= start).any():
        return region
    seed, epoch, item = (int(number) for number in key)
    noise = philox(seed, OCCLUSION_NOISE, epoch, item).integers(0, 256, (height, width, 3), np.uint8)
    covered = np.array(region)
    (x, y), (to_x, to_y) = start - origin, stop - origin
    (u, v), (to_u, to_v) = start - first, stop - first
    covered[y:to_y, x:to_x] = noise[v:to_v, u:to_u]
    return covered
