"""COCO's format with joints in space: the format for people's own images with labels in three dimensions.

    source = coco_3d.read(*coco_3d.find("path/to/mine", "train"))

Reading is `jaxpose.data.formats.coco.read`, and each annotation may hold two more entries:

keypoints_3d
    3 K numbers, x, y, z of each joint in millimetres in the coordinates of the picture's camera: x to the right, y down, z
    away from the camera. ``null`` in place of a number: the joint is unknown in space. An annotation without this entry is a
    person whose depth is withheld: it trains image coordinates only.
camera
    ``[f, cx, cy]`` or ``[fx, fy, cx, cy]`` in pixels of the picture; it may stand at the image's entry instead. The camera has no
    distortion: undistort pictures and keypoints first.

An ``action`` (any name) groups the evaluation. The entry ``"keypoints_3d_unit": "mm"`` beside "images" says that the file has this
format; without it the format is chosen by its name, or by a page in space, because COCO's reader takes such a file too. A file
without any ``keypoints_3d`` is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jaxpose.data import space
from jaxpose.data.checks import is_number
from jaxpose.data.formats import coco, layout
from jaxpose.data.reading import AS_IT_FITS, Reading
from jaxpose.data.source import Source
from jaxpose.skeleton import Skeleton

__all__ = ["CONTENT", "find", "ground_truth", "own_skeleton", "read", "recognises"]

CONTENT = "as COCO's, with 'keypoints_3d' and 'camera' in the annotations"

UNIT = "keypoints_3d_unit"

logger = logging.getLogger(__name__)


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Locates the annotation JSON and the image folder of a split, as `jaxpose.data.formats.coco.find` does.

    >>> find("no_such_folder", "train")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds annotations/ and the images
    """
    return coco.find(folder, split, annotations=annotations, images=images)


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton | None:
    """Returns the skeleton of the file, as `jaxpose.data.formats.coco.own_skeleton` does.

    >>> own_skeleton("no_such_file.json")
    Traceback (most recent call last):
    FileNotFoundError: no annotation JSON found: no_such_file.json does not exist; check the path
    """
    return coco.own_skeleton(annotations, category=category)


def recognises(annotations: str | Path) -> bool:
    """Tells whether a file states a unit of its joints in space.

    Args:
        annotations: The JSON, which exists.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "train.json"
    >>> _ = path.write_text('{"images": [], "annotations": [], "categories": [], "keypoints_3d_unit": "mm"}')
    >>> recognises(path), coco.recognises(path)
    (True, False)
    """
    text = layout.edges(annotations)
    return text.startswith("{") and f'"{UNIT}"' in text


def read(
    annotations: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    skeleton: Skeleton | None = None,
    category: str | int | None = None,
    on_bad: Literal["error", "skip"] = "error",
    reading: Reading = AS_IT_FITS,
) -> Source:
    """Reads and checks a COCO file with joints in space.

    Args:
        annotations: The JSON.
        images: The folder that its file names are relative to.
        split, skeleton, category, on_bad, reading: The same as in `jaxpose.data.formats.coco.read`.

    Returns:
        A source with the columns of `jaxpose.data.space.space_dtype`.

    Raises:
        FileNotFoundError, ValueError: The same as for `jaxpose.data.formats.coco.read` and `jaxpose.data.space.check`; no
            annotation has ``keypoints_3d``; its numbers do not fit the skeleton; a camera is not three or four numbers.

    >>> read("train.json", "no_such_folder")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the images of train.json
    """
    path = Path(annotations)
    if reading.reorder_joints:
        raise ValueError(
            f"{path}: 'keypoints_3d' cannot be reordered by name: leave out --reorder-joints, or reorder the file"
        )
    coco.check_call(path, images, on_bad)
    data = coco.load(path)
    if (unit := data.get(UNIT, "mm")) != "mm":
        raise ValueError(f"{path}: {UNIT!r} is {unit!r:.50}, expected 'mm': convert 'keypoints_3d' to millimetres")
    source = coco.from_contents(
        data, path, images, skeleton=skeleton, category=category, on_bad=on_bad, reading=reading
    )  # fmt: skip
    flat = [p["id"] for p in data["annotations"] if p.get("keypoints_3d") is not None and not p.get("keypoints")]
    if flat:
        logger.warning(
            "%s: %d annotations, such as %s, have 'keypoints_3d' and no 'keypoints': left out, because a person needs the pixels too",
            path, len(flat), flat[0],
        )  # fmt: skip
    cameras = {entry["id"]: entry.get("camera") for entry in source.entries}
    people = {
        person["id"]: _labels(person, cameras[person["image_id"]], source.skeleton.num_joints, path)
        for group in source.people
        for person in group
    }
    if people and not any(person["keypoints_3d"] is not None for person in people.values()):
        raise ValueError(
            f"{path} has no joints in space: expected 'keypoints_3d', 3 K numbers in mm, in its annotations"
        )
    return space.with_space(source, people)


def ground_truth(annotations: str | Path, images: str | Path, *, split: str | None = None) -> Path:
    """Returns the annotation JSON, which the evaluation reads; no image has to exist.

    >>> str(ground_truth("train.json", "images"))
    'train.json'
    """
    return Path(annotations)


def _labels(person: Mapping[str, Any], camera: Any, num_joints: int, path: Path) -> dict[str, Any]:
    """Returns the joints and the camera of an annotation, checked; the camera as fx, fy, cx, cy."""
    where = f"{path}: annotation {person['id']}"
    points, camera = person.get("keypoints_3d"), person.get("camera", camera)
    if points is not None:
        fits = isinstance(points, list) and len(points) == 3 * num_joints
        if not fits or not all(value is None or is_number(value) for value in points):
            got = f"{len(points)} entries" if isinstance(points, list) else f"{points!r:.50}"
            if fits:
                place, value = next((i, v) for i, v in enumerate(points) if v is not None and not is_number(v))
                got = f"{value!r:.50} for {'xyz'[place % 3]} of joint {place // 3}"
            raise ValueError(
                f"{where}: 'keypoints_3d' has {got}, expected {3 * num_joints} finite numbers (mm) or null"
            )
    if camera is not None:
        numbers = isinstance(camera, list) and len(camera) in (3, 4) and all(is_number(value) for value in camera)
        if not numbers or not min(camera[: len(camera) - 2]) > 0:
            raise ValueError(
                f"{where}: 'camera' is {camera!r:.100}, expected [f, cx, cy] or [fx, fy, cx, cy] in pixels"
            )
        camera = camera if len(camera) == 4 else [camera[0], *camera]
    return {"keypoints_3d": points, "camera": camera}
