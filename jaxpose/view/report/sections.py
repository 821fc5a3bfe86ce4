"""The sections of a report before its cases: heading, numbers, charts and tables, as HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpose.evaluation import cases
from jaxpose.files import is_number
from jaxpose.view import tiles
from jaxpose.view.report import charts
from jaxpose.view.report.charts import steps_and_values
from jaxpose.view.report.page import escaped

__all__ = ["charts_section", "header", "scores_section", "squared", "tables_section"]

EXPLAINED = {
    "AP": "average precision over OKS 0.50 to 0.95",
    "AR": "average recall over OKS 0.50 to 0.95",
    "EPE": "mean distance of the labelled joints, image px",
    "EPE_visible": "of the visible joints, px",
    "EPE_occluded": "of the occluded joints, px",
    "EPE_mean_position": "of every joint at its mean position in the box, px",
    "EPE_nearest_pose": "of the training pose nearest to the labels, px",
    "skill": "1 - EPE / EPE_mean_position",
    "PCK@0.05": "joints within 5 % of the box's longer side",
    "PCK@0.1": "joints within 10 % of the box's longer side",
    "OKS": "mean over the matched people",
    "pearson": "correlation of confidence and OKS",
    "calibration_error": "mean difference of coverage and level",
    "coverage_90": "truth inside the 90 % regions, on frames that sigma was not fitted on",
    "sigma_scale": "factor of sigma, fitted on these frames",
    "people_per_image": "detected, on average",
    "scale_pearson": "correlation of learned factor and size",
    "people": "matched with a prediction",
    "joints": "labelled, of these people",
}
"""Meanings of the numbers in a report."""


def header(
    title: str,
    matched: Mapping[str, int],
    truth: Mapping[str, Any],
    pictures: tiles.Pictures,
    cases_shown: Sequence[cases.Case],
    *,
    remarks: Sequence[str] = (),
) -> str:
    """Returns the heading: numbers of people and predictions, and images that could not be read.

    Args:
        title: title of the page.
        matched: numbers of people, results and pairs, from `jaxpose.evaluation.report.of_cases`.
        truth: the result of `jaxpose.evaluation.coco.read_ground_truth`.
        pictures: the images from which the cases were drawn.
        cases_shown: the cases on the page.
        remarks: sentences about the evaluation.
    """
    line = (
        f"{len(truth['images']):,} images, {matched['people']:,} labelled people, {matched['results']:,} predictions; "
        f"{matched['pairs']:,} of them matched. {escaped(truth['category'].get('name', 'category'))}: "
        f"{len(truth['category']['keypoints'])} joints."
    )
    parts = [f"<header><h1>{escaped(title)}</h1><p>{line}</p>"]
    parts += [f'<p class="notice">{escaped(remark)}</p>' for remark in remarks]
    if not matched["results"]:
        parts.append('<p class="notice">The result file is empty: there are no predictions.</p>')
    if pictures.missing:
        name, why = next(iter(pictures.missing.items()))
        images = len({case.image["id"] for case in cases_shown})
        parts.append(
            f'<p class="notice" id="missing">{len(pictures.missing)} of the {images} images shown could not be read, and are grey: '
            f"the first is {escaped(name)} ({escaped(why)}).</p>"
        )
    return "".join(parts) + "</header>"


def scores_section(scores: Mapping[str, Any], *, explained: Mapping[str, str] = EXPLAINED) -> str:
    """Returns the numbers of an evaluation, each with its meaning; "" without numbers."""
    rows = []
    for name, value in scores.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        undefined = value == -1 and re.match(r"A[PR]", str(name))  # pycocotools' value without ground truth
        meaning = explained.get(name, "")
        if name == "calibration_error" and "sigma_scale" in scores:
            meaning += ", on the frames that sigma was fitted on"
        text = "–" if undefined else _number(value, 2 if str(name).startswith("EPE") else 3)
        rows.append(
            f'<div class="score"><dt>{escaped(name)}</dt><dd>{text}</dd><small>{escaped(meaning)}</small></div>'
        )
    return f'<section><h2>Numbers</h2><dl class="scores">{"".join(rows)}</dl></section>' if rows else ""


def charts_section(
    events: Sequence[Mapping[str, Any]],
    density: Mapping[str, Any] | None,
    all_cases: Sequence[cases.Case],
    *,
    is_in_sample: bool = False,
) -> str:
    """Returns the charts of a training and of an evaluation; "" if there is nothing to draw.

    Args:
        events: events of the run's log.
        density: calibration of the predictive density by group of joints.
        all_cases: the cases of the evaluation.
        is_in_sample: True if the factor of sigma was fitted on the evaluated frames.
    """
    chart, explanation = _calibration(density, is_in_sample)
    svgs = [*_curves(events), *_similarity(all_cases), *chart]
    return f'<section><h2>Charts</h2><div class="charts">{"".join(svgs)}</div>{explanation}</section>' if svgs else ""


def _curves(events: Sequence[Mapping[str, Any]]) -> list[str]:
    train = [e for e in events if e.get("event") == "train"]
    evals = [e for e in events if e.get("event") == "eval"]
    svgs = []
    if any(is_number(e.get("loss")) for e in train):
        svgs.append(charts.lines({"loss": steps_and_values(train, "loss")}, title="training loss", x="step"))
    if any(is_number(e.get("epe")) for e in train):
        svgs.append(
            charts.lines({"EPE": steps_and_values(train, "epe")}, title="training EPE (input px)", x="step", low=0)
        )
    terms = [term for term in ("map_loss", "scale_loss", "pull", "push") if any(is_number(e.get(term)) for e in train)]
    if len(terms) > 1:
        svgs.append(
            charts.lines({t: steps_and_values(train, t) for t in terms}, title="terms of the loss", x="step", log=True)
        )
    names = [n for n in ("AP", "AP50", "AR", "PCKh@0.5") if any(is_number(e.get(n)) and e[n] >= 0 for e in evals)]
    if names:
        svgs.append(
            charts.lines(
                {n: steps_and_values(evals, n) for n in names}, title="evaluations", x="step", low=0, high=1, dots=True
            )
        )
    return svgs


def _calibration(density: Mapping[str, Any] | None, is_in_sample: bool) -> tuple[list[str], str]:
    """Draws the calibration chart, and explains how to read it."""
    if not density:
        return [], ""
    curves = {}
    for name, part in density.items():
        pairs = [(a, b) for a, b in zip(part["levels"], part["coverage"], strict=True) if is_number(a) and is_number(b)]
        if pairs:
            curves[f"{name} ({part['count']:,} joints)"] = tuple(zip(*pairs, strict=True))
    if not curves:
        return [], ""
    chart = charts.lines(
        curves, title="calibration: labels inside the region", x="level of the region", low=0, high=1, x_range=(0, 1),
        diagonal=True, dots=True,
    )  # fmt: skip
    numbers = ", ".join(f"{escaped(name)} {_number(part['calibration_error'])}" for name, part in density.items())
    in_sample = (
        " The factor of sigma was fitted on these same frames, so the curves are optimistic; coverage_90 is measured on frames "
        "that were left out of the fit."
    )
    return [chart], (
        "<p>Calibration: on the diagonal, the predicted regions hold the stated share of the labels; above it they are too large, "
        f"below it too small. Mean difference: {numbers}.{in_sample if is_in_sample else ''}</p>"
    )


def _similarity(all_cases: Sequence[cases.Case]) -> list[str]:
    similarities = [case.oks for case in all_cases if case.kind == "matched"]
    missed = sum(case.kind == "missed" for case in all_cases)
    if not similarities and not missed:
        return []
    counts, edges = np.histogram(similarities, bins=20, range=(0, 1))
    rows = [("missed", missed)] + [(f"{low:.2f}", int(n)) for low, n in zip(edges, counts)]
    return [charts.columns(rows, title="people by OKS", x="OKS from")]


def tables_section(details: Mapping[str, Any]) -> str:
    """Returns errors by joint, by occlusion and by size, from `jaxpose.evaluation.report.details`."""
    joints = {str(k): v for k, v in details["per_joint"].items()}
    worst = max((v["EPE"] for v in joints.values() if is_number(v["EPE"])), default=0) or 1
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td class="bar">{_bar(v["EPE"], worst)}</td><td>{_number(v["EPE"], 2)}</td>'
        f"<td>{_number(v['count'])}</td></tr>"
        for name, v in joints.items()
    )
    parts = [
        '<div class="table"><h3>By joint</h3><table><thead><tr><th>joint</th><th></th><th>EPE, px</th><th>labels</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    ]
    grids = {"occlusion_by_joints": "By occlusion and labelled joints", "size_by_joints": "By size and labelled joints"}
    tables = [f'<div class="table"><h3>{name}</h3>{_grid(details[key])}</div>' for key, name in grids.items()]
    parts.append(f'<div class="stack">{"".join(tables)}</div>')
    note = "<p>EPE: mean distance, image pixels.</p>"
    return f'<section><h2>Where the errors are</h2>{note}<div class="tables">{"".join(parts)}</div></section>'


def _bar(value: Any, most: float) -> str:
    width = 100 * value / most if is_number(value) else 0
    return f'<span style="width:{width:.1f}%"></span>'


def _grid(rows: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(next(iter(rows.values()), {}))
    values = [cell["EPE"] for cells in rows.values() for cell in cells.values() if is_number(cell["EPE"])]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)

    def cell(entry: Mapping[str, Any]) -> str:
        if not is_number(entry["EPE"]):
            return '<td class="none">–</td>'
        heat = 0.0 if high <= low else (entry["EPE"] - low) / (high - low)
        text = f"{_number(float(entry['EPE']), 2)}<small>{_number(entry['people'])}</small>"
        return f'<td style="--heat:{heat:.2f}" class="heat">{text}</td>'

    head = "".join(f"<th>{squared(column)}</th>" for column in columns)
    body = "".join(
        f'<tr><th scope="row">{squared(row)}</th>{"".join(cell(cells[c]) for c in columns)}</tr>'
        for row, cells in rows.items()
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table><p><small>below: people</small></p>"


def squared(text: Any) -> str:
    """Escapes a text and writes its "^2" as a superscript.

    >>> squared("< 32^2")
    '&lt; 32²'
    """
    return escaped(text).replace("^2", "²")


def _number(value: Any, digits: int = 3) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
