"""Nets whose maps are volumes, K joints x D bins of the depth: integral regression's code and 3DMPPE PoseNet.

Both have a ResNet under "backbone." and three deconvolutions and a 1x1 convolution under "head.". Integral regression numbers the
layers of its head, "head.features.9."; PoseNet's names are those of mmpose's SimpleBaseline, so that the number of its maps tells it:
1,152, 18 joints x 64 bins. The state dict does not say how many of them are joints; `jaxpose.importer` divides them by its skeleton.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jaxpose.nets import HeatmapNet
from jaxpose.weights.shapes import State, resnet
from jaxpose.weights.state import shape_of

MOST_JOINTS = 512
"""Number of maps from which on they are volumes: no skeleton has as many joints."""
FEATURES = re.compile(r"head\.features\.(\d{1,3})\.weight")


def integral(state: State) -> tuple[HeatmapNet, dict[str, str]]:
    """Returns the net of integral regression's code and the names that differ from ours; its last layer is the 1x1 convolution."""
    names, deconvs, maps = integral_head(state)
    return HeatmapNet(resnet(state, "backbone."), maps, deconvs=deconvs), names


def integral_head(state: State) -> tuple[dict[str, str], tuple[int, ...], int]:
    """Returns the names of the layers of head.features, the channels of its deconvolutions, and the number of its maps.

    Raises:
        ValueError: the last layer is no convolution after whole groups of deconvolution, BatchNorm and ReLU.
    """
    last = max((int(match[1]) for name in state if (match := FEATURES.fullmatch(name))), default=0)
    if last % 3 or not last:
        raise ValueError(
            f"head.features ends with layer {last}: expected 3 for every deconvolution, then a convolution"
        )
    deconvs = tuple(shape_of(state, f"head.features.{i}.weight", rank=4)[1] for i in range(0, last, 3))
    maps = shape_of(state, f"head.features.{last}.weight", rank=4)[0]
    return {"deconv_layers.": "head.features.", "final_layer.": f"head.features.{last}."}, deconvs, maps


def posenet(state: State) -> tuple[HeatmapNet, dict[str, str]]:
    """Returns the net of PoseNet and the names that differ from ours."""
    maps, deconvs = shape_of(state, "head.final_layer.weight", rank=4)[0], []
    while (name := f"head.deconv_layers.{3 * len(deconvs)}.weight") in state:
        deconvs.append(shape_of(state, name, rank=4)[1])
    names = {"deconv_layers.": "head.deconv_layers.", "final_layer.": "head.final_layer."}
    return HeatmapNet(resnet(state, "backbone."), maps, deconvs=tuple(deconvs)), names


def has_volumes(state: Mapping[str, Any]) -> bool:
    """Returns True for a state dict with PoseNet's names whose maps are too many to be joints."""
    shape = getattr(state.get("head.final_layer.weight"), "shape", ())
    return len(shape) > 0 and shape[0] >= MOST_JOINTS
