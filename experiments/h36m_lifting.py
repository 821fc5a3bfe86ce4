"""Lifting 2D joints to 3D on Human3.6M: L2 and RLE (Li 2021, arXiv 2107.11291, table 8) on three nets.

  python -m experiments.h36m_lifting                                    embedded kinematic people, minutes on two cores
  python -m experiments.h36m_lifting --preset fc --data DIR             Martinez's net, L2
  python -m experiments.h36m_lifting --preset fc_rle --data DIR         the same with RLE
  python -m experiments.h36m_lifting --preset srnet --data DIR          SRNet, 5 groups, L1 as published
  python -m experiments.h36m_lifting --preset srnet_rle --data DIR      the same with RLE (table 10)
  python -m experiments.h36m_lifting --preset videopose3d --data DIR    243 frames, the mean distance as published
  python -m experiments.h36m_lifting --eval-only runs/h36m_lifting

DIR holds data_3d_h36m.npz and data_2d_h36m_gt.npz of VideoPose3D (--keypoints names another 2D file), or mmpose's h36m_train.npz,
h36m_test.npz and cameras.pkl; or MPI-INF-3DHP (docs/three_d.md). S1, S5, S6, S7 and S8 are trained on, S9 and S11 evaluated, relative
to the pelvis.

Published on Human3.6M (MPJPE / PA-MPJPE in mm, 2D joints of the labels):
  fc baseline (RLE's table 8)       43.6 / 33.2
  fc baseline with RLE              40.9 / 31.1
  SRNet (its table; RLE's 10)       36.5
  SRNet with RLE                    36.3
  VideoPose3D, 243 frames           37.2 / 27.2

RLE on lifters was never released; docs/three_d.md says what was decided, and --loss.reading selects one of three readings. Two
things differ from VideoPose3D's and SRNet's code: Adam in the place of AMSGrad, and a momentum of BatchNorm that does not decay.
Expected results of the default preset: docs/three_d.md.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.common import pose_pairs, runner
from experiments.common.page import Page
from jaxpose import tasks


class Config(pose_pairs.PairConfig):
    """Lifting of 2D joints."""


RLE = tasks.LiftLoss(loss="rle")
# P-RLE's schedule of the two-stage methods: Adam 1e-3, 5 % less after every epoch, 80 epochs of 1024 poses a batch.
FC = Config(batch_size=1024, epochs=80, decay="exponential", eval_every=10)
SRNET = replace(FC, net="srnet", loss=tasks.LiftLoss(loss="l1"))
PRESETS = {
    # Drawn people, two CPU cores, minutes: positions relative to the root are worth more than the choice of a loss here.
    "tiny": Config(
        width=256, dropout=0.1, batch_size=256, epochs=60, learning_rate=1e-3, decay="linear", warmup_steps=200, eval_every=20,
        relative=True, loss=tasks.LiftLoss(loss="l1"), log_every=200,
    ),
    "fc": FC,
    "fc_rle": replace(FC, loss=RLE, clip_norm=50.0),
    "srnet": SRNET,
    "srnet_rle": replace(SRNET, loss=RLE, clip_norm=50.0),
    "videopose3d": replace(
        FC, net="videopose3d", widths=(3, 3, 3, 3, 3), loss=tasks.LiftLoss(loss="mpjpe"), epochs=60,
    ),
}  # fmt: skip


PAGE = Page(
    "h36m_lifting",
    PRESETS,
    __doc__,
    make=pose_pairs.make_tasks,
    load=pose_pairs.load,
    initial=lambda task, config: None,
    settle=pose_pairs.settle,
)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
