"""Split conformal quantiles: the coverage of finite calibration sets, counted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxpose import density
from jaxpose.conformal import Conformal, Scores

LAPLACE = density.Model(log_g=None, base="laplace")


@pytest.mark.parametrize("count, level", [(9, 0.9), (19, 0.9), (20, 0.8), (50, 0.95), (100, 0.5)])
def test_the_coverage_of_finite_sets(count, level):
    """Over 4,000 calibration sets: ceil((n + 1) level) / (n + 1) of new scores are below, whatever their distribution."""
    rng = np.random.default_rng(count)
    draws = rng.standard_cauchy((4000, count))
    covered = np.array([1 / 2 + np.arctan(Scores.of(row).quantile(level)) / np.pi for row in draws])
    expected = np.ceil((count + 1) * level - 1e-9) / (count + 1)
    assert covered.mean() == pytest.approx(expected, abs=4 * covered.std() / np.sqrt(4000))
    assert level - 0.01 <= covered.mean() <= level + 1 / (count + 1) + 0.01


def test_too_few_scores_give_no_finite_quantile():
    assert Scores.of(np.arange(8.0)).quantile(0.9) == np.inf and Scores.of(np.zeros(0)).quantile(0.5) == np.inf
    assert Scores.of(np.array([np.nan, 1.0])).count == 1
    for level in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
            Scores.of(np.arange(8.0)).quantile(level)


def test_a_thinned_set_errs_on_the_safe_side_and_survives_json():
    scores = np.random.default_rng(0).normal(size=12_345)
    whole, thin = Scores.of(scores, most=20_000), Scores.of(scores, most=300)
    assert len(thin.values) <= 300 and thin.count == 12_345
    for level in np.linspace(0.01, 0.999, 97):
        exact, stored = whole.quantile(level), thin.quantile(level)
        assert exact <= stored and (scores <= stored).mean() - (scores <= exact).mean() < 1 / 250
    loaded = Scores.from_dict(json.loads(json.dumps(thin.to_dict())))
    assert loaded.quantile(0.9) == thin.quantile(0.9)


@pytest.mark.parametrize(
    "values",
    [
        {"count": 3, "ranks": [1, 2], "values": [0.0, 1.0]},
        {"count": 2, "ranks": [1, 2], "values": [1.0, 0.0]},
        {"count": 2, "ranks": [1, 2], "values": [1.0]},
        {"count": 2, "values": []},
        {"count": 0, "ranks": [1], "values": [1.0]},
        3,
    ],
)
def test_other_values_are_refused(values):
    with pytest.raises(ValueError, match="no sorted scores|are no sorted scores"):
        Scores.from_dict(values)
    with pytest.raises(ValueError, match="scores"):
        Conformal.from_dict({"joints": [values], "poses": values, "spread": values})


def errors(people: int, rng: np.random.Generator, joints: int = 3):
    """(sigma, target) of a net that is two and a half times too sure, with heavy tails, joints that err together, and mu = 0."""
    sigma = rng.uniform(0.01, 0.05, (people, joints, 2))
    hard = np.exp(rng.normal(scale=0.7, size=(people, 1, 1)))
    return sigma, 2.5 * sigma * hard * rng.standard_t(3, sigma.shape)


def test_regions_of_a_wrong_model_hold_joints_and_poses():
    """40 calibration sets of 60 people with a third of the labels missing; each judged on 60 new people."""
    rng = np.random.default_rng(0)
    raw, per_joint, whole = [], [], []
    for _ in range(40):
        sigma, target = errors(120, rng)
        where = rng.random(sigma.shape[:2]) < 2 / 3
        scores = density.conformal(0 * sigma[:60], sigma[:60], target[:60], LAPLACE, where=where[:60])
        log_density = -np.abs(target[60:] / sigma[60:]).sum(-1) - 2 * np.log(2)
        new = where[60:]
        inside = log_density >= scores.log_thresholds(0.9)
        per_joint.append([inside[new[:, k], k].mean() for k in range(3)])
        every = (log_density >= scores.log_thresholds(0.9, whole_pose=True)) | ~new
        whole.append(every.all(1)[new.any(1)].mean())
        raw.append((log_density >= density.region(LAPLACE, 0.9).log_threshold)[new].mean())
    assert np.mean(raw) < 0.6
    error = 4 * np.std(per_joint) / np.sqrt(40)
    assert 0.9 - error < np.mean(per_joint) < 0.9 + 1 / 35 + error
    error = 4 * np.std(whole) / np.sqrt(40)
    assert 0.9 - error < np.mean(whole) < 0.9 + 1 / 55 + error


def test_unlabelled_joints_hold_anything_and_a_pose_without_labels_does_not_count():
    rng = np.random.default_rng(0)
    sigma, target = errors(30, rng)
    where = np.ones(sigma.shape[:2], bool)
    where[:10, 0] = where[5] = False
    expected = density.conformal(0 * sigma, sigma, target, LAPLACE, where=where)
    target[~where], sigma[5] = np.nan, 0
    found = density.conformal(0 * sigma, sigma, target, LAPLACE, where=where)
    assert found.to_dict() == expected.to_dict()
    assert [scores.count for scores in found.joints] == [20, 29, 29] and found.poses.count == found.spread.count == 29


def test_a_region_above_a_threshold_is_the_region_of_its_mass():
    region = density.region(LAPLACE, 0.8)
    again = density.region_above(LAPLACE, log_threshold=region.log_threshold)
    assert again.level == pytest.approx(0.8, abs=1e-6)
    reach = -region.log_threshold - 2 * np.log(2)  # |x| + |y| <= reach
    np.testing.assert_allclose(again.extent(), [[-reach, reach]] * 2, rtol=0.03)
    assert (np.abs(again.extent()) >= reach).all(), "the box holds the whole region"
    assert np.isinf(density.region_above(LAPLACE, log_threshold=-1000.0).extent()).all()
    with pytest.raises(ValueError, match="expected a finite number"):
        density.region_above(LAPLACE, log_threshold=-np.inf)


@pytest.mark.parametrize(
    "values",
    [
        {"count": float("inf"), "ranks": [1], "values": [1.0]},
        {"count": 1, "ranks": [10**400], "values": [1.0]},
        {"count": -1, "ranks": [], "values": []},
        {"count": 2, "ranks": [], "values": []},
    ],
)
def test_stored_scores_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="no sorted scores"):
        Scores.from_dict(values)
