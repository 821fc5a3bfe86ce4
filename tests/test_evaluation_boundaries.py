"""Errors of boundaries in micrometres, coverage by groups of columns, and the rank of sigma."""

import json

import numpy as np
import pytest

from jaxpose.evaluation import boundaries
from jaxpose.view.figures.boundaries import scan_boundaries

NAMES = ("top", "bottom")


def scan(name="a", width=6, seed=0, **changes):
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.uniform(20, 60, (width, 2)), -1)
    values = {"axial_um": 4.0, "rows": labels + rng.normal(size=labels.shape), "labels": labels} | changes
    return boundaries.ScoredScan(name, **values)


def test_errors_are_means_over_columns_then_scans_then_boundaries():
    labels = np.array([[10.0, 20.0], [np.nan, 22.0], [12.0, np.nan]])
    first = scan("a", rows=np.array([[11.0, 20.0], [np.nan, 24.0], [15.0, 99.0]]), labels=labels)
    second = scan("b", rows=np.array([[10.0, 29.0]]), labels=np.array([[np.nan, 20.0]]), axial_um=2.0)
    scores = boundaries.errors([first, second], NAMES)
    top = 4.0 * (1 + 3) / 2  # the second scan has no label of it
    bottom = (4.0 * (0 + 2) / 2 + 2.0 * 9) / 2
    assert scores["error_um_top"] == pytest.approx(top) and scores["error_um_bottom"] == pytest.approx(bottom)
    assert scores["error_um"] == pytest.approx((top + bottom) / 2)
    assert scores["within_2px"] == pytest.approx(3 / 5) and "true_error_um" not in scores
    known = [scan(str(i), seed=i, truth=scan(seed=i).rows) for i in range(2)]
    assert boundaries.errors(known, NAMES)["true_error_um"] == 0


def test_a_boundary_without_labels_has_no_error():
    labels = np.column_stack([np.full(6, np.nan), np.arange(6.0)])
    scores = boundaries.errors([scan(labels=labels, rows=np.zeros((6, 2)))], NAMES)
    assert "error_um_top" not in scores and scores["error_um"] == pytest.approx(4 * 2.5)
    with pytest.raises(ValueError, match="1 scans without a label in the columns that are scored"):
        boundaries.errors([scan(labels=np.full((6, 2), np.nan))], NAMES)


def test_coverage_by_groups_of_columns():
    level = np.array([[0.1, 0.3], [0.6, 0.95], [0.4, np.nan], [0.99, 0.2]])
    groups = {"fluid": np.array([True, True, False, False]), "shadow": np.array([False, True, False, False])}
    one = scan(width=4, level=level, groups=groups)
    coverage = boundaries.coverage([one, one], levels=[0.5, 0.9])
    assert coverage["all"] == pytest.approx([4 / 7, 5 / 7]) and coverage["fluid"] == [0.5, 0.75]
    assert coverage["shadow"] == [0.0, 0.5] and coverage["neither"] == pytest.approx([2 / 3, 2 / 3])
    nothing = scan(width=4, level=level, groups={"fluid": np.zeros(4, bool)})
    assert boundaries.coverage([nothing], levels=[0.5])["fluid"] == [None]
    with pytest.raises(ValueError, match="a: its net states no density"):
        boundaries.coverage([scan()])


def test_the_rank_of_sigma_is_spearmans():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    sigma, noise = rng.uniform(size=(2, 6, 2))
    noise = noise.round(1)  # ties
    one = scan(sigma=sigma, noise=noise)
    assert boundaries.rank_correlation([one]) == pytest.approx(spearmanr(sigma.ravel(), noise.ravel()).statistic)
    assert boundaries.rank_correlation([scan(sigma=sigma)]) is None
    assert boundaries.rank_correlation([scan(sigma=sigma, noise=np.ones((6, 2)))]) is None


def test_the_report_is_written_with_the_predictions(tmp_path):
    one = scan(level=np.full((6, 2), 0.7), sigma=np.ones((6, 2)), groups={"fluid": np.arange(6) < 3})
    details = boundaries.report([one], NAMES)
    scores = details["scores"]
    assert scores["coverage_50"] == 0 and scores["coverage_90"] == scores["coverage_90_fluid"] == 1
    assert scores["neg_error_um"] == -scores["error_um"] and details["levels"][9] == 0.5
    boundaries.write(tmp_path / "r" / "eval.json", [one], NAMES, details)
    stored = json.loads((tmp_path / "r" / "eval.json").read_text())
    assert stored["scores"] == scores and stored["boundaries"] == list(NAMES)
    np.testing.assert_allclose(np.array(stored["scans"][0]["rows"]).T, one.rows, atol=0.006)


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"a: sigma of shape \(6, 1\), expected that of the rows, \(6, 2\)"):
        scan(sigma=np.ones((6, 1)))
    with pytest.raises(ValueError, match="a: a predicted row is not a finite number"):
        scan(rows=np.full((6, 2), np.nan))


def test_a_scan_is_drawn_with_boundaries_and_bands(tmp_path):
    rows = np.tile([20.0, 40.0], (30, 1))
    path = scan_boundaries(
        np.zeros((80, 30)), rows, tmp_path / "scan.png", names=NAMES, bands=(rows - 3, rows + 2), labels=rows, title="a"
    )
    assert path.stat().st_size > 5000
    with pytest.raises(ValueError, match=r"rows of shape \(30, 2\), expected \(30, 1\)"):
        scan_boundaries(np.zeros((80, 30)), rows, path, names=["one"])
