"""The smoother against EKS's numbers and against the conditional of one large Gaussian, which is exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import smoothing

T, K = 9, 2


def observations(dim: int = 2, *, seed: int = 0):
    """xy (T, K, D), full covariances, and a mask without frames 0, 1 and 5 of joint 1."""
    rng = np.random.default_rng(seed)
    xy = np.cumsum(rng.normal(size=(T, K, dim)), axis=0) * 3 + 100
    factor = rng.normal(size=(T, K, dim, dim))
    covariance = factor @ np.swapaxes(factor, -1, -2) + 0.2 * np.eye(dim)
    where = np.ones((T, K), bool)
    where[[0, 1, 5], 1] = False
    return xy, covariance, where


def conditional(y, R, seen, q, model, mean, prior):
    """Mean and covariance (T, D), (T, D, D) of the positions given the observations, by one matrix of all states."""
    frames, dim = y.shape
    F, noise = {"walk": (np.eye(1), np.eye(1)), "velocity": (np.array([[1.0, 1], [0, 1]]), np.array([[1 / 3, 1 / 2], [1 / 2, 1]]))}[
        model
    ]  # fmt: skip
    F, noise = np.kron(F, np.eye(dim)), q * np.kron(noise, np.eye(dim))
    n, first = len(F), int(np.argmax(seen))
    blocks = [np.kron(np.eye(n // dim), prior)] + [noise] * (
        frames - 1
    )  # the state at the first observation, the steps
    source = np.zeros((n * frames, n * frames))
    for i, block in enumerate(blocks):
        source[i * n : (i + 1) * n, i * n : (i + 1) * n] = block
    rows = [None] * frames
    pick = np.eye(n * frames)
    rows[first] = pick[:n]
    for t in range(first + 1, frames):
        rows[t] = F @ rows[t - 1] + pick[t * n : (t + 1) * n]
    for t in range(first - 1, -1, -1):
        rows[t] = np.linalg.inv(F) @ (rows[t + 1] - pick[(t + 1) * n : (t + 2) * n])
    start = np.zeros(n * frames)
    start[:dim] = mean
    A = np.concatenate([row[:dim] for row in rows])  # positions of all frames
    H = np.concatenate([row[:dim] for row, s in zip(rows, seen, strict=True) if s])
    noise_of = np.zeros((len(H), len(H)))
    for i, t in enumerate(np.flatnonzero(seen)):
        noise_of[i * dim : (i + 1) * dim, i * dim : (i + 1) * dim] = R[t]
    gain = A @ source @ H.T @ np.linalg.inv(H @ source @ H.T + noise_of)
    position = A @ start + gain @ (y[seen].ravel() - H @ start)
    cov = (A - gain @ H) @ source @ A.T
    return position.reshape(-1, dim), np.stack([cov[i : i + dim, i : i + dim] for i in range(0, frames * dim, dim)])


@pytest.mark.parametrize(("model", "dim"), [("walk", 1), ("velocity", 2), ("velocity", 3)])
def test_the_smoother_is_the_conditional_of_one_gaussian(model, dim):
    xy, covariance, where = observations(dim)
    q = np.array([0.3, 2.0])
    mean, cov = smoothing.kalman(xy, covariance, process_noise=q, model=model, where=where)
    again = (mean, cov)
    if dim == 2:
        again = smoothing.kalman(xy, covariance, process_noise=q, model=model, where=where, parallel=True)
    for k in range(K):
        seen = where[:, k]
        y = xy[seen, k]
        own = 1 / (1 / np.diagonal(covariance[seen, k], axis1=-2, axis2=-1)).mean(axis=0)
        prior = np.diag(np.maximum(y.var(axis=0), own))  # of the docstring
        expected = conditional(xy[:, k], covariance[:, k], seen, q[k], model, y.mean(axis=0), prior)
        for ours, parallel, theirs in zip((mean, cov), again, expected, strict=True):
            np.testing.assert_allclose(ours[:, k], theirs, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(parallel[:, k], theirs, rtol=1e-8, atol=1e-8)
    assert mean.dtype == cov.dtype == np.float64


@pytest.mark.parametrize("parallel", [False, True])
def test_the_filter_is_the_conditional_of_what_was_seen_until_then(parallel):
    xy, covariance, where = observations()
    mean, cov = smoothing.kalman(xy, covariance, process_noise=0.7, where=where, causal=True, parallel=parallel)
    for k, first in ((0, 0), (1, 2)):
        assert np.isnan(mean[:first, k]).all() and np.isnan(cov[:first, k]).all()
        for t in range(first, T):
            seen = where[: t + 1, k]
            start = xy[first, k], 100 * covariance[first, k]
            theirs = conditional(xy[: t + 1, k], covariance[: t + 1, k], seen, 0.7, "velocity", *start)
            np.testing.assert_allclose(mean[t, k], theirs[0][-1], rtol=1e-8)
            np.testing.assert_allclose(cov[t, k], theirs[1][-1], rtol=1e-7, atol=1e-9)


def test_a_filter_does_not_look_ahead():
    xy, covariance, _ = observations()
    other = xy.copy()
    other[6:] += 1000
    for tails in ("gaussian", "student"):
        a, b = (smoothing.kalman(x, covariance, process_noise=1.0, causal=True, tails=tails)[0] for x in (xy, other))
        assert np.array_equal(a[:6], b[:6]) and not np.allclose(a[6:], b[6:])


def test_eks(golden):
    """EKS keeps its arrays in float32."""
    g = golden("hands/eks_singlecam")
    for name in ("median_out", "mean_out", "single_model_out"):
        out = g[name]  # x, y, likelihood, observed x, y, their variance, posterior variance
        covariance = np.maximum(out[..., 5:7], 1e-12)[..., None] * np.eye(2)
        options = dict(process_noise=g["smooth_param"], model="walk")
        mean, cov = smoothing.kalman(out[..., 3:5], covariance, **options)
        np.testing.assert_allclose(mean, out[..., :2], atol=1e-5)
        np.testing.assert_allclose(np.diagonal(cov, axis1=-2, axis2=-1), out[..., 7:9], atol=1e-6)
        narrow, _ = smoothing.kalman(*(np.asarray(a, np.float32) for a in (out[..., 3:5], covariance)), **options)
        np.testing.assert_allclose(narrow, out[..., :2], atol=1e-4)


def test_what_is_missing_does_not_matter():
    xy, covariance, where = (jnp.asarray(a, jnp.float32 if a.dtype != bool else bool) for a in observations())
    garbage = jnp.where(where[..., None], xy, jnp.nan), jnp.where(where[..., None, None], covariance, jnp.inf)
    where_none = smoothing.kalman(*garbage, process_noise=1.0, tails="laplace")
    masked = smoothing.kalman(xy, covariance, process_noise=1.0, where=where, tails="laplace")
    for a, b in zip(where_none, masked, strict=True):
        assert isinstance(a, jax.Array) and a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        dict(tails="laplace", iterations=1),
        dict(tails="student", causal=True),
        pytest.param(dict(parallel=True, model="walk"), marks=pytest.mark.slow),
    ],
)
def test_gradients_are_finite_and_zero_where_a_joint_is_missing(options):
    xy, covariance, where = (jnp.asarray(a, jnp.float32 if a.dtype != bool else bool)[:4] for a in observations())
    garbage = jnp.where(where[..., None], xy, jnp.nan), jnp.where(where[..., None, None], covariance, jnp.inf)

    def total(xy, covariance, q):
        mean, cov = smoothing.kalman(xy, covariance, process_noise=q, where=where, **options)
        return jnp.nansum(mean) + jnp.nansum(cov)

    gradients = jax.jit(jax.grad(total, (0, 1, 2)))(*garbage, jnp.float32(0.5))
    assert all(jnp.isfinite(g).all() and g.any() for g in gradients)
    assert not gradients[0][~where].any() and not gradients[1][~where].any() and gradients[0][where].all()


def test_a_joint_that_is_never_seen_is_nan_and_leaves_the_others_alone():
    xy, covariance, where = observations()
    where[:, 1] = False
    mean, cov = smoothing.kalman(xy, covariance, process_noise=1.0, where=where)
    assert np.isnan(mean[:, 1]).all() and np.isnan(cov[:, 1]).all()
    both, _ = smoothing.kalman(xy, covariance, process_noise=1.0, where=np.ones_like(where))
    np.testing.assert_allclose(mean[:, 0], both[:, 0], rtol=1e-12)
    where[3, 1] = True  # seen once: the observation itself there, less and less sure away from it
    mean, cov = smoothing.kalman(xy, covariance, process_noise=1.0, where=where)
    np.testing.assert_allclose(mean[3, 1], xy[3, 1])
    np.testing.assert_allclose(cov[3, 1], covariance[3, 1], rtol=0.02)
    assert (np.diff(cov[3:, 1, 0, 0]) > 0).all() and (np.diff(cov[:4, 1, 0, 0]) < 0).all()


def test_jit_vmap_and_leading_dimensions_give_the_same():
    pairs = [observations(seed=seed) for seed in range(2)]
    xy, covariance, where = (jnp.asarray(np.stack(a)) for a in zip(*pairs, strict=True))
    q = jnp.asarray([[0.1, 1.0], [2.0, 3.0]])

    def smooth(xy, covariance, where, q):
        return smoothing.kalman(xy, covariance, process_noise=q, where=where, model="walk")

    batched = smooth(xy, covariance, where, q)
    mapped = jax.jit(jax.vmap(smooth))(xy, covariance, where, q)
    for a, b in zip(batched, mapped, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    first = smooth(xy[0], covariance[0], where[0], q[0])
    np.testing.assert_allclose(batched[0][0], first[0], rtol=1e-5)
    host = [np.asarray(a) for a in (xy[0], covariance[0], where[0], q[0])]
    inside = jax.jit(lambda: jnp.asarray(smooth(*host)[0]) * 1)()  # constants of a program
    np.testing.assert_allclose(inside, first[0], rtol=1e-6)


def test_process_noise_is_found_again_for_each_joint_or_for_all():
    rng = np.random.default_rng(0)
    truth = np.array([0.01, 1.0])
    velocity = np.cumsum(rng.normal(size=(600, 2, 2)) * np.sqrt(truth)[:, None], axis=0)
    xy = np.cumsum(velocity, axis=0) + rng.normal(size=(600, 2, 2)) * 2
    covariance = np.broadcast_to(4 * np.eye(2), (600, 2, 2, 2))
    q = smoothing.estimate_process_noise(xy, covariance)
    assert (np.abs(np.log(q / truth)) < 0.25).all()
    value = [smoothing.log_likelihood(xy, covariance, process_noise=q * f) for f in (0.8, 1.0, 1.25)]
    assert (value[1] > value[0]).all() and (value[1] > value[2]).all()
    shared = smoothing.estimate_process_noise(xy, covariance, shared=True)
    assert shared.shape == () and truth[0] < shared < truth[1]


@pytest.mark.parametrize("tails", ["gaussian", "laplace", "student"])
def test_the_densities_have_mass_one_and_the_covariance_that_was_asked_for(tails):
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    axis = np.linspace(-60, 60, 1201)
    points = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), jnp.float32)
    log = jax.vmap(lambda e: smoothing._log_density(e, jnp.asarray(covariance, jnp.float32), tails))(points)
    density, points = np.exp(np.asarray(log, np.float64)) * 0.01, np.asarray(points, np.float64)
    assert density.sum() == pytest.approx(1, abs=0.004)
    second = (density[:, None, None] * points[:, :, None] * points[:, None]).sum(0)
    np.testing.assert_allclose(second, covariance, rtol=0.01)
    # The weight is what the density's slope is, in units of a Gaussian's.
    e = jnp.asarray([1.2, -0.7])
    slope = jax.grad(lambda e: smoothing._log_density(e, jnp.asarray(covariance, jnp.float32), tails))(e)
    squared = np.asarray(e @ jnp.linalg.inv(jnp.asarray(covariance, jnp.float32)) @ e)
    gaussian = -np.linalg.inv(covariance) @ np.asarray(e)
    weight = smoothing.tail_weight(squared, dim=2, tails=tails)
    np.testing.assert_allclose(slope, weight * gaussian, rtol=1e-5)


def test_heavy_tails_shed_an_outlier():
    xy = np.zeros((21, 1, 2))
    xy[10] = 50.0
    covariance = np.broadcast_to(np.eye(2), (21, 1, 2, 2))
    options = dict(process_noise=0.05, model="walk")
    peak = {}
    for tails in ("gaussian", "laplace", "student"):
        mean, cov = smoothing.kalman(xy, covariance, **options, tails=tails, iterations=20)
        peak[tails] = np.abs(mean).max()
        assert np.linalg.eigvalsh(cov).min() > 0
    assert peak["student"] < peak["laplace"] < peak["gaussian"] / 10
    filtered, plain = (
        smoothing.kalman(xy, covariance, **options, tails=t, causal=True)[0] for t in ("student", "gaussian")
    )
    assert np.abs(filtered).max() < 3 < np.abs(plain).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(covariance=np.ones((T, K, 2))), r"shapes \(9, 2, 2\) and \(9, 2, 2\)"),
        (dict(covariance=np.zeros((T, K, 2, 2))), "frame 0, joint 0 holds the variance 0, expected a positive"),
        (dict(process_noise=-1.0), "process_noise is -1.0"),
        (dict(process_noise=np.ones(3)), r"process_noise has shape \(3,\)"),
        (dict(model="jerk"), "'jerk', expected one of velocity, walk"),
        (dict(tails="cauchy"), "'cauchy', expected one of gaussian, laplace, student"),
        (dict(where=np.ones(T)), "where has shape"),
        (dict(causal=True, parallel=True, tails="laplace"), "leave parallel out"),
        (dict(iterations=0), "iterations is 0"),
        (dict(initial=(np.zeros(2), np.eye(2))), "initial has shapes"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    xy, covariance, _ = observations()
    with pytest.raises(ValueError, match=message):
        smoothing.kalman(**{**dict(xy=xy, covariance=covariance, process_noise=1.0), **change})
