"""The page of boundaries: a run on drawn scans and on files of Duke's layout, its numbers, and what it refuses."""

import json

import jax
import numpy as np
import pytest

from experiments import oct_rle
from experiments.common import scans
from jaxpose import checkpoint, density, tasks
from jaxpose.data.synthetic import retina
from jaxpose.skeleton import RETINA8
from tests.test_data_scans import write_subject

NET = ("--width", "2", "--levels", "1", "--size-wh", "16", "176", "--batch-size", "2", "--epochs", "1", "--eval-every", "9",
       "--log-every", "1", "--no-flip-test", "--warmup-steps", "0")  # fmt: skip


@pytest.fixture
def few_scans(monkeypatch):
    """Two drawn subjects with two narrow scans each, of which one is drawn at the end."""
    monkeypatch.setattr(scans, "PICTURES", 1)
    draw = retina.draw_scans
    style = retina.Style(height=240, width=32)
    monkeypatch.setattr(
        retina, "draw_scans", lambda count, *, seed: draw(4, seed=seed, style=style, scans_per_subject=2)
    )


def test_a_run_on_drawn_scans(tmp_path, few_scans, capsys):
    out = tmp_path / "run"
    scores = oct_rle.main(["--out", str(out), "--no-compensate", "--seed", "3", "--likelihood.loss", "laplace", *NET])
    assert "crops/s=" in capsys.readouterr().err, "the progress bar counts crops"
    assert {"error_um", "true_error_um", "coverage_50", "coverage_90", "error_um_ILM"} <= scores.keys()
    assert all(np.isfinite(value) for value in scores.values())
    for name in ("curves", "calibration", "predictions"):
        assert (out / "plots" / f"{name}.png").stat().st_size > 5000
    page = (out / "report.html").read_text()
    assert page.count("<figure data-error") == 2 and page.count("<polygon") == 2 * 8 and "calibration" in page
    stored = json.loads((out / "results" / "step_2.json").read_text())
    assert stored["drawn"] == {"count": 110, "seed": 3} and np.shape(stored["regions"]["0.9"]) == (1, 2)
    assert [s["name"] for s in stored["scans"]] == ["drawn scan 3", "drawn scan 4"] and len(
        stored["scans"][0]["rows"]
    ) == 8
    assert tasks.from_config(checkpoint.restore_model(out)[1]["task"]).family == "boundaries"
    config = oct_rle.PAGE.settings(["--eval-only", str(out)])
    assert (config.compensate, config.size_wh, config.seed) == (False, (16, 176), 3), "as it was trained"
    oct_rle.main(["--eval-only", str(out)])
    one, two = (json.loads((out / "results" / f"{n}.json").read_text())["scores"] for n in ("step_2", "eval_2_val"))
    assert one == pytest.approx(two, rel=1e-4)


def test_the_scans_of_duke_are_split_by_subject(tmp_path):
    style = retina.Style(height=240, width=32)
    for number in (1, 2):
        write_subject(tmp_path / f"Subject_0{number}.mat", retina.draw_scans(2, seed=number, style=style))
    flags = [*NET, "--data", str(tmp_path), "--train-subjects", "2", "--val-subjects", "1", "--columns", "labelled"]
    config = oct_rle.PAGE.settings(["--out", str(tmp_path / "run"), *flags])
    kind = scans.load(config)
    assert {s.scan.subject for s in kind.train} == {"subject 2"} and {s.scan.subject for s in kind.val} == {"subject 1"}
    assert kind.count() == 4 and kind.variant() == "_labelled"
    batch = next(kind.train_batches(start_step=0, total=1))
    assert batch["image"].shape == (2, 176, 16) and batch["rows"].shape == (2, 16, 8)
    assert np.isfinite(kind._scored_columns(kind.val[0].scan)).sum() == 8 * 28
    kind = scans.load(oct_rle.PAGE.settings(["--out", str(tmp_path / "run"), *flags[:-2]]))
    assert not np.isfinite(kind._scored_columns(kind.val[0].scan)).any(), "32 columns end before column 135"
    with pytest.raises(ValueError, match="--columns rathke: no scan to evaluate on has labels in columns 135 to 634"):
        kind.check()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--data", "x", "--train-subjects", "1", "2"], "subject 1 is in both"),
        (["--annotations", "a.json"], "--annotations a.json: this page reads scans"),
        (["--size-wh", "60", "192"], "expected multiples of 8 with --levels 4"),
        (["--val-subjects", "1"], "--val-subjects has no effect without --data"),
        (["--head", "softmax", "--likelihood.loss", "l1"], "--likelihood.loss has no effect without --head regression"),
        (["--likelihood.flow-layers", "3"], "--likelihood.flow-layers has no effect without --residual pair"),
        (
            ["--density-gain", "4", "--likelihood.loss", "l1"],
            "--density-gain has no effect without a loss that trains sigma",
        ),
        (["--pixel-um", "3"], "--pixel-um has no effect without --data"),
        (["--data", "x", "--pixel-um", "3000"], "--pixel-um 3000: expected the height of a pixel in micrometres"),
        (["--data", "x", "--train-subjects"], "--train-subjects names no subject: expected numbers, such as 6"),
        (["--data", "absent"], "absent is not a folder: expected the folder with Subject_01.mat"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        scans.load(oct_rle.PAGE.settings(["--out", str(tmp_path / "run"), *flags]))


@pytest.mark.parametrize("preset", oct_rle.PRESETS)
def test_presets_make_their_nets(preset):
    task, first = scans.make_tasks(oct_rle.PRESETS[preset], RETINA8)
    assert first is None and task.dim == (2 if preset == "pairs" else 1)
    assert task.objective == ("columns" if preset == "he" else "likelihood")
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert ("flow" in shapes["params"]) == (preset != "he")


def test_the_gain_is_that_of_sigma_and_of_the_spline():
    config = oct_rle.PAGE.settings(["--density-gain", "4", *NET])
    task, _ = scans.make_tasks(config, RETINA8)
    assert (task.net.sigma_gain, task.flow_gain) == (4.0, 4.0)
    stored = task.config
    assert tasks.from_config(stored).flow_gain == 4.0
    old = {name: value for name, value in stored.items() if name != "flow_gain"}
    assert tasks.from_config(old).flow_gain == 1.0, "a checkpoint from before there was a gain"
    # The stated density is that of the parameters times the gain, as in the training.
    knots = np.linspace(-0.1, 0.2, 25).astype(np.float32)
    variables = lambda values: {"params": {"flow": {"knots": values}}}  # noqa: E731
    e = np.linspace(-3, 3, 7, dtype=np.float32)[:, None]
    with_gain = density.log_prob(e, task.density(variables(knots)))
    plain = density.log_prob(e, tasks.from_config(old).density(variables(4 * knots)))
    np.testing.assert_allclose(with_gain, plain, rtol=1e-5)
    assert not np.allclose(with_gain, density.log_prob(e, tasks.from_config(old).density(variables(knots))), atol=0.01)


def test_levels_and_bands_are_those_of_the_density():
    rng = np.random.default_rng(0)
    rows, sigma = rng.uniform(50, 60, (40, 8)), rng.uniform(1, 3, (40, 8))
    labels = rows + rng.laplace(size=rows.shape) * sigma
    labels[:3] = np.nan
    for dim in (1, 2):
        model = density.Model(log_g=None, base="laplace", dim=dim)
        level = scans.levels(rows, sigma, labels, model)
        assert level.shape == (40, 8 // dim) and np.isnan(level[:3]).all()
        assert np.nanmean(level) == pytest.approx(0.5, abs=0.07)  # uniform
    low, high = tasks.bands(rows, sigma, density.region(density.Model(log_g=None, base="laplace", dim=1), 0.9).extent())
    np.testing.assert_allclose(rows - low, sigma * np.log(10), rtol=0.02)
    np.testing.assert_allclose(high - rows, sigma * np.log(10), rtol=0.02)
