"""Joints in 2.5D: one heatmap and one depth map for each joint, integrated under the same weights (Iqbal 2018).

The net predicts 2 K maps: K heatmaps, whose soft-argmax is the pixel of a joint, and K maps of its relative depth. The depth
of a joint is the mean of its depth map under the weights of its heatmap, so the depth map matters only where the joint is.
With `Readout.compensate` (Gu 2021) both means are without the weight of the empty background.

The relative depth is (Z - Z_root) / C, with the length C of a key bone; `jaxpose.hands.lift` puts the joints in space.

    plain     no map loss, L1 of pixels and depths
    aug       the same, with a heatmap loss in the first epochs (L_aug)
    debias    plain, compensated
    ours      aug, compensated
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import heatmap, losses
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import Batch, LossAndMetrics, PyTree, check_choices, check_positive
from jaxpose.tasks.heatmap import Heatmaps, JointLoss, Readout
from jaxpose.tasks.supervision import NO_MAP_LOSS, MapLoss, inside, map_loss


@dataclass(frozen=True)
class DepthLoss:
    """The loss of the relative depths, in units of the key bone.

    Attributes:
        kind: "none" (pixels only), "l1", "l2" or "smooth_l1".
        weight: factor of the term. A pixel is a fraction of the input there, and a hand's crop shows about ten key bones, so
            0.1 gives a millimetre the same weight along all axes.
    """

    kind: Literal["none", "l1", "l2", "smooth_l1"] = "l1"
    weight: float = 0.1

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "weight")


L1_OF_PIXELS = JointLoss("l1")
INTEGRAL = Readout("soft_argmax", beta=10.0, confidence="probability")
L1_OF_DEPTHS = DepthLoss()


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthMaps(Heatmaps):
    """The family whose net predicts K heatmaps and K depth maps (B, h, w, 2 K); created by `depth_maps`.

    Attributes:
        net, skeleton, size_wh, preprocess, map_loss, joint_loss, readout: see `Heatmaps`.
        depth_loss: the loss of the depths, "depth" in the config.
    """

    map_loss: MapLoss = NO_MAP_LOSS
    joint_loss: JointLoss = L1_OF_PIXELS
    readout: Readout = INTEGRAL
    depth_loss: DepthLoss = L1_OF_DEPTHS

    family: ClassVar[str] = "depth_maps"
    outputs: ClassVar[tuple[str, ...]] = ("xy", "depth", "confidence")
    SETTINGS: ClassVar = {**Heatmaps.SETTINGS, "depth": ("depth_loss", DepthLoss)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.integrates:
            raise ValueError(
                f"read.decode={self.readout.decode!r}: a depth is the mean of its map under the weights of a soft-argmax, so "
                "expected 'soft_argmax'"
            )

    @property
    def channels(self) -> int:
        """The number of maps of a stage of the net: a heatmap and a depth map for each joint."""
        return 2 * self.skeleton.num_joints

    @property
    def units(self) -> dict[str, str]:
        """See `NetTask.units`."""
        return {"depth": "lengths of the key bone, relative to the root, away from the camera"}

    def loss(self, variables: PyTree, batch: Batch, *, key: jax.Array) -> LossAndMetrics:
        """See `Task.loss`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: the entries that `Heatmaps.loss` reads; and, for joints in space, depth (B, K), relative to the root in units of
                the key bone, with depth_where (B, K) bool, True where it is known.
            key: random key of the map loss.
        """
        stages, collections = self.run_net(variables, self.training_images(batch), train=True)
        where = (batch["visibility"] > 0) & inside(batch["joints"], self.size_wh)
        has_depth = where & batch["depth_where"] if "depth" in batch else jnp.zeros_like(where)
        depth = batch.get("depth", jnp.zeros(where.shape))
        of_maps = of_joints = of_depth = jnp.zeros(())
        for i, stage in enumerate(stages):
            maps, _ = self.split(stage)
            of_maps += map_loss(
                self.map_loss, maps, batch["joints"], size_wh=self.size_wh, where=batch["visibility"] > 0,
                key=jax.random.fold_in(key, i), beta=self.readout.beta,
            )  # fmt: skip
            xy, z = self.integrate(stage)
            if self.joint_loss.kind != "none":
                of_joints += self.loss_of_joints(xy, batch["joints"], where=where)
            of_depth += self.loss_of_depth(z, depth, where=has_depth)
        error = jnp.linalg.norm(jnp.where(where[..., None], xy - batch["joints"], 0.0), axis=-1)
        metrics = {
            "epe": losses.mean(error, where=where), "depth_error": losses.mean(jnp.abs(z - depth), where=has_depth),
            "map_loss": of_maps, "joint_loss": of_joints, "depth_loss": of_depth,
        }  # fmt: skip
        return of_maps + of_joints + of_depth, (collections, metrics)

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: image (B, H, W, 3) in 0..255.
            flip_test: if True, average with the mirrored coordinates of the mirrored crop; depths are the same in both.

        Returns:
            xy (B, K, 2) in input pixels; depth (B, K) relative to the root, in units of the key bone; confidence (B, K).
        """
        xy, depth, confidence = self.decode_both(variables, batch["image"])
        if not flip_test:
            return {"xy": xy, "depth": depth, "confidence": confidence}
        xy_flipped, depth_flipped, confidence_flipped = self.decode_both(variables, batch["image"][:, :, ::-1])
        mean = self.mean_of_views((xy, confidence), (xy_flipped, confidence_flipped))
        return mean | {"depth": (depth + depth_flipped[:, self.flip_index]) / 2}

    def decode_both(self, variables: PyTree, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns xy (B, K, 2) in input pixels, depth (B, K) and confidence (B, K) of images (B, H, W, 3)."""
        stage = self.run_net(variables, images, train=False)[0][-1]
        xy, depth = self.integrate(stage)
        return xy, depth, self.decode(self.split(stage)[0])[1]

    def last_stage(self, variables: PyTree, images: jax.Array) -> jax.Array:
        """Returns the raw heatmaps (B, h, w, K) of the last stage, without the depth maps."""
        return self.split(super().last_stage(variables, images))[0]

    def split(self, stage: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the heatmaps and the depth maps, both (B, h, w, K), of a stage (B, h, w, 2 K)."""
        joints = self.skeleton.num_joints
        return stage[..., :joints], stage[..., joints:]

    def integrate(self, stage: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns xy (B, K, 2) in input pixels and depth (B, K), the means of a stage (B, h, w, 2 K) under the same weights."""
        read, (maps, depths) = self.readout, self.split(stage)
        options = {"beta": read.beta, "compensate": read.compensate, "floor": read.floor}
        xy, depth, _ = heatmap.soft_argmax_depth(self.logits(maps), depths, **options)
        return self.codec.from_map(xy, size_wh=self.size_wh, size_hw=stage.shape[1:3]), depth

    def loss_of_depth(self, depth: jax.Array, target: jax.Array, *, where: jax.Array) -> jax.Array:
        """Returns the loss of depths (B, K), a scalar: the sum over joints divided by the batch size."""
        if self.depth_loss.kind == "none":
            return jnp.zeros(())
        function = {"l1": losses.l1, "l2": losses.l2, "smooth_l1": losses.smooth_l1}[self.depth_loss.kind]
        values = function(depth[..., None], target[..., None], where=where)
        return self.depth_loss.weight * values.sum() / len(values)


def depth_maps(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    maps: MapLoss = NO_MAP_LOSS,
    joints: JointLoss = L1_OF_PIXELS,
    read: Readout = INTEGRAL,
    depth: DepthLoss = L1_OF_DEPTHS,
    preprocess: str = "imagenet",
) -> DepthMaps:
    """Returns a task whose net predicts K heatmaps and K depth maps (B, h, w, 2 K), or a tuple of stages of them.

    Args:
        net: linen module, `net.apply(variables, images, train=...)`; `jaxpose.nets.HeatmapNet` with twice the joints.
        skeleton: the skeleton whose joints the net predicts.
        size_wh: input size (W, H) in pixels.
        maps: the loss of the heatmaps.
        joints: the loss of the pixels.
        read: settings of the soft-argmax.
        depth: the loss of the depths.
        preprocess: name of an image normalisation, see `jaxpose.tasks.PREPROCESS`.

    Raises:
        ValueError: an option is unknown, there is no loss of heatmaps or pixels, or `read` searches a peak; during tracing: the
            net's maps do not match the skeleton.

    >>> from jaxpose.nets import HeatmapNet, ResNet
    >>> from jaxpose.skeleton import RHD21
    >>> task = depth_maps(HeatmapNet(ResNet(depth=18, width=4), 42, deconvs=(8,)), skeleton=RHD21, size_wh=(64, 64))
    >>> task.config["depth"], task.outputs
    ({'kind': 'l1', 'weight': 0.1}, ('xy', 'depth', 'confidence'))
    """
    return DepthMaps(
        net, skeleton=skeleton, size_wh=size_wh, map_loss=maps, joint_loss=joints, readout=read, depth_loss=depth,
        preprocess=preprocess,
    )  # fmt: skip
