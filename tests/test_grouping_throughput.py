"""The tiny run of benchmarks/grouping_throughput.py, and that its images hold the people that it says."""

import json

import numpy as np

from benchmarks import grouping_throughput
from jaxpose import grouping


def test_one_json_line_a_side(capsys):
    grouping_throughput.main(
        grouping_throughput.Options(people=(2,), batch=2, size=32, joints=3, repeats=2, refine=False)
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["side"], line["people"]) for line in lines] == [("host", 2), ("batched", 2)]
    for line in lines:
        assert line["images_per_s"] > 0 and line["runs"] == 2 and line["versions"]["jax"] and line["device"]


def test_scenes_hold_the_people():
    options = grouping_throughput.Options()
    poses, scores = grouping.group(*grouping_throughput.scene(np.random.default_rng(0), 5, options))
    assert len(poses) == 5 and (scores > 0.2).all()
