"""Suggests pictures to label next: those where a model is uncertain, and that differ from each other.

    jaxpose suggest runs/mouse unlabelled/ --count 20

The uncertainty of a picture is the predicted standard deviation of its joints as a fraction of the crop (for nets
without a density: 1 - confidence), the mean over the joints of its least certain person. Selecting by that alone gives
twenty frames of one bad second, so every further picture is the one with the largest product of its uncertainty's rank
and its distance to the nearest selected picture (the greedy rule of k-centre coresets, Sener and Savarese 2018,
arXiv 1708.00489, on poses and thumbnails in place of a net's features).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import ArrayLike

from jaxpose import files
from jaxpose.data.pixels import opencv

log = logging.getLogger(__name__)
THUMBNAIL = 8
"""The number of cells per side of a square of grey levels of the whole picture, which distinguishes scenes."""


def choose(uncertainty: ArrayLike, features: ArrayLike, *, count: int) -> np.ndarray:
    """Returns the order in which to take items that are uncertain and different from each other.

    Args:
        uncertainty: (N,) larger for less certain items; only the order counts.
        features: (N, F) features whose Euclidean distances say how much two items differ.
        count: The number of items to take, at most all.

    Returns:
        (min(count, N),) indices, the most wanted first.

    Raises:
        ValueError: The shapes do not fit, a value is not finite, or the count is below 1.

    >>> choose([0.9, 0.8, 0.1, 0.7], [[0.0], [0.1], [5.0], [4.0]], count=3).tolist()
    [0, 3, 2]
    """
    uncertainty, features = np.asarray(uncertainty, np.float64), np.asarray(features, np.float64)
    if uncertainty.ndim != 1 or features.ndim != 2 or len(features) != len(uncertainty):
        raise ValueError(f"expected uncertainty (N,) and features (N, F), got {uncertainty.shape} and {features.shape}")
    if not (np.isfinite(uncertainty).all() and np.isfinite(features).all()):
        raise ValueError("uncertainty and features must be finite")
    if count < 1:
        raise ValueError(f"count={count}: expected 1 or more")
    if len(uncertainty) == 0:
        return np.zeros(0, int)
    rank = (np.argsort(np.argsort(uncertainty, kind="stable")) + 1) / len(uncertainty)
    order = [int(uncertainty.argmax())]
    distance = np.linalg.norm(features - features[order[0]], axis=-1)
    while len(order) < min(count, len(uncertainty)):
        wanted = rank * (distance + 1e-9 * (1 + distance.max()))  # among copies of selected items the least certain
        wanted[order] = -1.0
        order.append(int(wanted.argmax()))
        distance = np.minimum(distance, np.linalg.norm(features - features[order[-1]], axis=-1))
    return np.array(order)


def main(
    run: tyro.conf.Positional[Path],
    inputs: tyro.conf.Positional[tuple[str, ...]],
    *,
    count: int = 20,
    boxes: Path | None = None,
    category: int = 1,
    min_box_score: float = 0.0,
    out: Path | None = None,
    every: int = 10,
    batch_size: int | None = None,
) -> None:
    """List the pictures whose labels would teach a model most.

    Prints one line per picture, the most wanted first: file name, frame of a video, and the uncertainty (a fraction of
    the crop).

    Args:
        run: A run's folder, or an imported checkpoint, of a top-down net.
        inputs: Unlabelled pictures, videos, folders of them, and patterns.
        count: The number of pictures to list.
        boxes: JSON of a detector, as in `jaxpose predict`; none: a picture is one person.
        category: Id of the persons in that JSON; boxes without category_id count too.
        min_box_score: Boxes with a lower score are left out.
        out: Also write the list into this JSON file.
        every: Look at every n-th frame of videos only.
        batch_size: The number of crops at a time.
    """
    from jaxpose import predict
    from jaxpose.data.boxes import BoxFile
    from jaxpose.predict import media
    from jaxpose.predict.command import exif_of_run
    from jaxpose.predict.inputs import Live, expand_inputs, is_video

    if count < 1 or every < 1:
        raise ValueError(f"--count {count} --every {every}: expected 1 or more")
    paths = expand_inputs(inputs)
    if live := [str(path) for path in paths if isinstance(path, Live)]:
        raise ValueError(f"{live[0]} is a camera or a stream: name pictures, recorded videos or folders of them")
    box_file = None if boxes is None else BoxFile.read(boxes, category=category, min_score=min_box_score)
    predictor = predict.load(run, batch_size=batch_size)
    if predictor.finds_people:
        raise ValueError(
            f"{run} holds a net of whole images, which states no uncertainty of a picture: name a run on persons"
        )
    upright = exif_of_run(predictor.config) != "ignore"
    rows, features, failed = [], [], []
    for file in paths:
        try:
            frames = media.video(file) if is_video(file) else [media.picture(file, upright=upright)]
            for number, image in enumerate(frames):
                people = None if box_file is None else box_file.of(file, number)
                if number % every or people == []:  # the detector has no box here
                    continue
                sides = None if box_file is None else box_file.sides_of(file, number)
                poses = predictor(image, people, sides=sides)
                rows.append({"file": str(file), "frame": number, "uncertainty": round(_uncertainty(poses), 5)})
                features.append(_features(image, poses))
        except (ValueError, OSError) as error:
            failed.append(str(error))
    if not rows:
        raise ValueError(f"no person to look at in the inputs: {'; '.join(failed[:3]) or 'no box lies in them'}")
    selected = [rows[i] for i in choose([row["uncertainty"] for row in rows], np.array(features), count=count)]
    for row in selected:
        print(f"{row['uncertainty']:.4f}  {row['file']}" + (f"  frame {row['frame']}" if row["frame"] else ""))
    if out is not None:
        files.write_json(out, selected)
    if failed:
        log.warning("%d inputs could not be read: %s", len(failed), "; ".join(failed[:3]))


def _uncertainty(poses: Any) -> float:
    """Returns the uncertainty of a picture's least certain person: the mean over joints, as a fraction of the crop's side."""
    if poses.deviation is None or poses.crop_area is None:
        return float((1 - poses.confidence).mean(-1).max())
    side = np.sqrt(poses.crop_area)[:, None]
    return float((np.sqrt(poses.deviation.prod(-1)) / side).mean(-1).max())


def _features(image: np.ndarray, poses: Any) -> np.ndarray:
    """Returns the first person's joints in units of its box, and a thumbnail; each with a norm of about 1."""
    cv2 = opencv()
    box = poses.box[0]
    joints = ((poses.xy[0] - box[:2]) / box[2:] - 0.5).ravel() / np.sqrt(poses.xy.shape[1])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel() / 255.0
    return np.concatenate([np.clip(joints, -2, 2), (small - small.mean()) / THUMBNAIL])
