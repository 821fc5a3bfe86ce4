r"""Regression as maximum likelihood: learned-sigma Laplace and Gaussian, and RLE (Li et al., ICCV 2021).

A net predicts, for every coordinate, a location mu and a scale sigma. With e = (target - mu) / sigma, all these losses
are negative log densities of the target:

    Laplace / Gaussian     -log Q(e) + log sigma                            Q fixed, of unit scale
    DLE   (equation 5)     -log P(e) + log sigma                            P a normalising flow
    RLE   (equation 8)     -log Q(e) - log G(e) - log s + sum log sigma     G the flow, s = 1 / integral of Q G

In RLE the density of e is P = s Q G: the flow G learns only what Q lacks, and mu gets gradients through Q from the
first step on. The normaliser s depends on the flow alone; the paper finds that dropping log s changes nothing in AP
(table 17) and drops it.

What holds sigma down. Without log s the sum is no negative log density any more. Let the flow be able to rescale,
G(e) = g(e / r) / r^D, one sigma for all D coordinates, d = target - mu. Then

    -log G(e) + D log sigma = -log g(d / (r sigma)) + D log(r sigma)

depends on the product r sigma only: whatever sigma does, r undoes at no cost. What is left of sigma is
-log Q(d / sigma), for Laplace |d| / sigma + const, which falls as sigma grows. The infimum lies at sigma -> infinity,
r -> 0. A net's sigma drifts up until its sigmoid ends at 1 or the flow can shrink no further (RealNVP's s nets end in
tanh: e^-3 with three couplings per coordinate), and it is then that limit, not the error alone, which sets its scale.

 -  With log s, s Q G is a density of e and the loss a likelihood of the target: a large sigma is no longer rewarded as
    such, only where it fits the errors better. (It is not punished as such either: for every sigma at which P / Q is
    integrable a flow without limits would reach the same fit. With RealNVP, whose tails are Gaussian, and errors with
    tails like Q's or heavier, the tails settle sigma.)
 -  The released codes drop log s and count log sigma twice: once with the flow and once with Q, where |d| / sigma +
    log sigma is a complete negative log density of the *coordinate*, not of e. With log G counted once that would tie
    sigma to the mean error; `2 log sigma, 1 log G` in the experiment below. But the codes also add log G once per
    coordinate. In 2D their sum is 2 [-log G(e) + sum log sigma] + |d| terms: the doubled log G uses up both log sigma,
    and half of it is the paper's form with a weaker Q. In 3D log G counts three times against two log sigma, and
    growing sigma is rewarded outright. So neither code holds sigma down by its form; the flow's limits and the sigmoid
    do.

`python -m experiments.sigma_collapse` shows all of this on noise of known scale.

The published codes differ from the paper and from each other; `variant` selects one, exactly:

    variant     error fed to G        log sigma   log G        Q term (Laplace), each coordinate
    paper       (target - mu)/sigma       1         1          log 2 + |e|
    official    (mu - target)/sigma       2         D          log(sigma sqrt(2 pi)) + |d| / (sqrt(2) sigma + 1e-9)
    mmpose      (mu - target)/(sigma+1e-9) 2        D          log(2 sigma) + |e|

(The multiplicities are per coordinate for log sigma and per joint for log G: both codes broadcast the flow's one
number per joint over the D coordinates before they sum.) The official Q term is not a normalised Laplace density.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.losses._inputs import as_float, check_same_shape, joint_mask, replace

Base = Literal["laplace", "gaussian"]
Variant = Literal["paper", "official", "mmpose"]
LogProb = Callable[[jax.Array], jax.Array]

BASES = ("laplace", "gaussian")
VARIANTS = ("paper", "official", "mmpose")
EPSILON = 1e-9  # both released codes guard their divisions with it
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def base_log_prob(e: jax.typing.ArrayLike, *, base: Base) -> jax.Array:
    """log Q: the standard Laplace (scale 1) or standard Gaussian log density of each coordinate.

    Args:
        e: (...) standardised errors, no unit.
        base: "laplace" or "gaussian".

    Returns:
        (...) log densities; sum over the last axis for the joint one.

    Raises:
        ValueError: `base` is neither.

    >>> [round(x, 4) for x in base_log_prob(jnp.array([0.0, 1.0]), base="laplace").tolist()]
    [-0.6931, -1.6931]
    """
    _check_choice("base", base, BASES)
    (e,) = as_float(e)
    if base == "laplace":
        return -jnp.abs(e) - math.log(2)
    return -0.5 * jnp.square(e) - LOG_SQRT_2PI


def laplace_nll(
    mu: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """log(2 sigma) + |d| / sigma: the Laplace distribution with a learned scale b = sigma (RLE paper, table 7).

    Its standard deviation is sqrt(2) sigma.

    Args:
        mu, sigma, target: (..., K, D) in the same unit; sigma positive.
        where: (..., K) mask; masked joints give zero loss and zero gradient whatever they hold.

    Returns:
        (..., K, D) negative log density in nats.

    Raises:
        ValueError: The shapes differ.

    >>> laplace_nll(jnp.zeros((1, 2)), jnp.full((1, 2), 0.5), jnp.ones((1, 2))).tolist()
    [[2.0, 2.0]]
    """
    d, sigma, keep = _masked_difference(mu, sigma, target, where)
    return jnp.where(keep[..., None], jnp.log(2 * sigma) + jnp.abs(d) / sigma, 0)


def gaussian_nll(
    mu: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """log(2 pi)/2 + log sigma + (d / sigma)^2 / 2: the Gaussian with a learned sigma (RLE paper, equation 2).

    Args:
        mu, sigma, target: (..., K, D) in the same unit; sigma positive, the standard deviation.
        where: (..., K) mask; masked joints give zero loss and zero gradient whatever they hold.

    Returns:
        (..., K, D) negative log density in nats.

    Raises:
        ValueError: The shapes differ.

    >>> round(gaussian_nll(jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.ones((1, 2)))[0, 0].item(), 4)
    1.4189
    """
    d, sigma, keep = _masked_difference(mu, sigma, target, where)
    return jnp.where(keep[..., None], LOG_SQRT_2PI + jnp.log(sigma) + 0.5 * jnp.square(d / sigma), 0)


def rle(
    mu: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    log_prob: LogProb,
    *,
    base: Base | None = "laplace",
    variant: Variant = "paper",
    log_normalizer: jax.typing.ArrayLike = 0.0,
    where: jax.typing.ArrayLike | None = None,
    weight: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Residual log-likelihood estimation (Li et al. 2021, equation 8), one number per joint.

        paper:     -log Q(e) - log G(e) - log s + sum_c log sigma_c                    e = (target - mu) / sigma
        official:  sum_c [log sigma_c - log G(-e)] + sum_c [log(sigma_c sqrt(2 pi)) + |d_c| / (sqrt(2) sigma_c + 1e-9)]
        mmpose:    sum_c [log sigma_c - log G(-e)] + sum_c [log(2 sigma_c) + |e_c|]    e = d / (sigma + 1e-9)

    `paper` with log_normalizer=0 is the paper's own training loss. It does not hold sigma down: a flow that rescales
    makes -log G + log sigma independent of sigma, and -log Q falls as sigma grows. log s, from `flow.log_normalizer`,
    takes that reward away. The second log sigma of the released codes would do so too, because Q there is a density of
    the coordinate and not of e, if they did not count log G once per coordinate as well (the head of this module has
    the argument; `experiments/sigma_collapse.py` shows it).

    Both codes sum the result over joints and divide by the size of the global batch, whether joints are visible or not.

    Args:
        mu, sigma, target: (..., K, D) in the same unit; sigma positive. In all published recipes coordinates are
            fractions of the image and sigma is a sigmoid (3D official: plus 1e-9).
        log_prob: The flow's log density, (..., D) -> (...): `lambda e: flow.apply(variables, e, method="log_prob")`.
        base: The density Q; None is DLE (equation 5), the flow without Q. The official code has no Gaussian: there
            `gaussian` takes the term that its constant belongs to, log(sigma sqrt(2 pi)) + (d / sigma)^2 / 2.
        variant: The form of the loss: "paper", or exactly that of the "official" or "mmpose" code.
        log_normalizer: log s of equation 16, for the paper variant with a base only.
        where: (..., K) mask. Masked joints, and joints of weight 0, give exactly zero loss and zero gradient whatever
            they hold (NaN, infinity, sigma 0); the released codes multiply by 0 afterwards, which keeps NaN.
        weight: (..., K), or (..., K, D) for one weight per coordinate. Then log G belongs to no single coordinate:
            paper weighs it by the mean weight of the joint, mmpose and official 3D by every coordinate's (the sum), and
            official 2D weighs its whole first bracket, log sigma and log G of both coordinates, by the weight of x. A
            coordinate of weight 0 in a joint that counts is still read by log G, as in the released codes; where its
            mu, sigma or target is not finite, or sigma is not positive, log G is given an error of 0 for it.

    Returns:
        (..., K) in nats. It becomes negative during training, which is right: it is a negative log density, and a
        density is above 1 where sigma is small (coordinates are fractions of the image, so sigma falls far below 1).
        Lower is better; compare runs by their error or AP, not by the distance of the loss from 0.

    Raises:
        ValueError: The shapes differ, a variant or base is unknown, or log_normalizer is given where there is no log s.

    >>> standard_normal = lambda e: -0.5 * (e**2).sum(-1) - 1.837877
    >>> mu, sigma, target = jnp.array([[.10, -.20]]), jnp.array([[.05, .04]]), jnp.array([[.13, -.26]])
    >>> [round(rle(mu, sigma, target, standard_normal, variant=v).item(), 4) for v in ("paper", "official", "mmpose")]
    [0.4146, -2.8207, -2.6572]
    """
    _check_choice("variant", variant, VARIANTS)
    if base is not None:
        _check_choice("base", base, BASES)
    _check_log_normalizer(log_normalizer, base, variant)
    mu, sigma, target, weight, keep = _prepare(mu, sigma, target, where, weight)
    # The flow reads all coordinates of a joint, including finite ones of weight 0, unless its term does not count
    # (official 2D, x-weight 0).
    flow_weight = _flow_weight(weight, variant)
    in_flow = keep & (flow_weight != 0).any(-1)
    read = (weight != 0) | (in_flow[..., None] & _usable(mu, sigma, target))
    mu, sigma, target = replace(read, (mu, 0.0), (sigma, 1.0), (target, 0.0))
    d, e = _error(mu, sigma, target, variant)
    (e_flow,) = replace(in_flow, (e, 0.0))
    log_g = jnp.where(in_flow, _call(log_prob, e_flow), 0)

    if variant == "paper":
        flow_term = -(log_g + log_normalizer) * flow_weight.mean(-1) + (weight * jnp.log(sigma)).sum(-1)
        base_term = 0 if base is None else -(weight * base_log_prob(e, base=base)).sum(-1)
    else:
        flow_term = (flow_weight * (jnp.log(sigma) - log_g[..., None])).sum(-1)
        base_term = 0 if base is None else (weight * _coordinate_nll(d, e, sigma, base, variant)).sum(-1)
    return jnp.where(keep, flow_term + base_term, 0)


def rle_mixture(
    mu: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    log_prob_2d: LogProb,
    log_prob_3d: LogProb,
    *,
    weight: jax.typing.ArrayLike,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The official loss for a batch that mixes 3D labels with 2D ones (Human3.6M with MPII; RLE paper, section 5).

    A joint whose z-weight is positive is scored by the 3D flow on (x, y, z), any other by the 2D flow on (x, y). The
    flow's number counts once per weighted coordinate, as in `rle(variant="official")`. The official code adds 1e-9 to
    its sigma here, so pass sigma = sigmoid(raw) + 1e-9.

    Args:
        mu, sigma, target: (..., K, 3), z in its own normalised unit.
        log_prob_2d: The log density of the 2D flow, (..., 2) -> (...).
        log_prob_3d: The log density of the 3D flow, (..., 3) -> (...).
        weight: (..., K, 3); the third one, 0 or positive, says whether depth is labelled. Coordinates of weight 0 are
            never read, so an unlabelled depth may hold anything.
        where: (..., K) mask.

    Returns:
        (..., K) in nats. Masked joints give zero loss and zero gradient whatever they hold.

    Raises:
        ValueError: The shapes differ, or the last axis is not 3.

    >>> normal = lambda e: -0.5 * (e**2).sum(-1) - 0.918939 * e.shape[-1]
    >>> x, weight = jnp.full((1, 3), 0.1), jnp.array([[1.0, 1.0, 0.0]])
    >>> flat = x.at[0, 2].set(jnp.nan)
    >>> mixed = rle_mixture(flat, x, flat, normal, normal, weight=weight)
    >>> plain = rle(x[:, :2], x[:, :2], x[:, :2], normal, variant="official")
    >>> bool(jnp.allclose(mixed, plain))
    True
    """
    if jnp.shape(mu)[-1:] != (3,):
        raise ValueError(f"mu has shape {jnp.shape(mu)}, expected (..., K, 3): the mixture is of 2D and 3D labels")
    mu, sigma, target, weight, keep = _prepare(mu, sigma, target, where, weight)
    mu, sigma, target = replace(weight != 0, (mu, 0.0), (sigma, 1.0), (target, 0.0))
    d, e = _error(mu, sigma, target, "official")

    has_depth = keep & (weight[..., 2] > 0)
    (e_2d,) = replace(keep & ~has_depth, (e[..., :2], 0.0))
    (e_3d,) = replace(has_depth, (e, 0.0))
    log_g = jnp.where(has_depth, _call(log_prob_3d, e_3d), _call(log_prob_2d, e_2d))

    each = jnp.log(sigma) - log_g[..., None] + _coordinate_nll(d, e, sigma, "laplace", "official")
    return jnp.where(keep, (weight * each).sum(-1), 0)


def _prepare(mu, sigma, target, where, weight):
    """Casts to one dtype, checks shapes, makes weights (..., K, D); masked or zero-weight entries get sigma 1, error 0."""
    if weight is None:
        mu, sigma, target = as_float(mu, sigma, target)
        weight = jnp.ones_like(mu)
    else:
        mu, sigma, target, weight = as_float(mu, sigma, target, weight)
    check_same_shape(mu=mu, sigma=sigma, target=target)
    keep = joint_mask(where, mu.shape)
    if weight.shape == mu.shape[:-1]:
        weight = jnp.broadcast_to(weight[..., None], mu.shape)
    elif weight.shape != mu.shape:
        raise ValueError(f"weight has shape {weight.shape}, expected {mu.shape[:-1]} or {mu.shape}")
    keep = keep & (weight != 0).any(-1)
    return *replace(keep, (mu, 0.0), (sigma, 1.0), (target, 0.0), (weight, 0.0)), keep


def _usable(mu, sigma, target) -> jax.Array:
    """Tells where all three are finite and sigma is positive."""
    return jnp.isfinite(mu) & jnp.isfinite(target) & jnp.isfinite(sigma) & (sigma > 0)


def _masked_difference(mu, sigma, target, where):
    """Returns (mu - target, sigma, mask) with masked joints at error 0 and sigma 1."""
    mu, sigma, target, _, keep = _prepare(mu, sigma, target, where, None)
    return mu - target, sigma, keep


def _error(mu, sigma, target, variant) -> tuple[jax.Array, jax.Array]:
    """Returns the error d in coordinates and the standardised error e, with the sign that the variant's flow reads."""
    if variant == "paper":
        return target - mu, (target - mu) / sigma
    guard = EPSILON if variant == "mmpose" else 0.0
    return mu - target, (mu - target) / (sigma + guard)


def _flow_weight(weight, variant) -> jax.Array:
    """Returns the weights (..., K, D) of the terms that hold log G."""
    if variant == "official" and weight.shape[-1] == 2:
        return jnp.broadcast_to(weight[..., :1], weight.shape)
    return weight


def _coordinate_nll(d, e, sigma, base, variant) -> jax.Array:
    """Returns the Q term of the released codes, a negative log density of the coordinate with the second log sigma."""
    if base == "gaussian":
        return jnp.log(sigma) + LOG_SQRT_2PI + 0.5 * jnp.square(e)
    if variant == "mmpose":
        return jnp.log(2 * sigma) + jnp.abs(e)
    return jnp.log(sigma) + LOG_SQRT_2PI + jnp.abs(d) / (math.sqrt(2) * sigma + EPSILON)


def _call(log_prob: LogProb, e: jax.Array) -> jax.Array:
    """Returns log_prob(e) after a check: a density of shape (..., 1) would silently broadcast over joints."""
    out = jnp.asarray(log_prob(e))
    if out.shape != e.shape[:-1]:
        raise ValueError(f"log_prob maps {e.shape} to {out.shape}, expected {e.shape[:-1]}: one log density per joint")
    return out


def _check_log_normalizer(log_normalizer, base, variant) -> None:
    if isinstance(log_normalizer, (int, float, np.number)) and log_normalizer == 0:
        return
    if variant != "paper" or base is None:
        raise ValueError(
            f"log_normalizer with variant={variant!r}, base={base!r}: log s exists in the paper's form with a base "
            'only; leave log_normalizer at 0, or use variant="paper" with base="laplace" or "gaussian"'
        )
    if jnp.shape(log_normalizer) != ():
        raise ValueError(f"log_normalizer has shape {jnp.shape(log_normalizer)}, expected a scalar: log s of the flow")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown, expected one of {', '.join(map(repr, choices))}")
