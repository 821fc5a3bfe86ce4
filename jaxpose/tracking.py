"""Identities over a video, by assignment on the density of poses.

Every person is a track: the place and the velocity of each joint with their covariance, from a Kalman filter whose
observation noise is the predicted covariance of the joint. In each frame the poses are assigned to the tracks so that
the sum of the logarithms of their densities under the predicted states is largest
(`scipy.optimize.linear_sum_assignment`); a pose too far from every track starts a new one, and a track that has not
been seen for some time ends. A joint's density is a mixture of the Gaussian of the filter and a few per cent of a
uniform density over the image, so that one wrong joint does not decide.

Without covariances (NaN), or to compare, poses are matched with the last pose of a track by IoU of their boxes or by OKS.

`assign` gives the numbers of the tracks, `rearrange` puts the poses of a track into one place, `track` does both, and
`identity_scores` counts what an assignment got wrong. NumPy and SciPy only; a run over 600 frames with 4 persons takes
seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import chi2

from jaxpose.trajectories import Trajectories

__all__ = ["Measure", "Options", "assign", "describe_losses", "identity_scores", "rearrange", "track"]

Measure = Literal["density", "oks", "iou"]
OUTLIERS = 0.02
"""The share of joints that are not where the filter expects them: wrong sides, joints of a neighbour."""
OKS_SIGMA = 0.05
"""Of every joint, for the OKS between two poses; the deviation of joints without a covariance, relative to the person's size."""
SPEED = 2.0
"""Standard deviation of the velocity of a new track, person sizes per second."""
MEMORY = 1.0
"""Seconds after which the velocity of a track that is not seen has fallen to 1 / e."""
SAME = 0.3
"""The least IoU or OKS of two poses of one person."""
LAG = 0.2
"""Seconds over which the accelerations of a video are measured."""
FITTED = np.geomspace(0.1, 1000, 41)
"""The candidates for the process noise of a video, relative to the default, one person size squared per second cubed."""
CHI_SQUARE_MEDIAN = 0.4549
"""The median of chi-square with one degree of freedom."""


@dataclass(frozen=True)
class Options:
    """The options of linking poses to tracks.

    Attributes:
        measure: "density", or the similarity with the last pose of a track, "oks" or "iou".
        people: The number of persons, if it is known: tracks are then not ended, and no further ones start; poses outside of
            every region continue the nearest track that is unseen meanwhile, if they are enough for a track of their own.
        max_gap: The seconds that a track may be unseen before it ends.
        min_frames: The least number of frames; shorter tracks are left out.
        gate: The level of the region of the predicted state that must hold a pose: half of its joints lie inside.
        process_noise: The noise of the acceleration, person sizes squared per second cubed; None fits it to the video.

    Raises:
        ValueError: A value is outside its range.

    >>> Options(gate=1.5)
    Traceback (most recent call last):
    ValueError: gate=1.5: expected a probability below 1
    """

    measure: Measure = "density"
    people: int | None = None
    max_gap: float = 1.0
    min_frames: int = 3
    gate: float = 0.999
    process_noise: float | None = None

    def __post_init__(self):
        checks = {
            "measure": (self.measure in get_args(Measure), f"one of {', '.join(get_args(Measure))}"),
            "people": (self.people is None or self.people >= 1, "a positive number of persons or None"),
            "max_gap": (self.max_gap >= 0, "seconds, not negative"),
            "min_frames": (self.min_frames >= 1, "a positive number of frames"),
            "gate": (0 < self.gate < 1, "a probability below 1"),
            "process_noise": (self.process_noise is None or self.process_noise > 0, "a positive number or None"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}")


def track(poses: Trajectories, *, options: Options = Options()) -> Trajectories:
    """Links poses to trajectories whose person p is the same one in all frames.

    Args:
        poses: The persons of each frame in any order.
        options: The options of linking.

    Returns:
        One person for each track, in the order of their first frames; poses without a track are left out.

    >>> walk = np.zeros((4, 2, 1, 2)) + np.array([[[10.0, 10.0]], [[50.0, 10.0]]])
    >>> walk[2] = walk[2, ::-1]  # the order of the poses in a frame says nothing
    >>> noise = np.zeros((4, 2, 1, 2, 2)) + np.eye(2)
    >>> mixed = Trajectories(walk, noise, np.ones((4, 2, 1)), np.arange(4), 25.0, ["nose"], (64, 48))
    >>> track(mixed).mean[:, 0, 0].tolist()
    [[10.0, 10.0], [10.0, 10.0], [10.0, 10.0], [10.0, 10.0]]
    """
    return rearrange(poses, assign(poses, options=options), people=options.people)


def describe_losses(poses: Trajectories, tracks: Trajectories, *, people: int | None = None) -> list[str]:
    """Describes what a reader of tracks should know: most poses have no track, or no frame has as many poses as persons.

    Args:
        poses: The poses that were linked.
        tracks: The result of `track`.
        people: The number of persons, if it is known.

    >>> alone = Trajectories(np.ones((3, 1, 1, 2)), np.ones((3, 1, 1, 2, 2)) * np.eye(2), np.ones((3, 1, 1)), np.arange(3), 25.0,
    ...                      ["nose"], (64, 48))
    >>> describe_losses(alone, track(alone), people=2)
    ['at most 1 of 2 persons has a pose in a frame: a net that is trained on crops needs a box for every person (--boxes)']
    """
    sentences = []
    total, lost = int(poses.present.sum()), int(poses.present.sum() - tracks.present.sum())
    if lost > total / 2:
        sentences.append(
            f"{lost} of {total} poses are in no track: they are too few in a row, or further apart than the covariances allow"
        )
    most = int(poses.present.sum(1).max(initial=0))
    if people is not None and most < people:
        sentences.append(
            f"at most {most} of {people} persons has a pose in a frame: a net that is trained on crops needs a box for every person "
            "(--boxes)"
        )
    return sentences


def rearrange(poses: Trajectories, ids: np.ndarray, *, people: int | None = None) -> Trajectories:
    """Puts the poses of one track into one place.

    Args:
        poses: (T, P) poses.
        ids: (T, P) number of the track of each pose from 0; -1: of none.
        people: at least so many persons; further ones are absent.

    Returns:
        Trajectories of max(ids) + 1 persons named track1, track2, ...

    Raises:
        ValueError: `ids` has another shape, or a number twice in one frame.
    """
    ids = np.asarray(ids)
    if ids.shape != poses.mean.shape[:2]:
        raise ValueError(f"ids has shape {ids.shape}, expected {poses.mean.shape[:2]}: one number for each pose")
    count = max(int(ids.max(initial=-1)) + 1, people or 0)
    where, owner = np.nonzero(ids >= 0), ids[ids >= 0]
    if len(np.unique(where[0] * max(count, 1) + owner)) != len(owner):
        raise ValueError("ids holds the same number twice in one frame")
    shape = (len(ids), count, *poses.mean.shape[2:3])
    mean, covariance, score = np.full((*shape, 2), np.nan), np.full((*shape, 2, 2), np.nan), np.zeros(shape)
    for new, old in ((mean, poses.mean), (covariance, poses.covariance), (score, poses.score)):
        new[where[0], owner] = old[where]
    names = tuple(f"track{i + 1}" for i in range(count))
    return poses.replace(mean=mean, covariance=covariance, score=score, individuals=names, tracked=True)


def assign(poses: Trajectories, *, options: Options = Options()) -> np.ndarray:
    """Returns the track of each pose.

    Args:
        poses: (T, P) poses.
        options: The options of linking.

    Returns:
        (T, P) int, numbers from 0 in the order of the tracks' first frames; -1 for an absent pose, and for one of a
        track that is left out.
    """
    ids = np.full(poses.mean.shape[:2], -1)
    if not poses.present.any():
        return ids
    size = _size(poses)
    noise = size**2 * (1.0 if options.process_noise is None else options.process_noise) / poses.fps**3
    noisy = _observed_covariance(poses, size)
    if options.measure == "density" and options.process_noise is None:
        first = _run(poses, noisy, options, size=size, process_noise=noise)
        noise = _fitted_noise(poses, noisy, first, default=noise)
    ids = _run(poses, noisy, options, size=size, process_noise=noise)
    if options.measure == "density" and options.people is not None:
        ids = _regained(poses, noisy, ids, options, size=size, process_noise=noise)
    return _in_order(ids, options)


def identity_scores(ids: np.ndarray, truth: np.ndarray) -> Mapping[str, float]:
    """Compares an assignment with the true identities of the poses.

    Args:
        ids: (T, P) number of the track of each pose; -1 for no track.
        truth: (T, P) number of the person of each pose; -1 for a false positive, or an absent pose.

    Returns:
        {"switches": how often a person's track differs from that of the person's last pose with a track; "IDF1": 2 n /
        (poses with a person + poses with a track), n the poses that agree under the best one-to-one match of persons
        and tracks (Ristani et al. 2016); "tracks": number of tracks}.

    Raises:
        ValueError: The shapes differ.

    >>> identity_scores(np.array([[0, 1], [1, 0]]), np.array([[0, 1], [0, 1]]))
    {'switches': 2, 'IDF1': 0.5, 'tracks': 2}
    """
    ids, truth = np.asarray(ids), np.asarray(truth)
    if ids.shape != truth.shape or ids.ndim != 2:
        raise ValueError(f"ids has shape {ids.shape}, truth {truth.shape}: expected (T, P) twice")
    switches = 0
    for person in np.unique(truth[truth >= 0]):
        track_ids = ids[(truth == person) & (ids >= 0)]  # row by row: in the order of the frames
        switches += int((track_ids[1:] != track_ids[:-1]).sum())
    both = (ids >= 0) & (truth >= 0)
    people, tracks = (np.unique(numbers[numbers >= 0], return_inverse=True)[0] for numbers in (truth, ids))
    agree = np.zeros((len(people), len(tracks)))
    np.add.at(agree, (np.searchsorted(people, truth[both]), np.searchsorted(tracks, ids[both])), 1)
    right = agree[linear_sum_assignment(agree, maximize=True)].sum()
    total = (truth >= 0).sum() + (ids >= 0).sum()
    return {"switches": switches, "IDF1": float(2 * right / total) if total else 1.0, "tracks": len(tracks)}


class _Track:
    """The state of a person's K joints: mean (K, 4) of x, y and their velocities per frame, covariance (K, 4, 4)."""

    def __init__(self, number: int, frame: int, xy: np.ndarray, noise: np.ndarray, *, speed: float, start: float):
        seen = np.isfinite(xy).all(-1)
        centre = xy[seen].mean(0)
        self.number, self.time, self.seen_at, self.hits = number, frame, frame, 1
        self.last = xy.copy()
        self.mean = np.concatenate([np.where(seen[:, None], xy, centre), np.zeros_like(xy)], -1)
        self.covariance = np.zeros((len(xy), 4, 4))
        self.covariance[:, :2, :2] = np.where(seen[:, None, None], noise, start**2 * np.eye(2))
        self.covariance[:, 2:, 2:] = speed**2 * np.eye(2)

    def predict(self, frame: int, *, process_noise: float, memory: float) -> None:
        """Moves the state on to a frame: the velocity decays, and both become less certain."""
        dt = frame - self.time
        if dt == 0:
            return
        decay = np.exp(-dt / memory)
        f = np.eye(4)
        f[:2, 2:], f[2:, 2:] = memory * (1 - decay) * np.eye(2), decay * np.eye(2)
        q = np.kron(np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]]), np.eye(2)) * process_noise
        self.mean, self.covariance, self.time = self.mean @ f.T, f @ self.covariance @ f.T + q, frame

    def update(self, frame: int, xy: np.ndarray, noise: np.ndarray, *, most: float) -> None:
        """Takes in a pose; a joint beyond `most`, in squared Mahalanobis distance, counts as much as one at that distance."""
        seen = np.isfinite(xy).all(-1)
        error = np.where(seen[:, None], xy, self.mean[:, :2]) - self.mean[:, :2]
        spread = self.covariance[:, :2, :2] + noise
        excess = np.maximum(_mahalanobis(error, spread) / most, 1.0)
        gain = self.covariance[:, :, :2] @ np.linalg.inv(spread * excess[:, None, None]) * seen[:, None, None]
        self.mean = self.mean + (gain @ error[..., None])[..., 0]
        self.covariance = self.covariance - gain @ self.covariance[:, :2, :]
        self.last = np.where(seen[:, None], xy, self.last)
        self.seen_at, self.hits = frame, self.hits + 1


def _run(poses: Trajectories, noisy: np.ndarray, options: Options, *, size: float, process_noise: float) -> np.ndarray:
    """(T, P) numbers of the tracks, in any order and with those of few frames."""
    present, ids, area = poses.present, np.full(poses.mean.shape[:2], -1), float(np.prod(poses.size_wh))
    tracks: list[_Track] = []
    created = 0
    for t, frame in enumerate(poses.frame.tolist()):
        people = np.flatnonzero(present[t])
        tracks = [one for one in tracks if _lives(one, frame, options, fps=poses.fps)]
        for one in tracks:
            one.predict(frame, process_noise=process_noise, memory=MEMORY * poses.fps)
        value = _values(tracks, poses.mean[t, people], noisy[t, people], options, area=area, size=size)
        taken = set()
        for i, j in zip(*linear_sum_assignment(value, maximize=True), strict=True):
            if value[i, j] > 0:
                p = people[j]
                tracks[i].update(frame, poses.mean[t, p], noisy[t, p], most=chi2.ppf(options.gate, 2))
                ids[t, p] = tracks[i].number
                taken.add(p)
        for p in sorted(set(people) - taken, key=lambda p: -poses.score[t, p].mean()):
            if options.people is not None and len(tracks) >= options.people:
                break
            new = _Track(created, frame, poses.mean[t, p], noisy[t, p], speed=SPEED * size / poses.fps, start=size)
            ids[t, p], created = created, created + 1
            tracks.append(new)
    return ids


def _regained(
    poses: Trajectories, noisy: np.ndarray, ids: np.ndarray, options: Options, *, size: float, process_noise: float
) -> np.ndarray:
    """Gives poses that were too far from every track, such as those of a person who comes back elsewhere, to tracks that are free.

    They are linked among themselves; what is long enough for a track belongs to the nearest one that is unseen meanwhile.
    """
    ids = ids.copy()
    rest = poses.replace(mean=np.where((ids >= 0)[..., None, None], np.nan, poses.mean))
    parts = _run(rest, noisy, replace(options, people=None), size=size, process_noise=process_noise)
    numbers, counts = np.unique(parts[parts >= 0], return_counts=True)
    long = counts >= min(options.min_frames, len(ids))
    for number in numbers[np.argsort(-counts, kind="stable")][: int(long.sum())]:
        part = parts == number
        tracks = np.unique(ids[ids >= 0]).tolist()
        free = [track for track in tracks if not ((ids == track).any(1) & part.any(1)).any()]
        if len(tracks) < options.people:
            ids[part] = max(tracks, default=-1) + 1
        elif free:
            ids[part] = min(free, key=lambda track: _apart(poses, ids == track, part))
    return ids


def _apart(poses: Trajectories, track: np.ndarray, part: np.ndarray) -> float:
    """The distance of the middles of the first pose of a part and of a track's pose nearest to it in time."""
    frame, place = np.argwhere(part)[0]
    seen = np.argwhere(track)
    nearest = seen[np.abs(poses.frame[seen[:, 0]] - poses.frame[frame]).argmin()]
    return float(np.linalg.norm(np.nanmean(poses.mean[frame, place], 0) - np.nanmean(poses.mean[tuple(nearest)], 0)))


def _lives(one: _Track, frame: int, options: Options, *, fps: float) -> bool:
    if options.people is not None and one.hits >= options.min_frames:
        return True
    return frame - one.seen_at <= max(options.max_gap * fps, 1)


def _values(
    tracks: list[_Track], xy: np.ndarray, noise: np.ndarray, options: Options, *, area: float, size: float
) -> np.ndarray:
    """(tracks, poses): how much better a pose is explained by a track than by none; 0 where it cannot be of the track."""
    value = np.zeros((len(tracks), len(xy)))
    for i, one in enumerate(tracks):
        if options.measure == "density":
            value[i] = _log_ratios(one, xy, noise, most=chi2.ppf(options.gate, 2), area=area)
            continue
        for j, pose in enumerate(xy):
            alike = (_iou if options.measure == "iou" else _oks)(one.last, pose)
            # Where the number of people is known, the nearest pose is better than none.
            otherwise = 1e-3 * _nearness(one.last, pose, size=size) if options.people is not None else 0.0
            value[i, j] = alike if alike >= SAME else otherwise
    return value


def _log_ratios(one: _Track, xy: np.ndarray, noise: np.ndarray, *, most: float, area: float) -> np.ndarray:
    """(poses,): sum over joints of log of (density under the track / uniform density over the image).

    0 where fewer than half of the joints are within the squared Mahalanobis distance `most`. A state that is as wide as the
    image says nothing even where it is met exactly: the distance then decides among the poses, with a value that is small.
    """
    seen = np.isfinite(xy).all(-1)
    spread = one.covariance[:, :2, :2] + noise
    distance = np.where(
        seen, _mahalanobis(np.where(seen[..., None], xy, 0) - one.mean[:, :2] * seen[..., None], spread), np.nan
    )
    peak = area / (2 * np.pi * np.sqrt(np.linalg.det(spread)))
    ratio = np.nansum(np.log((1 - OUTLIERS) * np.exp(-0.5 * distance) * peak + OUTLIERS), -1)
    highest = np.where(seen, np.log((1 - OUTLIERS) * peak + OUTLIERS), 0).sum(-1)
    median = np.nanmedian(distance, -1)
    value = np.where(highest > 0, np.maximum(ratio, 0), 1e-3 * np.exp(-0.5 * median))
    return np.where(median <= most, value, 0.0)


def _nearness(a: np.ndarray, b: np.ndarray, *, size: float) -> float:
    """Falls with the distance of the middles of two poses."""
    return float(1 / (1 + np.linalg.norm(np.nanmean(a, 0) - np.nanmean(b, 0)) / size))


def _mahalanobis(error: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Squared distances (...,) of errors (..., 2) with covariances (..., 2, 2)."""
    return np.einsum("...i,...i->...", error, np.linalg.solve(spread, error[..., None])[..., 0])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of the boxes around two poses."""
    low, high = (np.stack([reduce(pose, axis=0) for pose in (a, b)]) for reduce in (np.nanmin, np.nanmax))
    both = np.prod(np.maximum(high.min(0) - low.max(0), 0))
    return float(both / max(np.prod(high - low, axis=-1).sum() - both, 1e-9))


def _oks(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over the joints of both poses, with the area of the first one's box."""
    area = max(np.prod(np.nanmax(a, 0) - np.nanmin(a, 0)), 1.0)
    distance = ((a - b) ** 2).sum(-1)
    similarity = np.exp(-distance / (2 * area * (2 * OKS_SIGMA) ** 2))
    return float(np.nanmean(similarity)) if np.isfinite(similarity).any() else 0.0


def _size(poses: Trajectories) -> float:
    """The median over the poses of the root of their boxes' area, pixels; at least 1."""
    mean = poses.mean[poses.present]
    extent = np.nanmax(mean, 1) - np.nanmin(mean, 1)
    sides = np.maximum(np.sqrt(extent.prod(-1)), extent.max(-1) / 2)  # of a straight line too
    typical = float(np.median(sides))
    return max(typical if typical > 0 else 0.1 * float(min(poses.size_wh)), 1.0)


def _observed_covariance(poses: Trajectories, size: float) -> np.ndarray:
    """(T, P, K, 2, 2) that can be inverted: where it is unknown, that of OKS_SIGMA of the person's size."""
    is_known = np.isfinite(poses.covariance).all((-1, -2), keepdims=True)
    unknown = (OKS_SIGMA * size) ** 2 * np.eye(2)
    return np.where(is_known, poses.covariance, unknown) + (1e-3 * size) ** 2 * np.eye(2)


def _fitted_noise(poses: Trajectories, noisy: np.ndarray, ids: np.ndarray, *, default: float) -> float:
    """The noise of the acceleration that the second differences of the tracks ask for, by their median.

    Over frames that are L apart, the second difference of a track has the variance 2 q L^3 / 3 of the motion and R + 4
    R + R of the observations. L is a fifth of a second: of successive frames, the errors would hide the motion.
    """
    lag = max(round(LAG * poses.fps), 1)
    row_of = {frame: t for t, frame in enumerate(poses.frame.tolist())}
    places = [{number: p for p, number in enumerate(row.tolist()) if number >= 0} for row in ids]
    squares, spreads = [], []
    for frame, t in row_of.items():
        before, after = (row_of.get(frame + step) for step in (-lag, lag))
        if before is None or after is None:
            continue
        for number in places[before].keys() & places[t].keys() & places[after].keys():
            rows = [(s, places[s][number]) for s in (before, t, after)]
            a, b, c = (poses.mean[row] for row in rows)
            spread = sum(factor * noisy[row] for factor, row in zip((1, 4, 1), rows))
            squares.append((a - 2 * b + c) ** 2)
            spreads.append(np.diagonal(spread, axis1=-2, axis2=-1))
    if not squares:
        return default
    square, spread = np.stack(squares).ravel(), np.stack(spreads).ravel()
    square, spread = square[np.isfinite(square)], spread[np.isfinite(square)]
    candidates = default * FITTED
    typical = [np.median(square / (2 * q * lag**3 / 3 + spread)) for q in candidates] if len(square) else [0.0]
    below = np.flatnonzero(np.array(typical) <= CHI_SQUARE_MEDIAN)
    return float(candidates[below[0]] if len(below) else candidates[-1])


def _in_order(ids: np.ndarray, options: Options) -> np.ndarray:
    """Numbers the tracks by their first frames, without those of few frames."""
    numbers, first, count = np.unique(ids[ids >= 0], return_index=True, return_counts=True)
    long = count >= min(options.min_frames, len(ids))
    if options.people is not None and long.sum() > options.people:
        long &= np.isin(numbers, numbers[np.argsort(-count, kind="stable")[: options.people]])
    order = np.argsort(first[long], kind="stable")
    new = np.full(int(ids.max(initial=-1)) + 2, -1)
    new[numbers[long][order]] = np.arange(len(order))
    return new[ids]
