"""The reduction from elementwise losses to the scalar that is differentiated."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpose.losses._inputs import as_float, as_mask


def mean(values: jax.typing.ArrayLike, *, where: jax.typing.ArrayLike | None = None) -> jax.Array:
    """Mean over the entries that `where` keeps.

    The published RLE recipes do not use it: they sum over joints and divide by the size of the global batch, whether
    joints are visible or not (both the official code and mmpose).

    Args:
        values: (...) of any shape.
        where: None, or a mask of the shape of `values`, or of that shape without its last axis (one entry per joint for
            values (..., K, D)).

    Returns:
        A scalar. It is 0 with zero gradient if nothing is kept, whatever `values` holds.

    Raises:
        ValueError: The mask has another shape.

    >>> mean(jnp.array([[1.0, 3.0], [jnp.nan, 7.0]]), where=jnp.array([True, False])).item()
    2.0
    """
    (values,) = as_float(values)
    if where is None:
        return values.sum() / max(values.size, 1)
    where = jnp.asarray(where)
    if where.shape != values.shape and (values.ndim == 0 or where.shape != values.shape[:-1]):
        raise ValueError(
            f"where has shape {where.shape}, expected {values.shape} or {values.shape[:-1]} for values {values.shape}"
        )
    keep = as_mask(where)
    keep = jnp.broadcast_to(keep if keep.ndim == values.ndim else keep[..., None], values.shape)
    return jnp.where(keep, values, 0).sum() / jnp.maximum(keep.sum(), 1)
