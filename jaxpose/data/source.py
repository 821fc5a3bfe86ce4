"""What a data set is to the rest of this library: a `Source` of persons and images, and the tables that it holds.

Readers of label formats (`jaxpose.data.formats`) and prepared data sets (`jaxpose.data.builder`) are sources; crops and whole
images (`jaxpose.data.crops`, `jaxpose.data.whole_images`) are made from any of them. NumPy only.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose.skeleton import Skeleton

__all__ = ["IMAGE_DTYPE", "DamagedData", "Source", "is_labelled", "person_dtype", "person_table"]

IMAGE_DTYPE = np.dtype([("image_id", np.int64), ("size_wh", np.int32, (2,))])


def person_dtype(num_joints: int) -> np.dtype:
    """One row of a table of persons.

    image: index of the image record. annotation_id: of the JSON (of a detection: its row). box: xywh in image pixels as
    annotated. keypoints: (K, 3) x, y, visibility 0/1/2; x = y = 0 where the visibility is 0. area: pixels. score: of
    the box, 1 for ground truth. crowd: a group, not a person. Fields of one row, so that a row is one read.

    >>> person_dtype(17)["keypoints"].shape
    (17, 3)
    """
    return np.dtype(
        [
            ("image", np.int32),
            ("annotation_id", np.int64),
            ("box", np.float32, (4,)),
            ("keypoints", np.float32, (num_joints, 3)),
            ("area", np.float32),
            ("score", np.float32),
            ("crowd", np.bool_),
        ]
    )


class DamagedData(ValueError):
    """A file of a prepared data set is not what was written: the message names it and what to do. Leaving a sample out would
    not help, as it may with what is wrong in a folder of images.

    >>> issubclass(DamagedData, ValueError)
    True
    """


class Source:
    """Random access to the persons of a data set, or to its images.

    A source is read by many threads at once; it does not change. Subclasses say how an image record is read.

    Attributes:
        name: to show in messages.
        skeleton: of the keypoints.
        category_id: of the persons in the JSON; where they are of several categories, the first.
        category_ids: all of them.
        images: ``(num_images,)`` table: image_id, size_wh.
        persons: ``(num_persons,)`` table of `person_dtype`: the persons that can be trained on and evaluated, which are
            neither crowds nor without any labelled joint. After `with_detections`: the detected boxes.
        level: "person": ``len`` and `record` count persons; "image": images.
        clip_boxes: whether boxes are cleaned by `jaxpose.geometry.clip_box` before use, as in the published pipelines:
            those of COCO's ground truth are; those of MPII and of a detector are not.
        ground_truth_json: file for the evaluation, or None.
    """

    name: str
    skeleton: Skeleton
    category_id: int
    category_ids: tuple[int, ...] = ()
    images: np.ndarray
    persons: np.ndarray
    level: Literal["person", "image"] = "person"
    clip_boxes: bool = True
    ground_truth_json: Path | None = None

    def __len__(self) -> int:
        return len(self.persons if self.level == "person" else self.images)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {len(self.persons)} persons in {len(self.images)} images, "
            f"skeleton {self.skeleton.name!r}, level {self.level!r})"
        )

    def image(self, index: int) -> dict[str, Any]:
        """The record of an image: jpeg (bytes), file_name, image_id, size_wh, persons (rows of `person_dtype`: all of
        them, crowds and unlabelled ones too), segmentations (per person: COCO's polygons or run lengths, or None)."""
        raise NotImplementedError

    def jpeg(self, index: int) -> bytes:
        """The JPEG file of an image, undecoded."""
        return self.image(index)["jpeg"]

    def file_name(self, index: int) -> str:
        """The name of an image in the JSON."""
        return self.image(index)["file_name"]

    def record(self, index: int) -> dict[str, Any]:
        """Record `index` of this level.

        "person": jpeg, file_name, image_id, size_wh, and the person's annotation_id, box, keypoints, area, score.
        "image": as `image`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of a source with {len(self)} records")
        if self.level == "image":
            return self.image(index)
        person = self.persons[index]
        record = self.image(int(person["image"]))
        of_image = ("jpeg", "file_name", "image_id", "size_wh")
        of_person = ("annotation_id", "box", "keypoints", "area", "score")
        return {k: record[k] for k in of_image} | {k: person[k].copy() for k in of_person}

    def categories_of(self, annotation_ids: Sequence[int]) -> np.ndarray:
        """The category id of each person that is named by its annotation_id."""
        if len(self.category_ids) < 2:
            return np.full(len(annotation_ids), self.category_id, np.int64)
        category = self._category_by_annotation()
        return np.array([category.get(int(i), self.category_id) for i in annotation_ids], np.int64)

    def _category_by_annotation(self) -> Mapping[int, int]:
        return {person["id"]: person["category_id"] for person in self.ground_truth()["annotations"]}

    def at_level(self, level: Literal["person", "image"]) -> Source:
        """This source, counting persons or images."""
        if level not in ("person", "image"):
            raise ValueError(f"level must be 'person' or 'image', got {level!r}")
        other = copy.copy(self)
        other.level = level
        return other

    def ground_truth(self) -> dict[str, Any]:
        """The annotations as COCO's evaluation reads them: images, annotations (without segmentations), categories."""
        if self.ground_truth_json is None:
            raise ValueError(f"{self.name} has no annotations to evaluate against")
        return json.loads(Path(self.ground_truth_json).read_text())


def is_labelled(person: Mapping[str, Any]) -> bool:
    """Whether a person can be trained on: not a crowd, and at least one joint is labelled."""
    return not person["iscrowd"] and any(v > 0 for v in person["keypoints"][2::3])


def person_table(people: Sequence[Sequence[Mapping[str, Any]]], num_joints: int, *, where=None) -> np.ndarray:
    """Checked annotations by image -> rows of `person_dtype`; `where` chooses among them."""
    rows = [(i, person) for i, group in enumerate(people) for person in group if where is None or where(person)]
    table = np.zeros(len(rows), person_dtype(num_joints))
    if not rows:
        return table
    persons = [person for _, person in rows]
    table["image"] = [i for i, _ in rows]
    table["annotation_id"] = [person["id"] for person in persons]
    table["box"] = [person["bbox"] for person in persons]
    table["keypoints"] = np.array([person["keypoints"] for person in persons], np.float32).reshape(-1, num_joints, 3)
    table["area"] = [person["area"] for person in persons]
    table["score"] = 1.0
    table["crowd"] = [person["iscrowd"] for person in persons]
    return table
