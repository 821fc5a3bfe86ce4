"""Drawn hands: a kinematic hand with limits, skin, shading, backgrounds and self-occlusion, and a known camera.

    write_hands("hands", train=1800, val=200, seed=0)

A hand has the joints of `jaxpose.skeleton.RHD21`. Its bones have RHD's proportions, each with its own variation; fingers bend
and spread within the limits of joints, the end joints follow the middle ones, and a pose is open, pointing, pinching, curled
or anything between. The hand of either side is seen from the palm, the back or aside; parts of it hide others, and sometimes an object
does. Labels are exact; joints are visible if the depth buffer shows their own finger.

The folder has COCO's layout; an annotation has the fields of `jaxpose.data.formats.rhd`: keypoints_3d, camera, hand.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxpose import hands
from jaxpose.data.checks import Problems
from jaxpose.data.formats import rhd
from jaxpose.data.synthetic import dataset
from jaxpose.data.synthetic.backdrop import draw_backdrop
from jaxpose.data.synthetic.paint import Material, Palette, cloth, photograph, plain, random_colour, skin
from jaxpose.data.synthetic.pose import about, rotation, unit
from jaxpose.data.synthetic.raster import Primitives, Surface, draw
from jaxpose.data.synthetic.scene import SUPERSAMPLE, Camera, check

VERSION = 1
FINGERS = 5
KEY_BONE_MM = (36.0, 2.2)  # mean and standard deviation
SPREAD = np.array([48.0, 13.0, 0.0, -12.0, -25.0])  # of the bones of the palm, degrees from y towards the thumb
ARCH = np.array([20.0, 2.0, 0.0, 2.0, 6.0])  # of the same, degrees towards the palm's side
# Half a finger's thickness at its base, two joints and tip, in key bones.
THICK = np.array([
    [0.36, 0.31, 0.27, 0.20], [0.29, 0.25, 0.22, 0.165], [0.30, 0.26, 0.225, 0.17], [0.28, 0.24, 0.21, 0.16],
    [0.25, 0.21, 0.18, 0.14],
])  # fmt: skip
NEAR_FLESH = (
    2.6  # a joint is visible if its own part of the hand is at its pixel, at most this many radii in front of it
)
TRIES = 20


@dataclasses.dataclass
class Hand:
    """A hand in its own frame: x towards the thumb, y along the fingers, z out of the palm; a left one is mirrored.

    joints: (21, 3) metres, RHD's order. dorsal: (5, 3) direction out of the back of each finger's last bone. bone: length of
    the key bone, metres. side: "left" or "right".
    """

    joints: np.ndarray
    dorsal: np.ndarray
    bone: float
    side: hands.Side


def _curls(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Returns how far each finger is bent, 0 to 1, and how far the thumb opposes them, 0 to 1."""
    kind = rng.choice(
        ["open", "loose", "curled", "point", "count", "pinch", "any"], p=[0.2, 0.22, 0.1, 0.1, 0.13, 0.1, 0.15]
    )
    match kind:
        case "open":
            return rng.uniform(0.0, 0.12, FINGERS), rng.uniform(0.0, 0.4)
        case "loose":
            return np.clip(rng.uniform(0.15, 0.6) + rng.normal(0, 0.07, FINGERS), 0, 1), rng.uniform(0.1, 0.6)
        case "curled":
            return np.clip(rng.uniform(0.7, 1.0) + rng.normal(0, 0.05, FINGERS), 0, 1), rng.uniform(0.4, 1.0)
        case "point":
            bent = rng.uniform(0.7, 1.0, FINGERS)
            bent[1] = rng.uniform(0.0, 0.15)
            return bent, rng.uniform(0.3, 1.0)
        case "count":
            return np.where(rng.random(FINGERS) < 0.5, rng.uniform(0.0, 0.1), rng.uniform(0.7, 1.0)), rng.uniform(
                0.0, 1.0
            )
        case "pinch":
            bent = np.clip(rng.uniform(0.1, 0.7) + rng.normal(0, 0.05, FINGERS), 0, 1)
            bent[:2] = rng.uniform(0.35, 0.55)
            return bent, rng.uniform(0.75, 1.0)
    return rng.uniform(0.0, 1.0, FINGERS), rng.uniform(0.0, 1.0)


def sample_hand(rng: np.random.Generator) -> Hand:
    """Draws a hand in its own frame.

    >>> hand = sample_hand(np.random.default_rng(0))
    >>> bool(np.isclose(hands.bone_length(hand.joints), hand.bone)), hand.joints[0].tolist()
    (True, [0.0, 0.0, 0.0])
    """
    bone = float(np.clip(rng.normal(*KEY_BONE_MM), 29.0, 43.0)) / 1000
    lengths = hands.PROPORTIONS.reshape(FINGERS, 4) * np.exp(rng.normal(0, 0.04, (FINGERS, 4)))
    lengths *= bone / lengths[2, 1]
    bent, oppose = _curls(rng)
    fan = rng.normal(0.35, 0.45)  # how far the fingers are spread
    joints, dorsal = np.zeros((21, 3)), np.zeros((FINGERS, 3))
    for finger in range(FINGERS):
        points, dorsal[finger] = (_thumb if finger == 0 else _finger)(
            rng, finger, lengths[finger], bent[finger], fan, oppose
        )
        joints[4 * finger + np.array([4, 3, 2, 1])] = points
    side: hands.Side = "right" if rng.random() < 0.5 else "left"
    if side == "left":
        joints, dorsal = joints * [-1, 1, 1], dorsal * [-1, 1, 1]
    return Hand(joints, dorsal, bone, side)


def _direction(across: float, out: float) -> np.ndarray:
    """Returns the direction at these degrees from y towards the thumb, and from the palm's plane out of the palm."""
    a, b = np.deg2rad([across, out])
    return np.array([np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), np.sin(b)])


def _finger(rng, finger: int, lengths, bent: float, fan: float, oppose: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the joints (4, 3) from base to tip and the direction out of the back of the last bone."""
    palm = _direction(SPREAD[finger] + rng.normal(0, 1.0), ARCH[finger])
    abduction = np.clip(fan * (SPREAD[finger] - SPREAD[2]) * 0.8 + rng.normal(0, 3), -22, 22) * (1 - bent)
    across = 0.25 * SPREAD[finger] * (1 - 0.6 * bent) + abduction
    forward = _direction(across, 0.0)
    axis = unit(np.cross(forward, [0.0, 0.0, 1.0]))  # bending turns forward towards the palm's side
    # Base -12 to 85, middle 0 to 105 degrees; the last joint follows the middle one.
    base = np.clip(85 * bent ** rng.uniform(0.8, 1.4) - 10 * rng.random() + rng.normal(0, 5), -12, 88)
    middle = np.clip(103 * bent ** rng.uniform(0.7, 1.2) + rng.normal(0, 5), 0, 108)
    last = np.clip(0.62 * middle + rng.normal(0, 5), -4, 75)
    points = [palm * lengths[0]]
    angle = 0.0
    for length, bend in zip(lengths[1:], (base, middle, last), strict=True):
        angle += bend
        direction = about(axis, forward, angle)
        points.append(points[-1] + length * direction)
    return np.array(points), unit(np.cross(axis, direction)) * -1.0


def _thumb(rng, finger: int, lengths, bent: float, fan: float, oppose: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the joints (4, 3) of the thumb from base to tip and the direction out of the back of the last bone."""
    root = _direction(SPREAD[0] + rng.normal(0, 3), ARCH[0] + 12 * oppose)
    forward = _direction(38 - 26 * oppose + 8 * np.clip(fan, -1, 1) + rng.normal(0, 4), 8 + 42 * oppose)
    towards = np.array([-1.0, 0.15, 0.35])  # the thumb bends across the palm
    towards = unit(towards - (towards @ forward) * forward)
    axis = np.cross(forward, towards)
    first = np.clip(10 * oppose + rng.normal(0, 4), -8, 20)
    middle = np.clip(48 * bent + rng.normal(0, 5), -8, 58)
    last = np.clip(62 * bent + rng.normal(0, 8), -18, 78)
    points, angle = [root * lengths[0]], 0.0
    for length, bend in zip(lengths[1:], (first, middle, last), strict=True):
        angle += bend
        direction = about(axis, forward, angle)
        points.append(points[-1] + length * direction)
    return np.array(points), unit(np.cross(axis, direction)) * -1.0


# ------------------------------------------------------------------------------------------------------------- the picture


def _turn(rng: np.random.Generator) -> np.ndarray:
    """Returns a rotation from the hand's frame to the camera's: fingers mostly upwards, seen from the palm or the back."""
    upright = np.diag([1.0, -1.0, -1.0])  # fingers up, the palm towards the camera
    about_arm = rotation("y", float(rng.choice([0.0, 180.0]) + rng.normal(0, 35)))
    tilt = rotation("x", float(np.clip(rng.normal(0, 25), -70, 70)))
    roll = rotation("z", float(rng.normal(0, 30)))
    return roll @ tilt @ upright @ about_arm


def _camera(rng: np.random.Generator, size_wh: tuple[int, int]) -> Camera:
    pitch = rotation("x", float(rng.normal(8, 6)))
    focal = size_wh[0] * rng.uniform(0.85, 1.6)
    height = float(rng.uniform(1.0, 1.7))
    to_camera = np.diag([-1.0, -1.0, 1.0])
    center = ((size_wh[0] - 1) / 2, (size_wh[1] - 1) / 2)
    return Camera(pitch @ to_camera, np.array([0.0, height, 0.0]), float(focal), center)


def _place(rng: np.random.Generator, hand: Hand, turn: np.ndarray, camera: Camera, size_wh) -> np.ndarray:
    """Returns the joints (21, 3) in the camera's frame, at a random size and place, mostly whole in the picture."""
    joints = hand.joints @ turn.T
    joints = joints - (joints.max(0) + joints.min(0)) / 2
    extent = float((joints.max(0) - joints.min(0))[:2].max())
    cut = rng.random() < 0.1
    for attempt in range(TRIES):
        share = rng.uniform(0.38, 0.8) * (0.95**attempt)
        depth = max(camera.focal * extent / (share * min(size_wh)), 0.2)
        middle = (
            (np.array([rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)]) * size_wh - camera.centre) / camera.focal * depth
        )
        placed = joints + [*middle, depth]
        xy = placed[:, :2] / placed[:, 2:] * camera.focal + camera.centre
        inside = ((xy >= 0) & (xy <= np.asarray(size_wh) - 1)).all(1)
        if inside.mean() >= (0.8 if cut else 1.0):
            return placed
    return joints + [0.0, 0.0, camera.focal * extent / (0.5 * min(size_wh))]


def _flesh(prims: Primitives, joints: np.ndarray, dorsal: np.ndarray, hand: Hand, paint: dict[str, int]) -> None:
    """Adds the hand's primitives; `joints` and `dorsal` are in world coordinates. A primitive knows the joints that it shows."""
    skin_of, bone = {"material": paint["skin"], "owner": 0}, hand.bone
    wrist, bases = joints[0], joints[[8, 12, 16, 20]]
    out = unit(np.cross(bases[0] - wrist, bases[3] - wrist))  # across the palm
    for finger in range(FINGERS):
        order = 4 * finger + np.array([4, 3, 2, 1])
        radii = THICK[finger] * bone
        for i in range(3):
            a, b = order[i], order[i + 1]
            mask = (1 << int(a)) | (1 << int(b))
            prims.cone(joints[a], joints[b], radii[i], radii[i + 1], joints=mask, **skin_of)
            prims.ball(joints[a], radii[i] * 1.03, joints=1 << int(a), **skin_of)
        tip, before = joints[order[3]], joints[order[2]]
        along = unit(tip - before)
        prims.ball(tip, radii[3] * 1.02, joints=1 << int(order[3]), **skin_of)
        back = dorsal[finger] - (dorsal[finger] @ along) * along
        back = unit(back)
        frame = np.stack([np.cross(along, back), along, back], 1)
        prims.ball(tip - along * radii[3] * 0.35 + back * radii[3] * 0.55, radii[3] * np.array([0.72, 1.0, 0.52]), frame=frame,
                   joints=1 << int(order[3]), material=paint["nail"], owner=0)  # fmt: skip
    # The palm: bones to the bases of the fingers, flesh between them, the ball of the thumb.
    width = bone * 0.36
    for base, joint in zip(bases, (8, 12, 16, 20), strict=True):
        prims.cone(wrist, base, width * 1.0, bone * 0.31, wide=base - wrist, joints=1 | (1 << joint), **skin_of)
    for a, b in zip(bases[:-1], bases[1:], strict=True):
        prims.cone(a, b, bone * 0.27, bone * 0.27, **skin_of)
        for share in (0.35, 0.7):
            prims.cone(
                wrist + share * (a - wrist), wrist + share * (b - wrist), bone * 0.33, bone * 0.33, joints=1, **skin_of
            )
    thumb = joints[4]
    prims.cone(wrist, thumb, bone * 0.42, THICK[0, 0] * bone * 1.1, joints=1 | (1 << 4), **skin_of)
    prims.cone(thumb, wrist + 0.75 * (bases[0] - wrist), bone * 0.33, bone * 0.28, joints=1 << 4, **skin_of)
    prims.cone(joints[3], wrist + 0.85 * (bases[0] - wrist), bone * 0.20, bone * 0.22, **skin_of)
    prims.ball(wrist, bone * np.array([0.62, 0.5, 0.40]), frame=np.stack([unit(np.cross(bases[1] - wrist, out)),
               unit(bases[1] - wrist), out], 1), joints=1, **skin_of)  # fmt: skip


def _arm(rng, prims: Primitives, joints: np.ndarray, hand: Hand, paint: dict[str, int], camera: Camera) -> None:
    """Adds the forearm, bent at the wrist, in a sleeve or bare; one that points at the camera is as long as can be drawn."""
    wrist, bases = joints[0], joints[[8, 12, 16, 20]]
    back = unit(wrist - bases.mean(0))
    across = unit(np.cross(bases[0] - wrist, bases[3] - wrist))
    side = np.cross(back, across)
    back = unit(back + across * rng.normal(0, 0.3) + side * rng.normal(0, 0.15))
    length, r = hand.bone * 5.5, hand.bone
    depth, towards = camera.to_camera(wrist)[2], -(camera.rotation @ back)[2]
    if towards > 0:
        length = min(length, max(depth - 0.06 - 1.3 * r, 0.5 * r) / towards)
    # A cone's first radius is measured along `wide`, the second across it: a wrist is wider than thick.
    prims.cone(
        wrist,
        wrist + back * length,
        r * 0.64,
        r * 0.95,
        wide=side,
        flat=0.72,
        material=paint["skin"],
        owner=0,
        joints=1,
    )
    if rng.random() < 0.55:
        start = wrist + back * min(hand.bone * rng.uniform(0.4, 2.5), 0.8 * length)
        prims.cone(
            start, wrist + back * length, r * 0.95, r * 1.25, wide=side, flat=0.8, material=paint["sleeve"], owner=-1
        )


def _clutter(
    rng: np.random.Generator, prims: Primitives, palette: Palette, camera: Camera, center: np.ndarray, bone: float
) -> None:
    """Adds things behind the hand and, now and then, one in front of a part of it."""
    to_world = camera.rotation.T
    for _ in range(rng.integers(0, 5)):
        depth = center[2] + rng.uniform(0.25, 1.5)
        spot = np.array([*(rng.uniform(-0.5, 0.5, 2) * depth), depth])
        material = palette.add(plain(random_colour(rng)) if rng.random() < 0.5 else cloth(rng))
        size = rng.uniform(0.03, 0.2, 3)
        turn = rotation("y", float(rng.uniform(0, 180))) @ rotation("x", float(rng.uniform(0, 180)))
        world = spot @ to_world.T + camera.position
        (prims.box if rng.random() < 0.6 else prims.ball)(world, size, frame=turn, material=material)
    if rng.random() < 0.12:
        depth = center[2] - bone * rng.uniform(1.8, 2.6)
        spot = np.array([*(center[:2] * depth / center[2]), depth]) + [*rng.normal(0, 2.0 * bone, 2), 0]
        size = bone * rng.uniform(0.2, 0.9, 3)
        turn = rotation("z", float(rng.uniform(0, 180))) @ rotation("x", float(rng.uniform(0, 180)))
        world = spot @ to_world.T + camera.position
        material = palette.add(plain(random_colour(rng, vivid=True)))
        (prims.box if rng.random() < 0.5 else prims.ball)(world, size, frame=turn, material=material)


def _seen(
    surface: Surface, prims: Primitives, xy: np.ndarray, depth: np.ndarray, radii: np.ndarray, size_wh
) -> np.ndarray:
    """Returns (21,) True for joints inside the picture at whose pixel the depth buffer shows their own part of the hand."""
    inside = ((xy >= 0) & (xy <= np.asarray(size_wh) - 1)).all(1)
    sub = np.rint((np.where(inside[:, None], xy, 0.0) + 0.5) * SUPERSAMPLE - 0.5).astype(int)
    hit, surface_depth = surface.index[sub[:, 1], sub[:, 0]], surface.depth[sub[:, 1], sub[:, 0]]
    carries = (np.array(prims.joints)[hit] >> np.arange(21)) & 1
    return inside & (hit >= 0) & (carries == 1) & (depth - surface_depth <= NEAR_FLESH * radii)


def render(seed: int, index: int, *, size_wh: tuple[int, int] = (160, 160)) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draws picture `index` of the hands with this seed; it depends on these numbers only.

    Args:
        seed, index: Integers from 0.
        size_wh: The width and height in pixels.

    Returns:
        image (h, w, 3) uint8 RGB, and the annotation of its hand, without ids, in a list.

    Raises:
        ValueError: The seed or index is negative, or the picture is smaller than 32 x 32.

    >>> image, (hand,) = render(0, 0, size_wh=(96, 96))
    >>> image.shape, len(hand["keypoints"]), len(hand["keypoints_3d"])
    ((96, 96, 3), 63, 63)
    """
    check(seed=seed, index=index, size_wh=size_wh)
    rng = np.random.default_rng([seed, index, 21])
    hand, camera, turn = sample_hand(rng), _camera(rng, size_wh), _turn(rng)
    in_camera = _place(rng, hand, turn, camera, size_wh)
    to_world = camera.rotation.T
    joints, dorsal = in_camera @ to_world.T + camera.position, hand.dorsal @ turn.T @ to_world.T
    prims, palette = Primitives(), Palette()
    tone = skin(rng)
    paint = {"skin": palette.add(tone), "nail": palette.add(_nail(tone)), "sleeve": palette.add(cloth(rng))}
    _flesh(prims, joints, dorsal, hand, paint)
    _arm(rng, prims, joints, hand, paint, camera)
    _clutter(rng, prims, palette, camera, in_camera[12], hand.bone)
    surface = draw(
        prims, rotation=camera.rotation, position=camera.position, focal=camera.focal, centre_xy=camera.centre,
        size_wh=size_wh, supersample=SUPERSAMPLE,
    )  # fmt: skip
    outdoors = bool(rng.random() < 0.3)
    wall = 40.0 if outdoors else float(rng.uniform(1.5, 4.0))
    backdrop = draw_backdrop(rng, camera, size_wh, wall=wall, outdoors=outdoors, shadows=[])
    image = photograph(rng, backdrop, surface, prims, palette, supersample=SUPERSAMPLE)
    xy = camera.project(joints)
    radii = np.concatenate([[0.5], THICK[:, ::-1].ravel()]) * hand.bone
    visible = _seen(surface, prims, xy, in_camera[:, 2], radii, size_wh)
    person = rhd.annotation(
        xy, visible, 1000 * in_camera, camera=np.array([camera.focal, camera.focal, *camera.centre]), side=hand.side,
        size=size_wh, where=f"picture {index}", problems=Problems(Path("synthetic hands"), "error"),
    )  # fmt: skip
    return image, [person]


def _nail(tone: Material) -> Material:
    first = 0.55 * np.array(tone.first) + 0.45 * np.array([236.0, 190.0, 180.0])
    return Material(tuple(first), shine=0.35)


# ------------------------------------------------------------------------------------------------------------- the data set


def _write_image(
    task: tuple[str, int], *, folder: Path, seed: int, size_wh: tuple[int, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Renders and stores one picture; returns its COCO image entry and annotations."""
    split, number = task
    pixels, people = render(seed, number + (dataset.HELD_OUT if split == "val" else 0), size_wh=size_wh)
    name = f"{number + 1:012d}.jpg"
    Image.fromarray(pixels).save(folder / split / name, quality=dataset.JPEG_QUALITY)
    image = {"id": number + 1, "file_name": name, "width": size_wh[0], "height": size_wh[1]}
    return image, [{"id": number + 1, "image_id": number + 1, **person} for person in people]


def write_hands(
    out_dir: str | os.PathLike,
    *,
    train: int = 1800,
    val: int = 200,
    seed: int = 0,
    size_wh: tuple[int, int] = (160, 160),
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes a COCO folder of synthetic hands, or reuses an existing one.

    The folder holds ``annotations/{train,val}.json``, ``{train,val}/000000000001.jpg`` and so on, and ``synthetic.json``, the
    parameters. It is renamed into place when it is complete.

    Args:
        out_dir: The folder to create.
        train, val: The numbers of pictures, with one hand each.
        seed: The seed of the data set; pixels and labels depend on it alone, whatever the number of workers.
        size_wh: The width and height of the pictures in pixels.
        workers: The number of processes; None for one per available CPU.
        progress: Show a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: The folder holds something else, or a number is out of range.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = write_hands(place, train=1, val=1, size_wh=(64, 64), workers=1, progress=False)
    ...     sorted(path.name for path in (folder / "annotations").iterdir())
    ['train.json', 'val.json']
    """
    if train < 1 or val < 1 or max(train, val) >= dataset.HELD_OUT:
        raise ValueError(f"train and val must be 1 or more and below {dataset.HELD_OUT}, got {train} and {val}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1 (or None for one per CPU), got {workers}")
    check(seed=seed, index=0, size_wh=size_wh)
    out = Path(out_dir).absolute()
    parameters = {"hands": VERSION, "train": train, "val": val, "seed": seed, "size_wh": list(size_wh)}
    if dataset.is_complete(out, parameters):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with dataset.workplace(out) as folder:
        try:
            _write(folder, parameters, workers=workers, progress=progress)
            folder.rename(out)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if (out / dataset.MARKER).is_file() and dataset.is_complete(out, parameters):
                return out  # another process has completed the same data set meanwhile
            raise
    return out


def _write(folder: Path, parameters: dict[str, Any], *, workers: int | None, progress: bool) -> None:
    train, val = parameters["train"], parameters["val"]
    for name in ("annotations", "train", "val"):
        (folder / name).mkdir()
    work = partial(_write_image, folder=folder, seed=parameters["seed"], size_wh=tuple(parameters["size_wh"]))
    processes = min(workers or len(os.sched_getaffinity(0)), -(-(train + val) // 8))
    results = dataset.run_all(work, train=train, val=val, workers=processes, content="hands", progress=progress)
    for split, part in (("train", results[:train]), ("val", results[train:])):
        content = {
            "info": {"description": "jaxpose synthetic hands", "version": str(VERSION)},
            "images": [image for image, _ in part],
            "annotations": [person for _, people in part for person in people],
            "categories": [rhd.category()],
        }
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    (folder / dataset.MARKER).write_text(json.dumps(parameters))
    folder.chmod(0o755)
