"""Synthetic people: a keypoint data set generated from a seed, whose true joints and label noise are known.

Articulated 3D bodies with the 17 COCO joints are posed, dressed, and seen by a pinhole camera, among objects and each
other; a depth buffer decides which joints are visible. NumPy and Pillow only. The modules, in reading order: `pose`
(proportions, pose, kinematics), `raster` (the z-buffer), `paint` (textures and light), `dress` (the body's surfaces),
`objects` and `backdrop` (the surroundings), `noise` (the known distribution of the labels), `labels`, `scene` (one
picture), `dataset` (a COCO folder), `mpii` (the same people in MPII's layout). `hands` draws single hands with their joints
in space.

    write_dataset("people", train=1600, val=400, seed=0)
    python -m jaxpose.data.synthetic people --train 1600 --val 400 --sheet sheet.png
"""

from jaxpose.data.synthetic.dataset import write_dataset
from jaxpose.data.synthetic.hands import write_hands
from jaxpose.data.synthetic.labels import overlay
from jaxpose.data.synthetic.mpii import write_mpii
from jaxpose.data.synthetic.noise import noise_log_prob, sample_noise
from jaxpose.data.synthetic.scene import render

__all__ = ["noise_log_prob", "overlay", "render", "sample_noise", "write_dataset", "write_hands", "write_mpii"]
