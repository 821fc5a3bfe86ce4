"""COCO keypoint data: an image folder and its annotation JSON, found, read and checked.

`find` locates the two by the folder's layout, `read` gives a `CocoFolder`: a `Source` of persons and images that the
input pipeline can use as it is, and that `jaxpose.data.builder.prepare` turns into a prepared data set.

What is wrong with a file is said at once, with the file's name and what to do (`ValueError`, `FileNotFoundError`). With
``on_bad="skip"`` a bad image or person is left out instead, counted in ``skipped`` and logged. NumPy and Pillow only.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxpose.data import layout
from jaxpose.geometry import clip_box
from jaxpose.skeleton import Skeleton

__all__ = [
    "AREA_OF_BOX",
    "CocoFolder",
    "DamagedData",
    "Source",
    "find",
    "load_jpeg",
    "person_dtype",
    "read",
    "with_detections",
]

AREA_OF_BOX = 0.53
"""Area of a person as a fraction of its box, where the annotation has none: that of the CrowdPose evaluation."""

MAX_SIZE = 2**31 - 1  # of an image's width and height: int32
MAX_NUMBER = float(np.finfo(np.float32).max)
PICTURE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits: others would lose their range

IMAGE_DTYPE = np.dtype([("image_id", np.int64), ("size_wh", np.int32, (2,))])

logger = logging.getLogger(__name__)


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
        category_id: of the persons in the JSON.
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


class CocoFolder(Source):
    """An image folder and its annotations, as `read` gives it. Holds the JSON in memory, reads images when asked.

    Attributes, besides those of `Source`:
        annotations: path of the JSON.
        folder: path of the images.
        skipped: how many images or persons were left out, by reason (``on_bad="skip"``).
    """

    def __init__(
        self,
        *,
        annotations: Path,
        folder: Path,
        skeleton: Skeleton,
        category: Mapping[str, Any],
        entries: Sequence[Mapping[str, Any]],
        people: Sequence[Sequence[Mapping[str, Any]]],
        skipped: Counter,
        clip_boxes: bool = True,
    ):
        self.name, self.annotations, self.folder = str(annotations), annotations, folder
        self.skeleton, self.category, self.category_id = skeleton, category, int(category["id"])
        self.entries, self.people, self.skipped, self.clip_boxes = entries, people, skipped, clip_boxes
        rows = [(entry["id"], (entry["width"], entry["height"])) for entry in entries]
        self.images = np.array(rows, IMAGE_DTYPE)
        self.persons = person_table(people, skeleton.num_joints, where=is_labelled)
        self.ground_truth_json = annotations

    def image(self, index: int) -> dict[str, Any]:
        entry, people = self.entries[index], self.people[index]
        table = person_table([people], self.skeleton.num_joints)
        table["image"] = index
        return {
            "jpeg": self.jpeg(index),
            "file_name": entry["file_name"],
            "image_id": int(entry["id"]),
            "size_wh": (int(entry["width"]), int(entry["height"])),
            "persons": table,
            "segmentations": [person.get("segmentation") for person in people],
        }

    def jpeg(self, index: int) -> bytes:
        entry = self.entries[index]
        return load_jpeg(self.folder / entry["file_name"], size_wh=(entry["width"], entry["height"]))

    def file_name(self, index: int) -> str:
        return self.entries[index]["file_name"]

    def ground_truth(self, *, image_ids: set[int] | None = None) -> dict[str, Any]:
        """As `Source.ground_truth`, with what the file left out filled in: area, iscrowd, num_keypoints."""
        kept = [i for i, entry in enumerate(self.entries) if image_ids is None or entry["id"] in image_ids]
        people = (person for i in kept for person in self.people[i])
        return {
            "images": [self.entries[i] for i in kept],
            "annotations": [{k: v for k, v in person.items() if k != "segmentation"} for person in people],
            "categories": [dict(self.category)],
        }


# --------------------------------------------------------------------------------------------------- finding the files


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """The annotation JSON and the image folder of a split.

    Layouts, with S the split: ``annotations/person_keypoints_S2017.json`` (any year) with ``S2017/`` or
    ``images/S2017/`` (COCO); ``annotations/person_keypoints_S.json`` or ``annotations/S.json`` with ``S/`` or
    ``images/S/``; ``annotations/image_info_S2017.json`` (COCO's test images, no annotations) with ``test2017/``.

    Args:
        folder: that holds ``annotations/``.
        split: "train", "val", "test-dev", ...
        annotations, images: the JSON or the image folder, where it is not to be looked for.

    Returns:
        (path of the JSON, path of the image folder).

    Raises:
        FileNotFoundError: which of the two is missing, what was looked for and what is there.

    >>> find("no_such_folder", "train")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds annotations/ and the images
    """
    return layout.locate(
        folder,
        split,
        annotations=annotations,
        images=images,
        annotation_file=_annotation_file,
        image_folder=_image_folder,
        holds="that holds annotations/ and the images",
    )


def _annotation_file(folder: Path, split: str) -> Path:
    place = folder / "annotations"
    exact = [place / f"person_keypoints_{split}.json", place / f"{split}.json", place / f"image_info_{split}.json"]
    dated = [
        *place.glob(f"person_keypoints_{split}20[0-9][0-9].json"),
        *place.glob(f"image_info_{split}20[0-9][0-9].json"),
    ]
    found = sorted(dated) or [path for path in exact if path.is_file()]
    looked_for = (f"person_keypoints_{split}2017.json", f"person_keypoints_{split}.json", f"{split}.json")
    return layout.only_one(found, split=split, place=place, looked_for=looked_for, listed=[place])


def _image_folder(folder: Path, split: str, annotations: Path) -> Path:
    stem = annotations.stem.removeprefix("person_keypoints_").removeprefix("image_info_")
    names = dict.fromkeys([stem, split, _test_images(stem)])
    candidates = [path for name in names if name for path in (folder / name, folder / "images" / name)]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(
        f"{annotations} has no image folder beside it: looked for {', '.join(str(c) for c in candidates)}; "
        "rename the folder, or give its path (images=..., or jaxpose prepare --images)"
    )


def _test_images(stem: str) -> str | None:
    """image_info_test-dev2017.json names images of test2017/."""
    return "test" + stem[-4:] if stem.startswith("test-") and stem[-4:].isdigit() else None


# -------------------------------------------------------------------------------------------------- reading the JSON


def read(
    annotations: str | Path,
    images: str | Path,
    *,
    skeleton: Skeleton | None = None,
    category: str | int | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> CocoFolder:
    """Read and check a COCO-format keypoint file.

    Persons without any labelled joint and crowds stay in the image records (for masks), not among the persons. A
    missing ``area`` (or one that is not positive and finite) becomes `AREA_OF_BOX` times the box, a missing
    ``iscrowd`` 0, ``num_keypoints`` the number of labelled joints, whatever the file says. The keypoints of unlabelled
    joints are set to 0. Boxes may reach out of the image. Other keys are carried along. A file without
    ``annotations`` (COCO's image-info JSON) gives a source without persons, for prediction: name the skeleton.

    Args:
        annotations: the JSON.
        images: the folder that its file names are relative to.
        skeleton: of the keypoints; None takes it from the category (`Skeleton.from_coco_category`).
        category: name or id, where the file has several categories with keypoints.
        on_bad: "error", or "skip" to leave a bad image or person out, counted and logged.

    Raises:
        FileNotFoundError: no such JSON or folder; an image that is not there.
        ValueError: no COCO file (which key is missing); joints that are not those of the skeleton given; repeated ids;
            a file name that leads out of the folder; a person of an unknown image; a number of keypoints that does not
            fit the skeleton; a coordinate that is not finite (in float32); a visibility other than 0, 1, 2; a box
            without any pixel in the image.
    """
    if on_bad not in ("error", "skip"):
        raise ValueError(f"on_bad must be 'error' or 'skip', got {on_bad!r}")
    annotations, folder = Path(annotations), Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: name the folder that holds the images of {annotations}")
    data = _load(annotations)
    chosen = _choose_category(data, annotations, skeleton, category)
    if skeleton is None:
        try:
            skeleton = Skeleton.from_coco_category(chosen)
        except ValueError as error:
            raise ValueError(f"{annotations}: {error}; mend the file, or give the skeleton (skeleton=)") from None
    check_joints(chosen, skeleton, annotations)
    if not skeleton.flip_pairs:
        logger.warning(
            "%s: the joints %s have no left and right in their names: mirroring exchanges nothing",
            annotations,
            list(skeleton.joints),
        )
    return assemble(data, folder, skeleton=skeleton, category=chosen, problems=Problems(annotations, on_bad))


def assemble(
    data: Mapping[str, Any],
    folder: Path,
    *,
    skeleton: Skeleton,
    category: Mapping[str, Any],
    problems: Problems,
    clip_boxes: bool = True,
) -> CocoFolder:
    """The source of a COCO file's contents, its images and persons checked, for `read` and for the modules that bring
    other formats into this one. `problems` names the file, and may hold what was found in it before."""
    entries = _read_images(data["images"], folder, problems)
    people = _read_people(data.get("annotations", []), data["images"], entries, category, skeleton, problems)
    problems.report()
    return CocoFolder(
        annotations=problems.path,
        folder=folder,
        skeleton=skeleton,
        category=category,
        entries=entries,
        people=people,
        skipped=problems.counts,
        clip_boxes=clip_boxes,
    )


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton | None:
    """The skeleton that `read` takes from the file; None where the file has none, or not one."""
    path = Path(annotations)
    try:
        return Skeleton.from_coco_category(_choose_category(_load(path), path, None, category))
    except ValueError:
        return None


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


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name the annotation JSON")
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file ({error}): is it complete?") from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} is no COCO annotation file: it holds a {type(data).__name__}, not an object with 'images', 'annotations' "
            "and 'categories' (a list is the format of detections and results, and of MPII, which jaxpose.data.mpii "
            "reads, or jaxpose prepare --format mpii)"
        )
    for key in ("images", "categories"):
        if not isinstance(data.get(key), list):
            raise ValueError(f"{path} is no COCO annotation file: it has no list {key!r}; its keys are {sorted(data)}")
    if not isinstance(data.get("annotations", []), list):
        raise ValueError(f"{path} is no COCO annotation file: 'annotations' is not a list")
    if not data["images"]:
        raise ValueError(f"{path} names no images")
    return data


def _choose_category(data: dict, path: Path, skeleton: Skeleton | None, wanted: str | int | None) -> dict[str, Any]:
    categories = [c for c in data["categories"] if isinstance(c, dict) and "id" in c]
    for wrong in (c["id"] for c in categories if not _is_id(c["id"])):
        raise ValueError(f"{path}: the id of a category must be a whole number, got {wrong!r}; mend the file")
    usable = [c for c in categories if c.get("keypoints")]
    if wanted is not None:
        usable = [c for c in (usable or categories) if wanted in (c.get("name"), c["id"])]
        if not usable:
            names = [(c.get("name"), c["id"]) for c in categories]
            raise ValueError(f"{path} has no category {wanted!r} with keypoints: it has {names}")
    if len(usable) > 1:
        names = ", ".join(f"{c.get('name')!r} (id {c['id']})" for c in usable)
        raise ValueError(
            f"{path} has several categories with keypoints, {names}: choose one "
            "(category=..., or jaxpose prepare --category)"
        )
    if usable:
        return usable[0]
    if skeleton is not None and len(categories) >= 1:  # image-info files name the categories without their joints
        return {"keypoints": list(skeleton.joints)} | categories[0]
    raise ValueError(
        f"{path} has no category with a list 'keypoints': it is not a keypoint file (for COCO take person_keypoints_*.json); "
        "for images without annotations give the skeleton (skeleton=)"
    )


def check_joints(category: Mapping[str, Any], skeleton: Skeleton, path: Path) -> None:
    """The skeleton given has the joints of the file, in that order: as many of other names would train on nonsense."""
    named = category["keypoints"]
    try:
        own = Skeleton.from_coco_category({"keypoints": named}).joints  # knows other names of published files
    except ValueError:
        own = ()
    if skeleton.joints != own and list(skeleton.joints) != named:
        raise ValueError(
            f"{path}: the skeleton given (e.g. a checkpoint's) is {skeleton.name!r} with {skeleton.num_joints} joints "
            f"{list(skeleton.joints)}, this file's category {category.get('name')!r} has {named!r:.2000}: give data with the "
            "joints of the skeleton, or the skeleton of this data (skeleton=None takes it from the file)"
        )


def _read_images(images: Iterable[Any], folder: Path, problems: Problems) -> list[dict[str, Any]]:
    root, seen, entries = folder.resolve(), set(), []
    for entry in images:
        missing = [k for k in ("id", "file_name", "width", "height") if not isinstance(entry, dict) or k not in entry]
        if missing:
            problems.add("image entry incomplete", f"an image entry has no {missing[0]!r}: {entry!r:.200}")
        elif not _is_id(entry["id"]) or not _is_size(entry["width"]) or not _is_size(entry["height"]):
            message = "id, width and height of an image must be whole numbers (of 64, 32 and 32 bits)"
            problems.add("image entry wrong", f"{message}: {entry!r:.200}")
        elif entry["id"] in seen:
            problems.add(
                "image id repeated", f"image id {entry['id']} occurs more than once (again: {entry['file_name']!r})"
            )
        elif bad := bad_file_name(root, entry["file_name"]):
            problems.add(bad[0], f"image {entry['id']} has the file name {entry['file_name']!r}, {bad[1]}")
        elif not os.path.isfile(os.path.join(folder, entry["file_name"])):
            message = f"image {entry['id']} names {entry['file_name']!r}, which is not in {folder}"
            problems.add("image file absent", message, error=FileNotFoundError)
        else:
            entries.append(entry)
        if not missing and _is_id(entry["id"]):
            seen.add(entry["id"])
    return entries


def _is_size(value: Any) -> bool:
    return _is_id(value) and 0 < value <= MAX_SIZE


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


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


def _read_people(
    annotations: Iterable[Any],
    images: Iterable[Any],
    entries: Sequence[Mapping[str, Any]],
    category: Mapping[str, Any],
    skeleton: Skeleton,
    problems: Problems,
) -> list[list[dict[str, Any]]]:
    """The annotations of the category, checked and completed, by image."""
    index = {entry["id"]: i for i, entry in enumerate(entries)}
    named = {entry["id"] for entry in images if isinstance(entry, dict) and _is_id(entry.get("id"))}
    people: list[list[dict[str, Any]]] = [[] for _ in entries]
    seen: set[int] = set()
    others: set[str] = set()
    for person in annotations:
        if not isinstance(person, dict) or not _is_id(person.get("id")) or "image_id" not in person:
            problems.add(
                "annotation incomplete", f"an annotation has no whole-number 'id' or no 'image_id': {person!r:.200}"
            )
            continue
        if person.get("category_id", category["id"]) != category["id"]:
            others.add(f"{person['category_id']!r:.50}")
            continue
        if not _is_id(person["image_id"]) or person["image_id"] not in named:
            message = f"annotation {person['id']} belongs to image {person['image_id']!r}, which the file does not list"
            problems.add("annotation of an unknown image", message)
        elif person["id"] in seen:
            problems.add("annotation id repeated", f"annotation id {person['id']} occurs more than once")
        elif person["image_id"] in index:  # else its image was left out
            i = index[person["image_id"]]
            checked = _check_person(person, entries[i], skeleton, problems)
            if checked is not None:
                people[i].append(checked | {"category_id": category["id"]})
        seen.add(person["id"])
    if others and not seen:
        message = "%s: no annotation is of category %r with id %r; those there are of %s"
        logger.warning(message, problems.path, category.get("name"), category["id"], ", ".join(sorted(others)[:5]))
    return people


def _check_person(
    person: dict[str, Any], entry: Mapping[str, Any], skeleton: Skeleton, problems: Problems
) -> dict[str, Any] | None:
    """The annotation with what it left out filled in, or None where it is bad."""
    where = f"annotation {person['id']} (image {entry['file_name']!r})"
    crowd = person.get("iscrowd") or 0
    if crowd not in (0, 1):
        problems.add("iscrowd not 0 or 1", f"{where}: 'iscrowd' must be 0 or 1, got {crowd!r:.50}")
        return None
    keypoints = person.get("keypoints") or [0] * (3 * skeleton.num_joints)  # an annotation without: unlabelled
    bad = _bad_keypoints(keypoints, skeleton)
    if bad:
        problems.add(bad[0], f"{where}: {bad[1]}")
        return None
    labelled = sum(v > 0 for v in keypoints[2::3])
    bad = _bad_box(person.get("bbox"), (entry["width"], entry["height"]), strict=labelled > 0 and not crowd)
    if bad:
        problems.add(bad[0], f"{where}: {bad[1]}")
        return None
    area = person.get("area")
    if not is_number(area) or not area > 0:
        area = AREA_OF_BOX * person["bbox"][2] * person["bbox"][3]
    keypoints = [value if keypoints[3 * (i // 3) + 2] > 0 else 0 for i, value in enumerate(keypoints)]
    return person | {"num_keypoints": labelled, "iscrowd": int(crowd), "keypoints": keypoints, "area": area}


def _bad_keypoints(keypoints: Any, skeleton: Skeleton) -> tuple[str, str] | None:
    expected = 3 * skeleton.num_joints
    if not isinstance(keypoints, list) or len(keypoints) != expected:
        got = f"{len(keypoints)} numbers" if isinstance(keypoints, list) else f"{keypoints!r:.50}"
        return "wrong number of keypoints", (
            f"'keypoints' has {got}, but skeleton {skeleton.name!r} with {skeleton.num_joints} joints needs {expected}"
        )
    if not all(v in (0, 1, 2) for v in keypoints[2::3]):
        return "visibility not 0, 1, 2", f"a visibility is not 0, 1 or 2: {keypoints[2::3]}"
    labelled = [(x, y) for x, y, v in zip(keypoints[::3], keypoints[1::3], keypoints[2::3], strict=True) if v > 0]
    if not all(is_number(c) for point in labelled for c in point):
        return "coordinate not finite", f"a labelled joint has a coordinate that is not a finite number: {labelled}"
    return None


def _bad_box(box: Any, size_wh: tuple[int, int], *, strict: bool) -> tuple[str, str] | None:
    """What is wrong with a box. A crowd's or unlabelled person's is not used: it only has to be four numbers."""
    numbers = isinstance(box, list) and len(box) == 4 and all(is_number(value) for value in box)
    if not numbers or not is_number(box[2] * box[3]):  # the area
        return (
            "box not four finite numbers",
            f"'bbox' must be four finite numbers x, y, width, height, got {box!r:.200}",
        )
    if strict and not (clip_box(np.array(box, np.float64), size_wh)[2:] > 0).all():
        return _no_extent(box, size_wh)
    return None


def _no_extent(box: Sequence[float], size_wh: Sequence[int]) -> tuple[str, str]:
    size = f"{size_wh[0]}x{size_wh[1]}"
    return "box outside the image or empty", f"'bbox' {box} has no extent inside the image of {size} pixels"


def is_number(value: Any) -> bool:
    """Finite, in float32 too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


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


# -------------------------------------------------------------------------------------------------------- detections


def with_detections(source: Source, detections: str | Path, *, min_score: float = 0.0, on_bad: str = "error") -> Source:
    """A source over detected boxes: one record per box, with its score and without keypoints.

    Boxes of another category, with a score below `min_score`, and of images that the source does not hold are left out
    (the last are logged). The annotation_id of a record is the box's row in the file; its area `AREA_OF_BOX` times
    the box.

    Args:
        source: that holds the images.
        detections: JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``, as detectors write it.
        min_score: boxes with a smaller score are left out; 0 keeps all, as the published evaluations do.
        on_bad: "error" or "skip", for boxes that are not finite, empty or outside their image.

    Raises:
        FileNotFoundError, ValueError: no such file; not a list of detections; an image id that is no whole number; no
            box for any image of the source.
    """
    path = Path(detections)
    boxes = _load_detections(path)
    problems = Problems(path, on_bad)
    order = np.argsort(source.images["image_id"], kind="stable")
    ids = source.images["image_id"][order]
    rows, unknown = [], 0
    for row, entry in enumerate(boxes):
        if entry.get("category_id", source.category_id) != source.category_id or not entry["score"] >= min_score:
            continue
        at = int(np.searchsorted(ids, entry["image_id"]))
        if at == len(ids) or ids[at] != entry["image_id"]:
            unknown += 1
            continue
        image = int(order[at])
        bad = _bad_detection(entry["bbox"], source.images["size_wh"][image])
        if bad:
            problems.add(bad[0], f"detection {row} of image {entry['image_id']}: {bad[1]}")
        else:
            rows.append((image, row, entry["bbox"], float(entry["score"])))
    problems.report()
    if unknown:
        logger.warning("%s: %d boxes belong to images that %s does not hold", path, unknown, source.name)
    if not rows:
        raise ValueError(
            f"{path} has no box with a score of at least {min_score} for any image of {source.name}: of {len(boxes)} boxes "
            f"{unknown} belong to other images, the rest are of another category than {source.category_id} or below that score"
        )
    other = copy.copy(source)
    other.persons, other.level, other.clip_boxes = _detection_table(rows, source.skeleton.num_joints), "person", False
    return other


def with_jittered_boxes(source: Source, *, fraction: float, seed: int = 0) -> Source:
    """The same persons in worse boxes: what a detector's errors cost, where no detector is at hand.

    Centre and size of every box are moved by uniform draws of up to `fraction` of its width and height.

    Args:
        source: of persons, with ground-truth boxes.
        fraction: 0 to below 1.
        seed: of the draws; the same seed, the same boxes.

    Raises:
        ValueError: fraction out of range.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction={fraction}: expected a part of the box, from 0 to below 1")
    other = copy.copy(source)
    other.persons = source.persons.copy()
    box = other.persons["box"].astype(np.float64)
    shift, growth = np.random.default_rng(seed).uniform(-fraction, fraction, (2, len(box), 2))
    size = box[:, 2:] * (1 + growth)
    center = box[:, :2] + box[:, 2:] * (0.5 + shift)
    other.persons["box"] = np.concatenate([center - size / 2, size], axis=1)
    other.clip_boxes = False
    return other


def _load_detections(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name the detection JSON")
    try:
        boxes = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file ({error}): is it complete?") from None
    if not isinstance(boxes, list):
        raise ValueError(f"{path} is no detection file: it holds a {type(boxes).__name__}, not a list of boxes")
    for row, entry in enumerate(boxes):
        missing = [k for k in ("image_id", "bbox", "score") if not isinstance(entry, dict) or k not in entry]
        if missing or not is_number(entry["score"]):
            raise ValueError(f"{path}: detection {row} has no number {(missing or ['score'])[0]!r}: {entry!r:.200}")
        for key in ("image_id", "category_id"):
            if not _is_id(entry.get(key, 0)):
                raise ValueError(
                    f"{path}: the {key!r} of detection {row} must be a whole number, got {entry[key]!r:.100}"
                )
    return boxes


def _bad_detection(box: Any, size_wh: np.ndarray) -> tuple[str, str] | None:
    bad = _bad_box(box, (int(size_wh[0]), int(size_wh[1])), strict=False)
    if bad:
        return bad
    if min(box[2:]) <= 0 or not touches(box, size_wh):
        return _no_extent(box, size_wh)
    return None


def touches(box_xywh: Sequence[float], size_wh: Sequence[int]) -> bool:
    """Whether a box shows any of an image.

    >>> touches((-5, 0, 10, 10), (100, 50)), touches((100, 0, 10, 10), (100, 50))
    (True, False)
    """
    x, y, w, h = box_xywh
    return bool(x + w > 0 and y + h > 0 and x < size_wh[0] and y < size_wh[1])


def _detection_table(rows: Sequence[tuple], num_joints: int) -> np.ndarray:
    table = np.zeros(len(rows), person_dtype(num_joints))
    table["image"], table["annotation_id"] = [r[0] for r in rows], [r[1] for r in rows]
    table["box"], table["score"] = [r[2] for r in rows], [r[3] for r in rows]
    table["area"] = AREA_OF_BOX * table["box"][:, 2] * table["box"][:, 3]
    return table


# ------------------------------------------------------------------------------------------------------------- images


def load_jpeg(path: str | Path, *, size_wh: tuple[int, int] | None = None, verify: bool = False) -> bytes:
    """The bytes of a JPEG file that a decoder will accept.

    Other formats (PNG, ...) of 8 bits, and JPEG files in CMYK, are converted to RGB JPEG of quality 95 without chroma
    subsampling. An orientation in the EXIF data is ignored, as COCO's annotations do.

    Args:
        path: of the image.
        size_wh: width and height that the annotations give it; None: not checked.
        verify: decode it completely. Otherwise the header, and that the file ends as a JPEG file does. With OpenCV
            (the extra `data`) that finds data that is missing or overwritten inside a whole file too, which decoders
            fill up with grey; without it, only what Pillow cannot decode. Nothing finds damage that happens to decode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder; not an image; truncated or damaged; of more than 8 bits; another size than the annotations
            say.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"image {path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"image {path} is a folder: name an image file") from None
    if not data.startswith(b"\xff\xd8\xff"):
        data, verify = _convert(data, path), False
    size, components = _jpeg_header(data, path)
    if verify or not data.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
        decode_picture(data, path)
    if verify and (complaint := _complaint(data)):
        raise ValueError(f"image {path} is damaged inside ({complaint}): replace it")
    if components == 4:
        data = _convert(data, path)
    if size_wh is not None and size != tuple(size_wh):
        turned = size == tuple(size_wh[::-1])  # what a viewer does with an orientation in the EXIF data
        raise ValueError(
            f"image {path} is {size[0]}x{size[1]} pixels, its annotations say {size_wh[0]}x{size_wh[1]}: "
            + ("save the image turned, as it was annotated" if turned else "resize the image or the annotations")
        )
    return data


def _jpeg_header(data: bytes, path: Path) -> tuple[tuple[int, int], int]:
    """((width, height), number of components) of the frame header."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return (width, height), data[at + 9]
        fill = marker == 0xFF or 0xD0 <= marker <= 0xD9 or marker == 0x01  # markers without a length
        at += 1 if marker == 0xFF else 2 if fill else 2 + int.from_bytes(data[at + 2 : at + 4])
    raise ValueError(f"image {path} is truncated or not a JPEG file: it has no frame header; replace the file")


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode_picture(data: bytes, path: str | Path) -> Image.Image:
    """An image file's bytes, decoded completely; a ValueError naming `path` where that fails."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no image that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f"image {path} cannot be read ({reason}): it is truncated, damaged or no image; replace it"
        ) from None


def _complaint(data: bytes) -> str:
    """What libjpeg says of a JPEG file that it decodes nevertheless; "" for nothing, and without OpenCV.

    It says it on the error stream only, where OpenCV lets it and Pillow does not. Bytes too many before the end marker
    (0xd9) come after the last pixel.
    """
    try:
        import cv2

        kept = os.dup(2)
    except (ImportError, OSError):  # there is no error stream
        return ""
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    damage = (line for line in lines if line.startswith(("Corrupt JPEG data", "Premature end of JPEG")))
    return next((line for line in damage if not line.endswith("before marker 0xd9")), "")


def _convert(data: bytes, path: Path) -> bytes:
    out, picture = io.BytesIO(), decode_picture(data, path)
    if picture.mode not in PICTURE_MODES:
        raise ValueError(
            f"image {path} has the mode {picture.mode!r}, expected 8 bits a channel ({', '.join(PICTURE_MODES)}): convert it"
        )
    picture.convert("RGB").save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()
