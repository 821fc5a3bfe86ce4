"""Points in space from several calibrated cameras, weighted by the covariances that a net predicts.

Three steps, each of which stands by itself: the linear solution (`triangulate`), whose rows are divided by sigma; the reprojection
error under the covariance of every view, minimised by Levenberg and Marquardt's method (`refine`), which also gives the
covariance of the point; and, over time, the smoother of `jaxpose.smoothing` in three dimensions. `reconstruct` does the first
two from pixels of distorted lenses.

Where a point is not determined it is NaN: fewer than two views, or rays that are parallel or the same. The linear solution
knows lines and no directions, so that it may lie behind a camera; the others are NaN there.

NumPy in gives NumPy out, in float64 where that came in; JAX arrays give JAX arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxpose import cameras as lenses
from jaxpose.cameras import Camera
from jaxpose.geometry import _as_float
from jaxpose.losses._inputs import as_float, as_mask
from jaxpose.smoothing import Tails, _check_choices, _precision_of, tail_weight

__all__ = ["Points", "reconstruct", "refine", "reprojection_error", "triangulate"]

Array = Any  # numpy.ndarray or jax.Array, whichever came in


class Points(NamedTuple):
    """Points in space.

    mean: ``(N, 3)`` in the unit of the calibration; NaN where a point is not determined.
    covariance: ``(N, 3, 3)``; NaN there too.
    error: ``(N,)`` mean distance in pixels between the observed and the reprojected point, over the views that were used.
    views: ``(N,)`` how many views were used.
    """

    mean: Array
    covariance: Array
    error: Array
    views: Array


def triangulate(xy: Array, projections: Array, *, weight: Array | None = None, where: Array | None = None) -> Array:
    """Points in space by the direct linear transform: the homogeneous least squares of x (P3 X) = P1 X, y (P3 X) = P2 X.

    Args:
        xy: ``(..., V, N, 2)`` points in the V views, in the coordinates that the projections map to: pixels without
            distortion, or rays (`cameras.undistort`) with extrinsic matrices.
        projections: ``(..., V, 3, 4)`` or ``(V, 3, 4)``, world to view.
        weight: ``(..., V, N)`` by which the two equations of a view are multiplied, such as 1 / sigma; a view whose weight is
            not positive and finite is left out. None: all 1, which is what Anipose does.
        where: ``(..., V, N)``, False where a point is missing in a view; so is one that is not finite.

    Returns:
        ``(..., N, 3)``; NaN for a point that fewer than two views saw, or whose rays are parallel or the same. Of rays that
        pass each other by, the solution may lie behind a camera: `reconstruct` asks for that.

    Raises:
        ValueError: shapes that do not match.

    Source: Hartley and Zisserman, Multiple View Geometry, section 12.2.

    >>> views = np.array([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [[1, 0, 0, -1], [0, 1, 0, 0], [0, 0, 1, 0]]])
    >>> triangulate([[[0.25, 0.5]], [[0.0, 0.5]]], views).round(6)
    array([[1., 2., 4.]])
    """
    extra = () if weight is None else (weight,)
    xp, xy, projections, *extra = _as_float(xy, projections, *extra)
    if xy.ndim < 3 or xy.shape[-1] != 2 or projections.shape[-2:] != (3, 4) or projections.ndim < 3:
        raise ValueError(
            f"expected xy (V, N, 2) and projections (V, 3, 4), got shapes {xy.shape} and {projections.shape}"
        )
    if projections.shape[:-2] not in ((xy.shape[-3],), xy.shape[:-2]):
        raise ValueError(f"xy {xy.shape} has {xy.shape[-3]} views, projections {projections.shape} do not fit them")
    seen = xp.isfinite(xy).all(-1)
    for array, name in ((weight, "weight"), (where, "where")):
        if array is not None and np.shape(array) != seen.shape:
            raise ValueError(f"{name} has shape {np.shape(array)}, expected {seen.shape}: one entry a view and point")
    if where is not None:
        seen = seen & xp.asarray(where).astype(bool)
    factor = xp.ones_like(xy[..., 0])
    if extra:
        seen = seen & (extra[0] > 0) & xp.isfinite(extra[0])
        factor = extra[0]
    factor = xp.where(seen, factor, 0)
    rows = (
        xp.where(seen[..., None], xy, 0)[..., None] * projections[..., :, None, 2:3, :]
        - projections[..., :, None, :2, :]
    )
    rows = xp.moveaxis(factor[..., None, None] * rows, -4, -3)  # (..., N, V, 2, 4)
    equations = rows.reshape((*rows.shape[:-3], 2 * xy.shape[-3], 4))
    return _solution(xp, equations, seen)


def _solution(xp, equations: Array, seen: Array) -> Array:
    """(..., N, 2 V, 4) -> (..., N, 3), NaN where they determine no point."""
    enough = (seen.sum(-2) >= 2)[..., None, None]
    harmless = xp.asarray(np.eye(equations.shape[-2], 4) * (1 + np.arange(4)), dtype=equations.dtype)
    equations = xp.where(enough, equations, harmless)
    solution = xp.linalg.svd(equations, full_matrices=False)[2][..., -1, :]  # of the smallest singular value
    epsilon = np.finfo(equations.dtype).eps
    # The unit of the world's coordinates is nobody's business, so whether a point is determined is asked in scaled columns.
    scale = xp.sqrt((equations**2).sum(-2))
    scale = xp.where(scale > 0, scale, 1)
    scaled = equations / scale[..., None, :]
    eigenvalues = xp.linalg.eigvalsh(xp.swapaxes(scaled, -1, -2) @ scaled)
    determined = eigenvalues[..., 1] > 100 * epsilon * eigenvalues[..., 3]
    relative = solution * scale
    finite = xp.abs(relative[..., 3]) > 1000 * epsilon * xp.sqrt((relative**2).sum(-1))
    good = enough[..., 0, 0] & determined & finite
    point = solution[..., :3] / xp.where(good, solution[..., 3], 1)[..., None]
    return xp.where(good[..., None], point, xp.nan)


def reconstruct(
    xy: ArrayLike,
    covariance: ArrayLike,
    *,
    cameras: Sequence[Camera],
    where: ArrayLike | None = None,
    tails: Tails = "gaussian",
    iterations: int = 15,
) -> Points:
    """Returns points in space from pixels of calibrated cameras: the weighted linear solution, then `refine`.

    Args:
        xy: ``(V, N, 2)`` pixels of the pictures, distorted as the lenses do.
        covariance: ``(V, N, 2, 2)`` covariance of their errors, pixels squared.
        cameras: The cameras of the V views.
        where: ``(V, N)``, False where a point is missing in a view; so is one whose position or covariance is not finite.
        tails: The density of the errors, see `jaxpose.smoothing.kalman`.
        iterations: The number of refinement steps.

    Returns:
        Points, NaN where they are not determined.

    Raises:
        ValueError: Shapes or the number of cameras do not match, or a variance is not positive.

    >>> lens = dict(size_wh=None, focal=np.full(2, 600.0), center=np.zeros(2), radial=np.zeros(3), tangential=np.zeros(2))
    >>> both = [Camera(name, rotation=np.eye(3), position=np.array([x, 0.0, 0.0]), **lens) for name, x in (("a", -1), ("b", 1))]
    >>> xy = np.stack([camera.project(np.array([[0.1, 0.2, 3.0]])) for camera in both])
    >>> points = reconstruct(xy, np.broadcast_to(np.eye(2), (2, 1, 2, 2)), cameras=both)
    >>> points.mean.round(6), np.sqrt(points.covariance[0].diagonal()).round(4)
    (array([[0.1, 0.2, 3. ]]), array([0.0036, 0.0036, 0.0106]))
    """
    with _precision_of(xy, covariance) as (host, dtype):
        xp = np if host else jnp
        xy, covariance = xp.asarray(xy, dtype), xp.asarray(covariance, dtype)
        _check_views(xy, covariance, cameras)
        rays = xp.stack([lenses.undistort(px, **camera.lens) for px, camera in zip(xy, cameras, strict=True)])
        extrinsic = np.stack([camera.extrinsic for camera in cameras])
        variance = (covariance[..., 0, 0] + covariance[..., 1, 1]) / 2
        weight = xp.where(variance > 0, 1 / xp.sqrt(xp.where(variance > 0, variance, 1)), 0)
        weight = weight * np.array([camera.focal.mean() for camera in cameras], dtype)[:, None]
        start = triangulate(rays, extrinsic.astype(dtype), weight=weight, where=where)
        mean, spread = refine(start, xy, covariance, cameras=cameras, where=where, tails=tails, iterations=iterations)
        used = xp.isfinite(xy).all(-1) & xp.isfinite(covariance).all((-1, -2))
        used = used if where is None else used & xp.asarray(where).astype(bool)
        return Points(mean, spread, reprojection_error(mean, xy, cameras=cameras, where=used), used.sum(0))


def refine(
    points: ArrayLike,
    xy: ArrayLike,
    covariance: ArrayLike,
    *,
    cameras: Sequence[Camera],
    where: ArrayLike | None = None,
    tails: Tails = "gaussian",
    iterations: int = 15,
) -> tuple[Array, Array]:
    """Points of the smallest reprojection error under the covariance of every view, and their covariance.

    Gauss and Newton's steps for the sum over views of r' R^-1 r, damped where they would increase it. Under heavy tails the
    weights are those of `jaxpose.smoothing.tail_weight`. The covariance is (sum of J' R^-1 J)^-1 at the solution, with J the
    derivative of a view's pixel by the point; there a view counts at most as predicted.

    Args:
        points: ``(N, 3)``, the start, such as the linear solution; NaN stays NaN.
        xy: ``(V, N, 2)`` pixels of the pictures.
        covariance: ``(V, N, 2, 2)`` covariance of their errors.
        cameras: The cameras of the V views, all of one model.
        where: ``(V, N)``, False where a point is missing in a view.
        tails: The density of the errors.
        iterations: The number of steps.

    Returns:
        ``(N, 3)`` and ``(N, 3, 3)``; NaN for a point with fewer than two views, or that ends behind one of its cameras.

    Raises:
        ValueError: Shapes or the number of cameras do not match, or the cameras have different models.

    Source: Hartley and Zisserman, section 12.3 (reprojection error) and 5.2 (its covariance).

    >>> refine([[0.0, 0.0, 1.0]], np.zeros((1, 1, 2)), np.zeros((1, 1, 2, 2)), cameras=[])
    Traceback (most recent call last):
    ValueError: xy (1, 1, 2) has 1 views, but there are 0 cameras
    """
    _check_choices("walk", tails)
    with _precision_of(points, xy, covariance) as (host, dtype):
        points, xy, covariance = as_float(*(np.asarray(a, dtype) if host else a for a in (points, xy, covariance)))
        _check_views(xy, covariance, cameras)
        if points.shape != (xy.shape[1], 3):
            raise ValueError(
                f"points has shape {points.shape}, expected {(xy.shape[1], 3)}: one of each in xy {xy.shape}"
            )
        if len({camera.model for camera in cameras}) > 1:
            raise ValueError(f"the cameras have different models: {', '.join(camera.model for camera in cameras)}")
        seen = jnp.isfinite(xy).all(-1) & jnp.isfinite(covariance).all((-1, -2))
        if where is not None:
            where = as_mask(jnp.asarray(where))
            if where.shape != seen.shape:
                raise ValueError(f"where has shape {where.shape}, expected {seen.shape}: one entry a view and point")
            seen = seen & where
        names = ("focal", "center", "radial", "tangential", "rotation", "position")
        stacked = tuple(
            jnp.asarray(np.stack([getattr(camera, name) for camera in cameras]), points.dtype) for name in names
        )
        result = _refine(points, xy, covariance, seen, stacked, cameras[0].model, tails, iterations)
        return jax.tree.map(np.asarray, result) if host else result


def reprojection_error(points: Array, xy: Array, *, cameras: Sequence[Camera], where: Array | None = None) -> Array:
    """Mean distance in pixels between observed points and the projections of points in space.

    Args:
        points: ``(N, 3)``.
        xy: ``(V, N, 2)`` pixels of the pictures.
        cameras: The cameras of the V views.
        where: ``(V, N)``, False where a view does not count; nor does one without a finite pixel.

    Returns:
        ``(N,)``, the mean over views; NaN without one.

    Raises:
        ValueError: The number of cameras does not match.

    >>> reprojection_error(np.zeros((1, 3)), np.zeros((0, 1, 2)), cameras=[])
    array([nan])
    """
    if len(cameras) != np.shape(xy)[0]:
        raise ValueError(f"xy {np.shape(xy)} has {np.shape(xy)[0]} views, but there are {len(cameras)} cameras")
    xp, points, xy = _as_float(points, xy)
    distance = [xp.sqrt(((camera.project(points) - px) ** 2).sum(-1)) for camera, px in zip(cameras, xy, strict=True)]
    distance = xp.stack(distance) if distance else xp.zeros(xy.shape[:2])
    counts = xp.isfinite(distance)
    counts = counts if where is None else counts & xp.asarray(where).astype(bool)
    total, number = xp.where(counts, distance, 0).sum(0), counts.sum(0)
    return xp.where(number > 0, total / xp.maximum(number, 1), xp.nan)


def _check_views(xy: Array, covariance: Array, cameras: Sequence[Camera]) -> None:
    if xy.ndim != 3 or xy.shape[-1] != 2 or covariance.shape != (*xy.shape, 2):
        raise ValueError(
            f"expected xy (V, N, 2) and covariance (V, N, 2, 2), got shapes {xy.shape} and {covariance.shape}"
        )
    if len(cameras) != len(xy):
        raise ValueError(f"xy {xy.shape} has {len(xy)} views, but there are {len(cameras)} cameras")
    if isinstance(covariance, jax.core.Tracer):
        return
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    if (wrong := np.argwhere(variance <= 0)).size:
        view, point, _ = wrong[0]
        raise ValueError(
            f"covariance of view {view}, point {point} holds a variance that is not positive: make it NaN where the point is "
            "missing, or give variances a floor"
        )


class _Step(NamedTuple):
    point: jax.Array  # (3,)
    spread: jax.Array  # (3, 3) its covariance under the weights of the step
    damping: jax.Array


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def _refine(points, xy, covariance, seen, stacked, model: str, tails: Tails, iterations: int):
    usable = jnp.isfinite(points).all(-1) & (seen.sum(0) >= 2)
    xy = jnp.where(seen[..., None], xy, 0)
    covariance = jnp.where(seen[..., None, None], covariance, jnp.eye(2, dtype=xy.dtype))
    inverse = jnp.linalg.inv(covariance) * seen[..., None, None]  # a view that is missing has no information
    centre = stacked[5].mean(0) + stacked[4].sum(0)[2]  # a point in front of most cameras, in place of NaN
    start = jnp.where(usable[:, None], points, centre)
    one = functools.partial(_refine_one, stacked=stacked, model=model, tails=tails, iterations=iterations)
    point, spread, front = jax.vmap(one, in_axes=(0, 1, 1, 1))(start, xy, inverse, seen)
    good = usable & front
    return jnp.where(good[:, None], point, jnp.nan), jnp.where(good[:, None, None], spread, jnp.nan)


def _refine_one(start, xy, inverse, seen, *, stacked, model: str, tails: Tails, iterations: int):
    """One point: xy (V, 2), inverse (V, 2, 2) of the covariances, seen (V,)."""

    def pixels(point):
        def view(focal, center, radial, tangential, rotation, position):
            inside = lenses.world_to_camera(point, rotation=rotation, position=position)
            lens = dict(focal=focal, center=center, radial=radial, tangential=tangential, model=model)
            return lenses.project(inside, **lens)

        return jax.vmap(view)(*stacked)

    def residual(point):
        return jnp.where(seen[:, None], xy - pixels(point), 0)

    def normal(point, weight):
        jacobian = jnp.where(seen[:, None, None], jax.jacfwd(pixels)(point), 0)
        weighted = jnp.einsum("vca,vcd->vad", jacobian, inverse * weight[:, None, None])
        return jnp.einsum("vad,vdb->ab", weighted, jacobian), weighted, jacobian

    def cost(point, weight):
        r = residual(point)
        return jnp.einsum("vc,vcd,vd,v->", r, inverse, r, weight)

    def weights(point, spread, jacobian):
        r = residual(point)
        squared = jnp.einsum("vc,vcd,vd->v", r, inverse, r)
        return tail_weight(
            squared + jnp.einsum("vcd,vca,vdb,ab->v", inverse, jacobian, jacobian, spread), dim=2, tails=tails
        )

    def step(state: _Step, _):
        jacobian = normal(state.point, jnp.ones_like(xy[:, 0]))[2]
        weight = weights(state.point, state.spread, jacobian)
        matrix, weighted, _ = normal(state.point, weight)
        gradient = jnp.einsum("vad,vd->a", weighted, residual(state.point))
        scale = jnp.maximum(jnp.diagonal(matrix), jnp.finfo(matrix.dtype).tiny)
        moved = state.point + jnp.linalg.solve(matrix + jnp.diag(state.damping * scale), gradient)
        better = cost(moved, weight) <= cost(state.point, weight)  # False where a point goes behind its camera
        point = jnp.where(better, moved, state.point)
        damping = jnp.clip(state.damping * jnp.where(better, 0.1, 10.0), 1e-9, 1e6)
        return _Step(point, _inverse_of(matrix), damping), None

    ones = jnp.ones_like(xy[:, 0])
    state = _Step(start, _inverse_of(normal(start, ones)[0]), jnp.asarray(1e-4, start.dtype))
    state, _ = jax.lax.scan(step, state, length=iterations)
    jacobian = normal(state.point, ones)[2]
    weight = jnp.minimum(weights(state.point, state.spread, jacobian), 1)
    spread = _inverse_of(normal(state.point, weight)[0])
    front = (jnp.isfinite(pixels(state.point)).all(-1) | ~seen).all()
    return state.point, (spread + spread.T) / 2, front


def _inverse_of(matrix):
    """Inverse of a positive 3x3 matrix in scaled coordinates, so that no unit of length is too small for float32."""
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(matrix), jnp.finfo(matrix.dtype).tiny))
    return jnp.linalg.inv(matrix / jnp.outer(scale, scale)) / jnp.outer(scale, scale)
