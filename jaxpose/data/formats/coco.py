"""COCO keypoint data: an image folder and its annotation JSON, found, read and checked.

`find` locates the two by the folder's layout. `read` returns a `CocoFolder`: a `Source` of persons and images that the
input pipeline can use as it is, and that `jaxpose.data.builder.prepare` turns into a prepared data set.

The first thing that is wrong with a file raises an error with the file's name and what to do (`ValueError`,
`FileNotFoundError`). With ``on_bad="skip"`` a bad image or person is left out instead, counted in ``skipped`` and logged.
NumPy and Pillow only.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose.data.checks import Problems, bad_box, bad_file_name, is_id, is_number, is_size
from jaxpose.data.formats import layout
from jaxpose.data.pixels import load_jpeg
from jaxpose.data.source import IMAGE_DTYPE, Source, is_labelled, person_table
from jaxpose.files import read_json
from jaxpose.metrics import AREA_OF_BOX
from jaxpose.skeleton import Skeleton

__all__ = [
    "CONTENT",
    "CocoFolder",
    "assemble",
    "check_joints",
    "find",
    "ground_truth",
    "own_skeleton",
    "read",
    "recognises",
]

CONTENT = "an object with the lists 'images', 'annotations' and 'categories'"

logger = logging.getLogger(__name__)


class CocoFolder(Source):
    """An image folder and its annotations, as `read` returns it. The JSON is held in memory, images are read when needed.

    Attributes, beside those of `Source`:
        annotations: the path of the JSON.
        folder: the path of the images.
        entries: the image entries of the JSON, checked.
        people: per image, its annotations, checked and completed.
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

    def labels(self, index: int) -> dict[str, Any]:
        entry, people = self.entries[index], self.people[index]
        table = person_table([people], self.skeleton.num_joints)
        table["image"] = index
        return {
            "file_name": entry["file_name"],
            "image_id": int(entry["id"]),
            "size_wh": (int(entry["width"]), int(entry["height"])),
            "persons": table,
            "segmentations": [person.get("segmentation") for person in people],
        }

    def jpeg(self, index: int, *, verify: bool = False) -> bytes:
        entry = self.entries[index]
        path, size_wh = self.folder / entry["file_name"], (entry["width"], entry["height"])
        return load_jpeg(path, size_wh=size_wh, verify=verify)

    def file_name(self, index: int) -> str:
        return self.entries[index]["file_name"]

    def ground_truth(self, *, image_ids: set[int] | None = None) -> dict[str, Any]:
        """As `Source.ground_truth`, with area, iscrowd and num_keypoints filled in where the file left them out."""
        indices = [i for i, entry in enumerate(self.entries) if image_ids is None or entry["id"] in image_ids]
        people = (person for i in indices for person in self.people[i])
        return {
            "images": [self.entries[i] for i in indices],
            "annotations": [{k: v for k, v in person.items() if k != "segmentation"} for person in people],
            "categories": [dict(self.category)],
        }


# --------------------------------------------------------------------------------------------------- finding the files


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Locates the annotation JSON and the image folder of a split.

    Layouts, with S the split: ``annotations/person_keypoints_S2017.json`` (any year) with ``S2017/`` or
    ``images/S2017/`` (COCO); ``annotations/person_keypoints_S.json`` or ``annotations/S.json`` with ``S/`` or
    ``images/S/``; ``annotations/image_info_S2017.json`` (COCO's test images, no annotations) with ``test2017/``.

    Args:
        folder: the data set's folder, which holds ``annotations/``.
        split: the name of the split: "train", "val", "test-dev", ...
        annotations: the JSON, where it is not to be looked for.
        images: the image folder, where it is not to be looked for.

    Returns:
        (path of the JSON, path of the image folder).

    Raises:
        FileNotFoundError: one of the two is missing; names what was looked for and what is there.

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
    files = sorted(dated) or [path for path in exact if path.is_file()]
    looked_for = (f"person_keypoints_{split}2017.json", f"person_keypoints_{split}.json", f"{split}.json")
    return layout.only_one(files, split=split, place=place, looked_for=looked_for, listed=[place])


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
    """Returns the folder of COCO's test images: image_info_test-dev2017.json names images of test2017/."""
    return "test" + stem[-4:] if stem.startswith("test-") and stem[-4:].isdigit() else None


# -------------------------------------------------------------------------------------------------- reading the JSON


def recognises(annotations: str | Path) -> bool:
    """Whether a file is a JSON object without CrowdPose's crowd indices.

    Args:
        annotations: the JSON, which exists.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "train.json"
    >>> _ = path.write_text('{"images": [], "annotations": [], "categories": []}')
    >>> recognises(path)
    True
    """
    text = layout.edges(annotations)
    return text.startswith("{") and '"crowdIndex"' not in text


def ground_truth(annotations: str | Path, images: str | Path, *, split: str | None = None) -> Path:
    """Returns the annotation JSON, which is what the evaluation reads; no image has to exist.

    >>> str(ground_truth("val.json", "val"))
    'val.json'
    """
    return Path(annotations)


def read(
    annotations: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    skeleton: Skeleton | None = None,
    category: str | int | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> CocoFolder:
    """Reads and checks a COCO-format keypoint file.

    Persons without any labelled joint and crowds stay in the image records (for masks), not among the persons. A
    missing ``area`` (or one that is not positive and finite) becomes `jaxpose.metrics.AREA_OF_BOX` times the box, a missing
    ``iscrowd`` 0, and ``num_keypoints`` the number of labelled joints, whatever the file says. The keypoints of unlabelled
    joints are set to 0. Boxes may reach out of the image. Other keys are kept. A file without ``annotations`` (COCO's
    image-info JSON) gives a source without persons, for prediction, and needs a skeleton.

    Args:
        annotations: the JSON.
        images: the folder that its file names are relative to.
        split: the name of the split; ignored, because the file holds one split.
        skeleton: the skeleton of the keypoints; None takes it from the category (`Skeleton.from_coco_category`).
        category: the name or id of the category, where the file has several with keypoints.
        on_bad: "error", or "skip" to leave a bad image or person out, counted and logged.

    Raises:
        FileNotFoundError: the JSON, the folder or an image does not exist.
        ValueError: the file is no COCO file (names the missing key); its joints are not those of the skeleton given; an id
            is repeated; a file name leads out of the folder; a person belongs to an unknown image; the number of keypoints
            does not fit the skeleton; a coordinate is not finite in float32; a visibility is not 0, 1 or 2; a box has no
            pixel in the image.
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
    """Makes a source of the contents of a COCO file, and checks its images and persons.

    `read` uses it, and so can modules of other formats that turn their labels into such contents.

    Args:
        data: "images" and, perhaps, "annotations", as in a COCO file.
        folder: the image folder.
        skeleton: the skeleton of the keypoints.
        category: the category of the persons.
        problems: names the file in messages, and counts what is left out; it may hold earlier problems of the file.
        clip_boxes: as in `Source`.

    Raises:
        FileNotFoundError, ValueError: as `read`.
    """
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


def skeleton_of(annotations: str | Path, *, category: str | int | None = None) -> Skeleton:
    """The skeleton of a file's category of keypoints; guesses and repairs are logged.

    Args:
        annotations: a COCO JSON.
        category: name or id of the category, where the file has several.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no keypoint file, no such category or several, a category that makes no skeleton: the reason.
    """
    path, notes = Path(annotations), []
    skeleton = Skeleton.from_coco_category(_choose_category(_load(path), path, None, category), notes=notes)
    for note in notes:
        logger.warning("%s: %s", path, note)
    return skeleton


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton | None:
    """Returns the skeleton that `read` takes from the file; None if the file has none or several.

    Args:
        annotations: the JSON.
        category: as in `read`.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    path = Path(annotations)
    try:
        return Skeleton.from_coco_category(_choose_category(_load(path), path, None, category))
    except ValueError:
        return None


def _load(path: Path) -> dict[str, Any]:
    """Reads the JSON and checks that it is a COCO file."""
    data = read_json(path, "annotation JSON")
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} is no COCO annotation file: it holds a {type(data).__name__}, not an object with 'images', 'annotations' "
            "and 'categories' (a list is the format of detections and results, and of MPII, which jaxpose.data.formats.mpii "
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
    """Returns the category of the persons: the only one with keypoints, or the one with the wanted name or id."""
    categories = [c for c in data["categories"] if isinstance(c, dict) and "id" in c]
    for wrong in (c["id"] for c in categories if not is_id(c["id"])):
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
    """Checks that a given skeleton has the joints of the file, in that order. Equal counts are not enough: other names mean
    other joints.

    Args:
        category: the category of the file.
        skeleton: the skeleton given.
        path: the file, for messages.

    Raises:
        ValueError: the joints are different.
    """
    names = category["keypoints"]
    try:
        own = Skeleton.from_coco_category({"keypoints": names}).joints  # knows other names in published files
    except ValueError:
        own = ()
    if skeleton.joints != own and list(skeleton.joints) != names:
        raise ValueError(
            f"{path}: the skeleton given (e.g. a checkpoint's) is {skeleton.name!r} with {skeleton.num_joints} joints "
            f"{list(skeleton.joints)}, this file's category {category.get('name')!r} has {names!r:.2000}: give data with the "
            "joints of the skeleton, or the skeleton of this data (skeleton=None takes it from the file)"
        )


def _read_images(images: Iterable[Any], folder: Path, problems: Problems) -> list[dict[str, Any]]:
    """Returns the image entries that are good."""
    root, seen, entries = folder.resolve(), set(), []
    for entry in images:
        missing = [k for k in ("id", "file_name", "width", "height") if not isinstance(entry, dict) or k not in entry]
        if missing:
            problems.add("image entry incomplete", f"an image entry has no {missing[0]!r}: {entry!r:.200}")
        elif not is_id(entry["id"]) or not is_size(entry["width"]) or not is_size(entry["height"]):
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
        if not missing and is_id(entry["id"]):
            seen.add(entry["id"])
    return entries


def _read_people(
    annotations: Iterable[Any],
    images: Iterable[Any],
    entries: Sequence[Mapping[str, Any]],
    category: Mapping[str, Any],
    skeleton: Skeleton,
    problems: Problems,
) -> list[list[dict[str, Any]]]:
    """Returns the annotations of the category, checked and completed, by image."""
    index = {entry["id"]: i for i, entry in enumerate(entries)}
    named = {entry["id"] for entry in images if isinstance(entry, dict) and is_id(entry.get("id"))}
    people: list[list[dict[str, Any]]] = [[] for _ in entries]
    seen: set[int] = set()
    others: set[str] = set()
    for person in annotations:
        if not isinstance(person, dict) or not is_id(person.get("id")) or "image_id" not in person:
            problems.add(
                "annotation incomplete", f"an annotation has no whole-number 'id' or no 'image_id': {person!r:.200}"
            )
            continue
        if person.get("category_id", category["id"]) != category["id"]:
            others.add(f"{person['category_id']!r:.50}")
            continue
        if not is_id(person["image_id"]) or person["image_id"] not in named:
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
    """Returns the annotation with its missing entries filled in, or None if it is bad."""
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
    bad = bad_box(person.get("bbox"), (entry["width"], entry["height"]), strict=labelled > 0 and not crowd)
    if bad:
        problems.add(bad[0], f"{where}: {bad[1]}")
        return None
    area = person.get("area")
    if not is_number(area) or not area > 0:
        area = AREA_OF_BOX * person["bbox"][2] * person["bbox"][3]
    keypoints = [value if keypoints[3 * (i // 3) + 2] > 0 else 0 for i, value in enumerate(keypoints)]
    return person | {"num_keypoints": labelled, "iscrowd": int(crowd), "keypoints": keypoints, "area": area}


def _bad_keypoints(keypoints: Any, skeleton: Skeleton) -> tuple[str, str] | None:
    """Returns the kind of problem and a message for bad keypoints, or None."""
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
