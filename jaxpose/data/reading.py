"""Choices in reading the files of a data set, where files in the wild differ, and the log lines about them."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxpose import sides
from jaxpose.skeleton import Skeleton

__all__ = ["AS_IT_FITS", "Notes", "Reading"]

Exif = Literal["auto", "apply", "ignore"]
Links = Literal["files", "all", "none"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """Choices in reading label files and pictures. The defaults decide from the data, and log what they decided.

    Attributes:
        flip_pairs: Pairs of left and right joints, each as "left_ear:right_ear"; "none" alone for no pair. None takes
            those of the category, or of the joints' names.
        sigmas: OKS sigmas, K or one for all joints. None takes those of the category, or of the joints' names.
        visible_above: The number above which a joint's third number means labelled. None: above 0, if the numbers are
            COCO's 0, 1 and 2 or confidences between 0 and 1.
        exif: "apply" turns pictures as their EXIF orientation says, as viewers and annotation tools show them; "ignore"
            takes the stored pixels; "auto" decides by the annotated sizes and poses.
        follow_links: Symbolic links out of the image folder that are followed: "files" (of image files), "all" (of
            folders too) or "none".
        reorder_joints: Reorder the joints of a file by name into the order of the given skeleton.
        part: "train" or "val" with `val_fraction`, to take that part of the images of one file. None takes all.
        val_fraction: The fraction of the images that is "val", drawn from their file names alone, so it is the same in
            every run. Each part has at least one labelled image.

    >>> Reading(flip_pairs=("a:b",)).to_dict()
    {'flip_pairs': ['a:b']}
    """

    flip_pairs: tuple[str, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    visible_above: float | None = None
    exif: Exif = "auto"
    follow_links: Links = "files"
    reorder_joints: bool = False
    part: Literal["train", "val"] | None = None
    val_fraction: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the choices that differ from the defaults as JSON values; they are part of a prepared data set's name."""
        default = Reading()
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != getattr(default, field.name)
        }

    def applied_to(self, skeleton: Skeleton) -> Skeleton:
        """Returns the skeleton with the given pairs and sigmas.

        Raises:
            ValueError: They do not fit the joints.
        """
        if self.flip_pairs is not None:
            pairs = sides.parse_pairs(self.flip_pairs, skeleton.joints, what="flip_pairs (--flip-pairs)")
            skeleton = dataclasses.replace(skeleton, flip_pairs=pairs)
        if self.sigmas is not None:
            sigmas = self.sigmas * skeleton.num_joints if len(self.sigmas) == 1 else self.sigmas
            skeleton = dataclasses.replace(skeleton, sigmas=sigmas)
        return skeleton


AS_IT_FITS = Reading()
"""The defaults, which decide from the data."""


class Notes:
    """Counts of guesses and repairs in reading a file, reported in one warning line per kind."""

    MAX_EXAMPLES = 2

    def __init__(self, path: Path):
        self.path = path
        self.counts: Counter = Counter()
        self.examples: dict[str, list[str]] = {}
        self.lines: list[str] = []

    def add(self, kind: str, example: str = "") -> None:
        """Counts one case. `kind` is a sentence with ``{n}`` for the number of cases."""
        self.counts[kind] += 1
        if example and self.counts[kind] <= self.MAX_EXAMPLES:
            self.examples.setdefault(kind, []).append(example)

    def say(self, line: str) -> None:
        """Adds a separate line."""
        self.lines.append(line)

    def report(self) -> None:
        """Logs the lines."""
        for line in self.lines:
            logger.warning("%s: %s", self.path, line)
        for kind, count in self.counts.items():
            examples = "; ".join(self.examples.get(kind, ()))
            text = kind.replace("{n}", str(count))  # a file may name things with braces
            logger.warning("%s: %s%s", self.path, text, f", for example {examples}" if examples else "")
