"""One row per published net whose checkpoints can be read, and the functions that build the nets.

All differences between code bases are in their rows (`PublishedNet`); the rest of the package loops over `ROWS` or reads
a row. To read another code base:

1. Add a row: its name (the value of `layout=` and `--layout`), the prefixes of names that distinguish it from the others, and
   `build`, which reads the net's sizes from the shapes and returns the net and the names that differ from ours.
2. If it is a pose net that `jaxpose import` should convert to a checkpoint, name the task family, its settings and the pages that
   evaluate it in the same row. They are plain data, because this module does not know tasks; `jaxpose.importer.FAMILIES` creates
   the task. Only a code base whose outputs no family reads needs an entry there too.
3. Mention it in the table at the top of `jaxpose.weights` (a test compares them).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets import HeatmapNet, HigherHRNet, HRNet, MobileNetV2, PoseRegressor, RegressionHead, ResNet, mobilenet
from jaxpose.nets.layers import BN_EPS
from jaxpose.weights import detectors, hourglass, lifting, volumes
from jaxpose.weights.fill import fill
from jaxpose.weights.shapes import State
from jaxpose.weights.shapes import resnet as _resnet
from jaxpose.weights.state import arrays, check_values, list_names, logger, renamed, shape_of, unwrap

Names = dict[str, str]  # prefixes of our dotted paths and the published ones, see `fill.torch_tensors`

MOST_BLOCKS = 32  # of blocks after a backbone; the published nets have 4
MMPOSE_HEADS = ("keypoint_head.", "head.simplebaseline_head.")  # other code bases call them "head."
# Width multipliers that can be recognised, round numbers first: several may give the same channels.
MOBILENET_WIDTHS = (1.0, 0.5, *(i / 20 for i in range(1, 81)), *(i / 100 for i in range(1, 401)))


@dataclass(frozen=True)
class PublishedNet:
    """A net as a code base publishes it: how its checkpoints are recognised and read, and the net that they give.

    Attributes:
        name: the layout, a value of `layout=` and `--layout`.
        build: function from a state dict (with the common names of the heads, without `ignored`) to (net, names). It raises a
            ValueError if no net has these shapes.
        needs: prefixes that its names have, each in one of its spellings.
        lacks: prefixes that none of its names has.
        ignored: pattern of whole names, of tensors that prediction does not need.
        heads: prefixes that stand for "head." in different versions of the code base.
        rename: function from a state dict to one under the names that `build` expects; None: they are the same.
        axes: prefix of the coordinate axes x and y of an integral model, whose maps are decoded by soft-argmax.
        adjust: function that changes the variables to this library's conventions in place; None: there is no difference.
        family: the task family, a key of `jaxpose.importer.FAMILIES`; None: the net is a backbone, not a pose net.
        told_by: function from a state dict to True if its shapes are those of this layout, whose names another layout has too; None:
            the names tell.
        settings: settings of the family, plain data, see there.
        pages: the page of `experiments` that evaluates it, by the name of its skeleton or by its decoding; "" is the page of
            all others.
    """

    name: str
    build: Callable[[State], tuple[nn.Module, Names]]
    needs: tuple[str | tuple[str, ...], ...]
    lacks: tuple[str, ...] = ()
    ignored: str = ""
    heads: tuple[str, ...] = ()
    rename: Callable[[State], State] | None = None
    axes: str = ""
    adjust: Callable[[dict[str, Any]], None] | None = None
    told_by: Callable[[Mapping[str, Any]], bool] | None = None
    family: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)

    def fits(self, names: list[str]) -> bool:
        """Returns whether a state dict with these names has this layout."""
        has = all(any(name.startswith(start) for name in names) for start in self.needs)
        return has and not any(name.startswith(self.lacks) for name in names)


# ---------------------------------------------------------------------------------------------------------------------
# The nets, from names and shapes
# ---------------------------------------------------------------------------------------------------------------------


def _rle_official(state: State) -> tuple[PoseRegressor, Names]:
    """Returns net and names; fc_sigma of the 3D model is a plain linear layer, that of the 2D model is wrapped like fc_coord."""
    rows = shape_of(state, "fc_coord.linear.weight", rank=2)[0]
    dim, sigma = (3, "fc_sigma.") if "fc_sigma.weight" in state else (2, "fc_sigma.linear.")
    head = RegressionHead(_joints(rows, dim, "fc_coord.linear.weight"), dim=dim, kind="normalized")
    names = {"backbone.": "preact.", "head.coord.": "fc_coord.linear.", "head.sigma.": sigma}
    return PoseRegressor(_resnet(state, "preact."), head), names


def _rle_mmpose(state: State) -> tuple[PoseRegressor, Names]:
    rows = shape_of(state, "head.fc.weight", rank=2)[0]
    backbone, names = _mmpose_backbone(state)
    return PoseRegressor(backbone, RegressionHead(_joints(rows, 4, "head.fc.weight"), kind="linear")), names


def _simple_baseline(state: State) -> tuple[HeatmapNet, Names]:
    joints, deconvs = _baseline_head(state, "")
    return HeatmapNet(_resnet(state, ""), joints, deconvs=deconvs), {"backbone.": ""}


def _simple_baseline_mmpose(state: State) -> tuple[HeatmapNet, Names]:
    joints, deconvs = _baseline_head(state, "head.")
    backbone, names = _mmpose_backbone(state)
    return HeatmapNet(backbone, joints, deconvs=deconvs), names | MMPOSE_HEAD_NAMES


def _baseline_head(state: State, head: str) -> tuple[int, tuple[int, ...]]:
    """Returns the number of joints, and the channels of every deconvolution under `head`."""
    joints = shape_of(state, f"{head}final_layer.weight", rank=4)[0]
    deconvs = []
    while (name := f"{head}deconv_layers.{3 * len(deconvs)}.weight") in state:
        deconvs.append(shape_of(state, name, rank=4)[1])
    if len(deconvs) > MOST_BLOCKS:
        raise ValueError(f"{head}deconv_layers are {len(deconvs)}: expected at most {MOST_BLOCKS}")
    return joints, tuple(deconvs)


def _hrnet(state: State, *, backbone: str = "", head: str = "") -> HeatmapNet:
    joints = shape_of(state, f"{head}final_layer.weight", rank=4)[0]
    return HeatmapNet(_hrnet_backbone(state, backbone), joints, deconvs=())


def _hrnet_backbone(state: State, prefix: str = "") -> HRNet:
    return HRNet(shape_of(state, f"{prefix}transition1.0.0.weight", rank=4)[0])


def _mmpose_backbone(state: State) -> tuple[ResNet | MobileNetV2, Names]:
    """Returns the net under "backbone." and its names; a MobileNetV2 has a conv and a bn in every conv1."""
    if not any(name.startswith("backbone.conv1.conv.") for name in state):
        return _resnet(state, "backbone."), {}
    names = _mobilenet_mmpose("backbone.")
    return _mobilenet(state, {ours.removeprefix("backbone."): theirs for ours, theirs in names.items()}), names


def _mobilenet(state: State, names: Names) -> MobileNetV2:
    """Returns the MobileNetV2 whose channels agree with the most layers; `fill` lists the layers that do not agree."""
    projections = (f"layer{i}.0.project_conv." for i in range(1, len(mobilenet.LAYERS) + 1))
    weights = [f"{names[ours]}weight" for ours in ("conv1.", *projections, "conv2.")]
    shape_of(state, weights[0], rank=4)
    shapes = [state[name].shape[:1] if name in state else () for name in weights]

    def agreeing(width: float) -> int:
        return sum(shape == (c,) for shape, c in zip(shapes, mobilenet.channels(width), strict=True))

    return MobileNetV2(width=max(MOBILENET_WIDTHS, key=agreeing))


def _mobilenet_blocks() -> list[tuple[str, tuple[str, ...]]]:
    """Returns our name of every block and of its convolutions."""
    return [
        (f"layer{number}.{i}.", ("expand", "depthwise", "project")[expansion == 1 :])
        for number, (expansion, _, blocks, _) in enumerate(mobilenet.LAYERS, start=1)
        for i in range(blocks)
    ]


def _mobilenet_torchvision() -> Names:
    """Returns the names: features.0 is the first convolution, .18 the last; the last pair of a block is not nested."""
    blocks = _mobilenet_blocks()
    names = {}
    for ours, place in (("1", 0), ("2", len(blocks) + 1)):
        names |= {f"conv{ours}.": f"features.{place}.0.", f"bn{ours}.": f"features.{place}.1."}
    for place, (block, parts) in enumerate(blocks, start=1):
        for i, part in enumerate(parts):
            conv, bn = (f"{i}", f"{i + 1}") if part == "project" else (f"{i}.0", f"{i}.1")
            names[f"{block}{part}_conv."] = f"features.{place}.conv.{conv}."
            names[f"{block}{part}_bn."] = f"features.{place}.conv.{bn}."
    return names


def _mobilenet_mmpose(prefix: str) -> Names:
    """Returns the names: every convolution is a module with a conv and a bn."""
    names = {}
    for i in "12":
        names |= {f"{prefix}conv{i}.": f"{prefix}conv{i}.conv.", f"{prefix}bn{i}.": f"{prefix}conv{i}.bn."}
    for block, parts in _mobilenet_blocks():
        for i, part in enumerate(parts):
            for leaf in ("conv", "bn"):
                names[f"{prefix}{block}{part}_{leaf}."] = f"{prefix}{block}conv.{i}.{leaf}."
    return names


def _higher_hrnet(state: State, *, scale: bool) -> HigherHRNet:
    """Returns the net: the maps at 1/2 are the joints; twice as many maps at 1/4 mean tags. (A state dict has no dilations.)"""
    backbone = _hrnet_backbone(state)
    joints, first = (shape_of(state, f"final_layers.{i}.weight", rank=4)[0] for i in (1, 0))
    if first not in (joints, 2 * joints):
        raise ValueError(
            f"final_layers have {first} and {joints} maps: expected K or 2 K (with tags) at 1/4, and K at 1/2"
        )
    blocks = [re.match(r"deconv_layers\.0\.([1-9]\d*)\.", name) for name in state]
    count = max((int(match[1]) for match in blocks if match), default=0)
    if count > MOST_BLOCKS:
        raise ValueError(f"deconv_layers.0 has {count} blocks: expected at most {MOST_BLOCKS}")
    return HigherHRNet(backbone, joints, tags=first == 2 * joints, scale=scale, dilations=(1,) * count)


def _joints(rows: int, each: int, name: str) -> int:
    if rows % each or not rows:
        raise ValueError(f"{name} has {rows} rows: expected a multiple of {each}, {each} per joint")
    return rows // each


def _mmpose_mu(variables: dict[str, Any]) -> None:
    """Shifts mu: mmpose predicts x / W, this library x / W - 0.5."""
    bias = variables["params"]["head"]["fc"]["bias"]
    offset = jnp.tile(jnp.array([0.5, 0.5, 0, 0], bias.dtype), len(bias) // 4)
    variables["params"]["head"]["fc"]["bias"] = bias - offset


# ---------------------------------------------------------------------------------------------------------------------
# The rows
# ---------------------------------------------------------------------------------------------------------------------

MMPOSE_HEAD_NAMES = {"deconv_layers.": "head.deconv_layers.", "final_layer.": "head.final_layer."}
COUPLING = r"(mask|loc|cov|[st]\.\d+\.\d+\.(weight|bias))"  # a tensor of RLE's flow
RLE_PAGES = {"": "coco_rle", "mpii16": "mpii_rle"}
BASELINE_PAGES = {"": "coco_simple_baseline", "soft_argmax": "coco_integral", "mpii16": "mpii_integral"}
HRNET_PAGES = {"": "coco_hrnet", "mpii16": "mpii_integral"}
SWAHR_PAGES = {"": "coco_swahr", "crowdpose14": "crowdpose_swahr"}

TORCHVISION_RCNN = ("backbone.fpn.inner_blocks.", "backbone.body.layer1.", "rpn.head.cls_logits.")
DETECTOR = {
    "ignored": detectors.IGNORED,
    "rename": detectors.as_torchvision,
    "adjust": detectors.channels_last,
    "family": "detection",
    "settings": {"preprocess": "imagenet", "rule": "torchvision"},
    "pages": {"": "coco_keypoint_rcnn"},
}

ROWS = (
    PublishedNet(
        "resnet",
        build=lambda state: (_resnet(state, ""), {}),
        needs=("conv1.weight", "layer4.0.conv1."),
        lacks=("deconv_layers.", "final_layer.", "fc_coord.", "transition1."),
        ignored=r"fc\.(weight|bias)",
    ),
    PublishedNet(
        "resnet_caffe2",
        build=lambda state: (_resnet(state, "", stride_in_1x1=True), {}),
        needs=("conv1_w", "res_conv1_bn_", "res2_0_branch2a_w", "res5_0_branch2a_w"),
        ignored=detectors.CAFFE2_IGNORED,
        rename=detectors.from_caffe2,
    ),
    PublishedNet(
        "mobilenet_v2",
        build=lambda state: (_mobilenet(state, names := _mobilenet_torchvision()), names),
        needs=("features.0.0.", "features.18.0."),
        ignored=r"classifier\.1\.(weight|bias)",
    ),
    PublishedNet(
        "hrnet_backbone",
        build=lambda state: (_hrnet_backbone(state), {}),
        needs=("conv2.weight", "transition1.0.0.", "stage4.0."),
        lacks=("final_layer.weight", "final_layers."),
        ignored=r"(incre_modules|downsamp_modules|final_layer|classifier)\..*|stage4\.2\.fuse_layers\.[123]\..*",
    ),
    PublishedNet(
        "rle_official",
        build=_rle_official,
        needs=("preact.conv1.", "fc_coord.linear.", "fc_sigma."),
        ignored=rf"flow(2d|3d)?\.{COUPLING}",
        family="regression",
        settings={"variant": "official", "flow_init": "torch", "preprocess": "rle_official", "outside": "keep"},
        pages=RLE_PAGES,
    ),
    PublishedNet(
        "rle_mmpose",
        build=_rle_mmpose,
        needs=("backbone.conv1.", ("head.fc.", "keypoint_head.fc.")),
        ignored=rf"head\.(loss|loss_module)\.flow_model\.{COUPLING}",
        heads=MMPOSE_HEADS,
        adjust=_mmpose_mu,
        family="regression",
        settings={"variant": "mmpose", "flow_init": "xavier", "preprocess": "imagenet", "outside": "mask"},
        pages=RLE_PAGES,
    ),
    PublishedNet(
        "simple_baseline",
        build=_simple_baseline,
        needs=("conv1.weight", "layer4.0.conv1.", "deconv_layers.0.weight", "final_layer.weight"),
        family="heatmaps",
        settings={"variant": "official", "border": "hrnet", "preprocess": "simple_baseline"},
        pages=BASELINE_PAGES,
    ),
    PublishedNet(
        "hrnet",
        build=lambda state: (_hrnet(state), {"backbone.": ""}),
        needs=("conv2.weight", "transition1.0.0.", "final_layer.weight"),
        family="heatmaps",
        settings={"variant": "official", "border": "hrnet", "preprocess": "imagenet"},
        pages=HRNET_PAGES,
    ),
    PublishedNet(
        "simple_baseline_mmpose",
        build=_simple_baseline_mmpose,
        needs=("backbone.conv1.", tuple(f"{head}deconv_layers.0.weight" for head in ("head.", *MMPOSE_HEADS))),
        lacks=("backbone.transition1.",),
        ignored=r"head\.linspace_[xy]",
        heads=MMPOSE_HEADS,
        axes="head.linspace_",
        family="heatmaps",
        settings={"variant": "mmpose", "border": "mmpose", "preprocess": "imagenet"},
        pages=BASELINE_PAGES,
    ),
    PublishedNet(
        "hrnet_mmpose",
        build=lambda state: (_hrnet(state, backbone="backbone.", head="head."), MMPOSE_HEAD_NAMES),
        needs=("backbone.transition1.0.0.", ("head.final_layer.weight", "keypoint_head.final_layer.weight")),
        heads=MMPOSE_HEADS,
        family="heatmaps",
        settings={"variant": "mmpose", "border": "mmpose", "preprocess": "imagenet"},
        pages=HRNET_PAGES,
    ),
    PublishedNet(
        "higher_hrnet",
        build=lambda state: (_higher_hrnet(state, scale=False), {"backbone.": ""}),
        needs=("transition1.0.0.", "final_layers.1.", "deconv_layers.0.0."),
        lacks=("conv_scale_layers.",),
        family="bottom_up",
        settings={"loss": {}, "preprocess": "imagenet"},
        pages=SWAHR_PAGES,
    ),
    PublishedNet(
        "swahr",
        build=lambda state: (_higher_hrnet(state, scale=True), {"backbone.": ""}),
        needs=("transition1.0.0.", "final_layers.1.", "deconv_layers.0.0.", "conv_scale_layers.0.0."),
        family="bottom_up",
        settings={
            "loss": {"targets": "scale_adaptive", "weighting": "adaptive"},
            "detection_thresholds": {32: 0.12},  # by the width of its HRNet
            "preprocess": "imagenet",
        },
        pages=SWAHR_PAGES,
    ),
    PublishedNet(
        "keypoint_rcnn",
        build=lambda state: detectors.rcnn(state, variant="torchvision", bn_eps=0.0),
        needs=(*TORCHVISION_RCNN, "roi_heads.keypoint_predictor."),
        **DETECTOR,
    ),
    PublishedNet(
        "faster_rcnn",
        build=lambda state: detectors.rcnn(state, variant="torchvision", bn_eps=0.0),
        needs=(*TORCHVISION_RCNN, "roi_heads.box_head.fc6."),
        lacks=("roi_heads.keypoint_predictor.",),
        **DETECTOR,
    ),
    PublishedNet(
        "faster_rcnn_v2",
        build=lambda state: detectors.rcnn(state, variant="torchvision", bn_eps=BN_EPS),
        needs=(*TORCHVISION_RCNN, "roi_heads.box_head.0.0."),
        **DETECTOR,
    ),
    PublishedNet(
        "detectron2_rcnn",
        build=lambda state: detectors.rcnn(state, variant="detectron2", bn_eps=BN_EPS),
        needs=(
            "backbone.bottom_up.res2.",
            "backbone.fpn_lateral2.",
            "proposal_generator.rpn_head.",
            "roi_heads.box_head.fc2.",
        ),
        **DETECTOR | {"settings": {"preprocess": "detectron2", "rule": "detectron2"}},
    ),
    PublishedNet(
        "integral_3d",
        build=volumes.integral,
        needs=("backbone.conv1.", "head.features.0."),
        family="volumes",
        settings={"preprocess": "imagenet", "outside": "keep", "padding": 1.0},
        pages={"": "h36m_integral"},
    ),
    PublishedNet(
        "posenet_3d",
        build=volumes.posenet,
        needs=("backbone.conv1.", "head.deconv_layers.0.weight", "head.final_layer."),
        lacks=("backbone.transition1.", "backbone.conv1.conv."),
        told_by=volumes.has_volumes,
        family="volumes",
        settings={"preprocess": "posenet", "outside": "mask", "padding": 1.25},
        pages={"": "h36m_integral"},
    ),
    PublishedNet(
        "martinez",
        build=lifting.martinez,
        needs=("w1.weight", "linear_stages.0.", "w2.weight"),
    ),
    PublishedNet(
        "videopose3d",
        build=lifting.videopose3d,
        needs=("expand_conv.weight", "expand_bn.", "shrink.weight"),
    ),
    PublishedNet(
        "srnet",
        build=lifting.srnet,
        needs=("expand_conv.group_conv.0.", "final_layer.group_conv.0."),
    ),
    PublishedNet(
        "hourglass_bearpaw",
        build=hourglass.bearpaw,
        needs=("hg.0.hg.0.0.0.", "score.0.", "layer3.0."),
        family="heatmaps",
        settings={"variant": "mmpose", "border": "hrnet", "offset": 0.5, "preprocess": "bearpaw"},
        pages=HRNET_PAGES,
    ),
    PublishedNet(
        "hourglass_princeton",
        build=hourglass.princeton,
        needs=("hgs.0.0.up1.", "outs.0.conv.", "pre.0.conv."),
        ignored=hourglass.UNUSED_SHORTCUTS,
        family="heatmaps",
        settings={"variant": "mmpose", "border": "hrnet", "offset": 0.5, "preprocess": "unit"},
        pages=HRNET_PAGES,
    ),
)

if TYPE_CHECKING:
    Layout = str
else:
    Layout = Literal[tuple(row.name for row in ROWS)]  # the choices of --layout

MOST_PREFIXES = 3  # of the levels of names before those of a net, {"model.net.conv1.weight": ...}
# Counters and copies that modules around a net save with its tensors.
NO_WEIGHTS = re.compile(r"(.+\.)?(num_batches_tracked|n_averaged|total_ops|total_params|steps)|ema_[^.]+")


@dataclass(frozen=True)
class UnreadNet:
    """A published net that no row reads: identified by patterns, each at the beginning of a name or after a dot.

    With `partly_read` some of these nets have a row, so that they are refused only if none fits.
    """

    name: str
    signs: tuple[str, ...]
    instead: str = ""
    partly_read: bool = False

    def sign_in(self, names: list[str]) -> str | None:
        """Returns an identifying name if every pattern matches, else None."""
        matches = [next((n for n in names if re.search(rf"(?:^|\.){sign}", n)), None) for sign in self.signs]
        return None if None in matches else matches[0]


UNREAD = (
    UnreadNet(
        "Sun's Integral code, whose heads give volumes (64 maps a joint, for 3D)",
        (r"head\.features\.",),
        partly_read=True,
    ),
    UnreadNet("mmpose 0.x's HigherHRNet", (r"keypoint_head\.final_layers\.",), "take the authors' file"),
    UnreadNet("a Swin transformer", (r"patch_embed\.proj", r"blocks\.0\.attn\.(w_msa|relative_position)")),
    UnreadNet(
        "ViTPose (or Sapiens, or another vision transformer)",
        (r"patch_embed(dings)?\.proj", r"(blocks|layers?)\.0\.(attn\.qkv|attention)"),
    ),
    UnreadNet("RTMPose (or RTMW, DWPose)", (r"gau\.(uv|w|o|gamma)\b", r"cls_x\.")),
    UnreadNet("SimCC", (r"(cls_x|mlp_head_x)\.",)),
    UnreadNet("DEKR", (r"(offset_feature_layers|offset_conv_layers)\.",)),
    UnreadNet("YOLO pose", (r"model\.\d+\.(cv\d|m\.\d+\.cv1)\b",)),
    UnreadNet("AlphaPose's FastPose", (r"preact\.", r"duc1\.")),
    UnreadNet("OpenPifPaf", (r"base_net\.", r"head_nets\.")),
    UnreadNet("OpenPose", (r"(Mconv1_stage2_L1|model1_1\.|initial_stage\.trunk\.)",)),
    UnreadNet("TokenPose", (r"keypoint_token$",)),
    UnreadNet("TransPose", (r"global_encoder\.layers\.",)),
    UnreadNet("HRFormer", (r"branches\.\d+\.\d+\.attn\.",)),
    UnreadNet("Lite-HRNet", (r"stem\.(branch1|expand_conv)\.",)),
    UnreadNet("MSPN or RSN", (r"multi_stage_(mspn|rsn)\.",)),
    UnreadNet("a stacked hourglass", (r"(hg\.\d+\.hg|hgs\.\d+|hourglass_modules)\.",), partly_read=True),
    UnreadNet("an R-CNN of mmdetection", (r"roi_head\.bbox_head\.",), "take one of torchvision or Detectron2"),
    UnreadNet(
        "torchvision's RetinaNet, FCOS or SSD", (r"head\.classification_head\.",), "take one of its Faster R-CNNs"
    ),
    UnreadNet(
        "an R-CNN of Detectron2 without a feature pyramid",
        (r"proposal_generator\.rpn_head\.", r"backbone\.res2\."),
        "take one whose name has FPN",
    ),
    UnreadNet("Mask R-CNN or Keypoint R-CNN", (r"roi_heads\.",), partly_read=True),
    UnreadNet("a detection transformer (ED-Pose, PETR)", (r"transformer\.(encoder|decoder)\.layers\.",)),
)


# ---------------------------------------------------------------------------------------------------------------------
# Questions about the rows
# ---------------------------------------------------------------------------------------------------------------------


def row_of(layout: Layout) -> PublishedNet:
    """Returns the row of a layout.

    Raises:
        ValueError: the layout is unknown.

    >>> row_of("hrnet").pages["mpii16"]
    'mpii_integral'
    """
    for row in ROWS:
        if row.name == layout:
            return row
    raise ValueError(f"layout={layout!r}: expected one of {', '.join(repr(row.name) for row in ROWS)}")


def from_torch(state_dict: Mapping[str, Any], *, layout: Layout) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the net that a state dict belongs to, and its variables: `net.apply(variables, images, train=False)`.

    Depth, width, number of joints and dimension follow from the names and shapes. Images are (B, H, W, 3), prepared
    as in the training of the net (channel order, mean and deviation are not in a state dict).

    The outputs follow this library's conventions: mu is x / W - 0.5. mmpose's nets predict x / W, so 0.5 is subtracted from
    the biases of mu. The authors' 3D model adds 1e-9 to sigma, which is omitted, and at evaluation makes z relative to
    joint 0, which is left to the caller.

    Args:
        state_dict: {name: array}; values may be anything that `np.asarray` takes. Wrappers of training scripts ({"state_dict": ...})
            and the prefix "module." are removed; num_batches_tracked is ignored; half precision becomes float32.
        layout: naming of the tensors, see the docstring of `jaxpose.weights`.

    Returns:
        (net, variables) with variables {"params": ..., "batch_stats": ...}.

    Raises:
        ValueError: the layout is unknown; the blocks are not those of a published ResNet; a head has two names; tensors are missing,
            left over or of the wrong shape (they are listed).

    >>> import jax
    >>> import numpy as np
    >>> from jaxpose.weights import torch_tensors
    >>> resnet = ResNet(depth=18, width=4)
    >>> shapes = jax.eval_shape(resnet.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> state = {name: np.zeros(shape) for name, (_, shape) in torch_tensors(shapes).items()}
    >>> net, variables = from_torch(state, layout="resnet")
    >>> net.depth, net.width, state["conv1.weight"].shape, variables["params"]["conv1"]["kernel"].shape
    (18, 4, (4, 3, 7, 7), (7, 7, 3, 4))
    """
    row = row_of(layout)
    state = arrays(net_of(state_dict, layout=layout)[1])
    for head in row.heads:
        state = renamed(state, head, "head.")
    state = {
        name: value
        for name, value in state.items()
        if not NO_WEIGHTS.fullmatch(name) and not (row.ignored and re.fullmatch(row.ignored, name))
    }
    check_values(state)
    if row.rename is not None:
        state = row.rename(state)
    net, names = row.build(state)
    variables = fill(net, state, names, layout)
    if row.adjust is not None:
        row.adjust(variables)
    return net, variables


def layout_of(state_dict: Mapping[str, Any]) -> Layout:
    """Returns the layout of a state dict's names.

    Args:
        state_dict: {name: anything}; wrappers and the prefix "module." are removed.

    Raises:
        ValueError: no layout or several match; the message lists them, or the names that were expected.

    >>> layout_of({"fc_coord.linear.weight": 0, "fc_sigma.linear.weight": 0, "preact.conv1.weight": 0})
    'rle_official'
    >>> layout_of({"head.fc.weight": 0, "backbone.conv1.weight": 0})
    'rle_mmpose'
    """
    return net_of(state_dict)[0]


def net_of(
    state_dict: Mapping[str, Any], *, layout: Literal["auto"] | Layout = "auto"
) -> tuple[Layout, dict[str, Any]]:
    """Returns the layout of a state dict, and its tensors under the layout's own names.

    Wrappers are removed, and so is the name that a script gave the net: PyTorch Lightning's "model.", or any other prefix of all names
    of a pose net, up to three levels. Other tensors that such a script saves are left out, with a warning.

    Args:
        state_dict: {name: anything}.
        layout: the layout to look for; "auto": any. A layout that is given is not rejected here: names that do not match stay
            unchanged, and `from_torch` lists them.

    Raises:
        ValueError: no layout matches (the message lists the layouts, or names the net that it looks like); several match; there
            are several nets.

    >>> net_of({"state_dict": {"model.preact.conv1.weight": 1, "model.fc_coord.linear.bias": 2, "model.fc_sigma.linear.bias": 3}})
    ('rle_official', {'preact.conv1.weight': 1, 'fc_coord.linear.bias': 2, 'fc_sigma.linear.bias': 3})
    """
    state = unwrap(state_dict)
    names = [name for name in state if not NO_WEIGHTS.fullmatch(name)]
    auto = layout == "auto"
    fitting = _fitting(names, ROWS if auto else [row_of(layout)])
    if auto:
        fitting = _told_by_shapes(fitting, state)
    prefixes = {prefix for prefix, _ in fitting}
    if auto or not fitting:
        _refuse_unread(names, fits=bool(fitting))
    if not fitting:
        if not auto:
            return layout, state
        raise ValueError(f"names of no layout: {list_names(names, 8) or 'there are none'}. {_nearest(names)}")
    if len(prefixes) > 1:
        nets = list_names(prefix.rstrip(".") for prefix in prefixes)
        raise ValueError(
            f"several nets, under {nets}: choose one with part= of load_file (jaxpose import --part {sorted(prefixes)[0][:-1]})"
        )
    if len(fitting) > 1:
        layouts = ", ".join(row.name for _, row in fitting)
        raise ValueError(f"names of several layouts: {layouts}; choose one with layout= (--layout)")
    [(prefix, row)] = fitting
    if outside := [name for name in names if not name.startswith(prefix)]:
        logger.warning(
            "the net is under %s: left out %d other tensors: %s", prefix, len(outside), list_names(outside, 8)
        )
    return row.name, {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _fitting(names: list[str], rows: Iterable[PublishedNet]) -> list[tuple[str, PublishedNet]]:
    """Returns (prefix, row) of the matches after the fewest levels of names; a backbone only if all names have the prefix."""
    for depth in range(MOST_PREFIXES + 1):
        behind: dict[str, list[str]] = {}
        for name in names:
            parts = name.split(".", depth)
            if len(parts) > depth:
                behind.setdefault("".join(f"{part}." for part in parts[:depth]), []).append(parts[depth])
        fitting = [
            (prefix, row)
            for prefix, inner in behind.items()
            for row in rows
            if row.fits(inner) and (not depth or row.family is not None or len(inner) == len(names))
        ]
        if fitting:
            return fitting
    return []


def _nearest(names: list[str]) -> str:
    """Returns the sentence that lists the layouts, or what the layout lacks that has the most of its names among `names`."""
    lacking = {row.name: [start for start in row.needs if not _starts_anywhere(names, start)] for row in ROWS}
    present = {row.name: len(row.needs) - len(lacking[row.name]) for row in ROWS}
    nearest = max(present, key=lambda name: present[name])
    if not present[nearest]:
        return f"None has a name of one of the layouts {', '.join(present)}"
    spelled = (start if isinstance(start, str) else " or ".join(start) for start in lacking[nearest])
    return f"The nearest layout, {nearest}, also needs names that begin with: {', '.join(spelled)}"


def _starts_anywhere(names: list[str], start: str | tuple[str, ...]) -> bool:
    """Whether `start`, or one of several, begins a name or one of its parts."""
    starts = (start,) if isinstance(start, str) else start
    return any(f".{one}" in f".{name}" for name in names for one in starts)


def _told_by_shapes(
    fitting: list[tuple[str, PublishedNet]], state: Mapping[str, Any]
) -> list[tuple[str, PublishedNet]]:
    """Returns the matches whose shapes tell their layout; if there are none, those that names alone tell."""
    inner = lambda prefix: {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}  # noqa: E731
    certain = [(prefix, row) for prefix, row in fitting if row.told_by is not None and row.told_by(inner(prefix))]
    return certain or [(prefix, row) for prefix, row in fitting if row.told_by is None]


def _refuse_unread(names: list[str], *, fits: bool) -> None:
    for net in UNREAD:
        if fits and net.partly_read:
            continue
        if sign := net.sign_in(names):
            what = f"this looks like {net.name}"
            raise ValueError(
                f"{what}: {net.instead} ({sign})" if net.instead else f"{what}, which is not read ({sign})"
            )
