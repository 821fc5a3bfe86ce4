"""Stacked hourglass nets (Newell 2016) as two code bases publish them: bearpaw's pytorch-pose and princeton-vl's.

Both are stacks of hourglasses of depth 4 with pre-activation residual blocks; biases are everywhere. They differ in the widths
of the stem: after the pooling, bearpaw has 128 -> C -> C channels, princeton 128 -> 128 -> C (`widths`).
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets.layers import BatchNorm, compute_dtype, convolve, he_fan_out, param_dtype
from jaxpose.nets.resnet import check_images

DEPTH = 4
"""Number of times an hourglass halves its maps."""
STRIDE = 4
"""Stride of the maps that the stacks read and predict."""


class BiasedConv(nn.Module):
    """Convolution with a bias, kernel k x k, padding k // 2."""

    features: int
    size: int = 1
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stored = param_dtype(self.dtype)
        kernel = self.param("kernel", he_fan_out, (self.size, self.size, x.shape[-1], self.features), stored)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), stored)
        dtype = compute_dtype(self.dtype, x, kernel)
        return convolve(x.astype(dtype), kernel.astype(dtype), stride=self.stride) + bias.astype(dtype)


class PreActivation(nn.Module):
    """x + f(x), f = BN, ReLU, 1x1, BN, ReLU, 3x3, BN, ReLU, 1x1; where the widths differ, x passes a 1x1 convolution."""

    features: int
    dtype: Any
    batch_groups: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for i, (features, size) in enumerate(((self.features // 2, 1), (self.features // 2, 3), (self.features, 1)), 1):
            y = nn.relu(BatchNorm(self.batch_groups, dtype=self.dtype, name=f"bn{i}")(y, train=train))
            y = BiasedConv(features, size, dtype=self.dtype, name=f"conv{i}")(y)
        if x.shape[-1] != self.features:
            x = BiasedConv(self.features, dtype=self.dtype, name="downsample_conv")(x)
        return x + y


class StackedHourglass(nn.Module):
    """Maps images (B, H, W, 3), H and W multiples of 64, to the maps of every stack, a tuple of (B, H / 4, W / 4, K).

    The last maps are the prediction; the published losses use all of them, as the task `tasks.heatmaps` does.

    Parameter names: conv1, bn1, layer{1,2,3}_{i}; hg{stack}_{level}_{up1,low1,low2,low3}_{i}, where level 0 is the innermost
    one and alone has low2; res{stack}_{i}, fc{stack}_{conv,bn}, score{stack}, and merge{stack}_{features,maps} between stacks.

    Attributes:
        num_joints: number of joints, K.
        stacks: number of hourglasses.
        blocks: number of residual blocks at each place of an hourglass; published: 1, and 4 by bearpaw.
        width: channels of the hourglasses.
        stem: widths of the stem, those of "bearpaw" or of "princeton".
        dtype: compute dtype of the convolutions; the maps are float32 at least.
        batch_groups: number of consecutive parts of the global batch with their own BatchNorm statistics.

    Raises:
        ValueError: an attribute is out of range, or the images have another shape.

    >>> net = StackedHourglass(16, stacks=2, width=8)
    >>> maps = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 64, 3)))
    >>> [m.shape for m in maps]
    [(1, 16, 16, 16), (1, 16, 16, 16)]
    """

    num_joints: int
    stacks: int = 8
    blocks: int = 1
    width: int = 256
    stem: Literal["bearpaw", "princeton"] = "bearpaw"
    dtype: Any = jnp.float32
    batch_groups: int = 1

    def __post_init__(self):
        for name in ("num_joints", "stacks", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width={self.width}: expected a multiple of 8")
        if self.stem not in ("bearpaw", "princeton"):
            raise ValueError(f"stem={self.stem!r}: expected 'bearpaw' or 'princeton'")
        super().__post_init__()

    @property
    def size_multiple(self) -> int:
        """The number of which the height and the width of an image must be multiples."""
        return STRIDE * 2**DEPTH

    @property
    def stem_widths(self) -> tuple[int, int, int]:
        """Channels after the three groups of residual blocks of the stem."""
        return (self.width // 2, self.width if self.stem == "bearpaw" else self.width // 2, self.width)

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Returns the shape of the smallest image, with which `weights.fill` initialises the net."""
        return jax.ShapeDtypeStruct((1, self.size_multiple, self.size_multiple, 3), jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        check_images(images)
        if images.shape[1] % self.size_multiple or images.shape[2] % self.size_multiple:
            raise ValueError(
                f"images have shape {images.shape}: expected heights and widths that {self.size_multiple} divides"
            )

        def conv(name, x, features, **options):
            return BiasedConv(features, dtype=self.dtype, name=name, **options)(x)

        def bn_relu(name, x):
            return nn.relu(BatchNorm(self.batch_groups, dtype=self.dtype, name=name)(x, train=train))

        def residual(name, x, features=self.width):
            for i in range(self.blocks):
                x = PreActivation(features, self.dtype, self.batch_groups, name=f"{name}_{i}")(x, train=train)
            return x

        def hourglass(name, x, level=DEPTH - 1):
            low = residual(f"{name}_{level}_low1", nn.max_pool(x, (2, 2), (2, 2)))
            low = hourglass(name, low, level - 1) if level else residual(f"{name}_0_low2", low)
            low = residual(f"{name}_{level}_low3", low)
            return residual(f"{name}_{level}_up1", x) + jnp.repeat(jnp.repeat(low, 2, 1), 2, 2)

        x = images.astype(compute_dtype(self.dtype, images))
        x = bn_relu("bn1", conv("conv1", x, self.width // 4, size=7, stride=2))
        x = nn.max_pool(residual("layer1", x, self.stem_widths[0]), (2, 2), (2, 2))
        x = residual("layer3", residual("layer2", x, self.stem_widths[1]), self.stem_widths[2])
        maps: list[jax.Array] = []
        for i in range(self.stacks):
            y = residual(f"res{i}", hourglass(f"hg{i}", x))
            y = bn_relu(f"fc{i}_bn", conv(f"fc{i}_conv", y, self.width))
            score = conv(f"score{i}", y, self.num_joints)
            maps.append(score.astype(jnp.promote_types(score.dtype, jnp.float32)))
            if i < self.stacks - 1:
                x = x + conv(f"merge{i}_features", y, self.width) + conv(f"merge{i}_maps", score, self.width)
        return tuple(maps)
