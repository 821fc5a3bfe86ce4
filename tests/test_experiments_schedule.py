"""--decay plateau: the learning rate follows the evaluations, and a resumed run has the rate of the uninterrupted one."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import coco_integral
from experiments.common import kinds, runner, training
from experiments.common.config import RunConfig
from jaxpose import parallel
from tests.test_train import Line


@dataclasses.dataclass(frozen=True)
class Scored:
    """Numbers x with y = 3 x, whose evaluations have given scores."""

    config: RunConfig
    mesh: object
    scores: tuple[float, ...]
    samples, best, headline, skeleton = "pairs", "accuracy", ("accuracy",), None

    def check(self): ...

    def count(self):
        return 8

    def variant(self):
        return ""

    def train_batches(self, *, start_step, total):
        for step in range(start_step, total):
            x = np.random.default_rng(step).normal(size=8).astype(np.float32)
            yield parallel.global_batch({"x": x, "y": 3 * x}, self.mesh)

    def predict(self, step, task, variables):
        return {}

    def score(self, predictions, task, variables, *, name, last=True):
        return {"accuracy": self.scores[int(name.removeprefix("step_")) - 1]}

    def report(self, name): ...

    def draw(self, predictions, task, variables, events): ...


def run(out, epochs, scores=(0.5, 0.4, 0.3, 0.2, 0.1, 0.0)):
    config = RunConfig(out=out, batch_size=8, epochs=epochs, learning_rate=0.1, decay="plateau", plateau=2, eval_every=1,
                       log_every=1, plots=False)  # fmt: skip
    runner.run(Line(), config, Scored(config, parallel.make_mesh(), scores))
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "train"]


def test_a_run_that_is_resumed_behind_a_plateau_ends_with_the_same_bits(tmp_path, caplog):
    with caplog.at_level("INFO"):
        whole = run(tmp_path / "one", 6)
    assert [m for m in caplog.messages if "--decay plateau" in m] == [
        "no better accuracy in 2 evaluations: the learning rate is multiplied by 0.1 (--decay plateau)",
        "no better accuracy in 2 evaluations: the learning rate is multiplied by 0.01 (--decay plateau)",
    ]
    for epochs in (4, 6):
        resumed = run(tmp_path / "two", epochs)
    assert resumed == whole
    improving = run(tmp_path / "three", 6, scores=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    assert improving[:4] == whole[:4] and improving[4:] != whole[4:]


def test_the_schedule_itself_is_flat_and_the_flags_say_what_counts():
    config = coco_integral.PAGE.settings(["--preset", "paper", "--decay", "plateau", "--plateau", "5"])
    rate = training.make_schedule(config, 1e-3, 10.0)
    assert float(rate(0)) == float(rate(100_000)) == pytest.approx(1e-3)
    for flags, message in (
        (["--plateau", "5"], "--plateau has no effect without --decay plateau"),
        (["--decay", "plateau", "--milestones", "3"], "--milestones has no effect without --decay milestones"),
    ):
        with pytest.raises(ValueError, match=message):
            coco_integral.PAGE.settings(["--preset", "paper", *flags])


def test_splits_are_joined_and_an_evaluation_on_them_is_named(monkeypatch, caplog):
    opened = []
    monkeypatch.setattr(
        kinds, "_open_split", lambda config, part, skeleton: opened.append(config.train_split) or opened
    )
    monkeypatch.setattr(kinds, "joined", lambda parts: SimpleNamespace(parts=len(parts)))
    config = RunConfig(train_split="train+val", val_split="val")
    assert kinds._open_training(config, None).parts == 2 and opened == ["train", "val"]
    kinds._warn_of_overlap(config)
    kinds._warn_of_overlap(dataclasses.replace(config, val_split="test"))
    kinds._warn_of_overlap(dataclasses.replace(config, train_split="val"))
    assert caplog.text.count("it is evaluated on persons that it is trained on") == 1
    for change in ({"val_fraction": 0.1}, {"annotations": "a.json"}, {"train_split": "train+"}):
        with pytest.raises(ValueError, match="names of splits in --data joined by"):
            kinds._open_training(dataclasses.replace(config, **change), None)
