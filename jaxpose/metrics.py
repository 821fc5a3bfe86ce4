"""Distances between predicted and labelled joints: OKS, PCK, PCKh, EPE, AUC, MPJPE and related metrics.

NumPy in, NumPy out; JAX is not needed (its arrays are accepted and read). All functions take leading batch dimensions.
``where`` is a mask of joints that count (neither 0 nor NaN); joints that it leaves out never matter, not even if they are
NaN. Rates and areas under curves are fractions in [0, 1], distances are in the unit of the coordinates. `Mean` carries a
sum and a count, so that parts of a data set merge by addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "AREA_OF_BOX",
    "JointRates",
    "Mean",
    "auc",
    "auc_3d",
    "auc_of_errors",
    "distance",
    "epe",
    "head_size",
    "mpjpe",
    "mpjve",
    "n_mpjpe",
    "nme",
    "oks",
    "pa_mpjpe",
    "pck",
    "pck_3d",
    "pckh",
    "pckh_auc",
    "pearson",
    "procrustes_align",
    "scale_align",
]

AREA_OF_BOX = 0.53
"""The area of a person as a fraction of its box, for OKS without an annotated area: that of the CrowdPose evaluation."""


@dataclass(frozen=True)
class Mean:
    """A mean that accumulates: parts add up, whatever the order or the number of processes.

    >>> parts = Mean.from_values([1.0, 2.0]) + Mean.from_values([6.0, float("nan")], where=[True, False])
    >>> parts, parts.value
    (Mean(total=9.0, count=3.0), 3.0)
    """

    total: float = 0.0
    count: float = 0.0

    @classmethod
    def from_values(cls, values: ArrayLike, *, where: ArrayLike | None = None) -> Mean:
        """Returns the sum and the number of `values`, without those whose ``where`` is False. Both have one shape."""
        values = _as_float(values)
        where = _mask(where, values.shape, "values")
        return cls(float(np.where(where, values, 0.0).sum(dtype=np.float64)), float(where.sum()))

    def __add__(self, other: Mean) -> Mean:
        if not isinstance(other, Mean):
            return NotImplemented
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """total / count; NaN if nothing was counted."""
        return self.total / self.count if self.count else float("nan")


class JointRates(NamedTuple):
    """Rates of correct joints over a data set.

    per_joint: ``(K,)`` rates, -1 for a joint that is never labelled.
    mean: The mean over joints, weighted as the function that made it says.
    count: ``(K,)`` number of labels behind each rate.
    """

    per_joint: np.ndarray
    mean: float
    count: np.ndarray


def distance(pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None) -> np.ndarray:
    """Computes the Euclidean distance of each joint.

    Args:
        pred, target: ``(..., K, D)`` in the same shape.
        where: ``(..., K)`` bool, or None for all.

    Returns:
        ``(..., K)``, 0 where masked out.

    >>> distance([[0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [np.nan, 1.0]], where=[True, False])
    array([5., 0.])
    """
    pred, target, where = _joints(pred, target, where)
    return np.sqrt((_difference(pred, target, where) ** 2).sum(axis=-1))


def oks(
    xy: ArrayLike, target: ArrayLike, *, area: ArrayLike, sigmas: ArrayLike, where: ArrayLike | None = None
) -> np.ndarray:
    """Object keypoint similarity of each person: the mean over labelled joints of ``exp(-d^2 / (2 area (2 sigma)^2))``.

    Args:
        xy, target: ``(..., K, 2)`` in the same shape, in pixels.
        area: ``(...)``, the annotated area of the person in square pixels.
        sigmas: ``(K,)`` (`jaxpose.skeleton.Skeleton.sigmas`).
        where: ``(..., K)`` labelled joints (COCO's visibility above 0), or None for all.

    Returns:
        ``(...)`` in [0, 1]; 0 for a person without any labelled joint (COCO's evaluation ignores such a person).

    Source: COCO keypoint evaluation; as in pycocotools, the smallest float is added to the area.

    >>> target = np.zeros((17, 2))
    >>> from jaxpose.skeleton import COCO17
    >>> float(oks(target, target, area=100.0, sigmas=COCO17.sigmas))
    1.0
    """
    xy, target, where = _joints(xy, target, where)
    area, sigmas = _as_float(area), _sigmas(sigmas, xy.shape[-2])
    if area.shape != xy.shape[:-2]:
        raise ValueError(f"area must be {xy.shape[:-2]}, one per person of xy {xy.shape}, got {area.shape}")
    if not np.all(area >= 0):
        raise ValueError(f"area must be in square pixels and not negative, got {area.min()}")
    squared = (_difference(xy, target, where) ** 2).sum(axis=-1)
    variance = (2 * sigmas) ** 2
    exponent = squared / variance / (area[..., None] + np.spacing(1)) / 2
    labelled = where.sum(axis=-1)
    return np.where(where, np.exp(-exponent), 0.0).sum(axis=-1) / np.maximum(labelled, 1)


def pck(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    norm: ArrayLike,
    threshold: float = 0.2,
    where: ArrayLike | None = None,
) -> JointRates:
    """Percentage of correct keypoints: the share of joints nearer than ``threshold * norm``.

    Args:
        pred, target: ``(N, K, D)``.
        norm: A length in the unit of the coordinates: a number, ``(N,)``, or ``(N, D)`` for one per coordinate (the
            width and height of a box). A person with a norm of 0 does not count.
        threshold: The fraction of the norm; joints strictly nearer are correct.
        where: ``(N, K)`` bool or None.

    Returns:
        `JointRates`, whose mean is unweighted over the joints that are ever labelled, as in mmpose's PCKAccuracy.

    >>> pck(np.zeros((1, 2, 2)), np.array([[[1.0, 0.0], [3.0, 0.0]]]), norm=10.0, threshold=0.2).per_joint
    array([1., 0.])
    """
    normed, where = _normed_distance(pred, target, norm, where)
    return _rates(normed < threshold, where)


def auc(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    norm: ArrayLike = 30.0,
    num_thresholds: int = 20,
    where: ArrayLike | None = None,
) -> float:
    """Area under the PCK curve: the mean of `pck` at the thresholds ``i / num_thresholds``, i from 0.

    Args:
        pred, target: ``(N, K, D)``.
        norm: The same as in `pck`; 30 pixels is the convention for hands.
        num_thresholds: The number of thresholds; 20 gives 0, 0.05, ..., 0.95.
        where: ``(N, K)`` bool or None.

    Returns:
        A fraction, -1 if nothing is labelled. Source: mmpose's AUC.

    Raises:
        ValueError: A shape is wrong, or there is no threshold.

    >>> auc(np.zeros((1, 1, 2)), np.array([[[10.0, 0.0]]]), norm=20.0)
    0.45
    """
    if num_thresholds < 1:
        raise ValueError(f"num_thresholds={num_thresholds}: expected 1 or more")
    normed, where = _normed_distance(pred, target, norm, where)
    return float(np.mean([_rates(normed < i / num_thresholds, where).mean for i in range(num_thresholds)]))


def epe(pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None) -> float:
    """End-point error: the mean distance over all labelled joints. Inputs ``(..., K, D)``; NaN if nothing counts.

    Over parts of a data set, add up ``Mean.from_values(distance(pred, target), where=where)``.

    >>> epe([[[0.0, 0.0], [0.0, 1.0]]], [[[3.0, 4.0], [0.0, 0.0]]])
    3.0
    """
    pred, target, where = _joints(pred, target, where)
    return Mean.from_values(distance(pred, target, where=where), where=where).value


def nme(pred: ArrayLike, target: ArrayLike, *, norm: ArrayLike, where: ArrayLike | None = None) -> float:
    """Normalised mean error: the mean over labelled joints of distance / norm; arguments as in `pck`.

    >>> nme(np.zeros((1, 1, 2)), np.array([[[3.0, 4.0]]]), norm=10.0)
    0.5
    """
    normed, where = _normed_distance(pred, target, norm, where)
    return Mean.from_values(normed, where=where).value


def head_size(head_box: ArrayLike) -> np.ndarray:
    """MPII's head size: 0.6 times the diagonal of the head's box.

    Args:
        head_box: ``(..., 2, 2)``: two opposite corners, each (x, y).

    Returns:
        ``(...)`` pixels.

    >>> float(head_size([[0, 0], [30, 40]]))
    30.0
    """
    head_box = _as_float(head_box)
    if head_box.shape[-2:] != (2, 2):
        raise ValueError(f"head_box must be (..., 2, 2), two corners, got {head_box.shape}")
    return 0.6 * np.linalg.norm(head_box[..., 1, :] - head_box[..., 0, :], axis=-1)


def pckh(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    head_size: ArrayLike,
    threshold: float = 0.5,
    where: ArrayLike | None = None,
    exclude: Sequence[int] | None = None,
    inclusive: bool = True,
) -> JointRates:
    """PCKh: the share of joints within ``threshold`` head sizes.

    Args:
        pred, target: ``(N, K, 2)`` in the same pixel convention (MPII's published labels count pixels from 1).
        head_size: ``(N,)`` (`head_size`).
        threshold: The threshold in head sizes.
        where: ``(N, K)`` bool or None.
        exclude: The joints that the mean leaves out. None: MPII's pelvis and thorax, 6 and 7, if there are 16 joints
            (in MPII's order; pass your own for another), and no joint otherwise.
        inclusive: Count a distance of exactly the threshold as a hit, as in MPII's evaluation; mmpose does not.

    Returns:
        `JointRates`, whose mean is weighted by how often each joint is labelled.

    The number that HRNet prints as "Mean@0.1" is at threshold 0.11; mmpose's PCKh@0.1 is at 0.1 and not inclusive:
    published values of the two are not comparable.

    >>> pckh(np.zeros((1, 1, 2)), np.array([[[3.0, 4.0]]]), head_size=[10.0]).mean
    1.0
    """
    normed, where = _normed_distance(pred, target, head_size, where)
    hit = normed <= threshold if inclusive else normed < threshold
    rates = _rates(hit, where)
    num_joints = where.shape[-1]
    if exclude is None:
        exclude = (6, 7) if num_joints == 16 else ()
    if outside := [k for k in exclude if not 0 <= k < num_joints]:
        raise ValueError(f"exclude holds {outside}, expected joints of 0..{num_joints - 1}")
    included = [k for k in range(num_joints) if k not in exclude]
    labelled = where[:, included].sum()
    return rates._replace(mean=float((hit & where)[:, included].sum() / labelled) if labelled else -1.0)


def pckh_auc(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    head_size: ArrayLike,
    where: ArrayLike | None = None,
    exclude: Sequence[int] | None = None,
) -> float:
    """The mean of `pckh` over the 51 thresholds 0, 0.01, ..., 0.5; arguments as in `pckh`.

    No published code prints MPII's AUC; the papers define it as the average over 0 to 0.5.

    >>> pckh_auc(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)), head_size=[10.0])
    1.0
    """
    options = dict(head_size=head_size, where=where, exclude=exclude)
    return float(np.mean([pckh(pred, target, threshold=t, **options).mean for t in np.arange(0, 0.51, 0.01)]))


def mpjpe(pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None, root: int | None = None) -> np.ndarray:
    """Mean per-joint position error of each pose.

    Args:
        pred, target: ``(..., K, 3)`` (any D), usually millimetres.
        where: ``(..., K)`` bool or None.
        root: The index of the joint to which both poses are moved first, or None if they are already root-relative.

    Returns:
        ``(...)``; 0 for a pose without any joint that counts.

    Raises:
        ValueError: A shape is wrong, or the root is not a joint or is left out by `where`.

    Source: protocol 1 of Human3.6M.

    >>> float(mpjpe([[0.0, 0, 0], [0, 0, 1]], [[1.0, 0, 0], [1, 0, 4]], root=0))
    1.5
    """
    pred, target, where = _joints(pred, target, where)
    if root is not None:
        if not 0 <= root < pred.shape[-2]:
            raise ValueError(f"root={root}: expected a joint of 0..{pred.shape[-2] - 1}, or None")
        if not where[..., root].all():
            raise ValueError(f"the root joint {root} must count in every pose, but `where` leaves it out of some")
        pred, target = (p - p[..., root : root + 1, :] for p in (pred, target))
    return _mean_over_joints(distance(pred, target, where=where), where)


def pa_mpjpe(pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None, scale: bool = True) -> np.ndarray:
    """`mpjpe` after the prediction is moved, rotated and scaled onto the target (protocol 2, P-MPJPE).

    Args:
        pred, target: ``(..., K, D)``.
        where: ``(..., K)`` bool or None; joints that it leaves out take no part in the alignment either.
        scale: Also fit the size; False makes a rigid alignment, like the Integral repository's.

    Returns:
        ``(...)``.

    >>> pose = np.eye(3)
    >>> bool(pa_mpjpe(2 * pose + 1, pose) < 1e-9)
    True
    """
    return mpjpe(procrustes_align(pred, target, where=where, scale=scale), target, where=where)


def n_mpjpe(pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None) -> np.ndarray:
    """`mpjpe` after the prediction is scaled, and only scaled, to fit best (N-MPJPE). Shapes as in `mpjpe`.

    >>> float(n_mpjpe(2 * np.eye(3), np.eye(3)))
    0.0
    """
    return mpjpe(scale_align(pred, target, where=where), target, where=where)


def mpjve(pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None) -> np.ndarray:
    """Mean per-joint velocity error: the mean distance of the differences of successive frames of one sequence.

    Args:
        pred, target: ``(..., T, K, D)``, T successive frames of one sequence, 2 or more.
        where: ``(..., T, K)`` bool or None; a difference counts if the joint counts in both frames.

    Returns:
        ``(...)`` in the unit of the coordinates per frame; NaN if no difference counts.

    Raises:
        ValueError: A shape is wrong, or there are fewer than two frames.

    Source: Pavllo et al. 2019, section 5. Sequences of one data set are joined with the number of their differences as weights;
    a difference over the border of two sequences is none.

    >>> steps = np.arange(4.0)[:, None, None] * [[3.0, 4.0, 0.0]]
    >>> float(mpjve(steps, 0 * steps)), float(mpjve(steps + 5, steps))
    (5.0, 0.0)
    """
    pred, target, where = _joints(pred, target, where)
    if pred.ndim < 3 or pred.shape[-3] < 2:
        raise ValueError(f"prediction must be (..., T, K, D) with two successive frames or more, got {pred.shape}")
    errors = _difference(pred, target, where)
    counts = where[..., 1:, :] & where[..., :-1, :]
    moved = np.sqrt(
        (np.where(counts[..., None], errors[..., 1:, :, :] - errors[..., :-1, :, :], 0.0) ** 2).sum(axis=-1)
    )
    number = counts.sum(axis=(-2, -1))
    return np.where(number > 0, moved.sum(axis=(-2, -1)) / np.maximum(number, 1), np.nan)


def pck_3d(pred: ArrayLike, target: ArrayLike, *, threshold: float = 150.0, where: ArrayLike | None = None) -> float:
    """3DPCK: the share of joints whose error is strictly below a threshold, over all joints of all poses.

    Args:
        pred, target: ``(..., K, D)`` in the unit of the threshold, with their roots aligned already.
        threshold: A length; 150 is the convention in mm.
        where: ``(..., K)`` bool or None.

    Returns:
        A fraction; NaN if nothing counts.

    Raises:
        ValueError: A shape is wrong, or the threshold is not above 0.

    Source: Mehta et al. 2017 (MPI-INF-3DHP); the comparison is strict, as in mmpose's.

    >>> pck_3d(np.zeros((1, 2, 3)), np.array([[[150.0, 0, 0], [149.0, 0, 0]]]))
    0.5
    """
    if not threshold > 0:
        raise ValueError(f"threshold={threshold}: expected a length above 0")
    return _share_below(distance(pred, target, where=where), [threshold], where)


def auc_3d(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    thresholds: ArrayLike = tuple(range(0, 151, 5)),
    where: ArrayLike | None = None,
) -> float:
    """The mean of `pck_3d` over thresholds.

    Args:
        pred, target: ``(..., K, D)`` in the unit of the thresholds, with their roots aligned already.
        thresholds: ``(T,)`` lengths; 0, 5, ..., 150 mm by default. No error is strictly below 0, so that even a perfect
            prediction has 30/31.
        where: ``(..., K)`` bool or None.

    Returns:
        A fraction; NaN if nothing counts.

    Raises:
        ValueError: A shape is wrong, or there is no threshold.

    Source: mmpose 0.x, Mehta et al. 2017.

    >>> round(auc_3d(np.zeros((1, 1, 3)), np.zeros((1, 1, 3))), 4)
    0.9677
    """
    return _share_below(distance(pred, target, where=where), thresholds, where)


def auc_of_errors(error: ArrayLike, *, thresholds: ArrayLike, where: ArrayLike | None = None) -> float:
    """Area under the curve of each joint's PCK over a range of thresholds, averaged over the joints.

    Args:
        error: ``(N, K)`` distances of N samples.
        thresholds: ``(T,)`` increasing lengths in the unit of the errors, two or more; an error equal to one is within it.
        where: ``(N, K)`` bool or None, the joints that are visible.

    Returns:
        The trapezoid of the share of visible samples within each threshold, divided by the range, per joint, then the
        unweighted mean over the joints that are ever visible; NaN if none is.

    Raises:
        ValueError: A shape is wrong, or the thresholds do not increase.

    Source: the evaluation of Zimmermann and Brox 2017 (RHD). `auc` is mmpose's, which differs.

    >>> auc_of_errors([[1.0, 5.0], [9.0, 5.0]], thresholds=[0.0, 5.0, 10.0])
    0.625
    """
    error = _as_float(error)
    if error.ndim != 2:
        raise ValueError(f"errors must be (N, K), got {error.shape}")
    thresholds = np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1 or len(thresholds) < 2 or not (np.diff(thresholds) > 0).all():
        raise ValueError(f"thresholds must be two or more increasing lengths, got {thresholds.tolist()!s:.100}")
    where = _mask(where, error.shape, "the errors")
    count = where.sum(axis=0)
    if not count.any():
        return float("nan")
    within = ((error[None] <= thresholds[:, None, None]) & where).sum(axis=1)[:, count > 0] / count[count > 0]
    areas = ((within[1:] + within[:-1]) / 2 * np.diff(thresholds)[:, None]).sum(axis=0)
    return float(areas.mean() / (thresholds[-1] - thresholds[0]))


def _share_below(error: np.ndarray, thresholds: ArrayLike, where: ArrayLike | None) -> float:
    """Returns the share of errors (..., K) below a threshold, averaged over the thresholds."""
    thresholds = np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1 or not len(thresholds) or np.isnan(thresholds).any():
        raise ValueError(f"thresholds must be (T,) lengths, one or more, got {thresholds.tolist()!s:.100}")
    errors = error[_mask(where, error.shape, "the joints")]
    return float(np.mean([(errors < t).mean() for t in thresholds])) if errors.size else float("nan")


def scale_align(pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None) -> np.ndarray:
    """Returns ``a * pred`` with ``a = <pred, target> / <pred, pred>`` of each pose, the best scale in the squared error.

    Shapes are ``(..., K, D)``. Joints that ``where`` leaves out become 0.

    >>> scale_align([[2.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]])
    array([[1., 0.],
           [0., 1.]])
    """
    pred, target, where = _joints(pred, target, where)
    pred, target = (np.where(where[..., None], p, 0.0) for p in (pred, target))
    product, square = (pred * target).sum(axis=(-2, -1)), (pred * pred).sum(axis=(-2, -1))
    return pred * np.where(square > 0, product / np.where(square > 0, square, 1.0), 1.0)[..., None, None]


def procrustes_align(
    pred: ArrayLike, target: ArrayLike, *, where: ArrayLike | None = None, scale: bool = True
) -> np.ndarray:
    """Moves, rotates (never mirrors) and, with `scale`, scales the prediction to be nearest to the target.

    Args:
        pred, target: ``(..., K, D)``.
        where: ``(..., K)`` bool or None.
        scale: Also fit the size; False makes a rigid alignment.

    Returns:
        ``(..., K, D)``; joints that ``where`` leaves out become 0.

    Raises:
        ValueError: A shape is wrong, or a joint that counts is not finite, which would move all the others.

    Source: Umeyama 1991: with ``U S V^T`` the singular value decomposition of the covariance, ``R = V U^T``, the last
    axis reflected where det R < 0.

    >>> square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> quarter_turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> np.allclose(procrustes_align(3 * square @ quarter_turn + 5, square), square)
    True
    """
    pred, target, where = _joints(pred, target, where)
    weight = where[..., None].astype(pred.dtype)
    count = np.maximum(weight.sum(axis=-2, keepdims=True), 1)
    pred, target = (np.where(where[..., None], p, 0.0) for p in (pred, target))
    for name, pose in (("prediction", pred), ("target", target)):
        if not np.isfinite(pose).all():
            index = np.argwhere(~np.isfinite(pose))[0].tolist()
            raise ValueError(f"{name}{index} is not finite: leave such joints out with `where`")
    pred_mean, target_mean = (p.sum(axis=-2, keepdims=True) / count for p in (pred, target))
    p, t = (pred - pred_mean) * weight, (target - target_mean) * weight
    u, s, vt = np.linalg.svd(p.swapaxes(-1, -2) @ t)
    mirrored = np.linalg.det(u @ vt) < 0
    sign = np.ones(s.shape, s.dtype)
    sign[..., -1] = np.where(mirrored, -1, 1)
    rotation = (u * sign[..., None, :]) @ vt  # row vectors: p @ rotation
    size = (p * p).sum(axis=(-2, -1))
    factor = (s * sign).sum(axis=-1) / np.where(size > 0, size, 1.0) if scale else np.ones(size.shape, s.dtype)
    return (factor[..., None, None] * (p @ rotation) + target_mean) * weight


def pearson(x: ArrayLike, y: ArrayLike, *, where: ArrayLike | None = None) -> float:
    """Pearson's correlation coefficient of two sets of numbers of one shape.

    Args:
        x, y: Numbers in the same shape.
        where: A mask of the pairs that count; None counts all.

    Returns:
        -1 to 1. NaN if it is not defined: fewer than two pairs, all values of one side the same, or a value that
        counts and is not finite (leave it out with ``where``).

    Raises:
        ValueError: A shape is wrong.

    Used for confidence against OKS (Li et al. 2021, table 4) and for learned scale against size (Luo et al. 2021).

    >>> round(pearson([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]), 9)
    1.0
    >>> pearson([0.1, 0.1, 0.1], [2.0, 4.0, 6.0])
    nan
    """
    x, y = _as_float(x), _as_float(y)
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {x.shape} and {y.shape}")
    where = _mask(where, x.shape, "x")
    x, y = x[where].astype(np.float64), y[where].astype(np.float64)
    if x.size < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    # Compared, not subtracted: the mean of equal numbers may differ from them, and the remainders would correlate.
    if x.min() == x.max() or y.min() == y.max():
        return float("nan")
    return float(np.clip(_direction(x) @ _direction(y), -1, 1))


def _direction(values: np.ndarray) -> np.ndarray:
    """Returns the deviations from the mean, of length 1; scaled before they are squared, which numbers like 1e200 need."""
    values = values / np.abs(values).max()
    deviations = values - values.mean()
    deviations = deviations / np.abs(deviations).max()
    return deviations / np.linalg.norm(deviations)


def _as_float(array: ArrayLike) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)


def _mask(where: ArrayLike | None, shape: tuple[int, ...], name: str) -> np.ndarray:
    if where is None:
        return np.ones(shape, bool)
    where = np.asarray(where)
    if where.shape != shape:
        raise ValueError(f"where must be {shape} as {name}, got {where.shape}")
    return (where > 0) | (where < 0)  # NaN masks


def _joints(pred: ArrayLike, target: ArrayLike, where: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pred, target = _as_float(pred), _as_float(target)
    if pred.ndim < 2 or pred.shape != target.shape:
        raise ValueError(f"prediction and target must be (..., K, D) of one shape, got {pred.shape} and {target.shape}")
    return pred, target, _mask(where, pred.shape[:-1], "the joints")


def _difference(pred: np.ndarray, target: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Returns pred - target, 0 where masked out; values are replaced before the arithmetic."""
    return np.where(where[..., None], pred, 0.0) - np.where(where[..., None], target, 0.0)


def _sigmas(sigmas: ArrayLike, num_joints: int) -> np.ndarray:
    sigmas = np.asarray(sigmas, np.float64)
    if sigmas.shape != (num_joints,):
        raise ValueError(f"sigmas must be ({num_joints},), one per joint, got {sigmas.shape}")
    if not np.all(sigmas > 0):
        raise ValueError(f"sigmas must be positive, got {sigmas.min()}")
    return sigmas


def _mean_over_joints(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, values, 0.0).sum(axis=-1) / np.maximum(where.sum(axis=-1), 1)


def _normed_distance(pred: ArrayLike, target: ArrayLike, norm: ArrayLike, where: ArrayLike | None) -> tuple:
    """Returns distances in units of `norm`, and the joints that count: a norm of 0 drops the person."""
    pred, target, where = _joints(pred, target, where)
    if pred.ndim != 3:
        raise ValueError(f"prediction must be (N, K, D), got {pred.shape}")
    people, _, dim = pred.shape
    norm = _as_float(norm)
    if norm.shape not in ((), (people,), (people, dim)):
        raise ValueError(f"norm must be a number, ({people},) or ({people}, {dim}), got {norm.shape}")
    if not np.all(norm >= 0):
        raise ValueError(f"norm must not be negative or NaN, got {norm.min()}")
    norm = np.broadcast_to(norm.reshape(norm.shape + (1,) * (2 - norm.ndim)), (people, dim))
    where = where & (norm > 0).all(axis=-1, keepdims=True)
    units = np.where(norm > 0, norm, 1.0)[:, None, :]
    return np.sqrt(((_difference(pred, target, where) / units) ** 2).sum(axis=-1)), where


def _rates(hit: np.ndarray, where: np.ndarray) -> JointRates:
    """Computes rates from hit and where (N, K), with their mean unweighted over the labelled joints."""
    count = where.sum(axis=0)
    per_joint = np.where(count > 0, (hit & where).sum(axis=0) / np.maximum(count, 1), -1.0)
    return JointRates(per_joint, float(per_joint[count > 0].mean()) if count.any() else -1.0, count)
