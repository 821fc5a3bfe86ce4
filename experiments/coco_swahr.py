"""Bottom-up detection by HigherHRNet (Cheng 2020, arXiv 1908.10357), with the scale-adaptive targets and the weight-adaptive
loss of SWAHR (Luo 2021, arXiv 2012.15175).

  python -m experiments.coco_swahr                                          embedded synthetic people
  python -m experiments.coco_swahr --preset w32_512 --data DIR --init hrnet_w32-imagenet.pth
  python -m experiments.coco_swahr --preset w48_640 --data DIR --init hrnet_w48-imagenet.pth
  python -m experiments.coco_swahr --preset higher_w32_512 --data DIR --init hrnet_w32-imagenet.pth    the baseline
  python -m experiments.coco_swahr --preset higher_w48_640 --data DIR --init hrnet_w48-imagenet.pth
  python -m experiments.coco_swahr --eval-only RUN --data DIR --scales 0.5 1 2

A released checkpoint: jaxpose import FILE.pth --out RUN, then --eval-only RUN.

DIR is a folder in COCO 2017's layout, or any image folder with COCO-format annotations. The learning rate applies to the
global batch: SWAHR's code multiplies the one in its files by 8, for any number of devices (QUIRK S5).

Published (COCO val2017, flip test), and at scales 0.5, 1, 2:
  w32_512          AP 68.9   71.4
  w48_640          AP 70.8   73.2
  higher_w32_512   AP 67.1   69.9
  higher_w48_640   AP 69.9   72.1
"""

from __future__ import annotations

from dataclasses import replace

from experiments.common import families, runner, whole_images
from experiments.common.page import Page
from jaxpose.tasks import FindPeople, PeopleLoss

SWAHR = PeopleLoss(targets="scale_adaptive", weighting="adaptive")


class Config(families.BottomUpConfig):
    """HigherHRNet and SWAHR on COCO keypoints."""


W32 = Config(
    backbone="hrnet", width=32, size_wh=(512, 512), augment="higher_hrnet", loss=SWAHR,
    people=FindPeople(detection_threshold=0.12), batch_size=160, epochs=300, learning_rate=2e-3, decay="linear",
    warmup_epochs=3, warmup_start=0.1, eval_every=10, kernel_init="narrow",
)  # fmt: skip
W48 = replace(
    W32, width=48, size_wh=(640, 640), people=FindPeople(detection_threshold=0.1), batch_size=80, learning_rate=9.6e-4
)
# HigherHRNet's own recipe: 12 and 10 images on each of 8 GPUs, steps instead of a linear decay.
STEPS = {"loss": PeopleLoss(), "people": FindPeople(), "decay": "milestones", "milestones": (200, 260), "warmup_epochs": 0,
         "learning_rate": 1e-3}  # fmt: skip
PRESETS = {
    # For small pictures a stride of 32 would leave too few pixels, and sigma 2 would be as wide as a hand; in a short run the
    # tags have to separate quickly.
    "tiny": replace(
        W32, backbone="resnet", depth=18, width=32, resnet_stages=2, deconvs=(32,), dilations=(1, 1), size_wh=(128, 128),
        augment="light", loss=replace(SWAHR, sigma=1.0, embedding=0.01), people=FindPeople(project=False),
        batch_size=8, epochs=12, learning_rate=4e-3, warmup_epochs=0.5, ema=0.998, eval_every=3, kernel_init="he",
    ),
    "w32_512": W32,
    "w48_640": W48,
    "higher_w32_512": replace(W32, batch_size=96, **STEPS),
    "higher_w48_640": replace(W48, batch_size=80, **STEPS),
}  # fmt: skip


PAGE = Page("coco_swahr", PRESETS, __doc__, make=families.bottom_up_tasks, load=whole_images.load)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
