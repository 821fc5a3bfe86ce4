"""`jaxpose predict` with a lifter: a result file of joints in pixels in; joints in mm and a page that can be turned out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpose import inference, tasks
from jaxpose.evaluation import poses_3d, results
from jaxpose.files import is_number, read_json
from jaxpose.predict.restore import restored
from jaxpose.predict.space import SpacePoses
from jaxpose.skeleton import COCO17, Skeleton
from jaxpose.view import space

__all__ = ["Lifter", "from_coco", "load", "run"]

logger = logging.getLogger(__name__)

BATCH = 256
PAGE = 200  # poses on the page
MM = 1000.0  # per metre, the unit of sigma
DOUBTFUL = 0.1  # joints below this confidence are warned of
CROWN = 1.35  # the crown is this many times as far from the neck as the middle of the ears


class Lifter:
    """Lifts joints in pixels to millimetres relative to the root; created by `load`.

    Attributes:
        task: the task of the run.
        density: the model of the standardised error in space; None for a net without a likelihood.
    """

    def __init__(self, task: tasks.Lifting, variables: Any, *, flip_test: bool) -> None:
        if task.needs_root:
            raise ValueError(
                f"the net was trained with --norm {task.norm}, which needs the depth of the root: only nets of --norm base predict "
                "without labels"
            )
        self.task, self.flip_test = task, flip_test
        self.density = task.density(variables)
        self._variables = task.inference_variables(variables)
        self._predict = jax.jit(lambda v, batch: task.predict(v, batch, flip_test=flip_test))

    def __call__(self, xy: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
        """Returns joints (N, K, 3) in mm relative to the root, which is at 0, in the axes of the camera.

        Args:
            xy: ``(N, T, K, 2)`` pixels of the frames that the net sees, or ``(N, K, 2)`` for a net of one frame.
            size_wh: ``(N, 2)`` sizes of the pictures.

        Raises:
            ValueError: the shape does not fit the net.
        """
        return self.poses(xy, size_wh).joints

    def poses(self, xy: np.ndarray, size_wh: np.ndarray) -> SpacePoses:
        """Returns joints relative to the root with the scales of their likelihood; the arguments are those of a call.

        The root is left out of the likelihood, so that its sigma is NaN: it has no region.

        Raises:
            ValueError: the shape does not fit the net.
        """
        xy = np.asarray(xy, np.float32)
        xy = xy[:, None] if xy.ndim == 3 else xy
        expected = (self.task.frames, self.task.skeleton.num_joints, 2)
        if xy.shape[1:] != expected:
            raise ValueError(f"joints have shape {xy.shape}: expected (N, {', '.join(map(str, expected))})")
        size_wh = np.asarray(size_wh, np.float32)
        samples = (
            {"px": px, "size_wh": size, "focal": size, "center": size / 2} for px, size in zip(xy, size_wh, strict=True)
        )
        names = ("joints", "sigma") if "sigma" in self.task.outputs else ("joints",)
        parts: dict[str, list[np.ndarray]] = {name: [np.zeros((0, expected[1], 3), np.float32)] for name in names}
        for batch in inference.batches(samples, size=BATCH, smallest=8):
            valid = batch.pop("valid")
            outputs = self._predict(self._variables, batch)
            for name in names:
                parts[name].append(np.asarray(outputs[name])[valid])
        arrays = {name: np.concatenate(values) for name, values in parts.items()}
        arrays["joints"] -= arrays["joints"][:, self.task.root, None]  # a net that predicts the root puts it near 0
        if "sigma" not in arrays:
            return SpacePoses(arrays["joints"], is_absolute=False)
        sigma = np.where(np.asarray(self.task.is_trained)[:, None], MM * arrays["sigma"], np.nan)
        return SpacePoses(arrays["joints"], is_absolute=False, sigma=sigma, density=self.density)


def load(directory: str | Path, *, step: Any = "best", flip_test: bool | None = None) -> Lifter:
    """Builds a lifter from a run.

    Args:
        directory: the run's folder.
        step: the checkpoint to load; see `checkpoint.restore_model`.
        flip_test: average with the mirrored joints; None: as the run was evaluated.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, holds no lifter, or one that needs the depth of the root.
    """
    task, variables, _, flips = restored(directory, tasks.Lifting, step=step, flip_test=flip_test)
    return Lifter(task, variables, flip_test=flips)


def from_coco(xy: np.ndarray) -> np.ndarray:
    """Returns Human3.6M's 17 joints (..., 17, 2) of COCO's 17: limbs are the same, the trunk and the head are guessed.

    The pelvis and the neck are the middles of the hips and the shoulders, the torso is half-way between them, and the crown lies on
    the line from the neck through the ears.

    >>> from_coco(np.ones((1, 17, 2))).shape
    (1, 17, 2)
    """
    at = {name: xy[..., i, :] for i, name in enumerate(COCO17.joints)}
    pelvis, neck = ((at[f"left_{part}"] + at[f"right_{part}"]) / 2 for part in ("hip", "shoulder"))
    ears = (at["left_ear"] + at["right_ear"]) / 2
    legs = [at[f"{side}_{part}"] for side in ("right", "left") for part in ("hip", "knee", "ankle")]
    arms = [at[f"{side}_{part}"] for side in ("left", "right") for part in ("shoulder", "elbow", "wrist")]
    trunk = [(pelvis + neck) / 2, neck, at["nose"], neck + CROWN * (ears - neck)]
    return np.stack([pelvis, *legs, *trunk, *arms], -2)


def run(
    directory: str | Path,
    inputs: Sequence[str],
    *,
    out: Path,
    images: Path | None = None,
    region: float | None = None,
    step: Any = "best",
    flip_test: bool | None = None,
) -> None:
    """Lifts the poses of a result file and prints a line of JSON.

    Writes into OUT: results_3d.json, a record per pose (`jaxpose.evaluation.poses_3d`), and space.html.

    Args:
        directory: the run's folder.
        inputs: one result file of 2D joints.
        out: the folder of the outputs.
        images: COCO JSON with the sizes of the pictures and the names of the joints; None: images.json beside the results.
        region: draw the ellipsoids of the regions that hold each joint with this probability on the page; None: none.
        step, flip_test: as in `load`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is bad; sizes are missing; the joints are not those of the net; or regions are asked for that the net does
            not state.
    """
    if len(inputs) != 1 or not str(inputs[0]).endswith(".json"):
        raise ValueError(
            f"{directory} lifts joints to 3D: expected one result file of 2D joints (results.json of jaxpose predict), not "
            f"{' '.join(map(str, inputs))!s:.100}"
        )
    path = Path(inputs[0])
    records = results.read(path)
    if not records:
        raise ValueError(f"{path}: no results to lift")
    lifter = load(directory, step=step, flip_test=flip_test)
    if region is not None and not 0 < region < 1:
        raise ValueError(f"--region {region}: expected a probability between 0 and 1")
    if region is not None and lifter.density is None:
        reason = (
            "the reading srnet is no likelihood of the standardised error" if lifter.task.loss_settings.has_flow
            else f"it was trained with --loss.loss {lifter.task.loss_settings.loss}"
        )  # fmt: skip
        raise ValueError(
            f"--region {region}: the net in {directory} states no density of its error ({reason}); leave it out"
        )
    if uncertain := [record for record in records if min(record["keypoints"][2::3]) < DOUBTFUL]:
        logger.warning(
            "%s: %d of %d poses have joints with a confidence below %g; they are lifted too, and a wrong joint moves the others",
            path, len(uncertain), len(records), DOUBTFUL,
        )  # fmt: skip
    xy, sizes = joints_of(records, path, images, lifter.task.skeleton)
    poses = lifter.poses(frames_of(xy, records, lifter.task, path), sizes)
    joints = poses.joints
    outputs = poses_3d.from_predictions(joints, image_id=np.array([record["image_id"] for record in records]))
    persons: dict[int, int] = {}
    for output in outputs:
        output["person"] = persons[output["image_id"]] = persons.get(output["image_id"], -1) + 1
    out.mkdir(parents=True, exist_ok=True)
    poses_3d.write(outputs, out / "results_3d.json")
    names = [f"image {output['image_id']}, person {output['person'] + 1}" for output in outputs[:PAGE]]
    text = "Relative to the root, in the axes of the camera. The size is that of the people of the training."
    ellipsoids = None
    if region is not None:
        text += f" Ellipsoids: regions of {region:.0%}, of which the root has none."
        ellipsoids = poses.ellipsoids(region)[:PAGE]
    space.write(
        out / "space.html", joints[:PAGE], skeleton=lifter.task.skeleton, names=names, title="Lifted poses", text=text,
        ellipsoids=ellipsoids,
    )  # fmt: skip
    files = {"results": str(out / "results_3d.json"), "page": str(out / "space.html")}
    print(
        json.dumps(
            {"poses": len(outputs), "unit": "mm", "relative_to": lifter.task.skeleton.joints[lifter.task.root], **files}
        )
    )


def joints_of(
    records: Sequence[Mapping[str, Any]], path: Path, images: Path | None, skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the joints (N, K, 2) of records in the order of a skeleton, and the sizes (N, 2) of their pictures."""
    file = path.with_name("images.json") if images is None else images
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such file; a lifter needs the sizes of the pictures and the names of the joints: give a COCO JSON of the "
            "pictures with --images, such as the images.json that jaxpose predict writes"
        )
    content = read_json(file, "file of pictures")
    if not isinstance(content, dict) or "images" not in content:
        raise ValueError(f"{file}: no images: expected a COCO JSON with the sizes of the pictures")
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in content["images"]}
    missing = [r["image_id"] for r in records if None in sizes.get(r["image_id"], (None,))]
    if missing:
        raise ValueError(f"{file}: no size of image {missing[0]}, which {path} has a pose for ({len(missing)} in all)")
    if bad := [
        i for i, size in sizes.items() if not all(is_number(side) and side > 0 for side in size if side is not None)
    ]:
        raise ValueError(
            f"{file}: image {bad[0]} has the width and height {sizes[bad[0]]}: expected sizes in pixels, above 0"
        )
    names = _names(file, content, records, path)
    xy = np.array([record["keypoints"] for record in records], np.float64).reshape(len(records), -1, 3)[..., :2]
    size_wh = np.array([sizes[record["image_id"]] for record in records], np.float32)
    if np.abs(xy).max() <= 2 < size_wh.min() / 10:
        raise ValueError(
            f"{path}: every joint lies within two pixels of its picture's corner: these look like fractions of the picture; expected "
            "pixels"
        )
    if names == list(COCO17.joints) and skeleton.joints != COCO17.joints and skeleton.name.startswith("h36m17"):
        return from_coco(xy), size_wh
    if unknown := [name for name in skeleton.joints if name not in names]:
        raise ValueError(
            f"{file}: the results have the joints {', '.join(names)}; the net also needs {', '.join(unknown)} of {skeleton.name}"
        )
    return xy[:, [names.index(name) for name in skeleton.joints]], size_wh


def _names(file: Path, content: Mapping[str, Any], records: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    """Returns the names of the joints of the records' category."""
    kinds = {
        category.get("id"): category for category in content.get("categories", ()) if isinstance(category, Mapping)
    }
    category = kinds.get(records[0]["category_id"]) or (next(iter(kinds.values())) if len(kinds) == 1 else None)
    names = list((category or {}).get("keypoints") or ())
    count = len(records[0]["keypoints"]) // 3
    others = [i for i, record in enumerate(records) if len(record["keypoints"]) != 3 * count]
    if others:
        other = len(records[others[0]]["keypoints"]) // 3
        raise ValueError(
            f"{path}: result {others[0]} has {other} joints, the first one has {count}: expected as many in each"
        )
    if len(names) != count:
        raise ValueError(
            f"{file}: its category names {len(names)} joints, the results have {count}: expected a file whose category is that of "
            "the results"
        )
    return names


def frames_of(xy: np.ndarray, records: Sequence[Mapping[str, Any]], task: tasks.Lifting, path: Path) -> np.ndarray:
    """Returns the frames (N, T, K, 2) that the net sees for each pose: the results in the order of their image ids are a sequence."""
    if task.frames == 1:
        return xy[:, None]
    ids = np.array([record["image_id"] for record in records])
    if len(np.unique(ids)) != len(ids):
        raise ValueError(
            f"{path}: several people in a picture; this net reads {task.frames} frames of one person: give a file with one result per "
            "picture"
        )
    videos = list(dict.fromkeys(str(r["file_name"]) for r in records if "frame" in r and "file_name" in r))
    if len(videos) > 1:
        raise ValueError(
            f"{path}: poses of {len(videos)} videos ({', '.join(videos[:3]):.100}); this net reads {task.frames} frames in a row, "
            "which one video has: predict and lift them one by one"
        )
    order = np.argsort(ids)
    offsets = np.arange(task.frames) - (task.frames - 1 if task.causal else task.frames // 2)
    place = np.argsort(order)
    return xy[order][np.clip(place[:, None] + offsets, 0, len(ids) - 1)]
