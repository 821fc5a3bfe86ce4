"""The retina in a single scan: ILM, IS/OS and Bruch's membrane, each as a shortest path from left to right.

He's preprocessing finds them column by column and repairs outliers across neighbouring scans of a volume, which is wrong for
scans that are not neighbours. Here the surfaces are the cheapest paths through the vertical gradient, which need no
neighbours; the distances in micrometres that surfaces may have are He's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

LARGEST_STEP = 2
"""Rows that a path may change from one column to the next."""
STEP_COST = 0.02
"""Cost of a step of one row, as a part of the steepest gradient."""
SMOOTHING_UM = (11.6, 16.67)
"""Standard deviations of the Gaussian before the gradient, axial and lateral."""
LEAST_RETINA_UM = 96.7
"""Least distance from ILM to IS/OS."""
BELOW_UM = (20.0, 116.0)
"""Distances of Bruch's membrane below IS/OS."""
SURFACE_UM = (55.6, 55.6, 111.0)
"""Standard deviations of the lateral smoothing of the three surfaces."""


class Surfaces(NamedTuple):
    """Rows (W,) of three surfaces, in pixels from 0: the top of the retina, the bright line above RPE, and its bottom."""

    ilm: np.ndarray
    isos: np.ndarray
    bm: np.ndarray


def find(image: np.ndarray, *, axial_um: float, lateral_um: float, border: np.ndarray | None = None) -> Surfaces:
    """Finds the surfaces of the retina in one scan.

    Args:
        image: (H, W) scan.
        axial_um, lateral_um: height and width of a pixel in micrometres.
        border: (H, W) bool, True in the white borders (`flatten.white_border`), whose edges are no surfaces; None: there are none.

    Returns:
        The three surfaces, smoothed; each is above the next one.

    Raises:
        ValueError: the image is too low for a retina, or it is empty.

    >>> image = np.zeros((120, 64))
    >>> image[30:80], image[70:90] = 0.5, 1.0
    >>> surfaces = find(image, axial_um=3.87, lateral_um=11.33)
    >>> [abs(float(rows.mean()) - edge) < 1 for rows, edge in zip(surfaces, (29.5, 69.5, 89.5))]
    [True, True, True]
    """
    image = np.asarray(image, np.float64)
    least = LEAST_RETINA_UM / axial_um
    height = image.shape[0]
    if height < least + BELOW_UM[1] / axial_um:
        raise ValueError(f"a scan of {height} rows of {axial_um} um is too low for a retina: expected the whole depth")
    border = np.zeros(image.shape, bool) if border is None else border
    if border.all():
        raise ValueError("the scan is empty: all of its pixels are white")
    image = np.where(border, np.median(image[~border]), image)
    smooth = ndimage.gaussian_filter(image, (SMOOTHING_UM[0] / axial_um, SMOOTHING_UM[1] / lateral_um), mode="nearest")
    gradient = ndimage.sobel(smooth, axis=0, mode="nearest")
    if not np.abs(gradient).max() > 0:
        raise ValueError("the scan is empty: all of its pixels are equal")
    gradient /= np.abs(gradient).max()
    reach = 1 + math.ceil(2 * SMOOTHING_UM[0] / axial_um)
    gradient[ndimage.maximum_filter(border, (2 * reach + 1, 3))] = 0.0
    row = np.arange(height)[:, None]
    first = shortest_path(-gradient)
    second = shortest_path(np.where(np.abs(row - first) < least, np.inf, -gradient))
    ilm, isos = (first, second) if first.mean() < second.mean() else (second, first)
    low, high = (isos + distance / axial_um for distance in BELOW_UM)
    allowed = (row >= np.minimum(low, height - 1)) & (row <= high)
    bm = shortest_path(np.where(allowed, gradient, np.inf))
    ilm, isos, bm = (
        ndimage.gaussian_filter1d(rows.astype(np.float64), sigma / lateral_um, mode="nearest")
        for rows, sigma in zip((ilm, isos, bm), SURFACE_UM, strict=True)
    )
    isos = np.maximum(isos, ilm)
    return Surfaces(ilm, isos, np.maximum(bm, isos + BELOW_UM[0] / axial_um))


def shortest_path(cost: np.ndarray) -> np.ndarray:
    """Returns the rows (W,) of the cheapest path from the left to the right of costs (H, W); infinite cells are closed.

    A path changes by `LARGEST_STEP` rows a column at most, at a cost of `STEP_COST` a row. Where all ways are closed the
    path goes straight on.

    >>> cost = np.ones((4, 3))
    >>> cost[1, 0] = cost[2, 1] = cost[2, 2] = 0
    >>> shortest_path(cost).tolist()
    [1, 2, 2]
    """
    height, width = cost.shape
    closed = 1e6  # worse than any open path, and better than nothing
    cost = np.where(np.isfinite(cost), cost, closed)
    steps = np.arange(-LARGEST_STEP, LARGEST_STEP + 1)
    total, came_from = cost[:, 0], np.zeros((width, height), np.int64)
    rows = np.arange(height)
    source = rows[:, None] + steps
    inside = (source >= 0) & (source < height)
    source = np.clip(source, 0, height - 1)
    for x in range(1, width):
        ways = np.where(inside, total[source] + STEP_COST * np.abs(steps), np.inf)
        best = ways.argmin(1)
        came_from[x] = source[rows, best]
        total = ways[rows, best] + cost[:, x]
    path = np.empty(width, np.int64)
    path[-1] = total.argmin()
    for x in range(width - 1, 0, -1):
        path[x - 1] = came_from[x, path[x]]
    return path
