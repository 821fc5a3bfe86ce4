"""COCO keypoint data: finds, reads and checks an image folder and its annotation JSON.

`find` locates the two by the folder's layout, `read` returns a `CocoFolder`: a `Source` of persons and images that the
input pipeline can use directly, and that `jaxpose.data.builder.prepare` turns into a prepared data set.

The first fault of a file raises an error with the file's name and what to do (`ValueError`, `FileNotFoundError`). With
``on_bad="skip"`` a bad image or person is left out instead, counted in ``skipped`` and logged. An entry that has only one
possible meaning is read, and every kind of guess or repair is logged in one warning line with its numbers
(`jaxpose.data.reading`). NumPy and Pillow only.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose import labels
from jaxpose.data import orientation
from jaxpose.data.checks import Problems, bad_box, check_whole, is_id, is_number, is_size
from jaxpose.data.formats import layout
from jaxpose.data.names import ImageFiles
from jaxpose.data.pixels import load_jpeg
from jaxpose.data.reading import AS_IT_FITS, Notes, Reading
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
    "skeleton_of",
]

CONTENT = "an object with the lists 'images', 'annotations' and 'categories'"
WHOLE_BODY = ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
"""Fields of COCO-WholeBody's annotations, beside COCO's 17 joints."""
OF_OTHER_FORMATS = (
    ("crowdIndex",), *((name,) for name in WHOLE_BODY), ("keypoints_3d_unit",), ("joint_cam", "hand_type"),
    ("cam_param", "keypoints_world"),
)  # fmt: skip
"""Fields, all of one group together, of formats that resemble COCO's and have readers of their own."""
NUMBERED = "called joint_0"
"""Part of the note that the joints of a category without names were numbered."""
ALL = "all"
"""The category that stands for all that have keypoints."""

logger = logging.getLogger(__name__)


class CocoFolder(Source):
    """An image folder and its annotations, as returned by `read`. It holds the JSON in memory and reads images on demand.

    Attributes, beside those of `Source`:
        annotations: The path of the JSON.
        folder: The path of the images.
        entries: The image entries of the JSON, checked.
        people: The annotations of each image, checked and completed.
        categories: The categories of the persons, as in the JSON.
    """

    def __init__(
        self,
        *,
        annotations: Path,
        folder: Path,
        skeleton: Skeleton,
        categories: Sequence[Mapping[str, Any]],
        entries: Sequence[Mapping[str, Any]],
        people: Sequence[Sequence[Mapping[str, Any]]],
        skipped: Counter,
        clip_boxes: bool = True,
        exif: orientation.Exif = "auto",
        nobody: str = "",
    ):
        self.name, self.annotations, self.folder = str(annotations), annotations, folder
        self.skeleton, self.categories, self.nobody, self.exif = skeleton, categories, nobody, exif
        self.category_ids = tuple(int(category["id"]) for category in categories)
        self.category, self.category_id = categories[0], self.category_ids[0]
        self.entries, self.people, self.skipped, self.clip_boxes = entries, people, skipped, clip_boxes
        rows = [(entry["id"], (entry["width"], entry["height"])) for entry in entries]
        self.images = np.array(rows, IMAGE_DTYPE)
        self.persons = person_table(people, skeleton.num_joints, where=is_labelled)
        self.ground_truth_json = annotations

    @cached_property
    def turned(self) -> frozenset[int]:
        """The indices of images that are turned as their EXIF orientation says; decided, and logged, on first use."""
        turned, line = orientation.decide(
            orientation.scan([self.folder / entry["file_name"] for entry in self.entries]),
            sizes=self.images["size_wh"],
            persons=self.persons,
            skeleton=self.skeleton,
            exif=self.exif,
        )
        if line:
            logger.warning("%s: %s", self.annotations, line)
        return turned

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
        size = (int(entry["width"]), int(entry["height"]))
        path = self.folder / entry["file_name"]
        return load_jpeg(path, size_wh=size, verify=verify, upright=index in self.turned)

    def file_name(self, index: int) -> str:
        return self.entries[index]["file_name"]

    def ground_truth(self, *, image_ids: set[int] | None = None) -> dict[str, Any]:
        """Does the same as `Source.ground_truth`, with missing values filled in: area, iscrowd, num_keypoints."""
        rows = [i for i, entry in enumerate(self.entries) if image_ids is None or entry["id"] in image_ids]
        people = (person for i in rows for person in self.people[i])
        return {
            "images": [self.entries[i] for i in rows],
            "annotations": [{k: v for k, v in person.items() if k != "segmentation"} for person in people],
            "categories": [dict(category) for category in self.categories],
        }

    def _category_by_annotation(self) -> Mapping[int, int]:
        return {person["id"]: person["category_id"] for group in self.people for person in group}


# --------------------------------------------------------------------------------------------------- finding the files


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Locates the annotation JSON and the image folder of a split.

    Layouts, with S the split: ``annotations/person_keypoints_S2017.json`` (any year) with ``S2017/`` or
    ``images/S2017/`` (COCO); ``annotations/person_keypoints_S.json`` or ``annotations/S.json`` with ``S/`` or
    ``images/S/``; ``annotations/image_info_S2017.json`` (COCO's test images, no annotations) with ``test2017/``; and
    ``S/_annotations.coco.json``, or the only JSON in ``S/``, beside the images of ``S/`` (Roboflow). "val" and "valid"
    are one split.

    Args:
        folder: The folder that holds ``annotations/``.
        split: "train", "val", "test-dev", ...
        annotations, images: The JSON or the image folder; None looks for it.

    Returns:
        (path of the JSON, path of the image folder).

    Raises:
        FileNotFoundError: One of the two is missing; the message says which, what was looked for and what is there.

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


ALIASES = {"val": ("val", "valid", "validation"), "valid": ("valid", "val", "validation")}
"""Names of one split; Roboflow's is "valid"."""


def _annotation_file(folder: Path, split: str) -> Path:
    place = folder / "annotations"
    for name in ALIASES.get(split, (split,)):
        exact = [place / f"person_keypoints_{name}.json", place / f"{name}.json", place / f"image_info_{name}.json"]
        dated = [
            *place.glob(f"person_keypoints_{name}20[0-9][0-9].json"),
            *place.glob(f"image_info_{name}20[0-9][0-9].json"),
        ]
        candidates = sorted(dated) or [path for path in exact if path.is_file()] or _beside_images(folder / name)
        if candidates:
            break
    looked_for = (f"person_keypoints_{split}2017.json", f"person_keypoints_{split}.json", f"{split}.json")
    looked_for += (f"../{split}/_annotations.coco.json",)
    return layout.only_one(candidates, split=split, place=place, looked_for=looked_for, listed=[place])


def _beside_images(folder: Path) -> list[Path]:
    """Returns the JSON beside the images of a split."""
    exported = folder / "_annotations.coco.json"
    return [exported] if exported.is_file() else sorted(folder.glob("*.json"))


def _image_folder(folder: Path, split: str, annotations: Path) -> Path:
    if annotations.parent.resolve() in {(folder / name).resolve() for name in ALIASES.get(split, (split,))}:
        return annotations.parent
    stem = annotations.stem.removeprefix("person_keypoints_").removeprefix("image_info_")
    names = dict.fromkeys([stem, split, _test_images(stem)])
    candidates = [path for name in names if name for path in (folder / name, folder / "images" / name)]
    candidates.append(folder / "images")
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(
        f"{annotations} has no image folder beside it: looked for {', '.join(str(c) for c in candidates)}; "
        "rename the folder, or give its path (images=..., or jaxpose prepare --images)"
    )


def _test_images(stem: str) -> str | None:
    """Returns the folder of test images: image_info_test-dev2017.json refers to test2017/."""
    return "test" + stem[-4:] if stem.startswith("test-") and stem[-4:].isdigit() else None


# -------------------------------------------------------------------------------------------------- reading the JSON


def recognises(annotations: str | Path) -> bool:
    """Tells whether a file is a JSON object without the fields of other formats (`OF_OTHER_FORMATS`).

    Args:
        annotations: The JSON, which exists.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "train.json"
    >>> _ = path.write_text('{"images": [], "annotations": [], "categories": []}')
    >>> recognises(path)
    True
    """
    text = layout.edges(annotations)
    return text.startswith("{") and not any(all(f'"{key}"' in text for key in fields) for fields in OF_OTHER_FORMATS)


def ground_truth(annotations: str | Path, images: str | Path, *, split: str | None = None) -> Path:
    """Returns the annotation JSON, which the evaluation reads; no image has to exist.

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
    reading: Reading = AS_IT_FITS,
) -> CocoFolder:
    """Reads and checks a COCO-format keypoint file.

    Persons without any labelled joint and crowds stay in the image records (for masks), not among the persons. A
    missing ``area`` (or one that is not positive and finite) becomes `jaxpose.metrics.AREA_OF_BOX` times the box, a
    missing ``iscrowd`` 0, ``num_keypoints`` the number of labelled joints, whatever the file says. The keypoints of
    unlabelled joints are set to 0. Boxes may reach out of the image. Other keys are kept. A file without
    ``annotations`` (COCO's image-info JSON) gives a source without persons, for prediction; the skeleton has to be given.

    Read with a warning: persons without ``bbox`` (a box around their joints; with ``on_bad="skip"`` they are left out),
    confidences as visibility, joints without names, a ``skeleton`` to draw that counts from 0, image files with
    similar names or behind links, boxes that look like corners.

    Args:
        annotations: The JSON.
        images: The folder that its file names are relative to.
        split: The name of the split; ignored, because the file holds one split.
        skeleton: The skeleton of the keypoints; None takes it from the category (`Skeleton.from_coco_category`).
        category: The name or id of a category if several have keypoints; "all", the default if they have the same joints.
        on_bad: "error", or "skip" to leave a bad image or person out, counted and logged.
        reading: Choices in reading the files.

    Raises:
        FileNotFoundError: The JSON, the folder or an image does not exist.
        ValueError: The file is not a COCO file (says which key is missing); its joints are not those of the given
            skeleton; ids are repeated; a file name leads out of the folder; a person belongs to an unknown image; the
            number of keypoints does not fit the skeleton; a coordinate is not finite (in float32); a visibility is not
            0, 1, 2 or a confidence; a box has no pixel in the image; coordinates are fractions; boxes are certainly
            corners.
    """
    path = Path(annotations)
    check_call(path, images, on_bad)
    data = load(path)
    parts = [
        key for key in WHOLE_BODY if any(isinstance(a, dict) and key in a for a in data.get("annotations", [])[:50])
    ]
    if parts:
        logger.warning(
            "%s: the annotations hold COCO-WholeBody's %s too, which are not read: --format coco_wholebody reads all 133 joints",
            path,
            ", ".join(parts),
        )
    return from_contents(data, path, images, skeleton=skeleton, category=category, on_bad=on_bad, reading=reading)


def check_call(annotations: Path, images: str | Path, on_bad: str) -> None:
    """Raises an error for an unknown `on_bad`, or if the image folder does not exist."""
    if on_bad not in ("error", "skip"):
        raise ValueError(f"on_bad must be 'error' or 'skip', got {on_bad!r}")
    if not Path(images).is_dir():
        raise FileNotFoundError(f"{images} is not a folder: name the folder that holds the images of {annotations}")


def from_contents(
    data: dict[str, Any],
    path: Path,
    images: str | Path,
    *,
    skeleton: Skeleton | None,
    category: str | int | None,
    on_bad: Literal["error", "skip"],
    reading: Reading,
) -> CocoFolder:
    """Does the same as `read` for the contents of a file, for variants of COCO's format. `path` names the file."""
    categories, own, notes = _categories(data, path, skeleton, category)
    order = None
    if skeleton is None:
        skeleton = reading.applied_to(own)
        lines = (
            []
            if reading.flip_pairs is None
            else [line for line in notes if "mirror" in line or "left and right" in line]
        )
        notes = [line for line in notes if line not in lines]
    else:
        order = check_joints(categories[0], skeleton, path, reorder=reading.reorder_joints)
        skeleton = reading.applied_to(skeleton)
        categories = (
            [{**c, "keypoints": list(skeleton.joints)} for c in categories] if order is not None else categories
        )
        notes = [line for line in notes if NUMBERED in line]
    file_notes = Notes(path)
    for line in notes:
        file_notes.say(line)
    source = assemble(
        data, Path(images), skeleton=skeleton, category=categories, problems=Problems(path, on_bad), reading=reading,
        notes=file_notes, order=order,
    )  # fmt: skip
    try:
        lines = check_whole(source.persons, source.images["size_wh"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for line in lines:
        logger.warning("%s: %s", path, line)
    return source


def assemble(
    data: Mapping[str, Any],
    folder: Path,
    *,
    skeleton: Skeleton,
    category: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    problems: Problems,
    clip_boxes: bool = True,
    reading: Reading = AS_IT_FITS,
    notes: Notes | None = None,
    order: Sequence[int] | None = None,
) -> CocoFolder:
    """Makes a source from the contents of a COCO file, and checks its images and persons.

    `read` uses it, and so can modules of other formats that convert their labels to such contents.

    Args:
        data: "images" and, perhaps, "annotations", as in a COCO file.
        folder: The image folder.
        skeleton: The skeleton of the keypoints.
        category: The entry of "categories" that the persons belong to, or several with the same joints.
        problems: The collector of problems, which names the label file and may already hold some.
        clip_boxes: The attribute of `jaxpose.data.source.Source`.
        reading: Choices in reading the files.
        notes: Notes about the file that are to be logged.
        order: Joint k of the skeleton is joint ``order[k]`` of the file; None keeps the order.
    """
    categories = [category] if isinstance(category, Mapping) else category
    notes = notes or Notes(problems.path)
    reader = _People(categories, skeleton, problems, reading, notes, order)
    entries = _read_images(data["images"], folder, problems, reading, notes)
    if reading.part is not None:
        entries = _part(entries, data.get("annotations", []), reading, problems.path)
    people = reader.by_image(data.get("annotations", []), data["images"], entries)
    problems.report()
    notes.report()
    source = CocoFolder(
        annotations=problems.path,
        folder=folder,
        skeleton=skeleton,
        categories=categories,
        entries=entries,
        people=people,
        skipped=problems.counts,
        clip_boxes=clip_boxes,
        exif=reading.exif,
    )
    if data.get("annotations") and not len(source):
        source.nobody = reader.why_nobody(problems)
    return source


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton | None:
    """Returns the skeleton that `read` takes from the file; None if the file names no joints, or those of several skeletons."""
    path = Path(annotations)
    try:
        _, skeleton, notes = _categories(load(path), path, None, category)
    except ValueError:
        return None
    return None if any(NUMBERED in line for line in notes) else skeleton


def skeleton_of(annotations: str | Path, *, category: str | int | None = None) -> Skeleton:
    """Returns the skeleton that `read` takes from the file; guesses and repairs are logged.

    Args:
        annotations: The JSON.
        category: The same as in `read`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has no skeleton, or several; the message says why.
    """
    path = Path(annotations)
    _, skeleton, notes = _categories(load(path), path, None, category)
    for note in notes:
        logger.warning("%s: %s", path, note)
    return skeleton


def load(path: Path) -> dict[str, Any]:
    """Returns the contents of a COCO file, of which only the outermost level is checked.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a COCO file; the message says which key is missing.
    """
    data = read_json(path, "annotation JSON")
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} is not a COCO annotation file: it holds a {type(data).__name__}, not an object with 'images', 'annotations' "
            "and 'categories' (a list is the format of detections and results, and of MPII, which jaxpose.data.formats.mpii "
            "reads, or jaxpose prepare --format mpii)"
        )
    for key in ("images", "categories"):
        if not isinstance(data.get(key), list):
            raise ValueError(
                f"{path} is not a COCO annotation file: it has no list {key!r}; its keys are {sorted(data)}"
            )
    if not isinstance(data.get("annotations", []), list):
        raise ValueError(f"{path} is not a COCO annotation file: 'annotations' is not a list")
    if not data["images"]:
        raise ValueError(f"{path} names no images")
    return data


# ------------------------------------------------------------------------------------------------ categories and joints


def _categories(
    data: dict, path: Path, skeleton: Skeleton | None, wanted: str | int | None
) -> tuple[list[dict[str, Any]], Skeleton | None, list[str]]:
    """Returns the categories to read, their skeleton (None if they have none and one is given), and lines to log."""
    categories = [
        {**c, "id": labels.whole(c["id"])}
        for c in data["categories"]
        if isinstance(c, dict) and is_id(labels.whole(c.get("id")))
    ]
    for wrong in (
        c["id"] for c in data["categories"] if isinstance(c, dict) and "id" in c and not is_id(labels.whole(c["id"]))
    ):
        raise ValueError(f"{path}: the id of a category must be a whole number, got {wrong!r}; correct the file")
    selected = _select_categories(categories, path, wanted)
    count = 0
    if not selected or not selected[0].get("keypoints"):
        wordless = selected or [c for c in categories if c.get("keypoints") == []] or categories[:1]
        ids = {c["id"] for c in wordless}
        people = (
            a for a in data.get("annotations", []) if isinstance(a, dict) and labels.whole(a.get("category_id")) in ids
        )
        count = labels.joint_count(people)
        selected = wordless if count or skeleton is not None else []
    if not selected:
        raise ValueError(
            f"{path} has no category with a list 'keypoints': it is not a keypoint file (for COCO take person_keypoints_*.json); "
            "for images without annotations give the skeleton (skeleton=)"
        )
    notes: list[str] = []
    if skeleton is not None and not selected[0].get("keypoints"):  # image-info files name the categories without joints
        return [{**c, "keypoints": list(skeleton.joints)} for c in selected], None, notes
    try:
        own = Skeleton.from_coco_category(selected[0], num_joints=count, notes=notes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; correct the file, or give the skeleton (skeleton=)") from None
    if not selected[0].get("keypoints"):
        selected = [{**c, "keypoints": list(own.joints)} for c in selected]
    return selected, own, notes


def _select_categories(categories: list[dict[str, Any]], path: Path, wanted: str | int | None) -> list[dict[str, Any]]:
    """Returns the wanted categories with keypoints; an empty list if no category has keypoints."""
    usable = [c for c in categories if c.get("keypoints")]
    if wanted is not None and not (wanted == ALL and ALL not in [c.get("name") for c in usable]):
        usable = [
            c for c in (usable or categories) if wanted in (c.get("name"), c["id"]) or labels.whole(wanted) == c["id"]
        ]
        if not usable:
            names = [(c.get("name"), c["id"]) for c in categories]
            raise ValueError(f"{path} has no category {wanted!r} with keypoints: it has {names}")
    if any(c["keypoints"] != usable[0]["keypoints"] for c in usable[1:]):
        names = ", ".join(f"{c.get('name')!r} (id {c['id']})" for c in usable)
        raise ValueError(
            f"{path} has several categories with keypoints, {names}, whose joints differ: choose one "
            "(category=..., or jaxpose prepare --category)"
        )
    return usable


def check_joints(
    category: Mapping[str, Any], skeleton: Skeleton, path: Path, *, reorder: bool = False
) -> list[int] | None:
    """Checks that the given skeleton has the joints of the file, in that order.

    Equal counts are not enough: other names mean other joints.

    Args:
        category: The category of the file.
        skeleton: The given skeleton, such as a checkpoint's or the training file's.
        path: The path of the file, for messages.
        reorder: Accept the same joints in another order.

    Returns:
        An order in which joint k of the skeleton is joint ``order[k]`` of the file; None if the order is the same.

    Raises:
        ValueError: The joints are different, or in another order without `reorder`.
    """
    named = category["keypoints"]
    try:
        own = Skeleton.from_coco_category({"keypoints": named}).joints  # knows other names of published files
    except ValueError:
        own = ()
    if skeleton.joints == own or list(skeleton.joints) == named:
        return None
    same = sorted(own) == sorted(skeleton.joints)
    if same and reorder:
        return [own.index(joint) for joint in skeleton.joints]
    raise ValueError(
        f"{path}: the skeleton given (e.g. a checkpoint's) is {skeleton.name!r} with {skeleton.num_joints} joints "
        f"{list(skeleton.joints)}, this file's category {category.get('name')!r} has {named!r:.2000}: "
        + (
            "the same joints in another order, which --reorder-joints brings into that of the skeleton"
            if same
            else "give data with the joints of the skeleton, or the skeleton of this data (skeleton=None takes it from the file)"
        )
    )


# ---------------------------------------------------------------------------------------------------------------- images


def _read_images(
    images: Iterable[Any], folder: Path, problems: Problems, reading: Reading, notes: Notes
) -> list[dict[str, Any]]:
    names, seen, entries = ImageFiles(folder, follow_links=reading.follow_links), set(), []
    near: dict[str, str] = {}  # file -> the similar name in the labels
    for entry in images:
        missing = [k for k in ("id", "file_name", "width", "height") if not isinstance(entry, dict) or k not in entry]
        if missing:
            problems.add("image entry incomplete", f"an image entry has no {missing[0]!r}: {entry!r:.200}")
            continue
        number, width, height = (labels.whole(entry[key]) for key in ("id", "width", "height"))
        if not is_id(number) or not is_size(width) or not is_size(height):
            message = "id, width and height of an image must be whole numbers (of 64, 32 and 32 bits)"
            problems.add("image entry wrong", f"{message}: {entry!r:.200}")
            continue
        name = entry["file_name"]
        if number in seen:
            problems.add("image id repeated", f"image id {number} occurs more than once (again: {name!r})")
            continue
        seen.add(number)
        try:
            file, how = names.find(name)
        except FileNotFoundError as error:
            message = f"image {number} names {name!r}, {error.args[1]}"
            problems.add(error.args[0], message, error=FileNotFoundError)
            continue
        except ValueError as error:
            problems.add(error.args[0], f"image {number} has the file name {name!r}, {error.args[1]}")
            continue
        if how:
            if file in near:
                message = f"images {near[file]!r} and {name!r} both lead to the file {file!r}"
                problems.add("image file ambiguous", message)
                continue
            near[file] = name
            notes.add(f"{{n}} image files were found {how}", f"{name!r} as {file!r}")
        same = number is entry["id"] and width is entry["width"] and height is entry["height"] and not how
        entries.append(entry if same else {**entry, "id": number, "width": width, "height": height, "file_name": file})
    for file in names.outside:
        notes.add("{n} image files are reached through links that lead out of the image folder", repr(file))
    return entries


def _part(
    entries: list[dict[str, Any]], annotations: Iterable[Any], reading: Reading, path: Path
) -> list[dict[str, Any]]:
    """Returns the images of the part to read. Each is drawn from its file name alone, whatever else the file holds.

    Few images may all be drawn into one part. The labelled image with the nearest draw then goes to the other part. That
    depends on the file names only too, so both parts are the same in every run and neither is empty.

    Args:
        entries: The images of the whole file.
        annotations: The annotations of the whole file.
        reading: The part and the fraction.
        path: The path of the file, for the message.

    Raises:
        ValueError: There are fewer than two images to divide.
    """
    named = {labels.whole(a.get("image_id")) for a in annotations if isinstance(a, dict) and _has_joints(a)}
    draws = {entry["file_name"]: _draw(entry["file_name"]) for entry in entries}
    labelled = {e["file_name"] for e in entries if e["id"] in named} or set(draws)
    if len(labelled) < 2:
        raise ValueError(
            f"{path} has {len(labelled)} labelled image{'' if len(labelled) == 1 else 's'}: --val-fraction "
            f"{reading.val_fraction:g} needs at least two, one to train on and one to evaluate on; give --val-annotations"
        )
    held_out = {name for name, draw in draws.items() if draw < reading.val_fraction}
    if held_out.isdisjoint(labelled):
        held_out.add(min(labelled, key=draws.__getitem__))
    elif held_out.issuperset(labelled):
        held_out.remove(max(labelled, key=draws.__getitem__))
    return [entry for entry in entries if (entry["file_name"] in held_out) == (reading.part == "val")]


def _has_joints(annotation: Mapping[str, Any]) -> bool:
    """Tells whether an annotation has a labelled joint, as far as is possible before it is checked."""
    keypoints = labels.flat(annotation.get("keypoints"))
    return isinstance(keypoints, list) and any(is_number(v) and v > 0 for v in keypoints[2::3])


def _draw(file: str) -> float:
    """Returns a number from 0 to below 1 that depends on the name of a file only."""
    return int.from_bytes(hashlib.sha256(file.encode(errors="surrogateescape")).digest()[:8]) / 2**64


# --------------------------------------------------------------------------------------------------------------- persons


class _People:
    """The annotations of some categories, checked and completed."""

    def __init__(
        self,
        categories: Sequence[Mapping[str, Any]],
        skeleton: Skeleton,
        problems: Problems,
        reading: Reading,
        notes: Notes,
        order: Sequence[int] | None,
    ):
        self.categories, self.skeleton = {category["id"]: category for category in categories}, skeleton
        self.problems, self.reading, self.notes = problems, reading, notes
        self.columns = None if order is None else [3 * k + i for k in order for i in range(3)]
        self.seen: set[int] = set()
        self.others: set[str] = set()

    def by_image(
        self, annotations: Iterable[Any], images: Iterable[Any], entries: Sequence[Mapping[str, Any]]
    ) -> list[list[dict[str, Any]]]:
        """Returns the persons of each image."""
        index = {entry["id"]: i for i, entry in enumerate(entries)}
        # An annotation names its image as the image's entry does, as a number or as text.
        named = {e["id"]: labels.whole(e["id"]) for e in images if isinstance(e, dict) and _is_label(e.get("id"))}
        people: list[list[dict[str, Any]]] = [[] for _ in entries]
        problems, seen = self.problems, self.seen
        first = next(iter(self.categories))
        for person in annotations:
            number = labels.whole(person.get("id")) if isinstance(person, dict) else None
            if not is_id(number) or "image_id" not in person:
                problems.add(
                    "annotation incomplete", f"an annotation has no whole-number 'id' or no 'image_id': {person!r:.200}"
                )
                continue
            category = person.get("category_id", first)
            if not _is_label(category) or labels.whole(category) not in self.categories:
                self.others.add(f"{category!r:.50}")
                continue
            image = person["image_id"]
            if not _is_label(image) or image not in named:
                message = f"annotation {number} belongs to image {image!r}, which the file does not list"
                if _is_label(image) and labels.whole(image) in named.values():
                    message += f" so, but as {next(k for k, v in named.items() if v == labels.whole(image))!r}"
                problems.add("annotation of an unknown image", message)
            elif number in seen:
                problems.add("annotation id repeated", f"annotation id {number} occurs more than once")
            elif named[image] in index:  # else its image was left out
                i = index[named[image]]
                checked = self._checked(person, number, entries[i])
                if checked is not None:
                    people[i].append(checked | {"category_id": labels.whole(category)})
            seen.add(number)
        if self.others and not seen:
            category = self.categories[first]
            message = "%s: no annotation is of category %r with id %r; those there are of %s"
            logger.warning(message, problems.path, category.get("name"), first, ", ".join(sorted(self.others)[:5]))
        return people

    def why_nobody(self, problems: Problems) -> str:
        """Returns the reason why none of the annotations can be trained on."""
        if problems.counts:
            reasons = "; ".join(
                f"{count} {kind}, such as: {problems.examples[kind][0]}" for kind, count in problems.counts.items()
            )
            return f"every person was left out ({reasons})"
        if not self.seen:
            wanted = ", ".join(f"{c.get('name')!r} (id {i})" for i, c in self.categories.items())
            return f"no annotation is of {wanted}; those there are of category_id {', '.join(sorted(self.others)[:5])}"
        return ""  # without labels there is nobody to train on, but images to predict on

    def _checked(self, person: dict[str, Any], number: int, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the annotation with missing values filled in, or None if it is bad."""
        where = f"annotation {number} (image {entry['file_name']!r})"
        crowd = person.get("iscrowd") or 0
        if crowd not in (0, 1):
            self.problems.add("iscrowd not 0 or 1", f"{where}: 'iscrowd' must be 0 or 1, got {crowd!r:.50}")
            return None
        keypoints, bad = self._keypoints(person.get("keypoints"), where)
        if bad:
            self.problems.add(bad[0], f"{where}: {bad[1]}")
            return None
        labelled = sum(v > 0 for v in keypoints[2::3])
        size = (entry["width"], entry["height"])
        box = person["bbox"] if "bbox" in person else self._box(keypoints, size, crowd=bool(crowd))
        bad = bad_box(box, size, strict=labelled > 0 and not crowd)
        if bad:
            self.problems.add(bad[0], f"{where}: {bad[1]}")
            return None
        area = person.get("area")
        if not is_number(area) or not area > 0:
            area = AREA_OF_BOX * box[2] * box[3]
        keypoints = [value if keypoints[3 * (i // 3) + 2] > 0 else 0 for i, value in enumerate(keypoints)]
        completed = {"id": number, "image_id": entry["id"], "bbox": box, "keypoints": keypoints, "area": area}
        return person | completed | {"num_keypoints": labelled, "iscrowd": int(crowd)}

    def _box(self, keypoints: list[float], size: tuple[int, int], *, crowd: bool) -> list[float] | None:
        """Returns a box for a person without one. None if bad persons are to be left out, rather than guessed at."""
        box = labels.box_around(keypoints, size)
        if box is None or crowd:  # the box is unused
            return [0, 0, 0, 0]
        if self.problems.on_bad == "skip":
            return None
        self.notes.add(
            "{n} persons have no 'bbox': their boxes are made from their keypoints, "
            f"{100 * labels.MARGIN:.0f}% larger on each side (--on-bad skip leaves such persons out)"
        )
        return box

    def _keypoints(self, keypoints: Any, where: str) -> tuple[list[float], tuple[str, str] | None]:
        """Returns flat keypoints with visibilities 0, 1, 2; and a description of what is wrong with them."""
        expected = 3 * self.skeleton.num_joints
        if not keypoints:  # an annotation without keypoints is unlabelled
            return [0] * expected, None
        if isinstance(keypoints, list) and isinstance(keypoints[0], (list, tuple)):
            nested, keypoints = keypoints, labels.flat(keypoints)
            if keypoints is not nested:
                kind = "x, y pairs: a pair is a visible joint" if len(nested[0]) == 2 else "x, y, visibility triples"
                self.notes.add(f"'keypoints' of {{n}} annotations are nested lists of {kind}")
        if not isinstance(keypoints, list) or len(keypoints) != expected:
            got = f"{len(keypoints)} numbers" if isinstance(keypoints, list) else f"{keypoints!r:.50}"
            return [], (
                "wrong number of keypoints",
                f"'keypoints' has {got}, but skeleton {self.skeleton.name!r} with {self.skeleton.num_joints} joints needs "
                f"{expected}",
            )
        if self.columns is not None:
            keypoints = [keypoints[column] for column in self.columns]
        visibility = keypoints[2::3]
        if self.reading.visible_above is not None or not all(v in (0, 1, 2) for v in visibility):
            read = self._visibility(visibility)
            if read is None:
                return [], (
                    "visibility not 0, 1, 2",
                    f"a visibility is not 0, 1 or 2, nor a confidence between 0 and 1: {visibility}; --visible-above T takes "
                    "joints with a number above T for labelled",
                )
            keypoints = [read[i // 3] if i % 3 == 2 else value for i, value in enumerate(keypoints)]
        joints = zip(keypoints[::3], keypoints[1::3], keypoints[2::3], strict=True)
        bad = [(joint, x, y) for joint, (x, y, v) in enumerate(joints) if v > 0 and not (is_number(x) and is_number(y))]
        if bad:
            joint, x, y = bad[0]
            return [], (
                "coordinate not finite",
                f"a labelled joint has a coordinate that is not a finite number: joint {joint} is at {x!r:.30}, {y!r:.30}",
            )
        return keypoints, None

    def _visibility(self, values: list[Any]) -> list[int] | None:
        """Converts confidences, or numbers with a threshold, to 0, 1, 2; returns None if they are neither."""
        above = self.reading.visible_above
        if not all(is_number(v) for v in values) or (above is None and not all(0 <= v <= 1 or v == 2 for v in values)):
            return None
        if above is None:
            self.notes.add(
                "{n} annotations have visibilities between 0 and 1, taken as confidences: a joint is labelled above 0 "
                "(--visible-above gives another threshold)"
            )
        # With fractions among the values, 1 is the highest confidence; with a 2 (COCO-WholeBody's body), or without
        # fractions, it is COCO's hidden joint.
        confidences = 2 not in values and not all(v in (0, 1) for v in values)
        return [(1 if v == 1 and not confidences else 2) if v > (above or 0) else 0 for v in values]


def _is_label(value: Any) -> bool:
    """Tells whether a JSON value can be an id: a number or a text."""
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)
