"""Associative embedding (Newell 2017): tags of one person are pulled together, those of different people pushed apart.

The loss depends on the tags at labelled joints only; `heatmap.read` reads them from a map.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jaxpose.losses._inputs import as_float, as_mask

Array = jax.typing.ArrayLike


def associative_embedding(
    tags: Array, *, where: Array, variant: Literal["official", "mmpose", "max"] = "official"
) -> tuple[jax.Array, jax.Array]:
    """Pull and push terms of an image. With the mean tag m_i of each of the N persons that have a visible joint:

        pull = mean_i mean_k (tag_ik - m_i)^2
        push = 1/2 (sum_ij exp(-(m_i - m_j)^2) - N) / (N (N - 1)),     summed over all pairs, i = j included.

    Args:
        tags: (..., P, K) tags read at the joints of P persons, some of whom are padding.
        where: (..., P, K) visible joints. A person without visible joints is not counted; a masked tag has no effect,
            whatever it holds.
        variant: Which published code is followed (QUIRK S7).
            official: the equations above (HigherHRNet, SWAHR).
            mmpose: N is not subtracted, which adds 1 / (2 (N - 1)) to the push and nothing to the gradient.
            max: official with the hinge max(0, 1 - |m_i - m_j|) in place of the exponential, the other form in the
                published code.

    Returns:
        pull, push: (...) each. With one person the push is 0, with nobody both are 0. The published recipes weigh both
        by 1e-3 and average over the images of a batch.

    Raises:
        ValueError: The shapes do not fit, or the variant is unknown.

    >>> tags = jnp.array([[1.0, 1.2], [-0.5, jnp.nan]])
    >>> pull, push = associative_embedding(tags, where=jnp.array([[True, True], [True, False]]))
    >>> round(pull.item(), 6), round(push.item(), 6)
    (0.005, 0.038652)
    """
    if variant not in ("official", "mmpose", "max"):
        raise ValueError(f"variant={variant!r}: expected 'official', 'mmpose' or 'max'")
    (tags,), where = as_float(tags), jnp.asarray(where)
    if tags.ndim < 2 or where.shape != tags.shape:
        raise ValueError(f"tags {tags.shape}, where {where.shape}: expected two equal shapes (..., P, K)")
    keep = as_mask(where)
    tags = jnp.where(keep, tags, 0)
    joints = keep.sum(-1)  # (..., P)
    person = joints > 0
    people = person.sum(-1)  # (...)
    means = tags.sum(-1) / jnp.maximum(joints, 1)
    spread = jnp.where(keep, jnp.square(tags - means[..., None]), 0).sum(-1) / jnp.maximum(joints, 1)
    pull = spread.sum(-1) / jnp.maximum(people, 1)

    apart = means[..., :, None] - means[..., None, :]
    near = jax.nn.relu(1 - jnp.abs(apart)) if variant == "max" else jnp.exp(-jnp.square(apart))
    pairs = person[..., :, None] & person[..., None, :]
    if variant != "mmpose":  # without the pairs i = j, each of which is 1
        pairs &= ~jnp.eye(pairs.shape[-1], dtype=bool)
    push = jnp.where(pairs, near, 0).sum((-2, -1)) / jnp.maximum(2 * people * (people - 1), 1)
    return pull, jnp.where(people > 1, push, 0)
