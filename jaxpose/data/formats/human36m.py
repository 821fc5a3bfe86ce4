"""Human3.6M as the single-stage 3D codes keep it: JSON files of images, cameras and joints in world coordinates.

    source = human36m.read(*human36m.find("path/to/h36m", "train"))

Two layouts, told apart by their files:

one file per split (the authors of RLE)
    ``annotations/Sample_trainmin_train_Human36M_protocol_2.json`` and ``..._64_test_...``: "images" with "cam_param" (R, t, f, c) and
    "annotations" with "bbox" and "keypoints_world" (17 x 3, mm), paired by their positions. The three sequences of subject 9 whose
    labels have drifted are left out (`DRIFTED`).
three files per subject (3DMPPE PoseNet)
    ``annotations/Human36M_subjectS_{data,camera,joint_3d}.json``. Every fifth frame of subjects 1, 5, 6, 7, 8 is "train", every 64th
    of 9 and 11 is "val" or "test".

Images lie in ``images/``.

camera
    The translation of one layout is the camera's position, X_cam = R (X - t), that of the other an offset, X_cam = R X + t (QUIRK V1:
    the converter of PoseNet writes the one and its reader takes the other). Neither is believed: the form is the one that projects
    the joints in front of the camera and into the picture, and a file that fits neither is an error that says what it looks like.
projection
    Without the lens distortion, as both codes project their labels and invert them in the evaluation (QUIRK V2: the labels are up
    to some pixels beside the picture).
joints
    The 17 of the files and an 18th, the thorax: the mean of the shoulders (`jaxpose.skeleton.H36M18`).
box
    That of the annotation, cut off at the borders of the picture.
action
    From the name of the file ("act_02"), for the table of the evaluation.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose import cameras
from jaxpose.bodies import METRES
from jaxpose.data import space
from jaxpose.data.checks import Problems, bad_box
from jaxpose.data.formats import coco, layout
from jaxpose.data.human36m import ACTIONS, TEST, TRAIN
from jaxpose.data.reading import AS_IT_FITS, Reading
from jaxpose.data.source import Source
from jaxpose.files import read_json
from jaxpose.skeleton import H36M18, Skeleton

__all__ = ["ACTIONS", "CONTENT", "camera_form", "find", "ground_truth", "own_skeleton", "read", "recognises"]

CONTENT = "Human3.6M's images with 'cam_param' and annotations with 'keypoints_world', or a folder of Human36M_subjectS_data.json"
DRIFTED = ("s_09_act_05_subact_02_ca", "s_09_act_10_subact_02_ca", "s_09_act_13_subact_01_ca")
"""Sequences whose labels have drifted, which the code of RLE leaves out."""
MISSING = ("s_11_act_02_subact_02_ca_01",)
"""A sequence without images, which PoseNet's code leaves out."""
SUBJECTS = {"train": TRAIN, "val": TEST, "test": TEST}
STRIDES = {"train": 5, "val": 64, "test": 64}
SINGLE = {"train": "Sample_trainmin_train_Human36M_protocol_2.json", "test": "Sample_64_test_Human36M_protocol_2.json"}
SINGLE["val"] = SINGLE["test"]
Form = Literal["position", "offset"]
LEFT_SHOULDER, RIGHT_SHOULDER = 11, 14
INSIDE = 0.9
"""Share of the joints that a camera of the right form projects into the picture, at least."""
IN_BOX, MARGIN = 0.7, 0.1
"""Share of the joints that it projects into their person's box, enlarged by this part of it on each side, at least: 0.99 of drawn and
real people, and half of them where two axes of the world are exchanged."""
ORTHOGONAL = 0.01
"""Largest deviation of R R^T from the identity."""

logger = logging.getLogger(__name__)


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Locates the labels and the images of a split.

    Args:
        folder: The data set's folder, with ``annotations/`` and ``images/``.
        split: "train", "val" or "test" (the same as "val").
        annotations: The JSON of the split, or the folder of PoseNet's files; None looks for one of the two.
        images: The image folder; None looks for it.

    Returns:
        (path of the JSON or of the folder of PoseNet's files, path of the image folder).

    Raises:
        FileNotFoundError: One of the two is missing; the message names what was looked for.

    >>> find("no_such_folder", "train")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder of Human3.6M, that holds annotations/ and images/
    """
    return layout.locate(
        folder,
        split,
        annotations=annotations,
        images=images,
        annotation_file=_annotation_file,
        image_folder=lambda folder, split, labels: _images(folder),
        holds="of Human3.6M, that holds annotations/ and images/",
    )


def _annotation_file(folder: Path, split: str) -> Path:
    looked_for = []
    for place in (folder / "annotations", folder):
        name = SINGLE.get(split, f"{split}.json")
        looked_for += [place / name, place / "Human36M_subjectS_data.json"]
        if (place / name).is_file():
            return place / name
        if any(place.glob("Human36M_subject*_data.json")):
            return place
    raise layout.NoAnnotations(
        f"no annotations for split {split!r} in {folder}: looked for {', '.join(str(path) for path in looked_for)}",
        looked_for=looked_for,
    )


def _images(folder: Path) -> Path:
    if not (folder / "images").is_dir():
        raise FileNotFoundError(
            f"{folder / 'images'} is not a folder: expected the images there, or name it (images=, --images)"
        )
    return folder / "images"


def recognises(annotations: str | Path) -> bool:
    """Tells whether labels are Human3.6M's: a folder of PoseNet's files, or a JSON with cameras and joints in the world.

    Args:
        annotations: The JSON or the folder, which exists.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "train.json"
    >>> _ = path.write_text('{"images": [{"cam_param": {}}], "annotations": [{"keypoints_world": []}]}')
    >>> recognises(path), recognises(path.parent)
    (True, False)
    """
    path = Path(annotations)
    if path.is_dir():
        return any(path.glob("Human36M_subject*_data.json"))
    text = layout.edges(path)
    return text.startswith("{") and '"cam_param"' in text and '"keypoints_world"' in text


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton:
    """Returns the skeleton that `read` takes by default: `jaxpose.skeleton.H36M18`, whatever the file.

    >>> own_skeleton("train.json").num_joints
    18
    """
    return H36M18


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
    """Reads and checks the labels of a split.

    Args:
        annotations: The JSON of the split, or the folder of PoseNet's files.
        images: The image folder.
        split: "train", "val" or "test", for PoseNet's files, which hold all subjects.
        skeleton: A skeleton of the 18 joints, for other sigmas.
        category: Ignored: all persons belong to one.
        on_bad: "error", or "skip" to leave a bad image or person out, counted and logged.
        reading: Choices in reading the files.

    Returns:
        A source with the columns of `jaxpose.data.space.space_dtype`.

    Raises:
        FileNotFoundError, ValueError: A file is missing or wrong: lists of different lengths, joints that are not 17 x 3 finite
            numbers, a camera of neither form, and the errors of `jaxpose.data.space.check`.

    >>> read("train.json", "no_such_folder")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the images of train.json
    """
    path = Path(annotations)
    coco.check_call(path, images, on_bad)
    skeleton = skeleton or H36M18
    data = contents(path, split=split)
    kind = reading.applied_to(skeleton).to_coco_category(name="person", category_id=1)
    source = coco.assemble(
        data, Path(images), skeleton=reading.applied_to(skeleton), category=kind, problems=Problems(path, on_bad), reading=reading
    )  # fmt: skip
    return space.with_space(source, {person["id"]: person for group in source.people for person in group})


def ground_truth(annotations: str | Path, images: str | Path, *, split: str | None = None) -> dict[str, Any]:
    """Returns the labels as a COCO file with joints in space; no image has to exist.

    Args:
        annotations, split: The same as in `read`.
        images: Ignored.
    """
    return contents(Path(annotations), split=split)


def contents(path: Path, *, split: str | None = None) -> dict[str, Any]:
    """Returns the labels as the contents of a COCO file whose annotations have "keypoints_3d", "camera" and "action".

    Args:
        path: The JSON of the split, or the folder of PoseNet's files.
        split: The split, for the latter.

    Raises:
        FileNotFoundError, ValueError: The same as for `read`.
    """
    rows = list(_of_subjects(path, split) if path.is_dir() else _of_file(path))
    if not rows:
        raise ValueError(f"{path} has no frame for split {split!r}")
    _check_cameras(rows, path)
    form = _form_of(rows, path)
    images, people = [], []
    for number, row in enumerate(rows, start=1):
        camera = _in_camera(row, form)
        points = np.concatenate([camera, camera[[LEFT_SHOULDER, RIGHT_SHOULDER]].mean(0, keepdims=True)])
        px = cameras.project(points, focal=row["f"], center=row["c"])
        if not np.isfinite(px).all():
            raise ValueError(f"{path}: {row['file_name']} has a joint behind its camera")
        keypoints = np.concatenate([px, np.full((len(px), 1), 2.0)], 1)
        image = {"id": number, "file_name": row["file_name"], "width": row["width"], "height": row["height"]}
        images.append(image)
        people.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": row["bbox"],
                "keypoints": keypoints.ravel().tolist(),
                "keypoints_3d": points.ravel().tolist(),
                "camera": [*map(float, row["f"]), *map(float, row["c"])],
                **({} if (action := _action(row["file_name"])) is None else {"action": action}),
            }
        )
    category = H36M18.to_coco_category(name="person", category_id=1)
    return {"images": images, "annotations": people, "categories": [category]}


def _of_file(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the frames of a file of RLE's authors, without those of the drifted sequences."""
    data = read_json(path, "annotation file of Human3.6M")
    lists = [data.get(key) if isinstance(data, dict) else None for key in ("images", "annotations")]
    if not all(isinstance(entries, list) for entries in lists) or len(lists[0]) != len(lists[1]):
        raise ValueError(
            f"{path} is not an annotation file of Human3.6M: expected 'images' and 'annotations' of one length, paired by position"
        )
    for number, (image, person) in enumerate(zip(*lists, strict=True)):
        where = f"{path}: entry {number}"
        try:
            camera = image["cam_param"]
            row = {key: image[key] for key in ("file_name", "width", "height")}
            row |= {"R": camera["R"], "t": camera["t"], "f": camera["f"], "c": camera["c"]}
            row |= {"bbox": person["bbox"], "world": person["keypoints_world"]}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{where} lacks {error}: expected cam_param (R, t, f, c), bbox and keypoints_world"
            ) from None
        if not any(name in str(row["file_name"]) for name in DRIFTED):
            yield _checked(row, where)


def _of_subjects(path: Path, split: str | None) -> Iterator[dict[str, Any]]:
    """Yields the frames of PoseNet's files."""
    if split not in SUBJECTS:
        raise ValueError(
            f"split {split!r}: {path} holds PoseNet's files of Human3.6M, whose splits are {', '.join(SUBJECTS)}"
        )
    for subject in SUBJECTS[split]:
        name = str(path / f"Human36M_subject{subject[1:]}_{{}}.json")
        data, camera, joints = (
            read_json(Path(name.format(part)), f"{part} file of Human3.6M") for part in ("data", "camera", "joint_3d")
        )
        try:
            persons = {person["image_id"]: person for person in data["annotations"]}
            for image in data["images"]:
                if image["frame_idx"] % STRIDES[split] or any(m in image["file_name"] for m in MISSING):
                    continue
                place = (image["action_idx"], image["subaction_idx"], image["frame_idx"])
                world = joints
                for key in place:
                    world = world[str(key)]
                view = camera[str(image["cam_idx"])]
                row = {key: image[key] for key in ("file_name", "width", "height")} | {k: view[k] for k in "Rtfc"}
                yield _checked(
                    row | {"bbox": persons[image["id"]]["bbox"], "world": world}, f"{path}: {image['file_name']}"
                )
        except (KeyError, TypeError, AttributeError) as error:
            fault = f"there is no {error}" if isinstance(error, KeyError) else f"one is of another kind ({error})"
            raise ValueError(
                f"{path}: the files of subject {subject[1:]} do not fit each other: {fault}; expected images "
                "with frame_idx, action_idx, subaction_idx and cam_idx, cameras by cam_idx, joints by action, subaction and frame"
            ) from None


def _checked(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns a frame with its numbers as arrays."""
    for key, shape in (("R", (3, 3)), ("t", (3,)), ("f", (2,)), ("c", (2,)), ("world", (17, 3))):
        try:
            value = np.array(row[key], np.float64).reshape(shape if np.size(row[key]) == np.prod(shape) else (-1,))
        except (TypeError, ValueError):
            value = np.full((1,), np.nan)
        if value.shape != shape or not np.isfinite(value).all():
            name = {"world": "the joints in the world"}.get(key, f"{key!r} of the camera")
            expected = " x ".join(map(str, shape))
            got = str(row[key])[:100]
            if np.isfinite(value).all():
                got = f"{' x '.join(map(str, np.shape(row[key])))} of them"
            if value.shape == (17, 3):
                joint = int(np.argwhere(~np.isfinite(value))[0][0])
                got = f"{value[joint].tolist()} for joint {joint} ({H36M18.joints[joint]})"
            raise ValueError(f"{where}: {name} must be {expected} finite numbers, got {got}")
        row[key] = value
    return row


def _check_cameras(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raises a ValueError if R of a camera is no rotation, or a focal length is not above 0.

    A determinant of -1 is no fault: where the world is left-handed, it leads to the axes of the camera.
    """
    R = np.stack([row["R"] for row in rows])
    off = np.abs(R @ R.swapaxes(1, 2) - np.eye(3)).max((1, 2))
    for bad, what in (
        (off > ORTHOGONAL, "'R' of the camera is no rotation: its rows are not of length 1 and at right angles"),
        (
            np.stack([row["f"] for row in rows]).min(1) <= 0,
            "'f' of the camera must be two focal lengths above 0, in pixels",
        ),
    ):
        if bad.any():
            row = rows[int(bad.argmax())]
            raise ValueError(
                f"{path}: {row['file_name']}: {what}; it has R {row['R'].round(3).tolist()} and f {row['f'].tolist()} "
                f"({bad.sum()} of {len(rows)} frames)"
            )


def _in_camera(row: Mapping[str, Any], form: Form) -> np.ndarray:
    position = row["t"] if form == "position" else -row["R"].T @ row["t"]
    return cameras.world_to_camera(row["world"], rotation=row["R"], position=position)


def camera_form(
    world: np.ndarray,
    *,
    rotation: np.ndarray,
    translation: np.ndarray,
    focal: np.ndarray,
    center: np.ndarray,
    size_wh: np.ndarray,
) -> dict[Form, float]:
    """Returns the share of joints that each reading of a camera's translation projects in front of the camera and into the picture.

    Args:
        world: ``(N, K, 3)`` joints in the world.
        rotation: ``(N, 3, 3)`` from world to camera.
        translation: ``(N, 3)``: the camera's position, or the offset t of R X + t.
        focal, center, size_wh: ``(N, 2)`` in pixels.

    >>> behind = np.array([[[0.0, 0.0, 0.0]]])
    >>> lens = dict(focal=np.full((1, 2), 1000.0), center=np.full((1, 2), 500.0), size_wh=np.full((1, 2), 1000))
    >>> camera_form(behind, rotation=np.eye(3)[None], translation=np.array([[0.0, 0.0, 5000.0]]), **lens)
    {'position': 0.0, 'offset': 1.0}
    """
    shares: dict[Form, float] = {}
    for form in ("position", "offset"):
        position = translation if form == "position" else -np.einsum("nji,nj->ni", rotation, translation)
        points = cameras.world_to_camera(world, rotation=rotation, position=position)
        px = cameras.project(points, focal=focal, center=center)
        with np.errstate(invalid="ignore"):
            shares[form] = float(((px >= 0) & (px <= size_wh[:, None] - 1)).all(-1).mean())
    return shares


def _form_of(rows: Sequence[Mapping[str, Any]], path: Path) -> Form:
    """Returns the form of the cameras of a file, from up to 500 of its frames."""
    some = rows[:: max(len(rows) // 500, 1)]
    stack = {key: np.stack([row[key] for row in some]) for key in ("world", "R", "t", "f", "c")}
    sizes = np.array([(row["width"], row["height"]) for row in some])
    shares = camera_form(
        stack["world"], rotation=stack["R"], translation=stack["t"], focal=stack["f"], center=stack["c"], size_wh=sizes
    )
    fitting = [form for form, share in shares.items() if share >= INSIDE]
    if len(fitting) == 1:
        if fitting[0] == "offset":
            logger.info("%s: the translations of the cameras are offsets (R X + t)", path)
        _check_boxes(some, fitting[0], path)
        return fitting[0]
    looks = ""
    if np.median(np.abs(stack["world"])) < 20 or np.median(np.linalg.norm(stack["t"], axis=-1)) < 20:
        looks = ": the joints or the cameras look to be in metres, expected millimetres"
    elif not fitting:
        looks = ": the rotations may be transposed, or the cameras may belong to other frames"
    raise ValueError(
        f"{path}: the cameras project {shares['position']:.0%} of the joints into the picture if 't' is their position, and "
        f"{shares['offset']:.0%} if it is the offset of R X + t; expected {INSIDE:.0%} or more for one of them{looks}"
    )


def _check_boxes(rows: Sequence[Mapping[str, Any]], form: Form, path: Path) -> None:
    """Raises a ValueError if joints are projected beside their persons' boxes.

    Bad boxes are left to the reader of COCO's format, and bodies in metres to `jaxpose.data.space.check`.
    """
    if np.median([np.ptp(row["world"], axis=0).max() for row in rows]) < METRES:
        return
    inside = []
    for row in rows:
        if bad_box(row["bbox"], (row["width"], row["height"]), strict=False):
            continue
        px = cameras.project(_in_camera(row, form), focal=row["f"], center=row["c"])
        corner, extent = np.split(np.array(row["bbox"], np.float64), 2)
        with np.errstate(invalid="ignore"):
            inside.append(((px >= corner - MARGIN * extent) & (px <= corner + (1 + MARGIN) * extent)).all(-1).mean())
    if inside and (share := float(np.mean(inside))) < IN_BOX:
        raise ValueError(
            f"{path}: the cameras project {share:.0%} of the joints into their persons' boxes (bbox: x, y, width, height in pixels), "
            f"expected {IN_BOX:.0%} or more: two axes of the world may be exchanged or one negated in the joints or in the cameras, or "
            "the boxes may belong to other frames"
        )


def _action(file_name: str) -> str | None:
    """Returns the action of a file by its number.

    >>> _action("s_01_act_02_subact_01_ca_01/s_01_act_02_subact_01_ca_01_000001.jpg")
    'Directions'
    """
    match = re.search(r"act_(\d\d)", str(file_name))
    number = int(match[1]) - 2 if match else -1
    return ACTIONS[number] if 0 <= number < len(ACTIONS) else None
