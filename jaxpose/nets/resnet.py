"""ResNet-18 ... 152 with torchvision's topology: the stride of a bottleneck is on its 3x3 convolution (Detectron2: on the first 1x1).

He et al. 2016 (Deep residual learning for image recognition); published parameter counts without the classifier:
11,176,512 (18), 23,508,032 (50), 58,143,808 (152).
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets.folding import fold_after, fold_of, fold_of_images, folded, max_pool_of_folded, unfolded
from jaxpose.nets.layers import BN_EPS, Unit, compute_dtype, later, max_pool

# depth -> (blocks per stage, bottleneck?)
STAGES: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class Block(nn.Module):
    """relu(x + f(x)); f is 3x3, 3x3 (basic) or 1x1, 3x3, 1x1 with four times the channels (bottleneck).

    `dilation` is the dilation of the 3x3 convolutions, `kernel_init` a name of `layers.KERNEL_INITS`, `bn_eps` the eps of
    `BatchNorm`; with `stride_in_1x1` the first convolution of a bottleneck has the stride. On a TPU narrow maps are folded inside
    (`nets.folding`); between two blocks the compiler drops the unfolding of one and the folding of the next.
    """

    features: int
    stride: int
    bottleneck: bool
    dtype: Any
    batch_groups: int
    dilation: int = 1
    kernel_init: str = "he"
    bn_eps: float = BN_EPS
    stride_in_1x1: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        f, out = self.features, self.features * (4 if self.bottleneck else 1)
        # Where the map is halved, the block before had half the channels, and left its map folded by that.
        fold = fold_of(f // self.stride, x.shape[2]) if self.dilation == 1 else 1
        x = folded(x, fold)

        unit, after = Unit(self, train), fold_after(fold, self.stride)
        if self.bottleneck:
            first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
            y = nn.relu(unit(x, f, 1, first, fold=fold, conv="conv1", bn="bn1"))
            y = nn.relu(unit(y, f, 3, second, fold=fold_after(fold, first), conv="conv2", bn="bn2"))
            y = unit(y, out, 1, fold=after, conv="conv3", bn="bn3")
        else:
            y = nn.relu(unit(x, f, 3, self.stride, fold=fold, conv="conv1", bn="bn1"))
            y = unit(y, f, 3, fold=after, conv="conv2", bn="bn2")
        if self.stride > 1 or x.shape != y.shape:
            x = unit(x, out, 1, self.stride, fold=fold, conv="downsample_conv", bn="downsample_bn")
        return unfolded(nn.relu(x + y), after)


class ResNet(nn.Module):
    """Maps images (B, H, W, 3) to features (B, ceil(H / s), ceil(W / s), C), s = 32; C = 8 width, or 32 width from depth 50 on.

    Collections: params (float32) and batch_stats. Parameter names follow torchvision's: conv1, bn1,
    layer{1-4}_{i} / conv{1-3}, bn{1-3}, downsample_conv, downsample_bn.

    Attributes:
        depth: the number of layers, 18, 34, 50, 101 or 152.
        width: number of channels of the stem, 64 in the published nets; the stages have width, 2, 4, 8 width.
        dtype: compute dtype of the convolutions; bfloat16 halves memory traffic and uses the matrix units. Parameters and the
            statistics of BatchNorm stay float32. The features have this dtype (float64 images or parameters are
            not cast down).
        batch_groups: number of consecutive parts of the (global) batch with their own BatchNorm statistics in training.
        stages: number of stages, at most four; each one left out halves stride and channels, which suits small images.
        bn_eps: eps of BatchNorm.
        stride_in_1x1: stride in the first 1x1 convolution of a bottleneck, as in Caffe's and Detectron2's nets (QUIRK E5).
        stem: "pooled", as published: a 7x7 convolution of stride 2 and a max pooling of stride 2. "strided": the convolution has
            stride 4 and there is no pooling, so that nothing is computed at stride 2; for nets so small that the stem is a large part
            of their time. Ours.

    >>> net = ResNet(depth=18, width=8)
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 64, 48, 3)))
    >>> net.apply(variables, jnp.zeros((2, 64, 48, 3))).shape
    (2, 2, 2, 64)
    """

    depth: int = 50
    width: int = 64
    dtype: Any = jnp.float32
    batch_groups: int = 1
    stages: int = 4
    bn_eps: float = later(BN_EPS)
    stride_in_1x1: bool = later(False)
    stem: Literal["pooled", "strided"] = later("pooled")

    def __post_init__(self):
        check_attributes(self)
        if self.stem not in ("pooled", "strided"):
            raise ValueError(f"stem={self.stem!r}: expected 'pooled' or 'strided'")
        if self.stages not in (1, 2, 3, 4):
            raise ValueError(f"stages={self.stages}: expected 1, 2, 3 or 4")
        super().__post_init__()

    @property
    def num_features(self) -> int:
        """Channels of the last feature map."""
        return 2 ** (self.stages - 1) * self.width * (4 if STAGES[self.depth][1] else 1)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, every_stage: bool = False) -> Any:
        """Returns the features, or with `every_stage` those of every stage, at strides 4, 8, 16 and 32."""
        maps = [stem(self, images, train=train)]
        for number in range(1, self.stages + 1):
            maps.append(layer(self, maps[-1], number, train=train))
        return maps[1:] if every_stage else maps[-1]


def stem(net: Any, images: jax.Array, *, train: bool) -> jax.Array:
    """Applies conv1, bn1 and the max pooling of a ResNet, as submodules of the calling module: stride 4, `width` channels.

    `net` has the attributes depth, width, dtype and batch_groups of `ResNet`; those of its `stem` too, if it has one.
    """
    check_images(images)
    pooled = getattr(net, "stem", "pooled") == "pooled"
    stride = 2 if pooled else 4
    fold = fold_of_images(net.width, images.shape[2])
    x = folded(images.astype(compute_dtype(net.dtype, images)), fold)
    unit = Unit(net, train)
    x = nn.relu(unit(x, net.width, 7, stride, conv="conv1", bn="bn1", fold=fold, even_first=pooled))
    fold = fold_after(fold, stride)
    if not pooled:
        return unfolded(x, fold)
    return max_pool(x) if fold == 1 else unfolded(max_pool_of_folded(x, fold), fold // 2)


def layer(net: Any, x: jax.Array, number: int, *, train: bool) -> jax.Array:
    """Applies the blocks of layer 1, 2, 3 or 4 (conv2 to conv5 in papers); all but layer 1 halve the map. `net` as for `stem`."""
    blocks, bottleneck = STAGES[net.depth]
    for i in range(blocks[number - 1]):
        stride = 2 if number > 1 and i == 0 else 1
        options = {name: getattr(net, name) for name in ("bn_eps", "stride_in_1x1") if hasattr(net, name)}
        block = Block(net.width * 2 ** (number - 1), stride, bottleneck, net.dtype, net.batch_groups,
                      **options, name=f"layer{number}_{i}")  # fmt: skip
        x = block(x, train=train)
    return x


def check_attributes(net: Any) -> None:
    """Raises a ValueError unless depth, width and batch_groups are those of a ResNet."""
    if net.depth not in STAGES:
        raise ValueError(f"depth={net.depth}: expected one of {', '.join(map(str, STAGES))}")
    if net.width < 1:
        raise ValueError(f"width={net.width}: expected a positive number of channels (64 as published)")
    if net.batch_groups < 1:
        raise ValueError(f"batch_groups={net.batch_groups}: expected 1 (whole batch) or more")


def check_images(images: jax.Array) -> None:
    """Raises a ValueError unless images are (B, H, W, 3) with at least one pixel."""
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"images have shape {images.shape}: expected (B, H, W, 3), channels last, H and W positive")
