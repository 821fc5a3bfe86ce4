"""What a label file may hold: checks of numbers, names and boxes, and what happens to an entry that fails one."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.geometry import clip_box

__all__ = ["Problems", "bad_box", "bad_file_name", "is_id", "is_number", "is_size", "no_extent"]

logger = logging.getLogger(__name__)

MAX_SIZE = 2**31 - 1
"""Largest width and height of an image: they are stored as int32."""
MAX_NUMBER = float(np.finfo(np.float32).max)
"""Largest coordinate: coordinates are stored as float32."""


class Problems:
    """What is wrong with single images and persons: the first problem is an error, or all are counted, and logged at the end.

    Args:
        path: the file or folder in which the problems are, for messages.
        on_bad: "error" or "skip".

    Attributes:
        counts: the number of problems, by kind.
    """

    EXAMPLES = 3  # per kind, in the log

    def __init__(self, path: Path, on_bad: str):
        self.path, self.on_bad = path, on_bad
        self.counts: Counter = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, message: str, *, error: type[Exception] = ValueError) -> None:
        """Notes a problem.

        Args:
            kind: the kind of the problem, under which it is counted.
            message: what is wrong with which entry.
            error: the exception to raise.

        Raises:
            ValueError, or `error`: with ``on_bad="error"``.
        """
        if self.on_bad == "error":
            raise error(
                f"{self.path}: {message}. Mend the file, or leave such cases out (on_bad='skip', or --on-bad skip)"
            )
        self.counts[kind] += 1
        if self.counts[kind] <= self.EXAMPLES:
            self.examples.setdefault(kind, []).append(message)

    def report(self) -> None:
        """Logs how many entries were left out, with examples."""
        for kind, count in self.counts.items():
            examples = "; ".join(self.examples[kind])
            logger.warning("%s: left out %d (%s), for example: %s", self.path, count, kind, examples)


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number that is finite in float32.

    Unlike `jaxpose.files.is_number`, which it would call for millions of coordinates, it knows one limit.

    >>> is_number(1.5), is_number(True), is_number(1e39), is_number(float("nan"))
    (True, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


def is_id(value: Any) -> bool:
    """Whether a value read from JSON is a whole number of 64 bits.

    >>> is_id(3), is_id(3.0), is_id(True), is_id(2**63)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_size(value: Any) -> bool:
    """Whether a value read from JSON is a width or a height.

    >>> is_size(640), is_size(0), is_size(2**31)
    (True, False, False)
    """
    return is_id(value) and 0 < value <= MAX_SIZE


def bad_file_name(root: Path, name: Any) -> tuple[str, str] | None:
    """Checks the file name of an image. It must lead to a file in the image folder, through symbolic links too.

    Args:
        root: the image folder, resolved.
        name: the file name.

    Returns:
        The kind of the problem and the end of a message, or None.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        return "file name unusable", f"which is no name of a file: expected a path within {root}"
    if "\\" in name:
        return "file name unusable", "which has a backslash: write / between folders"
    parts = name.split("/")
    if not os.path.isabs(name) and ".." not in parts:
        parent = _real(os.path.join(root, *parts[:-1]))
        path = os.path.join(parent, parts[-1])
        real = os.path.realpath(path) if os.path.islink(path) else path
        if os.path.commonpath([str(root), real]) == str(root):
            return None
    return "file name outside the folder", f"which leads out of the image folder {root}"


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def bad_box(box: Any, size_wh: tuple[int, int], *, strict: bool) -> tuple[str, str] | None:
    """Checks a box.

    Args:
        box: x, y, width, height in image pixels, as read from JSON.
        size_wh: width and height of the image.
        strict: the box must show a part of the image. The box of a crowd or of an unlabelled person need not: it is not used.

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
    return "box outside the image or empty", f"'bbox' {box} has no extent inside the image of {size} pixels"
