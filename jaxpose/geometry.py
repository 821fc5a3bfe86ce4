"""Boxes, affines, flips and normalised coordinates. The coordinate convention of the library is defined here, once.

Convention
    A point is ``(x, y)`` in pixels, x to the right and y downwards. Pixel centres lie at integers: ``(0, 0)`` is the
    centre of the top-left pixel and ``(W - 1, H - 1)`` that of the bottom-right one.
    A box is ``(x, y, w, h)``: its top-left corner and its size; its centre is ``(x + w / 2, y + h / 2)``.
    An affine is a ``(2, 3)`` matrix ``A``: ``p' = A[:, :2] @ p + A[:, 2]``. Unless stated otherwise it maps image pixels
    to input pixels (the pixels of the crop that the net sees).
    The centre of a box goes to ``(W / 2, H / 2)`` of the crop, as in the published HRNet and RLE code, not to the
    centre of its pixel grid, ``((W - 1) / 2, (H - 1) / 2)``.
    Normalised coordinates are ``x / W - 0.5`` and ``y / H - 0.5``.

Every function takes leading batch dimensions. NumPy (or plain Python) in gives NumPy out, without touching JAX: the input
pipeline calls these functions per sample. JAX is not even imported: before its import, no input can be a JAX array. A JAX
array or tracer among the inputs gives a JAX array. The two compute the same formula in the promoted dtype, float32 at
least. Shapes are always checked; values (box sizes, angles, matrices) only on the host, where they are known.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or jax.Array, whichever came in
_FLOATS = (np.dtype(np.float64), np.dtype(np.float32))

__all__ = [
    "apply_affine",
    "box_to_affine",
    "center_to_affine",
    "clip_box",
    "denormalize",
    "fit_box",
    "flip_affine",
    "flip_joints",
    "invert_affine",
    "mirror_normalized",
    "normalize",
    "pixel_to_camera",
]


def box_to_affine(
    box_xywh: Array, size_wh: Sequence[int], *, padding: float = 1.25, rotation: Array = 0.0, scale: Array = 1.0
) -> Array:
    """Computes the affine from image pixels to the pixels of a crop around a box.

    The box is widened or heightened about its centre to the aspect of the crop, enlarged by ``padding * scale``, and
    rotated. With W, H the size of the crop, c the centre of the box, f = W / (max(w, h W / H) * padding * scale):

        x' = f ( cos r (x - cx) + sin r (y - cy)) + W / 2
        y' = f (-sin r (x - cx) + cos r (y - cy)) + H / 2

    Args:
        box_xywh: ``(..., 4)``, top-left corner and size in image pixels. Apply `clip_box` to COCO ground truth first.
        size_wh: The width and height of the crop in pixels.
        padding: The factor by which the crop is larger than the box: 1.25 in the published recipes.
        rotation: Degrees, a number or ``(...)``. Positive turns the content of the crop counter-clockwise on screen.
        scale: A further factor on the size of the region (augmentation), a number or ``(...)``; values above 1 show more.

    Returns:
        ``(..., 2, 3)``.

    Raises:
        ValueError: A shape or the padding is wrong; on the host also if a box is not finite or has no positive size, an
            angle is not finite, or a scale is not positive.

    Source: the affine of Xiao et al. 2018 (Simple Baselines), shared by HRNet, RLE and mmpose. Those codes build it
    from three point pairs in float32; only the width of the fitted box enters: both axes are scaled by the same f.

    >>> box_to_affine((10, 20, 30, 40), (192, 256), padding=1.0) @ (25, 40, 1)    # centre of the box -> (W/2, H/2)
    array([ 96., 128.])
    """
    xp, box, rotation, scale = _as_float(box_xywh, rotation, scale)
    _check_last(box, 4, "box_xywh", "(..., 4): x, y, w, h")
    _check_number_or_batch(rotation, box.shape[:-1], "rotation", "box_xywh")
    _check_number_or_batch(scale, box.shape[:-1], "scale", "box_xywh")
    if not _is_traced(padding):
        _check_positive(np.asarray(padding), "padding")
    if xp is np:
        _check_boxes(box)
        _check_positive(scale, "scale")
        _check_finite(rotation, "rotation")
    width, height = _plain_size(size_wh)
    x, y, w, h = _columns(box)
    source_width = xp.maximum(w, h * (width / height)) * (padding * scale)
    return _affine(xp, x + w / 2, y + h / 2, source_width, width, height, rotation)


def center_to_affine(center_xy: Array, source_width: Array, size_wh: Sequence[int], *, rotation: Array = 0.0) -> Array:
    """Computes the affine from image pixels to a crop that shows `source_width` image pixels across, about a centre.

    For annotations given as centre and scale (MPII: ``source_width = 200 * scale``), and for crops whose centre is not
    that of their box. `box_to_affine` is this after the box is fitted to the aspect of the crop.

    Args:
        center_xy: ``(..., 2)`` image pixels, which map to (W / 2, H / 2).
        source_width: The image pixels that the width of the crop covers, a number or ``(...)``. The height follows.
        size_wh: The width and height of the crop in pixels.
        rotation: Degrees, a number or ``(...)``; as in `box_to_affine`.

    Returns:
        ``(..., 2, 3)``.

    >>> center_to_affine((50.0, 60.0), 100.0, (200, 200)) @ (60.0, 60.0, 1.0)
    array([120., 100.])
    """
    xp, center, source_width, rotation = _as_float(center_xy, source_width, rotation)
    _check_last(center, 2, "center_xy", "(..., 2): x, y")
    _check_number_or_batch(source_width, center.shape[:-1], "source_width", "center_xy")
    _check_number_or_batch(rotation, center.shape[:-1], "rotation", "center_xy")
    if xp is np:
        _check_finite(center, "center_xy")
        _check_positive(source_width, "source_width")
        _check_finite(rotation, "rotation")
    width, height = _plain_size(size_wh)
    x, y = _columns(center)
    return _affine(xp, x, y, source_width, width, height, rotation)


def apply_affine(affine: Array, xy: Array) -> Array:
    """Applies an affine to points: ``p' = A[:, :2] @ p + A[:, 2]``.

    Args:
        affine: ``(batch..., 2, 3)``.
        xy: ``(batch..., points..., 2)``, with one affine for all points of a batch entry. The batch dimensions must be
            the first dimensions of `xy`: ``(2, 3)`` goes with any ``(..., 2)``, ``(B, 2, 3)`` with ``(B, K, 2)``.

    Returns:
        Points of the shape of `xy`.

    Raises:
        ValueError: A shape is wrong; on the host also if a matrix is not finite (points may be: NaN gives NaN).

    >>> apply_affine(np.array([[2.0, 0, 1], [0, 2, 0]]), np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([[1., 0.],
           [7., 8.]])
    """
    xp, affine, xy = _as_float(affine, xy)
    _check_affine(affine, xp)
    _check_last(xy, 2, "xy", "(..., 2): x, y")
    batch = affine.shape[:-2]
    if xy.shape[: len(batch)] != batch or len(batch) > xy.ndim - 1:
        raise ValueError(
            f"the batch dimensions of affine {affine.shape} must be the first dimensions of xy, got xy {xy.shape}"
        )
    extra = (1,) * (xy.ndim - 1 - len(batch))  # one affine for all the points of a batch entry
    a, b, tx, c, d, ty = (affine[..., i, j].reshape(batch + extra) for i in (0, 1) for j in (0, 1, 2))
    x, y = _columns(xy)
    return xp.stack([a * x + b * y + tx, c * x + d * y + ty], axis=-1)


def invert_affine(affine: Array) -> Array:
    """Computes the inverse of an affine: input pixels back to image pixels.

    Args:
        affine: ``(..., 2, 3)``.

    Returns:
        ``(..., 2, 3)``.

    Raises:
        ValueError: A shape is wrong; on the host also if a matrix is singular or not finite.

    >>> invert_affine(np.array([[2.0, 0, 1], [0, 2, 4]])) @ (1, 4, 1)
    array([0., 0.])
    """
    xp, affine = _as_float(affine)
    _check_affine(affine, xp)
    a, b, tx, c, d, ty = (affine[..., i, j] for i in (0, 1) for j in (0, 1, 2))
    determinant = a * d - b * c
    if xp is np and not np.all(determinant != 0):
        raise ValueError(f"affine {_format(affine)} has no inverse: its determinant is 0")
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    return _matrix(xp, a, b, -(a * tx + b * ty), c, d, -(c * tx + d * ty))


def flip_affine(affine: Array, *, width: Array) -> Array:
    """Composes an affine that first mirrors the image, x -> width - 1 - x, and then applies `affine`.

    With it, one warp of the unmirrored image gives the crop of the mirrored one.

    Args:
        affine: ``(..., 2, 3)`` for the mirrored image.
        width: The width of the image in pixels, a number or ``(...)``.

    Returns:
        ``(..., 2, 3)`` for the unmirrored image.

    >>> flip_affine(np.array([[1.0, 0, 0], [0, 1, 0]]), width=100) @ (0, 7, 1)
    array([99.,  7.])
    """
    xp, affine, width = _as_float(affine, width)
    _check_affine(affine, xp)
    _check_number_or_batch(width, affine.shape[:-2], "width", "affine")
    a, b, tx, c, d, ty = (affine[..., i, j] for i in (0, 1) for j in (0, 1, 2))
    return _matrix(xp, -a, b, tx + a * (width - 1), -c, d, ty + c * (width - 1))


def flip_joints(xy: Array, visible: Array, *, width: Array, flip_index: Array) -> tuple[Array, Array]:
    """Mirrors joints: x -> width - 1 - x, left and right exchanged.

    Args:
        xy: ``(..., K, D)`` pixels, D 2 or 3; only x is mirrored.
        visible: ``(..., K)`` flags or weights, 0 where a joint has no label.
        width: The width of the image in pixels, a number or ``(...)``.
        flip_index: ``(K,)`` indices: joint k of the mirrored image is joint ``flip_index[k]`` of this one
            (`jaxpose.skeleton.Skeleton.flip_index`).

    Returns:
        ``(xy, visible)`` of the input shapes. A joint without a label is returned as 0, whatever it held.

    >>> xy, visible = flip_joints(np.array([[1.0, 5.0], [2.0, 6.0]]), np.array([2, 1]), width=10, flip_index=(1, 0))
    >>> xy, visible
    (array([[7., 6.],
           [8., 5.]]), array([1, 2]))
    """
    xp, xy, width = _as_float(xy, width)
    if _is_jax(visible):
        import jax.numpy as xp

        xy = xp.asarray(xy)
    visible, index = xp.asarray(visible), np.asarray(flip_index)
    if xy.ndim < 2 or xy.shape[-1] not in (2, 3):
        raise ValueError(f"xy must be (..., K, 2) or (..., K, 3), got {xy.shape}")
    if visible.shape != xy.shape[:-1]:
        raise ValueError(f"visible must be {xy.shape[:-1]} for xy {xy.shape}, got {visible.shape}")
    _check_flip_index(index, xy.shape[-2])
    _check_number_or_batch(width, xy.shape[:-2], "width", "xy")
    visible = visible[..., index]
    labelled = (visible > 0)[..., None]
    xy = xp.where(labelled, xy[..., index, :], 0.0)  # first, so that an unlabelled NaN stays out of the arithmetic
    mirrored = xp.concatenate([width[..., None, None] - 1 - xy[..., :1], xy[..., 1:]], axis=-1)
    return xp.where(labelled, mirrored, 0.0).astype(xy.dtype), visible


def fit_box(box_xywh: Array, *, aspect: float, padding: float = 1.0) -> Array:
    """Returns the smallest box of a given aspect about the same centre that holds the box, times a padding.

    This is the region that the crop of `box_to_affine` shows; OKS-NMS of the published pipelines uses its area.

    Args:
        box_xywh: ``(..., 4)``.
        aspect: The width / height of the result.
        padding: The factor on width and height.

    Returns:
        ``(..., 4)``.

    >>> fit_box((0, 0, 30, 20), aspect=0.75, padding=2.0)
    array([-15., -30.,  60.,  80.])
    """
    xp, box = _as_float(box_xywh)
    _check_last(box, 4, "box_xywh", "(..., 4): x, y, w, h")
    if not aspect > 0 or not padding > 0:
        raise ValueError(f"aspect and padding must be positive, got aspect={aspect}, padding={padding}")
    x, y, w, h = _columns(box)
    width = xp.maximum(w, h * aspect) * padding
    height = xp.maximum(h, w / aspect) * padding
    return xp.stack([x + (w - width) / 2, y + (h - height) / 2, width, height], axis=-1)


def clip_box(box_xywh: Array, size_wh: Array) -> Array:
    """Cleans a COCO ground-truth box as the published pipelines do: inside the image, one pixel narrower and lower.

    The corners (x, y) and (x + w - 1, y + h - 1), centres of the first and last pixel, are clipped to
    [0, W - 1] x [0, H - 1]; the size is their difference.

    Args:
        box_xywh: ``(..., 4)`` image pixels.
        size_wh: The image width and height, ``(2,)`` or ``(..., 2)``.

    Returns:
        ``(..., 4)``. A box outside the image gets a width or height of 0; drop such a sample.

    If x < 0 (COCO has no such box) the HRNet code shifts the box into the image before it takes the far corner;
    RLE's clips both corners, as here.

    >>> clip_box((-5, 10, 20, 20), (100, 25))
    array([ 0., 10., 14., 14.])
    """
    xp, box, size = _as_float(box_xywh, size_wh)
    _check_last(box, 4, "box_xywh", "(..., 4): x, y, w, h")
    _check_last(size, 2, "size_wh", "(2,) or (..., 2): width, height")
    if size.shape[:-1] not in ((), box.shape[:-1]):
        raise ValueError(f"size_wh must be (2,) or {box.shape[:-1] + (2,)} for box_xywh {box.shape}, got {size.shape}")
    far = size - 1
    first = xp.clip(box[..., :2], 0, far)
    last = xp.clip(box[..., :2] + xp.maximum(box[..., 2:] - 1, 0), 0, far)
    return xp.concatenate([first, last - first], axis=-1)


def normalize(xy: Array, size_wh: Sequence[float]) -> Array:
    """Converts pixels to the coordinates that a regression net predicts: ``x / W - 0.5``, ``y / H - 0.5``.

    Args:
        xy: ``(..., D)`` pixels of the crop.
        size_wh: The D sizes, in the order of the coordinates.

    Returns:
        ``(..., D)``; the crop spans [-0.5, 0.5 - 1 / W]. Inverse: `denormalize`.

    >>> normalize(np.array([96.0, 64.0]), (192, 256))
    array([ 0.  , -0.25])
    """
    xp, xy = _as_float(xy)
    return xy / _size_of(xp, xy, size_wh) - 0.5


def denormalize(xy: Array, size_wh: Sequence[float]) -> Array:
    """Converts normalised coordinates back to pixels: ``(x + 0.5) W``, ``(y + 0.5) H``. Inverse of `normalize`.

    >>> denormalize(np.array([0.0, -0.25]), (192, 256))
    array([96., 64.])
    """
    xp, xy = _as_float(xy)
    return (xy + 0.5) * _size_of(xp, xy, size_wh)


def mirror_normalized(xy: Array, *, width: int, flip_index: Array | None = None) -> Array:
    """Mirrors normalised coordinates: ``x -> -x - 1 / W``; with `flip_index` left and right are exchanged.

    This is the exact mirror, x -> W - 1 - x in pixels. A prediction on the mirrored crop goes through it before it is
    averaged with the one on the crop itself (the flip test of the official RLE code).

    Args:
        xy: ``(..., D)``, or ``(..., K, D)`` with `flip_index`.
        width: The width of the crop in pixels.
        flip_index: ``(K,)`` or None; permutes the joints.

    Returns:
        Coordinates of the shape of `xy`. Applying it twice gives `xy` back.

    >>> denormalize(mirror_normalized(normalize(np.array([37.0, 5.0]), (192, 256)), width=192), (192, 256))  # 191 - 37
    array([154.,   5.])
    """
    xp, xy = _as_float(xy)
    if xy.ndim < 1 or xy.shape[-1] < 1:
        raise ValueError(f"xy must be (..., D) with D >= 1, got {xy.shape}")
    if not width > 0:
        raise ValueError(f"width must be a positive number of pixels, got {width}")
    if flip_index is not None:
        if xy.ndim < 2:
            raise ValueError(f"xy must be (..., K, D) where flip_index is given, got {xy.shape}")
        index = np.asarray(flip_index)
        _check_flip_index(index, xy.shape[-2])
        xy = xy[..., index, :]
    return xp.concatenate([-xy[..., :1] - 1 / width, xy[..., 1:]], axis=-1)


def pixel_to_camera(uvd: Array, *, focal: Array, center: Array) -> Array:
    """Converts pixels with depth to camera coordinates: ``x = (u - cx) / fx * d``, ``y = (v - cy) / fy * d``, ``z = d``.

    Args:
        uvd: ``(..., 3)``: u, v in pixels, and d, the depth along the optical axis.
        focal: ``(2,)`` focal lengths in pixels.
        center: ``(2,)`` principal point in pixels.

    Returns:
        ``(..., 3)`` in the unit of the depth.

    >>> pixel_to_camera(np.array([60.0, 50.0, 200.0]), focal=(100, 100), center=(50, 50))
    array([ 20.,   0., 200.])
    """
    xp, uvd, focal, center = _as_float(uvd, focal, center)
    _check_last(uvd, 3, "uvd", "(..., 3): u, v, depth")
    if focal.shape != (2,) or center.shape != (2,):
        raise ValueError(f"focal and center must be (2,), got {focal.shape} and {center.shape}")
    depth = uvd[..., 2:]
    return xp.concatenate([(uvd[..., :2] - center) / focal * depth, depth], axis=-1)


def _affine(xp: ModuleType, cx, cy, source_width, width, height, rotation) -> Array:
    """Returns (..., 2, 3) from the centre, the covered width and the rotation in degrees."""
    angle = rotation * (np.pi / 180)
    zoom = width / source_width
    cos, sin = zoom * xp.cos(angle), zoom * xp.sin(angle)
    cos, sin = cos + 0 * cx, sin + 0 * cx  # broadcasts to the batch shape if zoom and angle are numbers
    return _matrix(xp, cos, sin, width / 2 - cos * cx - sin * cy, -sin, cos, height / 2 + sin * cx - cos * cy)


def _matrix(xp: ModuleType, a, b, tx, c, d, ty) -> Array:
    if xp is np and a.ndim == 0:  # for a single host item, three times as fast as stacking
        return np.array([[a, b, tx], [c, d, ty]])
    flat = xp.stack([a, b, tx, c, d, ty], axis=-1)
    return flat.reshape(flat.shape[:-1] + (2, 3))


def _is_jax(*values: Any) -> bool:
    """Tells whether one of the values is a JAX array or tracer."""
    jax_array = getattr(sys.modules.get("jax"), "Array", ())
    return any(isinstance(value, jax_array) for value in values)


def _is_traced(value: Any) -> bool:
    return _is_jax(value) and isinstance(value, sys.modules["jax"].core.Tracer)


def _as_float(first: Array, *others: Array) -> tuple:
    """Returns the array namespace, and the arrays in one floating dtype: that of the first, or a wider one of the others."""
    if from_jax := _is_jax(first, *others):
        import jax
        import jax.numpy as xp

        dtype = xp.result_type(first if hasattr(first, "dtype") else np.asarray(first), xp.float32)
    else:
        xp, first = np, np.asarray(first)
        dtype = first.dtype if first.dtype in _FLOATS else np.result_type(first.dtype, np.float32)
    for other in others:  # Python numbers and integers do not widen
        if hasattr(other, "dtype") and xp.issubdtype(other.dtype, xp.floating):
            dtype = xp.promote_types(dtype, other.dtype)
    if from_jax:
        dtype = jax.dtypes.canonicalize_dtype(dtype)  # float64 from the host only if JAX has it enabled
    if not others:
        return xp, xp.asarray(first, dtype=dtype)
    return xp, *(xp.asarray(a, dtype=dtype) for a in (first, *others))


def _columns(array: Array) -> tuple:
    """Splits the last axis."""
    return tuple(array[..., i] for i in range(array.shape[-1]))


def _plain_size(size_wh: Sequence[int]) -> tuple[float, float]:
    if np.shape(size_wh) != (2,):
        raise ValueError(f"size_wh must be two numbers, width and height, got {_format(size_wh)}")
    width, height = (float(s) for s in size_wh)
    if not (width > 0 and height > 0):
        raise ValueError(f"size_wh must be positive, got {_format(size_wh)}")
    return width, height


def _size_of(xp: ModuleType, xy: Array, size: Sequence[float]) -> Array:
    size = np.asarray(size)
    if xy.ndim < 1 or size.shape != xy.shape[-1:]:
        raise ValueError(f"size_wh must hold one size per coordinate: xy {xy.shape}, size_wh {_format(size)}")
    if not np.all(size > 0):
        raise ValueError(f"size_wh must be positive, got {_format(size)}")
    return xp.asarray(size, dtype=xy.dtype)


def _check_last(array: Array, length: int, name: str, expected: str) -> None:
    if array.ndim < 1 or array.shape[-1] != length:
        raise ValueError(f"{name} must be {expected}, got shape {array.shape}")


def _check_affine(affine: Array, xp: ModuleType) -> None:
    if affine.ndim < 2 or affine.shape[-2:] != (2, 3):
        raise ValueError(f"affine must be (..., 2, 3), got shape {affine.shape}")
    if xp is np:
        _check_finite(affine, "affine")


def _check_number_or_batch(array: Array, batch: tuple[int, ...], name: str, other: str) -> None:
    if array.shape not in ((), batch):
        raise ValueError(f"{name} must be a number or of the batch shape {batch} of {other}, got {array.shape}")


def _check_positive(value: np.ndarray, name: str) -> None:
    if not (np.all(value > 0) and np.isfinite(value).all()):
        raise ValueError(f"{name} must be positive and finite, got {_format(value)}")


def _check_finite(value: np.ndarray, name: str) -> None:
    if not np.isfinite(value).all():
        raise ValueError(f"{name} must be finite, got {_format(value)}")


def _check_boxes(box: np.ndarray) -> None:
    good = np.isfinite(box).all(axis=-1) & (box[..., 2] > 0) & (box[..., 3] > 0)
    if not good.all():
        bad = box if box.ndim == 1 else box[~good][0]
        raise ValueError(f"a box must be finite with positive width and height, got x, y, w, h = {bad.tolist()}")


def _check_flip_index(index: np.ndarray, num_joints: int) -> None:
    if index.shape != (num_joints,) or not np.array_equal(np.sort(index), np.arange(num_joints)):
        raise ValueError(
            f"flip_index must be a permutation of the {num_joints} joints, got {_format(index)} of shape {index.shape}"
        )


def _format(value: Array) -> str:
    text = str(np.asarray(value).tolist() if not _is_traced(value) else value)
    return text if len(text) < 200 else text[:200] + "..."
