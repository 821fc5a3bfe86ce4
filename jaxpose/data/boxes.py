"""Person boxes other than a data set's annotated ones: a detector's boxes, and annotated ones with added errors.

`with_detections` replaces the persons of a source by a detector's boxes, `with_annotated_boxes` adds those without labelled
joints, as in a test set, `BoxFile` holds boxes for pictures of any
origin, `check_boxes` checks boxes that are arrays.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose import files
from jaxpose.data.checks import Problems, bad_box, is_id, is_number, no_extent
from jaxpose.data.source import Source, person_dtype
from jaxpose.files import read_json
from jaxpose.geometry import clip_box
from jaxpose.hands import Side
from jaxpose.metrics import AREA_OF_BOX

__all__ = [
    "BoxFile",
    "check_boxes",
    "number_of",
    "touches",
    "with_annotated_boxes",
    "with_detections",
    "with_jittered_boxes",
]

FARTHEST = 1_000_000
"""The largest coordinate and side of a box of a picture, in pixels."""

logger = logging.getLogger(__name__)


def with_detections(source: Source, detections: str | Path, *, min_score: float = 0.0, on_bad: str = "error") -> Source:
    """Returns a source over detected boxes: one record per box, with its score and without keypoints.

    Boxes of categories and of images that the source does not hold, and with a score below `min_score`, are left out
    (those of other images are logged). The annotation_id of a record is the place of the box in the file; its area is
    `jaxpose.metrics.AREA_OF_BOX` times the box.

    Args:
        source: The source of the images.
        detections: A JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``, as detectors write it.
        min_score: Boxes with a smaller score are left out; 0 keeps all, as the published evaluations do.
        on_bad: "error", or "skip" to leave out boxes that are not finite, empty or outside their image.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a list of detections, an image id is not a whole number, or no box belongs to an image
            of the source.
    """
    path = Path(detections)
    boxes = _load_detections(path)
    problems = Problems(path, on_bad)
    order = np.argsort(source.images["image_id"], kind="stable")
    ids = source.images["image_id"][order]
    rows, unknown = [], 0
    wanted = source.category_ids or (source.category_id,)
    category_of_row: dict[int, int] = {}
    for row, entry in enumerate(boxes):
        category = entry.get("category_id", source.category_id)
        if category not in wanted or not entry["score"] >= min_score:
            continue
        category_of_row[row] = category
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
    other._category_by_annotation = lambda: category_of_row
    return other


def with_annotated_boxes(source: Source) -> Source:
    """Returns a source over all annotated persons with a box, labelled joints or not, to predict on them.

    It serves test sets, whose files have boxes but no joints, such as MPII's. Crowds and boxes without an extent in the
    image are left out.

    Args:
        source: The source of the images.

    >>> from jaxpose.data.formats import coco
    >>> with_annotated_boxes(coco.read("no_such_folder/val.json", "no_such_folder"))
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the images of no_such_folder/val.json
    """
    rows = []
    for image in range(len(source.images)):
        persons, size = source.labels(image)["persons"], source.images["size_wh"][image]
        persons = persons[~persons["crowd"]]
        usable = [bool(min(box[2:]) > 0 and touches(box, size)) for box in persons["box"]]
        rows.append(persons[np.array(usable, bool)])
        rows[-1]["image"] = image
    other = copy.copy(source)
    other.persons = np.concatenate(rows) if rows else source.persons[:0]
    other.persons["score"] = 1.0
    other.level = "person"
    return other


def with_jittered_boxes(source: Source, *, fraction: float, seed: int = 0) -> Source:
    """Returns the same persons with perturbed boxes, to measure the cost of a detector's errors without a detector.

    The centre and size of every box are moved by uniform draws of up to `fraction` of its width and height.

    Args:
        source: Persons with ground-truth boxes.
        fraction: The largest change, as a fraction of the box, from 0 to below 1.
        seed: Seeds the draws; the same seed gives the same boxes.

    Raises:
        ValueError: The fraction is out of range.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction={fraction}: expected a fraction of the box, from 0 to below 1")
    other = copy.copy(source)
    other.persons = source.persons.copy()
    box = other.persons["box"].astype(np.float64)
    shift, growth = np.random.default_rng(seed).uniform(-fraction, fraction, (2, len(box), 2))
    size = box[:, 2:] * (1 + growth)
    center = box[:, :2] + box[:, 2:] * (0.5 + shift)
    other.persons["box"] = np.concatenate([center - size / 2, size], axis=1)
    other.clip_boxes = False
    return other


def touches(box_xywh: Sequence[float], size_wh: Sequence[int]) -> bool:
    """Tells whether a box overlaps an image.

    Args:
        box_xywh: x, y, width, height in image pixels.
        size_wh: The width and height of the image.

    >>> touches((-5, 0, 10, 10), (100, 50)), touches((100, 0, 10, 10), (100, 50))
    (True, False)
    """
    x, y, w, h = box_xywh
    return bool(x + w > 0 and y + h > 0 and x < size_wh[0] and y < size_wh[1])


def _load_detections(path: Path) -> list[dict[str, Any]]:
    boxes = read_json(path, "detection JSON")
    if not isinstance(boxes, list):
        raise ValueError(f"{path} is not a detection file: it holds a {type(boxes).__name__}, not a list of boxes")
    for row, entry in enumerate(boxes):
        missing = [k for k in ("image_id", "bbox", "score") if not isinstance(entry, dict) or k not in entry]
        if missing or not is_number(entry["score"]):
            raise ValueError(f"{path}: detection {row} has no number {(missing or ['score'])[0]!r}: {entry!r:.200}")
        for key in ("image_id", "category_id"):
            if not is_id(entry.get(key, 0)):
                raise ValueError(
                    f"{path}: the {key!r} of detection {row} must be a whole number, got {entry[key]!r:.100}"
                )
    return boxes


def _bad_detection(box: Any, size_wh: np.ndarray) -> tuple[str, str] | None:
    bad = bad_box(box, (int(size_wh[0]), int(size_wh[1])), strict=False)
    if bad:
        return bad
    if min(box[2:]) <= 0 or not touches(box, size_wh):
        return no_extent(box, size_wh)
    return None


def _detection_table(rows: Sequence[tuple], num_joints: int) -> np.ndarray:
    table = np.zeros(len(rows), person_dtype(num_joints))
    table["image"], table["annotation_id"] = [r[0] for r in rows], [r[1] for r in rows]
    table["box"], table["score"] = [r[2] for r in rows], [r[3] for r in rows]
    table["area"] = AREA_OF_BOX * table["box"][:, 2] * table["box"][:, 3]
    return table


@dataclass(frozen=True)
class BoxFile:
    """Boxes by picture, and the image ids of a COCO data set if the file is one.

    Attributes:
        rows: Lists of (x, y, width, height, score), by name or number of a picture and by frame.
        ids: Image ids by file name.
        sizes: Width and height in the data set by file name.
        poses: The annotated joints (x, y, visibility) by name, for each person of the data set, by file name.
        hands: For each box of `rows` "left" or "right" if its entry has this "hand", else None.
    """

    rows: Mapping[str | int, Mapping[int, list[tuple[float, ...]]]]
    ids: Mapping[str, int]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    poses: Mapping[str, list[Mapping[str, Sequence[float]]]] = field(default_factory=dict)
    hands: Mapping[str | int, Mapping[int, list[Side | None]]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, *, category: int, min_score: float) -> BoxFile:
        """Reads the file that the flag ``--boxes`` names.

        Args:
            path: A JSON list of ``{"file_name" or "image_id", "bbox": [x, y, w, h]}`` with, perhaps, score (default 1),
                frame (default 0), category_id and hand; or a COCO data set, whose boxes are cleaned as its evaluation does.
            category: The category of the boxes to take; boxes without a category are taken.
            min_score: Boxes with a smaller score are left out.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: An entry is wrong, or no box is left; the message names the file and the entry.
        """
        content = read_json(path, "file of boxes (--boxes)")
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            entries, ids, sizes = _annotated_boxes(content, path)
        elif isinstance(content, list):
            entries, ids, sizes = content, {}, {}
        else:
            raise ValueError(
                f"--boxes {path}: expected a list of boxes, or a COCO data set with images and annotations"
            )
        rows: dict[str | int, dict[int, list]] = {}
        poses: dict[str, list[Mapping[str, Sequence[float]]]] = {}
        sides: dict[str | int, dict[int, list]] = {}
        others, weak = set(), 0
        for i, entry in enumerate(entries):
            key, frame, row = _box_of_picture(entry, f"--boxes {path}: box {i}")
            if entry.get("category_id", category) != category:
                others.add(str(entry["category_id"]))
            elif row[4] < min_score:
                weak += 1
            else:
                rows.setdefault(key, {}).setdefault(frame, []).append(row)
                side = entry.get("hand")
                sides.setdefault(key, {}).setdefault(frame, []).append(side if side in ("left", "right") else None)
                if sizes and entry["joints"]:
                    poses.setdefault(key, []).append(entry["joints"])
        if entries and not rows:
            foreign = (
                f", others are of the categories {sorted(others)[:10]}, --category is {category}" if others else ""
            )
            raise ValueError(
                f"--boxes {path}: none of {len(entries)} boxes is left; {weak} have a score below --min-box-score {min_score:g}"
                f"{foreign}"
            )
        return cls(rows, ids, sizes, poses, sides)

    def matched(self, paths: Sequence[Path], path: Path) -> BoxFile:
        """Returns this file if it has boxes of one of the pictures; else with names without their folders and endings.

        Args:
            paths: The pictures.
            path: The path of this file, for messages.

        Raises:
            ValueError: No box belongs to any of the pictures.
        """
        names = {name for picture in paths for name in _names_of(picture)}
        if not self.rows or names & self.rows.keys():
            return self
        for rename, how in ((_last_part, "without folders"), (_stem, "without folders and endings")):
            near = self._renamed(rename)
            if common := len(names & near.rows.keys()):
                logger.warning(
                    "--boxes %s: %d of its pictures are among the inputs by their names %s", path, common, how
                )
                return near
        examples = ", ".join(map(repr, list(self.rows)[:3]))
        raise ValueError(
            f"--boxes {path}: no box belongs to any of the {len(paths)} inputs, such as {paths[0]}; the file names pictures such "
            f'as {examples}: give "file_name" of the inputs, or the COCO data set in which these are the image ids'
        )

    def _renamed(self, rename: Callable[[str], str]) -> BoxFile:
        """Returns the file with other names of its pictures; those that would share a name are left out."""
        new = {name: rename(name) if isinstance(name, str) else name for name in {*self.rows, *self.ids}}
        count = Counter(new.values())
        once = {name: to for name, to in new.items() if count[to] == 1}
        return BoxFile(
            *(
                {once[name]: value for name, value in of.items() if name in once}
                for of in (self.rows, self.ids, self.sizes, self.poses, self.hands)
            )
        )

    def size_of(self, path: Path) -> tuple[int, int] | None:
        """Returns the data set's width and height of a picture, or None if the data set does not hold it."""
        return next((self.sizes[name] for name in _names_of(path) if name in self.sizes), None)

    def persons_in(self, paths: Sequence[Path], joints: Sequence[str]) -> np.ndarray:
        """Returns the annotated keypoints of the data set's persons in these pictures.

        Args:
            paths: The pictures; a person's "image" is the index of its picture here.
            joints: Names of the joints, in the order of the keypoints; those that the data set does not name stay 0.

        Returns:
            Table of `jaxpose.data.source.person_dtype` with "image" and "keypoints" filled in.
        """
        people = [
            (image, pose)
            for image, path in enumerate(paths)
            for pose in next((self.poses[name] for name in _names_of(path) if name in self.poses), [])
        ]
        table = np.zeros(len(people), person_dtype(len(joints)))
        for row, (image, pose) in zip(table, people, strict=True):
            row["image"] = image
            row["keypoints"] = [pose.get(joint, (0, 0, 0)) for joint in joints]
        return table

    def id_of(self, path: Path) -> int | None:
        """Returns the data set's id of a picture, or None if the data set does not hold it."""
        return next((self.ids[name] for name in _names_of(path) if name in self.ids), None)

    def of(self, path: Path, frame: int) -> list[tuple[float, ...]]:
        """Returns the boxes of a picture, or of a frame of a video."""
        return next((self.rows[name][frame] for name in _names_of(path) if frame in self.rows.get(name, {})), [])

    def sides_of(self, path: Path, frame: int) -> list[Side | None]:
        """Returns the sides of the hands in the boxes that `of` returns, None where the file states none."""
        return next((self.hands[name][frame] for name in _names_of(path) if frame in self.rows.get(name, {})), [])

    def unused(self, images: Iterable[Mapping[str, Any]]) -> int:
        """Returns the number of pictures of the file that are not among these images, which have a file_name."""
        return len(set(self.rows) - {name for image in images for name in _names_of(Path(image["file_name"]))})


def number_of(stem: str) -> int | None:
    """Returns the number in a picture's name without its ending, as in COCO; None if the name is not a number.

    >>> number_of("000000000139"), number_of("dog"), number_of("1" * 16)
    (139, None, None)
    """
    # 15 digits are exact in a float, to which some JSON readers convert a number.
    return int(stem) if stem.isascii() and stem.isdigit() and len(stem) < 16 else None


def check_boxes(entry: Any, image_wh: Sequence[int], *, image: int) -> tuple[np.ndarray, np.ndarray]:
    """Checks the boxes of an image that are given as arrays or lists.

    Args:
        entry: ``(P, 4)`` x, y, width, height in pixels, or ``(P, 5)`` with a score; None stands for the whole image.
        image_wh: The width and height of the image.
        image: The number of the image, for messages.

    Returns:
        The boxes ``(P, 4)`` and their scores ``(P,)`` (1 if there are none), float64.

    Raises:
        ValueError: The boxes have another shape, or a box is not finite, empty or outside the image.

    >>> check_boxes([[1, 2, 3, 4, 0.5]], (10, 10), image=0)
    (array([[1., 2., 3., 4.]]), array([0.5]))
    """
    if entry is None:
        entry = [[0, 0, *image_wh]]
    try:
        rows = np.asarray(entry, np.float64)
    except (TypeError, ValueError):
        rows = np.zeros(())
    rows = rows.reshape(-1, 4) if rows.size == 0 and rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] not in (4, 5):
        raise ValueError(
            f"boxes of image {image} are {np.shape(entry)}: expected (P, 4), x, y, w, h in pixels, or (P, 5) with a score"
        )
    box, score = rows[:, :4], rows[:, 4] if rows.shape[1] == 5 else np.ones(len(rows))
    for row, (_, _, w, h) in enumerate(box):
        name = f"box {row} of image {image}, {box[row].tolist()}"
        if not (np.isfinite(rows[row]).all() and np.abs(rows[row]).max() <= FARTHEST):
            raise ValueError(f"{name}, score {score[row]}: expected finite numbers of pixels, {FARTHEST:,} at most")
        if w <= 0 or h <= 0:
            raise ValueError(f"{name}: expected a positive width and height (x, y, w, h, not two corners)")
        if not touches(box[row], image_wh):
            raise ValueError(f"{name}: lies outside the image of {image_wh[0]}x{image_wh[1]} pixels")
    return box, score


def _last_part(name: str) -> str:
    """Returns the name of a file without its folders, which Windows separates by backslashes."""
    return name.replace("\\", "/").rpartition("/")[2]


def _stem(name: str) -> str:
    return Path(_last_part(name)).stem


def _names_of(path: Path) -> list[str | int]:
    """Returns the names a detector may use for a picture: its path or the end of it, its name without ending, its number."""
    ends = [str(Path(*path.parts[i:])) for i in range(len(path.parts))]
    number = number_of(path.stem)
    return [*ends, path.stem, *([] if number is None else [number])]


def _box_of_picture(entry: Any, name: str) -> tuple[str | int, int, tuple[float, ...]]:
    """Returns the picture, the frame and (x, y, width, height, score) of an entry; `name` names it in messages."""
    if not isinstance(entry, dict) or not ({"file_name", "image_id"} & entry.keys()) or "bbox" not in entry:
        raise ValueError(
            f'{name} is {entry!r:.100}: expected {{"file_name" or "image_id", "bbox": [x, y, w, h], "score"}}'
        )
    key, frame, box, score = (
        entry.get("file_name", entry.get("image_id")),
        entry.get("frame", 0),
        entry["bbox"],
        entry.get("score", 1.0),
    )
    numbers = [*box, score] if isinstance(box, list) and len(box) == 4 else []
    if not numbers or not all(files.is_number(value, most=FARTHEST) for value in numbers):
        raise ValueError(
            f"{name} has bbox {box!r:.80} and score {score!r:.20}: expected x, y, w, h, {FARTHEST:,} pixels at most, and a number"
        )
    if not isinstance(key, (str, int)) or not isinstance(frame, int):
        raise ValueError(
            f"{name} has the picture {key!r:.80} and frame {frame!r:.20}: expected a name or number, and a number"
        )
    return key, frame, tuple(float(v) for v in numbers)


def _names_of_joints(categories: Any) -> dict[int, list[str]]:
    """Returns the joint names of each category id of a COCO data set, if it names them."""
    listed = [category for category in categories if isinstance(category, dict)] if isinstance(categories, list) else []
    named = [(category.get("id"), category.get("keypoints")) for category in listed]
    return {
        number: joints
        for number, joints in named
        if isinstance(number, int) and isinstance(joints, list) and all(isinstance(joint, str) for joint in joints)
    }


def _pose_by_joint(keypoints: Any, joints: Sequence[str]) -> dict[str, list[float]]:
    """Returns (x, y, visibility) by joint name; empty if the keypoints do not fit the names."""
    if not isinstance(keypoints, list) or len(keypoints) != 3 * len(joints):
        return {}
    if not all(files.is_number(value, most=FARTHEST) for value in keypoints):
        return {}
    return {joint: keypoints[3 * k : 3 * k + 3] for k, joint in enumerate(joints)}


def _annotated_boxes(
    content: dict[str, Any], path: Path
) -> tuple[list[dict[str, Any]], dict[str, int], dict[str, tuple[int, int]]]:
    """Returns the boxes, image ids and image sizes of a COCO data set, the last two by file name.

    The boxes are cleaned as COCO's evaluation does, without crowds and empty boxes.
    """
    try:
        images = {image["id"]: image for image in content["images"]}
        joints_of = _names_of_joints(content.get("categories"))
        entries = []
        for person in content["annotations"]:
            image = images[person["image_id"]]
            box = clip_box(np.asarray(person["bbox"], np.float64), np.array([image["width"], image["height"]])).tolist()
            if min(box[2:]) > 0 and not person.get("iscrowd", 0):
                joints = joints_of.get(person.get("category_id"), ())
                pose = _pose_by_joint(person.get("keypoints"), joints)
                entry = {"file_name": image["file_name"], "bbox": box, "joints": pose}
                entries.append(entry | {k: person[k] for k in ("category_id", "hand") if k in person})
        sizes = {image["file_name"]: (int(image["width"]), int(image["height"])) for image in content["images"]}
        return entries, {image["file_name"]: int(image["id"]) for image in content["images"]}, sizes
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"--boxes {path} is not a COCO data set ({type(error).__name__}: {error})") from None
