"""Smoothing of trajectories by the covariances that a net predicts: a Kalman filter and smoother for every joint.

The model of a joint, in frames t = 0 ... T - 1, with position p and, under ``model="velocity"``, velocity v:

    walk        p[t+1] = p[t] + noise of covariance q I
    velocity    (p, v)[t+1] = (p[t] + v[t], v[t]) + noise of covariance q [[1/3, 1/2], [1/2, 1]] (x) I
    both        xy[t] = p[t] + noise of covariance R[t]

The observation noise R[t] is what the net predicts for that frame and joint (`predict.Poses.deviation` squared, or a full
matrix), so that a sure frame counts and an occluded one does not. The time unit is the frame: q is in px^2 per frame
(walk) or px^2 per frame^3 (velocity); `estimate_process_noise` finds it by maximum likelihood.

The state before the first observation is a Gaussian about ``initial``, where None stands for the mean and the variance
over time of what is observed, as in the ensemble Kalman smoother EKS (Biderman et al. 2024), the variance being at
least the harmonic mean of the observations' own. In a causal filter, which may not look ahead, and for a joint that is
seen once, it stands for the first observation and 100 times its covariance. The velocity starts at 0 with the same
variance per frame^2. Frames before the first observation are extrapolated backwards.

The filter is that of Kalman 1960 in Joseph's form, the smoother that of Rauch, Tung and Striebel 1965 in a form that only
adds positive matrices, so that both hold in float32. The time-parallel form is that of Särkkä and García-Fernández 2021,
"Temporal parallelization of Bayesian smoothers".

NumPy in gives NumPy out, in float64 where that came in, whatever JAX is set to; JAX arrays give JAX arrays.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxpose.losses._inputs import as_float, joint_mask

__all__ = ["estimate_process_noise", "kalman", "log_likelihood", "tail_weight"]

Array = Any  # numpy.ndarray or jax.Array, whichever came in
Model = Literal["velocity", "walk"]
Tails = Literal["gaussian", "laplace", "student"]

DEGREES_OF_FREEDOM = 4.0  # of the Student distribution
LARGEST_WEIGHT = 1e3  # of an observation that the curve meets exactly, under Laplace's density
FILTER_ITERATIONS = 5  # of reweighting within a frame of the causal filter


def kalman(
    xy: ArrayLike,
    covariance: ArrayLike,
    *,
    process_noise: ArrayLike,
    model: Model = "velocity",
    where: ArrayLike | None = None,
    causal: bool = False,
    tails: Tails = "gaussian",
    iterations: int = 10,
    parallel: bool = False,
    initial: tuple[ArrayLike, ArrayLike] | None = None,
) -> tuple[Array, Array]:
    """Returns smoothed positions of every joint and their covariance, given all frames (or, if causal, those up to then).

    Args:
        xy: ``(..., T, K, D)`` observed positions, in pixels or in any unit.
        covariance: ``(..., T, K, D, D)`` covariance of the error of each observation, in that unit squared.
        process_noise: q of the module's docstring, a number, ``(K,)`` or ``(..., K)``; see `estimate_process_noise`.
        model: "velocity", where the velocity changes by noise, or "walk", where the position does.
        where: ``(..., T, K)``, False where a joint is missing; so is one whose position or covariance is not finite.
        causal: Return the filter: the estimate of frame t uses frames 0 to t only, as in live use.
        tails: The density of the error with that covariance. "gaussian" is the linear smoother. "laplace" and "student"
            (4 degrees of freedom) are elliptical densities with heavier tails, fitted by iterative reweighting: every
            pass divides R[t] by `tail_weight` of the expected squared error (variational inference of a scale mixture).
            The returned covariance counts every observation at its predicted covariance at most, because the weights
            of small residuals would make it too narrow (`benchmarks/smoothing.py` measures it).
        iterations: The number of reweighting passes; a causal filter reweights within the frame, 5 times.
        parallel: Use the time-parallel form by `jax.lax.associative_scan`, of logarithmic depth: the same result, for
            long videos on an accelerator.
        initial: The mean and covariance ``(..., K, D)``, ``(..., K, D, D)`` of the position at the first observation.

    Returns:
        mean ``(..., T, K, D)`` and covariance ``(..., T, K, D, D)`` of the position. Both are NaN for a joint that is
        never observed, and in a causal filter before the first observation.

    Raises:
        ValueError: Shapes do not match, the process noise is negative, a variance is not positive, or the model is
            unknown.

    >>> xy = np.array([0.0, 1.0, 2.0, 30.0, 4.0]).reshape(5, 1, 1)
    >>> covariance = np.array([1.0, 1.0, 1.0, 1e4, 1.0]).reshape(5, 1, 1, 1)   # the net is not sure of the fourth frame
    >>> mean, _ = kalman(xy, covariance, process_noise=0.01)
    >>> mean[:, 0, 0].round(1)
    array([0., 1., 2., 3., 4.])
    """
    _check_choices(model, tails)
    if parallel and causal and tails != "gaussian":
        raise ValueError(f"tails={tails!r} of a causal filter are reweighted frame by frame: leave parallel out")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}, expected 1 or more")
    options = _Options(model, tails, causal, 0 if causal or tails == "gaussian" else iterations, parallel)

    return _on_arrays(_smoothed, options, xy, covariance, process_noise, where, initial)


def log_likelihood(
    xy: ArrayLike,
    covariance: ArrayLike,
    *,
    process_noise: ArrayLike,
    model: Model = "velocity",
    where: ArrayLike | None = None,
    tails: Tails = "gaussian",
) -> Array:
    """Logarithm of the density of the observations of each joint, by the one-step predictions of the filter.

    The first observation is left out: the density of the prior that a causal filter starts with says nothing of q.

    Args:
        xy: ``(..., T, K, D)``.
        covariance: ``(..., T, K, D, D)``.
        process_noise: A number, ``(K,)`` or ``(..., K)``, as for `kalman`.
        model: The same as for `kalman`.
        where: ``(..., T, K)``, the same as for `kalman`.
        tails: The density of the error. Under "laplace" and "student" each prediction's density is the elliptical one
            whose covariance is that of the innovation, which is an approximation; under "gaussian" the value is exact.

    Returns:
        ``(..., K)``; 0 for a joint with fewer than two observations.

    Raises:
        ValueError: The same as for `kalman`.

    >>> xy = np.cumsum(np.random.default_rng(0).normal(size=(200, 1, 2)), axis=0)
    >>> covariance = np.broadcast_to(0.01 * np.eye(2), (200, 1, 2, 2))
    >>> [round(log_likelihood(xy, covariance, process_noise=q, model="walk").item()) for q in (0.1, 1.0, 10.0)]
    [-1615, -564, -844]
    """
    _check_choices(model, tails)
    options = _Options(model, tails, True, 0, False)

    return _on_arrays(_log_likelihoods, options, xy, covariance, process_noise, where, None)


def estimate_process_noise(
    xy: ArrayLike,
    covariance: ArrayLike,
    *,
    model: Model = "velocity",
    where: ArrayLike | None = None,
    tails: Tails = "gaussian",
    shared: bool = False,
) -> Array:
    """Estimates the process noise that makes the observations likeliest (`log_likelihood`), per joint or for all together.

    The search runs over 16 powers of ten about the observations' own variance: a grid, then a golden section.

    Args:
        xy: ``(..., T, K, D)``.
        covariance: ``(..., T, K, D, D)``.
        model: The same as for `kalman`.
        where: ``(..., T, K)``, the same as for `kalman`.
        tails: The same as for `kalman`, for which the estimate is meant.
        shared: Estimate one value for all joints of a sequence.

    Returns:
        ``(..., K)``, or ``(...)`` if shared. A joint with fewer than three observations gets the smallest value.

    Raises:
        ValueError: The same as for `kalman`.

    >>> xy = np.cumsum(np.random.default_rng(0).normal(size=(500, 1, 2)), axis=0)
    >>> covariance = np.broadcast_to(0.01 * np.eye(2), (500, 1, 2, 2))
    >>> estimate_process_noise(xy, covariance, model="walk").round(2)    # drawn with 1 px^2 a frame
    array([0.94])
    """
    _check_choices(model, tails)
    options = _Options(model, tails, True, 0, False)
    return _on_arrays(_likeliest_shared if shared else _likeliest_each, options, xy, covariance, 1.0, where, None)


def tail_weight(squared: ArrayLike, *, dim: int, tails: Tails) -> Array:
    """Returns the factor on an observation's precision, given its expected squared error in units of its covariance.

    Both densities have the covariance that was predicted. Laplace's is proportional to exp(-sqrt(D + 1) |e|), whose
    weight is sqrt(D + 1) / |e|: in one dimension the Laplace distribution. Student's with n degrees of freedom has
    (n + D) / (n - 2 + |e|^2). At |e|^2 = D + 1, and D + 2, an observation counts as it is.

    Args:
        squared: ``(...)``: E|e|^2 = r' R^-1 r + trace(R^-1 P), with residual r and the covariance P of the estimate.
        dim: The number of coordinates D.
        tails: The density of the error; "gaussian" gives 1 everywhere.

    Returns:
        ``(...)``, positive.

    >>> tail_weight(np.array([3.0, 12.0, 300.0]), dim=2, tails="laplace").round(2)
    array([1. , 0.5, 0.1])
    """
    xp = jnp if isinstance(squared, jax.Array) else np
    squared = xp.asarray(squared)
    if tails == "gaussian":
        return xp.ones_like(squared)
    if tails == "student":
        return (DEGREES_OF_FREEDOM + dim) / (DEGREES_OF_FREEDOM - 2 + squared)
    return xp.sqrt((dim + 1) / xp.maximum(squared, (dim + 1) / LARGEST_WEIGHT**2))


# --------------------------------------------------------------------------------------------- one series a joint


class _Options(NamedTuple):
    """The options that compiled code depends on."""

    model: Model
    tails: Tails
    causal: bool
    iterations: int
    parallel: bool


class _Series(NamedTuple):
    """The observations of S joints, first axis S; missing ones are replaced by 0 and by the identity."""

    xy: jax.Array  # (S, T, D)
    covariance: jax.Array  # (S, T, D, D)
    seen: jax.Array  # (S, T) bool
    process_noise: jax.Array  # (S,)
    mean: jax.Array  # (S, D) of the position at the first observation
    prior: jax.Array  # (S, D, D) its covariance


class _Dynamics(NamedTuple):
    transition: jax.Array  # (n, n)
    noise: jax.Array  # (n, n)
    backwards: jax.Array  # (n, n), the inverse of the transition


def _check_choices(model: str, tails: str) -> None:
    if model not in get_args(Model):
        raise ValueError(f"model is {model!r}, expected one of {', '.join(get_args(Model))}")
    if tails not in get_args(Tails):
        raise ValueError(f"tails is {tails!r}, expected one of {', '.join(get_args(Tails))}")


def _on_arrays(function, options: _Options, xy, covariance, process_noise, where, initial):
    """Calls a jitted function(options, xy, covariance, q, seen, initial) on checked inputs, on the host in their precision."""
    with _precision_of(xy, covariance, process_noise, where, *(initial or ())) as (host, _):
        result = function(options, *_checked(xy, covariance, process_noise, where, initial))
        return jax.tree.map(np.asarray, result) if host else result


@contextlib.contextmanager
def _precision_of(first, second, *others) -> Iterator[tuple[bool, np.dtype]]:
    """Whether all arrays are of the host, and the dtype of the first two; JAX computes in it, also where it has x64 off."""
    if any(isinstance(array, jax.Array) for array in (first, second, *others)):
        yield False, jnp.promote_types(jnp.result_type(first, second), jnp.float32)
        return
    dtype = np.result_type(np.asarray(first), np.asarray(second), np.float32)
    with jax.ensure_compile_time_eval(), jax.enable_x64(dtype == np.float64):
        yield True, dtype


def _checked(xy, covariance, process_noise, where, initial) -> tuple:
    """The inputs in one dtype, with what can be said about their shapes and values."""
    xy, covariance = as_float(xy, covariance)
    shape = xy.shape
    if xy.ndim < 3 or covariance.shape != (*shape, shape[-1]):
        raise ValueError(
            f"expected xy (..., T, K, D) and covariance (..., T, K, D, D), got shapes {shape} and {covariance.shape}"
        )
    if 0 in shape:
        raise ValueError(f"xy has shape {shape}: no frame, no joint or no coordinate")
    where = None if where is None else joint_mask(where, shape)
    joints = (*shape[:-3], shape[-2])
    q = jnp.asarray(process_noise, xy.dtype)
    if q.shape not in ((), joints[-1:], joints):
        raise ValueError(f"process_noise has shape {q.shape}, expected (), {joints[-1:]} or {joints}: one a joint")
    _check_values(xy, covariance, where, q)
    if initial is not None:
        initial = tuple(jnp.asarray(array, xy.dtype) for array in initial)
        shapes, expected = (
            tuple(array.shape for array in initial),
            ((*joints, shape[-1]), (*joints, shape[-1], shape[-1])),
        )
        if shapes != expected:
            raise ValueError(f"initial has shapes {shapes}, expected {expected}: a mean and a covariance a joint")
    return xy, covariance, q, where, initial


def _check_values(xy, covariance, where, q) -> None:
    """Where there are values to look at, which is outside of jit."""
    if not isinstance(q, jax.core.Tracer) and not (np.isfinite(q).all() and (np.asarray(q) >= 0).all()):
        raise ValueError(f"process_noise is {np.asarray(q).tolist()}, expected finite numbers of 0 or more")
    if any(isinstance(array, jax.core.Tracer) for array in (xy, covariance, where)):
        return
    seen = np.isfinite(xy).all(-1) & np.isfinite(covariance).all((-1, -2))
    seen = seen if where is None else seen & np.asarray(where)
    variance = np.where(seen[..., None], np.diagonal(covariance, axis1=-2, axis2=-1), 1)
    if not (variance > 0).all():
        *_, frame, joint, _ = np.argwhere(~(variance > 0))[0]
        raise ValueError(
            f"covariance of frame {frame}, joint {joint} holds the variance {variance.min():g}, expected a positive one: "
            "mask the joint with where=, or give variances a floor such as 1e-12"
        )


def _series(xy, covariance, q, where, initial, causal: bool) -> _Series:
    """The joints apart, with what is missing replaced before any arithmetic."""
    axis, dim = xy.ndim - 3, xy.shape[-1]
    seen = jnp.isfinite(xy).all(-1) & jnp.isfinite(covariance).all((-1, -2))
    seen = seen if where is None else seen & where
    y = _joints_first(jnp.where(seen[..., None], xy, 0), axis)
    R = _joints_first(jnp.where(seen[..., None, None], covariance, jnp.eye(dim, dtype=xy.dtype)), axis)
    q = jnp.broadcast_to(q, (*xy.shape[:-3], xy.shape[-2])).ravel()
    seen = _joints_first(seen, axis)
    if initial is None:
        mean, prior = _initial(y, R, seen, causal)
    else:
        mean, prior = initial[0].reshape(-1, dim), initial[1].reshape(-1, dim, dim)
    return _Series(y, R, seen, q, mean, prior)


def _joints_first(array: jax.Array, axis: int) -> jax.Array:
    """(..., T, K, rest) -> (S, T, rest), with T at `axis`."""
    swapped = jnp.swapaxes(array, axis, axis + 1)
    return swapped.reshape((-1, *swapped.shape[axis + 1 :]))


def _joints_inside(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """(S, T, rest) -> (..., T, K, rest), for xy of `shape`."""
    rest = array.shape[2:]
    split = array.reshape((*shape[:-3], shape[-2], shape[-3], *rest))
    axis = len(shape) - 3
    return jnp.swapaxes(split, axis, axis + 1)


def _initial(y: jax.Array, R: jax.Array, seen: jax.Array, causal: bool) -> tuple[jax.Array, jax.Array]:
    """Mean and covariance of the position at the first observation, (S, D) and (S, D, D)."""
    first = jnp.argmax(seen, axis=-1)
    at_first = jax.vmap(lambda values, t: values[t])
    alone = at_first(y, first), 100 * at_first(R, first)
    if causal:
        return alone
    count = seen.sum(-1)[:, None]
    some = jnp.maximum(count, 1)
    mean = y.sum(-2) / some
    variance = jnp.where(seen[..., None], (y - mean[:, None]) ** 2, 0).sum(-2) / some
    precision = jnp.where(seen[..., None], 1 / jnp.diagonal(R, axis1=-2, axis2=-1), 0).sum(-2) / some
    variance = jnp.maximum(variance, 1 / jnp.where(count > 0, precision, 1))  # more than the observations' own noise
    several = count > 1
    prior = jnp.where(several[..., None], variance[..., None] * jnp.eye(y.shape[-1], dtype=y.dtype), alone[1])
    return jnp.where(several, mean, alone[0]), prior


def _dynamics(q: jax.Array, dim: int, model: Model) -> _Dynamics:
    if model == "walk":
        transition, noise = np.eye(1), np.eye(1)
    else:
        transition, noise = np.array([[1, 1], [0, 1]]), np.array([[1 / 3, 1 / 2], [1 / 2, 1]])
    every = np.eye(dim)
    blocks = (np.kron(matrix, every) for matrix in (transition, noise, np.linalg.inv(transition)))
    transition, noise, backwards = (jnp.asarray(block, q.dtype) for block in blocks)
    return _Dynamics(transition, q * noise, backwards)


@functools.partial(jax.jit, static_argnums=0)
def _smoothed(options: _Options, xy, *rest) -> tuple[jax.Array, jax.Array]:
    """(..., T, K, D) and (..., T, K, D, D)."""
    mean, cov = jax.vmap(lambda one: _smooth_one(one, options))(_series(xy, *rest, options.causal))
    return _joints_inside(mean, xy.shape), _joints_inside(cov, xy.shape)


@functools.partial(jax.jit, static_argnums=0)
def _log_likelihoods(options: _Options, xy, *rest) -> jax.Array:
    """(..., K)."""
    each = jax.vmap(lambda one: _log_likelihood_of(one, options))(_series(xy, *rest, options.causal))
    return each.reshape((*xy.shape[:-3], xy.shape[-2]))


@functools.partial(jax.jit, static_argnums=0)
def _likeliest_each(options: _Options, xy, *rest) -> jax.Array:
    """(..., K)."""
    return _likeliest(_series(xy, *rest, options.causal), options, 1).reshape((*xy.shape[:-3], xy.shape[-2]))


@functools.partial(jax.jit, static_argnums=0)
def _likeliest_shared(options: _Options, xy, *rest) -> jax.Array:
    """(...)."""
    return _likeliest(_series(xy, *rest, options.causal), options, xy.shape[-2]).reshape(xy.shape[:-3])


def _log_likelihood_of(series: _Series, options: _Options) -> jax.Array:
    dynamics = _dynamics(series.process_noise, series.xy.shape[-1], options.model)
    return _filter(series, dynamics, options, series.covariance)[2]


def _likeliest(series: _Series, options: _Options, joints: int) -> jax.Array:
    """(S / joints,): one process noise for every `joints` series in a row."""
    count = series.seen.sum(-1)[:, None]
    precision = jnp.where(series.seen[..., None], 1 / jnp.diagonal(series.covariance, axis1=-2, axis2=-1), 0)
    scale = jnp.log(jnp.maximum(count, 1) / jnp.where(count > 0, precision.sum(-2), 1)).mean(-1)
    scale = scale.reshape(-1, joints).mean(-1)  # the logarithm of the observations' variance

    def value(offset: jax.Array) -> jax.Array:
        q = jnp.repeat(jnp.exp(scale + offset), joints)
        each = jax.vmap(lambda one: _log_likelihood_of(one, options))(series._replace(process_noise=q))
        return each.reshape(-1, joints).sum(-1)

    decade = math.log(10.0)
    grid = jnp.linspace(-8 * decade, 8 * decade, 33, dtype=scale.dtype)
    best = grid[jnp.argmax(jax.lax.map(lambda offset: value(jnp.full_like(scale, offset)), grid), axis=0)]
    low = jnp.maximum(best - decade / 2, grid[0])
    high = jnp.minimum(best + decade / 2, grid[-1])
    golden = (math.sqrt(5) - 1) / 2

    def narrow(bounds, _):
        low, high = bounds
        left, right = high - golden * (high - low), low + golden * (high - low)
        lower = value(left) > value(right)
        return (jnp.where(lower, low, left), jnp.where(lower, right, high)), None

    (low, high), _ = jax.lax.scan(narrow, (low, high), length=16)
    return jnp.exp(scale + (low + high) / 2)


def _smooth_one(series: _Series, options: _Options) -> tuple[jax.Array, jax.Array]:
    """(T, D) and (T, D, D)."""
    dim = series.xy.shape[-1]
    dynamics = _dynamics(series.process_noise, dim, options.model)

    def run(R: jax.Array) -> tuple[jax.Array, jax.Array]:
        if options.parallel:
            mean, cov = _filter_parallel(series, dynamics, R)
        else:
            mean, cov, _ = _filter(series, dynamics, options, R)
        if not options.causal:
            mean, cov = _smoother(series, dynamics, mean, cov, options.parallel)
        return mean[:, :dim], cov[:, :dim, :dim]

    def pass_over(carry, last):
        mean, cov, weight = carry
        weight = jnp.where(last, jnp.minimum(weight, 1), weight)
        new_mean, cov = run(series.covariance / weight[:, None, None])
        mean = jnp.where(last, mean, new_mean)  # the last pass is for the covariance alone
        return (mean, cov, tail_weight(_squared(series, mean, cov), dim=dim, tails=options.tails)), None

    if options.iterations:
        start = (jnp.zeros_like(series.xy), jnp.zeros_like(series.covariance), jnp.ones_like(series.xy[:, 0]))
        passes = jnp.arange(options.iterations + 2) == options.iterations + 1
        (mean, cov, _), _ = jax.lax.scan(pass_over, start, passes)
    else:
        mean, cov = run(series.covariance)
    is_estimated = (
        jnp.cumsum(series.seen) > 0 if options.causal else jnp.broadcast_to(series.seen.any(), series.seen.shape)
    )
    return jnp.where(is_estimated[:, None], mean, jnp.nan), jnp.where(is_estimated[:, None, None], cov, jnp.nan)


def _squared(series: _Series, mean: jax.Array, cov: jax.Array) -> jax.Array:
    """(T,) expected squared error of every observation in units of its covariance."""
    inverse, _ = jax.vmap(_inverse)(series.covariance)
    residual = series.xy - mean
    moment = residual[:, :, None] * residual[:, None, :] + cov
    return (inverse * moment).sum((-2, -1))


# ------------------------------------------------------------------------------------------ the filter, frame by frame


def _filter(series: _Series, dynamics: _Dynamics, options: _Options, R: jax.Array):
    """States (T, n), their covariances (T, n, n), and the logarithm of the density of the observations after the first."""
    dim = series.xy.shape[-1]
    tails = options.tails if options.causal else "gaussian"  # the smoother reweights from pass to pass
    first, prior = _first_state(series, options.model)

    def step(carry, frame):
        mean, covs, begun = carry
        y, noise, seen = frame
        mean = jnp.where(begun, dynamics.transition @ mean, mean)
        covs = jnp.where(begun, dynamics.transition @ covs @ dynamics.transition.T + dynamics.noise, covs)
        innovation = y - mean[:dim]
        value = jnp.where(begun & seen, _log_density(innovation, covs[0, :dim, :dim] + noise, tails), 0)
        updated = _update(mean, covs, y, noise, tails)
        mean, covs = jnp.where(seen, updated[0], mean), jnp.where(seen, updated[1], covs)
        return (mean, covs, begun | seen), (mean, covs[-1], value)

    covs = jnp.stack([prior] * (1 if tails == "gaussian" else 2))  # the gain's, and the one to be returned
    _, (mean, cov, value) = jax.lax.scan(step, (first, covs, jnp.asarray(False)), (series.xy, R, series.seen))
    return mean, cov, value.sum()


def _first_state(series: _Series, model: Model) -> tuple[jax.Array, jax.Array]:
    if model == "walk":
        return series.mean, series.prior
    zero = jnp.zeros_like(series.prior)
    cov = jnp.block([[series.prior, zero], [zero, series.prior]])
    return jnp.concatenate([series.mean, jnp.zeros_like(series.mean)]), cov


def _update(mean, covs, y, noise, tails: Tails):
    """State and covariances after an observation; under heavy tails its noise is reweighted a few times.

    Then the second covariance is that of the same gain, with the observation counted as predicted at most.
    """
    if tails == "gaussian":
        mean, cov, _ = _linear_update(mean, covs[0], y, noise)
        return mean, cov[None]
    dim = y.shape[-1]
    inverse, _ = _inverse(noise)

    def again(weight, _):
        after, spread, _ = _linear_update(mean, covs[0], y, noise / weight)
        residual = y - after[:dim]
        squared = (inverse * (jnp.outer(residual, residual) + spread[:dim, :dim])).sum()
        return tail_weight(squared, dim=dim, tails=tails), None

    weight, _ = jax.lax.scan(again, jnp.ones_like(y[0]), length=FILTER_ITERATIONS)
    after, cov, gain = _linear_update(mean, covs[0], y, noise / weight)
    return after, jnp.stack([cov, _joseph(covs[1], gain, noise / jnp.minimum(weight, 1))])


def _linear_update(mean, cov, y, noise):
    """State and covariance after an observation, and the gain (n, D)."""
    dim = y.shape[-1]
    inverse, _ = _inverse(cov[:dim, :dim] + noise)
    gain = cov[:, :dim] @ inverse
    return mean + gain @ (y - mean[:dim]), _joseph(cov, gain, noise), gain


def _joseph(cov, gain, noise):
    """Covariance after an update by any gain."""
    rest = jnp.eye(len(cov), dtype=cov.dtype).at[:, : gain.shape[-1]].add(-gain)
    return _symmetric(rest @ cov @ rest.T + gain @ noise @ gain.T)


def _log_density(error: jax.Array, covariance: jax.Array, tails: Tails) -> jax.Array:
    """Of the elliptical density with this covariance at an error (D,)."""
    dim = error.shape[-1]
    inverse, log_det = _inverse(covariance)
    squared = error @ inverse @ error
    if tails == "gaussian":
        return -0.5 * (dim * math.log(2 * math.pi) + log_det + squared)
    if tails == "laplace":
        a = math.sqrt(dim + 1)
        constant = dim * math.log(a) + math.lgamma(dim / 2) - math.log(2) - dim / 2 * math.log(math.pi)
        distance = jnp.sqrt(jnp.maximum(squared, (dim + 1) / LARGEST_WEIGHT**2))
        return constant - math.lgamma(dim) - 0.5 * log_det - a * distance
    n = DEGREES_OF_FREEDOM
    constant = math.lgamma((n + dim) / 2) - math.lgamma(n / 2) - dim / 2 * math.log((n - 2) * math.pi)
    return constant - 0.5 * log_det - (n + dim) / 2 * jnp.log1p(squared / (n - 2))


# ------------------------------------------------------------------------------------------------ the smoother


def _smoother(series: _Series, dynamics: _Dynamics, mean: jax.Array, cov: jax.Array, parallel: bool):
    """Filtered states -> smoothed states: x[t] given x[t + 1] is Gaussian with mean G x[t + 1] + g and covariance L."""
    begun = jnp.cumsum(series.seen) > 0

    def backward(mean, cov, begun):
        predicted = dynamics.transition @ cov @ dynamics.transition.T + dynamics.noise
        gain = cov @ dynamics.transition.T @ _inverse(predicted)[0]
        gain = jnp.where(begun, gain, dynamics.backwards)  # nothing is known before the first observation
        rest = jnp.eye(len(mean), dtype=mean.dtype) - gain @ dynamics.transition
        rest = jnp.where(begun, rest, 0)
        return gain, rest @ mean, _symmetric(rest @ cov @ rest.T + gain @ dynamics.noise @ gain.T)

    gain, shift, spread = jax.vmap(backward)(mean[:-1], cov[:-1], begun[:-1])
    if parallel:
        zero = jnp.zeros_like(cov[-1:])
        elements = (
            jnp.concatenate([gain, zero]),
            jnp.concatenate([shift, mean[-1:]]),
            jnp.concatenate([spread, cov[-1:]]),
        )
        _, mean, cov = jax.lax.associative_scan(_chain_backward, elements, reverse=True)
        return mean, _symmetric(cov)

    def step(after, element):
        gain, shift, spread = element
        state = gain @ after[0] + shift, _symmetric(gain @ after[1] @ gain.T + spread)
        return state, state

    last = (mean[-1], cov[-1])
    _, (before, spread) = jax.lax.scan(step, last, (gain, shift, spread), reverse=True)
    return jnp.concatenate([before, mean[-1:]]), jnp.concatenate([spread, cov[-1:]])


def _chain_backward(later, earlier):
    """Two steps of the smoother as one; the scan runs backwards, so that the first argument holds the later frames."""
    gain, shift, spread = earlier
    turned = jnp.swapaxes(gain, -1, -2)
    return gain @ later[0], _times(gain, later[1]) + shift, gain @ later[2] @ turned + spread


def _filter_parallel(series: _Series, dynamics: _Dynamics, R: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The filter by an associative scan: an element (A, b, C, eta, J) holds x[t] ~ N(A x[s] + b, C) and the likelihood of
    x[s], of information J and information vector eta, for the frames s + 1 to t."""
    dim, n = series.xy.shape[-1], dynamics.noise.shape[-1]
    start, prior = _first_state(series, "walk" if n == dim else "velocity")
    first = jnp.argmax(series.seen)
    eye = jnp.eye(n, dtype=R.dtype)

    def element(t, y, noise, seen):
        inverse, _ = _inverse(dynamics.noise[:dim, :dim] + noise)
        gain = dynamics.noise[:, :dim] @ inverse
        rest = eye.at[:, :dim].add(-gain)
        seen_to = dynamics.transition[:dim]
        A = jnp.where(seen, rest @ dynamics.transition, dynamics.transition)
        b = jnp.where(seen, gain @ y, 0)
        C = jnp.where(seen, _joseph(dynamics.noise, gain, noise), dynamics.noise)
        eta = jnp.where(seen, seen_to.T @ inverse @ y, 0)
        J = jnp.where(seen, seen_to.T @ inverse @ seen_to, 0)
        mean, cov, _ = _linear_update(start, prior, y, noise)
        mean, cov = jnp.where(seen, mean, start), jnp.where(seen, cov, prior)
        new = t <= first  # the first observation forgets what was before it
        return tuple(
            jnp.where(new, a, b) for a, b in zip((0 * A, mean, cov, 0 * eta, 0 * J), (A, b, C, eta, J), strict=True)
        )

    elements = jax.vmap(element)(jnp.arange(len(R)), series.xy, R, series.seen)
    _, mean, cov, _, _ = jax.lax.associative_scan(_chain_forward, elements)
    return mean, _symmetric(cov)


def _chain_forward(earlier, later):
    A, b, C, eta, J = earlier
    A2, b2, C2, eta2, J2 = later
    eye = jnp.eye(A.shape[-1], dtype=A.dtype)
    D = jnp.linalg.inv(eye + C @ J2)
    E = jnp.swapaxes(D, -1, -2)  # (I + J2 C)^-1
    AD = A2 @ D
    turned = jnp.swapaxes(A, -1, -2)
    return (
        AD @ A,
        _times(AD, b + _times(C, eta2)) + b2,
        AD @ C @ jnp.swapaxes(A2, -1, -2) + C2,
        _times(turned @ E, eta2 - _times(J2, b)) + eta,
        turned @ E @ J2 @ A + J,
    )


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return (matrix @ vector[..., None])[..., 0]


def _symmetric(matrix: jax.Array) -> jax.Array:
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2


def _inverse(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inverse of a positive matrix (n, n) of few rows, and the logarithm of its determinant, by halves.

    Without a call of LAPACK a matrix, which in a scan over frames would cost more than the arithmetic.
    """
    n = matrix.shape[-1]
    if n == 1:
        return 1 / matrix, jnp.log(matrix[0, 0])
    half = n // 2
    a, b, c = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    a_inverse, log_det_a = _inverse(a)
    ab = a_inverse @ b
    inverse, log_det = _inverse(c - b.T @ ab)  # of the Schur complement
    side = ab @ inverse
    top = jnp.concatenate([a_inverse + side @ ab.T, -side], axis=1)
    return jnp.concatenate([top, jnp.concatenate([-side.T, inverse], axis=1)]), log_det_a + log_det
