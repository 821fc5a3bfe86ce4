"""Heatmaps and tags of an image -> people: associative-embedding decoding (Newell 2017), as HigherHRNet and SWAHR do it.

Joint after joint, the peaks of the heatmap are matched to the people found so far, by the distance of their tags; a peak
that fits nobody starts a new person. Then the peaks are moved to a quarter of a pixel (`adjust`), and joints that a person
lacks are looked for in the whole map (`refine`).

`group` takes one image on the host, in NumPy; `group_batch` takes a batch on the device, jitted.

Coordinates are in heatmap pixels. `adjust` adds 0.5 to them, and so does `refine` (QUIRK: published so, and undone by no
one): the map's left edge is then at 0, and pixel x spans x to x + 1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

__all__ = ["JOINT_ORDER", "group", "group_batch", "peaks"]

JOINT_ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
"""The published order, head and trunk first in COCO's numbering; with fewer joints its entries below K (QUIRK: for CrowdPose's
14 that is no order of body parts)."""
WINDOW = 2  # a peak is the maximum of a square of 2 * 2 + 1 pixels
SPARE = 1e10  # the cost of matching nobody, where there are more peaks than people
PAIRS = 64  # (person, joint) pairs that the device refines at a time


# ---------------------------------------------------------------------------------------------------------------------
# On the host
# ---------------------------------------------------------------------------------------------------------------------


def group(
    heatmaps: np.ndarray,
    tags: np.ndarray,
    *,
    max_people: int = 30,
    detection_threshold: float = 0.1,
    tag_threshold: float = 1.0,
    use_detection_value: bool = True,
    ignore_too_much: bool = False,
    joint_order: Sequence[int] | None = None,
    adjust: bool = True,
    refine: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """The people of one image, as the published parser finds them.

    A peak matches a person at the cost round(d) * 100 - score, d the distance between its tag and the mean tag of the
    person's joints (round half to even); the assignment of least total cost is taken, and those of its pairs with
    d < tag_threshold. QUIRK: the rounding makes assignments of equal cost common, wherever tags are close and wherever a peak's
    tag is far from everybody's. The published code then takes what its solver meets first, which differs between versions of
    that solver; here it is what scipy's `linear_sum_assignment` meets first.

    Args:
      heatmaps: (h, w, K).
      tags: (h, w, K, T), T tags a joint (2 with a flipped image).
      max_people: peaks a joint that are looked at, and people that can be matched.
      detection_threshold: a peak has to be above it; 0 or more. SWAHR tests with 0.12 (W32) and 0.1 (W48).
      tag_threshold: largest distance of tags.
      use_detection_value: False: the cost is d alone.
      ignore_too_much: leave joints out once there are max_people people.
      joint_order: a permutation of the joints; None: `JOINT_ORDER`.
      adjust: move every peak by 1/4 towards its larger neighbour along each axis (to the lower side where they are equal),
        and by 1/2.
      refine: give a person the joints that it lacks: where heatmap - round(d) is largest in the whole map, if the heatmap
        is positive there, with the same 1/4 and 1/2. Their tag stays 0.

    Returns:
      poses (P, K, 3 + T): x, y, score, tags; a joint that was not found is all 0. P may exceed max_people: a peak that
      matches nobody always starts a person.
      scores (P,): mean over all K joints of the scores before `refine`.

    Raises:
      ValueError: shapes do not fit; maps that are not finite; an option out of its range.

    >>> heatmaps, tags = np.zeros((8, 8, 2)), np.zeros((8, 8, 2, 1))
    >>> heatmaps[2, 1] = heatmaps[6, 5] = 0.9
    >>> tags[6, 5] = 4.0
    >>> poses, scores = group(heatmaps, tags, adjust=False)
    >>> poses[:, :, :2].tolist(), scores.round(3).tolist()
    ([[[1.0, 2.0], [1.0, 2.0]], [[5.0, 6.0], [5.0, 6.0]]], [0.9, 0.9])
    """
    heatmaps, tags = _float(heatmaps), _float(tags)
    if heatmaps.ndim != 3 or 0 in heatmaps.shape or tags.ndim != 4 or tags.shape[:3] != heatmaps.shape:
        raise ValueError(
            f"heatmaps {heatmaps.shape}, tags {tags.shape}: expected (h, w, K) and (h, w, K, T), one image"
        )
    if not tags.shape[3]:
        raise ValueError(f"tags {tags.shape}: expected at least one tag a joint")
    order = _check_options(heatmaps.shape[-1], max_people, detection_threshold, tag_threshold, joint_order)
    _check_finite(heatmaps=heatmaps, tags=tags)

    found = _peaks(heatmaps, max_people, detection_threshold)
    poses = _match(heatmaps, tags, found, order, max_people, tag_threshold, use_detection_value, ignore_too_much)
    scores = poses[:, :, 2].mean(1)
    if adjust:
        person, joint = np.nonzero(poses[:, :, 2] > 0)
        x, y = (poses[person, joint, i].astype(int) for i in (0, 1))
        poses[person, joint, :2] = _quarter(heatmaps, x, y, joint)
    if refine and len(poses):
        _refine(heatmaps, tags, poses, detection_threshold)
    return poses, scores


def peaks(
    heatmaps: np.ndarray, *, max_people: int = 30, detection_threshold: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """The highest pixels of each map that are the maximum of the 5 x 5 pixels around them.

    Args:
      heatmaps: (h, w, K); max_people, detection_threshold: as for `group`.

    Returns:
      xy (K, max_people, 2) int, highest first, -1 where there is no further peak; scores (K, max_people), 0 there. Every
      pixel of a plateau is a peak; equal ones come in row order.

    Raises:
      ValueError: a wrong shape, maps that are not finite, an option out of its range.

    >>> heatmaps = np.zeros((6, 6, 1))
    >>> heatmaps[1, 4], heatmaps[5, 1], heatmaps[2, 3] = 0.5, 0.7, 0.4
    >>> xy, scores = peaks(heatmaps, max_people=3)
    >>> xy[0].tolist(), scores[0].tolist()
    ([[1, 5], [4, 1], [-1, -1]], [0.7, 0.5, 0.0])
    """
    heatmaps = _float(heatmaps)
    if heatmaps.ndim != 3 or 0 in heatmaps.shape:
        raise ValueError(f"heatmaps {heatmaps.shape}: expected (h, w, K)")
    _check_options(heatmaps.shape[-1], max_people, detection_threshold, 1.0, None)
    _check_finite(heatmaps=heatmaps)
    xy = np.full((heatmaps.shape[-1], max_people, 2), -1)
    scores = np.zeros(xy.shape[:2], heatmaps.dtype)
    for joint, (x, y) in enumerate(_peaks(heatmaps, max_people, detection_threshold)):
        xy[joint, : len(x)] = np.stack([x, y], -1)
        scores[joint, : len(x)] = heatmaps[y, x, joint]
    return xy, scores


def _peaks(heatmaps: np.ndarray, most: int, threshold: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """x, y of the peaks of every joint, highest first, then in row order."""
    h, w, k = heatmaps.shape
    flat = heatmaps.reshape(-1)
    index = np.flatnonzero(flat > threshold)
    # The four nearest neighbours first: they leave few pixels for the others. An offset that would leave the map is cut at
    # its border, where it meets another pixel of the window.
    window = [(dy, dx) for dy in range(-WINDOW, WINDOW + 1) for dx in range(-WINDOW, WINDOW + 1)]
    for dy, dx in sorted(window, key=lambda offset: (abs(offset[0]) + abs(offset[1]), offset))[1:]:
        pixel, joint = np.divmod(index, k)
        y, x = np.divmod(pixel, w)
        neighbour = (np.clip(y + dy, 0, h - 1) * w + np.clip(x + dx, 0, w - 1)) * k + joint
        index = index[flat[index] >= flat[neighbour]]
    pixel, joint = np.divmod(index, k)
    order = np.lexsort((pixel, -flat[index], joint))
    pixel, joint = pixel[order], joint[order]
    starts = np.searchsorted(joint, np.arange(k + 1))
    rows = [pixel[a : min(b, a + most)] for a, b in zip(starts[:-1], starts[1:])]
    return [(p % w, p // w) for p in rows]


def _match(heatmaps, tags, found, order, most, tag_threshold, use_detection_value, ignore_too_much) -> np.ndarray:
    """(P, K, 3 + T): x, y, score and tags of the peaks, person by person."""
    k, t = tags.shape[2:]
    poses: list[np.ndarray] = []
    # A person is known by the first value of its first tag: a new peak with exactly this value replaces its joint and its
    # tags, as published.
    slots: dict[float, int] = {}
    totals, counts = np.zeros((most, t), tags.dtype), np.zeros((most, 1), tags.dtype)
    for joint in order:
        x, y = found[joint]
        if not len(x):
            continue
        score, tag = heatmaps[y, x, joint], tags[y, x, joint]
        people = min(len(poses), most)
        if ignore_too_much and people == most:
            continue
        mine = np.full(len(x), -1)
        if people:
            means = totals[:people] / counts[:people]
            # In float64, as published: the rounding to whole numbers of what float32 would have rounded before differs.
            apart = np.sqrt(np.square(tag[:, None].astype(np.float64) - means).sum(-1))
            cost = np.round(apart) * 100 - score[:, None].astype(np.float64) if use_detection_value else apart
            # Padded to a square as published, so that equal costs are settled alike.
            spare = np.full((len(x), max(len(x) - people, 0)), SPARE)
            rows, columns = linear_sum_assignment(np.concatenate([cost, spare], 1))
            rows, columns = rows[columns < people], columns[columns < people]
            close = apart[rows, columns] < tag_threshold
            mine[rows[close]] = columns[close]
        keys = tag[:, 0].tolist()
        for i, slot in enumerate(mine.tolist()):
            matched = slot >= 0
            if not matched:
                slot = slots.setdefault(keys[i], len(poses))
                if slot == len(poses):
                    poses.append(np.zeros((k, 3 + t), np.result_type(heatmaps, tags)))
            person = poses[slot][joint]
            person[0], person[1], person[2], person[3:] = x[i], y[i], score[i], tag[i]
            if slot < most:
                totals[slot] = totals[slot] + tag[i] if matched else tag[i]
                counts[slot] = counts[slot] + 1 if matched else 1
    return np.stack(poses) if poses else np.zeros((0, k, 3 + t), np.result_type(heatmaps, tags))


def _quarter(heatmaps: np.ndarray, x: np.ndarray, y: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """(N, 2): the pixels moved by 1/2, and by 1/4 towards the larger neighbour (the map is continued by its border)."""
    h, w = heatmaps.shape[:2]
    right = heatmaps[y, np.minimum(x + 1, w - 1), joint] > heatmaps[y, np.maximum(x - 1, 0), joint]
    below = heatmaps[np.minimum(y + 1, h - 1), x, joint] > heatmaps[np.maximum(y - 1, 0), x, joint]
    return np.stack([x + np.where(right, 0.75, 0.25), y + np.where(below, 0.75, 0.25)], -1)


def _refine(heatmaps: np.ndarray, tags: np.ndarray, poses: np.ndarray, threshold: float) -> None:
    """Fill in the joints that are not there, in place."""
    w = heatmaps.shape[1]
    there = poses[:, :, 2] > 0
    person, joint = np.nonzero(there)
    x, y = (poses[person, joint, i].astype(int) for i in (0, 1))
    means = np.zeros((len(poses), tags.shape[-1]), tags.dtype)
    np.add.at(means, person, tags[y, x, joint])
    means /= np.maximum(there.sum(1, keepdims=True), 1).astype(tags.dtype)
    for joint in np.flatnonzero(~there.all(0)):
        values = heatmaps[:, :, joint].ravel()
        embedded = np.moveaxis(tags[:, :, joint].reshape(-1, tags.shape[-1]), -1, 0)
        open_people = np.flatnonzero(~there[:, joint])
        # heatmap - round(d) is at most the heatmap: a result above a level is found among the pixels above that level.
        for level in (threshold, threshold / 16, -np.inf):
            pixels = np.flatnonzero(values > level) if level > -np.inf else slice(None)
            some, some_tags = values[pixels], np.ascontiguousarray(embedded[:, pixels])
            if not len(some):
                continue
            still_open = []
            for i in open_people:
                fit = some - np.rint(_distance(some_tags, means[i]))
                best = fit.argmax()
                if fit[best] <= level:
                    still_open.append(i)
                    continue
                at = best if level == -np.inf else pixels[best]
                if values[at] > 0:
                    poses[i, joint, :2] = _quarter(heatmaps, at % w, at // w, joint)
                    poses[i, joint, 2] = values[at]
            open_people = still_open
            if not open_people:
                break


def _distance(tags: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(T, N) and (T,) -> (N,)."""
    if len(tags) == 1:
        return np.abs(tags[0] - mean[0])
    return np.sqrt(np.square(tags - mean[:, None]).sum(0))


def _float(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.promote_types(x.dtype, np.float32) if x.dtype.kind in "fiub" else np.float32, copy=False)


def _check_finite(**maps: np.ndarray) -> None:
    for name, values in maps.items():
        # A sum tells of most maps that they are finite, at a third of the price.
        if not np.isfinite(values.sum()) and not np.isfinite(values).all():
            bad = np.argwhere(~np.isfinite(values))
            raise ValueError(
                f"{name} has {len(bad)} values that are not finite, the first at {bad[0].tolist()}: is the net's training sound?"
            )


def _check_options(
    joints: int, max_people: int, detection_threshold: float, tag_threshold: float, joint_order: Sequence[int] | None
) -> tuple[int, ...]:
    if max_people < 1:
        raise ValueError(f"max_people={max_people}: expected 1 or more")
    if not detection_threshold >= 0:
        raise ValueError(f"detection_threshold={detection_threshold}: expected 0 or more, a height of the heatmap")
    if not tag_threshold > 0:
        raise ValueError(f"tag_threshold={tag_threshold}: expected a positive distance between tags")
    if joint_order is None:
        return tuple(j for j in JOINT_ORDER if j < joints) + tuple(range(len(JOINT_ORDER), joints))
    if sorted(joint_order) != list(range(joints)):
        raise ValueError(f"joint_order={tuple(joint_order)}: expected each of the joints 0 to {joints - 1} once")
    return tuple(int(joint) for joint in joint_order)


# ---------------------------------------------------------------------------------------------------------------------
# On the device
# ---------------------------------------------------------------------------------------------------------------------


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
    order = _check_options(heatmaps.shape[-1], max_people, detection_threshold, tag_threshold, joint_order)
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
        mine = _assign(_levels(apart, score, known, use_detection_value), use & (found > 0), columns)
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


def _least(values: jax.Array, where: jax.Array) -> jax.Array:
    """values (..., n, L), where (..., n) -> which of them are least, (..., n)."""
    for level in range(values.shape[-1]):
        value = values[..., level]
        where &= value == jnp.min(value, axis=-1, keepdims=True, where=where, initial=jnp.iinfo(value.dtype).max)
    return where


def _less(a: jax.Array, b: jax.Array) -> jax.Array:
    """Level by level, (..., L) -> (...)."""
    less = jnp.zeros(jnp.broadcast_shapes(a.shape, b.shape)[:-1], bool)
    for level in reversed(range(a.shape[-1])):
        x, y = a[..., level], b[..., level]
        less = (x < y) | ((x == y) & less)
    return less


def _assign(cost: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The column of each row in an assignment of least cost, -1 for rows that do not count: (M,).

    Shortest augmenting paths (Crouse 2016), row after row. Where paths are equally short the choice is that of scipy's
    `linear_sum_assignment`, so that `group` and `group_batch` settle equal costs alike: a free column before others, and in
    scipy's order of the columns that are left.

    Args:
      cost: (M, P, L) whole numbers, compared level by level.
      rows (M,), columns (P,): the first few that count, no more rows than columns.
    """
    m, n, levels = cost.shape
    place = jnp.arange(m)
    # Most often each row has its cheapest column to itself. Up to the first row that has not, nothing is to be searched.
    nearest = jnp.argmax(_least(cost, jnp.broadcast_to(columns, (m, n))), 1)
    contested = rows & ((nearest[:, None] == nearest) & (place[:, None] > place)).any(1)
    first = jnp.where(contested.any(), jnp.argmax(contested), m)
    early = rows & (place < first)
    column_of = jnp.where(early, nearest, -1)
    row_of = jnp.full(n, -1).at[jnp.where(early, nearest, n)].set(place, mode="drop")
    # Prices of rows u and columns v: cost >= u + v for the rows so far, equal where assigned.
    u = jnp.where(early[:, None], jnp.take_along_axis(cost, nearest[:, None, None], 1)[:, 0], 0)
    v = jnp.zeros((n, levels), cost.dtype)
    count, width = rows.sum(), columns.sum()
    order = jnp.where(columns, width - 1 - jnp.arange(n), -1)

    def one_more(state):
        start, column_of, row_of, u, v = state
        # Of a batch, images that have no more rows go through the motions until all are done: no search for those.
        idle = start >= count

        def searching(search):
            return search[-1] < 0

        def spread(search):
            far, seen, done, parent, order, left, row, length, _ = search
            through = length + cost[row] - u[row] - v
            better = columns & ~done & (~seen | _less(through, far))
            far, parent, seen = jnp.where(better[:, None], through, far), jnp.where(better, row, parent), seen | better
            least = _least(far, seen & ~done)
            free = least & (row_of < 0)
            ends = free.any()
            column = jnp.where(ends, jnp.argmax(jnp.where(free, order, -1)), jnp.argmin(jnp.where(least, order, n)))
            # The last of those left takes the place of the one that goes.
            left -= 1
            order = jnp.where(order == left, order[column], order).at[column].set(-1)
            sink = jnp.where(ends, column, -1)
            return far, seen, done.at[column].set(True), parent, order, left, row_of[column], far[column], sink

        nothing = jnp.zeros(n, bool)
        nowhere, zero = jnp.full(n, -1), jnp.zeros(levels, cost.dtype)
        search = (jnp.zeros_like(v), nothing, nothing, nowhere, order, width, start, zero, jnp.where(idle, 0, -1))
        far, _, done, parent, *_, length, sink = jax.lax.while_loop(searching, spread, search)

        slack = jnp.where(done[:, None], length - far, 0)
        u = u.at[start].add(length)
        u = u.at[jnp.where(done & (row_of >= 0), row_of, m)].add(slack, mode="drop")
        v = v - slack

        def flip(path):
            column, column_of, row_of, _ = path
            row = parent[column]
            return column_of[row], column_of.at[row].set(column), row_of.at[column].set(row), row == start

        path = (sink, column_of, row_of, idle)
        _, column_of, row_of, _ = jax.lax.while_loop(lambda path: ~path[-1], flip, path)
        return start + 1, column_of, row_of, u, v

    state = (first, column_of, row_of, u, v)
    return jax.lax.while_loop(lambda state: state[0] < count, one_more, state)[1]


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
