"""Reads the nets of the codes that lift 2D joints to 3D: the builders of `weights.layouts`, by names and shapes.

martinez      the PyTorch port of the 3d-pose-baseline: w1, batch_norm1, linear_stages.*, w2
videopose3d   expand_conv, layers_conv.*, shrink
srnet         expand_conv.group_conv.*, get_part_info.*; its fully connected baseline has VideoPose3D's names, and a leaky activation
"""

from __future__ import annotations

import re

import numpy as np

from jaxpose.nets import LinearLifter, SRNet, TemporalLifter
from jaxpose.nets.lifting import SRNET_GROUPS, split_sizes
from jaxpose.weights.state import list_names, shape_of

State = dict[str, np.ndarray]
Names = dict[str, str]
MOST_BLOCKS = 32


def martinez(state: State) -> tuple[LinearLifter, Names]:
    """Returns the fully connected net of Martinez et al. and its names."""
    width, inputs = shape_of(state, "w1.weight", rank=2)
    outputs = shape_of(state, "w2.weight", rank=2)[0]
    count = _count(state, r"linear_stages\.(\d+)\.w1\.weight")
    net = LinearLifter(
        joints_in=_whole(inputs, 2, "w1.weight", "columns"),
        joints_out=_whole(outputs, 3, "w2.weight", "rows"),
        width=width,
        blocks=count,
    )
    names = {
        f"linear_stages_{i}_{part}.": f"linear_stages.{i}.{part}."
        for i in range(count)
        for part in ("w1", "w2", "batch_norm1", "batch_norm2")
    }
    return net, names


def videopose3d(state: State, *, slope: float = 0.0) -> tuple[TemporalLifter, Names]:
    """Returns VideoPose3D's temporal net and its names. (A state dict does not say whether it is causal.)"""
    width, inputs, first = shape_of(state, "expand_conv.weight", rank=3)
    outputs = shape_of(state, "shrink.weight", rank=3)[0]
    layers = _count(state, r"layers_conv\.(\d+)\.weight")
    sizes = [shape_of(state, f"layers_conv.{i}.weight", rank=3)[2] for i in range(0, layers, 2)]
    net = TemporalLifter(
        joints_in=_whole(inputs, 2, "expand_conv.weight", "input channels"),
        joints_out=_whole(outputs, 3, "shrink.weight", "rows"),
        widths=(first, *sizes),
        width=width,
        slope=slope,
    )
    return net, _layer_names(layers)


def srnet(state: State) -> tuple[SRNet | TemporalLifter, Names]:
    """Returns SRNet and its names, or the fully connected net of its code."""
    if "expand_conv.weight" in state:
        return videopose3d(state, slope=0.01)
    first = "expand_conv.group_conv.0.weight"
    size = shape_of(state, first, rank=3)[2]
    groups = _count(state, r"expand_conv\.group_conv\.(\d+)\.weight")
    if groups not in SRNET_GROUPS:
        raise ValueError(f"expand_conv has {groups} groups: expected {', '.join(map(str, SRNET_GROUPS))}")
    channels = [shape_of(state, f"expand_conv.group_conv.{i}.weight", rank=3)[:2] for i in range(groups)]
    layers = _count(state, r"layers_conv\.(\d+)\.group_conv\.0\.weight")
    if any(".get_part_info.layers_bn." in name for name in state):
        recombine = "multiply"
    elif not any(".get_part_info." in name for name in state):
        recombine = "none"
    else:
        recombine = "concat" if channels[0][1] > len(SRNET_GROUPS[groups][0]) else "add"
    width = sum(out for out, _ in channels)
    if [out for out, _ in channels] != split_sizes([len(group) for group in SRNET_GROUPS[groups]], width):
        raise ValueError(
            f"expand_conv has groups of {[out for out, _ in channels]} channels, which SRNet does not have"
        )
    net = SRNet(groups=groups, recombine=recombine, widths=(size,) * (1 + layers // 2), width=width)
    names = {}
    for ours, theirs in (
        ("expand_conv", "expand_conv"),
        ("final_layer", "final_layer"),
        *((f"layers_conv_{i}", f"layers_conv.{i}") for i in range(layers)),
    ):
        for i in range(groups):
            names[f"{ours}.group_conv_{i}."] = f"{theirs}.group_conv.{i}."
            for part in ("m_conv", "layers_bn"):
                names[f"{ours}.{part}_{i}."] = f"{theirs}.get_part_info.{part}.{i}."
    return net, names | {f"layers_bn_{i}.": f"layers_bn.{i}." for i in range(layers)}


def _layer_names(layers: int) -> Names:
    return {f"layers_{part}_{i}.": f"layers_{part}.{i}." for i in range(layers) for part in ("conv", "bn")}


def _count(state: State, pattern: str) -> int:
    """Returns the number of layers whose names match, from 0 on."""
    numbers = {int(match[1]) for name in state if (match := re.fullmatch(pattern, name))}
    if numbers != set(range(len(numbers))) or len(numbers) > MOST_BLOCKS:
        raise ValueError(f"layers {list_names(map(str, sorted(numbers)))}: expected consecutive numbers from 0")
    return len(numbers)


def _whole(count: int, each: int, name: str, what: str) -> int:
    if count % each or not count:
        raise ValueError(f"{name} has {count} {what}: expected a multiple of {each}, {each} per joint")
    return count // each
