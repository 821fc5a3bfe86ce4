"""Losses as pure functions of arrays: import one into any JAX project, it costs `jax` only.

Elementwise, data first and options by keyword, `where=` for masks; reduce with `mean` or as your recipe says.
"""

from jaxpose.losses.coordinate import l1, l2, smooth_l1
from jaxpose.losses.heatmap import (
    heatmap_bce,
    heatmap_cross_entropy,
    heatmap_js,
    heatmap_kl,
    heatmap_mse,
    heatmap_ohkm,
)
from jaxpose.losses.likelihood import base_log_prob, gaussian_nll, laplace_nll, rle, rle_mixture
from jaxpose.losses.reduce import mean

__all__ = [
    "base_log_prob",
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
    "smooth_l1",
]
