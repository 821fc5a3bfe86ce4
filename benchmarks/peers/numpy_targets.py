"""The other side of heatmap_throughput.py: targets and decoders in NumPy, one image and one joint at a time.

Written from the published description of the official code (SimpleBaseline, HRNet; DARK), as data loaders and
evaluation scripts run it: channels first, with a Python loop over the joints. The patch is recomputed for every joint,
as published.
"""

from __future__ import annotations

import math

import cv2
import numpy as np


def patch(sigma: float) -> np.ndarray:
    """Returns the Gaussian within 3 sigma of its peak, which is 1."""
    offset = np.arange(-int(3 * sigma), int(3 * sigma) + 1, dtype=np.float32)
    return np.exp(-(offset**2 + offset[:, None] ** 2) / (2 * sigma**2))


def targets(xy: np.ndarray, size_hw: tuple[int, int], *, sigma: float) -> np.ndarray:
    """Computes the targets of one image: (K, 2) in heatmap pixels -> (K, h, w)."""
    h, w = size_hw
    radius = int(3 * sigma)
    maps = np.zeros((len(xy), h, w), np.float32)
    for map_, (x, y) in zip(maps, xy, strict=True):
        column, row = int(x + 0.5), int(y + 0.5)
        left, top, right, bottom = column - radius, row - radius, column + radius + 1, row + radius + 1
        if left >= w or top >= h or right < 0 or bottom < 0:
            continue
        gaussian = patch(sigma)
        inside = gaussian[max(0, -top) : min(bottom, h) - top, max(0, -left) : min(right, w) - left]
        map_[max(0, top) : min(bottom, h), max(0, left) : min(right, w)] = inside
    return maps


def peaks(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, K, h, w) -> the highest pixels (B, K, 2), (0, 0) where nothing is above 0, and their values (B, K)."""
    flat = maps.reshape(*maps.shape[:2], -1)
    index, score = flat.argmax(-1), flat.max(-1)
    xy = np.stack([index % maps.shape[-1], index // maps.shape[-1]], -1).astype(np.float32)
    return xy * (score > 0)[..., None], score


def quarter_shift(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, K, h, w) -> (B, K, 2), (B, K): the highest pixel, a quarter towards the higher neighbour."""
    xy, score = peaks(maps)
    h, w = maps.shape[-2:]
    for image in range(len(maps)):
        for joint in range(maps.shape[1]):
            map_ = maps[image, joint]
            column, row = (math.floor(c + 0.5) for c in xy[image, joint])
            if 1 < column < w - 1 and 1 < row < h - 1:
                slope = [map_[row, column + 1] - map_[row, column - 1], map_[row + 1, column] - map_[row - 1, column]]
                xy[image, joint] += np.sign(slope) * 0.25
    return xy, score


def dark(maps: np.ndarray, *, kernel: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """(B, K, h, w) -> (B, K, 2), (B, K): a Newton step on the logarithm of the blurred map."""
    xy, score = peaks(maps)
    h, w = maps.shape[-2:]
    border = kernel // 2
    padded = np.zeros((h + 2 * border, w + 2 * border), np.float32)
    for image in range(len(maps)):
        for joint in range(maps.shape[1]):
            padded[border:-border, border:-border] = maps[image, joint]
            blurred = cv2.GaussianBlur(padded, (kernel, kernel), 0)[border:-border, border:-border]
            log = np.log(np.maximum(blurred * (score[image, joint] / blurred.max()), 1e-10))
            x, y = xy[image, joint].astype(int)
            if not (1 < x < w - 2 and 1 < y < h - 2):
                continue
            gradient = 0.5 * np.array([log[y, x + 1] - log[y, x - 1], log[y + 1, x] - log[y - 1, x]])
            dxx = 0.25 * (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2])
            dxy = 0.25 * (log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1])
            dyy = 0.25 * (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x])
            if dxx * dyy != dxy**2:
                xy[image, joint] -= np.linalg.solve(np.array([[dxx, dxy], [dxy, dyy]]), gradient)
    return xy, score


def soft_argmax(maps: np.ndarray, *, beta: float) -> np.ndarray:
    """(B, K, h, w) -> (B, K, 2): softmax and expectation, batched, with the bias removed (Gu 2021, eq. 8; pixels from 0)."""
    h, w = maps.shape[-2:]
    scaled = beta * maps
    top = scaled.max((-2, -1), keepdims=True)
    weights = np.exp(scaled - top)
    total = weights.sum((-2, -1))
    x = (weights.sum(-2) * np.arange(w, dtype=np.float32)).sum(-1) / total
    y = (weights.sum(-1) * np.arange(h, dtype=np.float32)).sum(-1) / total
    share = h * w * np.exp(-top[..., 0, 0]) / total
    center = np.array([(w - 1) / 2, (h - 1) / 2], np.float32)
    return (np.stack([x, y], -1) - share[..., None] * center) / (1 - share[..., None])
