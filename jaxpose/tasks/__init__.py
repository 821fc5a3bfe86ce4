"""Tasks: a net, a head, a loss and a decoding put together as pure functions.

>>> from jaxpose.tasks import from_config
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn

from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import IMAGENET, PREPROCESS, RLE_OFFICIAL, Preprocess, Task
from jaxpose.tasks.regression import Likelihood, build_net, predictive_density, regression

__all__ = [
    "IMAGENET", "PREPROCESS", "RLE_OFFICIAL", "Likelihood", "Preprocess", "Task",
    "from_config", "predictive_density", "regression",
]  # fmt: skip


def from_config(config: dict[str, Any], *, net: nn.Module | None = None) -> Task:
    """Rebuild a task from the config in its checkpoint.

    Args:
      config: what `Task.config` held.
      net: the net, where it is not one that this package ships (its config is then None).

    Raises:
      ValueError: for an unknown family, or a missing net.
    """
    match config:
        case {"family": "regression"}:
            fields = ("net", "skeleton", "size_wh", "likelihood", "preprocess", "outside")
            missing = [name for name in fields if name not in config]
            if missing:
                raise ValueError(f"the task's config lacks {', '.join(missing)}: it holds {', '.join(config)}")
            if net is None and config["net"] is None:
                raise ValueError("this checkpoint was trained with a net of your own: pass it as net=")
            return regression(
                build_net(config["net"]) if net is None else net,
                skeleton=Skeleton.from_dict(config["skeleton"]),
                size_wh=tuple(config["size_wh"]),
                likelihood=Likelihood(**config["likelihood"]),
                preprocess=config["preprocess"],
                outside=config["outside"],
            )
    raise ValueError(f"unknown task family {config.get('family')!r}: expected 'regression'")
