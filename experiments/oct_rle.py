"""Residual log-likelihood estimation on boundaries of the retina (Li 2021, arXiv 2107.11291, appendix H and table 18).

  python -m experiments.oct_rle                                   embedded drawn scans, minutes on two cores
  python -m experiments.oct_rle --likelihood.loss l1              the same with direct regression
  python -m experiments.oct_rle --preset paper --data DIR         the Duke DME scans: ResU-Net of 64 channels, 200 epochs
  python -m experiments.oct_rle --preset pairs --data DIR         the paper's RealNVP over pairs of boundaries
  python -m experiments.oct_rle --preset he --data DIR            He 2019's softmax over columns and his losses
  python -m experiments.oct_rle --eval-only runs/oct_rle

DIR holds Subject_01.mat to Subject_10.mat of Chiu 2015 (docs/retina.md says what is in them). Subjects 6 to 10 are trained on
and 1 to 5 evaluated; the paper does not say how it split them:

  python -m experiments.oct_rle --preset paper --data DIR --train-subjects 1 2 3 4 5 --val-subjects 6 7 8 9 10

Published (table 18, "mean error", whose unit and split are not stated; micrometres are likely):
  Direct regression       18.1
  Regression with RLE      3.1

What the paper leaves open is decided in docs/retina.md: the output layer, the flow of one coordinate, the augmentation.
Expected results of the default preset: docs/retina.md.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.common import runner, scans
from experiments.common.page import Page
from jaxpose import tasks


class Config(scans.ScanConfig):
    """RLE on boundaries of the retina."""


PAPER = Config(
    size_wh=(256, 224), width=64, levels=5, batch_size=2, epochs=200, learning_rate=1e-4, milestones=(), eval_every=20,
    sigma_bias=-3.0,
)  # fmt: skip
PRESETS = {
    # Drawn scans, two CPU cores, minutes. A height of 192 holds the retina of all of them.
    "tiny": replace(
        PAPER, size_wh=(64, 192), width=12, levels=4, batch_size=8, crops=2, epochs=48, learning_rate=3e-3, decay="linear",
        warmup_steps=40, clip_norm=10.0, ema=0.99, eval_every=16, log_every=10, density_gain=16.0,
    ),
    "paper": PAPER,
    "pairs": replace(PAPER, residual="pair"),
    "he": replace(PAPER, head="softmax", likelihood=tasks.Likelihood(loss="l1")),
}  # fmt: skip


PAGE = Page(
    "oct_rle", PRESETS, __doc__, make=scans.make_tasks, load=scans.load, initial=lambda task, config: None
)  # fmt: skip


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
