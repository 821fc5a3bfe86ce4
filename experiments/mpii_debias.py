"""The compensated integral regression on MPII (Gu 2021, table 4), beside heatmaps and the plain integral.

  python -m experiments.mpii_debias                                            "ours" on synthetic people in MPII's layout
  python -m experiments.mpii_debias --preset resnet50 --data MPII --init resnet50.pth
  python -m experiments.mpii_debias --preset resnet50 --data MPII --init resnet50.pth --method ipr
  python -m experiments.mpii_debias --preset resnet50 --data MPII --init resnet50.pth --method sbl
  python -m experiments.mpii_debias --preset resnet152 --data MPII --init resnet152.pth
  python -m experiments.mpii_debias --preset hrnet_w32 --data MPII --init hrnet_w32-imagenet.pth

`coco_debias` describes --method and the other options, `mpii_rle` MPII's folder, its crop, PCKh and the prediction of the test set.

Published (validation, 256x256), PCKh@0.5 / EPE in pixels of the image, beta 10: ResNet-50 sbl 87.6 / 20.9, ipr 86.2 / 21.5,
ours 87.9 / 20.3; ResNet-152 89.6 / 18.3, 87.9 / 19.5, 89.9 / 17.8; HRNet-W32 90.4 / 16.6, 88.7 / 18.2, 90.6 / 16.2. The scores
printed here are fractions. The paper states no schedule for MPII: these are SimpleBaseline's (140 epochs) and HRNet's (210), with
the augmentation that both have there.
"""

from __future__ import annotations

from dataclasses import replace

from experiments import coco_debias
from experiments.common import mpii, runner
from experiments.mpii_rle import SQUARE

PRESETS = {
    "tiny": replace(coco_debias.PRESETS["tiny"], **{**SQUARE, "size_wh": (96, 96)}),
    "resnet50": replace(coco_debias.PRESETS["resnet50"], **SQUARE, augment="mpii"),
    "hrnet_w32": replace(coco_debias.PRESETS["hrnet_w32"], **SQUARE, augment="mpii"),
}
PRESETS["resnet152"] = replace(PRESETS["resnet50"], depth=152)


PAGE = replace(coco_debias.PAGE, name="mpii_debias", presets=PRESETS, description=__doc__, load=mpii.load)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
