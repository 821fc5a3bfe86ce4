"""Checks that every loss applies to its inputs: one dtype, equal shapes, masked entries replaced before any arithmetic.

A mask applied to the result is too late. The derivative of `where(mask, f(x), 0)` is `where(mask, g, 0) * f'(x)`, and
`0 * nan` is NaN: garbage in a masked joint would poison the gradient of everything. `replace` therefore swaps the
masked inputs for harmless constants first, so that neither the value nor the derivative ever sees them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def as_float(*arrays: jax.typing.ArrayLike) -> tuple[jax.Array, ...]:
    """Casts all arrays to their promoted dtype, float32 at least; float64 stays float64."""
    cast = [jnp.asarray(array) for array in arrays]
    dtype = jnp.promote_types(jnp.result_type(*cast), jnp.float32)
    return tuple(array.astype(dtype) for array in cast)


def check_same_shape(**arrays: jax.Array) -> None:
    """Raises a ValueError that shows all shapes unless they are equal and have a coordinate axis."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1:
        formatted = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"shapes must be equal (nothing is broadcast), got {formatted}: reshape or broadcast the input"
        )
    name, shape = next(iter(shapes.items()))
    if not shape:
        raise ValueError(f"{name} is a scalar, expected shape (..., K, D): joints and their coordinates")


def joint_mask(where: jax.typing.ArrayLike | None, shape: tuple[int, ...], *, name: str = "where") -> jax.Array:
    """Returns a mask of shape (..., K) for arrays of shape (..., K, D); None keeps every joint."""
    if where is None:
        return jnp.ones(shape[:-1], bool)
    where = jnp.asarray(where)
    if where.shape != shape[:-1]:
        raise ValueError(f"{name} has shape {where.shape}, expected {shape[:-1]}: one entry per joint of {shape}")
    return as_mask(where, name=name)


def as_mask(mask: jax.Array, *, name: str = "where") -> jax.Array:
    """Turns a mask into bool: True and 1 keep an entry; False, 0 and NaN mask it.

    Args:
        mask: Any shape, bool or numbers.
        name: The name of the argument, for the message.

    Raises:
        ValueError: The mask holds another number, such as a visibility of 2 or a confidence of 0.7; a mask only keeps
            or drops entries. Traced values (inside `jax.jit` or `jax.grad`) cannot be checked; there, every number
            other than 0 keeps an entry.
    """
    if mask.dtype != bool and not isinstance(mask, jax.core.Tracer):
        values = np.asarray(mask).ravel()
        wrong = values[~((values == 0) | (values == 1) | np.isnan(values.astype(np.float32)))]
        if wrong.size:
            raise ValueError(
                f"{name} is a mask of True and False, or 1 and 0, but holds {wrong[0]:g}: compare first, as in "
                f"{name}=visibility > 0; numbers that scale an entry are weights, not a mask"
            )
    # Masks of bool are compared too: without it the compiler sums a loss in another order and its last bit changes.
    return (mask > 0) | (mask < 0)


def replace(keep: jax.Array, *pairs: tuple[jax.Array, float]) -> tuple[jax.Array, ...]:
    """Returns the array of each pair (array, fill), with `fill` where `keep`, (..., K) or (..., K, D), is False."""
    return tuple(
        jnp.where(keep if keep.ndim == array.ndim else keep[..., None], array, jnp.asarray(fill, array.dtype))
        for array, fill in pairs
    )
