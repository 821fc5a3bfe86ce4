"""People of whole pictures with their joints: Keypoint R-CNN (He 2017, arXiv 1703.06870) as Detectron2 trains it, with its heatmaps
or with coordinates by residual log-likelihood estimation (Li 2021, arXiv 2107.11291, table 2 c).

  python -m experiments.coco_keypoint_rcnn                                              embedded synthetic people, --head rle
  python -m experiments.coco_keypoint_rcnn --head heatmap                               the same with maps
  python -m experiments.coco_keypoint_rcnn --preset heatmap_1x --data DIR --init R-50.pkl         90,000 steps of 16 images
  python -m experiments.coco_keypoint_rcnn --preset heatmap_3x --data DIR --init R-50.pkl         270,000 steps
  python -m experiments.coco_keypoint_rcnn --preset rle --data DIR --init R-50.pkl                the paper's 270,000 steps
  python -m experiments.coco_keypoint_rcnn --preset rle_180k --data DIR --init HEATMAP_RUN        the author's 180,000 steps
  python -m experiments.coco_keypoint_rcnn --eval-only RUN --data DIR

DIR is a folder in COCO 2017's layout, or any image folder with COCO-format annotations. R-50.pkl is the ImageNet start of Detectron2's
model zoo (MSRA/R-50.pkl): its stride is in the first 1x1 convolution of a block (QUIRK E5), its colours are blue first, without
a deviation. Weights with torchvision's names have other strides and colours: --init R-50.pth --variant torchvision --preprocess
imagenet. HEATMAP_RUN is a run of this page, or an imported Keypoint R-CNN of Detectron2: everything is taken from it but the last
layer. The author trained RLE for 180,000 steps from such weights; the paper states 270,000 steps (QUIRK E16).

Published (COCO val2017, box AP of persons / keypoint AP):
  heatmap_1x      53.6 / 64.0
  heatmap_3x      55.4 / 65.5      (RLE's paper: 66.0)
  rle, rle_180k        / 66.7

The default is a small net on synthetic people, 2,245 steps of 8 pictures; docs/detection.md says what was measured.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.common import boxed_images, detectors, runner
from experiments.common.page import Page
from jaxpose.tasks.detection_loss import RegionLoss


class Config(detectors.RCNNConfig):
    """Keypoint R-CNN on COCO keypoints."""


def epochs(steps: int) -> float:
    """Returns the epochs in a number of steps of 16 images: COCO's train2017 has 56,599 pictures with a labelled person.

    >>> round(epochs(90_000), 2)
    25.44
    """
    return steps * 16 / 56_599


HEATMAP_1X = Config(
    short_sides=(640, 672, 704, 736, 768, 800), batch_size=16, optimizer="sgd", learning_rate=0.02, weight_decay=1e-4,
    warmup_steps=1000, epochs=epochs(90_000), milestones=(epochs(60_000), epochs(80_000)), eval_every=epochs(10_000),
    checkpoint_every=2500,
)  # fmt: skip
THREE_TIMES = {"epochs": epochs(270_000), "milestones": (epochs(210_000), epochs(250_000))}
PRESETS = {
    # Pictures of 320 x 256 on two CPU cores: a narrow net without stride 4, few proposals. The people's sides differ in
    # colour, which mirroring would make meaningless.
    "tiny": Config(
        size_wh=(240, 192), padded_long=(256,), flip=0.0, head="rle", preprocess="imagenet", depth=18, width=16,
        train_bn=True, fpn_features=48, box_features=(96,), keypoint_convs=(96, 96, 96), joint_cells=7, first_level=3,
        anchor_sizes=(24.0, 48.0, 96.0, 160.0), anchor_ratios=(1.0, 2.0, 3.0), region_size=56.0, region_level=3,
        pre_nms=128, post_nms=64, slots=20,
        regions=RegionLoss(pre_nms=128, post_nms=64, anchors=64, regions=32, foreground=0.5, freeze_at=0),
        batch_size=8, epochs=10, learning_rate=1e-3, decay="linear", warmup_steps=100, clip_norm=10.0, ema=0.998,
        eval_every=5,
    ),
    "heatmap_1x": HEATMAP_1X,
    "heatmap_3x": replace(HEATMAP_1X, **THREE_TIMES),
    "rle": replace(HEATMAP_1X, head="rle", **THREE_TIMES),
    "rle_180k": replace(
        HEATMAP_1X, head="rle", epochs=epochs(180_000), milestones=(epochs(120_000), epochs(160_000))
    ),
}  # fmt: skip


PAGE = Page(
    "coco_keypoint_rcnn", PRESETS, __doc__, make=detectors.rcnn_tasks, load=boxed_images.load,
    initial=detectors.from_pretrained,
)  # fmt: skip


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
