"""Skeletons: the names of the joints, their mirror partners, and the spread of annotators about each.

`COCO17`, `COCO_WHOLEBODY133`, `CROWDPOSE14`, `MPII16`, `H36M17`, `H36M18` and `RHD21` are those of the public data sets, in the
order of their files; `Skeleton.from_coco_category` makes one for your own data. NumPy only: nothing here imports JAX.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxpose import sides

__all__ = [
    "COCO17",
    "COCO_WHOLEBODY133",
    "CROWDPOSE14",
    "DEFAULT_SIGMA",
    "H36M17",
    "H36M18",
    "MPII16",
    "RETINA8",
    "RHD21",
    "Skeleton",
    "root_joints",
]

DEFAULT_SIGMA = 0.05
"""OKS sigma of a joint without a measured one: between COCO's eyes (0.025) and shoulders (0.079)."""


@dataclass(frozen=True)
class Skeleton:
    """K named joints.

    Attributes:
        name: The name of the skeleton.
        joints: The K names, all different, in the order in which the joints are stored.
        flip_pairs: Index pairs that a mirror exchanges (left and right); a joint in no pair stays itself.
        limbs: Index pairs to draw lines between.
        sigmas: The K OKS sigmas: the standard deviation of annotators about a joint, as a fraction of the square root of
            the person's area (`jaxpose.metrics.oks`).
        upper: The indices of the upper body, for half-body augmentation; empty disables it.

    Raises:
        ValueError: Names are repeated, there are not K sigmas, an index is out of range, or a joint is in two flip pairs.

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
        no_joints = self.name == "box" and isinstance(self.joints, Sequence) and not len(self.joints)
        object.__setattr__(self, "joints", () if no_joints else _names(self.joints, f"skeleton {self.name!r}"))
        object.__setattr__(self, "flip_pairs", _pairs(self.flip_pairs, "flip_pairs"))
        object.__setattr__(self, "limbs", _pairs(self.limbs, "limbs"))
        object.__setattr__(self, "sigmas", _numbers(self.sigmas, f"skeleton {self.name!r}"))
        object.__setattr__(self, "upper", tuple(int(i) for i in self.upper))
        self._check()

    @property
    def num_joints(self) -> int:
        """The number of joints K."""
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
        """Returns a dictionary of plain values that JSON can hold; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Skeleton:
        """Returns the skeleton that `to_dict` (or its JSON) describes.

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
        cls,
        category: Mapping[str, Any],
        *,
        sigmas: Sequence[float] | float | None = None,
        flip_pairs: Sequence[Any] | None = None,
        num_joints: int | None = None,
        notes: list[str] | None = None,
    ) -> Skeleton:
        """Returns the skeleton of a category entry of a COCO keypoint file.

        Joint names that are those of a skeleton of this module give that skeleton with all its attributes (published
        CrowdPose files name COCO's 1-based edges for their 14 joints, so their own list cannot be used). For other
        names, left and right are found in the names (`jaxpose.sides.pairs_from_names`): ``left_ear``/``right_ear``,
        ``l_ear``/``r_ear``, ``LEar``/``REar``, ``forelegL1``/``forelegR1``, ``FL_paw``/``FR_paw``, in upper or lower
        case. A joint without a partner stays itself under a flip.

        Values of the category itself take precedence: ``flip_pairs`` (pairs of names or of indices), ``swap`` (the name
        of every joint's partner, as in mmpose) or ``flip_idx`` (the index of every joint's partner, as in YOLO), and
        ``sigmas``.

        Args:
            category: An entry with ``keypoints`` (K names), and perhaps ``name``, ``skeleton`` (pairs of names, or of
                numbers that count from 1), ``sigmas``, ``flip_pairs``, ``swap``, ``flip_idx``.
            sigmas: K OKS sigmas, or one for all joints. None takes the category's; without any, the published ones if the
                names are those of a skeleton of this module, else `DEFAULT_SIGMA` for all, which makes average
                precisions comparable with each other but not with published ones.
            flip_pairs: Pairs of names or of indices that count from 0, or texts such as "left_ear:right_ear", or
                ("none",). None takes the category's, or those of the names.
            num_joints: The number of joints K, if the category names no joints: they are then numbered from "joint_0".
            notes: A list that gets a line about every guess and repair. With None, a fault that needs a repair (an edge
                out of range, joints without names) is an error, and guesses are not reported.

        Raises:
            ValueError: This is not a category, it has no joint names, an edge is out of range, the number of sigmas is
                wrong, or pairs do not fit the joints.

        >>> mouse = {"name": "mouse", "keypoints": ["snout", "leftear", "rightear"], "skeleton": [[1, 2], [1, 3]]}
        >>> skeleton = Skeleton.from_coco_category(mouse)
        >>> skeleton.flip_pairs, skeleton.limbs, skeleton.sigmas
        (((1, 2),), ((0, 1), (0, 2)), (0.05, 0.05, 0.05))
        """
        if not isinstance(category, Mapping):
            raise ValueError(f"a category is an entry of 'categories' in a COCO file, a dictionary; got {category!r}")
        names = _names_of(category, num_joints, notes)
        given = category.get("sigmas") or None if sigmas is None else sigmas
        if isinstance(given, numbers.Real):
            given = (float(given),) * len(names)
        pairs = sides.pairs_from_entry(category, names) if flip_pairs is None else sides.parse_pairs(flip_pairs, names)
        shipped = _shipped(names)
        if shipped is not None:
            changes = {} if given is None else {"sigmas": given}
            return replace(shipped, **changes, **({} if pairs is None else {"flip_pairs": pairs}))
        limbs = _limbs(category.get("skeleton"), names, notes)
        if pairs is None:
            pairs, unpaired = sides.pairs_from_names(names)
            if notes is not None:
                notes += _about_sides(pairs, unpaired, names)
        return cls(
            name=str(category.get("name", "skeleton")),
            joints=names,
            flip_pairs=pairs,
            limbs=limbs,
            sigmas=(DEFAULT_SIGMA,) * len(names) if given is None else given,
        )

    def to_coco_category(self, *, category_id: int = 1, name: str | None = None) -> dict[str, Any]:
        """Returns the category entry of a COCO keypoint file, in which limbs count joints from 1.

        Args:
            category_id: The category's id.
            name: The category's name; None takes the skeleton's name.

        Returns:
            A dictionary with ``id``, ``name``, ``keypoints`` and ``skeleton``. `from_coco_category` reads the joints
            and limbs from it again; a COCO file has no place for sigmas, the upper body and flip pairs, which it takes
            from the names of the joints.

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
    """Returns a tuple if these are names; a single string is also a sequence of strings."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"{what}: joints must be a list of names, got {names!r}")
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{what}: joints must be non-empty names, got {names}")
    return tuple(names)


def _names_of(category: Mapping[str, Any], num_joints: int | None, notes: list[str] | None) -> tuple[str, ...]:
    """Returns the names of a category's joints, numbered if it has none and `num_joints` and `notes` are given."""
    names = category.get("keypoints")
    if names in (None, [], ()) and num_joints and notes is not None:
        notes.append(
            f"the annotations have {num_joints} joints each and the category does not name them: they are called joint_0 to "
            f'joint_{num_joints - 1}; add "keypoints": ["name", ...] with {num_joints} names to the category'
        )
        return tuple(f"joint_{i}" for i in range(num_joints))
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        raise ValueError(
            "a COCO keypoint category names its joints in a list 'keypoints'; this category has "
            + (f"keypoints={names!r}" if "keypoints" in category else f"only the keys {sorted(category)}")
        )
    return _names(names, "the category's 'keypoints'")


def _numbers(values: Sequence[float], what: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: sigmas must be a list of numbers, one per joint, got {values!r}") from None


def _limbs(edges: Any, names: Sequence[str], notes: list[str] | None) -> tuple[tuple[int, int], ...]:
    """Returns the lines to draw: pairs of numbers that count from 1, or of names.

    Args:
        edges: The category's ``skeleton``.
        names: The K names.
        notes: A list that gets a line about every repair; with None, a fault that needs one is an error.
    """
    if edges is None:
        return ()
    strict = notes is None
    if not isinstance(edges, Sequence) or isinstance(edges, str) or not all(map(_is_edge, edges)):
        if strict:
            _pairs(edges, "skeleton of the category")
        else:
            notes.append(f"'skeleton' is not a list of pairs of joints ({edges!r:.100}): no limbs are drawn")
        return ()
    index = {name: i + 1 for i, name in enumerate(names)}
    counted = [tuple(index.get(joint, _whole(joint)) for joint in edge) for edge in edges]
    from_zero = any(0 in edge for edge in counted) and not any(len(names) in edge for edge in counted)
    if from_zero and not strict:
        notes.append("'skeleton' holds joint 0, so it counts from 0, not from 1: taken so (it is for drawing only)")
        counted = [tuple(joint + 1 for joint in edge) for edge in counted]
    right = [edge for edge in counted if edge[0] != edge[1] and all(1 <= joint <= len(names) for joint in edge)]
    wrong = [list(edge) for edge, number in zip(edges, counted, strict=True) if number not in right]
    if wrong and strict:
        raise ValueError(
            f"the category's 'skeleton' counts joints from 1 to {len(names)}, but holds the edge {wrong[0]}"
        )
    if wrong:
        notes.append(
            f"{len(wrong)} of {len(edges)} edges of 'skeleton' join no two of the {len(names)} joints, such as {wrong[0]}: "
            "they are not drawn"
        )
    return tuple((a - 1, b - 1) for a, b in right)


def _is_edge(edge: Any) -> bool:
    return isinstance(edge, Sequence) and not isinstance(edge, str) and len(edge) == 2


def _whole(value: Any) -> int:
    """Returns the integer that a value is, or spells; for another value, a number far below every joint."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return -1000
    return int(number) if number.is_integer() else -1000


def _about_sides(flip_pairs: Sequence[tuple[int, int]], unpaired: Sequence[str], names: Sequence[str]) -> list[str]:
    """Returns lines about pairs that were read from names."""
    give = "give the pairs in the category ('flip_pairs', 'swap' or 'flip_idx'), or by --flip-pairs"
    if sides.is_numbered(names):
        if flip_pairs:
            return [
                f"{len(names)} numbered joints are taken for a face's, and so are their left and right; otherwise {give}"
            ]
        return [f"the joints {names[0]!r} to {names[-1]!r} are numbered: mirroring exchanges nothing; {give}"]
    if unpaired:
        listed = ", ".join(repr(name) for name in unpaired[:8]) + (", ..." if len(unpaired) > 8 else "")
        return [
            f"{len(unpaired)} of {len(names)} joints look like left or right and have no partner, so that a mirror exchanges "
            f"them with none: {listed}; {give}"
        ]
    if not flip_pairs:
        return [f"the joints {list(names)} have no left and right in their names: mirroring exchanges nothing"]
    return []


BOX = Skeleton(name="box", joints=(), flip_pairs=(), limbs=(), sigmas=(), upper=())
"""No joints: that of a detector of boxes alone, the only skeleton that may be empty."""

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
"""COCO persons. The sigmas are those that COCO publishes; limbs are in the order of its category entry."""

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
"""MPII. Its own metric is PCKh; the sigmas are those that mmpose uses for OKS-NMS."""

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
"""Human3.6M, 17 joints. Its metric is MPJPE; there are no published OKS sigmas, so they are uniform."""

H36M18 = replace(
    H36M17,
    name="h36m18",
    joints=(*H36M17.joints, "thorax"),
    limbs=(*H36M17.limbs, (8, 17)),
    sigmas=(DEFAULT_SIGMA,) * 18,
    upper=tuple(range(7, 18)),
)
"""Human3.6M with an 18th joint, the mean of the shoulders: it is trained and left out of every published error."""

RETINA8 = Skeleton(
    name="retina8",
    joints=("ILM", "NFL/GCL", "IPL/INL", "INL/OPL", "OPL/ONL", "ISM/ISE", "OS/RPE", "BM"),
    flip_pairs=(),
    limbs=(),
    sigmas=(DEFAULT_SIGMA,) * 8,
)
"""The boundaries of seven layers of the retina, from top to bottom, in the order of the Duke DME data (Chiu 2015).

Each is a row in every column of a scan, not a joint; the sigmas have no meaning. Its metric is the mean absolute error in
micrometres (`jaxpose.evaluation.boundaries`)."""

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
"""One hand of the Rendered Hand Pose data: the wrist, then each finger from its tip (4) to its base (1).

One hand has no left and right, so nothing is exchanged. Its metrics are EPE and AUC; the sigmas are uniform, because none
are published."""

FACE68 = tuple(f"face-{i}" for i in range(68))
HAND21 = ("hand_root",) + tuple(
    f"{finger}{i}"
    for finger in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
    for i in range(1, 5)
)
FACE_LINES = ((0, 17), (17, 22), (22, 27), (27, 31), (31, 36), (36, 42), (42, 48), (48, 60), (60, 68))
FACE_RINGS = ((36, 41), (42, 47), (48, 59), (60, 67))


def _wholebody_limbs() -> tuple[tuple[int, int], ...]:
    """Returns COCO's lines, from the ankles to the feet, the outlines of the face, and the fingers from the hands' roots."""
    feet = tuple((15, j) for j in (17, 18, 19)) + tuple((16, j) for j in (20, 21, 22))
    face = tuple((23 + i, 24 + i) for start, end in FACE_LINES for i in range(start, end - 1))
    face += tuple((23 + a, 23 + b) for a, b in FACE_RINGS)
    hands = tuple((wrist, root) for wrist, root in ((9, 91), (10, 112)))
    for root in (91, 112):
        for first in range(root + 1, root + 21, 4):
            hands += ((root, first), (first, first + 1), (first + 1, first + 2), (first + 2, first + 3))
    return COCO17.limbs + feet + face + hands


_WHOLEBODY_NAMES = (
    *COCO17.joints,
    *(f"{side}_{joint}" for side in ("left", "right") for joint in ("big_toe", "small_toe", "heel")),
    *FACE68,
    *(f"{side}_{joint}" for side in ("left", "right") for joint in HAND21),
)
_HAND_SIGMAS = (
    0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024, 0.022, 0.026, 0.017, 0.021, 0.021,
    0.032, 0.02, 0.019, 0.022, 0.031,
)  # fmt: skip

COCO_WHOLEBODY133 = Skeleton(
    name="coco_wholebody133",
    joints=_WHOLEBODY_NAMES,
    flip_pairs=tuple(
        sorted(sides.pairs_from_names(_WHOLEBODY_NAMES)[0] + tuple((23 + a, 23 + b) for a, b in sides.FACES[68]))
    ),
    limbs=_wholebody_limbs(),
    sigmas=(
        *COCO17.sigmas,
        0.068, 0.066, 0.066, 0.092, 0.094, 0.094,
        0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043, 0.041,
        0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007, 0.007, 0.012,
        0.009, 0.008, 0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034,
        0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007, 0.007, 0.008, 0.011, 0.008,
        0.008, 0.008, 0.01, 0.008,
        *_HAND_SIGMAS,
        *_HAND_SIGMAS,
    ),
    upper=(*range(11), *range(23, 133)),
)  # fmt: skip
"""COCO-WholeBody: COCO's body, six joints of the feet, 68 of the face and 21 of each hand, with its evaluation's sigmas.

Its files keep them in separate fields (``foot_kpts``, ``face_kpts``, ``lefthand_kpts``, ``righthand_kpts``)."""

_SHIPPED = (COCO17, COCO_WHOLEBODY133, CROWDPOSE14, MPII16, H36M17, H36M18, RHD21)
ROOTS = ("pelvis", "hip", "root", "mid_hip", "midhip", "center_hip", "hips_center")
"""Names of the joint that depth is relative to."""


def root_joints(skeleton: Skeleton, names: Sequence[str] | None = None) -> tuple[int, ...]:
    """Returns the joints whose mean is the root of a pose in space, the point that depth is relative to.

    Args:
        skeleton: The skeleton.
        names: Names of these joints; None: the pelvis, or else both hips, or else a hand's wrist.

    Raises:
        ValueError: A name is not a joint, or there is none of these joints.

    >>> root_joints(H36M17), root_joints(COCO17), root_joints(RHD21)
    ((0,), (11, 12), (0,))
    """
    joints = skeleton.joints
    if names:
        if unknown := [name for name in names if name not in joints]:
            raise ValueError(
                f"root {unknown[0]!r} is not a joint of {skeleton.name!r}: expected some of {', '.join(joints)}"
            )
        return tuple(joints.index(name) for name in names)
    for root in ROOTS:
        if root in joints:
            return (joints.index(root),)
    for pair in (("left_hip", "right_hip"), ("wrist",)):
        if all(name in joints for name in pair):
            return tuple(joints.index(name) for name in pair)
    raise ValueError(
        f"skeleton {skeleton.name!r} has no joint that depth can be relative to ({', '.join(ROOTS)}, left_hip and right_hip, or "
        f"wrist): name one of {', '.join(joints)} (root=, or --root)"
    )


def _shipped(names: Sequence[str]) -> Skeleton | None:
    """Returns the skeleton of this module with these joint names; CrowdPose's files use 'head' for the top of the head."""
    for skeleton in _SHIPPED:
        if tuple(names) == skeleton.joints:
            return skeleton
    if tuple("top_head" if name == "head" else name for name in names) == CROWDPOSE14.joints:
        return CROWDPOSE14
    return None
