"""The residual U-Net of He 2019 for scans of the retina, and the two heads that read boundaries off its columns.

He's own code is not public. `ResUNet` follows the closest public statement of the first author, the U-Net of "Self domain
adapted network" (He 2020): the same number of channels at every level, blocks with a residual branch, PReLU, max pooling,
bilinear upsampling with aligned corners. RLE's appendix H replaces the output layer "by a fully-connected layer for
regression" and says no more. Here one such layer reads the features of a whole column and is shared by all columns
(`ColumnRegressor`), so that the net takes scans of any width. He's own head is `ColumnSoftmax`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets.layers import BatchNorm, Conv, compute_dtype, param_dtype

PRELU_START = 0.25  # PyTorch's


class ResidualBlock(nn.Module):
    """A convolution k x k, then two more with BatchNorm whose result is added to it: (B, H, W, I) -> (B, H, W, features)."""

    features: int
    size: int = 3
    dtype: Any = jnp.float32
    batch_groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(name, x):
            return Conv(self.features, self.size, dtype=self.dtype, name=name)(x)

        def bn(name, x):
            return BatchNorm(self.batch_groups, dtype=self.dtype, name=name)(x, train=train)

        def prelu(name, x):
            return nn.PReLU(negative_slope_init=PRELU_START, name=name)(x)

        x = conv("conv1", x)
        y = prelu("prelu1", bn("bn1", conv("conv2", x)))
        return prelu("prelu2", x + bn("bn2", conv("conv3", y)))


class ResUNet(nn.Module):
    """Maps scans (B, H, W) or (B, H, W, I) to features (B, H, W, width) of the same height and width.

    Attributes:
        width: number of channels at every level.
        levels: number of resolutions; each one halves the height and the width of the previous one.
        dtype: compute dtype of the convolutions.
        batch_groups: number of consecutive parts of the global batch with their own BatchNorm statistics.

    Raises:
        ValueError: the height or the width of the scans is not a multiple of `size_multiple`.

    >>> net = ResUNet(width=4, levels=2)
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 6)))
    >>> net.apply(variables, jnp.zeros((2, 16, 10))).shape
    (2, 16, 10, 4)
    """

    width: int = 64
    levels: int = 5
    dtype: Any = jnp.float32
    batch_groups: int = 1

    def __post_init__(self):
        if self.width < 1 or self.levels < 1:
            raise ValueError(f"width={self.width}, levels={self.levels}: expected positive numbers")
        super().__post_init__()

    @property
    def size_multiple(self) -> int:
        """The number of which the height and the width of a scan must be multiples."""
        return 2 ** (self.levels - 1)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = images[..., None] if images.ndim == 3 else images
        if x.ndim != 4 or x.shape[1] % self.size_multiple or x.shape[2] % self.size_multiple:
            raise ValueError(
                f"scans of shape {images.shape}: expected (B, H, W) or (B, H, W, channels) with H and W multiples of "
                f"{self.size_multiple}"
            )

        def block(name, x, size=3):
            return ResidualBlock(self.width, size, self.dtype, self.batch_groups, name=name)(x, train=train)

        x, levels = x.astype(compute_dtype(self.dtype, x)), []
        for level in range(self.levels - 1):
            levels.append(block(f"down{level}", x))
            x = nn.max_pool(levels[-1], (2, 2), (2, 2))
        x = block("bottom", x, size=1)
        for level, finer in reversed(list(enumerate(levels))):
            x = block(f"up{level}", jnp.concatenate([upsample(x), finer], -1))
        return x


def upsample(x: jax.Array) -> jax.Array:
    """Doubles the height and the width of maps (B, h, w, C) by linear interpolation that keeps the corners in place.

    >>> upsample(jnp.array([0.0, 3.0]).reshape(1, 1, 2, 1)).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0]
    """
    for axis in (1, 2):
        size = x.shape[axis]
        at = jnp.linspace(0, size - 1, 2 * size)
        low = jnp.clip(jnp.floor(at).astype(int), 0, max(size - 2, 0))
        part = (at - low).astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        high = jnp.minimum(low + 1, size - 1)
        x = jnp.take(x, low, axis) * (1 - part) + jnp.take(x, high, axis) * part
    return x


class ColumnRegressor(nn.Module):
    """mu and sigma of every boundary in every column, by one linear layer on the features of the column.

    The layer is a convolution with a kernel of (H, 1). Its kernel is divided by sqrt(H C) when it is applied: it reads H C
    features, so that without this a step of Adam would move mu by a large part of the scan. sigma starts as the sigmoid of
    `sigma_bias` everywhere, because an accidentally small sigma would make the first losses huge.

    Attributes:
        backbone: net from scans to features (B, H, W, C), such as `ResUNet`.
        num_boundaries: number K of boundaries.
        sigma_bias: initial bias of sigma's logit.
        sigma_gain: factor of the outputs that become sigma's logit, by which a step of Adam changes sigma more. The division by
            sqrt(H C) suits mu, of which 0.01 is much; of sigma's logit 1 is little, so that at 1 sigma learns that much slower.

    >>> net = ColumnRegressor(ResUNet(width=4, levels=2), 8)
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 16, 6)))
    >>> mu, sigma = net.apply(variables, jnp.zeros((2, 16, 10)))
    >>> mu.shape, sigma.shape
    ((2, 10, 8), (2, 10, 8))
    """

    backbone: nn.Module
    num_boundaries: int
    sigma_bias: float = 0.0
    sigma_gain: float = 1.0

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Returns mu and sigma (B, W, K): mu is row / H - 0.5, sigma a sigmoid, in the same unit; float32 at least."""
        features = self.backbone(images, train=train)
        _, height, _, channels = features.shape
        outputs, dtype = 2 * self.num_boundaries, param_dtype(features.dtype)
        kernel = self.param("kernel", _start_of_kernel, (height, channels, outputs), dtype)
        bias = self.param("bias", nn.initializers.zeros, (outputs,), dtype)
        kernel = kernel / math.sqrt(height * channels)
        raw = jnp.einsum("bhwc,hck->bwk", features.astype(kernel.dtype), kernel) + bias
        mu, sigma = jnp.split(raw, 2, axis=-1)
        return mu, jax.nn.sigmoid(self.sigma_gain * sigma + self.sigma_bias)


def _start_of_kernel(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Returns a kernel (H, C, 2 K) with small random numbers for mu and zeros for sigma."""
    half = (*shape[:-1], shape[-1] // 2)
    return jnp.concatenate([0.1 * jax.random.normal(key, half, dtype), jnp.zeros(half, dtype)], -1)


class ColumnSoftmax(nn.Module):
    """He 2019's head: a softmax over every column for each boundary, whose mean is the boundary's row.

    Attributes:
        backbone: net from scans to features (B, H, W, C), such as `ResUNet`.
        num_boundaries: number K of boundaries.

    >>> net = ColumnSoftmax(ResUNet(width=4, levels=2), 8)
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 16, 6)))
    >>> mu, sigma, logits = net.apply(variables, jnp.zeros((2, 16, 10)), with_maps=True)
    >>> mu.shape, logits.shape
    ((2, 10, 8), (2, 16, 10, 8))
    """

    backbone: nn.Module
    num_boundaries: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, with_maps: bool = False) -> tuple[jax.Array, ...]:
        """Returns mu and sigma (B, W, K), the mean and the deviation of the softmax as parts of H, and perhaps the logits."""
        features = self.backbone(images, train=train)
        logits = nn.Dense(self.num_boundaries, name="logits")(features)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        probability, height = jax.nn.softmax(logits, axis=1), logits.shape[1]
        rows = jnp.arange(height, dtype=logits.dtype)[:, None, None]
        mean = (probability * rows).sum(1)
        deviation = jnp.sqrt((probability * jnp.square(rows - mean[:, None])).sum(1))
        mu, sigma = mean / height - 0.5, deviation / height
        return (mu, sigma, logits) if with_maps else (mu, sigma)
