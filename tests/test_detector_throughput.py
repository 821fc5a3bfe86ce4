"""The tiny run of benchmarks/detector_throughput.py: its operators as they are, its net replaced."""

import json

import numpy as np
import pytest

from benchmarks import detector_throughput as benchmark
from jaxpose.predict.detector import Detections


def test_the_lines_of_both_operators(capsys):
    options = benchmark.Options(
        parts=("nms", "roi_align"), boxes=(40,), map_hw=(64, 64), channels=2, cells=(14,), repeats=2, rival=False
    )
    lines = benchmark.main(options)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
    assert [(line["boxes"], line["groups"]) for line in lines[:2]] == [(40, 1), (40, 5)]
    pooled = [(line["regions"], line["cells"], line["gradient"]) for line in lines[2:]]
    assert pooled == [(128, 14, False), (128, 14, True)]
    assert all(line["median_s"] > 0 and line["side"] == "jaxpose" for line in lines)


def test_the_crowd_has_something_to_suppress():
    boxes, scores = benchmark.crowd(benchmark.Options(), 2, 100)
    assert boxes.shape == (2, 100, 4) and (boxes[..., 2:] > boxes[..., :2]).all()
    assert all(len(np.unique(row)) == 100 for row in scores)
    stay = np.asarray(benchmark.boxes_of.nms(boxes, scores, threshold=benchmark.THRESHOLD))
    assert (0 < stay.sum(1)).all() and (stay.sum(1) < 100).all()


def test_whole_pictures(monkeypatch):
    box, none = np.array([[1.0, 2.0, 3.0, 4.0]]), np.zeros((1, 0))
    people = Detections(box, np.ones(1), np.ones(1), none, none)
    seen = []

    def detector(task, variables, *, max_people, batch_size):
        return lambda pictures: seen.append([picture.sum() for picture in pictures]) or [people] * batch_size

    monkeypatch.setattr(benchmark, "Detector", detector)
    monkeypatch.setattr(benchmark, "detector_of", lambda options, rival, size_wh: (None, None))
    options = benchmark.Options(parts=("whole",), batch=(1, 2), picture_wh=(8, 6), repeats=2, rival=False)
    lines = benchmark.main(options)
    assert [(line["batch"], line["people"]) for line in lines] == [(1, 1.0), (2, 1.0)]
    for line in lines:
        assert line["pictures_per_s"] == pytest.approx(line["batch"] / line["median_s"], rel=1e-2)
    assert len(seen) == 12 and len({tuple(sums) for sums in seen[:6]}) == 6, "no picture is seen twice"
    corners = np.array([[1.0, 2.0, 4.0, 6.5]])
    assert benchmark.difference([people], [(corners, None)]) == 0.5
    assert benchmark.difference([people], [(corners[:0], None)]) is None
