"""OKS non-maximum suppression: of two poses that are nearly the same, the one with the lower score is removed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["lower_scores", "oks_nms", "pairwise_oks", "soft_oks_nms"]

Variant = Literal["mmpose", "hrnet"]


def oks_nms(
    poses: ArrayLike,
    scores: ArrayLike,
    areas: ArrayLike,
    *,
    sigmas: ArrayLike,
    threshold: float = 0.9,
    visibility_threshold: float | None = None,
    variant: Variant = "mmpose",
) -> np.ndarray:
    """Greedy suppression: keep the best pose, remove poses whose OKS with it exceeds `threshold`, repeat with the rest.

    Args:
        poses: ``(N, K, 3)``: x, y in image pixels, confidence; one image, one category.
        scores: ``(N,)`` scores of the poses.
        areas: ``(N,)`` areas in square pixels; the OKS of two poses uses the mean of theirs. The published pipelines take
            the area of the padded crop.
        sigmas: ``(K,)`` OKS sigmas.
        threshold: The OKS above which a pose is removed; 0.9 in the published configurations.
        visibility_threshold: The confidence above which a joint counts in the OKS. With None all joints count, whatever
            their confidence, as in the published configurations.
        variant: The rule for joints above `visibility_threshold`: "mmpose" counts those confident in both poses; "hrnet"
            those confident in the pose under test only, as HRNet's and RLE's code does by joining two lists with ``and``.

    Returns:
        Indices of the remaining poses, best score first (among equal scores, the first).

    >>> poses = np.zeros((2, 17, 3))
    >>> oks_nms(poses, [0.3, 0.7], [100.0, 100.0], sigmas=np.full(17, 0.1))
    array([1])
    """
    poses, scores, areas, sigmas = _checked(poses, scores, areas, sigmas, threshold, variant)
    order = np.argsort(-scores, kind="stable")
    remaining = []
    while order.size:
        best, order = order[0], order[1:]
        remaining.append(best)
        overlap = _oks_to(poses, areas, best, order, sigmas, visibility_threshold, variant)
        order = order[overlap <= threshold]
    return np.asarray(remaining, np.int64)


def soft_oks_nms(
    poses: ArrayLike,
    scores: ArrayLike,
    areas: ArrayLike,
    *,
    sigmas: ArrayLike,
    threshold: float = 0.9,
    max_people: int = 20,
    decay: Literal["gaussian", "linear"] = "gaussian",
    visibility_threshold: float | None = None,
    variant: Variant = "mmpose",
) -> tuple[np.ndarray, np.ndarray]:
    """Soft suppression: each selected pose lowers the scores of the poses that overlap it; none is removed outright.

    "gaussian": score * exp(-OKS^2 / threshold). "linear": score * (1 - OKS) where OKS >= threshold.

    Arguments that are not listed here are the same as in `oks_nms`.

    Args:
        max_people: The largest number of poses to select.
        decay: The rule above, "gaussian" or "linear".

    Returns:
        ``(indices, scores)``: the selected poses in the order of selection, and the lowered score of each at that time.
        The published pipelines keep the indices only and write the original scores.

    >>> poses = np.zeros((2, 17, 3))
    >>> indices, lowered = soft_oks_nms(poses, [0.3, 0.7], [100.0, 100.0], sigmas=np.full(17, 0.1))
    >>> indices, lowered.round(3)
    (array([1, 0]), array([0.7  , 0.099]))
    """
    poses, scores, areas, sigmas = _checked(poses, scores, areas, sigmas, threshold, variant)
    if max_people < 1:
        raise ValueError(f"max_people must be at least 1, got {max_people}")
    left, selected, selected_scores = np.argsort(-scores, kind="stable"), [], []
    scores = scores[left]
    while left.size and len(selected) < max_people:
        best, left = left[0], left[1:]
        selected.append(best)
        selected_scores.append(scores[0])
        overlap = _oks_to(poses, areas, best, left, sigmas, visibility_threshold, variant)
        scores = lower_scores(overlap, scores[1:], threshold=threshold, decay=decay)
        order = np.argsort(-scores, kind="stable")
        left, scores = left[order], scores[order]
    return np.asarray(selected, np.int64), np.asarray(selected_scores, np.float64)


def lower_scores(
    overlap: np.ndarray, scores: np.ndarray, *, threshold: float, decay: Literal["gaussian", "linear"]
) -> np.ndarray:
    """Lowers scores ``(N,)`` after a selected pose with these overlaps ``(N,)``, as in `soft_oks_nms`.

    >>> lower_scores(np.array([0.2, 0.5]), np.array([1.0, 1.0]), threshold=0.3, decay="linear")
    array([1. , 0.5])
    """
    if decay == "gaussian":
        return scores * np.exp(-(overlap**2) / threshold)
    if decay == "linear":
        return np.where(overlap >= threshold, scores * (1 - overlap), scores)
    raise ValueError(f"decay must be 'gaussian' or 'linear', got {decay!r}")


def pairwise_oks(
    poses: ArrayLike,
    areas: ArrayLike,
    *,
    sigmas: ArrayLike,
    visibility_threshold: float | None = None,
    variant: Variant = "mmpose",
) -> np.ndarray:
    """OKS of each of N poses (rows) with each (columns), as the suppression computes it; arguments as in `oks_nms`.

    Returns:
        ``(N, N)`` OKS.

    >>> pairwise_oks(np.zeros((2, 17, 3)), [100.0, 100.0], sigmas=np.full(17, 0.1))
    array([[1., 1.],
           [1., 1.]])
    """
    count = len(np.asarray(poses))
    poses, _, areas, sigmas = _checked(poses, np.zeros(count), areas, sigmas, 1.0, variant)
    everyone = np.arange(count)
    rows = [_oks_to(poses, areas, i, everyone, sigmas, visibility_threshold, variant) for i in everyone]
    return np.reshape(rows, (count, count))


def _oks_to(poses, areas, one: int, others: np.ndarray, sigmas, visibility_threshold, variant: str) -> np.ndarray:
    """Returns the OKS of pose `one` with each of `others`, (len(others),); 0 where no joint counts."""
    squared = ((poses[others, :, :2] - poses[one, :, :2]) ** 2).sum(axis=-1)
    area = (areas[one] + areas[others]) / 2 + np.spacing(1)
    similarity = np.exp(-squared / (2 * sigmas) ** 2 / area[:, None] / 2)
    counts = np.ones(similarity.shape, bool)
    if visibility_threshold is not None:
        counts = poses[others, :, 2] > visibility_threshold
        if variant == "mmpose":
            counts &= poses[one, :, 2] > visibility_threshold
    return np.where(counts, similarity, 0.0).sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)


def _checked(poses, scores, areas, sigmas, threshold, variant) -> tuple[np.ndarray, ...]:
    poses, scores, areas, sigmas = (np.asarray(a, np.float64) for a in (poses, scores, areas, sigmas))
    if poses.ndim != 3 or poses.shape[-1] != 3:
        raise ValueError(f"poses must be (N, K, 3): x, y, confidence; got {poses.shape}")
    people, num_joints = poses.shape[:2]
    for name, array, shape in (("scores", scores, people), ("areas", areas, people), ("sigmas", sigmas, num_joints)):
        if array.shape != (shape,):
            raise ValueError(f"{name} must be ({shape},) for poses {poses.shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    finite = np.isfinite(poses).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"pose {np.flatnonzero(~finite)[0]} holds a number that is not finite")
    if not (areas >= 0).all() or not (sigmas > 0).all():
        raise ValueError("areas must not be negative and sigmas must be positive")
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    if variant not in ("mmpose", "hrnet"):
        raise ValueError(f"variant must be 'mmpose' or 'hrnet', got {variant!r}")
    return poses, scores, areas, sigmas
