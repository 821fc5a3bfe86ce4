"""Boxes of persons that are not the annotated ones: those of a detector, and annotated ones made worse on purpose."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.data.checks import Problems, bad_box, is_id, is_number, no_extent
from jaxpose.data.source import Source, person_dtype
from jaxpose.files import read_json
from jaxpose.metrics import AREA_OF_BOX

__all__ = ["touches", "with_detections", "with_jittered_boxes"]

logger = logging.getLogger(__name__)


def with_detections(source: Source, detections: str | Path, *, min_score: float = 0.0, on_bad: str = "error") -> Source:
    """Returns a source over detected boxes: one record per box, with its score and without keypoints.

    Boxes of categories and of images that the source does not hold, and with a score below `min_score`, are left out
    (those of other images are logged). The annotation_id of a record is the place of the box in the file; its area is
    `jaxpose.metrics.AREA_OF_BOX` times the box.

    Args:
        source: the source of the images.
        detections: a JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``, as detectors write it.
        min_score: boxes with a smaller score are left out; 0 keeps all, as the published evaluations do.
        on_bad: "error", or "skip" to leave out boxes that are not finite, empty or outside their image.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is no list of detections; an image id is no whole number; there is no box for any image of the
            source.
    """
    path = Path(detections)
    boxes = _load_detections(path)
    problems = Problems(path, on_bad)
    order = np.argsort(source.images["image_id"], kind="stable")
    ids = source.images["image_id"][order]
    rows, unknown = [], 0
    wanted = source.category_ids or (source.category_id,)
    category_of_row: dict[int, int] = {}
    for row, entry in enumerate(boxes):
        category = entry.get("category_id", source.category_id)
        if category not in wanted or not entry["score"] >= min_score:
            continue
        category_of_row[row] = category
        at = int(np.searchsorted(ids, entry["image_id"]))
        if at == len(ids) or ids[at] != entry["image_id"]:
            unknown += 1
            continue
        image = int(order[at])
        bad = _bad_detection(entry["bbox"], source.images["size_wh"][image])
        if bad:
            problems.add(bad[0], f"detection {row} of image {entry['image_id']}: {bad[1]}")
        else:
            rows.append((image, row, entry["bbox"], float(entry["score"])))
    problems.report()
    if unknown:
        logger.warning("%s: %d boxes belong to images that %s does not hold", path, unknown, source.name)
    if not rows:
        raise ValueError(
            f"{path} has no box with a score of at least {min_score} for any image of {source.name}: of {len(boxes)} boxes "
            f"{unknown} belong to other images, the rest are of another category than {source.category_id} or below that score"
        )
    other = copy.copy(source)
    other.persons, other.level, other.clip_boxes = _detection_table(rows, source.skeleton.num_joints), "person", False
    other._category_by_annotation = lambda: category_of_row
    return other


def with_jittered_boxes(source: Source, *, fraction: float, seed: int = 0) -> Source:
    """Returns the same persons in worse boxes: what a detector's errors cost, where no detector is at hand.

    Centre and size of every box are moved by uniform draws of up to `fraction` of its width and height.

    Args:
        source: persons with ground-truth boxes.
        fraction: the largest change, as a fraction of the box, from 0 to below 1.
        seed: seeds the draws; the same seed gives the same boxes.

    Raises:
        ValueError: the fraction is out of range.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction={fraction}: expected a part of the box, from 0 to below 1")
    other = copy.copy(source)
    other.persons = source.persons.copy()
    box = other.persons["box"].astype(np.float64)
    shift, growth = np.random.default_rng(seed).uniform(-fraction, fraction, (2, len(box), 2))
    size = box[:, 2:] * (1 + growth)
    center = box[:, :2] + box[:, 2:] * (0.5 + shift)
    other.persons["box"] = np.concatenate([center - size / 2, size], axis=1)
    other.clip_boxes = False
    return other


def touches(box_xywh: Sequence[float], size_wh: Sequence[int]) -> bool:
    """Whether a box shows any part of an image.

    Args:
        box_xywh: x, y, width, height in image pixels.
        size_wh: width and height of the image.

    >>> touches((-5, 0, 10, 10), (100, 50)), touches((100, 0, 10, 10), (100, 50))
    (True, False)
    """
    x, y, w, h = box_xywh
    return bool(x + w > 0 and y + h > 0 and x < size_wh[0] and y < size_wh[1])


def _load_detections(path: Path) -> list[dict[str, Any]]:
    boxes = read_json(path, "detection JSON")
    if not isinstance(boxes, list):
        raise ValueError(f"{path} is no detection file: it holds a {type(boxes).__name__}, not a list of boxes")
    for row, entry in enumerate(boxes):
        missing = [k for k in ("image_id", "bbox", "score") if not isinstance(entry, dict) or k not in entry]
        if missing or not is_number(entry["score"]):
            raise ValueError(f"{path}: detection {row} has no number {(missing or ['score'])[0]!r}: {entry!r:.200}")
        for key in ("image_id", "category_id"):
            if not is_id(entry.get(key, 0)):
                raise ValueError(
                    f"{path}: the {key!r} of detection {row} must be a whole number, got {entry[key]!r:.100}"
                )
    return boxes


def _bad_detection(box: Any, size_wh: np.ndarray) -> tuple[str, str] | None:
    bad = bad_box(box, (int(size_wh[0]), int(size_wh[1])), strict=False)
    if bad:
        return bad
    if min(box[2:]) <= 0 or not touches(box, size_wh):
        return no_extent(box, size_wh)
    return None


def _detection_table(rows: Sequence[tuple], num_joints: int) -> np.ndarray:
    table = np.zeros(len(rows), person_dtype(num_joints))
    table["image"], table["annotation_id"] = [r[0] for r in rows], [r[1] for r in rows]
    table["box"], table["score"] = [r[2] for r in rows], [r[3] for r in rows]
    table["area"] = AREA_OF_BOX * table["box"][:, 2] * table["box"][:, 3]
    return table
