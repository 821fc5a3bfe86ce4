"""`jaxpose smooth`: trajectories without jitter, by the covariances that a net predicted. No net is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from jaxpose import interchange, smoothing, trajectories
from jaxpose.interchange import Format
from jaxpose.trajectories import Trajectories

__all__ = ["Method", "main", "observation_covariance", "probability_within", "read", "smooth", "steps"]

LEAST_LIKELIHOOD = 0.01
DIRECTIONS = 64  # the number of directions in the integral over a disc
LEAST_VARIANCE = 1e-6  # px^2
MOST_STEPS = 100_000_000  # of a joint by a frame: a day of video, at 30 frames a second, of 38 joints


@dataclass(frozen=True)
class Method:
    """The method by which trajectories are smoothed.

    Attributes:
        model: "velocity" or "walk", as for `jaxpose.smoothing.kalman`.
        tails: The density of the errors.
        causal: Use the filter, which uses the frames up to then only.
        process_noise: px^2 per frame^3 (velocity) or per frame (walk); None: by maximum likelihood, for each joint.
        fill: The number of frames up to which missing joints are filled in.
        deviation: Px at likelihood 1, for joints without a covariance; None: from the second differences of each joint.

    Raises:
        ValueError: A value is outside its range; the message names its flag.
    """

    model: smoothing.Model = "velocity"
    tails: smoothing.Tails = "laplace"
    causal: bool = False
    process_noise: float | None = None
    fill: int = 30
    deviation: float | None = None

    def __post_init__(self):
        for flag, value in (("--process-noise", self.process_noise), ("--deviation", self.deviation)):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{flag} {value}: expected a positive number")
        if self.fill < 0:
            raise ValueError(f"--fill {self.fill}: expected a number of frames, 0 or more")


def main(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Path | None = None,
    formats: tuple[Format, ...] | None = None,
    model: smoothing.Model = "velocity",
    tails: smoothing.Tails = "laplace",
    causal: bool = False,
    process_noise: float | None = None,
    fill: int = 30,
    deviation: float | None = None,
    fps: float = 25.0,
    size_wh: tuple[int, int] | None = None,
) -> None:
    """Smooth the trajectories of joints by their predicted covariances.

    This is a Kalman smoother for every joint; see jaxpose/smoothing.py. Writes NAME_smooth in the format of each input,
    or in others, and prints one line of JSON for each.

    Args:
        inputs: Trajectories (.npz) that `jaxpose predict` or `jaxpose track` wrote, or a CSV of DeepLabCut.
        out: Folder for the output files; None: beside each input.
        formats: npz, dlc (the CSV of DeepLabCut), slp and h5 (SLEAP; they need the extra labels); None: that of the
            input.
        model: velocity, which changes by noise; or walk, where the position does.
        tails: Density of the errors: laplace and student give outliers less weight; gaussian does not.
        causal: Use only the frames up to then, as in live use.
        process_noise: px^2 per frame^3 (velocity) or per frame (walk); None: by maximum likelihood, for each joint.
        fill: The number of frames up to which missing joints are filled in; never before the first and, but with --causal,
            which does not know whether one follows, after the last.
        deviation: Error in px at likelihood 1, for joints without a covariance, such as those of a CSV; the variance is
            its square over the likelihood. None: from the second differences of each joint.
        fps: Frames per second of a CSV, which does not state it.
        size_wh: Width and height of the frames of a CSV; None: the smallest that holds its joints.
    """
    if not inputs:
        raise ValueError("no inputs: name trajectories (.npz) or a CSV of DeepLabCut")
    if (fps != 25.0 or size_wh is not None) and not any(path.suffix.lower() == ".csv" for path in inputs):
        raise ValueError("--fps and --size-wh are of CSV files: trajectories (.npz) state both; leave them out")
    method = Method(model, tails, causal, process_noise, fill, deviation)
    interchange.require(formats or ())
    written: set[str] = set()
    for path in inputs:
        poses = read(path, fps=fps, size_wh=size_wh)
        if not poses.tracked and poses.mean.shape[1] > 1:
            raise ValueError(
                f"{path} holds {poses.mean.shape[1]} persons that are not the same ones in all frames: run `jaxpose track` first"
            )
        result, noise = smooth(poses, method)
        stem = path.stem.removesuffix("_dlc")
        base = Path(interchange.numbered(str((path.parent if out is None else out) / f"{stem}_smooth"), written))
        written.add(str(base))
        own: tuple[Format, ...] = ("dlc",) if path.suffix.lower() == ".csv" else ("npz",)
        paths = interchange.write(base, result, formats=formats or own, video=path.name)
        before, after = (int(np.isfinite(t.mean[..., 0]).sum()) for t in (poses, result))
        line = {"input": str(path), "frames": len(poses.frame), "joints": before, "joints_written": after}
        line["process_noise"] = float(f"{np.nanmedian(noise):.3g}") if np.isfinite(noise).any() else None
        print(json.dumps(line | {"files": [str(file) for file in paths]}))


def read(path: Path, *, fps: float, size_wh: tuple[int, int] | None) -> Trajectories:
    """Reads trajectories from an .npz file or a CSV.

    Args:
        path: The file, which ends in .npz or .csv.
        fps: Frames per second of a CSV.
        size_wh: The size of a CSV's frames; None takes the smallest whole numbers that hold its joints.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is of another kind, or broken.

    >>> read(Path("poses.txt"), fps=25.0, size_wh=None)
    Traceback (most recent call last):
    ValueError: poses.txt: expected trajectories (.npz) or a CSV of DeepLabCut (.csv)
    """
    if path.suffix.lower() == ".npz":
        return trajectories.read(path)
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{path}: expected trajectories (.npz) or a CSV of DeepLabCut (.csv)")
    poses = interchange.read_dlc(path, fps=fps, size_wh=size_wh or (1, 1))
    if size_wh is None:
        largest = np.nan_to_num(poses.mean.reshape(-1, 2), nan=0.0).max(axis=0, initial=0.0)
        width, height = (max(1, int(np.ceil(side)) + 1) for side in largest)
        poses = poses.replace(size_wh=(width, height))
    return poses


def smooth(poses: Trajectories, method: Method) -> tuple[Trajectories, np.ndarray]:
    """Smooths the trajectories of every joint of every person separately.

    Args:
        poses: Persons that are the same ones in all frames.
        method: The method.

    Returns:
        Trajectories of the same frames, whose score is the probability of an error below `radius` if that is stated, and
        otherwise unchanged; and the process noise (P, K), NaN for joints that are never seen.

    >>> walk = Trajectories(np.zeros((5, 1, 1, 2)), np.ones((5, 1, 1, 1, 1)) * np.eye(2), np.ones((5, 1, 1)), np.arange(5), 25.0,
    ...                     ["nose"], (640, 480))
    >>> smooth(walk, Method(process_noise=0.1))[0].covariance[2, 0, 0, 0, 0] < 1
    np.True_
    """
    covariance = observation_covariance(poses, deviation=method.deviation)
    seen = np.isfinite(poses.mean).all(-1) & np.isfinite(covariance).all((-1, -2))
    ever = seen.any(axis=0)
    noise = np.full(ever.shape, np.nan)
    if not ever.any():
        return poses, noise
    time = poses.frame - poses.frame[0]  # the smoother's steps are frames; those that are left out are missing
    shape = steps(poses.frame, int(ever.sum()))
    xy, spread = np.full((*shape, 2), np.nan), np.full((*shape, 2, 2), np.nan)
    xy[time] = poses.mean[:, ever]
    spread[time] = covariance[:, ever]
    where = np.zeros(shape, bool)
    where[time] = seen[:, ever]
    options = dict(model=method.model, where=where, tails=method.tails)
    if method.process_noise is None:
        noise[ever] = smoothing.estimate_process_noise(xy, spread, **options)
    else:
        noise[ever] = method.process_noise
    mean, spread = smoothing.kalman(xy, spread, process_noise=noise[ever], causal=method.causal, **options)
    near = _near(where, method.fill, causal=method.causal)
    new_mean, new_cov = np.full_like(poses.mean, np.nan), np.full_like(poses.covariance, np.nan)
    new_mean[:, ever] = np.where(near[..., None], mean, np.nan)[time]
    new_cov[:, ever] = np.where(near[..., None, None], spread, np.nan)[time]
    absent = np.isnan(new_mean[..., 0])
    score = poses.score if poses.radius is None else probability_within(new_cov, radius=poses.radius)
    result = poses.replace(mean=new_mean, covariance=new_cov, score=np.where(absent, 0.0, score))
    return result, noise


def steps(frame: np.ndarray, joints: int) -> tuple[int, int]:
    """Returns the number of frames from the first to the last, those that are left out among them, and of joints.

    Raises:
        ValueError: They are so many that numbers of frames are wrong, or would fill the memory.

    >>> steps(np.array([4, 5, 9]), 2)
    (6, 2)
    """
    count = int(frame[-1]) - int(frame[0]) + 1
    if count * joints > MOST_STEPS:
        raise ValueError(
            f"the frames are numbered from {frame[0]} to {frame[-1]}, which are {count} steps of {joints} joints: expected "
            f"{MOST_STEPS} in all at most; correct the numbers, or split the recording"
        )
    return count, joints


def observation_covariance(poses: Trajectories, *, deviation: float | None) -> np.ndarray:
    """Returns covariances (T, P, K, 2, 2); if a net states none, those of a constant deviation over the likelihood.

    Args:
        poses: The trajectories.
        deviation: Px at likelihood 1. None: the median absolute second difference of each joint over 0.6745 sqrt(6),
            which is the standard deviation of white noise; motion adds to it.

    Returns:
        Covariances, NaN for absent joints, with variances of at least 1e-6 px^2.
    """
    is_stated = np.isfinite(poses.covariance).all((-1, -2))
    present = np.isfinite(poses.mean).all(-1)
    if deviation is None:
        second = np.abs(np.diff(poses.mean, 2, axis=0))
        _, people, joints, _ = poses.mean.shape
        medians = [_median(second[:, p, k]) for p in range(people) for k in range(joints)]
        sigma = np.reshape(medians, (people, joints)) / (0.6745 * np.sqrt(6))
    else:
        sigma = np.full(poses.mean.shape[1:3], deviation)
    variance = sigma**2 / np.maximum(poses.score, LEAST_LIKELIHOOD)
    stated = np.where(is_stated[..., None, None], poses.covariance, variance[..., None, None] * np.eye(2))
    stated = stated + LEAST_VARIANCE * np.eye(2)
    return np.where(present[..., None, None], stated, np.nan)


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else 1.0


def probability_within(covariance: np.ndarray, *, radius: float) -> np.ndarray:
    """Returns the probability that an error of a Gaussian density about 0 is shorter than a radius.

    Args:
        covariance: (..., 2, 2).
        radius: The radius, in the unit of the covariance's root.

    Returns:
        (...) in [0, 1]; 0 where the covariance is NaN. The integral along each direction is exact, that over directions
        the trapezoid's, which converges fast for a periodic function.

    >>> probability_within(np.eye(2), radius=np.sqrt(2 * np.log(2))).round(6)
    np.float64(0.5)
    """
    is_finite = np.isfinite(covariance).all((-1, -2))
    covariance = np.where(is_finite[..., None, None], covariance, np.eye(2)) + LEAST_VARIANCE * np.eye(2)
    angle = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    values = np.linalg.eigvalsh(covariance)
    # Angles in coordinates where the density is round, so that an elongated one needs no more of them.
    squared = values[..., :1] * np.cos(angle) ** 2 + values[..., 1:] * np.sin(angle) ** 2
    inside = 1 - np.exp(-(radius**2) / (2 * squared))
    return np.where(is_finite, inside.mean(-1), 0.0)


def _near(where: np.ndarray, fill: int, *, causal: bool) -> np.ndarray:
    """(T, S): seen, or in a gap of at most `fill` frames between two that are seen (causal: at most so long after one)."""
    frames = np.arange(len(where))[:, None]
    before = np.maximum.accumulate(np.where(where, frames, -1), axis=0)
    if causal:
        return (before >= 0) & (frames - before <= fill)
    after = np.minimum.accumulate(np.where(where, frames, len(where))[::-1], axis=0)[::-1]
    gap = after - before - 1
    return where | ((before >= 0) & (after < len(where)) & (gap <= fill))
