"""The poses of each video, and of each folder of frames, as trajectories in the formats of other tools."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxpose import interchange, tracking
from jaxpose.predict.poses import Poses
from jaxpose.skeleton import Skeleton
from jaxpose.trajectories import Trajectories

log = logging.getLogger("jaxpose")

__all__ = ["Options", "Recording", "Sequences", "rows_of"]


@dataclass(frozen=True)
class Options:
    """The output options of sequences.

    Attributes:
        formats: Some of `jaxpose.interchange.FORMATS`; with none, nothing is written.
        radius: Pixels; the written likelihood is the probability that the error of a joint is below this.
        fps: Frames per second of folders of frames.
        tracked: Whether persons get their identities before they are written.
        people: The number of persons; None if it is unknown.

    Raises:
        ValueError: A radius, a rate or a number of people is not positive, or one of them is given without a format.
        ImportError: A format needs a package that is not installed.
    """

    formats: tuple[interchange.Format, ...] = ()
    radius: float = 5.0
    fps: float = 25.0
    tracked: bool = False
    people: int | None = None

    def __post_init__(self):
        if self.tracked and not self.formats:
            raise ValueError("--track and --people are of trajectories: give --formats too, such as --formats npz dlc")
        tracking.Options(people=self.people)
        for flag, value in (("--within", self.radius), ("--fps", self.fps)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{flag} {value}: expected a positive number")
        if not self.formats and (self.radius, self.fps) != (Options.radius, Options.fps):
            raise ValueError("--within and --fps are of trajectories: give --formats too, such as --formats npz dlc")
        interchange.require(self.formats)


def rows_of(poses: Poses, *, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Converts the people of one frame to the arrays of trajectories.

    Args:
        poses: P people with K joints.
        radius: Pixels, see below.

    Returns:
        mean (P, K, 2), NaN where a net of whole images has no joint; covariance (P, K, 2, 2), NaN without a density;
        score (P, K), the probability that the error is below `radius`, or, without a density, the confidence in [0, 1].

    >>> from jaxpose.skeleton import COCO17
    >>> poses = Poses(np.ones((1, 17, 2)), np.eye(1, 17), np.ones(1), COCO17)
    >>> mean, covariance, score = rows_of(poses, radius=5.0)
    >>> mean[0, :2].tolist(), score[0, :2].tolist()
    ([[1.0, 1.0], [nan, nan]], [1.0, 0.0])
    """
    probability = poses.within(radius)
    if probability is not None:
        return poses.xy, poses.covariance, probability
    mean = np.where((poses.confidence == 0)[..., None], np.nan, poses.xy)
    return mean, np.full((*mean.shape, 2), np.nan), np.clip(poses.confidence, 0, 1)


@dataclass
class Recording:
    """The poses of one video, frame by frame.

    Attributes:
        name: The beginning of the names of its files.
        source: The video, or the folder of frames.
        size_wh: The size of a frame.
        fps: Frames per second.
        skeleton: The skeleton of the poses.
        radius: Pixels, see `rows_of`.
    """

    name: str
    source: str
    size_wh: tuple[int, int]
    fps: float
    skeleton: Skeleton
    radius: float
    frames: list[int] = field(default_factory=list)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    has_density: bool = False

    def add(self, frame: int, poses: Poses) -> None:
        """Adds the poses of a frame; frames may come in any order."""
        self.frames.append(frame)
        self.rows.append(rows_of(poses, radius=self.radius))
        self.has_density |= poses.density is not None

    def trajectories(self) -> Trajectories:
        """Returns all frames as arrays. Persons of different frames are not matched: see `jaxpose.tracking`."""
        people, joints = max((len(mean) for mean, _, _ in self.rows), default=0), self.skeleton.num_joints
        shape = (len(self.rows), people, joints)
        mean, covariance, score = np.full((*shape, 2), np.nan), np.full((*shape, 2, 2), np.nan), np.zeros(shape)
        order = sorted(range(len(self.frames)), key=self.frames.__getitem__)
        for t, (xy, spread, likelihood) in enumerate(self.rows[i] for i in order):
            mean[t, : len(xy)], covariance[t, : len(xy)], score[t, : len(xy)] = xy, spread, likelihood
        return Trajectories(
            mean, covariance, score, np.array(sorted(self.frames), np.int64), self.fps, self.skeleton.joints, self.size_wh,
            edges=self.skeleton.limbs, radius=self.radius if self.has_density else None,
        )  # fmt: skip


class Sequences:
    """The recordings of one call of `jaxpose predict`, by video and by folder.

    Args:
        out: The folder of the files.
        options: The output options.
        skeleton: The skeleton of the poses.
    """

    def __init__(self, out: Path, options: Options, skeleton: Skeleton):
        self.out, self.options, self.skeleton = out, options, skeleton
        self.recordings: dict[str, Recording] = {}
        self.other_sizes: defaultdict[str, list[int]] = defaultdict(list)

    def add(
        self, source: str, poses: Poses, *, name: str, frame: int, size_wh: tuple[int, int], fps: float | None = None
    ) -> None:
        """Adds the poses of one frame.

        Args:
            source: The video, or the folder of frames, which are one sequence.
            poses: The poses of the frame.
            name: The beginning of the names of the files, unless another sequence has it.
            frame: The number of the frame.
            size_wh: The size of the frame; all frames of a sequence have the same.
            fps: The rate of the video; None for a folder of frames, whose rate is in the options.
        """
        if not self.options.formats:
            return
        if source not in self.recordings:
            taken = {recording.name for recording in self.recordings.values()}
            unique = interchange.numbered(name, taken)
            rate = self.options.fps if fps is None else fps
            self.recordings[source] = Recording(unique, source, size_wh, rate, self.skeleton, self.options.radius)
        recording = self.recordings[source]
        if recording.size_wh != size_wh:
            self.other_sizes[source].append(frame)
            return
        recording.add(frame, poses)

    @property
    def failed(self) -> list[str]:
        """Descriptions of frames that were left out, one sentence per sequence."""
        return [
            f"{source}: {len(frames)} pictures are not {'x'.join(map(str, self.recordings[source].size_wh))} pixels large as the "
            f"first one is: they are not in its trajectories ({self.recordings[source].name})"
            for source, frames in self.other_sizes.items()
        ]

    def write(self) -> list[Path]:
        """Writes every recording in every format; returns the files."""
        paths: list[Path] = []
        for recording in self.recordings.values():
            poses = recording.trajectories()
            if self.options.tracked:
                people = self.options.people
                tracks = tracking.track(poses, options=tracking.Options(people=people))
                for sentence in tracking.describe_losses(poses, tracks, people=people):
                    log.warning("%s: %s", recording.source, sentence)
                poses = tracks
            elif poses.mean.shape[1] > 1:
                log.warning(
                    "%s: up to %d persons in a frame, and which of them is the same one in the next frame is not known; `jaxpose "
                    "track` finds out", recording.source, poses.mean.shape[1],
                )  # fmt: skip
            base = self.out / recording.name
            paths += interchange.write(base, poses, formats=self.options.formats, video=recording.source)
        return paths
