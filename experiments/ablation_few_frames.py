"""Which method for few labelled frames? Regression and heatmaps side by side on a small set (docs/few_frames.md).

  python -m experiments.ablation_few_frames --data FOLDER              a set in COCO layout, train to val
  python -m experiments.ablation_few_frames --images 100               100 pictures of the synthetic people
  python -m experiments.ablation_few_frames --data FOLDER --init RUN   the backbone starts from another run's, or from a file

Input size, aspect, augmentation, schedule, moving average and the loss of the maps are those that `--preset auto` chooses for the
set (`experiments/common/auto.py`); a row changes the head and its losses. `experiments/common/ablation.py` describes how runs are
stored and shared between processes.

Columns: mean error of the held-out joints in image pixels; its ratio to the error of the mean position in the box; the part of
the joints within 5 % of the box's longer side; and for rows with a density the part of the held-out joints in the predicted
90 % regions, as trained (without a fitted factor of sigma).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from experiments.common import ablation, auto, families
from experiments.common.kinds import PredictStep, PyTree
from experiments.common.persons import OwnAugment
from experiments.common.rules import AnyValue, Fixed, LocalPath, MayChange, Positive
from jaxpose import density, geometry, inference, metrics, tasks, train
from jaxpose.data import synthetic
from jaxpose.data.formats import coco
from jaxpose.data.source import Source
from jaxpose.evaluation.baselines import Baselines
from jaxpose.nets import HeatmapNet, IntegralRegressor, PeakRegressor, PoseRegressor, RegressionHead, ResNet
from jaxpose.skeleton import Skeleton
from jaxpose.tasks import NO_MAP_LOSS, JointLoss, Likelihood, MapLoss, Readout

HELD_OUT = 200
"""Held-out pictures of the synthetic people."""
LEVEL = 0.9
"""Probability mass of the regions whose coverage is measured."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        head: the head: "pooled" (a linear layer on pooled features), "soft_argmax" or "peak" (a likelihood around the
            coordinates of heatmaps), "maps" (heatmaps alone).
        likelihood: the loss of the coordinates; not used by "maps".
        kind: the loss of the maps.
        read: the decoding of "maps".
        joints: the coordinate loss of "maps".
        maps_first: share of the steps in which a heatmap net is trained first, whose backbone initialises this net.
    """

    head: str
    likelihood: Likelihood = Likelihood()
    kind: str = "none"
    read: Readout = Readout()
    joints: JointLoss = JointLoss()
    maps_first: float = 0.0


DARK = Readout("dark", kernel=families.blur_for(1.5))
SOFT = Readout("soft_argmax", confidence="probability")
ROWS: dict[str, Row] = {
    "rle": Row("pooled"),
    "laplace": Row("pooled", Likelihood(loss="laplace")),
    "heatmap_then_rle": Row("pooled", maps_first=0.5),
    "rle_soft_argmax": Row("soft_argmax"),
    "rle_soft_argmax_kl": Row("soft_argmax", kind="kl"),
    "integral": Row("maps", read=SOFT, joints=JointLoss("l1")),
    "integral_compensated": Row("maps", read=replace(SOFT, compensate=True), joints=JointLoss("l1")),
    "heatmap_dark": Row("maps", kind="mse", read=DARK),
    "peak": Row("peak", kind="mse"),
}


@dataclass(frozen=True)
class Config(ablation.AblationConfig):
    """Methods side by side on few labelled frames."""

    rows: Annotated[tuple[str, ...], AnyValue, MayChange] = tuple(ROWS)
    """Rows of the table; ROWS in this file lists all."""
    data: Annotated[Path | None, LocalPath, Fixed] = None
    """A folder in COCO layout with the splits train and val; none: synthetic people."""
    images: Annotated[int, Positive, Fixed] = 100
    """Number of synthetic training pictures without --data; 200 more are held out."""
    init: Annotated[Path | None, LocalPath, Fixed] = None
    """Source of every row's initial backbone: the folder of a run, or a PyTorch file."""
    steps: Annotated[int, Positive, Fixed] = 600
    copies: Annotated[int, Positive, Fixed] = 32
    largest: Annotated[int, Positive, Fixed] = 96
    """Longest side of the input, which otherwise follows from the data."""
    evaluations: Annotated[int, Positive, Fixed] = 1
    out: Annotated[Path, LocalPath, MayChange] = Path("runs/ablation_few_frames")


def load(config: Config, seed: int) -> dict[str, Any]:
    """Returns the set as arrays, the settings that follow from it, and its baselines."""
    folder = config.data or synthetic.write_dataset(
        config.out / f"people_{seed}_{config.images}{ablation.people_suffix(config)}", train=config.images, val=HELD_OUT,
        seed=1000 + seed, label_noise=config.label_noise, person_sizes=config.person_sizes, workers=config.workers,
    )  # fmt: skip
    sources: dict[str, Source] = {split: coco.read(*coco.find(folder, split)) for split in ("train", "val")}
    facts = auto.measure(sources["train"])
    choices = {choice.name: choice.value for choice in auto.choose(facts, largest=config.largest)}
    sized = replace(config, size_wh=choices["size_wh"])
    own = OwnAugment(**{name[4:]: value for name, value in choices.items() if name.startswith("own.")})
    training = sources["train"].persons
    return {
        "skeleton": sources["train"].skeleton,
        "size_wh": choices["size_wh"],
        "flip_test": choices["flip_test"],
        "map_weight": choices["auxiliary.weight"],
        "baselines": Baselines.from_training(training["keypoints"], training["box"]),
        "train": ablation.crops(sources["train"], sized, seed=seed, augment=own.setting(), copies=config.copies),
        "val": ablation.crops(sources["val"], sized, seed=seed, augment="none", copies=1),
    }


def make_task(
    row: Row, config: Config, *, skeleton: Skeleton, size_wh: tuple[int, int], map_weight: float
) -> tasks.Task:
    """Returns the task of a row: backbone and map head are the same for all rows, readout and losses differ."""
    joints = skeleton.num_joints
    backbone = ResNet(depth=config.depth, width=config.width, stages=auto.STAGES)
    maps = HeatmapNet(backbone, joints, deconvs=auto.DECONVS)
    weight = map_weight if row.kind == "mse" else 1.0  # the divergences are sums over the map, not means
    map_loss = MapLoss(row.kind, sigma=1.5, target="unbiased", weight=weight)
    if row.head == "maps":
        return tasks.heatmaps(
            maps, skeleton=skeleton, size_wh=size_wh, maps=map_loss, joints=row.joints, read=row.read,
        )  # fmt: skip
    net = {
        "pooled": lambda: PoseRegressor(backbone, RegressionHead(joints, kind="normalized", sigma_bias=-1.0)),
        "soft_argmax": lambda: IntegralRegressor(maps, sigma_bias=-1.0),
        "peak": lambda: PeakRegressor(maps, kernel=families.blur_for(1.5), sigma_bias=-1.0),
    }[row.head]()
    auxiliary = map_loss if row.kind != "none" else NO_MAP_LOSS
    return tasks.regression(
        net, skeleton=skeleton, size_wh=size_wh, likelihood=row.likelihood, auxiliary=auxiliary,
    )  # fmt: skip


def train_row(name: str, config: Config, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains one row with one seed and returns the numbers on the held-out joints."""
    row = ROWS[name]
    options = {key: data[key] for key in ("skeleton", "size_wh", "map_weight")}
    task = make_task(row, config, **options)
    variables = families.from_pretrained(task, flags(config, seed))
    opening = round(row.maps_first * config.steps)
    if opening:
        maps_task, trained = make_task(ROWS["heatmap_dark"], config, **options), {}
        start = families.from_pretrained(maps_task, flags(config, seed))
        _fit(maps_task, config, data, steps=opening, seed=seed, name=f"{name}: maps", variables=start,
             finish=lambda task, variables: trained.update(variables) or {})  # fmt: skip
        backbone = {"params": trained["params"]["net"]["backbone"], "batch_stats": trained["batch_stats"]["backbone"]}
        variables = families.with_backbone(task, backbone, flags(config, seed), source="the heatmaps")
    return _fit(task, config, data, steps=config.steps - opening, seed=seed, name=name, variables=variables)


def flags(config: Config, seed: int) -> families.RegressionConfig:
    """Returns the flags of a page that name this backbone and its initial weights."""
    return families.RegressionConfig(
        depth=config.depth, width=config.width, resnet_stages=auto.STAGES, init=config.init, seed=seed
    )


def _fit(
    task: tasks.Task, config: Config, data: dict[str, Any], *, steps: int, seed: int, name: str,
    variables: PyTree | None, finish: Any = None,
) -> dict[str, Any]:  # fmt: skip
    schedule = train.linear_decay(config.learning_rate, steps=steps, warmup_steps=min(100, steps // 6))
    return ablation.train_one(
        task, replace(config, steps=steps), data, seed=seed, name=name, finish=finish, flip_test=data["flip_test"],
        tx=train.optimizer(schedule, clip_norm=100.0), ema=0.98, variables=variables,
        measure=lambda step, task, variables: measure(step, task, variables, config, data),
    )  # fmt: skip


def measure(
    step: PredictStep, task: tasks.Task, variables: PyTree, config: Config, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the numbers of one row on the held-out joints."""
    val = data["val"]
    predictions = ablation.predict_in_memory(step, variables, val["image"], config.batch_size)
    where = val["visibility"] > 0
    xy, truth = (inference.to_image(points, val["affine"]) for points in (predictions["xy"], val["joints"]))
    error = metrics.distance(xy, truth, where=where)
    labels = {"joints": truth, "visibility": val["visibility"], "box": val["box"]}
    trivial = data["baselines"].errors(labels, nearest=False)["EPE_mean_position"]
    side = val["box"][:, 2:].max(-1)[:, None]
    numbers = {
        "EPE": float(error[where].mean()),
        "EPE_mean_position": trivial,
        "of_mean_position": float(error[where].mean() / trivial),
        "PCK": float((error <= 0.05 * side)[where].mean()),
    }
    model = task.density(variables)
    if model is not None:
        target = geometry.normalize(val["joints"], data["size_wh"])
        counted = density.coverage(predictions["mu"], predictions["sigma"], target, model, levels=(LEVEL,), where=where)
        numbers["coverage_90"] = float(counted.overall[0])
    return numbers


COLUMNS = ("EPE", "EPE_mean_position", "of_mean_position", "PCK", "coverage_90", "seconds")


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    config = ablation.parse(Config, __doc__, argv)
    if config.data is not None and config.images != Config.images:
        raise ValueError(
            f"--data {config.data} --images {config.images}: --images is the number of synthetic pictures; leave one out"
        )
    if config.data is not None and config.label_noise != Config.label_noise:
        raise ValueError(
            f"--data {config.data} --label-noise {config.label_noise:g}: --label-noise is that of synthetic labels; leave one out"
        )
    if config.data is not None and config.person_sizes is not None:
        raise ValueError(
            f"--data {config.data} --person-sizes {config.person_sizes[0]:g} {config.person_sizes[1]:g}: --person-sizes are those of "
            "synthetic people; leave one out"
        )
    for name in ("augment", "size_wh"):
        if (value := getattr(config, name)) != getattr(Config, name):
            raise ValueError(f"--{name.replace('_', '-')} {value}: here it follows from the data; leave it out")
    runs = ablation.run_all(config, ROWS, train_row, load=load)
    return ablation.report(runs, config, COLUMNS, plot=lambda runs, path: None)


if __name__ == "__main__":
    main()
