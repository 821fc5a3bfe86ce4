"""What a net sees of a scan: He's preprocessing (github.com/heyufan1995/oct_preprocess), restated from executed numbers.

1. `blacken_border`: the white borders that the scanner adds where it followed the eye become 0.
2. `compensate`: attenuation compensation (Girard 2011).
3. `flatten`: every column is shifted so that Bruch's membrane lies on the middle row.
4. `prepare`: all of these, and a crop of a fixed height around the retina; labels move along.

A row r of the crop is the row r + top + shift of the scan, so that errors are the same in both.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from jaxpose.data.scans import surfaces
from jaxpose.data.scans.scan import Scan

WHITE = 255
BORDER_MARGIN = 2  # pixels inside a white border that it has brightened
LATERAL_FILTER_UM = 15.0
LEAST_ENERGY = 1e-4
BELOW_RETINA_UM = 60.0
HEIGHT = 224

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan as a net sees it.

    Attributes:
        scan: the scan that it was made of.
        image: (h, W) float32, flattened and normalised.
        rows: (W, K) float32 labels in rows of the crop, NaN where there is none; None: no labels.
        offset: (W,) float64 to add to a row of the crop for the row of the scan.
    """

    scan: Scan
    image: np.ndarray
    rows: np.ndarray | None
    offset: np.ndarray


def prepare(scan: Scan, *, height: int = HEIGHT, is_flattened: bool = True, is_compensated: bool = True) -> Prepared:
    """Prepares a scan for a net.

    Args:
        scan: the scan.
        height: height of the crop in pixels.
        is_flattened: if False, columns are not shifted, and the crop is about the mean row of Bruch's membrane.
        is_compensated: if False, the attenuation is not compensated, and the net sees values / 255.

    Raises:
        ValueError: the scan is too low for a retina, or empty; the message names it.
    """
    try:
        scale = {"axial_um": scan.axial_um, "lateral_um": scan.lateral_um}
        retina = surfaces.find(scan.image, border=white_border(scan.image), **scale)
    except ValueError as error:
        raise ValueError(f"{scan.name}: {error}") from None
    image = blacken_border(scan.image)
    values = compensate(image, lateral_um=scan.lateral_um) if is_compensated else image / 255.0
    middle = middle_row(len(image))
    shift = retina.bm - middle if is_flattened else np.full(len(retina.bm), np.round(retina.bm.mean()) - middle)
    bottom = round(float((retina.bm - shift).max())) + round(BELOW_RETINA_UM / scan.axial_um)
    top = bottom - height + 1
    if (above := float((retina.ilm - shift).min())) < top:
        log.warning(
            "%s: the retina reaches %.0f rows above the crop of %d rows: give a larger height",
            scan.name,
            top - above,
            height,
        )
    image = flatten(values, shift + top, height=height)
    offset = shift + top
    rows = None if scan.rows is None else (scan.rows - offset).T.astype(np.float32)
    return Prepared(scan, image.astype(np.float32), rows, offset)


def middle_row(height: int) -> int:
    """Returns the row on which Bruch's membrane lies in a flattened scan, counted from 0: round(H / 2) counted from 1.

    >>> middle_row(496)
    247
    """
    return math.floor(height / 2 + 0.5) - 1


def blacken_border(image: np.ndarray) -> np.ndarray:
    """Returns the scan (H, W) uint8 with its white borders set to 0.

    >>> blacken_border(np.array([[255, 9, 8, 7, 6]], np.uint8)).tolist()
    [[0, 0, 0, 7, 6]]
    """
    return np.where(white_border(image), 0, image).astype(image.dtype)


def white_border(image: np.ndarray) -> np.ndarray:
    """Returns where a scan (H, W) uint8 has saturated borders, and two pixels beside them, as (H, W) bool.

    A border is a run of white pixels that begins at the edge of the picture, along a row or a column.
    """
    white, border = image == WHITE, np.zeros(image.shape, bool)
    for axis in (0, 1):
        place = np.arange(image.shape[axis]).reshape([-1 if i == axis else 1 for i in range(2)])
        for flip in (False, True):
            run = np.logical_and.accumulate(np.flip(white, axis) if flip else white, axis).sum(axis, keepdims=True)
            part = (place < run + BORDER_MARGIN) & (run > 0)
            border |= np.flip(part, axis) if flip else part
    return border


def compensate(image: np.ndarray, *, lateral_um: float) -> np.ndarray:
    """Compensates the attenuation of the light with depth (Girard 2011), as He's "method 4" does.

    With J = (image / 255)^4 the result is (J / E)^(1/4), where E(y) is the integral of J from y to the bottom (trapezoids),
    smoothed over columns. Below the first row at which E is under 1e-4 it is held. Values are not clipped: they reach 1.4.

    Args:
        image: (H, W) uint8, with its white borders set to 0.
        lateral_um: width of a pixel in micrometres.

    Returns:
        (H, W) float64; where J / E is not finite, the smallest finite value of the scan.

    >>> compensate(np.full((3, 4), 255, np.uint8), lateral_um=11.33).round(3)[:, 0].tolist()
    [0.841, 1.0, 0.841]
    """
    intensity = (image / 255.0) ** 4
    upwards = intensity[::-1]
    steps = (upwards[1:] + upwards[:-1]) / 2
    energy = np.concatenate([np.zeros_like(upwards[:1]), np.cumsum(steps, 0)])[::-1]
    sigma = LATERAL_FILTER_UM / lateral_um
    energy = ndimage.correlate1d(energy, _gaussian(sigma), axis=1, mode="reflect")
    weak = energy < LEAST_ENERGY
    first_weak = np.where(weak.any(0), weak.argmax(0), len(energy) - 1)
    held = np.take_along_axis(energy, first_weak[None], 0)
    energy = np.where(np.arange(len(energy))[:, None] > first_weak, held, energy)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (intensity / energy) ** 0.25
    finite = np.isfinite(values)
    return np.where(finite, values, values[finite].min() if finite.any() else 0.0)


def _gaussian(sigma: float) -> np.ndarray:
    """Returns a Gaussian kernel that ends at three standard deviations."""
    reach = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return weights / weights.sum()


def flatten(values: np.ndarray, shift: np.ndarray, *, height: int) -> np.ndarray:
    """Shifts every column up by its own number of rows, with linear interpolation and 0 outside.

    Args:
        values: (H, W).
        shift: (W,) rows; row y of the result is row y + shift of `values`.
        height: number of rows of the result.

    >>> flatten(np.arange(4.0)[:, None], np.array([0.5]), height=4).ravel().tolist()
    [0.5, 1.5, 2.5, 0.0]
    """
    at = np.arange(height)[:, None] + np.asarray(shift)[None]
    low = np.floor(at).astype(int)
    inside = (at >= 0) & (at <= len(values) - 1)
    below = np.clip(low, 0, len(values) - 1)
    above = np.clip(low + 1, 0, len(values) - 1)
    mixed = (1 - (at - low)) * np.take_along_axis(values, below, 0) + (at - low) * np.take_along_axis(values, above, 0)
    return np.where(inside, mixed, 0.0)
