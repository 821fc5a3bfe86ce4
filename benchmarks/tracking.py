"""Identities on synthetic crossings with occlusion: assignment on the density of poses, beside OKS and IoU matching.

    python -m benchmarks.tracking                # 10 videos each of 2, 3 and 4 people, two minutes on one core
    python -m benchmarks.tracking --seeds 3 --frames 150

People of 17 joints walk to and fro through one another at different speeds; limbs swing. A person behind another one within half
a body is missed in four frames of five, and what is seen of it has errors of several pixels; a false positive comes in one frame
of fifty. Errors are Laplace's with a scale that differs between joints and frames; the predicted covariance is right within 20 %.
The order of the poses in a frame is random. Reported: identity switches and IDF1 over the detected poses, mean over the seeds,
without and with the number of people known. "constant" is the density with one covariance for all joints and frames, their mean.
One JSON line for each number of people and measure.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import numpy as np
import tyro

from jaxpose import tracking
from jaxpose.trajectories import Trajectories

SIZE_WH, FPS = (640, 360), 25.0
JOINTS, BODY = 17, 90.0  # pixels high
SIGMA, HIDDEN_SIGMA = 1.5, 8.0  # scale of the Laplace errors, pixels
MISSED, FALSE_POSITIVES = 0.8, 0.02
MEASURES = ("density", "constant", "oks", "iou")


@dataclass(frozen=True)
class Options:
    """What is drawn."""

    people: tuple[int, ...] = (2, 3, 4)
    seeds: int = 10
    frames: int = 400


def walk(frames: int, people: int, *, rng: np.random.Generator) -> np.ndarray:
    """True joints (frames, people, K, 2), pixels."""
    t = np.arange(frames)[:, None] / FPS
    half = np.array([0.35, 0.08]) * SIZE_WH
    period, phase = rng.uniform(8, 16, (2, people)), rng.uniform(0, 2 * np.pi, (2, people))
    centre = np.stack([half[i] * np.sin(2 * np.pi * t / period[i] + phase[i]) + SIZE_WH[i] / 2 for i in (0, 1)], -1)
    wobble = np.cumsum(rng.normal(scale=0.5, size=(frames, people, 2)), 0)
    centre += wobble - wobble.mean(0)
    shape = rng.uniform(-0.5, 0.5, (people, JOINTS, 2)) * [0.4 * BODY, BODY]
    swing = rng.uniform(0, 0.12 * BODY, (people, JOINTS, 2))
    step, offset = rng.uniform(0.7, 1.2, people), rng.uniform(0, 2 * np.pi, (people, JOINTS, 2))
    moving = swing * np.sin((2 * np.pi * t / step)[..., None, None] + offset)
    return centre[:, :, None] + shape + moving


def hidden(truth: np.ndarray) -> np.ndarray:
    """(frames, people): behind a person of a lower number, less than half a body away."""
    centre = truth.mean(2)
    near = np.linalg.norm(centre[:, :, None] - centre[:, None], axis=-1) < 0.5 * BODY
    return np.tril(near, -1).any(-1)


def video(frames: int, people: int, *, seed: int) -> tuple[Trajectories, np.ndarray]:
    """The poses of a video in random order, and the person of each pose (frames, people + 1); -1: of none."""
    rng = np.random.default_rng(seed)
    truth = walk(frames, people, rng=rng)
    behind = hidden(truth)
    scale = SIGMA * np.exp(rng.normal(scale=0.4, size=truth.shape[:3]))
    scale = np.where(behind[..., None], HIDDEN_SIGMA, scale)
    seen = truth + rng.laplace(size=truth.shape) * scale[..., None]
    predicted = scale * np.exp(rng.uniform(-0.2, 0.2, scale.shape))
    false = rng.uniform(0.1, 0.9, (frames, 1, 1, 2)) * SIZE_WH + rng.uniform(-0.5, 0.5, (frames, 1, JOINTS, 2)) * BODY
    mean = np.concatenate([seen, false], 1)
    covariance = 2 * np.concatenate([predicted, np.full((frames, 1, JOINTS), HIDDEN_SIGMA)], 1)[..., None, None] ** 2
    covariance = covariance * np.eye(2)
    is_detected = np.concatenate(
        [~(behind & (rng.random(behind.shape) < MISSED)), rng.random((frames, 1)) < FALSE_POSITIVES], 1
    )
    mean[~is_detected], covariance[~is_detected] = np.nan, np.nan
    person = np.where(is_detected, np.append(np.arange(people), -1), -1)
    order = rng.permuted(np.tile(np.arange(people + 1), (frames, 1)), axis=1)
    rows = np.arange(frames)[:, None]
    poses = Trajectories(
        mean[rows, order], covariance[rows, order], is_detected[rows, order, None] * np.ones(JOINTS), np.arange(frames), FPS,
        tuple(f"joint{k}" for k in range(JOINTS)), SIZE_WH,
    )  # fmt: skip
    return poses, person[rows, order]


def with_one_covariance(poses: Trajectories) -> Trajectories:
    """Returns the poses with the mean of all covariances for every joint."""
    typical = np.nanmean(poses.covariance, (0, 1, 2))
    return poses.replace(covariance=np.where(np.isnan(poses.covariance), np.nan, typical))


def compare(options: Options, people: int) -> list[dict]:
    """Returns the scores of every measure, averaged over the seeds."""
    rows = []
    for measure in MEASURES:
        for is_known in (False, True):
            scores, start = [], time.perf_counter()
            for seed in range(options.seeds):
                poses, truth = video(options.frames, people, seed=seed)
                poses = with_one_covariance(poses) if measure == "constant" else poses
                how = tracking.Options(
                    measure="density" if measure == "constant" else measure, people=people if is_known else None
                )
                scores.append(tracking.identity_scores(tracking.assign(poses, options=how), truth))
            means = {name: round(float(np.mean([one[name] for one in scores])), 3) for name in scores[0]}
            spent = (time.perf_counter() - start) / options.seeds
            rows.append({"people": people, "measure": measure, "known": is_known, **means, "seconds": round(spent, 2)})
    return rows


def main(options: Options) -> None:
    for people in options.people:
        for row in compare(options, people):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
