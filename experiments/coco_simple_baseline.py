"""Heatmaps by a ResNet and three deconvolutions (SimpleBaseline: Xiao 2018, arXiv 1804.06208).

  python -m experiments.coco_simple_baseline                                 embedded synthetic people
  python -m experiments.coco_simple_baseline --preset official --data DIR --init resnet50.pth
  python -m experiments.coco_simple_baseline --preset mmpose --data DIR      mmpose's recipe: 210 epochs, warm-up
  python -m experiments.coco_simple_baseline --preset dark --data DIR        DARK: unrounded targets, Newton decoding
  python -m experiments.coco_simple_baseline --preset udp --data DIR         UDP targets and decoding (the crop is not UDP's)
  python -m experiments.coco_simple_baseline --preset resnet152_384 --data DIR

A released checkpoint: jaxpose import FILE.pth --out RUN (--decode dark or udp if it was trained with them), then --eval-only RUN.

DIR is a folder in COCO 2017's layout, or any image folder with COCO-format annotations.

Published (COCO val2017, boxes of a 56.4 AP detector, flip test):
  official         AP 70.4   AR 76.3
  resnet152_384    AP 74.3   AR 79.6
  mmpose           AP 71.8   AR 77.4
  dark (mmpose)    AP 72.4
A run's backbone is the starting point of `coco_rle --init` for the rows of RLE that are pretrained by heatmaps.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.common import families, persons, runner
from experiments.common.page import Page
from jaxpose.tasks import MapLoss, Readout


class Config(families.HeatmapConfig):
    """SimpleBaseline on COCO keypoints."""


PRESETS = {
    # Embedded data, two CPU cores, minutes. The map is 24x16: unrounded targets and DARK lose nothing to its pixels.
    "tiny": Config(
        depth=18, width=16, deconvs=(64, 64, 64), size_wh=(64, 96), batch_size=32, epochs=45, milestones=(33, 41),
        learning_rate=3e-3, warmup_steps=200, eval_every=15, clip_norm=10.0, ema=0.998, augment="light",
        maps=MapLoss(target="unbiased", sigma=1.5), read=Readout("dark", kernel=7), rescore="box*mean",
    ),
    # The authors' code takes BGR images with the statistics of RGB (QUIRK H1), without half-body augmentation.
    "official": Config(
        batch_size=128, epochs=140, milestones=(90, 120), augment="simple_baseline", preprocess="simple_baseline",
        rescore="box*mean",
    ),
    "mmpose": Config(
        batch_size=512, epochs=210, milestones=(170, 200), learning_rate=5e-4, warmup_steps=500, augment="mmpose",
        maps=MapLoss(variant="mmpose"), read=Readout(border="mmpose"), rescore="box*mean",
    ),
}  # fmt: skip
PRESETS["dark"] = replace(
    PRESETS["mmpose"], maps=MapLoss(target="unbiased", variant="mmpose"), read=Readout("dark", kernel=11)
)
PRESETS["udp"] = replace(
    PRESETS["mmpose"], maps=MapLoss(target="udp", variant="mmpose"), read=Readout("udp", kernel=11)
)
PRESETS["resnet152_384"] = replace(PRESETS["official"], depth=152, size_wh=(288, 384), maps=MapLoss(sigma=3.0))


PAGE = Page("coco_simple_baseline", PRESETS, __doc__, make=families.heatmap_tasks, load=persons.load)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
