"""Boundaries in scans as one self-contained page: numbers, calibration, errors by boundary, and scans with their bands.

The page holds everything that it shows and fetches nothing. It needs NumPy and Pillow, neither JAX nor matplotlib.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from jaxpose.evaluation import boundaries as evaluation
from jaxpose.evaluation.boundaries import ScoredScan
from jaxpose.files import is_number, read_events, write_whole
from jaxpose.view import tiles
from jaxpose.view.report import charts
from jaxpose.view.report.charts import steps_and_values
from jaxpose.view.report.page import escaped, page
from jaxpose.view.report.sections import scores_section

if TYPE_CHECKING:
    from jaxpose.data.scans import Scan

__all__ = ["of_run", "write"]

COUNT = 20
"""Scans on a page, up to 100 KB each."""
SHARES = (0.6, 0.2)
"""Parts of the scans on a page that are the worst ones and the best ones; the others are spread between them."""
MARGIN = 25
"""Rows shown above the first boundary and below the last one."""
MOST_COLUMNS = 256
"""Points of a line: of wider scans every second or third column is drawn."""
PICTURE_LIMIT = 90_000
"""Characters of a picture."""
BINS = 10
"""Points of the chart of errors against sigma, with as many labels each."""
EXPLAINED = {
    "error_um": "mean distance from the labels, µm: over columns, then scans, then boundaries",
    "true_error_um": "mean distance from the boundary before noise was added to its label, µm",
    "within_2px": "labels at most two pixels away",
    "coverage_50": "labels inside the 50 % bands",
    "coverage_90": "labels inside the 90 % bands",
    "sigma_rank": "rank correlation of sigma and the scale of the labels' noise",
}
"""Meanings of the numbers on a page; errors of single boundaries and coverages of groups are in its tables."""


def of_run(
    run: str | os.PathLike,
    scans: Sequence[Scan],
    *,
    results: str | os.PathLike,
    path: str | os.PathLike | None = None,
    count: int = COUNT,
) -> dict[str, Any]:
    """Writes the page of an evaluation from its result file and the scans that were evaluated.

    Args:
        run: folder of the run, whose log.jsonl holds the training; it may be missing.
        scans: scans with labels, among them those of the result file.
        results: the result file, results/NAME.json.
        path: path of the page; None: report.html in the folder.
        count: largest number of scans on the page.

    Returns:
        The result of `write`.

    Raises:
        FileNotFoundError: the result file is missing.
        ValueError: it is no result file of scans, or a scan of it is not among the scans.
    """
    run, results = Path(run), Path(results)
    content = evaluation.read(results)
    scored, bands = evaluation.scored(content, scans, name=str(results))
    by_name = {scan.name: scan for scan in scans}
    return write(
        run / "report.html" if path is None else path, scored, [by_name[scan.name].image for scan in scored],
        names=content["boundaries"], details=content, bands=bands, events=read_events(run / "log.jsonl"),
        title=f"{run.resolve().name}: {results.stem}", count=count,
    )  # fmt: skip


def write(
    path: str | os.PathLike,
    scans: Sequence[ScoredScan],
    images: Sequence[np.ndarray],
    *,
    names: Sequence[str],
    details: Mapping[str, Any],
    bands: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
    events: Sequence[Mapping[str, Any]] = (),
    title: str = "Boundaries in scans",
    count: int = COUNT,
) -> dict[str, Any]:
    """Writes the page atomically: a reader sees either the old or the complete new one.

    Args:
        path: path of the page.
        scans: predictions beside labels.
        images: ``(H, W)`` uint8 of each scan.
        names: names of the K boundaries.
        details: the result of `jaxpose.evaluation.boundaries.report`.
        bands: lowest and highest rows ``(W, K)`` of the 90 % bands of each scan; None: the net states no density.
        events: events of the run's log, for the curves.
        title: title of the page.
        count: largest number of scans on the page: the worst, the best, and some between them.

    Returns:
        path, bytes and scans (their number on the page), as JSON values.

    Raises:
        ValueError: the numbers of scans, images and bands differ, or `count` is negative.

    >>> from tempfile import mkdtemp
    >>> scan = ScoredScan("a", 3.87, rows=np.full((4, 1), 8.0), labels=np.full((4, 1), 9.0))
    >>> details = evaluation.report([scan], ["ILM"])
    >>> page = write(mkdtemp() + "/report.html", [scan], [np.zeros((16, 4), np.uint8)], names=["ILM"], details=details)
    >>> page["scans"]
    1
    """
    if not len(scans) == len(images) == len(scans if bands is None else bands):
        raise ValueError(
            f"{len(scans)} scans, {len(images)} images and bands of {len(bands or ())} scans: expected as many of each"
        )
    if count < 0:
        raise ValueError(f"count={count}: expected 0 or more")
    errors = np.array([_error_um(scan) for scan in scans])
    figures = [
        _figure(scans[i], images[i], names, None if bands is None else bands[i], place=place, error=errors[i], order=i)
        for place, i in enumerate(select(errors, count))
    ]
    scores = details["scores"]
    body = [
        _header(title, scans, names),
        scores_section({name: scores[name] for name in EXPLAINED if name in scores}, explained=EXPLAINED),
        _charts(scans, details, events),
        _tables(scans, names, details),
        _scans_section(figures, len(scans), has_bands=bands is not None, has_groups=any(scan.groups for scan in scans)),
    ]
    document = page(title, "\n".join(part for part in body if part), script="scans.js").encode(errors="replace")
    write_whole(path, document)
    return {"path": str(path), "bytes": len(document), "scans": len(figures)}


def select(errors: np.ndarray, count: int) -> list[int]:
    """Returns the indices of the scans to show, the worst first: the worst, the best, and some between them.

    >>> select(np.array([3.0, 9.0, np.nan, 1.0, 5.0]), 3)
    [1, 4, 3]
    """
    order = [int(i) for i in np.argsort(-errors, kind="stable") if np.isfinite(errors[i])]
    if len(order) <= count:
        return order
    worst, best = round(SHARES[0] * count), round(SHARES[1] * count)
    between = order[worst : len(order) - best]
    places = np.linspace(0, len(between) - 1, count - worst - best + 2)[1:-1].round().astype(int)
    return order[:worst] + [between[i] for i in places] + order[len(order) - best :]


def _error_um(scan: ScoredScan) -> float:
    """Returns the mean error of a scan over its boundaries, NaN without labels."""
    if not scan.where.any():
        return float("nan")
    return evaluation.errors([scan], [str(k) for k in range(scan.rows.shape[1])])["error_um"]


def _header(title: str, scans: Sequence[ScoredScan], names: Sequence[str]) -> str:
    labels = sum(int(scan.where.sum()) for scan in scans)
    heights = sorted({round(scan.axial_um, 3) for scan in scans})
    height = f"{heights[0]:g}" if len(heights) == 1 else f"{heights[0]:g} to {heights[-1]:g}"
    line = f"{len(scans):,} scans, {labels:,} labels of {len(names)} boundaries; a pixel is {height} µm high."
    return f"<header><h1>{escaped(title)}</h1><p>{line}</p></header>"


def _charts(scans: Sequence[ScoredScan], details: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """Returns the charts of the training and of the evaluation; "" if there is nothing to draw."""
    svgs = _curves(events)
    if curves := details.get("coverage"):
        levels = details["levels"]
        series = {
            name: tuple(zip(*((a, b) for a, b in zip(levels, values, strict=True) if is_number(b)), strict=True))
            for name, values in curves.items()
        }
        svgs.append(
            charts.lines(
                {name: points for name, points in series.items() if points}, title="calibration: labels inside the bands",
                x="level of the bands", low=0, high=1, x_range=(0, 1), diagonal=True, dots=True,
            )
        )  # fmt: skip
    if (chart := _errors_by_sigma(scans)) is not None:
        svgs.append(chart)
    note = (
        "<p>Calibration: on the diagonal, the bands hold the stated share of the labels; above it they are too wide, below it "
        "too narrow. Errors against σ: labels in ten parts of equal size, from the smallest σ to the largest.</p>"
    )
    return f'<section><h2>Charts</h2><div class="charts">{"".join(svgs)}</div>{note}</section>' if svgs else ""


def _curves(events: Sequence[Mapping[str, Any]]) -> list[str]:
    train = [e for e in events if e.get("event") == "train"]
    evals = [e for e in events if e.get("event") == "eval"]
    svgs = []
    if any(is_number(e.get("loss")) for e in train):
        svgs.append(charts.lines({"loss": steps_and_values(train, "loss")}, title="training loss", x="step"))
    pixels = {name: steps_and_values(train, key) for name, key in (("error", "error"), ("σ", "sigma"))}
    if any(ys for _, ys in pixels.values()):
        svgs.append(charts.lines(pixels, title="training batches (px)", x="step", log=True))
    from_what = {"from the labels": "error_um", "from the truth": "true_error_um"}
    errors = {name: steps_and_values(evals, key) for name, key in from_what.items()}
    if any(ys for _, ys in errors.values()):
        svgs.append(charts.lines(errors, title="mean error of the evaluations (µm)", x="step", low=0, dots=True))
    return svgs


def _errors_by_sigma(scans: Sequence[ScoredScan]) -> str | None:
    """Draws mean errors, and the mean scale of the noise where it is known, against sigma, in µm; None without sigma."""
    if any(scan.sigma is None for scan in scans):
        return None
    values = {"sigma": [], "error": [], "noise": []}
    for scan in scans:
        values["sigma"].append(scan.axial_um * scan.sigma[scan.where])
        values["error"].append(scan.axial_um * np.abs(scan.rows - scan.labels)[scan.where])
        if scan.noise is not None:
            values["noise"].append(scan.axial_um * scan.noise[scan.where])
    sigma, error = np.concatenate(values["sigma"]), np.concatenate(values["error"])
    if len(sigma) < BINS:
        return None
    parts = np.array_split(np.argsort(sigma, kind="stable"), BINS)
    x = [float(sigma[part].mean()) for part in parts]
    series = {"mean error": (x, [float(error[part].mean()) for part in parts])}
    if len(values["noise"]) == len(scans):
        noise = np.concatenate(values["noise"])
        series["noise of the labels"] = (x, [float(noise[part].mean()) for part in parts])
    return charts.lines(series, title="errors against σ (µm)", x="predicted σ (µm)", low=0, dots=True)


def _tables(scans: Sequence[ScoredScan], names: Sequence[str], details: Mapping[str, Any]) -> str:
    """Returns errors by boundary, and errors, sigma and coverage by group of columns."""
    scores = details["scores"]
    errors = {name: scores.get(f"error_um_{name}") for name in names}
    worst = max((value for value in errors.values() if is_number(value)), default=0) or 1
    labels = sum(scan.where.sum(0) for scan in scans)
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td class="bar"><span style="width:'
        f'{100 * (value or 0) / worst:.1f}%"></span></td><td>{_number(value, 2)}</td><td>{int(labels[k]):,}</td></tr>'
        for k, (name, value) in enumerate(errors.items())
    )
    by_boundary = (
        '<div class="table"><h3>By boundary</h3><table><thead><tr><th>boundary</th><th></th><th>error, µm</th><th>labels</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )
    rows = ""
    for name, group in _groups(scans).items():
        suffix = "" if name == "all" else f"_{name}"
        cells = [_number(group["error"], 2), _number(group["sigma"], 2)]
        cells += [_number(scores.get(f"coverage_{level}{suffix}"), 3) for level in (50, 90)]
        rows += f'<tr><th scope="row">{escaped(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}'
        rows += f"<td>{group['labels']:,}</td></tr>"
    by_group = (
        '<div class="table"><h3>By columns</h3><table><thead><tr><th>columns</th><th>error, µm</th><th>mean σ, µm</th>'
        f"<th>in 50 % bands</th><th>in 90 % bands</th><th>labels</th></tr></thead><tbody>{rows}</tbody></table>"
        "<p><small>The error of a group is the mean over its labels.</small></p></div>"
    )
    return f'<section><h2>Where the errors are</h2><div class="tables">{by_boundary}{by_group}</div></section>'


def _groups(scans: Sequence[ScoredScan]) -> dict[str, dict[str, Any]]:
    """Returns the mean error and the mean sigma in µm, and the number of labels, of all columns and of each group."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for scan in scans:
        error = np.where(scan.where, np.abs(scan.rows - scan.labels), np.nan) * scan.axial_um
        sigma = np.full(error.shape, np.nan) if scan.sigma is None else scan.sigma * scan.axial_um
        for name, mask in evaluation.masks_of(scan).items():
            keep = scan.where & mask[:, None]
            parts.setdefault(name, []).append((error[keep], sigma[keep]))
    table = {}
    for name, pairs in parts.items():
        error, sigma = (np.concatenate(values) for values in zip(*pairs, strict=True))
        mean = lambda values: float(values.mean()) if len(values) else None  # noqa: E731
        table[name] = {"error": mean(error), "sigma": mean(sigma), "labels": len(error)}
    return table


def _scans_section(figures: Sequence[str], total: int, *, has_bands: bool, has_groups: bool) -> str:
    if not figures:
        return ""
    parts = {"lines": "boundaries", **({"bands": "90 % bands"} if has_bands else {}), "labels": "labels (white)"}
    boxes = "".join(
        f'<label><input type="checkbox" name="{key}" checked> {text}</label>' for key, text in parts.items()
    )
    orders = {"worst": "worst first", "best": "best first", "file": "as in the result file"}
    options = "".join(f'<option value="{key}">{text}</option>' for key, text in orders.items())
    groups = " The strips below a scan mark columns with fluid (blue) and in the shadow of vessels (grey)." * has_groups
    return (
        f'<section><h2>Scans</h2><p>{len(figures):,} of {total:,} scans are on this page: the worst, the best, and some between '
        f'them.{groups}</p><form id="shown" hidden>{boxes}<label>Order <select name="order">{options}</select></label></form>'
        f'<div id="scans" class="scans">{"".join(figures)}</div></section>'
    )  # fmt: skip


def _figure(
    scan: ScoredScan, image: np.ndarray, names: Sequence[str], bands: tuple[np.ndarray, np.ndarray] | None, *, place: int, error: float,
    order: int,
) -> str:  # fmt: skip
    """Returns a scan with its boundaries, bands and labels, cut to the rows of the retina."""
    top, bottom = _rows_shown(scan.rows, len(image))
    part = Image.fromarray(np.ascontiguousarray(image[top:bottom]))
    width, height = part.size
    columns = np.arange(0, len(scan.rows), -(-len(scan.rows) // MOST_COLUMNS))
    shapes = {"bands": "", "lines": "", "labels": ""}
    for k, name in enumerate(names):
        color = f"hsl({300 * k / len(names):.0f} 95% 62%)"
        if bands is not None:
            outline = _points(columns, bands[0][:, k] - top) + " " + _points(columns[::-1], bands[1][:, k] - top)
            shapes["bands"] += f'<polygon fill="{color}" points="{outline}"/>'
        line = _points(columns, scan.rows[:, k] - top)
        shapes["lines"] += f'<polyline stroke="{color}" points="{line}"><title>{escaped(name)}</title></polyline>'
        labelled = columns[np.isfinite(scan.labels[columns, k])]
        dots = "".join(f"M{x + 0.5:g} {scan.labels[x, k] - top + 0.5:.1f}h0" for x in labelled)
        shapes["labels"] += f'<path d="{dots}"/>' if dots else ""
    strips = "".join(
        f'<rect class="{escaped(name)}" x="{x}" y="{height - 3 * (i + 1)}" width="1" height="3"/>'
        for i, (name, mask) in enumerate(scan.groups.items())
        for x in np.flatnonzero(mask)
    )
    layers = "".join(f'<g class="{name}">{content}</g>' for name, content in shapes.items())
    facts = [f"<b>{error:.2f} µm</b>", escaped(scan.name)]
    if scan.sigma is not None and scan.where.any():
        facts.append(f"mean σ {float(scan.sigma[scan.where].mean()) * scan.axial_um:.2f} µm")
    uri = tiles.data_uri(part, limit=PICTURE_LIMIT)
    return (
        f'<figure data-error="{error:.6g}" data-place="{place}" data-order="{order}"><div class="scan"><img src="{uri}" '
        f'alt="{escaped(scan.name)}" loading="lazy"><svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        f"{layers}{strips}</svg></div><figcaption>{', '.join(facts)}</figcaption></figure>"
    )


def _rows_shown(rows: np.ndarray, height: int) -> tuple[int, int]:
    """Returns the first row of a picture and the row behind the last: those of the boundaries with a margin, inside the image.

    Of boundaries that lie outside of the image the nearest rows are shown, as many as the margin.

    >>> _rows_shown(np.array([40.0, 60.0]), 496), _rows_shown(np.array([80.0, np.nan]), 16)
    ((15, 85), (0, 16))
    """
    finite = rows[np.isfinite(rows)]
    top = min(int(np.floor(finite.min())) - MARGIN, height - MARGIN)
    bottom = max(int(np.ceil(finite.max())) + MARGIN, MARGIN)
    return max(top, 0), min(bottom, height)


def _points(columns: np.ndarray, rows: np.ndarray) -> str:
    """Returns the points of a line; the centre of pixel 0 is at 0.5. Rows that are not finite are left out."""
    return " ".join(f"{x + 0.5:g},{rows[x] + 0.5:.1f}" for x in columns if np.isfinite(rows[x]))


def _number(value: Any, digits: int) -> str:
    return f"{value:,.{digits}f}" if is_number(value) and np.isfinite(value) else "–"
