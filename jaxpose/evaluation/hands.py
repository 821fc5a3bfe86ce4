"""The errors of hands: end-point errors in pixels and millimetres, and areas under curves of correct keypoints.

Per joint first (hand3d's evaluation, Zimmermann 2017): mean, median and the share of samples within each threshold are
taken for each joint over its samples, and then averaged over the joints that are ever visible, without weights. Published
areas differ in their thresholds, so each has its name here:

    AUC_0_30px       trapezoid over 20 thresholds from 0 to 30 pixels (hand3d; fits table 5 of Gu 2021)
    AUC_mmpose       mean of the shares strictly within 0, 1.5, ..., 28.5 pixels, over all joints of a set (mmpose): about 0.025 less
    AUC_20_50mm      trapezoid over 100 thresholds from 20 to 50 millimetres (Cai 2018, BiHand; fits table 5 of Gu 2021)
    AUC_0_50mm       trapezoid over 20 thresholds from 0 to 50 millimetres (hand3d)
    AUC_hand3d_20mm  the part of that curve from 21.05 mm on, which hand3d's code calls 20 to 50 mm (QUIRK M2)

A pixel is one of the coordinates that are given: of the picture, unless the caller says otherwise. NumPy only.

`score` reads the hands in space of a result file (results/NAME_3d.json of a run) and their labels (COCO JSON with keypoints_3d).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxpose import files, hands, metrics

__all__ = [
    "MILLIMETRES",
    "PIXELS",
    "JointErrors",
    "absolute",
    "is_result",
    "joint_errors",
    "labels_of",
    "root_relative",
    "score",
    "scores_2d",
    "scores_3d",
]

PIXELS = np.linspace(0.0, 30.0, 20)
"""Thresholds of hand3d in pixels."""
MILLIMETRES = np.linspace(20.0, 50.0, 100)
"""Thresholds from 20 to 50 mm."""
HAND3D_MILLIMETRES = np.linspace(0.0, 50.0, 20)
FAR_OFF = 0.1
"""Median distance of projected joints from their keypoints, as a fraction of the hand's extent, above which labels are wrong."""
SMALLEST_MM = 40.0  # diagonal of the extent of a hand: a few hundred in mm, below 40 in cm, below 1 in metres
LARGEST_MM = 1000.0  # of the same; that of a long hand with spread fingers is below 300
HAND3D_FROM = 8  # index of 21.05 mm in them


class JointErrors(NamedTuple):
    """The errors of a set, averaged over its joints after each joint's own statistics.

    mean, median: in the unit of the errors.
    curve: (T,) share of samples within each threshold.
    auc: the trapezoid of the curve, divided by the range of the thresholds.
    """

    mean: float
    median: float
    curve: np.ndarray
    auc: float


def joint_errors(error: ArrayLike, *, thresholds: ArrayLike, where: ArrayLike | None = None) -> JointErrors:
    """Computes the statistics of each joint, and their means over the joints that are ever visible.

    Args:
        error: (N, K) distances of N hands.
        thresholds: (T,) increasing lengths in the unit of the errors; an error equal to one is within it.
        where: (N, K) bool or None, the joints that are visible.

    Returns:
        `JointErrors`, NaN if no joint is ever visible.

    Raises:
        ValueError: a shape is wrong, or an error that counts is not finite.

    >>> joint_errors([[1.0, 5.0], [9.0, 5.0]], thresholds=[0.0, 5.0, 10.0])
    JointErrors(mean=5.0, median=5.0, curve=array([0.  , 0.75, 1.  ]), auc=0.625)
    """
    error = np.asarray(error, np.float64)
    if error.ndim != 2:
        raise ValueError(f"errors must be (N, K), got {error.shape}")
    where = np.ones(error.shape, bool) if where is None else np.asarray(where, bool)
    if where.shape != error.shape:
        raise ValueError(f"where must be {error.shape} as the errors, got {where.shape}")
    if not np.isfinite(error[where]).all():
        hand, joint = np.argwhere(where & ~np.isfinite(error))[0].tolist()
        raise ValueError(f"the error of hand {hand}, joint {joint} is not finite: the prediction or the label is NaN")
    thresholds = np.asarray(thresholds, np.float64)
    auc = metrics.auc_of_errors(error, thresholds=thresholds, where=where)
    of_joints = [error[where[:, k], k] for k in range(error.shape[1]) if where[:, k].any()]
    if not of_joints:
        return JointErrors(np.nan, np.nan, np.full(thresholds.shape, np.nan), auc)
    curve = np.mean([(e[:, None] <= thresholds).mean(0) for e in of_joints], axis=0)
    return JointErrors(
        float(np.mean([e.mean() for e in of_joints])), float(np.mean([np.median(e) for e in of_joints])), curve, auc
    )


def scores_2d(pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None) -> dict[str, float]:
    """Returns the errors of joints in pixels: EPE_px, EPE_px_median, AUC_0_30px, AUC_mmpose.

    Args:
        pred, target: (N, 21, 2) pixels.
        where: (N, 21) bool or None, the joints that are visible.

    Raises:
        ValueError: as `joint_errors`.

    >>> scores = scores_2d(np.zeros((1, 21, 2)), np.full((1, 21, 2), [3.0, 4.0]))
    >>> {name: round(value, 3) for name, value in scores.items()}
    {'EPE_px': 5.0, 'EPE_px_median': 5.0, 'AUC_0_30px': 0.816, 'AUC_mmpose': 0.8}
    """
    errors = joint_errors(metrics.distance(pred, target, where=where), thresholds=PIXELS, where=where)
    return {
        "EPE_px": errors.mean,
        "EPE_px_median": errors.median,
        "AUC_0_30px": errors.auc,
        "AUC_mmpose": metrics.auc(pred, target, norm=30.0, where=where),
    }


def scores_3d(pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None) -> dict[str, float]:
    """Returns the errors of joints in millimetres: EPE_mm, EPE_mm_median, AUC_20_50mm, AUC_0_50mm, AUC_hand3d_20mm.

    Both are compared as they are given; `root_relative` moves them first.

    Args:
        pred, target: (N, 21, 3) millimetres.
        where: (N, 21) bool; None counts every joint, as hand3d does in space.

    Raises:
        ValueError: as `joint_errors`.

    >>> scores = scores_3d(np.zeros((1, 21, 3)), np.full((1, 21, 3), [0.0, 0.0, 35.0]))
    >>> {name: round(value, 2) for name, value in scores.items()}
    {'EPE_mm': 35.0, 'EPE_mm_median': 35.0, 'AUC_20_50mm': 0.5, 'AUC_0_50mm': 0.29, 'AUC_hand3d_20mm': 0.5}
    """
    error = metrics.distance(pred, target, where=where)
    errors = joint_errors(error, thresholds=MILLIMETRES, where=where)
    of_hand3d = joint_errors(error, thresholds=HAND3D_MILLIMETRES, where=where)
    return {
        "EPE_mm": errors.mean,
        "EPE_mm_median": errors.median,
        "AUC_20_50mm": errors.auc,
        "AUC_0_50mm": of_hand3d.auc,
        "AUC_hand3d_20mm": _trapezoid(of_hand3d.curve[HAND3D_FROM:], HAND3D_MILLIMETRES[HAND3D_FROM:]),
    }


def root_relative(
    pred: ArrayLike, target: ArrayLike, *, bone: ArrayLike, root: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both hands relative to their roots, the prediction with the true scale (Iqbal 2018, Zimmermann 2017).

    Args:
        pred: (N, 21, 3) in units of the key bone.
        target: (N, 21, 3) millimetres.
        bone: (N,) true lengths of the key bone, millimetres.
        root: the joint that becomes the origin.

    >>> hand = np.arange(63.0).reshape(1, 21, 3)
    >>> a, b = root_relative(hand + 100, 40 * hand, bone=[40.0])
    >>> bool(np.allclose(a, b))
    True
    """
    pred, target = (np.asarray(joints, np.float64) for joints in (pred, target))
    pred, target = (joints - joints[..., root : root + 1, :] for joints in (pred, target))
    return pred * np.asarray(bone, np.float64)[..., None, None], target


def absolute(pred: ArrayLike, *, bone: float) -> np.ndarray:
    """Returns hands in units of the key bone in the camera's frame in millimetres, with one length of the bone for all.

    The size of a hand is not known from one picture: the mean length of the training hands takes its place, and an error
    of it moves the whole hand along the ray.

    Args:
        pred: (..., 21, 3) in units of the key bone.
        bone: mean length of the key bone, millimetres.

    >>> absolute(np.ones((21, 3)), bone=35.0)[0]
    array([35., 35., 35.])
    """
    return np.asarray(pred, np.float64) * bone


def labels_of(person: Mapping[str, Any], *, name: str, bone: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the joints (21, 3) in millimetres and the camera (4,) of an annotation with joints in space.

    Args:
        person: the annotation, with "keypoints_3d" and "camera".
        name: the name of the annotation, for errors.
        bone: the key bone, whose length must not be zero.

    Raises:
        ValueError: a number is missing or not finite, the key bone has no length, lengths are in another unit, a joint
            lies behind the camera, or the camera does not project the joints onto the labelled "keypoints", if there are any.

    >>> person = {"keypoints_3d": (1000 * hands.example_hand()).ravel().tolist(), "camera": [300, 160, 160]}
    >>> labels_of(person, name="annotation 1", bone=hands.PALM)[1].tolist()
    [300.0, 300.0, 160.0, 160.0]
    """
    try:
        xyz = np.asarray(person["keypoints_3d"], np.float64).reshape(21, 3)
        camera = np.asarray(person.get("camera"), np.float64)
        camera = camera[[0, 0, 1, 2]] if camera.shape == (3,) else camera
        if camera.shape != (4,) or not np.isfinite(camera).all() or not np.isfinite(xyz).all():
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: expected 'keypoints_3d', 63 numbers in millimetres in the camera's frame, with 'camera', fx, fy, cx, cy in "
            "pixels; leave 'keypoints_3d' out of a hand that is not known in space"
        ) from None
    try:
        hands.bone_length(xyz, bone=bone)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).partition(': ')[2]}") from None
    extent = float(np.linalg.norm(np.ptp(xyz, axis=0)))
    if extent < SMALLEST_MM:
        raise ValueError(
            f"{name}: the hand in 'keypoints_3d' is {extent:.3g} mm large: these look like "
            f"{'metres' if extent < 1 else 'centimetres'}; multiply them by {1000 if extent < 1 else 10}"
        )
    if extent > LARGEST_MM:
        looks = (
            "a hand is smaller than 0.3 m: a joint is misplaced, or the lengths are in another unit than millimetres"
        )
        if extent > 1000 * SMALLEST_MM:
            looks = (
                "these look like millimetres that were multiplied by 1000 as if they were metres; expected millimetres here, and "
                "metres in RHD's pickles"
            )
        raise ValueError(f"{name}: the hand in 'keypoints_3d' is {extent / 1000:.3g} m large: {looks}")
    if (xyz[:, 2] <= 0).any():
        raise ValueError(
            f"{name}: joints in space behind the camera (z <= 0): these look like coordinates of the world or relative to the wrist; "
            "expected those of the camera, x right, y down, z away from it"
        )
    _check_projection(xyz, camera, _numbers(person.get("keypoints", [])), name)
    return xyz, camera


# What may be wrong with labels in space that the camera does not project onto the keypoints: (joints, camera) -> corrected ones.
REPAIRS: tuple[tuple[Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], str], ...] = (
    (
        lambda xyz, camera: (hands.reversed_fingers(xyz), camera),
        "its fingers run in the other direction than those of 'keypoints'; jaxpose.hands.reversed_fingers turns them",
    ),
    (lambda xyz, camera: (xyz * [-1, 1, 1], camera), "its x points to the left: negate it"),
    (lambda xyz, camera: (xyz * [1, -1, 1], camera), "its y points up: negate it"),
    (lambda xyz, camera: (xyz * [-1, -1, 1], camera), "its x points to the left and its y up: negate both"),
    (
        lambda xyz, camera: (xyz, camera[[2, 3, 0, 1]]),
        "'camera' is in the order cx, cy, fx, fy; expected fx, fy, cx, cy",
    ),
)


def _check_projection(xyz: np.ndarray, camera: np.ndarray, keypoints: np.ndarray, name: str) -> None:
    """Raises a ValueError if the camera does not project a hand onto its labelled keypoints; it says what does."""
    if keypoints.shape != (63,):  # the reader of the keypoints says so
        return
    target, labelled = np.split(keypoints.reshape(21, 3), [2], axis=1)
    labelled = labelled[:, 0] > 0
    if not labelled.any():
        return

    def misfit(joints: np.ndarray, camera: np.ndarray) -> tuple[float, np.ndarray]:
        px = (joints[:, :2] / joints[:, 2:] * camera[:2] + camera[2:])[labelled]
        extent = max(np.ptp(px, axis=0).max(), np.ptp(target[labelled], axis=0).max(), 1.0)
        return float(np.median(np.linalg.norm(px - target[labelled], axis=1)) / extent), px

    share, px = misfit(xyz, camera)
    if share <= FAR_OFF:
        return
    scale = float((px * target[labelled]).sum() / max((px**2).sum(), 1e-9))
    repairs = [
        *REPAIRS,
        (
            lambda joints, own: (joints, own * scale),
            f"'camera' is that of a picture {1 / max(scale, 1e-9):.3g} times as wide",
        ),
    ]
    reasons = (reason for repair, reason in repairs if misfit(*repair(xyz, camera))[0] <= FAR_OFF)
    raise ValueError(
        f"{name}: 'camera' projects 'keypoints_3d' {share:.0%} of the hand's extent away from 'keypoints' (median): "
        + next(
            reasons,
            "the focal length, the principal point or the order of the joints is wrong, or they are of another picture",
        )
    )


def is_result(path: str | os.PathLike) -> bool:
    """Returns whether a file is a list of results in space without joints in pixels, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return re.match(rb'\s*\[\s*\{[^\[\]{}]*"keypoints_3d"', file.read(500)) is not None
    except OSError:
        return False


def score(ground_truth: str | os.PathLike, results: str | os.PathLike) -> dict[str, float]:
    """Scores hands in space, as an evaluation of experiments.rhd_integral does.

    Args:
        ground_truth: COCO JSON whose annotations have keypoints_3d and camera; those without are not scored, nor those without a
            labelled joint in the picture.
        results: a list of annotation_id and keypoints_3d, 63 numbers in millimetres in the camera's frame; with "bone", the
            name of the key bone, and "bone_mm", its length in the prediction, also the scores with the true length.

    Returns:
        absolute_EPE_mm; with "bone" and "bone_mm" also depth_mm, and the scores of `scores_3d` relative to the wrist with the
        true length of the key bone.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is bad, or labels and results do not belong to each other; the message names it.
    """
    records = _records(results)
    names = {str(record.get("bone")) for record in records.values()}
    has_bone = all({"bone", "bone_mm"} <= record.keys() for record in records.values())
    if has_bone and (len(names) > 1 or not names <= hands.NAMED_BONES.keys()):
        raise ValueError(
            f"{results}: the key bone of its results is {', '.join(sorted(names))}: expected one of "
            f"{', '.join(hands.NAMED_BONES)} for all"
        )
    key_bone = hands.NAMED_BONES[names.pop()] if has_bone else hands.PALM
    labels = _labels(ground_truth, key_bone)
    if missing := [number for number, (_, is_seen) in labels.items() if is_seen and number not in records]:
        raise ValueError(
            f"{results}: {len(missing)} labelled hands have no result, the first is annotation {missing[0]}"
        )
    if extra := sorted(records.keys() - labels.keys()):
        raise ValueError(
            f"{results}: {len(extra)} results have no label in space in {ground_truth}, the first is annotation {extra[0]}"
        )
    pred = np.array([record["keypoints_3d"] for record in records.values()], np.float64).reshape(-1, 21, 3)
    target = np.array([labels[number][0] for number in records])
    absolute_error = {"absolute_EPE_mm": scores_3d(pred, target)["EPE_mm"]}
    if not has_bone:
        return absolute_error
    unit = np.array([record["bone_mm"] for record in records.values()], np.float64)[:, None, None]
    relative, truth = root_relative(pred / unit, target, bone=hands.bone_length(target, bone=key_bone))
    depth = float(np.abs(relative - truth)[:, 1:, 2].mean())
    return {"depth_mm": depth, **scores_3d(relative, truth), **absolute_error}


def _records(path: str | os.PathLike) -> dict[int, Mapping[str, Any]]:
    """Returns the results of a file by the id of their annotation."""
    content = files.read_json(path, "result file")
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}: results must be a list with one record per hand, and at least one")
    records: dict[int, Mapping[str, Any]] = {}
    for i, record in enumerate(content):
        number = record.get("annotation_id") if isinstance(record, Mapping) else None
        if type(number) is not int or number in records:
            raise ValueError(
                f"{path}: result {i} has the annotation_id {number!r:.30}: expected the id of the hand's annotation, an integer that "
                'no other result has (people in space are scored against labels with "kind": "poses_3d")'
            )
        joints, length = _numbers(record.get("keypoints_3d")), _numbers([record.get("bone_mm", 1.0)])
        if joints.shape != (63,) or length.shape != (1,) or not length[0] > 0:
            raise ValueError(
                f"{path}: result {i} (annotation {number}): expected 'keypoints_3d', 63 finite numbers in millimetres, and a positive "
                "'bone_mm' or none"
            )
        records[number] = record
    return records


def _numbers(values: Any) -> np.ndarray:
    """Returns a list of finite numbers as an array; an empty one if it is none."""
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros(0)
    return numbers if numbers.ndim == 1 and np.isfinite(numbers).all() else np.zeros(0)


def _labels(path: str | os.PathLike, bone: tuple[int, int]) -> dict[int, tuple[np.ndarray, bool]]:
    """Returns the joints (21, 3) of the hands of a COCO JSON by annotation id, and whether one is labelled in the picture."""
    content = files.read_json(path, "ground truth")
    people = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(people, list) or not all(isinstance(p, dict) and type(p.get("id")) is int for p in people):
        raise ValueError(f"{path}: expected COCO JSON, an object with 'annotations' that have an integer 'id'")
    labels = {}
    for person in people:
        if person.get("keypoints_3d") is not None:
            joints, _ = labels_of(person, name=f"{path}: annotation {person['id']}", bone=bone)
            labels[person["id"]] = joints, bool((_numbers(person.get("keypoints", []))[2::3] > 0).any())
    if not labels:
        raise ValueError(f"{path}: no annotation has 'keypoints_3d', so that the results in space cannot be scored")
    return labels


def _trapezoid(curve: np.ndarray, thresholds: np.ndarray) -> float:
    return float(((curve[1:] + curve[:-1]) / 2 * np.diff(thresholds)).sum() / (thresholds[-1] - thresholds[0]))
