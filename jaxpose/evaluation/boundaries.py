"""The evaluation of boundaries in scans: errors in micrometres, and whether the stated uncertainty is right.

The error of a boundary in a scan is the mean of |prediction - label| over the columns that are scored, times the height of a
pixel, as in He's dme_eval; a boundary's error is the mean over scans, and the error over all is the mean over boundaries.
It is the same for flattened and unflattened scans. Published numbers score columns 135 to 634 of the Duke scans
(`jaxpose.data.scans.duke.RATHKE`). NumPy and SciPy only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpose import files

if TYPE_CHECKING:  # arrays alone are read, so that an evaluation needs no reader of data
    from jaxpose.data.scans import Scan

LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
NEAR_PX = 2.0
DARK = 0.85
"""Columns with less light than this count as shadows."""
BAND_LEVEL = 0.9
"""Level of the bands of a page."""


@dataclass(frozen=True, eq=False)
class ScoredScan:
    """The prediction for one scan beside its labels; W columns, K boundaries.

    Attributes:
        name: name of the scan.
        axial_um: height of a pixel in micrometres.
        rows: (W, K) predicted rows in pixels.
        labels: (W, K) labelled rows in pixels, NaN in columns that are not scored.
        sigma: (W, K) predicted scale in pixels; None: there is none.
        level: (W, M) mass of the smallest region of the predicted density that reaches the label (`jaxpose.density.level`), for
            each of the M residuals of a column, NaN where there is none; None: the net states no density.
        groups: (W,) bool masks of columns by name, such as "fluid".
        truth: (W, K) rows without the noise of the labels; None: not known.
        noise: (W, K) true scale of the labels' noise; None: not known.

    Raises:
        ValueError: shapes differ, or a prediction is not finite in a column with a label.
    """

    name: str
    axial_um: float
    rows: np.ndarray
    labels: np.ndarray
    sigma: np.ndarray | None = None
    level: np.ndarray | None = None
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    truth: np.ndarray | None = None
    noise: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("labels", "sigma", "truth", "noise"):
            value = getattr(self, name)
            if value is not None and value.shape != self.rows.shape:
                raise ValueError(
                    f"{self.name}: {name} of shape {value.shape}, expected that of the rows, {self.rows.shape}"
                )
        if not np.isfinite(self.rows[np.isfinite(self.labels)]).all():
            raise ValueError(f"{self.name}: a predicted row is not a finite number")

    @property
    def where(self) -> np.ndarray:
        """(W, K) bool, where there is a label that is scored."""
        return np.isfinite(self.labels)


def errors(scans: Sequence[ScoredScan], names: Sequence[str]) -> dict[str, float]:
    """Returns errors in micrometres.

    Args:
        scans: the scans.
        names: names of the K boundaries.

    Returns:
        "error_um" over all boundaries, "error_um_NAME" of each, "within_2px", the part of the labels that are at most two pixels
        away, and "true_error_um", the error from the truth where that is known. A boundary without labels has no entry.

    Raises:
        ValueError: there are no scans or no labels.

    >>> scan = ScoredScan("a", 3.87, rows=np.array([[1.0, 5.0]]), labels=np.array([[2.0, 7.0]]))
    >>> errors([scan], ["top", "bottom"])["error_um"]
    5.805
    """
    if not any(scan.where.any() for scan in scans):
        raise ValueError(
            f"{len(scans)} scans without a label in the columns that are scored: there is nothing to evaluate"
        )
    by_boundary = _per_boundary(scans, [np.abs(scan.rows - scan.labels) * scan.axial_um for scan in scans])
    near = np.concatenate([(np.abs(scan.rows - scan.labels) <= NEAR_PX)[scan.where] for scan in scans])
    scores = {"error_um": float(np.nanmean(by_boundary)), "within_2px": float(near.mean())}
    if all(scan.truth is not None for scan in scans):
        true = _per_boundary(scans, [np.abs(scan.rows - scan.truth) * scan.axial_um for scan in scans])
        scores["true_error_um"] = float(np.nanmean(true))
    return scores | {f"error_um_{n}": float(e) for n, e in zip(names, by_boundary, strict=True) if np.isfinite(e)}


def _per_boundary(scans: Sequence[ScoredScan], values: Sequence[np.ndarray]) -> np.ndarray:
    """Returns means (K,) over the scored columns of each scan, then over scans; NaN for a boundary without labels."""
    table = np.full((len(scans), scans[0].rows.shape[1]), np.nan)
    for row, scan, each in zip(table, scans, values, strict=True):
        count = scan.where.sum(0)
        row[count > 0] = (np.where(scan.where, each, 0.0).sum(0) / np.maximum(count, 1))[count > 0]
    count = np.isfinite(table).sum(0)
    return np.where(count > 0, np.nansum(table, 0) / np.maximum(count, 1), np.nan)


def coverage(scans: Sequence[ScoredScan], *, levels: Sequence[float] = LEVELS) -> dict[str, list[float | None]]:
    """Returns how often labels lie inside the predicted region of each level: that level, if the density is right.

    Args:
        scans: the scans, whose nets state a density.
        levels: the masses of the regions.

    Returns:
        The parts of the labels, by group: "all", each group of the scans, and "neither", the columns in no group. None for a
        group without labels.

    >>> scan = ScoredScan("a", 1.0, rows=np.zeros((2, 1)), labels=np.zeros((2, 1)), level=np.array([[0.2], [0.7]]))
    >>> coverage([scan], levels=[0.5, 0.9])
    {'all': [0.5, 1.0]}
    """
    groups: dict[str, list[np.ndarray]] = {}
    for scan in scans:
        if scan.level is None:
            raise ValueError(f"{scan.name}: its net states no density, so that there is no coverage")
        for name, mask in masks_of(scan).items():
            inside = scan.level[mask]
            groups.setdefault(name, []).append(inside[np.isfinite(inside)])
    values = {name: np.concatenate(parts) for name, parts in groups.items()}
    return {
        name: [float((level <= p).mean()) if len(level) else None for p in levels] for name, level in values.items()
    }


def groups_of(scan: Scan) -> dict[str, np.ndarray]:
    """Returns the columns (W,) with fluid, and those in the shadow of vessels where the light is known."""
    groups = {} if scan.fluid is None else {"fluid": scan.fluid.any(0)}
    return groups if scan.shadow is None else {**groups, "shadow": scan.shadow < DARK}


def masks_of(scan: ScoredScan) -> dict[str, np.ndarray]:
    """Returns the columns (W,) of "all", of each group of a scan, and, if there are groups, of "neither".

    >>> scan = ScoredScan("a", 1.0, np.zeros((2, 1)), np.zeros((2, 1)), groups={"fluid": np.array([True, False])})
    >>> {name: mask.tolist() for name, mask in masks_of(scan).items()}
    {'all': [True, True], 'fluid': [True, False], 'neither': [False, True]}
    """
    masks = {"all": np.ones(len(scan.rows), bool), **scan.groups}
    return masks | ({"neither": ~np.any(list(scan.groups.values()), 0)} if scan.groups else {})


def rank_correlation(scans: Sequence[ScoredScan]) -> float | None:
    """Returns Spearman's correlation of the predicted sigma with the true scale of the labels' noise; None if undefined.

    Args:
        scans: the scans, drawn ones, whose noise is known.

    >>> scan = ScoredScan(
    ...     "a", 1.0, rows=np.zeros((3, 1)), labels=np.zeros((3, 1)), sigma=np.array([[1.0], [2.0], [9.0]]),
    ...     noise=np.array([[0.1], [0.2], [0.3]]),
    ... )
    >>> rank_correlation([scan])
    1.0
    """
    from scipy.stats import rankdata

    pairs = [(s.sigma[s.where], s.noise[s.where]) for s in scans if s.sigma is not None and s.noise is not None]
    if not pairs:
        return None
    a, b = (rankdata(np.concatenate(values)) for values in zip(*pairs, strict=True))
    if a.std() == 0 or b.std() == 0:
        return None
    return float(round(np.corrcoef(a, b)[0, 1], 12))


def report(scans: Sequence[ScoredScan], names: Sequence[str]) -> dict[str, Any]:
    """Returns all numbers of an evaluation.

    Args:
        scans: the scans.
        names: names of the K boundaries.

    Returns:
        "scores": those of `errors`; "neg_error_um", for which larger is better; with a density "coverage_50", "coverage_90" and
        those of each group, such as "coverage_90_fluid"; "sigma_rank", the correlation of `rank_correlation`.
        "levels" and "coverage": the curves of `coverage`, if the net states a density.
    """
    scores = errors(scans, names)
    scores["neg_error_um"] = -scores["error_um"]
    details: dict[str, Any] = {}
    if all(scan.level is not None for scan in scans):
        curves = coverage(scans)
        details = {"levels": list(LEVELS), "coverage": curves}
        for group, values in curves.items():
            for level in (0.5, 0.9):
                if (value := values[LEVELS.index(level)]) is not None:
                    scores[f"coverage_{round(100 * level)}" + ("" if group == "all" else f"_{group}")] = value
    if (rank := rank_correlation(scans)) is not None:
        scores["sigma_rank"] = rank
    return {"scores": scores, **details}


def write(
    path: str | os.PathLike, scans: Sequence[ScoredScan], names: Sequence[str], details: Mapping[str, Any]
) -> None:
    """Writes the predictions and the numbers of an evaluation as JSON; rows are in pixels of the scan, counted from 0."""
    records = [
        {
            "name": scan.name,
            "axial_um": scan.axial_um,
            "rows": np.round(scan.rows, 2).T.tolist(),
            **({} if scan.sigma is None else {"sigma": np.round(scan.sigma, 3).T.tolist()}),
        }
        for scan in scans
    ]
    files.write_json(Path(path), {"boundaries": list(names), **details, "scans": records})


def is_result(path: str | os.PathLike) -> bool:
    """Returns whether a file is a result file of scans: a JSON object that begins with "boundaries"; those of poses are lists."""
    with open(path, "rb") as file:
        return file.read(64).lstrip().startswith(b'{"boundaries"')


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a result file that `write` wrote.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is no result file of scans.
    """
    content = files.read_json(path, "result file of scans")
    records = content.get("scans") if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(isinstance(r, dict) and {"name", "rows"} <= r.keys() for r in records):
        raise ValueError(
            f"{path} is no result file of scans: expected results/NAME.json of a run of experiments.oct_rle, with boundaries and "
            "scans"
        )
    if not isinstance(content.get("boundaries"), list) or not isinstance(content.get("scores"), dict):
        raise ValueError(f"{path} is no result file of scans: it lacks the names of its boundaries, or its scores")
    return content


def scored(
    content: Mapping[str, Any], scans: Sequence[Scan], *, name: str
) -> tuple[list[ScoredScan], list[tuple[np.ndarray, np.ndarray]] | None]:
    """Returns the scans of a result file beside their labels, and their 90 % bands.

    Args:
        content: the result of `read`.
        scans: scans with labels, among them those of the file.
        name: name of the file, for messages.

    Returns:
        The scans, with labels in the columns that the evaluation scored; and the lowest and highest row (W, K) of the bands of
        each; None if the net states no density, or the file is from before bands were stored.

    Raises:
        ValueError: a scan of the file is not among the scans, or has another width.
    """
    by_name = {scan.name: scan for scan in scans}
    start, stop = content.get("columns") or (0, None)
    together, bands = [], []
    extent = (content.get("regions") or {}).get(f"{BAND_LEVEL:g}")
    for record in content["scans"]:
        scan = by_name.get(record["name"])
        rows = np.array(record["rows"], np.float64).T
        if scan is None or rows.shape != scan.image.shape[1:] + (len(content["boundaries"]),):
            why = (
                "not among the scans of the data"
                if scan is None
                else f"of {len(rows)} columns there, another width here"
            )
            raise ValueError(f"{name}: {record['name']!r} is {why}; give the data that were evaluated")
        labels = np.full(rows.shape, np.nan)
        if scan.rows is not None:
            labels[start:stop] = scan.rows.T[start:stop]
        sigma = np.array(record["sigma"], np.float64).T if "sigma" in record else None
        if extent is not None and sigma is not None:
            low, high = np.tile(np.asarray(extent), (rows.shape[1] // len(extent), 1)).T
            bands.append((rows + low * sigma, rows + high * sigma))
        together.append(
            ScoredScan(
                scan.name, record.get("axial_um", scan.axial_um), rows, labels, sigma=sigma, groups=groups_of(scan),
                truth=None if scan.truth is None else scan.truth.T,
                noise=None if scan.noise is None else scan.noise.T,
            )
        )  # fmt: skip
    return together, bands if len(bands) == len(together) else None
