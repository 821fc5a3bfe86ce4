"""Integral regression and its baselines (Sun 2018, arXiv 1711.08229), on COCO keypoints.

  python -m experiments.coco_integral                                              I1 on embedded synthetic people
  python -m experiments.coco_integral --preset paper --data DIR --method I1 --init resnet101.pth
  python -m experiments.coco_integral --preset paper --data DIR --method H2 --depth 50
  python -m experiments.coco_integral --preset paper --data DIR --depth 50 --deconvs 256 256 --stages 4
  python -m experiments.coco_integral --preset paper --data DIR --decay plateau --eval-every 5       the paper's schedule
  python -m experiments.coco_integral --preset paper --data DIR --train-split train+val --method I1  table 8, for test-dev

--method, the paper's names:
  H1, H2, H3   heatmaps alone: squared error to a Gaussian, cross-entropy over the pixels, binary cross-entropy in a disc
  R1           average pooling and a linear layer, L1
  I1, I2, I3   trained with the loss of H1, H2, H3 alone, then with that and the L1 of the soft-argmax
  I*           the L1 of the soft-argmax alone
H1 to H3 are decoded as equation 1 of the paper says, at the highest pixel itself (--read.shift 0.25 moves it by a quarter pixel, as in
SimpleBaseline). A flag that the method decides or does not use is refused; other settings of the maps, such as --maps.sigma and
--read.compensate, hold for every method that reads them.
--size-wh 128 128, --deconvs 256 256 (two: stride 8, as on MPII), --depth 18 50 101 and --stages 2 3 4 give the other tables;
`mpii_integral` is the same on MPII.

Published: COCO test-dev, ResNet-101, 256x256: H1 AP 66.3, I1 AP 67.8. The paper drops the rate from 1e-3 to 1e-5 when the
validation loss stops decreasing, and trains heatmaps to convergence before the joint loss; it does not state the weights of the
two losses. Our choices: 140 epochs with HRNet's milestones, half of them with heatmaps alone (--alone), --map-weight. --decay plateau
multiplies the rate by 0.1 twice, each time that three evaluations in a row (--plateau) bring no better score: AP here, since the
evaluation computes no loss.
Poses are rescored with the heatmap score (section 6.2 of the paper) by the rule of G-RMI, which it cites: the mean of the joints'
scores (--rescore mean). A joint's score is the peak of its map; for I*, whose maps have no loss, the highest probability of the
softmax; R1 has no maps, so the box's score counts. Each channel of a crop is multiplied by a factor in 1 +- 0.2 (--colour), as in
the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from experiments.common import families, persons, runner
from experiments.common.config import UNUSED, Methodical
from experiments.common.page import Page, Tasks
from experiments.common.rules import AnyValue, AtLeast, Between, Fixed
from jaxpose.skeleton import Skeleton
from jaxpose.tasks import NO_MAP_LOSS, JointLoss, Likelihood, MapLoss, Readout


@dataclass(frozen=True)
class Config(families.HeatmapConfig, Methodical):
    """Integral regression on COCO keypoints."""

    method: Annotated[Literal["H1", "H2", "H3", "R1", "I1", "I2", "I3", "I*"], AnyValue, Fixed] = "I1"
    """The paper's name; it sets --maps.kind, --maps.weight, --joints.kind, --read.decode and --first-epochs."""
    map_weight: Annotated[float | None, AtLeast(0), Fixed] = None
    """Weight of the heatmap loss next to the joint loss of I1, I2, I3; none: 100, 0.01, 0.1."""
    alone: Annotated[float, Between(0, 1, "a share of the epochs, from 0 to below 1", open_high=True), Fixed] = 0.5
    """Share of the epochs in which I1, I2 and I3 train heatmaps alone."""


# Gaussians of sigma 1; the weights scale the map losses to the joint loss, which is a sum of fractions of the image.
MAPS = {
    "*": NO_MAP_LOSS,
    "1": MapLoss(sigma=1.0, weight=100.0),
    "2": MapLoss("cross_entropy", weight=0.01),
    "3": MapLoss("bce", weight=0.1),
}


# Settings of the maps that the loss of a method does not read. The target says where the grid of the maps lies: all read it.
UNREAD = {
    "*": ("kind", "weight", "sigma", "radius", "variant"),
    "1": ("radius",),
    "2": ("sigma", "radius", "variant"),
    "3": ("sigma", "variant"),
}


def with_method(config: Config) -> Config:
    """Applies the losses and the decoding of the method.

    Raises:
        ValueError: a flag given by hand that the method decides, or does not use.
    """
    by = f"--method {config.method}"
    if config.method == "R1":
        return _direct(config)
    kind, number = config.method
    trained_apart = kind == "I" and number != "*"
    if not trained_apart:
        config.decided(by, map_weight=UNUSED, alone=UNUSED)
    config.decided(by, maps__kind=MAPS[number].kind, first=UNUSED, first_epochs=UNUSED)
    config.decided(f"{by}, for whose losses there is --map-weight," if trained_apart else by, maps__weight=UNUSED)
    config.decided(by, **{f"maps__{name}": UNUSED for name in UNREAD[number]})
    maps = config.apply_flags("maps", MAPS[number])
    if kind == "H":
        config.decided(by, joints=UNUSED, read__decode="argmax", read__compensate=UNUSED, read__floor=UNUSED)
        config.decided(by, read__beta=UNUSED, read__rectify=UNUSED, read__kernel=UNUSED)
        read = config.apply_flags("read", Readout("argmax", shift=0.0))
        return replace(config, maps=replace(maps, weight=1.0), joints=JointLoss(), read=read, first_epochs=0)
    config.decided(by, joints__kind="l1", read__decode="soft_argmax", read__border=UNUSED, read__kernel=UNUSED)
    config.decided(by, read__shift=UNUSED)
    if config.map_weight is not None:
        maps = replace(maps, weight=config.map_weight)
    confidence = "probability" if number == "*" and config.rescore == "mean" else config.read.confidence
    read = config.apply_flags("read", Readout("soft_argmax", beta=config.read.beta, confidence=confidence))
    first = config.alone * config.epochs if trained_apart else 0
    return replace(
        config, maps=maps, joints=config.apply_flags("joints", JointLoss("l1")), read=read, first_epochs=first
    )


def _direct(config: Config) -> Config:
    """R1 has no maps, and so none of their settings."""
    by = "--method R1"
    if config.stages > 1:
        raise ValueError(f"{by} --stages {config.stages}: direct regression has one stage")
    maps = ("maps", "joints", "read", "deconvs", "first", "first_epochs", "map_weight", "alone")
    config.decided(by, **dict.fromkeys(maps, UNUSED))
    if config.rescore == "mean" and "rescore" in config.by_hand:
        raise ValueError(f"--rescore mean {by}: there are no maps, so no scores of joints; give --rescore box")
    return replace(config, rescore="box") if config.rescore == "mean" else config


PRESETS = {
    # The softmax's highest probability as confidence; the paper's is the heatmap's score (QUIRK I4).
    "tiny": Config(
        depth=18, width=16, deconvs=(64, 64, 64), size_wh=(96, 96), batch_size=32, epochs=45, milestones=(33, 41),
        learning_rate=3e-3, warmup_steps=200, eval_every=15, clip_norm=10.0, ema=0.998, augment="light",
        read=Readout(confidence="probability"),
    ),
    "paper": Config(
        depth=101, size_wh=(256, 256), batch_size=128, epochs=140, milestones=(90, 120), augment="mpii",
        colour=0.2, rescore="mean",
    ),
}  # fmt: skip


def make(config: Config, skeleton: Skeleton) -> Tasks:
    """Returns the task of the method, and the task that comes first."""
    if config.method != "R1":
        return families.heatmap_tasks(config, skeleton)
    shared = {f.name: getattr(config, f.name) for f in fields(families.BackboneConfig)}
    regression = families.RegressionConfig(**shared, head="linear", likelihood=Likelihood(loss="l1"), outside="mask")
    return families.regression_task(regression, skeleton), None


PAGE = Page("coco_integral", PRESETS, __doc__, make=make, load=persons.load, adjust=with_method)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
