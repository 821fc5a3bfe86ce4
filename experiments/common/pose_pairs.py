"""Experiments on pairs of 2D and 3D poses: the settings, the task, the data, predictions, scores and pictures of a run.

`PosePairs` is the kind of data that `experiments.common.runner` trains on; see `experiments.common.kinds`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.common import kinds, persons
from experiments.common.config import RunConfig
from experiments.common.kinds import Batch, Predictions, PredictStep, PyTree
from experiments.common.rules import AnyValue, AtLeast, Between, Fixed, MayChange, Positive, Unsaid
from jaxpose import checkpoint, density, files, inference, metrics, nets, parallel, tasks
from jaxpose.data import feed, human36m, pairs
from jaxpose.data.augment import philox
from jaxpose.data.formats import mmpose_3d, mpi_inf_3dhp, videopose3d
from jaxpose.data.pairs import Pairs
from jaxpose.data.synthetic import lifting as synthetic
from jaxpose.evaluation import poses_3d
from jaxpose.skeleton import H36M17, Skeleton

log = logging.getLogger(__name__)
TEST_BATCH = 1024
PICTURES, IN_SPACE = 8, 60  # poses in the picture at the end of a run, and on its page
BASELINES = "baselines_3d.json"
FEW = 50_000  # poses that the linear baseline is fitted to
CALIBRATED = 20_000  # poses, evenly spaced, whose coverage is measured
REGION = 0.9  # probability of the ellipsoids of the page
MM = 1000.0  # per metre, the unit of sigma
MMPOSE = {
    "mmpose": ("h36m_train.npz", "h36m_test.npz"),
    "mmpose_3dhp": ("mpi_inf_3dhp_train.npz", "mpi_inf_3dhp_test_valid.npz"),
}
"""mmpose's files of Human3.6M and of MPI-INF-3DHP, to train and to evaluate on."""
MIRROR = 7  # stream of the random numbers that mirror
# Flags of the pages that read pictures, which have no meaning here.
NOT_FOR_PAIRS = ("labels", "labels_format", "names", "corner", "box", "annotations", "images", "val_annotations", "val_images",
                 "val_fraction", "format", "category", "flip_pairs", "sigmas", "visible_above", "exif", "follow_links",
                 "reorder_joints", "train_split", "on_bad", "verify", "workers", "size_wh", "synthetic_images")  # fmt: skip


@dataclass(frozen=True)
class PairConfig(RunConfig):
    """Settings of every run on pairs of 2D and 3D poses."""

    LEVEL = "pair"

    keypoints: Annotated[str, AnyValue, Fixed] = "gt"
    """With --data: what made the 2D joints, the end of the name data_2d_h36m_*.npz: gt, cpn_ft_h36m_dbb, ..."""
    train_subjects: Annotated[tuple[str, ...] | None, AnyValue, Fixed] = None
    """With --data: subjects to train on. None: those of the published split, S1 S5 S6 S7 S8, or S1 to S8 of MPI-INF-3DHP."""
    val_subjects: Annotated[tuple[str, ...] | None, AnyValue, MayChange] = None
    """With --data: subjects to evaluate on, none of which may be trained on. None: those of the published split, S9 S11, or the
    sequences TS1 to TS6 of MPI-INF-3DHP."""
    every: Annotated[int, Positive, Fixed] = 1
    """With --data: take every so many frames of each sequence, to train on."""
    val_every: Annotated[int, Positive, MayChange] = 1
    """With --data: take every so many frames of each sequence, to evaluate on; single-stage codes take every 64th."""
    poses: Annotated[int, AtLeast(5, "one of a held-out subject"), Fixed] = 2000
    """Without --data: poses to draw of each of the five subjects to train on, each seen by four cameras."""
    mirror: Annotated[bool, AnyValue, Fixed] = True
    """In training, mirror every second pose."""

    net: Annotated[Literal["fc", "srnet", "videopose3d"], AnyValue, Fixed] = "fc"
    """Martinez's fully connected net, SRNet with its groups of joints, or VideoPose3D's temporal net."""
    width: Annotated[int, Positive, Fixed] = 1024
    """Hidden units or channels."""
    dropout: Annotated[float | None, Between(0, 1, "a part of the units, from 0 to below 1", open_high=True), Fixed] = (
        None
    )
    """Share of units that training leaves out; none: the published one, 0.5 (fc), 0 (srnet) or 0.25 (videopose3d)."""
    blocks: Annotated[int, Positive, Fixed] = 2
    """With --net fc: residual blocks of two layers."""
    widths: Annotated[tuple[int, ...], AnyValue, Fixed] = (1, 1, 1)
    """With --net srnet and videopose3d: frames under each layer's kernel, odd; 3 3 3 3 3 sees 243 frames."""
    groups: Annotated[Literal[1, 2, 3, 5], AnyValue, Fixed] = 5
    """With --net srnet: groups of joints."""
    recombine: Annotated[Literal["multiply", "add", "concat", "none"], AnyValue, Fixed] = "multiply"
    """With --net srnet: what the other groups do to a group."""
    norm: Annotated[Literal["base", "proj", "weak_proj", "lcn"], AnyValue, Fixed] = "base"
    """What the net reads and predicts, see jaxpose.tasks.lifting; all but base use the labelled depth of the root at test."""
    relative: Annotated[bool, AnyValue, Fixed] = False
    """The net reads positions relative to the root, and the root's own; with --norm base."""
    loss: Annotated[tasks.LiftLoss, AnyValue, Fixed] = tasks.LiftLoss()
    """The loss."""
    root: Annotated[poses_3d.Root, AnyValue, MayChange, Unsaid("aligned")] = "aligned"
    """What happens to the root in MPJPE and its relatives, see jaxpose.evaluation.poses_3d."""

    def check(self) -> None:
        """Raises a ValueError if flags contradict each other, or have no meaning for pairs of poses."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in NOT_FOR_PAIRS:
            if (value := getattr(self, name)) != defaults[name]:
                raise ValueError(
                    f"--{name.replace('_', '-')} {value}: this page reads joints, for which it has no meaning; "
                    + ("--poses sets the number of poses to draw" if name == "synthetic_images" else "leave it out")
                )
        super().check()
        self.with_subjects()
        if self.relative and self.norm != "base":
            raise ValueError(
                f"--relative --norm {self.norm}: positions relative to the root are for --norm base; leave one out"
            )
        if self.norm != "base" and np.prod(self.widths) > 1 and self.net != "fc":
            raise ValueError(f"--norm {self.norm} --widths {self.widths}: published for one frame; give --widths 1 1 1")

    def with_subjects(self) -> Self:
        """Returns these settings with the names of the subjects: those that are None become the published split of the data.

        Raises:
            ValueError: a subject is trained on and evaluated.
        """
        names = {"train_subjects": human36m.TRAIN, "val_subjects": human36m.TEST}
        if self.data is not None and _layout(Path(self.data)) in ("mpi_inf_3dhp", "mmpose_3dhp"):
            names = {"train_subjects": mpi_inf_3dhp.TRAIN, "val_subjects": mpi_inf_3dhp.TEST}
        names = {name: split if getattr(self, name) is None else getattr(self, name) for name, split in names.items()}
        train, val = names.values()
        if both := sorted({*train} & {*val}):
            raise ValueError(
                f"--train-subjects {' '.join(train)} --val-subjects {' '.join(val)}: {both[0]} is in both; the evaluation would be "
                "too good"
            )
        return dataclasses.replace(self, **names)

    def as_trained(self, stored: Mapping[str, Any]) -> Self:
        """See `RunConfig.as_trained`; the subjects that the run was trained on are those that an evaluation may not contain."""
        names = (stored.get("run") or {}).get("train_subjects")
        return dataclasses.replace(
            super().as_trained(stored), train_subjects=self.train_subjects if names is None else tuple(names)
        )

    def idle(self) -> dict[str, str]:
        """See `RunConfig.idle`."""
        flags = super().idle() | dict.fromkeys(NOT_FOR_PAIRS, "pictures, which this page does not read")
        if self.data is None:
            flags |= dict.fromkeys(("keypoints", "train_subjects", "val_subjects", "every", "val_every"), "--data")
        else:
            flags["poses"] = "drawn people (no --data)"
        if self.net != "fc":
            flags["blocks"] = "--net fc"
        else:
            flags["widths"] = "--net srnet or videopose3d"
        if self.net != "srnet":
            flags |= dict.fromkeys(("groups", "recombine"), "--net srnet")
        if self.loss.loss != "rle":
            flags |= dict.fromkeys(("loss.reading", "loss.flow_layers", "loss.flow_hidden"), "--loss.loss rle")
        return flags


def make_net(config: PairConfig, num_joints: int) -> Any:
    """Returns the net of the flags."""
    shared: dict[str, Any] = {"width": config.width, "dim": 6 if config.loss.has_flow else 3}
    if config.dropout is not None:
        shared["dropout"] = config.dropout
    if config.net == "fc":
        return nets.LinearLifter(joints_in=num_joints, joints_out=num_joints, blocks=config.blocks, **shared)
    if config.net == "videopose3d":
        return nets.TemporalLifter(joints_in=num_joints, joints_out=num_joints, widths=config.widths, **shared)
    if num_joints != nets.SRNet.joints_in:
        raise ValueError(
            f"--net srnet: its groups are those of {nets.SRNet.joints_in} joints, the data have {num_joints}"
        )
    options = {"groups": config.groups, "recombine": config.recombine, "widths": config.widths}
    return nets.SRNet(add_input=config.norm == "lcn", **options, **shared)


def make_tasks(config: PairConfig, skeleton: Skeleton) -> tuple[tasks.Task, None]:
    """Returns the task of the flags, and None for the task that comes first."""
    root = skeleton.joints.index("pelvis") if "pelvis" in skeleton.joints else 0
    net = make_net(config, skeleton.num_joints)
    if config.net == "srnet" and skeleton.joints != H36M17.joints:
        raise ValueError(
            f"--net srnet: its groups are those of {H36M17.name}'s joints, the data have {skeleton.name}'s"
        )
    if config.norm == "lcn" and config.net != "srnet":
        raise ValueError(f"--norm lcn --net {config.net}: it adds the input to the output, which only --net srnet does")
    return tasks.lifting(
        net, skeleton=skeleton, norm=config.norm, relative=config.relative, loss=config.loss, root=root
    ), None


@dataclass(frozen=True)
class PosePairs:
    """Pairs of 2D and 3D poses: a `Kind`.

    Attributes:
        config: settings of the run.
        train: pairs to train on; None if a run only evaluates.
        val: pairs to evaluate on.
        mesh: devices that a batch is split over.
    """

    config: PairConfig
    train: Pairs | None
    val: Pairs
    mesh: Mesh
    samples: ClassVar[str] = "poses"
    best: ClassVar[str] = "skill"
    headline: ClassVar[tuple[str, ...]] = (
        "MPJPE", "PA-MPJPE", "MPJPE_actions", "N-MPJPE", "MPJVE", "3DPCK", "3DAUC", "MPJPE_mean_pose", "MPJPE_linear",
        "calibration_error",
    )  # fmt: skip

    @property
    def skeleton(self) -> Skeleton:
        """The joints of the training data, or of the evaluation data if a run only evaluates."""
        return (self.val if self.train is None else self.train).skeleton

    def check(self) -> None:
        """Raises a ValueError if there is nothing to train on or to evaluate on, or the joints of the two differ."""
        if self.train is None or not len(self.train) or not len(self.val):
            raise ValueError("there are no poses to train on or to evaluate on")
        if self.train.skeleton != self.val.skeleton:
            raise ValueError(
                f"poses to train on have {self.train.skeleton.name}, those to evaluate on {self.val.skeleton.name}"
            )

    def count(self) -> int:
        """Returns the number of poses in an epoch."""
        return len(self.train)

    def variant(self) -> str:
        """Returns the settings of an evaluation for its file names."""
        return "" if self.config.root == "aligned" else f"_{self.config.root}"

    @cached_property
    def _frames(self) -> int:
        config = self.config
        return 1 if config.net == "fc" else int(np.prod(config.widths))

    def train_batches(self, *, start_step: int, total: int) -> Iterator[Batch]:
        """Yields global batches; batch t depends on (seed, t) only."""
        config, size = self.config, self.config.batch_size
        share = size // jax.process_count()
        first = jax.process_index() * share
        for step in range(start_step, total):
            positions = step * size + first + np.arange(share)
            index, _ = feed.sample_indices(positions, num_samples=len(self.train), seed=config.seed)
            batch = arrays(self.train, index, pairs.windows(self.train, self._frames, rows=index))
            if config.mirror:  # drawn for the global batch, so that the number of processes does not matter
                draws = philox(config.seed, MIRROR, step, 0).random(size)[first : first + share] < 0.5
                batch = {**batch, "mirrored": draws} if config.norm == "lcn" else mirror(batch, draws, self.skeleton)
            yield parallel.global_batch(batch, self.mesh)

    def predict(self, step: PredictStep, task: tasks.Task, variables: PyTree) -> Predictions:
        """Returns joints (N, K, 3) in mm relative to the root for every pose of `val`, and mu and sigma if the task has them."""
        inputs = ("px", "focal", "center", "size_wh", *(("root",) if task.needs_root else ()))
        return inference.run(
            inference.on_mesh(step, variables, self.mesh, inputs=inputs), self._eval_batches(task.frames, task.causal)
        )

    def _eval_batches(self, frames: int, causal: bool) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's rows of every pose once; padding repeats the last one."""
        size = min(TEST_BATCH, len(self.val))
        size = -(-size // self.mesh.size) * self.mesh.size
        own = np.array_split(np.arange(size), jax.process_count())[jax.process_index()]
        for start in range(0, len(self.val), size):
            places = start + own
            index = np.minimum(places, len(self.val) - 1)
            rows = pairs.windows(self.val, frames, causal=causal, rows=index)
            yield {**arrays(self.val, index, rows), "valid": places < len(self.val)}

    def score(
        self, predictions: Predictions, task: tasks.Task, variables: PyTree, *, name: str, last: bool = True
    ) -> dict[str, float]:
        """Returns the scores; the last evaluation also writes results/NAME.json, its table, and results/truth.json (process 0)."""
        truth = truth_of(self.val)
        result = poses_3d.scores(
            predictions["joints"], truth.joints, root=truth.root, handling=self.config.root,
            action=truth.action if np.any(truth.action != "") else None, sequence=truth.sequence, frame=truth.frame,
        )  # fmt: skip
        scores = {key: value for key, value in result.items() if isinstance(value, float)}
        scores |= self._baselines(truth)
        if "MPJPE_mean_pose" in scores:
            scores["skill"] = 1 - scores["MPJPE"] / scores["MPJPE_mean_pose"]
        folder, model = self.config.out / "results", task.density(variables) if last else None
        if model is not None:
            result["density"] = self.density_report(predictions, task, model)
            error = result["density"]["all"]["calibration_error"]
            scores |= {} if error is None else {"calibration_error": error}
        if last and jax.process_index() == 0:
            poses_3d.write(
                poses_3d.from_predictions(predictions["joints"], image_id=truth.image_id), folder / f"{name}.json"
            )
            poses_3d.write_truth(truth, folder / "truth.json")
            if model is not None and not task.needs_root:
                self._write_regions(predictions, task, model, folder / f"{name}_regions.npz")
            files.write_json(folder / f"{name}_report.json", result | scores, indent=1)
            log.info("%s", poses_3d.table(result))
        return scores

    def density_report(
        self, predictions: Mapping[str, np.ndarray], task: tasks.Lifting, model: density.Model
    ) -> dict[str, Any]:
        """Returns coverage, calibration error and the distribution of sigma in space, of the joints that the likelihood counts.

        Of at most `CALIBRATED` poses, in the unit of the net's normalisation.
        """
        index = evenly(len(self.val), CALIBRATED)
        root = self.val.joints[index, task.root]
        batch = {name: getattr(self.val, name)[index] for name in ("joints", "focal", "center", "size_wh")}
        batch["root"] = np.broadcast_to(root[:, None], (len(index), task.frames, 3))
        target = np.asarray(task.target(batch))
        where = np.broadcast_to(np.asarray(task.is_trained), target.shape[:-1])
        mu, sigma = (np.asarray(predictions[key])[index] for key in ("mu", "sigma"))
        return density.calibration(mu, sigma, target, model, levels=persons.LEVELS, where=where)

    def _write_regions(self, predictions: Predictions, task: tasks.Lifting, model: density.Model, path: Path) -> None:
        """Writes the ellipsoids (N, K, 3, 3) in square mm of the poses of the page; NaN for the root."""
        from jaxpose.view.space import ellipsoids_of

        _, half_axes, directions = density.region(model, REGION).ellipse()
        sigma = MM * np.asarray(predictions["sigma"])[evenly(len(self.val), IN_SPACE)]
        sigma = np.where(np.asarray(task.is_trained)[:, None], sigma, np.nan)
        ellipsoids = ellipsoids_of(sigma, half_axes=half_axes, directions=directions)
        np.savez_compressed(path, ellipsoids=ellipsoids.astype(np.float32))

    def _baselines(self, truth: poses_3d.Truth) -> dict[str, float]:
        """Returns the errors of the mean training pose and of a linear map; without training data, of the mean pose of the run."""
        if self.train is None:
            path = checkpoint.find(self.config.eval_only).parent / BASELINES
            if not path.is_file():
                return {}
            mean = np.array(files.read_json(path, "baselines of a run")["mean_pose"])
            guesses = {"MPJPE_mean_pose": np.broadcast_to(mean, truth.joints.shape)}
        else:
            guesses = self._guesses
        target = truth.joints - truth.joints[:, truth.root, None]
        return {key: float(metrics.mpjpe(guess, target).mean()) for key, guess in guesses.items()}

    @cached_property
    def _guesses(self) -> dict[str, np.ndarray]:
        """Poses (N, K, 3) of the evaluation without a net: the mean of the training poses, and a linear map of the pixels."""
        few = self.train.take(np.linspace(0, len(self.train) - 1, min(FEW, len(self.train))).astype(int))
        target = few.joints - few.joints[:, few.root, None]
        mean = target.mean(0)
        files.write_json(self.config.out / BASELINES, {"mean_pose": mean.tolist()})
        x, y = linear_input(few), linear_input(self.val)
        weights = np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1]) / 100, x.T @ target.reshape(len(x), -1))
        shape = self.val.joints.shape
        return {"MPJPE_mean_pose": np.broadcast_to(mean, shape), "MPJPE_linear": (y @ weights).reshape(shape)}

    def report(self, name: str) -> None:
        """Writes report.html, poses of the evaluation `name` that can be turned."""
        from jaxpose.view import space

        path = self.config.out / "results" / f"{name}.json"
        if not path.is_file():
            return
        joints, ids = poses_3d.read(path, num_joints=self.skeleton.num_joints)
        index = evenly(len(joints), IN_SPACE)
        regions = path.with_name(f"{name}_regions.npz")
        ellipsoids = np.load(regions)["ellipsoids"] if regions.is_file() else None
        val, scores = self.val, files.read_json(path.with_name(f"{name}_report.json"), "report")
        truth = val.joints[ids[index]]
        names = [f"{val.subject[i]} {val.action[i]} {val.camera[i]} frame {val.frame[i]}" for i in ids[index]]
        space.write(
            self.config.out / "report.html", joints[index], skeleton=self.skeleton, truth=truth - truth[:, val.root, None],
            names=names, title="Lifted poses", ellipsoids=ellipsoids,
            text=f"Root: {scores['root']}." + ("" if ellipsoids is None else f" Ellipsoids: regions of {REGION:.0%}."),
            scores={key: scores[key] for key in self.headline if key in scores},
        )  # fmt: skip

    def draw(self, predictions: Predictions, task: tasks.Task, variables: PyTree, events: list[dict[str, Any]]) -> None:
        """Draws the pictures at the end of a run into out/plots."""
        from jaxpose import view
        from jaxpose.view.figures import lifted

        view.curves(events, self.config.out / "plots" / "curves.png")
        if (model := task.density(variables)) is not None:
            described = self.density_report(predictions, task, model)
            coverage = {key: described[key]["coverage"] for key in described}
            path = self.config.out / "plots" / "calibration.png"
            view.calibration(np.asarray(persons.LEVELS), coverage, path, title="calibration in space")
        index = np.linspace(0, len(self.val) - 1, min(PICTURES, len(self.val))).astype(int)
        truth = self.val.joints[index]
        lifted.lifted(
            predictions["joints"][index], self.skeleton, self.config.out / kinds.LAST_PICTURE,
            truth=truth - truth[:, self.val.root, None], titles=[str(self.val.action[i]) for i in index],
        )  # fmt: skip


def evenly(count: int, most: int) -> np.ndarray:
    """Returns indices of at most `most` of `count` poses, evenly spaced."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)


def arrays(source: Pairs, index: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays of a batch, see `jaxpose.tasks.Lifting`.

    Args:
        source: the pairs.
        index: (B,) the predicted poses.
        rows: (B, T) the frames that the net sees.
    """
    return {
        "px": source.px[rows], "joints": source.joints[index], "root": source.joints[rows, source.root],
        "focal": source.focal[index], "center": source.center[index], "size_wh": source.size_wh[index],
    }  # fmt: skip


def mirror(batch: Mapping[str, np.ndarray], where: np.ndarray, skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Returns a batch whose poses at `where` (B,) are mirrored, in pixels and in space."""
    swap, width = list(skeleton.flip_index), batch["size_wh"][:, 0]
    px = batch["px"][..., swap, :].copy()
    px[..., 0] = width[:, None, None] - px[..., 0]
    joints = batch["joints"][:, swap] * np.float32([-1, 1, 1])
    center = np.stack([width - batch["center"][:, 0], batch["center"][:, 1]], -1)
    other = {"px": px, "joints": joints, "root": batch["root"] * np.float32([-1, 1, 1]), "center": center}
    return {
        name: np.where(where.reshape(-1, *[1] * (array.ndim - 1)), other.get(name, array), array)
        for name, array in batch.items()
    }


def linear_input(source: Pairs) -> np.ndarray:
    """Returns the columns (N, 2 K + 1) of the linear baseline: positions relative to the root, the root's, and 1."""
    screen = 2 * (source.px - source.center[:, None]) / source.size_wh[:, None, :1]
    relative = screen - screen[:, source.root, None]
    relative[:, source.root] = screen[:, source.root]
    return np.concatenate([relative.reshape(len(source), -1), np.ones((len(source), 1))], 1).astype(np.float64)


def truth_of(source: Pairs) -> poses_3d.Truth:
    """Returns the labels of pairs, relative to the root, with the number of the row as the id."""
    joints = source.joints.astype(np.float64)
    return poses_3d.Truth(
        joints - joints[:, source.root, None], np.arange(len(source)), source.skeleton, source.root, action=source.action,
        subject=source.subject, sequence=source.sequence, frame=source.frame,
    )  # fmt: skip


def load(config: PairConfig, *, skeleton: Skeleton | None = None) -> PosePairs:
    """Opens the pairs that the config names: drawn people, VideoPose3D's files, mmpose's, or MPI-INF-3DHP's.

    The config of the result has the names of the subjects.
    """
    config = config.with_subjects()
    if config.data is not None:
        trained = "" if config.eval_only else f"trained on {' '.join(config.train_subjects)}, "
        log.info("subjects: %sevaluated on %s", trained, " ".join(config.val_subjects))
    mesh = kinds.make_mesh(config)
    splits: list[tuple[Pairs | None, Pairs]] = []
    parallel.on_first(lambda: splits.append(_open(config)))
    train, val = splits[0] if splits else _open(config)
    if skeleton is not None and val.skeleton != skeleton:
        raise ValueError(
            f"the net was trained on {skeleton.name}, the data have {val.skeleton.name}: other joints, or another order"
        )
    return PosePairs(config, None if config.eval_only else train, val, mesh)


def settle(config: PairConfig, kind: PosePairs, make: Any) -> tuple[PairConfig, PosePairs]:
    """See `Page.settle`: a run stores the names of its subjects."""
    names = {name: getattr(kind.config, name) for name in ("train_subjects", "val_subjects")}
    return dataclasses.replace(config, **names), kind


def _layout(folder: Path) -> Literal["mmpose", "mmpose_3dhp", "mpi_inf_3dhp", "videopose3d"]:
    """Returns whose files a folder holds; VideoPose3D's if it holds no other ones."""
    for name, (train_file, _) in MMPOSE.items():
        if (folder / train_file).is_file():
            return name
    return "mpi_inf_3dhp" if mpi_inf_3dhp.is_folder(folder) else "videopose3d"


def _open(config: PairConfig) -> tuple[Pairs | None, Pairs]:
    config = config.with_subjects()
    if config.data is None:
        return synthetic.load(config.data_dir, poses=config.poses)
    folder = Path(config.data)
    layout = _layout(folder)
    if layout in MMPOSE:
        train_file, val_file = (folder / name for name in MMPOSE[layout])
        _refuse_flags_of_videopose3d(config, train_file)
        train = None if config.eval_only else _of_subjects(train_file, config.train_subjects, "--train-subjects")
        return train, _of_subjects(val_file, config.val_subjects, "--val-subjects")
    if layout == "mpi_inf_3dhp":
        return _open_mpi_inf_3dhp(config, folder)
    paths = videopose3d.find(folder, keypoints=config.keypoints)
    train = None
    if config.eval_only is None:
        train = videopose3d.read(*paths, subjects=config.train_subjects, every=config.every)
    return train, videopose3d.read(*paths, subjects=config.val_subjects, every=config.val_every)


def _of_subjects(path: Path, subjects: tuple[str, ...], flag: str) -> Pairs:
    """Reads the poses of some subjects of mmpose's file; a subject that it does not have is warned of."""
    every = mmpose_3d.read(path)
    present = sorted(set(every.subject.tolist()))
    if missing := [name for name in subjects if name not in present]:
        message = (
            f"{flag} {' '.join(subjects)}: {path} has no pose of {', '.join(missing)}; it has {', '.join(present)}"
        )
        if len(missing) == len(subjects):
            raise ValueError(message)
        log.warning("%s", message)
    return every.of_subjects(subjects)


def _open_mpi_inf_3dhp(config: PairConfig, folder: Path) -> tuple[Pairs | None, Pairs]:
    """Opens MPI-INF-3DHP as its authors give it out, with the names of its subjects in the config."""
    if config.keypoints != "gt":
        raise ValueError(
            f"--keypoints {config.keypoints}: {folder} holds MPI-INF-3DHP, with 2D joints of the labels; leave it out"
        )
    train = None
    if config.eval_only is None:
        train = mpi_inf_3dhp.read_train(folder, subjects=config.train_subjects, every=config.every)
    if all(name in mpi_inf_3dhp.TRAIN for name in config.val_subjects):
        return train, mpi_inf_3dhp.read_train(folder, subjects=config.val_subjects, every=config.val_every)
    return train, mpi_inf_3dhp.read_test(folder, sequences=config.val_subjects, every=config.val_every)


def _refuse_flags_of_videopose3d(config: PairConfig, file: Path) -> None:
    """Raises a ValueError for a flag that mmpose's files, which hold single frames with the joints of the labels, would ignore."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in ("keypoints", "every", "val_every"):
        if (value := getattr(config, name)) != defaults[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} {value}: {file.parent} holds mmpose's {file.name}, for which it has no meaning; leave it "
                "out, or name a folder that holds VideoPose3D's files alone"
            )
