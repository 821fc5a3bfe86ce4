"""HigherHRNet (Cheng 2020): heatmaps and tags at 1/4 of the image, heatmaps at 1/2; with SWAHR's scale maps (Luo 2021)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets.deconv import Deconv
from jaxpose.nets.depthwise import DepthwiseConv
from jaxpose.nets.layers import BatchNorm, MapConv, initializer, later, param_dtype
from jaxpose.nets.resnet import Block

SCALE_KERNEL = 9


class HigherHRNet(nn.Module):
    """Maps images (B, H, W, 3) to maps at 1/4 (B, H/4, W/4, .) and at 1/2 (B, H/2, W/2, .), for people of all sizes.

    Channels: [alpha K | heatmap K | tag K] at 1/4, [alpha K | heatmap K] at 1/2; alpha only with `scale`, tags only with `tags`;
    `split` separates them. alpha is the argument of `heatmap.scale_adaptive`; its last convolution is initialised to 0, so that
    training starts with unscaled targets. Prediction does not use alpha.

    The features at 1/4 with their heatmaps and tags pass through a transposed convolution and basic blocks, which gives the
    features at 1/2.

    Published parameters, with HRNet(32) and K = 17: 28,645,331; with `scale`: 28,649,309.

    Attributes:
        backbone: a module from images to features (B, H/4, W/4, C); `HRNet(32)` or `HRNet(48)` as published.
        num_joints: the number of joints, K.
        tags: True if there are tags (associative embedding).
        scale: True if there are scale maps (SWAHR).
        dilations: dilation of each basic block at 1/2; (1, 1, 2, 2) and (2, 2, 2, 2) are those of table 7 of Luo 2021. They do not
            change the parameters.
        dtype: compute dtype of the blocks at 1/2; the maps are float32 at least.
        batch_groups: number of groups of BatchNorm, as for `ResNet`.
        kernel_init: initialisation of the blocks at 1/2, as for `HRNet`; the published code has "narrow". The layers around them
            start at N(0, 0.001^2) in both cases.

    >>> from jaxpose.nets import HRNet
    >>> net = HigherHRNet(HRNet(4), 17, scale=True)
    >>> maps = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 32, 3)))
    >>> [m.shape for m in maps]
    [(1, 16, 8, 51), (1, 32, 16, 34)]
    """

    backbone: nn.Module
    num_joints: int
    tags: bool = True
    scale: bool = False
    dilations: tuple[int, ...] = (1, 1, 1, 1)
    dtype: Any = jnp.float32
    batch_groups: int = 1
    kernel_init: str = later("he")

    def __post_init__(self):
        initializer(self.kernel_init)
        if self.num_joints < 1 or min(self.dilations, default=1) < 1:
            raise ValueError(f"num_joints={self.num_joints}, dilations={self.dilations}: expected positive numbers")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        x = self.backbone(images, train=train)
        features = x.shape[-1]
        coarse = self._maps(0, x, self.num_joints * (2 if self.tags else 1))
        first = self._with_scale(0, x, coarse, train)

        x = jnp.concatenate([x, coarse.astype(x.dtype)], -1)
        x = Deconv(features, dtype=self.dtype, name="deconv_layers_0_0_0")(x)
        x = nn.relu(BatchNorm(self.batch_groups, dtype=self.dtype, name="deconv_layers_0_0_1")(x, train=train))
        for i, dilation in enumerate(self.dilations, start=1):
            options = (self.dtype, self.batch_groups, dilation, self.kernel_init)
            block = Block(features, 1, False, *options, name=f"deconv_layers_0_{i}_0")
            x = block(x, train=train)
        return first, self._with_scale(1, x, self._maps(1, x, self.num_joints), train)

    def _maps(self, stage: int, x: jax.Array, channels: int) -> jax.Array:
        return MapConv(channels, dtype=self.dtype, name=f"final_layers_{stage}")(x)

    def _with_scale(self, stage: int, x: jax.Array, maps: jax.Array, train: bool) -> jax.Array:
        if not self.scale:
            return maps
        name, k = f"conv_scale_layers_{stage}", self.num_joints
        alpha = MapConv(k, dtype=self.dtype, name=f"{name}_0")(x)
        alpha = nn.relu(BatchNorm(self.batch_groups, dtype=self.dtype, name=f"{name}_1")(alpha, train=train))
        options = {"use_bias": True, "kernel_init": nn.initializers.zeros, "dtype": param_dtype(self.dtype)}
        alpha = DepthwiseConv(SCALE_KERNEL, **options, name=f"{name}_3")(alpha)
        return jnp.concatenate([alpha, maps], -1)

    def split(self, maps: tuple[jax.Array, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Returns the two outputs by name: "alpha", "heatmap", "tag", each (..., K), as far as the net has them.

        >>> from jaxpose.nets import HRNet
        >>> coarse, fine = HigherHRNet(HRNet(4), 17).split((jnp.zeros((1, 16, 8, 34)), jnp.zeros((1, 32, 16, 17))))
        >>> list(coarse), list(fine), coarse["tag"].shape
        (['heatmap', 'tag'], ['heatmap'], (1, 16, 8, 17))
        """
        k, parts = self.num_joints, []
        for stage, stacked in enumerate(maps):
            names = ["alpha"] * self.scale + ["heatmap"] + ["tag"] * (self.tags and stage == 0)
            if stacked.shape[-1] != k * len(names):
                raise ValueError(
                    f"maps of stage {stage} have shape {stacked.shape}: expected {k * len(names)} channels"
                )
            parts.append({name: stacked[..., i * k : (i + 1) * k] for i, name in enumerate(names)})
        return parts[0], parts[1]
