"""The tiny run of benchmarks/evaluation_time.py."""

import json

import pytest

from benchmarks import evaluation_time


def test_one_json_line_a_side(capsys):
    pytest.importorskip("hotcoco")
    evaluation_time.main(evaluation_time.Options(images=20, repeats=2))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["side"] for line in lines] == ["pycocotools", "hotcoco"]
    assert all(line["detections"] == 400 and 0 < line["AP"] < 1 and line["runs"] == 2 for line in lines)
