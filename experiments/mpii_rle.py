"""RLE on MPII (Li 2021, appendix B: tables 12 and 13).

  python -m experiments.mpii_rle                                               synthetic people in MPII's layout
  python -m experiments.mpii_rle --preset official --data MPII --init resnet50.pth
  python -m experiments.mpii_rle --preset official --data MPII --likelihood.loss dle --likelihood.variant paper
  python -m experiments.mpii_rle --preset official --data MPII --likelihood.loss l1
  python -m experiments.mpii_rle --preset mmpose --data MPII

MPII is a folder in the layout of HRNet's code (annot/{train,valid}.json, annot/gt_valid.mat, images/) or of mmpose.
Without the .mat, whose head boxes PCKh needs, only EPE is reported. The crop is the published one: centre and scale of the
annotation, moved down by 15 scale, 1.25 times as large, square.

MPII's test set (annot/test.json: boxes without joints; Sun 2018 trains with --train-split trainval for it, table 6), and the
files for its server, with the release of MPII's annotations or as the array that HRNet's code writes:

  python -m experiments.mpii_rle --eval-only runs/mpii_rle --data MPII --val-split test
  jaxpose submit runs/mpii_rle/results/eval_STEP_test.json pred_keypoints_mpii.mat \\
    --annotations MPII/annot/test.json --release mpii_human_pose_v1_u12_1.mat
  jaxpose submit runs/mpii_rle/results/eval_STEP_test.json pred.mat --annotations MPII/annot/test.json

Published (validation, ResNet-50, 256x256), PCKh@0.5 / PCKh@0.1 / AUC: l1 83.8 / 23.6 / 52.6; dle 84.3 / 25.3 / 53.5;
rle 85.5 / 26.7 / 55.1, pretrained by heatmaps 85.8 / 27.1 / 55.5. mmpose: 86.1 / 27.7. The scores printed here are fractions.
"""

from __future__ import annotations

from dataclasses import replace

from experiments import coco_rle
from experiments.common import families, mpii, runner
from experiments.common.page import Page

SQUARE = {
    "format": "mpii",
    "size_wh": (256, 256),
    "train_split": "train",
    "val_split": "valid",
    "nms": None,
    "rescore": "box",
}
PRESETS = {
    "tiny": replace(coco_rle.PRESETS["tiny"], **{**SQUARE, "size_wh": (96, 96)}),
    # "Similar to the experiments on COCO", says the paper; without the half-body augmentation of COCO's code.
    "official": replace(coco_rle.PRESETS["official"], **SQUARE, augment="mpii"),
    "mmpose": replace(coco_rle.PRESETS["mmpose"], **SQUARE, augment="mmpose_mpii", learning_rate=5e-4),
}


PAGE = Page("mpii_rle", PRESETS, __doc__, make=families.regression_tasks, load=mpii.load)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
