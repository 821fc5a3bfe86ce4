"""Experiments on persons in space: crops with root-relative depth, mixed with persons without, scored by MPJPE.

`Space` is the kind of data, `load` opens it and `SpaceConfig` has its flags; everything that crops of persons share is in
`experiments.common.persons`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import families, kinds, persons
from experiments.common.config import RunConfig
from experiments.common.kinds import Kind, Predictions, PredictStep, PyTree
from experiments.common.rules import AnyValue, AtLeast, Between, Fixed, LocalPath, Positive, Unsaid
from jaxpose import cameras, checkpoint, density, files, inference, tasks
from jaxpose.data import boxes, builder, crops, formats, mixing
from jaxpose.data import space as columns
from jaxpose.data.augment import Setting
from jaxpose.data.formats import Choice
from jaxpose.data.source import Source
from jaxpose.evaluation import poses_3d
from jaxpose.nets import HeatmapNet, PoseRegressor, RegressionHead, VolumeRegressor
from jaxpose.skeleton import Skeleton, root_joints

log = logging.getLogger(__name__)

MEAN_POSE = "mean_pose.json"  # the mean target of the training persons, in the folder of a run
REGION = 0.9  # probability of the ellipsoids of the page
SHOWN = 60  # number of poses of the page
THORAX = "thorax"  # the 18th joint, which no published error counts

Augment = Literal[
    "none", "light", "unmirrored", "official", "hrnet", "simple_baseline", "mpii", "mmpose", "mmpose_mpii", "own", "rle_3d",
    "integral_3d", "posenet_3d",
]  # fmt: skip


@dataclass(frozen=True)
class SpaceDataConfig(persons.PersonConfig):
    """Settings of the data of every run in space."""

    augment: Annotated[Augment, AnyValue, Fixed] = "rle_3d"
    """Augmentation setting; jaxpose/data/augment.py has its numbers. "own": those of --own."""
    occlusion: Annotated[float, Between(0, 1, "a probability, from 0 to 1"), Fixed, Unsaid(0.0)] = 0.0
    """Probability that a rectangle of noise covers up to 0.7 of a training person's box, as in the released codes (QUIRK V8)."""
    best: Annotated[Literal["skill", "3DPCK"], AnyValue, Fixed] = "skill"
    """The score that decides which checkpoint is the best: 1 - MPJPE / (MPJPE of the mean pose), or the joints within 150 mm."""
    also: Annotated[Path | None, LocalPath, Fixed] = None
    """A second data set, without joints in space, such as MPII; its joints are matched by name."""
    also_format: Annotated[Choice, AnyValue, Fixed] = "auto"
    """With --also: format of its annotations."""
    also_split: Annotated[str, AnyValue, Fixed] = "train"
    """With --also: name of its split."""
    also_padding: Annotated[float, Positive, Fixed] = 1.25
    """With --also: factor on its boxes."""
    also_visibility: Annotated[Literal["labelled", "official"], AnyValue, Fixed] = "labelled"
    """With --also: train labelled joints, or as the released code all, the unlabelled ones towards the corner (QUIRK V4)."""
    withhold: Annotated[float, Between(0, 1, "a part of the pictures, from 0 to below 1", open_high=True), Fixed] = 0.0
    """Part of the training pictures whose depth is withheld, so that they train image coordinates only."""
    share: Annotated[
        float, Between(0, 1, "a part of the batch, above 0 and below 1", open_low=True, open_high=True), Fixed
    ] = 0.5
    """With --also or --withhold: share of every batch that has joints in space."""

    def check(self) -> None:
        """Raises a ValueError if flags contradict each other."""
        super().check()
        if self.detections is not None:
            raise ValueError(
                f"--detections {self.detections}: errors in space need the boxes of the labels; leave it out"
            )
        if self.also is not None and self.withhold:
            raise ValueError(
                f"--also {self.also} --withhold {self.withhold}: a batch has two parts; leave one of them out"
            )

    def augmentation(self) -> Setting:
        """Returns the augmentation of training crops, with the occlusion of the flags."""
        setting = super().augmentation()
        return dataclasses.replace(setting, occlusion=self.occlusion) if self.occlusion else setting

    def idle(self) -> dict[str, str]:
        flags = super().idle()
        if self.also is None:
            flags |= dict.fromkeys(("also_format", "also_split", "also_padding", "also_visibility"), "--also")
        if self.also is None and not self.withhold:
            flags["share"] = "--also or --withhold"
        unused = ("calibrate", "nms", "nms_annotated", "rescore", "soft_nms")
        return flags | dict.fromkeys(unused, "a page in the plane, such as coco_rle")


@dataclass(frozen=True)
class SpaceConfig(SpaceDataConfig, families.RegressionConfig):
    """Settings of every run that regresses coordinates in space."""

    head: Annotated[Literal["normalized", "linear", "volume"], AnyValue, Fixed] = "normalized"
    """Coordinate head: with the feature's norm divided out (official), one plain linear layer (the paper), or the soft-argmax of a
    volume (integral regression)."""
    bins: Annotated[int, AtLeast(2), Fixed] = 64
    """Bins of the depth of --head volume."""
    outside: Annotated[Literal["keep", "mask"], AnyValue, Fixed] = "mask"
    """Labelled joints beyond the crop or --extent: mask them (RLE) or keep them (integral regression)."""
    extent: Annotated[float, Positive, Fixed] = 2000.0
    """Length in mm of 1 in the normalised depth."""
    root: Annotated[tuple[str, ...] | None, AnyValue, Fixed] = None
    """Names of the joints whose mean is the root; none: the pelvis, or else both hips, or a hand's wrist."""
    bone_length: Annotated[float | None, Positive, Fixed] = None
    """Length in mm of all limbs together, for predictions without a camera; none: the mean of the training persons."""

    def check(self) -> None:
        """Raises a ValueError if flags contradict each other."""
        super().check()
        if self.likelihood.loss == "basic":
            raise ValueError(
                "--likelihood.loss basic: in space there are two flows, and basic moves coordinates by one"
            )

    def as_trained(self, stored: Mapping[str, Any]) -> Self:
        """Returns the settings that evaluate a stored run: also its extent, root and length of the limbs."""
        task = tasks.from_config(stored["task"])
        if not isinstance(task, tasks.Regression3D):
            raise ValueError(
                f"--eval-only {self.eval_only} holds a task of the family {task.family!r}, this page evaluates 'regression_3d'"
            )
        if task.depth.unit != "mm":
            raise ValueError(
                f"--eval-only {self.eval_only} holds a net of hands, with depths in {task.depth.unit_name}: use the page rhd_integral"
            )
        depth, config = task.depth, super().as_trained(stored)
        root = tuple(task.skeleton.joints[k] for k in depth.root)
        return dataclasses.replace(config, extent=depth.extent, root=root, bone_length=depth.bone_length)

    def idle(self) -> dict[str, str]:
        flags = super().idle() | dict.fromkeys(("auxiliary", "skips"), "a page in the plane, such as coco_rle")
        volume = ("beta", "compensate", "deconvs", "bins")
        if self.head == "volume":
            return {name: needs for name, needs in flags.items() if name not in volume}
        return flags | dict.fromkeys(volume, "--head volume")


def space_tasks(config: SpaceConfig, skeleton: Skeleton) -> tuple[tasks.Task, None]:
    """Returns the task of the flags, and None for the task that comes first."""
    backbone, joints = families.make_backbone(config), skeleton.num_joints
    if config.head == "volume":
        shape = {"dtype": jnp.dtype(config.dtype), "batch_groups": config.batch_groups}
        maps = HeatmapNet(backbone, joints * config.bins, deconvs=families.deconvs(config), **shape)
        net = VolumeRegressor(
            maps, bins=config.bins, beta=config.beta, compensate=config.compensate, sigma_bias=config.sigma_bias
        )
    else:
        net = PoseRegressor(backbone, RegressionHead(joints, dim=3, kind=config.head, sigma_bias=config.sigma_bias))
    depth = tasks.Depth(config.extent, root_joints(skeleton, config.root), bone_length=config.bone_length)
    task = tasks.regression_3d(
        net, skeleton=skeleton, size_wh=config.size_wh, likelihood=config.likelihood, preprocess=config.preprocess,
        outside=config.outside, depth=depth,
    )  # fmt: skip
    return task, None


def settle(config: SpaceConfig, kind: Space, make: Any) -> tuple[SpaceConfig, Space]:
    """Returns flags and data with the length of the training persons' limbs."""
    if config.bone_length is not None or kind.train is None:
        return config, kind
    rows = kind.train.persons[kind.train.persons["has_depth"].all(1)]
    lengths = columns.limb_lengths(rows["joints_3d"], kind.skeleton).sum(-1)
    config = dataclasses.replace(config, bone_length=round(float(lengths.mean()), 1) if len(rows) else None)
    return config, dataclasses.replace(kind, config=config)


@dataclass(frozen=True)
class Space(persons.Persons):
    """Crops of persons with joints in space: a `Kind`.

    Errors are relative to the root, and absolute positions are those of the true depth of the root and of the labelled box, as in
    the published single-stage evaluation: they are not comparable with those of lifters, which see no depth.
    """

    best: str = "skill"
    headline: tuple[str, ...] = (
        "MPJPE", "PA-MPJPE", "MPJPE_mean_pose", "skill", "error_x", "error_y", "error_z", "error_z_mean_pose", "calibration_error",
    )  # fmt: skip
    samples: ClassVar[str] = "persons"

    def check(self) -> None:
        """Raises a ValueError if there are no persons with joints in space to train on or to evaluate on."""
        super().check()
        for split, source in ((self.config.train_split, self.train), (self.config.val_split, self.val)):
            if source is not None and not source.persons["has_depth"].any():
                raise ValueError(f"split {split!r} of {self.config.data} has no person with joints in space")

    def count(self) -> int:
        """Returns the number of persons in an epoch: with two parts, once those with joints in space and their partners."""
        if self.train.mix is None:
            return len(self.train)
        count, share = self.train.mix
        return round(count / share)

    def predict(self, step: PredictStep, task: tasks.Task, variables: PyTree) -> Predictions:
        """Returns predictions for every person of `val` exactly once, on every process, in the source's order.

        Returns:
            Arrays per person: "xy" and "joints" in image pixels (N, K, 2), "target" normalised (N, K, 3), "points" (N, K, 3), the
            joints in camera coordinates in mm with the true depth of the root, "confidence" (N, K), the other outputs of the task
            (mu, sigma (N, K, 3), depth (N, K)), and the batch's ids, boxes, areas and scores.
        """
        config = self.config
        batches = crops.eval_batches(
            self.val, size_wh=config.size_wh, batch_size=config.batch_size, process_index=jax.process_index(),
            process_count=jax.process_count(), threads=config.workers, padding=config.padding, decode=config.decoding(),
        )  # fmt: skip
        predictions = inference.run(inference.on_mesh(step, variables, self.mesh), batches)
        labels = predictions["joints"]
        predictions["target"] = np.asarray(task.normalized(labels))
        if "sigma" in predictions and config.sigma_scale != 1:
            predictions["sigma"] = predictions["sigma"] * np.float32(config.sigma_scale)
        predictions["joints"] = inference.to_image(labels[..., :2], predictions["affine"])
        predictions["xy"] = inference.to_image(predictions["xy"], predictions["affine"])
        predictions["points"] = in_camera(
            predictions["xy"], predictions["depth"], root=predictions["root"], camera=predictions["camera"]
        )
        return predictions

    def score(
        self, predictions: Predictions, task: tasks.Task, variables: PyTree, *, name: str, last: bool = True
    ) -> dict[str, float]:
        """Writes the result JSON and the truth that it is scored against (process 0), and returns the scores."""
        folder = self.config.out / "results"
        truth, rows = self.truth
        evaluated = Evaluated.of(self.skeleton, task.depth.root)
        points = evaluated.joints(predictions["points"][rows])
        records = poses_3d.from_predictions(
            points - points[:, evaluated.root : evaluated.root + 1], image_id=truth.image_id,
            confidence=evaluated.confidence(predictions["confidence"][rows]),
        )  # fmt: skip
        if jax.process_index() == 0:
            poses_3d.write(records, folder / f"{name}.json")
            poses_3d.write_truth(truth, folder.parent / "truth_3d.json")
        scored = poses_3d.scores(
            points, truth.joints, root=truth.root, handling=evaluated.handling, action=truth.action
        )  # fmt: skip
        scores = {key: value for key, value in scored.items() if isinstance(value, float)}
        scores |= _by_axis(points, truth.joints, evaluated)
        scores |= self._baseline(predictions, rows, truth, evaluated)
        if "MPJPE_mean_pose" in scores:
            scores["skill"] = 1 - scores["MPJPE"] / max(scores["MPJPE_mean_pose"], 1e-9)
        details: dict[str, Any] = {
            "root": scored["root"],
            "actions": scored.get("actions", {}),
            "poses": scored["poses"],
        }
        model = task.density(variables) if last else None
        if model is not None:
            details["density"] = self.density_report(predictions, model)
            error = details["density"]["all"]["calibration_error"]
            scores |= {} if error is None else {"calibration_error": error}
            if jax.process_index() == 0:
                self._write_regions(predictions, model, rows, evaluated, folder / f"{name}_regions.npz")
        if jax.process_index() == 0:
            files.write_json(folder / f"{name}_report.json", details | {"summary": scores}, indent=1, allow_nan=True)
            if last:
                log.info("errors in mm; %s\n%s", scored["root"], poses_3d.table(scored))
            if last and self.train is None:
                self.report(name)
        return scores

    def _baseline(
        self, predictions: Predictions, rows: np.ndarray, truth: poses_3d.Truth, evaluated: Evaluated
    ) -> dict[str, float]:
        """Returns the errors of the mean pose of the training crops, which sees no picture."""
        if self.mean_pose is None:
            return {}
        size = np.asarray(self.config.size_wh, np.float64)
        px = np.broadcast_to((self.mean_pose[:, :2] + 0.5) * size, (len(rows), *self.mean_pose[:, :2].shape))
        px = inference.to_image(px, predictions["affine"][rows])
        depth = np.broadcast_to(self.mean_pose[:, 2] * self.config.extent, px.shape[:-1])
        points = in_camera(px, depth, root=predictions["root"][rows], camera=predictions["camera"][rows])
        points = evaluated.joints(points)
        scored = poses_3d.scores(points, truth.joints, root=truth.root, handling=evaluated.handling)
        by_axis = _by_axis(points, truth.joints, evaluated)
        return {"MPJPE_mean_pose": scored["MPJPE"], "error_z_mean_pose": by_axis["error_z"]}

    @cached_property
    def truth(self) -> tuple[poses_3d.Truth, np.ndarray]:
        """The labelled poses of the evaluation, and the rows of their persons: those that are known in space completely."""
        people = self.val.persons
        rows = np.flatnonzero(people["has_depth"].all(1) & np.isfinite(people["camera"]).all(1))
        evaluated = Evaluated.of(self.skeleton, root_joints(self.skeleton, self.config.root))
        actions = _actions(self.ground_truth)
        action = np.array([actions.get(int(i), "") for i in people["annotation_id"][rows]])
        joints = evaluated.joints(np.asarray(people["joints_3d"][rows]))
        ids = people["annotation_id"][rows].astype(np.int64)
        truth = poses_3d.Truth(
            joints, ids, evaluated.skeleton, evaluated.root, action=action if (action != "").all() else None
        )
        return truth, rows

    @cached_property
    def mean_pose(self) -> np.ndarray | None:
        """The mean target (K, 3) of the training persons in their crops, or for a run that only evaluates, that of the run."""
        config = self.config
        if self.train is None:
            path = checkpoint.find(config.eval_only).parent / MEAN_POSE
            return np.array(files.read_json(path, "mean pose of a run")["mean"]) if path.is_file() else None
        source = self.train
        complete = np.flatnonzero(source.persons["has_depth"].all(1))
        rows = complete[np.linspace(0, len(complete) - 1, min(len(complete), 5000)).astype(int)]
        joints = crops.plan(source, rows, size_wh=config.size_wh, padding=config.padding)["joints"]
        target = joints / np.array([*config.size_wh, config.extent]) - np.array([0.5, 0.5, 0.0])
        return np.round(target.mean(0), 6)

    def density_report(self, predictions: Mapping[str, np.ndarray], model: density.Model) -> dict[str, Any]:
        """Returns coverage, calibration error and the distribution of sigma in space, of the labelled joints but the root."""
        where = (predictions["visibility"] > 0) & predictions["has_depth"]
        root = root_joints(self.skeleton, self.config.root)
        if len(root) == 1:
            where[:, root[0]] = False  # its depth is 0 by definition
        return density.calibration(
            predictions["mu"], predictions["sigma"], predictions["target"], model, levels=persons.LEVELS, where=where
        )

    def report(self, name: str) -> None:
        """Writes report.html, the page of the evaluation `name`, with poses that the mouse turns."""
        from jaxpose.view import space as page

        path = self.config.out / "results" / f"{name}.json"
        truth, _ = self.truth
        points, ids = poses_3d.read(path, num_joints=truth.skeleton.num_joints)
        beside = files.read_json(path.with_name(f"{name}_report.json"), "report of an evaluation")
        taken = np.unique(np.linspace(0, len(points) - 1, min(len(points), SHOWN)).astype(int))
        labels = truth.joints - truth.joints[:, truth.root : truth.root + 1]
        actions = [""] * len(ids) if truth.action is None else truth.action
        errors = np.linalg.norm(points - labels, axis=-1).mean(-1)
        regions = path.with_name(f"{name}_regions.npz")
        ellipsoids = np.load(regions)["ellipsoids"][taken] if regions.is_file() else None
        page.write(
            self.config.out / "report.html", points[taken], skeleton=truth.skeleton, truth=labels[taken],
            ellipsoids=ellipsoids, names=[f"{ids[i]} {actions[i]} ({errors[i]:.0f} mm)" for i in taken],
            title=f"{self.config.out.resolve().name}: {name}", scores=beside["summary"],
            text=f"Errors in mm, {beside['poses']} poses: {beside['root']}. Ellipsoids: regions of {REGION:.0%}.",
        )  # fmt: skip

    def _write_regions(
        self, predictions: Predictions, model: density.Model, rows: np.ndarray, evaluated: Evaluated, path: Path
    ) -> None:
        """Writes the ellipsoids (N, K, 3, 3) in square mm of the evaluated joints: half axes along the picture's axes and depth."""
        from jaxpose.view.space import ellipsoids_of

        _, half_axes, directions = density.region(model, REGION).ellipse()
        # Millimetres per input pixel at the depth of each joint.
        affine, points = predictions["affine"][rows], predictions["points"][rows]
        pixel = (
            points[..., 2:]
            / predictions["camera"][rows][:, None, :2]
            / np.abs(np.linalg.det(affine[:, :, :2]))[:, None, None] ** 0.5
        )
        scale = np.concatenate(
            [pixel * np.asarray(self.config.size_wh), np.full_like(pixel[..., :1], self.config.extent)], -1
        )
        sigma = evaluated.joints(predictions["sigma"][rows] * scale)
        ellipsoids = ellipsoids_of(sigma, half_axes=half_axes, directions=directions)
        np.savez_compressed(path, ellipsoids=ellipsoids.astype(np.float32))

    def draw(self, predictions: Predictions, task: tasks.Task, variables: PyTree, events: list[dict[str, Any]]) -> None:
        """Draws the pictures at the end of a run into out/plots."""
        from jaxpose import view

        config, plots = self.config, self.config.out / "plots"
        view.curves(events, plots / "curves.png")
        model = task.density(variables)
        deviation = None
        if model is not None:
            deviation = predictions["sigma"] * density.moments(model).standard_deviation * np.asarray(task.extent)
            described = self.density_report(predictions, model)
            coverage = {k: described[k]["coverage"] for k in described}
            view.calibration(
                np.asarray(persons.LEVELS), coverage, plots / "calibration.png", title="calibration in space"
            )
        plane = None if deviation is None else deviation[..., :2]
        persons.draw_sheet(config, self.val, predictions, deviation=plane)


@dataclass(frozen=True)
class Evaluated:
    """The joints that errors count: without the thorax, and with the root as a joint that does not count if it is a mean of joints.

    Attributes:
        skeleton: their skeleton.
        places: indices of the joints of the net's skeleton.
        mean_of: the joints whose mean is added as the last one; (): none is.
        root: index of the root.
        handling: the treatment of the root in the errors, see `jaxpose.evaluation.poses_3d`.
    """

    skeleton: Skeleton
    places: tuple[int, ...]
    mean_of: tuple[int, ...]
    root: int
    handling: poses_3d.Root

    @classmethod
    def of(cls, skeleton: Skeleton, root: tuple[int, ...]) -> Evaluated:
        """Returns the joints that errors of a skeleton with this root count."""
        places = tuple(k for k, name in enumerate(skeleton.joints) if name != THORAX or skeleton.name != "h36m18")
        limbs = tuple(limb for limb in skeleton.limbs if set(limb) <= set(places))
        changes = {
            "joints": tuple(skeleton.joints[k] for k in places), "limbs": limbs,
            "sigmas": tuple(skeleton.sigmas[k] for k in places), "upper": tuple(k for k in skeleton.upper if k in places),
        }  # fmt: skip
        if len(root) == 1:
            own = dataclasses.replace(skeleton, **changes, name=skeleton.name.replace("h36m18", "h36m17"))
            return cls(own, places, (), places.index(root[0]), "aligned")
        changes |= {"joints": (*changes["joints"], "root"), "sigmas": (*changes["sigmas"], changes["sigmas"][0])}
        own = dataclasses.replace(skeleton, **changes, name=f"{skeleton.name}_root")
        return cls(own, places, root, len(places), "left_out")

    def joints(self, points: np.ndarray) -> np.ndarray:
        """Returns the evaluated joints (N, K', 3) of (N, K, 3)."""
        taken = points[:, self.places]
        if not self.mean_of:
            return taken
        return np.concatenate([taken, points[:, self.mean_of].mean(1, keepdims=True)], 1)

    def confidence(self, values: np.ndarray) -> np.ndarray:
        """Returns the confidences of the evaluated joints, (N, K') of (N, K)."""
        taken = values[:, self.places]
        return np.concatenate([taken, values[:, self.mean_of].mean(1, keepdims=True)], 1) if self.mean_of else taken


def in_camera(xy: np.ndarray, depth: np.ndarray, *, root: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Returns joints in camera coordinates in mm, from pixels and depths relative to the root.

    Args:
        xy: (N, K, 2) image pixels.
        depth: (N, K) mm relative to the root.
        root: (N, 3) the root in camera coordinates, whose depth alone is read.
        camera: (N, 4) fx, fy, cx, cy.
    """
    focal, center = (np.repeat(camera[:, None, part], xy.shape[1], 1) for part in (slice(0, 2), slice(2, 4)))
    return cameras.back_project(
        xy.astype(np.float64), depth=depth + root[:, 2:].astype(np.float64), focal=focal, center=center
    )


def _by_axis(points: np.ndarray, target: np.ndarray, evaluated: Evaluated) -> dict[str, float]:
    """Returns the mean absolute errors of the three coordinates, relative to the root."""
    root = slice(evaluated.root, evaluated.root + 1)
    error = np.abs((points - points[:, root]) - (target - target[:, root])).mean((0, 1))
    return {f"error_{axis}": float(value) for axis, value in zip("xyz", error)}


def _actions(ground_truth: Path | None) -> dict[int, str]:
    """Returns the action of each annotation that has one."""
    if ground_truth is None:
        return {}
    people = files.read_json(ground_truth, "ground truth")["annotations"]
    return {int(person["id"]): str(person["action"]) for person in people if "action" in person}


def load(config: SpaceConfig, *, skeleton: Skeleton | None = None) -> Kind:
    """Opens the data that the config names: the splits with joints in space, mixed with persons without; see `kinds.open_splits`."""
    persons.warn_of_photographs(config)
    mesh = kinds.make_mesh(config)
    config = with_format(config)
    train, val = kinds.open_splits(config, skeleton=skeleton)
    for source in (train, val):
        if source is not None and not columns.has_space(source):
            raise ValueError(
                f"{source.name} has no joints in space: give data in the format coco_3d or human36m (--format), or train it on a page "
                "in the plane, such as coco_rle"
            )
    if train is not None and config.withhold:
        train = mixing.mixed(*mixing.split(train, part=1 - config.withhold, seed=config.seed), share=config.share)
    if train is not None and config.also is not None:
        train = mixing.mixed(train, _also(config, train.skeleton), share=config.share)
    ground_truth = val.ground_truth_json if len(val) else None
    if config.box_jitter:
        val = boxes.with_jittered_boxes(val, fraction=config.box_jitter, seed=config.seed)
    kind = Space(config, train, val, ground_truth, mesh, best=config.best)
    if train is not None and jax.process_index() == 0 and len(train) and not checkpoint.exists(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        files.write_json(config.out / MEAN_POSE, {"mean": kind.mean_pose.tolist()})
    return kind


def with_format(config: RunConfig) -> RunConfig:
    """Returns the config with COCO's format in space where "auto" would take COCO's in the plane."""
    if config.format != "auto":
        return config
    if config.data is None and config.annotations is None:
        return dataclasses.replace(config, format="coco_3d")
    if config.data is not None and not Path(config.data).exists():  # a prepared data set
        return config
    part = config.annotations if config.annotations is not None else None
    split = config.val_split if config.eval_only else config.train_split.split("+")[0]
    name = formats.guess(config.data, split, annotations=part)
    return dataclasses.replace(config, format="coco_3d" if name == "coco" else name)


def _also(config: SpaceConfig, skeleton: Skeleton) -> Source:
    """Opens the data set of --also with the joints of the other one."""
    reader = formats.choose(config.also_format, config.also, config.also_split)
    source = builder.prepare(
        config.also,
        split=config.also_split,
        data_dir=config.data_dir,
        on_bad=config.on_bad,
        verify=config.verify,
        reader=reader,
    )
    return mixing.mapped(
        source, skeleton, enlarged=config.also_padding / config.padding, visibility=config.also_visibility
    )  # fmt: skip
