"""The benchmark that says why sigma ranks columns as it does, on columns whose features give the noise away."""

import numpy as np

from benchmarks import scan_sigma


def test_ranks_fall_with_the_error_of_the_scale():
    noise = np.random.default_rng(0).uniform(0.5, 3, 4000)
    ranks = [scan_sigma.possible(noise, relative=relative) for relative in (0.01, 0.3, 1.0)]
    assert ranks[0] > 0.99 and ranks[0] > ranks[1] > ranks[2] > 0.2


def test_a_larger_gain_finds_the_noise_in_fewer_steps():
    rng = np.random.default_rng(1)
    noise = np.tile(rng.uniform(0.3, 3, (6, 90, 1)), 2)
    features = np.concatenate([np.log(noise[..., :1]), rng.normal(size=(6, 90, 3)) * 0.3], -1).astype(np.float16)
    residuals = rng.laplace(size=noise.shape) * noise
    residuals[:, :3] = np.nan
    frozen = scan_sigma.Frozen(features, residuals, np.ones_like(noise), noise, train=4)
    slow, fast = (scan_sigma.refit_sigma(frozen, gain=gain, steps=200)[4:] for gain in (0.5, 10.0))
    ranks = [scan_sigma.rank(sigma.ravel(), noise[4:].ravel()) for sigma in (slow, fast)]
    assert np.ptp(slow) < np.ptp(fast) / 4, "sigma has hardly left its start"
    assert ranks[1] > 0.7
