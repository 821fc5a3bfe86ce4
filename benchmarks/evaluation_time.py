"""Seconds of COCO's keypoint evaluation: pycocotools and hotcoco, from records in memory to the ten numbers.

    python -m benchmarks.evaluation_time                       # 5,000 images, 100,000 detections, as in val2017
    python -m benchmarks.evaluation_time --images 500

People and detections are synthetic: two people per image, half of the detections near them, the others anywhere. Both sides take
turns on the same records, and their numbers must be equal. Prints one JSON line per side; times are of a whole evaluation,
including its checks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.common import interleave, ratio, report
from jaxpose.evaluation import average_precision
from jaxpose.skeleton import COCO17


@dataclass(frozen=True)
class Options:
    """What to measure."""

    images: int = 5000
    people: int = 2
    """Labelled people per image."""
    detections: int = 20
    """Detections per image."""
    repeats: int = 3
    seed: int = 0


def data_set(options: Options) -> tuple[dict, list[dict]]:
    """Returns ground truth and records."""
    rng = np.random.default_rng(options.seed)
    annotations, records = [], []
    for image in range(1, options.images + 1):
        people = rng.uniform(0, 400, (options.people, 1, 2)) + rng.uniform(0, 120, (options.people, 17, 2))
        for xy in people:
            keypoints = np.column_stack([xy, np.full(17, 2)]).ravel().tolist()
            person = {"id": len(annotations) + 1, "image_id": image, "category_id": 1, "area": 9000.0}
            annotations.append(person | {"bbox": [0, 0, 120, 120], "iscrowd": 0, "keypoints": keypoints})
        for number in range(options.detections):
            near = people[number % len(people)] if number % 2 else rng.uniform(0, 500, (17, 2))
            xy = near + rng.normal(0, rng.choice([2.0, 8.0, 20.0]), (17, 2))
            keypoints = np.column_stack([xy, rng.random(17)]).ravel().tolist()
            records.append({"image_id": image, "category_id": 1, "keypoints": keypoints, "score": float(rng.random())})
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}]
    return {
        "images": [{"id": i + 1} for i in range(options.images)],
        "annotations": annotations,
        "categories": categories,
    }, records


def main(options: Options) -> list[dict]:
    truth, records = data_set(options)
    scores = {}

    def side(engine: str):
        def run():
            scores[engine] = average_precision(truth, records, engine=engine)

        return run

    engines = ("pycocotools", "hotcoco")
    turns = interleave(*map(side, engines), repeats=options.repeats)
    if scores["pycocotools"] != scores["hotcoco"]:
        raise ValueError(f"the scores differ: {scores}")
    fields = {"images": options.images, "detections": len(records), "AP": round(scores["hotcoco"]["AP"], 4)}
    fields["pycocotools_over_hotcoco"] = round(ratio(turns[1], turns[0]), 2)
    return [
        report("evaluation_time", times, side=engine, **fields) for engine, times in zip(engines, turns, strict=True)
    ]


if __name__ == "__main__":
    main(tyro.cli(Options))
