"""From a checkpoint to a `Predictor`, and from pictures to `Poses`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn

from jaxpose import checkpoint, geometry, tasks
from jaxpose.data import augment
from jaxpose.data.boxes import touches
from jaxpose.data.pixels import warped
from jaxpose.data.whole_images import views
from jaxpose.evaluation import results
from jaxpose.predict import media
from jaxpose.predict.poses import Poses
from jaxpose.skeleton import Skeleton

PADDING = 1.25  # of a box, as in training and evaluation


class Predictor:
    """What `load` gives: pictures -> poses. Programs are compiled once for each shape and kept.

    Attributes: task, config (of the checkpoint), skeleton, finds_people (whether boxes are not needed), flip_test.
    """

    def __init__(
        self,
        task: tasks.Task,
        variables: Any,
        config: dict[str, Any],
        *,
        flip_test: bool | None = None,
        batch_size: int | None = None,
        test_size: int | None = None,
        fit: Literal["short", "long"] = "short",
        scales: Sequence[float] = (1.0,),
        max_pixels: int = media.MAX_PIXELS,
        device: jax.Device | None = None,
    ):
        self.task, self.config = task, config
        self.skeleton = Skeleton.from_dict(task.config["skeleton"])
        self.size_wh = tuple(task.config["size_wh"])
        self.finds_people = task.config["family"] == "bottom_up"
        run = config.get("run", {})
        if flip_test is None:
            flip_test = _evaluated_with_flip(run, self.finds_people)
        self.flip_test, self.max_pixels = flip_test, max_pixels
        self.rescore = run.get("rescore") or ("box+mean+max" if task.config["family"] == "regression" else "box*mean")
        self.batch_size = (4 if self.finds_people else 32) if batch_size is None else batch_size
        self.view_options = {
            "size": run.get("test_size") or min(self.size_wh) if test_size is None else test_size,
            "fit": fit,
            "scales": tuple(scales),
        }
        if self.finds_people and (self.view_options["size"] % 64 or self.view_options["size"] < 64):
            raise ValueError(f"test_size={self.view_options['size']}: expected a multiple of 64")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected a positive number")
        self.device = device or jax.local_devices()[0]
        self.density = tasks.predictive_density(task.config, variables, required=False)
        if self.finds_people:  # a program for each shape of picture: they share the weights
            program = jax.jit(lambda weights, batch: task.predict(weights, batch, flip_test=flip_test))
            self._predict = partial(program, jax.device_put(variables, self.device))
        else:
            # Constants of the program: its convolutions are laid out for them, which is 10 % of the time of one crop on a processor.
            weights = jax.device_get(variables)
            self._predict = jax.jit(lambda batch: task.predict(weights, batch, flip_test=flip_test))

    def __call__(self, images: Any, boxes: Any = None) -> Poses | list[Poses]:
        """Poses of one picture, or of a list of them.

        Args:
          images: a path, a PIL image, an array (h, w[, 3]) RGB uint8 (see `jaxpose.predict.media.picture`), or a list of such.
          boxes: of one picture: (P, 4) x, y, w, h in pixels, or (P, 5) with a score; None: the whole picture. Of a list: a list
            of them. A picture with an empty list has no poses.

        Returns:
          Poses, or a list of them.

        Raises:
          ValueError: a bad picture (`jaxpose.predict.media.picture`); boxes of another shape, not finite, empty, or outside the
            picture; boxes for a net that finds people itself; weights that are not finite.
          FileNotFoundError: no such file.
        """
        if not isinstance(images, (list, tuple)):
            return self([images], [boxes])[0]
        boxes = [None] * len(images) if boxes is None else boxes
        if len(boxes) != len(images):
            raise ValueError(
                f"{len(images)} images and {len(boxes)} entries of boxes: expected one entry an image, None or (P, 4)"
            )
        if self.finds_people and any(entry is not None for entry in boxes):
            raise ValueError("this net finds the people itself: leave boxes out")
        poses: list[Poses] = []
        for start in range(0, len(images), self.batch_size):  # decoded when they are needed
            mine = slice(start, start + self.batch_size)
            pictures = [media.picture(image, max_pixels=self.max_pixels) for image in images[mine]]
            poses += self._found(pictures) if self.finds_people else self._in_boxes(pictures, boxes[mine], first=start)
        return poses

    def _in_boxes(self, pictures: list[np.ndarray], boxes: Sequence[Any], *, first: int) -> list[Poses]:
        checked = [
            _boxes(entry, picture.shape[1::-1], i)
            for i, (picture, entry) in enumerate(zip(pictures, boxes), start=first)
        ]
        box, score = (
            (np.concatenate([entry[j] for entry in checked]) for j in (0, 1)) if checked else (np.zeros((0, 4)), ())
        )
        owner = np.repeat(np.arange(len(pictures)), [len(entry[0]) for entry in checked])
        affine = geometry.box_to_affine(box, self.size_wh, padding=PADDING)
        crops = (warped(pictures[i], a, self.size_wh) for i, a in zip(owner, affine, strict=True))
        outputs = self._batched(crops, len(box))
        joints = (len(box), self.skeleton.num_joints)
        xy = geometry.apply_affine(
            geometry.invert_affine(affine), outputs.get("xy", np.zeros((*joints, 2))).astype(np.float64)
        )
        confidence = outputs.get("confidence", np.zeros(joints)).astype(np.float64)
        _check_finite(xy, confidence)
        sigma = None
        if self.density is not None:
            sigma = outputs.get("sigma", np.zeros((*joints, 2))) * np.array(self.size_wh) / affine[:, :1, None, 0]
        area = geometry.fit_box(box, aspect=self.size_wh[0] / self.size_wh[1], padding=PADDING)[:, 2:].prod(-1)
        total = results.person_score(confidence, score, rule=self.rescore)
        return [
            Poses(
                xy[mine], confidence[mine], total[mine], self.skeleton, box=box[mine], box_score=score[mine],
                crop_area=area[mine], sigma=None if sigma is None else sigma[mine], density=self.density,
            )
            for mine in (owner == i for i in range(len(pictures)))
        ]  # fmt: skip

    def _batched(self, crops, count: int) -> dict[str, np.ndarray]:
        """Predictions for so many crops. The last batch is filled up to a power of two: few programs, little waste."""
        chunks = []
        for start in range(0, count, self.batch_size):
            rows = min(self.batch_size, count - start)
            batch = np.stack([next(crops) for _ in range(rows)])
            outputs = self._run({"image": batch})
            chunks.append({k: v[:rows] for k, v in outputs.items()})
        return {k: np.concatenate([chunk[k] for chunk in chunks]) for k in chunks[0]} if chunks else {}

    def _run(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(batch["image"])
        room = min(1 << (rows - 1).bit_length(), self.batch_size)
        filled = {
            k: np.concatenate([v, np.repeat(v[-1:], room - rows, axis=0)]) if room > rows else v
            for k, v in batch.items()
        }
        return jax.device_get(self._predict(jax.device_put(filled, self.device)))

    def _found(self, pictures: list[np.ndarray]) -> list[Poses]:
        settings = tasks.FindPeople(**self.task.config["people"])
        same_shape = defaultdict(list)
        for i, image in enumerate(pictures):
            made, affine = views(image, **self.view_options)
            same_shape[made["image"].shape].append((i, made, affine))
        poses: list[Poses | None] = [None] * len(pictures)
        for members in same_shape.values():
            for start in range(0, len(members), self.batch_size):
                chunk = members[start : start + self.batch_size]
                batch = {name: np.stack([made[name] for _, made, _ in chunk]) for name in chunk[0][1]}
                maps = {k: v[: len(chunk)] for k, v in self._run(batch).items()}
                _check_finite(maps["heatmap"], maps["tag"])
                found = tasks.find_people(maps, settings, stride=batch["image"].shape[2] / maps["heatmap"].shape[2])
                for row, (i, _, affine) in enumerate(chunk):
                    people = found["poses"][row][found["valid"][row]].astype(np.float64)
                    there = people[..., 2:] > 0
                    xy = np.where(there, geometry.apply_affine(geometry.invert_affine(affine), people[..., :2]), 0.0)
                    score = found["scores"][row][found["valid"][row]].astype(np.float64)
                    poses[i] = Poses(xy, people[..., 2], score, self.skeleton, box_score=score)
        return poses


def load(
    directory: str | Path,
    *,
    step: int | Literal["best", "latest"] = "best",
    net: nn.Module | None = None,
    flip_test: bool | None = None,
    batch_size: int | None = None,
    test_size: int | None = None,
    fit: Literal["short", "long"] = "short",
    scales: Sequence[float] = (1.0,),
    max_pixels: int = media.MAX_PIXELS,
    device: jax.Device | None = None,
) -> Predictor:
    """A predictor from a run's folder or an imported checkpoint. TensorFlow is not needed, OpenCV is (the extra `data`).

    Args:
      directory: of the run, or its checkpoints.
      step: which checkpoint; see `checkpoint.restore_model`.
      net: where the checkpoint was trained with one that is not this package's.
      flip_test: average with the mirrored picture, at twice the time; None: as the run was evaluated.
      batch_size: crops, or whole images, at a time; None: 32 or 4.
      test_size, fit, scales: of whole images: `jaxpose.data.whole_images.eval_batches`. fit="long": one program for all shapes.
      max_pixels: larger pictures are refused.
      device: None: the first.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, a damaged one, or one that does not fit its net.
    """
    variables, config = checkpoint.restore_model(directory, step=step)
    task = tasks.from_config(config["task"], net=net)
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), directory)
    return Predictor(
        task, variables, config, flip_test=flip_test, batch_size=batch_size, test_size=test_size, fit=fit, scales=scales,
        max_pixels=max_pixels, device=device,
    )  # fmt: skip


def _evaluated_with_flip(run: dict[str, Any], finds_people: bool) -> bool:
    """`flips` of the experiments' configs."""
    stored = run.get("flip_test")
    if stored is None and finds_people and "augment" in run:
        return augment.named_whole(run["augment"]).flip > 0
    return True if stored is None else stored


def _boxes(entry: Any, image_wh: tuple[int, int], image: int) -> tuple[np.ndarray, np.ndarray]:
    """((P, 4) boxes, (P,) scores) of a picture, float64, checked."""
    if entry is None:
        entry = [[0, 0, *image_wh]]
    try:
        rows = np.asarray(entry, np.float64)
    except (TypeError, ValueError):
        rows = np.zeros(())
    rows = rows.reshape(-1, 4) if rows.size == 0 and rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] not in (4, 5):
        raise ValueError(
            f"boxes of image {image} are {np.shape(entry)}: expected (P, 4), x, y, w, h in pixels, or (P, 5) with a score"
        )
    box, score = rows[:, :4], rows[:, 4] if rows.shape[1] == 5 else np.ones(len(rows))
    for row, (_, _, w, h) in enumerate(box):
        name = f"box {row} of image {image}, {box[row].tolist()}"
        if not (np.isfinite(rows[row]).all() and np.abs(rows[row]).max() <= media.FARTHEST):
            raise ValueError(
                f"{name}, score {score[row]}: expected finite numbers of pixels, {media.FARTHEST:,} at most"
            )
        if w <= 0 or h <= 0:
            raise ValueError(f"{name}: expected a positive width and height (x, y, w, h, not two corners)")
        if not touches(box[row], image_wh):
            raise ValueError(f"{name}: lies outside the image of {image_wh[0]}x{image_wh[1]} pixels")
    return box, score


def _check_finite(*outputs: np.ndarray) -> None:
    if not all(np.isfinite(values).all() for values in outputs):
        raise ValueError("the net's outputs are not finite: its weights are damaged, or its training diverged")
