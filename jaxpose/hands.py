"""Geometry of one hand: orders of joints, sides, squares for crops, and joints in space from pixels and relative depths.

The joints are those of `jaxpose.skeleton.RHD21`: the wrist, then thumb, forefinger, middle, ring and little finger, each
from its tip (4) to its base (1). The data set is Rendered Hand Pose (Zimmermann 2017). Published code disagrees about the
crop, the root and the mirror image of a hand; here each convention has the name of the code that has it:

    hand3d    lmb-freiburg/hand3d, Zimmermann 2017
    bihand    lixiny/bihand
    tllib     thuml/Transfer-Learning-Library
    mmpose    open-mmlab/mmpose

**2.5D** (Iqbal 2018). A net predicts the pixel of each joint and its depth relative to the root in units of a key bone,
Zr = (Z - Z_root) / C. Neither depends on the size of the hand or on its distance. With the camera and the condition that
the key bone has length 1, the depth of the root follows (`root_depths`), up to two candidates; `lift` chooses between
them. Multiplied by the true length of the bone, or by a mean one, the joints are metric again.

NumPy in, NumPy out, in float64. All functions take leading batch dimensions.

>>> hand = example_hand()
>>> depth = relative_depth(hand)
>>> bone = bone_length(hand)
>>> xy = hand[:, :2] / hand[:, 2:] * 300 + 160
>>> bool(np.allclose(lift(xy, depth, focal=[300.0, 300.0], center=[160.0, 160.0]) * bone, hand))
True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxpose.skeleton import RHD21

__all__ = [
    "BONES",
    "KEY_BONE",
    "NAMED_BONES",
    "PALM",
    "PROPORTIONS",
    "SIZES_FILE",
    "Sizes",
    "Square",
    "bone_length",
    "bone_lengths",
    "dominant_side",
    "example_hand",
    "lift",
    "mirror_pixels",
    "relative_depth",
    "reversed_fingers",
    "root_depths",
    "sigma_in_space",
    "square",
    "square_affine",
    "with_palm",
]

Convention = Literal["hand3d", "bihand", "tllib", "mmpose"]
Side = Literal["left", "right"]

NUM_JOINTS = RHD21.num_joints
WRIST, MIDDLE_BASE = 0, 12
KEY_BONE = (12, 11)
"""The bone of length 1: the middle finger, from its base to the next joint (hand3d)."""
PALM = (0, 12)
"""Another one, from the wrist to the base of the middle finger (BiHand, TLlib): longer, so that the same error of a pixel moves the
root less."""
NAMED_BONES = {"palm": PALM, "finger": KEY_BONE}
"""The key bones by the names that a run stores ("bone" in its settings)."""
SIZES_FILE = "hands.json"
"""The file of a run with the `Sizes` of its training hands, which put predicted hands in space."""
BONES = RHD21.limbs
"""The 20 bones, each from the joint that is nearer to the wrist."""
LEFT_CLASSES, RIGHT_CLASSES = range(2, 18), range(18, 34)  # of RHD's masks; 0 is the background, 1 the person
MIRRORED = {"exact": 1, "bihand": 0, "tllib": 2}  # u' = width - this - u

PROPORTIONS = np.array([
    [1.11, 1.17, 0.92, 0.71], [2.60, 1.00, 0.76, 0.73], [2.59, 1.00, 0.80, 0.79], [2.50, 0.85, 0.78, 0.76],
    [2.38, 0.93, 0.54, 0.55],
]).ravel()  # fmt: skip
"""Lengths of the bones of `BONES` in units of the key bone, about those of RHD's hands. A page takes those of its training hands."""


def example_hand() -> np.ndarray:
    """Returns a slightly bent right hand, (21, 3) metres in the camera's frame, for examples and tests."""
    joints = np.zeros((NUM_JOINTS, 3))
    lengths = PROPORTIONS.reshape(5, 4) * 0.036
    for finger, spread in enumerate((-0.85, -0.22, 0.0, 0.2, 0.42)):
        at = joints[0]
        for i in range(4):
            bend = 0.25 * max(i - 0.3, 0)
            direction = np.array([np.sin(spread), -np.cos(spread) * np.cos(bend), -np.sin(bend)])
            at = at + lengths[finger, i] * direction / np.linalg.norm(direction)
            joints[4 * finger + 4 - i] = at
    return joints + [0.02, 0.05, 0.6]


def reversed_fingers(joints: ArrayLike) -> np.ndarray:
    """Returns joints (..., 21, D) with the order of every finger reversed: from RHD's order to base-to-tip, or back.

    Wrist first, then each finger from its base to its tip is the order of FreiHAND, MANO's common export, BiHand and TLlib.

    >>> reversed_fingers(np.arange(21)[:, None])[:6, 0]
    array([0, 4, 3, 2, 1, 8])
    """
    joints = np.asarray(joints)
    _check_joints(joints)
    order = [0] + [4 * finger + i for finger in range(5) for i in (4, 3, 2, 1)]
    return joints[..., order, :]


def with_palm(joints: ArrayLike) -> np.ndarray:
    """Returns joints (..., 21, D) whose first is the palm, the mean of the wrist and the base of the middle finger (hand3d).

    >>> with_palm(example_hand())[0].round(4).tolist()
    [0.02, 0.0034, 0.6]
    """
    joints = np.asarray(joints, np.float64)
    _check_joints(joints)
    palm = joints[..., [WRIST, MIDDLE_BASE], :].mean(-2, keepdims=True)
    return np.concatenate([palm, joints[..., 1:, :]], axis=-2)


def dominant_side(mask: ArrayLike) -> Side:
    """Returns the hand with more pixels in one of RHD's masks; the right one if both have the same number (hand3d).

    Args:
        mask: (h, w) classes: 0 background, 1 person, 2 to 17 the left hand, 18 to 33 the right hand.

    >>> dominant_side(np.array([[0, 1, 2], [17, 18, 1]]))
    'left'
    """
    mask = np.asarray(mask)
    left = ((mask >= LEFT_CLASSES[0]) & (mask <= LEFT_CLASSES[-1])).sum()
    right = ((mask >= RIGHT_CLASSES[0]) & (mask <= RIGHT_CLASSES[-1])).sum()
    return "left" if left > right else "right"


# ------------------------------------------------------------------------------------------------------------------ crops


class Square(NamedTuple):
    """The square of a picture that a crop shows.

    center: (..., 2) pixels, the point that is moved to the centre of the crop.
    side: (...) pixels.
    """

    center: np.ndarray
    side: np.ndarray


def square(
    xy: ArrayLike, visible: ArrayLike | None = None, *, convention: Convention, image_wh: tuple[int, int] = (320, 320)
) -> Square:
    """Returns the square of a hand, as the named code cuts it.

    hand3d: about the base of the middle finger; twice the largest distance of a visible joint along an axis, clipped to 50
        to 500 and to an enlargement of 1 to 10 for a crop of 256 pixels. Its labels are truncated to whole pixels
        (`np.trunc`), and its first joint is the palm (`with_palm`, of the truncated labels), visible if the wrist or the
        base of the middle finger is, unless it is run with the wrist.
    bihand: about the middle of the extent of all joints, truncated; twice the larger extent.
    tllib: 1.5 times the larger extent, rounded, moved by whole pixels to lie within the picture. The centre is that of the
        pixels' area: its left border is the pixel center - side / 2.
    mmpose: about the middle of the extent; 1.2 times the extent, the box of its JSON, times its padding of 1.25.

    Args:
        xy: (..., 21, 2) labels in pixels.
        visible: (..., 21) bool, which "hand3d" needs; the others take all joints.
        convention: the name of the code.
        image_wh: the width and height of the picture, for "tllib".

    Raises:
        ValueError: a shape is wrong, the convention is unknown, or "hand3d" has a hand without a visible joint.

    >>> xy = np.zeros((21, 2)); xy[1] = 40.0, 20.0
    >>> [float(square(xy, np.ones(21, bool), convention=c).side) for c in ("hand3d", "bihand", "tllib", "mmpose")]
    [80.0, 80.0, 60.0, 60.0]
    """
    xy = np.asarray(xy, np.float64)
    _check_joints(xy)
    low, high = xy.min(-2), xy.max(-2)
    extent, middle = (high - low).max(-1), (low + high) / 2
    match convention:
        case "hand3d":
            return _square_of_hand3d(xy, visible)
        case "bihand":
            return Square(np.trunc(middle), 2 * extent)
        case "tllib":
            side = np.minimum(np.round(1.5 * extent), min(image_wh))[..., None]
            corner = np.clip(np.round(middle - side / 2), 0, np.asarray(image_wh) - side)
            return Square(corner + side / 2, side[..., 0])
        case "mmpose":
            return Square(middle, 1.5 * extent)
    raise ValueError(f"convention={convention!r}: expected hand3d, bihand, tllib or mmpose")


def _square_of_hand3d(xy: np.ndarray, visible: ArrayLike | None) -> Square:
    if visible is None:
        raise ValueError('convention="hand3d" needs `visible`: its square holds the visible joints')
    visible = np.asarray(visible, bool)
    if visible.shape != xy.shape[:-1]:
        raise ValueError(f"visible must be {xy.shape[:-1]} as the joints, got {visible.shape}")
    if not visible.any(-1).all():
        raise ValueError(
            f"hand {np.argwhere(~visible.any(-1))[0].tolist()} has no visible joint, so that hand3d's square is not "
            'defined: leave it out, or take convention="mmpose"'
        )
    center = xy[..., MIDDLE_BASE, :]
    distance = np.abs(xy - center[..., None, :]).max(-1)
    side = np.clip(2 * np.where(visible, distance, 0.0).max(-1), 50, 500)
    return Square(center, 256 / np.clip(256 / side, 1, 10))


def square_affine(place: Square, *, size: int = 256, rotation: ArrayLike = 0.0) -> np.ndarray:
    """Returns the affine (..., 2, 3) from pixels of the picture to pixels of a crop, as hand3d and bihand compute it.

    The centre goes to (size / 2, size / 2), half a pixel beside the centre of the crop's pixels.
    `jaxpose.geometry.box_to_affine` maps it to the same point; mmpose's crop is that of its box with a padding of 1.25.

    Args:
        place: the square.
        size: the width and height of the crop in pixels.
        rotation: (...) radians about the centre; positive turns x towards y.

    >>> square_affine(Square(np.array([10.0, 20.0]), np.array(64.0)))[:, 2]
    array([88., 48.])
    """
    scale, angle = size / np.asarray(place.side, np.float64), np.asarray(rotation, np.float64)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    shift = size / 2 - (linear @ np.asarray(place.center, np.float64)[..., None])
    return np.concatenate([linear, shift], axis=-1)


def mirror_pixels(
    xy: ArrayLike, *, width: float, convention: Literal["exact", "bihand", "tllib"] = "exact"
) -> np.ndarray:
    """Returns the pixels (..., 2) of the mirror image: x' = width - 1 - x. In space, X' = -X.

    The mirror image of a left hand is a right hand with the same joints, so that no joints are exchanged.

    Args:
        xy: pixels, with centres at integers.
        width: width of the picture or crop.
        convention: "exact"; or width - x ("bihand", of the whole picture: 1 too large), width - 2 - x ("tllib", of the crop:
            1 too small).

    >>> mirror_pixels([[0.0, 5.0]], width=320)
    array([[319.,   5.]])
    """
    if convention not in MIRRORED:
        raise ValueError(f"convention={convention!r}: expected one of {', '.join(MIRRORED)}")
    xy = np.asarray(xy, np.float64)
    return np.stack([width - MIRRORED[convention] - xy[..., 0], xy[..., 1]], axis=-1)


# ------------------------------------------------------------------------------------------------------------------- 2.5D


def bone_lengths(xyz: ArrayLike) -> np.ndarray:
    """Returns the lengths (..., 20) of the bones of `BONES`, in the unit of the joints (..., 21, 3).

    >>> bone_lengths(example_hand()).shape
    (20,)
    """
    xyz = np.asarray(xyz, np.float64)
    _check_joints(xyz)
    start, end = np.asarray(BONES).T
    return np.linalg.norm(xyz[..., end, :] - xyz[..., start, :], axis=-1)


def bone_length(xyz: ArrayLike, *, bone: tuple[int, int] = KEY_BONE) -> np.ndarray:
    """Returns the length (...) of one bone of joints (..., 21, 3), which becomes the unit of length.

    Args:
        xyz: joints, in any unit of length.
        bone: its two joints: `KEY_BONE`, or `PALM`.

    Raises:
        ValueError: a length is zero or not finite, so that it cannot be a unit.

    >>> round(float(bone_length(example_hand())), 4)
    0.036
    """
    xyz = np.asarray(xyz, np.float64)
    _check_joints(xyz)
    length = np.linalg.norm(xyz[..., bone[0], :] - xyz[..., bone[1], :], axis=-1)
    wrong = ~(np.isfinite(length) & (length > 0))
    if wrong.any():
        at = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"hand {at}: the bone between the joints {RHD21.joints[bone[0]]} and {RHD21.joints[bone[1]]} has length "
            f"{length[tuple(at)]}: it is the unit of length, so it must be positive; leave the hand out, or give another bone"
        )
    return length


def relative_depth(xyz: ArrayLike, *, root: int = WRIST, bone: tuple[int, int] = KEY_BONE) -> np.ndarray:
    """Returns (Z - Z_root) / C, the depths (..., 21) of joints relative to the root in units of the key bone.

    Args:
        xyz: (..., 21, 3) joints in the camera's frame, in any unit of length.
        root: the joint whose relative depth is 0.
        bone: the bone whose length C is the unit.

    Raises:
        ValueError: a shape is wrong, or the bone has no length.

    Source: Iqbal 2018, section 3.1.

    >>> relative_depth(example_hand())[[0, 12]].round(3)
    array([0., 0.])
    """
    xyz = np.asarray(xyz, np.float64)
    length = bone_length(xyz, bone=bone)
    return (xyz[..., 2] - xyz[..., root : root + 1, 2]) / length[..., None]


def root_depths(
    xy: ArrayLike, depth: ArrayLike, *, focal: ArrayLike, center: ArrayLike, bone: tuple[int, int] = KEY_BONE
) -> np.ndarray:
    """Returns both depths of the root at which the key bone has length 1, (..., 2), the published one with "+" first.

    With the rays x = (u - cx) / fx, y = (v - cy) / fy the condition is a quadratic equation in Z_root. A negative
    discriminant, which no hand but a noisy prediction can have, counts as 0: the bone is then as near to length 1 as its
    pixels allow.

    Args:
        xy: (..., 21, 2) pixels.
        depth: (..., 21) relative depths in units of the bone.
        focal, center: (..., 2) focal lengths and principal point in pixels.
        bone: the key bone.

    Returns:
        Depths in units of the bone. If both ends of the bone have one pixel, both roots are infinite.

    Source: Iqbal 2018, equation 6.
    """
    rays = _rays(xy, focal, center)
    depth = np.asarray(depth, np.float64)
    n, m = bone
    apart = rays[..., n, :] - rays[..., m, :]
    offset = rays[..., n, :] * depth[..., n, None] - rays[..., m, :] * depth[..., m, None]
    a, half_b = (apart**2).sum(-1), (apart * offset).sum(-1)
    c = (offset**2).sum(-1) + (depth[..., n] - depth[..., m]) ** 2 - 1
    root = np.sqrt(np.maximum(half_b**2 - a * c, 0.0))
    unit = np.where(a > 0, a, 1.0)
    roots = np.stack([(-half_b + root) / unit, (-half_b - root) / unit], axis=-1)
    return np.where((a > 0)[..., None], roots, np.inf)


def lift(
    xy: ArrayLike,
    depth: ArrayLike,
    *,
    focal: ArrayLike,
    center: ArrayLike,
    bone: tuple[int, int] = KEY_BONE,
    depth_range: tuple[float, float] = (1.0, 100.0),
    proportions: ArrayLike | None = PROPORTIONS,
) -> np.ndarray:
    """Returns joints in space (..., 21, 3) from pixels and relative depths, in units of the key bone.

    Both candidates of `root_depths` are tried. A candidate is valid if it puts every joint in front of the camera, so that
    the joints reproject to their pixels, and the root within `depth_range`. If both are valid, the one whose bones
    have the more probable lengths is taken: the smaller sum of |log(length / proportion)|. The published rule, always the
    "+", is wrong for about one hand in ten: where the bone points along the ray (`proportions=None` applies it to
    the valid candidates). If neither is valid, the root is moved to the nearest depth that is.

    Args:
        xy: (..., 21, 2) pixels.
        depth: (..., 21) relative depths in units of the bone, that of the root about 0.
        focal, center: (..., 2) focal lengths and principal point in pixels.
        bone: the key bone.
        depth_range: least and greatest depth of the root, in units of the bone.
        proportions: (20,) usual lengths of `BONES` relative to one another, or None.

    Raises:
        ValueError: a shape is wrong, or the focal length is not positive.
    """
    rays, depth = _rays(xy, focal, center), np.asarray(depth, np.float64)
    if depth.shape != rays.shape[:-1]:
        raise ValueError(f"depth must be {rays.shape[:-1]}, one per joint of xy, got {depth.shape}")
    low, high = depth_range
    if not 0 < low < high:
        raise ValueError(f"depth_range={depth_range}: expected two positive depths, the smaller first")
    candidates = root_depths(xy, depth, focal=focal, center=center, bone=bone)
    least = np.maximum(low, 1e-3 - depth.min(-1))[..., None]  # in front of the camera, all joints of them
    excess = np.maximum(least - candidates, 0) + np.maximum(candidates - high, 0)
    candidates = np.clip(candidates, least, np.maximum(high, least))
    total = candidates[..., None] + depth[..., None, :]
    hands = np.concatenate([rays[..., None, :, :] * total[..., None], total[..., None]], axis=-1)
    cost = np.stack([excess[..., 0], excess[..., 1]], axis=-1)
    if proportions is not None:
        unlikely = np.abs(np.log(np.maximum(bone_lengths(hands), 1e-6) / _in_units(proportions, bone))).sum(-1)
        both = (excess == 0).all(-1, keepdims=True)
        cost = np.where(both, unlikely, cost)
    best = np.argmin(cost, axis=-1)
    return np.take_along_axis(hands, best[..., None, None, None], axis=-3)[..., 0, :, :]


def sigma_in_space(sigma: ArrayLike, xyz: ArrayLike, *, focal: ArrayLike, bone: ArrayLike) -> np.ndarray:
    """Returns the scales (..., 21, 3) of errors along the axes of the camera, in the unit of `xyz`.

    An error of a pixel moves a joint by Z / f across its ray, one of the relative depth moves it along Z. The depth of the root, which
    follows from all of them (`lift`), is taken as exact.

    Args:
        sigma: (..., 21, 3) scales of x and y in pixels and of the relative depth in units of the key bone.
        xyz: (..., 21, 3) joints in the camera's frame.
        focal: (..., 2) focal lengths in pixels.
        bone: (...) length of the key bone in the unit of `xyz`.

    >>> xyz = np.full((21, 3), 600.0)
    >>> sigma_in_space(np.ones((21, 3)), xyz, focal=[300.0, 300.0], bone=90.0)[0].tolist()
    [2.0, 2.0, 90.0]
    """
    sigma, xyz, focal = (np.asarray(values, np.float64) for values in (sigma, xyz, focal))
    plane = sigma[..., :2] * xyz[..., 2:] / focal[..., None, :]
    return np.concatenate([plane, sigma[..., 2:] * np.asarray(bone, np.float64)[..., None, None]], axis=-1)


@dataclass(frozen=True)
class Sizes:
    """The sizes of the training hands.

    Attributes:
        bone_mm: mean length of the key bone in millimetres.
        proportions: 20 mean lengths of the bones in units of the key bone.
        depth_range: least and greatest depth of a wrist in units of the key bone, a quarter wider than that of the hands.
    """

    bone_mm: float
    proportions: tuple[float, ...]
    depth_range: tuple[float, float]

    @classmethod
    def of(cls, xyz: np.ndarray, *, bone: tuple[int, int] = PALM) -> Sizes:
        """Measures hands (N, 21, 3) in millimetres."""
        length = bone_length(xyz, bone=bone)
        lengths = (bone_lengths(xyz) / length[:, None]).mean(0)
        depth = xyz[:, 0, 2] / length
        return cls(
            float(length.mean()), tuple(lengths.tolist()), (float(depth.min() / 1.25), float(depth.max() * 1.25))
        )

    @classmethod
    def from_dict(cls, content: Any, *, name: str) -> Sizes:
        """Returns the sizes that `dataclasses.asdict` wrote.

        Args:
            content: the value of a JSON file.
            name: the name of the file, for errors.

        Raises:
            ValueError: a number is missing, not positive or not finite.

        >>> Sizes.from_dict({"bone_mm": 93.0}, name="hands.json")
        Traceback (most recent call last):
        ValueError: hands.json: expected 'bone_mm', 20 'proportions' and 'depth_range', low and high, positive numbers: copy it anew
        """
        numbers = np.zeros(0)
        try:
            parts = [np.atleast_1d(np.array(content[k], np.float64)) for k in ("bone_mm", "proportions", "depth_range")]
            if [part.shape for part in parts] == [(1,), (len(BONES),), (2,)]:
                numbers = np.concatenate(parts)
        except (KeyError, TypeError, ValueError):
            pass
        if not (len(numbers) and np.isfinite(numbers).all() and (numbers > 0).all() and numbers[-2] < numbers[-1]):
            raise ValueError(
                f"{name}: expected 'bone_mm', {len(BONES)} 'proportions' and 'depth_range', low and high, positive numbers: copy it "
                "anew"
            )
        return cls(float(numbers[0]), tuple(numbers[1:-2].tolist()), (float(numbers[-2]), float(numbers[-1])))

    @property
    def lift_options(self) -> Mapping[str, Any]:
        """The options of `lift` that these sizes decide."""
        return {"proportions": self.proportions, "depth_range": self.depth_range}


def _in_units(proportions: ArrayLike, bone: tuple[int, int]) -> np.ndarray:
    """Returns lengths (20,) of the bones in units of one of them; of a distance that is no bone they are taken as they are."""
    lengths = np.asarray(proportions, np.float64)
    return lengths / lengths[BONES.index(bone)] if bone in BONES else lengths


def _rays(xy: ArrayLike, focal: ArrayLike, center: ArrayLike) -> np.ndarray:
    """Returns the points (..., 21, 2) at which the rays of pixels meet the plane of depth 1."""
    xy, focal, center = (np.asarray(values, np.float64) for values in (xy, focal, center))
    _check_joints(xy)
    for name, values in (("focal", focal), ("center", center)):
        if values.shape not in ((2,), (*xy.shape[:-2], 2)):
            raise ValueError(f"{name} must be (2,) or {(*xy.shape[:-2], 2)} for xy {xy.shape}, got {values.shape}")
    if not (focal > 0).all():
        raise ValueError(f"focal must be positive, in pixels, got {focal.min()}")
    return (xy - center[..., None, :]) / focal[..., None, :]


def _check_joints(joints: np.ndarray) -> None:
    if joints.ndim < 2 or joints.shape[-2] != NUM_JOINTS:
        raise ValueError(f"joints must be (..., {NUM_JOINTS}, D), in the order of RHD, got {joints.shape}")
