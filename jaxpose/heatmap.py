"""Heatmaps and coordinates: Gaussian targets, decoders, soft-argmax and the compensation of its bias.

Maps are channels-last, (..., h, w, K); volumes (..., d, h, w, K). Coordinates are in heatmap pixels, (x, y[, z]), pixel
centres at integers. The caller chooses how heatmap pixels map to input pixels, in which published codes differ (the
stride alone, or (in - 1) / (map - 1) for UDP).

Sources: MSRA targets and quarter shift, Xiao 2018 and Sun 2019 (HRNet); DARK, Zhang 2020; UDP, Huang 2020; soft-argmax,
Sun 2018 (integral regression), equation 6; bias compensation, Gu 2021, equation 8.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp

Method = Literal["msra", "unbiased", "udp", "bottom_up"]
Array = jax.typing.ArrayLike


def _as_float(x: Array) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _points(xy: Array, size_hw: tuple[int, int]) -> jax.Array:
    xy = _as_float(xy)
    if xy.ndim < 2 or xy.shape[-1] != 2:
        raise ValueError(f"xy has shape {xy.shape}: expected (..., K, 2)")
    if len(size_hw) != 2 or min(size_hw) < 1:
        raise ValueError(f"size_hw={size_hw!r}: expected the height and width of the map, both positive")
    return xy


def _maps(maps: Array, *, axes: int = 3, name: str = "maps") -> jax.Array:
    maps = _as_float(maps)
    if maps.ndim < axes or 0 in maps.shape:
        wanted = "(..., h, w, K)" if axes == 3 else "(..., d, h, w, K)"
        raise ValueError(f"{name} has shape {maps.shape}: expected {wanted}, no axis empty")
    return maps


# ---------------------------------------------------------------------------------------------------------------------
# Targets
# ---------------------------------------------------------------------------------------------------------------------


def _window(c: jax.Array, sigma: jax.Array, method: Method) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the first pixel, last pixel and centre of the Gaussian along one axis, for the joint at `c`."""
    if method == "unbiased":
        everywhere = jnp.full_like(c, jnp.inf)
        return -everywhere, everywhere, c
    if method == "bottom_up":
        # A patch of ceil(6 sigma + 3) values, its peak at index 3 sigma + 1, pasted at a rounded corner.
        first = jnp.round(jnp.trunc(c) - 3 * sigma - 1)
        last = jnp.minimum(jnp.round(jnp.trunc(c) + 3 * sigma + 2), first + jnp.ceil(6 * sigma + 3)) - 1
        return first, last, first + 3 * sigma + 1
    nearest = jnp.trunc(c + 0.5)  # toward zero, as published
    return nearest - 3 * sigma, nearest + 3 * sigma, nearest if method == "msra" else c


def _check_method(method: str) -> None:
    if method not in ("msra", "unbiased", "udp", "bottom_up"):
        raise ValueError(f"method={method!r}: expected 'msra', 'unbiased', 'udp' or 'bottom_up'")


def gaussian(xy: Array, size_hw: tuple[int, int], *, sigma: float | Array, method: Method = "msra") -> jax.Array:
    """Draws target maps exp(-|p - c|^2 / (2 sigma^2)) with peak 1.

    Args:
        xy: (..., K, 2) joints in heatmap pixels. A joint that is not finite, or whose window misses the map, gives an
            empty map; see `reaches`.
        size_hw: The height and width of the maps.
        sigma: The standard deviation in heatmap pixels, a number or (..., K).
        method: The centre c and the extent of the Gaussian.
            msra: c is the nearest pixel, a window of 3 sigma to each side (SimpleBaseline, HRNet).
            unbiased: c = xy, no window (DARK).
            udp: c = xy, the window of 3 sigma is around the nearest pixel.
            bottom_up: c = trunc(xy), 3 sigma + 1 to each side (HigherHRNet); a fractional sigma moves the peak off the
              grid by less than a pixel, as the released code's patch does.

    Returns:
        (..., h, w, K).

    Raises:
        ValueError: A shape, size or method is wrong.

    >>> gaussian(jnp.array([[1.2, 0.0]]), (2, 4), sigma=1.0)[0, :, 0].round(2).tolist()[:3]
    [0.6100000143051147, 1.0, 0.6100000143051147]
    """
    _check_method(method)
    xy = _points(xy, size_hw)
    sigma = jnp.broadcast_to(jnp.asarray(sigma, xy.dtype), xy.shape[:-1])

    def profile(c: jax.Array, n: int) -> jax.Array:
        """Maps (..., K) to (..., n, K)."""
        usable = jnp.isfinite(c)
        window = _window(jnp.where(usable, c, 0), sigma, method)
        first, last, center, scale, usable = (a[..., None, :] for a in (*window, sigma, usable))
        p = jnp.arange(n, dtype=xy.dtype)[:, None]
        is_inside = (p >= first) & (p <= last) & usable
        return jnp.where(is_inside, jnp.exp(-0.5 * jnp.square((p - center) / scale)), 0)

    # Without the barrier the exponentials are fused into the product and computed per pixel instead of per row and
    # column.
    rows, columns = jax.lax.optimization_barrier((profile(xy[..., 1], size_hw[0]), profile(xy[..., 0], size_hw[1])))
    return rows[..., :, None, :] * columns[..., None, :, :]


def reaches(xy: Array, size_hw: tuple[int, int], *, sigma: float | Array, method: Method = "msra") -> jax.Array:
    """Tells whether the target window of 3 sigma meets the map; the published codes give weight 0 to joints beyond.

    Args:
        xy, size_hw, sigma, method: The same as for `gaussian`.

    Returns:
        (..., K) bool; False if xy is not finite. On the low side one more pixel than the window counts, as published.

    >>> reaches(jnp.array([[-7.0, 3.0], [-9.0, 3.0]]), (8, 8), sigma=2.0).tolist()
    [True, False]
    """
    _check_method(method)
    xy = _points(xy, size_hw)
    sigma = jnp.broadcast_to(jnp.asarray(sigma, xy.dtype), xy.shape[:-1])[..., None]
    usable = jnp.isfinite(xy).all(-1)
    center = jnp.where(usable[..., None], xy, 0)
    radius = 3 * sigma + (1 if method == "bottom_up" else 0)
    center = {"unbiased": center, "bottom_up": jnp.trunc(center)}.get(method, jnp.trunc(center + 0.5))
    limit = jnp.asarray(size_hw[::-1], xy.dtype)
    return usable & ((center - radius < limit) & (center + radius + 1 >= 0)).all(-1)


def one_hot(xy: Array, size_hw: tuple[int, int]) -> jax.Array:
    """Draws 1 at the pixel nearest to the joint and 0 elsewhere: the target of H2 (Sun 2018, section 2).

    Args:
        xy: (..., K, 2) joints in heatmap pixels.
        size_hw: The height and width of the maps.

    Returns:
        (..., h, w, K); all 0 if the joint is outside or not finite.

    >>> one_hot(jnp.array([[2.4, 0.6]]), (2, 4))[..., 0].tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    """
    xy = _points(xy, size_hw)
    nearest = jnp.floor(xy + 0.5)  # NaN equals no pixel
    rows = nearest[..., None, :, 1] == jnp.arange(size_hw[0])[:, None]
    columns = nearest[..., None, :, 0] == jnp.arange(size_hw[1])[:, None]
    return (rows[..., :, None, :] & columns[..., None, :, :]).astype(xy.dtype)


def disc(xy: Array, size_hw: tuple[int, int], *, radius: float) -> jax.Array:
    """Draws 1 within `radius` heatmap pixels of the joint and 0 beyond: the positives of H3 (Sun 2018, section 2).

    The paper says 15 pixels without their resolution; with its 256 input and 32 map, 15 input pixels are 1.9 map pixels.

    Args:
        xy: (..., K, 2) joints in heatmap pixels.
        size_hw: The height and width of the maps.
        radius: The radius in heatmap pixels.

    Returns:
        (..., h, w, K); all 0 if the joint is not finite or farther outside than the radius.

    >>> disc(jnp.array([[1.0, 0.0]]), (2, 4), radius=1.0)[..., 0].tolist()
    [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    """
    xy = _points(xy, size_hw)
    dy = jnp.arange(size_hw[0])[:, None] - xy[..., None, :, 1]
    dx = jnp.arange(size_hw[1])[:, None] - xy[..., None, :, 0]
    return (jnp.square(dy)[..., :, None, :] + jnp.square(dx)[..., None, :, :] <= radius**2).astype(xy.dtype)


def normalized(maps: Array) -> jax.Array:
    """Divides every map by its sum + 1e-24: the distribution that a softmax is compared with (mmpose's DSNT and IPR).

    Args:
        maps: (..., h, w, K), non-negative, such as those of `gaussian`.

    Returns:
        (..., h, w, K); an empty map stays empty. The gradient is finite there too (the sum is then held constant).

    Raises:
        ValueError: The shape is wrong.

    >>> normalized(jnp.array([[[1.0, 0.0], [3.0, 0.0]]])).tolist()
    [[[0.25, 0.0], [0.75, 0.0]]]
    """
    maps = _maps(maps)
    total = maps.sum((-3, -2), keepdims=True)
    # 1 / sum^2 in the derivative overflows float32 if the sum is almost 0.
    total = jnp.where(total > 1e-12, total, jax.lax.stop_gradient(total))
    return maps / (total + 1e-24)


# ---------------------------------------------------------------------------------------------------------------------
# Decoding
# ---------------------------------------------------------------------------------------------------------------------


def _peak(maps: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns column and row (..., K) int of the first maximum in row order, and its value.

    It takes maxima first, then the place of the maximum among the rows and in its row: an argmax over all pixels is not a
    vector operation on a processor and takes ten times as long.
    """
    rows = maps.max(-2)
    top = rows.max(-2)
    y = jnp.argmax(rows == top[..., None, :], axis=-2)
    row = jnp.take_along_axis(maps, y[..., None, None, :], axis=-3)[..., 0, :, :]
    return jnp.argmax(row == top[..., None, :], axis=-2), y, top


def _at(maps: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns maps at pixel (x, y), or at the nearest pixel inside, (..., K)."""
    h, w, k = maps.shape[-3:]
    flat = maps.reshape(*maps.shape[:-3], h * w, k)
    index = jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)
    return jnp.take_along_axis(flat, index[..., None, :], axis=-2)[..., 0, :]


def argmax(
    maps: Array, *, shift: float = 0.25, border: Literal["hrnet", "mmpose"] = "hrnet"
) -> tuple[jax.Array, jax.Array]:
    """Returns the highest pixel, moved by `shift` towards the higher neighbour along each axis.

    Args:
        maps: (..., h, w, K).
        shift: The shift in pixels; 0 returns the pixel itself.
        border: The rule at the border, and the value for an empty map (no value above 0).
            hrnet: no shift unless 1 < x < w - 1 and 1 < y < h - 1; (0, 0).
            mmpose: x needs 1 < x < w - 1 and 0 < y < h, y needs 1 < y < h - 1 and 0 < x < w; (-1, -1).

    Returns:
        xy (..., K, 2) in heatmap pixels, score (..., K), the value of the highest pixel.

    Raises:
        ValueError: The shape or border is wrong.

    >>> xy, score = argmax(jnp.zeros((5, 6, 1)).at[2, 3, 0].set(1.0).at[2, 4, 0].set(0.5))
    >>> xy.tolist(), score.tolist()
    ([[3.25, 2.0]], [1.0])
    """
    if border not in ("hrnet", "mmpose"):
        raise ValueError(f"border={border!r}: expected 'hrnet' or 'mmpose'")
    maps = _maps(maps)
    h, w = maps.shape[-3:-1]
    x, y, score = _peak(maps)
    inner_x, inner_y = (x > 1) & (x < w - 1), (y > 1) & (y < h - 1)
    move_x, move_y = (inner_x & inner_y,) * 2 if border == "hrnet" else (inner_x & (y > 0), inner_y & (x > 0))
    slope_x = jnp.sign(_at(maps, x + 1, y) - _at(maps, x - 1, y))
    slope_y = jnp.sign(_at(maps, x, y + 1) - _at(maps, x, y - 1))
    xy = jnp.stack([x + shift * move_x * slope_x, y + shift * move_y * slope_y], -1)
    return jnp.where((score > 0)[..., None], xy, 0.0 if border == "hrnet" else -1.0), score


def blur(maps: Array, *, kernel: int = 11) -> jax.Array:
    """Applies the Gaussian blur of DARK: zeros outside the map, rescaled to the old maximum.

    Args:
        maps: (..., h, w, K).
        kernel: The odd size in pixels; the standard deviation is 0.3 ((kernel - 1) / 2 - 1) + 0.8, that is 2.0 for 11 and
            2.9 for 17.

    Returns:
        (..., h, w, K).

    >>> blur(jnp.zeros((7, 7, 1)).at[3, 3].set(5.0)).max().item()
    5.0
    """
    maps = _maps(maps)
    blurred, rescale = _blur(maps, kernel)
    return blurred * rescale[..., None, None, :]


def _blur(maps: jax.Array, kernel: int) -> tuple[jax.Array, jax.Array]:
    """Returns the blurred maps, and the factor (..., K) that restores their old maximum."""
    if kernel < 3 or kernel % 2 == 0:
        raise ValueError(f"kernel={kernel}: expected an odd number of pixels, 3 at least")
    half = kernel // 2

    def band(n: int) -> jax.Array:
        """Returns (n, n): the blur along one axis as a matrix product, which is fast on every device."""
        offset = jnp.arange(n)[:, None] - jnp.arange(n)
        weights = jnp.exp(-0.5 * jnp.square(jnp.arange(-half, half + 1) / (0.3 * (half - 1) + 0.8))).sum()
        profile = jnp.exp(-0.5 * jnp.square(offset / (0.3 * (half - 1) + 0.8))) / weights
        return jnp.where(abs(offset) <= half, profile, 0).astype(maps.dtype)

    h, w, k = maps.shape[-3:]
    exact = jax.lax.Precision.HIGHEST
    blurred = jnp.einsum("ij,...jn->...in", band(h), maps.reshape(*maps.shape[:-3], h, w * k), precision=exact)
    blurred = jnp.einsum("ij,...jk->...ik", band(w), blurred.reshape(maps.shape), precision=exact)
    return blurred, maps.max((-3, -2)) / (blurred.max((-3, -2)) + 1e-12)


def _newton(dx, dy, dxx, dxy, dyy, ridge: float) -> jax.Array:
    """Returns -Hessian^-1 gradient, (..., 2); 0 if the Hessian (+ ridge I) is singular."""
    dxx, dyy = dxx + ridge, dyy + ridge
    determinant = dxx * dyy - dxy * dxy
    safe = jnp.where(determinant == 0, 1, determinant)
    step = -jnp.stack([dyy * dx - dxy * dy, dxx * dy - dxy * dx], -1) / safe[..., None]
    return jnp.where((determinant != 0)[..., None], step, 0)


def dark(maps: Array, *, kernel: int = 11) -> tuple[jax.Array, jax.Array]:
    """DARK: one Newton step on the logarithm of the blurred map from its highest pixel (Zhang 2020, equation 9).

    Args:
        maps: (..., h, w, K).
        kernel: The size of the blur; 11 for targets of sigma 2, 17 for sigma 3.

    Returns:
        xy (..., K, 2) in heatmap pixels, score (..., K). Within two pixels of the border xy is the highest pixel
        itself; it is (-1, -1) if no value is above 0 (mmpose's rule). The step is not bounded, as published: on noise
        it may leave the map.

    >>> xy, _ = dark(gaussian(jnp.array([[20.3, 17.6]]), (40, 48), sigma=2.0, method="unbiased"))
    >>> bool(abs(xy - jnp.array([[20.3, 17.6]])).max() < 0.01)
    True
    """
    maps = _maps(maps)
    h, w = maps.shape[-3:-1]
    x, y, score = _peak(maps)
    blurred, rescale = _blur(maps, kernel)

    def at(i, j):
        return jnp.log(jnp.maximum(_at(blurred, x + i, y + j) * rescale, 1e-10))

    step = _newton(
        dx=0.5 * (at(1, 0) - at(-1, 0)),
        dy=0.5 * (at(0, 1) - at(0, -1)),
        dxx=0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0)),
        dxy=0.25 * (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)),
        dyy=0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2)),
        ridge=0.0,
    )
    inner = (x > 1) & (x < w - 2) & (y > 1) & (y < h - 2)
    xy = jnp.stack([x, y], -1).astype(maps.dtype) + jnp.where(inner[..., None], step, 0)
    return jnp.where((score > 0)[..., None], xy, -1.0), score


def udp(maps: Array, *, kernel: int = 11) -> tuple[jax.Array, jax.Array]:
    """UDP's variant of DARK: one-pixel differences, the blurred map clipped to [1e-3, 50] (Huang 2020).

    Args:
        maps: (..., h, w, K).
        kernel: The same as for `dark`.

    Returns:
        xy (..., K, 2) in heatmap pixels, up to the border (edge values repeated), score (..., K); (-1, -1) if no value is
        above 0. As published, the step is not bounded, the mixed difference uses one diagonal only (on maps that are not
        Gaussian a mirror changes the result), and a peak above 50 is a plateau.

    >>> xy, _ = udp(gaussian(jnp.array([[20.3, 17.6]]), (40, 48), sigma=2.0, method="udp"))
    >>> bool(abs(xy - jnp.array([[20.3, 17.6]])).max() < 0.05)
    True
    """
    maps = _maps(maps)
    x, y, score = _peak(maps)
    blurred, rescale = _blur(maps, kernel)

    def at(i, j):
        return jnp.log(jnp.clip(_at(blurred, x + i, y + j) * rescale, 1e-3, 50))

    center = at(0, 0)
    step = _newton(
        dx=0.5 * (at(1, 0) - at(-1, 0)),
        dy=0.5 * (at(0, 1) - at(0, -1)),
        dxx=at(1, 0) - 2 * center + at(-1, 0),
        dxy=0.5 * (at(1, 1) - at(1, 0) - at(0, 1) + 2 * center - at(-1, 0) - at(0, -1) + at(-1, -1)),
        dyy=at(0, 1) - 2 * center + at(0, -1),
        ridge=float(jnp.finfo(jnp.float32).eps),
    )
    xy = jnp.stack([x, y], -1).astype(maps.dtype) + step
    return jnp.where((score > 0)[..., None], xy, -1.0), score


# ---------------------------------------------------------------------------------------------------------------------
# Soft-argmax and its bias
# ---------------------------------------------------------------------------------------------------------------------


def softmax(logits: Array, *, beta: float = 1.0) -> jax.Array:
    """softmax(beta H) over the pixels of a map: the distribution whose mean plain `soft_argmax` returns.

    Args:
        logits: H, (..., h, w, K).
        beta: The inverse temperature, positive.

    Returns:
        (..., h, w, K), float32 at least; every map sums to 1.

    Raises:
        ValueError: The shape or beta is wrong.

    >>> softmax(jnp.log(jnp.array([[[1.0], [3.0]]]))).round(2).tolist()
    [[[0.25], [0.75]]]
    """
    _check_beta(beta)
    return jax.nn.softmax(beta * _maps(logits, name="logits"), axis=(-3, -2))


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta={beta}: expected a positive number")


FLOOR = 1e-4
"""The share of the softmax that a bump must hold for its compensation to be exact; see `soft_argmax`."""


def soft_argmax(
    logits: Array, *, beta: float = 1.0, ndim: Literal[2, 3] = 2, compensate: bool = False, floor: float = FLOOR
) -> tuple[jax.Array, jax.Array]:
    """Expected pixel under softmax(beta H), without or with the compensation of its bias.

    Plain (Sun 2018, equation 6): J = sum_p p exp(beta H_p) / Z, Z = sum_p exp(beta H_p). Every pixel of an empty
    background, H = 0, has weight exp(0) = 1, and pulls J towards the centre of the map.

    Compensated (Gu 2021, equation 8): subtract those N weights of 1, which is the expectation under the weights
    expm1(beta H_p) = exp(beta H_p) - 1:

        J' = sum_p p expm1(beta H_p) / sum_p expm1(beta H_p) = (J - r m) / (1 - r),   r = N / Z,  m = centre of the map.

    The weights are formed without the cancellation of exp(beta H) and 1, which keeps float32's digits where Z is close
    to N. The formula is singular on a flat map (r = 1) and changes sign below the background (r > 1): the
    compensated distance from m is (J - m) / max(1 - r, floor), bounded by the border of the map. So a flat map gives
    m with finite gradients that push a bump up; a map that is entirely below the background gives a point of the map.

    Accuracy: a Gaussian of height a has width v = sigma / sqrt(beta a) after the exponential. At pixel centres its
        position
    is recovered exactly; between them, where the sum over pixels is not an integral, within 1e-3 pixels for v >= 0.9
    (0.71 at sigma 2), 5e-3 at 0.65, 0.02 at 0.5, 0.2 at 0.3. Cut by the border 2 sigma away it is off by 0.09 pixels at
    beta 1, 6e-4 at 10.

    Args:
        logits: H, (..., h, w, K), or (..., d, h, w, K) with ndim=3; background at 0 for the compensation.
        beta: The inverse temperature; Gu 2021 uses 10.
        ndim: The number of coordinates, 2 or 3.
        compensate: Return the compensated form.
        floor: The compensation is exact while 1 - r, the share of the softmax held by the bump, is at least this; for a
            Gaussian bump of height 1 it is about 2 pi sigma^2 beta / N while beta is small. A larger value gives smaller
            gradients on nearly flat maps.

    Returns:
        xy[z] (..., K, ndim) in heatmap pixels, log_z (..., K) = log Z.

    Raises:
        ValueError: The shape, ndim, beta or floor is wrong.

    >>> bump = gaussian(jnp.array([[10.0, 20.0]]), (64, 64), sigma=2.0)
    >>> [round(soft_argmax(bump, beta=10.0, compensate=c)[0][0, 0].item(), 3) for c in (False, True)]
    [11.317, 10.0]
    """
    if ndim not in (2, 3):
        raise ValueError(f"ndim={ndim}: expected 2 or 3")
    logits = _maps(logits, axes=ndim + 1, name="logits")
    xy, _, log_z = _expectation(logits, None, beta=beta, ndim=ndim, compensate=compensate, floor=floor)
    return xy, log_z


def soft_argmax_depth(
    logits: Array, depth: Array, *, beta: float = 1.0, compensate: bool = False, floor: float = FLOOR
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Expected pixel and expected depth of each joint under the same weights, those of `soft_argmax`.

    Iqbal 2018 has one depth map for each heatmap instead of a volume: Zr = sum_p w_p Z_p with w = softmax(beta H). The weight
    that the empty background holds pulls the depth towards the mean of the depth map just as it pulls the pixel towards the
    centre. Gu 2021 compensates the pixel only (equation 8 is for a 2D grid); here the compensated weights expm1(beta H_p) / sum
    expm1(beta H) serve both, so that background pixels, H = 0, do not count whatever their depth.

    Args:
        logits: H, (..., h, w, K); background at 0 for the compensation.
        depth: Z, (..., h, w, K), depth of each joint as each pixel estimates it.
        beta, compensate, floor: the same as in `soft_argmax`. On a map that is flatter than `floor` the depth tends to 0.

    Returns:
        xy (..., K, 2) in heatmap pixels, depth (..., K) within the range of its map, log_z (..., K).

    Raises:
        ValueError: the shapes differ, or the same as in `soft_argmax`.

    >>> bump = gaussian(jnp.array([[10.0, 20.0]]), (64, 64), sigma=2.0)
    >>> depth = jnp.where(bump > 0.01, 3.0, -1.0)
    >>> [round(soft_argmax_depth(bump, depth, beta=10.0, compensate=c)[1][0].item(), 2) for c in (False, True)]
    [2.76, 3.0]
    """
    logits, depth = _maps(logits, name="logits"), _maps(depth, name="depth")
    if logits.shape != depth.shape:
        raise ValueError(f"logits and depth must have one shape, got {logits.shape} and {depth.shape}")
    return _expectation(logits, depth, beta=beta, ndim=2, compensate=compensate, floor=floor)


def _expectation(
    logits: jax.Array, values: jax.Array | None, *, beta: float, ndim: int, compensate: bool, floor: float
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """Returns the expected pixel (..., K, ndim), that of `values` (..., K) if there are any, and log Z; see `soft_argmax`."""
    _check_beta(beta)
    if not 0 < floor < 1:
        raise ValueError(f"floor={floor}: expected a number between 0 and 1")
    size = logits.shape[-ndim - 1 : -1]
    axes = tuple(range(-ndim - 1, -1))
    scaled = beta * logits
    top = jax.lax.stop_gradient(scaled.max(axes, keepdims=True))
    below = top < 0  # the whole map is below the background: far below, expm1 is rounding error only
    weights = _expm1(scaled, top, below) if compensate else jnp.exp(scaled - top)
    # Expected distance from the centre, one axis at a time, in the order x, y[, z].
    moments = []
    for i in reversed(range(ndim)):
        marginal = weights.sum(tuple(a for a in axes if a != axes[i]))
        p = (jnp.arange(size[i], dtype=logits.dtype) - (size[i] - 1) / 2)[:, None]
        moments.append((marginal * p).sum(-2))
    total = marginal.sum(-2)
    top, below = jnp.squeeze(top, axes), jnp.squeeze(below, axes)
    whole = total
    if compensate:
        background = jnp.where(below, 0, math.prod(size) * jnp.exp(-jnp.maximum(top, 0)))
        whole = total + background
        enough = ~below & (jax.lax.stop_gradient(total) >= floor * jax.lax.stop_gradient(whole))
        # The background is symmetric about the centre, so the moments are also those of the softmax.
        total = jnp.where(enough, total, floor * whole)
    xy = _bounded(jnp.stack(moments, -1) / total[..., None], size)
    log_z = jnp.log(whole) + top
    if values is None:
        return xy, None, log_z
    value = (weights * values).sum(axes) / total
    # Negative weights, of pixels below the background, must not lead out of the range; the gradient continues beyond it.
    excess = jax.lax.stop_gradient(value - jnp.clip(value, values.min(axes), values.max(axes)))
    return xy, value - excess, log_z


def _expm1(scaled: jax.Array, top: jax.Array, below: jax.Array) -> jax.Array:
    """Returns expm1(scaled) / exp(top) without overflow or cancellation; where `below`, exp(scaled) / exp(top)."""
    positive = scaled >= 0
    # e^s - 1 is e^s (1 - e^-s) for s > 0.
    one_less = jnp.expm1(jnp.where(positive, -scaled, scaled))
    power = jnp.exp(jnp.where(positive | below, scaled, 0) - top)
    return power * jnp.where(below, 1, jnp.where(positive, -one_less, one_less))


def _bounded(distance: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns the centre + distance (..., K, D), inside the map; the gradient continues beyond its border, to lead back."""
    limit = (jnp.asarray(size[::-1], distance.dtype) - 1) / 2
    excess = jax.lax.stop_gradient(distance - jnp.clip(distance, -limit, limit))
    return limit + distance - excess


def compensate_bias(
    xy: Array,
    log_z: Array,
    size: tuple[int, ...],
    *,
    variant: Literal["exact", "paper", "mmpose"] = "exact",
    floor: float = FLOOR,
) -> jax.Array:
    """Compensates the bias of what a plain `soft_argmax` returned.

    For training, `soft_argmax(compensate=True)` is better conditioned.

    With C = exp(log_z), N the number of pixels, r = N / C:
      exact: (J - r m) / (1 - r), m = (size - 1) / 2, the centre of pixels that count from 0; guarded like `soft_argmax`.
      paper: Gu 2021, equation 8 as printed: m = size / 2, which is exact for pixels that count from 1/2 (QUIRK D3).
      mmpose: its code: C / (C - 1) (J - size / (2 C)), r = 1 / C in effect, and C expected without beta: a correction of
        less than 0.01 pixel (QUIRKS D1, D2). For comparison only.

    Args:
        xy: J, (..., K, D) in heatmap pixels.
        log_z: (..., K); for mmpose, C at beta = 1.
        size: The size of the map in array order, (h, w) or (d, h, w).
        variant, floor: The form of the compensation and its guard, see above.

    Returns:
        (..., K, D) in heatmap pixels.

    Raises:
        ValueError: The shapes or size do not fit, or the variant is unknown.

    >>> bump = gaussian(jnp.array([[10.0, 20.0]]), (64, 64), sigma=2.0)
    >>> pair = soft_argmax(bump, beta=10.0)
    >>> [round(compensate_bias(*pair, (64, 64), variant=v)[0, 0].item(), 2) for v in ("exact", "paper")]
    [10.0, 9.97]
    """
    xy, log_z = _as_float(xy), _as_float(log_z)
    if xy.ndim < 1 or xy.shape[-1] != len(size) or log_z.shape != xy.shape[:-1] or min(size, default=0) < 1:
        raise ValueError(
            f"xy {xy.shape}, log_z {log_z.shape}, size {tuple(size)}: expected (..., K, D), (..., K) and D positive numbers"
        )
    whole = jnp.asarray(size[::-1], xy.dtype)
    log_z = log_z[..., None]
    log_r = math.log(math.prod(size)) - log_z
    match variant:
        case "exact":
            r = jnp.exp(jnp.minimum(log_r, 1.0))  # far beyond 1 it would overflow, and the guard applies there anyway
            return _bounded((xy - (whole - 1) / 2) / jnp.maximum(1 - r, floor), size)
        case "paper":
            r = jnp.exp(log_r)
            return (xy - r * whole / 2) / (1 - r)
        case "mmpose":
            share = jnp.exp(-log_z)
            return (xy - share * whole / 2) / (1 - share)
        case _:
            raise ValueError(f"variant={variant!r}: expected 'exact', 'paper' or 'mmpose'")


# ---------------------------------------------------------------------------------------------------------------------
# Several people in one image (bottom-up), and targets of adaptive scale
# ---------------------------------------------------------------------------------------------------------------------

LEAST_EXPONENT = 0.1
"""The lower bound of 1 + alpha in the exact powers of `scale_adaptive`; below it a Gaussian is too wide for any map."""


def people(xy: Array, visible: Array, size_hw: tuple[int, int], *, sigma: float | Array) -> jax.Array:
    """Draws the targets of an image: at every pixel the maximum over the people's "bottom_up" Gaussians (HigherHRNet).

    People are drawn one at a time, so memory does not grow with the padding.

    Args:
        xy: (..., P, K, 2) joints in heatmap pixels.
        visible: (..., P, K), 0 for joints without a label and for padding.
        size_hw: The height and width of the maps.
        sigma: The standard deviation in heatmap pixels, a number or (..., P, K); 2 at both resolutions as published.

    Returns:
        (..., h, w, K). As published, a joint that lies outside is not drawn, even if its Gaussian would reach in (a
        coordinate above -1 counts as inside: it is truncated to 0).

    Raises:
        ValueError: A shape or size is wrong.

    >>> xy = jnp.array([[[1.0, 0.0]], [[3.0, 0.0]], [[-5.0, 0.0]]])
    >>> people(xy, jnp.array([[1], [1], [1]]), (1, 5), sigma=1.0)[0, :, 0].round(2).tolist()[:4]
    [0.6100000143051147, 1.0, 0.6100000143051147, 1.0]
    """
    xy, inside = _people(xy, visible, size_hw)
    sigma = jnp.asarray(sigma, xy.dtype)
    if sigma.ndim and sigma.shape != inside.shape:
        raise ValueError(f"sigma has shape {sigma.shape}: expected a number or {inside.shape}, one per joint")
    sigma = jnp.broadcast_to(sigma, inside.shape)
    xy = jnp.where(inside[..., None], xy, -jnp.inf)

    def draw(maps: jax.Array, person: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return jnp.maximum(maps, gaussian(person[0], size_hw, sigma=person[1], method="bottom_up")), None

    empty = jnp.zeros((*xy.shape[:-3], *size_hw, xy.shape[-2]), xy.dtype)
    maps, _ = jax.lax.scan(draw, empty, (jnp.moveaxis(xy, -3, 0), jnp.moveaxis(sigma, -2, 0)))
    return maps


def read(maps: Array, xy: Array, visible: Array) -> tuple[jax.Array, jax.Array]:
    """Reads the maps at the people's joints, such as their tags: joint k is read in map k at trunc(xy).

    Args:
        maps: (..., h, w, K).
        xy: (..., P, K, 2) in heatmap pixels.
        visible: (..., P, K).

    Returns:
        values (..., P, K), 0 where there is nothing to read; where (..., P, K) bool, visible and inside by the rule of
        `people`.

    Raises:
        ValueError: The shapes do not fit.

    >>> maps = jnp.arange(6.0).reshape(2, 3, 1)
    >>> values, where = read(maps, jnp.array([[[2.0, 1.9]], [[3.0, 0.0]]]), jnp.ones((2, 1)))
    >>> values.ravel().tolist(), where.ravel().tolist()
    ([5.0, 0.0], [True, False])
    """
    maps = _maps(maps)
    h, w, k = maps.shape[-3:]
    xy, inside = _people(xy, visible, (h, w))
    if xy.shape[-2] != k or xy.shape[:-3] != maps.shape[:-3]:
        raise ValueError(f"maps {maps.shape}, xy {xy.shape}: expected (..., h, w, K) and (..., P, K, 2)")
    pixel = jnp.where(inside[..., None], xy, 0).astype(int)
    flat = maps.reshape(*maps.shape[:-3], h * w, k)
    values = jnp.take_along_axis(flat, pixel[..., 1] * w + pixel[..., 0], axis=-2)
    return jnp.where(inside, values, 0), inside


def _people(xy: Array, visible: Array, size_hw: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns xy, and the joints (..., P, K) that are labelled and lie inside the map once truncated toward zero."""
    xy, visible = _points(xy, size_hw), jnp.asarray(visible)
    if xy.ndim < 3 or visible.shape != xy.shape[:-1]:
        raise ValueError(f"xy {xy.shape}, visible {visible.shape}: expected (..., P, K, 2) and (..., P, K)")
    limit = jnp.asarray(size_hw[::-1], xy.dtype)
    return xy, (visible > 0) & ((xy > -1) & (xy < limit)).all(-1)


def scale_adaptive(
    target: Array,
    alpha: Array,
    *,
    order: Literal[2] | None = 2,
    exponent: Literal["alpha", "std"] = "alpha",
) -> jax.Array:
    """Targets whose Gaussians are scaled by a predicted alpha, pixel by pixel: a power of H, Luo 2021, section 3.2.

        order 2, equation 8:   H (1 + a ln H + (a ln H)^2 / 2),    the expansion of     None:   H^(1 + a)

    QUIRK S1: a Gaussian of s times the standard deviation is H^(1 / s^2), whereas the paper and its code raise H to 1 /
    s. With a = alpha = 1 / s - 1 ("alpha"), alpha is therefore the change of the exponent, not of the standard
    deviation. With 1 + a = (1 + alpha)^2 ("std") it is sigma = sigma_0 / (1 + alpha).

    The second order never falls below H / 2 and rises again beyond a ln H = -1: a positive alpha shrinks a Gaussian
    near its centre only. The exact power has no such limit. In it, 1 + alpha is bounded below by `LEAST_EXPONENT` (a
    negative exponent would be a pit with infinite walls); there the gradient is 0, and `losses.scale_penalty` leads back.

    Args:
        target: H, (..., h, w, K), 0 to 1, as `people` draws it.
        alpha: The same shape, predicted; 0 leaves the target unchanged.
        order: 2 as published, None for the exact power.
        exponent: The meaning of alpha, see above.

    Returns:
        (..., h, w, K). Where H is 0 the result is 0, with zero gradient, whatever alpha holds.

    Raises:
        ValueError: The shapes do not fit, or the order or exponent is unknown.

    >>> half = jnp.full((1, 1, 1), 0.5)
    >>> [round(scale_adaptive(half, jnp.full((1, 1, 1), 0.3), order=n).item(), 6) for n in (2, None)]
    [0.406838, 0.406126]
    """
    if order not in (2, None) or exponent not in ("alpha", "std"):
        raise ValueError(f"order={order!r}, exponent={exponent!r}: expected 2 or None, 'alpha' or 'std'")
    target, alpha = _maps(target, name="target"), _maps(alpha, name="alpha")
    if target.shape != alpha.shape:
        raise ValueError(f"target {target.shape}, alpha {alpha.shape}: expected two equal shapes (..., h, w, K)")
    dtype = jnp.promote_types(target.dtype, alpha.dtype)
    target, alpha = target.astype(dtype), alpha.astype(dtype)
    is_positive = target > 0
    # Below the smallest normal number a derivative of the logarithm would overflow.
    log = jnp.log(jnp.maximum(jnp.where(is_positive, target, 1), jnp.finfo(dtype).tiny))
    alpha = jnp.where(is_positive, alpha, 0)
    if order is None:
        alpha = jnp.maximum(alpha, LEAST_EXPONENT - 1)
    change = (alpha * (2 + alpha) if exponent == "std" else alpha) * log
    scaled = jnp.exp(log + change) if order is None else target * (1 + change + 0.5 * jnp.square(change))
    return jnp.where(is_positive, scaled, 0)
