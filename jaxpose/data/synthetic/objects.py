"""Objects: chairs under sitting people, obstacles in front of people, things in their hands, furniture behind them.

Objects have no owner: a joint behind one is occluded. World coordinates in metres, the ground at y = 0.
"""

from __future__ import annotations

import numpy as np

from jaxpose.data.synthetic.paint import Palette, cloth, leaf, plain, random_colour, wood
from jaxpose.data.synthetic.pose import UP, Body, rotation, unit
from jaxpose.data.synthetic.raster import Primitives, cross

GROUND = np.array([1.0, 0.0, 1.0])


def _stuff(rng: np.random.Generator, palette: Palette) -> int:
    return palette.add(cloth(rng, uniform=0.5, muted=True) if rng.random() < 0.5 else wood(rng))


def _legs(prims: Primitives, corner, frame, half_x, half_z, top, thickness, material) -> None:
    for x in (-half_x, half_x):
        for z in (-half_z, half_z):
            foot = corner + frame @ np.array([x, 0.0, z])
            prims.box(foot + UP * (top / 2), (thickness, top / 2, thickness), frame=frame, material=material)


def chair(rng: np.random.Generator, prims: Primitives, palette: Palette, body: Body) -> None:
    """Adds a seat under a sitting person: a block, a stool, or a chair with a back."""
    material = palette.add(wood(rng))
    forward = unit(body.pelvis[:, 2] * GROUND)
    frame = np.stack([cross(UP, forward), UP, forward], 1)
    h, hips = body.shape.height, body.points["midhip"]
    top = hips[1] - 0.062 * h * body.shape.girth
    spot = hips * GROUND + forward * (0.03 * h)
    if top < 0.08:
        return
    if rng.random() < 0.3:
        prims.box(spot + UP * (top / 2), (0.24, top / 2, 0.22), frame=frame, material=material)
        return
    prims.box(spot + UP * (top - 0.025), (0.23, 0.025, 0.22), frame=frame, material=material)
    _legs(prims, spot, frame, 0.20, 0.19, top, 0.02, material)
    if rng.random() < 0.6:
        prims.box(spot - forward * 0.21 + UP * (top + 0.24), (0.23, 0.20, 0.02), frame=frame, material=material)


def in_hand(rng: np.random.Generator, prims: Primitives, palette: Palette, body: Body) -> None:
    """Adds a ball or a box at the fingers of one hand."""
    spot = body.points[str(rng.choice(["left", "right"])) + "_finger"]
    material = palette.add(cloth(rng, uniform=0.5, muted=True))
    if rng.random() < 0.5:
        prims.ball(spot, rng.uniform(0.05, 0.13), material=material)
    else:
        prims.box(spot, rng.uniform(0.03, 0.14, 3), frame=rotation("y", rng.uniform(0, 90)), material=material)


def obstacle(rng: np.random.Generator, prims: Primitives, palette: Palette, eye: float, body: Body) -> np.ndarray:
    """Adds something on the line from the camera (at height `eye`) to a person; returns where it stands (3,)."""
    share = rng.uniform(0.62, 0.86)
    spot = body.points["midhip"] * GROUND * share + [rng.uniform(-0.22, 0.22) * body.shape.height, 0.0, 0.0]

    def up_to(low: float, high: float) -> float:
        """Returns the height of a top that the line of sight to this share of the person's height passes."""
        return eye * (1 - share) + rng.uniform(low, high) * body.points["head"][1] * share

    frame = rotation("y", rng.uniform(-35, 35))
    kind = rng.choice(["box", "table", "plant", "pillar", "ball"], p=[0.30, 0.26, 0.24, 0.14, 0.06])
    material = _stuff(rng, palette)
    if kind == "box":
        top = max(0.15, up_to(0.25, 0.62))
        prims.box(spot + UP * (top / 2), (rng.uniform(0.2, 0.6), top / 2, 0.2), frame=frame, material=material)
    elif kind == "table":
        _table(rng, prims, palette, spot, frame, max(0.3, up_to(0.35, 0.58)), material)
    elif kind == "plant":
        _plant(rng, prims, palette, spot, max(0.5, up_to(0.5, 0.95)))
    elif kind == "pillar":
        spot = spot + [rng.choice([-1, 1]) * rng.uniform(0.0, 0.1), 0.0, 0.0]
        radius = rng.uniform(0.05, 0.13)
        prims.cone(spot, spot + UP * 3.5, radius, radius, material=material)
    else:
        radius = rng.uniform(0.2, 0.4)
        prims.ball(spot + UP * radius, radius, material=material)
    return spot


def _table(rng, prims: Primitives, palette: Palette, spot, frame, top: float, material: int) -> None:
    """Adds a table top on four legs, often with something on it."""
    x, z = rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.35)
    prims.box(spot + UP * top, (x, 0.03, z), frame=frame, material=material)
    _legs(prims, spot, frame, 0.93 * x, 0.85 * z, top, 0.03, material)
    if rng.random() < 0.6:
        size = rng.uniform(0.08, 0.2, 3)
        centre = spot + UP * (top + 0.03 + size[1]) + [rng.uniform(-0.3, 0.3), 0.0, 0.0]
        prims.box(centre, size, frame=frame, material=palette.add(plain(random_colour(rng, muted=True))))


def _plant(rng, prims: Primitives, palette: Palette, spot, tall: float) -> None:
    """Adds a pot with a dozen long leaves."""
    green = palette.add(leaf(rng))
    prims.cone(spot, spot + UP * (0.30 * tall), 0.11, 0.16, material=palette.add(wood(rng)))
    for _ in range(14):
        centre = spot + UP * (rng.uniform(0.36, 0.92) * tall) + rng.normal(0, 0.11, 3) * [1.0, 0.4, 1.0]
        turn = rotation("y", rng.uniform(0, 360)) @ rotation("x", rng.uniform(-65, 65))
        prims.ball(centre, (0.045, rng.uniform(0.12, 0.24), 0.012), frame=turn, material=green)


def furniture(rng: np.random.Generator, prims: Primitives, palette: Palette, *, near: float, wall: float) -> list:
    """Adds boxes, balls and posts between the nearest person and the wall; returns where they stand."""
    spots = []
    for _ in range(int(rng.integers(0, 4))):
        z = rng.uniform(0.5 * (near + wall), wall)
        spot, size = np.array([rng.uniform(-0.55, 0.55) * z, 0.0, z]), rng.uniform(0.15, 0.6, 3)
        material = _stuff(rng, palette)
        kind = rng.choice(["box", "ball", "post"], p=[0.7, 0.12, 0.18])
        if kind == "box":
            frame = rotation("y", rng.uniform(0, 90))
            prims.box(spot + UP * size[1], size, frame=frame, material=material)
        elif kind == "ball":
            prims.ball(spot + UP * size[1] * 0.6, size[1] * 0.6, material=material)
        else:
            prims.cone(spot, spot + UP * rng.uniform(1.0, 3.0), 0.09, 0.07, material=material)
        spots.append(spot)
    return spots
