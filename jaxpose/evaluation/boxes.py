"""Average precision of boxes, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpose.evaluation.coco import GroundTruth, area_of, read_ground_truth

__all__ = ["NAMES", "average_precision"]

NAMES = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")
"""COCO's twelve numbers of boxes, in COCO's order."""


def average_precision(
    ground_truth: GroundTruth,
    records: Sequence[Mapping[str, Any]],
    *,
    category_id: int | None = None,
    image_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """Computes COCO's numbers of boxes for one category, as pycocotools does.

    Every annotated box counts, with labelled joints or without; a box in a crowd is neither right nor wrong. The size of an annotation
    (APS, APM, APL) is its area; one that states no area counts by 0.53 times that of its box, the usual share of a person's outline
    (`jaxpose.evaluation.coco.AREA_OF_BOX`), that of a prediction by its box.

    Args:
        ground_truth: A COCO keypoint file, or its contents.
        records: Per box "image_id", "box" [x, y, w, h] in pixels, and "score"; other entries are ignored.
        category_id: The category of the annotations; None: that with keypoints.
        image_ids: Evaluate on these images only, each of the ground truth; None: all.

    Returns:
        The numbers of `NAMES` as fractions. AP is the mean over the IoU 0.50, 0.55 ... 0.95 with 100 boxes per image; S, M and L are
        areas below 32^2, to 96^2 and above, in square pixels. A number without ground truth is -1.

    Raises:
        FileNotFoundError, ValueError: The ground truth is not a COCO keypoint file, or a record or `image_ids` names an image that it
            lacks.

    >>> person = {"id": 1, "image_id": 7, "bbox": [0, 0, 50, 50], "area": 1500, "keypoints": [10, 20, 2]}
    >>> truth = {"images": [{"id": 7}], "categories": [{"id": 1, "keypoints": ["nose"]}], "annotations": [person]}
    >>> numbers = average_precision(truth, [{"image_id": 7, "box": [0, 0, 50, 40], "score": 0.9}])
    >>> round(numbers["AP50"], 3), round(numbers["AP"], 3)
    (1.0, 0.7)
    """
    truth = read_ground_truth(ground_truth, category_id=category_id)
    category = truth["category"]["id"]
    people = [a for a in truth["annotations"] if a.get("category_id", category) == category]
    number = {image["id"]: i for i, image in enumerate(truth["images"], start=1)}
    evaluated = list(number) if image_ids is None else list(image_ids)
    for name, source, ids in (
        ("image_id", "the boxes", [r["image_id"] for r in records]),
        ("image", "image_ids", evaluated),
    ):
        if unknown := sorted(set(ids) - set(number), key=str):
            raise ValueError(
                f"{name} {', '.join(map(repr, unknown[:5]))} of {source}: expected images of the ground truth, which has "
                f"{len(number)}"
            )
    shared = {"images": [{"id": i} for i in number.values()], "categories": [{"id": 1, "name": "person"}]}
    labels = [
        {"id": i, "image_id": number[a["image_id"]], "category_id": 1, "bbox": a["bbox"], "area": area_of(a),
         "iscrowd": a["iscrowd"]}
        for i, a in enumerate(people, start=1)
    ]  # fmt: skip
    boxes = [
        {"id": i, "image_id": number[r["image_id"]], "category_id": 1, "bbox": list(r["box"]), "score": r["score"],
         "area": r["box"][2] * r["box"][3]}
        for i, r in enumerate(records, start=1)
    ]  # fmt: skip
    wanted = [number[i] for i in evaluated]
    numbers = _evaluated({**shared, "annotations": labels}, {**shared, "annotations": boxes}, wanted)
    return dict(zip(NAMES, numbers, strict=True))


def _evaluated(truth: dict[str, Any], boxes: dict[str, Any], images: list[int]) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = [COCO(), COCO()]
    with contextlib.redirect_stdout(io.StringIO()):
        for side, dataset in zip(sides, (truth, boxes), strict=True):
            side.dataset = dataset
            side.createIndex()
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.imgIds = images
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in np.asarray(evaluation.stats)]
