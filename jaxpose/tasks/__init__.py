"""Tasks: a net, a head, a loss and a decoding put together as pure functions.

>>> from jaxpose.tasks import from_config
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn

from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import IMAGENET, PREPROCESS, RLE_OFFICIAL, SIMPLE_BASELINE, Preprocess, Task
from jaxpose.tasks.bottom_up import FindPeople, PeopleLoss, bottom_up, find_people, read_joints, scale_factors
from jaxpose.tasks.describe import build
from jaxpose.tasks.heatmap import JointLoss, Readout, heatmap_of, heatmaps
from jaxpose.tasks.regression import Likelihood, predictive_density, regression
from jaxpose.tasks.supervision import NO_MAP_LOSS, MapLoss

__all__ = [
    "IMAGENET", "NO_MAP_LOSS", "PREPROCESS", "RLE_OFFICIAL", "SIMPLE_BASELINE", "FindPeople", "JointLoss",
    "Likelihood", "MapLoss", "PeopleLoss", "Preprocess", "Readout", "Task", "bottom_up", "find_people",
    "from_config", "heatmap_of", "heatmaps", "predictive_density", "read_joints", "regression", "scale_factors",
]  # fmt: skip


def from_config(config: dict[str, Any], *, net: nn.Module | None = None) -> Task:
    """Rebuild a task from the config in its checkpoint.

    Args:
      config: what `Task.config` held.
      net: the net, where it is not one that this package ships (its config is then None).

    Raises:
      ValueError: for an unknown family, a missing field, or a missing net.
    """
    match config.get("family"):
        case "regression":
            family, settings = regression, {"likelihood": Likelihood, "auxiliary": MapLoss}
            plain = ("preprocess", "outside")
            config = {"auxiliary": {"kind": "none"}, **config}  # checkpoints from before there was one
        case "heatmaps":
            family, settings = heatmaps, {"maps": MapLoss, "joints": JointLoss, "read": Readout}
            plain = ("preprocess",)
        case "bottom_up":
            family, settings = bottom_up, {"loss": PeopleLoss, "people": FindPeople}
            plain = ("preprocess",)
        case other:
            raise ValueError(f"unknown task family {other!r}: expected 'regression', 'heatmaps' or 'bottom_up'")
    missing = [name for name in ("net", "skeleton", "size_wh", *settings, *plain) if name not in config]
    if missing:
        raise ValueError(f"the task's config lacks {', '.join(missing)}: it holds {', '.join(config)}")
    if net is None and config["net"] is None:
        raise ValueError("this checkpoint was trained with a net of your own: pass it as net=")
    return family(
        build(config["net"]) if net is None else net,
        skeleton=Skeleton.from_dict(config["skeleton"]),
        size_wh=tuple(config["size_wh"]),
        **{name: kind(**config[name]) for name, kind in settings.items()},
        **{name: config[name] for name in plain},
    )
