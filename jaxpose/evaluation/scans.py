"""`jaxpose evaluate` for boundaries in scans: predictions of any origin against the labels of Duke's files, without JAX."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from jaxpose.evaluation import boundaries
from jaxpose.evaluation.boundaries import ScoredScan

__all__ = ["Columns", "is_result", "read_table", "score"]

Columns = Literal["rathke", "labelled"]
NEEDED = ("scan", "boundary", "column", "row")
"""Columns that a table of boundaries must have; `jaxpose predict` writes more."""


def is_result(truth: Path, results: Path) -> bool:
    """Returns whether two files are labels and predictions of scans: a folder or a .mat file, and a table or a result file."""
    if not (truth.is_dir() or truth.suffix.lower() == ".mat"):
        return False
    return results.suffix.lower() == ".csv" or (results.is_file() and boundaries.is_result(results))


def read_table(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Reads boundaries.csv of `jaxpose predict`.

    Args:
        path: a table with the columns scan, boundary, column and row, and perhaps low, high and row_um. Boundaries of a scan come
            in their order, and every one has the columns 0, 1, ...

    Returns:
        For each scan "row" and, if they are stated everywhere, "low", "high" and "row_um": (W, K) in pixels and micrometres.

    Raises:
        FileNotFoundError: the table does not exist.
        ValueError: a column is missing, or a value is no number; the message names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected boundaries.csv of jaxpose predict, or results/NAME.json of a run"
        )
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or []
        if missing := [name for name in NEEDED if name not in names]:
            raise ValueError(
                f"{path} has no column {missing[0]!r}: expected boundaries.csv of jaxpose predict, with {', '.join(NEEDED)}"
            )
        wanted = [name for name in ("row", "low", "high", "row_um") if name in names]
        for row in reader:
            boundary = values.setdefault(row["scan"], {}).setdefault(row["boundary"], {name: [] for name in wanted})
            try:
                if int(row["column"]) != len(boundary["row"]):
                    raise ValueError(f"column {row['column']} after {len(boundary['row'])} columns")
                for name in wanted:
                    boundary[name].append(float("nan") if row[name] == "" else float(row[name]))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {reader.line_num}: {error}; expected numbers, column by column"
                ) from None
    tables = {}
    for scan, parts in values.items():
        if len({len(part["row"]) for part in parts.values()}) != 1:
            raise ValueError(f"{path}: the boundaries of {scan!r} have different numbers of columns")
        table = {name: np.array([part[name] for part in parts.values()]).T for name in wanted}
        tables[scan] = {name: value for name, value in table.items() if name == "row" or np.isfinite(value).all()}
        tables[scan]["names"] = np.array(list(parts))
    if not tables:
        raise ValueError(f"{path} holds no boundaries")
    return tables


def score(
    truth: Path, results: Path, *, grader: Literal[1, 2] = 1, columns: Columns = "rathke"
) -> dict[str, float | int]:
    """Returns the scores of predictions for the labelled scans of the files that they are of.

    Args:
        truth: a folder of Duke's files, or one Subject_NN.mat.
        results: boundaries.csv of `jaxpose predict`, or results/NAME.json of a run.
        grader: the grader whose labels are read.
        columns: "rathke": columns 135 to 634, as published; "labelled": all with labels.

    Returns:
        The scores of `boundaries.errors` and `scans`, the number of scans; "inside_bands", the part of the labels inside the bands
        of a table, if it states them.

    Raises:
        FileNotFoundError, ValueError: files cannot be read, a labelled scan has no prediction, or there is nothing to score.
    """
    from jaxpose.data.scans import duke

    predictions = _predictions(results)
    files = duke.subjects(truth) if truth.is_dir() else {0: truth}
    stems = {name.rpartition(" scan ")[0] for name in predictions}
    files = [path for path in files.values() if path.stem in stems]
    if not files:
        raise ValueError(
            f"{results} holds no prediction for a file of {truth}: its first scan is {next(iter(predictions))!r}"
        )
    labelled = [scan for path in files for scan in duke.read_file(path, grader=grader)]
    if missing := [scan.name for scan in labelled if scan.name not in predictions]:
        raise ValueError(
            f"{results} has no prediction for {len(missing)} of {len(labelled)} labelled scans, the first is {missing[0]!r}: "
            "predict the whole file"
        )
    part = duke.RATHKE if columns == "rathke" else slice(None)
    scored, inside, names = [], [], None
    for scan in labelled:
        table = predictions[scan.name]
        names = [str(name) for name in table["names"]]
        labels = np.full(scan.rows.T.shape, np.nan)
        labels[part] = scan.rows.T[part]
        if table["row"].shape != labels.shape:
            raise ValueError(
                f"{results}: {scan.name!r} has {table['row'].shape[1]} boundaries in {len(table['row'])} columns, the labels have "
                f"{labels.shape[1]} in {len(labels)}"
            )
        scored.append(ScoredScan(scan.name, _axial_um(table, scan.axial_um), table["row"], labels))
        if {"low", "high"} <= table.keys():
            inside.append(((table["low"] <= labels) & (labels <= table["high"]))[np.isfinite(labels)])
    scores = boundaries.errors(scored, names)
    if len(inside) == len(scored):
        scores["inside_bands"] = float(np.concatenate(inside).mean())
    return scores | {"scans": len(scored)}


def _predictions(path: Path) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Returns the tables of `read_table` for either kind of file."""
    if path.suffix.lower() == ".csv":
        return read_table(path)
    content = boundaries.read(path)
    names = np.array(content["boundaries"])
    return {
        record["name"]: {
            "row": np.array(record["rows"], np.float64).T,
            "names": names,
            **({"axial_um": np.array(record["axial_um"])} if "axial_um" in record else {}),
        }
        for record in content["scans"]
    }


def _axial_um(table: Mapping[str, np.ndarray], otherwise: float) -> float:
    """Returns the height of a pixel with which a prediction was made."""
    if "axial_um" in table:
        return float(table["axial_um"])
    if "row_um" not in table:
        return otherwise
    rows = np.where(np.abs(table["row"]) > 1, table["row"], np.nan)
    ratio = np.nanmedian(table["row_um"] / rows) if np.isfinite(rows).any() else np.nan
    return round(float(ratio), 3) if np.isfinite(ratio) else otherwise
