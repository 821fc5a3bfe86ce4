"""The predictive density of a trained model: its regions, and whether it is calibrated.

With e = (x - mu) / sigma the standardised error, a trained model states a density of e that is the same for every
joint and image; mu and sigma place and scale it. The density depends on how the model was trained:

    trained with                    density of e
    rle, log s                      s Q(e) G(e)           (RLE paper, equation 7)
    rle without log s, DLE          G(e), or G(-e): both released codes feed (mu - x) / sigma to their flow
    laplace_nll, gaussian_nll       Q(e)

Without log s the flow is still fitted to the errors by maximum likelihood (its gradient holds -log G(e) alone), so G
alone is the density of e, and Q G would count Q twice. A checkpoint records which of the cases applies; `Model`
holds it. Densities of coordinates follow as p(x) = p(e) / prod(sigma); a confidence region of level p is the smallest
set of mass p, {density >= threshold}; `coverage` counts how often the truth falls inside.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.conformal import Conformal, Scores
from jaxpose.losses.likelihood import BASES, VARIANTS, Base, Variant, base_log_prob
from jaxpose.quadrature import evaluate_in_chunks, product_rule, rule_around, rule_from_zero

LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95)

# Nodes per axis of the normaliser on [-BOUND, BOUND], by dimension.
BOUND = 20.0
POINTS = {1: 400, 2: 400, 3: 80}

# Nodes per axis of the regions, by dimension.
NODES = {1: 2000, 2: 400, 3: 72}
BOUNDS = (20.0, 40.0, 80.0, 160.0, 320.0, 10.0, 5.0, 2.5, 1.25, 0.6, 0.3)  # boxes that are tried for the density
ROUGH_TOLERANCE, MASS_TOLERANCE = 0.1, 1e-3
HALF_AXES = np.geomspace(1 / 256, 512, 86)  # half axes of the ellipses whose mass `within` looks up


@dataclasses.dataclass(frozen=True)
class Model:
    """The density of the standardised error that a trained model states.

    Attributes:
        log_g: The flow's log density in the sign it was trained with, (..., dim) -> (...); None for a model without a
            flow (`laplace_nll`, `gaussian_nll`).
        base: The density Q, used without a flow, and with log s.
        variant: The variant of `losses.rle` that the flow was trained with: in the released codes' it sees -e.
        log_normalizer: log s if the model was trained with it, at the accuracy of a density (`log_normalizer` of this
            module); None if it was trained without.
        dim: The number of coordinates of a joint: 1, 2 or 3.

    Raises:
        ValueError: There is neither a flow nor a base, the base or variant is unknown, or log s is given without a base.

    >>> Model(log_g=None, base="laplace").dim
    2
    """

    log_g: Callable[[jax.Array], jax.Array] | None
    base: Base | None = None
    variant: Variant = "paper"
    log_normalizer: float | None = None
    dim: int = 2

    def __post_init__(self):
        if self.base is not None and self.base not in BASES:
            raise ValueError(f"base={self.base!r} is unknown, expected one of {BASES} or None")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r} is unknown, expected one of {VARIANTS}")
        if self.log_g is None and self.base is None:
            raise ValueError("a model needs a flow (log_g), a base, or both: with neither there is no density")
        if self.log_normalizer is not None and (self.log_g is None or self.base is None or self.variant != "paper"):
            raise ValueError(
                f"log_normalizer={self.log_normalizer} with base={self.base!r}, variant={self.variant!r}, "
                f"log_g={'None' if self.log_g is None else 'given'}: log s belongs to the paper variant with both"
            )
        if self.dim not in NODES:
            raise ValueError(f"dim={self.dim}: a joint has {min(NODES)} to {max(NODES)} coordinates")
        if self.log_normalizer is not None:
            object.__setattr__(self, "log_normalizer", float(self.log_normalizer))


def log_prob(e: jax.typing.ArrayLike, model: Model) -> jax.Array:
    """Log density of the standardised error e = (x - mu) / sigma, whatever sign the flow was trained with.

    Args:
        e: (..., dim), no unit.
        model: The trained model.

    Returns:
        (...) in nats.

    Raises:
        ValueError: The last axis is not `model.dim`.

    >>> round(log_prob(jnp.zeros(2), Model(log_g=None, base="gaussian")).item(), 4)
    -1.8379
    """
    e = jnp.asarray(e)
    if e.shape[-1:] != (model.dim,):
        raise ValueError(f"e has shape {e.shape}, expected (..., {model.dim}): the model has dim={model.dim}")
    if model.log_g is None:
        return base_log_prob(e, base=model.base).sum(-1)
    if model.log_normalizer is None:
        return model.log_g(e if model.variant == "paper" else -e)
    return base_log_prob(e, base=model.base).sum(-1) + model.log_g(e) + model.log_normalizer


def log_prob_at(
    x: jax.typing.ArrayLike, mu: jax.typing.ArrayLike, sigma: jax.typing.ArrayLike, model: Model
) -> jax.Array:
    """Log density of coordinates: log p((x - mu) / sigma) - sum log sigma.

    Args:
        x, mu, sigma: (..., dim) in the same unit, finite, sigma positive.
        model: The trained model.

    Returns:
        (...) in nats, a density with respect to the unit of x. Values in JAX arrays are not checked: a sigma that is not
        positive gives NaN or infinity.

    Raises:
        ValueError: The shapes differ; on the host (NumPy, numbers) also if a value is not finite, or sigma not positive.

    >>> at = log_prob_at(jnp.ones(2), jnp.ones(2), jnp.full(2, 0.5), Model(log_g=None, base="laplace"))
    >>> round(at.item(), 4)
    0.0
    """
    on_host = not any(isinstance(array, jax.Array) for array in (x, mu, sigma))
    if on_host:
        _check_values(np.True_, x=np.asarray(x), mu=np.asarray(mu), sigma=np.asarray(sigma))
    x, mu, sigma = jnp.asarray(x), jnp.asarray(mu), jnp.asarray(sigma)
    if not x.shape == mu.shape == sigma.shape:
        raise ValueError(f"shapes must be equal, got x {x.shape}, mu {mu.shape}, sigma {sigma.shape}")
    return log_prob((x - mu) / sigma, model) - jnp.log(sigma).sum(-1)


def log_normalizer(
    log_g: Callable[[jax.Array], jax.Array],
    base: Base,
    *,
    bound: float = BOUND,
    points: int | None = None,
    dim: int = 2,
) -> jax.Array:
    """log s = -log of the integral of Q G over [-bound, bound]^dim (RLE paper, equation 16), for densities.

    The nodes are Gauss-Legendre's on either side of 0 on every axis, so that the kink of a Laplace Q falls between
    panels; most of them lie near 0. The result is differentiable in everything log_g depends on. The paper's [-5, 5],
    for training, is `flow.log_normalizer`.

    Args:
        log_g: (..., dim) -> (...) log density.
        base: The density Q.
        bound: Half the side of the box.
        points: The number of nodes on each axis; 400 in 1D and 2D, 80 in 3D.
        dim: The number of coordinates: 1, 2 or 3.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: The base is unknown, the bound not positive, there are fewer than 2 points, or the dimension is
            another.

    >>> flat = lambda e: jnp.zeros(e.shape[:-1])
    >>> round(abs(log_normalizer(flat, "laplace", points=40).item()), 4)
    0.0
    """
    if dim not in POINTS:  # a grid of points^dim
        raise ValueError(f"dim={dim}: a joint has {min(POINTS)} to {max(POINTS)} coordinates")
    axis = rule_from_zero(bound, POINTS[dim] if points is None else points)
    nodes, log_weights = product_rule([axis] * dim)
    nodes = jnp.asarray(nodes, jnp.result_type(float))
    log_q = base_log_prob(nodes, base=base).sum(-1)
    return -jax.nn.logsumexp(log_q + evaluate_in_chunks(log_g, nodes) + jnp.asarray(log_weights, log_q.dtype))


@dataclasses.dataclass(frozen=True)
class Moments:
    """The mean (dim,), covariance (dim, dim) and integral of a density of e, by quadrature."""

    mean: np.ndarray
    covariance: np.ndarray
    mass: float

    @property
    def standard_deviation(self) -> np.ndarray:
        """The standard deviations (dim,); sigma times this is the standard deviation of a coordinate."""
        return np.sqrt(np.diag(self.covariance))


@dataclasses.dataclass(frozen=True)
class Region:
    """The smallest set of standardised errors that holds the mass `level`.

    Attributes:
        level: The mass, in (0, 1).
        log_threshold: The set is {e: log density >= log_threshold}.
        axes: dim arrays of grid coordinates (denser around 0).
        log_density: The log density on the grid of `axes`, for contours at `log_threshold`.
        mean, covariance: The first two moments of the whole density, for `ellipse`.
    """

    level: float
    log_threshold: float
    axes: tuple[np.ndarray, ...]
    log_density: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """The grid points inside the region."""
        return self.log_density >= self.log_threshold

    def contains(self, e: np.ndarray, model: Model) -> np.ndarray:
        """Tells which standardised errors (..., dim) lie inside, (...) bool."""
        return np.asarray(log_prob(e, model)) >= self.log_threshold

    def extent(self) -> np.ndarray:
        """(dim, 2): lowest and highest coordinate of the standardised error inside; infinite where it leaves the grid.

        The border lies between a node inside and the next one, which is taken: the box holds the whole region.
        """
        rows = []
        for i, axis in enumerate(self.axes):
            inside = self.mask.any(tuple(j for j in range(self.mask.ndim) if j != i))
            nodes, around = np.flatnonzero(inside), np.concatenate([[-np.inf], axis, [np.inf]])
            rows.append([around[nodes[0]], around[nodes[-1] + 2]] if len(nodes) else [0.0, 0.0])
        return np.array(rows)

    def ellipse(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns centre (dim,), half axes (dim,) and directions (dim, dim; columns) of the moment ellipse.

        It is an approximation: the region of this level of the Gaussian with the same mean and covariance. It has that
        mass exactly only if the density is Gaussian; the contour of `log_density` is the region itself.
        """
        variances, directions = np.linalg.eigh(self.covariance)
        return self.mean, np.sqrt(variances * _chi_square_quantile(self.level, len(self.mean))), directions


def moments(model: Model) -> Moments:
    """Computes the mean, covariance and mass of the density of e.

    Args:
        model: The trained model.

    Returns:
        Moments; `.standard_deviation * sigma` is the standard deviation of a coordinate, in the unit of sigma.

    Raises:
        ValueError: No box around the origin holds the density (its mass differs from 1 by more than 1e-3).

    >>> moments(Model(log_g=None, base="laplace")).standard_deviation.round(3).tolist()
    [1.414, 1.414]
    """
    return _table(model).moments


def region(model: Model, level: float) -> Region:
    """The highest-density region of mass `level`: the contour that a confidence region should follow.

    Args:
        model: The trained model.
        level: The mass, in (0, 1).

    Returns:
        A Region in units of sigma: scale by sigma and shift by mu for coordinates.

    Raises:
        ValueError: The level is outside (0, 1), or no box holds the density.

    >>> r = region(Model(log_g=None, base="gaussian"), 0.5)  # a disc of radius sqrt(2 log 2)
    >>> round(r.log_threshold, 2), r.ellipse()[1].round(3).tolist()
    (-2.53, [1.177, 1.177])
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie in (0, 1): the share of the mass inside the region")
    return _region(_table(model), level, _table(model).threshold(level))


def region_above(model: Model, *, log_threshold: float) -> Region:
    """Returns the region {e: log density >= log_threshold}, whose level is its mass under the model.

    Args:
        model: The trained model.
        log_threshold: The threshold, finite, such as that of `conformal`.

    Returns:
        A Region in units of sigma.

    Raises:
        ValueError: The threshold is not finite, or no box holds the density.

    >>> r = region_above(Model(log_g=None, base="gaussian"), log_threshold=-2.531)
    >>> round(r.level, 2), r.extent().round(1).tolist()
    (0.5, [[-1.2, 1.2], [-1.2, 1.2]])
    """
    if not np.isfinite(log_threshold):
        raise ValueError(f"log_threshold={log_threshold}: expected a finite number")
    table = _table(model)
    return _region(table, float(table.level(np.asarray(log_threshold))), float(log_threshold))


def _region(table: _Table, level: float, log_threshold: float) -> Region:
    return Region(
        level=level,
        log_threshold=log_threshold,
        axes=table.axes,
        log_density=table.log_density,
        mean=table.moments.mean,
        covariance=table.moments.covariance,
    )


def level(e: jax.typing.ArrayLike, model: Model) -> np.ndarray:
    """The mass of the smallest highest-density region that reaches e: uniform on [0, 1] if the model is right.

    Args:
        e: (..., dim) standardised errors.
        model: The trained model.

    Returns:
        (...) float64; 0 at the mode.

    >>> level(jnp.array([0.0, 0.0]), Model(log_g=None, base="gaussian")).round(3).item()
    0.0
    """
    return _table(model).level(_evaluate(model, np.asarray(e)))


def within(sigma: jax.typing.ArrayLike, model: Model, *, radius: float) -> np.ndarray:
    """The probability that the error of a joint is below `radius`: the mass of a disc around mu.

    It is read from a table of the masses of ellipses, which is computed once per model and is within 0.005 of the
    integral.

    Args:
        sigma: (..., 2), positive, in the unit of `radius`.
        model: The trained model of two coordinates.
        radius: The radius of the disc, positive.

    Returns:
        (...) float64 in [0, 1].

    Raises:
        ValueError: The model has another dimension, sigma has another shape or is not positive, or the radius is not
            positive.

    >>> round(within([2.0, 2.0], Model(log_g=None, base="gaussian"), radius=2.0).item(), 2)  # 1 - exp(-1 / 2)
    0.39
    """
    sigma = np.asarray(sigma, np.float64)
    if model.dim != 2 or sigma.shape[-1:] != (2,):
        raise ValueError(f"sigma has shape {sigma.shape}, the model dim={model.dim}: expected (..., 2) and dim=2")
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError(f"radius={radius}: expected a positive number in the unit of sigma")
    _check_values(np.True_, sigma=sigma)
    half_axes = radius / sigma  # the ellipse of standardised errors
    step = np.log(HALF_AXES[1] / HALF_AXES[0])
    at = np.clip(np.log(half_axes / HALF_AXES[0]) / step, 0, len(HALF_AXES) - 1)
    low = np.minimum(at.astype(int), len(HALF_AXES) - 2)
    (x, y), (u, v) = np.moveaxis(low, -1, 0), np.moveaxis(at - low, -1, 0)
    mass = _masses_of_ellipses(model)
    left = (1 - v) * mass[x, y] + v * mass[x, y + 1]
    right = (1 - v) * mass[x + 1, y] + v * mass[x + 1, y + 1]
    return np.clip((1 - u) * left + u * right, 0.0, 1.0)


@functools.lru_cache(maxsize=8)
def _masses_of_ellipses(model: Model) -> np.ndarray:
    """Returns the mass of {(x / a)^2 + (y / b)^2 < 1} for each pair of HALF_AXES, (a, b)."""
    table, parts, count = _table(model), 3, len(HALF_AXES)
    # A node stands for a cell around it, which the border of an ellipse may cut: its mass is spread over the cell.
    offsets = (np.arange(parts) - (parts - 1) / 2) / parts
    x, y = (np.abs(axis[:, None] + np.gradient(axis)[:, None] * offsets).ravel() for axis in table.axes)
    probability = np.repeat(np.repeat(table.probability / parts**2, parts, 0), parts, 1)
    mass = np.zeros((count, count))
    for i, a in enumerate(HALF_AXES):
        inside = x < a
        least = y / np.sqrt(
            1 - (x[inside, None] / a) ** 2
        )  # the least half axis b with which the ellipse holds the node
        first = np.searchsorted(HALF_AXES, least.ravel())
        mass[i] = np.bincount(first, probability[inside].ravel(), minlength=count + 1)[:count]
    return np.cumsum(mass, 1)


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How often the truth lies inside the region of each level; NaN if nothing was counted.

    Attributes:
        levels: (L,) nominal mass.
        overall: (L,) share of all counted joints that lie inside.
        per_joint: (L, K) share for each joint.
        count: (K,) number of joints counted.
    """

    levels: np.ndarray
    overall: np.ndarray
    per_joint: np.ndarray
    count: np.ndarray


def coverage(
    mu: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    model: Model,
    *,
    levels: Sequence[float] = LEVELS,
    where: jax.typing.ArrayLike | None = None,
) -> Coverage:
    """Empirical coverage of the model's highest-density regions.

    Args:
        mu, sigma, target: (..., K, D) in the same unit.
        model: The trained model.
        levels: Nominal masses in (0, 1).
        where: (..., K) joints to count: labelled ones, or, in a second call, occluded ones. Others may hold anything.

    Returns:
        A Coverage; a calibrated model has `overall` close to `levels`.

    Raises:
        ValueError: The shapes differ, D is not `model.dim`, a level is outside (0, 1), or a joint to count has a mu or
            target that is not finite, or a sigma that is not positive and finite.

    >>> truth = np.random.default_rng(0).laplace(scale=0.1, size=(4000, 1, 2))
    >>> c = coverage(np.zeros_like(truth), np.full_like(truth, 0.1), truth, Model(log_g=None, base="laplace"))
    >>> bool(np.abs(c.overall - c.levels).max() < 0.02)
    True
    """
    levels = np.asarray(levels, np.float64)
    if not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"levels={levels.tolist()} must lie in (0, 1)")
    e, keep = _standardise(mu, sigma, target, where)
    keep = keep.reshape(-1, keep.shape[-1])
    reached = level(e, model).reshape(keep.shape)
    inside = (reached <= levels[:, None, None]) & keep
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: nothing was counted
        overall, per_joint = inside.sum((1, 2)) / keep.sum(), inside.sum(1) / keep.sum(0)
    return Coverage(levels, overall, per_joint, keep.sum(0))


def calibration_error(measured: Coverage) -> float:
    """Mean of |empirical - nominal| coverage over the levels; 0 is perfect, NaN if nothing was counted.

    >>> levels = np.array([0.5, 0.9])
    >>> round(calibration_error(Coverage(levels, levels - 0.1, levels[:, None], np.array([5]))), 6)
    0.1
    """
    return float(np.abs(measured.overall - measured.levels).mean())


def sigma_quantiles(
    sigma: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> np.ndarray:
    """The distribution of predicted sigma by joint: a model can be calibrated and yet uninformative.

    Args:
        sigma: (..., K, D); its mean over D is taken first, as in the confidence.
        where: (..., K) joints to count.
        quantiles: Quantiles in [0, 1].

    Returns:
        (Q, K) in the unit of sigma; NaN for a joint that was never counted.

    Raises:
        ValueError: The mask has another shape.

    >>> sigma_quantiles(np.full((10, 3, 2), 0.2), quantiles=[0.5]).round(3).tolist()
    [[0.2, 0.2, 0.2]]
    """
    sigma = np.asarray(sigma, np.float64)
    keep = _keep(where, sigma.shape).reshape(-1, sigma.shape[-2])
    size = sigma.mean(-1).reshape(keep.shape)
    columns = [size[keep[:, k], k] for k in range(keep.shape[-1])]
    return np.stack([np.quantile(c, quantiles) if len(c) else np.full(len(quantiles), np.nan) for c in columns], 1)


def calibration(
    mu: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    model: Model,
    *,
    levels: Sequence[float] = LEVELS,
    where: jax.typing.ArrayLike | None = None,
    occluded: jax.typing.ArrayLike | None = None,
) -> dict[str, dict]:
    """Coverage, calibration error and sigma over an evaluation set, as numbers that go into a JSON file.

    Args:
        mu, sigma, target: (..., K, D) in the same unit.
        model: The trained model.
        levels: Nominal masses in (0, 1).
        where: (..., K) labelled joints.
        occluded: (..., K) occluded joints among them; splits the result further.

    Returns:
        {"all": ..., "visible": ..., "occluded": ...} (the last two with `occluded` only), each {"count", "levels",
        "coverage", "coverage_per_joint", "calibration_error", "sigma_quantiles"}; lists, with None if nothing was
        counted.

    Raises:
        ValueError: The same as for `coverage`.

    >>> zero = np.zeros((5, 1, 2))
    >>> calibration(zero, zero + 1, zero, Model(log_g=None, base="laplace"))["all"]["coverage"]
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    labelled = _keep(where, np.shape(mu))
    masks = {"all": labelled}
    if occluded is not None:
        hidden = _keep(occluded, np.shape(mu), name="occluded")
        masks |= {"visible": labelled & ~hidden, "occluded": labelled & hidden}
    result = {}
    for name, mask in masks.items():
        measured = coverage(mu, sigma, target, model, levels=levels, where=mask)
        result[name] = {
            "count": int(measured.count.sum()),
            "levels": measured.levels.tolist(),
            "coverage": _without_nan(measured.overall),
            "coverage_per_joint": _without_nan(measured.per_joint),
            "calibration_error": _without_nan(calibration_error(measured)),
            "sigma_quantiles": _without_nan(sigma_quantiles(sigma, where=mask)),
        }
    return result


def conformal(
    mu: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    model: Model,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> Conformal:
    """The nonconformity scores of a calibration set, for regions whose coverage does not rest on the model being right.

    The score of a joint is -log density of its standardised error, that of a pose the largest of its labelled joints. Regions
    at the thresholds of `jaxpose.conformal.Conformal.log_thresholds` hold a new joint, or all joints of a new pose, with the
    probability that they state, provided that the new pose is exchangeable with those of the calibration set. Frames of one
    video are not, nor are frames that chose the checkpoint quite clean.

    Args:
        mu, sigma, target: (N, K, D), same unit, of persons that the net was not trained on.
        model: The trained model.
        where: (N, K) labelled joints. Others may hold anything.

    Returns:
        The sorted scores, for every level.

    Raises:
        ValueError: as `coverage`.

    >>> truth = np.random.default_rng(0).laplace(scale=0.3, size=(200, 1, 2))  # sigma is three times too small
    >>> model = Model(log_g=None, base="laplace")
    >>> scores = conformal(np.zeros_like(truth), np.full_like(truth, 0.1), truth, model)
    >>> r = region_above(model, log_threshold=scores.log_thresholds(0.9)[0])
    >>> bool(r.contains(truth[:, 0] / 0.1, model).mean() >= 0.9), r.level > 0.99
    (True, True)
    """
    e, keep = _standardise(mu, sigma, target, where)
    e, keep = e.reshape(-1, *e.shape[-2:]), keep.reshape(-1, keep.shape[-1])
    log_density = _evaluate(model, e)
    score = np.where(keep, np.where(np.isnan(log_density), np.inf, -log_density), np.nan)
    labelled = keep.any(1)
    size = np.asarray(sigma, np.float64).reshape(e.shape)
    size = np.where(np.isfinite(size) & (size > 0) & labelled[:, None, None], size, np.nan)
    return Conformal(
        tuple(Scores.of(column) for column in score.T),
        poses=Scores.of(np.nanmax(score[labelled], 1) if labelled.any() else np.zeros(0)),
        spread=Scores.of(
            np.nanmean(np.log(size[labelled]), (1, 2)) if labelled.any() else np.zeros(0)
        ),  # of all joints
    )


def _keep(where, shape: tuple[int, ...], *, name: str = "where") -> np.ndarray:
    if where is None:
        return np.ones(shape[:-1], bool)
    where = np.asarray(where)
    if where.shape != shape[:-1]:
        raise ValueError(f"{name} has shape {where.shape}, expected {shape[:-1]}: one entry per joint of {shape}")
    return (where > 0) | (where < 0)  # NaN counts as masked


def _standardise(mu, sigma, target, where) -> tuple[np.ndarray, np.ndarray]:
    """Returns (e, mask); masked joints are replaced before the division."""
    mu, sigma, target = (np.asarray(array, np.float64) for array in (mu, sigma, target))
    if not mu.shape == sigma.shape == target.shape or mu.ndim < 2:
        raise ValueError(
            f"expected equal shapes (..., K, D), got mu {mu.shape}, sigma {sigma.shape}, target {target.shape}"
        )
    keep = _keep(where, mu.shape)
    full = keep[..., None]
    _check_values(full, mu=mu, sigma=sigma, target=target)
    difference = np.where(full, target, 0) - np.where(full, mu, 0)
    return difference / np.where(full, sigma, 1), keep


def _check_values(keep: np.ndarray, *, sigma: np.ndarray, **others: np.ndarray) -> None:
    """Refuses values that would silently be counted as a miss (or, with a negative sigma, as a hit)."""
    bad = {name: keep & ~np.isfinite(value) for name, value in others.items()}
    bad["sigma"] = keep & ~(np.isfinite(sigma) & (sigma > 0))
    for name, where in bad.items():
        if where.any():
            index = tuple(int(i) for i in np.argwhere(where)[0])
            value = (others | {"sigma": sigma})[name][index]
            expected = "a positive number" if name == "sigma" else "a finite number"
            raise ValueError(f"{name}{list(index)} is {value}, expected {expected}: leave such joints out with `where`")


def _without_nan(value) -> list | float | None:
    """Returns nested lists with None for NaN, which JSON cannot represent."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if np.isnan(value) else value


@dataclasses.dataclass(frozen=True)
class _Table:
    """The density on a grid, and its nodes in order of density with the mass at least as dense."""

    axes: tuple[np.ndarray, ...]
    log_density: np.ndarray  # on the grid of axes
    probability: np.ndarray  # probability of the nodes of that grid, 1 in total
    ascending: np.ndarray  # the log densities, sorted
    mass_above: np.ndarray  # mass at least as dense, descending
    moments: Moments

    def threshold(self, level: float) -> float:
        """Returns the log density on the boundary of the region of mass `level`."""
        return float(np.interp(level, self.mass_above[::-1], self.ascending[::-1]))

    def level(self, log_density: np.ndarray) -> np.ndarray:
        """Returns the mass of the smallest region that reaches a point of this log density."""
        return np.interp(log_density, self.ascending, self.mass_above, left=1.0, right=0.0)


@functools.lru_cache(maxsize=8)
def _table(model: Model) -> _Table:
    grid_moments = _find(model)
    for _ in range(2):  # the second box is placed by moments that the first made exact
        axes = [
            rule_around(mean, deviation, NODES[model.dim])
            for mean, deviation in zip(grid_moments.mean, grid_moments.standard_deviation, strict=True)
        ]
        log_density, probability, grid_moments = _on_grid(model, axes)
    if abs(grid_moments.mass - 1) > MASS_TOLERANCE:
        raise ValueError(
            f"the density integrates to {grid_moments.mass:.4f}, expected 1: log_normalizer is not that of this flow, or the "
            f"density is too irregular for {NODES[model.dim]} nodes per axis"
        )
    order = np.argsort(log_density)
    # A node stands for a cell around it: half of its mass lies above its density.
    mass_above = np.cumsum(probability[order][::-1])[::-1] - 0.5 * probability[order]
    points = tuple(x for x, _ in axes)
    shape = tuple(map(len, points))
    return _Table(
        points, log_density.reshape(shape), probability.reshape(shape), log_density[order], mass_above, grid_moments
    )


def _find(model: Model) -> Moments:
    """Returns the moments from the first box around 0 that holds the density and resolves it."""
    masses = {}
    for bound in BOUNDS:
        axis = rule_from_zero(bound, NODES[model.dim])
        _, _, grid_moments = _on_grid(model, [axis] * model.dim)
        if abs(grid_moments.mass - 1) <= ROUGH_TOLERANCE:
            return grid_moments
        masses[bound] = round(grid_moments.mass, 4)
    raise ValueError(f"no box [-b, b]^{model.dim} holds the density; its mass by b, expected 1: {masses}")


def _on_grid(model: Model, axes) -> tuple[np.ndarray, np.ndarray, Moments]:
    """Returns (log density (N,), probability of each node (N,), moments) on the product of the axes."""
    nodes, log_weights = product_rule(axes)
    log_density = _evaluate(model, nodes)
    mass = np.exp(log_density + log_weights)
    total = mass.sum()
    probability = mass / total if total > 0 else mass
    mean = probability @ nodes
    centred = nodes - mean
    return log_density, probability, Moments(mean, (probability[:, None] * centred).T @ centred, float(total))


def _evaluate(model: Model, points: np.ndarray) -> np.ndarray:
    """Evaluates log_prob at (..., dim) as float64 NumPy, in chunks and compiled."""
    flat = jnp.asarray(points.reshape(-1, points.shape[-1]), jnp.result_type(float))
    return np.asarray(_evaluator(model)(flat), np.float64).reshape(points.shape[:-1])


@functools.lru_cache(maxsize=8)
def _evaluator(model: Model) -> Callable[[jax.Array], jax.Array]:
    """Returns a compiled function (N, dim) -> (N,), so that a model compiles once for each N."""
    return jax.jit(lambda x: evaluate_in_chunks(lambda e: log_prob(e, model), x))


def _chi_square_quantile(level: float, dim: int) -> float:
    """Returns the squared radius that holds `level` of a standard Gaussian of this dimension, by bisection."""
    lo, hi = 0.0, 200.0
    for _ in range(80):
        middle = (lo + hi) / 2
        inside = float(jax.scipy.special.gammainc(dim / 2, middle / 2))
        lo, hi = (middle, hi) if inside < level else (lo, middle)
    return (lo + hi) / 2
