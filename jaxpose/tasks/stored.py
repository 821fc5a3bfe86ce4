"""Rebuilds tasks from the configs in checkpoints: the only place that looks up a family by its name.

`from_config` returns the task. Each other function answers one question about a stored config without building the task
first; the same question is a method of the task, which is shorter if a task is at hand.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from jaxpose import density
from jaxpose.tasks.base import Level, NetTask, PyTree
from jaxpose.tasks.bottom_up import BottomUp
from jaxpose.tasks.boundaries import Boundaries
from jaxpose.tasks.depth_maps import DepthMaps
from jaxpose.tasks.detection import Detection
from jaxpose.tasks.heatmap import Heatmaps
from jaxpose.tasks.lifting import Lifting
from jaxpose.tasks.point_sets import PointSets
from jaxpose.tasks.regression import Likelihood, Regression
from jaxpose.tasks.regression_3d import Regression3D

FAMILIES: dict[str, type[NetTask] | type[Lifting]] = {
    family.family: family
    for family in (
        Regression,
        Heatmaps,
        DepthMaps,
        BottomUp,
        PointSets,
        Boundaries,
        Detection,
        Lifting,
        Regression3D,
    )  # fmt: skip
}


def from_config(config: dict[str, Any], *, net: nn.Module | None = None) -> NetTask | Lifting:
    """Rebuilds a task from the config in its checkpoint.

    Args:
        config: the value of `Task.config`.
        net: the net, needed if it is not one of this package (its config is then None).

    Returns:
        A `Regression`, `Regression3D`, `Heatmaps`, `DepthMaps`, `BottomUp`, `PointSets`, `Boundaries`, `Detection` or `Lifting`
        whose config is equal to the given one.

    Raises:
        ValueError: the family is unknown, or a field or the net is missing.

    >>> from jaxpose import nets, tasks
    >>> from jaxpose.skeleton import COCO17
    >>> net = nets.PoseRegressor(nets.ResNet(depth=18, width=8), nets.RegressionHead(17))
    >>> task = tasks.regression(net, skeleton=COCO17, size_wh=(48, 64))
    >>> from_config(task.config).config == task.config
    True
    """
    return _family(config).from_config(config, net=net)


def _family(config: dict[str, Any]) -> type[NetTask] | type[Lifting]:
    name = config.get("family")
    if name not in FAMILIES:
        *others, last = (repr(family) for family in FAMILIES)
        raise ValueError(f"unknown task family {name!r}: expected {', '.join(others)} or {last}")
    return FAMILIES[name]


def families_of(level: Level) -> list[str]:
    """Returns the names of the families whose samples have this level.

    >>> families_of("image")
    ['bottom_up', 'point_sets']
    """
    return [name for name, family in FAMILIES.items() if family.level == level]


def check_poses(task: Any, directory: Any, *, detectors: bool = False) -> None:
    """Raises a ValueError for boundaries, detectors of boxes and lifters, which the tools for poses in crops cannot read.

    Args:
        task: the task of a checkpoint.
        directory: the folder of the checkpoint, for the message.
        detectors: True for a tool that reads detectors too.
    """
    if task.level == "scan":
        raise ValueError(
            f"{directory} predicts boundaries in scans, no poses: jaxpose predict takes it, and jaxpose.predict.scans.load"
        )
    if task.level == "detection" and not detectors:
        raise ValueError(
            f"{directory} is a detector of boxes in whole pictures: jaxpose predict takes it, this command does not"
        )
    if task.level == "pair":
        raise ValueError(
            f"{directory} lifts joints to 3D and reads no pictures: jaxpose predict takes it, with a result file of 2D joints, and "
            "jaxpose.predict.lift.load"
        )


def predictive_density(config: dict[str, Any], variables: PyTree, *, required: bool = True) -> density.Model | None:
    """Returns the trained model's density of the standardised error: `Task.density` for a stored config, without its net.

    Args:
        config: the task's config, as stored in the checkpoint.
        variables: the task's variables; only params/flow is read, and only by the losses with a flow.
        required: True if weights without the flow (imported without it, or left out) are an error; if False, the result
            for them is None.

    Returns:
        The density (`jaxpose.density`); None for a family without a likelihood, and if sigma is not trained.

    Raises:
        ValueError: `required` is set and the flow is missing.

    >>> predictive_density({"family": "regression", "likelihood": {"loss": "laplace"}}, {}).base
    'laplace'
    """
    if "likelihood" not in config:
        return None
    family = _family(config)
    if hasattr(family, "density_of"):
        return family.density_of(config, variables, required=required)
    dim = getattr(family, "dim", 2)
    return Likelihood(**config["likelihood"]).density(variables, dim=dim, required=required)


def heatmap_of(
    config: dict[str, Any], variables: PyTree, images: jax.Array, *, net: nn.Module | None = None
) -> jax.Array:
    """Returns the maps from which coordinates are read, without the flip test: `Heatmaps.maps` for a stored config.

    Args:
        config: the task's config.
        variables: the task's variables.
        images: (B, H, W, 3), as in a batch.
        net: the net, needed if it is not one of this package.

    Returns:
        (B, h, w, K), see `Heatmaps.maps`.

    Raises:
        ValueError: the task's family has no such maps.

    >>> import jax.numpy as jnp
    >>> from jaxpose import tasks
    >>> from jaxpose.skeleton import Skeleton
    >>> rgb = Skeleton(name="rgb", joints=("r", "g", "b"), flip_pairs=(), limbs=(), sigmas=(0.1,) * 3, upper=())
    >>> class Cells(nn.Module):
    ...     def __call__(self, images, *, train):
    ...         return nn.avg_pool(images, (4, 4), (4, 4))
    >>> task = tasks.heatmaps(Cells(), skeleton=rgb, size_wh=(12, 8))
    >>> variables = {"params": {"net": {}}, "batch_stats": {}}
    >>> heatmap_of(task.config, variables, jnp.zeros((1, 8, 12, 3)), net=Cells()).shape
    (1, 2, 3, 3)
    """
    if not hasattr(_family(config), "maps"):
        raise ValueError(f"a task of the family {config['family']!r} has no heatmaps to read: expected 'heatmaps'")
    return from_config(config, net=net).maps(variables, images)


def scale_factors(
    config: dict[str, Any], variables: PyTree, images: jax.Array, *, net: nn.Module | None = None
) -> jax.Array:
    """Returns the factor of the standard deviation from the learned alpha: `BottomUp.scale_factors` for a stored config.

    Args:
        config: the task's config.
        variables: the task's variables.
        images: (B, H, W, 3), as in a batch.
        net: the net, needed if it is not one of this package.

    Returns:
        (B, H/2, W/2, K), see `BottomUp.scale_factors`.

    Raises:
        ValueError: the net has no scale maps.
    """
    # The training targets are dropped: a net without scale maps would be rejected for them before it is asked for its maps.
    config = {**config, "loss": {"exponent": config["loss"]["exponent"]}}
    return from_config(config, net=net).scale_factors(variables, images)
