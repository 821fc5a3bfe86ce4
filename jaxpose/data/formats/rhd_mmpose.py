"""RHD as mmpose distributes it: ``rhd_train.json`` and ``rhd_test.json``, in COCO's layout with a few peculiarities.

    source = rhd_mmpose.read(*rhd_mmpose.find("path/to/rhd", "train"))

An image has ``cam_param`` {focal, princpt}; an annotation has ``keypoints``, nested lists; ``joint_cam``, 21 joints in
millimetres in the camera's frame; and ``hand_type``. Two peculiarities (QUIRK M1): the keypoints are nested instead of flat,
and the category names them thumb1 ... thumb4 from the base to the tip, while the numbers are RHD's, **from the tip to the
base**. So the names of the file are ignored, and the joints are those of `jaxpose.skeleton.RHD21`.

A joint is labelled (visibility 2) or not: the file does not say which are hidden. Boxes are the extent of the joints times
1.2. The annotations get the fields of `jaxpose.data.formats.rhd`: ``keypoints_3d``, ``camera``, ``hand``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose import hands, labels
from jaxpose.data.checks import Problems, is_number
from jaxpose.data.formats import coco, layout, rhd
from jaxpose.data.reading import AS_IT_FITS, Reading
from jaxpose.skeleton import RHD21, Skeleton

__all__ = ["CONTENT", "find", "ground_truth", "own_skeleton", "read", "recognises"]

CONTENT = "as COCO's, with 'joint_cam' and 'hand_type' in the annotations (mmpose's file of RHD)"
KEYS = ("joint_cam", "hand_type", "cam_param")
NAMES = {
    "train": ("train",),
    "val": ("test", "val"),
    "test": ("test",),
    "training": ("train",),
    "evaluation": ("test",),
}


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Locates the JSON and the folder that its file names are relative to.

    Layouts, with S the split ("val" is mmpose's "test"): ``annotations/rhd_S.json``, or ``rhd_S.json`` or ``S_rhd.json`` in
    the folder itself; the pictures in the folder, in ``RHD_published_v2/``, ``images/``, or in a ``color/`` of RHD.

    Args:
        folder: The data set's folder.
        split: "train", "val" or "test".
        annotations: The JSON; None looks for it.
        images: The folder of pictures; None looks for it.

    Raises:
        FileNotFoundError: One of the two is missing; the message names what was looked for.

    >>> find("no_such_folder", "train")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds annotations/rhd_train.json and the pictures
    """
    return layout.locate(
        folder, split, annotations=annotations, images=images, annotation_file=_annotation_file,
        image_folder=_image_folder, holds="that holds annotations/rhd_train.json and the pictures",
    )  # fmt: skip


def _annotation_file(folder: Path, split: str) -> Path:
    names = [
        pattern.format(name)
        for name in NAMES.get(split, (split,))
        for pattern in ("annotations/rhd_{}.json", "rhd_{}.json", "{}_rhd.json")
    ]
    present = [folder / name for name in names if (folder / name).is_file()]
    return layout.only_one(
        present[:1], split=split, place=folder, looked_for=names, listed=[folder, folder / "annotations"],
        kind="annotations of mmpose's RHD",
    )  # fmt: skip


def _image_folder(folder: Path, split: str, annotations: Path) -> Path:
    part = "training" if "train" in annotations.stem else "evaluation"
    roots = [
        folder / name
        for name in ("", "RHD_published_v2", "images", f"RHD_published_v2/{part}/color", f"{part}/color", f"{part}")
    ]
    first = re.findall(r'"file_name"\s*:\s*"([^"]+)"', layout.edges(annotations))[:1]
    for root in roots:
        if first and (root / first[0]).is_file():
            return root
    if not first:
        raise ValueError(f"{annotations} names no picture: expected 'images', a list of objects with a 'file_name'")
    raise FileNotFoundError(
        f"{annotations} names {first[0]}, which is in none of "
        f"{', '.join(str(root) for root in roots)}: give the folder (images=..., or jaxpose prepare --images)"
    )


def recognises(annotations: str | Path) -> bool:
    """Tells whether a file is a JSON object whose annotations have mmpose's fields for hands in space.

    Args:
        annotations: The JSON, which exists.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "rhd_train.json"
    >>> _ = path.write_text('{"images": [{"cam_param": 0}], "annotations": [{"joint_cam": 0, "hand_type": 0}], "categories": []}')
    >>> recognises(path), coco.recognises(path)
    (True, False)
    """
    text = layout.edges(annotations)
    return text.startswith("{") and all(f'"{key}"' in text for key in KEYS[:2])


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton:
    """Returns the skeleton that `read` takes by default: `jaxpose.skeleton.RHD21`, whatever the file names its joints.

    >>> own_skeleton("rhd_train.json").joints[1]
    'thumb4'
    """
    return RHD21


def ground_truth(annotations: str | Path, images: str | Path, *, split: str | None = None) -> dict[str, Any]:
    """Returns the contents as the evaluation reads them, with RHD's names of the joints; no picture has to exist.

    Args:
        annotations: The JSON.
        images: Ignored.
        split: Ignored.
    """
    path = Path(annotations)
    return _contents(coco.load(path), Problems(path, "error"))


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
    """Reads and checks mmpose's JSON of RHD: as `jaxpose.data.formats.coco.read`, with the differences listed above.

    Args:
        annotations: The JSON.
        images: The folder that its file names are relative to.
        split: The name of the split; ignored, because the file holds one split.
        skeleton: A skeleton of RHD's joints, for sigmas different from those of `jaxpose.skeleton.RHD21`.
        category: The only category, "hand" with the id 1; None is the same.
        on_bad: "error", or "skip" to leave a bad picture or hand out, counted and logged.
        reading: Choices in reading the files.

    Raises:
        FileNotFoundError, ValueError: The same as for `jaxpose.data.formats.coco.read`; a hand lacks its joints in space, its
            camera or its side, or has a key bone of length zero.

    >>> read("rhd_train.json", "no_such_folder")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the images of rhd_train.json
    """
    path = Path(annotations)
    coco.check_call(path, images, on_bad)
    problems = Problems(path, on_bad)
    data = _contents(coco.load(path), problems)
    problems.report()
    source = coco.from_contents(
        data, path, images, skeleton=skeleton or RHD21, category=category, on_bad=on_bad, reading=reading
    )
    source.clip_boxes = False
    return source


def _contents(data: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """Returns the contents of a file with RHD's names of the joints, flat keypoints and the fields of `rhd`."""
    cameras = {
        entry["id"]: entry.get("cam_param") for entry in data["images"] if isinstance(entry, dict) and "id" in entry
    }
    people = [_person(person, cameras, problems) for person in data.get("annotations", [])]
    return {**data, "annotations": [p for p in people if p is not None], "categories": [rhd.category()]}


def _person(person: Any, cameras: Mapping[Any, Any], problems: Problems) -> Any:
    """Returns an annotation with the fields of `rhd`, or None if it is bad; anything else is left to the reader of COCO."""
    if not isinstance(person, dict):
        return person
    where = f"annotation {person.get('id')}"
    joints = _numbers(person.get("joint_cam"), (21, 3))
    camera = cameras.get(person.get("image_id"))
    focal, center = ((camera or {}).get(k) for k in ("focal", "princpt")) if isinstance(camera, dict) else (None, None)
    focal, center = _numbers(focal, (2,)), _numbers(center, (2,))
    if joints is None:
        problems.add(
            "hand without joints in space",
            f"{where}: 'joint_cam' must hold 21 x 3 finite numbers, got {_described(person.get('joint_cam'))}",
        )
        return None
    if focal is None or center is None or not (focal > 0).all():
        problems.add(
            "hand without a camera",
            f"{where}: 'cam_param' of its image must hold 'focal', two numbers above 0, and 'princpt', two, got {camera!r:.100}",
        )
        return None
    if person.get("hand_type") not in ("left", "right"):
        problems.add(
            "hand without a side", f"{where}: 'hand_type' must be left or right, got {person.get('hand_type')!r}"
        )
        return None
    try:
        hands.bone_length(joints)
    except ValueError as error:
        problems.add("key bone without length", f"{where}: {str(error).partition(': ')[2]}")
        return None
    keypoints = person.get("keypoints")
    if not keypoints or not np.any(np.array(labels.flat(keypoints)[2::3], object)):
        problems.add("hand without a visible joint", f"{where}: no joint in its 'keypoints' is labelled")
        return None
    if isinstance(keypoints, list) and all(isinstance(point, list) and len(point) == 3 for point in keypoints):
        # Its 1 means labelled, of joints that are seen and of others; COCO's 1 would be hidden.
        keypoints = [
            value for x, y, is_labelled in keypoints for value in (x, y, 2 if is_labelled == 1 else is_labelled)
        ]
    others = {key: value for key, value in person.items() if key not in ("joint_cam", "hand_type")}
    return others | {
        "keypoints": keypoints,
        "keypoints_3d": joints.ravel().tolist(),
        "camera": [*focal.tolist(), *center.tolist()],
        "hand": person["hand_type"],
    }


def _described(value: Any) -> str:
    """Returns what stands in the place of joints, for messages."""
    if not isinstance(value, list):
        return "nothing" if value is None else f"{value!r:.50}"
    for joint, point in enumerate(value):
        if not isinstance(point, list) or len(point) != 3 or not all(map(is_number, point)):
            return f"{point!r:.100} for joint {joint}"
    return f"{len(value)} joints"


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns nested lists of finite numbers as an array of this shape, or None if they are not that."""
    rows = value if len(shape) > 1 else [value]
    if not isinstance(rows, list) or not all(isinstance(row, list) and all(map(is_number, row)) for row in rows):
        return None
    if len({len(row) for row in rows}) != 1:
        return None
    array = np.array(value, np.float64)
    return array if array.shape == shape else None
