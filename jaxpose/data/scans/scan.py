"""A scan with its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

AXIAL_UM = 3.87
"""Height of a pixel of a Spectralis scan in micrometres."""
LATERAL_UM = 11.33
"""Width of a pixel of the Duke DME scans in micrometres, their mean."""
AXIAL_RANGE, LATERAL_RANGE = (0.5, 50.0), (0.5, 500.0)
"""Heights and widths of pixels that scanners have, with room on both sides; anything else is in another unit."""


def pixel_size(values: Sequence[float] | None, what: str) -> dict[str, float]:
    """Returns the size of a pixel as arguments of `Scan`.

    Args:
        values: height, or height and width, in micrometres; None: not known.
        what: where they come from, for messages, such as "--pixel-um".

    Raises:
        ValueError: there are not one or two numbers, or they are no sizes in micrometres.

    >>> pixel_size((2.6,), "--pixel-um"), pixel_size(None, "--pixel-um")
    ({'axial_um': 2.6}, {})
    """
    values = [] if values is None else [float(value) for value in values]
    ranges = {"axial_um": AXIAL_RANGE, "lateral_um": LATERAL_RANGE}
    sizes = dict(zip(ranges, values, strict=False))
    if len(values) > len(ranges) or not all(
        ranges[name][0] <= value <= ranges[name][1] for name, value in sizes.items()
    ):
        raise ValueError(
            f"{what} {' '.join(f'{value:g}' for value in values)}: expected the height of a pixel in micrometres, {AXIAL_RANGE[0]:g} "
            f"to {AXIAL_RANGE[1]:g}, and perhaps its width after it; that of a Spectralis scan is {AXIAL_UM}"
        )
    return sizes


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan (B-scan): depth goes down, a column is one line of sight.

    Attributes:
        name: name of the scan, for messages and results.
        subject: name of the subject; the scans of a subject are never split between training and evaluation.
        image: (H, W) uint8.
        rows: (K, W) float64 rows of the labelled boundaries from top to bottom, in pixels from 0; NaN where there is no label.
            None: no labels.
        axial_um, lateral_um: height and width of a pixel in micrometres.
        fluid: (H, W) bool, True inside fluid; None: not labelled.
        truth: (K, W) rows before the label noise was added; None for scans of real eyes.
        noise: (K, W) scale of the Laplace noise of the labels in pixels; None for scans of real eyes.
        shadow: (W,) part of the light that vessels let through; None for scans of real eyes.

    Raises:
        ValueError: an array has the wrong shape, or a label is infinite.
    """

    name: str
    subject: str
    image: np.ndarray
    rows: np.ndarray | None = None
    axial_um: float = AXIAL_UM
    lateral_um: float = LATERAL_UM
    fluid: np.ndarray | None = None
    truth: np.ndarray | None = None
    noise: np.ndarray | None = None
    shadow: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.dtype != np.uint8 or min(self.image.shape) < 2:
            raise ValueError(
                f"{self.name}: an image of shape {self.image.shape} and type {self.image.dtype}, expected (H, W) uint8"
            )
        height, width = self.image.shape
        per_row = (None if self.rows is None else len(self.rows), width)
        shapes = {"rows": per_row, "fluid": (height, width), "truth": per_row, "noise": per_row, "shadow": (width,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"{self.name}: {name} of shape {value.shape}, expected {shape} for the image {(height, width)}"
                )
        if self.rows is not None and np.isinf(self.rows).any():
            raise ValueError(
                f"{self.name}: an infinite row of a boundary; expected numbers, or NaN where there is no label"
            )
        for name in ("axial_um", "lateral_um"):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise ValueError(f"{self.name}: {name}={value}, expected a positive number of micrometres")
