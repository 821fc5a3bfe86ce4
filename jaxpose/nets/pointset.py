"""PointSet Anchors (Wei et al. 2020): poses as anchors on a feature pyramid, moved in two stages.

Every cell of every level has a template pose as its anchor. Features are read at the joints of the anchor (deformable sampling:
"shape-indexed"), and from them the head predicts whether the anchor is a person, and an offset for each joint. The second stage takes
the moved poses as anchors. A further head predicts heatmaps of the joints, to whose peaks the joints may be moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.detection import point_sets
from jaxpose.nets.deconv import Deconv
from jaxpose.nets.fpn import FPN, BiasConv
from jaxpose.nets.hrnet import HRNet
from jaxpose.nets.layers import BatchNorm, compute_dtype, convolve, param_dtype
from jaxpose.nets.resnet import check_images

STRIDES = (8, 16, 32)
narrow = nn.initializers.normal(0.01)
SIGMA_BIAS = -2.0  # sigmoid(-2) = 0.12 of the anchor's size, near the error of an untrained anchor


class PointSetNet(nn.Module):
    """Maps images (B, H, W, 3), H and W multiples of 32, to scored poses on levels of stride 8, 16 and 32.

    Attributes:
        backbone: a `ResNet` of four stages, whose pyramid is an `FPN`, or an `HRNet` with the pyramid of the published net.
        num_joints: the number of joints, K.
        templates: (T, K, 2) nested tuples, the anchors of a cell about its centre, of a diagonal of about 1
            (`jaxpose.detection.point_sets.templates`).
        taps: joints of the anchor at which features are read, nine as published (nose, elbows, wrists, knees, ankles).
        scale: size of an anchor in cells; 16 as published.
        features: channels of the pyramid and of the head.
        convs: 3x3 convolutions of a branch before the features at the joints; 4 as published.
        groups: groups of GroupNorm.
        sigma: if True, a scale of every coordinate is predicted too, 4 K outputs in place of 2 K (RLE).
        heatmaps: if True, heatmaps of the joints and the offsets within their cells are predicted at stride 4.
        map_features: channels of that head.
        prior: the score of an untrained anchor; 0.5, that is, no bias, as published.
        dtype: compute dtype of the convolutions.

    >>> from jaxpose.nets import ResNet
    >>> net = PointSetNet(ResNet(18, width=4), 2, templates=(((0.0, -0.5), (0.0, 0.5)),), taps=(0, 1), features=8, convs=1, groups=2)
    >>> outputs = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 64, 3)))
    >>> outputs["logits"][1].shape, outputs["deltas"][1].shape, outputs["heatmap"].shape
    ((1, 84), (1, 84, 2, 2), (1, 16, 16, 2))
    """

    backbone: nn.Module
    num_joints: int
    templates: Any
    taps: tuple[int, ...]
    scale: float = 16.0
    features: int = 256
    convs: int = 4
    groups: int = 32
    sigma: bool = False
    heatmaps: bool = True
    map_features: int = 256
    prior: float = 0.5
    dtype: Any = jnp.float32

    def __post_init__(self):
        # JSON has lists.
        object.__setattr__(
            self, "templates", tuple(tuple(tuple(map(float, xy)) for xy in pose) for pose in self.templates)
        )
        joints = self.num_joints
        if not self.templates or any(
            len(pose) != joints or any(len(xy) != 2 for xy in pose) for pose in self.templates
        ):
            raise ValueError(f"templates: expected one or more poses of {joints} joints (x, y)")
        if not self.taps or not all(0 <= tap < joints for tap in self.taps):
            raise ValueError(f"taps={self.taps}: expected indices of the {joints} joints")
        if not 0 < self.prior < 1 or not self.scale > 0 or self.features % self.groups or self.convs < 0:
            raise ValueError(
                f"prior={self.prior}, scale={self.scale}, features={self.features}, groups={self.groups}, convs={self.convs}: expected "
                "a prior in 0..1, a positive scale, and channels that the groups divide"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Returns the outputs of both stages; A anchors in the order level, row, column, template.

        Returns:
            "anchors" ((A, K, 2), (B, A, K, 2)) px, those of each stage; "scale" (A,) px, the unit of offsets and scales; "logits",
            "deltas" and, with `sigma`, "sigma": for each stage (B, A), (B, A, K, 2) and (B, A, K, 2); with `heatmaps` "heatmap"
            (B, H/4, W/4, K), logits, and "map_offset" (B, H/4, W/4, K, 2) in 0..1.

        Raises:
            ValueError: 32 does not divide the sides of the images.
        """
        check_images(images)
        if images.shape[1] % 32 or images.shape[2] % 32:
            raise ValueError(f"images have shape {images.shape}: expected heights and widths that 32 divides")
        levels = self.pyramid(images, train=train)
        anchors, scale = point_sets.pyramid(
            jnp.asarray(self.templates),
            maps_hw=[level.shape[1:3] for level in levels],
            strides=STRIDES,
            scale=self.scale,
        )
        size_wh = jnp.asarray(images.shape[2:0:-1], anchors.dtype)
        outputs: dict[str, Any] = {"scale": scale, "anchors": [], "logits": [], "deltas": [], "sigma": []}
        poses = anchors
        for stage in (1, 2):
            raw = Stage(
                self.num_joints, self.taps, len(self.templates), self.features, self.convs, self.groups, self.sigma, self.prior,
                self.dtype, name=f"stage{stage}",
            )(levels, poses)  # fmt: skip
            outputs["anchors"].append(poses)
            for name, values in raw.items():
                outputs[name].append(values)
            scales = jnp.broadcast_to(scale, raw["deltas"].shape[:2])
            poses = point_sets.decode(raw["deltas"], jnp.broadcast_to(poses, raw["deltas"].shape), scale=scales)
            poses = jax.lax.stop_gradient(jnp.clip(poses, 0.0, size_wh - 1))
        if not self.sigma:
            del outputs["sigma"]
        if self.heatmaps:
            for name, count in (("heatmap", self.num_joints), ("map_offset", 2 * self.num_joints)):
                outputs[name] = MapHead(count, self.map_features, self.dtype, name=name)(levels[0], train=train)
            offset = nn.sigmoid(outputs["map_offset"])
            outputs["map_offset"] = offset.reshape(*offset.shape[:3], self.num_joints, 2)
        return outputs

    def pyramid(self, images: jax.Array, *, train: bool) -> list[jax.Array]:
        """Returns the levels at strides 8, 16 and 32, (B, h, w, features) each."""
        if isinstance(self.backbone, HRNet):
            branches = self.backbone(images, train=train, every_branch=True)
            return HRPyramid(self.features, self.dtype, name="pyramid")(branches)
        maps = self.backbone(images, train=train, every_stage=True)
        if len(maps) != 4:
            raise ValueError(f"the backbone has {len(maps)} stages: expected four, of strides 4 to 32")
        return FPN(self.features, dtype=self.dtype, name="pyramid")(maps[1:], train=train)[:3]


class HRPyramid(nn.Module):
    """The pyramid of the published net: HRNet's branches at stride 4, joined, averaged over 1, 2 and 4 cells, and 3x3/2 each."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, branches: Sequence[jax.Array]) -> list[jax.Array]:
        height, width = branches[0].shape[1:3]
        enlarged = [
            jax.image.resize(x, (x.shape[0], height, width, x.shape[-1]), "linear", antialias=False) for x in branches
        ]
        joined = BiasConv(self.features, 1, dtype=self.dtype, name="reduce")(jnp.concatenate(enlarged, -1))
        levels = []
        for i in range(len(STRIDES)):
            cells = (2**i, 2**i)
            pooled = nn.avg_pool(joined, cells, cells)
            levels.append(BiasConv(self.features, 3, 2, dtype=self.dtype, name=f"output_{i}")(pooled))
        return levels


class Stage(nn.Module):
    """The head of one stage, shared by the levels: scores, offsets and, with `sigma`, scales of anchors.

    The branches of scores and of offsets are apart. The features at the taps of an anchor are those of a deformable convolution
    with as many taps; position 0 of a map is the corner of its first cell, as published, though the anchors are about its centre.
    """

    num_joints: int
    taps: tuple[int, ...]
    templates: int
    features: int
    convs: int
    groups: int
    sigma: bool
    prior: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array], anchors: jax.Array) -> dict[str, jax.Array]:
        """Returns logits (B, A), deltas (B, A, K, 2) and sigma (B, A, K, 2).

        Args:
            levels: the feature maps.
            anchors: px, (A, K, 2) for templates at every cell, or (B, A, K, 2) for poses that have moved.
        """
        joints, outputs = self.num_joints, {"logits": [], "deltas": [], "sigma": []}
        branches = {name: Branch(self, name) for name in ("score", "pose")}
        bias = math.log(self.prior / (1 - self.prior))
        score = nn.Dense(1, kernel_init=narrow, bias_init=nn.initializers.constant(bias), name="logit")
        delta = nn.Dense(2 * joints, kernel_init=narrow, name="delta")
        raw_sigma = nn.Dense(
            2 * joints, kernel_init=narrow, bias_init=nn.initializers.constant(SIGMA_BIAS), name="sigma"
        )
        first = 0
        for level, stride in zip(levels, STRIDES, strict=True):
            count = level.shape[1] * level.shape[2] * self.templates
            places = anchors[..., first : first + count, jnp.asarray(self.taps), :] / stride
            places = places if anchors.ndim == 4 else places[: self.templates]  # those of the cell at 0, 0
            first += count
            of_pose = branches["pose"](level, places)
            outputs["logits"].append(score(branches["score"](level, places))[..., 0])
            outputs["deltas"].append(delta(of_pose).reshape(*of_pose.shape[:2], joints, 2))
            if self.sigma:
                outputs["sigma"].append(nn.sigmoid(raw_sigma(of_pose)).reshape(*of_pose.shape[:2], joints, 2))
        as_float = {k: jnp.concatenate(v, 1).astype(compute_dtype(jnp.float32, *v)) for k, v in outputs.items() if v}
        return as_float


class Branch:
    """The convolutions of a branch, then its features at the taps of every anchor; the parameters belong to the stage."""

    def __init__(self, stage: Stage, name: str):
        def norm(which: str) -> nn.GroupNorm:
            return nn.GroupNorm(stage.groups, epsilon=1e-5, dtype=stage.dtype, name=f"{name}_norm_{which}")

        self.stage = stage
        self.convs = [
            (BareConv(stage.features, stage.dtype, name=f"{name}_conv_{i}"), norm(str(i))) for i in range(stage.convs)
        ]
        self.taps = TapConv(stage.features, stage.dtype, name=f"{name}_taps")
        self.tap_norm = norm("taps")

    def __call__(self, level: jax.Array, places: jax.Array) -> jax.Array:
        """Returns (B, A, features) of a level (B, h, w, C).

        Args:
            level: the feature map.
            places: in cells, (B, A, taps, 2), or (T, taps, 2) from each cell.
        """
        x = level
        for conv, norm in self.convs:
            x = nn.relu(norm(conv(x)))
        batch, taps = x.shape[0], places.shape[-2]
        if places.ndim == 3:
            at_taps = point_sets.bilinear_lattice(x, places.reshape(-1, 2))
        else:
            at_taps = point_sets.bilinear(x, places.reshape(batch, -1, 2))
        return nn.relu(self.tap_norm(self.taps(at_taps.reshape(batch, -1, taps, x.shape[-1]))))


class BareConv(nn.Module):
    """3x3 convolution without bias, from a normal of deviation 0.01: (B, h, w, I) -> (B, h, w, O)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", narrow, (3, 3, x.shape[-1], self.features), param_dtype(self.dtype))
        dtype = compute_dtype(self.dtype, x, kernel)
        return convolve(x.astype(dtype), kernel.astype(dtype))


class TapConv(nn.Module):
    """The product of a deformable convolution: (B, A, taps, I) -> (B, A, O), without bias."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", narrow, (*x.shape[-2:], self.features), param_dtype(self.dtype))
        dtype = compute_dtype(self.dtype, x, kernel)
        return x.astype(dtype).reshape(*x.shape[:2], -1) @ kernel.astype(dtype).reshape(-1, self.features)


class MapHead(nn.Module):
    """Maps at twice the size of a level: 3x3 convolution, transposed convolution, BatchNorm after both, and a 1x1 convolution."""

    outputs: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = BatchNorm(dtype=self.dtype, name="conv_norm")(
            BareConv(self.features, self.dtype, name="conv")(x), train=train
        )
        x = BatchNorm(dtype=self.dtype, name="deconv_norm")(
            Deconv(self.features, self.dtype, name="deconv")(nn.relu(x)), train=train
        )
        x = BiasConv(self.outputs, 1, dtype=self.dtype, kernel_init=narrow, name="output")(nn.relu(x))
        return x.astype(compute_dtype(jnp.float32, x))
