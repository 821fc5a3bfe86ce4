"""MobileNetV2 (Sandler 2018): inverted residuals around depthwise convolutions.

Published: 3.5 million parameters and 300 million multiply-adds with the classifier at 224 x 224 px. Without it, as
here, 2,223,872 parameters at width 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets.depthwise import DepthwiseConv
from jaxpose.nets.layers import BatchNorm, Unit, compute_dtype
from jaxpose.nets.resnet import check_images

STEM, LAST = 32, 1280  # channels of the first and of the last convolution
# Table 2 of the paper: (expansion, channels, blocks, stride of the first block) of layer1 to layer7.
LAYERS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels (none if it is 1), depthwise 3x3, 1x1 without activation.

    The input is added if the stride is 1 and the number of channels does not change.
    """

    features: int
    stride: int
    expansion: int
    dtype: Any
    batch_groups: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        unit, y = Unit(self, train), x
        if self.expansion > 1:
            y = nn.relu6(unit(y, self.expansion * x.shape[-1], 1, conv="expand_conv", bn="expand_bn"))
        y = DepthwiseConv(3, self.stride, dtype=self.dtype, name="depthwise_conv")(y)
        y = nn.relu6(BatchNorm(self.batch_groups, dtype=self.dtype, name="depthwise_bn")(y, train=train))
        y = unit(y, self.features, 1, conv="project_conv", bn="project_bn")
        return x + y if self.stride == 1 and x.shape == y.shape else y  # a single pixel keeps its size under stride 2


class MobileNetV2(nn.Module):
    """Maps images (B, H, W, 3) to features (B, ceil(H / 32), ceil(W / 32), C); C = 1280, or 1280 width above width 1.

    The features are those of the last 1x1 convolution, which mmpose's RLE and heatmap models use. Collections: params
    (float32) and batch_stats. Parameter names: conv1, bn1, layer{1-7}_{i} / {expand,depthwise,project}_{conv,bn},
    conv2, bn2.

    Attributes:
        width: multiplier of the channels of every layer, each rounded to a multiple of 8.
        dtype, batch_groups: compute dtype and groups of BatchNorm, as for `ResNet`.

    Raises:
        ValueError: the width is not positive, batch_groups is below 1, or images are not (B, H, W, 3).

    >>> net = MobileNetV2(width=0.35)
    >>> jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 48, 3))).shape
    (1, 2, 2, 1280)
    """

    width: float = 1.0
    dtype: Any = jnp.float32
    batch_groups: int = 1

    def __post_init__(self):
        if not 0 < self.width < float("inf"):
            raise ValueError(f"width={self.width}: expected a positive multiplier (1.0 as published)")
        if self.batch_groups < 1:
            raise ValueError(f"batch_groups={self.batch_groups}: expected 1 (whole batch) or more")
        super().__post_init__()

    @property
    def num_features(self) -> int:
        """Channels of the last feature map."""
        return channels(self.width)[-1]

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        check_images(images)
        unit = Unit(self, train)
        first, *middle, last = channels(self.width)
        x = images.astype(compute_dtype(self.dtype, images))
        x = nn.relu6(unit(x, first, 3, 2, conv="conv1", bn="bn1"))
        for layer, (features, (expansion, _, blocks, stride)) in enumerate(zip(middle, LAYERS, strict=True), start=1):
            for i in range(blocks):
                block = InvertedResidual(features, 1 if i else stride, expansion, self.dtype, self.batch_groups,
                                         name=f"layer{layer}_{i}")  # fmt: skip
                x = block(x, train=train)
        return nn.relu6(unit(x, last, 1, conv="conv2", bn="bn2"))


def channels(width: float) -> tuple[int, ...]:
    """Returns the channels of conv1, layer1 to layer7 and conv2; the last has at least 1280.

    >>> channels(1.0)
    (32, 16, 24, 32, 64, 96, 160, 320, 1280)
    >>> channels(0.35)
    (16, 8, 8, 16, 24, 32, 56, 112, 1280)
    """
    return (*(multiple_of_8(width * c) for c in (STEM, *(layer[1] for layer in LAYERS))),
            multiple_of_8(LAST * max(1.0, width)))  # fmt: skip


def multiple_of_8(channels: float) -> int:
    """Returns the nearest multiple of 8, halves rounded up, or the next one if that would reduce it by more than a tenth.

    >>> [multiple_of_8(c) for c in (3, 11.2, 12, 24, 33.6)]
    [8, 16, 16, 24, 32]
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
