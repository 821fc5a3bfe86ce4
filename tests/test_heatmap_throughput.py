"""The tiny run of benchmarks/heatmap_throughput.py, in which both sides are held equal."""

import json

import numpy as np
import pytest

from benchmarks import heatmap_throughput as benchmark
from benchmarks.peers import numpy_targets


@pytest.mark.slow
def test_one_json_line_a_part_and_equal_sides(capsys):
    options = benchmark.Options(
        batch=2, joints=3, size_hw=(32, 24), repeats=2, share=True, depth=18, width=4, share_batch=2
    )
    benchmark.main(options)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["part"] for line in lines] == [*benchmark.PARTS, "share of a step"]
    for line in lines[:-1]:
        assert line["ratio"] > 0 and line["us_per_image"] > 0 and line["numpy_us_per_image"] > 0 and line["runs"] == 2
    assert 0 < lines[-1]["share"]


def test_unequal_sides_are_refused(monkeypatch):
    monkeypatch.setattr(numpy_targets, "targets", lambda xy, size_hw, sigma: np.zeros((len(xy), *size_hw)))
    with pytest.raises(AssertionError, match="targets"):
        benchmark.check_equal("targets", benchmark.Options(batch=1, joints=2, size_hw=(16, 16)))
