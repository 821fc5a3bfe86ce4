"""The stacked hourglass nets of bearpaw's pytorch-pose and of princeton-vl, from names and shapes."""

from __future__ import annotations

import re

import numpy as np

from jaxpose.nets import StackedHourglass
from jaxpose.nets.hourglass import DEPTH
from jaxpose.weights.state import shape_of

State = dict[str, np.ndarray]
Names = dict[str, str]

MOST_STACKS, MOST_BLOCKS = 16, 16  # published: 8 and 4
# princeton-vl's residual blocks own a convolution for the shortcut even where it is unused.
UNUSED_SHORTCUTS = r"((hgs|features)\..*|pre\.3)\.skip_layer\..*"


def bearpaw(state: State) -> tuple[StackedHourglass, Names]:
    """Returns net and names; an hourglass is a list by level, of the branches up1, low1, low3 and, innermost, low2."""
    stacks = _count(state, r"score\.(\d+)\.", MOST_STACKS, "stacks")
    blocks = _count(state, r"hg\.0\.hg\.0\.0\.(\d+)\.", MOST_BLOCKS, "blocks")
    joints, width = shape_of(state, "score.0.weight", rank=4)[:2]
    names: Names = {}
    for i in range(stacks):
        for level in range(DEPTH):
            for place, branch in enumerate(("up1", "low1", "low3", "low2")):
                names |= {f"hg{i}_{level}_{branch}_{b}.": f"hg.{i}.hg.{level}.{place}.{b}." for b in range(blocks)}
        names |= {f"res{i}_{b}.": f"res.{i}.{b}." for b in range(blocks)}
        names |= {f"fc{i}_conv.": f"fc.{i}.0.", f"fc{i}_bn.": f"fc.{i}.1.", f"score{i}.": f"score.{i}."}
        names |= {f"merge{i}_features.": f"fc_.{i}.", f"merge{i}_maps.": f"score_.{i}."}
    return StackedHourglass(joints, stacks=stacks, blocks=blocks, width=width), names


def princeton(state: State) -> tuple[StackedHourglass, Names]:
    """Returns net and names; an hourglass is nested, with one block at each place."""
    stacks = _count(state, r"outs\.(\d+)\.", MOST_STACKS, "stacks")
    joints, width = shape_of(state, "outs.0.conv.weight", rank=4)[:2]
    names = {"conv1.": "pre.0.conv.", "bn1.": "pre.0.bn."}
    blocks = {f"layer{i}.0": f"pre.{place}" for i, place in ((1, 1), (2, 3), (3, 4))}
    for i in range(stacks):
        inside = f"hgs.{i}.0"
        for level in reversed(range(DEPTH)):
            blocks |= {f"hg{i}_{level}_{branch}_0": f"{inside}.{branch}" for branch in ("up1", "low1", "low3")}
            inside += ".low2"
        blocks |= {f"hg{i}_0_low2_0": inside, f"res{i}_0": f"features.{i}.0"}
        names |= {f"fc{i}_conv.": f"features.{i}.1.conv.", f"fc{i}_bn.": f"features.{i}.1.bn."}
        names |= {f"score{i}.": f"outs.{i}.conv.", f"merge{i}_features.": f"merge_features.{i}.conv.conv."}
        names |= {f"merge{i}_maps.": f"merge_preds.{i}.conv.conv."}
    for ours, theirs in blocks.items():
        names |= {f"{ours}.conv{j}.": f"{theirs}.conv{j}.conv." for j in (1, 2, 3)}
        names |= {f"{ours}.bn{j}.": f"{theirs}.bn{j}." for j in (1, 2, 3)}
        names[f"{ours}.downsample.0."] = f"{theirs}.skip_layer.conv."
    return StackedHourglass(joints, stacks=stacks, width=width, stem="princeton"), names


def _count(state: State, pattern: str, most: int, what: str) -> int:
    """Returns one more than the largest number that a pattern finds in the names."""
    numbers = [int(match[1]) for match in (re.match(pattern, name) for name in state) if match]
    count = max(numbers, default=-1) + 1
    if not 1 <= count <= most:
        raise ValueError(f"a stacked hourglass with {count} {what}: expected 1 to {most}")
    return count
