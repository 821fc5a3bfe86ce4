"""The feature pyramid of a detector: maps of all scales with the same number of channels.

Lin et al. 2017 (Feature pyramid networks). A 1x1 convolution of each stage of the backbone, added to the enlarged sum of the coarser
level, then a 3x3 convolution; one further level by taking every second pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets.layers import BN_EPS, BatchNorm, compute_dtype, convolve, param_dtype

# "Xavier" of Caffe2, which is the uniform initialisation of Kaiming with slope 1: bound sqrt(3 / fan_in).
caffe_xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class BiasConv(nn.Module):
    """Convolution with bias, kernel k x k: (B, H, W, I) -> (B, H, W, O)."""

    features: int
    size: int
    stride: int = 1
    dtype: Any = jnp.float32
    kernel_init: Any = caffe_xavier

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, param_dtype(self.dtype))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), param_dtype(self.dtype))
        dtype = compute_dtype(self.dtype, x, kernel)
        return convolve(x.astype(dtype), kernel.astype(dtype), stride=self.stride) + bias.astype(dtype)


class NormConv(nn.Module):
    """Convolution without bias and BatchNorm, kernel k x k: (B, H, W, I) -> (B, H, W, O)."""

    features: int
    size: int
    dtype: Any = jnp.float32
    eps: float = BN_EPS

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", caffe_xavier, shape, param_dtype(self.dtype))
        dtype = compute_dtype(self.dtype, x, kernel)
        x = convolve(x.astype(dtype), kernel.astype(dtype))
        return BatchNorm(dtype=self.dtype, eps=self.eps, name="bn")(x, train=train)


class FPN(nn.Module):
    """Maps features of several scales to a pyramid of equal channels, and one coarser level.

    Attributes:
        features: channels of every level.
        norm: if True, BatchNorm instead of the biases, as in torchvision's v2 detectors.
        dtype: compute dtype.

    >>> maps = [jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 4, 4, 8))]
    >>> [level.shape for level in FPN(16).init_with_output(jax.random.key(0), maps)[0]]
    [(1, 8, 8, 16), (1, 4, 4, 16), (1, 2, 2, 16)]
    """

    features: int = 256
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], *, train: bool = False) -> list[jax.Array]:
        def conv(name: str, size: int, x: jax.Array) -> jax.Array:
            if self.norm:
                return NormConv(self.features, size, dtype=self.dtype, name=name)(x, train=train)
            return BiasConv(self.features, size, dtype=self.dtype, name=name)(x)

        total, levels = None, []
        for i in reversed(range(len(maps))):
            lateral = conv(f"lateral_{i}", 1, maps[i])
            total = lateral if total is None else lateral + enlarged(total, lateral.shape[1:3])
            levels.insert(0, conv(f"output_{i}", 3, total))
        return [*levels, levels[-1][:, ::2, ::2]]


def enlarged(x: jax.Array, size_hw: tuple[int, int]) -> jax.Array:
    """Enlarges maps (B, h, w, C) to a size by the nearest pixel, floor(i h / H).

    >>> enlarged(jnp.arange(2.0).reshape(1, 1, 2, 1), (1, 4)).ravel().tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    for axis, size in enumerate(size_hw, 1):
        if size == 2 * x.shape[axis]:
            x = jnp.repeat(x, 2, axis)
        elif size != x.shape[axis]:
            x = jnp.take(x, jnp.arange(size) * x.shape[axis] // size, axis)
    return x
