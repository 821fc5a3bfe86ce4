"""Masks for image-level losses: the regions of people that nobody labelled.

Bottom-up training would punish a net for detecting them, so the published code masks the regions of crowds and of persons
without keypoints. `pycocotools.mask` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

__all__ = ["draw_segmentation", "valid_mask"]


def valid_mask(record: Mapping[str, Any]) -> np.ndarray:
    """Returns the pixels that a loss may use.

    Args:
        record: The record of an image from a `jaxpose.data.source.Source` at level "image": size_wh, persons,
            segmentations.

    Returns:
        ``(h, w)`` bool, False in the union of the regions of crowds and of persons without any labelled joint. A person
        without a segmentation is masked by its box.

    >>> persons = np.zeros(1, [("box", "f4", 4), ("keypoints", "f4", (1, 3)), ("crowd", "?")])
    >>> persons["box"] = (1, 0, 2, 2)
    >>> valid_mask({"size_wh": (4, 2), "persons": persons, "segmentations": [None]}).astype(int)
    array([[1, 0, 0, 1],
           [1, 0, 0, 1]])
    """
    width, height = record["size_wh"]
    masked = np.zeros((height, width), bool)
    for person, segmentation in zip(record["persons"], record["segmentations"], strict=True):
        if person["crowd"] or not (person["keypoints"][:, 2] > 0).any():
            masked |= draw_segmentation(segmentation or _outline(person["box"]), (width, height))
    return ~masked


def draw_segmentation(segmentation: Sequence | Mapping[str, Any], size_wh: tuple[int, int]) -> np.ndarray:
    """Rasterises a COCO segmentation.

    Args:
        segmentation: A list of polygons ``[x, y, x, y, ...]``, or run lengths ``{"size": [h, w], "counts": ...}``,
            the counts a list or COCO's compressed string.
        size_wh: The width and height of the image.

    Returns:
        ``(h, w)`` bool, the union of the polygons.

    Raises:
        ValueError: The segmentation is neither of the two, or has run lengths for another size.

    >>> draw_segmentation({"size": [2, 3], "counts": [2, 2, 2]}, (3, 2)).astype(int)
    array([[0, 1, 0],
           [0, 1, 0]])
    """
    width, height = size_wh
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", ())) != [height, width]:
            raise ValueError(
                f"run lengths of size {segmentation.get('size')} in an image of [h, w] = {[height, width]}"
            )
        counts = segmentation["counts"]
        if isinstance(counts, (str, bytes)):
            code = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
        else:
            code = coco_mask.frPyObjects(dict(segmentation), height, width)
        return coco_mask.decode(code).astype(bool)
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer than three points enclose nothing
    if not all(len(polygon) % 2 == 0 for polygon in polygons):
        raise ValueError("a polygon of a segmentation must be a list x, y, x, y, ...: one has an odd length")
    if not polygons:
        return np.zeros((height, width), bool)
    return coco_mask.decode(coco_mask.frPyObjects(polygons, height, width)).any(axis=-1)


def _outline(box: np.ndarray) -> list[list[float]]:
    x, y, w, h = (float(value) for value in box)
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]
