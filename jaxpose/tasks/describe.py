"""Converts the nets of this package to JSON and back, so that a checkpoint can rebuild its net."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxpose import nets


def describe(module: nn.Module) -> dict[str, Any] | None:
    """Returns {"name": class, field: value ...} for a net of this package and its parts; None for any other net.

    >>> describe(nets.HeatmapNet(nets.HRNet(32), 17, deconvs=()))["backbone"]
    {'name': 'HRNet', 'width': 32, 'dtype': 'float32', 'batch_groups': 1}
    """
    # The exact type: a subclass may compute something else.
    if type(module).__name__ not in nets.__all__ or getattr(nets, type(module).__name__) is not type(module):
        return None
    fields = {k: getattr(module, k) for k in module.__dataclass_fields__ if k not in ("parent", "name")}
    parts = {k: describe(v) for k, v in fields.items() if isinstance(v, nn.Module)}
    if None in parts.values():
        return None
    later = {k: f.default for k, f in module.__dataclass_fields__.items() if f.metadata.get("later")}
    fields = {k: v for k, v in fields.items() if k not in later or v != later[k]}
    plain = {k: jnp.dtype(v).name if k == "dtype" else v for k, v in fields.items()}
    return {"name": type(module).__name__, **plain, **parts}


def build(config: dict[str, Any]) -> nn.Module:
    """The inverse of `describe`.

    Raises:
        ValueError: the name is not a net of this package, or the net does not have these fields.

    >>> build({"name": "HRNet", "width": 48, "dtype": "bfloat16"}).width
    48
    """
    if "name" not in config and {"backbone", "head"} <= config.keys():  # checkpoints from before there were other nets
        backbone = {**config["backbone"], "name": "ResNet"}
        config = {"name": "PoseRegressor", "backbone": backbone, "head": {"name": "RegressionHead", **config["head"]}}
    fields = {k: build(v) if isinstance(v, dict) else tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    name = fields.pop("name", None)
    if name not in nets.__all__:
        raise ValueError(
            f"unknown net {name!r}: expected one of {', '.join(nets.__all__)}; pass `net=` for a net of your own"
        )
    if "dtype" in fields:
        fields["dtype"] = jnp.dtype(fields["dtype"])
    try:
        return getattr(nets, name)(**fields)
    except TypeError as error:
        raise ValueError(f"the description of the net {name} does not fit: {error}") from None
