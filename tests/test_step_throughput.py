"""The tiny run of benchmarks/step_throughput.py."""

from __future__ import annotations

import json

import pytest

from benchmarks import step_throughput


@pytest.mark.slow
def test_lines_have_what_they_claim(capsys):
    options = step_throughput.Options(
        batch=(2, 4), depth=18, width=4, size_wh=(24, 32), repeats=2, peak_tflops=1.0, rival=False
    )
    step_throughput.main(options)
    lines = [json.loads(line) for line in capsys.readouterr().out.strip().splitlines()]
    assert [(line["side"], line["batch"]) for line in lines] == [
        ("jaxpose", 2), ("jaxpose, L1", 2), ("jaxpose", 4), ("jaxpose, L1", 4)
    ]  # fmt: skip
    for line in lines:
        assert line["images_per_s"] == pytest.approx(line["batch"] / line["median_s"], rel=1e-2)
    assert all(0 < line["mfu"] < 1 and line["compile_s"] > 0 and "loss_share" in line for line in lines[::2])
