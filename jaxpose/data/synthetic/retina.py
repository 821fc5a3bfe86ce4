"""Synthetic scans of the retina: eight boundaries, fluid, shadows of vessels, speckle, and label noise of a known density.

A scan is drawn from the inside out: the rows of the boundaries (`layers`), cysts that lift what lies above them
(`add_cysts`), the light that each layer throws back (`reflected`), its loss on the way and behind vessels, speckle
(`photograph`), and labels with Laplace noise whose scale grows over fluid and behind vessels (`noise_scale`). NumPy only.

The widths and gains are chosen by eye and from the thicknesses of healthy retinas; nothing is taken from any data set.

    scans = draw_scans(110, seed=0)
    picture = sheet(scans[:6])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpose.data.scans.scan import AXIAL_UM, Scan

THICKNESS_UM = np.array([35.0, 93.0, 43.0, 35.0, 93.0, 35.0, 31.0])
"""Mean thickness of the layers NFL, GCL+IPL, INL, OPL, ONL+IS, IS/OS, RPE."""
THINNED_AT_FOVEA = np.array([0.85, 0.8, 0.75, 0.6, -0.55, 0.0, 0.0])
"""Part by which a layer is thinner at the centre of the fovea; the outer nuclear layer is thicker there."""
REFLECTIVITY = np.array([0.01, 0.62, 0.42, 0.24, 0.36, 0.14, 0.70, 0.95, 0.30])
"""Light thrown back by the vitreous, the seven layers and the choroid."""
FLUID_REFLECTIVITY = 0.03
EDGE = 0.9
"""Width of the edge between two layers in pixels; the boundary is where the light is half way."""
REACH_UM, REACH_BELOW_UM = 620.0, 135.0
"""Depths at which light falls to 1 / e, in the retina and below it."""
LOOKS = 3.0
"""Shape of the speckle's Gamma distribution; a larger one gives a finer grain."""
FLOOR = 0.004
"""Scale of the noise of the detector."""
BASE_NOISE, FLUID_NOISE, SHADOW_NOISE = 0.5, 2.0, 1.5
"""Laplace scale of the labels in pixels, and what fluid in the column and a dark shadow add."""
UNLABELLED = 1 / 16
"""Part of the columns at either side without labels, as graders leave them."""
WIDTH_UM = 8700.0
"""Width of a scan."""


@dataclass(frozen=True)
class Style:
    """The size and the content of a drawn scan.

    Attributes:
        height, width: size in pixels.
        cysts: mean number of cysts.
        vessels: mean number of vessels.
    """

    height: int = 320
    width: int = 256
    cysts: float = 3.0
    vessels: float = 4.0


def draw_scans(count: int, *, seed: int, style: Style = Style(), scans_per_subject: int = 11) -> list[Scan]:
    """Draws scans of a number of subjects, whose eyes differ.

    Args:
        count: number of scans.
        seed: seed; scan i depends on it and on i only.
        style: the size and the content of the scans.
        scans_per_subject: number of consecutive scans of one subject.

    >>> scan = draw_scans(2, seed=0, style=Style(height=256, width=64))[1]
    >>> scan.image.shape, scan.rows.shape, scan.subject
    ((256, 64), (8, 64), 'drawn subject 1')
    """
    return [
        draw_scan(
            np.random.default_rng((seed, i)), name=f"drawn scan {i + 1}", subject=f"drawn subject {i // scans_per_subject + 1}",
            style=style,
        )
        for i in range(count)
    ]  # fmt: skip


def draw_scan(rng: np.random.Generator, *, name: str, subject: str, style: Style = Style()) -> Scan:
    """Draws one scan."""
    truth = layers(rng, style)
    fluid = add_cysts(rng, truth, style)
    shadow = shadows(rng, style)
    image = photograph(rng, truth, fluid, shadow)
    scale = noise_scale(fluid, shadow)
    labels = truth + rng.laplace(size=truth.shape) * scale
    margin = round(style.width * UNLABELLED)
    labels[:, :margin] = labels[:, style.width - margin :] = np.nan
    return Scan(
        name=name, subject=subject, image=image, rows=labels, lateral_um=WIDTH_UM / style.width, fluid=fluid, truth=truth,
        noise=scale, shadow=shadow,
    )  # fmt: skip


def layers(rng: np.random.Generator, style: Style) -> np.ndarray:
    """Returns rows (8, W) of the boundaries of a retina without fluid, from the top; they keep their order."""
    width = style.width
    x = np.linspace(-1, 1, width)
    fovea = np.exp(-0.5 * ((x - rng.uniform(-0.3, 0.3)) / rng.uniform(0.14, 0.22)) ** 2)
    usual = (
        THICKNESS_UM[:, None] / AXIAL_UM * (1 + np.stack([curve(rng, width, width // 8, 0.12) for _ in THICKNESS_UM]))
    )
    thickness = np.maximum(usual, 2.0) * (1 - THINNED_AT_FOVEA[:, None] * fovea)
    bottom = style.height * rng.uniform(0.68, 0.74) + curve(rng, width, width // 3, 3.0)
    bottom += rng.uniform(-8, 8) * x + rng.uniform(2, 14) * x**2  # the scan's tilt, and the eye's curvature
    above = np.cumsum(thickness[::-1], 0)[::-1]
    return np.concatenate([bottom - above, bottom[None]])


def add_cysts(rng: np.random.Generator, rows: np.ndarray, style: Style) -> np.ndarray:
    """Puts cysts between IPL/INL and ISM/ISE, which lift all boundaries above them.

    Args:
        rng: the source of randomness.
        rows: (8, W) boundaries, which are changed.
        style: size of the scan, and the mean number of cysts.

    Returns:
        (H, W) bool, True inside fluid.
    """
    height, width = style.height, style.width
    y, x = np.mgrid[:height, :width]
    fluid = np.zeros((height, width), bool)
    for _ in range(rng.poisson(style.cysts)):
        centre = rng.uniform(0.1, 0.9) * width
        half_width, half_height = rng.uniform(0.02, 0.06) * width, rng.uniform(5, 16)
        layer = rng.integers(2, 5)  # the boundary above the cyst
        lift = 2 * half_height * np.exp(-0.5 * ((np.arange(width) - centre) / (0.8 * half_width)) ** 2)
        room = rows[0].min() - 8  # stays in the picture
        lift *= np.clip(room / lift.max(), 0, 1)
        rows[: layer + 1] -= lift
        fluid = _lifted(fluid, lift, rows[layer])
        middle = (rows[layer] + rows[layer + 1])[int(centre)] / 2
        radius = min(half_height, lift.max() / 2)
        if radius > 1:
            fluid |= ((x - centre) / half_width) ** 2 + ((y - middle) / radius) ** 2 < 1
    return fluid & (y > rows[1] + 1) & (y < rows[5] - 1)


def _lifted(fluid: np.ndarray, lift: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Returns the fluid with what lies above a row `border` (W,) moved up by `lift` (W,), as the layers there are."""
    y = np.arange(len(fluid))[:, None]
    source = np.clip(np.round(np.where(y < border, y + lift, y)).astype(int), 0, len(fluid) - 1)
    return np.take_along_axis(fluid, source, 0)


def shadows(rng: np.random.Generator, style: Style) -> np.ndarray:
    """Returns the part (W,) of the light that the vessels of the inner retina let through."""
    light, x = np.ones(style.width), np.arange(style.width)
    for _ in range(rng.poisson(style.vessels)):
        centre, half_width = rng.uniform(0, style.width), rng.uniform(2, 6)
        light *= 1 - rng.uniform(0.3, 0.75) * np.exp(-0.5 * ((x - centre) / half_width) ** 2)
    return light


def reflected(rows: np.ndarray, fluid: np.ndarray) -> np.ndarray:
    """Returns the light (H, W) that the tissue throws back, with soft edges between layers."""
    y = np.arange(len(fluid))[:, None]
    light = np.full(fluid.shape, REFLECTIVITY[0])
    for row, step in zip(rows, np.diff(REFLECTIVITY), strict=True):
        light += step / (1 + np.exp(-np.clip((y - row) / EDGE, -50, 50)))
    return np.where(fluid, FLUID_REFLECTIVITY, light)


def photograph(rng: np.random.Generator, rows: np.ndarray, fluid: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """Returns the scan (H, W) uint8: light lost with depth and behind vessels, speckle, and the fourth root that scanners show."""
    y = np.arange(len(fluid))[:, None]
    depth, below = np.maximum(y - rows[0], 0), np.maximum(y - rows[7], 0)
    light = reflected(rows, fluid) * np.exp(-depth * AXIAL_UM / REACH_UM - below * AXIAL_UM / REACH_BELOW_UM)
    behind = 1 / (1 + np.exp(-np.clip((y - rows[1]) / 2, -50, 50)))  # the vessels lie in the nerve fibre layer
    light = light * (1 - behind * (1 - shadow))
    speckle = rng.gamma(LOOKS, 1 / LOOKS, light.shape)
    speckle = 0.6 * speckle + 0.2 * np.roll(speckle, 1, 1) + 0.2 * np.roll(speckle, -1, 1)
    value = np.maximum(light * speckle + np.abs(rng.normal(size=light.shape)) * FLOOR, 0) ** 0.25
    return np.round(255 * np.clip(value / 1.05, 0, 1)).astype(np.uint8)


def noise_scale(fluid: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """Returns the Laplace scale (8, W) of the labels in pixels: the density of a label is known."""
    scale = BASE_NOISE + FLUID_NOISE * fluid.any(0) + SHADOW_NOISE * (1 - shadow)
    return np.tile(scale, (len(REFLECTIVITY) - 1, 1))


def curve(rng: np.random.Generator, width: int, scale: int, deviation: float) -> np.ndarray:
    """Returns a smooth random curve (width,): white noise under a Gaussian of `scale` pixels, with this standard deviation."""
    scale = max(scale, 1)
    kernel = np.exp(-0.5 * (np.arange(-3 * scale, 3 * scale + 1) / scale) ** 2)
    noise = rng.normal(size=width + 6 * scale)
    return deviation * np.convolve(noise, kernel / np.sqrt((kernel**2).sum()), "valid")[:width]


COLORS = (
    (255, 60, 60),
    (255, 160, 0),
    (255, 255, 0),
    (0, 255, 0),
    (0, 255, 255),
    (60, 140, 255),
    (160, 80, 255),
    (255, 0, 255),
)


def sheet(scans: list[Scan]) -> np.ndarray:
    """Returns a picture (H, W, 3) of scans: each beside itself with its true boundaries (lines) and its labels (dots).

    >>> sheet(draw_scans(2, seed=0, style=Style(height=200, width=32))).shape
    (200, 128, 3)
    """
    tiles = []
    for scan in scans:
        plain = np.repeat(scan.image[..., None], 3, -1)
        marked, x = plain.copy(), np.arange(plain.shape[1])
        for truth, label, color in zip(scan.truth, scan.rows, COLORS, strict=True):
            marked[np.clip(np.round(truth).astype(int), 0, len(marked) - 1), x] = color
            dots = np.isfinite(label) & (x % 4 == 0)
            marked[np.clip(np.round(label[dots]).astype(int), 0, len(marked) - 1), x[dots]] = 255
        tiles.append(np.concatenate([plain, marked], 1))
    return np.concatenate([np.concatenate(tiles[i : i + 2], 1) for i in range(0, len(tiles) - 1, 2)], 0)
