"""The background: a textured ground in perspective with shadows, and a wall or a landscape behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from jaxpose.data.synthetic.paint import random_colour


@dataclass
class _View:
    """The points that the pixels' rays reach, in metres.

    On the upright plane at the wall's depth these are `wall_x` (h, w), `wall_y` (h,). From row `first` down, rays meet
    the ground before the plane, at `ground_x` (h - first, w), `ground_z` (h - first,).
    """

    wall_x: np.ndarray
    wall_y: np.ndarray
    first: int
    ground_x: np.ndarray
    ground_z: np.ndarray


def _view(camera, size_wh, wall: float) -> _View:
    """Computes the view. The camera has no roll, so a row of pixels has one height on the wall, one depth on the ground."""
    width, height = size_wh
    x = ((np.arange(width) - camera.centre[0]) / camera.focal).astype(np.float32)
    y = (np.arange(height) - camera.centre[1]) / camera.focal
    to_world = camera.rotation.T
    up, forward = to_world[1, 1] * y + to_world[1, 2], to_world[2, 1] * y + to_world[2, 2]
    x = np.float32(to_world[0, 0]) * x
    eye = camera.position[1]
    reach = wall / np.maximum(forward, 0.05)
    wall_y = eye + up * reach
    below = np.flatnonzero(wall_y < 0.0)
    first = int(below[0]) if len(below) else height
    t = eye / -up[first:]
    return _View(
        wall_x=x * reach[:, None].astype(np.float32),
        wall_y=wall_y,
        first=first,
        ground_x=x * t[:, None].astype(np.float32),
        ground_z=(forward[first:] * t).astype(np.float32),
    )


def _smooth_noise(rng: np.random.Generator, size_wh, cells: int) -> np.ndarray:
    """Returns a coarse random grid, enlarged (h, w), in [-0.5, 0.5]."""
    grid = rng.integers(0, 256, (max(2, cells * size_wh[1] // size_wh[0]), cells), dtype=np.uint8)
    return np.asarray(Image.fromarray(grid).resize(size_wh, Image.Resampling.BICUBIC), np.float32) / 255.0 - 0.5


def _colour(rng, **kind) -> np.ndarray:
    return np.array(random_colour(rng, **kind), np.float32)


def _rectangle(image: np.ndarray, view: _View, left: float, bottom: float, width: float, height: float):
    """Returns rows (a slice) and mask of an upright rectangle on the wall, metres; None if it is not in the picture."""
    rows = np.flatnonzero((view.wall_y >= bottom) & (view.wall_y < bottom + height))
    if not len(rows):
        return None
    rows = slice(rows[0], rows[-1] + 1)
    x = view.wall_x[rows]
    return rows, (x >= left) & (x < left + width)


def _fill(image, view, left, bottom, width, height, colour) -> None:
    """Paints a rectangle; `colour` is (3,) or a function of (x - left, y - bottom) in metres that returns (..., 3)."""
    rectangle = _rectangle(image, view, left, bottom, width, height)
    if rectangle is None:
        return
    rows, mask = rectangle
    if callable(colour):
        y = np.broadcast_to(view.wall_y[rows][:, None] - bottom, mask.shape)
        colour = colour(view.wall_x[rows][mask] - left, y[mask].astype(np.float32))
    image[rows][mask] = colour


def _window(rng, image, view, left, bottom, width, height) -> None:
    sky, frame = _colour(rng, muted=True) * 0.4 + [110, 130, 150], _colour(rng, muted=True)
    _fill(image, view, left, bottom, width, height, frame)
    for i in range(2):
        pane = (left + 0.05 + i * (width / 2 - 0.02), bottom + 0.06, width / 2 - 0.08, height - 0.12)
        _fill(image, view, *pane, lambda x, y: sky + (40.0 * (y / height))[:, None])


def _picture(rng, image, view, left, bottom, width, height) -> None:
    first, second, waves = _colour(rng), _colour(rng), rng.uniform(2, 12, 2)
    _fill(image, view, left, bottom, width, height, _colour(rng, dark=True))
    inner = (left + 0.05, bottom + 0.05, width - 0.1, height - 0.1)

    def draw(x, y):
        share = 0.5 + 0.5 * np.sin(waves[0] * x + 3.0 * np.sin(waves[1] * y))
        return first + share[:, None] * (second - first)

    _fill(image, view, *inner, draw)


def _shelf(rng, image, view, left, bottom, width, height) -> None:
    """Draws boards with books: a random colour and height every few centimetres."""
    board, books = _colour(rng, dark=True), rng.uniform(30, 220, (64, 3)).astype(np.float32)
    tall = rng.uniform(0.20, 0.32, 64).astype(np.float32)

    def draw(x, y):
        floor = (y / 0.38).astype(int)
        book = ((x / 0.06).astype(int) + 17 * floor) & 63
        filled = ((y - 0.38 * floor) < tall[book]) & ((y - 0.38 * floor) > 0.03)
        return np.where(filled[:, None], books[book], board)

    _fill(image, view, left, bottom, width, height, draw)


def _door(rng, image, view, left, bottom, width, height) -> None:
    colour = _colour(rng, muted=True)
    _fill(image, view, left, 0.0, 0.95, 2.05, colour * 0.7)
    _fill(image, view, left + 0.06, 0.0, 0.83, 1.99, colour)
    _fill(image, view, left + 0.75, 0.95, 0.07, 0.07, (190, 180, 140))


def _curtain(rng, image, view, left, bottom, width, height) -> None:
    colour, fold = _colour(rng), rng.uniform(20, 50)
    _fill(image, view, left, 0.2, width, 2.3, lambda x, y: colour * (0.8 + 0.2 * np.sin(fold * x))[:, None])


def _interior(rng, view: _View, size_wh, wall: float) -> np.ndarray:
    """Draws a wall (plaster, wallpaper or bricks) with a skirting board and a few things on it."""
    base = _colour(rng, muted=True) * 0.75 + 50
    noise = _smooth_noise(rng, size_wh, int(rng.choice([4, 10, 40])))[..., None]
    image = base + noise * rng.uniform(8, 45) + np.zeros((1, 1, 3), np.float32)
    kind, period = rng.choice(["plaster", "stripes", "bricks"], p=[0.55, 0.25, 0.20]), rng.uniform(0.12, 0.5)
    if kind == "stripes":
        image -= 22.0 * ((view.wall_x / period) % 1.0 < 0.5)[..., None]
    elif kind == "bricks":
        row = np.floor(view.wall_y / 0.12)
        joint = ((view.wall_x + 0.12 * (row % 2)[:, None]) / 0.24) % 1.0 < 0.08
        image -= 28.0 * (joint | ((view.wall_y / 0.12) % 1.0 < 0.14)[:, None])[..., None]
    half = float(np.abs(view.wall_x[0]).max()) + 0.3
    for _ in range(int(rng.integers(0, 7))):
        thing = [_window, _picture, _shelf, _door, _curtain][rng.choice(5, p=[0.25, 0.35, 0.17, 0.13, 0.10])]
        place = rng.uniform(-half, half - 0.4), rng.uniform(0.7, 1.9), rng.uniform(0.5, 1.7), rng.uniform(0.4, 1.4)
        thing(rng, image, view, *place)
    _fill(image, view, -1e6, 0.0, 2e6, 0.1, base * rng.uniform(0.5, 1.1))
    return image


def _house(rng, image, view, left) -> None:
    front, (width, height) = _colour(rng, muted=True), rng.uniform([3, 3], [12, 11])

    def draw(x, y):
        pane = (x % 1.6 < 0.8) & (y % 2.4 < 1.2)
        return front * np.where(pane, 0.55, 1.0)[:, None]

    _fill(image, view, left, 0.0, width, height, draw)


def _landscape(rng, view: _View, size_wh) -> np.ndarray:
    """Draws a sky with clouds, and hills, trees or houses along the horizon."""
    width, height = size_wh
    top, bottom = np.array([95, 140, 205], np.float32), np.array([205, 218, 230], np.float32)
    ramp = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None, None] ** rng.uniform(0.5, 1.2)
    image = (top + ramp * (bottom - top)) * rng.uniform(0.65, 1.1)
    image = image + np.clip(_smooth_noise(rng, size_wh, 7), 0.0, 0.5)[..., None] * rng.uniform(0, 120)
    half = float(np.abs(view.wall_x[0]).max())
    for _ in range(int(rng.integers(0, 4))):
        _house(rng, image, view, rng.uniform(-half, half * 0.8))
    if rng.random() < 0.75:  # a line of trees or hills: rough or smooth
        crest = np.interp(np.arange(width), np.linspace(0, width, 40), rng.random(40))
        crest = rng.uniform(1.0, 5.0) + crest * rng.uniform(0.5, 3.5)
        green = np.array([70, 105, 55], np.float32) * rng.uniform(0.5, 1.3)
        under = view.wall_y[:, None] < crest
        shaded = green * (1.0 + 0.9 * _smooth_noise(rng, size_wh, int(rng.choice([20, 80])))[..., None])
        image = np.where(under[..., None], shaded, image)
    return image


def _ground(rng, view: _View, *, outdoors: bool) -> np.ndarray:
    """Draws tiles, boards, carpet or grass, fading with the distance (h - first, w, 3)."""
    x, z = view.ground_x, view.ground_z[:, None]
    tile = rng.random((64, 64), np.float32)
    rough, fine = (tile[(z * m).astype(np.int32) & 63, (x * m).astype(np.int32) & 63] for m in (9, 47))
    speckle = 0.5 * (rough + fine)
    fade = np.exp(-z / 12.0)
    if outdoors:
        colour = np.array([[95, 125, 60], [150, 140, 115], [110, 110, 112]], np.float32)[rng.integers(3)]
        colour = colour * rng.uniform(0.7, 1.2)
        return colour * (1.0 - 0.4 * (speckle * fade)[..., None])
    colour, period = _colour(rng, muted=True) * 0.65 + 45, rng.uniform(0.25, 0.8)
    kind = rng.choice(["tiles", "boards", "carpet"])
    if kind == "tiles":
        share = 0.25 * speckle + 0.5 * ((np.floor(x / period) + np.floor(z / period)) % 2)
    elif kind == "boards":
        board = x / (0.5 * period)
        grain = tile[(z * 2.5).astype(np.int32) & 63, (x * 40).astype(np.int32) & 63]
        share = 0.35 * grain + 0.4 * tile[np.floor(board).astype(np.int32) & 63, 0] + 0.5 * (board % 1.0 < 0.05)
    else:
        share = 0.7 * speckle
    return colour * (1.0 - 0.45 * (share * fade)[..., None])


def _shadow(ground: np.ndarray, view: _View, spot: np.ndarray, radius: float) -> None:
    """Darkens the ground around a point where something stands."""
    rows = np.flatnonzero(np.abs(view.ground_z - spot[2]) < 2.5 * radius)
    if not len(rows):
        return
    rows = slice(rows[0], rows[-1] + 1)
    x, z = view.ground_x[rows] - np.float32(spot[0]), view.ground_z[rows, None] - np.float32(spot[2])
    ground[rows] *= (1.0 - 0.5 * np.exp(-(x * x + z * z) / np.float32(radius**2)))[..., None]


def draw_backdrop(
    rng: np.random.Generator, camera, size_wh, *, wall: float, outdoors: bool, shadows: list
) -> np.ndarray:
    """Draws the empty scene (h, w, 3) uint8.

    Args:
        rng: The random generator.
        camera: A camera without roll, looking along z (pitch only).
        size_wh: The width and height of the picture.
        wall: The depth in metres at which the ground ends.
        outdoors: True for a landscape, False for a room.
        shadows: (point (3,), radius) of everything that stands on the ground, metres.
    """
    view = _view(camera, size_wh, wall)
    image = _landscape(rng, view, size_wh) if outdoors else _interior(rng, view, size_wh, wall)
    ground = _ground(rng, view, outdoors=outdoors)
    for spot, radius in shadows:
        _shadow(ground, view, spot, radius)
    image = image.astype(np.float32)
    image[view.first :] = ground
    # The background is out of focus and paler than the people, as behind a portrait.
    pale = 0.6 * np.clip(image, 0.0, 255.0) + 60.0
    picture = Image.fromarray(pale.astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 2.2)))
    return np.asarray(picture)
