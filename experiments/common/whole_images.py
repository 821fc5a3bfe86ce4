"""Experiments on whole images (bottom-up): the settings, the data, predictions, scores and pictures of a run.

`WholeImages` is the kind of data that `experiments.common.runner` trains on; see `experiments.common.kinds`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np

from experiments.common import kinds
from experiments.common.all_people import AllPeople, open_images, records_of
from experiments.common.config import RunConfig
from experiments.common.kinds import Batch, OwnScores, Predictions, PredictStep, PyTree
from experiments.common.rules import AllPositive, AnyValue, Fixed, MayChange, MultipleOf, Positive, Size
from jaxpose import geometry, inference, metrics, parallel, tasks
from jaxpose.data import augment
from jaxpose.data import whole_images as images
from jaxpose.evaluation import average_precision, results
from jaxpose.inference import Settings
from jaxpose.skeleton import Skeleton

log = logging.getLogger(__name__)
# Entries of a batch that a task reads.
USED = ("image", "joints", "visibility", "extent", "width", "released_extent", "mask_4", "mask_2")
PICTURES_OF_SCALES = 8  # number of images in the picture of learned scales


@dataclass(frozen=True)
class ImageConfig(RunConfig):
    """Settings of every run on whole images."""

    LEVEL = "image"

    size_wh: Annotated[tuple[int, int], Size, Fixed] = (512, 512)
    """Width and height of the training images."""
    augment: Annotated[Literal["none", "light", "higher_hrnet", "swahr_paper"], AnyValue, Fixed] = "higher_hrnet"
    """Augmentation of whole images; jaxpose/data/augment.py has its numbers."""
    choose: Annotated[Literal["labelled", "annotated", "all"], AnyValue, Fixed] = "annotated"
    """Images to train on: those with a labelled person, those with any person (crowds too), or all. Evaluation uses all."""
    padded_people: Annotated[int | None, Positive, Fixed] = None
    """Largest number of persons in a training image; none: that of the fullest image. Smaller persons beyond it are masked."""
    test_size: Annotated[int | None, MultipleOf(images.GRID), MayChange] = None
    """Side of the image at test, a multiple of 64; none: the smaller of --size-wh, or that of the run that is evaluated."""
    test_batch_size: Annotated[int, Positive, MayChange] = 8
    """Number of images per test batch, rounded up to a multiple of the devices: the maps of a 512x768 image take 80 MB."""
    fit: Annotated[Literal["short", "long"], AnyValue, MayChange] = "short"
    """The side that --test-size refers to: the short one, as published (one compilation per shape), or the long one (a square)."""
    scales: Annotated[tuple[float, ...], AllPositive, MayChange] = (1.0,)
    """Scales of the image at test, whose heatmaps are averaged; published: 0.5 1 2 in the code, 0.5 1 1.5 in the paper."""
    group_on: Annotated[Literal["host", "device"], AnyValue, MayChange] = "host"
    """Where peaks are grouped into people: in NumPy, which is faster on a CPU, or jitted on the device of the maps."""
    flip_test: Annotated[bool | None, AnyValue, MayChange] = None
    """Average with the prediction for the mirrored image; none: if training mirrored images."""

    def side(self) -> int:
        """Returns the side of the image at test."""
        return min(self.size_wh) if self.test_size is None else self.test_size

    def test_settings(self) -> Settings:
        # The score comes from the grouping, which has already separated the people of an image.
        return dataclasses.replace(super().test_settings(), rescore="box", nms=None)

    def flips(self) -> bool:
        return augment.named_whole(self.augment).flip > 0 if self.flip_test is None else self.flip_test


@dataclass(frozen=True)
class WholeImages(AllPeople):
    """Whole images for a net that finds their people: a `Kind`.

    Attributes:
        config, train, val, ground_truth, mesh: see `AllPeople`.
        own_scores: the data set's own evaluation, which replaces COCO's if COCO's size classes do not apply:
            predictions with their "records" -> {name: score}.
        best: name of the score that decides which checkpoint is the best.
        headline: names of the most important scores.
    """

    config: ImageConfig
    own_scores: OwnScores | None = None
    best: str = "AP"
    headline: tuple[str, ...] = ("AP", "AP50", "AP75", "AR", "people_per_image", "scale_pearson")

    def count(self) -> int:
        """Returns the number of images in an epoch."""
        return len(images.select_images(self.train, self.config.choose))

    def variant(self) -> str:
        """Returns the scales of an evaluation for its file names."""
        scales = self.config.scales
        return "" if scales == (1.0,) else "_scales_" + "_".join(f"{s:g}" for s in scales)

    def train_batches(self, *, start_step: int, total: int) -> Iterator[Batch]:
        """Yields global batches of images, from `start_step` up to `total`; batch t depends on (seed, t) only."""
        config = self.config
        host = images.train_batches(
            self.train, size_wh=config.size_wh, batch_size=config.batch_size, augment=config.augment, seed=config.seed,
            choose=config.choose, max_people=config.padded_people, start_step=start_step, stop_step=total,
            process_index=jax.process_index(), process_count=jax.process_count(), threads=config.workers,
        )  # fmt: skip
        for batch in host:
            yield parallel.global_batch({k: batch[k] for k in USED}, self.mesh)

    def eval_batches(self, *, scales: Sequence[float] = (1.0,)) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's rows of every image once, at the test sizes."""
        config = self.config
        yield from images.eval_batches(
            self.val, size=config.side(), fit=config.fit, batch_size=self.test_rows(), threads=config.workers, scales=scales,
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip

    def predict(self, step: PredictStep, task: tasks.Task, variables: PyTree) -> Predictions:
        """Returns the people of every image of `val`, on every process.

        Returns:
            Arrays "poses" (N, P, K, 3) in image pixels with a score per joint, "scores" (N, P), "valid" (N, P), "image_id" and
            "index" (N,), the index in the source.
        """
        return inference.people(
            inference.on_mesh(step, variables, self.mesh), self.eval_batches(scales=self.config.scales), task.people,
            on_device=self.config.group_on == "device", size_wh=np.asarray(self.val.images["size_wh"]),
        )  # fmt: skip

    def score(
        self, predictions: Predictions, task: tasks.Task, variables: PyTree, *, name: str, last: bool = True
    ) -> dict[str, float]:
        """Writes the result JSON (process 0) and returns the scores (every process, from the same predictions)."""
        records = records_of(predictions, category_id=self.val.category_id)
        path = self.config.out / "results" / f"{name}.json"
        if jax.process_index() == 0:
            results.write(records, path)
        if self.ground_truth is None:
            kinds.log_unscored(path)
            return {}
        if self.own_scores is not None:
            scores = self.own_scores({**predictions, "records": records})
        else:
            scores = average_precision(
                self.ground_truth, records, sigmas=self.val.skeleton.sigmas, category_id=self.val.category_id
            )
            scores |= self._regressed_scores(predictions)
        scores["people_per_image"] = float(predictions["valid"].sum(1).mean())
        if last and task.learns_scale:
            # Stored for the picture: every process takes part in the computation, but only one draws.
            size, factor = self.scale_against_size(task, variables)
            predictions["size"], predictions["factor"] = size, factor
            if np.isfinite(r := metrics.pearson(size, factor)):
                scores["scale_pearson"] = r
        return scores

    def _regressed_scores(self, predictions: Predictions) -> dict[str, float]:
        """Returns the scores of the joints before they were moved to peaks of heatmaps, of a net that predicts both; {} of others."""
        if "regressed" not in predictions or np.array_equal(predictions["regressed"], predictions["poses"][..., :2]):
            return {}
        poses = np.concatenate([predictions["regressed"], predictions["poses"][..., 2:]], -1)
        records = records_of({**predictions, "poses": poses}, category_id=self.val.category_id)
        scores = average_precision(
            self.ground_truth, records, sigmas=self.val.skeleton.sigmas, category_id=self.val.category_id
        )
        return {f"{name}_regressed": scores[name] for name in ("AP", "AP50", "AP75") if name in scores}

    def scale_against_size(self, task: tasks.Task, variables: PyTree) -> tuple[np.ndarray, np.ndarray]:
        """Returns two values per labelled person of `val`: its size, the square root of its area in input pixels, and the mean of the
        learned factors of the standard deviation at its joints."""

        def at_joints(variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
            factors = task.scale_factors(variables, batch["image"])
            width = batch["image"].shape[2]
            values, where = tasks.read_joints(factors, batch["joints"], batch["visibility"], width=width)
            return {"factor": values.sum(-1) / where.sum(-1).clip(1), "is_labelled": where.any(-1)}

        step = inference.on_mesh(jax.jit(at_joints), variables, self.mesh, inputs=("image", "joints", "visibility"))
        people = inference.run(step, (batch | self._people_of(batch) for batch in self.eval_batches()))
        return people["size"][people["is_labelled"]], people["factor"][people["is_labelled"]]

    def _people_of(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the joints, visibilities and sizes of the people in a batch of images, in input pixels."""
        people, rows = self.val.persons, len(batch["image"])
        first, end = (np.searchsorted(people["image"], np.arange(len(self.val)), side) for side in ("left", "right"))
        most, joints = max((end - first).max(initial=1), 1), self.val.skeleton.num_joints
        keypoints, area = np.zeros((rows, most, joints, 3)), np.zeros((rows, most))
        for i, index in enumerate(batch["index"]):
            persons = people[first[index] : end[index]] if batch["valid"][i] else people[:0]
            keypoints[i, : len(persons)], area[i, : len(persons)] = persons["keypoints"], persons["area"]
        zoom = np.sqrt(np.abs(np.linalg.det(batch["affine"][:, :, :2])))
        return {
            "joints": geometry.apply_affine(batch["affine"], keypoints[..., :2]).astype(np.float32),
            "visibility": keypoints[..., 2].astype(np.int8),
            "size": np.sqrt(area) * zoom[:, None],
        }

    def draw(self, predictions: Predictions, task: tasks.Task, variables: PyTree, events: list[dict[str, Any]]) -> None:
        """Draws the pictures at the end of a run into out/plots."""
        from jaxpose import view

        view.curves(events, self.config.out / "plots" / "curves.png")
        if task.learns_scale:
            self._draw_scales(predictions, task, variables)
        # Joints below the threshold are guesses of the refinement, anywhere in the image.
        poses = predictions["poses"] * (predictions["poses"][..., 2:] > task.least_confidence)
        self.draw_people(poses, predictions["scores"], predictions["valid"])

    def _draw_scales(self, predictions: Predictions, task: tasks.Task, variables: PyTree) -> None:
        """Draws the learned scales against the size of the person, and as maps."""
        from jaxpose import view

        plots = self.config.out / "plots"
        if "size" not in predictions and jax.process_count() == 1:  # a finished run whose pictures are drawn again
            predictions["size"], predictions["factor"] = self.scale_against_size(task, variables)
        if len(predictions.get("size", ())) > 2:
            size, factor = predictions["size"], predictions["factor"]
            view.scale_against_size(size, factor, plots / "scale_against_size.png", r=metrics.pearson(size, factor))
        count = min(PICTURES_OF_SCALES, len(self.val))
        squares = [images.eval_sample(self.val, i, size=self.config.side(), fit="long")["image"] for i in range(count)]
        factors = jax.jit(task.scale_factors)(variables, np.stack(squares))
        view.scale_maps(squares, np.asarray(factors).mean(-1), plots / "scale_maps.png")


def load(config: ImageConfig, *, skeleton: Skeleton | None = None) -> WholeImages:
    """Opens the splits that the config names; see `open_images`."""
    side = config.side()
    if side % images.GRID:
        origin = "" if config.test_size else f" (the smaller of --size-wh {config.size_wh})"
        raise ValueError(f"--test-size {side}{origin}: expected a multiple of {images.GRID}")
    try:
        images.fitted_sizes((side, side), size=side, fit=config.fit, scales=config.scales)
    except ValueError as error:
        raise ValueError(f"--scales {config.scales}: {error}") from None
    return WholeImages(config, *open_images(config, skeleton=skeleton))
