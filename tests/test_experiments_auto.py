"""`--data` without a preset: what is chosen, printed and stored, and that it can be run again."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import coco_rle
from experiments.common import auto, config
from experiments.common.config import RunConfig, from_settings, given_flags, parse, settings
from experiments.common.log import Log, evaluations
from experiments.common.persons import OwnAugment
from experiments.common.runner import with_fitted_scale
from jaxpose import checkpoint, predict
from jaxpose.data import synthetic
from jaxpose.predict.guarantee import Guarantee

# A net that compiles quickly; the rest follows from the data.
SMALL = ("--width", "4", "--resnet-stages", "1", "--deconvs", "--size-wh", "32", "32", "--likelihood.flow-layers", "2",
         "--batch-size", "4", "--log-every", "10")  # fmt: skip


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return synthetic.write_dataset(tmp_path_factory.mktemp("people"), train=10, val=6, seed=0)


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    """(folder, command, scores, what was logged) of a run of a second."""
    out = tmp_path_factory.mktemp("runs") / "auto"
    words = ["--data", str(people), "--data-dir", str(out.parent / "data"), *SMALL, "--minutes", "0.01", "--no-plots"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto, "MIN_STEPS", 20)
        lines = []
        patch.setattr(auto.log, "info", lambda text, *values: lines.append(text % values))
        scores = coco_rle.main([*words, "--out", str(out)])
    return out, words, scores, "\n".join(lines)


@pytest.mark.slow
def test_every_choice_is_printed_with_its_reason_and_stored(run):
    out, _, _, text = run
    reasons = {row["name"]: row for row in json.loads((out / auto.REASONS).read_text())}
    assert {"own.flip", "own.rotation", "head", "epochs", "warmup_steps", "eval_every"} <= set(reasons)
    assert all(row["reason"] for row in reasons.values())
    assert "what the time allows" in reasons["epochs"]["reason"]
    assert all(f"--{name.replace('_', '-')} " in text for name in reasons)
    assert not {"width", "size_wh", "batch_size", "deconvs"} & set(reasons), "given by hand"
    values = json.loads((out / auto.CONFIG).read_text())
    assert values["size_wh"] == [32, 32] and values["head"] == "peak" and values["augment"] == "own"


@pytest.mark.slow
def test_the_evaluation_stands_beside_knowing_nothing(run):
    out, _, scores, _ = run
    assert scores["skill"] == pytest.approx(1 - scores["EPE"] / scores["EPE_mean_position"])
    for name in ("EPE_nearest_pose", "PCK@0.05", "PCK@0.1", "sigma_scale"):
        assert np.isfinite(scores[name]), name
    assert (out / "baselines.json").is_file()
    step = max(json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines())
    remarks = json.loads((out / "results" / f"step_{step}_report.json").read_text())["remarks"]
    assert any("knowing nothing" in sentence and "training had" in sentence for sentence in remarks)


@pytest.mark.slow
def test_the_factor_of_sigma_is_stored_with_the_weights_and_used(run):
    out, words, _, _ = run
    stored = checkpoint.read_config(out)
    scale = stored["inference"]["sigma_scale"]
    assert scale == pytest.approx(stored["metrics"]["sigma_scale"]) and scale != 1
    assert predict.load(out).settings.sigma_scale == scale
    scores = out / "results" / f"step_{stored['step']}_conformal.json"
    calibrated = json.loads(scores.read_text())
    assert calibrated["sigma_scale"] == pytest.approx(scale)
    scores.unlink()
    evaluated = coco_rle.main([*words, "--eval-only", str(out), "--calibrate"])
    again = json.loads(scores.read_text())
    assert {**again, "scores": None} == pytest.approx({**calibrated, "scores": None}), (
        "made again for a run without them"
    )
    values = [part["scores"]["poses"]["values"] for part in (again, calibrated)]
    np.testing.assert_allclose(*values, rtol=1e-3)
    assert Guarantee(out, predict.load(out), level=0.5).persons == calibrated["persons"]
    assert evaluated["EPE"] == pytest.approx(stored["metrics"]["EPE"], rel=1e-5)
    assert evaluated["EPE_mean_position"] == pytest.approx(stored["metrics"]["EPE_mean_position"], rel=1e-3)


@pytest.mark.slow
def test_the_same_command_resumes_and_the_config_gives_the_same_bits(run, tmp_path):
    out, words, scores, _ = run
    again = coco_rle.main([*words, "--out", str(out)])
    assert again["EPE"] == scores["EPE"]
    coco_rle.main(["--config", str(out / auto.CONFIG), "--out", str(tmp_path / "again")])
    first, second = (checkpoint.restore_model(folder, step="latest")[0] for folder in (out, tmp_path / "again"))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_preset_is_taken_for_data_alone(people):
    taken = lambda *words: parse(coco_rle.PRESETS, name="x", default="tiny", description="", argv=list(words))  # noqa: E731
    assert taken("--data", str(people), "--seed", "3").minutes == 10
    assert taken("--data", str(people), "--seed", "3").by_hand == ("data", "seed")
    assert taken("--annotations", "all.json", "--val-fraction", "0.1").minutes == 10
    assert taken().minutes is None and taken("--preset", "tiny", "--data", str(people)).minutes is None
    assert taken("--preset", "official", "--data", str(people)) == taken("--data", str(people), "--preset", "official")
    assert taken("--preset", "auto", "--minutes", "3", "--data", str(people)).minutes == 3


def test_minutes_and_epochs_exclude_each_other(people):
    words = ["--data", str(people), "--minutes", "3", "--epochs", "20"]
    with pytest.raises(ValueError, match="--minutes 3 --epochs 20: both say how long the run is; leave one out"):
        parse(coco_rle.PRESETS, name="x", default="tiny", description="", argv=words)


def test_epochs_given_by_hand_stay(people, tmp_path):
    """The README's earlier command: 200 epochs with milestones, which the linear decay would ignore."""
    words = ["--data", str(people), "--epochs", "200", "--milestones", "140", "180", "--out", str(tmp_path)]
    start = parse(coco_rle.PRESETS, name="x", default="tiny", description="", argv=words)
    facts = auto.Facts(10, 10, 17, 8, 1.0, (), (60.0, 130.0), 0.0, 10.0, 0.1, 0.0)
    settled, choices = auto._with_steps(start, None, None, facts)
    assert (settled.epochs, settled.milestones, settled.decay) == (200, (140, 180), "milestones")
    assert "epochs" not in {choice.name for choice in choices}


def test_a_config_survives_json(people):
    start = parse(
        coco_rle.PRESETS, name="x", default="tiny", description="", argv=["--data", str(people), "--ema", "None"]
    )
    assert from_settings(type(start), json.loads(json.dumps(settings(start)))) == start


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds a list: expected the names of flags"),
        ('{"sise_wh": [8, 8]}', "there is no flag --sise-wh"),
        ('{"batch_size": 0}', "--batch-size 0: expected a positive number"),
        ('{"own": {"flop": 1}}', "there is no flag --flop"),
    ],
)
def test_a_bad_config_is_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        parse(coco_rle.PRESETS, name="x", default="tiny", description="", argv=["--config", str(path)])


def test_preset_and_config_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="both give the defaults"):
        parse(
            coco_rle.PRESETS, name="x", default="tiny", description="", argv=["--config", "a.json", "--preset", "tiny"]
        )


def test_flags_are_known_by_name():
    assert given_flags(["--size-wh", "3", "4", "--likelihood.no-log-s", "--no-plots", "--out=a"]) == {
        "size_wh", "likelihood.log_s", "plots", "out",
    }  # fmt: skip


def test_a_run_from_before_keeps_its_moving_average():
    assert RunConfig().ema_growth == 9
    assert RunConfig().resumed({"ema": 0.998}).ema_growth == 0
    assert RunConfig().resumed({"ema": 0.998, "ema_growth": 9.0}).ema_growth == 9


@pytest.mark.slow
def test_a_resumed_run_keeps_what_it_was_started_with(run):
    out, words, _, _ = run
    start = parse(
        coco_rle.PRESETS, name="x", default="tiny", description="", argv=[*words, "--out", str(out), "--keep", "5"]
    )
    resumed = auto.as_started(start)
    assert resumed.keep == 5 and resumed.head == "peak" and resumed.minutes is None
    config.check_same_run(type(resumed), checkpoint.read_config(out)["run"], settings(resumed), out)


@pytest.mark.slow
def test_patience(run):
    """A run whose best evaluation is old ends; the numbers are the scores of its evaluations."""
    from experiments.common.runner import Session

    class Kind:
        best = "skill"

    def stale(values, patience):
        session = Session.__new__(Session)
        session.evaluations, session.kind = {i: {"skill": v} for i, v in enumerate(values)}, Kind()
        session.config = RunConfig(patience=patience)
        return session.is_stale()

    assert not stale([], 2) and not stale([0.1, 0.2, 0.3], 2) and not stale([0.1, 0.3, 0.2], 2)
    assert stale([0.3, 0.2, 0.1], 2) and stale([0.1, 0.3, 0.3, 0.2], 2)
    assert not stale([0.3, 0.2, 0.1], None)


def stored_run(tmp_path, monkeypatch, config_of_run, words, **beside):
    """What the flags `words` make of a stored run, without a checkpoint's arrays."""
    stored = {"run": config_of_run, **beside}
    monkeypatch.setattr(checkpoint, "read_config", lambda *_, **__: stored)
    start = parse(coco_rle.PRESETS, name="x", default="tiny", description="", argv=[*words, "--out", str(tmp_path)])
    resumed = auto.as_started(start)
    config.check_same_run(type(resumed), config_of_run, settings(resumed), tmp_path)
    return resumed


def test_a_run_from_before_the_preset_is_resumed_as_it_was(tmp_path, monkeypatch):
    """The command that trained the preset "tiny" then; flags that came later have their defaults, not those of "auto"."""
    before = settings(coco_rle.PRESETS["tiny"]) | {"data": "mouse", "epochs": 200, "milestones": [140, 180]}
    for later in ("best", "patience", "calibrate", "minutes", "by_hand", "ema_growth", "own", "decay"):
        del before[later]
    words = ["--data", "mouse", "--epochs", "200", "--milestones", "140", "180"]
    resumed = stored_run(tmp_path, monkeypatch, before, words, best="AP")
    assert (resumed.patience, resumed.best, resumed.calibrate, resumed.decay) == (None, "AP", False, "milestones")
    assert (resumed.epochs, resumed.milestones, resumed.width, resumed.augment) == (200, (140, 180), 16, "light")
    assert stored_run(tmp_path, monkeypatch, before, words, best="skill").best == "skill"


def test_a_nested_flag_given_by_hand_replaces_its_number_alone(tmp_path, monkeypatch):
    start = coco_rle.Config(augment="own", data="mouse", own=OwnAugment(flip=0.0, rotation=180.0, scale=0.3))
    resumed = stored_run(tmp_path, monkeypatch, settings(start), ["--data", "mouse", "--own.flip", "0"])
    assert resumed.own == start.own
    again = stored_run(tmp_path, monkeypatch, settings(start), ["--data", "mouse", "--likelihood.flow-layers", "6"])
    assert again.likelihood == start.likelihood and again.own == start.own
    with pytest.raises(ValueError, match="--own was"):
        stored_run(tmp_path, monkeypatch, settings(start), ["--data", "mouse", "--own.flip", "0.5"])


def test_evaluations_after_the_restored_step_do_not_count(tmp_path):
    lines = [
        {"event": kind, "step": step, "time": 0, "AP": step / 100}
        for step in (10, 20, 30)
        for kind in ("eval", "train")
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with closing(Log(tmp_path)) as run_log:
        assert evaluations(run_log, until=20) == {10: {"AP": 0.1}, 20: {"AP": 0.2}}
        assert evaluations(run_log, until=9) == {}


def test_the_fitted_factor_of_sigma_is_kept_until_the_next_evaluation():
    stored, restored = {"inference": {"sigma_scale": 1.0, "nms": 0.9}}, {"inference": {"sigma_scale": 2.5, "nms": 0.5}}
    kept = with_fitted_scale(stored, restored, coco_rle.Config(calibrate=True))
    assert kept == {"inference": {"sigma_scale": 2.5, "nms": 0.9}}
    assert with_fitted_scale(stored, restored, coco_rle.Config()) == stored
    assert with_fitted_scale(stored, {}, coco_rle.Config(calibrate=True)) == stored


@pytest.mark.parametrize(
    ("flags", "message"), [(("--calibrate",), "--calibrate --detections"), (("--best", "skill"), "--best skill")]
)
def test_detections_go_neither_with_calibration_nor_with_skill(flags, message):
    taken = lambda *words: parse(coco_rle.PRESETS, name="x", default="tiny", description="", argv=list(words))  # noqa: E731
    with pytest.raises(ValueError, match=message):
        taken("--preset", "tiny", "--detections", "boxes.json", *flags)
    assert taken("--preset", "auto", "--detections", "boxes.json").best == "skill", "until the data decide"


def test_several_processes_hear_that_minutes_do_not_count(monkeypatch):
    lines = []
    monkeypatch.setattr(auto.log, "warning", lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    start = dataclasses.replace(coco_rle.PRESETS["auto"], detections=Path("boxes.json"))
    facts = auto.Facts(10, 10, 17, 8, 1.0, (), (60.0, 130.0), 0.0, 10.0, 0.1, 0.0)
    settled, choices = auto._with_steps(start, None, None, facts)
    assert "--minutes 10 does not count with 2 processes" in lines[0]
    assert {c.name: c.reason for c in choices}["epochs"] == "2,040 steps: what 10 persons need"
    assert settled.best == "AP" and settled.calibrate is False
