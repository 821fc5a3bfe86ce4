"""Pairs predictions with labelled people: matched pairs, missed people and false positives.

`jaxpose.evaluation.report` computes its numbers from the pairs, `jaxpose.view` draws them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxpose import metrics
from jaxpose.evaluation import coco

__all__ = ["Case", "compare"]

Kind = Literal["matched", "missed", "unmatched"]


@dataclass(frozen=True)
class Case:
    """A person, a prediction, or both.

    Attributes:
        kind: "matched": `person` and `record` belong together; "missed": a labelled person without a prediction;
            "unmatched": a prediction without a person, a false positive.
        image: The entry of the image in the ground truth.
        person: The annotation (as `jaxpose.evaluation.coco.read_ground_truth` completes it), or None.
        record: The result record, or None.
        row: The row of the record in the results, from 0, or None.
        oks: The OKS of a matched pair, else None.
        excused: True for an unmatched prediction most of whose joints lie in the box of a crowd or of an unlabelled
            person, where COCO's evaluation ignores it. (COCO decides by OKS, which nearly always agrees.)
    """

    kind: Kind
    image: Mapping[str, Any]
    person: Mapping[str, Any] | None = None
    record: Mapping[str, Any] | None = None
    row: int | None = None
    oks: float | None = None
    excused: bool = False

    @property
    def truth(self) -> np.ndarray | None:
        """The labels ``(K, 3)``: x, y, visibility (0: unlabelled, and x, y are meaningless), or None."""
        return None if self.person is None else np.asarray(self.person["keypoints"], np.float64).reshape(-1, 3)

    @property
    def found(self) -> np.ndarray | None:
        """The prediction ``(K, 3)``: x, y, confidence, or None."""
        return None if self.record is None else np.asarray(self.record["keypoints"], np.float64).reshape(-1, 3)

    @property
    def errors(self) -> np.ndarray | None:
        """Pixels between labelled joints and their predictions ``(K,)``, NaN where unlabelled; None if not matched."""
        if self.kind != "matched":
            return None
        distance = np.hypot(*(self.found[:, :2] - self.truth[:, :2]).T)
        return np.where(self.truth[:, 2] > 0, distance, np.nan)

    @property
    def score(self) -> float | None:
        """The score of the record, or None."""
        return None if self.record is None else float(self.record["score"])

    @property
    def size(self) -> float:
        """The square root of the area of the person's box, or of the box around the joints of a false positive: pixels."""
        if self.person is not None:
            width, height = self.person["bbox"][2:]
        else:
            width, height = np.ptp(self.found[:, :2], axis=0)
        return float(np.sqrt(max(width * height, 0.0)))

    @property
    def occluded(self) -> float | None:
        """The share of the labelled joints that are hidden (visibility 1); None without a person."""
        if self.person is None:
            return None
        visibility = self.truth[:, 2]
        return float((visibility == 1).sum() / max((visibility > 0).sum(), 1))


def compare(
    ground_truth: coco.GroundTruth,
    results: coco.Results,
    *,
    sigmas: ArrayLike | None = None,
    category_id: int | None = None,
    min_oks: float = 0.1,
) -> tuple[list[Case], dict[str, Any]]:
    """Lists every labelled person and every record of a result file once, whatever wrote the file.

    Records that all have an ``annotation_id`` are compared with that annotation (if several have the same, the
    best-scored one). Otherwise each record takes, best score first, the free person of its image and category with the
    largest OKS, unless that is below `min_oks`. Crowds and persons without labels are left out.

    Args:
        ground_truth, results, sigmas, category_id: The same as in `jaxpose.evaluation.average_precision`.
        min_oks: The smallest OKS that makes a pair.

    Returns:
        cases: The pairs, best score first; then the missed people, in the order of the file; then the other records.
        truth: The ground truth as `jaxpose.evaluation.coco.read_ground_truth` returns it.

    Raises:
        FileNotFoundError, ValueError: The same as for `average_precision`, or the ground truth has no such annotation_id
            in that image.

    >>> person = {"id": 1, "image_id": 7, "bbox": [0, 0, 50, 50], "area": 1500, "keypoints": [10, 20, 2]}
    >>> truth = {"images": [{"id": 7}], "categories": [{"id": 1, "keypoints": ["nose"]}], "annotations": [person]}
    >>> here = {"image_id": 7, "category_id": 1, "keypoints": [10.0, 20.0, 0.9], "score": 0.9}
    >>> cases, _ = compare(truth, [here, here | {"keypoints": [40.0, 0.0, 0.1], "score": 0.1}])
    >>> [(case.kind, case.row, case.oks) for case in cases]
    [('matched', 0, 1.0), ('unmatched', 1, None)]
    """
    truth, records = coco.load(ground_truth, results, category_id=category_id)
    source = f"{results}: " if isinstance(results, (str, os.PathLike)) else ""
    sigmas = coco.category_sigmas(sigmas, *truth["categories"])
    annotations, images = truth["annotations"], {image["id"]: image for image in truth["images"]}
    people = [a for a in annotations if any(v > 0 for v in a["keypoints"][2::3]) and not a["iscrowd"]]
    order = sorted(range(len(records)), key=lambda row: -records[row]["score"])
    if records and all("annotation_id" in record for record in records):
        pairs = _by_id(records, order, annotations, people, source)
    else:
        pairs = _by_oks(records, order, people, sigmas, min_oks)

    cases = []
    for row, person in pairs:
        predicted, joints = (np.array(x["keypoints"], np.float64).reshape(-1, 3) for x in (records[row], person))
        similarity = metrics.oks(
            predicted[:, :2], joints[:, :2], area=coco.area_of(person), sigmas=sigmas, where=joints[:, 2] > 0
        )
        cases.append(Case("matched", images[person["image_id"]], person, records[row], row, float(similarity)))
    paired = {person["id"] for _, person in pairs}
    cases += [Case("missed", images[person["image_id"]], person) for person in people if person["id"] not in paired]
    ignored = _ignored(annotations, {person["id"] for person in people})
    taken = {row for row, _ in pairs}
    for row in (row for row in order if row not in taken):
        record = records[row]
        boxes = ignored.get(record["image_id"], ())
        cases.append(Case("unmatched", images[record["image_id"]], None, record, row, excused=_within(record, boxes)))
    return cases, truth


def _by_id(records, order, annotations, people, source: str) -> list[tuple[int, Mapping]]:
    every, wanted = ({a["id"]: a for a in group} for group in (annotations, people))
    pairs, taken = [], set()
    for row in order:  # best score first
        record = records[row]
        identifier = record["annotation_id"]
        if every.get(identifier, {}).get("image_id") != record["image_id"]:
            raise ValueError(
                f"{source}a result for image {record['image_id']} has annotation_id {identifier}, which the ground truth "
                "does not have in that image; leave annotation_id out of results for detected boxes"
            )
        if identifier in wanted and identifier not in taken:
            taken.add(identifier)
            pairs.append((row, wanted[identifier]))
    return pairs


def _by_oks(records, order, people, sigmas: np.ndarray, min_oks: float) -> list[tuple[int, Mapping]]:
    free: dict[Any, list] = {}
    for person in people:
        free.setdefault((person["image_id"], person["category_id"]), []).append(person)
    pairs = []
    for row in order:  # best score first
        record = records[row]
        candidates = free.get((record["image_id"], record["category_id"]), [])
        if not candidates:
            continue
        joints = np.array([person["keypoints"] for person in candidates], np.float64).reshape(len(candidates), -1, 3)
        xy = np.array(record["keypoints"], np.float64).reshape(-1, 3)[:, :2]
        area = np.array([coco.area_of(person) for person in candidates])
        target, labelled = joints[..., :2], joints[..., 2] > 0
        pred = np.broadcast_to(xy, target.shape)
        similarity = metrics.oks(pred, target, area=area, sigmas=sigmas, where=labelled)
        best = int(similarity.argmax())
        if similarity[best] >= min_oks:
            pairs.append((row, candidates.pop(best)))
    return pairs


def _ignored(annotations, people: set) -> dict[Any, list]:
    """Maps each image to the boxes of its crowds and unlabelled persons."""
    boxes: dict[Any, list] = {}
    for annotation in annotations:
        if annotation["id"] not in people:
            boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    return boxes


def _within(record: Mapping[str, Any], boxes) -> bool:
    keypoints = np.array(record["keypoints"], np.float64).reshape(-1, 3)
    xy = keypoints[keypoints[:, 2] > 0, :2] if (keypoints[:, 2] > 0).any() else keypoints[:, :2]
    return any(bool((((xy >= (x, y)) & (xy <= (x + w, y + h))).all(axis=1)).mean() > 0.5) for x, y, w, h in boxes)
