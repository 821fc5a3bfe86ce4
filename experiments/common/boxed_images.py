"""Experiments on whole images with boxes: the settings, the data, predictions, scores and pictures of a run.

`BoxedImages` is the kind of data that `experiments.common.runner` trains on; see `experiments.common.kinds`. Its task predicts, for
each image, "boxes" (B, D, 4) xyxy and "keypoints" (B, D, K, 2) in pixels of the scaled image, "scores" (B, D), best first, "valid"
(B, D), "keypoint_confidence" (B, D, K) and "candidates" (B,), the number of people that there were for the D slots.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np

from experiments.common import kinds
from experiments.common.all_people import AllPeople, open_images, records_of
from experiments.common.config import RunConfig
from experiments.common.kinds import Batch, Predictions, PredictStep, PyTree
from experiments.common.rules import AllPositive, AnyValue, Between, Fixed, Increasing, MayChange, Positive, Size
from jaxpose import inference, parallel, tasks
from jaxpose.data import boxed_images as images
from jaxpose.data import detection as scaling
from jaxpose.evaluation import average_precision, boxes, results
from jaxpose.skeleton import Skeleton

log = logging.getLogger(__name__)
USED = (
    "image",
    "size_hw",
    "boxes",
    "people",
    "keypoints",
)  # entries of a batch that a task reads, besides the image's id
DRAWN_ABOVE = 0.3  # score of the people in the picture at the end of a run
OUTPUTS = ("boxes", "scores", "valid", "candidates", "keypoints", "keypoint_confidence")


@dataclass(frozen=True)
class BoxedImageConfig(RunConfig):
    """Settings of every run on whole images with boxes."""

    LEVEL = "detection"

    size_wh: Annotated[tuple[int, int], Size, Fixed] = (1333, 800)
    """Largest length of the longer side of a scaled image, and length of the shorter side, px."""
    short_sides: Annotated[tuple[int, ...], AllPositive, Fixed] = ()
    """Shorter sides of which one is drawn for each training image; none: that of --size-wh."""
    padded_long: Annotated[tuple[int, ...], Increasing, Fixed] = (1088, 1216, 1344)
    """Lengths that the longer side is padded to, one compilation each for landscapes and for portraits."""
    scale_rule: Annotated[Literal["torchvision", "detectron2"], AnyValue, Fixed] = "detectron2"
    """Interpolation and rounding of the scaled image: bytes with a filter (detectron2), or floats without (torchvision)."""
    half_pixel: Annotated[bool, AnyValue, Fixed] = True
    """Add half a pixel to labelled joints, and subtract it from predicted ones, as Detectron2 does (QUIRK E8)."""
    flip: Annotated[float, Between(0, 1, "a probability"), Fixed] = 0.5
    """Probability of mirroring a training image."""
    choose: Annotated[Literal["labelled", "annotated", "all"], AnyValue, Fixed] = "labelled"
    """Images to train on: those with a labelled joint, as published, those with a box, or all. Evaluation uses all."""
    padded_people: Annotated[int | None, Positive, Fixed] = None
    """Largest number of people in a training image; none: that of the fullest image. Smaller boxes beyond it are background."""
    test_batch_size: Annotated[int, Positive, MayChange] = 4
    """Number of images per test batch, rounded up to a multiple of the devices."""

    def check(self) -> None:
        """Raises a ValueError if flags contradict each other."""
        super().check()
        longest, short = self.size_wh
        if longest < short:
            raise ValueError(f"--size-wh {self.size_wh}: expected the longest side first, then the shorter one")
        if any(side > short for side in self.short_sides):
            raise ValueError(
                f"--short-sides {self.short_sides}: expected at most the shorter side of --size-wh, {short}"
            )

    def idle(self) -> dict[str, str]:
        return {**super().idle(), "flip_test": "a net that averages two views, which detectors do not"}

    def flips(self) -> bool:
        return False

    def scaling(self) -> images.Scaling:
        """Returns how images are scaled and padded."""
        longest, short = self.size_wh
        return images.Scaling(
            short, longest, rule=self.scale_rule, half_pixel=self.half_pixel, padded_long=tuple(self.padded_long)
        )

    def resize(self) -> tasks.Resize:
        """Returns the same for a task, which stores it."""
        longest, short = self.size_wh
        return tasks.Resize(short, longest, rule=self.scale_rule, half_pixel=self.half_pixel)


@dataclass(frozen=True)
class BoxedImages(AllPeople):
    """Whole images with the boxes and joints of all their people: a `Kind`."""

    config: BoxedImageConfig
    best: ClassVar[str] = "AP"
    headline: ClassVar[tuple[str, ...]] = ("AP", "AP50", "AP75", "box_AP", "box_AP50", "people_per_image")

    @cached_property
    def people(self) -> images.People:
        """The people of the training images; their annotations are read once."""
        return images.People.of(self.train, max_people=self.config.padded_people)

    def count(self) -> int:
        """Returns the number of images in an epoch."""
        return len(self.people.select(self.config.choose))

    def variant(self) -> str:
        """Returns the settings of an evaluation for its file names."""
        return ""

    def train_batches(self, *, start_step: int, total: int) -> Iterator[Batch]:
        """Yields global batches of images, from `start_step` up to `total`; batch t depends on (seed, t) only."""
        config = self.config
        host = images.train_batches(
            self.people, scaling=config.scaling(), short_sides=config.short_sides, flip=config.flip,
            batch_size=config.batch_size, seed=config.seed, choose=config.choose, start_step=start_step, stop_step=total,
            process_index=jax.process_index(), process_count=jax.process_count(), threads=config.workers,
        )  # fmt: skip
        for batch in host:
            number = (batch["image_id"] & 0x7FFFFFFF).astype(np.int32)  # JAX has no int64 by default
            yield parallel.global_batch({name: batch[name] for name in USED} | {"image_id": number}, self.mesh)

    def eval_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's rows of every image once."""
        config = self.config
        yield from images.eval_batches(
            self.val, scaling=config.scaling(), batch_size=self.test_rows(), threads=config.workers,
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip

    def predict(self, step: PredictStep, task: tasks.Task, variables: PyTree) -> Predictions:
        """Returns the people of every image of `val`, on every process.

        Returns:
            Arrays "box" (N, D, 4) x, y, w, h and "poses" (N, D, K, 3) in pixels of the stored image, with a score per joint, "scores"
            (N, D), "valid" (N, D), "candidates" (N,), "image_id" and "index" (N,), the index in the source; in the order of the
            source.
        """
        predict = inference.on_mesh(step, variables, self.mesh, inputs=("image", "size_hw"))

        def people(batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
            outputs = predict(batch)
            names = [name for name in (*OUTPUTS, "keypoint_sigma") if name in outputs]
            return {"is_person" if name == "valid" else name: outputs[name] for name in names}  # valid: no padding

        rows = inference.run(people, self.eval_batches())
        rows = {name: values[np.argsort(rows["index"], kind="stable")] for name, values in rows.items()}
        placed = scaling.in_picture(rows, picture_hw=rows["picture_hw"], half_pixel=task.resize.half_pixel)
        valid = rows["is_person"] & (placed["box"][..., 2:] > 0).all(-1)
        self._warn_of_left_out(rows["candidates"], rows["is_person"].shape[1])
        poses = np.concatenate([placed["xy"], rows["keypoint_confidence"][..., None]], -1)
        result = {"box": placed["box"], "poses": poses, "scores": rows["scores"], "valid": valid}
        if "sigma" in placed:
            result["sigma"] = placed["sigma"]
        return result | {name: rows[name] for name in ("candidates", "image_id", "index")}

    def _warn_of_left_out(self, candidates: np.ndarray, slots: int) -> None:
        fuller = candidates > slots
        if fuller.any() and jax.process_index() == 0:
            log.warning(
                "%d images have more people than the net's %d slots: the %d with the lowest scores are left out",
                fuller.sum(), slots, (candidates - slots)[fuller].sum(),
            )  # fmt: skip

    def score(
        self, predictions: Predictions, task: tasks.Task, variables: PyTree, *, name: str, last: bool = True
    ) -> dict[str, float]:
        """Writes the result JSON (process 0) and returns the scores of joints (AP ...) and of boxes (box_AP ...)."""
        records = records_of(predictions, category_id=self.val.category_id)
        path = self.config.out / "results" / f"{name}.json"
        if jax.process_index() == 0:
            results.write(records, path)
        if self.ground_truth is None:
            kinds.log_unscored(path)
            return {}
        category = self.val.category_id
        scores = average_precision(self.ground_truth, records, sigmas=self.val.skeleton.sigmas, category_id=category)
        of_boxes = boxes.average_precision(self.ground_truth, records, category_id=category)
        scores |= {f"box_{key}": value for key, value in of_boxes.items()}
        return scores | {"people_per_image": float(predictions["valid"].sum(1).mean())}

    def draw(self, predictions: Predictions, task: tasks.Task, variables: PyTree, events: list[dict[str, Any]]) -> None:
        """Draws the pictures at the end of a run into out/plots."""
        from jaxpose import view

        view.curves(events, self.config.out / "plots" / "curves.png")
        where = predictions["valid"] & (predictions["scores"] > DRAWN_ABOVE)
        self.draw_people(predictions["poses"], predictions["scores"], where)


def load(config: BoxedImageConfig, *, skeleton: Skeleton | None = None) -> BoxedImages:
    """Opens the splits that the config names; see `open_images`."""
    return BoxedImages(config, *open_images(config, skeleton=skeleton))
