"""Coordinates read off heatmaps: detection (Xiao 2018, Sun 2019), integral regression (Sun 2018), and both together with
the bias of the integral compensated (Gu 2021).

A net gives K maps, or several stages of them. The loss is a map loss, a loss of the soft-argmax coordinates, or their sum:

    H1, H2, H3     MapLoss("mse" | "cross_entropy" | "bce"), no joint loss, read by argmax
    I*             no map loss, L1 of the soft-argmax
    I1, I2, I3     both; pretrained by the map loss alone
    IPR, DSNT      mmpose's: JointLoss("smooth_l1"), MapLoss("softmax_mse" | "js")
    Gu's joint     L1 of the compensated soft-argmax at beta 10, and "mse" in the first epochs (L_aug) or always (L_de)

A schedule is two tasks over the same variables, one after the other (`experiments.common.runner`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import geometry, heatmap, losses
from jaxpose.nets.deconv import check_cells
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import (
    Batch,
    PyTree,
    Task,
    apply_net,
    check_choices,
    check_positive,
    check_size,
    init_net,
    preprocessor,
)  # fmt: skip
from jaxpose.tasks.describe import build, describe
from jaxpose.tasks.supervision import MSE, MapLoss, from_map, inside, map_loss


@dataclass(frozen=True)
class JointLoss:
    """The loss of the soft-argmax coordinates, which are fractions of the input.

    Attributes:
      kind: "none", "l1" (both papers: better than L2), "l2", "smooth_l1" (mmpose; below 1 a parabola, QUIRK D5).
      weight: factor of the term.
      variant: reduction: "official", the sum over joints and coordinates by the batch size (Sun's code); "mmpose", the
        mean over batch, joints and coordinates.
    """

    kind: Literal["none", "l1", "l2", "smooth_l1"] = "none"
    weight: float = 1.0
    variant: Literal["official", "mmpose"] = "official"

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "weight")


@dataclass(frozen=True)
class Readout:
    """How coordinates and confidences are read off the maps.

    Attributes:
      decode: "argmax" (with the quarter shift), "dark", "udp", "soft_argmax".
      beta, compensate, floor: of the soft-argmax, which is also what a joint loss sees; see `jaxpose.heatmap.soft_argmax`. The
        floor here is larger than there: initial maps are flat, exactly where the compensation is singular, and a distance
        from the centre is multiplied by 1 / floor at most. A Gaussian of height 1 and sigma 2 on a 64x48 map holds 1.1 % of
        the softmax at beta 1, 95 % at 10, and is compensated exactly.
      rectify: take negative values of the maps as 0, the background that the compensation assumes: without a map loss nothing
        keeps them there, and a pixel below counts with a negative weight. Ours, not in the paper.
      border: of the quarter shift, "hrnet" or "mmpose".
      kernel: of the blur of "dark" and "udp": 11 for targets of sigma 2, 17 for 3.
      confidence: "peak", the highest value of the map; "probability", the highest of its softmax with `beta`; "one", as the
        published codes of integral regression have it (QUIRK I4).
    """

    decode: Literal["argmax", "dark", "udp", "soft_argmax"] = "argmax"
    beta: float = 1.0
    compensate: bool = False
    floor: float = 0.01
    rectify: bool = False
    border: Literal["hrnet", "mmpose"] = "hrnet"
    kernel: int = 11
    confidence: Literal["peak", "probability", "one"] = "peak"

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "beta")
        if not 0 < self.floor < 1:
            raise ValueError(f"floor={self.floor}: expected a number between 0 and 1")
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: expected an odd number of pixels, 3 at least")


def heatmaps(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    maps: MapLoss = MSE,
    joints: JointLoss = JointLoss(),
    read: Readout = Readout(),
    preprocess: str = "imagenet",
) -> Task:
    """A task whose net gives heatmaps (B, h, w, K), or a tuple of them: stages that are all supervised, the last is read.

    The flip test averages maps, moved by one column as HRNet's code does unless the targets are UDP's; of a soft-argmax it
    averages coordinates, each with the exact mirror.

    Args:
      net: linen module, `net.apply(variables, images, train=...)`; `jaxpose.nets.HeatmapNet` or your own.
      size_wh: input size (W, H) in pixels.
      maps, joints: the loss; the sum of the two terms.
      read: how coordinates come out.
      preprocess: name of an image normalisation, see `jaxpose.tasks.PREPROCESS`.

    Labelled joints outside the crop are left out, as in the published codes: a map cannot show them.

    Raises:
      ValueError: an unknown option, no loss at all; when it is traced, a net whose maps do not suit the skeleton, or an input
        of another shape than its maps.

    >>> from jaxpose.nets import HeatmapNet, ResNet
    >>> from jaxpose.skeleton import COCO17
    >>> net = HeatmapNet(ResNet(depth=18, width=4), 17, deconvs=(8, 8, 8))
    >>> task = heatmaps(net, skeleton=COCO17, size_wh=(64, 96))
    >>> task.config["maps"]["kind"]
    'mse'
    """
    check_size(size_wh)
    to_input = preprocessor(preprocess)
    if maps.kind == "none" and joints.kind == "none":
        raise ValueError("nothing to learn from: maps.kind and joints.kind are both 'none'")
    flip_index = jnp.asarray(skeleton.flip_index)

    def init(key: jax.Array) -> PyTree:
        params, batch_stats = init_net(net, key, size_wh)
        return {"params": {"net": params}, "batch_stats": batch_stats}

    def run_net(variables: PyTree, images: jax.Array, *, train: bool) -> tuple[tuple[jax.Array, ...], PyTree]:
        outputs, collections = apply_net(net, variables, to_input(images), train=train)
        stages = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
        for stage in stages:
            if stage.ndim != 4 or stage.shape[0] != images.shape[0] or stage.shape[-1] != skeleton.num_joints:
                raise ValueError(
                    f"the net gives maps {stage.shape}: expected ({images.shape[0]}, h, w, {skeleton.num_joints}), for the "
                    f"skeleton {skeleton.name!r} of {skeleton.num_joints} joints"
                )
            check_cells(size_wh, stage.shape[1:3])
        return stages, collections

    def soft_argmax(stage: jax.Array) -> jax.Array:
        options = dict(beta=read.beta, compensate=read.compensate, floor=read.floor)
        return heatmap.soft_argmax(_logits(stage, read), **options)[0]

    def pixels(xy: jax.Array, stage: jax.Array) -> jax.Array:
        return from_map(xy, size_wh, stage.shape[1:3], target=maps.target)

    def joint_loss(xy: jax.Array, batch: Batch, where: jax.Array) -> jax.Array:
        found, target = (geometry.normalize(p, size_wh) for p in (xy, batch["joints"]))
        function = {"l1": losses.l1, "l2": losses.l2, "smooth_l1": losses.smooth_l1}[joints.kind]
        values = function(found, target, where=where)
        return joints.weight * (values.mean() if joints.variant == "mmpose" else values.sum() / len(values))

    def loss(variables: PyTree, batch: Batch, *, key: jax.Array):
        stages, collections = run_net(variables, batch["image"], train=True)
        where = (batch["visibility"] > 0) & inside(batch["joints"], size_wh)
        of_maps = of_joints = jnp.zeros(())
        for i, stage in enumerate(stages):
            of_maps += map_loss(maps, stage, batch["joints"], size_wh=size_wh, where=batch["visibility"] > 0,
                                key=jax.random.fold_in(key, i), beta=read.beta)  # fmt: skip
            if joints.kind != "none":
                of_joints += joint_loss(pixels(soft_argmax(stage), stage), batch, where)
        last = jax.lax.stop_gradient(stages[-1])
        found = pixels(
            soft_argmax(last) if read.decode == "soft_argmax" else heatmap.argmax(_as_taught(last, maps))[0], last
        )
        error = jnp.linalg.norm(jnp.where(where[..., None], found - batch["joints"], 0.0), axis=-1)
        metrics = {"epe": losses.mean(error, where=where), "map_loss": of_maps, "joint_loss": of_joints}
        return of_maps + of_joints, (collections, metrics)

    def decode(stage: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(xy, confidence) of raw maps where they are integrated, of the maps as taught where they are searched."""
        match read.decode:
            case "argmax":
                xy, peak = heatmap.argmax(stage, border=read.border)
            case "dark":
                xy, peak = heatmap.dark(stage, kernel=read.kernel)
            case "udp":
                xy, peak = heatmap.udp(stage, kernel=read.kernel)
            case "soft_argmax":
                xy, peak = soft_argmax(stage), _as_taught(stage, maps).max((1, 2))
        match read.confidence:
            case "peak":
                confidence = peak
            case "probability":
                confidence = heatmap.softmax(_logits(stage, read), beta=read.beta).max((1, 2))
            case "one":
                confidence = jnp.ones_like(peak)
        return pixels(xy, stage), confidence

    def predict(variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        stage = run_net(variables, batch["image"], train=False)[0][-1]
        searched = read.decode != "soft_argmax"
        stage = _as_taught(stage, maps) if searched else stage
        if not flip_test:
            xy, confidence = decode(stage)
            return {"xy": xy, "confidence": confidence}
        flipped = run_net(variables, batch["image"][:, :, ::-1], train=False)[0][-1]
        if not searched:
            (xy, confidence), (xy_flipped, confidence_flipped) = decode(stage), decode(flipped)
            mirrored = xy_flipped[:, flip_index] * jnp.array([-1, 1]) + jnp.array([size_wh[0] - 1, 0])
            return {"xy": (xy + mirrored) / 2, "confidence": (confidence + confidence_flipped[:, flip_index]) / 2}
        mirrored = _as_taught(flipped, maps)[:, :, ::-1, flip_index]
        if maps.target != "udp":
            # Pixel i of the map is pixel i W / w of the input: the mirror is off by 1 - w / W of a column.
            mirrored = jnp.concatenate([mirrored[:, :, :1], mirrored[:, :, :-1]], axis=2)
        xy, confidence = decode((stage + mirrored) / 2)
        return {"xy": xy, "confidence": confidence}

    config = {
        "family": "heatmaps",
        "net": describe(net),
        "skeleton": skeleton.to_dict(),
        "size_wh": list(size_wh),
        "maps": asdict(maps),
        "joints": asdict(joints),
        "read": asdict(read),
        "preprocess": preprocess,
    }
    return Task(init=init, loss=loss, predict=predict, config=config)


def heatmap_of(
    config: dict[str, Any], variables: PyTree, images: jax.Array, *, net: nn.Module | None = None
) -> jax.Array:
    """The maps that coordinates are read off, without the flip test: for pictures.

    Args:
      config: of the task.
      variables: of the task.
      images: (B, H, W, 3) as in a batch.
      net: where it is not one that this package ships.

    Returns:
      (B, h, w, K), of the last stage: where a peak is searched, the maps as their loss sees them (probabilities of H2 and H3);
      where they are integrated, the softmax whose mean is taken (with the compensation of its bias, not quite that mean).

    Raises:
      ValueError: a task of another family.

    >>> class Cells(nn.Module):
    ...     def __call__(self, images, *, train):
    ...         return nn.avg_pool(images, (4, 4), (4, 4))
    >>> config = {"family": "heatmaps", "preprocess": "imagenet", "maps": {"kind": "bce"}, "read": {}}
    >>> variables = {"params": {"net": {}}, "batch_stats": {}}
    >>> heatmap_of(config, variables, jnp.zeros((1, 8, 12, 3)), net=Cells()).shape
    (1, 2, 3, 3)
    """
    if config["family"] != "heatmaps":
        raise ValueError(f"a task of the family {config['family']!r} has no heatmaps to read: expected 'heatmaps'")
    net = build(config["net"]) if net is None else net
    outputs, _ = apply_net(net, variables, preprocessor(config["preprocess"])(images), train=False)
    stage = outputs[-1] if isinstance(outputs, tuple | list) else outputs
    read = Readout(**config["read"])
    if read.decode == "soft_argmax":
        return heatmap.softmax(_logits(stage, read), beta=read.beta)
    return _as_taught(stage, MapLoss(**config["maps"]))


def _logits(stage: jax.Array, read: Readout) -> jax.Array:
    return nn.relu(stage) if read.rectify else stage


def _as_taught(stage: jax.Array, maps: MapLoss) -> jax.Array:
    """The maps as their loss sees them, which is what has a peak above 0 to be found: probabilities of H2 and H3."""
    match maps.kind:
        case "cross_entropy":
            return heatmap.softmax(stage)
        case "bce":
            return jax.nn.sigmoid(stage)
    return stage
