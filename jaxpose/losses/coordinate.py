"""Losses between coordinates that assume a constant scale, the baselines of RLE.

With a constant sigma the negative log-likelihoods of `losses.likelihood` reduce to these up to constants
(RLE paper, section 3.1): Laplace to `l1`, Gaussian to `l2`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpose.losses._inputs import as_float, check_same_shape, joint_mask, replace


def _difference(pred, target, where) -> jax.Array:
    """Returns pred - target, exactly 0 at masked joints."""
    pred, target = as_float(pred, target)
    check_same_shape(pred=pred, target=target)
    pred, target = replace(joint_mask(where, pred.shape), (pred, 0.0), (target, 0.0))
    return pred - target


def l1(
    pred: jax.typing.ArrayLike, target: jax.typing.ArrayLike, *, where: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """|d| with d = pred - target: the coordinate loss of integral regression (Sun et al. 2018, section 3).

    Args:
        pred, target: (..., K, D) coordinates in the same unit.
        where: (..., K) mask; masked joints give zero loss and zero gradient.

    Returns:
        (..., K, D) in the unit of the coordinates.

    Raises:
        ValueError: The shapes differ.

    >>> l1(jnp.array([[1.0, -2.0]]), jnp.zeros((1, 2))).tolist()
    [[1.0, 2.0]]
    """
    return jnp.abs(_difference(pred, target, where))


def l2(
    pred: jax.typing.ArrayLike, target: jax.typing.ArrayLike, *, where: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """d^2 with d = pred - target, without a factor 1/2 (RLE paper, section 3.1).

    Args:
        pred, target: (..., K, D) coordinates in the same unit.
        where: (..., K) mask; masked joints give zero loss and zero gradient.

    Returns:
        (..., K, D) in the squared unit of the coordinates.

    Raises:
        ValueError: The shapes differ.

    >>> l2(jnp.array([[1.0, -2.0]]), jnp.zeros((1, 2))).tolist()
    [[1.0, 4.0]]
    """
    return jnp.square(_difference(pred, target, where))


def smooth_l1(
    pred: jax.typing.ArrayLike,
    target: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    beta: float = 1.0,
) -> jax.Array:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2 (Girshick 2015, Fast R-CNN, equation 3 for beta = 1).

    With coordinates that are fractions of the image and beta = 1, mmpose's default, every error is below beta: the
    loss is then d^2 / 2, not an L1 loss.

    Args:
        pred, target: (..., K, D) coordinates in the same unit.
        where: (..., K) mask; masked joints give zero loss and zero gradient.
        beta: The error at which the parabola turns into the line, in the unit of the coordinates; positive (not checked
            if traced).

    Returns:
        (..., K, D).

    Raises:
        ValueError: The shapes differ, or beta is not positive.

    >>> smooth_l1(jnp.array([[0.5, -2.0]]), jnp.zeros((1, 2))).tolist()
    [[0.125, 1.5]]
    """
    if not isinstance(beta, jax.core.Tracer) and not beta > 0:
        raise ValueError(f"beta={beta} must be positive: it is the error at which the parabola turns into a line")
    size = jnp.abs(_difference(pred, target, where))
    return jnp.where(size < beta, size**2 / (2 * beta), size - beta / 2)
