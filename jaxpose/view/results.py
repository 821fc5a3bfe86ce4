"""`jaxpose view results`: predictions beside the truth, the worst first. Two JSON files are enough, whoever wrote them."""

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

__all__ = ["results"]

COLUMNS, ROWS = 4, 4  # pairs of tiles on a sheet


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
    """Predictions beside the truth: the worst OKS, then the best, who was missed, and what was found besides.

    Writes sheets worst_1.png, best_1.png, missed_1.png, unmatched_1.png ..., left of each pair the truth (green), right the
    prediction (orange), and cases.jsonl: one line a case, all of them, with its errors by joint.

    Args:
        ground_truth: COCO keypoint file.
        results: result file: a list of image_id, category_id, keypoints, score.
        images: the image folder.
        out: folder of the sheets; by default beside the results, named as they are.
        count: so many of each kind at most.
        category_id: of the persons, where several categories have keypoints.
        min_oks: the least that makes a pair (records with an annotation_id are paired by that).
    """
    if count < 1:
        raise ValueError(f"--count {count}: expected 1 or more")
    if not images.is_dir():
        raise FileNotFoundError(
            f"--images {images} is not a folder: name the folder that the file names are relative to"
        )
    found, truth = cases.compare(ground_truth, results, category_id=category_id, min_oks=min_oks)
    out = results.with_suffix("") if out is None else out
    if out == results:  # a result file without a suffix
        out = results.with_name(results.name + "_sheets")
    figures.require()
    pictures, limbs = tiles.Pictures(images), Skeleton.from_coco_category(truth["category"]).limbs
    groups = chosen(found, count)
    wanted = {id(case): case for group in groups.values() for case in group}
    drawn = {key: _pair(case, pictures.get(case.image), limbs) for key, case in wanted.items()}
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
            sheets.append(figures.tile_sheet([drawn[id(case)] for case in part], titles, path, columns=COLUMNS))
    out.mkdir(parents=True, exist_ok=True)
    joints = truth["category"]["keypoints"]
    lines = [json.dumps(described(case, joints), allow_nan=False) for case in by_oks(found)]
    write_whole(out / "cases.jsonl", "".join(line + "\n" for line in lines).encode())
    kinds = {kind: sum(case.kind == kind for case in found) for kind in ("matched", "missed", "unmatched")}
    facts = {"people": kinds["matched"] + kinds["missed"], "results": kinds["matched"] + kinds["unmatched"], **kinds}
    print(json.dumps(facts | {"images_missing": len(pictures.missing), "sheets": [str(path) for path in sheets]}))


def by_oks(found: Sequence[cases.Case]) -> list[cases.Case]:
    """Who was missed, the pairs with the worst OKS first, then what was found besides, the best score first; the excused last.

    >>> image, person = {"id": 1}, {"bbox": [0, 0, 1, 1]}
    >>> pair = cases.Case("matched", image, person, oks=0.5)
    >>> [case.kind for case in by_oks([pair, cases.Case("missed", image, person)])]
    ['missed', 'matched']
    """
    missed = sorted((case for case in found if case.kind == "missed"), key=lambda case: -case.size)
    matched = sorted((case for case in found if case.kind == "matched"), key=lambda case: case.oks)
    besides = sorted((case for case in found if case.kind == "unmatched"), key=lambda case: (case.excused, -case.score))
    return missed + matched + besides


def chosen(found: Sequence[cases.Case], count: int) -> dict[str, list[cases.Case]]:
    """At most `count` cases of each: worst, best (none twice), missed (the largest first), unmatched (the best score first).

    >>> image, person = {"id": 1}, {"bbox": [0, 0, 1, 1]}
    >>> pairs = [cases.Case("matched", image, person, oks=oks) for oks in (0.2, 0.9, 0.5)]
    >>> {name: [case.oks for case in group] for name, group in chosen(pairs, 2).items()}
    {'worst': [0.2, 0.5], 'best': [0.9], 'missed': [], 'unmatched': []}
    """
    ordered = by_oks(found)
    matched = [case for case in ordered if case.kind == "matched"]
    kinds = {kind: [case for case in ordered if case.kind == kind][:count] for kind in ("missed", "unmatched")}
    return {"worst": matched[:count], "best": matched[count:][::-1][:count], **kinds}


def described(case: cases.Case, joints: Sequence[str]) -> dict[str, Any]:
    """A case as plain numbers and names, ready for JSON.

    >>> person = {"id": 5, "bbox": [0, 0, 2, 2], "keypoints": [1, 1, 1]}
    >>> described(cases.Case("missed", {"id": 3, "file_name": "a.jpg"}, person), ["nose"])
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
    """Truth and prediction side by side, uint8 RGB."""
    halves = [tiles.draw(case, picture, limbs=limbs, **{other: False}) for other in ("found", "truth")]
    white = np.full((halves[0].height, 4, 3), 255, np.uint8)
    return np.concatenate([np.asarray(halves[0]), white, np.asarray(halves[1])], axis=1)


def _title(case: cases.Case, missing: bool) -> str:
    """OKS and score, then the ids."""
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
