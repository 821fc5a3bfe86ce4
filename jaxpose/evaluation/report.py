"""A breakdown of the errors: EPE by joint, by number of labelled joints, by occlusion and by size; confidence against OKS.

`from_results` works on files, `details` on arrays. The groups are those of Gu et al. 2021 (Removing the Bias of
Integral Pose Regression), table 1; the correlation is that of Li et al. 2021 (RLE), table 4. A prediction is compared
with the person it is meant for, so these numbers belong to evaluation on ground-truth boxes (or to matched ones).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxpose import metrics
from jaxpose.evaluation import cases, coco

__all__ = ["details", "from_results", "of_cases", "text"]

# Bins as name -> (lower, upper): lower <= value < upper.
JOINT_BINS = {"1-5 joints": (1, 6), "6-10 joints": (6, 11), "11+ joints": (11, np.inf)}
"""Bins of the number of labelled joints. Table 1 has [0, 5], [6, 10], [11, 17]; without labelled joints there is no error."""
SIZE_BINS = {
    "below 32^2": (0, 32),
    "32^2 to 64^2": (32, 64),
    "64^2 to 96^2": (64, 96),
    "96^2 to 128^2": (96, 128),
    "from 128^2": (128, np.inf),
}
"""Bins of the square root of the area of the person's box, in image pixels."""
OCCLUSION_BINS = {
    "below 10% occluded": (0, 0.1),
    "10% to 50% occluded": (0.1, np.nextafter(0.5, 1)),
    "above 50% occluded": (np.nextafter(0.5, 1), np.inf),
}
"""Bins of the share of occluded joints (visibility 1) among the labelled ones."""
BOX_PARTS = (0.05, 0.1)
"""Errors below these fractions of the box's longer side count as correct in PCK, which needs no OKS sigmas."""


def details(
    predictions: Mapping[str, ArrayLike], *, sigmas: ArrayLike, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Errors of N predictions, each compared with the person it is meant for.

    Args:
        predictions: Arrays in image pixels; other entries are not read.
            Predicted: xy ``(N, K, 2)`` and confidence ``(N, K)``.
            Annotated: joints ``(N, K, 2)``, visibility ``(N, K)`` (0 unlabelled, 1 occluded, 2 visible), box ``(N, 4)``
            x, y, w, h, and area ``(N,)``.
        sigmas: ``(K,)`` OKS sigmas.
        names: The K names of the joints; None numbers them.

    Returns:
        Plain numbers, ready for JSON:
        summary: people, joints, EPE (the mean over labelled joints, image pixels), EPE_visible, EPE_occluded, PCK@0.05
            and PCK@0.1 (the share of the labelled joints with an error below that fraction of the box's longer side),
            OKS (the mean over people), pearson (of a person's mean confidence with the OKS). Undefined numbers are left
            out.
        per_joint: name -> count, EPE.
        size_by_joints, occlusion_by_joints: row -> column -> people, joints, EPE (None for an empty cell), with "all" as
            the last row and column; table 1 of Gu et al.

    Raises:
        ValueError: An array is missing, shapes do not fit, or a prediction is not finite.

    >>> people = dict(xy=np.zeros((1, 2, 2)), confidence=np.ones((1, 2)), joints=np.full((1, 2, 2), [3.0, 4.0]))
    >>> people |= dict(visibility=np.array([[2, 1]]), box=np.array([[0, 0, 40, 40]]), area=np.array([1600]))
    >>> details(people, sigmas=[0.1, 0.1])["occlusion_by_joints"]["10% to 50% occluded"]["1-5 joints"]
    {'people': 1, 'joints': 2, 'EPE': 5.0}
    """
    arrays = _arrays(predictions)
    labelled = arrays["visibility"] > 0
    error = metrics.distance(arrays["xy"], arrays["joints"], where=labelled)
    names = [str(k) for k in range(labelled.shape[1])] if names is None else list(names)
    if len(names) != labelled.shape[1]:
        raise ValueError(f"names must hold {labelled.shape[1]} joint names, got {len(names)}")
    some = labelled.any(axis=1)
    similarity = metrics.oks(arrays["xy"], arrays["joints"], area=arrays["area"], sigmas=sigmas, where=labelled)
    confidence = arrays["confidence"].mean(axis=1)

    counts = labelled.sum(axis=1)
    share = (arrays["visibility"] == 1).sum(axis=1) / np.maximum(counts, 1)
    size = np.sqrt(arrays["box"][:, 2] * arrays["box"][:, 3])
    by_joints = _bins(counts, JOINT_BINS)
    summary = {
        **_cell(error, labelled),
        "EPE_visible": metrics.Mean.from_values(error, where=arrays["visibility"] == 2).value,
        "EPE_occluded": metrics.Mean.from_values(error, where=arrays["visibility"] == 1).value,
        **{f"PCK@{part:g}": _within(error, labelled, arrays["box"], part) for part in BOX_PARTS},
        "OKS": metrics.Mean.from_values(similarity, where=some).value,
        "pearson": metrics.pearson(confidence, similarity, where=some),
    }
    return {
        "summary": {name: value for name, value in summary.items() if value is not None and np.isfinite(value)},
        "per_joint": {
            name: {"count": cell["joints"], "EPE": cell["EPE"]}
            for k, name in enumerate(names)
            for cell in [_cell(error[:, k : k + 1], labelled[:, k : k + 1])]
        },
        "size_by_joints": _table(error, labelled, _bins(size, SIZE_BINS), by_joints),
        "occlusion_by_joints": _table(error, labelled, _bins(share, OCCLUSION_BINS), by_joints),
    }


def from_results(
    ground_truth: coco.GroundTruth,
    results: coco.Results,
    *,
    sigmas: ArrayLike | None = None,
    category_id: int | None = None,
    min_oks: float = 0.1,
) -> dict[str, Any]:
    """Returns `details` of the pairs that `jaxpose.evaluation.cases.compare` makes of a result file and a ground truth.

    Arguments and errors are those of `compare`.

    Returns:
        `details`, and ``matched``: the numbers of ``people``, ``results`` and ``pairs``.
    """
    all_cases, truth = cases.compare(ground_truth, results, sigmas=sigmas, category_id=category_id, min_oks=min_oks)
    return of_cases(all_cases, truth, sigmas=sigmas)


def of_cases(
    all_cases: Sequence[cases.Case], truth: Mapping[str, Any], *, sigmas: ArrayLike | None = None
) -> dict[str, Any]:
    """Returns the same as `from_results`, from the pairs of `jaxpose.evaluation.cases.compare`.

    Args:
        all_cases, truth: The two values that `compare` returned.
        sigmas: The same as for `compare`.

    >>> person = {"id": 1, "image_id": 7, "bbox": [0, 0, 50, 50], "keypoints": [10, 20, 2]}
    >>> truth = {"images": [{"id": 7}], "categories": [{"id": 1, "keypoints": ["nose"]}], "annotations": [person]}
    >>> of_cases(*cases.compare(truth, []))["matched"]
    {'people': 1, 'results': 0, 'pairs': 0}
    """
    sigmas = coco.category_sigmas(sigmas, *truth["categories"])
    pairs = [case for case in all_cases if case.kind == "matched"]
    num_joints = len(sigmas)
    predicted = np.array([case.found for case in pairs], np.float64).reshape(-1, num_joints, 3)
    annotated = np.array([case.truth for case in pairs], np.float64).reshape(-1, num_joints, 3)
    arrays = {
        "xy": predicted[..., :2],
        "confidence": predicted[..., 2],
        "joints": annotated[..., :2],
        "visibility": annotated[..., 2],
        "box": np.array([case.person["bbox"] for case in pairs], np.float64).reshape(-1, 4),
        "area": np.array([coco.area_of(case.person) for case in pairs], np.float64),
    }
    missed = sum(case.kind == "missed" for case in all_cases)
    unmatched = sum(case.kind == "unmatched" for case in all_cases)
    matched = {"people": len(pairs) + missed, "results": len(pairs) + unmatched, "pairs": len(pairs)}
    return details(arrays, sigmas=sigmas, names=truth["category"]["keypoints"]) | {"matched": matched}


def text(report: Mapping[str, Any]) -> str:
    """Formats a report of `details` or `from_results` as text."""
    lines = []
    if "matched" in report:
        lines.append("{pairs} of {people} people and {results} results matched".format(**report["matched"]))
    lines += [f"{name:14s}{value:10.4g}" for name, value in report["summary"].items()]
    for title in ("size_by_joints", "occlusion_by_joints"):
        rows = report[title]
        columns = list(next(iter(rows.values())))
        lines += ["", "EPE in pixels (people)".ljust(24) + "".join(f"{column:>18s}" for column in columns)]
        lines += [
            f"{row:24s}" + "".join(f"{_format_cell(cells[c]):>18s}" for c in columns) for row, cells in rows.items()
        ]
    lines += ["", "joint".ljust(24) + f"{'EPE':>10s}{'labels':>10s}"]
    for name, joint in report["per_joint"].items():
        epe = "-" if joint["EPE"] is None else f"{joint['EPE']:.2f}"
        lines.append(f"{name:24s}{epe:>10s}{joint['count']:>10d}")
    return "\n".join(lines)


def _format_cell(cell: Mapping[str, Any]) -> str:
    return "-" if cell["EPE"] is None else f"{cell['EPE']:.2f} ({cell['people']})"


def _arrays(predictions: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    names = ("xy", "confidence", "joints", "visibility", "box", "area")
    missing = [name for name in names if name not in predictions]
    if missing:
        raise ValueError(f"predictions have no {missing}; needed are {list(names)}, given {sorted(predictions)}")
    arrays = {name: np.asarray(predictions[name], np.float64) for name in names}
    xy = arrays["xy"].shape
    if len(xy) != 3 or xy[-1] != 2:
        raise ValueError(f"xy must be (N, K, 2), got {xy}")
    people, num_joints, _ = xy
    shapes = [xy, (people, num_joints), xy, (people, num_joints), (people, 4), (people,)]
    for name, shape in zip(names, shapes, strict=True):
        if arrays[name].shape != shape:
            raise ValueError(f"{name} must be {shape} for xy {xy}, got {arrays[name].shape}")
    for name in ("xy", "confidence"):
        finite = np.isfinite(arrays[name]).all(axis=tuple(range(1, arrays[name].ndim)))
        if not finite.all():
            raise ValueError(f"{name} of prediction {np.flatnonzero(~finite)[0]} is not finite")
    return arrays


def _bins(values: np.ndarray, bins: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    """Maps each bin, and "all", to a mask of its rows (N,)."""
    return {name: (values >= low) & (values < high) for name, (low, high) in bins.items()} | {
        "all": np.ones(len(values), bool)
    }


def _table(error, labelled, rows: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        row: {column: _cell(error[a & b], labelled[a & b]) for column, b in columns.items()} for row, a in rows.items()
    }


def _within(error: np.ndarray, labelled: np.ndarray, box: np.ndarray, part: float) -> float | None:
    """Returns the share of the labelled joints whose error is below `part` of the longer side of their box."""
    right = error < part * box[:, None, 2:].max(-1)
    return float(right[labelled].mean()) if labelled.any() else None


def _cell(error: np.ndarray, labelled: np.ndarray) -> dict[str, Any]:
    mean = metrics.Mean.from_values(error, where=labelled)
    return {
        "people": int(labelled.any(axis=1).sum()),
        "joints": int(mean.count),
        "EPE": mean.value if mean.count else None,
    }
