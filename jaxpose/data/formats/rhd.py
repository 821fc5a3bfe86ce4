"""RHD, Rendered Hand Pose (Zimmermann 2017), as it is distributed: pictures, masks and a pickle of annotations for a split.

    source = rhd.read(*rhd.find("path/to/RHD_published_v2", "train"))

The folder holds ``{training,evaluation}/{color,mask}/%05d.png`` and ``anno_{training,evaluation}.pickle``, a dictionary
from the number of a picture to ``xyz`` (42, 3) metres in the camera's frame, ``uv_vis`` (42, 3) pixels and a flag, and
``K`` (3, 3). The pickle is read by `jaxpose.pickles`: nothing in it is run.

hands
    Joints 0 to 20 are those of the left hand, 21 to 41 those of the right; each hand becomes a person with the joints of
    `jaxpose.skeleton.RHD21`, in RHD's order. The argument ``category`` says which hands of a picture: "dominant", the
    default, is the one with more pixels in the mask (the right one if both have the same number), as in the published
    evaluation; "both" is every hand with a visible joint; "left" and "right" are those of them on one side.
visibility
    2 for a joint with the flag, 1 for one without it inside the picture (hidden), 0 outside. The joints in space are known
    for all.
boxes
    The extent of all 21 joints times 1.2, as in mmpose's file of the same data. With the usual padding of 1.25 the crop is
    1.5 times the extent. It is not cut at the border of the picture (``Source.clip_boxes`` is False).
space
    An annotation also has ``keypoints_3d``, 63 numbers in millimetres in the camera's frame; ``camera``, its focal lengths
    and principal point [fx, fy, cx, cy] in pixels; and ``hand``, "left" or "right".

A picture whose dominant hand has no visible joint, or a hand whose key bone has no length, is bad: the first raises an
error, or all are left out (``on_bad="skip"``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxpose import hands, pickles
from jaxpose.data.checks import Problems
from jaxpose.data.formats import coco, layout
from jaxpose.data.reading import AS_IT_FITS, Reading
from jaxpose.skeleton import RHD21, Skeleton

__all__ = ["CONTENT", "category", "find", "ground_truth", "own_skeleton", "read", "recognises"]

CONTENT = "a pickle anno_*.pickle of RHD, with 'xyz', 'uv_vis' and 'K' for each picture"
FOLDERS = {"train": "training", "val": "evaluation", "test": "evaluation"}
HANDS = ("dominant", "both", "left", "right")
JOINTS = {"left": slice(0, 21), "right": slice(21, 42)}
BOX_FACTOR = 1.2  # mmpose's boxes
SHAPES = {"xyz": (42, 3), "uv_vis": (42, 3), "K": (3, 3)}


def category() -> dict[str, Any]:
    """Returns the only category, "hand", with the joints of `RHD21`.

    >>> category()["name"], len(category()["keypoints"])
    ('hand', 21)
    """
    return RHD21.to_coco_category(name="hand")


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Locates the pickle and the folder of pictures of a split.

    Args:
        folder: RHD_published_v2, or the folder that holds it.
        split: "training" (or "train"), "evaluation" (or "val", "test").
        annotations: The pickle; None looks for it.
        images: The folder of pictures; None takes ``color/`` beside the pickle.

    Returns:
        (path of the pickle, path of the pictures).

    Raises:
        FileNotFoundError: One of the two is missing; the message names what was looked for.

    >>> find("no_such_folder", "train")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder RHD_published_v2, that holds training/ and evaluation/
    """
    return layout.locate(
        folder, split, annotations=annotations, images=images, annotation_file=_annotation_file,
        image_folder=_image_folder, holds="RHD_published_v2, that holds training/ and evaluation/",
    )  # fmt: skip


def _annotation_file(folder: Path, split: str) -> Path:
    name = FOLDERS.get(split, split)
    names = [f"{root}{name}/anno_{name}.pickle" for root in ("", "RHD_published_v2/")]
    return layout.only_one(
        [folder / n for n in names if (folder / n).is_file()], split=split, place=folder, looked_for=names, listed=[folder],
        kind="annotations of RHD",
    )  # fmt: skip


def _image_folder(folder: Path, split: str, annotations: Path) -> Path:
    place = annotations.parent / "color"
    if not place.is_dir():
        raise FileNotFoundError(
            f"{annotations} has no folder color/ beside it: RHD keeps its pictures there; give the folder (images=..., or jaxpose "
            "prepare --images)"
        )
    return place


def recognises(annotations: str | Path) -> bool:
    """Tells whether a file is a pickle, from its name and its first byte.

    Args:
        annotations: The file, which exists.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "anno_training.pickle"
    >>> _ = path.write_bytes(b"\\x80\\x02}.")
    >>> recognises(path)
    True
    """
    path = Path(annotations)
    if path.suffix not in (".pickle", ".pkl") or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1) in (b"\x80", b"(", b"}")  # protocol 2 and later, or an older dictionary


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton:
    """Returns the skeleton that `read` takes by default: `jaxpose.skeleton.RHD21`, whatever the file.

    >>> own_skeleton("anno_training.pickle").num_joints
    21
    """
    return RHD21


def ground_truth(annotations: str | Path, images: str | Path, *, split: str | None = None) -> dict[str, Any]:
    """Returns the annotations of the dominant hands in COCO's format, as the evaluation reads them.

    Args:
        annotations: The pickle.
        images: The folder of its pictures.
        split: The name of the split; ignored, because the file holds one split.
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
    """Reads and checks a split of RHD; the module's docstring says how entries are converted.

    Args:
        annotations: The pickle.
        images: The folder of its pictures; the masks are in ``mask/`` beside it.
        split: The name of the split; ignored, because the file holds one split.
        skeleton: A skeleton of RHD's joints, for sigmas different from those of `jaxpose.skeleton.RHD21`.
        category: The hands of a picture: "dominant" (the default), "both", "left" or "right".
        on_bad: "error", or "skip" to leave a bad picture or hand out, counted and logged.
        reading: Choices in reading the files.

    Raises:
        FileNotFoundError: The pickle, the folder, a picture or a mask does not exist.
        ValueError: The file is not a pickle of RHD, or holds objects other than plain containers and arrays, which are never
            run; an entry lacks an array or has one of another shape; a number is not finite; a hand has no visible joint, or
            a key bone of length zero.

    >>> read("anno_training.pickle", "no_such_folder")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the images of anno_training.pickle
    """
    path, folder = Path(annotations), Path(images)
    coco.check_call(path, folder, on_bad)
    which = "dominant" if category in (None, "hand", 1) else category
    if which not in HANDS:
        raise ValueError(f"category {category!r}: RHD has hands only; expected one of {', '.join(HANDS)} (--category)")
    if skeleton is not None:
        coco.check_joints(_CATEGORY, skeleton, path)
    problems = Problems(path, on_bad)
    content = _load(path)
    entries, people = [], []
    for number, entry in sorted(content.items()):
        bad = _fault(entry)
        if bad:
            problems.add("entry wrong", f"picture {number}: {bad}")
            continue
        picture = folder / f"{number:05d}.png"
        size = _size(picture, problems)
        if size is None:
            continue
        entries.append({"id": number, "file_name": picture.name, "width": size[0], "height": size[1]})
        for side in _sides(which, entry, folder, number, size, problems):
            person = _hand(entry, side, size, f"picture {number}", problems)
            if person is not None:
                people.append(person | {"image_id": number, "id": 2 * number + (side == "right")})
    return coco.assemble(
        {"images": entries, "annotations": people}, folder, skeleton=reading.applied_to(skeleton or RHD21),
        category=_CATEGORY, problems=problems, clip_boxes=False, reading=dataclasses.replace(reading, exif="ignore"),
    )  # fmt: skip


_CATEGORY = category()


def _load(path: Path) -> dict[int, Any]:
    content = pickles.load(path)
    numbers = isinstance(content, dict) and content and all(isinstance(k, (int, np.integer)) for k in content)
    if not numbers or not all(isinstance(entry, dict) for entry in content.values()):
        raise ValueError(f"{path} is not RHD's: expected {CONTENT}, by the number of the picture")
    return {int(number): entry for number, entry in content.items()}


def _fault(entry: Mapping[str, Any]) -> str:
    """Returns what is wrong with the arrays of an entry, or an empty string."""
    for name, shape in SHAPES.items():
        value = entry.get(name)
        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind not in "fiu":
            got = value.shape if isinstance(value, np.ndarray) else type(value).__name__ if name in entry else "nothing"
            return f"{name!r} must be an array of numbers {shape}, got {got}"
        if not np.isfinite(value).all():
            row, column = np.argwhere(~np.isfinite(value))[0].tolist()
            return f"{name!r} holds a number that is not finite: {value[row, column]} in row {row}, column {column}"
    if not (entry["K"][0, 0] > 0 and entry["K"][1, 1] > 0):
        return f"the focal lengths of 'K' must be positive, got {entry['K'][0, 0]} and {entry['K'][1, 1]}"
    return ""


def _size(picture: Path, problems: Problems) -> tuple[int, int] | None:
    """Returns the width and height of a picture, from its header."""
    try:
        with Image.open(picture) as image:
            return image.size
    except FileNotFoundError:
        problems.add("image missing", f"{picture} does not exist", error=FileNotFoundError)
    except (UnidentifiedImageError, OSError) as error:
        problems.add("image unreadable", f"{picture} is no picture ({str(error):.100})")
    return None


def _sides(
    which: str, entry: Mapping[str, Any], folder: Path, number: int, size: tuple[int, int], problems: Problems
) -> Iterator[hands.Side]:
    """Yields the sides of the hands of a picture that are wanted."""
    if which == "dominant":
        mask = folder.parent / "mask" / f"{number:05d}.png"
        try:
            with Image.open(mask) as image:
                values = np.asarray(image)
            if values.shape == size[::-1]:
                yield hands.dominant_side(values)
            else:
                problems.add(
                    "mask of another size",
                    f"{mask} has the shape {values.shape}: expected {size[::-1]}, one number for each pixel of the picture",
                )
        except FileNotFoundError:
            message = (
                f"{mask} does not exist: the dominant hand is the larger one in it; category 'both' needs no masks"
            )
            problems.add("mask missing", message, error=FileNotFoundError)
        except (UnidentifiedImageError, OSError) as error:
            problems.add("mask unreadable", f"{mask} is no picture ({str(error):.100})")
    else:
        yield from (s for s in JOINTS if which in ("both", s) and (entry["uv_vis"][JOINTS[s], 2] > 0).any())


def _hand(
    entry: Mapping[str, Any], side: hands.Side, size: tuple[int, int], where: str, problems: Problems
) -> dict[str, Any] | None:
    """Returns the annotation of one hand, or None if it is bad."""
    xyz, uv = entry["xyz"][JOINTS[side]].astype(np.float64), entry["uv_vis"][JOINTS[side]].astype(np.float64)
    if not (uv[:, 2] > 0).any():
        problems.add("hand without a visible joint", f"{where}: its {side} hand has no visible joint")
        return None
    return annotation(
        uv[:, :2], uv[:, 2] > 0, 1000 * xyz, camera=entry["K"][[0, 1, 0, 1], [0, 1, 2, 2]], side=side, size=size,
        where=f"{where}, {side} hand", problems=problems,
    )  # fmt: skip


def annotation(
    xy: np.ndarray,
    visible: np.ndarray,
    xyz: np.ndarray,
    *,
    camera: np.ndarray,
    side: str,
    size: tuple[int, int],
    where: str,
    problems: Problems,
) -> dict[str, Any] | None:
    """Returns a hand as an annotation without ids, in the layout that the module's docstring describes.

    Args:
        xy: (21, 2) pixels.
        visible: (21,) True for joints that are seen.
        xyz: (21, 3) millimetres in the camera's frame.
        camera: (4,) focal lengths and principal point, pixels.
        side: "left" or "right".
        size: Width and height of the picture.
        where: The name of the hand in messages.
        problems: The collector of bad hands.

    Returns:
        The annotation, or None if the key bone has no length.
    """
    try:
        hands.bone_length(xyz)
    except ValueError as error:
        problems.add("key bone without length", f"{where}: {str(error).partition(': ')[2]}")
        return None
    inside = (xy >= 0).all(-1) & (xy <= np.asarray(size) - 1).all(-1)
    low, high = xy.min(0), xy.max(0)
    extent = np.maximum(BOX_FACTOR * (high - low), 1.0)
    corner = (low + high) / 2 - extent / 2
    seen = np.where(inside, np.where(visible, 2, 1), 0)
    return {
        "category_id": _CATEGORY["id"],
        "bbox": [*corner.tolist(), *extent.tolist()],
        "area": float(extent.prod()),
        "iscrowd": 0,
        "keypoints": np.concatenate([xy, seen[:, None]], axis=1).ravel().tolist(),
        "keypoints_3d": np.round(xyz, 4).ravel().tolist(),
        "camera": np.asarray(camera, np.float64).tolist(),
        "hand": side,
    }
