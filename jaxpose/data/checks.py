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

MAX_SIZE = 2**31 - 1  # of an image's width and height: int32

MAX_NUMBER = float(np.finfo(np.float32).max)


class Problems:
    """What is wrong with single images and persons: an error, or (`on_bad="skip"`) counted, and logged at the end."""

    SHOWN = 3

    def __init__(self, path: Path, on_bad: str):
        self.path, self.on_bad = path, on_bad
        self.counts: Counter = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, message: str, *, error: type[Exception] = ValueError) -> None:
        if self.on_bad == "error":
            raise error(
                f"{self.path}: {message}. Mend the file, or leave such cases out (on_bad='skip', or --on-bad skip)"
            )
        self.counts[kind] += 1
        if self.counts[kind] <= self.SHOWN:
            self.examples.setdefault(kind, []).append(message)

    def report(self) -> None:
        for kind, count in self.counts.items():
            shown = "; ".join(self.examples[kind])
            logger.warning("%s: left out %d (%s), for example: %s", self.path, count, kind, shown)


def is_number(value: Any) -> bool:
    """Finite, in float32 too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


def is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_size(value: Any) -> bool:
    return is_id(value) and 0 < value <= MAX_SIZE


def bad_file_name(root: Path, name: Any) -> tuple[str, str] | None:
    """What is wrong with a file name of the JSON. It has to stay in the image folder, through symbolic links too."""
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
    """What is wrong with a box. A crowd's or unlabelled person's is not used: it only has to be four numbers."""
    numbers = isinstance(box, list) and len(box) == 4 and all(is_number(value) for value in box)
    if not numbers or not is_number(box[2] * box[3]):  # the area
        return (
            "box not four finite numbers",
            f"'bbox' must be four finite numbers x, y, width, height, got {box!r:.200}",
        )
    if strict and not (clip_box(np.array(box, np.float64), size_wh)[2:] > 0).all():
        return no_extent(box, size_wh)
    return None


def no_extent(box: Sequence[float], size_wh: Sequence[int]) -> tuple[str, str]:
    size = f"{size_wh[0]}x{size_wh[1]}"
    return "box outside the image or empty", f"'bbox' {box} has no extent inside the image of {size} pixels"
