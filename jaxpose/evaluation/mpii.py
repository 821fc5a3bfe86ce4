"""PCKh, MPII's metric, from predictions and ``gt_valid.mat``; without JAX.

A joint is correct if it lies within a fraction of the head size of its label. The labels in the file count pixels from 1,
predictions here count from 0 as everywhere in the library, so the evaluation adds one pixel. The pelvis and the thorax
take no part in means. Rates are fractions: PCKh@0.5 = 0.9 is what papers write as 90.

Source: the evaluation of HRNet, which agrees with that of Integral Regression except for the threshold below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxpose import matlab, metrics
from jaxpose.skeleton import MPII16

__all__ = ["GROUPS", "THRESHOLDS", "Truth", "find_truth", "from_results", "load_truth", "pckh", "pckh_curve"]

GROUPS = {
    "head": (9,),
    "shoulder": (12, 13),
    "elbow": (11, 14),
    "wrist": (10, 15),
    "hip": (2, 3),
    "knee": (1, 4),
    "ankle": (0, 5),
}
"""The rows of published tables, as indices of `jaxpose.skeleton.MPII16`: the rate of a pair is the mean of the two."""

THRESHOLDS = np.arange(0, 0.51, 0.01)
"""The thresholds of the curve, in head sizes: 0, 0.01, ..., 0.5. Index 10 is 0.10; HRNet's "Mean@0.1" is index 11."""
THRESHOLDS.setflags(write=False)

JOINTS_OF_FILE = dict(
    rank=0, rkne=1, rhip=2, lhip=3, lkne=4, lank=5, head=9, rwri=10, relb=11, rsho=12, lsho=13, lelb=14, lwri=15
)  # fmt: skip
ALIASES = {"val": ("val", "valid"), "valid": ("valid", "val")}
FIELDS = {"pos_gt_src": "(16, 2, N)", "jnt_missing": "(16, N)", "headboxes_src": "(2, 2, N)"}
ADD_PIXEL = 1.0


@dataclass(frozen=True, eq=False)
class Truth:
    """The labels of a split; row i belongs to annotation i + 1 of its JSON (`jaxpose.data.formats.mpii`).

    Attributes:
        joints: ``(N, 16, 2)`` pixels counted from 1, as in the file.
        where: ``(N, 16)`` bool, True for labelled joints.
        head_size: ``(N,)`` pixels: 0.6 of the diagonal of the head's box.
        name: The name of the file, for messages.
    """

    joints: np.ndarray
    where: np.ndarray
    head_size: np.ndarray
    name: str = "ground truth"

    def __len__(self) -> int:
        return len(self.joints)

    def __repr__(self) -> str:
        return f"Truth({self.name!r}, {len(self)} persons, {int(self.where.sum())} labelled joints)"


def find_truth(folder: str | Path, split: str) -> Path:
    """Returns the path of the file with the labels and head sizes of a split.

    Args:
        folder: The folder of MPII: with S the split, ``annot/gt_S.mat`` (HRNet, Integral Regression),
            ``annotations/mpii_gt_S.mat`` (mmpose), or either in the folder itself. "val" and "valid" are one split.
        split: The split; only the file of the validation split is published.

    Raises:
        FileNotFoundError: There is no such file; the message lists the paths tried, and what can be measured without it.

    >>> find_truth("no_such_folder", "trainval")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: no PCKh without the head sizes: no_such_folder has none of annot/gt_trainval.mat, ...
    """
    folder = Path(folder)
    names = ALIASES.get(split, (split,))
    places = ("annot/gt_{}.mat", "annotations/mpii_gt_{}.mat", "gt_{}.mat", "mpii_gt_{}.mat")
    candidates = [place.format(name) for place in places for name in names]
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    raise FileNotFoundError(
        f"no PCKh without the head sizes: {folder} has none of {', '.join(candidates)}. HRNet's annotations of MPII have "
        "gt_valid.mat beside valid.json, mmpose's mpii_gt_val.mat beside mpii_val.json; no other split has one. Without it "
        "the end-point error in pixels (EPE) can still be measured, from the joints in the JSON"
    )


def load_truth(path: str | Path) -> Truth:
    """Reads ``gt_valid.mat`` (``mpii_gt_val.mat`` is the same): pos_gt_src, jnt_missing, headboxes_src, dataset_joints.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a MATLAB file (of version 5 to 7.2); an array is missing or has another shape; the
            joints are not MPII's; no joint is labelled; a labelled person has no head, or joints or a head box that are
            not finite.

    >>> load_truth("annot/gt_valid.mat")
    Traceback (most recent call last):
    FileNotFoundError: annot/gt_valid.mat does not exist: expected MPII's gt_valid.mat (mmpose calls it mpii_gt_val.mat)
    """
    arrays = matlab.load(path, "MPII's gt_valid.mat (mmpose calls it mpii_gt_val.mat)")
    for field, shape in FIELDS.items():
        if field not in arrays:
            names = sorted(name for name in arrays if not name.startswith("__"))
            raise ValueError(f"{path} has no array {field!r} {shape}: it holds {names}; give MPII's gt_valid.mat")
    labels, missing, boxes = (np.asarray(arrays[field]) for field in FIELDS)
    if labels.ndim == 2 and boxes.ndim == 2:  # the file of one person: MATLAB drops a last dimension of 1
        labels, boxes = labels[..., None], boxes[..., None]
    people = labels.shape[-1]
    if labels.shape != (16, 2, people) or missing.shape != (16, people) or boxes.shape != (2, 2, people):
        got = ", ".join(f"{field} {np.shape(arrays[field])}" for field in FIELDS)
        raise ValueError(f"{path}: expected {', '.join(f'{f} {s}' for f, s in FIELDS.items())}, got {got}")
    _check_names(arrays.get("dataset_joints"), path)
    joints, boxes = labels.astype(np.float64).transpose(2, 0, 1), boxes.astype(np.float64).transpose(2, 0, 1)
    where = missing.T == 0
    some, size = where.any(axis=1), metrics.head_size(boxes)
    usable = np.isfinite(joints).all(axis=2) | ~where
    bad = np.flatnonzero(~usable.all(axis=1) | (some & ~(np.isfinite(size) & (size > 0))))
    if len(bad):
        raise ValueError(
            f"{path}: person {bad[0]} has labelled joints, but one of them is not finite or its head box is empty: "
            f"headboxes_src {boxes[bad[0]].tolist()}"
        )
    if not some.any():
        raise ValueError(f"{path}: no joint is labelled (jnt_missing is nowhere 0)")
    return Truth(joints=joints, where=where, head_size=np.where(some, size, 0.0), name=str(path))


def pckh(
    truth: Truth, xy: ArrayLike, annotation_id: ArrayLike, *, on_missing: Literal["error", "wrong"] = "error"
) -> dict[str, float]:
    """Computes the numbers of MPII's tables, as fractions.

    Args:
        truth: The labels, from `load_truth`.
        xy: ``(P, 16, 2)`` predictions in pixels of the image, counted from 0.
        annotation_id: ``(P,)`` integers, the person of each prediction, counted from 1 (`jaxpose.data.formats.mpii`).
        on_missing: The treatment of labelled persons without a prediction: "error", or "wrong", which counts their joints
            as incorrect, so that the numbers can only be lower than those of a complete evaluation.

    Returns:
        ``PCKh@0.5``: The mean over the labels of all joints but pelvis and thorax.
        ``PCKh@0.5_head``, ``_shoulder``, ``_elbow``, ``_wrist``, ``_hip``, ``_knee``, ``_ankle``: The rates of
        `GROUPS`; a group without labels is left out.
        ``PCKh@0.1``: The rate at 0.10, including a distance of exactly that, as Integral Regression. (mmpose excludes
        it.) ``hrnet_mean_at_0.1``: PCKh at 0.11, which HRNet's evaluation prints as "Mean@0.1"; compare it only with
        tables made by that code.
        ``AUC``: The mean of PCKh over the 51 thresholds 0, 0.01, ..., 0.5. The papers define it as the mean over 0 to
        0.5; no published code prints it.

    Raises:
        ValueError: Shapes are wrong; predictions are not finite; an annotation occurs twice or is not in the truth; or
            labelled persons have no prediction.

    >>> truth = Truth(joints=np.full((2, 16, 2), 11.0), where=np.ones((2, 16), bool), head_size=np.array([10.0, 10.0]))
    >>> scores = pckh(truth, np.stack([np.full((16, 2), 10.0), np.full((16, 2), 12.0)]), [1, 2])
    >>> scores["PCKh@0.5"], scores["PCKh@0.1"], round(scores["AUC"], 3)
    (1.0, 0.5, 0.716)
    """
    arguments = _aligned(truth, xy, annotation_id, on_missing)
    half = metrics.pckh(**arguments, threshold=0.5)
    groups = {name: _of_group(half, joints) for name, joints in GROUPS.items()}
    return {
        "PCKh@0.5": half.mean,
        **{f"PCKh@0.5_{name}": value for name, value in groups.items() if np.isfinite(value)},
        "PCKh@0.1": metrics.pckh(**arguments, threshold=0.1).mean,
        "hrnet_mean_at_0.1": metrics.pckh(**arguments, threshold=float(THRESHOLDS[11])).mean,
        "AUC": metrics.pckh_auc(**arguments),
    }


def pckh_curve(
    truth: Truth, xy: ArrayLike, annotation_id: ArrayLike, *, on_missing: Literal["error", "wrong"] = "error"
) -> dict[str, np.ndarray]:
    """Computes PCKh over the threshold, to plot: "threshold" (`THRESHOLDS`), "mean", and one entry for each of `GROUPS`.

    Arguments and errors are those of `pckh`. All are ``(51,)``, NaN if a group has no label; the mean of "mean" is the
    AUC.

    >>> truth = Truth(joints=np.full((1, 16, 2), 1.0), where=np.ones((1, 16), bool), head_size=np.array([10.0]))
    >>> pckh_curve(truth, np.full((1, 16, 2), [3.0, 0.0]), [1])["mean"][[29, 31]]
    array([0., 1.])
    """
    arguments = _aligned(truth, xy, annotation_id, on_missing)
    rates = [metrics.pckh(**arguments, threshold=threshold) for threshold in THRESHOLDS]
    curve = {"threshold": THRESHOLDS.copy(), "mean": np.array([rate.mean for rate in rates])}
    return curve | {
        name: np.array([_of_group(rate, joints) for rate in rates], np.float64) for name, joints in GROUPS.items()
    }


def from_results(
    truth: Truth, records: Iterable[Mapping[str, Any]], *, on_missing: Literal["error", "wrong"] = "error"
) -> dict[str, float]:
    """Computes `pckh` of result records (`jaxpose.evaluation.results`), which must have an annotation_id.

    Of several records for one person the best-scored counts. The records must not have passed OKS-NMS, because PCKh
    needs a prediction for every person.

    Raises:
        ValueError: The same as for `pckh`, or a record has no annotation_id, or not 16 keypoints.

    >>> truth = Truth(joints=np.full((1, 16, 2), 1.0), where=np.ones((1, 16), bool), head_size=np.array([10.0]))
    >>> from_results(truth, [{"annotation_id": 1, "score": 1.0, "keypoints": [0.0, 0.0, 1.0] * 16}])["PCKh@0.5"]
    1.0
    """
    best: dict[int, Mapping[str, Any]] = {}
    for row, record in enumerate(records):
        if "annotation_id" not in record:
            raise ValueError(
                f"record {row} has no annotation_id: PCKh needs the person of each prediction, so the boxes must be those "
                "of the annotations, not a detector's"
            )
        if len(record["keypoints"]) != 3 * MPII16.num_joints:
            raise ValueError(f"record {row} has {len(record['keypoints'])} numbers in 'keypoints', MPII needs 48")
        best_so_far = best.setdefault(record["annotation_id"], record)
        if record["score"] > best_so_far["score"]:
            best[record["annotation_id"]] = record
    points = np.array([record["keypoints"] for record in best.values()], np.float64).reshape(-1, MPII16.num_joints, 3)
    return pckh(truth, points[..., :2], np.array(list(best), np.int64), on_missing=on_missing)


# ------------------------------------------------------------------------------------------------------------ the parts


def _check_names(names: Any, path: str | Path) -> None:
    """Checks that the joints are those of `JOINTS_OF_FILE`, in order; a file without names is accepted."""
    if names is None:
        return
    got = [str(np.asarray(name).squeeze()).strip() for name in np.asarray(names).ravel()]
    wrong = [name for name, k in JOINTS_OF_FILE.items() if len(got) != MPII16.num_joints or got[k] != name]
    if wrong:
        raise ValueError(f"{path}: expected {JOINTS_OF_FILE} among 16 dataset_joints, got {got}")


def _aligned(truth: Truth, xy: ArrayLike, annotation_id: ArrayLike, on_missing: str) -> dict[str, np.ndarray]:
    """Returns the arguments of `jaxpose.metrics.pckh`, one row for each labelled person."""
    if on_missing not in ("error", "wrong"):
        raise ValueError(f"on_missing must be 'error' or 'wrong', got {on_missing!r}")
    xy, ids = np.asarray(xy, np.float64), np.asarray(annotation_id)
    if xy.shape != (*ids.shape, MPII16.num_joints, 2) or ids.ndim != 1:
        raise ValueError(
            f"xy must be (P, {MPII16.num_joints}, 2) and annotation_id (P,), got {xy.shape} and {ids.shape}"
        )
    if not np.issubdtype(ids.dtype, np.integer) and len(ids):
        raise ValueError(f"annotation_id must hold whole numbers, got {ids.dtype}")
    ids = ids.astype(np.int64)
    outside = ids[(ids < 1) | (ids > len(truth))]
    if len(outside):
        raise ValueError(
            f"annotation_id {outside[0]} is not in {truth.name} with its {len(truth)} persons, counted from 1: are these "
            "the predictions of that split?"
        )
    numbers, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"annotation_id {numbers[counts > 1][0]} occurs {counts.max()} times: expected one prediction each"
        )
    finite = np.isfinite(xy).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"the prediction of annotation_id {ids[~finite][0]} is not finite")
    pred = np.full(truth.joints.shape, np.nan)
    pred[ids - 1] = xy + ADD_PIXEL
    labelled = truth.where.any(axis=1)
    absent = labelled & np.isnan(pred[:, 0, 0])
    if absent.any() and on_missing == "error":
        raise ValueError(
            f"{int(absent.sum())} of {int(labelled.sum())} labelled persons of {truth.name} have no prediction (the first: "
            f"annotation_id {np.flatnonzero(absent)[0] + 1}). PCKh counts all of them: predict the whole split, without "
            "OKS-NMS and without leaving out samples, or, in Python, count them as incorrect (on_missing='wrong')"
        )
    pred[absent] = np.inf
    return {
        "pred": pred[labelled],
        "target": truth.joints[labelled],
        "head_size": truth.head_size[labelled],
        "where": truth.where[labelled],
    }


def _of_group(rates: metrics.JointRates, joints: tuple[int, ...]) -> float:
    """Returns the mean of the rates of some joints, NaN if none is labelled."""
    values = [float(rates.per_joint[k]) for k in joints if rates.count[k]]
    return float(np.mean(values)) if values else float("nan")
