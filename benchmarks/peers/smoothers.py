"""Filters that pose tools offer, one series (T, ...) at a time: what `jaxpose.smoothing` is compared with.

One Euro is Casiez et al. 2012; its default parameters here are those of mmpose 0.x, with time in frames. Savitzky-Golay (window
11, order 2) is mmpose's too; the running median is DeepLabCut's kind.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter
from scipy.signal import savgol_filter


def one_euro(
    xy: np.ndarray, *, min_cutoff: float = 0.004, beta: float = 0.7, derivative_cutoff: float = 1.0
) -> np.ndarray:
    """A causal low-pass filter along the first axis, whose cutoff rises with the speed."""

    def share(cutoff):
        r = 2 * np.pi * cutoff
        return r / (r + 1)

    value, speed = xy[0], np.zeros_like(xy[0])
    smooth = [value]
    for y in xy[1:]:
        speed = share(derivative_cutoff) * (y - value) + (1 - share(derivative_cutoff)) * speed
        weight = share(min_cutoff + beta * np.abs(speed))
        value = weight * y + (1 - weight) * value
        smooth.append(value)
    return np.array(smooth)


def savitzky_golay(xy: np.ndarray, *, window: int = 11, order: int = 2) -> np.ndarray:
    return savgol_filter(xy, window, order, axis=0)


def median(xy: np.ndarray, *, window: int = 7) -> np.ndarray:
    return median_filter(xy, size=(window, *[1] * (xy.ndim - 1)), mode="nearest")
