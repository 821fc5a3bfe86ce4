"""The published augmentations as named settings, and functions that draw from them.

`OFFICIAL` is the RLE code's, `HRNET` that of the HRNet code (which the RLE paper claims to follow, but does not),
`MMPOSE` that of mmpose's RLE configs, `LIGHT` a weak one of our own, `UNMIRRORED` the same without mirroring, `NONE` none. A
setting is a frozen dataclass of numbers: change one with ``dataclasses.replace``. The three published settings differ as follows:

    ============  ======================  ===============================  ==========================================
                  official                hrnet                            mmpose
    ============  ======================  ===============================  ==========================================
    scale         uniform in 1 +- 0.25    1 + 0.35 N, clipped to +- 0.35   1 + 0.5 T
    rotation      uniform in +- 45, p .5  45 N, clipped to +- 90, p .6     80 T, p .6
    shift         none                    none                             0.16 T of the padded box per side, p .3
    half body     > 3 joints, p .3        > 8 joints, p .3                 >= 9 joints, p .3
    flip          p .5                    p .5                             p .5
    ============  ======================  ===============================  ==========================================

N is a standard normal draw, T one truncated to [-1, 1]; angles are in degrees. `SIMPLE_BASELINE` and `MPII` are hrnet's
with other numbers and without the half body (0.3 and 40 degrees; 0.25 and 30), `MMPOSE_MPII` is mmpose's without shift
and half body.

Whole images, for bottom-up nets, have settings of their own: `WholeImage`, by name from `named_whole`, drawn by
`draw_whole`.

A draw is stateless: a function of (seed, epoch, annotation or image id), so that a sample is the same whichever process
makes it and whenever a run is resumed. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from jaxpose.geometry import apply_affine

__all__ = [
    "HIGHER_HRNET",
    "HRNET",
    "INTEGRAL_3D",
    "LIGHT",
    "MMPOSE",
    "MMPOSE_MPII",
    "MPII",
    "NONE",
    "OFFICIAL",
    "POSENET_3D",
    "RLE_3D",
    "SIMPLE_BASELINE",
    "SWAHR_PAPER",
    "UNMIRRORED",
    "WHOLE_LIGHT",
    "WHOLE_NONE",
    "Augmentation",
    "HalfBody",
    "Setting",
    "WholeAugmentation",
    "WholeImage",
    "colour_factors",
    "draw",
    "draw_whole",
    "generator",
    "move_joints",
    "named",
    "named_whole",
    "whole_generator",
]

Distribution = Literal["uniform", "normal", "truncated"]


@dataclass(frozen=True)
class HalfBody:
    """Crops the upper or the lower half of a person only.

    Attributes:
        probability: The probability of trying.
        min_joints: The least number of labelled joints.
        padding: The padding in place of the box's.
        rule: The rule by which the half is selected. "hrnet" (HRNet and RLE): the upper half if a standard normal draw is
            below 0.5 (so with probability 0.69; meant as a fair coin) and it has more than 2 labelled joints, else the
            lower if it has more than 2, else the upper. "mmpose": a half with too few joints (2 for the upper, 3 for
            the lower) loses to the other; if both have enough, the upper with probability 0.7; if neither has, the
            whole body.

    The new centre is the mean of the selected joints, not the centre of their box; the size is that of their box.
    """

    probability: float
    min_joints: int
    padding: float = 1.5
    rule: Literal["hrnet", "mmpose"] = "hrnet"


@dataclass(frozen=True)
class Setting:
    """The distribution of augmentations of a sample, each drawn independently.

    Attributes:
        name: The name of the setting.
        flip: The probability of mirroring.
        scale: The size of the region is multiplied by 1 + scale * u.
        rotation: Degrees; the region is rotated by rotation * u with probability `rotation_probability`.
        rotation_probability: The probability of a rotation.
        shift: The centre moves by shift * u times the side of the padded box, in x and in y, each with probability
            `shift_probability`.
        shift_probability: The probability of a shift along an axis.
        distribution: The distribution of u. "uniform" in [-1, 1]; "normal": clipped to [-1, 1] for the scale and [-2, 2]
            for the rotation; "truncated": a standard normal drawn again until it is in [-1, 1].
        half_body: The setting of half bodies, or None.
        colour: Each channel is multiplied by its own factor, uniform in 1 +- colour (`colour_factors`), and clipped to
            0..255. The factors are drawn apart from the other numbers, which do not change.
        scale_depth: Divide the depth of joints in space by the drawn scale, so that it follows the size in the crop.
        truncate_colour: Cut the products of `colour` down to whole numbers, as code does that multiplies uint8.
        occlusion: The probability that a rectangle of noise covers a part of the person (`jaxpose.data.occlusion`). It is drawn
            apart from the other numbers, which do not change.
    """

    name: str
    flip: float = 0.0
    scale: float = 0.0
    rotation: float = 0.0
    rotation_probability: float = 0.0
    shift: float = 0.0
    shift_probability: float = 0.0
    distribution: Distribution = "uniform"
    half_body: HalfBody | None = None
    colour: float = 0.0
    scale_depth: bool = False
    truncate_colour: bool = False
    occlusion: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.colour < 1:
            raise ValueError(f"augmentation {self.name!r}: colour must be in [0, 1), got {self.colour}")
        for field in ("flip", "rotation_probability", "shift_probability", "occlusion"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"augmentation {self.name!r}: {field} is a probability, got {getattr(self, field)}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"augmentation {self.name!r}: scale must be in [0, 1), got {self.scale}")
        if self.distribution not in _UNIT:
            raise ValueError(
                f"augmentation {self.name!r}: distribution must be one of {list(_UNIT)}, got {self.distribution!r}"
            )


class Augmentation(NamedTuple):
    """The augmentation drawn for one sample.

    flip: True to mirror the image first.
    box: ``(4,)`` xywh in pixels of the unmirrored image, moved or replaced by that of half a body.
    padding: The factor on the box.
    scale: A further factor.
    rotation: Degrees, in the mirrored image if `flip`.
    """

    flip: bool
    box: np.ndarray
    padding: float
    scale: float
    rotation: float


def named(name: str | Setting) -> Setting:
    """Returns a setting by name: none, light, official, hrnet, mmpose, simple_baseline, mpii or mmpose_mpii;
    in space rle_3d, integral_3d or posenet_3d.

    >>> named("official").rotation
    45.0
    """
    if isinstance(name, Setting):
        return name
    if name not in _NAMED:
        raise ValueError(f"no augmentation {name!r}: choose one of {list(_NAMED)}, or pass a Setting")
    return _NAMED[name]


def generator(seed: int, epoch: int, annotation_id: int) -> np.random.Generator:
    """Returns the generator of one sample: Philox keyed by the seed, its counter given by the epoch and the annotation.

    A counter-based generator needs no warm-up (8 microseconds; seeding by hash takes more), and its low counter words
    are free for the draws, so that no two samples share a number.

    >>> generator(0, 3, 42).random() == generator(0, 3, 42).random() != generator(0, 4, 42).random()
    True
    """
    return philox(seed, DRAWS, epoch, annotation_id)


def philox(seed: int, purpose: int, epoch: int, item: int) -> np.random.Generator:
    """Returns Philox keyed by (seed, purpose), its counter starting at (0, 0, epoch, item); each modulo 2**64."""
    key = np.array([seed % 2**64, purpose], np.uint64)
    counter = np.array([0, 0, epoch % 2**64, item % 2**64], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def colour_factors(amount: float, *, seed: int, epochs: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """Draws one factor per channel for each of some crops, a function of (seed, epoch, annotation id), like every draw.

    The batch carries the factors and the step multiplies, on the device, where the image becomes float32 anyway.

    Args:
        amount: largest distance of a factor from 1, in [0, 1); 0.2 in the code of integral regression.
        seed: the seed of the run.
        epochs: ``(B,)`` epochs.
        ids: ``(B,)`` ids of the annotations.

    Returns:
        ``(B, 3)`` float32, one factor for red, green and blue.

    >>> print(colour_factors(0.2, seed=0, epochs=[0, 1], ids=[7, 7]).round(2))
    [[0.98 0.8  0.88]
     [0.94 1.1  0.97]]
    """
    draws = [philox(seed, COLOURS, int(e), int(i)).random(3) for e, i in zip(epochs, ids, strict=True)]
    return (1 + amount * (2 * np.array(draws).reshape(-1, 3) - 1)).astype(np.float32)


def draw(
    setting: Setting,
    rng: np.random.Generator,
    *,
    box: np.ndarray,
    keypoints: np.ndarray,
    upper: np.ndarray | None = None,
    padding: float = 1.25,
) -> Augmentation:
    """Draws the augmentation of one sample.

    Args:
        setting: The setting to draw from.
        rng: The generator of this sample (`generator`).
        box: ``(4,)`` xywh.
        keypoints: ``(K, 3)`` x, y, visibility.
        upper: ``(K,)`` bool, the joints of the upper body; None or all False disables half bodies.
        padding: The factor by which the box is enlarged.

    >>> sample = dict(box=np.array([10.0, 20, 30, 40]), keypoints=np.zeros((17, 3)))
    >>> draw(NONE, generator(0, 0, 1), **sample)[2:]
    (1.25, 1.0, 0.0)
    >>> 0.75 <= draw(OFFICIAL, generator(0, 0, 1), **sample).scale <= 1.25
    True
    """
    if setting == NONE:
        return Augmentation(False, box, padding, 1.0, 0.0)
    flip = bool(rng.random() < setting.flip)
    if setting.half_body is not None and upper is not None and upper.any():
        half = _half_body(setting.half_body, rng, keypoints, upper)
        if half is not None:
            box, padding = half, setting.half_body.padding
    unit = _UNIT[setting.distribution]
    if setting.shift:
        box = _shifted(setting, rng, unit, box, padding)
    scale = 1.0 + setting.scale * unit(rng, 1.0)
    rotation = setting.rotation * unit(rng, 2.0) if rng.random() < setting.rotation_probability else 0.0
    return Augmentation(flip, box, padding, scale, rotation)


@dataclass(frozen=True)
class WholeImage:
    """The distribution of augmentations of a whole image: a square about its centre, moved and rotated, and mirroring.

    Attributes:
        name: The name of the setting.
        flip: The probability of mirroring.
        scale: The lower and upper bound of u, uniform; the side of the square is u times the short side of the image.
        rotation: Degrees; the image is always rotated, by an angle uniform in +- rotation.
        shift: The centre moves by up to shift times the side, in x and in y, uniform over whole image pixels.
    """

    name: str
    flip: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ValueError(f"augmentation {self.name!r}: flip is a probability, got {self.flip}")
        if np.shape(self.scale) != (2,) or not 0 < self.scale[0] <= self.scale[1] < np.inf:
            raise ValueError(
                f"augmentation {self.name!r}: scale must be two positive numbers, the lower first, got {self.scale}"
            )
        for field in ("rotation", "shift"):
            if not 0 <= getattr(self, field) < np.inf:
                raise ValueError(f"augmentation {self.name!r}: {field} must be 0 or more, got {getattr(self, field)}")


class WholeAugmentation(NamedTuple):
    """The augmentation drawn for one whole image.

    flip: True to mirror the input that the other three give.
    centre: ``(2,)`` the centre of the square, image pixels.
    side: The side of the square, image pixels.
    rotation: Degrees.
    """

    flip: bool
    centre: np.ndarray
    side: float
    rotation: float


def named_whole(name: str | WholeImage) -> WholeImage:
    """Returns a setting for whole images by name: "none", "light", "higher_hrnet" or "swahr_paper".

    >>> named_whole("swahr_paper").scale
    (0.75, 1.25)
    """
    if isinstance(name, WholeImage):
        return name
    if not isinstance(name, str) or name not in _NAMED_WHOLE:
        raise ValueError(
            f"no augmentation {name!r} of whole images: choose one of {list(_NAMED_WHOLE)}, or pass a WholeImage"
        )
    return _NAMED_WHOLE[name]


def whole_generator(seed: int, epoch: int, image_id: int) -> np.random.Generator:
    """Returns the generator of one whole image, like `generator`; it is independent of those of persons.

    >>> whole_generator(0, 3, 42).random() == whole_generator(0, 3, 42).random() != generator(0, 3, 42).random()
    True
    """
    return philox(seed, WHOLE_DRAWS, epoch, image_id)


def draw_whole(setting: WholeImage, rng: np.random.Generator, *, size_wh: Sequence[int]) -> WholeAugmentation:
    """Draws the augmentation of one whole image.

    Args:
        setting: The setting to draw from.
        rng: The generator of this image (`whole_generator`).
        size_wh: The width and height of the image.

    >>> draw_whole(WHOLE_NONE, whole_generator(0, 0, 1), size_wh=(640, 427))
    WholeAugmentation(flip=False, centre=array([320. , 213.5]), side=427.0, rotation=0.0)
    >>> 0.75 * 427 <= draw_whole(HIGHER_HRNET, whole_generator(0, 0, 1), size_wh=(640, 427)).side <= 1.5 * 427
    True
    """
    flip = bool(rng.random() < setting.flip)
    lower, upper = setting.scale
    side = float(min(size_wh) * (lower + (upper - lower) * rng.random()))
    rotation = float(setting.rotation * _uniform(rng, 1.0))
    farthest = int(setting.shift * side)
    centre = np.asarray(size_wh, np.float64) / 2 + rng.integers(-farthest, farthest + 1, 2)
    return WholeAugmentation(flip, centre, side, rotation)


def _shifted(setting: Setting, rng: np.random.Generator, unit, box: np.ndarray, padding: float) -> np.ndarray:
    box = np.array(box, np.float64)
    for axis in (0, 1):
        if rng.random() < setting.shift_probability:
            box[axis] += setting.shift * unit(rng, 1.0) * padding * box[axis + 2]
    return box


def _half_body(half: HalfBody, rng: np.random.Generator, keypoints: np.ndarray, upper: np.ndarray) -> np.ndarray | None:
    """Returns the box of half a person, about the mean of its joints; None for the whole person."""
    labelled = keypoints[:, 2] > 0
    if labelled.sum() < half.min_joints or rng.random() >= half.probability:
        return None
    selected = _choose_half(half.rule, rng, labelled & upper, labelled & ~upper)
    if selected is None:
        return None
    xy = keypoints[selected, :2].astype(np.float64)
    size = xy.max(axis=0) - xy.min(axis=0)
    if size.max() < 1:  # all joints lie on one pixel, which has no scale
        return None
    return np.concatenate([xy.mean(axis=0) - size / 2, size])


def _choose_half(rule: str, rng: np.random.Generator, upper: np.ndarray, lower: np.ndarray) -> np.ndarray | None:
    num_upper, num_lower = upper.sum(), lower.sum()
    if rule == "hrnet":
        if rng.standard_normal() < 0.5 and num_upper > 2:
            selected = upper
        else:
            selected = lower if num_lower > 2 else upper
        return selected if selected.sum() >= 2 else None
    if num_upper < 2 and num_lower < 3:
        return None
    if num_upper < 2 or num_lower < 3:
        return lower if num_upper < 2 else upper
    return upper if rng.random() < 0.7 else lower


def _uniform(rng: np.random.Generator, bound: float) -> float:
    return 2.0 * rng.random() - 1.0


def _clipped_normal(rng: np.random.Generator, bound: float) -> float:
    return min(max(rng.standard_normal(), -bound), bound)


def _truncated_normal(rng: np.random.Generator, bound: float) -> float:
    while abs(value := rng.standard_normal()) > 1.0:
        pass
    return value


def move_joints(
    keypoints: np.ndarray, affine: np.ndarray, flip: np.ndarray, flip_index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Moves joints into the input; left and right are exchanged where it is mirrored.

    Args:
        keypoints: ``(B, K, 3)`` x, y, visibility in image pixels.
        affine: ``(B, 2, 3)`` affines from image pixels to input pixels, including any mirroring.
        flip: ``(B,)`` bool, True where the input is mirrored.
        flip_index: ``(K,)`` the index of each joint's mirror partner.

    Returns:
        The visibility ``(B, K)`` and the joints ``(B, K, 2)`` in input pixels, 0 where the visibility is 0.
    """
    visibility = keypoints[..., 2]
    joints = np.where(visibility[..., None] > 0, apply_affine(affine, keypoints[..., :2]), 0.0)
    visibility = np.where(flip[:, None], visibility[:, flip_index], visibility)
    return visibility, np.where(flip[:, None, None], joints[:, flip_index], joints)


# Purposes of random numbers: the augmentation of persons, the order of the pipeline, the augmentation of images, colours, the
# rectangles of occlusion and their noise. 7 is the one of experiments/common/pose_pairs.py.
DRAWS, PERMUTATIONS, WHOLE_DRAWS, COLOURS, OCCLUSIONS, OCCLUSION_NOISE = 1, 2, 3, 4, 5, 6
_UNIT = {"uniform": _uniform, "normal": _clipped_normal, "truncated": _truncated_normal}

NONE = Setting("none")
"""No augmentation, for evaluation."""

LIGHT = Setting("light", flip=0.5, scale=0.12, rotation=12.0, rotation_probability=0.5, distribution="uniform")
"""Our own, for short runs and small sets: mirroring, a little scale and rotation, no half bodies."""

UNMIRRORED = replace(LIGHT, name="unmirrored", flip=0.0)
"""LIGHT without mirroring, for people whose left and right look different: the sleeves and trouser legs of the synthetic ones have a
hue for each side, which tells the joints apart as long as no mirror exchanges them."""

OFFICIAL = Setting(
    "official",
    flip=0.5,
    scale=0.25,
    rotation=45.0,
    rotation_probability=0.5,
    distribution="uniform",
    half_body=HalfBody(probability=0.3, min_joints=4),
)
"""The released RLE code, COCO configs. Uniform draws and half bodies from 4 joints on, unlike the HRNet code."""

HRNET = Setting(
    "hrnet",
    flip=0.5,
    scale=0.35,
    rotation=45.0,
    rotation_probability=0.6,
    distribution="normal",
    half_body=HalfBody(probability=0.3, min_joints=9),
)
"""The HRNet code, COCO configs of HRNet."""

SIMPLE_BASELINE = replace(HRNET, name="simple_baseline", scale=0.3, rotation=40.0, half_body=None)
"""The HRNet code, COCO configs of SimpleBaseline."""

MPII = replace(HRNET, name="mpii", scale=0.25, rotation=30.0, half_body=None)
"""The HRNet code on MPII, and the integral regression code, which also changes colours (0.2, QUIRK I6). Both codes turn by up to
60 degrees: a normal draw of 30, cut at two deviations; Sun 2018 says 30."""

MMPOSE = Setting(
    "mmpose",
    flip=0.5,
    scale=0.5,
    rotation=80.0,
    rotation_probability=0.6,
    shift=0.16,
    shift_probability=0.3,
    distribution="truncated",
    half_body=HalfBody(probability=0.3, min_joints=9, rule="mmpose"),
)
"""mmpose's RLE configs for COCO: much stronger than the other two."""

RLE_3D = replace(MPII, name="rle_3d", scale=0.3, colour=0.2, truncate_colour=True)
"""The released RLE code in space: depth does not follow the scale. Its occlusion is a setting apart (``occlusion=1.0``)."""

INTEGRAL_3D = replace(MPII, name="integral_3d", colour=0.2, scale_depth=True)
"""The code of integral regression in space: depth is divided by the scale (QUIRK V3)."""

POSENET_3D = replace(MPII, name="posenet_3d", colour=0.2)
"""3DMPPE PoseNet's: the same, with depth left alone. Its occlusion is a setting apart (``occlusion=0.5``)."""

MMPOSE_MPII = replace(MMPOSE, name="mmpose_mpii", shift_probability=0.0, half_body=None)
"""mmpose's configs for MPII."""

_NAMED = {
    setting.name: setting
    for setting in (
        NONE,
        LIGHT,
        UNMIRRORED,
        OFFICIAL,
        HRNET,
        MMPOSE,
        SIMPLE_BASELINE,
        MPII,
        MMPOSE_MPII,
        RLE_3D,
        INTEGRAL_3D,
        POSENET_3D,
    )
}

WHOLE_NONE = WholeImage("none")
"""The square of the short side about the centre; everything beyond it is cut off."""

WHOLE_LIGHT = WholeImage("light", scale=(0.85, 1.2), rotation=10.0, shift=0.1)
"""Our own, for short runs and small sets. Nothing is mirrored: the sides of the synthetic people differ in colour, so a small
net learns left from right within minutes, as long as no mirror exchanges them. So there is no flip test either."""

HIGHER_HRNET = WholeImage("higher_hrnet", flip=0.5, scale=(0.75, 1.5), rotation=30.0, shift=0.2)
"""The released HigherHRNet and SWAHR code, COCO and CrowdPose configs (40 px of a square of 200)."""

SWAHR_PAPER = replace(HIGHER_HRNET, name="swahr_paper", scale=(0.75, 1.25))
"""QUIRK S4: the SWAHR paper gives the scale as 0.75 to 1.25; its code goes to 1.5, as HigherHRNet's."""

_NAMED_WHOLE = {setting.name: setting for setting in (WHOLE_NONE, WHOLE_LIGHT, HIGHER_HRNET, SWAHR_PAPER)}
