"""Losses between heatmaps. Maps are (..., h, w, K); masks and weights are (..., K), one number per joint.

The caller applies the published reductions. HRNet and SimpleBaseline take `0.5 * heatmap_mse(...).mean()` (QUIRK H5:
mmpose omits the 0.5 and applies the weight once instead of squared); mmpose's DSNT takes `heatmap_js(...).sum() /
batch`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpose.losses._inputs import as_float, as_mask

Array = jax.typing.ArrayLike


def _maps(where: Array | None, **maps: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns both maps in one dtype, with garbage at masked joints replaced by 0, and the mask (..., 1, 1, K)."""
    first, second = as_float(*maps.values())
    if first.shape != second.shape or first.ndim < 3:
        formatted = ", ".join(f"{name} {jnp.shape(value)}" for name, value in maps.items())
        raise ValueError(f"expected two equal shapes (..., h, w, K), got {formatted}")
    keep = as_mask(_per_joint(jnp.ones(_joints(first), bool) if where is None else where, first, name="where"))
    return jnp.where(keep, first, 0), jnp.where(keep, second, 0), keep


def _joints(maps: jax.Array) -> tuple[int, ...]:
    return (*maps.shape[:-3], maps.shape[-1])


def _per_joint(values: Array, maps: jax.Array, *, name: str) -> jax.Array:
    """Reshapes (..., K) to (..., 1, 1, K)."""
    values = jnp.asarray(values)
    if values.shape != _joints(maps):
        raise ValueError(
            f"{name} has shape {values.shape}, expected {_joints(maps)}: one entry per joint of {maps.shape}"
        )
    return values[..., None, None, :]


def heatmap_mse(pred: Array, target: Array, *, where: Array | None = None, weight: Array | None = None) -> jax.Array:
    """(w (pred - target))^2 at every pixel (Xiao 2018; H1 of Sun 2018). The weight is squared, as in HRNet's code.

    Args:
        pred, target: (..., h, w, K) heatmaps.
        where: (..., K) mask; masked joints give zero loss and zero gradient, whatever they hold.
        weight: (..., K) target weights; None weighs every joint by 1.

    Returns:
        (..., h, w, K).

    Raises:
        ValueError: The shapes do not fit.

    >>> heatmap_mse(jnp.full((1, 2, 1), 3.0), jnp.ones((1, 2, 1)), weight=jnp.array([0.5]))[..., 0].tolist()
    [[1.0, 1.0]]
    """
    pred, target, _ = _maps(where, pred=pred, target=target)
    difference = pred - target
    if weight is not None:
        difference = difference * _per_joint(weight, pred, name="weight").astype(difference.dtype)
    return jnp.square(difference)


def heatmap_ohkm(
    pred: Array, target: Array, *, top: int = 8, where: Array | None = None, weight: Array | None = None
) -> jax.Array:
    """The mean squared error of the `top` worst joints of each sample (online hard keypoint mining).

    Args:
        pred, target, where, weight: The same as for `heatmap_mse`.
        top: The number of joints that count, 1 to K.

    Returns:
        (...) one number per sample; HRNet's code takes half of its mean over the batch.

    Raises:
        ValueError: The shapes do not fit, or `top` is not in 1 to K.

    >>> pred = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3)
    >>> heatmap_ohkm(pred, jnp.zeros((1, 1, 3)), top=2).item()
    6.5
    """
    each = heatmap_mse(pred, target, where=where, weight=weight).mean((-3, -2))
    if not 1 <= top <= each.shape[-1]:
        raise ValueError(f"top={top}: expected 1 to {each.shape[-1]}, the number of joints")
    return jax.lax.top_k(each, top)[0].mean(-1)


def heatmap_cross_entropy(logits: Array, target: Array, *, where: Array | None = None) -> jax.Array:
    """-sum_p target_p log softmax(logits)_p over the pixels of a map: H2 of Sun 2018, with `heatmap.one_hot` targets.

    Args:
        logits, target: (..., h, w, K) maps; a target of zeros (a joint outside the map) gives 0.
        where: (..., K) mask.

    Returns:
        (..., K) in nats.

    >>> target = jnp.zeros((2, 2, 1)).at[0, 1].set(1.0)
    >>> round(heatmap_cross_entropy(jnp.zeros((2, 2, 1)), target)[0].item(), 4)
    1.3863
    """
    logits, target, _ = _maps(where, logits=logits, target=target)
    return -(target * jax.nn.log_softmax(logits, axis=(-3, -2))).sum((-3, -2))


def heatmap_bce(
    logits: Array, target: Array, *, key: jax.Array, negatives: float = 3.0, where: Array | None = None
) -> jax.Array:
    """Binary cross-entropy at the positive pixels and at `negatives` times as many random negatives: H3 of Sun 2018.

    Args:
        logits: (..., h, w, K) raw scores.
        target: The same shape, positive above 1/2 (`heatmap.disc`).
        key: The key of the random draw of negatives.
        negatives: The number of negative pixels per positive one of the same map, at most as many as the map has.
        where: (..., K) mask.

    Returns:
        (..., h, w, K) in nats, 0 at negatives that were not drawn. A map without positives gives 0 everywhere.

    >>> target = jnp.zeros((4, 4, 1)).at[1, 1].set(1.0)
    >>> values = heatmap_bce(jnp.zeros((4, 4, 1)), target, key=jax.random.key(0))
    >>> int((values > 0).sum())
    4
    """
    logits, target, keep = _maps(where, logits=logits, target=target)
    if not negatives >= 0:
        raise ValueError(f"negatives={negatives}: expected a ratio of 0 or more")
    positive = target > 0.5
    wanted = jnp.ceil(negatives * positive.sum((-3, -2))).astype(int)  # (..., K)
    draw = jax.random.bits(key, logits.shape, jnp.uint32)
    draw = jnp.where(positive, jnp.uint32(2**32 - 1), draw)
    is_sampled = draw < _lowest(draw, wanted)
    value = jax.nn.softplus(logits) - logits * positive
    return jnp.where((positive | is_sampled) & keep, value, 0)


def _lowest(draw: jax.Array, count: jax.Array) -> jax.Array:
    """Returns the largest number that at most `count` (..., K) pixels of the uint32 maps are below, (..., 1, 1, K).

    The number is built bit by bit, from the highest, by counting: 32 passes over the maps are faster than sorting them.
    """

    def set_bit(i, threshold):
        candidate = threshold | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(
            (draw < candidate).sum((-3, -2), keepdims=True) <= count[..., None, None, :], candidate, threshold
        )

    start = jnp.zeros((*draw.shape[:-3], 1, 1, draw.shape[-1]), jnp.uint32)
    return jax.lax.fori_loop(0, 32, set_bit, start)


def heatmap_kl(prob: Array, target: Array, *, where: Array | None = None) -> jax.Array:
    """KL(target || prob) = sum_p target_p log(target_p / prob_p) of two maps that each sum to 1.

    Args:
        prob, target: (..., h, w, K), non-negative.
        where: (..., K) mask.

    Returns:
        (..., K) in nats. A pixel with target 0 adds 0; prob is bounded below by 1e-24 under the logarithm.

    >>> round(heatmap_kl(jnp.full((1, 2, 1), 0.5), jnp.array([[[1.0], [0.0]]]))[0].item(), 4)
    0.6931
    """
    prob, target, _ = _maps(where, prob=prob, target=target)
    return _kl(target, prob).sum((-3, -2))


def heatmap_js(prob: Array, target: Array, *, where: Array | None = None) -> jax.Array:
    """Jensen-Shannon divergence, (KL(prob || m) + KL(target || m)) / 2 with m the mean of both: DSNT's regularisation.

    Args:
        prob, target: (..., h, w, K), each map summing to 1.
        where: (..., K) mask.

    Returns:
        (..., K) in nats, 0 to log 2.

    >>> a = jnp.array([[[1.0], [0.0]]])
    >>> round(heatmap_js(a, a[:, ::-1])[0].item(), 4)
    0.6931
    """
    prob, target, _ = _maps(where, prob=prob, target=target)
    middle = 0.5 * (prob + target)
    return (0.5 * (_kl(prob, middle) + _kl(target, middle))).sum((-3, -2))


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
    """Returns p log(p / q) with 0 log 0 = 0 and finite derivatives everywhere."""
    tiny = 1e-24
    return p * (jnp.log(jnp.maximum(p, tiny)) - jnp.log(jnp.maximum(q, tiny)))


def weight_adaptive_mse(
    pred: Array, target: Array, *, base_target: Array | None = None, gamma: float = 0.01, where: Array | None = None
) -> jax.Array:
    """W (P - H')^2 at every pixel, W = |1 - P| H^gamma + |P| (1 - H^gamma) (Luo 2021, equations 12 and 13).

    H^gamma is a soft form of [H > 0]: easy background (P near 0) and easy peaks (P near 1) get small weights. QUIRK S3:
    the paper does not say whether H in the weight is the scaled target. The released code takes the unscaled one
    (`base_target`) and lets gradients flow through the weight.

    Args:
        pred: P, (..., h, w, K).
        target: H', the same shape, scaled or not.
        base_target: H in the weight, the same shape, not negative; None takes the target.
        gamma: The exponent, positive; 0.01 as published.
        where: (..., h, w) pixels that count (crowds and unlabelled people do not). The others give zero loss and zero
            gradient, whatever they hold.

    Returns:
        (..., h, w, K). The published recipe takes the mean over all pixels, including those that do not count.

    Raises:
        ValueError: The shapes do not fit, or gamma is not positive.

    >>> pred, target = (jnp.array(x).reshape(1, 2, 1) for x in ([0.9, 0.2], [1.0, 0.0]))
    >>> weight_adaptive_mse(pred, target).ravel().round(6).tolist()  # 0.1 * 0.1^2, 0.2 * 0.2^2
    [0.0010000000474974513, 0.00800000037997961]
    """
    if not gamma > 0:
        raise ValueError(f"gamma={gamma}: expected a positive number, 0.01 as published")
    base_target = target if base_target is None else base_target
    (pred, target, base), keep = _pixels(where, pred=pred, target=target, base_target=base_target)
    # Above the smallest normal number the derivative of the power is finite.
    soft = jnp.where(base > 0, jnp.maximum(base, jnp.finfo(base.dtype).tiny) ** gamma, 0)
    weight = jnp.abs(1 - pred) * soft + jnp.abs(pred) * (1 - soft)
    return jnp.where(keep, weight * jnp.square(pred - target), 0)


def scale_penalty(alpha: Array, target: Array, *, where: Array | None = None) -> jax.Array:
    """alpha^2 where the target is above 0: the regulariser of the scale maps (Luo 2021, equation 9).

    Args:
        alpha: (..., h, w, K) predicted scale maps.
        target: The same shape, unscaled. (The paper uses the region of the scaled target, which is the same.)
        where: (..., h, w) pixels that count.

    Returns:
        (..., h, w, K). The published recipe takes the mean over all pixels, as for `weight_adaptive_mse`, and adds it
        with factor 1.

    Raises:
        ValueError: The shapes do not fit.

    >>> scale_penalty(jnp.array([[[0.5], [3.0]]]), jnp.array([[[0.1], [0.0]]])).ravel().tolist()
    [0.25, 0.0]
    """
    (alpha, target), keep = _pixels(where, alpha=alpha, target=target)
    return jnp.square(jnp.where(keep & (target > 0), alpha, 0))


def _pixels(where: Array | None, **maps: Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Returns the maps in one dtype, with garbage at masked pixels replaced by 0, and the mask (..., h, w, 1)."""
    arrays = as_float(*maps.values())
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim < 3:
        formatted = ", ".join(f"{name} {jnp.shape(value)}" for name, value in maps.items())
        raise ValueError(f"expected equal shapes (..., h, w, K), got {formatted}")
    shape = arrays[0].shape[:-1]
    where = jnp.ones(shape, bool) if where is None else jnp.asarray(where)
    if where.shape != shape:
        raise ValueError(f"where has shape {where.shape}, expected {shape}: one entry per pixel of {arrays[0].shape}")
    keep = as_mask(where)[..., None]
    return tuple(jnp.where(keep, array, 0) for array in arrays), keep
