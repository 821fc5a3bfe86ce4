"""Coordinates read from heatmaps: detection (Xiao 2018, Sun 2019), integral regression (Sun 2018), and their combination
with a compensation of the integral's bias (Gu 2021).

A net predicts K maps, or several stages of K maps. The loss is a map loss, a loss of the soft-argmax coordinates, or both:

    H1, H2, H3     MapLoss("mse" | "cross_entropy" | "bce"), no joint loss, read by argmax
    I*             no map loss, L1 of the soft-argmax
    I1, I2, I3     both; pretrained by the map loss alone
    IPR, DSNT      mmpose's: JointLoss("smooth_l1"), MapLoss("softmax_mse" | "js")
    Gu's joint     L1 of the compensated soft-argmax at beta 10, and "mse" in the first epochs (L_aug) or always (L_de)

A schedule consists of two tasks over the same variables, one after the other (`experiments.common.runner`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import geometry, heatmap, losses
from jaxpose.nets.deconv import check_cells
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import Batch, Level, LossAndMetrics, NetTask, PyTree, check_choices, check_positive, later
from jaxpose.tasks.codec import MapCodec
from jaxpose.tasks.supervision import MSE, MapLoss, inside, map_loss


@dataclass(frozen=True)
class JointLoss:
    """The loss of the soft-argmax coordinates, which are fractions of the input.

    Attributes:
        kind: "none", "l1" (better than L2 in both papers), "l2", or "smooth_l1" (mmpose; a parabola below 1, QUIRK D5).
        weight: factor of the term.
        variant: the reduction. "official": the sum over joints and coordinates, divided by the batch size (Sun's code);
            "mmpose": the mean over batch, joints and coordinates.
    """

    kind: Literal["none", "l1", "l2", "smooth_l1"] = "none"
    weight: float = 1.0
    variant: Literal["official", "mmpose"] = "official"

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "weight")


@dataclass(frozen=True)
class Readout:
    """Settings for reading coordinates and confidences from the maps.

    Attributes:
        decode: the decoder: "argmax" (moved by `shift`), "dark", "udp" or "soft_argmax".
        beta: factor of the maps in the soft-argmax, which a joint loss uses too; see `jaxpose.heatmap.soft_argmax`.
        compensate: if True, compensate the bias of the soft-argmax.
        floor: bound of the compensation. It is larger than the default of `soft_argmax`, because initial maps are flat, exactly
            where the compensation is singular; a distance from the centre is multiplied by at most 1 / floor. A Gaussian of
            height 1 and sigma 2 on a 64x48 map holds 1.1 % of the softmax at beta 1 and 95 % at beta 10, and is compensated
            exactly.
        rectify: if True, replace negative values of the maps by 0, the background that the compensation assumes. Without a map
            loss nothing keeps the background at 0, and a pixel below 0 counts with a negative weight. The paper does not do this.
        border: rule of the shift at the border, "hrnet" or "mmpose".
        kernel: width of the blur of "dark" and "udp": 11 for targets of sigma 2, 17 for 3.
        confidence: source of the confidence: "peak": the highest value of the map; "probability": the highest value of its
            softmax with `beta`; "one": 1, as in the published code of integral regression (QUIRK I4).
        shift: distance in map pixels that "argmax" moves towards the higher neighbour: a quarter in SimpleBaseline and HRNet; 0,
            the pixel itself, in equation 1 of Sun 2018 (QUIRK I5).
        offset: map pixels added to the position that "argmax" reads: 0.5 in the code of the hourglass nets, whose targets were
            truncated to whole pixels (QUIRK B7).
    """

    decode: Literal["argmax", "dark", "udp", "soft_argmax"] = "argmax"
    beta: float = 1.0
    compensate: bool = False
    floor: float = 0.01
    rectify: bool = False
    border: Literal["hrnet", "mmpose"] = "hrnet"
    kernel: int = 11
    confidence: Literal["peak", "probability", "one"] = "peak"
    shift: float = later(0.25)
    offset: float = later(0.0)

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "beta")
        if not 0 <= self.offset <= 0.5:
            raise ValueError(f"offset={self.offset}: expected 0 to half a map pixel")
        if self.offset and self.decode != "argmax":
            raise ValueError(f"offset={self.offset}, decode={self.decode!r}: only argmax has an offset; leave it at 0")
        if not 0 < self.floor < 1:
            raise ValueError(f"floor={self.floor}: expected a number between 0 and 1")
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: expected an odd number of pixels, 3 at least")
        if not 0 <= self.shift <= 0.5:
            raise ValueError(f"shift={self.shift}: expected 0 to half a map pixel")


@dataclass(frozen=True, eq=False, kw_only=True)
class Heatmaps(NetTask):
    """The family whose net predicts heatmaps (B, h, w, K), or a tuple of them, stage by stage; created by `heatmaps`.

    Attributes:
        net, skeleton, size_wh, preprocess: see `NetTask`.
        map_loss: the loss of the maps, "maps" in the config.
        joint_loss: the loss of the coordinates, "joints" in the config.
        readout: the settings for reading coordinates and confidences from the maps, "read" in the config.
    """

    map_loss: MapLoss = MSE
    joint_loss: JointLoss = JointLoss()
    readout: Readout = Readout()

    family: ClassVar[str] = "heatmaps"
    level: ClassVar[Level] = "person"
    outputs: ClassVar[tuple[str, ...]] = ("xy", "confidence")
    rescore: ClassVar[str] = "box*mean"
    SETTINGS: ClassVar = {
        "maps": ("map_loss", MapLoss),
        "joints": ("joint_loss", JointLoss),
        "read": ("readout", Readout),
        "preprocess": ("preprocess", None),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.map_loss.kind == "none" and self.joint_loss.kind == "none":
            raise ValueError("there is no loss to train with: maps.kind and joints.kind are both 'none'")

    @property
    def channels(self) -> int:
        """The number of maps of a stage of the net."""
        return self.skeleton.num_joints

    @property
    def integrates(self) -> bool:
        """Whether coordinates are the soft-argmax of the maps rather than the position of a peak."""
        return self.readout.decode == "soft_argmax"

    @property
    def codec(self) -> MapCodec:
        """The encoding that the loss and the decoder share: the target of the loss, with the search of the readout."""
        read = self.readout
        search = "argmax" if self.integrates else read.decode
        return replace(
            self.map_loss.codec,
            search=search,
            kernel=read.kernel,
            border=read.border,
            shift=read.shift,
            offset=read.offset,
        )

    def loss(self, variables: PyTree, batch: Batch, *, key: jax.Array) -> LossAndMetrics:
        """See `Task.loss`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: image (B, H, W, 3) in 0..255, joints (B, K, 2) in input pixels, visibility (B, K), above 0 where labelled.
            key: random key of the map loss.
        """
        stages, collections = self.run_net(variables, self.training_images(batch), train=True)
        where = (batch["visibility"] > 0) & inside(batch["joints"], self.size_wh)
        of_maps = of_joints = jnp.zeros(())
        for i, stage in enumerate(stages):
            of_maps += map_loss(
                self.map_loss, stage, batch["joints"], size_wh=self.size_wh, where=batch["visibility"] > 0,
                key=jax.random.fold_in(key, i), beta=self.readout.beta,
            )  # fmt: skip
            if self.joint_loss.kind != "none":
                of_joints += self.loss_of_joints(self.soft_argmax(stage), batch["joints"], where=where)
        xy = self.rough_joints(jax.lax.stop_gradient(stages[-1]))
        error = jnp.linalg.norm(jnp.where(where[..., None], xy - batch["joints"], 0.0), axis=-1)
        metrics = {"epe": losses.mean(error, where=where), "map_loss": of_maps, "joint_loss": of_joints}
        return of_maps + of_joints, (collections, metrics)

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: image (B, H, W, 3) in 0..255.
            flip_test: if True, average the maps with the mirrored maps of the mirrored crop (the coordinates, for a soft-argmax).

        Returns:
            xy (B, K, 2) in input pixels; confidence (B, K).
        """
        stage = self.last_stage(variables, batch["image"])
        stage = stage if self.integrates else self.as_taught(stage)
        if not flip_test:
            xy, confidence = self.decode(stage)
            return {"xy": xy, "confidence": confidence}
        flipped = self.last_stage(variables, batch["image"][:, :, ::-1])
        if self.integrates:
            return self.mean_of_views(self.decode(stage), self.decode(flipped))
        mirrored = self.codec.mirror(self.as_taught(flipped), flip_index=self.flip_index)
        xy, confidence = self.decode((stage + mirrored) / 2)
        return {"xy": xy, "confidence": confidence}

    def maps(self, variables: PyTree, images: jax.Array) -> jax.Array:
        """Returns the maps from which coordinates are read, without the flip test, for figures.

        Args:
            variables: the variables, with the structure that `init` returns.
            images: (B, H, W, 3), as in a batch.

        Returns:
            The maps (B, h, w, K) of the last stage. If a peak is searched, these are the maps as their loss sees them
            (probabilities for H2 and H3). If they are integrated, it is the softmax whose mean is taken (with the compensation of
            its bias, the coordinate is not quite that mean).
        """
        stage = self.last_stage(variables, images)
        if self.integrates:
            return heatmap.softmax(self.logits(stage), beta=self.readout.beta)
        return self.as_taught(stage)

    def run_net(self, variables: PyTree, images: jax.Array, *, train: bool) -> tuple[tuple[jax.Array, ...], PyTree]:
        """Returns the raw maps of all stages, with the new collections.

        Raises:
            ValueError: the net's maps do not match the skeleton, or have another aspect ratio than the input.
        """
        outputs, collections = self.apply_net(variables, images, train=train)
        stages = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
        joints = self.skeleton.num_joints
        for stage in stages:
            if stage.ndim != 4 or stage.shape[0] != images.shape[0] or stage.shape[-1] != self.channels:
                raise ValueError(
                    f"the net gives maps {stage.shape}: expected ({images.shape[0]}, h, w, {self.channels}), for the skeleton "
                    f"{self.skeleton.name!r} of {joints} joints"
                )
            check_cells(self.size_wh, stage.shape[1:3])
        return stages, collections

    def last_stage(self, variables: PyTree, images: jax.Array) -> jax.Array:
        """Returns the raw maps (B, h, w, K) of the last stage, the one that coordinates are read from."""
        return self.run_net(variables, images, train=False)[0][-1]

    def logits(self, stage: jax.Array) -> jax.Array:
        """Returns the raw maps as the softmax takes them."""
        return nn.relu(stage) if self.readout.rectify else stage

    def as_taught(self, stage: jax.Array) -> jax.Array:
        """Returns the maps as their loss sees them, in which a peak can be searched: probabilities for H2 and H3."""
        match self.map_loss.kind:
            case "cross_entropy":
                return heatmap.softmax(stage)
            case "bce":
                return jax.nn.sigmoid(stage)
        return stage

    def soft_argmax(self, stage: jax.Array) -> jax.Array:
        """Returns coordinates (B, K, 2) in input pixels, the mean of the softmax of raw maps."""
        read = self.readout
        options = {"beta": read.beta, "compensate": read.compensate, "floor": read.floor}
        xy, _ = heatmap.soft_argmax(self.logits(stage), **options)
        return self.codec.from_map(xy, size_wh=self.size_wh, size_hw=stage.shape[1:3])

    def rough_joints(self, stage: jax.Array) -> jax.Array:
        """Returns coordinates (B, K, 2) in input pixels for the EPE of the training, without refinement of a peak."""
        if self.integrates:
            return self.soft_argmax(stage)
        codec = replace(self.map_loss.codec, shift=self.readout.shift)
        return codec.decode(self.as_taught(stage), size_wh=self.size_wh)[0]

    def loss_of_joints(self, xy: jax.Array, joints: jax.Array, *, where: jax.Array) -> jax.Array:
        """Returns the joint loss of coordinates (B, K, 2) in input pixels, a scalar."""
        settings = self.joint_loss
        prediction, target = (geometry.normalize(p, self.size_wh) for p in (xy, joints))
        function = {"l1": losses.l1, "l2": losses.l2, "smooth_l1": losses.smooth_l1}[settings.kind]
        values = function(prediction, target, where=where)
        return settings.weight * (values.mean() if settings.variant == "mmpose" else values.sum() / len(values))

    def decode(self, stage: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (xy, confidence), from raw maps if they are integrated, else from the output of `as_taught`."""
        if self.integrates:
            xy, peak = self.soft_argmax(stage), self.as_taught(stage).max((1, 2))
        else:
            xy, peak = self.codec.decode(stage, size_wh=self.size_wh)
        match self.readout.confidence:
            case "probability":
                return xy, heatmap.softmax(self.logits(stage), beta=self.readout.beta).max((1, 2))
            case "one":
                return xy, jnp.ones_like(peak)
        return xy, peak

    def mean_of_views(
        self, view: tuple[jax.Array, jax.Array], flipped: tuple[jax.Array, jax.Array]
    ) -> dict[str, jax.Array]:
        """Returns the mean of (xy, confidence) of a crop and of its mirror image, whose coordinates are mirrored back."""
        (xy, confidence), (xy_flipped, confidence_flipped) = view, flipped
        mirrored = xy_flipped[:, self.flip_index] * jnp.array([-1, 1]) + jnp.array([self.size_wh[0] - 1, 0])
        return {"xy": (xy + mirrored) / 2, "confidence": (confidence + confidence_flipped[:, self.flip_index]) / 2}


def heatmaps(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    maps: MapLoss = MSE,
    joints: JointLoss = JointLoss(),
    read: Readout = Readout(),
    preprocess: str = "imagenet",
) -> Heatmaps:
    """Returns a task whose net predicts heatmaps (B, h, w, K), or a tuple of stages: all are supervised, the last is decoded.

    The flip test averages maps, moved by one column as in HRNet's code unless the targets are UDP's. For a soft-argmax it
    averages coordinates, each with its exact mirror image. Labelled joints outside the crop are ignored, as in the published
    code, because a map cannot show them.

    Args:
        net: linen module, `net.apply(variables, images, train=...)`; `jaxpose.nets.HeatmapNet` or your own.
        skeleton: the skeleton whose joints the net predicts.
        size_wh: input size (W, H) in pixels.
        maps: the loss of the maps.
        joints: the loss of the coordinates, which is added to that of the maps.
        read: settings for reading coordinates and confidences from the maps.
        preprocess: name of an image normalisation, see `jaxpose.tasks.PREPROCESS`.

    Raises:
        ValueError: an option is unknown, or there is no loss; during tracing: the net's maps do not match the skeleton, or have
            another aspect ratio than the input.

    >>> from jaxpose.nets import HeatmapNet, ResNet
    >>> from jaxpose.skeleton import COCO17
    >>> net = HeatmapNet(ResNet(depth=18, width=4), 17, deconvs=(8, 8, 8))
    >>> task = heatmaps(net, skeleton=COCO17, size_wh=(64, 96))
    >>> task.config["maps"]["kind"]
    'mse'
    """
    return Heatmaps(
        net, skeleton=skeleton, size_wh=size_wh, map_loss=maps, joint_loss=joints, readout=read, preprocess=preprocess
    )
