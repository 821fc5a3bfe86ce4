"""Converts published names and axes to ours: every tensor of a state dict goes to its place in the variables of a linen net.

Convolutions (out, in, h, w) become (h, w, in, out), linear layers (out, in) become (in, out), convolutions over
time (out, in, k) become (k, in, out), transposed convolutions (in, out, h, w) the kernels of `nets.deconv.Deconv`, (h, w, out, in).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxpose.nets import ResNet
from jaxpose.weights.state import list_names

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Modules of ours whose numbers are separate levels in the published names: layer1_0, stage2_0, fuse_layers_0_1_0.
NUMBERED = re.compile(
    r"\b(?P<name>layer\d|stage\d|transition\d|branches|fuse_layers|deconv_layers|final_layers|conv_scale_layers)(?P<levels>(?:_\d+)+)(?=\.)"
)


def torch_tensors(
    variables: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> dict[str, tuple[tuple, tuple]]:
    """Returns {PyTorch name: (path in the variables, shape in PyTorch)} of every array of a net.

    Args:
        variables: the variables {"params": ..., "batch_stats": ...}, as arrays or shapes.
        names: prefixes of dotted paths and their replacements, {"head.coord.": "fc_coord.linear."}; the first match is used.

    >>> torch_tensors({"params": {"layer1_0": {"downsample_conv": {"kernel": np.zeros((1, 1, 2, 8))}}}})
    {'layer1.0.downsample.0.weight': (('params', 'layer1_0', 'downsample_conv', 'kernel'), (8, 2, 1, 1))}
    """
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        dotted = ".".join((*path[1:-1], LEAVES[path[-1]]))
        dotted = dotted.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
        dotted = NUMBERED.sub(lambda match: match["name"] + match["levels"].replace("_", "."), dotted)
        for ours, theirs in (names or {}).items():
            if dotted.startswith(ours):
                dotted = theirs + dotted.removeprefix(ours)
                break
        tensors[dotted] = path, _torch_shape(leaf.shape)
    return tensors


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Converts a shape (h, w, in, out) to (out, in, h, w), and (in, out) to (out, in)."""
    return (*shape[:-3:-1], *shape[:-2])


def _from_torch_order(value: np.ndarray) -> np.ndarray:
    """Transposes (out, in, h, w) to (h, w, in, out), and (out, in) to (in, out); (n,) stays unchanged."""
    return value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value


def fill(net: nn.Module, state: dict[str, np.ndarray], names: dict[str, str], layout: str) -> dict[str, Any]:
    """Returns the variables of `net` with the values of `state`, each tensor used once."""
    # Nets that read no image say what they read.
    example = (
        net.example_input() if hasattr(net, "example_input") else jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    )
    tensors = torch_tensors(jax.eval_shape(net.init, jax.random.key(0), example), names)
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    wrong = [
        f"{n} {state[n].shape} instead of {shapes[n]}" for n in shapes if n in state and state[n].shape != shapes[n]
    ]
    problems = {"missing": shapes.keys() - state.keys(), "left over": state.keys() - shapes.keys(), "shape": wrong}
    if any(problems.values()):
        differences = "; ".join(f"{what}: {list_names(which)}" for what, which in problems.items() if which)
        backbone = getattr(net, "backbone", net)
        kind = f"ResNet-{backbone.depth}" if isinstance(backbone, ResNet) else type(backbone).__name__
        raise ValueError(f"state dict of layout={layout!r}, read as {kind} of width {backbone.width}: {differences}")
    flat = {path: jnp.asarray(_from_torch_order(state[name])) for name, (path, _) in tensors.items()}
    return traverse_util.unflatten_dict(flat)
