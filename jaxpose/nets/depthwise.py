"""Depthwise convolution, one filter per channel, in the form that is fast on the platform that runs it.

On a GPU it is XLA's grouped convolution. On a CPU that takes tens of times as long as the k^2 products that it consists of,
so there it is their sum, with a gradient of its own. The choice between these two is made at compilation
(`jax.lax.platform_dependent`), so that a program that is exported for both has both. Formats such as ONNX cannot express it: inside
`for_any_platform` the traced operation is the grouped convolution.

On a TPU (`jaxpose.platforms`, at tracing) a map of at most 64 channels is folded (`nets.folding`), and the filters are the
diagonal of a kernel between all channels, most of which is 0: by its compiler a sixth of the cycles of the grouped convolution,
which wider maps and those of odd width still take.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import platforms
from jaxpose.nets.folding import convolve_folded, fold_of, folded, unfolded
from jaxpose.nets.layers import DType, compute_dtype, he_fan_out, param_dtype

_ANY_PLATFORM: ContextVar[bool] = ContextVar("any_platform", default=False)


class DepthwiseConv(nn.Module):
    """Applies a k x k filter to every channel, padding k // 2: (B, H, W, C) -> (B, ceil(H / s), ceil(W / s), C).

    The kernel is (k, k, 1, C), the published (C, 1, k, k) transposed like every other kernel.
    """

    size: int
    stride: int = 1
    dtype: DType = jnp.float32
    use_bias: bool = False
    kernel_init: Any = he_fan_out

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, stored_dtype = (self.size, self.size, 1, x.shape[-1]), param_dtype(self.dtype)
        kernel = self.param("kernel", self.kernel_init, shape, stored_dtype)
        dtype = compute_dtype(self.dtype, x, kernel)
        y = convolve_depthwise(x.astype(dtype), kernel.astype(dtype), stride=self.stride)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, shape[-1:], stored_dtype).astype(dtype)
        return y


def convolve_depthwise(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Applies a kernel (k, k, 1, C) to x (B, H, W, C) and returns (B, ceil(H / stride), ceil(W / stride), C)."""
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if _ANY_PLATFORM.get():
        return _grouped(x, kernel, stride=stride)
    fold = fold_of(x.shape[-1], x.shape[2])
    if fold % stride == 0 and fold > 1:
        diagonal = jnp.eye(x.shape[-1], dtype=kernel.dtype) * kernel
        return unfolded(convolve_folded(folded(x, fold), diagonal, fold, stride=stride), fold // stride)
    on_cpu = _with_quick_gradient if stride == 1 else partial(_sum_of_shifts, stride=stride)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=partial(_grouped, stride=stride))


@contextmanager
def for_any_platform() -> Iterator[None]:
    """Traces without a choice by platform, for formats that have none (ONNX); slower on a CPU under XLA."""
    token = _ANY_PLATFORM.set(True)
    try:
        with platforms.traced_for("cpu"):
            yield
    finally:
        _ANY_PLATFORM.reset(token)


def _grouped(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )  # fmt: skip


def _sum_of_shifts(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    b, h, w, c = x.shape
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    bottom, right = (h - 1) // stride * stride + 1, (w - 1) // stride * stride + 1
    # Summed in float32 at least, as in the convolution.
    kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))

    def row(i: int | jax.Array) -> jax.Array:
        from_row = jax.lax.dynamic_slice_in_dim(padded, i, bottom, 1) if size > 3 else padded[:, i : i + bottom]
        return sum(
            jax.lax.slice(from_row, (0, 0, j, 0), (b, bottom, j + right, c), (1, stride, stride, 1)) * kernel[i, j, 0]
            for j in range(size)
        )

    if size <= 3:
        return sum(row(i) for i in range(size)).astype(x.dtype)
    # In a loop the wide sum is computed once; fused into its consumers, it would be computed once for each of them.
    zeros = jnp.zeros(row(0).shape, kernel.dtype)
    return jax.lax.fori_loop(0, size, lambda i, y: y + row(i), zeros).astype(x.dtype)


@jax.custom_vjp
def _with_quick_gradient(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_sum_of_shifts` at stride 1, whose own gradient would read the map k^2 times."""
    return _sum_of_shifts(x, kernel, stride=1)


def _keep(x: jax.Array, kernel: jax.Array):
    return _with_quick_gradient(x, kernel), (x, kernel)


def _quick_gradient(inputs: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """dx is dy convolved with the kernel rotated by 180 degrees. dkernel[i, j] = sum over pixels of x, shifted by (i, j), times dy: for
    every i, a matrix product over batch and rows computes it for all pairs of columns, and (i, j) is the sum of a diagonal."""
    x, kernel = inputs
    (b, h, w, c), size, pad = x.shape, kernel.shape[0], kernel.shape[0] // 2
    dx = _sum_of_shifts(dy, kernel[::-1, ::-1], stride=1)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows = jnp.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0))).transpose(3, 2, 0, 1).astype(wide)  # (C, W, B, H + 2 pad)
    right = dy.transpose(3, 0, 1, 2).reshape(c, b * h, w).astype(wide)
    columns = jnp.stack([rows[..., i : i + h].reshape(c, w, b * h) @ right for i in range(size)])  # (k, C, W, W)
    dkernel = jnp.stack([jnp.trace(columns, offset=pad - j, axis1=2, axis2=3) for j in range(size)], 1)
    return dx, dkernel[:, :, None].astype(kernel.dtype)


_with_quick_gradient.defvjp(_keep, _quick_gradient)
