"""Triangulation on synthetic points with known truth: how far off, and whether the stated uncertainty holds.

    python -m benchmarks.triangulation

Four cameras about a cube of side 1. Each view of a point is bad with probability 0.3: 25 px of noise instead of 2, Laplace's in each
coordinate; the predicted sigma is off by 20 % (log-normal). The unit of the errors is a thousandth of the cube's side.

Prints a row for each method: median and mean error, and the share of points within the 50 and 90 % ellipsoids of the stated
covariance, where there is one; then one JSON line. "constant" takes one sigma for all views, the root mean square of what was
predicted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import tyro
from scipy.stats import chi2

from jaxpose import cameras, triangulation
from jaxpose.cameras import Camera

GOOD, BAD = 2.0, 25.0  # px
LEVELS = (0.5, 0.9)


@dataclass(frozen=True)
class Options:
    """What to simulate."""

    seeds: int = 5
    points: int = 4000
    bad: float = 0.3
    error_of_sigma: float = 0.2


def rig() -> list[Camera]:
    views = []
    for i, angle in enumerate((-0.8, -0.25, 0.3, 0.9)):
        rotation = cameras.rotation_matrix([0.0, angle, 0.0])
        lens = np.full(2, 600.0), np.array([320.0, 240.0]), np.array([-0.1, 0.02, 0.0]), np.array([0.001, -0.001])
        views.append(Camera(f"cam{i}", (640, 480), *lens, rotation, -rotation.T @ [0.0, 0.0, 3.0]))
    return views


def scores(points: np.ndarray, covariance: np.ndarray | None, truth: np.ndarray) -> dict[str, float]:
    error = points - truth
    determined = np.isfinite(error).all(-1)
    distance = 1000 * np.linalg.norm(error[determined], axis=-1)
    row = {
        "median": float(np.median(distance)),
        "mean": float(distance.mean()),
        "undetermined": int((~determined).sum()),
    }
    if covariance is not None:
        squared = np.einsum("ni,nij,nj->n", error[determined], np.linalg.inv(covariance[determined]), error[determined])
        row |= {f"coverage{level:.0%}": float((squared < chi2.ppf(level, 3)).mean()) for level in LEVELS}
    return row


def compare(seed: int, options: Options) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    views = rig()
    truth = rng.uniform(-0.5, 0.5, (options.points, 3))
    sigma = np.where(rng.random((len(views), options.points)) < options.bad, BAD, GOOD)
    predicted = sigma * np.exp(rng.normal(size=sigma.shape) * options.error_of_sigma)
    clean = np.stack([camera.project(truth) for camera in views])
    xy = clean + rng.laplace(size=clean.shape) / np.sqrt(2) * sigma[..., None]
    rays = np.stack([cameras.undistort(px, **camera.lens) for px, camera in zip(xy, views, strict=True)])
    extrinsic = np.stack([camera.extrinsic for camera in views])

    def refined(sigma, tails="gaussian"):
        return triangulation.reconstruct(xy, sigma[..., None, None] ** 2 * np.eye(2), cameras=views, tails=tails)[:2]

    constant = np.full_like(sigma, np.sqrt(np.mean(predicted**2)))
    results = {
        "linear, unweighted (Anipose)": (triangulation.triangulate(rays, extrinsic), None),
        "linear, rows / predicted sigma": (triangulation.triangulate(rays, extrinsic, weight=1 / predicted), None),
        "reprojection, constant sigma": refined(constant),
        "reprojection, predicted sigma": refined(predicted),
        "the same, Laplace": refined(predicted, "laplace"),
        "the same, Student": refined(predicted, "student"),
        "reprojection, true sigma": refined(sigma),
    }
    return {name: scores(*result, truth) for name, result in results.items()}


def main(options: Options) -> dict:
    runs = [compare(seed, options) for seed in range(options.seeds)]
    columns = ("median", "mean", *(f"coverage{level:.0%}" for level in LEVELS))
    print("| method | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    table = {}
    for name in runs[0]:
        values = {c: [run[name][c] for run in runs if c in run[name]] for c in columns}
        table[name] = {c: [round(float(np.mean(v)), 4), round(float(np.std(v)), 4)] for c, v in values.items() if v}
        table[name]["undetermined"] = sum(run[name]["undetermined"] for run in runs)
        cells = (f"{np.mean(v):.3f} ± {np.std(v):.3f}" if v else "" for v in values.values())
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(json.dumps({"benchmark": "triangulation", "seeds": options.seeds, "mean_and_deviation": table}))
    return table


if __name__ == "__main__":
    main(tyro.cli(Options))
