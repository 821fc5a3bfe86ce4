"""Integral regression on MPII (Sun 2018, tables 2 to 5).

  python -m experiments.mpii_integral                                          I1 on synthetic people in MPII's layout
  python -m experiments.mpii_integral --preset paper --data MPII --method I1 --init resnet50.pth
  python -m experiments.mpii_integral --preset paper --data MPII --method H1 --size-wh 128 128
  python -m experiments.mpii_integral --preset paper --data MPII --method I1 --stages 4

`coco_integral` describes --method and the other options, `mpii_rle` MPII's folder, its crop, PCKh and the prediction
of the test set (table 6: --train-split trainval, published mean PCKh@0.5 H1 89.4, R1 87.0, I1 90.0, MS-I1 90.4).

Published (validation, ResNet-50, 256x256 to 32x32), PCKh@0.5 / PCKh@0.1 / AUC: H1 86.8 / 17.2 / 52.9, H2 86.4 / 17.6 / 53.1,
H3 83.0 / 12.6 / 46.3, R1 84.6 / 25.0 / 54.1, I1 87.3 / 29.3 / 58.3, I2 86.9 / 29.7 / 58.3, I3 86.6 / 29.1 / 57.7,
I* 86.0 / 28.3 / 56.6; I1 with 2, 3, 4 stages: 87.7 / 32.0 / 59.5, 87.8 / 32.4 / 59.9, 88.1 / 32.3 / 60.1. ResNet-18: H1 85.5,
R1 82.4, I1 86.0; ResNet-101: 87.3, 85.7, 87.9. 128 to 32: H1 81.6, I1 83.2; 128 to 16: 75.4, 80.9; 256 to 64: 86.7, 86.6.
PCKh is counted on one box a person, so no score matters (--rescore box).
The scores printed here are fractions. The paper does not state its image normalisation, and its schedule follows the validation loss:
--decay plateau --eval-every 5 does the same by PCKh@0.5.
"""

from __future__ import annotations

from dataclasses import replace

from experiments import coco_integral
from experiments.common import mpii, runner
from experiments.mpii_rle import SQUARE

PRESETS = {
    "tiny": replace(coco_integral.PRESETS["tiny"], **{**SQUARE, "size_wh": (96, 96)}),
    "paper": replace(coco_integral.PRESETS["paper"], **SQUARE, depth=50, deconvs=(256, 256)),
}


PAGE = replace(coco_integral.PAGE, name="mpii_integral", presets=PRESETS, description=__doc__, load=mpii.load)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
