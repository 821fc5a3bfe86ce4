"""What a net sees of a scan: He's preprocessing (github.com/heyufan1995/oct_preprocess), restated from executed numbers.

1. `blacken_border`: the white borders that the scanner adds where it followed the eye become 0.
2. `compensate`: attenuation compensation (Girard 2011).
3. `flatten`: every column is shifted so that Bruch's membrane lies on the middle row.
4. `prepare`: all of these, and a crop of a fixed height around the retina; labels move along.

A row r of the crop is the row r + top + shift of the scan, so that errors are the same in both. Scans whose pixels have another
height than `AXIAL_UM` are resampled to it first, so that a net sees every retina at one scale; `Prepared.to_scan` is the way back.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxpose.data.scans import surfaces
from jaxpose.data.scans.scan import AXIAL_UM, Scan

WHITE = 255
BORDER_MARGIN = 2  # pixels inside a white border that it has brightened
LATERAL_FILTER_UM = 15.0
LEAST_ENERGY = 1e-4
BELOW_RETINA_UM = 60.0
HEIGHT = 224
SAME_SCALE = 0.01  # heights of pixels that differ by less are taken as equal

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan as a net sees it.

    Attributes:
        scan: the scan that it was made of.
        image: (h, W) float32, flattened and normalised.
        rows: (W, K) float32 labels in rows of the crop, NaN where there is none; None: no labels.
        offset: (W,) float64 to add to a row of the crop for the row of the scan, or of the resampled scan.
        zoom: rows of the crop per row of the scan; 1 unless it was resampled.
    """

    scan: Scan
    image: np.ndarray
    rows: np.ndarray | None
    offset: np.ndarray
    zoom: float = 1.0

    def to_scan(self, rows: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Converts rows (W, K) of the crop and their scales to pixels of the scan."""
        rows = rows + self.offset[:, None]
        return (rows, sigma) if self.zoom == 1 else ((rows + 0.5) / self.zoom - 0.5, sigma / self.zoom)


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
    picture, labels, zoom = resampled(scan)
    axial_um = scan.axial_um / zoom
    try:
        scale = {"axial_um": axial_um, "lateral_um": scan.lateral_um}
        retina = surfaces.find(picture, border=white_border(picture), **scale)
    except ValueError as error:
        raise ValueError(f"{scan.name}: {error}") from None
    image = blacken_border(picture)
    values = compensate(image, lateral_um=scan.lateral_um) if is_compensated else image / 255.0
    middle = middle_row(len(image))
    shift = retina.bm - middle if is_flattened else np.full(len(retina.bm), np.round(retina.bm.mean()) - middle)
    bottom = round(float((retina.bm - shift).max())) + round(BELOW_RETINA_UM / axial_um)
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
    rows = None if labels is None else (labels - offset).T.astype(np.float32)
    return Prepared(scan, image.astype(np.float32), rows, offset, zoom)


def resampled(scan: Scan) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Returns the image and the labels of a scan with pixels `AXIAL_UM` high, and the rows per row of the scan.

    Nothing changes if its own pixels are that high within 1 %. Pixel centres are at whole numbers.

    >>> scan = Scan("a", "a", np.zeros((100, 9), np.uint8), np.full((1, 9), 49.5), axial_um=AXIAL_UM / 2)
    >>> image, rows, zoom = resampled(scan)
    >>> image.shape, rows[0, 0].item(), zoom
    ((50, 9), 24.5, 0.5)
    """
    zoom = scan.axial_um / AXIAL_UM
    if abs(zoom - 1) < SAME_SCALE:
        return scan.image, scan.rows, 1.0
    height, width = scan.image.shape
    size = (width, max(round(height * zoom), 2))
    zoom = size[1] / height
    how = (
        Image.Resampling.BOX if zoom < 1 else Image.Resampling.BILINEAR
    )  # means of whole pixels, or lines between them
    picture = np.asarray(Image.fromarray(scan.image).resize(size, how))
    return picture, None if scan.rows is None else (scan.rows + 0.5) * zoom - 0.5, zoom


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
