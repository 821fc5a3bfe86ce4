"""Experiments on boundaries in scans: the settings, the task, the data, predictions, scores and pictures of a run.

`Scans` is the kind of data that `experiments.common.runner` trains on; see `experiments.common.kinds`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.common import kinds
from experiments.common.config import RunConfig
from experiments.common.families import FLOW_FLAGS
from experiments.common.kinds import Batch, Predictions, PredictStep, PyTree
from experiments.common.rules import AnyValue, AtLeast, Fixed, MayChange, Positive, Size
from jaxpose import density, inference, nets, parallel, tasks
from jaxpose.data.scans import Prepared, Scan, duke, feed, prepare
from jaxpose.data.scans.scan import pixel_size
from jaxpose.data.synthetic import retina
from jaxpose.evaluation import boundaries as evaluation
from jaxpose.skeleton import RETINA8, Skeleton

log = logging.getLogger(__name__)
HELD_OUT = 0.2  # part of the drawn subjects that is evaluated
TEST_BATCH = 4  # scans of a batch of the evaluation
PICTURES = 4  # scans in the pictures at the end of a run
# Flags that a run is evaluated with as it was trained, unless they are given by hand.
PREPARATION = ("flatten", "compensate", "synthetic_images", "seed", "grader", "pixel_um", "val_subjects")
# Flags of the pages of persons, which have no meaning for scans.
NOT_FOR_SCANS = ("labels", "labels_format", "names", "corner", "box", "annotations", "images", "val_annotations", "val_images",
                 "val_fraction", "format", "category", "flip_pairs", "sigmas", "visible_above", "exif", "follow_links",
                 "reorder_joints", "train_split", "data_dir", "on_bad", "verify", "workers")  # fmt: skip


@dataclass(frozen=True)
class ScanData(RunConfig):
    """Which scans a run reads, and how they are prepared."""

    LEVEL = "scan"

    size_wh: Annotated[tuple[int, int], Size, Fixed] = (256, 224)
    """Width of the training crops and height of all scans after flattening, in pixels; multiples of 2^(levels - 1)."""
    synthetic_images: Annotated[int, AtLeast(22, "two subjects of 11 scans"), Fixed] = 110
    """Without --data: number of scans to draw, 11 a subject; a fifth of the subjects is held out for the evaluation."""
    train_subjects: Annotated[tuple[int, ...], AnyValue, Fixed] = (6, 7, 8, 9, 10)
    """With --data: subjects to train on."""
    val_subjects: Annotated[tuple[int, ...], AnyValue, MayChange] = (1, 2, 3, 4, 5)
    """With --data: subjects to evaluate on, none of which may be trained on."""
    grader: Annotated[Literal[1, 2], AnyValue, Fixed] = 1
    """With --data: the grader whose labels are read."""
    pixel_um: Annotated[tuple[float, ...] | None, AnyValue, Fixed] = None
    """With --data: height, or height and width, of a pixel in micrometres; by default axial_um and lateral_um of the files, and
    without them those of the Duke scans (3.87 11.33). Scans of another height are resampled for the net."""
    columns: Annotated[Literal["rathke", "labelled"], AnyValue, MayChange] = "rathke"
    """Columns of the Duke scans that are scored: 135 to 634, as published, or all with labels."""
    flatten: Annotated[bool, AnyValue, Fixed] = True
    """Shift every column so that Bruch's membrane is level."""
    compensate: Annotated[bool, AnyValue, Fixed] = True
    """Compensate the attenuation of the light with depth."""
    augment: Annotated[bool, AnyValue, Fixed] = True
    """Mirror the training crops and stretch their depth, each with probability 0.5."""
    crops: Annotated[int, Positive, Fixed] = 1
    """Crops of a scan in an epoch."""


@dataclass(frozen=True)
class ScanConfig(ScanData):
    """Settings of every run on scans."""

    head: Annotated[Literal["regression", "softmax"], AnyValue, Fixed] = "regression"
    """Rows by one linear layer on the features of a column with --likelihood, or He's softmax over columns with his losses."""
    width: Annotated[int, Positive, Fixed] = 64
    """Channels of the U-Net."""
    levels: Annotated[int, Positive, Fixed] = 5
    """Resolutions of the U-Net."""
    dtype: Annotated[Literal["float32", "bfloat16"], AnyValue, Fixed] = "float32"
    """Compute dtype of the net; parameters and losses stay in float32."""
    batch_groups: Annotated[int, Positive, Fixed] = 1
    """Number of groups of the global batch with their own BatchNorm statistics."""
    sigma_bias: Annotated[float, AnyValue, Fixed] = 0.0
    """Initial bias of sigma's logit."""
    density_gain: Annotated[float, Positive, Fixed] = 1.0
    """Factor of the steps that Adam makes in sigma and in the spline; at 1 both lag behind mu in short runs."""
    likelihood: Annotated[tasks.Likelihood, AnyValue, Fixed] = tasks.Likelihood()
    """The loss of --head regression; its flow of one coordinate is a spline, which has no settings."""
    residual: Annotated[Literal["boundary", "pair"], AnyValue, Fixed] = "boundary"
    """The residual of the likelihood: one coordinate, or two of neighbouring boundaries, whose flow is the paper's RealNVP."""
    ordered: Annotated[bool, AnyValue, MayChange] = False
    """Predicted boundaries keep their order, by a running maximum from the top; it does not change the training."""

    def check(self) -> None:
        """Raises a ValueError if flags contradict each other, or have no meaning for scans."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in NOT_FOR_SCANS:
            if (value := getattr(self, name)) != defaults[name]:
                raise ValueError(
                    f"--{name.replace('_', '-')} {value}: this page reads scans, for which it has no meaning; leave it out"
                )
        super().check()
        pixel_size(self.pixel_um, "--pixel-um")
        for name in ("train_subjects", "val_subjects"):
            if not getattr(self, name):
                raise ValueError(
                    f"--{name.replace('_', '-')} names no subject: expected numbers, such as 6 for Subject_06.mat"
                )
        if both := sorted({*self.train_subjects} & {*self.val_subjects}):
            raise ValueError(
                f"--train-subjects {self.train_subjects} --val-subjects {self.val_subjects}: subject {both[0]} is in both; the "
                "scans of a subject are alike, so that the evaluation would be too good"
            )
        multiple = 2 ** (self.levels - 1)
        if self.size_wh[0] % multiple or self.size_wh[1] % multiple:
            raise ValueError(f"--size-wh {self.size_wh}: expected multiples of {multiple} with --levels {self.levels}")

    def as_trained(self, stored: Mapping[str, Any]) -> Self:
        """See `RunConfig.as_trained`; scans are prepared as those of the training, and drawn ones are those of the run."""
        run = stored.get("run") or {}
        values = {name: run[name] for name in PREPARATION if name in run}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return dataclasses.replace(super().as_trained(stored), **values)

    def idle(self) -> dict[str, str]:
        """See `RunConfig.idle`."""
        flags = super().idle()
        if self.data is None:
            flags |= dict.fromkeys(("train_subjects", "val_subjects", "grader", "columns", "pixel_um"), "--data")
        else:
            flags["synthetic_images"] = "drawn scans (no --data)"
        if self.head == "softmax":
            flags |= dict.fromkeys(("likelihood", "residual", "sigma_bias", "density_gain"), "--head regression")
        if self.residual == "boundary" or not self.likelihood.has_flow:
            flags |= {f"likelihood.{name}": "--residual pair and a loss with a flow" for name in FLOW_FLAGS}
        if self.head == "regression" and not self.likelihood.learns_sigma:
            flags |= dict.fromkeys(("sigma_bias", "density_gain"), "a loss that trains sigma")
        if self.likelihood.loss != "rle":
            flags["likelihood.base"] = "--likelihood.loss rle"
        return flags


def make_tasks(config: ScanConfig, skeleton: Skeleton) -> tuple[tasks.Task, None]:
    """Returns the task of the flags, and None for the task that comes first."""
    net = nets.ResUNet(config.width, config.levels, dtype=jnp.dtype(config.dtype), batch_groups=config.batch_groups)
    shared = {"skeleton": skeleton, "size_wh": config.size_wh, "ordered": config.ordered}
    if config.head == "softmax":
        return tasks.boundaries(nets.ColumnSoftmax(net, skeleton.num_joints), objective="columns", **shared), None
    gain = config.density_gain
    net = nets.ColumnRegressor(net, skeleton.num_joints, sigma_bias=config.sigma_bias, sigma_gain=gain)
    density = {"likelihood": config.likelihood, "residual": config.residual, "flow_gain": gain}
    return tasks.boundaries(net, **density, **shared), None


@dataclass(frozen=True)
class Scans:
    """Scans with labelled boundaries: a `Kind`.

    Attributes:
        config: settings of the run.
        train: scans to train on; None if a run only evaluates.
        val: scans to evaluate on.
        mesh: devices that a batch is split over.
    """

    config: ScanConfig
    train: Sequence[Prepared] | None
    val: Sequence[Prepared]
    mesh: Mesh
    samples: ClassVar[str] = "crops of scans"
    best: ClassVar[str] = "neg_error_um"
    headline: ClassVar[tuple[str, ...]] = (
        "error_um",
        "true_error_um",
        "within_2px",
        "coverage_50",
        "coverage_90",
        "sigma_rank",
    )
    skeleton: ClassVar[Skeleton] = RETINA8

    def check(self) -> None:
        """Raises a ValueError if a scan is narrower than the crops, there are none, or no column that is scored has labels."""
        if not self.val or not self.train:
            raise ValueError("there are no scans to train on or to evaluate on")
        narrow = min(self.train, key=lambda scan: scan.image.shape[1])
        if (width := narrow.image.shape[1]) < self.config.size_wh[0]:
            raise ValueError(
                f"{narrow.scan.name} has {width} columns, fewer than the crops of --size-wh {self.config.size_wh}"
            )
        if not any(
            np.isfinite(self._scored_columns(scan.scan)).any() for scan in self.val if scan.scan.rows is not None
        ):
            raise ValueError(
                f"--columns {self.config.columns}: no scan to evaluate on has labels in columns {duke.RATHKE.start + 1} to "
                f"{duke.RATHKE.stop}, which are scored as published; --columns labelled scores all that have labels"
            )

    def count(self) -> int:
        """Returns the number of crops in an epoch."""
        return len(self._feed())

    def variant(self) -> str:
        """Returns the settings of an evaluation for its file names."""
        return "" if self.config.columns == "rathke" else "_labelled"

    def _feed(self) -> feed.Feed:
        config = self.config
        return feed.Feed(
            self.train, width=config.size_wh[0], batch_size=config.batch_size, seed=config.seed, augment=config.augment,
            crops=config.crops,
        )  # fmt: skip

    def train_batches(self, *, start_step: int, total: int) -> Iterator[Batch]:
        """Yields global batches; batch t depends on (seed, t) only."""
        place = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        for batch in self._feed().batches(start_step=start_step, stop_step=total, **place):
            yield parallel.global_batch(batch, self.mesh)

    def predict(self, step: PredictStep, task: tasks.Task, variables: PyTree) -> Predictions:
        """Returns rows and sigma of every column of every scan, in pixels of the scans: (N, W, K), NaN beyond a scan's width."""
        predictions = inference.run(inference.on_mesh(step, variables, self.mesh), self._eval_batches(task))
        for i, scan in enumerate(self.val):
            width = len(scan.offset)
            sigma = predictions["sigma"][i, :width]
            predictions["rows"][i, :width], predictions["sigma"][i, :width] = scan.to_scan(
                predictions["rows"][i, :width], sigma
            )
            for name in task.outputs:
                predictions[name][i, width:] = np.nan
        if self.config.ordered:  # a run that was trained without it may be evaluated with it
            predictions["rows"] = np.maximum.accumulate(predictions["rows"], -1)
        return predictions

    def _eval_batches(self, task: tasks.Task) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's rows of every scan once, all of one width; padding repeats the last scan."""
        multiple = task.net.backbone.size_multiple
        width = max(feed.padded(scan.image, multiple).shape[1] for scan in self.val)
        rows = -(-TEST_BATCH // self.mesh.size) * self.mesh.size
        own = np.array_split(np.arange(rows), jax.process_count())[jax.process_index()]
        for start in range(0, len(self.val), rows):
            places = start + own
            scans = [self.val[min(i, len(self.val) - 1)].image for i in places]
            images = np.stack([np.pad(image, ((0, 0), (0, width - image.shape[1])), mode="edge") for image in scans])
            yield {"image": images, "valid": places < len(self.val)}

    def score(
        self, predictions: Predictions, task: tasks.Task, variables: PyTree, *, name: str, last: bool = True
    ) -> dict[str, float]:
        """Writes results/NAME.json (process 0) and returns the scores."""
        model = task.density(jax.device_get(variables), required=True)
        scans = self.scored(predictions, task, model)
        if not any(scan.where.any() for scan in scans):
            log.info("no labels to score against")
            return {}
        details = evaluation.report(scans, self.skeleton.joints)
        predictions["coverage"] = details.get("coverage")
        details |= self._for_page(model)
        if jax.process_index() == 0:
            evaluation.write(self.config.out / "results" / f"{name}.json", scans, self.skeleton.joints, details)
        return details["scores"]

    def scored(
        self, predictions: Predictions, task: tasks.Task, model: density.Model | None
    ) -> list[evaluation.ScoredScan]:
        """Returns each evaluation scan with its prediction, its labels and its groups of columns."""
        scans = []
        for prepared, rows, sigma in zip(self.val, predictions["rows"], predictions["sigma"], strict=True):
            scan, width = prepared.scan, len(prepared.offset)
            rows, sigma = rows[:width].astype(np.float64), sigma[:width].astype(np.float64)
            labels = np.full(rows.shape, np.nan) if scan.rows is None else self._scored_columns(scan)
            scans.append(
                evaluation.ScoredScan(
                    scan.name, scan.axial_um, rows, labels,
                    sigma=sigma if task.learns_sigma else None,
                    level=None if model is None else levels(rows, sigma, labels, model),
                    groups=evaluation.groups_of(scan),
                    truth=None if scan.truth is None else scan.truth.T,
                    noise=None if scan.noise is None else scan.noise.T,
                )
            )  # fmt: skip
        return scans

    def _scored_columns(self, scan: Scan) -> np.ndarray:
        """Returns the labels (W, K), NaN in columns that are not scored."""
        labels = scan.rows.T.copy()
        if self.config.data is not None and self.config.columns == "rathke":
            is_scored = np.zeros(len(labels), bool)
            is_scored[duke.RATHKE] = True
            labels[~is_scored] = np.nan
        return labels

    def _for_page(self, model: density.Model | None) -> dict[str, Any]:
        """Returns what the page of an evaluation needs beside its numbers: the bands, the scored columns, and where the scans are."""
        details: dict[str, Any] = {}
        if model is not None:
            level = evaluation.BAND_LEVEL
            details["regions"] = {f"{level:g}": density.region(model, level).extent().tolist()}
        if self.config.data is None:
            return details | {"drawn": {"count": self.config.synthetic_images, "seed": self.config.seed}}
        details["grader"] = self.config.grader
        if self.config.columns == "rathke":
            details["columns"] = [duke.RATHKE.start, duke.RATHKE.stop]
        return details

    def report(self, name: str) -> None:
        """Writes report.html, the page of the evaluation `name`."""
        from jaxpose.view import scans as page

        results = self.config.out / "results" / f"{name}.json"
        if results.exists():  # there is none without labels
            page.of_run(self.config.out, [prepared.scan for prepared in self.val], results=results)

    def draw(self, predictions: Predictions, task: tasks.Task, variables: PyTree, events: list[dict[str, Any]]) -> None:
        """Draws the pictures at the end of a run into out/plots."""
        from jaxpose import view
        from jaxpose.view.figures import boundaries as figures

        plots, model = self.config.out / "plots", task.density(variables)
        figures.scan_curves(events, plots / "curves.png")
        if curves := predictions.get("coverage"):
            view.calibration(np.asarray(evaluation.LEVELS), curves, plots / "calibration.png")
        extent = None if model is None else density.region(model, 0.9).extent()
        count = min(PICTURES, len(self.val))
        for i in reversed(range(count)):  # the first scan is the last picture
            scan = self.val[i].scan
            rows, sigma = (predictions[name][i, : len(self.val[i].offset)] for name in ("rows", "sigma"))
            figures.scan_boundaries(
                scan.image, rows, plots / (f"scan_{i}.png" if i else "predictions.png"), names=self.skeleton.joints,
                bands=None if extent is None else tasks.bands(rows, sigma, extent), labels=None if scan.rows is None else scan.rows.T,
                title=scan.name,
            )  # fmt: skip


def levels(rows: np.ndarray, sigma: np.ndarray, labels: np.ndarray, model: density.Model) -> np.ndarray:
    """Returns the mass (W, K / dim) of the smallest region of the predicted density that reaches each label, NaN without one."""
    e = ((labels - rows) / sigma).reshape(len(rows), -1, model.dim)
    where = np.isfinite(e).all(-1)
    return np.where(where, density.level(np.where(where[..., None], e, 0.0).astype(np.float32), model), np.nan)


def load(config: ScanConfig, *, skeleton: Skeleton | None = None) -> Scans:
    """Opens the scans that the config names and prepares them.

    Args:
        config: the settings of the run.
        skeleton: the boundaries of a checkpoint, which must be those of the data.

    Raises:
        FileNotFoundError, ValueError: the files are missing or damaged, or the checkpoint has other boundaries.
    """
    if skeleton is not None and skeleton.joints != RETINA8.joints:
        raise ValueError(f"the checkpoint has the boundaries {list(skeleton.joints)}, the data {list(RETINA8.joints)}")
    if config.data is not None:
        options = {"grader": config.grader, "pixel_um": config.pixel_um}
        train = [] if config.eval_only else duke.read(config.data, config.train_subjects, **options)
        val = duke.read(config.data, config.val_subjects, **options)
    else:
        scans = retina.draw_scans(config.synthetic_images, seed=config.seed)
        subjects = list(dict.fromkeys(scan.subject for scan in scans))
        held_out = set(subjects[-max(round(len(subjects) * HELD_OUT), 1) :])
        train = [scan for scan in scans if scan.subject not in held_out]
        val = [scan for scan in scans if scan.subject in held_out]
    log.info("preparing %d scans to train on and %d to evaluate on", len(train), len(val))
    options = {"height": config.size_wh[1], "is_flattened": config.flatten, "is_compensated": config.compensate}
    train, val = ([prepare(scan, **options) for scan in part] for part in (train, val))
    return Scans(config, None if config.eval_only else train, val, kinds.make_mesh(config))
