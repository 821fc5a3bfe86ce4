"""The command `jaxpose evaluate GROUND_TRUTH.json RESULTS.json`: the scores of a result file, without JAX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxpose.evaluation import crowdpose_average_precision, hands, mpii, poses_3d, report, scans
from jaxpose.evaluation.coco import with_categories
from jaxpose.evaluation.results import read

__all__ = ["main"]


def main(
    ground_truth: Annotated[Path, tyro.conf.Positional],
    results: Annotated[Path, tyro.conf.Positional],
    *,
    sigmas: tuple[float, ...] | None = None,
    area: Literal["auto", "box"] = "auto",
    category_id: int | None = None,
    max_people: int = 20,
    crowdpose: bool = False,
    errors: bool = False,
    root: poses_3d.Root = "aligned",
    grader: Literal[1, 2] = 1,
    columns: scans.Columns = "rathke",
) -> None:
    """Score a result file: print a table, then the same numbers as one line of JSON.

    Args:
        ground_truth: COCO keypoint file; or MPII's gt_valid.mat for PCKh, which takes no options and needs an
            annotation_id in every result; or poses in space ("kind": "poses_3d"), which take --root alone; or the folder of the
            Duke scans, or one Subject_NN.mat of it, which take --grader and --columns.
        results: Result file: a list of image_id, category_id, keypoints, score; or hands in space (NAME_3d.json of a run), which
            take no options; or boundaries in scans (boundaries.csv of jaxpose predict, results/NAME.json of a run).
        sigmas: OKS sigmas, one per keypoint; by default the category's own, else the published ones for COCO, CrowdPose
            and MPII, else uniform.
        area: Area of a person: "auto" takes the annotated area, or 0.53 of the box if there is none; "box" takes 0.53 of
            the box for all.
        category_id: The category to score; results of the file's other categories are left out. By default all categories
            with keypoints, if they have the same joints: their mean, and a table of each.
        max_people: The largest number of results per image that count.
        crowdpose: CrowdPose's nine numbers instead of COCO's ten, and those of its crowding classes without placeholders
            for missing values; not with area, max_people, category_id.
        errors: Also break the errors down by joint, by number of labelled joints, by occlusion and by size.
        root: For poses in space: "aligned" moves both roots to 0, "predicted" takes predictions as relative to the root and counts
            the predicted root, "left_out" aligns and does not count it.
        grader: For scans: the grader whose labels count.
        columns: For scans: "rathke" scores columns 135 to 634, as published, "labelled" all with labels.
    """
    of_poses = (sigmas, area, max_people, category_id, crowdpose, errors, root)
    if scans.is_result(ground_truth, results):
        if of_poses != (None, "auto", 20, None, False, False, "aligned"):
            raise ValueError(
                f"{results} holds boundaries in scans, which take --grader and --columns: leave the other options out"
            )
        _print(scans.score(ground_truth, results, grader=grader, columns=columns))
        return
    if (grader, columns) != (1, "rathke"):
        raise ValueError(
            f"--grader {grader} --columns {columns}: for boundaries in scans, which {results} does not hold; leave them out"
        )
    if ground_truth.is_file() and not ground_truth.stat().st_size:
        raise ValueError(f"{ground_truth} is empty: expected labels; copy or write it again")
    if poses_3d.is_truth(ground_truth):
        if (sigmas, area, max_people, category_id, crowdpose, errors) != (None, "auto", 20, None, False, False):
            raise ValueError(
                f"{ground_truth} holds poses in space, which take --root alone: leave the other options out"
            )
        result = poses_3d.score(ground_truth, results, handling=root)
        print(poses_3d.table(result))
        print(json.dumps(result))
        return
    if root != "aligned":
        raise ValueError(f"--root {root}: for poses in space, which {ground_truth} does not hold; leave it out")
    is_mpii = ground_truth.suffix == ".mat"
    if is_mpii and (sigmas, area, max_people, category_id, crowdpose, errors) != (None, "auto", 20, None, False, False):
        raise ValueError(f"{ground_truth} is for PCKh, which takes no options: leave them out")
    is_hands = not is_mpii and hands.is_result(results)
    if is_hands and (sigmas, area, max_people, category_id, crowdpose, errors) != (
        None,
        "auto",
        20,
        None,
        False,
        False,
    ):
        raise ValueError(f"{results} holds hands in space, which take no options: leave them out")
    if crowdpose and (area, max_people, category_id) != ("auto", 20, None):
        raise ValueError(
            "--crowdpose has its own rules for --area (box), --max-people (20) and --category-id (the only one): "
            f"leave them out, got area {area}, max_people {max_people}, category_id {category_id}"
        )
    by_category: dict[str, dict[str, float]] = {}
    if is_mpii:
        numbers = mpii.from_results(mpii.load_truth(ground_truth), read(results, num_joints=16))
    elif is_hands:
        numbers = hands.score(ground_truth, results)
    elif crowdpose:
        numbers = crowdpose_average_precision(ground_truth, results, sigmas=sigmas)
    else:
        numbers, by_category = with_categories(
            ground_truth, results, sigmas=sigmas, area=area, max_people=max_people, category_id=category_id
        )
    widths = _print_table(numbers)
    line: dict[str, Any] = dict(numbers)
    if len(by_category) > 1:
        for name, of_category in by_category.items():
            print("".join(f"{v:{w}.4f}" for v, w in zip(of_category.values(), widths, strict=True)) + f"  {name}")
        line["categories"] = by_category
    if errors:
        described = report.from_results(ground_truth, results, sigmas=sigmas, category_id=category_id)
        print("\n" + report.text(described) + "\n")
        line["errors"] = described
    print(json.dumps(line))


def _print(numbers: Mapping[str, float]) -> None:
    """Prints a table, then the same numbers as one line of JSON."""
    _print_table(numbers)
    print(json.dumps(numbers))


def _print_table(numbers: Mapping[str, float]) -> list[int]:
    """Prints names above numbers, and returns the widths of the columns."""
    widths = [max(10, len(name) + 2) for name in numbers]
    print("".join(f"{name:>{width}s}" for name, width in zip(numbers, widths, strict=True)))
    print("".join(f"{value:{width}.4f}" for value, width in zip(numbers.values(), widths, strict=True)))
    return widths
