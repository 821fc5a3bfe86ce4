"""The published augmentations as named numbers, and one draw from them.

`OFFICIAL` is the RLE code's, `HRNET` that of the HRNet code (which the RLE paper says it follows, and does not),
`MMPOSE` that of mmpose's RLE configs, `LIGHT` a weak one of our own, `NONE` nothing. A setting is a frozen dataclass
of numbers: change one with ``dataclasses.replace``. What the published three do differently:

    ============  ======================  ===============================  ==========================================
                  official                hrnet                            mmpose
    ============  ======================  ===============================  ==========================================
    scale         uniform in 1 +- 0.25    1 + 0.35 N, clipped to +- 0.35   1 + 0.5 T
    rotation      uniform in +- 45, p .5  45 N, clipped to +- 90, p .6     80 T, p .6
    shift         none                    none                             0.16 T of the padded box a side, p .3
    half body     > 3 joints, p .3        > 8 joints, p .3                 >= 9 joints, p .3
    flip          p .5                    p .5                             p .5
    ============  ======================  ===============================  ==========================================

    N standard normal; T standard normal truncated to [-1, 1]; degrees. `SIMPLE_BASELINE` and `MPII` are hrnet's with other
numbers and without the half body (0.3 and 40 degrees; 0.25 and 30), `MMPOSE_MPII` is mmpose's without shift and half body.

Whole images, for bottom-up nets, have settings of their own: `WholeImage`, by name from `named_whole`, drawn by `draw_whole`.

A draw is stateless: a function of (seed, epoch, annotation or image id), so that a sample is the same whichever process makes it
and whenever a run is resumed. NumPy only.
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
    "LIGHT",
    "MMPOSE",
    "MMPOSE_MPII",
    "MPII",
    "NONE",
    "OFFICIAL",
    "SIMPLE_BASELINE",
    "SWAHR_PAPER",
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
    """Show the upper or the lower half of a person only.

    Attributes:
        probability: of trying.
        min_joints: at least so many joints must be labelled.
        padding: in place of the box's.
        rule: how the half is chosen. "hrnet" (HRNet and RLE): the upper half if a standard normal draw is below 0.5
            (so with probability 0.69; meant as a fair coin) and it has more than 2 labelled joints, else the lower if
            it has more than 2, else the upper. "mmpose": a half with too few joints (2 for the upper, 3 for the
            lower) loses to the other; between two that have enough, the upper with probability 0.7; neither: the
            whole body.

    The new centre is the mean of the chosen joints, not the centre of their box; the size is that of their box.
    """

    probability: float
    min_joints: int
    padding: float = 1.5
    rule: Literal["hrnet", "mmpose"] = "hrnet"


@dataclass(frozen=True)
class Setting:
    """What is drawn for a sample, independently of each other.

    Attributes:
        name: of the setting.
        flip: probability of mirroring.
        scale: the size of the region is multiplied by 1 + scale * u.
        rotation: degrees; turned by rotation * u with probability `rotation_probability`.
        shift: the centre moves by shift * u times the side of the padded box, in x and in y, with probability
            `shift_probability`.
        distribution: of u. "uniform" in [-1, 1]; "normal": clipped to [-1, 1] for the scale and [-2, 2] for the
            rotation; "truncated": a standard normal drawn again until it is in [-1, 1].
        half_body: or None.
        colour: each channel is multiplied by a factor of its own, uniform in 1 +- colour (`colour_factors`), and cut to
            0..255. Drawn apart from the others, which it leaves as they are.
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

    def __post_init__(self) -> None:
        if not 0 <= self.colour < 1:
            raise ValueError(f"augmentation {self.name!r}: colour must be in [0, 1), got {self.colour}")
        for field in ("flip", "rotation_probability", "shift_probability"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"augmentation {self.name!r}: {field} is a probability, got {getattr(self, field)}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"augmentation {self.name!r}: scale must be in [0, 1), got {self.scale}")
        if self.distribution not in _UNIT:
            raise ValueError(
                f"augmentation {self.name!r}: distribution must be one of {list(_UNIT)}, got {self.distribution!r}"
            )


class Augmentation(NamedTuple):
    """One draw.

    flip: mirror the image first. box: ``(4,)`` xywh in pixels of the image as it is, moved or replaced by that of
    half a body. padding: factor on the box. scale: a further factor. rotation: degrees, in the mirrored image if
    `flip`.
    """

    flip: bool
    box: np.ndarray
    padding: float
    scale: float
    rotation: float


def named(name: str | Setting) -> Setting:
    """The setting of a name: "none", "light", "official", "hrnet", "mmpose", "simple_baseline", "mpii", "mmpose_mpii".

    >>> named("official").rotation
    45.0
    """
    if isinstance(name, Setting):
        return name
    if name not in _NAMED:
        raise ValueError(f"no augmentation {name!r}: choose one of {list(_NAMED)}, or pass a Setting")
    return _NAMED[name]


def generator(seed: int, epoch: int, annotation_id: int) -> np.random.Generator:
    """The random numbers of one sample: Philox keyed by the seed, at a counter given by the epoch and the annotation.

    A counter-based generator needs no warm-up (8 microseconds; seeding by hash takes more), and its low counter words
    are free for the draws, so that no two samples share a number.

    >>> generator(0, 3, 42).random() == generator(0, 3, 42).random() != generator(0, 4, 42).random()
    True
    """
    return philox(seed, DRAWS, epoch, annotation_id)


def philox(seed: int, purpose: int, epoch: int, item: int) -> np.random.Generator:
    """Philox keyed by (seed, purpose), its counter starting at (0, 0, epoch, item); each modulo 2**64."""
    key = np.array([seed % 2**64, purpose], np.uint64)
    counter = np.array([0, 0, epoch % 2**64, item % 2**64], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def colour_factors(amount: float, *, seed: int, epochs: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """Draws by what the channels of some crops are multiplied; a function of (seed, epoch, annotation id), like every draw.

    The batch carries the factors and the step multiplies, on the device, where the image becomes float32 anyway.

    Args:
        amount: largest distance of a factor from 1, in [0, 1); 0.2 in the code of integral regression.
        seed: of the run.
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
    """Draw the augmentation of one sample.

    Args:
        setting: the numbers.
        rng: of this sample (`generator`).
        box: ``(4,)`` xywh.
        keypoints: ``(K, 3)`` x, y, visibility.
        upper: ``(K,)`` bool: joints of the upper body; None or all False: no half bodies.
        padding: of the box.

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
    """What is drawn for a whole image: a square about its centre, moved and turned, and whether the input is mirrored.

    Attributes:
        name: of the setting.
        flip: probability of mirroring.
        scale: lower and upper bound of u, uniform; the side of the square is u times the short side of the image.
        rotation: degrees; turned by an angle uniform in +- rotation, always.
        shift: the centre moves by up to shift times the side, in x and in y, uniform over whole image pixels.
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
    """One draw for a whole image.

    flip: mirror the input that the other three give. centre: ``(2,)`` of the square, image pixels. side: of the square,
    image pixels. rotation: degrees.
    """

    flip: bool
    centre: np.ndarray
    side: float
    rotation: float


def named_whole(name: str | WholeImage) -> WholeImage:
    """The setting for whole images of a name: "none", "light", "higher_hrnet", "swahr_paper".

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
    """The random numbers of one whole image; as `generator`, and independent of those of any person.

    >>> whole_generator(0, 3, 42).random() == whole_generator(0, 3, 42).random() != generator(0, 3, 42).random()
    True
    """
    return philox(seed, WHOLE_DRAWS, epoch, image_id)


def draw_whole(setting: WholeImage, rng: np.random.Generator, *, size_wh: Sequence[int]) -> WholeAugmentation:
    """Draw the augmentation of one whole image.

    Args:
        setting: the numbers.
        rng: of this image (`whole_generator`).
        size_wh: of the image.

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
    """The box of half a person, about the mean of its joints; None: the whole person."""
    labelled = keypoints[:, 2] > 0
    if labelled.sum() < half.min_joints or rng.random() >= half.probability:
        return None
    chosen = _choose_half(half.rule, rng, labelled & upper, labelled & ~upper)
    if chosen is None:
        return None
    xy = keypoints[chosen, :2].astype(np.float64)
    size = xy.max(axis=0) - xy.min(axis=0)
    if size.max() < 1:  # joints on one pixel: there is no scale in that
        return None
    return np.concatenate([xy.mean(axis=0) - size / 2, size])


def _choose_half(rule: str, rng: np.random.Generator, upper: np.ndarray, lower: np.ndarray) -> np.ndarray | None:
    num_upper, num_lower = upper.sum(), lower.sum()
    if rule == "hrnet":
        if rng.standard_normal() < 0.5 and num_upper > 2:
            chosen = upper
        else:
            chosen = lower if num_lower > 2 else upper
        return chosen if chosen.sum() >= 2 else None
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
        affine: ``(B, 2, 3)`` affines from image pixels to input pixels, any mirroring included.
        flip: ``(B,)`` whether the input is mirrored.
        flip_index: ``(K,)`` the joint that a mirror makes of each.

    Returns:
        The visibility ``(B, K)`` and the joints ``(B, K, 2)`` in input pixels, 0 where the visibility is 0.
    """
    visibility = keypoints[..., 2]
    joints = np.where(visibility[..., None] > 0, apply_affine(affine, keypoints[..., :2]), 0.0)
    visibility = np.where(flip[:, None], visibility[:, flip_index], visibility)
    return visibility, np.where(flip[:, None, None], joints[:, flip_index], joints)


# Purposes of random numbers: the augmentation of persons, the order of the pipeline, the augmentation of images, colours.
DRAWS, PERMUTATIONS, WHOLE_DRAWS, COLOURS = 1, 2, 3, 4
_UNIT = {"uniform": _uniform, "normal": _clipped_normal, "truncated": _truncated_normal}

NONE = Setting("none")
"""No augmentation: evaluation."""

LIGHT = Setting("light", flip=0.5, scale=0.12, rotation=12.0, rotation_probability=0.5, distribution="uniform")
"""Ours, for short runs and small sets: a mirror, a little scale and rotation, nobody halved."""

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

MMPOSE_MPII = replace(MMPOSE, name="mmpose_mpii", shift_probability=0.0, half_body=None)
"""mmpose's configs for MPII."""

_NAMED = {
    setting.name: setting for setting in (NONE, LIGHT, OFFICIAL, HRNET, MMPOSE, SIMPLE_BASELINE, MPII, MMPOSE_MPII)
}

WHOLE_NONE = WholeImage("none")
"""The square of the short side about the centre: what reaches beyond it is cut off."""

WHOLE_LIGHT = WholeImage("light", scale=(0.85, 1.2), rotation=10.0, shift=0.1)
"""Ours, for short runs and small sets. Nothing is mirrored: the sides of the synthetic people differ in colour, which tells a
small net left from right within minutes, as long as no mirror exchanges them. So no flip test either."""

HIGHER_HRNET = WholeImage("higher_hrnet", flip=0.5, scale=(0.75, 1.5), rotation=30.0, shift=0.2)
"""The released HigherHRNet and SWAHR code, COCO and CrowdPose configs (40 px of a square of 200)."""

SWAHR_PAPER = replace(HIGHER_HRNET, name="swahr_paper", scale=(0.75, 1.25))
"""QUIRK S4: the SWAHR paper gives the scale as 0.75 to 1.25; its code goes to 1.5, as HigherHRNet's."""

_NAMED_WHOLE = {setting.name: setting for setting in (WHOLE_NONE, WHOLE_LIGHT, HIGHER_HRNET, SWAHR_PAPER)}
