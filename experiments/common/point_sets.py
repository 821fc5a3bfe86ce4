"""Pose anchors for the pages: their flags, the templates that the training data have, and the task.

The templates are not flags: they are the mean poses of the people that a run trains on (`settle`), and the task stores them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.common import families, whole_images
from experiments.common.rules import AnyValue, AtLeast, Fixed, MayChange, Positive
from jaxpose import checkpoint, tasks
from jaxpose.detection import point_sets
from jaxpose.nets import PointSetNet
from jaxpose.skeleton import Skeleton

TAPS = ("nose", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_knee", "right_knee", "left_ankle",
        "right_ankle")  # fmt: skip
HIPS = ("left_hip", "right_hip")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PointSetConfig(whole_images.ImageConfig, families.BackboneConfig):
    """Detection of people in whole images by pose anchors that are moved in two stages."""

    anchor_scale: Annotated[float, Positive, Fixed] = 16.0
    """Size of an anchor in cells of its level: the diagonal of its extent is this number times 8, 16 and 32 pixels."""
    anchors: Annotated[int, Positive, Fixed] = 1
    """Anchors of a cell: the mean poses of the largest of --clusters."""
    clusters: Annotated[int, Positive, Fixed] = 3
    """Clusters of the poses of the training data. The published anchor is the mean of one of three: that of all people is narrow, since
    it averages those who face the camera with those who turn their back."""
    features: Annotated[int, Positive, Fixed] = 256
    """Channels of the feature pyramid and of the head."""
    convs: Annotated[int, AtLeast(0), Fixed] = 4
    """Convolutions of a branch of the head before the features at the joints are read."""
    groups: Annotated[int, Positive, Fixed] = 32
    """Groups of the head's GroupNorm."""
    prior: Annotated[float, Positive, Fixed] = 0.5
    """Score of an untrained anchor; 0.5, that is, no bias, as published."""
    heatmaps: Annotated[bool, AnyValue, Fixed] = True
    """Train heatmaps too, to whose peaks joints may be moved; without them the net is a pure regression."""
    map_features: Annotated[int, Positive, Fixed] = 256
    """Channels of the heatmaps' head."""
    likelihood: Annotated[tasks.Likelihood, AnyValue, Fixed] = tasks.Likelihood("l1")
    """The loss of the joints."""
    training: Annotated[tasks.AnchorLoss, AnyValue, Fixed] = tasks.AnchorLoss()
    """The matching of anchors with people, and the terms of the loss."""
    people: Annotated[tasks.ReadPoses, AnyValue, Fixed] = tasks.ReadPoses()
    """Settings of the prediction of people."""
    templates: Annotated[tyro.conf.Suppress[str], AnyValue, MayChange] = field(default="", compare=False)
    """The anchors as JSON, measured on the training data."""

    def flips(self) -> bool:
        return False  # the published net sees an image once

    def idle(self) -> dict[str, str]:
        flags = super().idle()
        not_here = "a net that is tested with mirrored images, at several scales or with maps that are grouped"
        flags |= dict.fromkeys(("flip_test", "scales", "group_on"), not_here)
        if not self.heatmaps:
            flags |= dict.fromkeys(("map_features", "training.maps", "people.peaks", "people.reach"), "--heatmaps")
        elif self.people.refine == "none":
            flags |= dict.fromkeys(("people.peaks", "people.reach"), "--people.refine heatmap")
        flags |= families.idle_of(self.likelihood)
        if not self.likelihood.learns_sigma:
            flags["people.rescore"] = "a --likelihood.loss that trains sigma"
        return flags


def task(config: PointSetConfig, skeleton: Skeleton) -> tasks.Task:
    """Returns the task of the flags.

    Raises:
        ValueError: the backbone has not the four strides that the pyramid needs, or flags contradict each other.
    """
    if config.backbone == "mobilenet_v2" or config.backbone == "resnet" and config.resnet_stages != 4:
        raise ValueError(
            f"--backbone {config.backbone} --resnet-stages {config.resnet_stages}: pose anchors need maps of strides 8, 16 and 32; "
            "give hrnet, or resnet with 4 stages"
        )
    if config.features % config.groups:
        raise ValueError(
            f"--features {config.features} --groups {config.groups}: expected channels that the groups divide"
        )
    if config.people.refine == "heatmap" and not config.heatmaps:
        raise ValueError("--no-heatmaps: there are no peaks to move joints to; give --people.refine none as well")
    net = PointSetNet(
        families.make_backbone(config), skeleton.num_joints, templates=templates_of(config, skeleton), taps=taps(skeleton),
        scale=config.anchor_scale, features=config.features, convs=config.convs, groups=config.groups,
        sigma=config.likelihood.learns_sigma, heatmaps=config.heatmaps, map_features=config.map_features, prior=config.prior,
        dtype=jnp.dtype(config.dtype),
    )  # fmt: skip
    return tasks.point_sets(
        net, skeleton=skeleton, size_wh=config.size_wh, likelihood=config.likelihood, training=config.training,
        people=config.people, preprocess=config.preprocess,
    )  # fmt: skip


def make(config: PointSetConfig, skeleton: Skeleton) -> tuple[tasks.Task, None]:
    """Returns the task of the flags, and None for the task that comes first."""
    return task(config, skeleton), None


def taps(skeleton: Skeleton) -> tuple[int, ...]:
    """Returns the joints at which features are read: the published nine, or nine of another skeleton, evenly spaced in its order."""
    if set(TAPS) <= set(skeleton.joints):
        return tuple(skeleton.joints.index(name) for name in TAPS)
    count = skeleton.num_joints
    return tuple(int(i) for i in np.linspace(0, count - 1, min(len(TAPS), count)).round())


def templates_of(config: PointSetConfig, skeleton: Skeleton) -> Any:
    """Returns the anchors that `settle` measured; before there are data a column of the joints stands for them."""
    if config.templates:
        return json.loads(config.templates)
    return [[[0.0, y] for y in np.linspace(-0.5, 0.5, skeleton.num_joints)]] * config.anchors


def settle(config: PointSetConfig, kind: Any, make: Callable[[Any, Skeleton], Any]) -> tuple[PointSetConfig, Any]:
    """Measures the anchors on the training data; a run that is resumed keeps its own.

    Args:
        config: the flags.
        kind: the data, an `experiments.common.whole_images.WholeImages`.
        make: unused.

    Raises:
        ValueError: nobody has enough labelled joints for a mean pose.
    """
    if checkpoint.exists(config.out):
        run = checkpoint.read_config(config.out, step="latest").get("run") or {}
        if run.get("templates"):
            config = dataclasses.replace(config, templates=run["templates"])
            return config, dataclasses.replace(kind, config=config)
    kind.check()
    keypoints, skeleton = kind.train.persons["keypoints"], kind.skeleton
    center = [skeleton.joints.index(name) for name in HIPS] if set(HIPS) <= set(skeleton.joints) else []
    if config.anchors > config.clusters:
        raise ValueError(
            f"--anchors {config.anchors} --clusters {config.clusters}: expected at most as many anchors as clusters"
        )
    try:
        measured = point_sets.templates(
            keypoints[..., :2],
            sigmas=skeleton.sigmas,
            where=keypoints[..., 2] > 0,
            count=config.clusters,
            center=center,
        )[: config.anchors]
    except ValueError as error:
        raise ValueError(f"{kind.train.name}: the anchors are mean poses of its people, but {error}") from None
    if len(measured) < config.anchors:
        log.warning(
            "--anchors %d: the training people form %d clusters, so a cell has as many", config.anchors, len(measured)
        )
    if jax.process_index() == 0:
        log.info("%d anchors of a cell: mean poses of %d labelled people", len(measured), len(keypoints))
    config = dataclasses.replace(config, templates=json.dumps(measured.round(4).tolist()))
    return config, dataclasses.replace(kind, config=config)
