"""A factor on sigma, fitted on held-out frames, so that the regions of a model trained on a small set are calibrated.

A net that has seen a hundred frames many times knows their errors, not those of new frames: its density is overconfident.
The shape of the density stays; `fit_scale` finds the factor on sigma at which the region of one level (0.9) holds that
share of the held-out joints, as split conformal prediction does (Vovk 2005; Angelopoulos and Bates 2023, arXiv
2107.07511). Frames that the factor was fitted on cannot validate it, so `cross_fit` counts every frame with the factor
of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxpose import density

__all__ = ["LEVEL", "cross_fit", "fit_scale"]

LEVEL = 0.9
MIN_JOINTS = 10
"""With fewer labelled joints a share of 90 % cannot be estimated, and the factor stays 1."""
FACTORS = np.geomspace(1 / 16, 64, 101)


def fit_scale(
    mu: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    model: density.Model,
    *,
    where: jax.typing.ArrayLike | None = None,
    level: float = LEVEL,
) -> float:
    """Fits the factor on sigma with which the regions of `level` hold that share of the joints.

    Args:
        mu, sigma, target: (..., K, D) in the same unit.
        model: The model of the standardised error.
        where: (..., K) labelled joints.
        level: The mass of the regions, in (0, 1).

    Returns:
        A factor between 1/16 and 64; 1 if fewer than 10 joints are labelled.

    Raises:
        ValueError: The same as for `jaxpose.density.coverage`, or a level outside (0, 1).

    >>> truth = np.random.default_rng(0).laplace(scale=0.3, size=(2000, 1, 2))
    >>> model = density.Model(log_g=None, base="laplace")
    >>> round(fit_scale(np.zeros_like(truth), np.full_like(truth, 0.1), truth, model), 1)
    3.0
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie in (0, 1): the share of the joints inside the region")
    reached = _reached(mu, sigma, target, model, where)
    return _scale_of(reached[np.isfinite(reached[:, 0])], level)


def cross_fit(
    mu: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    model: density.Model,
    *,
    groups: Sequence[int] | np.ndarray,
    where: jax.typing.ArrayLike | None = None,
    level: float = LEVEL,
    folds: int = 5,
) -> Mapping[str, float]:
    """Measures how often the region of `level` holds the truth, each frame with a factor fitted on the other frames.

    Args:
        mu, sigma, target: (N, K, D) in the same unit.
        model: The model of the standardised error.
        groups: (N,) group numbers; persons of one image, or of one video, have the same number and are never separated.
        where: (N, K) labelled joints.
        level: The mass of the region, in (0, 1).
        folds: The number of parts that the groups are divided into.

    Returns:
        {"scale": fitted on all, "coverage": the cross-fitted share, "raw": the share with the factor 1}; without
        "coverage" if there are fewer than two groups or 10 labelled joints in some part.

    >>> rng = np.random.default_rng(0)
    >>> truth = rng.laplace(scale=0.3, size=(1000, 1, 2))
    >>> model = density.Model(log_g=None, base="laplace")
    >>> counted = cross_fit(0 * truth, 0 * truth + 0.1, truth, model, groups=np.arange(1000))
    >>> bool(abs(counted["coverage"] - 0.9) < 0.02), bool(counted["raw"] < 0.5)
    (True, True)
    """
    reached = _reached(mu, sigma, target, model, where)
    persons, joints = np.shape(mu)[:2]
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    part = np.repeat(group % folds, joints)
    counted = np.isfinite(reached[:, 0])
    result = {"scale": _scale_of(reached[counted], level), "raw": _share(reached[counted], 1.0, level)}
    inside, total = 0.0, 0
    for fold in np.unique(part[counted]):
        here, others = counted & (part == fold), counted & (part != fold)
        if others.sum() < MIN_JOINTS:
            return result
        inside += here.sum() * _share(reached[here], _scale_of(reached[others], level), level)
        total += here.sum()
    return result | ({"coverage": inside / total} if total else {})


def _reached(mu, sigma, target, model: density.Model, where) -> np.ndarray:
    """Returns (N K, F): the level that the truth reaches if sigma is multiplied by each of FACTORS; NaN without a label."""
    mu, sigma, target = (np.asarray(array, np.float64) for array in (mu, sigma, target))
    where = np.ones(mu.shape[:-1], bool) if where is None else np.asarray(where) > 0
    e = np.where(where[..., None], target - mu, 0.0) / np.where(where[..., None], sigma, 1.0)
    levels = density.level(e.reshape(-1, 1, e.shape[-1]) / FACTORS[:, None], model)
    return np.where(where.reshape(-1, 1), levels, np.nan)


def _share(reached: np.ndarray, scale: float, level: float) -> float:
    """Returns the share of the joints inside, at a factor between two of FACTORS, by interpolation of their levels."""
    if len(reached) == 0:
        return float("nan")
    at = np.interp(np.log(scale), np.log(FACTORS), np.arange(len(FACTORS)))
    low = min(int(at), len(FACTORS) - 2)
    between = reached[:, low] + (at - low) * (reached[:, low + 1] - reached[:, low])
    return float((between <= level).mean())


def _scale_of(reached: np.ndarray, level: float) -> float:
    """Returns the smallest factor at which ceil((n + 1) level) of the n joints are inside, or all if that is more."""
    count = len(reached)
    if count < MIN_JOINTS:
        return 1.0
    # A joint's region grows with the factor; find the factor from which on each joint is inside.
    inside = reached <= level
    first = np.where(inside.any(1), inside.argmax(1), len(FACTORS) - 1)
    before = np.maximum(first - 1, 0)
    rows = np.arange(count)
    above, below = reached[rows, before], reached[rows, first]
    share = np.where(above > below, (above - level) / np.maximum(above - below, 1e-12), 1.0)
    exact = np.exp(np.log(FACTORS[before]) + np.clip(share, 0, 1) * (np.log(FACTORS[first]) - np.log(FACTORS[before])))
    rank = min(int(np.ceil((count + 1) * level)), count)
    return float(np.sort(exact)[rank - 1])
