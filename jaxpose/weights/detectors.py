"""Reads the R-CNNs of torchvision and Detectron2, and the ResNets that the latter start from: their names, and the nets that have
their shapes.

Detectron2's names, and those of torchvision before 0.14, are first replaced by torchvision's (`as_torchvision`); one function
builds the net. A mask head is left out: boxes and joints do not depend on it. The ResNets have Caffe2's names (`from_caffe2`).
"""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np

from jaxpose.nets import RCNN
from jaxpose.nets.layers import BN_EPS
from jaxpose.weights.shapes import State, resnet
from jaxpose.weights.state import shape_of

# Names of Detectron2 and old ones of torchvision, and today's of torchvision. The first pattern that fits is replaced.
RENAMED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)", r"backbone.fpn.\1_blocks.\2.0.\3"),
        (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
        (r"backbone\.bottom_up\.stem\.conv1\.norm\.(.*)", r"backbone.body.bn1.\1"),
        (r"backbone\.bottom_up\.stem\.conv1\.(.*)", r"backbone.body.conv1.\1"),
        (r"proposal_generator\.rpn_head\.conv\.(.*)", r"rpn.head.conv.0.0.\1"),
        (r"proposal_generator\.rpn_head\.objectness_logits\.(.*)", r"rpn.head.cls_logits.\1"),
        (r"proposal_generator\.rpn_head\.anchor_deltas\.(.*)", r"rpn.head.bbox_pred.\1"),
        (r"roi_heads\.box_head\.fc1\.(.*)", r"roi_heads.box_head.fc6.\1"),
        (r"roi_heads\.box_head\.fc2\.(.*)", r"roi_heads.box_head.fc7.\1"),
        (r"roi_heads\.keypoint_head\.score_lowres\.(.*)", r"roi_heads.keypoint_predictor.kps_score_lowres.\1"),
    )
)
PYRAMID = re.compile(r"backbone\.fpn_(lateral|output)([2-5])\.(.*)")
BLOCK = re.compile(r"backbone\.bottom_up\.res([2-5])\.(\d+)\.(shortcut|conv[123])(\.norm)?\.(.*)")
JOINT_CONV = re.compile(r"roi_heads\.keypoint_head\.conv_fcn([1-9]\d*)\.(.*)")
# Tensors that prediction does not need: a mask head, and constants that a file may hold.
IGNORED = (
    r"roi_heads\.mask_.*|(proposal_generator|rpn)\.anchor_generator\..*|pixel_(mean|std)"
    r"|roi_heads\.box_predictor\.(loss_weight|freq_weight)"
)
CAFFE2_LAYER = re.compile(
    r"(?:res_)?conv1(?P<stem>_w|_bn_.+)"
    r"|res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2[abc])(?P<part>_w|_bn_.+)"
)
CAFFE2_NORM = {
    "s": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var",
}  # fmt: skip
CAFFE2_IGNORED = r"conv1_b|(fc1000|pred)_[wb]|.*_momentum"
"""Detectron2 ignores them too: the classifier, the bias of the first convolution, and the state of an optimiser."""
FLATTENED = 7 * 7  # cells of a region, in front of the first fully connected layer


def as_torchvision(state: State) -> State:
    """Returns a state dict of Detectron2, or of an old torchvision, under today's names of torchvision.

    >>> list(as_torchvision({"backbone.bottom_up.res3.0.shortcut.norm.bias": 0, "backbone.fpn_lateral2.bias": 0}))
    ['backbone.body.layer2.0.downsample.1.bias', 'backbone.fpn.inner_blocks.0.0.bias']
    """
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    if match := PYRAMID.fullmatch(name):
        kind = "inner" if match[1] == "lateral" else "layer"
        return f"backbone.fpn.{kind}_blocks.{int(match[2]) - 2}.0.{match[3]}"
    if match := BLOCK.fullmatch(name):
        layer, norm = f"backbone.body.layer{int(match[1]) - 1}.{match[2]}", bool(match[4])
        if match[3] == "shortcut":
            return f"{layer}.downsample.{int(norm)}.{match[5]}"
        return f"{layer}.{match[3].replace('conv', 'bn') if norm else match[3]}.{match[5]}"
    if match := JOINT_CONV.fullmatch(name):
        return f"roi_heads.keypoint_head.{2 * (int(match[1]) - 1)}.{match[2]}"
    for pattern, new in RENAMED:
        if pattern.fullmatch(name):
            return pattern.sub(new, name)
    return name


def from_caffe2(state: State) -> State:
    """Returns a ResNet under torchvision's names that has Caffe2's, such as res2_0_branch2a_w.

    These are the ImageNet weights of Detectron and Detectron2 (MSRA/R-50.pkl, R-101.pkl). Detectron's files have BatchNorm as a scale
    and a shift alone, Detectron2's with mean and variance. Where these are missing they become 0 and 1 - eps, with which
    BatchNorm is that scale and shift.

    >>> list(from_caffe2({"res_conv1_bn_gamma": 0, "res3_0_branch1_w": 0, "res3_0_branch2a_bn_running_var": 0}))
    ['bn1.weight', 'layer2.0.downsample.0.weight', 'layer2.0.bn1.running_var']
    """
    renamed = {_from_caffe2(name): value for name, value in state.items()}
    for name, scale in list(renamed.items()):
        norm, _, part = name.rpartition(".")
        if part == "weight" and f"{norm}.bias" in renamed:
            renamed.setdefault(f"{norm}.running_mean", np.zeros_like(scale))
            renamed.setdefault(f"{norm}.running_var", np.full_like(scale, 1 - BN_EPS))
    return renamed


def _from_caffe2(name: str) -> str:
    match = CAFFE2_LAYER.fullmatch(name)
    if match is None:
        return name
    part = match["stem"] or match["part"]
    norm = None if part == "_w" else CAFFE2_NORM.get(part.removeprefix("_bn_"), part)
    if match["stem"]:
        return f"bn1.{norm}" if norm else "conv1.weight"
    layer = f"layer{int(match['stage']) - 1}.{match['block']}"
    if match["branch"] == "1":
        return f"{layer}.downsample.1.{norm}" if norm else f"{layer}.downsample.0.weight"
    number = "abc".index(match["branch"][1]) + 1
    return f"{layer}.bn{number}.{norm}" if norm else f"{layer}.conv{number}.weight"


def rcnn(state: State, *, variant: Literal["torchvision", "detectron2"], bn_eps: float) -> tuple[RCNN, dict[str, str]]:
    """Returns the net of a state dict with torchvision's names, and those names by ours.

    Args:
        state: {name: array}, see `as_torchvision`.
        variant: The code base, whose rules the net follows.
        bn_eps: eps of the BatchNorm in the backbone, which no file states: 0 for the released files of torchvision with frozen
            BatchNorm, 1e-5 for all others (QUIRK E1).
    """
    backbone = resnet(state, "backbone.body.", bn_eps=bn_eps, stride_in_1x1=variant == "detectron2")
    classes = shape_of(state, "roi_heads.box_predictor.cls_score.weight", rank=2)[0]
    rpn_convs = _count(state, r"rpn\.head\.conv\.(\d+)\.0\.weight")
    box_convs = _count(state, r"roi_heads\.box_head\.(\d+)\.0\.weight")
    joint_convs = _count(state, r"roi_heads\.keypoint_head\.(\d+)\.weight", step=2)
    box_fc = (
        [f"roi_heads.box_head.{box_convs + 1}"] if box_convs else ["roi_heads.box_head.fc6", "roi_heads.box_head.fc7"]
    )
    joints = "roi_heads.keypoint_predictor.kps_score_lowres.weight"
    net = RCNN(
        backbone,
        num_classes=classes,
        num_joints=shape_of(state, joints, rank=4)[1] if joints in state else 0,
        variant=variant,
        fpn_features=shape_of(state, "backbone.fpn.inner_blocks.0.0.weight", rank=4)[0],
        fpn_norm="backbone.fpn.inner_blocks.0.1.weight" in state,
        rpn_convs=rpn_convs,
        box_convs=tuple(_rows(state, f"roi_heads.box_head.{i}.0.weight", 4) for i in range(box_convs)),
        box_features=tuple(_rows(state, f"{name}.weight", 2) for name in box_fc),
        keypoint_convs=tuple(_rows(state, f"roi_heads.keypoint_head.{2 * i}.weight", 4) for i in range(joint_convs)),
    )
    return net, _names(rpn_convs, box_convs, box_fc, joint_convs)


def _names(rpn_convs: int, box_convs: int, box_fc: list[str], joint_convs: int) -> dict[str, str]:
    """Returns {beginning of our names: beginning of torchvision's}."""
    names = {"backbone.": "backbone.body."}
    for ours, theirs in (("lateral", "inner"), ("output", "layer")):
        for level in range(4):
            names[f"fpn.{ours}_{level}.bn."] = f"backbone.fpn.{theirs}_blocks.{level}.1."
            names[f"fpn.{ours}_{level}."] = f"backbone.fpn.{theirs}_blocks.{level}.0."
    names |= {f"rpn.conv_{i}.": f"rpn.head.conv.{i}.0." for i in range(rpn_convs)}
    names |= {"rpn.logits.": "rpn.head.cls_logits.", "rpn.deltas.": "rpn.head.bbox_pred."}
    for i in range(box_convs):
        names[f"box_head.conv_{i}.bn."] = f"roi_heads.box_head.{i}.1."
        names[f"box_head.conv_{i}."] = f"roi_heads.box_head.{i}.0."
    names |= {f"box_head.fc_{i}.": f"{theirs}." for i, theirs in enumerate(box_fc)}
    names |= {"box_head.scores.": "roi_heads.box_predictor.cls_score."}
    names |= {"box_head.deltas.": "roi_heads.box_predictor.bbox_pred."}
    names |= {f"keypoint_head.conv_{i}.": f"roi_heads.keypoint_head.{2 * i}." for i in range(joint_convs)}
    return names | {"keypoint_head.deconv.": "roi_heads.keypoint_predictor.kps_score_lowres."}


def channels_last(variables: dict[str, Any]) -> None:
    """Changes the order of the first fully connected layer's inputs from channel, y, x to y, x, channel, in place."""
    layer = variables["params"]["box_head"]["fc_0"]
    kernel = np.asarray(layer["kernel"])
    layer["kernel"] = kernel.reshape(-1, FLATTENED, kernel.shape[1]).swapaxes(0, 1).reshape(kernel.shape)


def _count(state: State, pattern: str, *, step: int = 1) -> int:
    """Returns the number of layers whose indices are 0, step, 2 step, ..."""
    indices = {int(match[1]) for name in state if (match := re.fullmatch(pattern, name))}
    count = 0
    while count * step in indices:
        count += 1
    return count


def _rows(state: State, name: str, rank: int) -> int:
    return shape_of(state, name, rank=rank)[0]
