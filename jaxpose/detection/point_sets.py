"""Poses as anchors: the arithmetic of PointSet Anchors (Wei et al. 2020, "Point-Set Anchors for Object Detection, Instance
Segmentation and Pose Estimation").

An anchor is a whole pose instead of a box: a template, enlarged, at a cell of a feature map. It is matched with a person by the
object keypoint similarity, and the net predicts an offset for each of its joints. The features that decide about it are read at its
joints, between cells, by `bilinear`. Joints are in index coordinates, where pixel i is at i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.detection import boxes
from jaxpose.detection.matching import BELOW, assign

Extent = Literal["diagonal", "box"]
TINY = float(np.spacing(1.0))  # what pycocotools adds to an area
LARGEST_MATRIX = 2048
"""Cells of a map up to which `bilinear` multiplies it by a matrix of weights."""


def templates(
    xy: np.ndarray,
    *,
    sigmas: Sequence[float],
    where: np.ndarray | None = None,
    count: int = 1,
    center: Sequence[int] = (),
    iterations: int = 20,
) -> np.ndarray:
    """Returns the poses that stand for labelled ones: their mean, or the means of k clusters.

    Every pose is moved so that the middle of its extent (or the mean of the joints `center`) is at the origin, and divided by the
    diagonal of its extent. The clusters are those of k-means with the distance -log OKS, whose square root the published code takes,
    which orders poses alike. The first centre is the mean of all poses, each further one the pose that is farthest from
    those before. The published template is such a mean of COCO's people, stored as numbers; this function takes that of any data.

    Args:
        xy: (N, K, 2) joints, px, y down; on the host.
        sigmas: (K,) the standard deviations of the OKS.
        where: (N, K) bool, the labelled joints. Poses with less than two thirds of the joints that are ever labelled are left out.
        count: The number of templates, k.
        center: Joints whose mean is the origin, such as both hips; they must be labelled for a pose to count.
        iterations: The largest number of rounds of k-means.

    Returns:
        (T, K, 2) float64, with a diagonal of about 1, the largest cluster first; T is smaller than `count` if clusters stay empty.
        A joint that is labelled in no pose is at the origin.

    Raises:
        ValueError: The shapes do not fit, or no pose has enough labelled joints.

    >>> stick = np.array([[[10.0, 0.0], [10.0, 40.0]], [[0.0, 0.0], [0.0, 80.0]]])
    >>> templates(stick, sigmas=(0.1, 0.1)).tolist()
    [[[0.0, -0.5], [0.0, 0.5]]]
    """
    xy, sigmas = np.asarray(xy, np.float64), np.asarray(sigmas, np.float64)
    where = np.isfinite(xy).all(-1) if where is None else np.asarray(where, bool)
    if xy.ndim != 3 or xy.shape[-1] != 2 or where.shape != xy.shape[:2] or sigmas.shape != xy.shape[1:2]:
        raise ValueError(
            f"xy {xy.shape}, where {where.shape}, sigmas {sigmas.shape}: expected (N, K, 2), (N, K) and (K,)"
        )
    if count < 1 or iterations < 1:
        raise ValueError(f"count={count}, iterations={iterations}: expected positive numbers")
    unit, where = _normalised(xy, where, list(center))
    if not len(unit):
        raise ValueError(
            f"none of the {len(xy)} poses has two thirds of the labelled joints, an extent, and its centre: there is no mean pose"
        )
    means = _mean(unit, where)[None]
    while len(means) < min(count, len(unit)):
        farthest = _distance(unit, means, where, sigmas).min(1).argmax()
        means = np.concatenate([means, np.where(where[farthest, :, None], unit[farthest], means[0])[None]])
    nearest = np.full(len(unit), -1)
    for _ in range(iterations):
        before, nearest = nearest, _distance(unit, means, where, sigmas).argmin(1)
        if (nearest == before).all():
            break
        means = np.stack([
            np.where(where[nearest == i].any(0)[:, None], _mean(unit[nearest == i], where[nearest == i]), old)
            if (nearest == i).any() else old for i, old in enumerate(means)
        ])  # fmt: skip
    sizes = np.bincount(nearest, minlength=len(means))
    order = np.argsort(-sizes, kind="stable")
    return means[order[sizes[order] > 0]]


def _normalised(xy: np.ndarray, where: np.ndarray, center: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the poses that count, centred and of diagonal 1, and their labelled joints."""
    enough = where.sum(1) >= max(2 * where.any(0).sum() / 3, 2)
    enough &= where[:, center].all(1)
    xy, where = xy[enough], where[enough]
    low = np.where(where[..., None], xy, np.inf).min(1, initial=np.inf)
    high = np.where(where[..., None], xy, -np.inf).max(1, initial=-np.inf)
    diagonal = np.hypot(*(high - low).T)
    origin = xy[:, center].mean(1) if center else (low + high) / 2
    has_extent = diagonal > 0
    unit = (xy - origin[:, None])[has_extent] / diagonal[has_extent, None, None]
    return np.where(where[has_extent, :, None], unit, 0.0), where[has_extent]


def _mean(xy: np.ndarray, where: np.ndarray) -> np.ndarray:
    return (xy * where[..., None]).sum(0) / np.maximum(where.sum(0), 1)[:, None]


def _distance(xy: np.ndarray, means: np.ndarray, where: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Returns -log OKS of poses (N, K, 2) of diagonal 1 with means (T, K, 2): (N, T)."""
    squared = np.square(xy[:, None] - means).sum(-1)
    similarity = np.exp(-squared / (8 * np.square(sigmas))) * where[:, None]
    return -np.log(np.maximum(similarity.sum(-1) / where.sum(-1)[:, None], 1e-300))


def pyramid(
    templates: jax.Array,
    *,
    maps_hw: Sequence[tuple[int, int]],
    strides: Sequence[float],
    scale: float = 16.0,
    rounded: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Returns the anchors of every cell of a feature pyramid: the templates, enlarged, at the centre of the cell.

    A cell of stride s begins at cell * s, and its centre is (s - 1) / 2 further. The published code rounds the enlarged template
    with that shift to whole pixels.

    Args:
        templates: (T, K, 2) poses about the origin, of about unit size.
        maps_hw: The rows and columns of every level.
        strides: Pixels per cell of every level.
        scale: The size of an anchor in cells: that in pixels is scale * stride.
        rounded: Round joints to whole pixels, as the published code does.

    Returns:
        anchors: (A, K, 2) px, in the order level, row, column, template.
        scale: (A,) the size of each anchor, px, which is the unit of its offsets.

    Raises:
        ValueError: The shapes do not fit.

    >>> anchors, scale = pyramid(jnp.array([[[0.0, -0.5], [0.0, 0.5]]]), maps_hw=[(1, 2)], strides=[8])
    >>> anchors.tolist(), scale.tolist()
    ([[[4.0, -60.0], [4.0, 68.0]], [[12.0, -60.0], [12.0, 68.0]]], [128.0, 128.0])
    """
    templates = _float(templates)
    if templates.ndim != 3 or templates.shape[-1] != 2 or len(maps_hw) != len(strides):
        raise ValueError(
            f"templates {templates.shape}, {len(maps_hw)} maps, {len(strides)} strides: expected (T, K, 2), and as many maps as strides"
        )
    levels, scales = [], []
    for (height, width), stride in zip(maps_hw, strides, strict=True):
        at_cell = templates * (scale * stride) + (stride - 1) / 2
        at_cell = jnp.round(at_cell) if rounded else at_cell
        y, x = jnp.meshgrid(jnp.arange(height) * stride, jnp.arange(width) * stride, indexing="ij")
        corner = jnp.stack([x, y], -1).reshape(-1, 1, 1, 2).astype(templates.dtype)
        levels.append((corner + at_cell).reshape(-1, *templates.shape[1:]))
        scales.append(jnp.full(len(levels[-1]), scale * stride, templates.dtype))
    return jnp.concatenate(levels), jnp.concatenate(scales)


def extent(xy: jax.Array, *, where: jax.Array | None = None, kind: Extent = "diagonal") -> jax.Array:
    """Returns the area that stands for the size of a pose in its OKS.

    Args:
        xy: (..., K, 2) px.
        where: (..., K) bool, the joints that count; None: all. Without any the area is 0.
        kind: "diagonal": w^2 + h^2 of the extent of the joints, which the published assignment takes; "box": w * h, which its
            suppression takes (QUIRK E18).

    Returns:
        (...,) square pixels.

    >>> extent(jnp.array([[0.0, 0.0], [3.0, 4.0]])).item(), extent(jnp.array([[0.0, 0.0], [3.0, 4.0]]), kind="box").item()
    (25.0, 12.0)
    """
    if kind not in ("diagonal", "box"):
        raise ValueError(f"kind={kind!r}: expected 'diagonal' or 'box'")
    xy = _float(xy)
    where = jnp.ones(xy.shape[:-1], bool) if where is None else jnp.asarray(where)
    low = jnp.where(where[..., None], xy, jnp.inf).min(-2)
    high = jnp.where(where[..., None], xy, -jnp.inf).max(-2)
    size = jnp.where(where.any(-1)[..., None], high - low, 0.0)
    return jnp.square(size).sum(-1) if kind == "diagonal" else size.prod(-1)


def oks(
    target: jax.Array,
    xy: jax.Array,
    *,
    sigmas: Sequence[float],
    where: jax.Array | None = None,
    kind: Extent = "diagonal",
) -> jax.Array:
    """Returns the object keypoint similarity of every labelled person with every pose.

    The formula is that of COCO's evaluation (`jaxpose.metrics.oks`); the area is the mean of the areas of both poses.

    Args:
        target: (..., G, K, 2) px, the people.
        xy: (..., A, K, 2) px, the poses.
        sigmas: (K,) the standard deviations of the OKS.
        where: (..., G, K) bool, the labelled joints of the people, whatever the others hold; None: all.
        kind: The area of a pose, see `extent`.

    Returns:
        (..., G, A) in 0..1; 0 for a person without a labelled joint.

    Raises:
        ValueError: The shapes do not fit.

    >>> people, poses = jnp.zeros((1, 2, 2)).at[0, 1, 1].set(40.0), jnp.zeros((2, 2, 2)).at[:, 1, 1].set(jnp.array([40.0, 44.0]))
    >>> oks(people, poses, sigmas=(0.1, 0.1)).round(3).tolist()
    [[1.0, 0.9470000267028809]]
    """
    target, xy = _float(target), _float(xy)
    sigmas = jnp.asarray(sigmas, xy.dtype)
    where = jnp.ones(target.shape[:-1], bool) if where is None else jnp.asarray(where)
    if target.shape[-2:] != xy.shape[-2:] or xy.shape[-2:] != (len(sigmas), 2) or where.shape != target.shape[:-1]:
        raise ValueError(
            f"target {target.shape}, xy {xy.shape}, {len(sigmas)} sigmas, where {where.shape}: expected (..., G, K, 2), "
            "(..., A, K, 2), K and (..., G, K)"
        )
    target = jnp.where(where[..., None], target, 0.0)
    area = (extent(target, where=where, kind=kind)[..., :, None] + extent(xy, kind=kind)[..., None, :]) / 2
    # Coordinate by coordinate: an axis of two would keep XLA from one pass over the G x A x K array.
    squared = sum(
        jnp.square(target[..., :, None, :, axis] - xy[..., None, :, :, axis]) for axis in (0, 1)
    )  # (..., G, A, K)
    exponent = squared / (8 * jnp.square(sigmas)) / (area[..., None] + TINY)
    similarity = jnp.where(where[..., :, None, :], jnp.exp(-exponent), 0.0).sum(-1)
    return similarity / jnp.maximum(where.sum(-1), 1)[..., None]


def match(
    similarity: jax.Array, *, high: float = 0.5, low: float = 0.4, best: int = 9, where: jax.Array | None = None
) -> jax.Array:
    """Returns the labelled person that each anchor is matched with.

    It is the person of the largest similarity, if that is at least `high`. Then every person takes its `best` anchors, however low
    their similarity, and last of all its very best one, so that nobody remains without an anchor; anchors of equal similarity are all
    taken, and of two people the later one. The published first stage has 0.5 and 0.4; the second, whose anchors are predicted
    poses, 0.99 and 0.89, so that there the best nine decide. A similarity of 0 is never taken, though the published
    code would take all of equal ones.

    Args:
        similarity: (..., G, A), see `oks`.
        high: The similarity from which on an anchor is matched.
        low: The similarity below which an anchor is background; those between are neither.
        best: The number of anchors that every person takes; 0: none.
        where: (..., G) bool, the people that exist; None: all.

    Returns:
        (..., A) int32: the index of the person; `matching.BELOW` (-1) for background, `matching.BETWEEN` (-2) for neither.

    Raises:
        ValueError: The shapes do not fit, or a number is out of range.

    >>> match(jnp.array([[0.6, 0.45, 0.1, 0.2], [0.0, 0.0, 0.05, 0.01]]), best=1).tolist()
    [0, -2, 1, -1]
    """
    similarity = jnp.asarray(similarity)
    index = assign(similarity, high=high, low=low, where=where)
    count = similarity.shape[-2]
    if best < 0:
        raise ValueError(f"best={best}: expected 0 or more")
    if best == 0 or count == 0:
        return index
    if where is not None:
        similarity = jnp.where(where[..., None], similarity, 0.0)
    top = jax.lax.top_k(similarity, min(best, similarity.shape[-1]))[0]
    people = jnp.arange(count, dtype=jnp.int32)[:, None]
    for least in (top[..., -1:], top[..., :1]):
        taken = jnp.where((similarity >= least) & (similarity > 0), people, BELOW).max(-2)
        index = jnp.where(taken >= 0, taken, index)
    return index


def encode(target: jax.Array, anchors: jax.Array, *, scale: jax.Array) -> jax.Array:
    """Returns the offsets of joints from those of anchors, in units of the anchors' scale: the inverse of `decode`.

    Args:
        target: (..., K, 2) px.
        anchors: (..., K, 2) px, of the same shape.
        scale: (...,) the size of each anchor, px.

    Returns:
        (..., K, 2).

    Raises:
        ValueError: The shapes do not fit.

    >>> encode(jnp.array([[[8.0, 4.0]]]), jnp.array([[[0.0, 0.0]]]), scale=jnp.array([16.0])).tolist()
    [[[0.5, 0.25]]]
    """
    target, anchors, scale = _float(target), _float(anchors), _float(scale)
    _check(target, anchors, scale)
    return (target - anchors) / scale[..., None, None]


def decode(deltas: jax.Array, anchors: jax.Array, *, scale: jax.Array) -> jax.Array:
    """Returns the joints that are at these offsets from those of anchors: the inverse of `encode`.

    Args:
        deltas: (..., K, 2), in units of the scale.
        anchors: (..., K, 2) px, of the same shape.
        scale: (...,) the size of each anchor, px.

    Returns:
        (..., K, 2) px.

    Raises:
        ValueError: The shapes do not fit.

    >>> decode(jnp.array([[[0.5, 0.25]]]), jnp.array([[[1.0, 0.0]]]), scale=jnp.array([16.0])).tolist()
    [[[9.0, 4.0]]]
    """
    deltas, anchors, scale = _float(deltas), _float(anchors), _float(scale)
    _check(deltas, anchors, scale)
    return deltas * scale[..., None, None] + anchors


def bilinear(features: jax.Array, xy: jax.Array, *, method: Literal["auto", "gather", "matrix"] = "auto") -> jax.Array:
    """Returns features between the cells of a map, interpolated in x and in y; beyond the map they are 0.

    Half a cell outside the map a value has half its weight, as in deformable convolutions and in grid_sample of PyTorch with zeros
    as padding. The gradient flows to the features and to the points.

    Args:
        features: (..., H, W, C).
        xy: (..., N, 2) points in cells: cell i is at i. A point that is not finite reads 0.
        method: "gather" reads the four cells around each point; its gradient is a scatter. "matrix" multiplies the map by a matrix
            of weights (N, H W), with a product as gradient: faster on a processor while a map is small. "auto": the matrix for up to
            `LARGEST_MATRIX` cells.

    Returns:
        (..., N, C).

    Raises:
        ValueError: The shapes do not fit, or the method is unknown.

    >>> bilinear(jnp.arange(4.0).reshape(1, 4, 1), jnp.array([[1.5, 0.0], [3.5, 0.0], [9.0, 0.0]])).ravel().tolist()
    [1.5, 1.5, 0.0]
    """
    features, xy = jnp.asarray(features), _float(xy)
    if features.ndim < 3 or xy.shape[-1:] != (2,) or xy.shape[:-2] != features.shape[:-3]:
        raise ValueError(
            f"features {features.shape} and xy {xy.shape}: expected (..., H, W, C) and (..., N, 2), with the same leading axes"
        )
    if method not in ("auto", "gather", "matrix"):
        raise ValueError(f"method={method!r}: expected 'auto', 'gather' or 'matrix'")
    height, width, _ = features.shape[-3:]
    xy = jnp.where(jnp.isfinite(xy), xy, -2.0)
    if method == "matrix" or method == "auto" and height * width <= LARGEST_MATRIX:
        return _by_matrix(features, xy)
    sample = _by_gather
    for _ in range(features.ndim - 3):
        sample = jax.vmap(sample)
    return sample(features, xy)


def bilinear_lattice(features: jax.Array, shift: jax.Array) -> jax.Array:
    """Returns `bilinear` at the same shifts from every cell of a map, as two small matrix products per shift.

    It is for anchors that have not moved yet: there the points of all cells form a lattice, whose weights are products of rows and
    columns, so that neither values nor gradient need a gather.

    Args:
        features: (..., H, W, C).
        shift: (N, 2) x, y in cells, from each cell.

    Returns:
        (..., H, W, N, C).

    Raises:
        ValueError: The shapes do not fit.

    >>> bilinear_lattice(jnp.arange(3.0).reshape(1, 3, 1), jnp.array([[0.5, 0.0], [-1.0, 0.0]]))[0, :, :, 0].tolist()
    [[0.5, 0.0], [1.5, 0.0], [1.0, 1.0]]
    """
    features, shift = jnp.asarray(features), _float(shift)
    if features.ndim < 3 or shift.ndim != 2 or shift.shape[-1] != 2:
        raise ValueError(f"features {features.shape} and shift {shift.shape}: expected (..., H, W, C) and (N, 2)")
    height, width, _ = features.shape[-3:]
    rows = _tent(shift[:, 1, None] + jnp.arange(height, dtype=shift.dtype), height).astype(features.dtype)
    columns = _tent(shift[:, 0, None] + jnp.arange(width, dtype=shift.dtype), width).astype(features.dtype)
    return jnp.einsum("nqx,npy,...yxc->...pqnc", columns, rows, features)


def _tent(place: jax.Array, size: int) -> jax.Array:
    """Returns the weights of the cells of an axis at places (...): (..., size)."""
    # Not max(1 - |d|, 0): at a point that lies on a cell the derivative is that of the cells to its right, as with the gather.
    below = jax.lax.stop_gradient(jnp.floor(place))[..., None]
    part, cells = place[..., None] - below, jnp.arange(size, dtype=place.dtype)
    return jnp.where(cells == below, 1.0 - part, jnp.where(cells == below + 1, part, 0.0))


def _by_matrix(features: jax.Array, xy: jax.Array) -> jax.Array:
    height, width, channels = features.shape[-3:]
    rows, columns = _tent(xy[..., 1], height), _tent(xy[..., 0], width)
    matrix = (rows[..., :, None] * columns[..., None, :]).reshape(*xy.shape[:-1], height * width)
    flat = features.reshape(*features.shape[:-3], height * width, channels)
    return jnp.einsum("...np,...pc->...nc", matrix.astype(features.dtype), flat)


def _by_gather(features: jax.Array, xy: jax.Array) -> jax.Array:
    height, width, _ = features.shape
    below = jax.lax.stop_gradient(jnp.floor(xy))
    part = xy - below
    cell = jnp.clip(below, -2, max(height, width) + 1).astype(jnp.int32)
    total = jnp.zeros((len(xy), features.shape[-1]), features.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = cell[:, 0] + dx, cell[:, 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            weight = jnp.where(dx, part[:, 0], 1 - part[:, 0]) * jnp.where(dy, part[:, 1], 1 - part[:, 1])
            values = features[jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)]
            total += jnp.where(inside, weight, 0.0)[:, None].astype(features.dtype) * values
    return total


def nms(
    xy: jax.Array,
    scores: jax.Array,
    *,
    sigmas: Sequence[float],
    threshold: float = 0.5,
    kind: Extent = "box",
    where: jax.Array | None = None,
) -> jax.Array:
    """Returns which poses greedy suppression by OKS keeps: the set of `jaxpose.evaluation.oks_nms`, jitted, with static shapes.

    Args:
        xy: (..., N, K, 2) px.
        scores: (..., N).
        sigmas: (K,) the standard deviations of the OKS.
        threshold: The OKS above which the pose with the lower score goes.
        kind: The area of a pose, see `extent`.
        where: (..., N) bool; masked poses are not kept and suppress none. None: all count.

    Returns:
        keep: (..., N) bool.

    Raises:
        ValueError: The shapes do not fit.

    >>> xy = jnp.array([[[0.0, 0.0], [9.0, 9.0]], [[0.1, 0.0], [9.0, 9.0]], [[50.0, 0.0], [59.0, 9.0]]])
    >>> nms(xy, jnp.array([0.8, 0.9, 0.5]), sigmas=(0.1, 0.1)).tolist()
    [False, True, True]
    """
    xy, scores = _float(xy), _float(scores)
    where = jnp.ones(scores.shape, bool) if where is None else jnp.asarray(where)
    if xy.shape[:-2] != scores.shape or where.shape != scores.shape:
        raise ValueError(
            f"xy {xy.shape}, scores {scores.shape}, where {where.shape}: expected (..., N, K, 2) and (..., N)"
        )

    def decide(xy: jax.Array, scores: jax.Array, where: jax.Array) -> jax.Array:
        order = jnp.argsort(jnp.where(where, -scores, jnp.inf), stable=True)
        xy = jnp.where(where[:, None, None], xy, 0.0)[order]
        earlier = jnp.arange(len(scores))[:, None] < jnp.arange(len(scores))
        suppresses = earlier & (oks(xy, xy, sigmas=sigmas, kind=kind) > threshold)
        return jnp.zeros(len(scores), bool).at[order].set(boxes.undominated(suppresses, where[order]))

    for _ in range(scores.ndim - 1):
        decide = jax.vmap(decide)
    return decide(*jax.lax.stop_gradient((xy, scores)), where)


def peaks(maps: jax.Array, *, count: int = 30, size: int = 5) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the highest local maxima of heatmaps.

    Args:
        maps: (..., h, w, K).
        count: The number of peaks of a joint.
        size: The side of the window whose maximum a peak is, odd.

    Returns:
        cell: (..., K, count) int32, row * w + column, highest first.
        xy: (..., K, count, 2) the cell's column and row.
        height: (..., K, count); 0 where a map has fewer peaks.

    Raises:
        ValueError: The shapes do not fit, or a number is out of range.

    >>> maps = jnp.zeros((4, 6, 1)).at[1, 2, 0].set(0.9).at[1, 3, 0].set(0.5).at[3, 5, 0].set(0.7)
    >>> _, xy, height = peaks(maps, count=3, size=3)
    >>> xy[0, :2].tolist(), (height[0] > 0).tolist()
    ([[2.0, 1.0], [5.0, 3.0]], [True, True, False])
    """
    maps = _float(maps)
    if maps.ndim < 3 or count < 1 or size < 1 or size % 2 == 0:
        raise ValueError(
            f"maps {maps.shape}, count={count}, size={size}: expected (..., h, w, K), 1 or more, an odd size"
        )
    height, width, joints = maps.shape[-3:]
    window = (1,) * (maps.ndim - 3) + (size, size, 1)
    highest = jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, window, (1,) * maps.ndim, "SAME")
    flat = jnp.moveaxis(jnp.where(maps == highest, maps, 0.0).reshape(*maps.shape[:-3], -1, joints), -1, -2)
    values, cell = jax.lax.top_k(flat, min(count, height * width))
    xy = jnp.stack([cell % width, cell // width], -1).astype(maps.dtype)
    return cell.astype(jnp.int32), xy, values


def move_to_nearest(
    xy: jax.Array, target: jax.Array, *, where: jax.Array | None = None, reach: jax.Array | None = None
) -> jax.Array:
    """Returns poses whose joints are moved to the nearest candidate of the same joint.

    Args:
        xy: (..., N, K, 2) px.
        target: (..., K, M, 2) px, the candidates, such as the peaks of a heatmap.
        where: (..., K, M) bool, the candidates that exist; None: all. A joint without any stays.
        reach: (..., N) px: a joint whose nearest candidate is farther away stays; None: there is no limit, as published (QUIRK E21).

    Returns:
        (..., N, K, 2) px.

    >>> poses, candidates = jnp.array([[[0.0, 0.0]], [[9.0, 0.0]]]), jnp.array([[[1.0, 0.0], [5.0, 0.0]]])
    >>> move_to_nearest(poses, candidates, reach=jnp.array([2.0, 2.0])).tolist()
    [[[1.0, 0.0]], [[9.0, 0.0]]]
    """
    xy, target = _float(xy), _float(target)
    if target.shape[:-3] != xy.shape[:-3] or target.shape[-3] != xy.shape[-2]:
        raise ValueError(f"xy {xy.shape} and target {target.shape}: expected (..., N, K, 2) and (..., K, M, 2)")
    candidates = target[..., None, :, :, :]
    squared = jnp.square(xy[..., None, :] - candidates).sum(-1)  # (..., N, K, M)
    if where is not None:
        squared = jnp.where(jnp.asarray(where)[..., None, :, :], squared, jnp.inf)
    nearest = squared.argmin(-1)[..., None]
    moved = jnp.take_along_axis(candidates, nearest[..., None], -2)[..., 0, :]
    distance = jnp.take_along_axis(squared, nearest, -1)
    farthest = jnp.inf if reach is None else jnp.square(reach)[..., None, None]
    return jnp.where((distance < jnp.inf) & (distance <= farthest), moved, xy)


def _float(values: jax.Array) -> jax.Array:
    values = jnp.asarray(values)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _check(xy: jax.Array, anchors: jax.Array, scale: jax.Array) -> None:
    if xy.shape != anchors.shape or xy.shape[-1:] != (2,) or scale.shape != xy.shape[:-2]:
        raise ValueError(
            f"joints {xy.shape}, anchors {anchors.shape}, scale {scale.shape}: expected (..., K, 2) twice, and (...,)"
        )
