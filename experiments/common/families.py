"""Builds tasks from flags, for the pages: the backbone, the regressed coordinates, the heatmap losses, and the initial weights.

A page holds its settings and the published numbers for them; everything that several pages share is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from experiments.common import persons, whole_images
from experiments.common.config import RunConfig
from experiments.common.kinds import PyTree
from experiments.common.rules import (
    AllPositive,
    AnyPath,
    AnyValue,
    AtLeast,
    Fixed,
    MayChange,
    Positive,
    Unsaid,
)
from jaxpose import checkpoint, tasks, weights
from jaxpose.nets import (
    HeatmapNet,
    HigherHRNet,
    HRNet,
    IntegralRegressor,
    MapHead,
    MobileNetV2,
    MultiStageNet,
    PeakRegressor,
    PoseRegressor,
    RegressionHead,
    ResNet,
    Upsampled,
)  # fmt: skip
from jaxpose.skeleton import Skeleton
from jaxpose.weights.layouts import row_of

FLOW_FLAGS = ("flow_layers", "flow_hidden", "flow_init", "flow_ends")  # of a RealNVP


@dataclass(frozen=True)
class BackboneConfig(RunConfig):
    """Settings of every run with a backbone."""

    backbone: Annotated[Literal["resnet", "hrnet", "mobilenet_v2"], AnyValue, Fixed] = "resnet"
    """The net that computes the features."""
    depth: Annotated[Literal[18, 34, 50, 101, 152], AnyValue, Fixed] = 50
    """Depth of the ResNet."""
    resnet_stages: Annotated[Literal[1, 2, 3, 4], AnyValue, Fixed] = 4
    """Stages of the ResNet; each one left out halves its stride of 32, which suits small images."""
    resnet_stem: Annotated[Literal["pooled", "strided"], AnyValue, Fixed, Unsaid("pooled")] = "pooled"
    """Start of the ResNet: a convolution of stride 2 and a max pooling (published), or a convolution of stride 4 alone, which is
    quicker on small images."""
    width: Annotated[int | None, Positive, Fixed] = None
    """Channels of the ResNet's stem (published: 64), of HRNet's finest branch (32 or 48), or of MobileNetV2's stem (32); none:
    64 or 32."""
    dtype: Annotated[Literal["float32", "bfloat16"], AnyValue, Fixed] = "float32"
    """Compute dtype of the net; parameters and losses stay in float32."""
    batch_groups: Annotated[int, Positive, Fixed] = 1
    """Number of groups of the global batch with their own BatchNorm statistics; 1: the whole batch; number of devices: per device."""
    init: Annotated[Path | None, AnyPath, MayChange] = None
    """Source of the backbone's weights: the folder of a run of any experiment here, a PyTorch file (.pth, .safetensors), or, for
    R-CNNs, Detectron2's ImageNet weights (R-50.pkl)."""
    init_layout: Annotated[weights.Layout | None, AnyValue, MayChange] = None
    """Naming of the PyTorch file; none: that of the backbone's ImageNet weights (torchvision, HRNet's authors). Layouts such as
    "simple_baseline_mmpose" take the backbone out of a pose net."""
    kernel_init: Annotated[Literal["he", "narrow"], AnyValue, Fixed, Unsaid("he")] = "he"
    """Initialisation of the convolutions of HRNet, and of the blocks after the backbone of a bottom-up net, without weights from
    --init: He's variance, or N(0, 0.001^2) as in the code of HRNet and HigherHRNet."""
    preprocess: Annotated[
        Literal["imagenet", "rle_official", "rle_official_3d", "simple_baseline"], AnyValue, Fixed
    ] = "imagenet"
    """Image normalisation."""

    def idle(self) -> dict[str, str]:
        flags = super().idle()
        if self.backbone != "resnet":
            flags |= dict.fromkeys(("depth", "resnet_stages", "resnet_stem"), "--backbone resnet")
        if self.backbone != "hrnet":
            flags["kernel_init"] = "--backbone hrnet"
        if self.init is None:
            flags["init_layout"] = "--init"
        return flags


def idle_of(likelihood: tasks.Likelihood) -> dict[str, str]:
    """Returns the flags of a likelihood that its loss does not use, with what they are for; see `RunConfig.idle`.

    >>> idle_of(tasks.Likelihood("dle"))
    {'likelihood.base': '--likelihood.loss rle'}
    """
    flags = {}
    if not likelihood.has_flow:
        flags |= {f"likelihood.{name}": "a --likelihood.loss with a flow" for name in FLOW_FLAGS}
    if likelihood.loss != "rle":
        flags["likelihood.base"] = "--likelihood.loss rle"
    if likelihood.loss not in ("rle", "dle"):
        flags["likelihood.variant"] = "--likelihood.loss rle or dle"
    return flags


@dataclass(frozen=True)
class RegressionConfig(persons.PersonConfig, BackboneConfig):
    """Coordinates regressed with a likelihood."""

    head: Annotated[Literal["normalized", "linear", "integral", "peak"], AnyValue, Fixed] = "normalized"
    """Coordinate head: with the feature's norm divided out (official), one plain linear layer (mmpose), the soft-argmax of
    heatmaps (RLE table 2b), or the peaks of heatmaps that --auxiliary trains (for few labelled images)."""
    sigma_bias: Annotated[float, AnyValue, Fixed] = 0.0
    """Initial bias of sigma's logit."""
    likelihood: Annotated[tasks.Likelihood, AnyValue, Fixed] = tasks.Likelihood()
    """The loss."""
    outside: Annotated[Literal["keep", "mask"], AnyValue, Fixed] = "keep"
    """Labelled joints outside the crop: keep them (official) or mask them (mmpose)."""
    auxiliary: Annotated[tasks.MapLoss, AnyValue, Fixed] = tasks.NO_MAP_LOSS
    """An additional heatmap loss on a parallel head (RLE table 14); kind "none": no such head."""
    deconvs: Annotated[tuple[int, ...] | None, AllPositive, Fixed] = None
    """Channels of the deconvolutions of --head integral and peak, and of the auxiliary head; none: three of 256, or no
    deconvolution for HRNet."""
    skips: Annotated[bool, AnyValue, Fixed, Unsaid(False)] = False
    """With a --head of maps: every deconvolution adds the backbone's map of its resolution, as a U-Net does. For a ResNet with more
    --resnet-stages than --deconvs."""
    beta: Annotated[float, Positive, Fixed] = 1.0
    """Inverse temperature of --head integral."""
    compensate: Annotated[bool, AnyValue, Fixed] = False
    """Compensate the bias of --head integral (Gu 2021)."""

    def idle(self) -> dict[str, str]:
        flags = super().idle()
        if self.head != "integral":
            flags |= dict.fromkeys(("beta", "compensate"), "--head integral")
        if self.head not in ("integral", "peak"):
            flags["skips"] = "a --head of maps"
        if self.auxiliary.kind == "none":
            names = ("weight", "target", "sigma", "radius", "variant")
            flags |= {f"auxiliary.{name}": "--auxiliary.kind" for name in names}
            if self.head not in ("integral", "peak"):
                flags["deconvs"] = "--auxiliary.kind, or a --head of maps"
        return flags | idle_of(self.likelihood)


@dataclass(frozen=True)
class HeatmapConfig(persons.PersonConfig, BackboneConfig):
    """Heatmaps, decoded at their peaks or as an integral."""

    deconvs: Annotated[tuple[int, ...] | None, AllPositive, Fixed] = None
    """Channels of the deconvolutions, each of which doubles the map; none: three of 256, or no deconvolution for HRNet."""
    stages: Annotated[Literal[1, 2, 3, 4], AnyValue, Fixed] = 1
    """Number of stages of Sun 2018's multi-stage net; 1: the plain net."""
    maps: Annotated[tasks.MapLoss, AnyValue, Fixed] = tasks.MapLoss()
    """The loss of the maps."""
    joints: Annotated[tasks.JointLoss, AnyValue, Fixed] = tasks.JointLoss()
    """The loss of the soft-argmax coordinates."""
    read: Annotated[tasks.Readout, AnyValue, Fixed] = tasks.Readout()
    """How coordinates are read from the maps."""
    first_epochs: Annotated[float, AtLeast(0), Fixed] = 0
    """Number of initial epochs with --first in place of the losses above; 0: none."""
    first: Annotated[Literal["maps", "both"], AnyValue, Fixed] = "maps"
    """"maps": the map loss alone, then both losses (I1 to I3); "both": both losses, then the joint loss alone (L_aug)."""

    def idle(self) -> dict[str, str]:
        flags, decode = super().idle(), self.read.decode
        if self.stages > 1:
            flags |= dict.fromkeys(("resnet_stages", "resnet_stem"), "--stages 1")
        if self.joints.kind == "none":
            flags |= {f"joints.{name}": "--joints.kind" for name in ("weight", "variant")}
        if not self.first_epochs:
            flags["first"] = "--first-epochs"
        if self.maps.kind != "bce":
            flags["maps.radius"] = "--maps.kind bce"
        if self.maps.kind != "mse":
            flags["maps.variant"] = "--maps.kind mse"
        if decode not in ("dark", "udp"):
            flags["read.kernel"] = "--read.decode dark or udp"
        if decode != "argmax":
            flags |= {f"read.{name}": "--read.decode argmax" for name in ("border", "shift", "offset")}
        if decode != "soft_argmax" and self.joints.kind == "none":
            flags |= {f"read.{name}": "--read.decode soft_argmax" for name in ("compensate", "floor")}
        return flags


@dataclass(frozen=True)
class BottomUpConfig(whole_images.ImageConfig, BackboneConfig):
    """Detection of people in whole images: heatmaps at two resolutions, tags, and scale maps with scale-adaptive targets."""

    deconvs: Annotated[tuple[int, ...] | None, AllPositive, Fixed] = None
    """Channels of the deconvolutions that bring the backbone's features to stride 4; none: three of 256, or no deconvolution for
    HRNet."""
    dilations: Annotated[tuple[int, ...], AllPositive, Fixed] = (1, 1, 1, 1)
    """Dilation of each basic block at 1/2 of the image (table 7 of Luo 2021: 1 1 2 2, 2 2 2 2)."""
    loss: Annotated[tasks.PeopleLoss, AnyValue, Fixed] = tasks.PeopleLoss()
    """Targets and terms of the loss."""
    people: Annotated[tasks.FindPeople, AnyValue, Fixed] = tasks.FindPeople()
    """Settings of the search for people in the maps."""

    def idle(self) -> dict[str, str]:
        flags = super().idle()
        flags.pop("kernel_init", None)  # of the blocks after any backbone
        if self.loss.targets != "scale_adaptive":
            flags |= {f"loss.{name}": "--loss.targets scale_adaptive" for name in ("order", "exponent", "penalty")}
        if not self.loss.targets.startswith("box"):
            flags["loss.base"] = "--loss.targets box, box_paper or box_official"
        if self.loss.weighting == "none":
            flags["loss.gamma"] = "--loss.weighting adaptive"
        return flags


def make_backbone(config: BackboneConfig) -> nn.Module:
    """Returns the backbone that the flags name."""
    options = {"dtype": jnp.dtype(config.dtype), "batch_groups": config.batch_groups}
    match config.backbone:
        case "resnet":
            return ResNet(
                depth=config.depth, width=config.width or 64, stages=config.resnet_stages, stem=config.resnet_stem, **options
            )  # fmt: skip
        case "hrnet":
            return HRNet(width=config.width or 32, kernel_init=config.kernel_init, **options)
        case "mobilenet_v2":
            return MobileNetV2(width=(config.width or 32) / 32, **options)


def deconvs(config: RegressionConfig | HeatmapConfig | BottomUpConfig) -> tuple[int, ...]:
    """Returns the value of --deconvs, or the published deconvolutions of the backbone."""
    if config.deconvs is None:
        return () if config.backbone == "hrnet" else (256, 256, 256)
    if config.backbone == "hrnet" and config.deconvs:
        raise ValueError(f"--deconvs {config.deconvs} --backbone hrnet: HRNet's maps have stride 4 without any")
    return config.deconvs


def regression_task(config: RegressionConfig, skeleton: Skeleton) -> tasks.Task:
    """Returns the regression task of the flags: net, head, loss and decoding."""
    backbone, joints = make_backbone(config), skeleton.num_joints
    shape = {"deconvs": deconvs(config), "dtype": jnp.dtype(config.dtype), "batch_groups": config.batch_groups}
    if config.head == "integral":
        net = IntegralRegressor(
            map_net(config, backbone, joints, **shape), beta=config.beta, compensate=config.compensate,
            sigma_bias=config.sigma_bias,
        )  # fmt: skip
    elif config.head == "peak":
        if config.auxiliary.kind == "none":
            raise ValueError(
                "--head peak --auxiliary.kind none: no loss would train the maps whose peaks are read; give --auxiliary.kind mse"
            )
        net = PeakRegressor(map_net(config, backbone, joints, **shape), kernel=blur_for(config.auxiliary.sigma),
                            sigma_bias=config.sigma_bias)  # fmt: skip
    else:
        head = RegressionHead(joints, kind=config.head, sigma_bias=config.sigma_bias)
        net = PoseRegressor(backbone, head, maps=MapHead(joints, **shape) if config.auxiliary.kind != "none" else None)
    return tasks.regression(
        net, skeleton=skeleton, size_wh=config.size_wh, likelihood=config.likelihood, preprocess=config.preprocess,
        outside=config.outside, auxiliary=config.auxiliary,
    )  # fmt: skip


def map_net(config: RegressionConfig, backbone: nn.Module, joints: int, **shape: Any) -> HeatmapNet:
    """Returns the net of a --head of maps.

    Raises:
        ValueError: --skips needs a ResNet with more stages than deconvolutions.
    """
    if config.skips and (config.backbone != "resnet" or len(shape["deconvs"]) >= config.resnet_stages):
        raise ValueError(
            f"--skips --backbone {config.backbone} --resnet-stages {config.resnet_stages} --deconvs {shape['deconvs']}: expected a "
            "ResNet with more stages than deconvolutions, since each of them adds the map of a finer stage"
        )
    return HeatmapNet(backbone, joints, skips=config.skips, **shape)


def blur_for(sigma: float) -> int:
    """Returns the odd size of DARK's blur whose sigma, 0.15 k + 0.35 by OpenCV's rule, is nearest to that of the targets.

    It gives the published sizes, 11 for targets of sigma 2 and 17 for 3.

    >>> [blur_for(sigma) for sigma in (1.0, 1.5, 2.0, 3.0)]
    [5, 7, 11, 17]
    """
    size = (sigma - 0.35) / 0.15
    return max(2 * round((size - 1) / 2) + 1, 3)


def regression_tasks(config: RegressionConfig, skeleton: Skeleton) -> tuple[tasks.Task, None]:
    """Returns the task of the flags, and None for the task that comes first."""
    return regression_task(config, skeleton), None


def heatmap_tasks(config: HeatmapConfig, skeleton: Skeleton) -> tuple[tasks.Task, tuple[float, tasks.Task] | None]:
    """Returns the task of the flags, and what comes first: (epochs, task) over the same variables, or None."""
    options = {"dtype": jnp.dtype(config.dtype), "batch_groups": config.batch_groups}
    if config.stages > 1:
        if config.backbone != "resnet":
            raise ValueError(
                f"--stages {config.stages} --backbone {config.backbone}: the multi-stage net is made of a ResNet"
            )
        net = MultiStageNet(skeleton.num_joints, stages=config.stages, depth=config.depth, width=config.width or 64,
                            deconvs=deconvs(config), **options)  # fmt: skip
    else:
        net = HeatmapNet(make_backbone(config), skeleton.num_joints, deconvs=deconvs(config), **options)

    def task(maps: tasks.MapLoss, joints: tasks.JointLoss) -> tasks.Task:
        return tasks.heatmaps(
            net, skeleton=skeleton, size_wh=config.size_wh, maps=maps, joints=joints, read=config.read,
            preprocess=config.preprocess,
        )  # fmt: skip

    return in_phases(config, task)


def in_phases(
    config: HeatmapConfig, task: Callable[[tasks.MapLoss, tasks.JointLoss], tasks.Task]
) -> tuple[tasks.Task, tuple[float, tasks.Task] | None]:
    """Returns the task of the flags, and what comes first, as --first-epochs and --first say.

    Args:
        config: the flags.
        task: function that returns the task with these two losses.
    """
    without_maps = replace(config.maps, kind="none")  # the target still defines how map and input pixels correspond
    if not config.first_epochs:
        ends_at_once = config.first == "both" and "none" not in (config.maps.kind, config.joints.kind)
        return task(without_maps if ends_at_once else config.maps, config.joints), None
    if not 0 < config.first_epochs < config.epochs:
        raise ValueError(f"--first-epochs {config.first_epochs}: expected 0 (none) to below --epochs {config.epochs}")
    if config.maps.kind == "none" or config.joints.kind == "none":
        raise ValueError("--first-epochs needs two losses, --maps.kind and --joints.kind: one of them comes or goes")
    both = task(config.maps, config.joints)
    if config.first == "maps":
        return both, (config.first_epochs, task(config.maps, tasks.JointLoss()))
    return task(without_maps, config.joints), (config.first_epochs, both)


def bottom_up_task(config: BottomUpConfig, skeleton: Skeleton) -> tasks.Task:
    """Returns the task of HigherHRNet on the backbone of the flags."""
    options = {"dtype": jnp.dtype(config.dtype), "batch_groups": config.batch_groups}
    backbone = make_backbone(config)
    if upward := deconvs(config):
        backbone = Upsampled(backbone, upward, **options)
    net = HigherHRNet(
        backbone,
        skeleton.num_joints,
        scale=config.loss.targets == "scale_adaptive",
        dilations=config.dilations,
        kernel_init=config.kernel_init,
        **options,
    )
    return tasks.bottom_up(
        net,
        skeleton=skeleton,
        size_wh=config.size_wh,
        loss=config.loss,
        people=config.people,
        preprocess=config.preprocess,
    )


def bottom_up_tasks(config: BottomUpConfig, skeleton: Skeleton) -> tuple[tasks.Task, None]:
    """Returns the task of the flags, and None for the task that comes first."""
    return bottom_up_task(config, skeleton), None


def from_pretrained(task: tasks.Task, config: BackboneConfig) -> PyTree | None:
    """Returns fresh variables with the backbone of --init (a run of this package, or a PyTorch file); None without --init."""
    if config.init is None:
        return None
    return with_backbone(task, backbone_of(config), config, source=config.init)


def with_backbone(
    task: tasks.Task,
    backbone: Mapping[str, PyTree],
    config: BackboneConfig,
    *,
    source: Path | str,
    variables: PyTree | None = None,
) -> PyTree:
    """Returns fresh variables of a task with these weights in its backbone.

    Args:
        task: the task, whose net has the backbone of `config`.
        backbone: {"params", "batch_stats"} of the backbone.
        config: the flags that describe the backbone; its seed draws the other variables.
        source: origin of the weights, for messages.
        variables: the fresh variables; None: those of `task.init`.

    Raises:
        ValueError: the weights are those of a different backbone.
    """
    variables = jax.device_get(task.init(jax.random.key(config.seed)) if variables is None else variables)
    for collection, tree in (("params", variables["params"]["net"]), ("batch_stats", variables["batch_stats"])):
        place = tree["net"] if "net" in tree else tree  # IntegralRegressor wraps the heatmap net
        if "backbone" not in place:
            graft(place, backbone[collection], source)
            continue
        place = place["backbone"] if "backbone" in place["backbone"] else place  # Upsampled wraps the backbone
        shapes, pretrained_shapes = (jax.tree.map(np.shape, t) for t in (place["backbone"], backbone[collection]))
        if shapes != pretrained_shapes:
            raise ValueError(
                f"{source} is not the {config.backbone} of --depth {config.depth}, --resnet-stages "
                f"{config.resnet_stages} and --width {config.width}: its {collection} differ"
            )
        place["backbone"] = backbone[collection]
    return variables


def graft(stages: dict[str, Any], backbone: Mapping[str, Any], name: Path | str) -> None:
    """Copies a ResNet's weights into the multi-stage net: conv1 to conv3 once, conv4 and conv5 into every stage.

    The first block of a later stage has K more input channels, so its first convolution and its shortcut are not replaced.
    """
    parts = {k: v for k, v in stages.items() if k.startswith("stage")}
    shared = {k for k in stages if k not in parts}
    blocks = {k for k in parts["stage1"] if k.startswith("layer")}
    if shared | blocks != set(backbone):
        raise ValueError(f"--init {name} has {sorted(backbone)}: this net takes {sorted(shared | blocks)} of a ResNet")
    wider = {"conv1", "downsample_conv"}
    for stage, place, names in [("", stages, shared), *((k, v, blocks) for k, v in parts.items())]:
        for block in names:
            target, source = (traverse_util.flatten_dict({block: t[block]}) for t in (place, backbone))
            unchanged = {p for p in target if stage not in ("", "stage1") and p[0] == "layer3_0" and p[1] in wider}
            if target.keys() != source.keys() or any(
                target[p].shape != source[p].shape for p in target.keys() - unchanged
            ):
                raise ValueError(f"--init {name}: its {block} is not that of this net's --depth and --width")
            merged = {p: target[p] if p in unchanged else source[p] for p in target}
            place[block] = traverse_util.unflatten_dict(merged)[block]


def backbone_of(config: BackboneConfig, state: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Returns {"params", "batch_stats"} of the backbone that --init names; `state` holds the file's arrays if they are read already."""
    if config.init.is_dir():
        variables, stored = checkpoint.restore_model(config.init)
        source = tasks.from_config(stored["task"])
        if source.preprocess != config.preprocess:
            raise ValueError(
                f"--init {config.init} was trained with --preprocess {source.preprocess}, this run has "
                f"{config.preprocess}: its backbone would see other colours; give the same one"
            )
        _check_strides(source.net, config)
        params, stats = variables["params"]["net"], variables["batch_stats"]
        for wrapper in ("net", "backbone", "backbone"):  # the last one is that of an `Upsampled` net
            if wrapper in params:
                params, stats = params[wrapper], stats[wrapper]
        return {"params": params, "batch_stats": stats}
    state = weights.load_file(config.init) if state is None else state
    net, variables = weights.from_torch(state, layout=init_layout(config, state))
    _check_strides(net, config)
    return {k: v["backbone"] if "backbone" in v else v for k, v in variables.items()}


def _check_strides(net: Any, config: BackboneConfig) -> None:
    """Raises a ValueError if the ResNet in --init, or that of an R-CNN there, has its strides in another place than this run's."""
    resnet = getattr(net, "backbone", net)
    if getattr(resnet, "stride_in_1x1", False) and getattr(config, "variant", None) != "detectron2":
        raise ValueError(
            f"--init {config.init} holds a ResNet with the stride in the first 1x1 convolution of a block, which this net has in the "
            "3x3 one: give ImageNet weights of torchvision, or take coco_keypoint_rcnn --variant detectron2"
        )


def init_layout(config: BackboneConfig, state: Mapping[str, Any]) -> weights.Layout:
    """Returns the layout of the file in --init: that of --init-layout, Caffe2's for such names, or that of the backbone."""
    if config.init_layout is not None:
        return config.init_layout
    if row_of("resnet_caffe2").fits(list(state)):
        return "resnet_caffe2"
    return {"hrnet": "hrnet_backbone"}.get(config.backbone, config.backbone)
