"""Losses as pure functions of arrays. They need `jax` only, so any JAX project can import one.

Codes such as QUIRK R1 in the source refer to the rows of docs/differences.md, which says where papers and codes differ.

All losses are elementwise and take data first, options by keyword and masks as `where=`. Reduce the result with `mean`,
or as your recipe says.
"""

from jaxpose.losses.classification import focal
from jaxpose.losses.coordinate import l1, l2, smooth_l1
from jaxpose.losses.embedding import associative_embedding
from jaxpose.losses.heatmap import (
    heatmap_bce,
    heatmap_cross_entropy,
    heatmap_js,
    heatmap_kl,
    heatmap_mse,
    heatmap_ohkm,
    scale_penalty,
    weight_adaptive_mse,
)
from jaxpose.losses.likelihood import base_log_prob, gaussian_nll, laplace_nll, rle, rle_mixture
from jaxpose.losses.reduce import mean

__all__ = [
    "associative_embedding",
    "base_log_prob",
    "focal",
    "gaussian_nll",
    "heatmap_bce",
    "heatmap_cross_entropy",
    "heatmap_js",
    "heatmap_kl",
    "heatmap_mse",
    "heatmap_ohkm",
    "l1",
    "l2",
    "laplace_nll",
    "mean",
    "rle",
    "rle_mixture",
    "scale_penalty",
    "smooth_l1",
    "weight_adaptive_mse",
]
