"""Poses drawn on pictures and videos at their own resolution, and the outlines of predictive regions.

Drawing needs OpenCV (the extra `data`), outlines need contourpy (a dependency of the extra `plot`). Only `outlines` imports
JAX.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from jaxpose.skeleton import Skeleton
from jaxpose.view.palette import LIGHT, PEOPLE, limbs_shown

if TYPE_CHECKING:
    from jaxpose import density

__all__ = ["draw", "outlines", "region_outlines"]

SHIFT = 4
"""Number of bits for the fraction of a pixel in OpenCV's coordinates."""
FAR = 2**14
"""Limit in pixels: coordinates beyond it are clipped to it, outside every picture, so that nothing overflows."""


def draw(
    image: np.ndarray,
    xy: np.ndarray,
    is_drawn: np.ndarray,
    skeleton: Skeleton,
    *,
    outlines: Iterable[np.ndarray] = (),
    box: np.ndarray | None = None,
) -> np.ndarray:
    """Draws poses on a copy of a picture, each person in a different colour.

    The width of lines grows with the picture and the person, so that small people stay visible under their poses.

    Args:
        image: ``(h, w, 3)`` uint8 RGB.
        xy: ``(P, K, 2)`` joints in pixels; pixel centres are at integers.
        is_drawn: ``(P, K)`` bool, the joints to draw; a limb needs both of its joints.
        skeleton: the skeleton of the poses.
        outlines: closed curves ``(n, 2)`` in pixels, drawn with thin lines: regions of the joints.
        box: ``(P, 4)`` x, y, w, h in pixels, or None.

    Returns:
        ``(h, w, 3)`` uint8 RGB.

    Raises:
        ImportError: OpenCV is not installed.

    >>> from jaxpose.skeleton import COCO17
    >>> picture = draw(np.zeros((64, 64, 3), np.uint8), np.full((1, 17, 2), 32.0), np.ones((1, 17), bool), COCO17)
    >>> picture.shape, bool(picture[32, 32].any())
    ((64, 64, 3), True)
    """
    from jaxpose.data.pixels import opencv

    cv2, canvas = opencv(), np.ascontiguousarray(image).copy()
    thick = max(1, round(min(image.shape[:2]) / 220))
    for curve in outlines:
        cv2.polylines(canvas, [_fixed(curve)], True, LIGHT.rgb, max(1, thick // 2), cv2.LINE_AA, SHIFT)
    for person, (points, joints) in enumerate(zip(xy, is_drawn, strict=True)):
        color = PEOPLE[person % len(PEOPLE)].rgb
        if box is not None:
            corner = _fixed(np.stack([box[person, :2], box[person, :2] + box[person, 2:]]))
            cv2.rectangle(canvas, corner[0].tolist(), corner[1].tolist(), color, max(1, thick // 2), cv2.LINE_AA, SHIFT)
        if joints.any():
            _draw_pose(cv2, canvas, _fixed(points), joints, skeleton, color=color, thick=thick)
    return canvas


def _draw_pose(cv2, canvas, at: np.ndarray, is_drawn: np.ndarray, skeleton: Skeleton, *, color, thick: int) -> None:
    """Draws one pose on the canvas; `at` (K, 2) in OpenCV's fractions of pixels."""
    extent = np.ptp(at[is_drawn], axis=0).max() / 2**SHIFT
    line = int(np.clip(extent / 70, 1, thick))
    radius = round(float(np.clip(extent / 40, 1.3, 1.6 * thick)) * 2**SHIFT)
    for a, b in limbs_shown(skeleton.limbs, is_drawn):
        cv2.line(canvas, at[a].tolist(), at[b].tolist(), color, line, cv2.LINE_AA, SHIFT)
    for joint in np.flatnonzero(is_drawn):
        cv2.circle(canvas, at[joint].tolist(), radius, color, -1, cv2.LINE_AA, SHIFT)
        if radius > 3 * 2**SHIFT:
            cv2.circle(canvas, at[joint].tolist(), radius, LIGHT.rgb, 1, cv2.LINE_AA, SHIFT)


def _fixed(xy: np.ndarray) -> np.ndarray:
    return np.round(np.clip(np.nan_to_num(xy), -FAR, FAR) * 2**SHIFT).astype(np.int32)


def outlines(model: density.Model, level: float) -> list[np.ndarray]:
    """Computes the boundary of `jaxpose.density.region`.

    Args:
        model: the predictive density of the standardised error, in 2D.
        level: mass of the region, in (0, 1).

    Returns:
        Closed curves ``(n, 2)`` of the standardised error; several if the region has several parts.

    Raises:
        ImportError: contourpy is not installed.

    >>> from jaxpose import density
    >>> curve, = outlines(density.Model(log_g=None, base="gaussian"), 0.5)  # a circle of radius sqrt(2 log 2)
    >>> round(float(np.linalg.norm(curve, axis=-1).mean()), 2), curve.shape[1]
    (1.18, 2)
    """
    from jaxpose import density

    return region_outlines(density.region(model, level))


def region_outlines(region: density.Region) -> list[np.ndarray]:
    """Finds the boundary of a region; see `outlines`."""
    try:
        import contourpy
    except ImportError as error:
        raise ImportError("outlines of regions need contourpy: pip install 'jaxpose[plot]'") from error
    heights = np.maximum(region.log_density, region.log_threshold - 50).T  # no -inf
    lines = contourpy.contour_generator(*region.axes, heights).lines(region.log_threshold)
    return [line for line in lines if len(line) > 3]
