"""A batch of maps -> people, on the device, compiled: `group_batch` (off by default; see `tasks.FindPeople`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxpose.grouping.assignment import assign
from jaxpose.grouping.host import WINDOW, check_options

PAIRS = 64  # (person, joint) pairs that are refined at a time


def group_batch(
    heatmaps: jax.typing.ArrayLike,
    tags: jax.typing.ArrayLike,
    *,
    max_people: int = 30,
    detection_threshold: float = 0.1,
    tag_threshold: float = 1.0,
    use_detection_value: bool = True,
    ignore_too_much: bool = False,
    joint_order: Sequence[int] | None = None,
    adjust: bool = True,
    refine: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The people of every image of a batch, compiled, without leaving the device. The groups are those of `group`.

    The assignment is exact, in whole numbers: by the sum of round(d), then by the scores of the peaks in steps of 2^-20, which
    decide who is left out where there are more peaks than people. That is the order of `group` while the scores of a
    joint sum to less than 100. Equal costs are settled as in `group`. With use_detection_value=False it is by d, in steps
    of 2^-20 and up to 30; there sums that differ by less, which single tags (T = 1) often have, may be settled otherwise.

    Args:
        heatmaps: (B, h, w, K); tags: (B, h, w, K, T).
        max_people, ..., refine: as for `group`. Changing max_people, joint_order or a switch compiles again.

    Returns:
        poses (B, max_people, K, 3 + T), scores (B, max_people), valid (B, max_people) bool, in the order of `group`; 0 where
        not valid. People beyond max_people, whom `group` lists with one joint each, are not there. Around values that
        are not finite there are no peaks.

    Raises:
        ValueError: shapes do not fit, an option out of its range.

    >>> heatmaps = jnp.zeros((1, 8, 8, 2)).at[0, (2, 6), (1, 5)].set(0.5)
    >>> tags = jnp.zeros((1, 8, 8, 2, 1)).at[0, 6, 5].set(4.0)
    >>> poses, scores, valid = group_batch(heatmaps, tags, max_people=3, adjust=False)
    >>> poses[0, :2, :, :2].tolist(), scores[0].tolist(), valid[0].tolist()
    ([[[1.0, 2.0], [1.0, 2.0]], [[5.0, 6.0], [5.0, 6.0]]], [0.5, 0.5, 0.0], [True, True, False])
    """
    heatmaps, tags = (jnp.asarray(a) for a in (heatmaps, tags))
    if heatmaps.ndim != 4 or 0 in heatmaps.shape[1:] or tags.ndim != 5 or tags.shape[:4] != heatmaps.shape:
        raise ValueError(f"heatmaps {heatmaps.shape}, tags {tags.shape}: expected (B, h, w, K) and (B, h, w, K, T)")
    if not tags.shape[4]:
        raise ValueError(f"tags {tags.shape}: expected at least one tag a joint")
    dtype = jnp.promote_types(jnp.promote_types(heatmaps.dtype, tags.dtype), jnp.float32)
    order = check_options(heatmaps.shape[-1], max_people, detection_threshold, tag_threshold, joint_order)
    return _group_batch(
        heatmaps.astype(dtype),
        tags.astype(dtype),
        detection_threshold,
        tag_threshold,
        max_people=max_people,
        use_detection_value=bool(use_detection_value),
        ignore_too_much=bool(ignore_too_much),
        order=order,
        adjust=bool(adjust),
        refine=bool(refine),
    )


_SWITCHES = ("max_people", "use_detection_value", "ignore_too_much", "order", "adjust", "refine")


@functools.partial(jax.jit, static_argnames=_SWITCHES)
def _group_batch(
    heatmaps, tags, detection_threshold, tag_threshold, *, max_people, use_detection_value, ignore_too_much, order,
    adjust, refine,
):  # fmt: skip
    b, h, w, k = heatmaps.shape
    t = tags.shape[-1]
    # One map after the other: every later step looks at single maps.
    flat = heatmaps.transpose(0, 3, 1, 2).reshape(b, k, h * w)
    flat_tags = tags.transpose(0, 3, 4, 1, 2).reshape(b, k, t, h * w)

    most = min(max_people, h * w)
    ranked, pixel = jax.lax.top_k(_only_peaks(flat.reshape(b, k, h, w)).reshape(flat.shape), most)  # (B, K, M)
    usable = ranked > detection_threshold
    tag = jnp.moveaxis(jnp.take_along_axis(flat_tags, pixel[:, :, None], -1), 2, -1)  # (B, K, M, T)
    place = jnp.stack([pixel % w, pixel // w], -1).astype(flat.dtype)
    peak = jnp.concatenate([place, ranked[..., None], tag], -1)  # (B, K, M, 3 + T)
    peak = jnp.where(usable[..., None], peak, 0)
    match = functools.partial(
        _match_image,
        order=order,
        people=max_people,
        tag_threshold=tag_threshold,
        use_detection_value=use_detection_value,
        ignore_too_much=ignore_too_much,
    )
    poses, count = jax.vmap(match)(peak, usable)
    valid = jnp.arange(max_people) < count[:, None]
    scores = poses[..., 2].mean(-1)
    there = poses[..., 2] > 0
    pixel = (poses[..., 1] * w + poses[..., 0]).astype(int)  # (B, P, K)
    if adjust:
        moved = _quarter_pixels(flat[:, None], pixel, h, w)
        poses = poses.at[..., :2].set(jnp.where(there[..., None], moved, poses[..., :2]))
    if refine:
        poses = _refine_batch(flat, flat_tags, poses, pixel, there, valid, h, w)
    return poses, scores, valid


def _only_peaks(maps: jax.Array) -> jax.Array:
    """(B, K, h, w), -inf wherever another pixel of the window is higher."""
    highest = maps
    for axis in (2, 3):
        size = maps.shape[axis]
        padding = [(WINDOW, WINDOW) if a == axis else (0, 0) for a in range(4)]
        padded = jnp.pad(highest, padding, constant_values=-jnp.inf)
        shifts = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * WINDOW + 1)]
        highest = functools.reduce(jnp.maximum, shifts)
    return jnp.where(maps == highest, maps, -jnp.inf)


def _match_image(peak, usable, *, order, people, tag_threshold, use_detection_value, ignore_too_much):
    """peak (K, M, 3 + T) and usable (K, M) of one image -> poses (P, K, 3 + T) and how many people there are."""
    k, m, width = peak.shape
    row = jnp.arange(m)

    def step(state, joint):
        poses, keys, totals, counts, found = state
        peaks, use = peak[joint], usable[joint]
        use &= ~(ignore_too_much & (found == people))
        score, tag = peaks[:, 2], peaks[:, 3:]
        known = jnp.arange(people) < found
        apart = jnp.sqrt(jnp.square(tag[:, None] - (totals / jnp.maximum(counts, 1)[:, None])[None]).sum(-1))  # (M, P)
        # As many columns as there are people, or peaks if these are more.
        columns = jnp.arange(people) < jnp.maximum(found, use.sum())
        mine = assign(_levels(apart, score, known, use_detection_value), use & (found > 0), columns)
        close = jnp.take_along_axis(apart, jnp.maximum(mine, 0)[:, None], 1)[:, 0] < tag_threshold
        matched = (mine >= 0) & (mine < found) & close
        fresh = use & ~matched

        # Whom a fresh peak belongs to: who has its key already, the first fresh peak with that key, or a new person.
        key = tag[:, 0]
        of_known = (key[:, None] == keys) & known  # (M, P)
        same = (key[:, None] == key) & fresh  # (M, M)
        first = jnp.argmax(same, 1)
        new = fresh & ~of_known.any(1) & (first == row)
        slot = jnp.where(of_known.any(1), jnp.argmax(of_known, 1), (found + jnp.cumsum(new) - 1)[first])
        slot = jnp.where(matched, mine, jnp.where(fresh, slot, people))
        belongs = slot[:, None] == jnp.arange(people)  # (M, P)

        # In the order of the peaks, the last one counts; a fresh one makes a person forget earlier tags.
        last = jnp.max(jnp.where(belongs, row[:, None], -1), 0)  # (P,)
        last_fresh = jnp.max(jnp.where(belongs & fresh[:, None], row[:, None], -1), 0)
        added = belongs & matched[:, None] & (row[:, None] > last_fresh)  # at most one a person
        restart = last_fresh >= 0
        start = tag[jnp.maximum(last_fresh, 0)]
        totals = jnp.where(restart[:, None], start, totals) + jnp.where(added[..., None], tag[:, None], 0).sum(0)
        counts = jnp.where(restart, 1, counts) + added.sum(0)
        keys = jnp.where(restart & ~known, start[:, 0], keys)
        joints = jnp.where((last >= 0)[:, None], peaks[jnp.maximum(last, 0)], poses[:, joint])
        found = jnp.minimum(found + new.sum(), people)
        return (poses.at[:, joint].set(joints), keys, totals, counts, found), None

    nobody = (
        jnp.zeros((people, k, width), peak.dtype),
        jnp.zeros(people, peak.dtype),
        jnp.zeros((people, width - 3), peak.dtype),
        jnp.zeros(people, int),
        jnp.zeros((), int),
    )
    (poses, *_, found), _ = jax.lax.scan(step, nobody, jnp.asarray(order))
    return poses, found


def _levels(apart: jax.Array, score: jax.Array, known: jax.Array, use_detection_value: bool) -> jax.Array:
    """Costs (M, P, L) in whole numbers, one level before the next; sums along a path stay below 2^31.

    Columns that are not known people stand for nobody: they cost more than everybody else, and all the same.
    """
    if use_detection_value:
        tag = jnp.round(jnp.minimum(apart, 2.0**20))
        gain = jnp.round(jnp.clip(score, -16, 16) * 2**20)
        levels = jnp.stack([tag, jnp.broadcast_to(-gain[:, None], tag.shape)], -1)
    else:
        levels = jnp.round(jnp.minimum(apart, 30) * 2**20)[..., None]
    levels = jnp.where(known[:, None], levels, 0).astype(jnp.int32)
    nobody = jnp.broadcast_to(~known, apart.shape).astype(jnp.int32)
    return jnp.concatenate([nobody[..., None], levels], -1)


def _quarter_pixels(flat: jax.Array, pixel: jax.Array, h: int, w: int) -> jax.Array:
    """`_quarter` of pixels (..., K) in maps (..., K, h w)."""
    x, y = pixel % w, pixel // w

    def at(x, y):
        index = jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)
        return jnp.take_along_axis(flat, index[..., None], -1)[..., 0]

    right, below = at(x + 1, y) > at(x - 1, y), at(x, y + 1) > at(x, y - 1)
    return jnp.stack([x + jnp.where(right, 0.75, 0.25), y + jnp.where(below, 0.75, 0.25)], -1).astype(flat.dtype)


def _refine_batch(flat, flat_tags, poses, pixel, there, valid, h, w):
    """Fill in what is not there, `PAIRS` pairs of a person and a joint at a time, as many as the batch needs."""
    b, people, k = there.shape
    t = flat_tags.shape[2]
    own = jnp.take_along_axis(flat_tags[:, None], pixel[..., None, None], -1)[..., 0]  # (B, P, K, T)
    means = jnp.where(there[..., None], own, 0).sum(2) / jnp.maximum(there.sum(2), 1)[..., None]
    missing = (~there & valid[..., None]).ravel()
    pairs = jnp.argsort(~missing, stable=True)
    pairs = jnp.pad(pairs, (0, -len(pairs) % PAIRS))
    maps, embedded = flat.reshape(b * k, h * w), flat_tags.reshape(b * k, t, h * w)

    def fill(state):
        done, best = state
        some = jax.lax.dynamic_slice_in_dim(pairs, done, PAIRS)
        image, person, joint = some // (people * k), some // k % people, some % k
        at = image * k + joint
        apart = jnp.sqrt(jnp.square(embedded[at] - means[image, person][..., None]).sum(1))
        return done + PAIRS, best.at[some].set(jnp.argmax(maps[at] - jnp.round(apart), -1))

    count = missing.sum()
    _, best = jax.lax.while_loop(lambda s: s[0] < count, fill, (jnp.array(0), jnp.zeros(b * people * k, int)))
    best = best.reshape(there.shape)
    value = jnp.take_along_axis(flat[:, None], best[..., None], -1)[..., 0]
    filled = jnp.concatenate([_quarter_pixels(flat[:, None], best, h, w), value[..., None]], -1)
    use = missing.reshape(there.shape) & (value > 0)
    return poses.at[..., :3].set(jnp.where(use[..., None], filled, poses[..., :3]))
