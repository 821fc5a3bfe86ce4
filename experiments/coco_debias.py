"""The bias of integral regression and its compensation (Gu 2021, Removing the Bias of Integral Pose Regression).

  python -m experiments.coco_debias                                            "ours" on embedded synthetic people
  python -m experiments.coco_debias --preset resnet50 --data DIR --init resnet50.pth
  python -m experiments.coco_debias --preset resnet50 --data DIR --method ipr --beta 20
  python -m experiments.coco_debias --preset resnet152_384 --data DIR --init resnet152.pth
  python -m experiments.coco_debias --preset hrnet_w32 --data DIR --init hrnet_w32-imagenet.pth

--method, the rows of table 6 and of mmpose:
  sbl         heatmaps alone, read by argmax
  ipr         L1 of the soft-argmax
  l_de        ipr and the heatmap loss, equation 2, in all epochs
  l_aug       ipr and the heatmap loss in the first epochs only
  debias      ipr, with the bias compensated in training and in prediction (equation 8, exact: QUIRK D3)
  ours        debias and l_aug
  dsnt        mmpose's: smooth L1 and the Jensen-Shannon divergence of the softmax map, beta 1
  mmpose_ipr  mmpose's: smooth L1 and the squared error of the softmax map, beta 1

"l_de" is our reading of section 5.4 of the paper, which mentions L_de in table 6 only: "the combination of Eq. (5) and Eq. (2)"
there is the stronger regularisation of the comparison. The paper states neither the number of first epochs nor the weight of
the heatmap loss: --first-epochs 40 (its figure 4 shows heatmaps converged there) and --maps.weight 100 are our choices.

Published (COCO val2017), AP / EPE in pixels: ResNet-50, 256x192, beta 10: sbl 70.5 / 9.52, ipr 68.2 / 9.63, l_de 70.2 / 9.38,
l_aug 70.4 / 9.31, debias 71.0 / 9.15, ours 71.2 / 8.93 (beta 1: 70.7 / 9.02, beta 20: 70.3 / 9.32); ResNet-152, 384x288: sbl
73.8 / 8.21, ipr 71.3 / 8.28, ours 74.4 / 7.82; HRNet-W32 75.3 / 7.85, 72.9 / 8.03, 75.8 / 7.47. mmpose, 256x256: dsnt 67.4,
mmpose_ipr 63.3, both start from a whole heatmap model at a rate of 5e-4 for 210 epochs (--init here takes backbones only).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from experiments import coco_hrnet, coco_simple_baseline
from experiments.common import families, persons, runner
from experiments.common.page import Page
from experiments.common.rules import AnyValue, Fixed, Positive
from jaxpose.tasks import JointLoss, MapLoss, Readout


@dataclass(frozen=True)
class Config(families.HeatmapConfig):
    """Debiased integral regression on COCO keypoints."""

    method: Annotated[
        Literal["sbl", "ipr", "l_de", "l_aug", "debias", "ours", "dsnt", "mmpose_ipr"], AnyValue, Fixed
    ] = "ours"
    """Row of the tables; sets --maps.kind, --joints and --read.decode, beta and compensate."""
    beta: Annotated[float, Positive, Fixed] = 10.0
    """Inverse temperature of the softmax; dsnt and mmpose_ipr have 1."""


def with_method(config: Config) -> Config:
    """Applies the losses and the decoding of the method."""
    maps = config.maps
    read = replace(config.read, decode="soft_argmax", beta=config.beta, compensate=config.method in ("debias", "ours"))
    smooth_l1 = JointLoss("smooth_l1", variant="mmpose")
    changes = {
        "sbl": dict(maps=replace(maps, weight=1.0), read=replace(config.read, confidence="peak")),
        "ipr": dict(maps=replace(maps, kind="none"), joints=JointLoss("l1"), read=read),
        "l_de": dict(maps=maps, joints=JointLoss("l1"), read=read),
        "l_aug": dict(maps=maps, joints=JointLoss("l1"), read=read, first="both"),
        "debias": dict(maps=replace(maps, kind="none"), joints=JointLoss("l1"), read=read),
        "ours": dict(maps=maps, joints=JointLoss("l1"), read=read, first="both"),
        "dsnt": dict(maps=MapLoss("js"), joints=smooth_l1, read=replace(read, beta=1.0)),
        "mmpose_ipr": dict(maps=MapLoss("softmax_mse"), joints=smooth_l1, read=replace(read, beta=1.0)),
    }[config.method]
    first_epochs = config.first_epochs if config.method in ("l_aug", "ours") else 0
    return replace(config, first_epochs=first_epochs, **changes)


def debias(base: families.HeatmapConfig, **changes: Any) -> Config:
    """Returns the settings of a heatmap run with the changes: "the same learning configurations" in the paper."""
    values = {f.name: getattr(base, f.name) for f in fields(families.HeatmapConfig)}
    changes.setdefault("maps", base.maps)
    changes["maps"] = replace(changes["maps"], weight=100.0)
    return Config(**{**values, "first_epochs": 40, "preprocess": "imagenet", **changes})


ONE = Readout(confidence="one")
PRESETS = {
    "tiny": debias(
        coco_simple_baseline.PRESETS["tiny"], maps=MapLoss(sigma=1.0), read=Readout(confidence="probability"),
        first_epochs=14, rescore="box+mean+max",
    ),
    "resnet50": debias(coco_simple_baseline.PRESETS["official"], read=ONE),
    "resnet152_384": debias(coco_simple_baseline.PRESETS["resnet152_384"], read=ONE),
    "hrnet_w32": debias(coco_hrnet.PRESETS["w32"], read=ONE, first_epochs=60),
}  # fmt: skip


PAGE = Page("coco_debias", PRESETS, __doc__, make=families.heatmap_tasks, load=persons.load, adjust=with_method)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
