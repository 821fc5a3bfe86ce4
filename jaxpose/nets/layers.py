"""The layers of the backbones: convolutions (depthwise: `nets.depthwise`), batch normalisation, max pooling, dtype rules.

Shapes are channels-last, kernels (h, w, in, out), padding is PyTorch's: symmetric, k // 2.

A TPU computes 128 channels at a time, and pads what has fewer. A map of fewer channels can be folded there: n neighbouring pixels
of a row lie side by side in the channels, (B, H, W, C) as (B, H, W / n, n C), and `Conv`, `BatchNorm` and `max_pool` with
`fold=n` do to the folded map what they do to the map itself, with the same parameters. `fold_of` chooses n. Modules that are
made of these take and return plain maps: where one unfolds what the next one folds, the compiler drops both.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpose import platforms

DType = Any
BN_EPS = 1e-5
BN_MOMENTUM = 0.1  # as PyTorch defines it: the weight of the new batch

# He initialisation on the fan-out, as in the published ResNets (torchvision, mmpose).
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
narrow = nn.initializers.normal(0.001)
# Initialisations of convolutions: as in torchvision's ResNets, or as in the code of HRNet and HigherHRNet.
KERNEL_INITS = {"he": he_fan_out, "narrow": narrow}


def initializer(name: str) -> Any:
    """Returns the initialiser called `name`; raises a ValueError for an unknown name."""
    if name not in KERNEL_INITS:
        raise ValueError(f"kernel_init={name!r}: expected one of {', '.join(KERNEL_INITS)}")
    return KERNEL_INITS[name]


def later(default: Any) -> Any:
    """Returns a field that the stored nets of earlier versions lack; its default is the behaviour of those versions."""
    return dataclasses.field(default=default, metadata={"later": True})


def compute_dtype(dtype: DType, *arrays: jax.Array) -> DType:
    """Returns half precision unchanged; otherwise the promoted type of `dtype` and the arrays, float32 at least.

    >>> compute_dtype(jnp.bfloat16, jnp.zeros(2, jnp.float32)).name
    'bfloat16'
    >>> compute_dtype(jnp.float32, jnp.zeros(2, jnp.uint8)).name
    'float32'
    """
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype={dtype.name}: expected a floating type, such as float32 or bfloat16")
    if dtype.itemsize < 4:
        return dtype
    return jnp.result_type(dtype, *(a.dtype for a in arrays))


def param_dtype(dtype: DType) -> DType:
    """Returns the dtype of parameters: float32, or float64 for a float64 net; never half precision."""
    return jnp.promote_types(dtype, jnp.float32)


class Conv(nn.Module):
    """Convolution without bias, kernel k x k, padding d (k // 2): (B, H, W, I) -> (B, ceil(H / s), ceil(W / s), O).

    On all platforms but a TPU, a 1x1 convolution is computed as a matrix product (after subsampling, if it is strided). With `fold`
    the map is folded by it, and the result by `fold` / `stride`; then the dilation is 1.
    """

    features: int
    size: int
    stride: int = 1
    dtype: DType = jnp.float32
    dilation: int = 1
    kernel_init: str = "he"
    fold: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1] // self.fold, self.features)
        kernel = self.param("kernel", initializer(self.kernel_init), shape, param_dtype(self.dtype))
        dtype = compute_dtype(self.dtype, x, kernel)
        if self.fold > 1:
            if self.fold % self.stride or self.dilation > 1:
                raise ValueError(f"fold={self.fold}, stride={self.stride}, dilation={self.dilation}: expected a stride that divides "
                                 "the fold, and no dilation of a folded map")  # fmt: skip
            return convolve_folded(x.astype(dtype), kernel.astype(dtype), self.fold, stride=self.stride)
        return convolve(x.astype(dtype), kernel.astype(dtype), stride=self.stride, dilation=self.dilation)


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Applies a kernel (k, k, I, O) to x (B, H, W, I) and returns (B, ceil(H / stride), ceil(W / stride), O)."""
    size = kernel.shape[0]
    if size == 1 and platforms.platform() != "tpu":  # there, a product would turn the layout of the map twice
        x = jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
        # Flattened, so that the gradients are plain matrix products too: up to three times as fast on a CPU.
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    pads = [(side // 2 * dilation,) * 2 for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class MapConv(nn.Module):
    """The last layer of nets that give maps: a 1x1 convolution with bias, (B, H, W, I) -> (B, H, W, O), in float32 at least."""

    features: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype, fold = param_dtype(self.dtype), fold_of(x.shape[-1], x.shape[2])
        kernel = self.param("kernel", narrow, (1, 1, x.shape[-1], self.features), dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), dtype)
        x = folded(x, fold)
        x = x.astype(jnp.result_type(x, kernel))
        y = convolve_folded(x, kernel.astype(x.dtype), fold)
        return unfolded(y + spread(bias, fold), fold)


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


def convolve_folded(x: jax.Array, kernel: jax.Array, n: int, *, stride: int = 1) -> jax.Array:
    """Applies a kernel (k, k, I, O) to the map that x (B, H, W / n, n I) is a folding of.

    Returns:
        (B, ceil(H / stride), W / n, n / stride O): the result, folded by n / stride. `stride` divides n.
    """
    large, before, behind = fold_kernel(kernel, n, stride=stride)
    rows = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, large, (stride, 1), ((rows, rows), (before, behind)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def fold_kernel(kernel: jax.Array, n: int, *, stride: int = 1) -> tuple[jax.Array, int, int]:
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
    tap, block, source, target = np.ix_(range(size), range(before + 1 + behind), range(n), range(results))
    places = stride * target + tap - size // 2 == n * (block - before) + source
    large = jnp.einsum("htio,tbsp->hbsipo", kernel, places.astype(kernel.dtype), precision="highest")
    return large.reshape(kernel.shape[0], -1, n * kernel.shape[2], results * kernel.shape[3]), before, behind


class BatchNorm(nn.Module):
    """Batch normalisation over (B, H, W), with statistics in float32 at least.

    Training normalises with the biased variance of the batch and moves the running statistics by 0.1 towards the
    mean and the unbiased variance, as PyTorch does. Under `jax.jit` with a sharded batch the mean is over all
    devices, hence over the global batch; `groups=g` instead computes the statistics of g equal, consecutive parts of the
    batch (the per-GPU statistics of the PyTorch recipes are g = number of GPUs), and the running statistics move
    towards the mean over the groups. `eps` is added to the variance; torchvision's released detectors have 0 (QUIRK E1). With
    `fold` the map is folded.
    """

    groups: int = 1
    dtype: DType = jnp.float32
    scale_init: Any = nn.initializers.ones
    eps: float = BN_EPS
    fold: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        c, dtype = x.shape[-1] // self.fold, param_dtype(self.dtype)
        scale = self.param("scale", self.scale_init, (c,), dtype)
        bias = self.param("bias", nn.initializers.zeros, (c,), dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,), dtype)
        if not train:
            a = scale * jax.lax.rsqrt(running_var.value + self.eps)
            return (x * self._spread(a) + self._spread(bias - running_mean.value * a)).astype(x.dtype)
        b, h, w, _ = x.shape
        if b % self.groups:
            raise ValueError(f"batch of {b} cannot be split into batch_groups={self.groups} equal groups")
        n = b // self.groups * h * w * self.fold
        if n < 2:
            raise ValueError(
                f"BatchNorm in training has only one value per channel (feature map {x.shape}, {self.groups} groups)"
            )
        grouped = x.reshape(self.groups, b // self.groups, h, w, -1).astype(jnp.promote_types(x.dtype, jnp.float32))
        # One pass over the map: E[d^2] - E[d]^2 of the distance d to the running mean. In float32 the difference keeps
        # three digits as long as the batch's mean is within 30 standard deviations of the running one; a second pass
        # over the map would always keep them.
        shift = jax.lax.stop_gradient(running_mean.value)
        d = grouped - self._spread(shift)
        mean_d = self._mean(d)
        var = jnp.maximum(self._mean(jnp.square(d)) - jnp.square(mean_d), 0)
        mean = shift + mean_d
        if not self.is_initializing():
            new_mean, new_var = mean.mean(0).ravel(), var.mean(0).ravel() * (n / (n - 1))
            running_mean.value += (BN_MOMENTUM * (new_mean - running_mean.value)).astype(dtype)
            running_var.value += (BN_MOMENTUM * (new_var - running_var.value)).astype(dtype)
        a = scale * jax.lax.rsqrt(var + self.eps)
        return (grouped * self._spread(a) + self._spread(bias - mean * a)).reshape(x.shape).astype(x.dtype)

    def _mean(self, x: jax.Array) -> jax.Array:
        """Returns the mean of every group and channel, (G, 1, 1, 1, C), of a map (G, B / G, H, W / fold, fold C)."""
        mean = x.mean((1, 2, 3), keepdims=True)
        return mean if self.fold == 1 else mean.reshape(*mean.shape[:-1], self.fold, -1).mean(-2)

    def _spread(self, values: jax.Array) -> jax.Array:
        return spread(values, self.fold)


class Unit:
    """A convolution and batch normalisation under two names of the calling module, whose attributes they take.

    The module has dtype, batch_groups and kernel_init, and may have dilation and bn_eps. `fold` is that of the map.
    """

    def __init__(self, module: Any, train: bool):
        self.module, self.train = module, train

    def __call__(
        self, x: jax.Array, features: int, size: int, stride: int = 1, *, conv: str, bn: str, fold: int = 1
    ) -> jax.Array:
        net = self.module
        options = {"dilation": getattr(net, "dilation", 1), "kernel_init": net.kernel_init}
        x = Conv(features, size, stride, dtype=net.dtype, **options, fold=fold, name=conv)(x)
        options = {"eps": getattr(net, "bn_eps", BN_EPS), "fold": fold_after(fold, stride)}
        return BatchNorm(net.batch_groups, dtype=net.dtype, **options, name=bn)(x, train=self.train)


def max_pool(x: jax.Array, *, fold: int = 1) -> jax.Array:
    """Max pooling of size 3x3, stride 2, padding 1: (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C).

    It takes the maximum of three shifted rows, then of three shifted columns: on a CPU its gradient takes a third of the
    time of the gradient of a window reduction. On a TPU it is the window reduction, of rows alone if the map is folded. All have
    the same value; where several pixels share the maximum, the gradient is divided among them by the first form and given to one
    of them by the others. A map that is folded by an even number is returned folded by a half of it.
    """
    if fold > 1:
        return _pool_columns_of_folded(nn.max_pool(x, (3, 1), (2, 1), ((1, 1), (0, 0))), fold)
    if platforms.platform() == "tpu":
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for axis in (1, 2):
        size = x.shape[axis]
        out = (size + 1) // 2
        widths = [(0, 0)] * x.ndim
        widths[axis] = (1, 2 * out - size)
        padded = jnp.pad(x, widths, constant_values=-jnp.inf)
        first, middle, last = (jax.lax.slice_in_dim(padded, i, i + 2 * out - 1, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(first, middle), last)
    return x


@jax.custom_jvp
def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.maximum`, whose gradient is given to one of two equals: to divide it takes a TPU as long again."""
    return jnp.maximum(a, b)


@_larger.defjvp
def _larger_jvp(
    values: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return jnp.maximum(*values), jnp.where(values[0] >= values[1], *tangents)


def _pool_columns_of_folded(x: jax.Array, n: int) -> jax.Array:
    """Returns the maximum of every second column of a map and its neighbours; x and the result are folded, by n and n / 2."""
    pixels = jnp.split(x, n, axis=-1)
    before = jnp.pad(pixels[-1][:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)), constant_values=-jnp.inf)
    pixels = [before, *pixels]
    return jnp.concatenate([_larger(_larger(*pixels[i : i + 2]), pixels[i + 2]) for i in range(0, n, 2)], -1)
