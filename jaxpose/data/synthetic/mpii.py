"""The synthetic people in the layout of MPII: 16 joints, a centre and a scale per person, and head boxes for PCKh.

    folder = write_mpii(write_dataset("people", train=1800, val=200), "people_mpii")

Twelve of MPII's joints are joints of COCO. The other four follow from the body: the pelvis is the middle of the hips,
the thorax that of the shoulders, and the upper neck and the top of the head have fixed places in the frame of the head,
which the five points of the face determine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose import files
from jaxpose.data.synthetic.dataset import MARKER, is_complete, workplace
from jaxpose.skeleton import COCO17, MPII16

__all__ = ["mpii_joints", "write_mpii"]

SPLITS = {"train": "train", "val": "valid"}  # COCO's names, and MPII's
BODY = {k: COCO17.joints.index(name) for k, name in enumerate(MPII16.joints) if name in COCO17.joints}
PELVIS, THORAX, NECK, TOP = (MPII16.joints.index(name) for name in ("pelvis", "thorax", "upper_neck", "head_top"))
HIPS, SHOULDERS, FACE = (
    [k for k, name in enumerate(COCO17.joints) if name.rpartition("_")[2] in parts]
    for parts in (("hip",), ("shoulder",), ("nose", "eye", "ear"))
)
# Places in the frame of the head, in head heights: right, up, front (`jaxpose.data.synthetic.pose.pose_body`).
IN_HEAD = {
    "nose": (0, -0.11, 0.475),
    "left_eye": (0.135, 0.03, 0.385),
    "right_eye": (-0.135, 0.03, 0.385),
    "left_ear": (0.345, -0.04, -0.03),
    "right_ear": (-0.345, -0.04, -0.03),
}
UNDER_SKULL, CROWN = (0, -0.5, -0.1), (0, 0.5, 0)
HEAD_WIDTH = 0.7  # of its height
NAMES_OF_MAT = "rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri".split()


def mpii_joints(joints_3d: np.ndarray) -> np.ndarray:
    """Computes MPII's joints of synthetic people.

    Args:
        joints_3d: ``(..., 17, 3)`` joints of COCO in any unit and any rectangular coordinates.

    Returns:
        ``(..., 16, 3)`` joints of MPII, in the same coordinates.

    Raises:
        ValueError: The shape is another one.

    >>> mpii_joints(np.zeros((2, 17, 3))).shape
    (2, 16, 3)
    """
    joints_3d = np.asarray(joints_3d, np.float64)
    if joints_3d.shape[-2:] != (COCO17.num_joints, 3):
        raise ValueError(f"joints_3d must be (..., {COCO17.num_joints}, 3), got {joints_3d.shape}")
    out = np.zeros((*joints_3d.shape[:-2], MPII16.num_joints, 3))
    out[..., list(BODY), :] = joints_3d[..., list(BODY.values()), :]
    out[..., PELVIS, :] = joints_3d[..., HIPS, :].mean(-2)
    out[..., THORAX, :] = joints_3d[..., SHOULDERS, :].mean(-2)
    # The head is rigid, so its five points give the affine map from its frame.
    face = np.array([[*IN_HEAD[COCO17.joints[k]], 1.0] for k in FACE])
    wanted = np.array([[*UNDER_SKULL, 1.0], [*CROWN, 1.0]])
    out[..., [NECK, TOP], :] = (wanted @ np.linalg.pinv(face)) @ joints_3d[..., FACE, :]
    return out


def write_mpii(coco: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Writes a folder of `write_dataset` in the layout of HRNet's MPII, or reuses an existing one.

    The folder holds ``annot/train.json`` and ``valid.json``, ``annot/gt_valid.mat`` with the head boxes, ``annot/test.json``
    (the persons of the validation split without their joints, to try the prediction of a test set), and ``images/``.
    Persons without labelled joints are left out. The twelve joints of COCO keep their label noise, and the other four have
    the mean noise of the joints that define them; a joint outside the picture is not labelled. Coordinates count from 1.

    Args:
        coco: The folder of `write_dataset`.
        out: The folder to create.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: `coco` is no folder of synthetic people.
        ValueError: `out` holds something else.

    >>> write_mpii("no_such_folder", "out")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is no folder of synthetic people: jaxpose synthetic no_such_folder draws one
    """
    coco, out = Path(coco), Path(out).absolute()
    if not (coco / MARKER).is_file():
        raise FileNotFoundError(f"{coco} is no folder of synthetic people: jaxpose synthetic {coco} draws one")
    parameters = files.read_json(coco / MARKER, "description of a synthetic data set") | {"layout": "mpii"}
    if is_complete(out, parameters):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with workplace(out) as folder:
        try:
            _write(coco, folder)
            (folder / MARKER).write_text(json.dumps(parameters))
            folder.chmod(0o755)
            folder.rename(out)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if (out / MARKER).is_file() and is_complete(out, parameters):  # another process was faster
                return out
            raise
    return out


def _write(coco: Path, folder: Path) -> None:
    for name in ("annot", "images"):
        (folder / name).mkdir()
    for split, name in SPLITS.items():
        content = files.read_json(coco / "annotations" / f"person_keypoints_{split}.json", "synthetic annotations")
        images = {image["id"]: f"{split}_{image['file_name']}" for image in content["images"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        for image in content["images"]:
            _link(coco / split / image["file_name"], folder / "images" / images[image["id"]])
        people = [
            _person(annotation, images[annotation["image_id"]], sizes[annotation["image_id"]])
            for annotation in content["annotations"]
            if annotation["num_keypoints"]
        ]
        entries = [entry for entry, _ in people]
        (folder / "annot" / f"{name}.json").write_text(json.dumps(entries))
        if split == "val":
            unlabelled = [{key: entry[key] for key in ("image", "center", "scale")} for entry in entries]
            (folder / "annot" / "test.json").write_text(json.dumps(unlabelled))
            _write_mat(folder / "annot" / "gt_valid.mat", people)


def _person(annotation: dict[str, Any], image: str, size_wh: tuple[int, int]) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the entry of a person, and its head box: two corners, counted from 1."""
    focal, *centre = annotation["camera"]
    joints = mpii_joints(np.reshape(annotation["keypoints_3d"], (-1, 3)))
    clean = joints[:, :2] / joints[:, 2:] * focal + centre
    labels = np.reshape(annotation["keypoints"], (-1, 3))
    labelled = labels[:, 2] > 0
    noise = np.where(labelled[:, None], labels[:, :2] - np.reshape(annotation["keypoints_clean"], (-1, 2)), 0.0)
    xy, visible = clean.copy(), np.zeros(len(clean), bool)
    xy[list(BODY)] = labels[list(BODY.values()), :2]
    visible[list(BODY)] = labelled[list(BODY.values())]
    inside = (clean >= 0).all(1) & (clean <= np.array(size_wh) - 1).all(1) & (joints[:, 2] > 0)
    for joint, source in ((PELVIS, HIPS), (THORAX, SHOULDERS), (NECK, FACE), (TOP, FACE)):
        xy[joint] += noise[source][labelled[source]].mean(0) if labelled[source].any() else 0.0
        visible[joint] = inside[joint]
    x, y, w, h = annotation["bbox"]
    scale = max(w, h) / 200
    entry = {
        "image": image,
        # A reader moves the centre down by 15 pixels per scale.
        "center": [round(x + w / 2 + 1, 3), round(y + h / 2 - 15 * scale + 1, 3)],
        "scale": round(scale, 5),
        "joints": [[round(float(u) + 1, 3), round(float(v) + 1, 3)] if seen else [-1, -1]
                   for (u, v), seen in zip(xy, visible, strict=True)],
        "joints_vis": visible.astype(int).tolist(),
    }  # fmt: skip
    height = np.hypot(*(clean[TOP] - clean[NECK]))
    half = 0.5 * max(height, 1.0) * np.array([HEAD_WIDTH, 1.0])
    middle = (clean[TOP] + clean[NECK]) / 2 + 1
    return entry, np.stack([middle - half, middle + half])


def _write_mat(path: Path, people: list[tuple[dict[str, Any], np.ndarray]]) -> None:
    """Writes the arrays of gt_valid.mat, as `jaxpose.evaluation.mpii.load_truth` reads them."""
    from scipy.io import savemat  # it comes with jax

    names = np.empty((1, len(NAMES_OF_MAT)), object)
    names[0] = NAMES_OF_MAT
    joints = np.array([entry["joints"] for entry, _ in people], np.float64).reshape(-1, MPII16.num_joints, 2)
    visible = np.array([entry["joints_vis"] for entry, _ in people]).reshape(-1, MPII16.num_joints)
    boxes = np.array([box for _, box in people]).reshape(-1, 2, 2)
    savemat(path, {"dataset_joints": names, "pos_gt_src": joints.transpose(1, 2, 0), "jnt_missing": 1 - visible.T,
                   "headboxes_src": boxes.transpose(1, 2, 0)})  # fmt: skip


def _link(path: Path, to: Path) -> None:
    """Gives a file another name, or copies it where the file system has no hard links."""
    with contextlib.suppress(OSError):
        os.link(path, to)
        return
    shutil.copyfile(path, to)
