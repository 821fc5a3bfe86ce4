"""Matches predictions with labels: anchors and proposals with boxes, joints with the cells of a region's map, and sampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp

BELOW = -1
BETWEEN = -2


def assign(
    iou: jax.Array, *, high: float, low: float, low_quality: bool = False, where: jax.Array | None = None
) -> jax.Array:
    """Returns the labelled box that each anchor or proposal is matched with.

    It is the box of the largest IoU, the first of equals. With `low_quality` an anchor that attains the largest IoU of any labelled
    box, ties included, is matched too, with its own best box (QUIRK E15). The ties depend on the rounding of the IoU: the
    code bases compute it in float32, so this function compares the values that it is given and computes none (QUIRK E24).

    Args:
        iou: (..., G, A) of G labelled boxes with A anchors, from `boxes.iou`.
        high: The IoU from which on an anchor is matched.
        low: The IoU below which an anchor is background; those between are neither.
        low_quality: Match the best anchors of every labelled box, however low their IoU.
        where: (..., G) bool, the labelled boxes that exist; None: all. Without any, every anchor is background.

    Returns:
        (..., A) int32: the index of the labelled box; BELOW (-1) for background, BETWEEN (-2) for anchors that are neither.

    Raises:
        ValueError: The thresholds are not in order, or the shapes do not fit.

    >>> assign(jnp.array([[0.1, 0.4, 0.8], [0.0, 0.3, 0.2]]), high=0.7, low=0.35).tolist()
    [-1, -2, 0]
    >>> assign(jnp.array([[0.1, 0.4, 0.8], [0.0, 0.3, 0.2]]), high=0.7, low=0.35, low_quality=True).tolist()
    [-1, 0, 0]
    """
    if not low <= high:
        raise ValueError(f"low={low}, high={high}: expected low <= high")
    iou = jnp.asarray(iou)
    if iou.ndim < 2:
        raise ValueError(f"iou has shape {iou.shape}: expected (..., G, A)")
    if where is not None and jnp.shape(where) != iou.shape[:-1]:
        raise ValueError(f"where has shape {jnp.shape(where)}, iou {iou.shape}: expected {iou.shape[:-1]}")
    if iou.shape[-2] == 0:
        return jnp.full((*iou.shape[:-2], iou.shape[-1]), BELOW, jnp.int32)
    if where is not None:
        iou = jnp.where(where[..., None], iou, -1.0)
    best = iou.max(-2)
    index = iou.argmax(-2).astype(jnp.int32)
    match = jnp.where(best < low, BELOW, jnp.where(best < high, BETWEEN, index))
    if not low_quality:
        return match
    attains = (iou == iou.max(-1, keepdims=True)) & (iou >= 0)
    return jnp.where(attains.any(-2), index, match)


def sample(
    positive: jax.Array, negative: jax.Array, *, priority: jax.Array, size: int, most_positive: int
) -> tuple[jax.Array, jax.Array]:
    """Chooses entries for a loss: positives up to a share of the sample, and negatives up to its size.

    Args:
        positive: (..., N) bool.
        negative: (..., N) bool.
        priority: (..., N) in [0, 1): entries with the largest are taken. Uniform random numbers draw the sample; a test passes
            numbers that fall.
        size: The size of the sample.
        most_positive: The largest number of positives.

    Returns:
        sampled_positive: (..., N) bool.
        sampled_negative: (..., N) bool.

    Raises:
        ValueError: The shapes differ, or most_positive is not in 0..size.

    >>> positive, negative = jnp.array([True, True, False, False]), jnp.array([False, False, True, True])
    >>> priority = jnp.array([0.9, 0.8, 0.7, 0.6])
    >>> [each.tolist() for each in sample(positive, negative, priority=priority, size=2, most_positive=1)]
    [[True, False, False, False], [False, False, True, False]]
    """
    if not positive.shape == negative.shape == priority.shape:
        raise ValueError(
            f"positive has shape {positive.shape}, negative {negative.shape}, priority {priority.shape}: expected the same"
        )
    if not 0 <= most_positive <= size:
        raise ValueError(f"most_positive={most_positive}, size={size}: expected 0 <= most_positive <= size")
    positives = _rank(positive, priority) < most_positive
    count = jnp.minimum(positive.sum(-1, keepdims=True), most_positive)
    negatives = _rank(negative, priority) < size - count
    return positive & positives, negative & negatives


def _rank(where: jax.Array, priority: jax.Array) -> jax.Array:
    """Returns the position of every entry by falling priority, those of the mask first."""
    order = jnp.argsort(jnp.where(where, -priority, jnp.inf), stable=True)
    return jnp.argsort(order, stable=True)


def keypoint_targets(keypoints: jax.Array, boxes: jax.Array, *, size: int = 56) -> tuple[jax.Array, jax.Array]:
    """Returns the cell of its region's map that holds each joint: the class of a cross-entropy.

    He et al. 2017 (Mask R-CNN), section 5, as both code bases compute it: floor((x - x1) size / width), and a joint exactly on the
    right or lower border is in the last cell (QUIRK E13).

    Args:
        keypoints: (..., R, K, 3): x, y, px, and visibility; labelled if positive.
        boxes: (..., R, 4) xyxy, px, the regions.
        size: The rows and columns of the map.

    Returns:
        cell: (..., R, K) int32, y * size + x; 0 where it is not valid.
        valid: (..., R, K) bool, the labelled joints inside their region.

    Raises:
        ValueError: The shapes do not fit, or size is not positive.

    >>> keypoints = jnp.array([[[10.0, 0.0, 2.0], [5.0, 5.0, 1.0], [5.0, 5.0, 0.0]]])
    >>> cell, valid = keypoint_targets(keypoints, jnp.array([[0.0, 0.0, 10.0, 10.0]]), size=4)
    >>> cell.tolist(), valid.tolist()
    ([[3, 10, 0]], [[True, True, False]])
    """
    keypoints, boxes = jnp.asarray(keypoints), jnp.asarray(boxes)
    if keypoints.shape[-1:] != (3,) or boxes.shape != (*keypoints.shape[:-2], 4):
        raise ValueError(
            f"keypoints {keypoints.shape} and boxes {boxes.shape}: expected (..., R, K, 3) and (..., R, 4)"
        )
    if size < 1:
        raise ValueError(f"size={size}: expected a positive number of cells")
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    xy = keypoints[..., :2]
    extent = high - low
    scale = size / jnp.where(extent > 0, extent, 1.0)
    cell = jnp.floor((xy - low) * scale)
    cell = jnp.where(xy == high, size - 1, cell)
    inside = ((cell >= 0) & (cell < size)).all(-1) & (extent > 0).all(-1)
    valid = inside & (keypoints[..., 2] > 0)
    cell = jnp.where(valid[..., None], cell, 0).astype(jnp.int32)
    return cell[..., 1] * size + cell[..., 0], valid
