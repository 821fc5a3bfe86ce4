"""Skeletons: the names of the joints, which are mirror images of each other, and how well people agree on each.

`COCO17`, `CROWDPOSE14`, `MPII16`, `H36M17` and `RHD21` are those of the public data sets, in the order of their files;
`Skeleton.from_coco_category` makes one for anybody's data. NumPy only: nothing here imports JAX.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["COCO17", "CROWDPOSE14", "DEFAULT_SIGMA", "H36M17", "MPII16", "RHD21", "Skeleton"]

DEFAULT_SIGMA = 0.05
"""OKS sigma of a joint for which nobody has measured one: between COCO's eyes (0.025) and shoulders (0.079)."""


@dataclass(frozen=True)
class Skeleton:
    """K named joints.

    Attributes:
        name: of the skeleton.
        joints: K names, all different, in the order in which the joints are stored.
        flip_pairs: index pairs that a mirror exchanges (left and right); a joint in no pair stays itself.
        limbs: index pairs to draw lines between.
        sigmas: K OKS sigmas: the standard deviation of annotators about a joint, as a fraction of the square root of
            the person's area (`jaxpose.metrics.oks`).
        upper: indices of the upper body, for half-body augmentation; empty switches that off.

    Raises:
        ValueError: repeated names, a number of sigmas that is not K, an index out of range, a joint in two flip pairs.

    >>> COCO17.num_joints, COCO17.joints[5], COCO17.joints[COCO17.flip_index[5]]
    (17, 'left_shoulder', 'right_shoulder')
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    upper: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # Lists (from JSON) become tuples, so that a skeleton can be hashed and compared.
        object.__setattr__(self, "joints", _names(self.joints, f"skeleton {self.name!r}"))
        object.__setattr__(self, "flip_pairs", _pairs(self.flip_pairs, "flip_pairs"))
        object.__setattr__(self, "limbs", _pairs(self.limbs, "limbs"))
        object.__setattr__(self, "sigmas", _numbers(self.sigmas, f"skeleton {self.name!r}"))
        object.__setattr__(self, "upper", tuple(int(i) for i in self.upper))
        self._check()

    @property
    def num_joints(self) -> int:
        """K."""
        return len(self.joints)

    @cached_property
    def flip_index(self) -> np.ndarray:
        """``(K,)`` int32: joint k of a mirrored person is joint ``flip_index[k]`` of the person. Its own inverse."""
        index = np.arange(self.num_joints, dtype=np.int32)
        for a, b in self.flip_pairs:
            index[a], index[b] = b, a
        index.setflags(write=False)
        return index

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values that JSON can hold; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Skeleton:
        """The skeleton that `to_dict` (or its JSON) describes.

        >>> Skeleton.from_dict(COCO17.to_dict()) == COCO17
        True
        """
        fields = {"name", "joints", "flip_pairs", "limbs", "sigmas", "upper"}
        missing, unknown = fields - {"upper"} - set(values), set(values) - fields
        if missing or unknown:
            raise ValueError(
                f"a skeleton is described by {sorted(fields)}; missing {sorted(missing)}, unknown {sorted(unknown)}"
            )
        return cls(**values)

    @classmethod
    def from_coco_category(
        cls, category: Mapping[str, Any], *, sigmas: Sequence[float] | float | None = None
    ) -> Skeleton:
        """The skeleton of a category entry of a COCO keypoint file.

        Joint names that are those of a skeleton of this module give that skeleton with everything it knows (published
        CrowdPose files name COCO's 1-based edges for their 14 joints, so their own list cannot be used). For other
        names, left and right are found in the names: ``left_ear``/``right_ear``, ``leftear``/``rightear``,
        ``l_ear``/``r_ear``, ``ear.L``/``ear.R``, ``LEar``/``REar``; ``lshoulder``/``rshoulder`` where two pairs or more
        are named so (``lump`` and ``rump`` alone are chance). A joint without a partner stays itself under a flip.

        Args:
            category: with ``keypoints`` (K names), and perhaps ``name`` and ``skeleton`` (pairs counted from 1).
            sigmas: K OKS sigmas, or one for all joints. None: the published ones where the names are those of a
                skeleton of this module, else `DEFAULT_SIGMA` for all, which makes average precisions comparable with
                each other but not with published ones.

        Raises:
            ValueError: no category, no joint names, an edge out of range, a wrong number of sigmas.

        >>> mouse = {"name": "mouse", "keypoints": ["snout", "leftear", "rightear"], "skeleton": [[1, 2], [1, 3]]}
        >>> skeleton = Skeleton.from_coco_category(mouse)
        >>> skeleton.flip_pairs, skeleton.limbs, skeleton.sigmas
        (((1, 2),), ((0, 1), (0, 2)), (0.05, 0.05, 0.05))
        """
        if not isinstance(category, Mapping):
            raise ValueError(f"a category is an entry of 'categories' in a COCO file, a dictionary; got {category!r}")
        names = category.get("keypoints")
        if not isinstance(names, Sequence) or isinstance(names, str) or not names:
            raise ValueError(
                "a COCO keypoint category names its joints in a list 'keypoints'; this category has "
                + (f"keypoints={names!r}" if "keypoints" in category else f"only the keys {sorted(category)}")
            )
        names = _names(names, "the category's 'keypoints'")
        known = _known(names)
        if isinstance(sigmas, numbers.Real):
            sigmas = (float(sigmas),) * len(names)
        if known is not None:
            return known if sigmas is None else replace(known, sigmas=sigmas)
        edges = _pairs(category.get("skeleton") or (), "skeleton of the category")
        outside = [edge for edge in edges if not all(1 <= joint <= len(names) for joint in edge)]
        if outside:
            raise ValueError(
                f"the category's 'skeleton' counts joints from 1 to {len(names)}, but holds the edge {list(outside[0])}"
            )
        return cls(
            name=str(category.get("name", "skeleton")),
            joints=names,
            flip_pairs=_left_right_pairs(names),
            limbs=tuple((a - 1, b - 1) for a, b in edges),
            sigmas=(DEFAULT_SIGMA,) * len(names) if sigmas is None else sigmas,
        )

    def to_coco_category(self, *, category_id: int = 1, name: str | None = None) -> dict[str, Any]:
        """Returns the category entry of a COCO keypoint file, in which limbs count joints from 1.

        Args:
            category_id: the category's id.
            name: the category's name; None takes the skeleton's name.

        Returns:
            A dictionary with ``id``, ``name``, ``keypoints`` and ``skeleton``. `from_coco_category` finds the joints and
            limbs in it again; a COCO file has no place for sigmas, the upper body and flip pairs, which it takes from the
            names of the joints.

        >>> MPII16.to_coco_category(name="person")["skeleton"][:2]
        [[1, 2], [2, 3]]
        """
        limbs = [[a + 1, b + 1] for a, b in self.limbs]
        return {"id": category_id, "name": name or self.name, "keypoints": list(self.joints), "skeleton": limbs}

    def _check(self) -> None:
        repeated = sorted({joint for joint in self.joints if self.joints.count(joint) > 1})
        if repeated:
            raise ValueError(f"skeleton {self.name!r}: joint names must be different, repeated: {repeated}")
        if len(self.sigmas) != self.num_joints:
            raise ValueError(
                f"skeleton {self.name!r}: one sigma per joint: {self.num_joints} joints, {len(self.sigmas)} sigmas"
            )
        if not all(math.isfinite(s) and s > 0 for s in self.sigmas):
            raise ValueError(f"skeleton {self.name!r}: sigmas must be positive and finite, got {self.sigmas}")
        for field in ("flip_pairs", "limbs"):
            for a, b in getattr(self, field):
                if not (0 <= a < self.num_joints and 0 <= b < self.num_joints) or a == b:
                    raise ValueError(
                        f"skeleton {self.name!r}: {field} must join two different joints of 0..{self.num_joints - 1}, "
                        f"got {(a, b)}"
                    )
        paired = [joint for pair in self.flip_pairs for joint in pair]
        if len(set(paired)) != len(paired):
            raise ValueError(f"skeleton {self.name!r}: a joint may be in one flip pair only, got {self.flip_pairs}")
        if not all(0 <= joint < self.num_joints for joint in self.upper):
            raise ValueError(f"skeleton {self.name!r}: upper must hold 0..{self.num_joints - 1}, got {self.upper}")


def _pairs(pairs: Sequence[Sequence[int]], what: str) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(a), int(b)) for a, b in pairs)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be a list of index pairs, got {pairs!r}") from None


def _names(names: Sequence[str], what: str) -> tuple[str, ...]:
    """As a tuple, if they are names: a string, too, is a sequence of strings."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"{what}: joints must be a list of names, got {names!r}")
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{what}: joints must be non-empty names, got {names}")
    return tuple(names)


def _numbers(values: Sequence[float], what: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: sigmas must be a list of numbers, one per joint, got {values!r}") from None


# How a left joint is marked, the likeliest first.
MARKED = (
    r"left|Left|LEFT",  # left_ear, leftear, earLeft
    r"(?<![A-Za-z])[lL](?![A-Za-z])",  # l_ear, ear.L, L1
    r"^[lL](?=[A-Z][a-z])",  # LShoulder, lShoulder
    r"(?<=[a-z0-9])L$",  # earL
)
BARE = (r"^[lL](?=[A-Za-z])",)  # lshoulder, but also lump


def _left_right_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Index pairs (left, right) whose names differ in left and right only."""
    pairs = _pairs_marked(names, MARKED, set())
    bare = _pairs_marked(names, BARE, {joint for pair in pairs for joint in pair})
    return tuple(sorted(pairs + (bare if len(bare) > 1 else [])))


def _pairs_marked(names: Sequence[str], patterns: Sequence[str], taken: set[int]) -> list[tuple[int, int]]:
    index = {name: i for i, name in reversed(list(enumerate(names)))}
    pairs = []
    for left, name in enumerate(names):
        mirrored = (_mirrored(name, pattern) for pattern in patterns)
        right = next((index[other] for other in mirrored if other != name and other in index), None)
        if right is not None and not {left, right} & taken:
            pairs.append((left, right))
            taken = taken | {left, right}
    return pairs


def _mirrored(name: str, pattern: str) -> str:
    """What the right-hand partner of a left joint is called."""
    words = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "l": "r", "L": "R"}
    return re.sub(pattern, lambda match: words[match.group()], name, count=1)


COCO17 = Skeleton(
    name="coco17",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
        0.089,
    ),
    upper=tuple(range(11)),
)  # fmt: skip
"""COCO persons. Sigmas as COCO publishes them; limbs in the order of its category entry."""

CROWDPOSE14 = Skeleton(
    name="crowdpose14",
    joints=(
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
        "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "top_head", "neck",
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    limbs=(
        (12, 13), (13, 0), (13, 1), (0, 2), (2, 4), (1, 3), (3, 5), (0, 6), (1, 7), (6, 7), (6, 8), (8, 10), (7, 9),
        (9, 11),
    ),
    sigmas=(
        0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079,
    ),
    upper=(0, 1, 2, 3, 4, 5, 12, 13),
)  # fmt: skip
"""CrowdPose, with the sigmas of its evaluation code."""

MPII16 = Skeleton(
    name="mpii16",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
        "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
        "left_wrist",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    limbs=(
        (0, 1), (1, 2), (2, 6), (3, 6), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (7, 12), (12, 11), (11, 10), (7, 13),
        (13, 14), (14, 15),
    ),
    sigmas=(
        0.089, 0.083, 0.107, 0.107, 0.083, 0.089, 0.026, 0.026, 0.026, 0.026, 0.062, 0.072, 0.179, 0.179, 0.072, 0.062,
    ),
    upper=tuple(range(7, 16)),
)  # fmt: skip
"""MPII. Its own metric is PCKh; the sigmas are the ones that mmpose uses for OKS-NMS."""

H36M17 = Skeleton(
    name="h36m17",
    joints=(
        "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "torso", "neck",
        "nose", "head", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
    ),
    flip_pairs=((1, 4), (2, 5), (3, 6), (14, 11), (15, 12), (16, 13)),
    limbs=(
        (0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6), (0, 7), (7, 8), (8, 9), (9, 10), (8, 11), (11, 12), (12, 13),
        (8, 14), (14, 15), (15, 16),
    ),
    sigmas=(DEFAULT_SIGMA,) * 17,
    upper=tuple(range(7, 17)),
)  # fmt: skip
"""Human3.6M, 17 joints. Its metric is MPJPE; nobody published OKS sigmas, so they are uniform."""

RHD21 = Skeleton(
    name="rhd21",
    joints=("wrist",)
    + tuple(f"{finger}{i}" for finger in ("thumb", "forefinger", "middle", "ring", "pinky") for i in (4, 3, 2, 1)),
    flip_pairs=(),
    limbs=tuple(
        limb
        for tip in (1, 5, 9, 13, 17)
        for limb in ((0, tip + 3), (tip + 3, tip + 2), (tip + 2, tip + 1), (tip + 1, tip))
    ),
    sigmas=(DEFAULT_SIGMA,) * 21,
)
"""One hand of the Rendered Hand Pose data: the wrist, then each finger from its tip (4) to its base (1). One hand has
no left and right, so nothing is exchanged. Its metrics are EPE and AUC; the sigmas are uniform, none are published."""

_SHIPPED = (COCO17, CROWDPOSE14, MPII16, H36M17, RHD21)


def _known(names: Sequence[str]) -> Skeleton | None:
    """The skeleton of this module with these joint names; CrowdPose's files say 'head' for the top of the head."""
    for skeleton in _SHIPPED:
        if tuple(names) == skeleton.joints:
            return skeleton
    if tuple("top_head" if name == "head" else name for name in names) == CROWDPOSE14.joints:
        return CROWDPOSE14
    return None
