"""The layers of the backbones: convolutions (depthwise: `nets.depthwise`), batch normalisation, max pooling, dtype rules.

Shapes are channels-last, kernels (h, w, in, out), padding is PyTorch's: symmetric, k // 2. With `fold=n` the layers take maps that
are folded by n (`nets.folding`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import platforms
from jaxpose.nets import moments
from jaxpose.nets.folding import convolve_folded, every_nth, fold_after, fold_of, folded, spread, unfolded

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
    the map is folded by it, and the result by `fold` / `stride`; the dilation is 1 then. With `even_first` the pixels of a folded
    result stand in the order that `folding.max_pool_of_folded` takes.
    """

    features: int
    size: int
    stride: int = 1
    dtype: DType = jnp.float32
    dilation: int = 1
    kernel_init: str = "he"
    fold: int = 1
    even_first: bool = False

    @nn.compact
    def kernel_for(self, channels: int) -> jax.Array:
        """Returns the parameter (k, k, channels, O)."""
        shape = (self.size, self.size, channels, self.features)
        return self.param("kernel", initializer(self.kernel_init), shape, param_dtype(self.dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel_for(x.shape[-1] // self.fold)
        dtype = compute_dtype(self.dtype, x, kernel)
        if self.fold > 1:
            if self.fold % self.stride or self.dilation > 1:
                raise ValueError(f"fold={self.fold}, stride={self.stride}, dilation={self.dilation}: expected a stride that divides "
                                 "the fold, and no dilation of a folded map")  # fmt: skip
            options = {"stride": self.stride, "even_first": self.even_first}
            return convolve_folded(x.astype(dtype), kernel.astype(dtype), self.fold, **options)
        return convolve(x.astype(dtype), kernel.astype(dtype), stride=self.stride, dilation=self.dilation)


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Applies a kernel (k, k, I, O) to x (B, H, W, I) and returns (B, ceil(H / stride), ceil(W / stride), O)."""
    is_1x1 = kernel.shape[:2] == (1, 1)
    if is_1x1:  # a TPU would write the gradient of a strided convolution at its full size, most of it zeros, and add it
        x, stride = every_nth(x, stride), 1
    if is_1x1 and platforms.platform() != "tpu":  # there, a product would turn the layout of the map twice
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

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises x (B, H, W / fold, fold C)."""
        variables = self._variables(x.shape[-1] // self.fold)
        scale, bias, running_mean, running_var = variables
        if not train:
            a = scale * jax.lax.rsqrt(running_var.value + self.eps)
            return (x * self._spread(a) + self._spread(bias - running_mean.value * a)).astype(x.dtype)
        b, h, w, _ = x.shape
        if b % self.groups:
            raise ValueError(f"batch of {b} cannot be split into batch_groups={self.groups} equal groups")
        grouped = x.reshape(self.groups, b // self.groups, h, w, -1).astype(jnp.promote_types(x.dtype, jnp.float32))
        # One pass over the map: E[d^2] - E[d]^2 of the distance d to the running mean. In float32 the difference keeps
        # three digits as long as the batch's mean is within 30 standard deviations of the running one; a second pass
        # over the map would always keep them.
        shift = jax.lax.stop_gradient(running_mean.value)
        d = grouped - self._spread(shift)
        mean_d = self._mean(d)
        var = jnp.maximum(self._mean(jnp.square(d)) - jnp.square(mean_d), 0)
        a, offset = self._coefficients(variables, shift + mean_d, var, b // self.groups * h * w * self.fold)
        return (grouped * self._spread(a) + self._spread(offset)).reshape(x.shape).astype(x.dtype)

    def of_convolution(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Normalises the 1x1 convolution of x by a kernel, in training, from the moments of x (`nets.moments`).

        Args:
            x: (B, H, W / fold, fold I).
            kernel: (1, 1, I, C), the parameter.

        Raises:
            ValueError: `groups` is not 1, or the kernel is larger.
        """
        if self.groups != 1 or kernel.shape[:2] != (1, 1):
            raise ValueError(f"kernel {kernel.shape} with groups={self.groups}: expected a kernel 1x1 and one group")
        x = x.astype(compute_dtype(self.dtype, x, kernel))
        kernel = moments.rounded(kernel, x.dtype)
        mean, var = moments.statistics_of_convolution(x, kernel, self.fold)
        variables = self._variables(kernel.shape[-1])
        a, offset = self._coefficients(variables, mean[None], var[None], x.size // kernel.shape[2])
        y = moments.convolve_and_scale(x, kernel, a[0], self.fold)
        return (y + self._spread(offset[0])).astype(x.dtype)

    @nn.compact
    def _variables(self, channels: int) -> tuple[jax.Array, jax.Array, nn.Variable, nn.Variable]:
        """Returns the parameters scale and bias, and the variables of the running mean and variance."""
        dtype = param_dtype(self.dtype)
        return (
            self.param("scale", self.scale_init, (channels,), dtype),
            self.param("bias", nn.initializers.zeros, (channels,), dtype),
            self.variable("batch_stats", "mean", jnp.zeros, (channels,), dtype),
            self.variable("batch_stats", "var", jnp.ones, (channels,), dtype),
        )

    def _coefficients(self, variables: tuple, mean: jax.Array, var: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        """Moves the running statistics, and returns the factor and the offset that normalise, (G, 1, 1, 1, C) each.

        Args:
            variables: Those of `_variables`.
            mean, var: The statistics of every group and channel, (G, 1, 1, 1, C) each, taken over n values.
        """
        if n < 2:
            raise ValueError(f"BatchNorm {self.name} in training has only one value per channel ({self.groups} groups)")
        scale, bias, running_mean, running_var = variables
        if not self.is_initializing():
            new_mean, new_var = mean.mean(0).ravel(), var.mean(0).ravel() * (n / (n - 1))
            for running, new in ((running_mean, new_mean), (running_var, new_var)):
                running.value += (BN_MOMENTUM * (new - running.value)).astype(running.value.dtype)
        a = scale * jax.lax.rsqrt(var + self.eps)
        return a, bias - mean * a

    def _mean(self, x: jax.Array) -> jax.Array:
        """Returns the mean of every group and channel, (G, 1, 1, 1, C), of a map (G, B / G, H, W / fold, fold C)."""
        mean = x.mean((1, 2, 3), keepdims=True)
        return mean if self.fold == 1 else mean.reshape(*mean.shape[:-1], self.fold, -1).mean(-2)

    def _spread(self, values: jax.Array) -> jax.Array:
        return spread(values, self.fold)


class Unit:
    """A convolution and batch normalisation under two names of the calling module, whose attributes they take.

    The module has dtype and batch_groups, and may have kernel_init, dilation and bn_eps. `fold` and `even_first` are those of `Conv`.
    Where the statistics are taken from the moments of the input (`nets.moments`), `Conv` gives its kernel and is not called, and
    all of it counts as the normalisation's in reports and profiles.
    """

    def __init__(self, module: Any, train: bool):
        self.module, self.train = module, train

    def __call__(
        self, x: jax.Array, features: int, size: int, stride: int = 1, *, conv: str, bn: str, fold: int = 1,
        even_first: bool = False,
    ) -> jax.Array:  # fmt: skip
        net, channels = self.module, x.shape[-1] // fold
        convolution = Conv(
            features, size, stride, dtype=net.dtype, dilation=getattr(net, "dilation", 1),
            kernel_init=getattr(net, "kernel_init", "he"), fold=fold, even_first=even_first, name=conv,
        )  # fmt: skip
        options = {"eps": getattr(net, "bn_eps", BN_EPS), "fold": fold_after(fold, stride)}
        norm = BatchNorm(net.batch_groups, dtype=net.dtype, **options, name=bn)
        has_moments = size == stride == net.batch_groups == 1 and moments.prefer_moments(channels, features, net.dtype)
        if self.train and has_moments:
            return norm.of_convolution(x, convolution.kernel_for(channels))
        return norm(convolution(x), train=self.train)


def max_pool(x: jax.Array) -> jax.Array:
    """Max pooling of size 3x3, stride 2, padding 1: (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C).

    It takes the maximum of three shifted rows, then of three shifted columns: on a CPU its gradient takes a third of the
    time of the gradient of a window reduction. On a TPU it is the window reduction. Both have the same value; where several
    pixels share the maximum, the gradient is divided among them by the first form and given to one of them by the second.
    """
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
