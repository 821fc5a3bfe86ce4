"""`jaxpose triangulate`: joints in space from the trajectories of several calibrated cameras. No net is needed.

The .npz that is written holds, for T frames, P persons, K joints and V cameras:

    mean         (T, P, K, 3)      float64, in the unit of the calibration; NaN where a joint is not determined
    covariance   (T, P, K, 3, 3)   float64, in that unit squared; NaN there
    error        (T, P, K)         float64 pixels, the mean distance of the reprojected joint over its views; NaN there
    views        (T, P, K)         int64, how many views saw the joint
    score        (T, P, K)         float64, the mean of the views' scores; 0 where no view saw it
    frame        (T,)              int64, numbers of the frames
    fps          ()                float64
    names        (K,), individuals (P,), cameras (V,)   text
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from jaxpose import cameras, files, interchange, smoothing, triangulation
from jaxpose.cameras import Camera
from jaxpose.predict.smooth import Method, observation_covariance, read, steps
from jaxpose.trajectories import Trajectories

__all__ = ["Space", "main", "match_views", "reconstruct", "write_csv", "write_npz"]


@dataclass(frozen=True)
class Space:
    """Trajectories in space; the attributes are the arrays of the module's docstring."""

    mean: np.ndarray
    covariance: np.ndarray
    error: np.ndarray
    views: np.ndarray
    score: np.ndarray
    frame: np.ndarray
    fps: float
    names: tuple[str, ...]
    individuals: tuple[str, ...]
    cameras: tuple[str, ...]


def main(
    calibration: tyro.conf.Positional[Path],
    views: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Path | None = None,
    names: tuple[str, ...] = (),
    same_people: bool = False,
    tails_in_views: smoothing.Tails = "laplace",
    over_time: bool = True,
    model: smoothing.Model = "velocity",
    tails: smoothing.Tails = "laplace",
    causal: bool = False,
    process_noise: float | None = None,
    deviation: float | None = None,
    fps: float = 25.0,
) -> None:
    """Joints in space from the trajectories of several calibrated cameras.

    Views are weighted by the covariances that the nets predicted; see jaxpose/triangulation.py. The points are then
    smoothed in space. Writes NAME_3d.npz and, for each person, NAME_3d.csv with the columns of Anipose, and prints one
    line of JSON.

    Args:
        calibration: TOML as Anipose writes it.
        views: Trajectories (.npz) of `jaxpose predict`, `jaxpose track` or `jaxpose smooth`, or CSV of DeepLabCut, one
            per camera, of synchronised videos: frames of one number belong together.
        out: Path of the results without their ending; None: NAME_3d beside the calibration, with the name of its folder.
        names: Names of the cameras of the views, in their order; none: the one camera whose name is in each file's name.
        same_people: With several persons: person p is the same one in all views.
        tails_in_views: Density of the errors in the pictures.
        over_time: Smooth the points over time.
        model: Model of the smoother, as in `jaxpose smooth`.
        tails: Density of the errors in the smoother.
        causal: Let the smoother use only the frames up to then.
        process_noise: Process noise of the smoother, in the unit of the calibration squared, per frame^3 or per frame;
            None: by likelihood.
        deviation: Px at likelihood 1, for joints without a covariance, as in `jaxpose smooth`.
        fps: Frames per second of a CSV.
    """
    if not over_time and (causal or process_noise is not None or (model, tails) != ("velocity", "laplace")):
        raise ValueError(
            "--no-over-time: --model, --tails, --causal and --process-noise are of the smoother over time; leave them out"
        )
    method = Method(model, tails, causal, process_noise, deviation=deviation)
    rig = match_views(calibration, views, names=names)
    poses = [read(path, fps=fps, size_wh=camera.size_wh) for path, camera in zip(views, rig, strict=True)]
    space = reconstruct(poses, rig, places=views, same_people=same_people, tails=tails_in_views, deviation=deviation)
    if over_time:
        space = _smoothed(space, method)
    base = calibration.with_name(f"{calibration.absolute().parent.name or 'poses'}_3d") if out is None else out
    paths = [write_npz(base.with_name(f"{base.name}.npz"), space)]
    written: set[str] = set()
    for p, person in enumerate(space.individuals):
        suffix = f"_{re.sub(r'[^-.a-zA-Z0-9_]+', '_', person)}" if len(space.individuals) > 1 else ""
        written.add(name := interchange.numbered(f"{base.name}{suffix}", written))
        paths.append(write_csv(base.with_name(f"{name}.csv"), space, person=p))
    joints, error = int(np.isfinite(space.mean[..., 0]).sum()), space.error[np.isfinite(space.error)]
    line = {"frames": len(space.frame), "joints": joints, "cameras": list(space.cameras)}
    line["error_px"] = round(float(np.median(error)), 3) if error.size else None
    print(json.dumps(line | {"files": [str(path) for path in paths]}))


def match_views(calibration: Path, views: tuple[Path, ...], *, names: tuple[str, ...] = ()) -> list[Camera]:
    """Returns the cameras of the views.

    Args:
        calibration: The file of the cameras.
        views: The files of the views.
        names: The names of their cameras, in order; none takes the camera whose name is a word of a view's file name.

    Raises:
        ValueError: There are fewer than two views, a view fits no camera or several, or two views have one camera.
    """
    by_name = {camera.name: camera for camera in cameras.read_calibration(calibration)}
    if len(views) < 2:
        raise ValueError(f"{len(views)} views: triangulation needs two or more")
    if names and len(names) != len(views):
        raise ValueError(f"--names names {len(names)} cameras, but there are {len(views)} views")
    listed = ", ".join(by_name)
    selected: list[str] = []
    for i, view in enumerate(views):
        if names:
            candidates = [names[i]] if names[i] in by_name else []
        else:
            stem = re.sub(r"(_tracks|_smooth|_dlc|_poses)+$", "", view.stem)
            candidates = [stem] if stem in by_name else [
                name for name in by_name if re.search(rf"(?<![a-zA-Z0-9]){re.escape(name)}(?![a-zA-Z0-9])", stem)
            ]  # fmt: skip
        if len(candidates) != 1:
            asked = f"--names {names[i]}" if names else str(view)
            fits = f"fits {', '.join(candidates)}" if candidates else "is no camera"
            raise ValueError(f"{asked} {fits} of {calibration}, which has {listed}: name them in order with --names")
        if candidates[0] in selected:
            raise ValueError(f"{views[selected.index(candidates[0])]} and {view} are both of camera {candidates[0]!r}")
        selected += candidates
    return [by_name[name] for name in selected]


def reconstruct(
    poses: list[Trajectories],
    rig: list[Camera],
    *,
    places: tuple[Path, ...],
    same_people: bool,
    tails: smoothing.Tails,
    deviation: float | None,
) -> Space:
    """Reconstructs joints in space, frame by frame.

    Args:
        poses: The trajectories of the views.
        rig: Their cameras.
        places: Their files, for messages.
        same_people: With several persons: they are the same ones in all views.
        tails: The density of the errors.
        deviation: Px at likelihood 1, for joints without a covariance.

    Raises:
        ValueError: The views have different joints, persons, sizes or rates, or no two of them share a frame.
    """
    _check_views(poses, rig, places, same_people)
    frame = np.unique(np.concatenate([view.frame for view in poses]))
    shape = (len(poses), len(frame), *poses[0].mean.shape[1:3])
    xy, covariance = np.full((*shape, 2), np.nan), np.full((*shape, 2, 2), np.nan)
    score = np.zeros(shape)
    for v, view in enumerate(poses):
        rows = np.searchsorted(frame, view.frame)
        order = [view.names.index(name) for name in poses[0].names]
        xy[v, rows], score[v, rows] = view.mean[:, :, order], view.score[:, :, order]
        covariance[v, rows] = observation_covariance(view, deviation=deviation)[:, :, order]
    points = triangulation.reconstruct(
        xy.reshape(len(poses), -1, 2), covariance.reshape(len(poses), -1, 2, 2), cameras=rig, tails=tails
    )
    if not np.isfinite(points.mean).any():
        raise ValueError(
            f"no joint of {', '.join(map(str, places))} is determined: do two views share a frame in which it is seen?"
        )
    score = (score * np.isfinite(xy).all(-1)).sum(0) / np.maximum(points.views.reshape(shape[1:]), 1)
    return Space(
        points.mean.reshape(*shape[1:], 3), points.covariance.reshape(*shape[1:], 3, 3), points.error.reshape(shape[1:]),
        points.views.reshape(shape[1:]).astype(np.int64), score, frame, poses[0].fps, poses[0].names, poses[0].individuals,
        tuple(camera.name for camera in rig),
    )  # fmt: skip


def _check_views(poses: list[Trajectories], rig: list[Camera], places: tuple[Path, ...], same_people: bool) -> None:
    first = poses[0]
    for view, camera, place in zip(poses, rig, places, strict=True):
        if set(view.names) != set(first.names):
            raise ValueError(
                f"{place} has the joints {', '.join(view.names)}, {places[0]} has {', '.join(first.names)}"
            )
        if view.mean.shape[1] != first.mean.shape[1]:
            raise ValueError(f"{place} has {view.mean.shape[1]} persons, {places[0]} has {first.mean.shape[1]}")
        if view.fps != first.fps:
            raise ValueError(f"{place} has {view.fps:g} frames per second, {places[0]} has {first.fps:g}")
        if camera.size_wh is not None and tuple(view.size_wh) != camera.size_wh:
            raise ValueError(
                f"{place} is of {view.size_wh} pixels, camera {camera.name!r} was calibrated with {camera.size_wh}"
            )
    if first.mean.shape[1] > 1 and not (same_people and all(view.tracked for view in poses)):
        raise ValueError(
            f"{places[0]} holds {first.mean.shape[1]} persons: track every view, put its persons in one order, and say --same-people"
        )


def _smoothed(space: Space, method: Method) -> Space:
    """Applies the smoother of `jaxpose.smoothing` in space; joints that no views determine stay NaN."""
    seen = np.isfinite(space.mean).all(-1) & np.isfinite(space.covariance).all((-1, -2))
    ever = seen.any(axis=0)
    time = space.frame - space.frame[0]
    shape = steps(space.frame, int(ever.sum()))
    xyz, spread = np.full((*shape, 3), np.nan), np.full((*shape, 3, 3), np.nan)
    xyz[time], spread[time] = space.mean[:, ever], space.covariance[:, ever]
    options = dict(model=method.model, tails=method.tails)
    noise = method.process_noise
    if noise is None:
        noise = smoothing.estimate_process_noise(xyz, spread, **options)
    mean, spread = smoothing.kalman(xyz, spread, process_noise=noise, causal=method.causal, **options)
    new_mean, new_cov = np.full_like(space.mean, np.nan), np.full_like(space.covariance, np.nan)
    new_mean[:, ever], new_cov[:, ever] = mean[time], spread[time]
    new_mean[~seen], new_cov[~seen] = np.nan, np.nan
    return dataclasses.replace(space, mean=new_mean, covariance=new_cov)


def write_npz(path: Path, space: Space) -> Path:
    """Writes the arrays of the module's docstring, atomically."""
    content = io.BytesIO()
    arrays = {field.name: np.asarray(getattr(space, field.name)) for field in dataclasses.fields(space)}
    np.savez_compressed(content, **arrays)
    files.write_whole(path, content.getvalue())
    return path


def write_csv(path: Path, space: Space, *, person: int) -> Path:
    """Writes one person with Anipose's columns: of each joint x, y, z, error, ncams and score, and fnum at the end.

    Args:
        path: The file.
        space: The trajectories to write.
        person: The index of the person.

    Returns:
        The path. Joints that are not determined are empty cells.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        [f"{name}_{c}" for name in space.names for c in ("x", "y", "z", "error", "ncams", "score")] + ["fnum"]
    )
    for t, frame in enumerate(space.frame.tolist()):
        cells: list[float | int | str] = []
        for k in range(len(space.names)):
            xyz, error, count = space.mean[t, person, k], space.error[t, person, k], int(space.views[t, person, k])
            if np.isfinite(xyz).all():
                cells += [
                    *(float(f"{c:.8g}") for c in xyz),
                    round(float(error), 4),
                    count,
                    round(float(space.score[t, person, k]), 4),
                ]
            else:
                cells += ["", "", "", "", count, ""]
        rows.writerow([*cells, frame])
    files.write_whole(path, text.getvalue().encode())
    return path
