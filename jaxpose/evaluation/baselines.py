"""The baselines of an evaluation: the errors of predictors that never look at a pixel.

`mean_position` puts every joint at its mean place in the box, so it knows nothing but the box. `nearest_pose` takes the
training pose that fits the labels best. Choosing it requires the labels, so its error is the least that copying from the
training set could reach, and a model below it has learned more than to copy. Both see poses in units of their box.
NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxpose import metrics

__all__ = [
    "BASELINES",
    "CLEARLY_BETTER",
    "WHOLE_IMAGE",
    "Baselines",
    "box_share",
    "causes",
    "mean_position",
    "nearest_pose",
    "verdict",
]

MAX_POSES = 1000
"""At most this number of training poses is compared, evenly spaced in the training set: COCO has 150,000."""
BASELINES = "baselines.json"
"""The file of a run that holds its `Baselines` and its `box_share`."""
WHOLE_IMAGE = 0.75
"""Nets whose training boxes span at least this part of the image can take a whole image for a box."""
CLEARLY_BETTER = 0.5
"""A model is clearly better than the mean position if its error is below this fraction of that one's."""


@dataclass(frozen=True)
class Baselines:
    """What the training set alone tells about a pose: made by `from_training`, stored with a run, read by evaluations.

    Attributes:
        mean: ``(K, 2)`` mean place of every joint in units of the box, (0, 0) its upper left and (1, 1) its lower right
            corner; the centre for a joint that is never labelled.
        poses: ``(M, K, 2)`` training poses in the same unit, with unlabelled joints at their mean place.
    """

    mean: np.ndarray
    poses: np.ndarray

    @classmethod
    def from_training(cls, keypoints: ArrayLike, boxes: ArrayLike) -> Baselines:
        """Computes the baselines of a training set.

        Args:
            keypoints: ``(N, K, 3)`` x, y in image pixels and visibility (0: unlabelled).
            boxes: ``(N, 4)`` x, y, width, height in image pixels.

        Raises:
            ValueError: The shapes do not fit, or there is nobody.

        >>> keypoints = np.array([[[10, 10, 2], [30, 10, 2]], [[10, 30, 2], [0, 0, 0]]])
        >>> Baselines.from_training(keypoints, np.array([[0, 0, 40, 40], [0, 0, 40, 40]])).mean.tolist()
        [[0.25, 0.5], [0.75, 0.25]]
        """
        keypoints, boxes = np.asarray(keypoints, np.float64), np.asarray(boxes, np.float64)
        if keypoints.ndim != 3 or keypoints.shape[-1] != 3 or boxes.shape != (len(keypoints), 4) or len(boxes) == 0:
            raise ValueError(
                f"expected keypoints (N, K, 3) and boxes (N, 4) of at least one person, got {keypoints.shape} and {boxes.shape}"
            )
        labelled = keypoints[..., 2] > 0
        places = (keypoints[..., :2] - boxes[:, None, :2]) / np.maximum(boxes[:, None, 2:], 1e-9)
        count = labelled.sum(0)[:, None]
        total = np.where(labelled[..., None], places, 0.0).sum(0)
        mean = np.where(count > 0, total / np.maximum(count, 1), 0.5)
        poses = np.where(labelled[..., None], places, mean)
        rows = np.unique(np.linspace(0, len(poses) - 1, min(len(poses), MAX_POSES)).round().astype(int))
        return cls(mean, poses[rows])

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-able values, rounded to four digits.

        >>> Baselines.from_dict(Baselines(np.zeros((1, 2)), np.ones((3, 1, 2))).to_dict()).poses.shape
        (3, 1, 2)
        """
        return {"mean": self.mean.round(4).tolist(), "poses": self.poses.round(4).tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Baselines:
        """Inverts `to_dict`.

        Raises:
            ValueError: The values are not those of `to_dict`.
        """
        try:
            mean, poses = (np.asarray(values[name], np.float64) for name in ("mean", "poses"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"Invalid baselines of a run ({type(error).__name__}: {error})") from None
        if mean.ndim != 2 or mean.shape[1] != 2 or poses.shape[1:] != mean.shape:
            raise ValueError(
                f"baselines of a run hold a mean (K, 2) and poses (M, K, 2), got {mean.shape} and {poses.shape}"
            )
        return cls(mean, poses)

    def errors(self, predictions: Mapping[str, ArrayLike], *, nearest: bool = True) -> dict[str, float]:
        """Returns the errors of both baselines on an evaluation set.

        Args:
            predictions: joints ``(N, K, 2)`` in image pixels, visibility ``(N, K)`` and box ``(N, 4)`` of N persons, as
                in `jaxpose.evaluation.report.details`.
            nearest: Also compute the nearest pose, which takes a millisecond per person.

        Returns:
            EPE_mean_position and EPE_nearest_pose, in image pixels over all labelled joints; {} if none is labelled.

        >>> b = Baselines(mean=np.array([[0.5, 0.5]]), poses=np.array([[[0.0, 0.0]], [[1.0, 1.0]]]))
        >>> b.errors({"joints": np.array([[[30.0, 40.0]]]), "visibility": np.array([[2]]), "box": np.array([[0, 0, 60, 80]])})
        {'EPE_mean_position': 0.0, 'EPE_nearest_pose': 50.0}
        """
        joints, boxes = (np.asarray(predictions[name], np.float64) for name in ("joints", "box"))
        where = np.asarray(predictions["visibility"]) > 0
        if joints.shape[1:] != (len(self.mean), 2) or not where.any():
            return {}
        predicted = {"EPE_mean_position": mean_position(self.mean, boxes)}
        if nearest:
            predicted["EPE_nearest_pose"] = nearest_pose(self.poses, joints, boxes, where=where)
        return {name: float(metrics.distance(xy, joints, where=where)[where].mean()) for name, xy in predicted.items()}


def box_share(boxes: ArrayLike, sizes_wh: ArrayLike) -> float:
    """Returns the median part of the image that a box spans, in the direction in which it spans more.

    Args:
        boxes: ``(N, 4)`` x, y, width, height in image pixels.
        sizes_wh: ``(N, 2)`` width and height of the image of each box.

    >>> box_share([[0, 0, 20, 80], [5, 5, 30, 30]], [[100, 100], [100, 60]])
    0.65
    """
    boxes, sizes_wh = np.asarray(boxes, np.float64), np.asarray(sizes_wh, np.float64)
    return float(np.median((boxes[:, 2:] / sizes_wh).max(-1)))


def mean_position(mean: ArrayLike, boxes: ArrayLike) -> np.ndarray:
    """Puts joints at their mean place: ``(K, 2)`` in units of the box, ``(N, 4)`` boxes -> ``(N, K, 2)`` image pixels.

    >>> mean_position(np.array([[0.5, 0.25]]), np.array([[10, 20, 40, 80]])).tolist()
    [[[30.0, 40.0]]]
    """
    return _place(np.asarray(mean, np.float64)[None], np.asarray(boxes, np.float64))


def nearest_pose(poses: ArrayLike, joints: ArrayLike, boxes: ArrayLike, *, where: ArrayLike) -> np.ndarray:
    """Returns the training pose that is nearest to the labels, in each person's box.

    Args:
        poses: ``(M, K, 2)`` poses in units of the box.
        joints: ``(N, K, 2)`` labels in image pixels.
        boxes: ``(N, 4)`` x, y, width, height in image pixels.
        where: ``(N, K)`` labelled joints. A person without labelled joints gets the first pose.

    Returns:
        ``(N, K, 2)`` image pixels.
    """
    poses, joints, boxes = (np.asarray(array, np.float64) for array in (poses, joints, boxes))
    where = np.asarray(where, bool)
    nearest = np.empty_like(joints)
    for i, (label, box, counted) in enumerate(
        zip(joints, boxes, where, strict=True)
    ):  # one person at a time: (M, K, 2)
        placed = _place(poses, box[None])
        error = np.linalg.norm(np.where(counted[:, None], placed - label, 0.0), axis=-1).sum(-1)
        nearest[i] = placed[error.argmin()]
    return nearest


def _place(poses: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return boxes[:, None, :2] + poses * boxes[:, None, 2:]


def verdict(scores: Mapping[str, Any]) -> str | None:
    """Returns one sentence if a model is not clearly better than the mean position; None if it is, or if unknown.

    Args:
        scores: The scores of an evaluation: EPE and EPE_mean_position, and perhaps EPE_nearest_pose.

    >>> verdict({"EPE": 5.0, "EPE_mean_position": 28.0})
    >>> verdict({"EPE": 121.0, "EPE_mean_position": 40.0})[:94]
    'this model is worse than knowing nothing: its mean error is 121.0 px, that of putting every jo'
    """
    error, trivial = scores.get("EPE"), scores.get("EPE_mean_position")
    if error is None or trivial is None or error < CLEARLY_BETTER * trivial:
        return None
    if error >= trivial:
        what = "worse than knowing nothing"
    else:
        what = "not clearly better than knowing nothing"
    return (
        f"this model is {what}: its mean error is {error:.1f} px, that of putting every joint at its mean place in the box "
        f"{trivial:.1f} px"
    )


def causes(predictions: Mapping[str, ArrayLike], *, flip_pairs: ArrayLike, flipped: bool) -> list[str]:
    """Lists likely causes of a bad evaluation that show in the labels and the predictions, one sentence each.

    Args:
        predictions: xy, joints ``(N, K, 2)``, visibility ``(N, K)``, box ``(N, 4)``, in image pixels.
        flip_pairs: Index pairs of left and right joints.
        flipped: True if training mirrored the images.

    >>> people = dict(xy=np.zeros((1, 2, 2)), joints=np.full((1, 2, 2), 90.0), visibility=np.ones((1, 2)), box=np.array([[0, 0, 9, 9]]))
    >>> causes(people, flip_pairs=[], flipped=True)[0][:66]
    '100 % of the labelled joints lie outside their boxes: are the boxe'
    """
    xy, joints, box = (np.asarray(predictions[name], np.float64) for name in ("xy", "joints", "box"))
    where = np.asarray(predictions["visibility"]) > 0
    sentences = []
    if not where.any():
        return ["no joint is labelled in the evaluation split"]
    margin = 0.25 * box[:, None, 2:]
    outside = ((joints < box[:, None, :2] - margin) | (joints > box[:, None, :2] + box[:, None, 2:] + margin)).any(-1)
    share = outside[where].mean()
    if share > 0.05:
        sentences.append(
            f"{share:.0%} of the labelled joints lie outside their boxes: are the boxes x, y, width, height?".replace(
                "%", " %"
            )
        )
    pairs = np.asarray(flip_pairs, int).reshape(-1, 2)
    if flipped and len(pairs) == 0:
        sentences.append(
            "training mirrored the images, but no joint of the skeleton has a partner on the other side: left and right "
            "cannot be told apart (--augment without flips, or names such as left_ear and right_ear)"
        )
    swapped = _swapped(xy, joints, where, pairs)
    if swapped > 0.1:
        sentences.append(
            f"in {swapped:.0%} of the pairs the prediction fits better with left and right exchanged: are they labelled in two "
            "orders?".replace("%", " %")
        )
    return sentences


def _swapped(xy: np.ndarray, joints: np.ndarray, where: np.ndarray, pairs: np.ndarray) -> float:
    """Returns the share of labelled pairs that fit at most half as badly when left and right are exchanged."""
    if len(pairs) == 0:
        return 0.0
    left, right = pairs.T
    both = where[:, left] & where[:, right]
    distance = lambda a, b: np.linalg.norm(xy[:, a] - joints[:, b], axis=-1)  # noqa: E731
    straight, crossed = distance(left, left) + distance(right, right), distance(left, right) + distance(right, left)
    return float((crossed < 0.5 * straight)[both].mean()) if both.any() else 0.0
