"""Residual log-likelihood estimation in space (Li 2021, section 5): Human3.6M from single pictures.

  python -m experiments.h36m_rle                                       embedded synthetic people, minutes on two cores
  python -m experiments.h36m_rle --preset own --data DIR               your own pictures with joints in space
  python -m experiments.h36m_rle --preset official --data H36M --also MPII --also-format mpii --also-split train
  python -m experiments.h36m_rle --preset paper --data H36M --also MPII --also-format mpii --also-split train
  python -m experiments.h36m_rle --preset direct --data H36M --also MPII --also-format mpii --also-split train
  python -m experiments.h36m_rle --eval-only runs/h36m_rle --data H36M

A released checkpoint, evaluated without training:

  jaxpose import FILE.pth --out RUN
  python -m experiments.h36m_rle --eval-only RUN --data H36M

DIR is a folder in COCO's layout whose annotations have "keypoints_3d" and "camera" (--format coco_3d); H36M has the JSON files of
RLE's authors or of 3DMPPE PoseNet (--format human36m). docs/three_d.md describes both.

Half of every batch (--share) has joints in space; the other half trains image coordinates only: MPII's persons (--also), or, in the
embedded data, pictures whose depth is withheld (--withhold). A joint with depth is scored by the flow of three coordinates, any
other one by that of two.

Published (Human3.6M, S9 and S11, MPJPE / PA-MPJPE in mm; the labelled box and the true depth of the root are given):
  direct regression (table 8)     50.1 / 39.3
  integral regression (table 8)   49.2 / 39.1
  RLE (official)                  48.6 / 38.5
  DLE (table 13)                  51.0 / 39.8      --likelihood.loss dle --likelihood.variant paper

Instability of the released recipe is reported (its issue 8: the loss explodes at epochs 11 and 61, with a clip per tensor); here the
clip is global (--clip-norm; per tensor with --clip-each) and the run stops at the first loss that is not finite.
Expected results of the default preset: docs/experiments.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments.common import runner, space
from experiments.common.page import Page
from jaxpose import tasks


@dataclass(frozen=True)
class Config(space.SpaceConfig):
    """RLE in space."""


OFFICIAL = Config(
    size_wh=(256, 256), batch_size=128, epochs=200, milestones=(90, 120), padding=1.0, preprocess="rle_official_3d",
    clip_norm=35.0, occlusion=1.0,
)  # fmt: skip
PRESETS = {
    # Embedded data, two CPU cores, minutes.
    "tiny": Config(
        depth=18, width=16, size_wh=(80, 80), batch_size=32, epochs=20, milestones=(15, 18), learning_rate=3e-3, warmup_steps=200,
        eval_every=10, sigma_bias=-1.0, clip_norm=10.0, ema=0.998, augment="unmirrored", flip_test=False, withhold=0.5,
    ),
    # Your own pictures: a ResNet-18, the augmentation of the authors.
    "own": Config(
        depth=18, size_wh=(128, 128), batch_size=32, epochs=100, milestones=(70, 90), warmup_steps=200, eval_every=10, sigma_bias=-1.0,
        clip_norm=10.0, ema=0.998,
    ),
    # The authors' code: 200 epochs on 4 devices; unlabelled joints of MPII train towards the corner (QUIRK V4).
    "official": replace(OFFICIAL, also_visibility="official"),
    "paper": replace(OFFICIAL, batch_size=256, epochs=140, likelihood=tasks.Likelihood(variant="paper")),
    "direct": replace(
        OFFICIAL, epochs=140, head="linear", likelihood=tasks.Likelihood(loss="l1"), augment="integral_3d", outside="keep",
        preprocess="imagenet", occlusion=0.0,
    ),
}  # fmt: skip

PAGE = Page("h36m_rle", PRESETS, __doc__, make=space.space_tasks, load=space.load, settle=space.settle)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
