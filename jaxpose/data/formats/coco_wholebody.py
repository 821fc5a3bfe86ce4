"""COCO-WholeBody: reads and checks COCO's files with the joints of feet, face and hands in separate fields.

    source = coco_wholebody.read(*coco_wholebody.find("path/to/coco", "train"))

Reading is `jaxpose.data.formats.coco.read`, with these differences:

joints
    The 133 of `jaxpose.skeleton.COCO_WHOLEBODY133`: ``keypoints`` (17), ``foot_kpts`` (6), ``face_kpts`` (68),
    ``lefthand_kpts`` and ``righthand_kpts`` (21 each), joined in this order. A field that is missing is unlabelled.
visibility
    For face and hands a confidence between 0 and 1; a joint is labelled above 0, which is the authors' rule.

A file whose ``keypoints`` already hold all 133, as some tools write it, has COCO's format and is read by `coco`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jaxpose.data.formats import coco, layout
from jaxpose.data.reading import AS_IT_FITS, Reading
from jaxpose.skeleton import COCO_WHOLEBODY133, Skeleton

__all__ = ["CONTENT", "find", "ground_truth", "own_skeleton", "read", "recognises"]

CONTENT = "as COCO's, with 'foot_kpts', 'face_kpts', 'lefthand_kpts' and 'righthand_kpts' in the annotations"

PARTS = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
"""The fields of an annotation, in the order of the joints, and the number of joints in each."""


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Locates the annotation JSON and the image folder of a split.

    Layouts, with S the split: ``annotations/coco_wholebody_S_v1.0.json`` (any version) with COCO's ``S2017/`` or
    ``images/S2017/``; and those of `jaxpose.data.formats.coco.find`.

    Args:
        folder: The folder that holds ``annotations/``.
        split: "train" or "val".
        annotations, images: The JSON or the image folder; None looks for it.

    Returns:
        (path of the JSON, path of the image folder).

    Raises:
        FileNotFoundError: One of the two is missing; the message says which, what was looked for and what is there.

    >>> find("no_such_folder", "train")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds annotations/ and the images
    """
    place = layout.folder_of(folder, holds="that holds annotations/ and the images")
    published = sorted((place / "annotations").glob(f"coco_wholebody_{split}_v*.json"))
    if annotations is None and published:
        annotations = published[-1]
    if images is None and published:
        names = (f"{split}2017", split, f"images/{split}2017", f"images/{split}")
        images = next((place / name for name in names if (place / name).is_dir()), None)
    return coco.find(folder, split, annotations=annotations, images=images)


def recognises(annotations: str | Path) -> bool:
    """Tells whether a file is a JSON object with joints of the face or of a hand in a separate field.

    Args:
        annotations: The JSON, which exists.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "train.json"
    >>> _ = path.write_text('{"images": [], "annotations": [{"face_kpts": []}], "categories": []}')
    >>> recognises(path), coco.recognises(path)
    (True, False)
    """
    text = layout.edges(annotations)
    return text.startswith("{") and any(f'"{key}"' in text for key in coco.WHOLE_BODY)


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton:
    """Returns the skeleton that `read` takes by default: `jaxpose.skeleton.COCO_WHOLEBODY133`, whatever the file.

    >>> own_skeleton("coco_wholebody_train_v1.0.json").num_joints
    133
    """
    return COCO_WHOLEBODY133


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
    """Reads and checks a COCO-WholeBody file: as `jaxpose.data.formats.coco.read`, with the differences listed above.

    Args:
        annotations: The JSON.
        images: The folder that its file names are relative to.
        split: The name of the split; ignored, because the file holds one split.
        skeleton: A skeleton of the 133 joints, for sigmas different from those of `jaxpose.skeleton.COCO_WHOLEBODY133`.
        category: The name or id of the category, if the file has several.
        on_bad: "error", or "skip" to leave a bad image or person out, counted and logged.
        reading: Choices in reading the files.

    Raises:
        FileNotFoundError, ValueError: The same as for `jaxpose.data.formats.coco.read`, or no annotation has one of the
            four fields.

    >>> read("coco_wholebody_train_v1.0.json", "no_such_folder")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the images of
        coco_wholebody_train_v1.0.json
    """
    path = Path(annotations)
    coco.check_call(path, images, on_bad)
    return coco.from_contents(
        contents(coco.load(path), path),
        path,
        images,
        skeleton=skeleton or COCO_WHOLEBODY133,
        category=category,
        on_bad=on_bad,
        reading=reading,
    )


def ground_truth(annotations: str | Path, images: str | Path, *, split: str | None = None) -> dict[str, Any]:
    """Returns the file as the evaluation reads it, a COCO file of 133 joints; no image has to exist.

    Args:
        annotations: The JSON.
        images: Ignored.
        split: Ignored.
    """
    path = Path(annotations)
    return contents(coco.load(path), path)


def contents(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the contents of a file with the 133 joints in ``keypoints``.

    Args:
        data: The contents of the file.
        path: The path of the file, for the message.

    Raises:
        ValueError: No annotation has one of the four fields.
    """
    people = data.get("annotations", [])
    if people and not any(isinstance(person, dict) and key in person for person in people for key in coco.WHOLE_BODY):
        raise ValueError(
            f"{path} is not a COCO-WholeBody file ({CONTENT}): no annotation has one of these; read it as COCO's (--format coco)"
        )
    categories = [
        {**c, "keypoints": list(COCO_WHOLEBODY133.joints), "skeleton": None} if c.get("keypoints") else c
        for c in data["categories"]
        if isinstance(c, dict)
    ]
    joined = [_joined(person) if isinstance(person, dict) else person for person in people]
    return {**data, "annotations": joined, "categories": categories}


def _joined(person: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an annotation with all joints in ``keypoints``; fields of other lengths are rejected later by their number."""
    keypoints: list[Any] = []
    for field, count in PARTS.items():
        values = person.get(field)
        keypoints += values if isinstance(values, list) and values else [0] * (3 * count)
    return {k: v for k, v in person.items() if k not in coco.WHOLE_BODY} | {"keypoints": keypoints}
