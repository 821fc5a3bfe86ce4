"""Coverage of conformal regions beside that of the density itself, for models that are right, too sure, and of other tails.

    python -m benchmarks.conformal                # 1,000 calibration sets each, half a minute on one core

People of four joints with 90 % of their labels; the model is Laplace's density. "right": so are the errors. "sure": they are twice as
large as sigma says. "heavy": Student's t with three degrees of freedom, twice as large, and the joints of a person err together.
Coverage of regions of level 0.9 on 200 new people, mean over the calibration sets: of the density, of conformal regions per joint,
and of whole poses. "scatter" is the standard deviation of the coverage per joint over the calibration sets. One JSON line each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import tyro

from jaxpose import density

MODEL = density.Model(log_g=None, base="laplace")
KINDS = ("right", "sure", "heavy")
LEVEL, JOINTS, NEW = 0.9, 4, 200


@dataclass(frozen=True)
class Options:
    """What is drawn."""

    people: tuple[int, ...] = (20, 50, 200)
    """Sizes of the calibration set."""
    sets: int = 1000


def errors(kind: str, people: int, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sigma, error, labelled) of people."""
    sigma = rng.uniform(0.01, 0.05, (people, JOINTS, 2))
    labelled = rng.random((people, JOINTS)) < 0.9
    if kind == "heavy":
        hard = np.exp(rng.normal(scale=0.5, size=(people, 1, 1)))
        return sigma, 2 * sigma * hard * rng.standard_t(3, sigma.shape), labelled
    return sigma, (1 if kind == "right" else 2) * sigma * rng.laplace(size=sigma.shape), labelled


def row(kind: str, people: int, sets: int) -> dict:
    """The coverage of one kind of errors."""
    rng = np.random.default_rng([people, KINDS.index(kind)])  # rows are independent
    raw_threshold = density.region(MODEL, LEVEL).log_threshold
    raw, joints, poses = [], [], []
    for _ in range(sets):
        sigma, error, labelled = errors(kind, people, rng=rng)
        scores = density.conformal(np.zeros_like(sigma), sigma, error, MODEL, where=labelled)
        sigma, error, labelled = errors(kind, NEW, rng=rng)
        log_density = -np.abs(error / sigma).sum(-1) - 2 * np.log(2)
        raw.append((log_density >= raw_threshold)[labelled].mean())
        joints.append((log_density >= scores.log_thresholds(LEVEL))[labelled].mean())
        whole = (log_density >= scores.log_thresholds(LEVEL, whole_pose=True)) | ~labelled
        poses.append(whole[labelled.any(1)].all(1).mean())
    means = {
        "density": np.mean(raw),
        "per_joint": np.mean(joints),
        "whole_pose": np.mean(poses),
        "scatter": np.std(joints),
    }
    return {"errors": kind, "people": people, **{name: round(float(value), 3) for name, value in means.items()}}


def main(options: Options) -> None:
    for kind in KINDS:
        for people in options.people:
            print(json.dumps(row(kind, people, options.sets)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
