"""Results for the folder of `tests.tiny_coco` with all kinds of cases: good, bad, missed and unmatched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests import tiny_coco


def records(truth: dict[str, Any], *, miss: int = 1, besides: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """Returns a record for every labelled person but `miss`, the later ones worse, and `besides` poses far from anybody."""
    rng, entries = np.random.default_rng(seed), []
    people = [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    for i, person in enumerate(people[miss:]):
        keypoints = np.array(person["keypoints"], np.float64).reshape(-1, 3)
        labelled = keypoints[:, 2] > 0
        keypoints[~labelled, :2] = keypoints[labelled, :2].mean(0)
        keypoints[:, :2] += rng.normal(size=(17, 2)) * (0.5 + i)
        keypoints[:, 2] = rng.uniform(0.2, 1, 17)
        entries.append({"image_id": person["image_id"], "keypoints": keypoints.ravel().round(3).tolist()})
    for _ in range(besides):
        keypoints = np.concatenate([rng.uniform(2000, 2050, (17, 2)), np.full((17, 1), 0.3)], 1)
        entries.append({"image_id": people[0]["image_id"], "keypoints": keypoints.ravel().tolist()})
    return [record | {"category_id": 1, "score": round(1 - 0.05 * i, 3)} for i, record in enumerate(entries)]


def write(folder: Path) -> tuple[Path, Path, Path]:
    """Writes the files and returns (ground truth, results, image folder)."""
    tiny_coco.write(folder)
    truth = folder / "annotations" / "train.json"
    results = folder / "results.json"
    results.write_text(json.dumps(records(json.loads(truth.read_text()))))
    return truth, results, folder / "train"
