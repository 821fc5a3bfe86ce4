"""Errors of poses in space: MPJPE and its relatives, overall and per action, from arrays or from two JSON files.

The border is a result file: whatever writes one can be scored, without JAX. It is a list of records, one per pose:

    image_id        the pose of the ground truth
    keypoints_3d    [x1, y1, z1, ..., xK, yK, zK] in mm, in the axes of the camera: absolute, or relative to any point
    confidence      [c1, ..., cK], if known

The ground truth is a JSON object ``{"kind": "poses_3d", "skeleton": ..., "root": 0, "poses": [...]}``, whose poses have an
image_id, keypoints_3d, and optionally an action, a subject, a sequence and a frame (`write_truth`).

The root. A lifter and most single-stage nets know no absolute position, so that errors are relative to a root, the pelvis. Three
ways to do so are published, and their means differ; every table says which one it has (docs/differences.md, T21):

    aligned     both poses are moved so that their roots are at 0; the root counts, with the error 0 (Martinez, RLE, Integral, mmpose)
    predicted   the prediction is relative to the root as it stands, and its own root counts like any joint (VideoPose3D, SRNet)
    left_out    as aligned, but the root does not count (SemGCN counts 15 of 16 joints so)

Averages. "frames" is the mean over all poses (RLE, Integral, mmpose); "actions" is the mean over the actions of their means
(VideoPose3D, SRNet, Martinez), which weighs rare actions more (T22). Both are computed.

"Protocol" has two meanings: by data, protocol 1 trains on S1, S5, S6, S7, S8 and S9 and tests on S11 after a rigid alignment,
protocol 2 trains on the first five and tests on S9 and S11; by error, protocol #1 is MPJPE, #2 PA-MPJPE and #3 N-MPJPE, always
on S9 and S11. The scores here carry the names of the errors; the data decide the rest.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from jaxpose import files, metrics
from jaxpose.bodies import PEOPLE, check_millimetres, check_order
from jaxpose.skeleton import Skeleton

__all__ = [
    "ROOTS",
    "Root",
    "Truth",
    "check_poses",
    "from_predictions",
    "is_truth",
    "read",
    "read_truth",
    "score",
    "scores",
    "table",
    "write",
    "write_truth",
]

Root = Literal["aligned", "predicted", "left_out"]
logger = logging.getLogger(__name__)

ROOTS = {
    "aligned": "both poses have their root at 0, which counts with error 0",
    "predicted": "predictions are relative to the root; the predicted root counts like any joint",
    "left_out": "both poses have their root at 0, which does not count",
}
KIND = "poses_3d"
DIGITS = 3  # a thousandth of a millimetre
SLACK = 3.0
"""A prediction that is 1000 times as large or small as its label, up to this factor, is in another unit."""
SMALLEST, LARGEST = 100.0, 20_000.0  # mm: half of the extent of a person lies between


@dataclass(frozen=True)
class Truth:
    """Labelled poses in mm.

    Attributes:
        joints: ``(N, K, 3)``, in the axes of the camera.
        image_id: ``(N,)`` integers, all different.
        skeleton: The joints; `root` is the index of the one that errors are relative to.
        root: Index of the root.
        action, subject, sequence: ``(N,)`` strings, "" where unknown.
        frame: ``(N,)`` integers, the number of the frame in its sequence.
    """

    joints: np.ndarray
    image_id: np.ndarray
    skeleton: Skeleton
    root: int = 0
    action: np.ndarray | None = None
    subject: np.ndarray | None = None
    sequence: np.ndarray | None = None
    frame: np.ndarray | None = None


def scores(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    root: int = 0,
    handling: Root = "aligned",
    action: Sequence[str] | None = None,
    sequence: Sequence[Any] | None = None,
    frame: Sequence[int] | None = None,
    where: ArrayLike | None = None,
) -> dict[str, Any]:
    """Computes the errors of N poses.

    Args:
        pred, target: ``(N, K, 3)`` in mm.
        root: Index of the root.
        handling: What happens to the root, one of `ROOTS`.
        action: ``(N,)`` names; None: there are no actions.
        sequence: ``(N,)`` names of the sequences, one of each camera, for the velocity error; None: there is none.
        frame: ``(N,)`` numbers of the frames in their sequences, all different; None: they are in order and consecutive.
        where: ``(N, K)`` bool, the labelled joints; None: all. Alignments use the labelled joints only.

    Returns:
        MPJPE, PA-MPJPE (similarity), PA-MPJPE_rigid, N-MPJPE and MPJVE in mm, 3DPCK (150 mm) and 3DAUC as fractions: means over the
        poses; the same with "_actions", the mean over the actions; "actions", the errors by action; "poses", their number; and
        "root", the sentence that says how the root was handled. MPJVE is per step from one pose of a sequence to the next, which is
        a frame only where every frame is there.

    Raises:
        ValueError: A shape does not fit; a labelled coordinate or a prediction for one is not finite; or a sequence has a frame twice.

    >>> target = np.zeros((2, 3, 3)); target[:, 1:] = [[100.0, 0, 0], [0, 200.0, 0]]
    >>> pred = target + 7.0
    >>> pred[:, 1, 0] += 30.0
    >>> result = scores(pred, target, action=["Walking", "Sitting"])
    >>> round(result["MPJPE"], 6), round(scores(pred, target, handling="left_out")["MPJPE"], 6), result["root"][:10]
    (10.0, 15.0, 'both poses')
    """
    pred, target, where = _poses(pred, target, where, root)
    if handling not in get_args(Root):
        raise ValueError(f"handling={handling!r}: expected one of {', '.join(ROOTS)}")
    target = target - target[:, root : root + 1]
    if handling != "predicted":
        pred = pred - pred[:, root : root + 1]
    if handling == "left_out":
        where = where.copy()
        where[:, root] = False
    per_pose = {
        "MPJPE": metrics.mpjpe(pred, target, where=where),
        "PA-MPJPE": metrics.pa_mpjpe(pred, target, where=where),
        "PA-MPJPE_rigid": metrics.pa_mpjpe(pred, target, where=where, scale=False),
        "N-MPJPE": metrics.n_mpjpe(pred, target, where=where),
    }
    moves = _velocities(pred, target, where, sequence, frame)

    def summary(these: np.ndarray) -> dict[str, float]:
        means = {name: float(values[these].mean()) for name, values in per_pose.items()}
        weight = np.array([frames for of, frames, _ in moves if these[of]], float)
        if len(weight):
            means["MPJVE"] = float(np.average([error for of, _, error in moves if these[of]], weights=weight))
        means["3DPCK"] = metrics.pck_3d(pred[these], target[these], where=where[these])
        means["3DAUC"] = metrics.auc_3d(pred[these], target[these], where=where[these])
        return means

    result: dict[str, Any] = summary(np.ones(len(pred), bool))
    if action is not None:
        names = np.asarray(action)
        if names.shape != (len(pred),):
            raise ValueError(f"action must be ({len(pred)},), one per pose, got {names.shape}")
        by_action = {str(name): summary(names == name) for name in dict.fromkeys(names.tolist())}
        for name in list(result):
            values = [of[name] for of in by_action.values() if name in of]
            result[f"{name}_actions"] = float(np.mean(values))
        result["actions"] = by_action
    return result | {"poses": len(pred), "root": ROOTS[handling]}


def _poses(pred: ArrayLike, target: ArrayLike, where: ArrayLike | None, root: int) -> tuple:
    """Returns predictions, labels and mask as float64 and bool, checked."""
    pred, target = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    if pred.ndim != 3 or pred.shape != target.shape or pred.shape[-1] != 3 or not len(pred):
        raise ValueError(
            f"poses must be (N, K, 3) twice, with one pose or more; got predictions {pred.shape} and labels {target.shape}"
        )
    if not 0 <= root < pred.shape[1]:
        raise ValueError(f"root={root}: expected the index of one of {pred.shape[1]} joints")
    where = np.ones(pred.shape[:2], bool) if where is None else np.asarray(where) > 0
    if where.shape != pred.shape[:2]:
        raise ValueError(f"where must be {pred.shape[:2]}, one value per joint, got {where.shape}")
    if not where[:, root].all():
        raise ValueError(
            f"pose {int(np.argmin(where[:, root]))} has no labelled root, joint {root}: errors are relative to it"
        )
    for name, poses in (("prediction", pred), ("label", target)):
        if not (bad := np.isfinite(poses).all(-1) | ~where).all():
            pose, joint = np.argwhere(~bad)[0].tolist()
            raise ValueError(f"the {name} of pose {pose}, joint {joint}, is {poses[pose, joint].tolist()}: not finite")
    return np.where(where[..., None], pred, 0.0), np.where(where[..., None], target, 0.0), where


def _velocities(pred, target, where, sequence, frame) -> list[tuple[int, int, float]]:
    """Returns (index of a pose, number of poses, velocity error) of each sequence with two successive frames."""
    if sequence is None:
        return []
    names = np.asarray(sequence)
    frame = np.arange(len(names)) if frame is None else np.asarray(frame)
    result = []
    for name in dict.fromkeys(names.tolist()):
        members = np.flatnonzero(names == name)
        members = members[np.argsort(frame[members], kind="stable")]
        steps = np.diff(frame[members])
        if not len(steps):
            continue
        if (step := steps.min()) <= 0:
            twice = frame[members][int(np.argmin(steps))]
            raise ValueError(
                f"sequence {name} has frame {twice} twice: its cameras need sequences of their own, as velocities are computed from "
                "one frame to the next"
            )
        ends = np.flatnonzero(steps == step)
        pairs = np.stack([members[ends], members[ends + 1]], 1)  # (pairs, 2): sequences of two frames
        errors = metrics.mpjve(pred[pairs], target[pairs], where=where[pairs])
        counts = where[pairs].all(1).sum(-1)
        if counts.any():
            result.append(
                (int(members[0]), len(members), float(np.average(errors[counts > 0], weights=counts[counts > 0])))
            )
    return result


def check_poses(joints: ArrayLike, *, skeleton: Skeleton, what: str, root: int | None = 0) -> None:
    """Raises a ValueError if poses are not what they should be, and says what they look like.

    Args:
        joints: ``(N, K, 3)`` in mm.
        skeleton: The joints.
        what: How errors call the poses.
        root: Index of the root; None: only shapes, numbers and units are checked, as for predictions.

    Raises:
        ValueError: A number is not finite; the poses are in metres; or the pelvis is not near the middle of the hips, which is how a
            wrong order of the joints looks.

    >>> from jaxpose.skeleton import H36M17
    >>> check_poses(np.full((1, 17, 3), np.nan), skeleton=H36M17, what="labels.json")
    Traceback (most recent call last):
    ValueError: labels.json: joint 0 (pelvis) of pose 0 is [nan, nan, nan]: expected finite numbers in mm
    """
    joints = np.asarray(joints, np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (skeleton.num_joints, 3):
        raise ValueError(
            f"{what}: poses have shape {joints.shape}: expected (N, {skeleton.num_joints}, 3), the joints of {skeleton.name}"
        )
    if not len(joints):
        raise ValueError(f"{what}: no poses")
    if not (finite := np.isfinite(joints).all(-1)).all():
        pose, joint = np.argwhere(~finite)[0].tolist()
        raise ValueError(
            f"{what}: joint {joint} ({skeleton.joints[joint]}) of pose {pose} is {joints[pose, joint].tolist()}: expected finite "
            "numbers in mm"
        )
    extent = check_millimetres(joints, what, of_people=root is not None and skeleton.name in PEOPLE)
    if root is None:
        return
    if not SMALLEST < extent < LARGEST:
        raise ValueError(f"{what}: the poses are {extent:.4g} mm tall: expected people, in mm")
    check_order(joints, skeleton, what)


def from_predictions(
    joints: ArrayLike, *, image_id: ArrayLike, confidence: ArrayLike | None = None
) -> list[dict[str, Any]]:
    """Builds the records of N poses.

    Args:
        joints: ``(N, K, 3)`` in mm.
        image_id: ``(N,)`` integers.
        confidence: ``(N, K)``, or None.

    Raises:
        ValueError: A shape does not fit, or a value is not finite.

    >>> from_predictions(np.zeros((1, 2, 3)), image_id=[7])
    [{'image_id': 7, 'keypoints_3d': [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]}]
    """
    joints, image_id = np.asarray(joints, np.float64), np.asarray(image_id)
    if joints.ndim != 3 or joints.shape[-1] != 3 or image_id.shape != joints.shape[:1]:
        raise ValueError(f"joints must be (N, K, 3) and image_id (N,), got {joints.shape} and {image_id.shape}")
    if not np.isfinite(joints).all():
        index = int(np.argwhere(~np.isfinite(joints))[0][0])
        raise ValueError(f"the pose of image {image_id[index]} is not finite")
    columns = {"image_id": image_id.astype(np.int64).tolist(), "keypoints_3d": _flat(joints)}
    if confidence is not None:
        confidence = np.asarray(confidence, np.float64)
        if confidence.shape != joints.shape[:2] or not np.isfinite(confidence).all():
            raise ValueError(f"confidence must be {joints.shape[:2]} finite numbers, got {confidence.shape}")
        columns["confidence"] = np.round(confidence, 6).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _flat(joints: np.ndarray) -> list[list[float]]:
    return np.round(joints, DIGITS).reshape(len(joints), -1).tolist()


def write(records: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Writes records as JSON, atomically."""
    files.write_json(path, list(records))


def read(path: str | os.PathLike, *, num_joints: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads a result file.

    Args:
        path: The result file.
        num_joints: The number of joints of every pose.

    Returns:
        ``(N, K, 3)`` in mm, and ``(N,)`` the image ids.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is no list of records, or a record is bad; the message names it.
    """
    records = files.read_json(path, "result file")
    if not isinstance(records, list):
        raise ValueError(f"{path}: results must be a list with one record per pose, got {type(records).__name__}")
    if records and isinstance(records[0], Mapping) and "keypoints" in records[0] and "keypoints_3d" not in records[0]:
        raise ValueError(f"{path}: results in 2D (keypoints): lift them first, jaxpose predict LIFTER {path}")
    return _joints(records, num_joints, str(path), "result")


def _joints(records: Any, num_joints: int, path: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns joints and ids of records, checked one by one."""
    ids: dict[int, int] = {}
    joints = np.empty((len(records), num_joints, 3))
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or not {"image_id", "keypoints_3d"} <= record.keys():
            raise ValueError(f"{path}: {what} {i} is no object with image_id and keypoints_3d: {record!r:.100}")
        image_id, numbers = record["image_id"], record["keypoints_3d"]
        if type(image_id) is not int or image_id in ids:
            raise ValueError(
                f"{path}: {what} {i} has the image_id {image_id!r:.30}: expected an integer that no other {what} has "
                "(several people of a picture need an id each, in the labels and in the results)"
            )
        if not isinstance(numbers, list) or len(numbers) != 3 * num_joints or not all(_is_number(x) for x in numbers):
            size = len(numbers) if isinstance(numbers, list) else type(numbers).__name__
            if size == 3 * num_joints:
                size = f"{size} entries, one of which is {next(x for x in numbers if not _is_number(x))!r:.50}"
            raise ValueError(
                f"{path}: {what} {i} (image {image_id}) has keypoints_3d of {size}: expected {3 * num_joints} numbers, x, y and z "
                f"of {num_joints} joints"
            )
        ids[image_id] = i
        joints[i] = np.reshape(numbers, (num_joints, 3))
    if not np.isfinite(joints).all():
        index = int(np.argwhere(~np.isfinite(joints))[0][0])
        raise ValueError(f"{path}: {what} {index} (image {records[index]['image_id']}) is not finite")
    return joints, np.array(list(ids), np.int64)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def is_truth(path: str | os.PathLike) -> bool:
    """Returns whether a file is a ground truth of poses in space, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return re.match(rb'\s*\{\s*"kind"\s*:\s*"poses_3d"', file.read(200)) is not None
    except OSError:
        return False


def write_truth(truth: Truth, path: str | os.PathLike) -> None:
    """Writes a ground truth, atomically; see the docstring of this module."""
    columns: dict[str, list] = {"image_id": truth.image_id.tolist(), "keypoints_3d": _flat(truth.joints)}
    for name in ("action", "subject", "sequence", "frame"):
        if (values := getattr(truth, name)) is not None:
            columns[name] = np.asarray(values).tolist()
    poses = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    content = {"kind": KIND, "skeleton": truth.skeleton.to_dict(), "root": truth.root, "unit": "mm", "poses": poses}
    files.write_json(path, content)


def read_truth(path: str | os.PathLike) -> Truth:
    """Reads a ground truth and checks it.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A part is missing, or the poses are not finite, not in mm or in another order (`check_poses`).
    """
    content = files.read_json(path, "ground truth")
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ValueError(
            f'{path}: no ground truth of poses in space: expected an object that begins with "kind": "{KIND}"'
        )
    missing = [name for name in ("skeleton", "poses") if name not in content]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} is missing")
    try:
        skeleton = Skeleton.from_dict(content["skeleton"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: its skeleton does not fit: {error}") from None
    poses, root = content["poses"], content.get("root", 0)
    if not isinstance(poses, list) or type(root) is not int or not 0 <= root < skeleton.num_joints:
        raise ValueError(
            f"{path}: poses must be a list, and root the index of one of {skeleton.num_joints} joints, got {root!r:.50}"
        )
    joints, image_id = _joints(poses, skeleton.num_joints, str(path), "pose")
    check_poses(joints, skeleton=skeleton, what=str(path), root=root)
    columns: dict[str, np.ndarray | None] = {}
    for name in ("action", "subject", "sequence", "frame"):
        present = [name in pose for pose in poses]
        if any(present) and not all(present):
            raise ValueError(f"{path}: pose {present.index(False)} has no {name}, which others have")
        columns[name] = np.array([pose[name] for pose in poses]) if all(present) else None
    if columns["frame"] is not None and columns["frame"].dtype.kind != "i":
        raise ValueError(f"{path}: a frame is no integer: expected the number of the frame in its sequence")
    return Truth(joints, image_id, skeleton, root, **columns)


def score(
    ground_truth: str | os.PathLike | Truth, results: str | os.PathLike, *, handling: Root = "aligned"
) -> dict[str, Any]:
    """Scores a result file.

    Args:
        ground_truth: The labelled poses, or their file.
        results: The result file, with one pose for every labelled one.
        handling: What happens to the root, one of `ROOTS`.

    Returns:
        The same as `scores`.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is bad; poses are missing or have no label; or results look like another unit.
    """
    truth = ground_truth if isinstance(ground_truth, Truth) else read_truth(ground_truth)
    pred, ids = read(results, num_joints=truth.skeleton.num_joints)
    place = {int(image_id): i for i, image_id in enumerate(ids)}
    missing = [int(image_id) for image_id in truth.image_id if int(image_id) not in place]
    if missing:
        raise ValueError(
            f"{results}: {len(missing)} of {len(truth.image_id)} labelled poses have no result, the first is image {missing[0]}: "
            "expected one for every labelled pose"
        )
    if len(ids) > len(truth.image_id):
        extra = sorted(set(place) - {int(i) for i in truth.image_id})
        raise ValueError(f"{results}: {len(extra)} results have no label, the first is image {extra[0]}")
    check_poses(pred, skeleton=truth.skeleton, what=str(results), root=None)
    pred = pred[[place[int(image_id)] for image_id in truth.image_id]]
    _check_sizes(pred, truth, str(results))
    return scores(
        pred, truth.joints, root=truth.root, handling=handling,
        action=truth.action, sequence=truth.sequence, frame=truth.frame,
    )  # fmt: skip


def _check_sizes(pred: np.ndarray, truth: Truth, what: str) -> None:
    """Raises a ValueError if a prediction is in another unit than its label, and warns where most look like it.

    A net may predict small poses, and one that has learned nothing points: only sizes that a unit explains are spoken of.
    """
    extent, labelled = (np.ptp(joints, axis=1).max(-1) for joints in (pred, truth.joints))
    ratio = extent / np.maximum(labelled, 1e-9)
    wrong = ((ratio > 1 / SLACK / 1000) & (ratio < SLACK / 1000)) | (ratio > 1000 / SLACK)
    if wrong.any():
        first = int(np.argmax(wrong))
        unit = "metres: expected mm, multiply by 1000" if ratio[first] < 1 else "mm that were multiplied by 1000"
        raise ValueError(
            f"{what}: {wrong.sum()} of {len(pred)} results, such as that of image {truth.image_id[first]}, are {ratio[first]:.3g} "
            f"times as large as their labels, which looks like {unit}"
        )
    _warn_of_axes(pred, truth, what)
    middle = float(np.median(ratio))
    if not 2 / 10 < middle < 10 / 2 and middle > 0:
        logger.warning(
            "%s: the poses are %.3g times as large as the labels (median): are they in mm, and not in %s?",
            what, middle, "centimetres" if middle < 1 else "tenths of a millimetre",
        )  # fmt: skip


def _warn_of_axes(pred: np.ndarray, truth: Truth, what: str) -> None:
    """Warns of predictions that are twice as near to their labels with left and right exchanged, or with other axes."""
    changed = {
        "as they are": pred,
        "with left and right exchanged": pred[:, list(truth.skeleton.flip_index)],
        "with x negated": pred * [-1, 1, 1],
        "with y negated": pred * [1, -1, 1],
        "with z negated": pred * [1, 1, -1],
        "with y and z exchanged": pred[..., [0, 2, 1]],
    }
    root = slice(truth.root, truth.root + 1)
    target = truth.joints - truth.joints[:, root]
    errors = {name: float(metrics.mpjpe(joints - joints[:, root], target).mean()) for name, joints in changed.items()}
    best = min(errors, key=errors.__getitem__)
    if 2 * errors[best] < errors["as they are"]:
        logger.warning(
            "%s: the mean error of the poses is %.0f mm, and %.0f mm %s: are they in the axes of the camera (x right, y down, z away), "
            "and the joints in the order of the labels?",
            what, errors["as they are"], errors[best], best,
        )  # fmt: skip


def table(result: Mapping[str, Any]) -> str:
    """Returns the scores as text: a line per action, their average, that over the poses, and how the root was handled.

    Args:
        result: The return value of `scores`.

    >>> poses = np.arange(18.0).reshape(2, 3, 3)
    >>> print(table(scores(poses, poses, action=["Walking", "Sitting"])).splitlines()[0].split()[:2])
    ['mm', 'MPJPE']
    """
    names = [name for name, value in result.items() if isinstance(value, float) and not name.endswith("_actions")]
    width = max(14, *(len(name) + 2 for name in names))
    rows = [("mm", dict(zip(names, names)))]
    rows += list(result.get("actions", {}).items())
    if "actions" in result:
        rows.append(("mean of actions", {name: result.get(f"{name}_actions") for name in names}))
    rows.append((f"{result['poses']} poses", {name: result[name] for name in names}))
    lines = []
    for title, values in rows:
        texts = [_cell(name, values.get(name, "")) for name in names]
        lines.append(f"{title:16s}" + "".join(f"{text:>{width}s}" for text in texts))
    return "\n".join([*lines, f"root: {result['root']}; 3DPCK at 150 mm and 3DAUC are fractions"])


def _cell(name: str, value: Any) -> str:
    """Returns a number of the table: two decimals of millimetres, four of fractions."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if name.startswith("3D") else f"{value:.2f}"
