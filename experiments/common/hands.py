"""Experiments on hands in 2.5D: crops of hands with relative depths, the joints in space, and their errors.

`Hands` is `experiments.common.persons.Persons` with depth: a batch also has the depth of each joint relative to the wrist in
units of the key bone, for depth maps beside the joints, for a regression head as their third coordinate; and the scores add
those of `jaxpose.evaluation.hands`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import jax
import numpy as np

from experiments.common import families, persons
from experiments.common.kinds import Batch, Predictions, PredictStep, PyTree
from experiments.common.rules import AnyValue, Fixed
from jaxpose import checkpoint, density, files, hands, parallel, tasks
from jaxpose.data import space, synthetic
from jaxpose.data.augment import Setting
from jaxpose.data.source import Source
from jaxpose.evaluation import hands as evaluation
from jaxpose.hands import Sizes
from jaxpose.nets import HeatmapNet, PoseRegressor, RegressionHead
from jaxpose.skeleton import RHD21, Skeleton

log = logging.getLogger(__name__)

USED = (*persons.USED, "depth", "depth_where")
PAGE = "hands_in_space.html"
IN_SPACE = 60  # number of hands on it
PICTURE = (160, 160)  # width and height of a synthetic picture
REGION = 0.9  # probability of the ellipsoids of the page
EXTENTS = {"palm": 5.0, "finger": 13.0}
"""Length of 1 in a regressed depth, in units of the key bone: about 470 mm, so that a hand of 190 mm from wrist to fingertip lies
within -0.5 to 0.5 in every direction."""

DepthForm = Literal["none", "map", "coordinate"]


@dataclass(frozen=True)
class HandData(persons.PersonConfig):
    """How hands are read: the settings that the net does not depend on."""

    bone: Annotated[Literal["palm", "finger"], AnyValue, Fixed] = "palm"
    """The unit of relative depths, from which the depth of the wrist is recovered: the palm, from the wrist to the base of the middle
    finger (BiHand's), or the first bone of the middle finger (hand3d's), which is shorter, so that errors count more."""
    one_side: Annotated[bool, AnyValue, Fixed] = False
    """Mirror right hands into left ones (x' = W - 1 - x, X' = -X), in training and at test, in place of random mirroring. Needs "hand",
    left or right, in the annotations."""

    def augmentation(self) -> Setting:
        """Returns the augmentation of training crops; with --one-side none is mirrored at random."""
        setting = super().augmentation()
        return dataclasses.replace(setting, flip=0.0) if self.one_side else setting

    def flips(self) -> bool:
        """Returns whether predictions are averaged with those of the mirrored image; with --one-side they never are."""
        return self.flip_test and not self.one_side

    def as_trained(self, stored: Mapping[str, Any]) -> Self:
        """Returns the settings that evaluate a stored run: also its key bone, and whether its hands are of one side."""
        run = stored.get("run") or {}
        config = super().as_trained(stored)
        return dataclasses.replace(config, **{name: run[name] for name in ("bone", "one_side") if name in run})


@dataclass(frozen=True)
class HandConfig(families.HeatmapConfig, HandData):
    """Settings of every run on hands."""

    depths: Annotated[tasks.DepthLoss, AnyValue, Fixed] = tasks.DepthLoss(weight=0.3)
    """The loss of the relative depths, in units of --bone; a crop shows about three palms."""

    def depth_form(self) -> DepthForm:
        """Returns how depth is predicted: not at all, by depth maps, or as the third regressed coordinate."""
        return "none" if self.depths.kind == "none" else "map"


@dataclass(frozen=True)
class InSpace:
    """Labels in space of the hands of a source, by annotation id.

    Attributes:
        ids: (N,) increasing annotation ids.
        xyz: (N, 21, 3) millimetres in the camera's frame; NaN for a hand without them.
        camera: (N, 4) focal lengths and principal point in pixels; NaN for a hand without a camera.
        is_right: (N,) True for a right hand.
        bone: the key bone.
    """

    ids: np.ndarray
    xyz: np.ndarray
    camera: np.ndarray
    is_right: np.ndarray
    bone: tuple[int, int] = hands.PALM

    @classmethod
    def of(
        cls,
        source: Source,
        *,
        bone: tuple[int, int] = hands.PALM,
        sides: bool = False,
        on_bad: Literal["error", "skip"] = "error",
    ) -> InSpace:
        """Reads the labels of a source.

        Args:
            source: a source of hands, whose annotations may hold keypoints_3d, camera and hand.
            bone: the key bone.
            sides: raise an error for a hand whose side is not stated.
            on_bad: "error", or "skip" to take a hand with wrong labels in space for one that is known in the picture alone; they are
                counted and logged.

        Raises:
            ValueError: joints in space are not 63 numbers, have no camera, or a key bone of length zero.
        """
        people = sorted(source.ground_truth()["annotations"], key=lambda person: person["id"])
        xyz, camera = np.full((len(people), 21, 3), np.nan), np.full((len(people), 4), np.nan)
        faults: list[str] = []
        for i, person in enumerate(people):
            where = f"{source.name}: annotation {person['id']}"
            if sides and person.get("hand") not in ("left", "right"):
                raise ValueError(
                    f"{where} has no 'hand', left or right, which --one-side needs: leave the flag out"
                    + ("" if person.get("hand") is None else f" (it is {person['hand']!r})")
                )
            if person.get("keypoints_3d") is None:
                continue
            try:
                xyz[i], camera[i] = evaluation.labels_of(person, name=where, bone=bone)
            except ValueError as fault:
                if on_bad == "error":
                    raise
                faults.append(str(fault))
        if faults:
            log.warning("the place in space of %d hands was left out, for example: %s", len(faults), faults[0])
        is_right = np.array([person.get("hand") == "right" for person in people], bool)
        return cls(np.array([person["id"] for person in people], np.int64), xyz, camera, is_right, bone)

    def rows(self, annotation_id: np.ndarray) -> np.ndarray:
        """Returns the rows of annotation ids; those of padding, -1, get row 0."""
        return np.minimum(np.searchsorted(self.ids, np.maximum(annotation_id, self.ids[0])), len(self.ids) - 1)

    @cached_property
    def is_known(self) -> np.ndarray:
        """(N,) True for a hand that is known in space."""
        return np.isfinite(self.xyz).all((1, 2)) & np.isfinite(self.camera).all(1)

    @property
    def runs_base_to_tip(self) -> bool:
        """True if the fingers look as if they ran from base to tip, where RHD's run from tip to base."""
        xyz = self.xyz[self.is_known]
        first, last = (np.linalg.norm(xyz[:, start::4] - xyz[:, :1], axis=-1) for start in (1, 4))
        return bool((last > first).mean() > 0.6) if len(xyz) else False  # 0.25 of the drawn hands, many of them fists

    @cached_property
    def depth(self) -> np.ndarray:
        """(N, 21) depths relative to the wrist in units of the key bone, 0 where unknown."""
        depth = np.zeros(self.xyz.shape[:2], np.float32)
        depth[self.is_known] = hands.relative_depth(self.xyz[self.is_known], bone=self.bone)
        return depth


@dataclass(frozen=True)
class Hands(persons.Persons):
    """Crops of hands with relative depths: a `Kind`. Attributes are those of `Persons`."""

    samples = "hands"

    @cached_property
    def train_space(self) -> InSpace:
        """Labels in space of the training hands."""
        return self._in_space(self.train)

    @cached_property
    def val_space(self) -> InSpace:
        """Labels in space of the evaluation hands."""
        return self._in_space(self.val)

    def _in_space(self, source: Source) -> InSpace:
        config = self.config
        return InSpace.of(source, bone=hands.NAMED_BONES[config.bone], sides=config.one_side, on_bad=config.on_bad)

    @cached_property
    def sizes(self) -> Sizes | None:
        """Sizes of the training hands; those that the run stored, if it only evaluates. None: no hand is known in space."""
        if self.train is not None:
            labels = self.train_space
            return Sizes.of(labels.xyz[labels.is_known], bone=labels.bone) if labels.is_known.any() else None
        path = checkpoint.find(self.config.eval_only).parent / hands.SIZES_FILE
        if not path.is_file():
            return None
        return Sizes.from_dict(files.read_json(path, "sizes of a run's hands"), name=str(path))

    def check(self) -> None:
        """Raises a ValueError for data that cannot be trained on."""
        super().check()
        if self.train is not None and self.train_space.runs_base_to_tip:
            log.warning(
                "%s: the last joint of most fingers is farther from the wrist than the first; expected RHD's order, each finger from "
                "its tip to its base: jaxpose.hands.reversed_fingers converts the other one",
                self.train.name,
            )
        if self.train is not None and self.config.depth_form() != "none" and self.sizes is None:
            flag = "--depths.kind none" if self.config.depth_form() == "map" else "--head rle or l1"
            raise ValueError(
                f"{self.train.name}: no hand has 'keypoints_3d' and 'camera', so that there is no depth to learn: give {flag} for "
                "pixels alone, or labels in space"
            )

    def train_batches(self, *, start_step: int, total: int) -> Iterator[Batch]:
        """Yields global batches of crops with depths; batch t depends on (seed, t) only."""
        labels = self.train_space
        for host in self.host_batches(start_step=start_step, total=total):
            rows = labels.rows(host["annotation_id"])
            batch, depth = self._one_sided(host, labels), labels.depth[rows]
            is_known = np.repeat(labels.is_known[rows, None], 21, axis=1)
            if self.config.depth_form() == "coordinate":
                joints = np.concatenate([batch["joints"], depth[..., None]], -1)
                batch |= {"joints": joints.astype(np.float32), "has_depth": is_known}
            else:
                batch |= {"depth": depth, "depth_where": is_known}
            yield parallel.global_batch({k: batch[k] for k in USED if k in batch}, self.mesh)

    def eval_batches(self) -> Iterable[Mapping[str, np.ndarray]]:
        """Returns this process's batches of `val`, on the host; right hands are mirrored with --one-side."""
        batches = super().eval_batches()
        return (self._one_sided(batch, self.val_space) for batch in batches) if self.config.one_side else batches

    def predict(self, step: PredictStep, task: tasks.Task, variables: PyTree) -> Predictions:
        """Returns predictions as `Persons.predict`; those of a net that regresses depth with "target" (N, 21, 3)."""
        predictions = super().predict(step, task, variables)
        if isinstance(task, tasks.Regression3D):
            depth = self.val_space.depth[self.val_space.rows(predictions["annotation_id"])] / task.depth.extent
            predictions["target"] = np.concatenate([predictions["target"], depth[..., None]], -1)
            # In pixels of the picture, negative for a mirrored crop, and in units of the key bone.
            sides = np.array(self.config.size_wh) / np.diagonal(predictions["affine"][:, :, :2], axis1=1, axis2=2)
            plane = predictions["sigma"][..., :2] * sides[:, None]
            predictions["scale"] = np.concatenate([plane, predictions["sigma"][..., 2:] * task.depth.extent], -1)
        return predictions

    def density_report(self, predictions: Mapping[str, np.ndarray], model: density.Model) -> dict[str, Any]:
        """Returns coverage, calibration error and the distribution of sigma; in space without the wrist and unknown hands."""
        if model.dim == 2:
            return super().density_report(predictions, model)
        labels = self.val_space
        where = (predictions["visibility"] > 0) & labels.is_known[labels.rows(predictions["annotation_id"]), None]
        where[:, hands.WRIST] = False  # its depth is 0 by definition
        return density.calibration(
            predictions["mu"], predictions["sigma"], predictions["target"], model, levels=persons.LEVELS, where=where
        )

    def _one_sided(self, batch: Mapping[str, np.ndarray], labels: InSpace) -> dict[str, np.ndarray]:
        """Returns a batch whose right hands are mirrored, if the config says so."""
        if not self.config.one_side:
            return dict(batch)
        return mirrored(batch, labels.is_right[labels.rows(batch["annotation_id"])], width=self.config.size_wh[0])

    def score(
        self, predictions: Predictions, task: tasks.Task, variables: PyTree, *, name: str, last: bool = True
    ) -> dict[str, float]:
        """Scores as `Persons.score`, and the errors of hands; the joints in space are stored in results/NAME_3d.json."""
        kind = dataclasses.replace(self, own_scores=self.errors)
        scores = persons.Persons.score(kind, predictions, task, variables, name=name, last=last)
        if "xyz" in predictions and jax.process_index() == 0:
            path = self.config.out / "results" / f"{name}_3d.json"
            files.write_json(path, in_space_records(predictions, bone=self.config.bone, bone_mm=self.sizes.bone_mm))
        return scores

    def errors(self, predictions: Predictions) -> dict[str, float]:
        """Returns the errors of hands in pixels of the picture, of visible joints, and in millimetres, of all joints.

        "depth_mm" is the mean error of relative depths, with the true length of the key bone. Hands in space are relative to the
        wrist with that length ("EPE_mm"), and where the camera sees them, with the mean length of the training hands
        ("absolute_EPE_mm").
        """
        labels = self.val_space
        rows = labels.rows(predictions["annotation_id"])
        visible = predictions["visibility"] == 2
        if not visible.any():  # labels that do not say which joints are hidden
            visible = predictions["visibility"] > 0
        scores = evaluation.scores_2d(predictions["xy"], predictions["joints"], where=visible)
        in_space = labels.is_known[rows]
        if "depth" not in predictions or not in_space.any():
            return scores
        target, camera = labels.xyz[rows][in_space], labels.camera[rows][in_space]
        sizes = self.sizes
        if sizes is None:
            log.warning(
                "the run has no %s: typical proportions of hands are taken, and no absolute error", hands.SIZES_FILE
            )
        options = {} if sizes is None else sizes.lift_options
        depth = predictions["depth"][in_space]
        lifted = hands.lift(
            predictions["xy"][in_space], depth, focal=camera[:, :2], center=camera[:, 2:], bone=labels.bone, **options
        )
        bone = hands.bone_length(target, bone=labels.bone)
        error = np.abs(depth - depth[:, :1] - labels.depth[rows][in_space]) * bone[:, None]
        scores |= {"depth_mm": float(error[:, 1:].mean())}
        relative = evaluation.root_relative(lifted, target, bone=bone)
        scores |= evaluation.scores_3d(*relative)
        for name, values in zip(("relative", "relative_truth"), relative, strict=True):
            predictions[name] = np.full((len(rows), 21, 3), np.nan)
            predictions[name][in_space] = values
        if "scale" in predictions:
            predictions["relative_sigma"] = np.full((len(rows), 21, 3), np.nan)
            predictions["relative_sigma"][in_space] = hands.sigma_in_space(
                predictions["scale"][in_space], lifted * bone[:, None, None], focal=camera[:, :2], bone=bone
            )
        if sizes is not None:
            xyz = evaluation.absolute(lifted, bone=sizes.bone_mm)
            predictions["xyz"] = np.full((len(rows), 21, 3), np.nan)
            predictions["xyz"][in_space] = xyz
            scores |= {f"absolute_{k}": v for k, v in evaluation.scores_3d(xyz, target).items() if k == "EPE_mm"}
        return scores

    def _mirrors(self) -> bool:
        """A mirrored hand is one of the other side, with the same joints: nothing is mixed up by random mirroring."""
        return False

    def draw(self, predictions: Predictions, task: tasks.Task, variables: PyTree, events: list[dict[str, Any]]) -> None:
        """Draws the pictures at the end of a run into out/plots; the crops are shown as they are in the pictures."""
        if self.config.one_side:
            rows = self.val_space.rows(predictions["annotation_id"])
            affine = _mirror_affine(predictions["affine"], self.val_space.is_right[rows], width=self.config.size_wh[0])
            predictions = {**predictions, "affine": affine}
        super().draw(predictions, task, variables, events)
        if "relative" in predictions:
            write_page(self.config.out / PAGE, predictions, sides=self.val_space, model=task.density(variables))


def write_page(path: Path, predictions: Predictions, *, sides: InSpace, model: density.Model | None = None) -> None:
    """Writes a page with hands in space that the mouse turns: the predicted and the labelled joints relative to the wrist.

    Args:
        path: path of the page.
        predictions: "relative" and "relative_truth" (N, 21, 3) in millimetres, "image_id" and "annotation_id"; with a density in space
            "relative_sigma" (N, 21, 3) in millimetres.
        sides: labels that say which hands are right ones.
        model: the density of the standardised error; one of three coordinates is drawn as ellipsoids.
    """
    from jaxpose.view import space as view

    rows = np.flatnonzero(np.isfinite(predictions["relative"]).all((1, 2)))[:IN_SPACE]
    is_right = sides.is_right[sides.rows(predictions["annotation_id"][rows])]
    names = [
        f"picture {image}, {'right' if right else 'left'} hand"
        for image, right in zip(predictions["image_id"][rows], is_right, strict=True)
    ]
    text, ellipsoids = "Relative to the wrist, with the true length of the key bone.", None
    if model is not None and model.dim == 3 and "relative_sigma" in predictions:
        _, half_axes, directions = density.region(model, REGION).ellipse()
        sigma = predictions["relative_sigma"][rows]
        ellipsoids = view.ellipsoids_of(sigma, half_axes=half_axes, directions=directions)
        text += f" Ellipsoids: regions of {REGION:.0%}."
    view.write(
        path, predictions["relative"][rows], skeleton=RHD21, truth=predictions["relative_truth"][rows], names=names,
        title="Hands in space", text=text, ellipsoids=ellipsoids,
    )  # fmt: skip


def in_space_records(predictions: Predictions, *, bone: str, bone_mm: float) -> list[dict[str, Any]]:
    """Returns the predicted hands in space, one record each, as `jaxpose.evaluation.hands.score` reads them.

    Args:
        predictions: "xyz" (N, 21, 3) in millimetres, coordinates of the camera; "image_id" and "annotation_id".
        bone: the name of the key bone.
        bone_mm: its length in every prediction.
    """
    return [
        {
            "image_id": int(image), "annotation_id": int(number), "keypoints_3d": np.round(xyz, 2).ravel().tolist(),
            "bone": bone, "bone_mm": bone_mm,
        }
        for image, number, xyz in zip(
            predictions["image_id"], predictions["annotation_id"], predictions["xyz"], strict=True
        )
        if np.isfinite(xyz).all()
    ]  # fmt: skip


def mirrored(batch: Mapping[str, np.ndarray], where: np.ndarray, *, width: int) -> dict[str, np.ndarray]:
    """Returns a batch whose rows `where` are mirror images: x' = width - 1 - x. Depths are the same.

    Args:
        batch: image (B, H, W, 3), joints (B, K, 2) and affine (B, 2, 3), among others.
        where: (B,) rows to mirror.
        width: width of the crops.

    >>> batch = {"image": np.arange(3)[None, None, :, None], "joints": np.zeros((1, 1, 2)), "affine": np.eye(3)[None, :2]}
    >>> flipped = mirrored(batch, np.array([True]), width=3)
    >>> flipped["image"].ravel().tolist(), flipped["joints"][0, 0].tolist(), (flipped["affine"][0, 0] + 0).tolist()
    ([2, 1, 0], [2.0, 0.0], [-1.0, 0.0, 2.0])
    """
    image = np.where(where[:, None, None, None], batch["image"][:, :, ::-1], batch["image"])
    joints = batch["joints"].copy()
    joints[..., 0] = np.where(where[:, None], width - 1 - joints[..., 0], joints[..., 0])
    affine = _mirror_affine(batch["affine"], where, width=width)
    return {**batch, "image": image, "joints": joints, "affine": affine}


def _mirror_affine(affine: np.ndarray, where: np.ndarray, *, width: int) -> np.ndarray:
    mirror = affine.copy()
    mirror[:, 0] *= -1
    mirror[:, 0, 2] += width - 1
    return np.where(where[:, None, None], mirror, affine)


def depth_tasks(config: HandConfig, skeleton: Skeleton) -> tuple[tasks.Task, tuple[float, tasks.Task] | None]:
    """Returns the task of the flags, and what comes first; see `families.in_phases`."""
    if config.stages > 1:
        raise ValueError(f"--stages {config.stages}: the multi-stage net has no depth maps; expected 1")
    net = HeatmapNet(
        families.make_backbone(config), 2 * skeleton.num_joints, deconvs=families.deconvs(config), dtype=np.dtype(config.dtype),
        batch_groups=config.batch_groups,
    )  # fmt: skip

    def task(maps: tasks.MapLoss, joints: tasks.JointLoss) -> tasks.Task:
        return tasks.depth_maps(
            net, skeleton=skeleton, size_wh=config.size_wh, maps=maps, joints=joints, read=config.read, depth=config.depths,
            preprocess=config.preprocess,
        )  # fmt: skip

    return families.in_phases(config, task)


def regression_task(config: HandConfig, skeleton: Skeleton, *, likelihood: tasks.Likelihood) -> tasks.Task:
    """Returns the task of a regression head, in pixels or with depth as the third coordinate, as `depth_form` says."""
    in_space = config.depth_form() == "coordinate"
    head = RegressionHead(skeleton.num_joints, dim=3 if in_space else 2, kind="normalized", sigma_bias=-1.0)
    shared = {
        "skeleton": skeleton, "size_wh": config.size_wh, "likelihood": likelihood,
        "preprocess": config.preprocess, "outside": "mask",
    }  # fmt: skip
    net = PoseRegressor(families.make_backbone(config), head)
    if not in_space:
        return tasks.regression(net, **shared)
    depth = tasks.Depth(EXTENTS[config.bone], root=(hands.WRIST,), unit="bone")
    return tasks.regression_3d(net, **shared, depth=depth)


def load(config: HandConfig, *, skeleton: Skeleton | None = None) -> Hands:
    """Opens the splits that the config names; without any it draws synthetic hands.

    Raises:
        ValueError: the data have other joints than RHD's, or there are detected boxes; or as `persons.load`.
    """
    if config.detections is not None:
        raise ValueError(
            f"--detections {config.detections}: hands are evaluated on the boxes of their labels, to which their joints in space "
            "belong; --box-jitter imitates the errors of a detector"
        )
    if config.data is None and config.annotations is None and config.labels is None:
        config = dataclasses.replace(config, data=synthetic_hands(config), format="coco")
    kind = persons.load(config, skeleton=skeleton)
    for source in (kind.train, kind.val):
        if source is not None and source.skeleton.num_joints != RHD21.num_joints:
            raise ValueError(
                f"{source.name} has {source.skeleton.num_joints} joints, expected the {RHD21.num_joints} of a hand in RHD's order: "
                f"{', '.join(RHD21.joints)}"
            )
    values = {f.name: getattr(kind, f.name) for f in dataclasses.fields(persons.Persons)}
    val = space.flattened(kind.val)
    train = None if kind.train is None else space.flattened(kind.train)
    values |= {"train": train, "val": val, "best": "AUC_0_30px", "headline": HEADLINE}
    result = Hands(**values)
    # Labels in space are checked as they are read: here, before a training or an evaluation, and not after it.
    _ = result.val_space
    if result.train is not None and jax.process_index() == 0 and not checkpoint.exists(config.out) and result.sizes:
        config.out.mkdir(parents=True, exist_ok=True)
        files.write_json(config.out / hands.SIZES_FILE, dataclasses.asdict(result.sizes))
    return result


HEADLINE = (
    "EPE_px", "AUC_0_30px", "AUC_mmpose", "depth_mm", "EPE_mm", "AUC_20_50mm", "absolute_EPE_mm", "EPE",
    "EPE_mean_position", "PCK@0.05", "AP",
)  # fmt: skip


def synthetic_hands(config: HandConfig) -> Path:
    """Draws the synthetic hands on process 0 and returns their folder."""
    val = max(config.synthetic_images // 10, 1)
    folder = config.data_dir / f"hands_{config.synthetic_images}_{config.seed}"
    parallel.on_first(
        lambda: synthetic.write_hands(
            folder, train=config.synthetic_images - val, val=val, seed=config.seed, size_wh=PICTURE
        )
    )
    return folder
