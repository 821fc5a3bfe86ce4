"""Builds R-CNNs from flags: the net, its task, and the weights that it starts from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments.common import boxed_images, families
from experiments.common.kinds import PyTree
from experiments.common.rules import AnyValue, Between, Fixed, Positive, SomePositive
from jaxpose import checkpoint, nets, tasks, weights
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.detection_loss import RegionLoss

log = logging.getLogger(__name__)
CAFFE2 = "resnet_caffe2"  # the layout of Detectron2's ImageNet weights
RULES = (
    "variant",
    "first_level",
    "anchor_ratios",
)  # attributes of an R-CNN that its weights depend on, besides their shapes


@dataclass(frozen=True)
class RCNNConfig(boxed_images.BoxedImageConfig, families.BackboneConfig):
    """An R-CNN on a feature pyramid, with a head for joints."""

    preprocess: Annotated[Literal["imagenet", "detectron2"], AnyValue, Fixed] = "detectron2"
    """Image normalisation."""
    head: Annotated[Literal["heatmap", "rle"], AnyValue, Fixed] = "heatmap"
    """Joints from maps, as published, or coordinates with the likelihood of RLE."""
    variant: Annotated[Literal["detectron2", "torchvision"], AnyValue, Fixed] = "detectron2"
    """The code base whose rules the net follows."""
    likelihood: Annotated[tasks.Likelihood, AnyValue, Fixed] = tasks.Likelihood()
    """With --head rle: the loss of the joints."""
    regions: Annotated[RegionLoss, AnyValue, Fixed] = RegionLoss(post_nms=1500)
    """Matching and sampling of anchors and of regions."""
    train_bn: Annotated[bool, AnyValue, Fixed] = False
    """Train the backbone's BatchNorm; published nets freeze that of the ImageNet weights."""
    fpn_features: Annotated[int, Positive, Fixed] = 256
    """Channels of the feature pyramid."""
    box_features: Annotated[tuple[int, ...], SomePositive, Fixed] = (1024, 1024)
    """Units of the layers of the box head."""
    keypoint_convs: Annotated[tuple[int, ...], SomePositive, Fixed] = (512,) * 8
    """Channels of the convolutions of the keypoint head."""
    joint_cells: Annotated[int, Positive, Fixed] = 14
    """Rows and columns of a region for the keypoint head; the maps of --head heatmap have four times as many."""
    first_level: Annotated[Literal[2, 3, 4], AnyValue, Fixed] = 2
    """Finest level of the pyramid; 2 has stride 4."""
    anchor_sizes: Annotated[tuple[float, ...], SomePositive, Fixed] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Side of a square anchor of each level, px."""
    anchor_ratios: Annotated[tuple[float, ...], SomePositive, Fixed] = (0.5, 1.0, 2.0)
    """Heights over widths of the anchors."""
    region_size: Annotated[float, Positive, Fixed] = 224.0
    """Side of a box that is read from --region-level, px."""
    region_level: Annotated[int, Between(2, 5, "a level of the pyramid, 2 to 5"), Fixed] = 4
    """See --region-size."""
    pre_nms: Annotated[int, Positive, Fixed] = 1000
    """Number of proposals of a level at test, before their suppression."""
    post_nms: Annotated[int, Positive, Fixed] = 1000
    """Number of proposals at test."""
    slots: Annotated[int, Positive, Fixed] = 100
    """Largest number of people of an image at test; a warning says where there were more."""
    min_score: Annotated[float, Between(0, 1, "a probability, below 1", open_high=True), Fixed] = 0.05
    """Score that a box has to exceed at test."""

    def idle(self) -> dict[str, str]:
        flags = super().idle()
        if self.head != "rle":
            flags |= dict.fromkeys(("likelihood", "regions.outside"), "--head rle")
        else:
            flags |= families.idle_of(self.likelihood)
        if not self.train_bn:
            flags["batch_groups"] = "--train-bn"
        return flags


def rcnn_task(config: RCNNConfig, skeleton: Skeleton) -> tasks.Task:
    """Returns the task of the flags: net, matching, loss of the joints.

    Raises:
        ValueError: the backbone has no pyramid, or the anchors do not fit its levels.
    """
    if config.backbone != "resnet" or config.resnet_stages != 4:
        raise ValueError(
            f"--backbone {config.backbone} --resnet-stages {config.resnet_stages}: the pyramid is made of the four stages of a ResNet"
        )
    levels = 5 - config.first_level + 2  # one more, for proposals alone
    if len(config.anchor_sizes) != levels:
        raise ValueError(
            f"--anchor-sizes {config.anchor_sizes} --first-level {config.first_level}: expected {levels} sizes, one for each level"
        )
    dtype = jnp.dtype(config.dtype)
    backbone = nets.ResNet(
        depth=config.depth, width=config.width or 64, dtype=dtype, batch_groups=config.batch_groups,
        stride_in_1x1=config.variant == "detectron2", stem=config.resnet_stem,
    )  # fmt: skip
    net = nets.RCNN(
        backbone, num_joints=skeleton.num_joints, variant=config.variant, fpn_features=config.fpn_features,
        box_features=config.box_features, keypoint_convs=config.keypoint_convs, keypoint_output=config.head,
        anchor_sizes=config.anchor_sizes, anchor_ratios=config.anchor_ratios, first_level=config.first_level,
        region_size=config.region_size, region_level=config.region_level, pre_nms=config.pre_nms,
        post_nms=config.post_nms, max_detections=config.slots, min_score=config.min_score, train_bn=config.train_bn,
        joint_cells=config.joint_cells, dtype=dtype,
    )  # fmt: skip
    return tasks.detection(
        net, skeleton=skeleton, size_wh=config.size_wh, resize=config.resize(), preprocess=config.preprocess,
        training=config.regions, likelihood=config.likelihood,
    )  # fmt: skip


def rcnn_tasks(config: RCNNConfig, skeleton: Skeleton) -> tuple[tasks.Task, None]:
    """Returns the task of the flags, and None for the task that comes first."""
    return rcnn_task(config, skeleton), None


def from_pretrained(task: tasks.Task, config: RCNNConfig) -> PyTree | None:
    """Returns fresh variables with the weights of --init; None without it.

    Of a run of a detector, or of an imported one, every array of the same name and shape is taken, so that a net with --head rle starts
    from one that was trained with maps in everything but its last layer and its flow. Of anything else the backbone is taken.

    Raises:
        ValueError: the detector has a different backbone, pyramid or rules, or sees other colours; weights of a backbone alone are
            given to a net with the rules of the other code base, whose strides and colours they do not fit.
    """
    if config.init is None:
        if not config.train_bn:
            log.warning(
                "no --init: the backbone starts at random, and its BatchNorm is not trained; give --init or --train-bn"
            )
        return None
    source = None
    if config.init.is_dir():
        variables, stored = checkpoint.restore_model(config.init)
        source = tasks.from_config(stored["task"])
    if not isinstance(source, tasks.Detection):
        # The names in a .pkl tell its strides and colours.
        of_names = config.init.suffix == ".pkl" and not config.init.is_dir()
        state = weights.load_file(config.init) if of_names else None
        _check_backbone(config, state)
        backbone, fresh = families.backbone_of(config, state), _fresh(task, config)
        return families.with_backbone(task, backbone, config, source=config.init, variables=fresh)
    for flag, theirs, ours in (
        ("--preprocess", source.preprocess, task.preprocess),
        *((f"--{name.replace('_', '-')}", getattr(source.net, name), getattr(task.net, name)) for name in RULES),
    ):
        if theirs != ours:
            raise ValueError(
                f"--init {config.init} was trained with {flag} {theirs}, this run has {ours}: give the same one"
            )
    return _with_weights(_fresh(task, config), variables, source=config.init)


def _fresh(task: tasks.Task, config: RCNNConfig) -> PyTree:
    return jax.device_get(jax.jit(task.init)(jax.random.key(config.seed)))  # eagerly, it would also run the net


def _check_backbone(config: RCNNConfig, state: Mapping[str, Any] | None) -> None:
    """Raises a ValueError unless this run has the strides and colours of the backbone in --init; `state`: the arrays of a .pkl."""
    layout, ours = config.init_layout, (config.variant, config.preprocess)
    if layout is None and state is not None:
        layout = families.init_layout(config, state)
        if layout != CAFFE2:
            raise ValueError(
                f"--init {config.init} holds no ResNet with Caffe2's names, as Detectron2's R-50.pkl does: give a detector to jaxpose "
                "import, and its run to --init"
            )
    flags = f"this run has --variant {ours[0]} --preprocess {ours[1]}"
    if layout == CAFFE2 and ours != ("detectron2", "detectron2"):
        raise ValueError(
            f"--init {config.init} holds Detectron2's backbone, which has the stride in the first 1x1 convolution of a block and sees "
            f"blue first, in 0..255 without a deviation; {flags}: give --variant detectron2 --preprocess detectron2"
        )
    if layout != CAFFE2 and ours != ("torchvision", "imagenet"):
        raise ValueError(
            f"--init {config.init} holds a backbone, which has its strides where torchvision has them and sees the colours of "
            f"ImageNet; {flags}: give --variant torchvision --preprocess imagenet, or a run or imported net of the same variant, or "
            "Detectron2's own R-50.pkl"
        )


def _with_weights(fresh: Mapping[str, Any], given: Mapping[str, Any], *, source: Path) -> PyTree:
    """Returns `fresh` with the arrays of `given` that have the same name and shape; the others are logged."""
    ours, theirs = (traverse_util.flatten_dict(dict(tree)) for tree in (fresh, given))
    same = {path for path in ours if path in theirs and np.shape(ours[path]) == np.shape(theirs[path])}
    different = sorted({"/".join(path[:3]) for path in set(ours) - same})
    body = {path for path in ours if {"backbone", "fpn"} & set(path)}
    if not body <= same:
        other = "/".join(min(body - same))
        raise ValueError(
            f"--init {source} has another backbone or pyramid: {other} differs, see --depth, --width, --fpn-features"
        )
    log.info(
        "--init %s gives %d arrays of %d; fresh are %s", source, len(same), len(ours), ", ".join(different) or "none"
    )
    return traverse_util.unflatten_dict({path: theirs[path] if path in same else ours[path] for path in ours})
