"""Heatmap nets: a backbone, transposed convolutions that double the map, and a 1x1 convolution to K maps (Xiao 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpose import platforms
from jaxpose.nets.layers import BatchNorm, Conv, MapConv, compute_dtype, later, narrow, param_dtype


class Deconv(nn.Module):
    """Transposed convolution, kernel 4, stride 2, padding 1, no bias: (B, h, w, I) -> (B, 2 h, 2 w, O).

    y[2 i + a - 1] += W[a] x[i] along each axis. An output pixel of even index depends on two inputs, x[j - 1] with W[3] and
    x[j] with W[1]; one of odd index on x[j] with W[2] and x[j + 1] with W[0]. The layer is therefore one product of 2x2
    windows with a (4 I, 4 O) matrix and a rearrangement; on a TPU it is a dilated convolution.

    The kernel is (4, 4, O, I), the published (I, O, 4, 4) transposed like every other kernel.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (4, 4, self.features, x.shape[-1])
        kernel = self.param("kernel", narrow, shape, param_dtype(self.dtype))
        dtype = compute_dtype(self.dtype, x, kernel)
        return deconvolve(x.astype(dtype), kernel.astype(dtype))


def deconvolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies a kernel (4, 4, O, I) to x (B, h, w, I) and returns (B, 2 h, 2 w, O)."""
    if platforms.platform() == "tpu":  # its compiler leaves out the zeros, and nothing has to be rearranged
        return jax.lax.conv_general_dilated(
            x, kernel[::-1, ::-1], (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWOI", "NHWC")
        )  # fmt: skip
    b, h, w, inputs = x.shape
    outputs = kernel.shape[2]
    taps = np.array([[3, 1], [2, 0]])  # [parity of the output, position in the window] -> row of the kernel
    phases = kernel[taps[:, :, None, None], taps[None, None]]  # (parity, position) of y, of x, then O, I
    phases = phases.transpose(1, 3, 5, 0, 2, 4).reshape(4 * inputs, 4 * outputs)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = jnp.concatenate([padded[:, i : i + h + 1, j : j + w + 1] for i in (0, 1) for j in (0, 1)], -1)
    # One matrix product, so that the gradients are matrix products too: on a CPU, XLA's gradient of the convolution with
    # respect to its kernel takes tens to hundreds of times as long.
    windows = (windows.reshape(-1, 4 * inputs) @ phases).reshape(b, h + 1, w + 1, 2, 2, outputs)
    # Even outputs start one window earlier than odd ones.
    rows = jnp.stack([windows[:, :h, :, 0], windows[:, 1:, :, 1]], 2)
    y = jnp.stack([rows[:, :, :, :w, 0], rows[:, :, :, 1:, 1]], 4)
    return y.reshape(b, 2 * h, 2 * w, outputs)


class HeatmapNet(nn.Module):
    """Maps images (B, H, W, 3) to heatmaps (B, h, w, K); with_features=True also returns the backbone's features.

    SimpleBaseline is `HeatmapNet(ResNet(50), 17)`: three deconvolutions with 256 channels, stride 32 -> 4 (Sun 2018 has
    two, 32 -> 8). HRNet keeps stride 4 by itself: `HeatmapNet(HRNet(32), 17, deconvs=())`.

    Published parameters: 33,999,697 (ResNet-50), 28,536,113 (HRNet-W32), 63,595,745 (W48).

    Attributes:
        backbone: a module from images to features (B, h, w, C).
        num_joints: the number of joints, K.
        deconvs: channels of the deconvolutions, each of which doubles the map.
        dtype: compute dtype of the deconvolutions; the maps are float32 at least.
        batch_groups: number of groups of BatchNorm, as for `ResNet`.
        skips: if True, every deconvolution adds the backbone's map of its own resolution, through a 1x1 convolution, as a U-Net
            does. Needs a `ResNet` with more stages than deconvolutions. Ours, not of a paper.

    Raises:
        ValueError: a number is not positive, or `skips` is set for a backbone that has no such maps.

    >>> from jaxpose.nets import ResNet
    >>> net = HeatmapNet(ResNet(depth=18, width=4), 17, deconvs=(8, 8, 8))
    >>> jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 48, 3))).shape
    (1, 16, 16, 17)
    """

    backbone: nn.Module
    num_joints: int
    deconvs: tuple[int, ...] = (256, 256, 256)
    dtype: Any = jnp.float32
    batch_groups: int = 1
    skips: bool = later(False)

    def __post_init__(self):
        if self.num_joints < 1 or min(self.deconvs, default=1) < 1:
            raise ValueError(f"num_joints={self.num_joints}, deconvs={self.deconvs}: expected positive numbers")
        stages = getattr(self.backbone, "stages", 0)
        if self.skips and len(self.deconvs) >= stages:
            raise ValueError(
                f"skips=True, deconvs={self.deconvs}: expected a ResNet with more stages than deconvolutions, so that each of them "
                f"meets a map of its resolution; this {type(self.backbone).__name__} has {stages}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, with_features: bool = False) -> Any:
        options = {"dtype": self.dtype, "batch_groups": self.batch_groups, "train": train}
        if self.skips:
            *finer, features = self.backbone(images, train=train, every_stage=True)
            maps = map_head(features, self.num_joints, self.deconvs, skips=finer[::-1], **options)
        else:
            features = self.backbone(images, train=train)
            maps = map_head(features, self.num_joints, self.deconvs, **options)
        return (maps, features) if with_features else maps


def map_head(
    x: jax.Array,
    num_joints: int,
    deconvs: tuple[int, ...],
    *,
    dtype: Any,
    batch_groups: int,
    train: bool,
    skips: Sequence[jax.Array] = (),
) -> jax.Array:
    """Maps features (B, h, w, C) to maps (B, 2^n h, 2^n w, K) with n deconvolutions and a 1x1 convolution.

    The layers are submodules of the calling module: those of `upsample` and final_layer.
    """
    x = upsample(x, deconvs, dtype=dtype, batch_groups=batch_groups, train=train, skips=skips)
    return MapConv(num_joints, dtype=dtype, name="final_layer")(x)


def upsample(
    x: jax.Array,
    deconvs: tuple[int, ...],
    *,
    dtype: Any,
    batch_groups: int,
    train: bool,
    skips: Sequence[jax.Array] = (),
) -> jax.Array:
    """Enlarges features (B, h, w, C) to (B, 2^n h, 2^n w, deconvs[-1]) by deconv_layers_{0, 1, 3, ...}, with BatchNorm and ReLU.

    Args:
        x: the features.
        deconvs: channels of the deconvolutions.
        dtype, batch_groups, train: as for `HeatmapNet`.
        skips: maps (B, 2 h, 2 w, ...), (B, 4 h, 4 w, ...), ... that the deconvolutions add before their ReLU, in this order;
            the layers are skip_layers_{0, 1, ...}.

    Raises:
        ValueError: a map and the deconvolution that adds it differ in size.
    """
    for i, features in enumerate(deconvs):
        x = Deconv(features, dtype=dtype, name=f"deconv_layers_{3 * i}")(x)
        x = BatchNorm(batch_groups, dtype=dtype, name=f"deconv_layers_{3 * i + 1}")(x, train=train)
        if skips:
            finer = Conv(features, 1, dtype=dtype, name=f"skip_layers_{2 * i}")(skips[i])
            if finer.shape != x.shape:
                raise ValueError(
                    f"the deconvolved map has shape {x.shape}, that of the backbone {finer.shape}: choose an input size that the "
                    "net's stride divides (multiples of 32)"
                )
            x += BatchNorm(batch_groups, dtype=dtype, name=f"skip_layers_{2 * i + 1}")(finer, train=train)
        x = nn.relu(x)
    return x


class Upsampled(nn.Module):
    """A backbone whose features are enlarged by n deconvolutions: a `HeatmapNet` without its last layer.

    It turns a ResNet into a backbone of stride 4, which `HigherHRNet` needs.

    >>> from jaxpose.nets import ResNet
    >>> net = Upsampled(ResNet(depth=18, width=4), deconvs=(16, 16, 8))
    >>> jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 32, 3))).shape
    (1, 16, 8, 8)
    """

    backbone: nn.Module
    deconvs: tuple[int, ...] = (256, 256, 256)
    dtype: Any = jnp.float32
    batch_groups: int = 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = self.backbone(images, train=train)
        return upsample(x, self.deconvs, dtype=self.dtype, batch_groups=self.batch_groups, train=train)


def check_cells(size_wh: Sequence[int], size_hw: Sequence[int]) -> None:
    """Raises a ValueError unless a map pixel covers a square of input pixels whose side is a power of two.

    A ResNet gives ceil(W / 32) columns: for an input 72 pixels wide the map is 24 pixels wide after three deconvolutions,
    not 18, and pixel i of it looks at pixel 4 i, not 3 i.
    """
    (width, height), (h, w) = size_wh, size_hw
    cell = width // w
    if width != cell * w or height != cell * h or cell & (cell - 1):
        raise ValueError(
            f"an input of width {width} and height {height} gives maps of width {w} and height {h}, {width / w:g} by "
            f"{height / h:g} pixels each: choose a size_wh that the net's stride divides (multiples of 32)"
        )


class MapHead(nn.Module):
    """Maps features (B, h, w, C) to maps (B, 2^n h, 2^n w, K) with n deconvolutions: the head of `HeatmapNet` alone.

    Next to a regression head it gives the maps of an auxiliary loss: `PoseRegressor(backbone, head, maps=MapHead(17))`.

    >>> MapHead(17, deconvs=(8,)).init_with_output(jax.random.key(0), jnp.zeros((1, 4, 3, 16)))[0].shape
    (1, 8, 6, 17)
    """

    num_joints: int
    deconvs: tuple[int, ...] = (256, 256, 256)
    dtype: Any = jnp.float32
    batch_groups: int = 1

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        return map_head(
            features, self.num_joints, self.deconvs, dtype=self.dtype, batch_groups=self.batch_groups, train=train
        )
