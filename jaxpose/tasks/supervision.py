"""How heatmaps are supervised: the one place where a map, a target and a loss meet.

The heatmap family trains with it, and RLE may add it as an auxiliary loss on a parallel head (table 14 of Li 2021).
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

Target = Literal["msra", "unbiased", "udp"]


@dataclass(frozen=True)
class MapLoss:
    """What the maps are held against, and how.

    Attributes:
      kind: "none";
        "mse": the maps against Gaussians of peak 1 (SimpleBaseline, HRNet; H1 of Sun 2018; equation 2 of Gu 2021);
        "ohkm": that of the 8 worst joints of a sample;
        "cross_entropy": softmax over the pixels against the nearest pixel (H2);
        "bce": sigmoid against a disc, three random negative pixels to a positive one (H3);
        "softmax_mse": the softmax map against a Gaussian of sum 1 (mmpose's IPR);
        "kl", "js": divergences between those two; "js" is the regularisation of DSNT.
      weight: factor of the whole term. Papers that add a coordinate loss leave it open (QUIRK D4).
      target: which Gaussian, see `jaxpose.heatmap.gaussian`; "udp" also changes how map and input pixels correspond.
      sigma: of the Gaussian, map pixels.
      radius: of the disc of "bce", input pixels (Sun 2018 says 15 pixels without saying of what).
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


MSE = MapLoss()
NO_MAP_LOSS = MapLoss("none")


def pixels_per_cell(size_wh: Sequence[int], size_hw: Sequence[int], *, target: Target = "msra") -> tuple[float, float]:
    """Input pixels to a map pixel along x and y.

    Pixel 0 of the map is pixel 0 of the input. The stride W / w as SimpleBaseline, HRNet and integral regression have it;
    with UDP's targets (W - 1) / (w - 1), so that the last pixels coincide too and a mirrored map is the map of
    the mirrored image.

    >>> pixels_per_cell((192, 256), (64, 48))
    (4.0, 4.0)
    """
    (width, height), (h, w) = size_wh, size_hw
    if target == "udp":
        return (width - 1) / max(w - 1, 1), (height - 1) / max(h - 1, 1)
    return width / w, height / h


def to_map(joints: jax.Array, size_wh: Sequence[int], size_hw: Sequence[int], *, target: Target = "msra") -> jax.Array:
    """(..., K, 2) input pixels -> map pixels."""
    return joints / jnp.asarray(pixels_per_cell(size_wh, size_hw, target=target))


def from_map(xy: jax.Array, size_wh: Sequence[int], size_hw: Sequence[int], *, target: Target = "msra") -> jax.Array:
    """(..., K, 2) map pixels -> input pixels."""
    return xy * jnp.asarray(pixels_per_cell(size_wh, size_hw, target=target))


def inside(joints: jax.Array, size_wh: Sequence[int]) -> jax.Array:
    """Which joints (..., K, 2) lie in the crop: no map and no soft-argmax can say where the others are."""
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
    """The term of one batch: scalar.

    Args:
      maps: (B, h, w, K), raw output of the net.
      joints: (B, K, 2) input pixels.
      size_wh: of the input.
      where: (B, K) labelled joints. Those whose target misses the map count as unlabelled, as published.
      key: of the negatives of "bce".
      beta: of the softmax.

    "mse" and "softmax_mse" are means over batch, joints and pixels, as in the published codes; the others sums over
    joints divided by the batch (of "bce": the mean over its drawn pixels first).
    """
    size_hw = maps.shape[1:3]
    check_cells(size_wh, size_hw)
    xy = to_map(joints, size_wh, size_hw, target=settings.target)
    if settings.kind in ("cross_entropy", "bce"):
        where = where & inside(joints, size_wh)
    else:
        where = where & heatmap.reaches(xy, size_hw, sigma=settings.sigma, method=settings.target)
    gaussian = lambda: heatmap.gaussian(xy, size_hw, sigma=settings.sigma, method=settings.target)  # noqa: E731
    batch = maps.shape[0]
    match settings.kind:
        case "mse":
            half = 0.5 if settings.variant == "official" else 1.0
            value = half * losses.heatmap_mse(maps, gaussian(), where=where).mean()
        case "ohkm":
            value = 0.5 * losses.heatmap_ohkm(maps, gaussian(), top=min(8, maps.shape[-1]), where=where).mean()
        case "cross_entropy":
            nearest = jnp.clip(xy, 0, jnp.asarray(size_hw[::-1]) - 1)  # the last half pixel rounds to one outside
            value = losses.heatmap_cross_entropy(maps, heatmap.one_hot(nearest, size_hw), where=where).sum() / batch
        case "bce":
            cell = sum(pixels_per_cell(size_wh, size_hw)) / 2
            disc = heatmap.disc(xy, size_hw, radius=settings.radius / cell)
            each = losses.heatmap_bce(maps, disc, key=key, where=where)
            positives = disc.sum((1, 2))
            drawn = jnp.maximum(jnp.minimum(4 * positives, size_hw[0] * size_hw[1]), 1)  # three negatives to a positive
            value = (each.sum((1, 2)) / drawn).sum() / batch
        case "softmax_mse":
            difference = losses.heatmap_mse(
                heatmap.softmax(maps, beta=beta), heatmap.normalized(gaussian()), where=where
            )
            value = difference.mean()
        case "kl" | "js":
            divergence = losses.heatmap_kl if settings.kind == "kl" else losses.heatmap_js
            prob, target = heatmap.softmax(maps, beta=beta), heatmap.normalized(gaussian())
            value = divergence(prob, target, where=where).sum() / batch
        case "none":
            return jnp.zeros((), maps.dtype)
    return settings.weight * value
