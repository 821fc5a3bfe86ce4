"""The interface of a data set: a `Source` of persons and images, and the tables that it holds.

Readers of label formats (`jaxpose.data.formats`) and prepared data sets (`jaxpose.data.builder`) are sources; crops and
whole images (`jaxpose.data.crops`, `jaxpose.data.whole_images`) are made from any of them. NumPy only.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose.files import read_json
from jaxpose.skeleton import Skeleton

__all__ = ["IMAGE_DTYPE", "DamagedData", "Source", "is_labelled", "joined", "person_dtype", "person_table"]

IMAGE_DTYPE = np.dtype([("image_id", np.int64), ("size_wh", np.int32, (2,))])
"""A row of a table of images: the id in the labels, and the width and height in pixels."""


def person_dtype(num_joints: int) -> np.dtype:
    """Returns the dtype of a row of a table of persons. Its fields lie in one row, so that a person is one read.

    image: the row of the image in the table of images. annotation_id: the id in the labels; for a detection, its place in
    the file. box: x, y, width, height in image pixels, as annotated. keypoints: ``(K, 3)`` x, y and visibility (0
    unlabelled, 1 hidden, 2 visible), with x = y = 0 where the visibility is 0. area: square pixels. score: the score of
    the box, 1 for ground truth. crowd: True for a group of people.

    Args:
        num_joints: The number of joints K.

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
    """A file of a prepared data set is not as it was written. The message names the file and what to do.

    It is a separate exception because leaving out a sample does not help, unlike for a faulty folder of images.

    >>> issubclass(DamagedData, ValueError)
    True
    """


class Source:
    """Random access to the persons of a data set, or to its images.

    A source does not change, and many threads may read it at once. A subclass sets the attributes and implements
    reading an
    image: `labels` and `jpeg`. The origin of the labels is up to the subclass: readers of label formats
    (`jaxpose.data.formats`) and prepared data (`jaxpose.data.builder`) are sources.

    Attributes:
        name: The name of the data set in messages.
        skeleton: The skeleton of the keypoints.
        category_id: The category of the persons in result files; if there are several, the first.
        category_ids: All categories of the persons.
        images: ``(num_images,)`` table with at least the columns image_id and size_wh.
        persons: ``(num_persons,)`` table with at least the columns of `person_dtype` (a format may add others, such as
            joints in space): the persons for training and evaluation, which are not crowds and have a labelled joint.
            After `jaxpose.data.boxes.with_detections`: the detected boxes. A data set without persons has an empty
            table; its `level` is "image".
        level: "person" if ``len`` and `record` count persons, "image" if they count images.
        clip_boxes: True if boxes are cleaned by `jaxpose.geometry.clip_box` before use, as in the published pipelines:
            those of COCO's ground truth are; those of MPII and of a detector are not.
        ground_truth_json: The file for the evaluation, or None.
        skipped: The number of images or persons that were left out, by reason.
        mix: (number of persons in the first of two parts, its share of a batch), for training on both parts by that share
            whatever their sizes (`jaxpose.data.mixing`); None: all persons are one part.
        nobody: The reason if every person was left out or has another category; otherwise "".
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
    mix: tuple[int, float] | None = None
    nobody: str = ""
    skipped: Counter

    def __len__(self) -> int:
        return len(self.persons if self.level == "person" else self.images)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {len(self.persons)} persons in {len(self.images)} images, "
            f"skeleton {self.skeleton.name!r}, level {self.level!r})"
        )

    def labels(self, index: int) -> dict[str, Any]:
        """Returns everything that is known about an image except its pixels.

        Args:
            index: The row of the image in `images`.

        Returns:
            At least file_name; image_id; size_wh; persons, rows of the dtype of the table: all persons of the image,
            including crowds and unlabelled ones; segmentations: COCO's polygons or run lengths of each person, or None.
        """
        raise NotImplementedError

    def jpeg(self, index: int, *, verify: bool = False) -> bytes:
        """Returns the JPEG file of an image, undecoded.

        Args:
            index: The row of the image in `images`.
            verify: Decode the image completely, to detect damage inside it; a source whose records have checksums
                checks these in any case.

        Raises:
            FileNotFoundError, ValueError: The image cannot be read.
        """
        raise NotImplementedError

    def image(self, index: int) -> dict[str, Any]:
        """Returns the record of an image: its `jpeg` and its `labels`.

        Args:
            index: The row of the image in `images`.
        """
        return {"jpeg": self.jpeg(index)} | self.labels(index)

    def file_name(self, index: int) -> str:
        """Returns the name of an image in the labels.

        Args:
            index: The row of the image in `images`.
        """
        return self.labels(index)["file_name"]

    def record(self, index: int) -> dict[str, Any]:
        """Returns a record of this source's level.

        Args:
            index: A row of `persons` at the level "person", of `images` at the level "image".

        Returns:
            For a person: jpeg, file_name, image_id, size_wh, and the person's annotation_id, box, keypoints, area, score.
            For an image: the result of `image`.

        Raises:
            IndexError: There is no such record.
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
        """Returns the category ids of persons, given by their annotation_ids."""
        if len(self.category_ids) < 2:
            return np.full(len(annotation_ids), self.category_id, np.int64)
        category = self._category_by_annotation()
        return np.array([category.get(int(i), self.category_id) for i in annotation_ids], np.int64)

    def _category_by_annotation(self) -> Mapping[int, int]:
        return {person["id"]: person["category_id"] for person in self.ground_truth()["annotations"]}

    def at_level(self, level: Literal["person", "image"]) -> Source:
        """Returns this source, counting persons or images.

        Args:
            level: "person" or "image".

        Raises:
            ValueError: The level is another one.
        """
        if level not in ("person", "image"):
            raise ValueError(f"level must be 'person' or 'image', got {level!r}")
        other = copy.copy(self)
        other.level = level
        return other

    def ground_truth(self, *, image_ids: set[int] | None = None) -> dict[str, Any]:
        """Returns the annotations as COCO's evaluation reads them: images, annotations (without segmentations), categories.

        Args:
            image_ids: The images to keep; None keeps all.

        Raises:
            ValueError: There are no annotations.
        """
        if self.ground_truth_json is None:
            raise ValueError(f"{self.name} has no annotations to evaluate against")
        truth = read_json(self.ground_truth_json, "annotation JSON")
        if image_ids is not None:
            truth["images"] = [image for image in truth["images"] if image["id"] in image_ids]
            truth["annotations"] = [person for person in truth["annotations"] if person["image_id"] in image_ids]
        return truth


class Joined(Source):
    """Several sources with the same joints and the same columns, one after the other; made by `joined`."""

    def __init__(self, sources: Sequence[Source]):
        first = sources[0]
        self.sources = tuple(sources)
        self.name = " and ".join(source.name for source in sources)
        self.skeleton, self.category_id, self.clip_boxes = first.skeleton, first.category_id, first.clip_boxes
        self.category_ids = tuple(
            dict.fromkeys(i for source in sources for i in source.category_ids or (source.category_id,))
        )
        self.starts = np.cumsum([0, *(len(source.images) for source in sources)])
        columns = list(IMAGE_DTYPE.names)
        self.images = np.concatenate([source.images[columns].astype(IMAGE_DTYPE) for source in sources])
        self.persons = np.concatenate([source.persons for source in sources])
        self.persons["image"] += np.repeat(self.starts[:-1], [len(source.persons) for source in sources]).astype(
            np.int32
        )
        self.skipped = sum((source.skipped for source in sources), Counter())

    def _of(self, index: int) -> tuple[Source, int]:
        """Returns the source of an image and the image's row in it."""
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[part], index - int(self.starts[part])

    def labels(self, index: int) -> dict[str, Any]:
        source, row = self._of(index)
        labels = source.labels(row)
        labels["persons"]["image"] = index
        return labels

    def jpeg(self, index: int, *, verify: bool = False) -> bytes:
        source, row = self._of(index)
        return source.jpeg(row, verify=verify)

    def file_name(self, index: int) -> str:
        source, row = self._of(index)
        return source.file_name(row)


def joined(sources: Sequence[Source]) -> Source:
    """Returns one source over the persons and images of several, in this order, to train on more than one split.

    It has no annotations to evaluate against.

    Args:
        sources: At least one source; all with the same joints in the same order, and of the level "person".

    Raises:
        ValueError: There is no source; their joints or their rules for boxes differ.

    >>> joined([])
    Traceback (most recent call last):
    ValueError: there is nothing to join: give at least one source
    """
    if not sources:
        raise ValueError("there is nothing to join: give at least one source")
    first = sources[0]
    for other in sources[1:]:
        if other.persons.dtype != first.persons.dtype:
            raise ValueError(
                f"{first.name} and {other.name} cannot be trained on together: only one of them has joints in space, or they have "
                "different numbers of joints"
            )
        if other.skeleton.joints != first.skeleton.joints or other.clip_boxes != first.clip_boxes:
            raise ValueError(
                f"{first.name} and {other.name} cannot be trained on together: one has the joints {list(first.skeleton.joints)}, "
                f"the other {list(other.skeleton.joints)}, or the two formats treat boxes differently"
            )
    return first if len(sources) == 1 else Joined(sources)


def is_labelled(person: Mapping[str, Any]) -> bool:
    """Tells whether a person can be trained on: it is not a crowd, and at least one joint is labelled.

    Args:
        person: An annotation in COCO's format, with iscrowd and keypoints.

    >>> is_labelled({"iscrowd": 0, "keypoints": [5, 6, 2]}), is_labelled({"iscrowd": 0, "keypoints": [0, 0, 0]})
    (True, False)
    """
    return not person["iscrowd"] and any(v > 0 for v in person["keypoints"][2::3])


def person_table(
    people: Sequence[Sequence[Mapping[str, Any]]],
    num_joints: int,
    *,
    where: Callable[[Mapping[str, Any]], bool] | None = None,
) -> np.ndarray:
    """Makes a table of persons from checked annotations in COCO's format.

    Args:
        people: The annotations of each image.
        num_joints: The number of joints K.
        where: A predicate for the annotations to take; None takes all.

    Returns:
        Rows of `person_dtype`.
    """
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
