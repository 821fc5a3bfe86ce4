"""Materials with textures, light, and the camera's exposure and noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter

from jaxpose.data.synthetic.raster import BALL, CONE, Primitives, Surface

PLAIN, BANDS, STRIPES, CHECKS, DOTS, GRAIN, MOTTLE = range(7)


@dataclass(frozen=True)
class Material:
    """Two RGB colours in [0, 255] mixed by a pattern whose period is in metres; `shine` scales the highlight."""

    first: tuple[float, ...]
    second: tuple[float, ...] = (0.0, 0.0, 0.0)
    pattern: int = PLAIN
    period: float = 0.08
    shine: float = 0.0


@dataclass
class Palette:
    """The scene's materials; a primitive refers to its material by row."""

    materials: list[Material] = field(default_factory=list)

    def add(self, material: Material) -> int:
        self.materials.append(material)
        return len(self.materials) - 1


def hsv(hue: float, saturation: float, value: float) -> tuple[float, ...]:
    """Converts hue, saturation, value in [0, 1] to RGB in [0, 255]."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6.0) % 6.0
    rgb = value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return tuple(float(v) for v in 255.0 * rgb)


def random_colour(rng: np.random.Generator, *, vivid=False, dark=False, muted=False) -> tuple[float, ...]:
    saturation = rng.uniform(0.65, 1.0) if vivid else rng.beta(1.3, 1.6) * (0.2 if muted else 0.4)
    value = rng.uniform(0.15, 0.55) if dark else rng.uniform(0.7, 1.0) if vivid else rng.uniform(0.2, 0.97)
    return hsv(rng.random(), saturation, value)


def _shaded(tone: np.ndarray, share: float, pattern: int, period: float, shine: float = 0.0) -> Material:
    """Returns a tone with a darker one of the same hue."""
    return Material(tuple(tone), tuple(tone * share), pattern, period, shine)


def plain(rgb) -> Material:
    return Material(tuple(rgb), shine=0.15)


def skin(rng: np.random.Generator) -> Material:
    tones = [[247, 214, 190], [232, 190, 160], [205, 155, 120], [160, 110, 78], [110, 72, 50], [72, 47, 36]]
    at = rng.uniform(0, len(tones) - 1)
    tone = [np.interp(at, np.arange(len(tones)), channel) for channel in np.transpose(tones)]
    return _shaded(np.array(tone), 0.95, MOTTLE, 0.05, 0.12)


def lips(skin_material: Material) -> Material:
    return Material(tuple(0.5 * np.array(skin_material.first) + 0.5 * np.array([160.0, 50.0, 55.0])))


def hair(rng: np.random.Generator) -> Material:
    tones = [
        (28, 22, 20),
        (52, 36, 28),
        (92, 62, 40),
        (150, 110, 62),
        (206, 172, 112),
        (120, 50, 28),
        (165, 160, 155),
    ]
    tone = tones[rng.choice(len(tones), p=[0.26, 0.26, 0.18, 0.1, 0.08, 0.05, 0.07])]
    return _shaded(np.array(tone) * rng.uniform(0.85, 1.15), 0.72, GRAIN, 0.02, 0.1)


def cloth(rng: np.random.Generator, *, uniform: float = 0.6, dark: float = 0.0, muted: bool = False) -> Material:
    """Returns cloth of one colour with probability `uniform`, else patterned; a dark one with probability `dark`."""
    first = random_colour(rng, dark=rng.random() < dark, muted=muted)
    if rng.random() < uniform:
        return _shaded(np.array(first), 0.86, MOTTLE, 0.10)
    pattern = int(rng.choice([BANDS, STRIPES, CHECKS, DOTS, GRAIN]))
    second = 0.5 * (np.array(first) + np.array(random_colour(rng, muted=muted)))
    return Material(first, tuple(second), pattern, float(rng.uniform(0.04, 0.12)))


def kit(rng: np.random.Generator, hue: float) -> tuple[Material, Material]:
    """Returns the upper and the lower half of a sleeve or trouser leg: one vivid hue, the lower half darker."""
    hue = (hue + rng.uniform(-0.035, 0.035)) % 1.0
    pattern, period = (
        int(rng.choice([MOTTLE, BANDS, STRIPES, CHECKS], p=[0.55, 0.15, 0.15, 0.15])),
        float(rng.uniform(0.04, 0.10)),
    )
    halves = (rng.uniform(0.8, 1.0), rng.uniform(0.4, 0.6))
    saturation = rng.uniform(0.75, 1.0)
    upper, lower = (np.array(hsv(hue, saturation, value)) for value in halves)
    return _shaded(upper, 0.8, pattern, period), _shaded(lower, 0.8, pattern, period)


def wood(rng: np.random.Generator) -> Material:
    tone = np.array([150, 105, 65]) * rng.uniform(0.45, 1.3) + rng.uniform(-15, 15, 3)
    return _shaded(np.maximum(tone, 0.0), 0.75, GRAIN, 0.06, 0.05)


def leaf(rng: np.random.Generator) -> Material:
    tone = np.array([60, 120, 45]) * rng.uniform(0.6, 1.3) + rng.uniform(-15, 15, 3)
    return _shaded(np.maximum(tone, 0.0), 0.7, MOTTLE, 0.05, 0.1)


def _pattern(kind: int, period: float, u: np.ndarray, v: np.ndarray, tile: np.ndarray) -> np.ndarray:
    """Returns the share of the second colour in [0, 1] at surface coordinates (u, v) in metres; `tile` (64, 64) is noise."""
    if kind in (GRAIN, MOTTLE):
        stretch = 4.0 if kind == GRAIN else 1.0  # grain runs along the limb
        row, col = v * (16.0 / period / stretch), u * (16.0 / period)
        return tile[row.astype(np.int32) & 63, col.astype(np.int32) & 63]
    u, v = u / period, v / period
    u, v = u - np.floor(u), v - np.floor(v)
    if kind == BANDS:
        share = v < 0.45
    elif kind == STRIPES:
        share = u < 0.4
    elif kind == CHECKS:
        share = (u < 0.5) ^ (v < 0.5)
    else:
        share = (u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.07
    return share.astype(np.float32)


def _surface_coordinates(kind: np.ndarray, local: np.ndarray, lengths: np.ndarray, *, angle: bool):
    """Returns (around, along) in metres: along a cone's axis or a ball's y, and around it; on a box its x + z and y."""
    cone = kind == CONE
    along = np.where(cone, local[:, 2] * lengths[:, 2], local[:, 1] * lengths[:, 1])
    other = np.where(cone, 1, 2)
    second = np.where(cone, local[:, 1], local[:, 2])
    if not angle:
        return local[:, 0] * lengths[:, 0] + second * np.where(cone, lengths[:, 1], lengths[:, 2]), along
    radius = 0.5 * (lengths[:, 0] + np.where(other == 1, lengths[:, 1], lengths[:, 2]))
    flat = local[:, 0] * lengths[:, 0] + second * lengths[:, 2]
    return np.where(cone | (kind == BALL), np.arctan2(second, local[:, 0]) * radius, flat), along


def _albedo(surface: Surface, prims: Primitives, palette: Palette, tile: np.ndarray) -> np.ndarray:
    """Returns the colour of each covered pixel before shading (N, 3), computed material by material."""
    material = np.array(prims.material, np.int16)[surface.primitive]
    first = np.array([m.first for m in palette.materials], np.float32)
    second = np.array([m.second for m in palette.materials], np.float32)
    lengths = np.sqrt((np.array(prims.axes) ** 2).sum(1)).astype(np.float32)
    kind, offset = np.array(prims.kind, np.int8), np.array(prims.offset, np.float32)

    colours = first[material]
    order = np.argsort(material, kind="stable")
    starts = np.searchsorted(material[order], np.arange(len(first) + 1))
    for m in np.flatnonzero(np.diff(starts)):
        pattern = palette.materials[m].pattern
        if pattern == PLAIN:
            continue
        at = order[starts[m] : starts[m + 1]]
        k = surface.primitive[at]
        angle = pattern in (STRIPES, CHECKS, DOTS)  # noise does not depend on how a limb is unrolled
        u, v = _surface_coordinates(kind[k], surface.local[at], lengths[k], angle=angle)
        share = _pattern(pattern, palette.materials[m].period, u, v + offset[k], tile)
        colours[at] += share[:, None] * (second[m] - first[m])
    return colours


def _lit(rng, surface: Surface, prims: Primitives, palette: Palette) -> np.ndarray:
    """Returns the colours of the covered pixels under one lamp from above and the camera's side (N, 3) uint8."""
    tile = rng.random((64, 64), np.float32)
    lamp = np.array([rng.uniform(-0.8, 0.8), -1.0, rng.uniform(-1.2, -0.2)])
    lamp = (lamp / np.sqrt(lamp @ lamp)).astype(np.float32)
    ambient = np.float32(rng.uniform(0.45, 0.62))
    x, y, z = surface.normal.T
    diffuse = x * lamp[0] + y * lamp[1] + z * lamp[2]
    shade = ambient + (1.05 - ambient) * np.clip(0.25 + 0.75 * diffuse, 0.0, 1.0)
    shade *= 0.72 + 0.28 * np.clip(-z, 0.0, 1.0)  # surfaces that turn away look darker, which sets limbs off
    colours = _albedo(surface, prims, palette, tile) * shade[:, None]
    shine = np.array([m.shine for m in palette.materials], np.float32)
    shine = shine[np.array(prims.material)][surface.primitive]
    glossy = np.flatnonzero((shine > 0.0) & (diffuse > 0.7))
    colours[glossy] += (160.0 * shine[glossy] * diffuse[glossy] ** 12)[:, None]
    return np.clip(colours, 0.0, 255.0).astype(np.uint8)


def photograph(
    rng, backdrop: np.ndarray, surface: Surface, prims: Primitives, palette: Palette, *, supersample: int
) -> np.ndarray:
    """Lights the surfaces, lays them over the backdrop (h, w, 3), reduces to its size, adds blur, exposure and noise."""
    canvas = np.repeat(np.repeat(backdrop, supersample, 0), supersample, 1)
    canvas.reshape(-1, 3)[surface.pixel] = _lit(rng, surface, prims, palette)
    picture = Image.fromarray(canvas).reduce(supersample)
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    gain = (rng.uniform(0.9, 1.08) * rng.uniform(0.96, 1.04, 3)).astype(np.float32)
    noise = rng.standard_normal((*backdrop.shape[:2], 1), np.float32) * np.float32(rng.uniform(1.0, 3.5))
    return np.clip(np.asarray(picture, np.float32) * gain + noise, 0.0, 255.0).astype(np.uint8)
