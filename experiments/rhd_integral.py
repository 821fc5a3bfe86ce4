"""Hands in 2.5D by integral regression (Iqbal 2018), with the bias compensated (Gu 2021, table 5).

  python -m experiments.rhd_integral                                         "ours" on embedded synthetic hands, minutes on two cores
  python -m experiments.rhd_integral --method plain                          without heatmap loss and compensation
  python -m experiments.rhd_integral --head rle_3d                           RLE in pixels and depth; --head l1_3d: L1
  python -m experiments.rhd_integral --head rle                              RLE in pixels alone; --head l1: L1
  python -m experiments.rhd_integral --preset resnet50 --data RHD_published_v2 --init resnet50.pth
  python -m experiments.rhd_integral --preset hrnet_w32 --data RHD_published_v2 --init hrnet_w32-imagenet.pth
  python -m experiments.rhd_integral --eval-only runs/rhd_integral --data RHD_published_v2

The net predicts a heatmap and a depth map for each of 21 joints; pixel and relative depth are means under the same weights.
With the camera, the length of one bone gives the depth of the wrist (`jaxpose.hands.lift`).

--method:
  plain       L1 of the pixels and depths
  aug         plain, and a heatmap loss in the first epochs (L_aug)
  debias      plain, with the bias of pixels and depths compensated in training and in prediction
  ours        debias and aug

DIR is RHD as it is distributed (--category both takes both hands of a picture), mmpose's JSON of it, or a folder in COCO's
layout with 21 joints in RHD's order; docs/hands.md describes the labels in space.

Published (RHD, 2728 hands), AUC of 0 to 30 px / 20 to 50 mm in percent, end-point error in px / mm, of pixels that the paper
does not state: plain ("2.5D regression") 84.4 / 93.0, 4.76 / 14.3; ours 85.8 / 93.6, 4.34 / 13.5. The paper states no settings
for hands but those of the nets on COCO: crop, root, scale, augmentation and the presets' epochs are choices, made as
mmpose's recipe for RHD has them where it has any. Expected results of the default preset: docs/hands.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from experiments.common import hands, runner
from experiments.common.config import UNUSED, Methodical
from experiments.common.page import Page, Tasks
from experiments.common.persons import OwnAugment
from experiments.common.rules import AnyValue, Fixed, Positive, Unsaid
from jaxpose import tasks
from jaxpose.skeleton import Skeleton
from jaxpose.tasks import JointLoss, MapLoss, Readout

# The parts of a method: the heatmap loss in the first epochs, the compensation.
METHODS = {"plain": (False, False), "aug": (True, False), "debias": (False, True), "ours": (True, True)}
OF_MAPS = ("method", "beta", "maps", "joints", "read", "depths", "first", "first_epochs", "deconvs", "stages")


@dataclass(frozen=True)
class Config(hands.HandConfig, Methodical):
    """Hands in 2.5D."""

    head: Annotated[Literal["maps", "rle", "l1", "rle_3d", "l1_3d"], AnyValue, Fixed] = "maps"
    """What predicts the joints: heatmaps and depth maps, or a regression head with RLE's loss or L1, in pixels alone or with depth."""
    method: Annotated[Literal["plain", "aug", "debias", "ours"], AnyValue, Fixed] = "ours"
    """Row of table 5; it sets --maps.kind, --read.compensate and --first-epochs."""
    variant: Annotated[Literal["official", "paper"], AnyValue, Fixed, Unsaid("official")] = "official"
    """Form of RLE's loss: that of the released code, which rewards a growing sigma where depth is regressed, or the paper's."""
    beta: Annotated[float, Positive, Fixed] = 10.0
    """Inverse temperature of the softmax."""

    def depth_form(self) -> hands.DepthForm:
        """See `hands.HandConfig.depth_form`."""
        if self.head == "maps":
            return super().depth_form()
        return "coordinate" if self.head.endswith("_3d") else "none"

    def idle(self) -> dict[str, str]:
        flags = super().idle()
        if self.head.endswith("_3d"):
            flags["calibrate"] = "a --head in the plane, such as rle"
        if not self.head.startswith("rle"):
            flags["variant"] = "--head rle or rle_3d"
        return flags


def with_method(config: Config) -> Config:
    """Applies the losses and the readout of --head and --method.

    Raises:
        ValueError: a flag given by hand that they decide, or do not use.
    """
    if config.head != "maps":
        config.decided(f"--head {config.head}", **dict.fromkeys(OF_MAPS, UNUSED))
        return replace(config, first_epochs=0, read=Readout(), joints=JointLoss(), maps=MapLoss())
    by, (has_maps, compensates) = f"--method {config.method}", METHODS[config.method]
    config.decided(by, joints__kind="l1", first=UNUSED, read__decode="soft_argmax", read__compensate=compensates)
    config.decided(by, read__beta=config.beta, read__kernel=UNUSED, read__border=UNUSED, read__shift=UNUSED)
    config.decided(by, maps__kind="mse" if has_maps else "none", maps__radius=UNUSED)
    if not has_maps:
        config.decided(by, first_epochs=UNUSED, maps__weight=UNUSED, maps__sigma=UNUSED, maps__variant=UNUSED)
    if not compensates:
        config.decided(by, read__floor=UNUSED)
    return replace(
        config, first="both", first_epochs=config.first_epochs if has_maps else 0,
        maps=replace(config.maps, kind="mse" if has_maps else "none"), joints=config.apply_flags("joints", JointLoss("l1")),
        read=replace(config.read, decode="soft_argmax", beta=config.beta, compensate=compensates),
    )  # fmt: skip


def make(config: Config, skeleton: Skeleton) -> Tasks:
    """Returns the task of --head and --method, and what comes first."""
    if config.head == "maps":
        return hands.depth_tasks(config, skeleton)
    likelihood = tasks.Likelihood(loss=config.head.removesuffix("_3d"), variant=config.variant)
    return hands.regression_task(config, skeleton, likelihood=likelihood), None


MMPOSE = OwnAugment(flip=0.5, scale=0.3, rotation=90.0, rotation_probability=0.6, shift=0.16, shift_probability=0.3)
PRESETS = {
    "tiny": Config(
        depth=18, width=16, resnet_stages=3, deconvs=(64, 64), size_wh=(64, 64), batch_size=32, synthetic_images=2400, epochs=48,
        milestones=(36, 44), learning_rate=3e-3, warmup_steps=200, eval_every=16, clip_norm=10.0, ema=0.998, augment="own",
        own=OwnAugment(flip=0.5, scale=0.15, rotation=20.0), maps=MapLoss(sigma=1.0, weight=1000.0),
        read=Readout(confidence="probability"), first_epochs=20, nms=None, rescore="mean",
    ),
    # mmpose's augmentation of RHD; Gu's schedule of ResNet-50 on COCO.
    "resnet50": Config(
        size_wh=(256, 256), batch_size=128, epochs=140, milestones=(90, 120), augment="own", own=MMPOSE,
        maps=MapLoss(weight=100.0), read=Readout(confidence="probability"), first_epochs=40, nms=None, rescore="mean",
    ),
}  # fmt: skip
PRESETS["hrnet_w32"] = replace(
    PRESETS["resnet50"], backbone="hrnet", deconvs=(), epochs=210, milestones=(170, 200), first_epochs=60,
    kernel_init="narrow",
)  # fmt: skip


PAGE = Page("rhd_integral", PRESETS, __doc__, make=make, load=hands.load, adjust=with_method)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
