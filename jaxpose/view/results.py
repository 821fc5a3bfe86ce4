"""`jaxpose view results`: draws predictions next to the truth, the worst first, from two JSON files of any program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.evaluation import cases
from jaxpose.files import write_whole
from jaxpose.skeleton import Skeleton
from jaxpose.view import figures, tiles
from jaxpose.view.palette import TILE_PREDICTION, TILE_TRUTH

__all__ = ["results"]

COLUMNS, ROWS = 4, 4  # pairs of tiles per sheet
COLORS = {"labelled, on the left": TILE_TRUTH, "predicted, on the right": TILE_PREDICTION}


def results(
    ground_truth: Path,
    results: Path,
    /,
    *,
    images: Path,
    out: Path | None = None,
    count: int = 32,
    category_id: int | None = None,
    min_oks: float = 0.1,
) -> None:
    """Draw predictions next to the truth: the worst OKS, then the best, missed people, and unmatched predictions.

    Writes sheets worst_1.png, best_1.png, missed_1.png, unmatched_1.png ..., with the truth (green) on the left of each pair and
    the prediction (orange) on the right, and cases.jsonl with one line per case and its errors by joint.

    Args:
        ground_truth: COCO keypoint file.
        results: result file: a list of image_id, category_id, keypoints, score.
        images: the image folder.
        out: folder of the sheets; by default a folder next to the results, with their name.
        count: largest number of cases per kind.
        category_id: category of the persons, if several categories have keypoints.
        min_oks: least OKS of a matched pair (records with an annotation_id are paired by that).
    """
    if count < 1:
        raise ValueError(f"--count {count}: expected 1 or more")
    if not images.is_dir():
        raise FileNotFoundError(
            f"--images {images} is not a folder: name the folder that the file names are relative to"
        )
    all_cases, truth = cases.compare(ground_truth, results, category_id=category_id, min_oks=min_oks)
    out = results.with_suffix("") if out is None else out
    if out == results:  # a result file without a suffix
        out = results.with_name(results.name + "_sheets")
    figures.require()
    pictures, limbs = tiles.Pictures(images), Skeleton.from_coco_category(truth["category"]).limbs
    groups = select_groups(all_cases, count)
    wanted = {id(case): case for group in groups.values() for case in group}
    pairs = {key: _pair(case, pictures.get(case.image), limbs) for key, case in wanted.items()}
    if pictures.missing and len(pictures.missing) == len({case.image["id"] for case in wanted.values()}):
        name, why = next(iter(pictures.missing.items()))
        raise FileNotFoundError(
            f"none of the {len(pictures.missing)} images is in {images}, the first is {name!r} ({why}): give the folder that "
            "the file names are relative to (--images)"
        )
    sheets = []
    for name, group in groups.items():
        size = COLUMNS * ROWS
        for page in range(0, len(group), size):
            part = group[page : page + size]
            titles = [_title(case, tiles.name_of(case.image) in pictures.missing) for case in part]
            path = out / f"{name}_{page // size + 1}.png"
            sheets.append(
                figures.tile_sheet([pairs[id(case)] for case in part], titles, path, columns=COLUMNS, colors=COLORS)
            )
    out.mkdir(parents=True, exist_ok=True)
    joints = truth["category"]["keypoints"]
    lines = [json.dumps(describe_case(case, joints), allow_nan=False) for case in order_by_oks(all_cases)]
    write_whole(out / "cases.jsonl", "".join(line + "\n" for line in lines).encode())
    kinds = {kind: sum(case.kind == kind for case in all_cases) for kind in ("matched", "missed", "unmatched")}
    facts = {"people": kinds["matched"] + kinds["missed"], "results": kinds["matched"] + kinds["unmatched"], **kinds}
    print(json.dumps(facts | {"images_missing": len(pictures.missing), "sheets": [str(path) for path in sheets]}))


def order_by_oks(all_cases: Sequence[cases.Case]) -> list[cases.Case]:
    """Returns missed people, then pairs (worst OKS first), then unmatched predictions (best score first, ignored ones last).

    >>> image, person = {"id": 1}, {"bbox": [0, 0, 1, 1]}
    >>> pair = cases.Case("matched", image, person, oks=0.5)
    >>> [case.kind for case in order_by_oks([pair, cases.Case("missed", image, person)])]
    ['missed', 'matched']
    """
    missed = sorted((case for case in all_cases if case.kind == "missed"), key=lambda case: -case.size)
    matched = sorted((case for case in all_cases if case.kind == "matched"), key=lambda case: case.oks)
    unmatched = (case for case in all_cases if case.kind == "unmatched")
    return missed + matched + sorted(unmatched, key=lambda case: (case.excused, -case.score))


def select_groups(all_cases: Sequence[cases.Case], count: int) -> dict[str, list[cases.Case]]:
    """Returns at most `count` cases per group: worst, best (none twice), missed (largest first), unmatched (best score first).

    >>> image, person = {"id": 1}, {"bbox": [0, 0, 1, 1]}
    >>> pairs = [cases.Case("matched", image, person, oks=oks) for oks in (0.2, 0.9, 0.5)]
    >>> {name: [case.oks for case in group] for name, group in select_groups(pairs, 2).items()}
    {'worst': [0.2, 0.5], 'best': [0.9], 'missed': [], 'unmatched': []}
    """
    ordered = order_by_oks(all_cases)
    matched = [case for case in ordered if case.kind == "matched"]
    kinds = {kind: [case for case in ordered if case.kind == kind][:count] for kind in ("missed", "unmatched")}
    return {"worst": matched[:count], "best": matched[count:][::-1][:count], **kinds}


def describe_case(case: cases.Case, joints: Sequence[str]) -> dict[str, Any]:
    """Returns a case as plain numbers and names for JSON.

    >>> person = {"id": 5, "bbox": [0, 0, 2, 2], "keypoints": [1, 1, 1]}
    >>> describe_case(cases.Case("missed", {"id": 3, "file_name": "a.jpg"}, person), ["nose"])
    {'kind': 'missed', 'image_id': 3, 'file_name': 'a.jpg', 'annotation_id': 5, 'size': 2.0, 'occluded': 1.0}
    """
    facts: dict[str, Any] = {"kind": case.kind, "image_id": case.image["id"], "file_name": tiles.name_of(case.image)}
    if case.person is not None:
        facts["annotation_id"] = case.person["id"]
    if case.record is not None:
        facts |= {"row": case.row, "score": case.score}
    facts["size"] = round(case.size, 2)
    if case.person is not None:
        facts["occluded"] = round(case.occluded, 4)
    if case.kind == "unmatched":
        facts["excused"] = case.excused
    if case.kind == "matched":
        errors = case.errors
        facts |= {"oks": case.oks, "EPE": float(np.nanmean(errors))}
        facts["errors"] = {joint: round(float(e), 3) for joint, e in zip(joints, errors, strict=True) if np.isfinite(e)}
    return facts


def _pair(case: cases.Case, picture, limbs) -> np.ndarray:
    """Returns truth and prediction side by side, uint8 RGB."""
    halves = [tiles.draw(case, picture, limbs=limbs, **{other: False}) for other in ("prediction", "truth")]
    white = np.full((halves[0].height, 4, 3), 255, np.uint8)
    return np.concatenate([np.asarray(halves[0]), white, np.asarray(halves[1])], axis=1)


def _title(case: cases.Case, missing: bool) -> str:
    """Returns OKS and score, then the ids."""
    first = {"matched": f"OKS {case.oks:.3f}" if case.oks is not None else "", "missed": "missed"}.get(
        case.kind, "unmatched"
    )
    if case.excused:
        first = "on a crowd or unlabelled"
    first += f"   score {case.score:.3f}" if case.record is not None else ""
    ids = f"image {case.image['id']}"
    ids += f"  person {case.person['id']}" if case.person is not None else ""
    ids += f"  row {case.row}" if case.record is not None else ""
    return f"{first}\n{ids}" + ("\nimage not readable" if missing else "")
