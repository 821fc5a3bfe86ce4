"""Tasks: a net, a head, a loss and a decoder, combined into pure functions.

A family of tasks is a frozen dataclass with the methods of the Protocol `Task` (`jaxpose.tasks.base`), made by a function:
`regression` gives a `Regression`, `regression_3d` a `Regression3D`, `heatmaps` a `Heatmaps`, `depth_maps` a
`DepthMaps`, `bottom_up` a `BottomUp`, `point_sets` a `PointSets`, `boundaries` a `Boundaries`,
`detection` a `Detection`. A new family is one file here and its name in `jaxpose.tasks.stored.FAMILIES`.

Codes such as QUIRK R1 in the source refer to the rows of docs/differences.md, which lists where papers and code differ.

>>> from jaxpose.tasks import from_config
"""

from __future__ import annotations

from jaxpose.tasks import describe
from jaxpose.tasks.base import (
    IMAGENET,
    PREPROCESS,
    RLE_OFFICIAL,
    RLE_OFFICIAL_3D,
    SIMPLE_BASELINE,
    ImageTask,
    Level,
    PoseTask,
    Preprocess,
    Task,
)
from jaxpose.tasks.bottom_up import BottomUp, FindPeople, PeopleLoss, bottom_up, find_people, read_joints
from jaxpose.tasks.boundaries import Boundaries, bands, boundaries
from jaxpose.tasks.codec import MapCodec
from jaxpose.tasks.depth_maps import DepthLoss, DepthMaps, depth_maps
from jaxpose.tasks.detection import Detection, Resize, detection
from jaxpose.tasks.heatmap import Heatmaps, JointLoss, Readout, heatmaps
from jaxpose.tasks.lifting import Lifting, LiftLoss, lifting
from jaxpose.tasks.point_sets import AnchorLoss, PointSets, ReadPoses, point_sets
from jaxpose.tasks.regression import Likelihood, Regression, regression
from jaxpose.tasks.regression_3d import Depth, Regression3D, regression_3d
from jaxpose.tasks.stored import (
    FAMILIES,
    check_poses,
    families_of,
    from_config,
    heatmap_of,
    predictive_density,
    scale_factors,
)
from jaxpose.tasks.supervision import NO_MAP_LOSS, MapLoss

__all__ = [
    "FAMILIES", "IMAGENET", "NO_MAP_LOSS", "PREPROCESS", "RLE_OFFICIAL", "RLE_OFFICIAL_3D", "SIMPLE_BASELINE", "AnchorLoss", "BottomUp",
    "Boundaries", "Depth", "Detection", "FindPeople", "Heatmaps", "ImageTask", "JointLoss", "Level", "LiftLoss", "Lifting",
    "Likelihood", "MapCodec", "MapLoss", "PeopleLoss", "PointSets", "PoseTask", "Preprocess",
    "ReadPoses", "Readout", "Regression", "Regression3D",
    "Resize", "Task", "bands", "bottom_up", "boundaries", "check_poses", "describe", "detection", "families_of",
    "find_people", "from_config", "heatmap_of", "heatmaps", "lifting", "point_sets",
    "DepthLoss", "DepthMaps", "depth_maps", "predictive_density", "read_joints", "regression", "regression_3d", "scale_factors",
]  # fmt: skip
