"""Integral regression in space (Sun 2018): volumes of K joints, and the soft-argmax over depth, height and width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.geometry import normalize
from jaxpose.heatmap import soft_argmax
from jaxpose.nets.deconv import check_cells
from jaxpose.nets.heads import sigma_layer


def volumes(maps: jax.Array, num_joints: int) -> jax.Array:
    """Returns the volumes (B, D, h, w, K) of maps (B, h, w, K D), whose channel is joint * D + depth, as in both released codes.

    Args:
        maps: the output of a convolution.
        num_joints: the number of joints, K.

    Raises:
        ValueError: the channels are no multiple of K.

    >>> volumes(jnp.zeros((2, 4, 3, 5 * 8)), 5).shape
    (2, 8, 4, 3, 5)
    """
    if maps.shape[-1] % num_joints:
        raise ValueError(f"maps have {maps.shape[-1]} channels: expected a multiple of {num_joints} joints")
    return jnp.moveaxis(maps.reshape(*maps.shape[:-1], num_joints, -1), -1, -4)


class VolumeRegressor(nn.Module):
    """A heatmap net of K D channels whose soft-argmax in space is mu, and a linear layer for sigma: both (B, K, 3).

    mu is x / W - 0.5, y / H - 0.5 and (E / D - 0.5), with E the expected bin of the depth: 0 is the depth of the root, bin D / 2, and
    1 the extent of the volume (2000 mm in the code of integral regression; PoseNet counts bins of the same 2000 mm). So mu never
    leaves the volume. Sigma is for a likelihood; the published loss, L1, does not train it, and the published net lacks its layer.

    Published size: ResNet-50, 18 joints, 64 bins: 34,291,392 parameters without the layer of sigma.

    Attributes:
        net: a `HeatmapNet` with `num_joints` K D.
        bins: the number of bins of the depth, D.
        beta, compensate, floor: options of the soft-argmax, see `jaxpose.heatmap.soft_argmax`; compensated it is free of the pull of
            the empty background towards the middle of the volume (Gu 2021).
        sigma_bias: initial bias of the raw sigma.

    >>> from jaxpose.nets import HeatmapNet, ResNet
    >>> net = VolumeRegressor(HeatmapNet(ResNet(depth=18, width=4), 18 * 16, deconvs=(8, 8)), bins=16)
    >>> mu, sigma = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((2, 64, 64, 3)))
    >>> mu.shape, sigma.shape
    ((2, 18, 3), (2, 18, 3))
    """

    net: nn.Module
    bins: int = 64
    beta: float = 1.0
    compensate: bool = False
    floor: float = 0.01
    sigma_bias: float = 0.0

    def __post_init__(self):
        if self.bins < 2:
            raise ValueError(f"bins={self.bins}: expected 2 or more")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        maps, features = self.net(images, train=train, with_features=True)
        check_cells(images.shape[2:0:-1], maps.shape[1:3])
        if maps.shape[-1] % self.bins:
            raise ValueError(f"the net has {maps.shape[-1]} channels: expected a multiple of {self.bins} bins")
        volume = volumes(maps, maps.shape[-1] // self.bins)
        xyz, _ = soft_argmax(volume, beta=self.beta, ndim=3, compensate=self.compensate, floor=self.floor)
        mu = normalize(xyz, (maps.shape[2], maps.shape[1], self.bins))
        pooled = features.mean((1, 2), dtype=jnp.promote_types(features.dtype, jnp.float32))
        return mu, sigma_layer(pooled, mu.shape, self.sigma_bias)
