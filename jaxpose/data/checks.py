"""Checks of the numbers, names and boxes in a label file, and the handling of entries that fail one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.geometry import clip_box

__all__ = ["Problems", "bad_box", "check_whole", "is_id", "is_number", "is_size", "no_extent"]

logger = logging.getLogger(__name__)

MAX_SIZE = 2**31 - 1
"""The largest width and height of an image: they are stored as int32."""
MAX_NUMBER = float(np.finfo(np.float32).max)
"""The largest coordinate: coordinates are stored as float32."""


class Problems:
    """Collects problems of single images and persons: the first raises an error, or all are counted and logged at the end.

    Args:
        path: The file or folder with the problems, for messages.
        on_bad: "error" or "skip".

    Attributes:
        counts: The number of problems of each kind.
    """

    EXAMPLES = 3  # per kind, in the log

    def __init__(self, path: Path, on_bad: str):
        self.path, self.on_bad = path, on_bad
        self.counts: Counter = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, message: str, *, error: type[Exception] = ValueError) -> None:
        """Notes a problem.

        Args:
            kind: The kind of the problem, under which it is counted.
            message: A description of the entry and its fault.
            error: The exception to raise.

        Raises:
            ValueError, or `error`: `on_bad` is "error".
        """
        if self.on_bad == "error":
            raise error(
                f"{self.path}: {message}. Correct the file, or leave such cases out (on_bad='skip', or --on-bad skip)"
            )
        self.counts[kind] += 1
        if self.counts[kind] <= self.EXAMPLES:
            self.examples.setdefault(kind, []).append(message)

    def report(self) -> None:
        """Logs the number of entries that were left out, with examples."""
        for kind, count in self.counts.items():
            examples = "; ".join(self.examples[kind])
            logger.warning("%s: left out %d (%s), for example: %s", self.path, count, kind, examples)


def is_number(value: Any) -> bool:
    """Tells whether a value from JSON is a number that is finite in float32.

    Unlike `jaxpose.files.is_number` it has one limit only, because it is called for millions of coordinates.

    >>> is_number(1.5), is_number(True), is_number(1e39), is_number(float("nan"))
    (True, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


def is_id(value: Any) -> bool:
    """Tells whether a value from JSON is a 64-bit integer.

    >>> is_id(3), is_id(3.0), is_id(True), is_id(2**63)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_size(value: Any) -> bool:
    """Tells whether a value from JSON is a width or a height.

    >>> is_size(640), is_size(0), is_size(2**31)
    (True, False, False)
    """
    return is_id(value) and 0 < value <= MAX_SIZE


def bad_box(box: Any, size_wh: tuple[int, int], *, strict: bool) -> tuple[str, str] | None:
    """Checks a box.

    Args:
        box: x, y, width, height in image pixels, as read from JSON.
        size_wh: The width and height of the image.
        strict: Require that the box overlaps the image. Boxes of crowds and of unlabelled persons need not: they are
            unused.

    Returns:
        The kind of the problem and a message, or None.
    """
    numbers = isinstance(box, list) and len(box) == 4 and all(is_number(value) for value in box)
    if not numbers or not is_number(box[2] * box[3]):  # the area must be finite too
        return (
            "box not four finite numbers",
            f"'bbox' must be four finite numbers x, y, width, height, got {box!r:.200}",
        )
    if strict and not (clip_box(np.array(box, np.float64), size_wh)[2:] > 0).all():
        return no_extent(box, size_wh)
    return None


def no_extent(box: Sequence[float], size_wh: Sequence[int]) -> tuple[str, str]:
    """Returns the kind of problem and the message for a box outside its image, or without width or height."""
    size = f"{size_wh[0]}x{size_wh[1]}"
    fractions = max(map(abs, box)) <= 1
    return "box outside the image or empty", (
        f"'bbox' {box} has no extent inside the image of {size} pixels"
        + (": are these fractions of the image? It is x, y, width, height in pixels" if fractions else "")
    )


# ------------------------------------------------------------------------------------------------ a file as a whole

MANY = 20
"""The number of persons from which on a fault that nearly all of them share is certain."""


def check_whole(persons: np.ndarray, sizes: np.ndarray) -> list[str]:
    """Finds faults of a whole file: boxes that are corners, joints that are fractions, labels of another image size.

    Args:
        persons: A table of `jaxpose.data.source.person_dtype`: the labelled persons of a file.
        sizes: ``(num_images, 2)`` widths and heights.

    Returns:
        Warnings, one line each, with the numbers.

    Raises:
        ValueError: A fault is certain; the message says what to do.
    """
    if not len(persons):
        return []
    size = sizes[persons["image"]].astype(np.float64)
    joints, labelled = persons["keypoints"][..., :2].astype(np.float64), persons["keypoints"][..., 2] > 0
    box = persons["box"].astype(np.float64)
    return [line for line in (_scale(joints, labelled, size), _corners(box, size)) if line] or [
        line for line in (_places(joints, labelled, box, size),) if line
    ]


def _scale(joints: np.ndarray, labelled: np.ndarray, size: np.ndarray) -> str:
    """Finds coordinates that are fractions or percentages of the image."""
    count, most = int(labelled.sum()), float(np.abs(joints[labelled]).max(initial=0))
    smallest = float(size.min())
    if count >= 10 and most <= 1 and smallest > 8:
        raise ValueError(
            f"all {count} labelled joints lie between -1 and 1: they are fractions of the image, or none; 'keypoints' are "
            "pixels: multiply x by the image's width and y by its height"
        )
    if count >= 50 and 50 < most <= 100 and smallest >= 300:
        return (
            f"no coordinate of {count} labelled joints is above 100, in images of {smallest:.0f} pixels and more: are they per "
            "cent of the image? 'keypoints' are pixels"
        )
    return ""


def _corners(box: np.ndarray, size: np.ndarray) -> str:
    """Finds boxes that are x1, y1, x2, y2."""
    tolerance = 0.02 * size
    outside = (box[:, :2] + box[:, 2:] > size + tolerance).any(1)
    as_corners = ((box[:, 2:] > box[:, :2]) & (box[:, 2:] <= size + tolerance)).all(1)
    n, fits = int(outside.sum()), int(as_corners.sum())
    if n < 0.5 * len(box) or fits < 0.95 * len(box):
        return ""
    line = (
        f"{n} of {len(box)} boxes end outside their image, and {fits} lie inside it as x1, y1, x2, y2: are they that? "
        "COCO's 'bbox' is x, y, width, height"
    )
    if len(box) >= MANY and n >= 0.8 * len(box) and fits == len(box):
        raise ValueError(line.replace("are they that?", "they are that.") + ": subtract x1 and y1 from x2 and y2")
    return line


def _places(joints: np.ndarray, labelled: np.ndarray, box: np.ndarray, size: np.ndarray) -> str:
    """Finds joints outside their boxes or images."""
    margin = 0.2 * box[:, None, 2:]
    inside = ((joints >= box[:, None, :2] - margin) & (joints <= box[:, None, :2] + box[:, None, 2:] + margin)).all(-1)
    in_image = ((joints >= -1) & (joints <= size[:, None] + 1)).all(-1)
    count = int(labelled.sum())
    in_box, visible = int((inside & labelled).sum()), int((in_image & labelled).sum())
    if visible < 0.5 * count:
        line = f"{count - visible} of {count} labelled joints lie outside their image: are they of another size of the images?"
        if len(box) >= MANY and visible < 0.02 * count:
            raise ValueError(f"{line} Scale the labels, or give the images that were labelled")
        return line
    if in_box < 0.5 * count:
        line = f"{count - in_box} of {count} labelled joints lie outside their person's box"
        if len(box) >= MANY and in_box < 0.02 * count:
            raise ValueError(
                f"{line}: boxes and joints belong to different persons, or count differently; correct the file"
            )
        return f"{line}: do both count in pixels of the image?"
    return ""
