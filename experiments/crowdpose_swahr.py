"""HigherHRNet and SWAHR on CrowdPose (Luo 2021, table 9): 14 joints, crowds.

  python -m experiments.crowdpose_swahr --preset w48_640 --data CROWDPOSE --init hrnet_w48-imagenet.pth
  python -m experiments.crowdpose_swahr --preset higher_w48_640 --data CROWDPOSE --init hrnet_w48-imagenet.pth
  python -m experiments.crowdpose_swahr --eval-only RUN --data CROWDPOSE --val-split test --scales 0.5 1 2

CROWDPOSE is a folder in the layout of HigherHRNet's code (json/crowdpose_{trainval,test}.json, images/) or of mmpose. The published
runs train on trainval and evaluate on test. CrowdPose does not annotate areas: a person's area is 0.53 w h of the box.

People without a labelled joint are masked out of the loss, as in COCO; the published code has no masks on CrowdPose.

Scores: those of the CrowdPose API (easy, medium and hard are images with a crowdIndex below 0.2, up to 0.8, and above), and
AP_*_existing, the same without the API's -1 for categories without ground truth.

Published (test, flip test), AP, AP50, AP75, easy, medium, hard:
  w48_640          71.6  88.5  77.6  78.9  72.4  63.0      at three scales 73.8  90.5  79.9  81.2  74.7  64.7
  higher_w48_640   65.9  86.4  70.6  73.3  66.5  57.9
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments import coco_swahr
from experiments.common import families, runner, whole_images
from experiments.common.page import Page
from jaxpose.evaluation import crowdpose_average_precision
from jaxpose.skeleton import Skeleton

OWN = {"format": "crowdpose", "train_split": "trainval", "val_split": "test"}
PRESETS = {name: replace(coco_swahr.PRESETS[name], **OWN) for name in ("tiny", "w48_640", "higher_w48_640")}


def load(config: families.BottomUpConfig, *, skeleton: Skeleton | None = None) -> whole_images.WholeImages:
    """Loads CrowdPose's splits with its own scores."""
    if config.data is None:
        raise ValueError("--data: name CrowdPose's folder (json/ or annotations/ with its JSON files, images/); there are "
                         "no synthetic people for it")  # fmt: skip
    kind = whole_images.load(config, skeleton=skeleton)
    if kind.ground_truth is None:
        return kind

    def own_scores(predictions: Mapping[str, Any]) -> dict[str, float]:
        return crowdpose_average_precision(kind.ground_truth, predictions["records"], sigmas=kind.val.skeleton.sigmas)

    headline = ("AP", "AP50", "AP75", "AR", "AP_easy", "AP_medium", "AP_hard", "people_per_image", "scale_pearson")
    return replace(kind, own_scores=own_scores, headline=headline)


PAGE = Page("crowdpose_swahr", PRESETS, __doc__, make=families.bottom_up_tasks, load=load)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
