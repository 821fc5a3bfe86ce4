"""Reads the sizes of nets from the names and shapes of published tensors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxpose.nets import ResNet
from jaxpose.nets.resnet import STAGES
from jaxpose.weights.state import shape_of

State = dict[str, np.ndarray]


def resnet(state: State, prefix: str, **options: Any) -> ResNet:
    """Returns the ResNet whose tensors are under `prefix`, with further attributes of `ResNet`."""
    width = shape_of(state, f"{prefix}conv1.weight", rank=4)[0]
    blocks = [re.match(rf"{re.escape(prefix)}layer([1-4])\.(\d+)\.", name) for name in state]
    last = {stage: max((int(b[2]) for b in blocks if b and b[1] == stage), default=-1) for stage in "1234"}
    key = tuple(i + 1 for i in last.values()), f"{prefix}layer1.0.conv3.weight" in state
    for depth, kind in STAGES.items():
        if kind == key:
            return ResNet(depth=depth, width=width, **options)
    block = "bottleneck" if key[1] else "basic"
    raise ValueError(
        f"{prefix}layer1 to layer4 have {key[0]} {block} blocks: expected those of a ResNet, {', '.join(map(str, STAGES))}"
    )
