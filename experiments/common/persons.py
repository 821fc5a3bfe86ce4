"""Experiments on crops of persons: the settings, the data, predictions, scores and pictures of a run.

`Persons` is the kind of data that `experiments.common.runner` trains on; see `experiments.common.kinds`.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from experiments.common import kinds
from experiments.common.config import RunConfig
from experiments.common.kinds import Batch, OwnScores, Predictions, PredictStep, PyTree
from experiments.common.rules import AnyValue, Between, Fixed, LocalPath, MayChange, Positive, Unsaid
from jaxpose import calibration, checkpoint, density, files, geometry, inference, parallel, tasks
from jaxpose.data import boxes, crops, space
from jaxpose.data.augment import Setting, named
from jaxpose.data.source import Source
from jaxpose.evaluation import report, results
from jaxpose.evaluation.baselines import BASELINES, Baselines, box_share, causes, verdict
from jaxpose.evaluation.coco import with_categories
from jaxpose.skeleton import DEFAULT_SIGMA, Skeleton

log = logging.getLogger(__name__)
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # probabilities of the regions whose coverage is reported
FEW_STEPS = 1000
ORIENTATION = 0x0112  # the EXIF tag
USED = (
    "image",
    "joints",
    "visibility",
    "colour",
    "truncate_colour",
    "has_depth",
)  # entries of a training batch that a task reads
SHEET = 32  # number of crops in the picture of predictions

Augment = Literal[
    "none", "light", "unmirrored", "official", "hrnet", "simple_baseline", "mpii", "mmpose", "mmpose_mpii", "own",
]  # fmt: skip
EVALUATION = re.compile(r"(?:step|eval)_([0-9]+)")  # the start of an evaluation's name


@dataclass(frozen=True)
class OwnAugment:
    """The numbers of --augment own; see `jaxpose.data.augment.Setting`."""

    flip: float = 0.5
    """Probability of mirroring."""
    scale: float = 0.12
    """The size of the region is multiplied by up to 1 +- this."""
    rotation: float = 12.0
    """Largest angle, in degrees; 180: all directions are equally likely."""
    rotation_probability: float = 0.5
    """Probability of rotating."""
    shift: float = 0.0
    """The centre moves by up to this part of the padded box."""
    shift_probability: float = 1.0
    """Probability of shifting, in x and in y."""

    def setting(self) -> Setting:
        """Returns the augmentation with these numbers, with uniform draws and without half bodies."""
        return Setting("own", **dataclasses.asdict(self))

    def __post_init__(self):
        self.setting()


@dataclass(frozen=True)
class PersonConfig(RunConfig):
    """Settings of every run on crops of persons."""

    LEVEL = "person"

    detections: Annotated[Path | None, LocalPath, MayChange] = None
    """Evaluate on the boxes of this detection JSON; none: ground-truth boxes."""
    box_jitter: Annotated[float, Between(0, 1, "a part of the box, from 0 to below 1", open_high=True), MayChange] = 0.0
    """Evaluate with ground-truth boxes shifted and resized by up to this part of their size, to imitate a detector's errors."""

    augment: Annotated[Augment, AnyValue, Fixed] = "official"
    """Augmentation setting; jaxpose/data/augment.py has its numbers. "own": those of --own."""
    own: Annotated[OwnAugment, AnyValue, Fixed] = OwnAugment()
    """The numbers of --augment own."""
    padding: Annotated[float, Positive, Fixed, Unsaid(1.25)] = 1.25
    """Factor on the boxes, in training and at test."""
    decode: Annotated[crops.Decode | None, AnyValue, Fixed, Unsaid("exact")] = None
    """Decode JPEGs completely ("exact"), or at 1/2, 1/4 or 1/8 if the crop needs no more pixels ("scaled": faster for large images,
    slightly different pixels); none: exact, or as in the run that is evaluated."""

    colour: Annotated[
        float, Between(0, 1, "a part of a channel, from 0 to below 1", open_high=True), Fixed, Unsaid(0.0)
    ] = 0.0
    """In training, multiply each channel of a crop by its own random factor, uniform in 1 +- this; 0: none."""

    rescore: Annotated[Literal["box+mean+max", "box*mean", "mean", "box"], AnyValue, MayChange] = "box+mean+max"
    """How a person's score is computed from the box score and the joints' confidences (QUIRK R10)."""
    nms: Annotated[float | None, Between(0, 1, "an OKS above 0, at most 1, or None", open_low=True), MayChange] = 0.9
    """OKS above which the lower-scored of two poses is dropped; none: no suppression."""
    nms_annotated: Annotated[bool, AnyValue, MayChange] = True
    """Apply the suppression to ground-truth boxes too, as HRNet's code does; RLE's code does not (QUIRK R21)."""
    soft_nms: Annotated[bool, AnyValue, MayChange] = False
    """Decay the scores of overlapping poses instead of dropping them."""

    sigma_scale: Annotated[float, Positive, MayChange] = 1.0
    """Factor on the predicted sigma at test."""

    best: Annotated[Literal["AP", "skill"], AnyValue, Fixed] = "AP"
    """The score that decides which checkpoint is the best: average precision, or skill, 1 - EPE / (EPE of the mean position)."""
    calibrate: Annotated[bool, AnyValue, MayChange] = False
    """At every evaluation, fit --sigma-scale on its samples, so that 90 % regions hold 90 % of their joints; the factor is stored
    with the weights."""

    def check(self) -> None:
        """Raises a ValueError if flags contradict each other."""
        super().check()
        open_to_data = getattr(self, "minutes", None) is not None
        if self.detections is None or self.eval_only is not None or open_to_data:
            return
        if self.calibrate:
            raise ValueError(
                f"--calibrate --detections {self.detections}: sigma is fitted on the boxes of the labels; give --no-calibrate, or "
                "evaluate on the detections with --eval-only when the run is complete"
            )
        if self.best == "skill":
            raise ValueError(
                f"--best skill --detections {self.detections}: skill needs the boxes of the labels; give --best AP, or evaluate on "
                "the detections with --eval-only when the run is complete"
            )

    def idle(self) -> dict[str, str]:
        flags = super().idle()
        if self.augment != "own":
            flags["own"] = "--augment own"
        if self.nms is None:
            flags |= dict.fromkeys(("soft_nms", "nms_annotated"), "--nms")
        return flags

    def augmentation(self) -> Setting:
        """Returns the augmentation of training crops."""
        setting = self.own.setting() if self.augment == "own" else named(self.augment)
        return dataclasses.replace(setting, colour=self.colour) if self.colour else setting

    def decoding(self) -> crops.Decode:
        """Returns how JPEGs are decoded."""
        return self.decode or "exact"


@dataclass(frozen=True)
class Persons:
    """Crops of persons: a `Kind`.

    Attributes:
        config: settings of the run.
        train: persons to train on; None if a run only evaluates.
        val: persons to evaluate on, with the boxes of the labels, shifted boxes, or those of a detector.
        ground_truth: annotation JSON of the evaluation; None: there is none.
        mesh: devices that a batch is split over.
        own_scores: the data set's own evaluation, whose scores are added to COCO's: predictions -> {name: score}.
        best: name of the score that decides which checkpoint is the best.
        headline: names of the most important scores.
    """

    config: PersonConfig
    train: Source | None
    val: Source
    ground_truth: Path | None
    mesh: Mesh
    own_scores: OwnScores | None = None
    best: str = "AP"
    headline: tuple[str, ...] = (
        "AP", "AP50", "AP75", "AR", "EPE", "EPE_mean_position", "EPE_nearest_pose", "PCK@0.05", "PCK@0.1", "pearson",
        "calibration_error", "coverage_90",
    )  # fmt: skip
    samples: ClassVar[str] = "persons"

    @property
    def skeleton(self) -> Skeleton:
        """The joints of the training data, or of the evaluation data if a run only evaluates."""
        return (self.val if self.train is None else self.train).skeleton

    def check(self) -> None:
        """Raises a ValueError if there are no persons to train on or to evaluate on."""
        for split, source in ((self.config.train_split, self.train), (self.config.val_split, self.val)):
            if len(source) == 0:
                raise ValueError(
                    f"split {split!r} of {self.config.labels or self.config.data} has no person with labelled keypoints"
                )

    def count(self) -> int:
        """Returns the number of persons in an epoch."""
        return len(self.train)

    def variant(self) -> str:
        """Returns the boxes and pixels of an evaluation for its file names."""
        config = self.config
        boxes = "_detections" if config.detections else "_jitter" if config.box_jitter else ""
        return boxes + ("_scaled" if config.decoding() == "scaled" else "")

    def train_batches(self, *, start_step: int, total: int) -> Iterator[Batch]:
        """Yields global batches of crops, from `start_step` up to `total`; batch t depends on (seed, t) only."""
        for batch in self.host_batches(start_step=start_step, total=total):
            yield parallel.global_batch({k: batch[k] for k in USED if k in batch}, self.mesh)

    def host_batches(self, *, start_step: int, total: int) -> Iterable[Mapping[str, np.ndarray]]:
        """Returns this process's training batches on the host; see `jaxpose.data.crops.train_batches`."""
        config = self.config
        return crops.train_batches(
            self.train, size_wh=config.size_wh, batch_size=config.batch_size, augment=config.augmentation(), seed=config.seed,
            start_step=start_step, process_index=jax.process_index(), process_count=jax.process_count(),
            stop_step=total, threads=config.workers, padding=config.padding, decode=config.decoding(),
        )  # fmt: skip

    def eval_batches(self) -> Iterable[Mapping[str, np.ndarray]]:
        """Returns this process's batches of the crops of `val`, on the host; see `jaxpose.data.crops.eval_batches`."""
        config = self.config
        return crops.eval_batches(
            self.val, size_wh=config.size_wh, batch_size=config.batch_size,
            process_index=jax.process_index(), process_count=jax.process_count(), threads=config.workers,
            padding=config.padding, decode=config.decoding(),
        )  # fmt: skip

    def predict(self, step: PredictStep, task: tasks.Task, variables: PyTree) -> Predictions:
        """Returns predictions for every person of `val` exactly once, on every process, in the source's order.

        Returns:
            Arrays per person: "xy" and "joints" in image pixels (N, K, 2), "target" normalised to the input (N, K, 2), "confidence"
            (N, K), the other outputs of the task (for regression: "mu", "sigma"), and the batch's ids, boxes, areas and scores.
        """
        config = self.config
        predictions = inference.run(inference.on_mesh(step, variables, self.mesh), self.eval_batches())
        predictions["target"] = geometry.normalize(predictions["joints"], config.size_wh)
        if "sigma" in predictions and config.sigma_scale != 1:
            predictions["sigma"] = predictions["sigma"] * np.float32(config.sigma_scale)
        for name in ("joints", "xy"):
            predictions[name] = inference.to_image(predictions[name], predictions["affine"])
        return predictions

    def records(self, predictions: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns result records of the predictions, rescored and suppressed as the config says."""
        config = self.config
        records = results.from_predictions(
            xy=predictions["xy"], confidence=predictions["confidence"], image_id=predictions["image_id"],
            box=predictions["box"], box_score=predictions["score"], area=predictions["crop_area"],
            annotation_id=predictions["annotation_id"] if config.detections is None else None,
            category_id=self.val.categories_of(predictions["annotation_id"]), rescore=config.rescore,
        )  # fmt: skip
        if config.nms is None or (config.detections is None and not config.nms_annotated):
            return records
        return results.suppress(records, sigmas=self.val.skeleton.sigmas, threshold=config.nms, soft=config.soft_nms)

    def score(
        self, predictions: Predictions, task: tasks.Task, variables: PyTree, *, name: str, last: bool = True
    ) -> dict[str, float]:
        """Writes the result JSON (process 0) and returns the scores (every process, from the same predictions).

        The last evaluation adds the coverage of the predictive density, which takes some seconds of quadrature.
        """
        folder, skeleton, records = self.config.out / "results", self.val.skeleton, self.records(predictions)
        if jax.process_index() == 0:
            results.write(records, folder / f"{name}.json")
        if self.ground_truth is None:
            kinds.log_unscored(folder / f"{name}.json")
            return {}
        scores, by_category = with_categories(
            self.ground_truth, records, sigmas=skeleton.sigmas, category_id=kinds.one_category(self.val)
        )
        if len(by_category) > 1 and last:
            log.info("by category: %s", ", ".join(f"{name} {of['AP']:.4f}" for name, of in by_category.items()))
        if self.own_scores is not None:
            scores |= self.own_scores(predictions)
        if self.config.detections is None:
            details = self._details(predictions, task, variables, scores, name=name, last=last)
            if len(by_category) > 1:
                details["categories"] = by_category
            if jax.process_index() == 0:
                files.write_json(folder / f"{name}_report.json", details, indent=1, allow_nan=True)
        return scores

    def _details(
        self,
        predictions: Predictions,
        task: tasks.Task,
        variables: PyTree,
        scores: dict[str, float],
        *,
        name: str,
        last: bool,
    ) -> dict[str, Any]:
        """Returns the report of an evaluation on the boxes of the labels; its numbers are added to the scores."""
        skeleton = self.val.skeleton
        details = report.details(predictions, sigmas=skeleton.sigmas, names=skeleton.joints)
        scores |= details["summary"]
        if self.baselines is not None:
            scores |= self.baselines.errors(predictions, nearest=last)
        if {"EPE", "EPE_mean_position"} <= scores.keys():
            scores["skill"] = 1 - scores["EPE"] / max(scores["EPE_mean_position"], 1e-9)
        calibrate = self.config.calibrate and self.train is not None
        model = task.density(variables) if last or self.config.calibrate else None
        if model is not None and calibrate:
            scores |= self._calibrate(predictions, model)
        if model is not None and self.config.calibrate:
            factor = scores.get("sigma_scale", self.config.sigma_scale)
            self._store_conformal(predictions, model, name=name, sigma_scale=factor)
        if model is not None and last:
            details["density"] = self.density_report(predictions, model)
            error = details["density"]["all"]["calibration_error"]
            scores |= {} if error is None else {"calibration_error": error}
        if last:
            details["remarks"] = self.remarks(scores, predictions)
            for sentence in details["remarks"]:
                log.warning("%s", sentence)
        return details

    def density_report(self, predictions: Mapping[str, np.ndarray], model: density.Model) -> dict[str, Any]:
        """Returns coverage, calibration error and the distribution of sigma, for all, visible and occluded labels."""
        visibility = predictions["visibility"]
        return density.calibration(
            predictions["mu"], predictions["sigma"], predictions["target"], model,
            levels=LEVELS, where=visibility > 0, occluded=visibility == 1,
        )  # fmt: skip

    def _calibrate(self, predictions: Predictions, model: density.Model) -> dict[str, float]:
        """Fits the factor of sigma on these samples, and returns it with the coverage on frames that were left out of the fit.

        The predictions' sigma is multiplied by the factor.
        """
        fitted = calibration.cross_fit(
            predictions["mu"], predictions["sigma"], predictions["target"], model,
            groups=predictions["image_id"], where=predictions["visibility"] > 0,
        )  # fmt: skip
        predictions["sigma"] = predictions["sigma"] * np.float32(fitted["scale"])
        scores = {"sigma_scale": self.config.sigma_scale * fitted["scale"]}
        return scores | ({"coverage_90": fitted["coverage"]} if "coverage" in fitted else {})

    def _store_conformal(
        self, predictions: Predictions, model: density.Model, *, name: str, sigma_scale: float
    ) -> None:
        """Writes the scores of these samples beside the results of the run, for `jaxpose predict --region 0.9 --guarantee`.

        Sigma is multiplied by the fitted factor already, as that of predictions from the checkpoint will be.
        """
        config, where = self.config, predictions["visibility"] > 0
        scores = density.conformal(predictions["mu"], predictions["sigma"], predictions["target"], model, where=where)
        step = EVALUATION.match(name)[1]
        folder = config.out if self.train is not None else checkpoint.find(config.eval_only).parent
        if jax.process_index() == 0:
            stored = {
                "persons": int(where.any(1).sum()),
                "flip_test": config.flips(),
                "sigma_scale": sigma_scale,
                "scores": scores.to_dict(),
            }
            files.write_json(folder / "results" / f"step_{step}_conformal.json", stored, allow_nan=True)

    @cached_property
    def baselines(self) -> Baselines | None:
        """Predictions from the training labels alone, or for a run that only evaluates, from the run's folder. None: unknown."""
        if self.train is not None:
            persons = self.train.persons
            # In its stored form, so that an evaluation of the checkpoint gives the same numbers as the training.
            return Baselines.from_dict(Baselines.from_training(persons["keypoints"], persons["box"]).to_dict())
        path = checkpoint.find(self.config.eval_only).parent / BASELINES
        return Baselines.from_dict(files.read_json(path, "baselines of a run")) if path.is_file() else None

    def remarks(self, scores: Mapping[str, float], predictions: Predictions) -> list[str]:
        """Returns sentences about an evaluation that its numbers do not show by themselves."""
        sentences = []
        if set(self.skeleton.sigmas) == {DEFAULT_SIGMA}:
            sentences.append(
                f"AP uses guessed OKS sigmas ({DEFAULT_SIGMA} for every joint): compare it with runs on this set only; PCK and EPE "
                "need none"
            )
        if self.train is not None and self.config.flips() and self.config.augmentation().flip == 0:
            sentences.append(
                f"predictions are averaged with those of the mirrored crop, which --augment {self.config.augment} never showed the "
                "net: --no-flip-test may score better"
            )
        if (sentence := verdict(scores)) is not None:
            reasons = causes(predictions, flip_pairs=self.skeleton.flip_pairs, flipped=self._mirrors())
            steps = 0 if self.train is None else round(self.config.epochs * len(self.train) / self.config.batch_size)
            if 0 < steps < FEW_STEPS:
                longer = "--minutes or --epochs" if hasattr(self.config, "minutes") else "--epochs"
                reasons.append(f"training had only {steps} steps: give more {longer}")
            if turned := turned_images(self.val):
                reasons.append(
                    f"{turned} pictures have EXIF data that rotate them; the labels are assumed to refer to the pixels as they "
                    "are stored"
                )
            sentences.append(sentence + (". Likely: " + "; ".join(reasons) if reasons else ""))
        return sentences

    def _mirrors(self) -> bool:
        return self.train is not None and self.config.augmentation().flip > 0

    def report(self, name: str) -> None:
        """Writes report.html, the page of the evaluation `name`."""
        kinds.write_report(self.config.out, name, source=self.val, ground_truth=self.ground_truth)

    def draw(self, predictions: Predictions, task: tasks.Task, variables: PyTree, events: list[dict[str, Any]]) -> None:
        """Draws the pictures at the end of a run into out/plots."""
        from jaxpose import view

        config, plots = self.config, self.config.out / "plots"
        view.curves(events, plots / "curves.png")
        model = task.density(variables)
        deviation = None
        if model is not None:
            # sigma alone is not a standard deviation: the flow contains part of the scale.
            deviation = predictions["sigma"] * density.moments(model).standard_deviation * np.asarray(task.extent)
            deviation = deviation[..., :2]
        if model is not None and config.detections is None:
            described = self.density_report(predictions, model)
            if model.dim == 2:
                view.learned_density(model, plots / "density.png")
            coverage = {k: described[k]["coverage"] for k in described}
            is_in_sample = config.calibrate and self.train is not None
            title = "calibration, sigma fitted on these frames" if is_in_sample else "calibration"
            view.calibration(np.asarray(LEVELS), coverage, plots / "calibration.png", title=title)
        draw_sheet(config, self.val, predictions, deviation=deviation)


def draw_sheet(config: PersonConfig, val: Source, predictions: Predictions, *, deviation: np.ndarray | None) -> None:
    """Draws crops with predicted and labelled joints into the run's last picture.

    Args:
        config: the settings of the run.
        val: the persons that were evaluated.
        predictions: the predictions for them; the first ones are drawn.
        deviation: standard deviations (N, K, 2) in input pixels; None: none are drawn.
    """
    from jaxpose import view

    count = min(SHEET, len(predictions["xy"]))
    options = {"size_wh": config.size_wh, "padding": config.padding, "decode": config.decoding()}
    images = [crops.sample(val, i, **options)["image"] for i in range(count)]
    affine = predictions["affine"][:count]
    view.sheet(
        np.stack(images),
        geometry.apply_affine(affine, predictions["xy"][:count]),
        predictions["confidence"][:count],
        val.skeleton,
        config.out / kinds.LAST_PICTURE,
        truth=geometry.apply_affine(affine, predictions["joints"][:count]),
        labelled=predictions["visibility"][:count] > 0,
        deviation_px=None if deviation is None else deviation[:count],
    )


def warn_of_photographs(config: PersonConfig) -> None:
    """Warns that a preset for drawn people, whose left and right differ in hue, does not mirror the photographs of --data."""
    if config.data is not None and config.eval_only is None and config.augment == "unmirrored":
        log.warning(
            "--augment unmirrored suits the drawn people, whose left and right differ in hue; people in photographs gain from "
            "mirroring: --augment light --flip-test"
        )


def load(config: PersonConfig, *, skeleton: Skeleton | None = None) -> Persons:
    """Opens the splits that the config names, evaluated on annotated, shifted or detected boxes; see `kinds.open_splits`."""
    warn_of_photographs(config)
    mesh = kinds.make_mesh(config)
    train, val = (s and space.flattened(s) for s in kinds.open_splits(config, skeleton=skeleton))
    ground_truth = val.ground_truth_json if len(val) else None
    if config.detections is not None:
        val = boxes.with_detections(val, config.detections, on_bad=config.on_bad)
    elif train is None and not len(val):
        val = boxes.with_annotated_boxes(val)  # a test set: boxes without joints
    elif config.box_jitter:
        val = boxes.with_jittered_boxes(val, fraction=config.box_jitter, seed=config.seed)
    if train is not None and jax.process_index() == 0 and len(train) and not checkpoint.exists(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        people = train.persons
        baselines = Baselines.from_training(people["keypoints"], people["box"])
        share = box_share(people["box"], train.images["size_wh"][people["image"]])
        files.write_json(config.out / BASELINES, baselines.to_dict() | {"box_share": round(share, 3)})
    return Persons(config, train, val, ground_truth, mesh, best=config.best)


def turned_images(source: Source, *, limit: int = 200) -> int:
    """Returns the number of images, among the first `limit`, whose EXIF data rotate or mirror them."""
    count = 0
    for record in np.unique(source.persons["image"])[:limit]:
        try:
            with Image.open(io.BytesIO(source.jpeg(int(record)))) as image:
                count += image.getexif().get(ORIENTATION, 1) != 1
        except Exception:  # EXIF data may hold anything, and only a remark depends on them
            continue
    return count
