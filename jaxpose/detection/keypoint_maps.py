"""Joints from the maps of a Mask R-CNN keypoint head, enlarged to the size of their box by bicubic interpolation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

TILE = 64
CUBIC = -0.75
"""The parameter of the bicubic kernel, PyTorch's."""


def decode(maps: jax.Array, boxes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the joints of every box: the highest point of its maps, enlarged to one value per pixel of the box.

    He et al. 2017 (Mask R-CNN), section 5, as torchvision and Detectron2 compute it: bicubic interpolation to (ceil h, ceil w),
    the first of equal maxima, and the centre of its pixel in continuous coordinates. The enlarged map is searched in tiles, so that
    boxes of any size are exact under static shapes.

    Args:
        maps: (R, h, w, K) logits.
        boxes: (R, 4) xyxy, px; sides below 1 px count as 1.

    Returns:
        xy: (R, K, 2) px, continuous coordinates.
        value: (R, K) the logit there, torchvision's score of a joint.
        probability: (R, K) exp of it over the sum of exp over the map, Detectron2's (QUIRK E9); it may exceed 1 where the
            interpolation overshoots.

    Raises:
        ValueError: The shapes do not fit.

    >>> maps = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(5.0)
    >>> xy, value, _ = decode(maps, jnp.array([[10.0, 20.0, 14.0, 24.0]]))
    >>> xy.tolist(), value.tolist()
    ([[[12.5, 21.5]]], [[5.0]])
    """
    maps, boxes = jnp.asarray(maps), jnp.asarray(boxes)
    if maps.ndim != 4 or boxes.shape != (len(maps), 4):
        raise ValueError(f"maps {maps.shape} and boxes {boxes.shape}: expected (R, h, w, K) and (R, 4)")
    size = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    cells = jnp.ceil(size)
    index, value = jax.lax.map(lambda args: _highest(*args), (maps, cells.astype(jnp.int32)))
    index = index.astype(size.dtype)
    xy = (index + 0.5) * (size / cells)[:, None] + boxes[:, None, :2]
    log_sum = jax.nn.logsumexp(maps, (1, 2))
    return xy, value, jnp.exp(value - log_sum)


def _highest(maps: jax.Array, size_wh: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the pixel (K, 2) x, y and the value (K,) of the maximum of maps (h, w, K) enlarged to a size."""
    height, width, joints = maps.shape
    columns, rows = size_wh[0], size_wh[1]

    def search_tile(row: jax.Array, column: jax.Array, strip: jax.Array, best: tuple) -> tuple:
        weights, inside = _bicubic(column * TILE, columns, width, maps.dtype)
        tile = jnp.einsum("xw,ywk->yxk", weights, strip)
        row_inside = row * TILE + jnp.arange(TILE) < rows
        tile = jnp.where(row_inside[:, None, None] & inside[:, None], tile, -jnp.inf).reshape(-1, joints)
        place = tile.argmax(0).astype(jnp.int32)
        y, x = row * TILE + place // TILE, column * TILE + place % TILE
        value, flat = tile.max(0), y * columns + x
        better = (value > best[1]) | ((value == best[1]) & (flat < best[0]))
        return jnp.where(better, flat, best[0]), jnp.where(better, value, best[1])

    def search_strip(row: jax.Array, best: tuple) -> tuple:
        weights, _ = _bicubic(row * TILE, rows, height, maps.dtype)
        strip = jnp.einsum("yh,hwk->ywk", weights, maps)
        tiles = (columns + TILE - 1) // TILE
        return jax.lax.fori_loop(0, tiles, lambda column, best: search_tile(row, column, strip, best), best)

    start = jnp.zeros(joints, jnp.int32), jnp.full(joints, -jnp.inf, maps.dtype)
    flat, value = jax.lax.fori_loop(0, (rows + TILE - 1) // TILE, search_strip, start)
    return jnp.stack([flat % columns, flat // columns], -1), value


def _bicubic(first: jax.Array, size: jax.Array, cells: int, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Returns the weights (TILE, cells) of a map's rows in TILE rows of its enlargement to `size`, and which rows exist."""
    row = first + jnp.arange(TILE)
    place = (row.astype(dtype) + 0.5) * (cells / size.astype(dtype)) - 0.5
    below = jnp.floor(place)
    part = place - below
    near = lambda t: ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1  # noqa: E731
    far = lambda t: ((CUBIC * t - 5 * CUBIC) * t + 8 * CUBIC) * t - 4 * CUBIC  # noqa: E731
    weights = jnp.zeros((TILE, cells), dtype)
    for offset, weight in enumerate((far(part + 1), near(part), near(1 - part), far(2 - part)), -1):
        index = jnp.clip(below.astype(jnp.int32) + offset, 0, cells - 1)
        weights = weights + weight[:, None] * (index[:, None] == jnp.arange(cells))
    return weights, row < size
