"""`jaxpose view report`: an evaluation as one HTML file that fetches nothing: numbers, curves, calibration, errors, cases.

Every name is somebody else's (files, joints, settings) and is escaped; the page's Content-Security-Policy allows pictures
within it, its own style, and the one script whose hash it states. NumPy, Pillow and pycocotools; no JAX, no matplotlib.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose.evaluation import average_precision, cases, coco
from jaxpose.evaluation import report as errors
from jaxpose.files import is_number, read_events, read_json, write_whole
from jaxpose.skeleton import Skeleton
from jaxpose.view import charts, tiles
from jaxpose.view.page import escaped, page
from jaxpose.view.results import by_oks

__all__ = ["of_run", "report", "write"]

SHARES = {"worst": 0.5, "best": 0.2, "missed": 0.15, "unmatched": 0.15}  # of the cases shown
EXPLAINED = {
    "AP": "average precision over OKS 0.50 to 0.95",
    "AR": "average recall over OKS 0.50 to 0.95",
    "EPE": "mean distance of the labelled joints, image px",
    "EPE_visible": "of the visible joints, px",
    "EPE_occluded": "of the occluded joints, px",
    "EPE_mean_position": "of every joint at its mean place in the box, px",
    "EPE_nearest_pose": "of the training pose nearest to the labels, px",
    "PCK@0.05": "joints within 5 % of the box's longer side",
    "PCK@0.1": "joints within 10 % of the box's longer side",
    "OKS": "mean over the people found",
    "pearson": "correlation of confidence and OKS",
    "calibration_error": "mean difference of coverage and level",
    "coverage_90": "truth inside the 90 % regions, on frames that sigma was not fitted on",
    "people_per_image": "found, on average",
    "scale_pearson": "correlation of learned factor and size",
    "people": "matched with a prediction",
    "joints": "labelled, of these people",
}


def report(
    source: Path,
    results: Path | None = None,
    /,
    *,
    data: Path | None = None,
    split: str = "val",
    format: Literal["coco", "mpii", "crowdpose"] = "coco",
    images: Path | None = None,
    out: Path | None = None,
    count: int = 100,
    category_id: int | None = None,
) -> None:
    """Write an evaluation as one HTML file, with the worst and the best cases as pictures.

    Of a run: `jaxpose view report RUN --data FOLDER`; of any result file: `jaxpose view report GROUND_TRUTH.json RESULTS.json
    --images DIR`.

    Args:
      source: a run's folder, or a COCO keypoint file.
      results: result file; of a run by default its newest (results/NAME.json, with what NAME_report.json and log.jsonl say).
      data: the folder that the run was evaluated on.
      split: of that folder.
      format: of its annotations.
      images: the image folder, where there is no --data to look in.
      out: the file to write; by default report.html in the run's folder, or beside the results with their name.
      count: so many cases at most, about 20 KB each.
      category_id: of the persons, where several categories have keypoints.
    """
    if count < 0:
        raise ValueError(f"--count {count}: expected 0 or more")
    if not source.is_dir():
        if data is not None:
            raise ValueError(f"{source} is not a run's folder, which --data goes with: give --images")
        if results is None or images is None:
            raise ValueError(
                f"{source} is not a run's folder: give the result file after the ground truth, and the image folder (--images)"
            )
        if not images.is_dir():
            raise FileNotFoundError(
                f"--images {images} is not a folder: name the folder that the file names are relative to"
            )
        out = results.with_suffix(".html") if out is None else out
        written = write(out, ground_truth=source, results=results, images=images, count=count, category_id=category_id)
    else:
        if data is None:
            raise ValueError(f"name the folder that {source} was evaluated on (--data), to draw its cases")
        from jaxpose.data.formats import coco as coco_format
        from jaxpose.data.formats import crowdpose, mpii

        reader = {"coco": coco_format, "mpii": mpii, "crowdpose": crowdpose}[format]
        truth, folder = reader.find(data, split, annotations=None, images=images)
        if format == "mpii":  # no COCO file; the others are read as they are, so that an image may be missing
            truth = mpii.read(truth, folder).ground_truth()
        written = of_run(
            source, ground_truth=truth, images=folder, results=results, path=out, count=count, category_id=category_id
        )
    print(json.dumps(written))


def of_run(
    run: str | os.PathLike,
    *,
    ground_truth: coco.GroundTruth,
    images: tiles.Images,
    results: str | os.PathLike | None = None,
    path: str | os.PathLike | None = None,
    skeleton: Skeleton | None = None,
    category_id: int | None = None,
    count: int = 100,
) -> dict[str, Any]:
    """The page of a run: `write`, with what lies in the run's folder.

    Args:
        run: folder that holds results/NAME.json and, where there are any, results/NAME_report.json and log.jsonl.
        ground_truth, images, skeleton, category_id, count: as in `write`.
        results: which result file; None: the newest.
        path: of the page; None: report.html in the folder.

    Returns:
        As `write`.

    Raises:
        FileNotFoundError: no result file. Others as `write`.

    >>> of_run("no_such_run", ground_truth={}, images="images")
    Traceback (most recent call last):
    FileNotFoundError: no_such_run/results holds no result file: evaluate first, or name one
    """
    run = Path(run)
    chosen = _newest(run / "results") if results is None else Path(results)
    events = read_events(run / "log.jsonl")
    step = re.fullmatch(r"step_(\d+)", chosen.stem)
    scores = next((e for e in reversed(events) if step and e["event"] == "eval" and e["step"] == int(step[1])), None)
    beside = chosen.with_name(f"{chosen.stem}_report.json")
    return write(
        run / "report.html" if path is None else path,
        ground_truth=ground_truth, results=chosen, images=images, skeleton=skeleton, events=events,
        scores=None if scores is None else {k: v for k, v in scores.items() if k not in ("event", "step", "time")},
        details=_read_details(beside) if beside.is_file() else None,
        title=f"{run.resolve().name}: {chosen.stem}", category_id=category_id, count=count,
    )  # fmt: skip


def write(
    path: str | os.PathLike,
    *,
    ground_truth: coco.GroundTruth,
    results: coco.Results,
    images: tiles.Images,
    skeleton: Skeleton | None = None,
    scores: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
    events: Sequence[Mapping[str, Any]] = (),
    density: Mapping[str, Any] | None = None,
    title: str | None = None,
    category_id: int | None = None,
    count: int = 100,
) -> dict[str, Any]:
    """Write the page, at once: a reader sees the old one or the whole new one.

    Args:
        path: of the page.
        ground_truth, results, category_id: as in `jaxpose.evaluation.average_precision`.
        images: the image folder, or a function from the entry of an image in the ground truth to the bytes of its file. A case
            whose image cannot be read is drawn on grey, and counted.
        skeleton: limbs and sigmas; None: those of the ground truth's category.
        scores: name -> number; None: average precision and recall are computed.
        details: as `jaxpose.evaluation.report.details` gives it; None: computed. With "remarks", sentences to show at the top.
        events: of the run's log, for the curves.
        density: as `jaxpose.density.calibration` gives it; None: ``details["density"]``, if it is there.
        title: of the page; None: the result file's name.
        count: so many cases at most: half of them the worst pairs, then the best, who was missed, and what was found besides.

    Returns:
        path, bytes, cases, images_missing: ready for JSON.

    Raises:
        FileNotFoundError, ValueError: as `jaxpose.evaluation.cases.compare`.

    >>> from tempfile import mkdtemp
    >>> person = {"id": 1, "image_id": 7, "bbox": [0, 0, 50, 50], "area": 1500, "keypoints": [10, 20, 2]}
    >>> truth = {"images": [{"id": 7}], "categories": [{"id": 1, "keypoints": ["nose"]}], "annotations": [person]}
    >>> page = write(Path(mkdtemp()) / "report.html", ground_truth=truth, results=[], images="nowhere")
    >>> page["cases"], page["images_missing"]
    (1, 1)
    """
    path = Path(path)
    sigmas = None if skeleton is None else skeleton.sigmas
    found, truth = cases.compare(ground_truth, results, sigmas=sigmas, category_id=category_id)
    own = errors.of_cases(found, truth, sigmas=sigmas)
    details = own if details is None else details
    if scores is None:
        scores = average_precision(ground_truth, results, sigmas=sigmas, category_id=category_id) | dict(
            details["summary"]
        )
    density = details.get("density") if density is None else density
    limbs = (Skeleton.from_coco_category(truth["category"]) if skeleton is None else skeleton).limbs
    name = Path(results).stem if isinstance(results, (str, os.PathLike)) else "results"
    title = name if title is None else title

    pictures = tiles.Pictures(images)
    shown = _chosen(found, count)
    joints = [str(joint) for joint in truth["category"]["keypoints"]]
    cards = [_card(case, pictures, limbs, joints) for case in shown]
    body = [
        _header(title, own["matched"], truth, pictures, shown, remarks=details.get("remarks", ())),
        _scores(scores),
        _charts(events, density, found),
        _tables(details),
        _cases(cards, found),
    ]
    document = page(title, "\n".join(part for part in body if part))
    content = document.encode("utf-8", errors="replace")  # JSON may hold half a surrogate pair
    write_whole(path, content)
    return {"path": str(path), "bytes": len(content), "cases": len(cards), "images_missing": len(pictures.missing)}


def _newest(folder: Path) -> Path:
    files = [p for p in folder.glob("*.json") if not p.name.endswith("_report.json") and not p.name.startswith(".")]
    if not files:
        raise FileNotFoundError(f"{folder} holds no result file: evaluate first, or name one")
    return max(files, key=lambda p: (p.stat().st_mtime, p.name))


def _read_details(path: Path) -> dict[str, Any]:
    details = read_json(path, "report of an evaluation", advice="remove it, or evaluate again")
    wanted = ("summary", "per_joint", "size_by_joints", "occlusion_by_joints")
    missing = [key for key in wanted if not isinstance(details, dict) or not isinstance(details.get(key), dict)]
    if missing:
        raise ValueError(
            f"{path} is no report of an evaluation: it has no {missing[0]!r}; remove it, or evaluate again"
        )
    return details


def _chosen(found: Sequence[cases.Case], count: int) -> list[cases.Case]:
    """`count` cases, the worst first: each kind gets its share, and what others leave of theirs."""
    ordered = by_oks(found)
    matched = [case for case in ordered if case.kind == "matched"]
    rows = {
        "worst": matched,
        "best": matched[::-1],
        "missed": [case for case in ordered if case.kind == "missed"],
        "unmatched": [case for case in ordered if case.kind == "unmatched"],
    }
    taken: dict[int, cases.Case] = {}
    for share in (SHARES, dict.fromkeys(SHARES, 1.0)):
        for name, group in rows.items():
            room = min(math.ceil(share[name] * count), count - len(taken))
            taken |= {id(case): case for case in [c for c in group if id(c) not in taken][:room]}
    return [case for case in ordered if id(case) in taken]


# ------------------------------------------------------------------------------------------------------ the parts of it


def _number(value: Any, digits: int = 3) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _header(
    title: str, matched: Mapping[str, int], truth: Mapping[str, Any], pictures, shown, *, remarks: Sequence[str] = ()
) -> str:
    line = (
        f"{len(truth['images']):,} images, {matched['people']:,} labelled people, {matched['results']:,} predictions; "
        f"{matched['pairs']:,} of them matched. {escaped(truth['category'].get('name', 'category'))}: "
        f"{len(truth['category']['keypoints'])} joints."
    )
    parts = [f"<header><h1>{escaped(title)}</h1><p>{line}</p>"]
    parts += [f'<p class="notice">{escaped(remark)}</p>' for remark in remarks]
    if not matched["results"]:
        parts.append('<p class="notice">The result file is empty: nobody was found.</p>')
    if pictures.missing:
        name, why = next(iter(pictures.missing.items()))
        images = len({case.image["id"] for case in shown})
        parts.append(
            f'<p class="notice" id="missing">{len(pictures.missing)} of the {images} images shown could not be read, and are grey: '
            f"the first is {escaped(name)} ({escaped(why)}).</p>"
        )
    return "".join(parts) + "</header>"


def _scores(scores: Mapping[str, Any]) -> str:
    rows = []
    for name, value in scores.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        undefined = value == -1 and re.match(r"A[PR]", str(name))  # pycocotools' word for "there is no ground truth"
        meaning = EXPLAINED.get(name, "")
        shown = "–" if undefined else _number(value, 2 if str(name).startswith("EPE") else 3)
        rows.append(
            f'<div class="score"><dt>{escaped(name)}</dt><dd>{shown}</dd><small>{escaped(meaning)}</small></div>'
        )
    return f'<section><h2>Numbers</h2><dl class="scores">{"".join(rows)}</dl></section>' if rows else ""


def _charts(events: Sequence[Mapping[str, Any]], density: Mapping[str, Any] | None, found: Sequence[cases.Case]) -> str:
    chart, said = _calibration(density)
    drawn = [*_curves(events), *_similarity(found), *chart]
    return f'<section><h2>Charts</h2><div class="charts">{"".join(drawn)}</div>{said}</section>' if drawn else ""


def _curves(events: Sequence[Mapping[str, Any]]) -> list[str]:
    train = [e for e in events if e.get("event") == "train"]
    evals = [e for e in events if e.get("event") == "eval"]

    def series(rows, name):
        return [e["step"] for e in rows if is_number(e.get(name))], [e[name] for e in rows if is_number(e.get(name))]

    drawn = []
    if any(is_number(e.get("loss")) for e in train):
        drawn.append(charts.lines({"loss": series(train, "loss")}, title="training loss", x="step"))
    if any(is_number(e.get("epe")) for e in train):
        drawn.append(charts.lines({"EPE": series(train, "epe")}, title="training EPE (input px)", x="step", low=0))
    terms = [term for term in ("map_loss", "scale_loss", "pull", "push") if any(is_number(e.get(term)) for e in train)]
    if len(terms) > 1:
        drawn.append(charts.lines({t: series(train, t) for t in terms}, title="terms of the loss", x="step", log=True))
    names = [n for n in ("AP", "AP50", "AR", "PCKh@0.5") if any(is_number(e.get(n)) and e[n] >= 0 for e in evals)]
    if names:
        drawn.append(
            charts.lines({n: series(evals, n) for n in names}, title="evaluations", x="step", low=0, high=1, dots=True)
        )
    return drawn


def _calibration(density: Mapping[str, Any] | None) -> tuple[list[str], str]:
    """The chart, and what to read in it."""
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
    return [chart], (
        "<p>Calibration: on the diagonal, the density says what is true; above it, its regions are too large, below, too "
        f"small. Mean difference: {numbers}.</p>"
    )


def _similarity(found: Sequence[cases.Case]) -> list[str]:
    similarities = [case.oks for case in found if case.kind == "matched"]
    missed = sum(case.kind == "missed" for case in found)
    if not similarities and not missed:
        return []
    counts, edges = np.histogram(similarities, bins=20, range=(0, 1))
    rows = [("missed", missed)] + [(f"{low:.2f}", int(n)) for low, n in zip(edges, counts)]
    return [charts.columns(rows, title="people by OKS", x="OKS from")]


def _tables(details: Mapping[str, Any]) -> str:
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
    said = "<p>EPE: mean distance, image pixels.</p>"
    return f'<section><h2>Where the errors are</h2>{said}<div class="tables">{"".join(parts)}</div></section>'


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
        shown = f"{_number(float(entry['EPE']), 2)}<small>{_number(entry['people'])}</small>"
        return f'<td style="--heat:{heat:.2f}" class="heat">{shown}</td>'

    head = "".join(f"<th>{_squared(column)}</th>" for column in columns)
    body = "".join(
        f'<tr><th scope="row">{_squared(row)}</th>{"".join(cell(cells[c]) for c in columns)}</tr>'
        for row, cells in rows.items()
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table><p><small>below: people</small></p>"


def _squared(text: Any) -> str:
    return escaped(text).replace("^2", "²")


def _bin(value: float | None, bins: Mapping[str, tuple[float, float]]) -> str:
    """The number of the bin of a value, "" for none."""
    return next(
        (str(i) for i, (low, high) in enumerate(bins.values()) if value is not None and low <= value < high), ""
    )


def _card(case: cases.Case, pictures: tiles.Pictures, limbs, joints: Sequence[str]) -> str:
    picture = pictures.get(case.image)
    uri = tiles.data_uri(tiles.draw(case, picture, limbs=limbs))
    name, image = tiles.name_of(case.image), case.image["id"]
    ids = [f"image {image}"]
    ids += [f"person {case.person['id']}"] if case.person is not None else []
    ids += [f"row {case.row}"] if case.record is not None else []
    words = [case.kind, name, *ids]
    facts, detail, mean = [], "", ""
    if case.kind == "matched":
        distances = case.errors
        order = [int(k) for k in np.argsort(-np.where(np.isnan(distances), -1, distances)) if np.isfinite(distances[k])]
        mean = f"{np.nanmean(distances):.6g}"
        facts.append(f"EPE {np.nanmean(distances):.1f} px")
        facts.append(f"worst {escaped(joints[order[0]])} {distances[order[0]]:.0f} px")
        words += [joints[k] for k in order[:2]]
        rows = "".join(
            f"<tr><td>{escaped(joints[k])}</td><td>{distances[k]:.1f}</td><td>{case.found[k, 2]:.2f}</td></tr>"
            for k in order
        )
        detail = (
            "<details><summary>joints</summary><table><thead><tr><th></th><th>px</th><th>confidence</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></details>"
        )
    if case.excused:
        facts.append("on a crowd or on somebody unlabelled: not counted")
        words.append("crowd unlabelled")
    if case.person is not None:
        facts.append(f"size {case.size:.0f} px, {case.occluded:.0%} occluded")
    if picture is None:
        facts.append('<strong class="gone">image could not be read</strong>')
        words.append("image could not be read")
    heading = {"matched": f"OKS {case.oks:.3f}" if case.oks is not None else "", "missed": "missed"}.get(
        case.kind, "unmatched"
    )
    score = "" if case.score is None else f"<span>score {case.score:.3f}</span>"
    attributes = {
        "q": " ".join(words).lower(),
        "kind": case.kind,
        "oks": "" if case.oks is None else f"{case.oks:.6f}",
        "score": "" if case.score is None else f"{case.score:.6g}",
        "epe": mean,
        "px": f"{case.size:.6g}",
        "size": _bin(case.size, errors.SIZE_BINS) if case.person is not None else "",
        "occlusion": _bin(case.occluded, errors.OCCLUSION_BINS),
    }
    data = " ".join(f'data-{key}="{escaped(value)}"' for key, value in attributes.items())
    alt = {"matched": "prediction over truth", "missed": "truth without a prediction"}.get(
        case.kind, "prediction without truth"
    )
    width, height = 240, 300
    names = "<br>".join(escaped(text) for text in (name, ", ".join(ids)))
    return (
        f'<figure class="case {case.kind}" {data}><img src="{uri}" alt="{alt}" width="{width}" height="{height}" loading="lazy">'
        f"<figcaption><b>{heading}</b> {score}<br>{'<br>'.join(facts)}"
        f'<br><span class="ids">{names}</span>{detail}</figcaption></figure>'
    )


def _options(entries: Mapping[str, str]) -> str:
    return "".join(f'<option value="{escaped(value)}">{_squared(text)}</option>' for value, text in entries.items())


def _cases(cards: Sequence[str], found: Sequence[cases.Case]) -> str:
    any_of = lambda bins: _options({"": "any", **{str(i): name for i, name in enumerate(bins)}})  # noqa: E731
    kinds = {"": "all", "matched": "matched", "missed": "missed people", "unmatched": "unmatched predictions"}
    orders = {"": "worst first", "best": "best first", "score": "highest score", "epe": "largest EPE"}
    orders |= {"small": "smallest", "large": "largest"}
    form = f"""<form id="filter" hidden>
<label class="wide">Search <input type="search" name="q" placeholder="file, id, joint" autocomplete="off"></label>
<label>OKS from <input type="number" name="min" min="0" max="1" step="0.05" placeholder="0"></label>
<label>to <input type="number" name="max" min="0" max="1" step="0.05" placeholder="1"></label>
<label>Kind <select name="kind">{_options(kinds)}</select></label>
<label>Size <select name="size">{any_of(errors.SIZE_BINS)}</select></label>
<label>Occlusion <select name="occlusion">{any_of(errors.OCCLUSION_BINS)}</select></label>
<label>Order <select name="sort">{_options(orders)}</select></label>
<button type="reset">Reset</button> <output id="shown"></output>
</form>"""
    return (
        f'<section id="all"><h2>Cases</h2><p><span class="key truth"></span>labelled <span class="key found"></span>predicted '
        f'<span class="key error"></span>error. {len(cards):,} of {len(found):,} cases are on this page: the worst and the best pairs, '
        "people who were missed, predictions that belong to nobody. The address keeps the filter.</p>"
        f'{form}<div id="cases">{"".join(cards)}</div></section>'
    )
