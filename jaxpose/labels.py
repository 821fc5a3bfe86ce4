"""The interpretation of annotations in COCO-format files: the same rules for training and evaluation.

Files in the wild write ids as text, nest their keypoints, name no joints or annotate no boxes. The rules for reading
these are defined here, once. Standard library and `jaxpose.files` only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxpose.files import is_number

__all__ = ["box_around", "flat", "joint_count", "whole"]

MARGIN = 0.1
"""The enlargement of a box around the joints on each side, as a fraction of its longer side."""
LEAST_SIDE = 8.0
"""The shortest side, in pixels, of a box around the joints: a single joint has no extent."""


def whole(value: Any) -> int | None:
    """Returns the integer that a value is or spells: 3, 3.0, "3"; None for any other value.

    >>> whole(3), whole(3.0), whole(" 3"), whole("a"), whole(3.5), whole(True), whole(None)
    (3, 3, 3, None, None, None, None)
    """
    if type(value) is int:  # the common case comes first, because this is called for every number of a file
        return value
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def flat(keypoints: Any) -> Any:
    """Returns nested keypoints, ``[[x, y, v], ...]`` or ``[[x, y], ...]``, as ``[x, y, v, ...]``; others unchanged.

    A pair has no visibility: it is visible (2) if it holds two numbers, else unlabelled (0).

    >>> flat([[1, 2, 1], [3, 4, 0]]), flat([[1, 2], [None, None]]), flat([1, 2, 2])
    ([1, 2, 1, 3, 4, 0], [1, 2, 2, 0, 0, 0], [1, 2, 2])
    """
    if not isinstance(keypoints, list) or not keypoints or not isinstance(keypoints[0], (list, tuple)):
        return keypoints
    lengths = {len(joint) if isinstance(joint, (list, tuple)) else 0 for joint in keypoints}
    if lengths == {3}:
        return [value for joint in keypoints for value in joint]
    if lengths == {2}:
        triples = ((x, y, 2) if is_number(x) and is_number(y) else (0, 0, 0) for x, y in keypoints)
        return [value for triple in triples for value in triple]
    return keypoints


def joint_count(annotations: Iterable[Mapping[str, Any]]) -> int:
    """Returns the number of joints that most annotations have; 0 if none has any.

    >>> joint_count([{"keypoints": [1, 2, 2, 3, 4, 2]}, {"keypoints": [[1, 2, 2], [0, 0, 0]]}, {}])
    2
    """
    counts: Counter = Counter()
    for annotation in annotations:
        keypoints = flat(annotation.get("keypoints")) if isinstance(annotation, Mapping) else None
        if isinstance(keypoints, list) and keypoints and len(keypoints) % 3 == 0:
            counts[len(keypoints) // 3] += 1
    return counts.most_common(1)[0][0] if counts else 0


def box_around(keypoints: Sequence[float], size_wh: Sequence[float] | None = None) -> list[float] | None:
    """Returns a box around the labelled joints, enlarged by `MARGIN` on each side and cut at the borders of the image.

    Args:
        keypoints: x, y, visibility, ...
        size_wh: The width and height of the image; None does not cut the box.

    Returns:
        x, y, width, height in pixels; None without a labelled joint.

    >>> box_around([10, 20, 2, 30, 60, 1, 0, 0, 0]), box_around([0, 0, 0])
    ([6.0, 16.0, 28.0, 48.0], None)
    """
    x, y = ([c for c, v in zip(keypoints[at::3], keypoints[2::3], strict=True) if v > 0] for at in (0, 1))
    if not x:
        return None
    margin = MARGIN * max(max(x) - min(x), max(y) - min(y))
    box = []
    for values, size in zip((x, y), size_wh or (None, None), strict=True):
        middle, half = (max(values) + min(values)) / 2, (max(values) - min(values)) / 2 + margin
        low, high = middle - max(half, LEAST_SIDE / 2), middle + max(half, LEAST_SIDE / 2)
        if size is not None:
            low, high = max(low, 0.0), min(high, float(size))
        box.append((low, high - low))
    return [float(box[0][0]), float(box[1][0]), float(box[0][1]), float(box[1][1])]
