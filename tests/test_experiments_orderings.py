"""The tables of experiments/orderings.py: what their formulas say, and a tiny run of each."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import orderings
from jaxpose import losses, tasks
from jaxpose.data.synthetic import write_dataset
from tests import tiny_run


def test_a_lower_background_helps_the_plain_integral_and_harms_the_compensated_one():
    rows = orderings.compensation_table()
    for noise in ("noise 0", "noise 0.05"):
        assert rows["compensated, background 0"][noise] < rows["plain, background 0"][noise]
        assert rows["plain, background -0.3"][noise] < 0.2 * rows["compensated, background -0.3"][noise]
        assert rows["plain, background -1"][noise] < rows["plain, background -0.3"][noise]
    assert rows["compensated, background 0"]["noise 0"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("penalty", [1.0, 0.1])
def test_alpha_takes_no_more_than_its_bound_from_a_small_residual(penalty):
    target = np.linspace(0.02, 0.98, 25)
    alpha, left = orderings.best_alpha(target, target - 0.01, penalty=penalty)
    slope = (target * np.log(target)) ** 2
    np.testing.assert_allclose(1 - left, slope / (penalty + slope), atol=0.02)
    assert (1 - left).max() == pytest.approx(orderings.share_of_alpha(penalty), abs=0.02)
    assert (alpha >= 0).all() and alpha.max() < 0.03


def test_the_best_peak_of_squared_error_is_the_blurred_one_and_wahr_prefers_1():
    for jitter in (0.5, 1.0):
        plain, first = orderings.best_predictions(jitter, weighting=False)
        assert plain == first == pytest.approx(1 / (1 + jitter**2), abs=0.02)
        least, first = orderings.best_predictions(jitter, weighting=True)
        assert least == 1.0 and plain < first <= 1


def test_the_best_map_of_wahr_has_the_least_loss_that_a_descent_from_0_reaches():
    error = np.random.default_rng(0).normal(size=(50, 2))
    best = {weighting: orderings.best_map(error, weighting=weighting, radius=2) for weighting in (False, True)}
    axis = np.arange(-2, 3)
    pixel = np.stack(np.meshgrid(axis, axis), -1)[:, :, None]
    target = np.exp(-0.5 * np.square(pixel - error).sum(-1))
    np.testing.assert_allclose(best[False], target.mean(-1), atol=0.006)  # the mean label
    for y, x in ((2, 2), (0, 1), (3, 2)):
        pred = np.broadcast_to(np.linspace(0, 1, 101)[:, None, None], (101, 50, 1))
        labels = np.broadcast_to(target[y, x][:, None], pred.shape)
        loss = np.asarray(losses.weight_adaptive_mse(pred[None], labels[None]))[0].mean((1, 2))
        at = np.flatnonzero(np.diff(loss) > 0)[0]
        assert abs(best[True][y, x] - at / 100) < 0.011
    assert (best[True] > best[False]).all()


def test_more_label_noise_takes_joints_below_the_threshold_and_wahr_keeps_more_of_them(tmp_path):
    folder = write_dataset(tmp_path / "people", train=1, val=3, workers=1, progress=False)
    rows = orderings.peaks_table(folder, factors=(1, 12), joints=25)
    plain, wahr = (rows[f"label noise x 12, {name}"] for name in ("squared error", "WAHR"))
    assert all(rows[f"label noise x 1, {name}"]["peaks of 0.1"] == 1 for name in ("squared error", "WAHR"))
    assert plain["peaks of 0.1"] < wahr["peaks of 0.1"] and plain["median peak"] < wahr["median peak"]


def test_every_table_is_printed(tmp_path, capsys):
    folder = write_dataset(tmp_path / "people", train=1, val=3, workers=1, progress=False)
    tables = orderings.main(["--parts", "scales", "dle", "--rows", "dle", "--noise", "skewed", "--steps", "2", "--seeds", "1",
                             "--flow-hidden", "8", "--data", str(folder)])  # fmt: skip
    (row,) = tables["dle"].values()
    assert 0 < row["without the multiple"] < 1.1 * row["error"] < 1000  # least squares, and a mean distance
    assert 0 < tables["scales"]["labels, larger half"]["standard deviation / sigma"] < 2
    task = tasks.from_config(tiny_run.regression_task().config | {"likelihood": {"loss": "laplace"}})  # without a flow
    run = tiny_run.write(tmp_path / "run", task)
    with_run = orderings.main(["--parts", "run", "--run", str(run), "--data", str(folder)])["run"]
    for values in with_run.values():
        assert 0 < values["without the multiple"] < 1.1 * values["error, px"]
    assert "with the flip test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "l3"], "--rows l3: expected some of"),
        (["--parts", "dle", "--data", "x"], "--data x has no effect"),
        (["--parts", "run", "--data", "x"], "--parts run, --run and --data belong together"),
        (["--parts", "scales", "--split", "train"], "--split train has no effect without --parts run"),
        (["--run", "x", "--data", "x"], "--parts run, --run and --data belong together"),
    ],
)
def test_flags_without_sense_are_refused(flags, message):
    with pytest.raises(SystemExit, match=message):
        orderings.main(flags)


def test_noise_has_its_mode_at_0():
    import jax

    for name in ("laplace", "t1.5", "outliers", "skewed"):
        draws = np.asarray(orderings.sample_noise(name, jax.random.key(0), (20000, 2)))
        counts, edges = np.histogram(draws, bins=np.arange(-3.05, 3.1, 0.1))
        assert abs(edges[counts.argmax()] + 0.05) < 0.11, name
