"""The document of `jaxpose view report`, for a run, or for a ground truth and a result file."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpose.data.formats import Choice
from jaxpose.evaluation import average_precision, cases, coco
from jaxpose.evaluation import report as errors
from jaxpose.files import read_events, read_json, write_whole
from jaxpose.skeleton import Skeleton
from jaxpose.view import tiles
from jaxpose.view.report.cards import card, cases_section
from jaxpose.view.report.page import page
from jaxpose.view.report.sections import charts_section, header, scores_section, tables_section
from jaxpose.view.results import order_by_oks

__all__ = ["of_run", "report", "select_cases", "write"]

SHARES = {"worst": 0.5, "best": 0.2, "missed": 0.15, "unmatched": 0.15}
"""Shares of the kinds of cases in a report."""


def report(
    source: Path,
    results: Path | None = None,
    /,
    *,
    data: Path | None = None,
    split: str = "val",
    format: Choice = "coco",
    images: Path | None = None,
    out: Path | None = None,
    count: int = 100,
    category_id: int | None = None,
    category: str | int | None = None,
) -> None:
    """Write an evaluation as one HTML file, with the worst and the best cases as pictures.

    For a run: `jaxpose view report RUN --data FOLDER`; for any result file: `jaxpose view report GROUND_TRUTH.json RESULTS.json
    --images DIR`. For a run of experiments.oct_rle: `jaxpose view report RUN`, with `--data FOLDER` if it was trained on files.

    Args:
        source: a run's folder, or a COCO keypoint file.
        results: result file; for a run by default its newest (results/NAME.json, with NAME_report.json and log.jsonl).
        data: the folder that the run was evaluated on.
        split: split of that folder.
        format: format of its annotations; auto: detected from the content.
        images: the image folder, if it is not in --data.
        out: the file to write; by default report.html in the run's folder, or a file next to the results with their name.
        count: largest number of cases, about 20 KB each; of scans at most 20, about 120 KB each.
        category_id: category of the persons, if several categories have keypoints.
        category: with --data: the run's own --category, such as both for both hands of RHD's pictures.
    """
    if count < 0:
        raise ValueError(f"--count {count}: expected 0 or more")
    if not source.is_dir():
        if data is not None:
            raise ValueError(f"{source} is not a run's folder, which --data needs: give --images instead")
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
    elif (scans_file := _result_of_scans(source, results)) is not None:
        of_poses = {"split": split != "val", "format": format != "coco", "images": images is not None}
        of_poses |= {"category": category is not None, "category_id": category_id is not None}
        if given := [name for name, by_hand in of_poses.items() if by_hand]:
            flag = given[0].replace("_", "-")
            raise ValueError(f"--{flag}: it is for poses, {source} predicts boundaries in scans; leave it out")
        written = _of_scans(source, scans_file, data=data, out=out, count=count)
    else:
        if data is None:
            raise ValueError(f"name the folder that {source} was evaluated on (--data), to draw its cases")
        from jaxpose.data import formats

        reader = formats.choose(format, data, split)
        annotations, folder = reader.find(data, split, images=images)
        if category is None:
            truth = reader.ground_truth(annotations, folder, split=split)
        else:
            truth = reader.read(annotations, folder, split=split, category=category).ground_truth()
        results = _newest(source / "results") if results is None else results
        if isinstance(truth, Mapping):  # not a file, which holds all persons: the format may have selected some
            _check_persons(results, truth, data)
        written = of_run(
            source, ground_truth=truth, images=folder, results=results, path=out, count=count, category_id=category_id
        )
    print(json.dumps(written))


def _check_persons(records: Path, truth: Mapping[str, Any], source: Path) -> None:
    """Raises a ValueError if a result file has persons that the ground truth of --data does not hold."""
    content = read_json(records, "result file")
    rows = [row for row in content if isinstance(row, dict)] if isinstance(content, list) else []
    given = {row["annotation_id"] for row in rows if type(row.get("annotation_id")) is int}
    if extra := sorted(given - {person["id"] for person in truth["annotations"]}):
        raise ValueError(
            f"{records} has {len(extra)} persons that {source} does not hold, the first is annotation {extra[0]}: give --category as "
            "the run had it, such as both for both hands of RHD's pictures, or the --data and --split that it was evaluated on"
        )


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
    """Writes the page of a run with `write`, from the files in the run's folder.

    Args:
        run: folder with results/NAME.json and optionally results/NAME_report.json and log.jsonl.
        ground_truth, images, skeleton, category_id, count: the arguments of `write`.
        results: the result file; None: the newest.
        path: path of the page; None: report.html in the folder.

    Returns:
        The result of `write`.

    Raises:
        FileNotFoundError: there is no result file. Other errors are those of `write`.

    >>> of_run("no_such_run", ground_truth={}, images="images")
    Traceback (most recent call last):
    FileNotFoundError: no_such_run/results holds no result file: evaluate first, or name one
    """
    run = Path(run)
    result_file = _newest(run / "results") if results is None else Path(results)
    events = read_events(run / "log.jsonl")
    step = re.fullmatch(r"step_(\d+)", result_file.stem)
    scores = next((e for e in reversed(events) if step and e["event"] == "eval" and e["step"] == int(step[1])), None)
    beside = result_file.with_name(f"{result_file.stem}_report.json")
    return write(
        run / "report.html" if path is None else path,
        ground_truth=ground_truth, results=result_file, images=images, skeleton=skeleton, events=events,
        scores=None if scores is None else {k: v for k, v in scores.items() if k not in ("event", "step", "time")},
        details=_read_details(beside) if beside.is_file() else None,
        title=f"{run.resolve().name}: {result_file.stem}", category_id=category_id, count=count,
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
    """Writes the page atomically: a reader sees either the old or the complete new one.

    Args:
        path: path of the page.
        ground_truth, results, category_id: the arguments of `jaxpose.evaluation.average_precision`.
        images: the image folder, or a function from the entry of an image in the ground truth to the bytes of its file. A case
            whose image cannot be read is drawn on grey, and counted.
        skeleton: limbs and sigmas; None: those of the ground truth's category.
        scores: name -> number; None: average precision and recall are computed.
        details: the result of `jaxpose.evaluation.report.details`; None: it is computed.
        events: events of the run's log, for the curves.
        density: the result of `jaxpose.density.calibration`; None: ``details["density"]``, if it exists.
        title: title of the page; None: the result file's name.
        count: largest number of cases: half of them the worst pairs, then the best, missed people, and unmatched predictions.

    Returns:
        path, bytes, cases, images_missing, as JSON values.

    Raises:
        FileNotFoundError, ValueError: the errors of `jaxpose.evaluation.cases.compare`.

    >>> from tempfile import mkdtemp
    >>> person = {"id": 1, "image_id": 7, "bbox": [0, 0, 50, 50], "area": 1500, "keypoints": [10, 20, 2]}
    >>> truth = {"images": [{"id": 7}], "categories": [{"id": 1, "keypoints": ["nose"]}], "annotations": [person]}
    >>> page = write(Path(mkdtemp()) / "report.html", ground_truth=truth, results=[], images="nowhere")
    >>> page["cases"], page["images_missing"]
    (1, 1)
    """
    path = Path(path)
    sigmas = None if skeleton is None else skeleton.sigmas
    all_cases, truth = cases.compare(ground_truth, results, sigmas=sigmas, category_id=category_id)
    own = errors.of_cases(all_cases, truth, sigmas=sigmas)
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
    cases_shown = select_cases(all_cases, count)
    joints = [str(joint) for joint in truth["category"]["keypoints"]]
    cards = [card(case, pictures, limbs, joints) for case in cases_shown]
    body = [
        header(title, own["matched"], truth, pictures, cases_shown, remarks=details.get("remarks", ())),
        scores_section(scores),
        charts_section(events, density, all_cases, is_in_sample="sigma_scale" in scores),
        tables_section(details),
        cases_section(cards, all_cases),
    ]
    document = page(title, "\n".join(part for part in body if part))
    content = document.encode("utf-8", errors="replace")  # JSON may hold half a surrogate pair
    write_whole(path, content)
    return {"path": str(path), "bytes": len(content), "cases": len(cards), "images_missing": len(pictures.missing)}


def _result_of_scans(run: Path, results: Path | None) -> Path | None:
    """Returns the result file of a run on scans; None if it is a run on pictures of people."""
    from jaxpose.evaluation import boundaries

    path = _newest(run / "results") if results is None else results
    return path if path.is_file() and boundaries.is_result(path) else None


def _of_scans(run: Path, results: Path, *, data: Path | None, out: Path | None, count: int) -> dict[str, Any]:
    """Writes the page of a run on scans, which are read again, or drawn again."""
    from jaxpose.data.scans import duke
    from jaxpose.data.synthetic import retina
    from jaxpose.evaluation import boundaries
    from jaxpose.view import scans

    content = boundaries.read(results)
    synthetic = content.get("drawn")
    if synthetic is not None and data is not None:
        raise ValueError(f"--data {data}: {results} is of drawn scans, which are drawn again; leave it out")
    if synthetic is not None:
        evaluated = retina.draw_scans(synthetic["count"], seed=synthetic["seed"])
    elif data is not None:
        names = {record["name"].split(" scan ")[0] for record in content["scans"]}
        files = [path for path in duke.subjects(data).values() if path.stem in names]
        evaluated = [scan for path in files for scan in duke.read_file(path, grader=content.get("grader", 1))]
    else:
        raise ValueError(
            f"name the folder of the scans that {run} was evaluated on (--data), to draw them; if they were drawn scans, {results} is "
            "from before such files said so: evaluate again with --eval-only"
        )
    return scans.of_run(run, evaluated, results=results, path=out, count=min(count, scans.COUNT))


def _newest(folder: Path) -> Path:
    others = ("_report.json", "_conformal.json", "_3d.json")  # what an evaluation writes beside its result records
    files = [p for p in folder.glob("*.json") if not p.name.endswith(others) and not p.name.startswith(".")]
    if not files:
        raise FileNotFoundError(f"{folder} holds no result file: evaluate first, or name one")
    return max(files, key=lambda p: (p.stat().st_mtime, p.name))


def _read_details(path: Path) -> dict[str, Any]:
    details = read_json(path, "report of an evaluation", advice="remove it, or evaluate again")
    wanted = ("summary", "per_joint", "size_by_joints", "occlusion_by_joints")
    missing = [key for key in wanted if not isinstance(details, dict) or not isinstance(details.get(key), dict)]
    if missing:
        raise ValueError(
            f"{path} is not a report of an evaluation: it has no {missing[0]!r}; remove it, or evaluate again"
        )
    return details


def select_cases(all_cases: Sequence[cases.Case], count: int) -> list[cases.Case]:
    """Selects the cases of a report: the worst and the best pairs, missed people, unmatched predictions.

    Each kind gets its share of `SHARES`; free places are filled from the other kinds.

    Args:
        all_cases: the cases of `jaxpose.evaluation.cases.compare`.
        count: largest number of cases.

    Returns:
        The cases, the worst first.
    """
    ordered = order_by_oks(all_cases)
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
