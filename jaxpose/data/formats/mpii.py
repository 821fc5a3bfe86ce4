"""MPII Human Pose: reads and checks persons given by a centre and a scale, with 16 joints.

    source = mpii.read(*mpii.find("path/to/mpii", "valid"))                                  # as it is, or prepared once:
    source = builder.prepare("path/to/mpii", split="valid", data_dir="prepared", reader=mpii)

The JSON is the one that HRNet, Integral Regression and mmpose share: a list with one entry for each person,
``{"image": name, "center": [x, y], "scale": s, "joints": [[x, y], ...], "joints_vis": [0 or 1, ...]}``, pixels counted
from 1, a scale of 1 for a person 200 pixels high. The reader converts it as follows:

joints
    They are reduced by one: here pixels count from 0, as everywhere in this library. HRNet and mmpose 0.x subtract that
    pixel too, mmpose 1.x omits it for the joints (not for the centre), though its evaluation adds it to the predictions.
visibility
    It is 2 where ``joints_vis`` is 1, and 0 (unlabelled) where it is 0: the JSON has no occlusion. ``joints_vis``
    alone decides, as in HRNet: a joint marked 1 at (0, 0), or with a negative coordinate, stays labelled there, and
    the (-1, -1) of a joint marked 0 is dropped.
box
    The square of side 200 s about the centre, after the centre is moved down by 15 s (the annotated one lies high on
    the body) and one pixel up and to the left. Padded by 1.25, as the pipeline does, it is the published crop at
    256 x 256, to float32; a crop that is higher than wide shows more at both ends. These boxes are not clipped to the
    image (``Source.clip_boxes`` is False), as in the published pipelines.
area
    It is not annotated: `jaxpose.metrics.AREA_OF_BOX` of that square is taken. The square is wider than most persons,
    so OKS and average precision are too high; MPII's own metric is PCKh (`jaxpose.evaluation.mpii`).
annotation_id
    The position of the entry in the list, counted from 1 (pycocotools takes an id of 0 for none): annotation a of the
    validation file is column a - 1 of the arrays of ``gt_valid.mat``.

Entries that name one image are persons of one image record, in the order of their first entry. The size of an image is
read from its file, since the JSON has none. Entries without joints (MPII's test set) are unlabelled persons: in the
image records, not among those to train or evaluate on.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from jaxpose.data.checks import Problems, is_number
from jaxpose.data.formats import coco, layout
from jaxpose.data.names import ImageFiles
from jaxpose.data.orientation import SIDEWAYS, orientation
from jaxpose.data.reading import AS_IT_FITS, Reading
from jaxpose.files import read_json
from jaxpose.skeleton import MPII16, Skeleton

__all__ = ["CONTENT", "PERSON_HEIGHT", "find", "ground_truth", "own_skeleton", "read", "recognises"]

CONTENT = "a list with one entry per person: image, center, scale, joints, joints_vis"

PERSON_HEIGHT = 200.0
"""The height in pixels of a person with scale 1, which is the side of its box."""
CENTER_DOWN = 15.0
"""The number of pixels by which the annotated centre is moved down, for a person with scale 1."""

CATEGORY = MPII16.to_coco_category(name="person")
PERSON_KEYS = ("image", "center", "scale")
ALIASES = {"val": ("val", "valid"), "valid": ("valid", "val")}  # mmpose's name of the split, and HRNet's

logger = logging.getLogger(__name__)


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Locates the annotation JSON and the image folder of a split.

    Layouts, with S the split: ``annot/S.json`` with ``images/`` (HRNet, Integral Regression);
    ``annotations/mpii_S.json`` with ``images/`` (mmpose); ``S.json``, ``mpii_S.json`` or ``S_mpii.json`` in the folder
    itself, with ``images/`` or the images beside it. "val" and "valid" are one split.

    Args:
        folder: The data set's folder.
        split: The name of the split: "train", "valid", "trainval", "test", or the name of a JSON in the folder, without
            its ending.
        annotations: The JSON; None looks for it.
        images: The image folder; None looks for it.

    Returns:
        (path of the JSON, path of the image folder).

    Raises:
        FileNotFoundError: One of the two is missing; the message names what was looked for and what is there.

    >>> find("no_such_folder", "valid")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder of MPII, that holds annot/ (or annotations/) and
        images/
    """
    return layout.locate(
        folder,
        split,
        annotations=annotations,
        images=images,
        annotation_file=_annotation_file,
        image_folder=layout.images_of,
        holds="of MPII, that holds annot/ (or annotations/) and images/",
    )


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton:
    """Returns the skeleton that `read` takes by default: `jaxpose.skeleton.MPII16`, whatever the file.

    >>> own_skeleton("annot/valid.json").num_joints
    16
    """
    return MPII16


def recognises(annotations: str | Path) -> bool:
    """Tells whether a file is a JSON list of entries with an image, a center and a scale.

    Args:
        annotations: The JSON, which exists.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "valid.json"
    >>> _ = path.write_text('[{"image": "1.jpg", "center": [20, 30], "scale": 0.4}]')
    >>> recognises(path)
    True
    """
    text = layout.edges(annotations)
    return text.startswith("[") and all(f'"{key}"' in text for key in PERSON_KEYS)


def ground_truth(annotations: str | Path, images: str | Path, *, split: str | None = None) -> dict[str, Any]:
    """Returns the annotations in COCO's format, as the evaluation reads them.

    Args:
        annotations: The JSON.
        images: The folder of its images, which have to exist because their sizes are read from them.
        split: The name of the split; ignored, because the file holds one split.

    Raises:
        FileNotFoundError, ValueError: The same as for `read`.

    >>> ground_truth("annot/valid.json", "no_such_folder")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the images of annot/valid.json
    """
    return read(annotations, images).ground_truth()


def read(
    annotations: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    skeleton: Skeleton | None = None,
    category: str | int | None = None,
    on_bad: Literal["error", "skip"] = "error",
    reading: Reading = AS_IT_FITS,
) -> coco.CocoFolder:
    """Reads and checks an MPII annotation file; the module's docstring says how entries are converted.

    ``read(...).ground_truth()`` is the data set in COCO's format.

    Args:
        annotations: The JSON.
        images: The folder that its image names are relative to.
        split: The name of the split; ignored, because the file holds one split.
        skeleton: A skeleton of MPII's joints, for sigmas different from those of `jaxpose.skeleton.MPII16`.
        category: The only category, "person" with the id 1; None is the same.
        on_bad: "error", or "skip" to leave a bad image (with its persons) or a bad person out, counted and logged.
        reading: Choices in reading the files; by default pictures are not turned, because MPII's sizes are not annotated.

    Raises:
        FileNotFoundError: The JSON, the folder or an image does not exist.
        ValueError: The file is not an MPII file (names its format if it is known); the skeleton has different joints; an
            entry has not 16 joints; a centre, scale or labelled joint is not finite; a ``joints_vis`` is not 0 or 1; a
            name leads out of the folder; an image cannot be read; a box has no pixel in the image.

    >>> read("annot/valid.json", "no_such_folder")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the images of annot/valid.json
    """
    if on_bad not in ("error", "skip"):
        raise ValueError(f"on_bad must be 'error' or 'skip', got {on_bad!r}")
    if category not in (None, CATEGORY["id"], CATEGORY["name"]):
        raise ValueError(f"category {category!r}: MPII has persons only, leave the category out")
    annotations, folder = Path(annotations), Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: name the folder that holds the images of {annotations}")
    if skeleton is not None:
        coco.check_joints(CATEGORY, skeleton, annotations)
    entries = _load(annotations)
    problems = Problems(annotations, on_bad)
    source = coco.assemble(
        _to_coco(entries, folder, problems, reading),
        folder,
        skeleton=reading.applied_to(skeleton or MPII16),
        category=CATEGORY,
        problems=problems,
        clip_boxes=False,
        reading=dataclasses.replace(reading, exif="ignore" if reading.exif == "auto" else reading.exif),
    )
    if not len(source):
        logger.warning(
            "%s: none of its %d entries has joints (as in MPII's test set): there is nobody to train or evaluate on; "
            "--eval-only predicts the persons of their boxes",
            annotations,
            len(entries),
        )
    return source


# --------------------------------------------------------------------------------------------------- finding the files


def _annotation_file(folder: Path, split: str) -> Path:
    names = ALIASES.get(split, (split,))
    candidates = [folder / "annot" / f"{name}.json" for name in names]
    candidates += [folder / "annotations" / f"mpii_{name}.json" for name in names]
    candidates += [
        folder / pattern.format(name) for name in names for pattern in ("{}.json", "mpii_{}.json", "{}_mpii.json")
    ]
    return layout.only_one(
        [path for path in candidates if path.is_file()],
        split=split,
        place=folder,
        looked_for=[str(path.relative_to(folder)) for path in candidates],
        listed=[folder / "annot", folder / "annotations", folder],
        kind="MPII annotations",
    )


# ---------------------------------------------------------------------------------------------------- reading the JSON


def _load(path: Path) -> list[Any]:
    data = read_json(path, "annotation JSON")
    expected = f"that is {CONTENT}"
    if isinstance(data, dict) and "annotations" in data:
        raise ValueError(
            f"{path} is not an MPII annotation file ({expected}): it is an object with {sorted(data)}, which is COCO's format; "
            "read it with jaxpose.data.formats.coco, or jaxpose prepare without --format mpii"
        )
    if not isinstance(data, list) or not data:
        what = f"an object with the keys {sorted(data)}" if isinstance(data, dict) else f"{data!r:.100}"
        raise ValueError(f"{path} is not an MPII annotation file ({expected}): it holds {what}")
    if not any(isinstance(entry, dict) and set(PERSON_KEYS) <= set(entry) for entry in data):
        what = f"the keys {sorted(data[0])}" if isinstance(data[0], dict) else f"{data[0]!r:.100}"
        raise ValueError(f"{path} is not an MPII annotation file ({expected}): its first entry has {what}")
    return data


def _to_coco(entries: list[Any], folder: Path, problems: Problems, reading: Reading) -> dict[str, Any]:
    """Returns the list as the contents of a COCO file, without bad entries."""
    names = ImageFiles(folder, follow_links=reading.follow_links)
    images: dict[str, dict[str, Any] | None] = {}  # by name; None for a bad one, which is a problem
    people = []
    for row, entry in enumerate(entries):
        label = f"entry {row} of the list"
        missing = [key for key in PERSON_KEYS if not isinstance(entry, dict) or key not in entry]
        if missing:
            problems.add("entry incomplete", f"{label} has no {missing[0]!r}: {entry!r:.200}")
            continue
        name = entry["image"]
        if not isinstance(name, str):
            problems.add("file name unusable", f"{label} has the image {name!r:.100}, which is not the name of a file")
            continue
        if name not in images:
            size = _image_size(names, name, label, problems, reading)
            images[name] = size and {"id": len(images) + 1, "file_name": name, "width": size[0], "height": size[1]}
        image = images[name]
        person = image and _person(entry, f"{label} (image {name!r})", problems)
        if person:
            people.append(person | {"id": row + 1, "image_id": image["id"]})
    return {"images": [image for image in images.values() if image], "annotations": people, "categories": [CATEGORY]}


def _image_size(
    names: ImageFiles, name: str, label: str, problems: Problems, reading: Reading
) -> tuple[int, int] | None:
    """Returns the width and height from the header of the file, or None if it is bad."""
    try:
        path = os.path.join(names.folder, names.find(name)[0])
    except FileNotFoundError as error:
        message = f"{label} names the image {name!r}, {error.args[1]}"
        problems.add(error.args[0], message, error=FileNotFoundError)
        return None
    except ValueError as error:
        problems.add(error.args[0], f"{label} has the image {name!r}, {error.args[1]}")
        return None
    try:
        with Image.open(path) as picture:
            sideways = reading.exif == "apply" and orientation(picture) in SIDEWAYS
            return picture.size[::-1] if sideways else picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image that Pillow can read" if isinstance(error, UnidentifiedImageError) else error
        problems.add("image not readable", f"image {path} cannot be read ({reason}): replace it")
        return None


def _person(entry: dict[str, Any], label: str, problems: Problems) -> dict[str, Any] | None:
    """Returns the entry as a COCO annotation without ids, or None if it is bad."""
    center, scale = entry["center"], entry["scale"]
    if not _are_points([center]) or not is_number(scale) or not scale > 0 or center[0] == -1:
        problems.add(
            "centre or scale unusable",
            f"{label}: 'center' must be two finite numbers (-1 stands for none) and 'scale' a positive one, got "
            f"{center!r:.100} and {scale!r:.100}",
        )
        return None
    bad = _bad_joints(entry)
    if bad:
        problems.add(bad[0], f"{label}: {bad[1]}")
        return None
    side = PERSON_HEIGHT * scale
    x, y = center[0] - 1, center[1] + CENTER_DOWN * scale - 1
    keypoints: list[float] = []
    for joint, visible in zip(entry.get("joints", ()), entry.get("joints_vis", ()), strict=True):
        keypoints += [joint[0] - 1, joint[1] - 1, 2] if visible else [0, 0, 0]
    return {
        "category_id": CATEGORY["id"],
        "bbox": [x - side / 2, y - side / 2, side, side],
        "keypoints": keypoints or [0] * (3 * MPII16.num_joints),
        "iscrowd": 0,
    }


def _bad_joints(entry: dict[str, Any]) -> tuple[str, str] | None:
    if "joints" not in entry and "joints_vis" not in entry:
        return None
    joints, visible = entry.get("joints"), entry.get("joints_vis")
    for key, values in (("joints", joints), ("joints_vis", visible)):
        if not isinstance(values, list) or len(values) != MPII16.num_joints:
            got = f"{len(values)}" if isinstance(values, list) else f"{values!r:.50}"
            return "wrong number of joints", f"{key!r} must hold MPII's {MPII16.num_joints} joints, got {got}"
    if not all(v in (0, 1) for v in visible):
        return "joints_vis not 0 or 1", f"'joints_vis' must hold 0 and 1, got {visible!r:.200}"
    labelled = [joint for joint, v in zip(joints, visible, strict=True) if v]
    if not _are_points(labelled):
        return "coordinate not finite", f"a labelled joint is not two finite numbers x, y: {labelled!r:.500}"
    return None


def _are_points(points: list[Any]) -> bool:
    return all(isinstance(p, list) and len(p) == 2 and is_number(p[0]) and is_number(p[1]) for p in points)
