"""Groups a batch of maps into people on the device, in a compiled program (off by default; see `tasks.FindPeople`)."""

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
    """Returns the people of every image of a batch, on the device. The groups are those of `group`.

    The assignment is exact, in integers: by the sum of round(d), then by the scores of the peaks in steps of 2^-20,
    which decide who is left out if there are more peaks than people. That is the order of `group` while the scores of a
    joint sum to less than 100. Ties are broken as in `group`. With use_detection_value=False the cost is d in steps of
    2^-20 and up to 30; sums that differ by less, which is common with single tags (T = 1), may be resolved differently.

    Args:
        heatmaps: (B, h, w, K) heatmaps.
        tags: (B, h, w, K, T) tags.
        max_people, ..., refine: The same as for `group`. Changing max_people, joint_order or a switch compiles again.

    Returns:
        poses (B, max_people, K, 3 + T), scores (B, max_people), valid (B, max_people) bool, in the order of `group`; 0
        where not valid. People beyond max_people, whom `group` lists with one joint each, are left out. There are no
        peaks around values that are not finite.

    Raises:
        ValueError: The shapes do not fit, or an option is out of its range.

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
        raise ValueError(f"tags {tags.shape}: expected at least one tag per joint")
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
    # The maps come one after another, because every later step works on single maps.
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
    is_present = poses[..., 2] > 0
    pixel = (poses[..., 1] * w + poses[..., 0]).astype(int)  # (B, P, K)
    if adjust:
        moved = _quarter_pixels(flat[:, None], pixel, h, w)
        poses = poses.at[..., :2].set(jnp.where(is_present[..., None], moved, poses[..., :2]))
    if refine:
        poses = _refine_batch(flat, flat_tags, poses, pixel, is_present, valid, h, w)
    return poses, scores, valid


def _only_peaks(maps: jax.Array) -> jax.Array:
    """Returns the maps (B, K, h, w) with -inf wherever another pixel of the window is higher."""
    highest = maps
    for axis in (2, 3):
        size = maps.shape[axis]
        padding = [(WINDOW, WINDOW) if a == axis else (0, 0) for a in range(4)]
        padded = jnp.pad(highest, padding, constant_values=-jnp.inf)
        shifts = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * WINDOW + 1)]
        highest = functools.reduce(jnp.maximum, shifts)
    return jnp.where(maps == highest, maps, -jnp.inf)


def _match_image(peak, usable, *, order, people, tag_threshold, use_detection_value, ignore_too_much):
    """Matches peak (K, M, 3 + T) and usable (K, M) of one image; returns poses (P, K, 3 + T) and how many are people."""
    k, m, width = peak.shape
    row = jnp.arange(m)

    def step(state, joint):
        poses, keys, totals, counts, count = state
        peaks, use = peak[joint], usable[joint]
        use &= ~(ignore_too_much & (count == people))
        score, tag = peaks[:, 2], peaks[:, 3:]
        exists = jnp.arange(people) < count
        apart = jnp.sqrt(jnp.square(tag[:, None] - (totals / jnp.maximum(counts, 1)[:, None])[None]).sum(-1))  # (M, P)
        # There are as many columns as people, or as peaks if these are more.
        columns = jnp.arange(people) < jnp.maximum(count, use.sum())
        person = assign(_levels(apart, score, exists, use_detection_value), use & (count > 0), columns)
        close = jnp.take_along_axis(apart, jnp.maximum(person, 0)[:, None], 1)[:, 0] < tag_threshold
        matched = (person >= 0) & (person < count) & close
        fresh = use & ~matched

        # A fresh peak belongs to the person who has its key, to the first fresh peak with that key, or to a new person.
        key = tag[:, 0]
        of_existing = (key[:, None] == keys) & exists  # (M, P)
        same = (key[:, None] == key) & fresh  # (M, M)
        first = jnp.argmax(same, 1)
        new = fresh & ~of_existing.any(1) & (first == row)
        slot = jnp.where(of_existing.any(1), jnp.argmax(of_existing, 1), (count + jnp.cumsum(new) - 1)[first])
        slot = jnp.where(matched, person, jnp.where(fresh, slot, people))
        belongs = slot[:, None] == jnp.arange(people)  # (M, P)

        # In the order of the peaks, the last one counts; a fresh one resets the earlier tags of its person.
        last = jnp.max(jnp.where(belongs, row[:, None], -1), 0)  # (P,)
        last_fresh = jnp.max(jnp.where(belongs & fresh[:, None], row[:, None], -1), 0)
        added = belongs & matched[:, None] & (row[:, None] > last_fresh)  # at most one per person
        restart = last_fresh >= 0
        start = tag[jnp.maximum(last_fresh, 0)]
        totals = jnp.where(restart[:, None], start, totals) + jnp.where(added[..., None], tag[:, None], 0).sum(0)
        counts = jnp.where(restart, 1, counts) + added.sum(0)
        keys = jnp.where(restart & ~exists, start[:, 0], keys)
        joints = jnp.where((last >= 0)[:, None], peaks[jnp.maximum(last, 0)], poses[:, joint])
        count = jnp.minimum(count + new.sum(), people)
        return (poses.at[:, joint].set(joints), keys, totals, counts, count), None

    nobody = (
        jnp.zeros((people, k, width), peak.dtype),
        jnp.zeros(people, peak.dtype),
        jnp.zeros((people, width - 3), peak.dtype),
        jnp.zeros(people, int),
        jnp.zeros((), int),
    )
    (poses, *_, count), _ = jax.lax.scan(step, nobody, jnp.asarray(order))
    return poses, count


def _levels(apart: jax.Array, score: jax.Array, exists: jax.Array, use_detection_value: bool) -> jax.Array:
    """Returns costs (M, P, L) as integers, most significant level first; sums along a path stay below 2^31.

    Columns beyond the existing people stand for nobody: they all cost the same, and more than any person.
    """
    if use_detection_value:
        tag = jnp.round(jnp.minimum(apart, 2.0**20))
        gain = jnp.round(jnp.clip(score, -16, 16) * 2**20)
        levels = jnp.stack([tag, jnp.broadcast_to(-gain[:, None], tag.shape)], -1)
    else:
        levels = jnp.round(jnp.minimum(apart, 30) * 2**20)[..., None]
    levels = jnp.where(exists[:, None], levels, 0).astype(jnp.int32)
    nobody = jnp.broadcast_to(~exists, apart.shape).astype(jnp.int32)
    return jnp.concatenate([nobody[..., None], levels], -1)


def _quarter_pixels(flat: jax.Array, pixel: jax.Array, h: int, w: int) -> jax.Array:
    """Returns `host._quarter` of pixels (..., K) in maps (..., K, h w)."""
    x, y = pixel % w, pixel // w

    def at(x, y):
        index = jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)
        return jnp.take_along_axis(flat, index[..., None], -1)[..., 0]

    right, below = at(x + 1, y) > at(x - 1, y), at(x, y + 1) > at(x, y - 1)
    return jnp.stack([x + jnp.where(right, 0.75, 0.25), y + jnp.where(below, 0.75, 0.25)], -1).astype(flat.dtype)


def _refine_batch(flat, flat_tags, poses, pixel, is_present, valid, h, w):
    """Fills in missing joints, `PAIRS` pairs of a person and a joint at a time, as often as the batch needs."""
    b, people, k = is_present.shape
    t = flat_tags.shape[2]
    own = jnp.take_along_axis(flat_tags[:, None], pixel[..., None, None], -1)[..., 0]  # (B, P, K, T)
    means = jnp.where(is_present[..., None], own, 0).sum(2) / jnp.maximum(is_present.sum(2), 1)[..., None]
    missing = (~is_present & valid[..., None]).ravel()
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
    best = best.reshape(is_present.shape)
    value = jnp.take_along_axis(flat[:, None], best[..., None], -1)[..., 0]
    filled = jnp.concatenate([_quarter_pixels(flat[:, None], best, h, w), value[..., None]], -1)
    use = missing.reshape(is_present.shape) & (value > 0)
    return poses.at[..., :3].set(jnp.where(use[..., None], filled, poses[..., :3]))
