"""Experiments on whole images (bottom-up): the settings, the data, predictions, scores and pictures of a run.

`experiments.common.runner` trains; what it asks of this module it also asks of `experiments.common.persons`.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from experiments.common import kinds
from experiments.common.config import RunConfig
from jaxpose import geometry, inference, metrics, parallel, tasks
from jaxpose.data import augment, pixels
from jaxpose.data import whole_images as images
from jaxpose.data.formats import coco
from jaxpose.evaluation import average_precision, results
from jaxpose.skeleton import Skeleton

log = logging.getLogger("jaxpose")
SAMPLES = "images"
USED = ("image", "joints", "visibility", "extent", "mask_4", "mask_2")  # by a task, of a batch


@dataclass(frozen=True)
class ImageConfig(RunConfig):
    """Settings of every run on whole images."""

    FAMILIES = ("bottom_up",)

    size_wh: tuple[int, int] = (512, 512)
    """Width and height of the training images."""
    augment: Literal["none", "light", "higher_hrnet", "swahr_paper"] = "higher_hrnet"
    """Augmentation of whole images; see jaxpose/data/augment.py for its numbers."""
    choose: Literal["labelled", "annotated", "all"] = "annotated"
    """Images to train on: with a labelled person, with any person (crowds too), or all. Evaluation takes all."""
    padded_people: int | None = None
    """Room for so many persons in a training image; none: as many as the fullest image has. Beyond it the smallest are masked."""
    test_size: int | None = None
    """Side of the image at test, a multiple of 64; none: the smaller of --size-wh, or that of the run that is evaluated."""
    test_batch_size: int = 8
    """Images at a time at test, rounded up to a multiple of the devices: the maps of an image of 512x768 pixels are 80 MB."""
    fit: Literal["short", "long"] = "short"
    """Which side that is: the short one, as published (one compilation for every shape of image), or the long one (a square)."""
    scales: tuple[float, ...] = (1.0,)
    """Scales of the image at test, whose heatmaps are averaged; published: 0.5 1 2 in the code, 0.5 1 1.5 in the paper."""
    group_on: Literal["host", "device"] = "host"
    """Where peaks become people: in NumPy, the faster way on a processor, or jitted where the maps are."""
    flip_test: bool | None = None
    """Average with the prediction on the mirrored image; none: if the training mirrored images."""

    def flips(self) -> bool:
        return augment.named_whole(self.augment).flip > 0 if self.flip_test is None else self.flip_test

    def as_trained(self, stored: Mapping[str, Any]) -> ImageConfig:
        tested = inference.from_checkpoint(stored)
        return dataclasses.replace(
            super().as_trained(stored),
            flip_test=tested.flip_test if self.flip_test is None else self.flip_test,
            test_size=tested.test_size if self.test_size is None else self.test_size,
        )


def load(config: ImageConfig, *, skeleton: Skeleton | None = None, reader: Any = coco) -> kinds.Data:
    """The splits that the config names, as images; see `kinds.open_splits`."""
    side = test_size(config)
    if side % 64 or side < 64:
        origin = "" if config.test_size else f" (the smaller of --size-wh {config.size_wh})"
        raise ValueError(f"--test-size {side}{origin}: expected a multiple of 64")
    try:
        images.fitted_sizes((side, side), size=side, fit=config.fit, scales=config.scales)
    except ValueError as error:
        raise ValueError(f"--scales {config.scales}: {error}") from None
    train_source, val = kinds.open_splits(config, skeleton=skeleton, reader=reader)
    truth = val.ground_truth_json if len(val) else None
    whole = None if train_source is None else train_source.at_level("image")
    return kinds.Data(whole, val.at_level("image"), truth, walk=sys.modules[__name__])


def check(config: ImageConfig, data: kinds.Data) -> None:
    """Raise where there is nothing to train on or to evaluate on."""
    if len(data.val) == 0:
        raise ValueError(f"split {config.val_split!r} of {config.data} has no images")


def count(config: ImageConfig, data: kinds.Data) -> int:
    """Samples of an epoch."""
    return len(images.chosen(data.train, config.choose))


def test_size(config: ImageConfig) -> int:
    """The side at test."""
    return min(config.size_wh) if config.test_size is None else config.test_size


def variant(config: ImageConfig) -> str:
    """What the name of an evaluation's files says of its scales."""
    return "" if config.scales == (1.0,) else "_scales_" + "_".join(f"{s:g}" for s in config.scales)


def train_batches(source, config: ImageConfig, mesh, *, start_step: int, total: int) -> Iterator[dict[str, jax.Array]]:
    """Global device batches from `start_step` on; batch t depends on (seed, t) only."""
    host = images.train_batches(
        source, size_wh=config.size_wh, batch_size=config.batch_size, augment=config.augment, seed=config.seed,
        choose=config.choose, max_people=config.padded_people, start_step=start_step, stop_step=total,
        process_index=jax.process_index(), process_count=jax.process_count(), threads=config.workers,
    )  # fmt: skip
    for batch in host:
        yield parallel.global_batch({k: batch[k] for k in USED}, mesh)


def eval_batches(source, config: ImageConfig, mesh, **options: Any):
    """Every image once, at the sizes of the test."""
    rows = -(-config.test_batch_size // mesh.size) * mesh.size
    return images.eval_batches(
        source, size=test_size(config), fit=config.fit, batch_size=rows, threads=config.workers,
        process_index=jax.process_index(), process_count=jax.process_count(), **options,
    )  # fmt: skip


def predict(predict_fn, variables, source, task: tasks.Task, config: ImageConfig, mesh) -> dict[str, np.ndarray]:
    """The people of every image of `source`, on every process.

    Returns:
      "poses" (N, P, K, 3) in image pixels with a score a joint, "scores" (N, P), "valid" (N, P), "image_id" and "index" (N,),
      the index in the source.
    """
    people, chunks = tasks.FindPeople(**task.config["people"]), []
    for batch in eval_batches(source, config, mesh, scales=config.scales):
        views = {k: v for k, v in batch.items() if k.startswith("image") and k != "image_id"}
        maps = predict_fn(variables, parallel.global_batch(views, mesh))
        stride = batch["image"].shape[2] / maps["heatmap"].shape[2]
        if config.group_on == "device":
            found = parallel.gather(tasks.find_people(maps, people, stride=stride, device=True))
        else:
            found = parallel.gather_host(tasks.find_people(parallel.local_rows(maps), people, stride=stride))
        known = parallel.gather_host({k: batch[k] for k in ("affine", "image_id", "index", "valid")})
        rows = {**found, "image_id": known["image_id"], "index": known["index"]}
        back = geometry.invert_affine(known["affine"].astype(np.float64))
        there = found["poses"][..., 2:] > 0
        xy = np.where(there, geometry.apply_affine(back, found["poses"][..., :2].astype(np.float64)), 0.0)
        rows["poses"] = np.concatenate([xy, found["poses"][..., 2:]], -1)
        chunks.append({k: v[known["valid"]] for k, v in rows.items()})
    merged = {k: np.concatenate([chunk[k] for chunk in chunks]) for k in chunks[0]}
    order = np.argsort(merged["index"])  # the batches came by shape
    return {k: v[order] for k, v in merged.items()}


def records_of(predictions: dict[str, np.ndarray], *, category_id: int) -> list[dict[str, Any]]:
    """Result records of the people found; a person's score is the mean of its joints' (facts of the published parser)."""
    image, person = np.nonzero(predictions["valid"])
    poses = predictions["poses"][image, person]
    return results.from_predictions(
        xy=poses[..., :2], confidence=poses[..., 2], image_id=predictions["image_id"][image],
        box_score=predictions["scores"][image, person], category_id=category_id, rescore="box",
    )  # fmt: skip


def score(
    predictions, task: tasks.Task, variables, config: ImageConfig, data: kinds.Data, *, name: str, last: bool = True
) -> dict[str, float]:
    """Write the result JSON (process 0) and compute the numbers (every process, from the same predictions)."""
    records = records_of(predictions, category_id=data.val.category_id)
    path = config.out / "results" / f"{name}.json"
    if jax.process_index() == 0:
        results.write(records, path)
    if data.ground_truth is None:
        log.info("no annotations to score against: the predictions are in %s", path)
        return {}
    sigmas = data.val.skeleton.sigmas
    if data.own_scores is not None:  # in the place of COCO's numbers, whose size classes mean nothing there
        scores = data.own_scores({**predictions, "records": records}, config)
    else:
        scores = average_precision(data.ground_truth, records, sigmas=sigmas, category_id=data.val.category_id)
    scores["people_per_image"] = float(predictions["valid"].sum(1).mean())
    if last and task.config["loss"]["targets"] == "scale_adaptive":
        # Kept for the picture: every process takes part in this, one draws.
        size, factor = scale_against_size(task, variables, data.val, config, parallel.make_mesh())
        predictions["size"], predictions["factor"] = size, factor
        if np.isfinite(r := metrics.pearson(size, factor)):
            scores["scale_pearson"] = r
    return scores


def scale_against_size(task: tasks.Task, variables, source, config: ImageConfig, mesh) -> tuple[np.ndarray, np.ndarray]:
    """Of every labelled person: its size, the square root of its area in input pixels, and the mean of the learned factors of
    the standard deviation at its joints."""

    def at_joints(variables, batch):
        factors = tasks.scale_factors(task.config, variables, batch["image"])
        values, where = tasks.read_joints(factors, batch["joints"], batch["visibility"], width=batch["image"].shape[2])
        return values.sum(-1) / where.sum(-1).clip(1), where.any(-1)

    step = jax.jit(at_joints)
    people = source.persons
    first, last = (np.searchsorted(people["image"], np.arange(len(source)), side) for side in ("left", "right"))
    most, joints = max((last - first).max(initial=1), 1), source.skeleton.num_joints
    sizes, factors = [], []
    for batch in eval_batches(source, config, mesh):
        rows = len(batch["image"])
        keypoints, area = np.zeros((rows, most, joints, 3)), np.zeros((rows, most))
        for i, index in enumerate(batch["index"]):
            mine = people[first[index] : last[index]] if batch["valid"][i] else people[:0]
            keypoints[i, : len(mine)], area[i, : len(mine)] = mine["keypoints"], mine["area"]
        zoom = np.sqrt(np.abs(np.linalg.det(batch["affine"][:, :, :2])))
        local = {
            "image": batch["image"],
            "joints": geometry.apply_affine(batch["affine"], keypoints[..., :2]).astype(np.float32),
            "visibility": keypoints[..., 2].astype(np.int8),
        }
        found = parallel.gather(step(variables, parallel.global_batch(local, mesh)))
        size = parallel.gather_host(np.sqrt(area) * zoom[:, None])
        factor, there = found
        sizes.append(size[there])
        factors.append(factor[there])
    return np.concatenate(sizes), np.concatenate(factors)


def draw(predictions, task: tasks.Task, variables, config: ImageConfig, data: kinds.Data, events) -> None:
    """The pictures at the end of a run, in out/plots."""
    from jaxpose import view

    plots, source = config.out / "plots", data.val
    view.curves(events, plots / "curves.png")
    shown = range(min(16, len(source)))
    records = [source.image(i) for i in shown]
    pictures = [np.asarray(pixels.decode_picture(r["jpeg"], r["file_name"]).convert("RGB")) for r in records]
    if task.config["loss"]["targets"] == "scale_adaptive":
        if "size" not in predictions and jax.process_count() == 1:  # a finished run whose pictures are drawn anew
            predictions["size"], predictions["factor"] = scale_against_size(
                task, variables, source, config, parallel.make_mesh()
            )
        if len(predictions.get("size", ())) > 2:
            size, factor = predictions["size"], predictions["factor"]
            view.scale_against_size(size, factor, plots / "scale_against_size.png", r=metrics.pearson(size, factor))
        squares = [images.eval_sample(source, i, size=test_size(config), fit="long") for i in shown[:8]]
        factors = jax.jit(lambda v, x: tasks.scale_factors(task.config, v, x))(
            variables, np.stack([square["image"] for square in squares])
        )
        view.scale_maps([square["image"] for square in squares], np.asarray(factors).mean(-1), plots / "scale_maps.png")
    labelled = [r["persons"]["keypoints"] for r in records]
    # Joints below the threshold are guesses of the refinement, anywhere in the image.
    poses = predictions["poses"] * (predictions["poses"][..., 2:] > task.config["people"]["detection_threshold"])
    view.people(
        pictures, [poses[i][predictions["valid"][i]] for i in shown], source.skeleton,
        config.out / kinds.LAST_PICTURE, truth=[k[..., :2] for k in labelled], labelled=[k[..., 2] > 0 for k in labelled],
        scores=[predictions["scores"][i][predictions["valid"][i]] for i in shown],
    )  # fmt: skip
