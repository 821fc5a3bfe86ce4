"""The factor of sigma that held-out frames give."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpose import calibration, density

LAPLACE = density.Model(log_g=None, base="laplace")


def heavy(count: int, joints: int = 4, seed: int = 0):
    """Errors of a net that is too sure: larger than its sigma says, with a heavy tail."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.01, 0.05, (count, joints, 2))
    return np.zeros_like(sigma), sigma, sigma * rng.standard_t(3, sigma.shape) * 2.5


def test_the_regions_hold_their_share_after_the_fit():
    mu, sigma, target = heavy(300)
    scale = calibration.fit_scale(mu, sigma, target, LAPLACE)
    assert scale > 1.5
    raw, fitted = (density.coverage(mu, sigma * s, target, LAPLACE, levels=[0.9]).overall[0] for s in (1.0, scale))
    assert raw < 0.75 and fitted == pytest.approx(0.9, abs=0.01)


def test_the_fit_holds_on_frames_that_it_has_not_seen():
    """Mean over 20 draws of 25 held-out frames: within 2 points; the cross-fitted share says as much without new frames."""
    new, counted = [], []
    for seed in range(20):
        mu, sigma, target = heavy(25, seed=seed)
        found = calibration.cross_fit(mu, sigma, target, LAPLACE, groups=np.arange(25))
        other_mu, other_sigma, other_target = heavy(200, seed=100 + seed)
        inside = density.coverage(other_mu, other_sigma * found["scale"], other_target, LAPLACE, levels=[0.9])
        new.append(inside.overall[0])
        counted.append(found["coverage"])
    assert np.mean(new) == pytest.approx(0.9, abs=0.02)
    assert np.mean(counted) == pytest.approx(0.9, abs=0.02)


def test_a_calibrated_density_stays():
    rng = np.random.default_rng(0)
    target = rng.laplace(scale=0.1, size=(500, 2, 2))
    scale = calibration.fit_scale(0 * target, np.full_like(target, 0.1), target, LAPLACE)
    assert scale == pytest.approx(1, abs=0.1)


def test_scaling_sigma_scales_the_factor():
    mu, sigma, target = heavy(100)
    scale = calibration.fit_scale(mu, sigma, target, LAPLACE)
    assert calibration.fit_scale(mu, 2 * sigma, target, LAPLACE) == pytest.approx(scale / 2, rel=0.02)


def test_unlabelled_joints_hold_anything():
    mu, sigma, target = heavy(60)
    where = np.random.default_rng(1).random(mu.shape[:2]) < 0.5
    expected = calibration.fit_scale(mu, sigma, target, LAPLACE, where=where)
    target[~where], sigma[~where] = np.nan, 0
    assert calibration.fit_scale(mu, sigma, target, LAPLACE, where=where) == expected


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_joints_leave_sigma_alone(count):
    mu, sigma, target = heavy(count)
    assert calibration.fit_scale(mu, sigma, target, LAPLACE) == 1
    found = calibration.cross_fit(mu, sigma, target, LAPLACE, groups=np.arange(count))
    assert found["scale"] == 1 and "coverage" not in found


def test_frames_of_one_group_are_not_parted():
    mu, sigma, target = heavy(40)
    found = calibration.cross_fit(mu, sigma, target, LAPLACE, groups=np.zeros(40))
    assert "coverage" not in found and found["scale"] > 1


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0])
def test_a_level_outside_is_refused(level):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
        calibration.fit_scale(*heavy(5), LAPLACE, level=level)


def test_errors_beyond_every_factor_give_the_largest():
    mu, sigma, target = heavy(30)
    assert calibration.fit_scale(mu, sigma, target + 1e6, LAPLACE) == pytest.approx(calibration.FACTORS[-1])
