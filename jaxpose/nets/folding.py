"""Folded maps: on a TPU, neighbouring pixels of a row side by side in the channels.

A TPU computes 128 channels at a time, and pads what has fewer. A map of fewer channels can be folded there: n neighbouring pixels
of a row lie side by side in the channels, (B, H, W, C) as (B, H, W / n, n C), and the layers of `jaxpose.nets.layers` with
`fold=n` do to the folded map what they do to the map itself, with the same parameters. `fold_of` chooses n. Modules that are
made of these layers take and return plain maps: where one unfolds what the next one folds, the compiler drops both.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpose import platforms

LANES = 128
"""Channels that a TPU computes at a time."""


def fold_of(channels: int, width: int) -> int:
    """Returns how many pixels of a row to fold into the channels: 1 but on a TPU, where they fill its 128 channels.

    Args:
        channels: The fewest channels of the map in the layers that it passes through.
        width: Pixels of a row.

    >>> with platforms.traced_for("tpu"):
    ...     fold_of(32, 48), fold_of(64, 48), fold_of(48, 72), fold_of(256, 12), fold_of(32, 9)
    (4, 2, 2, 1, 1)
    """
    if platforms.platform() != "tpu":
        return 1
    count = 1
    while 2 * count * channels <= LANES and width % (2 * count) == 0:
        count *= 2
    return count


def fold_of_images(channels: int, width: int) -> int:
    """Returns how many pixels of a row of images to fold, so that a map of `channels` channels at stride 4 is folded as by `fold_of`.

    >>> with platforms.traced_for("tpu"):
    ...     fold_of_images(64, 192), fold_of_images(128, 192), fold_of_images(64, 18)
    (8, 1, 1)
    """
    fold = 1 if width % 4 else fold_of(channels, width // 4)
    return 4 * fold if fold > 1 else 1


def fold_after(fold: int, stride: int) -> int:
    """Returns by how much a convolution of a map that is folded by `fold` leaves its result folded."""
    return max(fold // stride, 1)


def folded(x: jax.Array, n: int) -> jax.Array:
    """Returns a map (B, H, W, C) as (B, H, W / n, n C)."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w // n, n * c)


def unfolded(x: jax.Array, n: int) -> jax.Array:
    """Returns a folded map (B, H, W / n, n C) as (B, H, W, C)."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w * n, c // n)


def spread(values: jax.Array, n: int) -> jax.Array:
    """Returns values of the channels (..., C) for the channels of a map that is folded by n, (..., n C)."""
    return values if n == 1 else jnp.concatenate([values] * n, axis=-1)


def repeat_columns(x: jax.Array, times: int, *, fold: int = 1, result: int = 1) -> jax.Array:
    """Returns a map with each of its columns `times` times.

    Args:
        x: (B, H, W / fold, fold C), the map, folded.
        times: A power of two.
        fold: The fold of the map.
        result: That of the result, at most times fold.

    >>> row = jnp.array([[[[1], [2]]]])
    >>> repeat_columns(row, 2)[0, 0, :, 0].tolist(), repeat_columns(row, 4, result=2)[0, 0].tolist()
    ([1, 1, 2, 2], [[1, 1], [1, 1], [2, 2], [2, 2]])
    """
    if fold == result == 1:
        return jnp.repeat(x, times, 2)
    pixels = jnp.split(x, fold, axis=-1)
    wide = [pixels[i // times] for i in range(fold * times)]
    groups = [jnp.concatenate(wide[i : i + result], -1) for i in range(0, len(wide), result)]
    return jnp.stack(groups, 3).reshape(*x.shape[:2], -1, result * x.shape[-1] // fold)


def every_nth(x: jax.Array, stride: int, n: int = 1) -> jax.Array:
    """Returns every `stride`-th row and column of the map that x (B, H, W / n, n C) is a folding of, folded by n / stride.

    >>> row = jnp.arange(8).reshape(1, 1, 2, 4)
    >>> every_nth(row, 2, 4).tolist(), every_nth(row, 4, 4).tolist(), every_nth(row, 2)[0, 0].tolist()
    ([[[[0, 2], [4, 6]]]], [[[[0], [4]]]], [[0, 1, 2, 3]])
    """
    b, h, w, c = *x.shape[:3], x.shape[3] // n
    if n == 1:
        return jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
    starts = range(0, n * c, stride * c)
    pixels = [jax.lax.slice(x, (0, 0, 0, i), (b, h, w, i + c), (1, stride, 1, 1)) for i in starts]
    return jnp.concatenate(pixels, axis=-1)


def convolve_folded(x: jax.Array, kernel: jax.Array, n: int, *, stride: int = 1, even_first: bool = False) -> jax.Array:
    """Applies a kernel (k, k, I, O) to the map that x (B, H, W / n, n I) is a folding of.

    With `even_first` the pixels of the result that are folded together stand in the order that `max_pool_of_folded` takes.

    Returns:
        (B, ceil(H / stride), W / n, n / stride O): the result, folded by n / stride. `stride` divides n.
    """
    if kernel.shape[:2] == (1, 1) and stride > 1:
        x, n, stride = every_nth(x, stride, n), n // stride, 1
    large, before, behind = fold_kernel(kernel, n, stride=stride, even_first=even_first)
    rows = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, large, (stride, 1), ((rows, rows), (before, behind)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def fold_kernel(kernel: jax.Array, n: int, *, stride: int = 1, even_first: bool = False) -> tuple[jax.Array, int, int]:
    """Returns the kernel that does to a folded map what a kernel (k, k, I, O) does to the map, and how far it reaches.

    Each weight of the kernel stands in n / stride places of it, and the rest is 0. Where a value is not finite, these zeros make
    NaN of all pixels that are folded together.

    Returns:
        The kernel (k, before + 1 + behind, n I, n / stride O), and the folded pixels before and behind that it reads.
    """
    size, results = kernel.shape[1], n // stride
    if n == 1:
        return kernel, size // 2, size - 1 - size // 2
    before, behind = -(-(size // 2) // n), (stride * (results - 1) + size - 1 - size // 2) // n
    order = (*range(0, results, 2), *range(1, results, 2)) if even_first else range(results)
    tap, block, source, target = np.ix_(range(size), range(before + 1 + behind), range(n), order)
    places = stride * target + tap - size // 2 == n * (block - before) + source
    large = jnp.einsum("htio,tbsp->hbsipo", kernel, places.astype(kernel.dtype), precision="highest")
    return large.reshape(kernel.shape[0], -1, n * kernel.shape[2], results * kernel.shape[3]), before, behind


def max_pool_of_folded(x: jax.Array, n: int) -> jax.Array:
    """Max pooling of size 3x3, stride 2, padding 1, of a map without negative values: `layers.max_pool` of a folded map.

    Args:
        x: (B, H, W / n, n C), the map, folded by an even number. Of the pixels that are folded together those of even columns stand
            first: 0, 2, ..., 1, 3, ... A value that is not finite makes NaN of what is folded with it.
        n: The fold of the map.

    Returns:
        (B, ceil(H / 2), W / n, n / 2 C): the result, folded by n / 2, its pixels in their usual order.
    """
    x = nn.max_pool(x, (3, 1), (2, 1), ((1, 1), (0, 0)))
    even, odd = jnp.split(x, 2, axis=-1)
    # The odd column before each even one, by a matrix of zeros and ones: to shift channels costs a TPU more. Before the first is 0.
    size, channels = even.shape[-1], x.shape[-1] // n
    shift = np.eye(2 * size, size, channels - size).reshape(1, 2, size, size)
    before = jax.lax.conv_general_dilated(odd, jnp.asarray(shift, x.dtype), (1, 1), ((0, 0), (1, 0)),
                                          dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest")  # fmt: skip
    return _larger(_larger(before, even), odd)


@jax.custom_jvp
def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.maximum`, whose gradient is given to one of two equals: to divide it takes a TPU as long again."""
    return jnp.maximum(a, b)


@_larger.defjvp
def _larger_jvp(
    values: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return jnp.maximum(*values), jnp.where(values[0] >= values[1], *tangents)
