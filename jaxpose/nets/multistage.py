"""The multi-stage heatmap net of Sun 2018 (Integral human pose regression, section 3 and figure 1).

Every stage takes the same features and the maps of the previous stage, and every stage is supervised.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets.deconv import map_head
from jaxpose.nets.resnet import check_attributes, check_images, layer, stem

MAX_STAGES = 4  # the largest number in the paper


class MultiStageNet(nn.Module):
    """Maps images (B, H, W, 3), H and W multiples of 32, to the maps of every stage, a tuple of (B, H / 8, W / 8, K).

    The last maps are the prediction; the paper's losses use all of them. The features are those of conv1 to conv3 of
    a ResNet, at stride 8. Stage 1 passes them through conv4, conv5, two deconvolutions (stride 32 -> 8) and a 1x1
    convolution; stage s > 1 does the same, with weights of its own, on the features concatenated with the maps of stage s - 1.

    Points that the paper leaves open: the maps are passed on unchanged (before any softmax), in the dtype of the features, and
    the first block of conv4 takes the concatenated channels, so that its 1x1 convolution and its shortcut are K channels wider.

    One stage is `HeatmapNet(ResNet(depth), K, deconvs=(256, 256))`, 32,950,609 parameters for ResNet-50 and 17 joints.
    Parameter names: conv1, bn1, layer{1,2}_{i}, then stage{s} / layer{3,4}_{i}, deconv_layers_{i}, final_layer.

    Attributes:
        num_joints: the number of joints, K.
        stages: the number of stages, 1 to 4.
        deconvs: channels of the two deconvolutions.
        depth, width, dtype, batch_groups: attributes of the ResNet, see there; the maps are float32 at least.

    Raises:
        ValueError: an attribute is out of range, or the images have another shape.

    >>> net = MultiStageNet(17, stages=3, deconvs=(8, 8), depth=18, width=4)
    >>> maps = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 32, 3)))
    >>> [m.shape for m in maps]
    [(1, 8, 4, 17), (1, 8, 4, 17), (1, 8, 4, 17)]
    """

    num_joints: int
    stages: int = 2
    deconvs: tuple[int, int] = (256, 256)
    depth: int = 50
    width: int = 64
    dtype: Any = jnp.float32
    batch_groups: int = 1

    def __post_init__(self):
        check_attributes(self)
        if self.num_joints < 1:
            raise ValueError(f"num_joints={self.num_joints}: expected 1 or more")
        if not 1 <= self.stages <= MAX_STAGES:
            raise ValueError(f"stages={self.stages}: expected 1 to {MAX_STAGES}")
        if len(self.deconvs) != 2 or min(self.deconvs) < 1:
            raise ValueError(f"deconvs={self.deconvs}: expected channels of two deconvolutions, from stride 32 to 8")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        check_images(images)
        if images.shape[1] % 32 or images.shape[2] % 32:
            raise ValueError(
                f"images have shape {images.shape}: MultiStageNet takes heights and widths that 32 divides, so that "
                "the maps of a stage have the size of the features"
            )
        x = stem(self, images, train=train)
        for number in (1, 2):
            x = layer(self, x, number, train=train)
        maps: list[jax.Array] = []
        for s in range(1, self.stages + 1):
            before = [maps[-1].astype(x.dtype)] if maps else []
            stage = Stage(self.num_joints, self.deconvs, self.depth, self.width, self.dtype, self.batch_groups,
                          name=f"stage{s}")  # fmt: skip
            maps.append(stage(jnp.concatenate([x, *before], -1), train=train))
        return tuple(maps)


class Stage(nn.Module):
    """conv4, conv5 and the head of one stage: (B, h, w, C) -> maps (B, h, w, K)."""

    num_joints: int
    deconvs: tuple[int, int]
    depth: int
    width: int
    dtype: Any
    batch_groups: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for number in (3, 4):
            x = layer(self, x, number, train=train)
        return map_head(x, self.num_joints, self.deconvs, dtype=self.dtype, batch_groups=self.batch_groups, train=train)
