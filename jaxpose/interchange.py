"""Trajectories in the files of other tools: DeepLabCut's CSV, SLEAP's .slp and analysis .h5.

The CSV opens in DeepLabCut, Lightning Pose, movement, Anipose and keypoint-MoSeq. The files of SLEAP are written by
sleap-io (the extra `labels`). None of them holds a covariance: that is in the .npz of `jaxpose.trajectories`.
Coordinates are written as they are, with pixel centres at integers, as in DeepLabCut and SLEAP. The likelihood of the
CSV and the point scores of SLEAP are `score` of the trajectories: if the net has a density, the probability that the
error is below `radius` pixels, which the name of the scorer states (``jaxpose_P_error_below_5px``).
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose import files, trajectories
from jaxpose.trajectories import Trajectories

__all__ = [
    "FORMATS",
    "Format",
    "numbered",
    "read_dlc",
    "require",
    "scorer",
    "write",
    "write_analysis_h5",
    "write_dlc",
    "write_slp",
]

Format = Literal["npz", "dlc", "slp", "h5"]
FORMATS: tuple[Format, ...] = ("npz", "dlc", "slp", "h5")
ENDINGS = {"npz": ".npz", "dlc": "_dlc.csv", "slp": ".slp", "h5": ".analysis.h5"}
DIGITS = 4
"""Decimals of coordinates in pixels, and of likelihoods, in the CSV."""
COORDS = ("x", "y", "likelihood")


def scorer(poses: Trajectories) -> str:
    """Returns the name of the scorer in DeepLabCut's header, which states the meaning of the likelihood.

    >>> walk = Trajectories(np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1, 2, 2)), np.ones((1, 1, 1)), [0], 25.0, ["nose"], (9, 9))
    >>> scorer(walk), scorer(walk.replace(radius=5.0))
    ('jaxpose_confidence', 'jaxpose_P_error_below_5px')
    """
    return "jaxpose_confidence" if poses.radius is None else f"jaxpose_P_error_below_{poses.radius:g}px"


def write(
    base: str | os.PathLike, poses: Trajectories, *, formats: Sequence[Format], video: str | os.PathLike | None = None
) -> list[Path]:
    """Writes trajectories in several formats.

    Args:
        base: The path without its ending, for BASE.npz, BASE_dlc.csv, BASE.slp and BASE.analysis.h5.
        poses: The trajectories to write.
        formats: Some of "npz", "dlc", "slp", "h5".
        video: The video that SLEAP's files name.

    Returns:
        The paths of the files.

    Raises:
        ValueError: A format is unknown.
        ImportError: sleap-io is missing, for "slp" or "h5".
        OSError: A file cannot be written.

    >>> from tempfile import mkdtemp
    >>> walk = Trajectories(np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1, 2, 2)), np.ones((1, 1, 1)), [0], 25.0, ["nose"], (9, 9))
    >>> [path.name for path in write(Path(mkdtemp()) / "walk", walk, formats=["npz", "dlc"])]
    ['walk.npz', 'walk_dlc.csv']
    """
    base, paths = Path(base), []
    for name in dict.fromkeys(formats):
        if name not in FORMATS:
            raise ValueError(f"format {name!r} is unknown, expected some of {', '.join(FORMATS)}")
        path = base.with_name(base.name + ENDINGS[name])
        if name == "npz":
            trajectories.write(path, poses)
        elif name == "dlc":
            write_dlc(path, poses)
        else:
            (write_slp if name == "slp" else write_analysis_h5)(path, poses, video=video or base.name)
        paths.append(path)
    return paths


def require(formats: Sequence[Format]) -> None:
    """Raises an ImportError if a format needs a package that is not installed, before anything is computed."""
    if {"slp", "h5"} & set(formats):
        _sleap_io()


def numbered(name: str, taken: Container[str]) -> str:
    """Returns the name, or, if another output of a call has it, the name with the first number that is free.

    >>> numbered("arena", {"fly"}), numbered("arena", {"arena", "arena_2"})
    ('arena', 'arena_3')
    """
    names = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(2)))
    return next(candidate for candidate in names if candidate not in taken)


def write_dlc(path: str | os.PathLike, poses: Trajectories) -> None:
    """Writes predictions as DeepLabCut's CSV: x, y and likelihood of every joint, one row for each frame.

    The header has three rows (scorer, bodyparts, coords), and a row of individuals after the first if there are several
    persons. Absent joints are empty cells.

    Args:
        path: The file.
        poses: The trajectories to write.

    Raises:
        OSError: The file cannot be written.

    >>> from tempfile import mkdtemp
    >>> walk = Trajectories(np.ones((1, 1, 1, 2)), np.zeros((1, 1, 1, 2, 2)), np.ones((1, 1, 1)), [7], 25.0, ["nose"], (9, 9))
    >>> path = Path(mkdtemp()) / "walk.csv"
    >>> write_dlc(path, walk)
    >>> path.read_text().splitlines()[1:]
    ['bodyparts,nose,nose,nose', 'coords,x,y,likelihood', '7,1.0,1.0,1.0']
    """
    _, people, joints = poses.mean.shape[:3]
    per_person, per_joint = range(people), range(joints)
    columns = [(p, k, c) for p in per_person for k in per_joint for c in range(3)]
    header = [["scorer", *[scorer(poses)] * len(columns)]]
    if people != 1:
        header.append(["individuals", *(poses.individuals[p] for p, _, _ in columns)])
    header.append(["bodyparts", *(poses.names[k] for _, k, _ in columns)])
    header.append(["coords", *(COORDS[c] for _, _, c in columns)])
    score = np.where(np.isfinite(poses.mean).all(-1), poses.score, np.nan)
    values = np.concatenate([poses.mean, score[..., None]], -1).reshape(len(poses.frame), len(columns)).round(DIGITS)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerows(header)
    for frame, row in zip(poses.frame.tolist(), values.tolist(), strict=True):
        rows.writerow([frame, *("" if value != value else value for value in row)])
    files.write_whole(path, text.getvalue().encode())


def read_dlc(path: str | os.PathLike, *, fps: float, size_wh: tuple[int, int]) -> Trajectories:
    """Reads predictions from a CSV of DeepLabCut, Lightning Pose or `write_dlc`.

    Args:
        path: A file with three or four header rows, whose first column is the number of the frame.
        fps: Frames per second, which the file does not state.
        size_wh: The width and height of a frame, which the file does not state either.

    Returns:
        Trajectories without covariances (NaN). Persons that the file names count as the same ones in all frames.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has another header, or a row that does not fit it.

    >>> read_dlc("absent.csv", fps=25.0, size_wh=(64, 48))
    Traceback (most recent call last):
    FileNotFoundError: no DeepLabCut CSV found: absent.csv does not exist; check the path
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no DeepLabCut CSV found: {path} does not exist; check the path")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from None
    header: dict[str, list[str]] = {}
    while rows and rows[0] and rows[0][0] in ("scorer", "individuals", "bodyparts", "coords"):
        header[rows[0][0]] = rows[0][1:]
        rows.pop(0)
    if not {"bodyparts", "coords"} <= header.keys() or len({len(cells) for cells in header.values()}) != 1:
        raise ValueError(f"{path} has no header of DeepLabCut: expected rows of scorer, bodyparts and coords")
    owners = header.get("individuals", ["person1"] * len(header["coords"]))
    people, names = list(dict.fromkeys(owners)), list(dict.fromkeys(header["bodyparts"]))
    places = {
        (people.index(owner), names.index(name), COORDS.index(coord)): column
        for column, (owner, name, coord) in enumerate(zip(owners, header["bodyparts"], header["coords"]), start=1)
        if coord in COORDS
    }
    if len(places) != sum(coord in COORDS for coord in header["coords"]):
        raise ValueError(f"{path} has two columns for one coordinate of a joint: keep those of one scorer")
    with_x, with_y = ({(p, k) for p, k, c in places if c == of} for of in (0, 1))
    if with_x != with_y or (header["coords"] and not with_x):
        raise ValueError(
            f"{path} has a joint without x or without y: expected coords {', '.join(COORDS)} of every joint"
        )
    values = np.full((len(rows), len(people), len(names), 3), np.nan)
    frames = []
    for t, row in enumerate(rows):
        try:
            frames.append(int(row[0]))
            for (p, k, c), column in places.items():
                values[t, p, k, c] = float(row[column] or "nan")
        except (ValueError, IndexError):
            raise ValueError(f"{path}: row {t + 1} after the header does not fit it: {row[:4]}") from None
    xy = np.where(np.isfinite(values[..., :2]).all(-1, keepdims=True), values[..., :2], np.nan)
    score = np.where(np.isnan(xy[..., 0]), 0.0, np.nan_to_num(values[..., 2], nan=1.0))
    try:
        return Trajectories(
            xy, np.full((*xy.shape, 2), np.nan), score, np.array(frames, int), fps, tuple(names), size_wh,
            individuals=tuple(people), tracked=True,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_slp(path: str | os.PathLike, poses: Trajectories, *, video: str | os.PathLike) -> None:
    """Writes predicted instances as SLEAP's .slp, through sleap-io.

    Args:
        path: The file, which ends in .slp.
        poses: The trajectories to write; persons become tracks if they are the same ones in all frames.
        video: The video that the file names; it is not opened.

    Raises:
        ImportError: sleap-io is not installed.
    """
    _whole(path, lambda partial: _labels(poses, video).save(str(partial), verbose=False))


def write_analysis_h5(path: str | os.PathLike, poses: Trajectories, *, video: str | os.PathLike) -> None:
    """Writes SLEAP's analysis .h5, through sleap-io: tracks (persons, 2, joints, frames) and their scores.

    Frames are counted from 0 up to the last one; those that are not in the trajectories are NaN.

    Args:
        path: The file, which ends in .h5.
        poses: The trajectories to write.
        video: The video that the file names; it is not opened.

    Raises:
        ImportError: sleap-io is not installed.
    """
    _whole(path, lambda partial: _sleap_io().save_analysis_h5(_labels(poses, video, tracks=True), str(partial)))


def _labels(poses: Trajectories, video: str | os.PathLike, *, tracks: bool = False) -> Any:
    """Returns the labels for sleap-io. Tracks are named if `tracks` is set, or if persons are the same ones in all frames."""
    sio = _sleap_io()
    names = list(poses.names)  # a copy: sleap-io changes it
    skeleton = sio.Skeleton(nodes=names, edges=[(poses.names[a], poses.names[b]) for a, b in poses.edges])
    width, height = poses.size_wh
    shape = (int(poses.frame.max(initial=-1)) + 1, height, width, 3)
    source = sio.Video(filename=str(video), open_backend=False, backend_metadata={"shape": shape})
    owners = [sio.Track(name) for name in poses.individuals] if tracks or poses.tracked else None
    frames = []
    for t, frame in enumerate(poses.frame.tolist()):
        instances = [
            sio.PredictedInstance.from_numpy(
                poses.mean[t, p], skeleton, point_scores=poses.score[t, p], track=None if owners is None else owners[p],
                score=float(poses.score[t, p][np.isfinite(poses.mean[t, p, :, 0])].mean()),
            )
            for p in np.flatnonzero(poses.present[t])
        ]  # fmt: skip
        frames.append(sio.LabeledFrame(video=source, frame_idx=frame, instances=instances))
    provenance = {"written_by": "jaxpose", "scorer": scorer(poses), "fps": poses.fps}
    return sio.Labels(
        labeled_frames=frames, videos=[source], skeletons=[skeleton], tracks=owners or [], provenance=provenance
    )


def _sleap_io() -> Any:
    try:
        import sleap_io
    except ImportError:
        raise ImportError(
            "files of SLEAP are written by sleap-io: pip install 'jaxpose[labels]', or leave slp and h5 out of --formats"
        ) from None
    return sleap_io


def _whole(path: str | os.PathLike, save: Callable[[Path], None]) -> None:
    """Writes a file under another name and renames it when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")  # the ending tells sleap-io the format
    try:
        save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
