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
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxpose import metrics

__all__ = [
    "MILLIMETRES",
    "PIXELS",
    "JointErrors",
    "absolute",
    "joint_errors",
    "root_relative",
    "scores_2d",
    "scores_3d",
]

PIXELS = np.linspace(0.0, 30.0, 20)
"""Thresholds of hand3d in pixels."""
MILLIMETRES = np.linspace(20.0, 50.0, 100)
"""Thresholds from 20 to 50 mm."""
HAND3D_MILLIMETRES = np.linspace(0.0, 50.0, 20)
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
    pred, target = (np.asarray(hands, np.float64) for hands in (pred, target))
    pred, target = (hands - hands[..., root : root + 1, :] for hands in (pred, target))
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


def _trapezoid(curve: np.ndarray, thresholds: np.ndarray) -> float:
    return float(((curve[1:] + curve[:-1]) / 2 * np.diff(thresholds)).sum() / (thresholds[-1] - thresholds[0]))
