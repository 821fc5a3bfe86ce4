"""Integral regression and its baselines (Sun 2018, arXiv 1711.08229), on COCO keypoints.

  python -m experiments.coco_integral                                              I1 on embedded synthetic people
  python -m experiments.coco_integral --preset paper --data DIR --method I1 --init resnet101.pth
  python -m experiments.coco_integral --preset paper --data DIR --method H2 --depth 50
  python -m experiments.coco_integral --preset paper --data DIR --depth 50 --deconvs 256 256 --stages 4

--method, the paper's names:
  H1, H2, H3   heatmaps alone: squared error to a Gaussian, cross-entropy over the pixels, binary cross-entropy in a disc
  R1           average pooling and a linear layer, L1
    I1, I2, I3   trained with the loss of H1, H2, H3 alone, then with that and the L1 of the soft-argmax
    I*           the L1 of the soft-argmax alone
--size-wh 128 128, --deconvs 256 256 (two: stride 8, as on MPII), --depth 18 50 101 and --stages 2 3 4 give the other tables;
`mpii_integral` is the same on MPII.

Published: COCO test-dev, ResNet-101, 256x256: H1 AP 66.3, I1 AP 67.8. The paper drops the rate from 1e-3 to 1e-5 when the
validation loss stops decreasing, and trains heatmaps to convergence before the joint loss; it does not state the weights of the
two losses. Our choices: 140 epochs with HRNet's milestones, half of them with heatmaps alone (--alone), --map-weight.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from experiments.common import families, persons, runner
from experiments.common.page import Page, Tasks
from experiments.common.rules import AnyValue, AtLeast, Between, Fixed
from jaxpose.skeleton import Skeleton
from jaxpose.tasks import NO_MAP_LOSS, JointLoss, Likelihood, MapLoss, Readout


@dataclass(frozen=True)
class Config(families.HeatmapConfig):
    """Integral regression on COCO keypoints."""

    method: Annotated[Literal["H1", "H2", "H3", "R1", "I1", "I2", "I3", "I*"], AnyValue, Fixed] = "I1"
    """The paper's name; sets --maps, --joints, --read.decode and --first-epochs."""
    map_weight: Annotated[float | None, AtLeast(0), Fixed] = None
    """Weight of the heatmap loss next to the joint loss of I1, I2, I3; none: 100, 0.01, 0.1."""
    alone: Annotated[float, Between(0, 1, "a share of the epochs, from 0 to below 1", open_high=True), Fixed] = 0.5
    """Share of the epochs in which I1, I2 and I3 train heatmaps alone."""


# Gaussians of sigma 1; the weights scale the map losses to the joint loss, which is a sum of fractions of the image.
MAPS = {
    "1": MapLoss(sigma=1.0, weight=100.0),
    "2": MapLoss("cross_entropy", weight=0.01),
    "3": MapLoss("bce", weight=0.1),
}


def with_method(config: Config) -> Config:
    """Applies the losses and the decoding of the method."""
    if config.method == "R1" and config.stages > 1:
        raise ValueError(f"--method R1 --stages {config.stages}: direct regression has one stage")
    kind, number = config.method
    beta = config.read.beta
    match kind:
        case "H":
            maps = replace(MAPS[number], weight=1.0)
            return replace(config, maps=maps, joints=JointLoss(), read=Readout("argmax"), first_epochs=0)
        case "I":
            maps = MAPS.get(number, NO_MAP_LOSS)
            if config.map_weight is not None:
                maps = replace(maps, weight=config.map_weight)
            read = Readout("soft_argmax", beta=beta, confidence=config.read.confidence)
            first = 0 if number == "*" else config.alone * config.epochs
            return replace(config, maps=maps, joints=JointLoss("l1"), read=read, first_epochs=first)
    return config


PRESETS = {
    # The softmax's highest probability as confidence: the published code has 1 (QUIRK I4).
    "tiny": Config(
        depth=18, width=16, deconvs=(64, 64, 64), size_wh=(96, 96), batch_size=32, epochs=45, milestones=(33, 41),
        learning_rate=3e-3, warmup_steps=200, eval_every=15, clip_norm=10.0, ema=0.998, augment="light",
        read=Readout(confidence="probability"),
    ),
    "paper": Config(
        depth=101, size_wh=(256, 256), batch_size=128, epochs=140, milestones=(90, 120), augment="mpii",
        read=Readout(confidence="one"),
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
