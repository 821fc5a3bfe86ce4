"""Why the sigma of a run on drawn scans ranks columns as it does: what is possible, what the net sees, what Adam has learned.

    python -m experiments.oct_rle --density-gain 1 --out runs/oct_rle
    python -m benchmarks.scan_sigma runs/oct_rle

Four questions, a JSON line for every answer; about a minute of one core for the usual 110 scans:

    possible   rank correlation of the true scale of the labels' noise with itself, known to a relative error: most columns have
               almost the same scale, so that a small error shuffles them
    visible    the same for the scale that a ridge regression on random features of the prepared columns predicts, trained on the
               true scales of the training scans: what a net could read off the scans
    head       sigma's layer trained anew on the features of the run, which are frozen, with the batches and the learning rate of the
               run and several gains (`nets.ColumnRegressor.sigma_gain`); its loss is that of a Laplace distribution
    flow       the spline trained anew on the standardised errors of the training scans: whether its bands can hold what they state
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from jaxpose import checkpoint, density, tasks
from jaxpose.data.scans import Prepared, prepare
from jaxpose.data.synthetic import retina
from jaxpose.flow import Spline

RELATIVE_ERRORS = (0.05, 0.1, 0.3, 0.5)
NEIGHBOURS = (-6, -3, -1, 0, 1, 3, 6)
"""Columns that the ridge regression sees beside each column."""
POOLED, RANDOM_FEATURES, RIDGE = 4, 1500, 300.0
LEARNING_RATE, BATCH, CROP = 3e-3, 8, 64
TRAINED = 0.8
"""Part of the drawn subjects that a run trains on."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    run: tyro.conf.Positional[Path]
    """A run of experiments.oct_rle on drawn scans."""
    gains: tuple[float, ...] = (1.0, 4.0, 16.0, 48.0)
    steps: int = 1056


@dataclass(frozen=True, eq=False)
class Frozen:
    """A net's view of drawn scans.

    Attributes:
        features: (N, W, H C) features of every column.
        residuals: (N, W, K) label - mu in pixels, NaN without a label.
        sigma: (N, W, K) predicted scale in pixels.
        noise: (N, W, K) true scale of the labels' noise.
        train: number of scans that the net was trained on, the first ones.
    """

    features: np.ndarray
    residuals: np.ndarray
    sigma: np.ndarray
    noise: np.ndarray
    train: int


def rank(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Spearman's correlation of two arrays.

    >>> rank(np.array([1.0, 2.0, 9.0]), np.array([3.0, 4.0, 5.0]))
    1.0
    """
    from scipy.stats import spearmanr

    return round(float(spearmanr(a, b)[0]), 3)


def possible(noise: np.ndarray, *, relative: float, seed: int = 0) -> float:
    """Returns the rank correlation of scales with themselves times log-normal factors of this standard deviation."""
    return rank(noise * np.exp(relative * np.random.default_rng(seed).normal(size=noise.shape)), noise)


def visible(prepared: list[Prepared], train: int) -> float:
    """Returns the rank correlation of the true scale of held-out columns with its prediction by a ridge regression."""
    rng = np.random.default_rng(0)
    columns = []
    for one in prepared:
        height = one.image.shape[0] // POOLED
        rows = one.image[: height * POOLED].reshape(height, POOLED, -1).mean(1)
        columns.append(np.concatenate([np.roll(rows, shift, 1) for shift in NEIGHBOURS]).T)
    labelled = [np.isfinite(one.rows).any(1) for one in prepared]
    parts = [
        np.concatenate([x[keep] for x, keep in zip(columns[part], labelled[part], strict=True)])
        for part in _halves(train)
    ]
    scales = [
        np.concatenate(
            [np.log(one.scan.noise[0])[keep] for one, keep in zip(prepared[part], labelled[part], strict=True)]
        )
        for part in _halves(train)
    ]
    mean, deviation = parts[0].mean(0), parts[0].std(0) + 1e-6
    weights = rng.normal(size=(parts[0].shape[1], RANDOM_FEATURES)) * 1.5 / math.sqrt(parts[0].shape[1])
    bias = rng.uniform(-1, 1, RANDOM_FEATURES)

    def expanded(x: np.ndarray) -> np.ndarray:
        x = (x - mean) / deviation
        return np.concatenate([x, np.maximum(x @ weights + bias, 0), np.ones((len(x), 1))], 1)

    a, b = map(expanded, parts)
    centre = scales[0].mean()
    solution = np.linalg.solve(a.T @ a + RIDGE * np.eye(a.shape[1]), a.T @ (scales[0] - centre))
    return rank(b @ solution + centre, scales[1])


def _halves(train: int) -> tuple[slice, slice]:
    return slice(0, train), slice(train, None)


def freeze(task: tasks.Boundaries, variables: dict, prepared: list[Prepared], train: int) -> Frozen:
    """Returns features, residuals and sigma of a net for scans of one width."""
    inner = {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}

    @jax.jit
    def outputs(images):
        features = task.net.apply(inner, images, method=lambda net, x: net.backbone(x, train=False))
        mu, sigma = task.net.apply(inner, images, train=False)
        return jnp.swapaxes(features, 1, 2).reshape(*mu.shape[:2], -1), mu, sigma

    rows = [jax.device_get(outputs(one.image[None])) for one in prepared]
    features, mu, sigma = (np.concatenate(values) for values in zip(*rows, strict=True))
    residuals = np.stack([one.rows for one in prepared]) - (mu + 0.5) * task.height
    noise = np.stack([one.scan.noise.T for one in prepared])
    return Frozen(features.astype(np.float16), residuals, sigma * task.height, noise, train)


def refit_sigma(frozen: Frozen, *, gain: float, steps: int, seed: int = 0) -> np.ndarray:
    """Returns (N, W, K) log sigma of a linear layer on frozen features after this number of steps of Adam.

    The layer is that of `nets.ColumnRegressor`: its kernel is divided by sqrt(H C) and multiplied by the gain.
    """
    size, boundaries = frozen.features.shape[-1], frozen.residuals.shape[-1]
    factor = gain / math.sqrt(size)
    params = {"w": jnp.zeros((size, boundaries)), "b": jnp.full(boundaries, 1.5 / gain)}
    optimizer = optax.adam(optax.linear_schedule(LEARNING_RATE, 0.0, steps))
    state, rng = optimizer.init(params), np.random.default_rng(seed)
    columns = np.flatnonzero(np.isfinite(frozen.residuals[0]).any(-1))
    first, last = columns[0], columns[-1] + 1 - CROP

    @jax.jit
    def step(params, state, x, r):
        def loss(p):
            s = x @ (factor * p["w"]) + gain * p["b"]
            return (s + r * jnp.exp(-s)).sum(-1).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        places = list(
            zip(rng.integers(frozen.train, size=BATCH), rng.integers(first, last + 1, size=BATCH), strict=True)
        )
        x = np.stack([frozen.features[i, left : left + CROP] for i, left in places]).astype(np.float32)
        r = np.stack([np.abs(frozen.residuals[i, left : left + CROP]) for i, left in places]).astype(np.float32)
        params, state = step(params, state, x, r)
    params = jax.device_get(params)
    return np.stack([x.astype(np.float32) @ (factor * params["w"]) + gain * params["b"] for x in frozen.features])


def refit_flow(errors: np.ndarray, *, steps: int, batch: int = 4096, seed: int = 0) -> density.Model:
    """Returns the density of a spline that is fitted to standardised errors, one batch of them a step."""
    flow, rng = Spline(), np.random.default_rng(seed)
    params = flow.init(jax.random.key(0), jnp.zeros((1, 1)), method="log_prob")
    optimizer = optax.adam(optax.linear_schedule(LEARNING_RATE, 0.0, steps))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, e):
        grads = jax.grad(lambda p: -flow.apply(p, e[:, None], method="log_prob").mean())(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state, rng.choice(errors, batch).astype(np.float32))
    return density.Model(log_g=lambda e: flow.apply(params, e, method="log_prob"), dim=1)


def coverage(errors: np.ndarray, model: density.Model) -> dict[str, float]:
    """Returns the parts of standardised errors inside the regions of a density."""
    level = density.level(errors[:, None].astype(np.float32), model)
    return {f"coverage_{round(100 * p)}": round(float((level <= p).mean()), 3) for p in (0.5, 0.9)}


def main(options: Options) -> None:
    logging.disable(logging.WARNING)
    variables, config = checkpoint.restore_model(options.run, step="latest", flow=True)
    task, run = tasks.from_config(config["task"]), config["run"]
    if task.level != "scan" or run.get("data") is not None:
        raise ValueError(f"{options.run}: expected a run of experiments.oct_rle on drawn scans, whose noise is known")
    scans = retina.draw_scans(run["synthetic_images"], seed=run["seed"])
    subjects = list(dict.fromkeys(scan.subject for scan in scans))
    train = sum(scan.subject in subjects[: round(TRAINED * len(subjects))] for scan in scans)
    prepared = [prepare(scan, height=task.height) for scan in scans]
    frozen = freeze(task, variables, prepared, train)
    where = np.isfinite(frozen.residuals)
    where[:train] = False
    noise = frozen.noise[where]
    for relative in RELATIVE_ERRORS:
        print(json.dumps({"possible": relative, "rank": possible(noise, relative=relative)}))
    print(json.dumps({"visible": "ridge regression", "rank": visible(prepared, train)}), flush=True)
    errors = frozen.residuals / frozen.sigma
    result = {"rank": rank(frozen.sigma[where], noise)}
    if (model := task.density(variables)) is not None:
        result |= coverage(errors[where], model)
    print(json.dumps({"head": "as trained", **result}), flush=True)
    for gain in options.gains:
        sigma = refit_sigma(frozen, gain=gain, steps=options.steps)
        print(json.dumps({"head": f"gain {gain:g}", "rank": rank(sigma[where], noise)}), flush=True)
    trained = errors[:train][np.isfinite(errors[:train])]
    print(json.dumps({"flow": "fitted anew", **coverage(errors[where], refit_flow(trained, steps=options.steps))}))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
