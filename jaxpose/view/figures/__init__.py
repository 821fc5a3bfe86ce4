"""The figures: curves, the learned density, calibration, predictions, maps. Needs the extra `plot` (matplotlib).

By what they draw: ``run`` a training run and its density, ``sheets`` pictures with poses, ``maps`` what a net says before
coordinates are made of it; ``base`` is what they share. JAX is imported by those alone that evaluate a density.
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
