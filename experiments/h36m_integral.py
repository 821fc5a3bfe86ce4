"""Integral regression in space (Sun 2018, its code's Human3.6M part): the soft-argmax of volumes, on Human3.6M.

  python -m experiments.h36m_integral                                       embedded synthetic people, minutes on two cores
  python -m experiments.h36m_integral --preset official --data H36M --also MPII --also-format mpii
  python -m experiments.h36m_integral --preset compensated --data H36M --also MPII --also-format mpii
  python -m experiments.h36m_integral --preset posenet --data H36M --also MPII --also-format mpii

`official` is the code of integral regression: deconvolutions to 18 x 64 volumes of 64 x 64, L1 on x, y, z, 300 epochs, depth
divided by the scale of the augmentation (QUIRK V3); `posenet` 3DMPPE's, whose loss is the same but for a constant factor, 25 epochs,
depth left alone; `compensated` the first with Gu 2021's soft-argmax (--compensate). --head linear is the direct regression that it is
compared with. Data, flags and predictions are those of `h36m_rle`:
docs/three_d.md.

Published (Human3.6M, S9 and S11, MPJPE / PA-MPJPE in mm; the labelled box and the true depth of the root are given):
  integral regression (table 8 of the RLE paper)   49.2 / 39.1, 14.1 GFLOPs, 34.3 M parameters
  direct regression (the same)                     50.1 / 39.3
The boxes of integral regression's own code are 2 m about the pelvis, not square; here they are those of the files. A learning rate of
1e-3 is reported to diverge (its issue 20); 1e-4 to end at 53.5.
Nothing of this page was trained on Human3.6M here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments.common import runner, space
from experiments.common.page import Page
from jaxpose import tasks


@dataclass(frozen=True)
class Config(space.SpaceConfig):
    """Integral regression in space."""


L1 = tasks.Likelihood(loss="l1")
PRESETS = {
    # Embedded data, two CPU cores, minutes: volumes of 16 x 16 x 16 at stride 8.
    "tiny": Config(
        depth=18, width=16, size_wh=(96, 96), batch_size=32, epochs=20, milestones=(15, 18), learning_rate=3e-3, warmup_steps=200,
        eval_every=10, clip_norm=10.0, ema=0.998, augment="unmirrored", flip_test=False, withhold=0.5, head="volume", deconvs=(64, 64),
        bins=16, likelihood=L1,
    ),
    "official": Config(
        size_wh=(256, 256), batch_size=128, epochs=300, milestones=(270, 290), padding=1.0, head="volume", likelihood=L1,
        augment="integral_3d", outside="keep",
    ),
}  # fmt: skip
PRESETS["compensated"] = replace(PRESETS["official"], compensate=True)
PRESETS["posenet"] = replace(
    PRESETS["official"],
    epochs=25,
    milestones=(17, 21),
    augment="posenet_3d",
    outside="mask",
    padding=1.25,
    occlusion=0.5,
)

PAGE = Page("h36m_integral", PRESETS, __doc__, make=space.space_tasks, load=space.load, settle=space.settle)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return PAGE.main(argv)


if __name__ == "__main__":
    runner.command(main)
