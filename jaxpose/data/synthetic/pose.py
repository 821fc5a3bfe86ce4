"""One body: proportions, a pose within anatomical limits, and forward kinematics.

A body frame has x to the person's left, y up, z forward (right-handed); world axes are the same kind. Lengths are
fractions of the body height unless a name says metres; angles are degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpose.data.synthetic.raster import cross
from jaxpose.skeleton import COCO17, H36M18

LEFT, RIGHT = 1.0, -1.0
SIDES = ((LEFT, "left"), (RIGHT, "right"))
UP = np.array([0.0, 1.0, 0.0])
OTHER_NAMES = {"pelvis": "midhip", "torso": "waist", "neck": "collar", "nose": "skull", "head": "crown"}
"""The point of a body for each joint of Human3.6M with a name of its own."""


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Returns the right-handed rotation about a coordinate axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def about(axis: np.ndarray, vector: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates `vector` about the unit vector `axis` (Rodrigues)."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return vector * c + cross(axis, vector) * s + axis * (axis @ vector) * (1 - c)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt(vector @ vector)


@dataclass(frozen=True)
class Shape:
    """Proportions of one person. `height` in metres, the rest in fractions of it."""

    height: float
    head: float  # chin to crown
    leg: float  # factor on thigh and shin
    arm: float  # factor on upper arm and forearm
    shoulder: float  # half distance of the shoulder joints
    hip: float  # half distance of the hip joints
    girth: float  # factor on all radii
    waist: float  # factor on the waist's radius


def sample_shape(rng: np.random.Generator) -> Shape:
    """Draws adults, and one child in eight (shorter limbs, a larger head)."""
    child = rng.random() < 0.12
    wide = rng.normal()
    return Shape(
        height=float(rng.uniform(1.05, 1.4) if child else np.clip(rng.normal(1.70, 0.09), 1.48, 1.95)),
        head=float((0.160 if child else 0.134) * np.clip(rng.normal(1.0, 0.03), 0.93, 1.07)),
        leg=float((0.94 if child else 1.0) * np.clip(rng.normal(1.0, 0.025), 0.94, 1.06)),
        arm=float((0.95 if child else 1.0) * np.clip(rng.normal(1.0, 0.03), 0.93, 1.07)),
        shoulder=0.106 + 0.006 * float(np.clip(wide, -1.5, 1.5)),
        hip=0.055 - 0.003 * float(np.clip(wide, -1.5, 1.5)),
        girth=float(np.exp(np.clip(rng.normal(0.02, 0.11), -0.2, 0.28))),
        waist=float(np.clip(rng.normal(1.0, 0.08), 0.86, 1.2)),
    )


@dataclass
class Limb:
    """Angles of an arm or a leg.

    raise_: The angle of the upper segment, from hanging. aside: For an arm, the direction in which it is raised (0
        forwards,
    90 to the side); for a leg, how far it is spread. twist: The turn of the hinge about the upper segment, towards the
    middle for an elbow, outwards for a knee. bend: The angle of the hinge. point: The angle of the toes, downwards.
    """

    raise_: float
    aside: float
    twist: float
    bend: float
    point: float = 0.0


@dataclass
class Pose:
    """Angles of the trunk and the head; the limbs; the kind of the legs (a key of LEG_KINDS)."""

    lean: float  # pelvis forwards
    roll: float  # pelvis to the side
    bow: float  # spine forwards
    tilt: float  # spine to the side
    turn: float  # shoulders against hips
    nod: float  # head forwards
    look: float  # head about the vertical
    cock: float  # head to the side
    arms: tuple[Limb, Limb]  # left, right
    legs: tuple[Limb, Limb]
    kind: str


def _u(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _arm(rng: np.random.Generator, kind: str) -> Limb:
    """Draws an arm. raise: 0 hangs, 90 horizontal, 170 up; aside: 0 forwards, 90 to the side, 180 back."""
    match kind:
        case "hang":
            return Limb(_u(rng, 4, 18), _u(rng, 40, 110), _u(rng, 0, 40), _u(rng, 5, 40))
        case "swing":
            return Limb(_u(rng, 5, 40), rng.choice([0.0, 170.0]) + _u(rng, -10, 20), _u(rng, 0, 30), _u(rng, 10, 80))
        case "hip":  # hand on the hip
            return Limb(_u(rng, 38, 52), _u(rng, 95, 125), _u(rng, 68, 85), _u(rng, 85, 105))
        case "up":
            return Limb(_u(rng, 130, 172), _u(rng, 30, 100), _u(rng, -30, 30), _u(rng, 0, 70))
        case "wave":
            return Limb(_u(rng, 60, 110), _u(rng, 70, 100), _u(rng, -70, -35), _u(rng, 50, 120))
        case "side":
            return Limb(_u(rng, 55, 105), _u(rng, 65, 105), _u(rng, -40, 40), _u(rng, 0, 50))
        case "reach":
            return Limb(_u(rng, 55, 120), _u(rng, -5, 45), _u(rng, -30, 50), _u(rng, 0, 50))
        case "carry":
            return Limb(_u(rng, 8, 30), _u(rng, 20, 60), _u(rng, 0, 45), _u(rng, 75, 110))
        case "cross":
            return Limb(_u(rng, 28, 42), _u(rng, 10, 35), _u(rng, 65, 85), _u(rng, 88, 112))
        case _:  # "phone": a hand at the ear
            return Limb(_u(rng, 35, 70), _u(rng, 30, 75), _u(rng, 0, 30), _u(rng, 128, 145))


def _legs(rng: np.random.Generator, kind: str, lean: float) -> tuple[Limb, Limb]:
    """Draws both legs. raise: thigh forwards against the pelvis (so a leaning pelvis adds to it); aside: spread."""
    if kind == "stand":
        spread = _u(rng, 1, 10)
        return tuple(Limb(lean + _u(rng, -4, 8), spread, _u(rng, 0, 18), _u(rng, 0, 10)) for _ in range(2))
    if kind == "walk":
        front, back = _u(rng, 12, 32), _u(rng, -24, -8)
        pair = [
            Limb(lean + front, _u(rng, 0, 5), _u(rng, 0, 10), _u(rng, 2, 25)),
            Limb(lean + back, _u(rng, 0, 5), _u(rng, 0, 10), _u(rng, 8, 50), _u(rng, 0, 25)),
        ]
    elif kind == "run":
        pair = [
            Limb(lean + _u(rng, 35, 75), _u(rng, 0, 6), 0.0, _u(rng, 50, 100)),
            Limb(lean + _u(rng, -28, -5), _u(rng, 0, 6), 0.0, _u(rng, 10, 90), _u(rng, 10, 35)),
        ]
    elif kind == "sit":
        spread = _u(rng, 3, 20)
        return tuple(
            Limb(lean + _u(rng, 80, 96), spread + _u(rng, -3, 3), _u(rng, -8, 12), _u(rng, 70, 105)) for _ in range(2)
        )
    elif kind == "squat":
        raised, spread, bend = lean + _u(rng, 75, 115), _u(rng, 8, 28), _u(rng, 95, 135)
        return tuple(Limb(raised + _u(rng, -6, 6), spread, _u(rng, 0, 20), bend + _u(rng, -6, 6)) for _ in range(2))
    elif kind == "kneel":
        pair = [
            Limb(lean + _u(rng, 75, 95), _u(rng, 0, 8), 0.0, _u(rng, 80, 100)),
            Limb(lean + _u(rng, -8, 5), _u(rng, 0, 8), 0.0, _u(rng, 85, 100), 60.0),
        ]
    else:  # "lunge"
        pair = [
            Limb(lean + _u(rng, 40, 75), _u(rng, 0, 12), 0.0, _u(rng, 45, 85)),
            Limb(lean + _u(rng, -25, -5), _u(rng, 0, 12), 0.0, _u(rng, 5, 35), _u(rng, 10, 30)),
        ]
    return tuple(pair if rng.random() < 0.5 else pair[::-1])


LEG_KINDS = {"stand": 0.46, "walk": 0.25, "run": 0.05, "sit": 0.13, "squat": 0.03, "kneel": 0.03, "lunge": 0.05}
ARM_KINDS = {
    "hang": 0.36,
    "swing": 0.14,
    "hip": 0.08,
    "up": 0.09,
    "wave": 0.05,
    "side": 0.06,
    "reach": 0.06,
    "carry": 0.09,
    "cross": 0.03,
    "phone": 0.04,
}


def _choose(rng: np.random.Generator, table: dict[str, float]) -> str:
    weights = np.array(list(table.values()))
    return list(table)[rng.choice(len(table), p=weights / weights.sum())]


def sample_pose(rng: np.random.Generator) -> Pose:
    """Draws legs and arms by kind and combines them; one standing person in twelve bends forwards."""
    legs = _choose(rng, LEG_KINDS)
    bending = legs in ("stand", "lunge") and rng.random() < 0.08
    bow = _u(rng, 20, 60) if bending else max(-8.0, float(rng.normal(5, 6)))
    leans = {"run": (6, 18), "squat": (8, 28), "sit": (-14, 6)}
    lean = _u(rng, 10, 40) if bending else _u(rng, *leans.get(legs, (-2, 5)))
    first = _choose(rng, ARM_KINDS)
    second = first if rng.random() < 0.7 or first == "cross" else _choose(rng, ARM_KINDS)
    kinds = (first, second) if rng.random() < 0.5 else (second, first)
    if bending:
        kinds = tuple(rng.choice(["hang", "reach"]) for _ in range(2))
    calm = legs in ("stand", "sit")
    return Pose(
        lean=lean,
        roll=float(rng.normal(0, 3 if calm else 5)),
        bow=bow,
        tilt=float(np.clip(rng.normal(0, 4), -18, 18)),
        turn=float(np.clip(rng.normal(0, 8), -30, 30)),
        nod=float(np.clip(rng.normal(4, 8), -25, 35)) - 0.4 * (bow - 5),
        look=float(np.clip(rng.normal(0, 15), -65, 65)),
        cock=float(np.clip(rng.normal(0, 4), -18, 18)),
        arms=tuple(_arm(rng, kind) for kind in kinds),
        legs=_legs(rng, legs, lean),
        kind=legs,
    )


@dataclass
class Body:
    """World positions (metres) and frames (columns x left, y up, z forward) after forward kinematics."""

    shape: Shape
    pelvis: np.ndarray
    chest: np.ndarray
    head: np.ndarray
    points: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]  # frames of hands and feet: columns across, along, through
    kind: str

    @property
    def joints(self) -> np.ndarray:
        """The 17 COCO joints in world coordinates, metres (17, 3)."""
        return np.stack([self.points[name] for name in COCO17.joints])

    @property
    def space_joints(self) -> np.ndarray:
        """Human3.6M's 18 joints (`jaxpose.skeleton.H36M18`) in world coordinates, metres (18, 3)."""
        crown = self.points["head"] + self.head[:, 1] * (0.5 * self.shape.head * self.shape.height)
        shoulders = (self.points["left_shoulder"] + self.points["right_shoulder"]) / 2
        points = {**self.points, "crown": crown, "thorax": shoulders}
        return np.stack([points[OTHER_NAMES.get(name, name)] for name in H36M18.joints])

    def move(self, offset: np.ndarray) -> None:
        for name in self.points:
            self.points[name] = self.points[name] + offset


def _arm_points(points, frames, shape, chest, side, name, limb) -> None:
    """Places the arm: the upper arm by its spherical direction; the forearm bends towards `inner`, turned by the twist."""
    e, a = np.deg2rad(limb.raise_), np.deg2rad(limb.aside)
    upper = np.array([side * np.sin(e) * np.sin(a), -np.cos(e), np.sin(e) * np.cos(a)])
    front = np.array([0.0, max(0.0, np.sin(e)), 1.0])  # a hanging arm bends forwards, a raised one upwards
    inner = unit(front - upper * (front @ upper))
    # A positive twist turns the forearm towards the middle of the body.
    inner = about(upper, inner, side * limb.twist)
    b = np.deg2rad(limb.bend)
    fore = np.cos(b) * upper + np.sin(b) * inner
    h = shape.height
    shoulder = points[f"{name}_shoulder"]
    elbow = shoulder + chest @ upper * (0.178 * shape.arm * h)
    wrist = elbow + chest @ fore * (0.150 * shape.arm * h)
    points[f"{name}_elbow"], points[f"{name}_wrist"] = elbow, wrist
    along = chest @ fore
    through = chest @ unit(cross(cross(upper, fore) + 1e-3 * np.array([0, 0, 1.0]), fore))
    frames[f"{name}_hand"] = np.stack([cross(along, through), along, through], 1)


def _leg_points(points, frames, shape, pelvis, side, name, limb) -> None:
    """Places the leg: the knee bends backwards only; the foot points along the front of the shin."""
    f, s = np.deg2rad(limb.raise_), np.deg2rad(limb.aside)
    thigh = np.array([side * np.sin(s), -np.cos(f) * np.cos(s), np.sin(f) * np.cos(s)])
    back = np.array([0.0, -np.sin(f), -np.cos(f)])
    back = unit(back - thigh * (back @ thigh))
    back = about(thigh, back, -side * limb.twist)
    k = np.deg2rad(limb.bend)
    shin = np.cos(k) * thigh + np.sin(k) * back
    front = np.sin(k) * thigh - np.cos(k) * back
    h = shape.height
    knee = points[f"{name}_hip"] + pelvis @ thigh * (0.245 * shape.leg * h)
    ankle = knee + pelvis @ shin * (0.246 * shape.leg * h)
    points[f"{name}_knee"], points[f"{name}_ankle"] = knee, ankle
    across = cross(front, shin)
    toe = about(across, front, limb.point)
    frames[f"{name}_foot"] = pelvis @ np.stack([across, toe, cross(across, toe)], 1)


def _flatten_feet(points, frames) -> None:
    """Turns the soles of feet that carry the body horizontal, so that they stand on the ground."""
    ankles = {name: points[f"{name}_ankle"][1] for _, name in SIDES}
    for _, name in SIDES:
        toe = frames[f"{name}_foot"][:, 1]
        if ankles[name] - min(ankles.values()) > 0.04 or abs(toe[1]) > 0.8:
            continue
        toe = unit(toe * np.array([1.0, 0.0, 1.0]))
        across = cross(UP, toe)
        frames[f"{name}_foot"] = np.stack([across, toe, cross(across, toe)], 1)


def _inside_trunk(points, pelvis, chest, shape) -> bool:
    """Tells whether an elbow, a wrist or a hand's tip is inside the trunk (a rough ellipse about the spine)."""
    h = shape.height
    for frame, middle, low, high in (
        (chest, points["waist"], -0.02, 0.20),
        (pelvis, points["midhip"], -0.12, 0.08),
    ):
        for _, name in SIDES:
            for point in (points[f"{name}_elbow"], points[f"{name}_wrist"], points[f"{name}_finger"]):
                x, y, z = frame.T @ (point - middle) / h
                if low < y < high and (x / (0.115 * shape.girth)) ** 2 + (z / (0.085 * shape.girth)) ** 2 < 1.0:
                    return True
    return False


def _inside_head(points, shape) -> bool:
    """Tells whether a wrist or hand is inside the head."""
    h = shape.height
    for _, name in SIDES:
        for point in (points[f"{name}_wrist"], points[f"{name}_finger"]):
            if np.sum((point - points["head"]) ** 2) < (0.062 * h) ** 2:
                return True
    return False


def pose_body(shape: Shape, pose: Pose, *, yaw: float) -> Body:
    """Computes forward kinematics, the middle of the hips above the origin and the lowest point on the ground (y = 0)."""
    h = shape.height
    pelvis = rotation("y", yaw) @ rotation("x", pose.lean) @ rotation("z", pose.roll)
    half = rotation("y", pose.turn / 2) @ rotation("x", pose.bow / 2) @ rotation("z", pose.tilt / 2 - pose.roll / 2)
    spine = pelvis @ half
    chest = spine @ half
    head = chest @ rotation("y", pose.look) @ rotation("x", pose.nod) @ rotation("z", pose.cock)
    neck_frame = chest @ rotation("x", pose.nod / 2 + 12)

    p: dict[str, np.ndarray] = {"midhip": np.zeros(3)}
    frames: dict[str, np.ndarray] = {}
    p["waist"] = p["midhip"] + (pelvis @ [0, 0.07, 0] + spine @ [0, 0.055, -0.004]) * h
    p["collar"] = p["waist"] + chest @ [0, 0.165, -0.008] * h
    p["neck"] = p["collar"] + chest @ [0, 0.012, 0.0] * h
    p["skull"] = p["neck"] + neck_frame @ [0, 0.047, 0] * h  # the joint under the skull
    p["head"] = p["skull"] + head @ [0, 0.50 * shape.head, 0.10 * shape.head] * h
    size = shape.head * h
    face = {"nose": (0, -0.11, 0.475), "left_eye": (0.135, 0.03, 0.385), "right_eye": (-0.135, 0.03, 0.385)}
    face |= {"left_ear": (0.345, -0.04, -0.03), "right_ear": (-0.345, -0.04, -0.03)}
    for name, offset in face.items():
        p[name] = p["head"] + head @ np.array(offset) * size
    for side, name in SIDES:
        p[f"{name}_hip"] = pelvis @ [side * shape.hip, 0, 0] * h
        arm = pose.arms[0 if side == LEFT else 1]
        lift = 0.022 * np.clip((arm.raise_ - 70) / 90, 0, 1)  # the shoulder rises with a raised arm
        p[f"{name}_shoulder"] = p["collar"] + chest @ [side * (shape.shoulder - lift * 0.5), -0.012 + lift, 0] * h
        _arm_points(p, frames, shape, chest, side, name, arm)
        p[f"{name}_finger"] = p[f"{name}_wrist"] + frames[f"{name}_hand"][:, 1] * (0.09 * h)
        _leg_points(p, frames, shape, pelvis, side, name, pose.legs[0 if side == LEFT else 1])
    _flatten_feet(p, frames)
    for _, name in SIDES:
        foot = frames[f"{name}_foot"]
        p[f"{name}_sole"] = p[f"{name}_ankle"] + foot[:, 2] * (0.038 * h)
        p[f"{name}_toe"] = p[f"{name}_ankle"] + foot[:, 1] * (0.10 * h) + foot[:, 2] * (0.036 * h)
    body = Body(shape, pelvis, chest, head, p, frames, pose.kind)
    lowest = min(p[f"{name}_{end}"][1] for _, name in SIDES for end in ("sole", "toe", "knee", "wrist"))
    body.move(np.array([0.0, -lowest, 0.0]))
    return body


def sample_body(rng: np.random.Generator, *, yaw: float, shape: Shape | None = None) -> Body:
    """Draws a pose, and a shape unless one is given; a pose whose arms run through trunk or head is drawn again (a few times)."""
    shape = sample_shape(rng) if shape is None else shape
    for _ in range(6):
        body = pose_body(shape, sample_pose(rng), yaw=yaw)
        if not _inside_trunk(body.points, body.pelvis, body.chest, shape) and not _inside_head(body.points, shape):
            break
    return body
