"""Groups the maps of one image into people on the host, in NumPy: the published parser, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

JOINT_ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
"""The published order, head and trunk first in COCO's numbering; with fewer joints, its entries below K.

For CrowdPose's 14 joints that order does not follow the body parts (QUIRK S12)."""
WINDOW = 2  # a peak is the maximum of a square of 2 * 2 + 1 pixels
SPARE = 1e10  # the cost of matching nobody, used if there are more peaks than people


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
    """Returns the people of one image, as the published parser groups them.

    A peak matches a person at the cost round(d) * 100 - score (round half to even), where d is the distance between its
    tag and the mean tag of the person's joints. The assignment of least total cost is taken, and those of its pairs
    with d < tag_threshold. The rounding makes assignments of equal cost common (QUIRK S10), wherever tags are close and
    wherever a peak's tag is far from everybody's. The published code takes the first that its solver meets, which
    differs between versions of that solver; here it is the first that scipy's `linear_sum_assignment` meets.

    Args:
        heatmaps: (h, w, K) heatmaps.
        tags: (h, w, K, T), T tags per joint (2 with a flipped image).
        max_people: The largest number of peaks per joint that are examined, and of people that can be matched.
        detection_threshold: The height that a peak has to exceed; 0 or more. SWAHR tests with 0.12 (W32) and 0.1 (W48).
        tag_threshold: The largest distance between tags.
        use_detection_value: Include the score in the cost. If False, the cost is d alone.
        ignore_too_much: Leave joints out once there are max_people people.
        joint_order: A permutation of the joints; None takes `JOINT_ORDER`.
        adjust: Move every peak by 1/4 towards its larger neighbour along each axis (to the lower side if they are
            equal), and by 1/2.
        refine: Give a person the joints that it lacks: at the maximum of heatmap - round(d) in the whole map, if the
            heatmap is positive there, with the same 1/4 and 1/2. Their tag stays 0.

    Returns:
        poses (P, K, 3 + T): x, y, score, tags; all 0 for a missing joint. P may exceed max_people, because a peak that
        matches nobody always starts a person.
        scores (P,): The mean over all K joints of the scores before `refine`.

    Raises:
        ValueError: The shapes do not fit, the maps are not finite, or an option is out of its range.

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
        raise ValueError(f"tags {tags.shape}: expected at least one tag per joint")
    order = check_options(heatmaps.shape[-1], max_people, detection_threshold, tag_threshold, joint_order)
    _check_finite(heatmaps=heatmaps, tags=tags)

    peaks_xy = _peaks(heatmaps, max_people, detection_threshold)
    poses = _match(heatmaps, tags, peaks_xy, order, max_people, tag_threshold, use_detection_value, ignore_too_much)
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
    """Returns the highest pixels of each map that are the maximum of the 5 x 5 pixels around them.

    Args:
        heatmaps: (h, w, K) heatmaps.
        max_people, detection_threshold: The same as for `group`.

    Returns:
        xy (K, max_people, 2) int, highest first, -1 beyond the last peak; scores (K, max_people), 0 there. Every pixel
        of a plateau is a peak; equal ones come in row order.

    Raises:
        ValueError: The shape is wrong, the maps are not finite, or an option is out of its range.

    >>> heatmaps = np.zeros((6, 6, 1))
    >>> heatmaps[1, 4], heatmaps[5, 1], heatmaps[2, 3] = 0.5, 0.7, 0.4
    >>> xy, scores = peaks(heatmaps, max_people=3)
    >>> xy[0].tolist(), scores[0].tolist()
    ([[1, 5], [4, 1], [-1, -1]], [0.7, 0.5, 0.0])
    """
    heatmaps = _float(heatmaps)
    if heatmaps.ndim != 3 or 0 in heatmaps.shape:
        raise ValueError(f"heatmaps {heatmaps.shape}: expected (h, w, K)")
    check_options(heatmaps.shape[-1], max_people, detection_threshold, 1.0, None)
    _check_finite(heatmaps=heatmaps)
    xy = np.full((heatmaps.shape[-1], max_people, 2), -1)
    scores = np.zeros(xy.shape[:2], heatmaps.dtype)
    for joint, (x, y) in enumerate(_peaks(heatmaps, max_people, detection_threshold)):
        xy[joint, : len(x)] = np.stack([x, y], -1)
        scores[joint, : len(x)] = heatmaps[y, x, joint]
    return xy, scores


def _peaks(heatmaps: np.ndarray, most: int, threshold: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns x, y of the peaks of every joint, highest first, then in row order."""
    h, w, k = heatmaps.shape
    flat = heatmaps.reshape(-1)
    index = np.flatnonzero(flat > threshold)
    # The four nearest neighbours come first, because they leave few pixels for the others. An offset that would leave
    # the map is cut at its border, where it meets another pixel of the window.
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


def _match(heatmaps, tags, peaks_xy, order, most, tag_threshold, use_detection_value, ignore_too_much) -> np.ndarray:
    """Returns x, y, score and tags of the peaks, person by person, (P, K, 3 + T)."""
    k, t = tags.shape[2:]
    poses: list[np.ndarray] = []
    # A person is identified by the first value of its first tag: a new peak with exactly this value replaces its joint
    # and its tags, as published.
    slots: dict[float, int] = {}
    totals, counts = np.zeros((most, t), tags.dtype), np.zeros((most, 1), tags.dtype)
    for joint in order:
        x, y = peaks_xy[joint]
        if not len(x):
            continue
        score, tag = heatmaps[y, x, joint], tags[y, x, joint]
        people = min(len(poses), most)
        if ignore_too_much and people == most:
            continue
        persons = np.full(len(x), -1)
        if people:
            means = totals[:people] / counts[:people]
            # In float64, as published: distances that float32 has rounded can round to other integers.
            apart = np.sqrt(np.square(tag[:, None].astype(np.float64) - means).sum(-1))
            cost = np.round(apart) * 100 - score[:, None].astype(np.float64) if use_detection_value else apart
            # The cost is padded to a square, as published, so that ties are broken alike.
            spare = np.full((len(x), max(len(x) - people, 0)), SPARE)
            rows, columns = linear_sum_assignment(np.concatenate([cost, spare], 1))
            rows, columns = rows[columns < people], columns[columns < people]
            close = apart[rows, columns] < tag_threshold
            persons[rows[close]] = columns[close]
        keys = tag[:, 0].tolist()
        for i, slot in enumerate(persons.tolist()):
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
    """Returns the pixels (N, 2) moved by 1/2, and by 1/4 towards the larger neighbour (the border continues the map)."""
    h, w = heatmaps.shape[:2]
    right = heatmaps[y, np.minimum(x + 1, w - 1), joint] > heatmaps[y, np.maximum(x - 1, 0), joint]
    below = heatmaps[np.minimum(y + 1, h - 1), x, joint] > heatmaps[np.maximum(y - 1, 0), x, joint]
    return np.stack([x + np.where(right, 0.75, 0.25), y + np.where(below, 0.75, 0.25)], -1)


def _refine(heatmaps: np.ndarray, tags: np.ndarray, poses: np.ndarray, threshold: float) -> None:
    """Fills in the missing joints, in place."""
    w = heatmaps.shape[1]
    is_present = poses[:, :, 2] > 0
    person, joint = np.nonzero(is_present)
    x, y = (poses[person, joint, i].astype(int) for i in (0, 1))
    means = np.zeros((len(poses), tags.shape[-1]), tags.dtype)
    np.add.at(means, person, tags[y, x, joint])
    means /= np.maximum(is_present.sum(1, keepdims=True), 1).astype(tags.dtype)
    for joint in np.flatnonzero(~is_present.all(0)):
        values = heatmaps[:, :, joint].ravel()
        embedded = np.moveaxis(tags[:, :, joint].reshape(-1, tags.shape[-1]), -1, 0)
        open_people = np.flatnonzero(~is_present[:, joint])
        # heatmap - round(d) is at most the heatmap, so a result above a level lies among the pixels above that level.
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
    """Returns the distances of tags (T, N) from a mean tag (T,), as (N,)."""
    if len(tags) == 1:
        return np.abs(tags[0] - mean[0])
    return np.sqrt(np.square(tags - mean[:, None]).sum(0))


def _float(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.promote_types(x.dtype, np.float32) if x.dtype.kind in "fiub" else np.float32, copy=False)


def _check_finite(**maps: np.ndarray) -> None:
    for name, values in maps.items():
        # A finite sum proves most maps finite at a third of the cost.
        if not np.isfinite(values.sum()) and not np.isfinite(values).all():
            bad = np.argwhere(~np.isfinite(values))
            raise ValueError(
                f"{name} has {len(bad)} values that are not finite, the first at {bad[0].tolist()}: is the net's training sound?"
            )


def check_options(
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
