"""The supervision of heatmaps: the only place that combines a map, a target and a loss.

The heatmap family trains with it, and RLE can add it as an auxiliary loss on a parallel head (table 14 of Li 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxpose import heatmap, losses
from jaxpose.nets.deconv import check_cells
from jaxpose.tasks.base import check_choices, check_positive
from jaxpose.tasks.codec import MapCodec, Target


@dataclass(frozen=True)
class MapLoss:
    """The target of the maps and the loss against it.

    Attributes:
        kind: the loss: "none": no loss of the maps;
            "mse": the maps against Gaussians of peak 1 (SimpleBaseline, HRNet; H1 of Sun 2018; equation 2 of Gu 2021);
            "ohkm": the same for the 8 worst joints of a sample;
            "cross_entropy": softmax over the pixels against the nearest pixel (H2);
            "bce": sigmoid against a disc, three random negative pixels per positive one (H3);
            "softmax_mse": the softmax map against a Gaussian of sum 1 (mmpose's IPR);
            "kl", "js": divergences between those two; "js" is the regularisation of DSNT.
        weight: factor of the whole term. Papers that add a coordinate loss do not state it (QUIRK D4).
        target: kind of Gaussian, see `jaxpose.heatmap.gaussian`; "udp" also changes how map and input pixels correspond.
        sigma: standard deviation of the Gaussian in map pixels.
        radius: radius of the disc of "bce" in input pixels (Sun 2018 gives 15 pixels and does not say in which image).
        variant: the factor of "mse": "official" halves the mean (HRNet's code), "mmpose" does not.
    """

    kind: Literal["none", "mse", "ohkm", "cross_entropy", "bce", "softmax_mse", "kl", "js"] = "mse"
    weight: float = 1.0
    target: Target = "msra"
    sigma: float = 2.0
    radius: float = 15.0
    variant: Literal["official", "mmpose"] = "official"

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "weight", "sigma", "radius")

    @property
    def codec(self) -> MapCodec:
        """The encoding of the joints; its grid does not depend on the kind of the loss, and exists for "none" too."""
        return MapCodec(self.target, self.sigma)


MSE = MapLoss()
NO_MAP_LOSS = MapLoss("none")


def pixels_per_cell(size_wh: Sequence[int], size_hw: Sequence[int], *, target: Target = "msra") -> tuple[float, float]:
    """Returns `MapCodec.pixels_per_cell` for this target.

    >>> pixels_per_cell((192, 256), (64, 48))
    (4.0, 4.0)
    """
    return MapCodec(target).pixels_per_cell(size_wh, size_hw)


def inside(joints: jax.Array, size_wh: Sequence[int]) -> jax.Array:
    """Returns which joints (..., K, 2) lie in the crop; a map or a soft-argmax cannot represent the others."""
    return jnp.all((joints >= 0) & (joints <= jnp.asarray(size_wh) - 1), axis=-1)


def map_loss(
    settings: MapLoss,
    maps: jax.Array,
    joints: jax.Array,
    *,
    size_wh: Sequence[int],
    where: jax.Array,
    key: jax.Array,
    beta: float = 1.0,
) -> jax.Array:
    """Returns the loss term of one batch, a scalar.

    "mse" and "softmax_mse" are means over batch, joints and pixels, as in the published code; the others are sums over
    joints divided by the batch size ("bce": after the mean over its sampled pixels).

    Args:
        settings: the loss.
        maps: (B, h, w, K), raw output of the net.
        joints: (B, K, 2) in input pixels.
        size_wh: (W, H) of the input.
        where: (B, K) labelled joints. Those whose target misses the map count as unlabelled, as published.
        key: random key for the negatives of "bce".
        beta: factor of the maps in the softmax.

    Raises:
        ValueError: the maps have another aspect ratio than the input.
    """
    size_hw = maps.shape[1:3]
    check_cells(size_wh, size_hw)
    match settings.kind:
        case "none":
            return jnp.zeros((), maps.dtype)
        case "cross_entropy" | "bce":
            value = _pixel_loss(settings, maps, joints, size_wh=size_wh, where=where, key=key)
        case _:
            target, where = settings.codec.encode(joints, size_wh=size_wh, size_hw=size_hw, where=where)
            value = _gaussian_loss(settings, maps, target, where=where, beta=beta)
    return settings.weight * value


def _gaussian_loss(
    settings: MapLoss, maps: jax.Array, target: jax.Array, *, where: jax.Array, beta: float
) -> jax.Array:
    """Computes the kinds whose target is a Gaussian; maps and target are (B, h, w, K), where is (B, K)."""
    match settings.kind:
        case "mse":
            half = 0.5 if settings.variant == "official" else 1.0
            return half * losses.heatmap_mse(maps, target, where=where).mean()
        case "ohkm":
            return 0.5 * losses.heatmap_ohkm(maps, target, top=min(8, maps.shape[-1]), where=where).mean()
    prob, target = heatmap.softmax(maps, beta=beta), heatmap.normalized(target)
    if settings.kind == "softmax_mse":
        return losses.heatmap_mse(prob, target, where=where).mean()
    divergence = losses.heatmap_kl if settings.kind == "kl" else losses.heatmap_js
    return divergence(prob, target, where=where).sum() / len(maps)


def _pixel_loss(
    settings: MapLoss, maps: jax.Array, joints: jax.Array, *, size_wh: Sequence[int], where: jax.Array, key: jax.Array
) -> jax.Array:
    """Computes the kinds that classify pixels, "cross_entropy" and "bce"; the arguments are those of `map_loss`."""
    size_hw = maps.shape[1:3]
    xy = settings.codec.to_map(joints, size_wh=size_wh, size_hw=size_hw)
    where = where & inside(joints, size_wh)
    if settings.kind == "cross_entropy":
        nearest = jnp.clip(xy, 0, jnp.asarray(size_hw[::-1]) - 1)  # the last half pixel rounds to a pixel outside
        return losses.heatmap_cross_entropy(maps, heatmap.one_hot(nearest, size_hw), where=where).sum() / len(maps)
    cell = sum(pixels_per_cell(size_wh, size_hw)) / 2
    disc = heatmap.disc(xy, size_hw, radius=settings.radius / cell)
    each = losses.heatmap_bce(maps, disc, key=key, where=where)
    # Three negatives per positive.
    num_sampled = jnp.maximum(jnp.minimum(4 * disc.sum((1, 2)), size_hw[0] * size_hw[1]), 1)
    return (each.sum((1, 2)) / num_sampled).sum() / len(maps)
