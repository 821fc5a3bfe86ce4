"""One-stage detection of poses: PointSet Anchors (Wei et al. 2020, arXiv 2007.02846), with L1 as published and with RLE (Li 2021,
table 2 d).

  python -m experiments.coco_pointset_anchor                                    embedded synthetic people, RLE, minutes on two cores
  python -m experiments.coco_pointset_anchor --preset tiny_l1                   the same with L1
  python -m experiments.coco_pointset_anchor --preset w32_640 --data DIR --init hrnet_w32-imagenet.pth     L1, as published
  python -m experiments.coco_pointset_anchor --preset w48_640 --data DIR --init hrnet_w48-imagenet.pth     L1
  python -m experiments.coco_pointset_anchor --preset rle_w32_640 --data DIR --init hrnet_w32-imagenet.pth
  python -m experiments.coco_pointset_anchor --preset rle_w48_640 --data DIR --init hrnet_w48-imagenet.pth
  python -m experiments.coco_pointset_anchor --eval-only RUN --data DIR

DIR is a folder in COCO 2017's layout, or any image folder with COCO-format annotations. Where this departs from the published code,
and why: docs/detection.md.

Scores: AP of the predicted joints, which the large presets move to the peaks of heatmaps, as published, and AP_regressed of the joints
before that. With --people.refine none the regression is the prediction, so that `jaxpose predict` knows its regions.

Published (COCO val2017, several scales; the backbone is not stated):
  L1       AP 67.0  AP50 87.3  AP75 73.5
  RLE      AP 67.4  AP50 87.5  AP75 73.9
Published on test-dev, HRNet-W48, L1: AP 68.7. No code of the RLE row was published; its settings here are ours.
What was measured with the default preset: docs/detection.md.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.common import point_sets, runner, whole_images
from experiments.common.page import Page
from jaxpose.tasks import AnchorLoss, Likelihood, ReadPoses


class Config(point_sets.PointSetConfig):
    """Pose anchors on COCO keypoints."""


# The published rate is 1e-4 at 32 images. Its augmentation is a crop of 640x640 round a random person, at 0.5 to 1.5 of the size.
W32 = Config(
    backbone="hrnet", width=32, size_wh=(640, 640), batch_size=32, epochs=115, milestones=(95, 110), learning_rate=1e-4,
    clip_norm=35.0, eval_every=10, kernel_init="narrow",
)  # fmt: skip
RLE = {"likelihood": Likelihood("rle"), "training": AnchorLoss(joints=0.5, positives=128)}
# A pure regression: its heatmaps would cost a tenth of a step, and its predictions have regions only without their peaks.
TINY = Config(
    backbone="resnet", depth=18, width=24, size_wh=(128, 128), augment="light", batch_size=8, epochs=8, decay="linear",
    learning_rate=1e-3, warmup_steps=100, clip_norm=10.0, ema=0.998, eval_every=4, features=48, convs=1, groups=8, prior=0.01,
    anchor_scale=7.0, anchors=2, clusters=2, heatmaps=False,
    people=ReadPoses(refine="none", max_people=30, candidates=100),
)  # fmt: skip
PRESETS = {
    "tiny": replace(TINY, likelihood=Likelihood("rle"), training=AnchorLoss(joints=0.5, positives=32)),
    "tiny_l1": replace(TINY, training=AnchorLoss(positives=32)),
    "w32_640": W32,
    "w48_640": replace(W32, width=48),
    "rle_w32_640": replace(W32, **RLE),
    "rle_w48_640": replace(W32, width=48, **RLE),
}


PAGE = Page(
    "coco_pointset_anchor", PRESETS, __doc__, make=point_sets.make, load=whole_images.load, settle=point_sets.settle
)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
