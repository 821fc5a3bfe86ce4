"""Smoothers on synthetic motion with known truth: error, jitter, and whether the stated uncertainty holds.

    python -m benchmarks.smoothing

The motion is an integrated Ornstein-Uhlenbeck velocity, 30 frames a second. The noise is Laplace's, 1.5 px in clear frames and
12 px in occlusions that come and go (a tenth of the time, 10 frames each on average); the predicted sigma is off by 20 %
(log-normal). Process noise is found by maximum likelihood for each joint, as `jaxpose smooth` does. EKS's likelihood is
1 - sigma / 192, the confidence of a regression on a crop of 192 px. One Euro is tuned on other motion, with its truth.

Prints a row for each smoother: root mean squared error and 95th percentile of the distance (px), jitter (mean second difference
over the truth's), and the share of frames whose truth lies within the 50 and 90 % ellipses; then one JSON line.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.peers import smoothers
from jaxpose import smoothing

CLEAR, OCCLUDED = 1.5, 12.0  # px
CROP = 192.0  # px
LEVELS = (0.5, 0.9)


@dataclass(frozen=True)
class Options:
    """What to simulate."""

    seeds: int = 5
    joints: int = 20
    """Of each seed: independent motions."""
    frames: int = 600
    error_of_sigma: float = 0.2


def motion(rng: np.random.Generator, options: Options) -> np.ndarray:
    """(T, K, 2) pixels."""
    velocity = np.zeros((options.frames, options.joints, 2))
    for t in range(1, options.frames):
        velocity[t] = 0.93 * velocity[t - 1] + rng.normal(size=velocity.shape[1:]) * 22.2
    return 200 + np.cumsum(velocity, axis=0) / 30


def sigmas(rng: np.random.Generator, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted standard deviation of each coordinate, (T, K)."""
    occluded = np.zeros((options.frames, options.joints), bool)
    for t in range(1, options.frames):
        draw = rng.random(options.joints)
        occluded[t] = np.where(occluded[t - 1], draw < 0.9, draw < 0.15 / 8)
    sigma = np.where(occluded, OCCLUDED, CLEAR)
    return sigma, sigma * np.exp(rng.normal(size=sigma.shape) * options.error_of_sigma)


def tuned_one_euro(xy: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    grid = itertools.product(
        (0.001, 0.004, 0.01, 0.03, 0.1, 0.3), (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.7), (0.03, 0.1, 0.3, 1.0)
    )
    choices = [dict(zip(("min_cutoff", "beta", "derivative_cutoff"), row, strict=True)) for row in grid]
    return min(choices, key=lambda choice: np.mean((smoothers.one_euro(xy, **choice) - truth) ** 2))


def kalman(xy: np.ndarray, variance: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    covariance = variance[..., None, None] * np.eye(2)
    model, tails = options.get("model", "velocity"), options.get("tails", "gaussian")
    q = smoothing.estimate_process_noise(xy, covariance, model=model, tails=tails)
    return smoothing.kalman(xy, covariance, process_noise=q, **options)


def scores(mean: np.ndarray, covariance: np.ndarray | None, truth: np.ndarray) -> dict[str, float]:
    error = mean - truth
    distance = np.linalg.norm(error, axis=-1)
    row = {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "p95": float(np.percentile(distance, 95)),
        "jitter": float(np.abs(np.diff(mean, 2, axis=0)).mean() / np.abs(np.diff(truth, 2, axis=0)).mean()),
    }
    if covariance is not None:
        squared = (error[..., None, :] @ np.linalg.inv(covariance) @ error[..., None])[..., 0, 0]
        row |= {f"coverage{level:.0%}": float((squared < -2 * np.log(1 - level)).mean()) for level in LEVELS}
    return row


def compare(seed: int, options: Options, one_euro: dict[str, float]) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    truth = motion(rng, options)
    sigma, predicted = sigmas(rng, options)
    xy = truth + rng.laplace(size=truth.shape) / np.sqrt(2) * sigma[..., None]
    constant = np.broadcast_to(np.var(np.diff(xy, axis=0), axis=(0, 2)) / 2, sigma.shape)
    one_over_likelihood = 1 / (1 - predicted / CROP)
    results = {
        "as predicted, unsmoothed": (xy, predicted[..., None, None] ** 2 * np.eye(2)),
        "running median, 7 frames": (smoothers.median(xy), None),
        "Savitzky-Golay, 11 frames, order 2": (smoothers.savitzky_golay(xy), None),
        "One Euro, mmpose's parameters (causal)": (smoothers.one_euro(xy), None),
        "One Euro, tuned (causal)": (smoothers.one_euro(xy, **one_euro), None),
        "EKS: walk, R = 1 / likelihood": kalman(xy, one_over_likelihood, model="walk"),
        "velocity, R = 1 / likelihood": kalman(xy, one_over_likelihood),
        "velocity, one constant R": kalman(xy, constant),
        "velocity, R = predicted sigma^2": kalman(xy, predicted**2),
        "the same, causal": kalman(xy, predicted**2, causal=True),
        "velocity, predicted sigma, Laplace": kalman(xy, predicted**2, tails="laplace"),
        "Laplace, causal": kalman(xy, predicted**2, tails="laplace", causal=True),
        "velocity, predicted sigma, Student": kalman(xy, predicted**2, tails="student"),
        "Student, causal": kalman(xy, predicted**2, tails="student", causal=True),
        "velocity, R = true sigma^2": kalman(xy, sigma**2),
    }
    return {name: scores(*result, truth) for name, result in results.items()}


def main(options: Options) -> dict:
    rng = np.random.default_rng(10_000)
    truth = motion(rng, options)
    xy = truth + rng.laplace(size=truth.shape) / np.sqrt(2) * sigmas(rng, options)[0][..., None]
    one_euro = tuned_one_euro(xy, truth)
    runs = [compare(seed, options, one_euro) for seed in range(options.seeds)]
    columns = ("rmse", "p95", "jitter", *(f"coverage{level:.0%}" for level in LEVELS))
    print("| smoother | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    table = {}
    for name in runs[0]:
        values = {c: [run[name][c] for run in runs if c in run[name]] for c in columns}
        table[name] = {c: [round(float(np.mean(v)), 4), round(float(np.std(v)), 4)] for c, v in values.items() if v}
        cells = (f"{np.mean(v):.3f} ± {np.std(v):.3f}" if v else "" for v in values.values())
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(
        json.dumps(
            {"benchmark": "smoothing", "one_euro": one_euro, "seeds": options.seeds, "mean_and_deviation": table}
        )
    )
    return table


if __name__ == "__main__":
    main(tyro.cli(Options))
