"""Residual log-likelihood estimation on COCO keypoints (Li 2021, arXiv 2107.11291).

  python -m experiments.coco_rle                                      embedded synthetic people, minutes on two cores: --preset peaks is
                                                                      the default, RLE around the peaks of heatmaps
  python -m experiments.coco_rle --preset tiny                        the same people, coordinates from pooled features as published
  python -m experiments.coco_rle --data DIR                           your own labelled images, 10 minutes: --preset auto is the default
  python -m experiments.coco_rle --preset official --data DIR         ResNet-50, 256x192, 270 epochs, --preprocess rle_official
  python -m experiments.coco_rle --preset mmpose --data DIR           mmpose's recipe: 210 epochs, warm-up
  python -m experiments.coco_rle --preset resnet152_384 --data DIR    ResNet-152, 384x288
  python -m experiments.coco_rle --preset mobilenet_v2 --data DIR     MobileNetV2
  python -m experiments.coco_rle --preset hrnet_w32 --data DIR        HRNet-W32, soft-argmax and a linear sigma
  python -m experiments.coco_rle --preset auxiliary --data DIR        with an additional heatmap loss (table 14)
  python -m experiments.coco_rle --preset official_resnet152_384 --data DIR   the paper's ResNet-152, 384x288 (table 3)
  python -m experiments.coco_rle --preset hrnet_w48_384 --data DIR    HRNet-W48, 384x288 (table 3)
  python -m experiments.coco_rle --eval-only runs/coco_rle --data DIR

A released checkpoint (the authors' or mmpose's), evaluated without training:

  jaxpose import FILE.pth --out RUN
  python -m experiments.coco_rle --eval-only RUN --data DIR --detections BOXES.json

The rows with a backbone pretrained by heatmaps (*):

  python -m experiments.coco_simple_baseline --preset official --data DIR --init resnet50.pth
  python -m experiments.coco_rle --preset official --data DIR --init runs/coco_simple_baseline --preprocess simple_baseline
  python -m experiments.coco_rle --preset mmpose --data DIR --init FILE.pth --init-layout simple_baseline_mmpose

DIR is a folder in COCO 2017's layout, or any image folder with COCO-format annotations.

Published (COCO val2017, boxes of a 56.4 AP detector, flip test):
  official, from ImageNet weights              AP 70.5
  official, backbone pretrained by heatmaps    AP 71.3
  mmpose                                       AP 70.6
  mmpose, backbone pretrained by heatmaps      AP 71.9
  resnet152_384 (mmpose)                       AP 74.9
  mobilenet_v2, pretrained by heatmaps         AP 59.3
  hrnet_w32 (paper)                            AP 74.3
  auxiliary (paper)                            AP 70.4   (0.1 less than without)
A user of the authors' code reports 69.6 for a training on two GPUs, with a batch of 64 in place of 256 (its issue 38).

The other rows of tables 1 and 7 are the official preset with another loss, from ImageNet weights:

  python -m experiments.coco_rle --preset l1 --data DIR --init resnet50.pth              AP 58.1 (table 1)
  python -m experiments.coco_rle --preset dle --data DIR --init resnet50.pth             AP 62.7 (table 1)
  python -m experiments.coco_rle --preset l2 --data DIR --init resnet50.pth              (table 7)
  python -m experiments.coco_rle --preset gaussian --data DIR --init resnet50.pth        learned deviation, no flow (table 7)
  python -m experiments.coco_rle --preset laplace --data DIR --init resnet50.pth         learned deviation, no flow (table 7)
  python -m experiments.coco_rle --preset rle_gaussian --data DIR --init resnet50.pth    Q is a Gaussian, by mmpose's form (table 7; the
                                                                                         authors' code has no such Q)

Published on COCO test-dev (table 3): official_resnet152_384 AP 74.2, from a backbone pretrained by heatmaps 75.1; hrnet_w48_384
75.7. The paper's text does not state their input size; 384x288 is that of the rows that it compares with. test-dev:
docs/papers.md.
Expected results of the default preset: docs/experiments.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from experiments.common import auto, families, persons, runner
from experiments.common.page import Page
from experiments.common.rules import AnyValue, MayChange, Positive
from jaxpose import tasks


@dataclass(frozen=True)
class Config(families.RegressionConfig):
    """RLE on COCO keypoints."""

    minutes: Annotated[float | None, Positive, MayChange] = None
    """Time budget in minutes for the whole run on this machine: compilation, training, evaluations and the report. Settings
    that were not given by hand then follow from the data; none: no setting does."""
    by_hand: Annotated[tyro.conf.Suppress[tuple[str, ...]], AnyValue, MayChange] = field(default=(), compare=False)
    """Names of the flags that were given by hand."""


MMPOSE = tasks.Likelihood(variant="mmpose", flow_init="xavier")
PRESETS = {
    # Embedded data, two CPU cores, minutes, the published head: coordinates from pooled features.
    "tiny": Config(
        depth=18, width=16, size_wh=(72, 96), batch_size=32, epochs=45, milestones=(33, 41), learning_rate=3e-3,
        warmup_steps=200, eval_every=15, sigma_bias=-1.0, clip_norm=10.0, ema=0.998, augment="light",
    ),
    # The authors' code subtracts means in BGR order from RGB images without division by a deviation (QUIRK R14), and does not
    # apply suppression to annotated boxes (QUIRK R21).
    "official": Config(preprocess="rle_official", nms_annotated=False),
    "mmpose": Config(
        head="linear", batch_size=512, epochs=210, warmup_steps=500, augment="mmpose", outside="mask", likelihood=MMPOSE,
    ),
}  # fmt: skip
PRESETS["resnet152_384"] = replace(PRESETS["mmpose"], depth=152, size_wh=(288, 384), learning_rate=5e-4)
PRESETS["mobilenet_v2"] = replace(PRESETS["mmpose"], backbone="mobilenet_v2")
# Open points of the paper's table 2b are decided in `jaxpose.nets.IntegralRegressor`, and here: HRNet's schedule.
PRESETS["hrnet_w32"] = replace(
    PRESETS["official"],
    backbone="hrnet",
    head="integral",
    deconvs=(),
    outside="mask",
    epochs=210,
    augment="hrnet",
    kernel_init="narrow",
)
PRESETS["hrnet_w48_384"] = replace(PRESETS["hrnet_w32"], width=48, size_wh=(288, 384))
PRESETS["official_resnet152_384"] = replace(PRESETS["official"], depth=152, size_wh=(288, 384))
LIKELIHOODS = {
    "l1": tasks.Likelihood("l1"),
    "l2": tasks.Likelihood("l2"),
    "dle": tasks.Likelihood("dle", variant="paper"),
    "gaussian": tasks.Likelihood("gaussian"),
    "laplace": tasks.Likelihood("laplace"),
    "rle_gaussian": replace(MMPOSE, base="gaussian"),
}
PRESETS |= {name: replace(PRESETS["official"], likelihood=likelihood) for name, likelihood in LIKELIHOODS.items()}
PRESETS["auxiliary"] = replace(PRESETS["official"], auxiliary=tasks.MapLoss())
# The default: embedded data, two CPU cores, minutes. What its choices cost and give: docs/experiments.md.
PRESETS["peaks"] = Config(
    head="peak", depth=18, width=32, resnet_stem="strided", resnet_stages=3, deconvs=(64, 32), skips=True, size_wh=(64, 96),
    # The weight makes the map loss half the squared error, summed over 17 joints and maps of 16x24.
    auxiliary=tasks.MapLoss(target="unbiased", sigma=1.5, weight=17.0 * 16 * 24), sigma_bias=-1.0,
    batch_size=32, epochs=15, milestones=(10, 13), learning_rate=3e-3, warmup_steps=200, eval_every=5, clip_norm=100.0,
    ema=0.995, augment="unmirrored", flip_test=False,
)  # fmt: skip
# The rest follows from the data: experiments/common/auto.py.
PRESETS["auto"] = Config(minutes=10.0, patience=3, best="skill", log_every=50)


PAGE = Page(
    "coco_rle", PRESETS, __doc__, make=families.regression_tasks, load=persons.load, settle=auto.settle, default="peaks"
)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
