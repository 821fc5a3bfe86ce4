"""Experiments on crops of persons: the settings, the data, predictions, scores and pictures of a run.

`experiments.common.runner` trains; what it asks of this module it also asks of `experiments.common.whole_images`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments.common import kinds
from experiments.common.config import RunConfig
from jaxpose import density, geometry, inference, parallel, tasks
from jaxpose.data import boxes
from jaxpose.data import crops as pipeline
from jaxpose.data.formats import coco
from jaxpose.evaluation import average_precision, report, results
from jaxpose.skeleton import Skeleton

log = logging.getLogger("jaxpose")
SAMPLES = "persons"
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class PersonConfig(RunConfig):
    """Settings of every run on crops of persons."""

    FAMILIES = ("regression", "heatmaps")

    detections: Path | None = None
    """Evaluate on the boxes of this detection JSON; none: ground-truth boxes."""
    box_jitter: float = 0.0
    """Evaluate with ground-truth boxes moved and resized by up to this part of their size, as a detector errs."""

    augment: Literal["none", "light", "official", "hrnet", "simple_baseline", "mpii", "mmpose", "mmpose_mpii"] = (
        "official"
    )
    """Augmentation setting; see jaxpose/data/augment.py for its numbers."""
    decode: pipeline.Decode | None = None
    """JPEGs decoded whole ("exact"), or at 1/2, 1/4 or 1/8 where a crop is shown no larger ("scaled": quicker with large images,
    other pixels); none: exact, or as the run that is evaluated."""

    rescore: Literal["box+mean+max", "box*mean", "box"] = "box+mean+max"
    """How a person's score comes from the box score and the joints' confidences (QUIRK R10)."""
    nms: float | None = 0.9
    """OKS above which the lower-scored of two poses is dropped; none: no suppression."""
    soft_nms: bool = False
    """Decay the scores of overlapping poses instead of dropping them."""

    def as_trained(self, stored: Mapping[str, Any]) -> PersonConfig:
        return dataclasses.replace(
            super().as_trained(stored), decode=self.decode or inference.from_checkpoint(stored).decode
        )

    def decoding(self) -> pipeline.Decode:
        """How JPEGs are decoded."""
        return self.decode or "exact"


def load(config: PersonConfig, *, skeleton: Skeleton | None = None, reader: Any = coco) -> kinds.Data:
    """The splits that the config names, evaluated on annotated, moved or detected boxes; see `kinds.open_splits`."""
    train_source, val = kinds.open_splits(config, skeleton=skeleton, reader=reader)
    ground_truth = val.ground_truth_json if len(val) else None
    if config.detections is not None:
        val = boxes.with_detections(val, config.detections, on_bad=config.on_bad)
    elif config.box_jitter:
        val = boxes.with_jittered_boxes(val, fraction=config.box_jitter, seed=config.seed)
    return kinds.Data(train_source, val, ground_truth, walk=sys.modules[__name__])


def check(config: PersonConfig, data: kinds.Data) -> None:
    """Raise where there is nobody to train on or to evaluate on."""
    for split, source in ((config.train_split, data.train), (config.val_split, data.val)):
        if len(source) == 0:
            raise ValueError(f"split {split!r} of {config.data} has no person with labelled keypoints")


def count(config: PersonConfig, data: kinds.Data) -> int:
    """Samples of an epoch."""
    return len(data.train)


def variant(config: PersonConfig) -> str:
    """What the name of an evaluation's files says of its boxes and pixels."""
    boxes = "_detections" if config.detections else "_jitter" if config.box_jitter else ""
    return boxes + ("_scaled" if config.decoding() == "scaled" else "")


def train_batches(source, config: PersonConfig, mesh, *, start_step: int, total: int) -> Iterator[dict[str, jax.Array]]:
    """Global device batches from `start_step` on; batch t depends on (seed, t) only."""
    host = pipeline.train_batches(
        source, size_wh=config.size_wh, batch_size=config.batch_size, augment=config.augment, seed=config.seed,
        start_step=start_step, process_index=jax.process_index(), process_count=jax.process_count(),
        stop_step=total, threads=config.workers, decode=config.decoding(),
    )  # fmt: skip
    for batch in host:
        yield parallel.global_batch({k: batch[k] for k in ("image", "joints", "visibility")}, mesh)


def predict(predict_fn, variables, source, task: tasks.Task, config: PersonConfig, mesh) -> dict[str, np.ndarray]:
    """Predictions for every sample of `source` exactly once, on every process, in the source's order.

    Returns:
      per sample: "xy" and "joints" in image pixels (N, K, 2), "target" normalised to the input (N, K, 2), "confidence" (N, K),
      what else the task predicts (of regression: "mu", "sigma"), and the batch's ids, boxes, areas and scores.
    """
    chunks = []
    host = pipeline.eval_batches(
        source, size_wh=config.size_wh, batch_size=config.batch_size,
        process_index=jax.process_index(), process_count=jax.process_count(), threads=config.workers,
        decode=config.decoding(),
    )  # fmt: skip
    for batch in host:
        device_batch = parallel.global_batch({"image": batch["image"]}, mesh)
        outputs = parallel.gather(predict_fn(variables, device_batch))
        known = parallel.gather_host({k: v for k, v in batch.items() if k != "image"})
        rows = {**known, **outputs}
        chunks.append({k: v[known["valid"]] for k, v in rows.items()})
    merged = {k: np.concatenate([chunk[k] for chunk in chunks]) for k in chunks[0]}
    back = geometry.invert_affine(merged["affine"])
    merged["target"] = geometry.normalize(merged["joints"], config.size_wh)
    merged["joints"] = geometry.apply_affine(back, merged["joints"])
    merged["xy"] = geometry.apply_affine(back, merged["xy"])
    return merged


def score(
    predictions, task, variables, config: PersonConfig, data: kinds.Data, *, name: str, last: bool = True
) -> dict[str, float]:
    """Write the result JSON (process 0) and compute the numbers (every process, from the same predictions).

    `last` adds the predictive density's coverage, some seconds of quadrature.
    """
    skeleton = data.val.skeleton
    records = results.from_predictions(
        xy=predictions["xy"], confidence=predictions["confidence"], image_id=predictions["image_id"],
        box=predictions["box"], box_score=predictions["score"], area=predictions["crop_area"],
        annotation_id=predictions["annotation_id"] if config.detections is None else None,
        category_id=data.val.category_id, rescore=config.rescore,
    )  # fmt: skip
    if config.nms is not None:
        records = results.suppress(records, sigmas=skeleton.sigmas, threshold=config.nms, soft=config.soft_nms)
    if jax.process_index() == 0:
        results.write(records, config.out / "results" / f"{name}.json")
    if data.ground_truth is None:
        log.info("no annotations to score against: the predictions are in %s", config.out / "results" / f"{name}.json")
        return {}
    scores = average_precision(data.ground_truth, records, sigmas=skeleton.sigmas, category_id=data.val.category_id)
    if data.own_scores is not None:
        scores |= data.own_scores(predictions, config)
    if config.detections is None:
        model = tasks.predictive_density(task.config, variables, required=False) if last else None
        details = report.details(predictions, sigmas=skeleton.sigmas, names=skeleton.joints)
        scores |= details["summary"]
        if model is not None:
            details["density"] = density_report(predictions, model)
            scores["calibration_error"] = details["density"]["all"]["calibration_error"]
        if jax.process_index() == 0:
            (config.out / "results" / f"{name}_report.json").write_text(json.dumps(details, indent=1))
    return scores


def density_report(predictions, model: density.Model) -> dict[str, Any]:
    """Coverage, calibration error and the distribution of sigma, for all, visible and occluded labels."""
    visibility = predictions["visibility"]
    return density.calibration(
        predictions["mu"], predictions["sigma"], predictions["target"], model,
        levels=LEVELS, where=visibility > 0, occluded=visibility == 1,
    )  # fmt: skip


def draw(predictions, task, variables, config: PersonConfig, data: kinds.Data, events: list[dict[str, Any]]) -> None:
    """The pictures at the end of a run, in out/plots."""
    from jaxpose import view

    plots = config.out / "plots"
    view.curves(events, plots / "curves.png")
    model = tasks.predictive_density(task.config, variables, required=False)
    deviation = None
    if model is not None:
        # sigma alone is no standard deviation: the flow holds part of the scale.
        deviation = predictions["sigma"] * density.moments(model).standard_deviation * np.asarray(config.size_wh)
    if model is not None and config.detections is None:
        described = density_report(predictions, model)
        view.learned_density(model, plots / "density.png")
        coverage = {k: np.asarray(described[k]["coverage"]) for k in described}
        view.calibration(np.asarray(LEVELS), coverage, plots / "calibration.png")
    shown = min(32, len(predictions["xy"]))
    options = {"size_wh": config.size_wh, "decode": config.decoding()}
    samples = [pipeline.sample(data.val, i, **options) for i in range(shown)]
    affine = predictions["affine"][:shown]
    view.sheet(
        np.stack([s["image"] for s in samples]),
        geometry.apply_affine(affine, predictions["xy"][:shown]),
        predictions["confidence"][:shown],
        data.val.skeleton,
        plots / "predictions.png",
        truth=geometry.apply_affine(affine, predictions["joints"][:shown]),
        labelled=predictions["visibility"][:shown] > 0,
        deviation_px=None if deviation is None else deviation[:shown],
    )
