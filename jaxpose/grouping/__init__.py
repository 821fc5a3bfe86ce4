"""Groups heatmaps and tags of an image into people: the associative-embedding decoding of HigherHRNet and SWAHR.

(Newell 2017.) One joint after another, the peaks of the heatmap are matched to the people so far by the distance of
their tags; a peak that fits nobody starts a new person. Then the peaks are moved by a quarter of a pixel (`adjust`),
and joints that a person lacks are searched for in the whole map (`refine`).

`group` takes one image on the host, in NumPy (`host.py`, the published parser). `group_batch` takes a batch on the
device, jitted (`device.py`). Both break ties between equal costs as scipy's solver does; `assignment.py` is that solver
in JAX.

Coordinates are in heatmap pixels. `adjust` adds 0.5 to them, and so does `refine`, as published; no later step
subtracts it (QUIRK S11). The map's left edge is then at 0, and pixel x spans x to x + 1.
"""

from __future__ import annotations

from jaxpose.grouping.device import group_batch
from jaxpose.grouping.host import JOINT_ORDER, group, peaks

__all__ = ["JOINT_ORDER", "group", "group_batch", "peaks"]
