"""The losses of an R-CNN: its proposals, the boxes of sampled regions, and their joints.

Ren et al. 2015, He et al. 2017. Anchors and proposals are matched with the labelled boxes, a fixed number of each is sampled, and the
losses are means over the sample; how each code base normalises them is `variant` (QUIRK E10). For joints with RLE, the frame is the
region whose features are read: u = (x - x1) / (x2 - x1) - 1/2, and the loss is a mean over the labelled joints inside, as that of the
maps; Li 2021 (table 2 c) leaves both open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import losses
from jaxpose.detection import boxes, matching
from jaxpose.nets.rcnn import BOX_CELLS, BOX_WEIGHTS, RCNN
from jaxpose.tasks.base import Batch, check_choices, check_positive, later
from jaxpose.tasks.regression import Likelihood, per_joint_loss

Priority = Callable[[str, int], jax.Array]


@dataclass(frozen=True)
class RegionLoss:
    """Settings of the training of an R-CNN; the defaults are those of both code bases, at 2 images per device.

    Attributes:
        pre_nms: number of proposals of each level before their suppression.
        post_nms: number of proposals; Detectron2's keypoint configuration has 1500.
        anchors: number of sampled anchors of an image, at most half of them positive.
        regions: number of sampled regions of an image.
        foreground: the largest share of positives among the regions.
        proposal_high: IoU from which an anchor is positive.
        proposal_low: IoU below which an anchor is negative.
        region_iou: IoU from which a region is positive; below it, it is background.
        freeze_at: number of parts of the backbone that are not trained: 2 are the stem and the first stage.
        joints: the factor of the loss of the joints.
        outside: labelled joints outside their region, for coordinates: "mask" leaves them out, as maps must, "keep" trains on them.
        remat: if True, the head for joints is computed again in the gradient, whose activations otherwise are the largest part of the
            memory; the values are the same.
    """

    pre_nms: int = 2000
    post_nms: int = 2000
    anchors: int = 256
    regions: int = 512
    foreground: float = 0.25
    proposal_high: float = 0.7
    proposal_low: float = 0.3
    region_iou: float = 0.5
    freeze_at: int = 2
    joints: float = 1.0
    outside: Literal["mask", "keep"] = later("mask")
    remat: bool = later(False)

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "pre_nms", "post_nms", "anchors", "regions")
        if not 0 < self.foreground <= 1 or not 0 <= self.proposal_low <= self.proposal_high <= 1:
            raise ValueError(
                f"foreground={self.foreground}, proposal_low={self.proposal_low}, proposal_high={self.proposal_high}: expected "
                "shares in 0..1, the thresholds in order"
            )
        if not 0 <= self.freeze_at <= 5 or not self.joints >= 0:
            raise ValueError(f"freeze_at={self.freeze_at}, joints={self.joints}: expected 0 to 5, and 0 or more")

    @property
    def most_positive(self) -> int:
        """The largest number of positive regions of an image."""
        return max(1, int(self.regions * self.foreground))


def region_losses(
    module: RCNN,
    images: jax.Array,
    batch: Batch,
    *,
    settings: RegionLoss,
    priority: Priority,
    likelihood: Likelihood | None = None,
    flow: Callable[..., Any] | None = None,
) -> dict[str, jax.Array]:
    """Returns the losses of normalised images; called with `net.apply(..., method=region_losses)`.

    Args:
        module: the net, bound.
        images: (B, H, W, 3), normalised, with zeros as padding.
        batch: "size_hw" (B, 2); "boxes" (B, G, 4) xyxy and "people" (B, G) bool, the rows that exist; "labels" (B, G), for
            more classes than persons; with joints "keypoints" (B, G, K, 3).
        settings: the matching and the sampling.
        priority: function (what, N) -> (B, N) in [0, 1), by which anchors ("anchors") and regions ("regions") are sampled.
        likelihood: the loss of coordinates.
        flow: its bound flow.

    Returns:
        "proposal_score", "proposal_box", "class", "box" and, with joints, "joints".
    """
    size_hw, truth, people = batch["size_hw"], batch["boxes"], batch["people"]
    levels = module.features(images, train=True)
    logits, deltas = module.rpn(levels)
    of_proposals = _proposal_losses(module, logits, deltas, images.shape[1:3], truth, people, settings, priority)
    detached = jax.lax.stop_gradient((logits, deltas))
    proposals = module.propose(
        *detached, images.shape[1:3], size_hw, pre_nms=settings.pre_nms, post_nms=settings.post_nms
    )
    regions = sample_regions(proposals, truth, people, settings=settings, priority=priority)
    of_boxes = _box_losses(module, levels, regions, batch, settings)
    total = of_proposals | of_boxes
    if module.num_joints:
        total["joints"] = _joint_loss(module, levels, regions, batch, settings, likelihood, flow)
    return total


def _proposal_losses(module, logits, deltas, padded_hw, truth, people, settings, priority) -> dict[str, jax.Array]:
    anchors = module.anchors(padded_hw)
    logits, deltas = jnp.concatenate(logits, 1), jnp.concatenate(deltas, 1)
    overlap = boxes.iou(truth.astype(jnp.float32), anchors)  # in float32, because ties decide (QUIRK E24)
    match = matching.assign(
        overlap, high=settings.proposal_high, low=settings.proposal_low, low_quality=True, where=people
    )
    positive, negative = matching.sample(
        match >= 0, match == matching.BELOW, priority=priority("anchors", match.shape[1]), size=settings.anchors,
        most_positive=settings.anchors // 2,
    )  # fmt: skip
    matched = jnp.take_along_axis(truth, jnp.maximum(match, 0)[..., None], 1)
    target = boxes.encode(_where(positive, matched, anchors), jnp.broadcast_to(anchors, matched.shape))
    sampled = positive | negative
    score = jnp.maximum(logits, 0) - logits * positive + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    torchvision = module.variant == "torchvision"
    count = jnp.maximum(sampled.sum(), 1) if torchvision else settings.anchors * len(logits)
    distance = smooth_l1(deltas - target, beta=1 / 9 if torchvision else 0.0)
    return {
        "proposal_score": jnp.where(sampled, score, 0).sum() / count,
        "proposal_box": jnp.where(positive[..., None], distance, 0).sum() / count,
    }


def sample_regions(
    proposals: dict[str, jax.Array], truth: jax.Array, people: jax.Array, *, settings: RegionLoss, priority: Priority
) -> dict[str, jax.Array]:
    """Returns the S regions of every image that are trained on, the positive ones first.

    Labelled boxes are candidates too, as in both code bases.

    Args:
        proposals: "boxes" (B, P, 4) and "valid" (B, P).
        truth: (B, G, 4) labelled boxes, xyxy.
        people: (B, G) bool, the rows that exist.
        settings: the matching and the sampling.
        priority: see `region_losses`.

    Returns:
        "box" (B, S, 4), "match" (B, S) the labelled box of each, "positive" and "valid" (B, S) bool.
    """
    candidates = jnp.concatenate([proposals["boxes"], truth.astype(proposals["boxes"].dtype)], 1)
    exists = jnp.concatenate([proposals["valid"], people], 1)
    match = matching.assign(
        boxes.iou(truth, candidates), high=settings.region_iou, low=settings.region_iou, where=people
    )
    positive, negative = matching.sample(
        (match >= 0) & exists, (match < 0) & exists, priority=priority("regions", match.shape[1]), size=settings.regions,
        most_positive=settings.most_positive,
    )  # fmt: skip
    slots = min(settings.regions, match.shape[1])
    rank, index = jax.lax.top_k(2 * positive.astype(jnp.int32) + negative, slots)
    box = jnp.take_along_axis(candidates, index[..., None], 1)
    unit = jnp.array([0.0, 0.0, 1.0, 1.0], box.dtype)  # a box of its own for slots that hold nothing
    return {
        "box": jax.lax.stop_gradient(_where(rank > 0, box, unit)),
        "match": jnp.maximum(jnp.take_along_axis(match, index, 1), 0),
        "positive": rank == 2,
        "valid": rank > 0,
    }


def _box_losses(module, levels, regions, batch, settings) -> dict[str, jax.Array]:
    box, positive, valid = (
        regions[name].reshape(-1, *regions[name].shape[2:]) for name in ("box", "positive", "valid")
    )
    features = module.pool(levels, regions["box"], cells=BOX_CELLS)
    logits, deltas = module.box_head(features.reshape(-1, *features.shape[2:]), train=True)
    torchvision = module.variant == "torchvision"
    background = 0 if torchvision else module.num_classes - 1
    label = jnp.full(batch["people"].shape, module.person_label)
    label = jnp.take_along_axis(batch.get("labels", label), regions["match"], 1).ravel()
    label = jnp.where(positive, label, background)
    matched = jnp.take_along_axis(batch["boxes"], regions["match"][..., None], 1).reshape(-1, 4)
    target = boxes.encode(_where(positive, matched.astype(box.dtype), box), box, weights=BOX_WEIGHTS)
    options = {"label": label, "target": target, "positive": positive, "where": valid}
    return class_and_box(logits, deltas, **options, beta=1 / 9 if torchvision else 0.5)


def class_and_box(
    logits: jax.Array,
    deltas: jax.Array,
    *,
    label: jax.Array,
    target: jax.Array,
    positive: jax.Array,
    where: jax.Array,
    beta: float,
) -> dict[str, jax.Array]:
    """Returns the losses of R sampled regions, both divided by the number of regions.

    Args:
        logits: (R, n) of the classes.
        deltas: (R, n, 4) offsets of the box of each class; without the background, of a net that has none.
        label: (R,) class of each region, that of the background where it is not positive.
        target: (R, 4) offsets of the labelled box of each positive region.
        positive: (R,) bool.
        where: (R,) bool, the rows that hold a region.
        beta: the bound of the smooth L1.

    >>> rows = {"label": jnp.array([1]), "target": jnp.zeros((1, 4)), "positive": jnp.array([True]), "where": jnp.array([True])}
    >>> values = class_and_box(jnp.zeros((1, 2)), jnp.ones((1, 2, 4)), **rows, beta=0.0)
    >>> {name: round(float(value), 3) for name, value in values.items()}
    {'class': 0.693, 'box': 4.0}
    """
    count = jnp.maximum(where.sum(), 1)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1)[:, 0]
    row = jnp.where(positive, label, 0)
    delta = jnp.take_along_axis(deltas, row[:, None, None], 1)[:, 0]
    distance = smooth_l1(delta - target, beta=beta)
    return {
        "class": jnp.where(where, entropy, 0).sum() / count,
        "box": jnp.where(positive[:, None], distance, 0).sum() / count,
    }


def _joint_loss(module, levels, regions, batch, settings, likelihood, flow) -> jax.Array:
    most = min(settings.most_positive, regions["box"].shape[1])  # positives come first
    box, match, positive = (regions[name][:, :most] for name in ("box", "match", "positive"))
    features = module.pool(levels, box, cells=module.joint_cells)
    outputs = _keypoint_head(settings)(module, features.reshape(-1, *features.shape[2:]))
    keypoints = jnp.take_along_axis(batch["keypoints"], match[..., None, None], 1)
    keypoints, box, positive = keypoints.reshape(-1, *keypoints.shape[2:]), box.reshape(-1, 4), positive.ravel()
    cell, inside = matching.keypoint_targets(keypoints, box, size=4 * module.joint_cells)
    where = inside & positive[:, None]
    if module.keypoint_output == "rle":
        if settings.outside == "keep":
            where = (keypoints[..., 2] > 0) & positive[:, None]
        return coordinate_loss(outputs, keypoints, box, where=where, likelihood=likelihood, flow=flow)
    maps = jnp.moveaxis(outputs, -1, 1).reshape(len(outputs), module.num_joints, -1)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(maps), cell[..., None], -1)[..., 0]
    return losses.mean(entropy, where=where)


def _keypoint_head(settings: RegionLoss) -> Callable[[RCNN, jax.Array], jax.Array]:
    """Returns the head for joints as a function of the net and of regions; with `settings.remat` it keeps its inputs alone."""

    def head(module: RCNN, regions: jax.Array) -> jax.Array:
        return module.keypoint_head(regions)

    return nn.remat(head) if settings.remat else head


def coordinate_loss(
    outputs: jax.Array,
    keypoints: jax.Array,
    box: jax.Array,
    *,
    where: jax.Array,
    likelihood: Likelihood,
    flow: Callable[..., Any] | None = None,
) -> jax.Array:
    """Returns the mean loss of the joints of R regions, in the frame of each region.

    Args:
        outputs: (R, K, 4): x, y and the raw sigmas, those of `jaxpose.nets.rcnn.KeypointHead`.
        keypoints: (R, K, 3): labelled joints, in pixels.
        box: (R, 4) xyxy of the regions.
        where: (R, K) bool, the joints that count.
        likelihood: the loss.
        flow: its bound flow.

    >>> likelihood = Likelihood(loss="l1")
    >>> box, joints = jnp.array([[0.0, 0.0, 10.0, 20.0]]), jnp.array([[[10.0, 10.0, 2.0]]])
    >>> float(coordinate_loss(jnp.zeros((1, 1, 4)), joints, box, where=jnp.array([[True]]), likelihood=likelihood))
    0.5
    """
    low, size = box[:, None, :2], (box[:, 2:] - box[:, :2])[:, None]
    target = _where(where, (keypoints[..., :2] - low) / size - 0.5, 0.0)
    mu, sigma = outputs[..., :2], jax.nn.sigmoid(outputs[..., 2:])
    return losses.mean(per_joint_loss(likelihood, mu, sigma, target, flow=flow, where=where), where=where)


def smooth_l1(difference: jax.Array, *, beta: float) -> jax.Array:
    """Returns Girshick's smooth L1: quadratic below `beta`, linear above; beta 0 is L1 itself.

    >>> smooth_l1(jnp.array([0.5, 2.0]), beta=1.0).tolist(), smooth_l1(jnp.array([-2.0]), beta=0.0).tolist()
    ([0.125, 1.5], [2.0])
    """
    size = jnp.abs(difference)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)


def trainable(params: dict[str, Any], *, freeze_at: int, train_bn: bool) -> dict[str, Any]:
    """Returns the parameters of a net without gradients where the backbone is frozen.

    Args:
        params: those of an `RCNN`.
        freeze_at: number of parts of the backbone that are not trained, the stem first.
        train_bn: if False, no BatchNorm of the backbone is trained.
    """
    frozen = is_frozen(params["backbone"], freeze_at=freeze_at, train_bn=train_bn)
    stopped = jax.tree.map(
        lambda value, stop: jax.lax.stop_gradient(value) if stop else value, params["backbone"], frozen
    )
    return params | {"backbone": stopped}


def is_frozen(backbone: dict[str, Any], *, freeze_at: int, train_bn: bool) -> dict[str, Any]:
    """Returns which parameters of a ResNet are not trained; see `trainable`.

    >>> is_frozen({"conv1": 0, "bn1": 0, "layer1_0": 0, "layer2_0": {"conv1": 0, "bn1": 0}}, freeze_at=2, train_bn=False)
    {'bn1': True, 'conv1': True, 'layer1_0': True, 'layer2_0': {'bn1': True, 'conv1': False}}
    """
    parts = ("conv1", "bn1"), *((f"layer{i}_",) for i in range(1, 5))
    frozen = tuple(name for part in parts[:freeze_at] for name in part)

    def leaf(path: tuple, value: Any) -> bool:
        names = [entry.key for entry in path]
        is_norm = any(name.startswith("bn") or name == "downsample_bn" for name in names)
        return names[0].startswith(frozen) or (is_norm and not train_bn)

    return jax.tree_util.tree_map_with_path(leaf, backbone)


def _where(mask: jax.Array, values: jax.Array, other: Any) -> jax.Array:
    """Returns values (..., N) where the mask (...) holds, and `other` elsewhere, before any arithmetic."""
    return jnp.where(mask[..., None], values, other)
