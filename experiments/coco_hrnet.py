"""Heatmaps by HRNet (Sun 2019, arXiv 1902.09212), which keeps stride 4 throughout.

  python -m experiments.coco_hrnet                                     embedded synthetic people (slow to compile)
  python -m experiments.coco_hrnet --preset w32 --data DIR --init hrnet_w32-imagenet.pth
  python -m experiments.coco_hrnet --preset w48_384 --data DIR         W48, 384x288
  python -m experiments.coco_hrnet --preset mmpose --data DIR          W32, mmpose's recipe
  python -m experiments.coco_hrnet --preset dark --data DIR            W32 with DARK

A released checkpoint: jaxpose import FILE.pth --out RUN (--decode dark or udp if it was trained with them), then --eval-only RUN.

DIR is a folder in COCO 2017's layout, or any image folder with COCO-format annotations.

Published (COCO val2017, boxes of a 56.4 AP detector, flip test):
  w32              AP 74.4   AR 79.8
  w48_384          AP 76.3   AR 81.2
  mmpose           AP 74.9   AR 80.4
  dark (mmpose)    AP 75.7
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments import coco_simple_baseline
from experiments.common import families, persons, runner
from experiments.common.page import Page
from jaxpose.tasks import MapLoss


class Config(families.HeatmapConfig):
    """HRNet on COCO keypoints."""


def hrnet(preset: str, **changes: Any) -> families.HeatmapConfig:
    """Returns SimpleBaseline's settings with HRNet in place of ResNet and deconvolutions."""
    changes = {"backbone": "hrnet", "deconvs": (), **changes}
    return replace(coco_simple_baseline.PRESETS[preset], **changes)


PRESETS = {
    "tiny": hrnet("tiny", width=8, size_wh=(64, 96)),
    "w32": hrnet(
        "official", width=32, kernel_init="narrow", epochs=210, milestones=(170, 200), augment="hrnet", preprocess="imagenet"
    ),
    "mmpose": hrnet("mmpose", width=32, kernel_init="narrow"),
    "dark": hrnet("dark", width=32, kernel_init="narrow"),
}  # fmt: skip
PRESETS["w48_384"] = replace(PRESETS["w32"], width=48, size_wh=(288, 384), batch_size=96, maps=MapLoss(sigma=3.0))


PAGE = Page("coco_hrnet", PRESETS, __doc__, make=families.heatmap_tasks, load=persons.load)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
