"""The tiny run of benchmarks/predict_throughput.py."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import predict_throughput


def test_lines_have_what_they_claim(capsys):
    options = predict_throughput.Options(batch=(2,), depth=18, width=4, size_wh=(24, 32), repeats=2)
    predict_throughput.main(options)
    lines = [json.loads(line) for line in capsys.readouterr().out.strip().splitlines()]
    assert [(line["side"], line["batch"]) for line in lines] == [
        ("jaxpose", 2), ("jaxpose, weights as arguments", 2)
    ]  # fmt: skip
    for line in lines:
        assert line["images_per_s"] == pytest.approx(line["batch"] / line["median_s"], rel=1e-2)
        assert line["compile_s"] > 0 and any(key.startswith("ratio to jaxpose") for key in line)


def test_both_sides_see_the_same_fresh_crops_and_find_pixels():
    torch_predict = pytest.importorskip("benchmarks.peers.torch_predict")
    options = predict_throughput.Options(size_wh=(24, 32))
    first, again = (predict_throughput.crops(options, 2) for _ in range(2))
    one = next(first)
    assert (one == next(again)).all() and (one != next(first)).any()
    xy, confidence = torch_predict.Predict(depth=18, joints=17, size_wh=(24, 32), channels_last=True)(one)
    assert xy.shape == (2, 17, 2) and confidence.shape == (2, 17) and np.isfinite(xy).all()
    seen = []
    timed = predict_throughput.OnFresh(seen.append, again, calls=2)
    timed(), timed()
    assert (seen[0] != seen[1]).any()
