"""Losses of scores: whether an anchor is a person."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpose.losses._inputs import as_float, as_mask


def focal(
    logits: jax.Array,
    target: jax.Array,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Returns the focal loss of logits: a cross-entropy in which entries that are decided already count less.

    -alpha_t (1 - p_t)^gamma log p_t, with p_t the probability of the label, and alpha_t = alpha for positives, 1 - alpha for
    negatives. Published recipes divide the sum by the number of positives.

    Source: Lin et al. 2017, Focal loss for dense object detection, equation 5.

    Args:
        logits: Any shape.
        target: The same shape: 1 for positives, 0 for negatives.
        alpha: The weight of positives.
        gamma: The exponent; 0 is the cross-entropy, weighted by alpha.
        where: The same shape; False masks an entry, whatever it holds. None keeps all.

    Returns:
        The shape of `logits`, in nats; 0 with zero gradient where masked.

    Raises:
        ValueError: The shapes differ, or an option is out of range.

    >>> focal(jnp.array([0.0, 4.0]), jnp.array([1.0, 1.0])).round(4).tolist()
    [0.043299999088048935, 0.0]
    """
    logits, target = as_float(logits, target)
    where = jnp.ones(logits.shape, bool) if where is None else as_mask(jnp.asarray(where))
    if not logits.shape == target.shape == where.shape:
        raise ValueError(
            f"shapes must be equal (nothing is broadcast), got logits {logits.shape}, target {target.shape}, where {where.shape}"
        )
    if not 0 <= alpha <= 1 or not gamma >= 0:
        raise ValueError(f"alpha={alpha}, gamma={gamma}: expected a weight in 0..1 and an exponent of 0 or more")
    logits, target = jnp.where(where, logits, 0.0), jnp.where(where, target, 0.0)
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    positive = alpha * jnp.exp(gamma * log_not_p) * log_p
    negative = (1 - alpha) * jnp.exp(gamma * log_p) * log_not_p
    return jnp.where(where, -(target * positive + (1 - target) * negative), 0.0)
