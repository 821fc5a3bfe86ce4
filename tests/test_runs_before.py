"""Checkpoints that an earlier version wrote are restored, evaluated, predicted with and resumed as it did.

`tests/runs_before/README.md` says what the recorded files hold. The recorded losses are compared to 1e-5, because other processors
round sums otherwise; `python -m tests.same_training --compare tests/runs_before/thirty_steps.json` compares bits.
"""

from __future__ import annotations

import importlib
import json
import shlex
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpose import checkpoint, geometry, predict, tasks
from jaxpose.data import synthetic

BEFORE = Path(__file__).parent / "runs_before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text())
PAGES = {"rle": "coco_rle", "simple_baseline": "coco_simple_baseline", "swahr": "coco_swahr"}
EVALUATE = ("--synthetic-images", "24", "--batch-size", "8", "--seed", "3", "--no-plots")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The three runs, and the synthetic people that they were trained on."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(BEFORE / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    synthetic.write_dataset(folder / "data" / "synthetic_24_3", train=22, val=2, seed=3)
    return folder


def command(name: str) -> list[str]:
    """The arguments that trained the run of that name."""
    (line,) = (line for line in EXPECTED["commands"] if f"experiments.{PAGES[name]} " in line)
    # The preset that was the default of then.
    return ["--preset", "tiny", *shlex.split(line)[3:]]


@pytest.mark.parametrize("name", PAGES)
def test_predictions_are_those_of_before(folder, name):
    variables, stored = checkpoint.restore_model(folder / name)
    task = tasks.from_config(stored["task"])
    assert json.loads(json.dumps(task.config)) == stored["task"]
    width, height = task.size_wh
    image = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    outputs = jax.jit(lambda v, b: task.predict(v, b, flip_test=True))(variables, {"image": image})
    with np.load(BEFORE / "predictions.npz") as expected:
        assert {f"{name}.{k}" for k in outputs} == {k for k in expected.files if k.startswith(f"{name}.")}
        for key, value in outputs.items():
            value = np.asarray(value)[:, ::8, ::8] if value.ndim > 3 else np.asarray(value)
            np.testing.assert_allclose(value, expected[f"{name}.{key}"], rtol=1e-4, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", PAGES)
def test_evaluation_is_that_of_before_without_a_flag(folder, name, monkeypatch, capsys):
    """The run says how its net is tested: before, flip test, rescoring and test size had to be given again."""
    monkeypatch.chdir(folder)
    page = importlib.import_module(f"experiments.{PAGES[name]}")
    page.main(["--eval-only", name, "--data-dir", "data", *EVALUATE])
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    for key, value in EXPECTED[name]["evaluation"].items():
        assert scores[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("name", ["rle", "simple_baseline"])
def test_predicted_records_are_those_of_before(folder, name):
    predictor = predict.load(folder / name)
    truth = json.loads((folder / "data/synthetic_24_3/annotations/person_keypoints_val.json").read_text())
    records = []
    for image in truth["images"]:
        boxes = np.array([a["bbox"] for a in truth["annotations"] if a["image_id"] == image["id"]])
        boxes = geometry.clip_box(boxes, np.array([image["width"], image["height"]]))
        file = folder / "data/synthetic_24_3/val" / image["file_name"]
        records += predictor(file, boxes=boxes).records(image["id"])
    assert len(records) == len(EXPECTED[name]["poses"])
    for record, expected in zip(records, EXPECTED[name]["poses"], strict=True):
        np.testing.assert_allclose(record["keypoints"], expected["keypoints"], rtol=1e-4, atol=2e-3)
        assert record["score"] == pytest.approx(expected["score"], abs=1e-4)


@pytest.mark.parametrize("name", PAGES)
def test_a_run_of_before_is_resumed(folder, name, monkeypatch):
    monkeypatch.chdir(folder)
    importlib.import_module(f"experiments.{PAGES[name]}").main(command(name))
    events = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    losses = {event["step"]: event["loss"] for event in events if event["event"] == "train"}
    expected = {int(step): loss for step, loss in EXPECTED[name]["losses"].items()}
    assert losses.keys() == expected.keys() and max(losses) > 3
    for step, loss in expected.items():
        assert losses[step] == pytest.approx(loss, rel=1e-5), step
