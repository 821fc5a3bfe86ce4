"""The dressed body as primitives: balls and cones of skin, cloth, hair and shoes, in fractions of the body height.

Cues for front and back: the face, a number on the chest, hair that hides the nape, the visor of a cap, a backpack. Cues
for left and right: sports kits. Sleeves and trouser legs have a hue per side, and are darker below the elbow and the
knee, a cue that a net of a few hundred thousand weights learns in minutes. The badge and the watch are always on the
left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpose.data.synthetic.paint import Palette, cloth, hair, kit, lips, plain, random_colour, skin
from jaxpose.data.synthetic.pose import LEFT, SIDES, UP, Body, unit
from jaxpose.data.synthetic.raster import Primitives, cross
from jaxpose.skeleton import COCO17

JOINT = {name: i for i, name in enumerate(COCO17.joints)}
FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
HIPS = ("left_hip", "right_hip")
SHOULDERS = ("left_shoulder", "right_shoulder")
HUES = {"left_arm": 0.98, "right_arm": 0.60, "left_leg": 0.16, "right_leg": 0.80}  # red, blue, yellow, violet
CAP_HUE = 0.36  # green


@dataclass
class Outfit:
    """The clothes of a person; materials are rows of the scene's palette."""

    skin: int
    hair: int
    lips: int
    white: int
    dark: int
    shirt: int
    kit: dict[str, tuple[int, int]]  # the upper and lower half of each arm and leg
    trousers: int
    left_shoe: int
    right_shoe: int
    accent: int  # watch, badge, backpack
    cap: int
    bib: int
    sleeve: float  # covered segments of the arm: 0 none, 1 to the elbow, 2 all
    leg: float  # covered segments of the leg
    hair_style: str  # bald, short, long, bun, cap
    beard: bool
    watch: bool
    badge: bool
    number: bool  # a white bib on the chest
    backpack: bool
    skirt: bool


def sample_outfit(rng: np.random.Generator, palette: Palette, body: Body) -> Outfit:
    """Draws clothes and colours; a skirt only for a person who stands or walks."""
    tone, shirt = skin(rng), palette.add(cloth(rng))
    accent = palette.add(plain(random_colour(rng, vivid=True)))
    shoe = palette.add(plain(random_colour(rng)))
    other_shoe = palette.add(plain(random_colour(rng)))
    style = str(rng.choice(["bald", "short", "long", "bun", "cap"], p=[0.03, 0.20, 0.12, 0.05, 0.60]))
    sleeve = rng.choice([rng.uniform(0.5, 0.9), 1.95], p=[0.15, 0.85])
    leg = rng.choice([rng.uniform(0.6, 0.9), 1.95], p=[0.15, 0.85])
    skirt = body.kind in ("stand", "walk") and rng.random() < 0.05
    kits = {limb: tuple(palette.add(half) for half in kit(rng, hue)) for limb, hue in HUES.items()}
    return Outfit(
        skin=palette.add(tone),
        hair=palette.add(hair(rng)),
        lips=palette.add(lips(tone)),
        white=palette.add(plain((238, 238, 232))),
        dark=palette.add(plain((40, 30, 25))),
        shirt=shirt,
        kit=kits,
        trousers=palette.add(cloth(rng, uniform=0.8, dark=0.7)),
        left_shoe=shoe,
        right_shoe=other_shoe if rng.random() < 0.2 else shoe,
        accent=accent,
        cap=palette.add(kit(rng, CAP_HUE)[0]),
        bib=palette.add(plain(np.full(3, rng.uniform(215, 250)))),
        sleeve=float(sleeve),
        leg=0.0 if skirt else float(leg),
        hair_style=style,
        beard=bool(style in ("short", "bald") and rng.random() < 0.35),
        watch=bool(rng.random() < 0.7),
        badge=bool(rng.random() < 0.6),
        number=bool(rng.random() < 0.85),
        backpack=bool(body.kind in ("stand", "walk") and rng.random() < 0.15),
        skirt=bool(skirt),
    )


@dataclass
class _Brush:
    """Adds primitives for one person; radii and cloth offsets in fractions of its height."""

    prims: Primitives
    owner: int
    height: float

    def ball(self, centre, radii, material, *, joints=(), frame=None, offset=0.0, cut=None) -> None:
        radii = np.asarray(radii) * self.height
        self.prims.ball(centre, radii, frame=frame, cut=cut, **self._paint(material, joints, offset))

    def cone(self, start, end, r0, r1, material, *, joints=(), wide=None, flat=1.0, offset=0.0) -> None:
        r0, r1 = r0 * self.height, r1 * self.height
        self.prims.cone(start, end, r0, r1, wide=wide, flat=flat, **self._paint(material, joints, offset))

    def segment(
        self, start, end, r0, r1, covered, cloth, skin, *, loose=1.12, offset=0.0, joints=(), wide=None
    ) -> None:
        """Adds a limb of skin with cloth over the share `covered` of it."""
        if covered < 1.0:
            self.cone(start, end, r0, r1, skin, joints=joints, wide=wide)
        if covered > 0.0:
            covered = min(covered, 1.0)
            stop, r_stop = start + covered * (end - start), r0 + covered * (r1 - r0)
            self.cone(start, stop, r0 * loose, r_stop * loose, cloth, joints=joints, wide=wide, offset=offset)

    def _paint(self, material, joints, offset) -> dict:
        mask = sum(1 << JOINT[name] for name in joints)
        return dict(owner=self.owner, joints=mask, material=material, offset=offset * self.height)


def draw_body(prims: Primitives, body: Body, outfit: Outfit, *, owner: int) -> None:
    """Appends the primitives of one dressed person."""
    brush = _Brush(prims, owner, body.shape.height)
    _trunk(brush, body, outfit)
    _head(brush, body, outfit)
    _hair(brush, body, outfit)
    for side, name in SIDES:
        _arm(brush, body, outfit, side, name)
        _leg(brush, body, outfit, name)
    if outfit.skirt:
        _skirt(brush, body, outfit)
    if outfit.backpack:
        _backpack(prims, body, outfit)


def _chest_radius(body: Body) -> float:
    return body.shape.shoulder * 0.93 * (0.6 + 0.4 * body.shape.girth)


def _trunk(brush: _Brush, body: Body, outfit: Outfit) -> None:
    """Adds pelvis, belly and chest, flatter than wide; trapezius and neck."""
    p, h, g, shirt = body.points, body.shape.height, body.shape.girth, outfit.shirt
    left, up, front = body.chest.T
    hip_up = body.pelvis[:, 1] * h
    waist, chest = 0.080 * body.shape.waist * g, _chest_radius(body)
    hips = np.array([0.078 + body.shape.hip * 0.36, 0.062, 0.074]) * g
    brush.ball(p["midhip"] + hip_up * 0.015, hips, outfit.trousers, frame=body.pelvis, joints=HIPS)
    brush.cone(p["midhip"], p["waist"], 0.097 * g, waist, shirt, wide=body.pelvis[:, 0], flat=0.72, joints=HIPS)
    brush.ball(p["waist"], (waist, 0.05 * g, waist * 0.72), shirt, frame=body.chest, joints=HIPS)
    top = p["collar"] - up * (0.045 * h)
    brush.cone(p["waist"], top, waist, chest, shirt, wide=left, flat=0.70, joints=SHOULDERS, offset=0.125)
    brush.ball(top, (chest, 0.05, chest * 0.70), shirt, frame=body.chest, joints=SHOULDERS, offset=0.25)
    collar = p["neck"] - up * (0.010 * h) - front * (0.006 * h)
    brush.ball(collar, np.array([0.052, 0.026, 0.050]) * g, shirt, frame=body.chest, joints=SHOULDERS, offset=0.28)
    for _, name in SIDES:
        start, end = p["neck"] + up * (0.012 * h), p[f"{name}_shoulder"] + up * (0.006 * h)
        brush.cone(start, end, 0.032 * g, 0.028 * g, shirt, joints=SHOULDERS, offset=0.28)
    brush.cone(p["neck"] - up * (0.02 * h), p["skull"] + body.head[:, 1] * (0.02 * h), 0.036 * g, 0.033, outfit.skin)
    if outfit.number:
        middle = 0.5 * (waist + chest) * 0.70
        spot = p["waist"] + (up * 0.075 + front * (middle - 0.006)) * h
        brush.ball(spot, (0.060, 0.055, 0.014), outfit.bib, frame=body.chest, joints=SHOULDERS)
    if outfit.badge:
        spot = p["collar"] + (left * 0.045 - up * 0.05 + front * chest * 0.66) * h
        brush.ball(spot, (0.026, 0.024, 0.014), outfit.accent, frame=body.chest, joints=SHOULDERS)


def _head(brush: _Brush, body: Body, outfit: Outfit) -> None:
    """Adds skull, jaw and cheeks, nose, eyes with brows, ears and mouth, in fractions of the head."""
    frame, size = body.head, body.shape.head

    def ball(x, y, z, radii, material, joints=FACE):
        centre = body.points["head"] + frame @ np.array([x, y, z]) * (size * body.shape.height)
        brush.ball(centre, np.array(radii) * size, material, frame=frame, joints=joints)

    ball(0, 0.12, -0.03, (0.345, 0.38, 0.43), outfit.skin)
    ball(0, -0.18, 0.09, (0.265, 0.31, 0.315), outfit.hair if outfit.beard else outfit.skin)
    ball(0, -0.06, 0.16, (0.27, 0.25, 0.285), outfit.skin)
    ball(0, -0.10, 0.435, (0.055, 0.095, 0.075), outfit.skin)
    ball(0, -0.275, 0.355, (0.095, 0.026, 0.05), outfit.lips)
    for side, name in SIDES:
        x = 0.135 * side
        ball(x, 0.03, 0.372, (0.072, 0.042, 0.045), outfit.white, joints=(f"{name}_eye",))
        ball(x, 0.03, 0.400, (0.034, 0.038, 0.028), outfit.dark, joints=(f"{name}_eye",))
        ball(x, 0.105, 0.375, (0.085, 0.020, 0.045), outfit.hair)
        ball(0.345 * side, -0.04, -0.03, (0.035, 0.105, 0.065), outfit.skin, joints=(f"{name}_ear",))


def _hair(brush: _Brush, body: Body, outfit: Outfit) -> None:
    """Adds a shell around the skull, cut along a plane that rises towards the forehead, and hair that falls from it."""
    frame, size = body.head, body.shape.head

    def ball(x, y, z, radii, material, cut=None):
        centre = body.points["head"] + frame @ np.array([x, y, z]) * (size * body.shape.height)
        brush.ball(centre, np.array(radii) * size, material, frame=frame, cut=cut)

    if outfit.hair_style == "bald":
        return
    ball(0, 0.12, -0.05, (0.375, 0.43, 0.475), outfit.hair, cut=((0.0, 0.80, -0.60), -0.12))
    if outfit.hair_style == "long":
        ball(0, -0.22, -0.24, (0.36, 0.62, 0.24), outfit.hair)
    elif outfit.hair_style == "bun":
        ball(0, 0.30, -0.50, (0.17, 0.17, 0.17), outfit.hair)
    elif outfit.hair_style == "cap":
        ball(0, 0.16, -0.03, (0.385, 0.40, 0.48), outfit.cap, cut=(UP, 0.18))
        ball(0, 0.235, 0.46, (0.28, 0.03, 0.26), outfit.cap)


def _arm(brush: _Brush, body: Body, outfit: Outfit, side: float, name: str) -> None:
    p, h, g = body.points, body.shape.height, 0.25 + 0.75 * body.shape.girth
    shoulder, elbow, wrist = (p[f"{name}_{part}"] for part in ("shoulder", "elbow", "wrist"))
    fabric, cuff = outfit.kit[f"{name}_arm"]
    upper, lower = (f"{name}_shoulder", f"{name}_elbow"), (f"{name}_elbow", f"{name}_wrist")
    long = outfit.sleeve > 1.0
    brush.ball(shoulder, 0.034 * g, fabric if outfit.sleeve else outfit.skin, joints=upper, offset=0.26)
    brush.segment(shoulder, elbow, 0.031 * g, 0.024 * g, outfit.sleeve, fabric, outfit.skin, joints=upper)
    brush.ball(elbow, (0.0265 if long else 0.0245) * g, cuff if long else outfit.skin, joints=lower, offset=0.18)
    covered = outfit.sleeve - 1.0
    brush.segment(elbow, wrist, 0.0255 * g, 0.0165 * g, covered, cuff, outfit.skin, joints=lower, offset=0.18)
    if outfit.watch and side == LEFT:
        end = wrist - (wrist - elbow) * 0.10
        brush.cone(end - (wrist - elbow) * 0.14, end, 0.024 * g, 0.023 * g, outfit.accent, joints=lower)
    _hand(brush, wrist, body.frames[f"{name}_hand"], outfit.skin, side, (f"{name}_wrist",), h, g)


def _hand(brush: _Brush, wrist, frame, material, side, joints, h, g) -> None:
    """Adds palm, fingers and thumb."""
    across, along, through = frame.T * h
    brush.ball(wrist, 0.0165 * g, material, joints=joints)
    brush.ball(wrist + along * 0.032, (0.021, 0.036, 0.012), material, frame=frame, joints=joints)
    brush.ball(wrist + along * 0.066 + through * 0.005, (0.018, 0.030, 0.010), material, frame=frame, joints=joints)
    thumb = wrist + along * 0.05 + across * (0.026 * side)
    brush.cone(wrist + along * 0.012, thumb, 0.009, 0.006, material, joints=joints)


def _leg(brush: _Brush, body: Body, outfit: Outfit, name: str) -> None:
    p, h, g = body.points, body.shape.height, 0.2 + 0.8 * body.shape.girth
    hip, knee, ankle = (p[f"{name}_{part}"] for part in ("hip", "knee", "ankle"))
    (fabric, cuff), bare, wide = outfit.kit[f"{name}_leg"], outfit.skin, body.pelvis[:, 0]
    upper, lower = (f"{name}_hip", f"{name}_knee"), (f"{name}_knee", f"{name}_ankle")
    long = outfit.leg > 1.0
    below = cuff if long else bare
    brush.ball(hip, 0.060 * g, fabric, frame=body.pelvis, joints=upper)
    brush.segment(hip, knee, 0.057 * g, 0.037 * g, outfit.leg, fabric, bare, loose=1.08, joints=upper, wide=wide)
    brush.ball(knee, (0.040 if long else 0.037) * g, below, joints=lower, offset=0.24)
    covered = outfit.leg - 1.0
    brush.segment(
        knee, ankle, 0.035 * g, 0.022 * g, covered, cuff, bare, loose=1.14, joints=lower, wide=wide, offset=0.24
    )
    brush.ball(ankle, 0.0235 * g, below, joints=lower)

    shin, frame = unit(ankle - knee), body.frames[f"{name}_foot"]
    across, toe, sole = frame.T
    front = unit(cross(shin, across))  # the calf is behind it
    calf = np.stack([cross(shin, front), shin, front], 1)
    radii = np.array([0.033, 0.075, 0.036]) * g * (1.1 if long else 1.0)
    behind = front * (-0.010 if front @ toe > 0 else 0.010)
    brush.ball(knee + (shin * 0.075 + behind) * h, radii, below, frame=calf, joints=lower, offset=0.3)

    shoe, foot = outfit.left_shoe if name == "left" else outfit.right_shoe, (f"{name}_ankle",)
    brush.ball(ankle + (sole * 0.016 - toe * 0.008) * h, (0.024, 0.034, 0.024), shoe, frame=frame, joints=foot)
    brush.ball(ankle + (sole * 0.018 + toe * 0.055) * h, (0.027, 0.060, 0.021), shoe, frame=frame, joints=foot)


def _skirt(brush: _Brush, body: Body, outfit: Outfit) -> None:
    """Adds a cone from the waist to the knees, as wide as the step."""
    p, h, g = body.points, body.shape.height, body.shape.girth
    knees = 0.5 * (p["left_knee"] + p["right_knee"])
    step = 0.5 * np.sqrt(((p["left_knee"] - p["right_knee"]) ** 2).sum()) / h
    top = p["midhip"] + body.pelvis[:, 1] * (0.03 * h)
    end = p["midhip"] + 0.85 * (knees - p["midhip"])
    joints = HIPS + ("left_knee", "right_knee")
    brush.cone(top, end, 0.100 * g, 0.06 + step, outfit.trousers, wide=body.pelvis[:, 0], flat=0.85, joints=joints)


def _backpack(prims: Primitives, body: Body, outfit: Outfit) -> None:
    """Adds a bag on the back with straps over the shoulders; it is not part of the person, so joints behind it are occluded."""
    h, p, depth = body.shape.height, body.points, _chest_radius(body) * 0.70
    left, up, front = body.chest.T * h
    middle = p["collar"] - up * 0.10 - front * (depth + 0.035)
    prims.ball(middle, np.array([0.085, 0.115, 0.055]) * h, frame=body.chest, material=outfit.accent)
    for side, _ in SIDES:
        top = p["neck"] + left * (0.062 * side) + up * 0.012
        end = p["collar"] + left * (0.070 * side) - up * 0.10 + front * (depth + 0.004)
        prims.cone(top, end, 0.010 * h, 0.010 * h, material=outfit.accent)
        prims.cone(top, middle + left * (0.06 * side) + up * 0.08, 0.010 * h, 0.010 * h, material=outfit.accent)
