"""`jaxpose track`: which pose of a frame is of the same person as a pose of the frame before. No net is needed."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxpose import files, interchange, tracking, trajectories
from jaxpose.files import is_number
from jaxpose.interchange import Format
from jaxpose.trajectories import Trajectories

__all__ = ["from_results", "main"]


def main(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Path | None = None,
    people: int | None = None,
    formats: tuple[Format, ...] = ("npz",),
    measure: tracking.Measure = "density",
    max_gap: float = 1.0,
    min_frames: int = 3,
    gate: float = 0.999,
    fps: float = 25.0,
) -> None:
    """Give the persons of a video their identities.

    Poses are assigned to tracks by their density under the state that a Kalman filter predicts; see
    jaxpose/tracking.py. Writes NAME_tracks.npz, and NAME_tracks in other formats, and prints one line of JSON for each
    file.

    Args:
        inputs: trajectories (.npz) that `jaxpose predict --formats npz` wrote, or its results.json, beside which its
            images.json is.
        out: folder for what is written; None: beside each input.
        people: the number of persons, where it is known: tracks are not ended then, and no further ones start.
        formats: npz, dlc (the CSV of DeepLabCut), slp and h5 (SLEAP; need the extra labels).
        measure: density; or the similarity with the last pose of a track, oks or iou.
        max_gap: seconds that a person may be unseen before its track ends.
        min_frames: tracks of fewer frames are left out.
        gate: level of the region of the predicted state that must hold half of a pose's joints.
        fps: frames per second of a results.json, which does not say it.
    """
    if not inputs:
        raise ValueError("no inputs: name trajectories (.npz) or a results.json")
    if fps != 25.0 and not any(path.suffix.lower() == ".json" for path in inputs):
        raise ValueError("--fps is of a results.json: trajectories (.npz) state theirs; leave it out")
    interchange.require(formats)
    options = tracking.Options(measure=measure, people=people, max_gap=max_gap, min_frames=min_frames, gate=gate)
    written: set[str] = set()
    for path in inputs:
        for name, poses in _read(path, fps=fps).items():
            tracks = tracking.track(poses, options=options)
            stem = Path(name).stem.removesuffix("_poses")
            base = Path(interchange.numbered(str((path.parent if out is None else out) / f"{stem}_tracks"), written))
            written.add(str(base))
            paths = interchange.write(base, tracks, formats=formats, video=name)
            for sentence in tracking.describe_losses(poses, tracks, people=people):
                logging.getLogger("jaxpose").warning("%s: %s", path, sentence)
            lost = int(poses.present.sum() - tracks.present.sum())
            counts = {"frames": len(tracks.frame), "tracks": tracks.mean.shape[1], "poses_without_track": lost}
            print(json.dumps({"input": str(path), **counts, "files": [str(file) for file in paths]}))


def _read(path: Path, *, fps: float) -> dict[str, Trajectories]:
    """The sequences in a file, by the names that their files are called after."""
    if path.suffix.lower() != ".json":
        return {path.name: trajectories.read(path)}
    images = files.read_json(path.with_name("images.json"), "list of images (images.json beside the results)")
    return from_results(files.read_json(path, "result file"), images, fps=fps)


def from_results(
    records: Sequence[Mapping[str, Any]], images: Mapping[str, Any], *, fps: float
) -> dict[str, Trajectories]:
    """Trajectories of the result records of videos.

    Args:
        records: The records that `jaxpose predict` writes into results.json: "keypoints", "image_id", and "frame" for
            videos.
        images: Its images.json: "images" with "id", "file_name", "frame", "width" and "height", and "categories".
        fps: Frames per second.

    Returns:
        {name of a video: trajectories without covariances}; `score` is the confidence of a joint.

    Raises:
        ValueError: There is no record of a video, or one does not fit.

    >>> pose = {"image_id": 1, "keypoints": [3.0, 4.0, 0.5], "score": 1.0}
    >>> image = {"id": 1, "file_name": "a.mp4", "frame": 0, "width": 9, "height": 9}
    >>> images = {"images": [image], "categories": [{"keypoints": ["nose"]}]}
    >>> from_results([pose], images, fps=25.0)["a.mp4"].mean.tolist()
    [[[[3.0, 4.0]]]]
    """
    try:
        names = tuple(images["categories"][0]["keypoints"])
        edges = [(a - 1, b - 1) for a, b in images["categories"][0].get("skeleton", [])]
        frames = [image for image in images["images"] if "frame" in image]
        people = defaultdict(list)
        for record in records:
            people[record["image_id"]].append(_joints(record["keypoints"], len(names)))
        videos: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for image in frames:
            videos[image["file_name"]].append(image)
        sizes = {name: (some[0]["width"], some[0]["height"]) for name, some in videos.items()}
        rows = {name: [people[image["id"]] for image in some] for name, some in videos.items()}
        numbers = {name: [image["frame"] for image in some] for name, some in videos.items()}
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"the results are not those of `jaxpose predict`: {type(error).__name__}: {error}") from None
    if not videos:
        raise ValueError("the results are of pictures, not of videos: write trajectories with --formats npz instead")
    try:
        return {name: _stacked(rows[name], numbers[name], names, edges, sizes[name], fps) for name in videos}
    except (TypeError, OverflowError) as error:
        raise ValueError(f"the results are not those of `jaxpose predict`: {error}") from None


def _joints(keypoints: Any, joints: int) -> np.ndarray:
    if len(keypoints) != 3 * joints or not all(map(is_number, keypoints)):
        raise ValueError(f"keypoints are {str(keypoints)[:60]}, expected {3 * joints} numbers")
    return np.reshape(np.asarray(keypoints, np.float64), (joints, 3))


def _stacked(rows: list[list[np.ndarray]], frames: list[int], names, edges, size_wh, fps: float) -> Trajectories:
    values = np.full((len(rows), max(map(len, rows), default=0), len(names), 3), np.nan)
    for t, row in enumerate(rows):
        if row:
            values[t, : len(row)] = row
    absent = ~(values[..., 2] > 0)
    mean = np.where(absent[..., None], np.nan, values[..., :2])
    score = np.where(absent, 0.0, np.clip(values[..., 2], 0, 1))
    return Trajectories(
        mean, np.full((*mean.shape, 2), np.nan), score, np.array(frames), fps, names, size_wh, edges=edges
    )
