"""The figures: curves, the learned density, calibration, predictions, maps. Needs the extra `plot` (matplotlib).

Modules: ``run`` draws a training run and its density, ``sheets`` pictures with poses, ``maps`` a net's output before
coordinates are computed; ``base`` is their shared part. Only the functions that evaluate a density import JAX.
"""

from jaxpose.view.figures.base import draw_pose, printable, require, sides
from jaxpose.view.figures.maps import joint_maps, joint_regions, scale_maps
from jaxpose.view.figures.run import calibration, curves, learned_density, scale_against_size
from jaxpose.view.figures.sheets import annotations, people, sheet, tile_sheet

__all__ = [
    "annotations",
    "calibration",
    "curves",
    "draw_pose",
    "joint_maps",
    "joint_regions",
    "learned_density",
    "people",
    "printable",
    "require",
    "scale_against_size",
    "scale_maps",
    "sheet",
    "sides",
    "tile_sheet",
]
