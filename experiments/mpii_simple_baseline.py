"""Heatmaps on MPII: SimpleBaseline (Xiao 2018) and HRNet (Sun 2019), the rows that RLE's table 12 and Gu's table 4 compare with.

  python -m experiments.mpii_simple_baseline                                   synthetic people in MPII's layout
  python -m experiments.mpii_simple_baseline --preset official --data MPII --init resnet50.pth
  python -m experiments.mpii_simple_baseline --preset resnet101 --data MPII --init resnet101.pth
  python -m experiments.mpii_simple_baseline --preset resnet152 --data MPII --init resnet152.pth
  python -m experiments.mpii_simple_baseline --preset hrnet_w32 --data MPII --init hrnet_w32-imagenet.pth
  python -m experiments.mpii_simple_baseline --preset mmpose --data MPII       mmpose's recipe: 210 epochs, warm-up

`mpii_rle` describes MPII's folder, its crop, PCKh and the prediction of the test set. A run's backbone is the starting point of
`mpii_rle --init` for the row of RLE that is pretrained by heatmaps (--preprocess simple_baseline).

Published (validation, 256x256, flip test), PCKh@0.5 and HRNet's "Mean@0.1" (which is at 0.11; hrnet_mean_at_0.1 here): official
88.5 / 34.0, resnet101 89.1 / 34.0, resnet152 89.6 / 35.0, hrnet_w32 90.3 / 37.7; mmpose 88.2 / 28.6 (at 0.10). RLE's table 12 has
87.1 / 25.4 and an AUC of 56.2 for SimplePose with a ResNet-50. The scores printed here are fractions.
"""

from __future__ import annotations

from dataclasses import replace

from experiments import coco_hrnet, coco_simple_baseline
from experiments.common import families, mpii, runner
from experiments.common.page import Page
from experiments.mpii_rle import SQUARE

PRESETS = {
    "tiny": replace(coco_simple_baseline.PRESETS["tiny"], **{**SQUARE, "size_wh": (96, 96)}),
    "official": replace(coco_simple_baseline.PRESETS["official"], **SQUARE, augment="mpii"),
    "hrnet_w32": replace(coco_hrnet.PRESETS["w32"], **SQUARE, augment="mpii"),
    "mmpose": replace(coco_simple_baseline.PRESETS["mmpose"], **SQUARE, augment="mmpose_mpii"),
}
PRESETS["resnet101"] = replace(PRESETS["official"], depth=101)
PRESETS["resnet152"] = replace(PRESETS["official"], depth=152)


PAGE = Page("mpii_simple_baseline", PRESETS, __doc__, make=families.heatmap_tasks, load=mpii.load)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
