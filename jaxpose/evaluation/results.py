"""Result records in the form that the COCO server takes: a list with one dictionary per predicted person.

    image_id, category_id   the image and category of the person
    keypoints               [x1, y1, c1, ..., xK, yK, cK]: image pixels, pixel centres at integers; confidence
    score                   the score of the person, by which average precision sorts

and, if known,

    bbox_score              the score of the box, before rescoring
    box                     [x, y, w, h] of the box that was given to the net
    area                    the area of the crop in square image pixels, for OKS-NMS
    annotation_id           the annotation of the ground truth whose box was used

The server reads the first four. ``box`` is deliberately not called ``bbox``: pycocotools takes a list whose first record
has a ``bbox`` for box detections and then measures the persons' sizes differently.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxpose import files
from jaxpose.evaluation.nms import oks_nms, soft_oks_nms

__all__ = ["check", "from_predictions", "person_score", "read", "rescore", "suppress", "write"]

Record = dict[str, Any]
Rule = Literal["box+mean+max", "box*mean", "mean", "box"]

COORDINATE_DIGITS = 3
"""Decimals of a coordinate in a record: a thousandth of a pixel changes no number of the evaluation."""
SCORE_DIGITS = 6
"""Decimals of confidences and scores."""


def from_predictions(
    xy: ArrayLike,
    confidence: ArrayLike,
    *,
    image_id: ArrayLike,
    box_score: ArrayLike | None = None,
    box: ArrayLike | None = None,
    area: ArrayLike | None = None,
    annotation_id: ArrayLike | None = None,
    category_id: ArrayLike = 1,
    rescore: Rule = "box+mean+max",
) -> list[Record]:
    """Builds the records of N persons.

    Args:
        xy: ``(N, K, 2)`` image pixels.
        confidence: ``(N, K)`` confidences of the joints.
        image_id: ``(N,)`` integers.
        box_score: ``(N,)`` scores of the boxes, or None for 1 (ground-truth boxes).
        box: ``(N, 4)`` x, y, w, h, or None.
        area: ``(N,)`` areas of the crops, needed by `suppress`, or None.
        annotation_id: ``(N,)`` integers, or None; only if the boxes are those of annotations.
        category_id: The category of the persons in the ground truth (1 in COCO): one number, or ``(N,)``.
        rescore: The rule for the person's score, see `person_score`.

    Raises:
        ValueError: Shapes do not fit, or a value is NaN or infinite; the message names the image.

    >>> records = from_predictions(np.zeros((1, 2, 2)), np.full((1, 2), 0.5), image_id=[7])
    >>> records[0]["keypoints"], records[0]["score"]
    ([0.0, 0.0, 0.5, 0.0, 0.0, 0.5], 2.0)
    """
    xy, confidence, image_id = np.asarray(xy, np.float64), np.asarray(confidence, np.float64), np.asarray(image_id)
    if xy.ndim != 3 or xy.shape[-1] != 2:
        raise ValueError(f"xy must be (N, K, 2), got {xy.shape}")
    people = len(xy)
    box_score = np.ones(people) if box_score is None else np.asarray(box_score, np.float64)
    fields = {
        "image_id": (image_id, (people,)),
        "confidence": (confidence, xy.shape[:2]),
        "box_score": (box_score, (people,)),
    }
    optional = {"box": (box, (people, 4)), "area": (area, (people,)), "annotation_id": (annotation_id, (people,))}
    fields |= {name: (np.asarray(value), shape) for name, (value, shape) in optional.items() if value is not None}
    for name, (array, shape) in fields.items():
        if array.shape != shape:
            raise ValueError(f"{name} must be {shape} for xy {xy.shape}, got {array.shape}")
        _check_finite(name, array, image_id)
    _check_finite("xy", xy, image_id)
    score = np.round(person_score(confidence, box_score, rule=rescore), SCORE_DIGITS)
    keypoints = np.concatenate(
        [np.round(xy, COORDINATE_DIGITS), np.round(confidence, SCORE_DIGITS)[..., None]], axis=-1
    ).reshape(people, 3 * xy.shape[1])
    columns = {
        "image_id": image_id.astype(np.int64),
        "category_id": np.broadcast_to(np.asarray(category_id, np.int64), (people,)),
        "keypoints": keypoints,
        "score": score,
        "bbox_score": np.round(box_score, SCORE_DIGITS),
    }
    if box is not None:
        columns["box"] = np.round(np.asarray(box, np.float64), COORDINATE_DIGITS)
    if area is not None:
        columns["area"] = np.round(np.asarray(area, np.float64), COORDINATE_DIGITS)
    if annotation_id is not None:
        columns["annotation_id"] = np.asarray(annotation_id).astype(np.int64)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def person_score(
    confidence: ArrayLike, box_score: ArrayLike, *, rule: Rule = "box+mean+max", threshold: float = 0.2
) -> np.ndarray:
    """Computes the score of a person from those of the joints and of the box.

        box+mean+max   box + mean of the joints + largest of the joints: official RLE, mmpose's "bbox_rle"
        box*mean       box * mean of the joints above `threshold` (0 if there is none): HRNet, mmpose's "bbox_keypoint"
        mean           mean of the joints, without the box: G-RMI (Papandreou 2017), which Sun 2018 takes (QUIRK I4)
        box            box alone

    Args:
        confidence: ``(..., K)`` confidences of the joints.
        box_score: ``(...)`` scores of the boxes.
        rule: The rule, one of those above.
        threshold: The confidence above which a joint counts in "box*mean".

    Returns:
        ``(...)`` scores.

    >>> float(person_score([0.1, 0.5, 0.7], 0.5, rule="box*mean")), float(person_score([0.1, 0.5, 0.6], 0.5))
    (0.3, 1.5)
    """
    confidence, box_score = np.asarray(confidence, np.float64), np.asarray(box_score, np.float64)
    if confidence.ndim < 1 or confidence.shape[:-1] != box_score.shape:
        raise ValueError(
            f"confidence must be (..., K) and box_score (...), got {confidence.shape} and {box_score.shape}"
        )
    if rule == "box+mean+max":
        return box_score + confidence.mean(axis=-1) + confidence.max(axis=-1)
    if rule == "box*mean":
        confident = confidence > threshold
        total = np.where(confident, confidence, 0.0).sum(axis=-1)
        return box_score * total / np.maximum(confident.sum(axis=-1), 1)
    if rule == "mean":
        return confidence.mean(axis=-1)
    if rule == "box":
        return box_score.copy()
    raise ValueError(f"rule must be 'box+mean+max', 'box*mean', 'mean' or 'box', got {rule!r}")


def rescore(records: Sequence[Mapping[str, Any]], *, rule: Rule, threshold: float = 0.2) -> list[Record]:
    """Returns new records whose score follows `rule`, from their joints and their ``bbox_score`` (`person_score`).

    >>> record = {"image_id": 1, "category_id": 1, "keypoints": [0.0, 0.0, 0.5], "score": 0.0, "bbox_score": 0.8}
    >>> rescore([record], rule="box*mean")[0]["score"]
    0.4
    """
    rescored = []
    for i, record in enumerate(records):
        if "bbox_score" not in record:
            raise ValueError(f"result {i} has no 'bbox_score', which rescoring needs; keys {sorted(record)}")
        confidence = np.asarray(record["keypoints"], np.float64)[2::3]
        score = person_score(confidence, record["bbox_score"], rule=rule, threshold=threshold)
        rescored.append({**record, "score": float(score)})
    return rescored


def suppress(
    records: Sequence[Mapping[str, Any]],
    *,
    sigmas: ArrayLike,
    threshold: float = 0.9,
    soft: bool = False,
    max_people: int = 20,
) -> list[Record]:
    """Applies OKS-NMS in every image: `jaxpose.evaluation.oks_nms`, or `soft_oks_nms` with `soft`.

    Args:
        records: Records with an ``area``.
        sigmas: ``(K,)`` OKS sigmas.
        threshold: The OKS above which a pose is removed.
        soft: Select at most `max_people` by decaying scores. The records keep their original scores, as in the published
            pipelines.
        max_people: The largest number of records per image, with `soft`.

    Returns:
        The remaining records: images in the order of their first record, best first within an image.

    >>> twice = from_predictions(np.zeros((2, 1, 2)), [[0.5], [0.9]], image_id=[7, 7], area=[100, 100])
    >>> [record["score"] for record in suppress(twice, sigmas=[0.1])]
    [2.8]
    """
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for i, record in enumerate(records):
        if "area" not in record:
            raise ValueError(f"result {i} has no 'area', which OKS-NMS needs; keys {sorted(record)}")
        by_image.setdefault((record["image_id"], record["category_id"]), []).append(record)
    remaining = []
    for group in by_image.values():
        poses = np.array([record["keypoints"] for record in group], np.float64).reshape(len(group), -1, 3)
        scores, areas = ([record[name] for record in group] for name in ("score", "area"))
        if soft:
            options = dict(sigmas=sigmas, threshold=threshold, max_people=max_people)
            indices, _ = soft_oks_nms(poses, scores, areas, **options)
        else:
            indices = oks_nms(poses, scores, areas, sigmas=sigmas, threshold=threshold)
        remaining += [dict(group[i]) for i in indices]
    return remaining


def write(records: Iterable[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Checks records and writes them as JSON, atomically: readers see either the old file or the complete new one.

    Raises:
        ValueError: A record would not be accepted by the COCO server (`check`).
    """
    records = list(records)
    check(records)
    files.write_json(path, records)


def read(path: str | os.PathLike, *, num_joints: int | None = None) -> list[Record]:
    """Reads records from a JSON file and checks them.

    Args:
        path: The result file.
        num_joints: The number of joints in the ground truth, which every record must have; None accepts any.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not JSON, not a list, or has a bad record (`check`); the message names the file.
    """
    records = files.read_json(path, "result file")
    try:
        check(records, num_joints=num_joints)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return records


def check(records: Any, *, num_joints: int | None = None) -> None:
    """Raises a ValueError that names the record and the fault, unless COCO's evaluation can read these records.

    >>> check([{"image_id": 7, "category_id": 1, "keypoints": [0.0, 0.0, 0.5], "score": 1.0}], num_joints=1)
    """
    if not isinstance(records, Sequence) or isinstance(records, str):
        raise ValueError(f"results must be a list with one record per person, got {type(records).__name__}")
    for i, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise ValueError(f"result {i} must be a dictionary, got {type(record).__name__}")
        for name in ("image_id", "category_id", "keypoints", "score"):
            if name not in record:
                raise ValueError(f"result {i} has no '{name}'; keys {sorted(record)}")
        for name in ("image_id", "category_id", "annotation_id"):
            if name in record and not is_id(record[name]):
                raise ValueError(f"result {i}: '{name}' must be a whole number, got {record[name]!r:.100}")
        keypoints = record["keypoints"]
        if not isinstance(keypoints, Sequence) or not keypoints or len(keypoints) % 3:
            raise ValueError(f"result {i}: 'keypoints' must be a list x, y, confidence, ... of 3 K numbers")
        if num_joints is not None and len(keypoints) != 3 * num_joints:
            raise ValueError(
                f"result {i} has {len(keypoints) / 3:g} keypoints, the ground truth's category has {num_joints}"
            )
        for name, values in (("keypoints", keypoints), ("score", [record["score"]])):
            bad = [value for value in values if not files.is_number(value)]
            if bad:
                raise ValueError(
                    f"result {i} (image {record['image_id']}): '{name}' holds {bad[0]!r:.100}, expected a finite Python number"
                )


def is_id(value: Any) -> bool:
    """Tells whether a value can be the id of an image, category or annotation; some files write ids as text, or as 1.0."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, (Integral, str)) and not isinstance(value, bool)


def _check_finite(name: str, array: np.ndarray, image_id: np.ndarray) -> None:
    finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if not finite.all():
        row, count = int(np.flatnonzero(~finite)[0]), int((~finite).sum())
        raise ValueError(
            f"{name} of person {row} (image {image_id[row]}) is not finite, and {count - 1} others of {len(array)}"
        )
