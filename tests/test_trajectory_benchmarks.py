"""The benchmarks of smoothing and triangulation show what they are for, also when they are small."""

from __future__ import annotations

import pytest

from benchmarks import smoothing, triangulation


@pytest.mark.slow
def test_predicted_covariances_pay_in_smoothing(capsys):
    table = smoothing.main(smoothing.Options(seeds=1, joints=4, frames=300))
    rmse = {name: row["rmse"][0] for name, row in table.items()}
    laplace, constant = "velocity, predicted sigma, Laplace", "velocity, one constant R"
    assert rmse[laplace] < 0.85 * rmse[constant] < 0.85 * rmse["as predicted, unsmoothed"]
    assert 0.8 < table[laplace]["coverage90%"][0] < 0.98
    assert capsys.readouterr().out.splitlines()[-1].startswith('{"benchmark": "smoothing"')


@pytest.mark.slow
def test_predicted_covariances_pay_in_triangulation(capsys):
    table = triangulation.main(triangulation.Options(seeds=1, points=300))
    median = {name: row["median"][0] for name, row in table.items()}
    assert median["reprojection, predicted sigma"] < median["linear, unweighted (Anipose)"] / 2
    assert 0.75 < table["the same, Laplace"]["coverage90%"][0] < 0.95
    assert capsys.readouterr().out.splitlines()[-1].startswith('{"benchmark": "triangulation"')
