"""Boxes: their offsets from anchors, overlap, clipping, and exact greedy non-maximum suppression."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

MOST_ENLARGEMENT = math.log(1000 / 16)
"""Upper bound of the decoded log of a ratio of sizes, in both code bases."""
BLOCK = 1024
"""Boxes that `nms` decides on at a time: its largest array has BLOCK * N entries."""


def encode(
    boxes: jax.Array, anchors: jax.Array, *, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
) -> jax.Array:
    """Returns the offsets of boxes from anchors: shifts of the centre in units of the anchor, and logs of the ratios of sizes.

    Girshick 2014 (Rich feature hierarchies), appendix C, without the "+ 1" of old code. The inverse of `decode`.

    Args:
        boxes: (..., 4) xyxy, px.
        anchors: (..., 4) xyxy, px, of the same shape, with positive sizes.
        weights: Factors of the four offsets; (10, 10, 5, 5) for boxes of regions of interest.

    Returns:
        (..., 4): dx, dy, dw, dh.

    Raises:
        ValueError: The shapes differ, or the last axis is not 4.

    >>> encode(jnp.array([10.0, 0.0, 30.0, 20.0]), jnp.array([0.0, 0.0, 20.0, 20.0])).tolist()
    [0.5, 0.0, 0.0, 0.0]
    """
    boxes, anchors = _float(boxes), _float(anchors)
    _check(boxes, "boxes")
    if boxes.shape != anchors.shape:
        raise ValueError(f"boxes have shape {boxes.shape}, anchors {anchors.shape}: expected the same")
    center, size = _center_and_size(boxes)
    anchor_center, anchor_size = _center_and_size(anchors)
    weight = jnp.asarray(weights, boxes.dtype)
    shift = weight[:2] * (center - anchor_center) / anchor_size
    return jnp.concatenate([shift, weight[2:] * jnp.log(size / anchor_size)], -1)


def decode(
    deltas: jax.Array, anchors: jax.Array, *, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
) -> jax.Array:
    """Returns the boxes that are at these offsets from anchors: the inverse of `encode`.

    A box is at most 1000 / 16 times as wide and as high as its anchor, as in both code bases; nothing bounds it below.

    Args:
        deltas: (..., 4): dx, dy, dw, dh.
        anchors: (..., 4) xyxy, px; its shape may have ones where that of `deltas` has classes, as in (P, n, 4) and (P, 1, 4).
        weights: Factors of the four offsets, those of `encode`.

    Returns:
        (..., 4) xyxy, px.

    Raises:
        ValueError: The numbers of axes differ, or the last axis is not 4.

    >>> decode(jnp.array([0.5, 0.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 20.0, 20.0])).tolist()
    [10.0, 0.0, 30.0, 20.0]
    """
    deltas, anchors = _float(deltas), _float(anchors)
    _check(deltas, "deltas")
    _check(anchors, "anchors")
    if deltas.ndim != anchors.ndim:
        raise ValueError(f"deltas have shape {deltas.shape}, anchors {anchors.shape}: expected as many axes")
    anchor_center, anchor_size = _center_and_size(anchors)
    weight = jnp.asarray(weights, deltas.dtype)
    center = deltas[..., :2] / weight[:2] * anchor_size + anchor_center
    half = 0.5 * jnp.exp(jnp.minimum(deltas[..., 2:] / weight[2:], MOST_ENLARGEMENT)) * anchor_size
    return jnp.concatenate([center - half, center + half], -1)


def area(boxes: jax.Array) -> jax.Array:
    """Returns the areas of boxes; 0 for a box of negative width or height.

    Args:
        boxes: (..., 4) xyxy, px.

    Returns:
        (...,) in square pixels.

    >>> area(jnp.array([[0.0, 0.0, 2.0, 3.0], [5.0, 5.0, 4.0, 6.0]])).tolist()
    [6.0, 0.0]
    """
    boxes = _float(boxes)
    _check(boxes, "boxes")
    return jnp.prod(jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), -1)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the intersection over union of every box of `a` with every box of `b`.

    Two boxes without area have 0 (torchvision: NaN).

    Args:
        a: (..., N, 4) xyxy, px.
        b: (..., M, 4) xyxy, px.

    Returns:
        (..., N, M) in 0..1.

    Raises:
        ValueError: The last axis is not 4, or there is only one axis.

    >>> iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]])).round(4).tolist()
    [[0.33329999446868896, 0.0]]
    """
    a, b = _float(a), _float(b)
    _check(a, "a", axes=2)
    _check(b, "b", axes=2)
    # Coordinate by coordinate: an axis of two would keep XLA from one pass over the N x M array.
    x1, y1, x2, y2 = (a[..., :, None, i] for i in range(4))
    u1, v1, u2, v2 = (b[..., None, :, i] for i in range(4))
    width = jnp.maximum(jnp.minimum(x2, u2) - jnp.maximum(x1, u1), 0.0)
    height = jnp.maximum(jnp.minimum(y2, v2) - jnp.maximum(y1, v1), 0.0)
    intersection = width * height
    union = area(a)[..., :, None] + area(b)[..., None, :] - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1.0), 0.0)


def clip(boxes: jax.Array, size_hw: jax.Array | tuple[float, float]) -> jax.Array:
    """Returns boxes without their parts outside the image.

    Args:
        boxes: (..., 4) xyxy, px.
        size_hw: (2,) height and width, px; or (..., 2), with the leading axes of `boxes` (ones where it has more).

    Returns:
        (..., 4) xyxy, px.

    Raises:
        ValueError: The last axis is not 4, or that of `size_hw` not 2.

    >>> clip(jnp.array([-5.0, 2.0, 30.0, 8.0]), (10, 20)).tolist()
    [0.0, 2.0, 20.0, 8.0]
    """
    boxes = _float(boxes)
    _check(boxes, "boxes")
    size = jnp.asarray(size_hw, boxes.dtype)
    if size.shape[-1:] != (2,):
        raise ValueError(f"size_hw has shape {size.shape}: expected (..., 2), height and width")
    size_wh = size[..., ::-1]
    return jnp.clip(boxes, 0.0, jnp.concatenate([size_wh, size_wh], -1))


@partial(jax.jit, static_argnames=("threshold",))
def nms(
    boxes: jax.Array,
    scores: jax.Array,
    *,
    threshold: float,
    groups: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Returns which boxes greedy non-maximum suppression keeps.

    Exactly the set of the greedy loop: boxes in the order of falling scores, the first of equal scores first; a box goes if a box
    that stays and comes before it overlaps it by more than the threshold (an IoU equal to the threshold stays, as in
    torchvision and Detectron2).

    The boxes are decided in sorted blocks. In a block, `keep[j] = not any(keep[i] and i suppresses j, i < j)` is applied until
    nothing changes, 4 to 6 times for crowded boxes: after each round the first box that was undecided is final, so
    that the fixed point is the greedy set.

    Args:
        boxes: (..., N, 4) xyxy, px.
        scores: (..., N).
        threshold: The IoU above which the box with the lower score goes; a Python number.
        groups: (..., N) integers; boxes of different groups (levels, classes) do not suppress each other. None: one group.
        where: (..., N) bool; masked boxes are not kept and suppress none, whatever their values. None: all count.

    Returns:
        keep: (..., N) bool.

    Raises:
        ValueError: The shapes do not fit.

    >>> boxes = jnp.array([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    >>> nms(boxes, jnp.array([0.8, 0.9, 0.5]), threshold=0.5).tolist()
    [False, True, True]
    """
    boxes, scores = _float(boxes), _float(scores)
    _check(boxes, "boxes", axes=2)
    groups = jnp.zeros(scores.shape, jnp.int32) if groups is None else jnp.asarray(groups)
    where = jnp.ones(scores.shape, bool) if where is None else jnp.asarray(where)
    for name, values in (("scores", scores), ("groups", groups), ("where", where)):
        if values.shape != boxes.shape[:-1]:
            raise ValueError(f"{name} have shape {values.shape}, boxes {boxes.shape}: expected {boxes.shape[:-1]}")
    decide = partial(_nms, threshold=_at_most(threshold, boxes.dtype))
    for _ in range(scores.ndim - 1):
        decide = jax.vmap(decide)
    return decide(*jax.lax.stop_gradient((boxes, scores)), groups, where)


def _nms(boxes: jax.Array, scores: jax.Array, groups: jax.Array, where: jax.Array, *, threshold: float) -> jax.Array:
    count = len(scores)
    if count == 0:
        return where
    size = min(BLOCK, count)
    blocks = -(-count // size)
    order = jnp.argsort(jnp.where(where, -scores, jnp.inf), stable=True)
    padding = blocks * size - count
    boxes = jnp.pad(jnp.where(where[:, None], boxes, 0.0)[order], ((0, padding), (0, 0)))
    groups = jnp.pad(groups[order], (0, padding))
    keep = jnp.pad(where[order], (0, padding))
    earlier = jnp.arange(size)[:, None] < jnp.arange(size)

    def decide_block(number: jax.Array, keep: jax.Array) -> jax.Array:
        start = number * size
        box, group = (jax.lax.dynamic_slice_in_dim(rows, start, size) for rows in (boxes, groups))
        candidates = jax.lax.dynamic_slice_in_dim(keep, start, size)
        suppresses = earlier & (group[:, None] == group) & (iou(box, box) > threshold)
        stays = undominated(suppresses, candidates)
        keep = jax.lax.dynamic_update_slice_in_dim(keep, stays, start, 0)
        if blocks == 1:
            return keep
        later = jnp.arange(blocks * size) >= start + size
        overlaps = (group[:, None] == groups) & (iou(box, boxes) > threshold) & stays[:, None]
        return keep & ~(later & overlaps.any(0))

    keep = jax.lax.fori_loop(0, blocks, decide_block, keep) if blocks > 1 else decide_block(0, keep)
    return jnp.zeros(count, bool).at[order].set(keep[:count])


def undominated(suppresses: jax.Array, candidates: jax.Array) -> jax.Array:
    """Returns the entries that stay in greedy suppression, in which an entry goes if one that stays suppresses it.

    `keep[j] = candidate[j] and not any(keep[i] and suppresses[i, j])` is applied until nothing changes. After each round the first
    entry that was undecided is final, so that the fixed point is the greedy set.

    Args:
        suppresses: (N, N) bool, True only for i < j: entries are in the order of falling scores.
        candidates: (N,) bool; others do not stay and suppress none.

    Returns:
        (N,) bool.

    >>> suppresses = jnp.array([[False, True, False], [False, False, True], [False, False, False]])
    >>> undominated(suppresses, jnp.ones(3, bool)).tolist()
    [True, False, True]
    """

    def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        current, _ = state
        new = candidates & ~(suppresses & current[:, None]).any(0)
        return new, (new != current).any()

    return jax.lax.while_loop(lambda state: state[1], again, (candidates, jnp.array(True)))[0]


def _at_most(threshold: float, dtype: jnp.dtype) -> float:
    """Returns the largest number of `dtype` that is not above the threshold, so that comparing is exact."""
    rounded = np.asarray(threshold, dtype)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.asarray(-np.inf, dtype))


def _center_and_size(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def _float(values: jax.Array) -> jax.Array:
    values = jnp.asarray(values)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _check(boxes: jax.Array, name: str, *, axes: int = 1) -> None:
    if boxes.ndim < axes or boxes.shape[-1] != 4:
        expected = "(..., 4)" if axes == 1 else "(..., N, 4)"
        raise ValueError(f"{name} has shape {boxes.shape}: expected {expected}")
