"""RoIAlign (He et al. 2017, Mask R-CNN, section 3): features of a region, resampled to a grid of a fixed size.

Each cell of the grid is the mean of n x n bilinear samples. The samples are a product of rows and columns, so that the result is
one of two small matrices, out = Wy F Wx^T, and the gradient with respect to the features is Wy^T G Wx: matrix products without
a gather and without a scatter, which repeat bit for bit on every device. On large maps that costs as much as the network,
since every region multiplies the whole map; there `gather` computes the same values from the samples alone, and `scatter` their
gradient. `pyramid` lets its caller choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def roi_align(
    features: jax.Array,
    boxes: jax.Array,
    *,
    size_hw: tuple[int, int],
    scale: float,
    samples: int = 2,
    aligned: bool = True,
) -> jax.Array:
    """Returns the features of every box on a grid, as two matrix products per box.

    A sample more than a pixel outside the map counts 0; any other takes the value at the nearest point of the map. torchvision's
    detectors use aligned=False, samples=2; Detectron2's aligned=True, samples=0 (QUIRK E4).

    Args:
        features: (..., H, W, C).
        boxes: (..., R, 4) xyxy, in pixels of the image; no gradient flows to them.
        size_hw: The rows and columns of the grid.
        scale: Pixels of the map per pixel of the image, 1/4 to 1/32 in a feature pyramid.
        samples: Samples per cell and axis; 0: as many as there are pixels of the map in a cell, rounded up.
        aligned: If True, half a pixel is subtracted, so that samples are relative to pixel centres. If False, it is not, and
            a box is taken as at least one pixel of the map wide and high.

    Returns:
        (..., R, h, w, C).

    Raises:
        ValueError: The shapes do not fit, or a number is out of range.

    >>> ramp = jnp.arange(8.0)[None, :, None] * jnp.ones((8, 1, 1))
    >>> roi_align(ramp, jnp.array([[4.0, 4.0, 12.0, 12.0]]), size_hw=(2, 2), scale=0.5)[0, 0, :, 0].tolist()
    [2.5, 4.5]
    """
    features, boxes = jnp.asarray(features), jnp.asarray(boxes)
    _check(features, boxes, size_hw, scale, samples)
    height, width, _ = features.shape[-3:]
    rows, columns = matrices(
        boxes, (height, width), size_hw=size_hw, scale=scale, samples=samples, aligned=aligned, dtype=features.dtype
    )
    resampled = jnp.einsum("...rpy,...yxc->...rpxc", rows, features)
    return jnp.einsum("...rqx,...rpxc->...rpqc", columns, resampled)


def matrices(
    boxes: jax.Array,
    map_hw: tuple[int, int],
    *,
    size_hw: tuple[int, int],
    scale: float,
    samples: int = 2,
    aligned: bool = True,
    dtype: jnp.dtype = jnp.float32,
) -> tuple[jax.Array, jax.Array]:
    """Returns the weights of the map's rows and columns in each cell: (..., R, h, H) and (..., R, w, W).

    Args:
        boxes: (..., R, 4) xyxy, in pixels of the image.
        map_hw: The rows and columns of the map.
        size_hw, scale, samples, aligned: See `roi_align`.
        dtype: The type of the weights.

    >>> rows, columns = matrices(jnp.array([[0.0, 0.0, 8.0, 8.0]]), (4, 4), size_hw=(2, 2), scale=0.5)
    >>> rows[0].tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    boxes = _coordinates(boxes, dtype)
    x1, y1, x2, y2 = (boxes[..., i] for i in range(4))
    options = {"scale": scale, "samples": samples, "aligned": aligned}
    rows = _weights(y1, y2, map_hw[0], cells=size_hw[0], **options)
    columns = _weights(x1, x2, map_hw[1], cells=size_hw[1], **options)
    return rows.astype(dtype), columns.astype(dtype)


def gather(
    features: jax.Array,
    boxes: jax.Array,
    *,
    origin: jax.Array,
    map_hw: jax.Array,
    scale: jax.Array,
    size_hw: tuple[int, int],
    samples: int = 2,
    aligned: bool = True,
) -> jax.Array:
    """Returns the same values as `roi_align` from maps of different sizes in one array, by reading the samples alone.

    It is for large maps: there the matrices would multiply each box with a whole map. With samples=0 it has no gradient of its
    own; `scatter` is it.

    Args:
        features: (N, C), the pixels of all maps one after another, each row by row.
        boxes: (R, 4) xyxy, in pixels of the image.
        origin: (R,) the index in `features` of the first pixel of the map of each box.
        map_hw: (R, 2) the rows and columns of that map.
        scale: (R,) pixels of that map per pixel of the image.
        size_hw, samples, aligned: See `roi_align`.

    Returns:
        (R, h, w, C).

    >>> ramp = (jnp.arange(8.0)[None, :] * jnp.ones((8, 1))).reshape(64, 1)
    >>> where = {"origin": jnp.array([0]), "map_hw": jnp.array([[8, 8]]), "scale": jnp.array([0.5])}
    >>> gather(ramp, jnp.array([[4.0, 4.0, 12.0, 12.0]]), size_hw=(2, 2), **where)[0, 0, :, 0].tolist()
    [2.5, 4.5]
    """
    features = jnp.asarray(features)
    options = {"size_hw": size_hw, "samples": samples, "aligned": aligned}
    return _Taps(boxes, origin, map_hw, scale, **options, dtype=features.dtype).read(features)


def scatter(
    gradient: jax.Array,
    boxes: jax.Array,
    *,
    pixels: int,
    origin: jax.Array,
    map_hw: jax.Array,
    scale: jax.Array,
    size_hw: tuple[int, int],
    samples: int = 2,
    aligned: bool = True,
) -> jax.Array:
    """Returns the gradient of `gather` with respect to the features: what each cell was made of is added to, where it was read.

    A CPU adds in a fixed order, so that the sums repeat bit for bit; a GPU adds in any order.

    Args:
        gradient: (R, h, w, C), that with respect to the result of `gather`.
        boxes: (R, 4) xyxy, in pixels of the image.
        pixels: The number N of the pixels of all maps.
        origin, map_hw, scale, size_hw, samples, aligned: See `gather`.

    Returns:
        (N, C).

    >>> where = {"origin": jnp.array([0]), "map_hw": jnp.array([[2, 4]]), "scale": jnp.array([1.0])}
    >>> box = jnp.array([[0.5, 0.0, 2.5, 1.0]])
    >>> scatter(jnp.ones((1, 1, 1, 1)), box, pixels=8, size_hw=(1, 1), samples=1, **where).ravel().tolist()
    [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    gradient = jnp.asarray(gradient)
    options = {"size_hw": size_hw, "samples": samples, "aligned": aligned}
    return _Taps(boxes, origin, map_hw, scale, **options, dtype=gradient.dtype).add(gradient, pixels=pixels)


def levels(
    boxes: jax.Array,
    *,
    first: int = 2,
    last: int = 5,
    size: float = 224.0,
    size_level: int = 4,
    variant: Literal["torchvision", "detectron2"] = "torchvision",
) -> jax.Array:
    """Returns the level of the feature pyramid that each box is read from, by its size (Lin et al. 2017, FPN, equation 1).

    floor(size_level + log2(sqrt(area) / size)), within first..last. Detectron2 adds 1e-8 inside the logarithm, torchvision 1e-6
    behind it; just below a power of two they differ (QUIRK E14).

    Args:
        boxes: (..., 4) xyxy, px.
        first: The finest level.
        last: The coarsest level.
        size: The side of a box that is read from `size_level`, px.
        size_level: The level of boxes of that size.
        variant: The code base.

    Returns:
        (...,) int32.

    >>> levels(jnp.array([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 20.0, 20.0]])).tolist()
    [4, 2]
    """
    side = jnp.sqrt((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))
    if variant == "torchvision":
        level = jnp.floor(size_level + jnp.log2(side / size) + 1e-6)
    else:
        level = jnp.floor(size_level + jnp.log2(side / size + 1e-8))
    return jnp.clip(jnp.where(jnp.isnan(level), first, level), first, last).astype(jnp.int32)


def pyramid(
    features: Sequence[jax.Array],
    boxes: jax.Array,
    level: jax.Array,
    *,
    size_hw: tuple[int, int],
    scales: Sequence[float],
    samples: int = 2,
    aligned: bool = True,
    first: int = 2,
    form: Literal["matrices", "gather", "scatter"] = "matrices",
) -> jax.Array:
    """Returns `roi_align` of every box from its level.

    Values and gradient are the same in all forms, but for rounding; forward-mode derivatives are those of the matrices alone. Matrices
    are products with every level, the natural form of a TPU. To read the samples alone is quicker on a CPU and a GPU, and so is
    to scatter the gradient on a CPU: `python -m benchmarks.detector_throughput --parts roi_align` times it. On a GPU a scatter would
    add in another order every time.

    Args:
        features: The maps (..., H, W, C) of the levels, from `first` on.
        boxes: (..., R, 4) xyxy, in pixels of the image.
        level: (..., R) the level of each box, see `levels`.
        size_hw, samples, aligned: See `roi_align`.
        scales: Pixels of each map per pixel of the image.
        first: The level of the first map.
        form: "matrices"; "gather": samples are read (`gather`), and the gradient is computed by matrices; "scatter": samples are
            read, and the gradient is scattered (`scatter`).

    Returns:
        (..., R, h, w, C).

    >>> maps = [jnp.ones((8, 8, 1)), 2 * jnp.ones((4, 4, 1))]
    >>> boxes = jnp.array([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 16.0, 16.0]])
    >>> pyramid(maps, boxes, jnp.array([2, 3]), size_hw=(1, 1), scales=(1 / 4, 1 / 8))[:, 0, 0, 0].tolist()
    [1.0, 2.0]
    """
    for values, scale in zip(features, scales, strict=True):
        _check(values, boxes, size_hw, scale, samples)
    if form not in ("matrices", "gather", "scatter"):
        raise ValueError(f"form={form!r}: expected 'matrices', 'gather' or 'scatter'")
    grid = _Grid(tuple(size_hw), tuple(scales), samples, aligned, first)
    if form == "matrices":
        return _multiply(features, boxes, level, grid)
    shapes = tuple((tuple(values.shape), values.dtype.name) for values in features)
    return _read_samples(tuple(features), boxes, level, shapes, grid, form)


class _Grid(NamedTuple):
    """The options of `pyramid`."""

    size_hw: tuple[int, int]
    scales: tuple[float, ...]
    samples: int
    aligned: bool
    first: int


def _multiply(features: Sequence[jax.Array], boxes: jax.Array, level: jax.Array, grid: _Grid) -> jax.Array:
    """Returns `pyramid` as matrix products with every level."""
    total = jnp.zeros((), features[0].dtype)
    for number, (values, scale) in enumerate(zip(features, grid.scales, strict=True), grid.first):
        options = {"size_hw": grid.size_hw, "scale": scale, "samples": grid.samples, "aligned": grid.aligned}
        rows, columns = matrices(boxes, values.shape[-3:-1], dtype=values.dtype, **options)
        rows = jnp.where((level == number)[..., None, None], rows, 0)
        resampled = jnp.einsum("...rpy,...yxc->...rpxc", rows, values)
        total = total + jnp.einsum("...rqx,...rpxc->...rpqc", columns, resampled)
    return total


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _read_samples(
    features: tuple, boxes: jax.Array, level: jax.Array, shapes: tuple, grid: _Grid, form: str
) -> jax.Array:
    """Returns `pyramid` by reading the samples; `form` decides how its gradient is computed."""
    taps_of = _taps_of_image(boxes, level, shapes, grid, features[0].dtype)

    def read(features: tuple, boxes: jax.Array, level: jax.Array) -> jax.Array:
        channels = features[0].shape[-1]
        return taps_of(boxes, level).read(jnp.concatenate([values.reshape(-1, channels) for values in features]))

    return _over_images(read, boxes)(features, boxes, level)


def _read_samples_forward(features: tuple, boxes: jax.Array, level: jax.Array, *static) -> tuple:
    return _read_samples(features, boxes, level, *static), (boxes, level)


def _read_samples_backward(shapes: tuple, grid: _Grid, form: str, saved: tuple, gradient: jax.Array) -> tuple:
    boxes, level = saved
    if form == "gather":
        like = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes)
        (of_features,) = jax.linear_transpose(lambda maps: _multiply(maps, boxes, level, grid), like)(gradient)
        return of_features, jnp.zeros_like(boxes), np.zeros(level.shape, jax.dtypes.float0)
    taps_of = _taps_of_image(boxes, level, shapes, grid, gradient.dtype)
    sizes = [shape[-3:] for shape, _ in shapes]
    ends = np.cumsum([height * width for height, width, _ in sizes])

    def add(gradient: jax.Array, boxes: jax.Array, level: jax.Array) -> tuple:
        flat = taps_of(boxes, level).add(gradient, pixels=int(ends[-1]))
        return tuple(values.reshape(size) for values, size in zip(jnp.split(flat, ends[:-1]), sizes, strict=True))

    of_features = _over_images(add, boxes)(gradient, boxes, level)
    of_features = tuple(x.astype(dtype) for x, (_, dtype) in zip(of_features, shapes, strict=True))
    return of_features, jnp.zeros_like(boxes), np.zeros(level.shape, jax.dtypes.float0)


_read_samples.defvjp(_read_samples_forward, _read_samples_backward)


def _over_images(function: Callable, boxes: jax.Array) -> Callable:
    """Returns the function over the leading axes of boxes (..., R, 4): each image by itself, so that a batch can be sharded."""
    for _ in range(boxes.ndim - 2):
        function = jax.vmap(function)
    return function


def _taps_of_image(
    boxes: jax.Array, level: jax.Array, shapes: tuple, grid: _Grid, dtype: jnp.dtype
) -> Callable[[jax.Array, jax.Array], _Taps]:
    """Returns the function from boxes (R, 4) and levels (R,) of an image to their `_Taps`, for maps one after another."""
    sizes = np.array([shape[-3:-1] for shape, _ in shapes])
    first = np.cumsum(sizes.prod(1)) - sizes.prod(1)
    options = {"size_hw": grid.size_hw, "samples": grid.samples, "aligned": grid.aligned, "dtype": dtype}

    def taps(boxes: jax.Array, level: jax.Array, most: tuple | None = None) -> _Taps:
        place = level - grid.first
        scale = jnp.asarray(grid.scales, _coordinates(boxes, dtype).dtype)[place]
        return _Taps(boxes, jnp.asarray(first)[place], jnp.asarray(sizes)[place], scale, **options, most=most)

    # The loops over samples end with the largest number in the whole batch: inside `vmap` each image would have its own.
    most = None if grid.samples else taps(boxes.reshape(-1, 4), level.ravel()).most
    return partial(taps, most=most)


class _Taps:
    """The pixels that each cell of R boxes is made of, with their weights, by index into maps that follow one another.

    `most` are the largest numbers of samples of a cell, along rows and columns; None: those of these boxes.
    """

    def __init__(self, boxes, origin, map_hw, scale, *, size_hw, samples: int, aligned: bool, dtype, most=None):
        map_hw, scale, boxes = jnp.asarray(map_hw), jnp.asarray(scale), _coordinates(boxes, dtype)
        x1, y1, x2, y2 = (boxes[:, i] for i in range(4))
        self.rows, self.columns = (
            _Samples(low, high, map_hw[:, axis], cells=size_hw[axis], scale=scale, samples=samples, aligned=aligned)
            for axis, (low, high) in enumerate(((y1, y2), (x1, x2)))
        )
        self.origin, self.stride = jnp.asarray(origin)[:, None, None], map_hw[:, 1, None, None]
        self.cells, self.samples, self.dtype = (len(boxes), *size_hw), samples, dtype
        self.most = most or tuple(axis.count.max(initial=0).astype(jnp.int32) for axis in (self.rows, self.columns))

    def read(self, features: jax.Array) -> jax.Array:
        """Returns the cells (R, h, w, C) of maps (N, C)."""

        def add(total: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
            return total + weight[..., None] * features[index]

        return self._reduce(add, jnp.zeros((*self.cells, features.shape[-1]), features.dtype))

    def add(self, gradient: jax.Array, *, pixels: int) -> jax.Array:
        """Returns the gradient (N, C) with respect to maps of N pixels, given that with respect to the cells."""

        def add(total: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
            return total.at[index].add(weight[..., None] * gradient)

        sums = jnp.promote_types(gradient.dtype, jnp.float32)  # a pixel may be read by hundreds of boxes
        return self._reduce(add, jnp.zeros((pixels, gradient.shape[-1]), sums)).astype(gradient.dtype)

    def _reduce(self, add: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], total: jax.Array) -> jax.Array:
        """Returns total after add(total, index, weight) for one pixel of every cell after the other, (R, h, w) each."""

        def sample(total: jax.Array, row: jax.Array | int, column: jax.Array | int) -> jax.Array:
            for y, wy in self.rows.taps(row):
                for x, wx in self.columns.taps(column):
                    index = self.origin + y[:, :, None] * self.stride + x[:, None, :]
                    total = add(total, index, (wy[:, :, None] * wx[:, None, :]).astype(self.dtype))
            return total

        if self.samples:
            for row in range(self.samples):
                for column in range(self.samples):
                    total = sample(total, row, column)
            return total
        most_rows, most_columns = self.most

        def one_row(row: jax.Array, total: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, most_columns, lambda column, total: sample(total, row, column), total)

        return jax.lax.fori_loop(0, most_rows, one_row, total)


def _coordinates(boxes: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns boxes without a gradient, in the promoted type of theirs and of the features, float32 at least."""
    boxes = jax.lax.stop_gradient(jnp.asarray(boxes))
    return boxes.astype(jnp.promote_types(jnp.promote_types(boxes.dtype, dtype), jnp.float32))


class _Samples:
    """The samples of one axis of R boxes: their positions on the map, and how many a cell has."""

    def __init__(self, low, high, size, *, cells: int, scale, samples: int, aligned: bool):
        self.size = jnp.asarray(size)
        self.cells, self.samples = cells, samples
        self.low = low * scale - (0.5 if aligned else 0.0)
        length = high * scale - (0.5 if aligned else 0.0) - self.low
        length = length if aligned else jnp.maximum(length, 1.0)
        self.cell = length / cells
        self.count = jnp.ceil(self.cell) if samples == 0 else jnp.full_like(self.cell, samples)

    def position(self, number: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        """Returns the place of a sample in each cell, on the map, and its weight: (..., cells) each."""
        cell, count = self.cell[..., None], jnp.maximum(self.count, 1.0)[..., None]
        cells = jnp.arange(self.cells, dtype=cell.dtype)
        place = self.low[..., None] + cells * cell + (number + 0.5) * cell / count
        size = self.size[..., None]
        counts = (place >= -1.0) & (place <= size) & (number < self.count[..., None])
        return jnp.clip(place, 0.0, size - 1.0), jnp.where(counts, 1.0 / count, 0.0)

    def taps(self, number: jax.Array | int) -> list[tuple[jax.Array, jax.Array]]:
        """Returns the two pixels of a sample and their weights, ((..., cells), (..., cells)) each."""
        place, weight = self.position(number)
        below = jnp.floor(place)
        part = place - below
        index = below.astype(jnp.int32)
        above = jnp.minimum(index + 1, self.size[..., None] - 1).astype(jnp.int32)
        return [(index, weight * (1.0 - part)), (above, weight * part)]


def _weights(low, high, size: int, *, cells: int, scale: float, samples: int, aligned: bool) -> jax.Array:
    """Returns the weights of the pixels of one axis in each cell, (..., R, cells, size)."""
    axis = _Samples(low, high, size, cells=cells, scale=scale, samples=samples, aligned=aligned)
    pixels = jnp.arange(size, dtype=axis.cell.dtype)

    def add(number: jax.Array | int, total: jax.Array) -> jax.Array:
        place, weight = axis.position(number)
        return total + weight[..., None] * jnp.maximum(1.0 - jnp.abs(place[..., None] - pixels), 0.0)

    total = jnp.zeros((*axis.cell.shape, cells, size), axis.cell.dtype)
    if samples:
        for number in range(samples):
            total = add(number, total)
        return total
    return jax.lax.fori_loop(0, axis.count.max(initial=0).astype(jnp.int32), add, total)


def _check(features: jax.Array, boxes: jax.Array, size_hw: tuple[int, int], scale: float, samples: int) -> None:
    """Raises a ValueError unless maps are (..., H, W, C), boxes (..., R, 4), and the numbers in their range."""
    if features.ndim < 3 or boxes.ndim != features.ndim - 1 or boxes.shape[-1] != 4:
        raise ValueError(f"features {features.shape} and boxes {boxes.shape}: expected (..., H, W, C) and (..., R, 4)")
    if features.shape[:-3] != boxes.shape[:-2]:
        raise ValueError(f"features {features.shape} and boxes {boxes.shape}: expected the same leading axes")
    if min(size_hw) < 1 or not scale > 0 or samples < 0:
        raise ValueError(
            f"size_hw={size_hw}, scale={scale}, samples={samples}: expected positive numbers (samples: or 0)"
        )
