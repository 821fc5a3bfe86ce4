"""Triangulation against aniposelib's numbers, against a minimiser that is told nothing, and on input that determines nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from jaxpose import cameras, triangulation
from jaxpose.cameras import Camera


def ring(count: int = 4, *, distance: float = 3.0) -> list[Camera]:
    """Cameras about the origin that look at it."""
    views = []
    for i, angle in enumerate(np.linspace(-0.9, 0.8, count)):
        rotation = cameras.rotation_matrix([0.05 * i, angle, 0.02])
        position = -rotation.T @ [0.05, -0.1, distance]
        lens = np.array([-0.1, 0.02, 0.0]), np.array([0.001, -0.002])
        views.append(
            Camera(f"cam{i}", (640, 480), np.array([600.0, 610.0]), np.array([320.0, 240.0]), *lens, rotation, position)
        )
    return views


def scene(n: int = 6, *, seed: int = 0, views: int = 4):
    rng = np.random.default_rng(seed)
    rig = ring(views)
    points = rng.uniform(-0.5, 0.5, (n, 3))
    factor = rng.normal(size=(views, n, 2, 2))
    covariance = factor @ np.swapaxes(factor, -1, -2) + 0.1 * np.eye(2)
    noise = np.linalg.cholesky(covariance) @ rng.normal(size=(views, n, 2, 1))
    return rig, points, np.stack([camera.project(points) for camera in rig]) + noise[..., 0], covariance


def rays(rig, xy):
    return np.stack([cameras.undistort(px, **camera.lens) for camera, px in zip(rig, xy, strict=True)])


def test_aniposelib(golden):
    g = golden("hands/triangulation")
    rig = []
    for matrix, dist, vector, t in zip(g["matrix"], g["dist"], g["rvec"], g["tvec"], strict=True):
        rotation = cameras.rotation_matrix(vector)
        lens = matrix[[0, 1], [0, 1]], matrix[:2, 2], dist[[0, 1, 4]], dist[2:4]
        rig.append(Camera("view", None, *lens, rotation, -rotation.T @ t))
    extrinsic = np.stack([camera.extrinsic for camera in rig])
    for name in ("clean", "noisy"):
        points = triangulation.triangulate(rays(rig, g[f"{name}_2d"]), extrinsic)
        np.testing.assert_allclose(points, g[f"triangulated_{name}"], atol=1e-10)
    points = triangulation.triangulate(g["noisy_2d"], extrinsic)
    np.testing.assert_allclose(points, g["triangulated_noisy_no_undistort"], atol=1e-10)
    error = triangulation.reprojection_error(g["triangulated_noisy"], g["noisy_2d"], cameras=rig)
    np.testing.assert_allclose(error, g["reprojection_error"], atol=1e-10)


def test_exact_rays_meet_in_the_point_and_missing_views_do_not_matter():
    rig, points, _, _ = scene()
    xy = np.stack([camera.project(points) for camera in rig])
    extrinsic = np.stack([camera.extrinsic for camera in rig])
    where = np.ones(xy.shape[:2], bool)
    where[0, :3] = where[3, 1] = False
    garbage = np.where(where[..., None], xy, 1e9)
    np.testing.assert_allclose(triangulation.triangulate(rays(rig, xy), extrinsic), points, atol=1e-7)
    masked = triangulation.triangulate(rays(rig, garbage), extrinsic, where=where)
    np.testing.assert_allclose(masked, points, atol=1e-7)
    weight = np.where(where, 2.0, 0.0)
    mixed = rays(rig, xy)
    mixed[0, :3] += 5
    mixed[3, 1] -= 7
    np.testing.assert_allclose(triangulation.triangulate(mixed, extrinsic, weight=weight), points, atol=1e-7)
    batched = triangulation.triangulate(np.stack([rays(rig, xy)] * 2), extrinsic)
    np.testing.assert_allclose(batched, np.stack([points] * 2), atol=1e-7)
    assert triangulation.triangulate(rays(rig, xy).astype(np.float32), extrinsic.astype(np.float32)).dtype == np.float32


def test_gradients_of_the_linear_solution_are_finite():
    rig, points, xy, _ = scene(n=3)
    extrinsic = jnp.asarray(np.stack([camera.extrinsic for camera in rig]))
    seen = jnp.asarray([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)  # by four views, by two, by one
    dirty = jnp.where(seen[..., None], jnp.asarray(rays(rig, xy)), jnp.nan)

    def total(xy, weight):
        return jnp.nansum(triangulation.triangulate(xy, extrinsic, weight=weight))

    gradients = jax.jit(jax.grad(total, (0, 1)))(dirty, jnp.ones(seen.shape))
    assert all(jnp.isfinite(g).all() for g in gradients)
    assert gradients[0][:, 0].all() and not gradients[0][:, 2].any() and not gradients[0][2:, 1].any()


def test_what_determines_no_point_is_nan():
    straight = np.concatenate([np.eye(3), np.zeros((3, 1))], axis=1)
    beside = straight - np.array([[0, 0, 0, 1.0], [0, 0, 0, 0], [0, 0, 0, 0]])
    nan = {
        "one view": ([[[0.1, 0.2]], [[np.nan, 0.2]]], [straight, beside]),
        "no view": ([[[np.nan, 0.2]], [[np.nan, 0.2]]], [straight, beside]),
        "parallel rays": ([[[0.1, 0.2]], [[0.1, 0.2]]], [straight, beside]),
        "the same ray": ([[[0.1, 0.2]], [[0.1, 0.2]]], [straight, straight]),
    }
    for name, (xy, views) in nan.items():
        for dtype in (np.float64, np.float32):
            points = triangulation.triangulate(np.array(xy, dtype), np.array(views, dtype))
            assert np.isnan(points).all() and points.dtype == dtype, name
    nothing = triangulation.triangulate(np.zeros((2, 0, 2)), np.array([straight, beside]))
    assert nothing.shape == (0, 3)
    millimetres = np.array([straight, beside * [1, 1, 1, 1000]])
    np.testing.assert_allclose(
        triangulation.triangulate(np.array([[[0.25, 0.5]], [[0, 0.5]]]), millimetres), [[1000, 2000, 4000]]
    )
    pair = [
        Camera("", None, np.ones(2), np.zeros(2), np.zeros(3), np.zeros(2), np.eye(3), np.array([x, 0, 0]))
        for x in (0.0, 1.0)
    ]
    diverging = np.array([[[0.1, 0.2]], [[0.6, 0.2]]])  # they meet behind both
    assert triangulation.triangulate(diverging, np.array([straight, beside]))[0, 2] < 0
    assert np.isnan(
        triangulation.reconstruct(diverging, np.broadcast_to(np.eye(2), (2, 1, 2, 2)), cameras=pair).mean
    ).all()
    flipped = -np.array([straight, beside])  # a projection is one up to any factor
    np.testing.assert_allclose(triangulation.triangulate(np.array([[[0.25, 0.5]], [[0, 0.5]]]), flipped), [[1, 2, 4]])


def test_the_refined_point_minimises_the_weighted_reprojection_error():
    rig, points, xy, covariance = scene()
    xy[1, 0] = np.nan
    covariance[2, 1] = np.inf
    result = triangulation.reconstruct(xy, covariance, cameras=rig)
    assert result.views.tolist() == [3, 3, 4, 4, 4, 4] and result.mean.dtype == np.float64
    for n in range(len(points)):
        used = [v for v in range(4) if np.isfinite(xy[v, n]).all() and np.isfinite(covariance[v, n]).all()]
        whiten = {v: np.linalg.cholesky(np.linalg.inv(covariance[v, n])).T for v in used}

        def residual(point, n=n, used=used, whiten=whiten):
            return np.concatenate([whiten[v] @ (xy[v, n] - rig[v].project(point)) for v in used])

        theirs = least_squares(residual, points[n], xtol=1e-14, ftol=1e-14, gtol=1e-14)
        np.testing.assert_allclose(result.mean[n], theirs.x, atol=1e-7)
        np.testing.assert_allclose(result.covariance[n], np.linalg.inv(theirs.jac.T @ theirs.jac), rtol=1e-3)
        distance = [np.linalg.norm(xy[v, n] - rig[v].project(theirs.x)) for v in used]
        np.testing.assert_allclose(result.error[n], np.mean(distance), atol=1e-4)
    gone = xy.copy()
    gone[1:] = np.nan
    behind = triangulation.refine([[0.0, 0.0, -9.0]] * 6, xy, covariance, cameras=rig)
    assert all(np.isnan(a).all() for a in (triangulation.reconstruct(gone, covariance, cameras=rig).mean, *behind))


def test_heavy_tails_and_what_is_stated_of_the_error():
    """Of 400 points the ellipses hold the share that they state; a view that is wrong altogether is given little weight."""
    rig, points, xy, covariance = scene(n=400, seed=1)
    result = triangulation.reconstruct(xy, covariance, cameras=rig)
    error = result.mean - points
    squared = np.einsum("ni,nij,nj->n", error, np.linalg.inv(result.covariance), error)
    assert 0.85 < (squared < 6.251).mean() < 0.95  # 90 % of chi^2 with 3 degrees of freedom
    xy[0, ::2] += 40
    plain, heavy = (
        np.median(
            np.linalg.norm(triangulation.reconstruct(xy, covariance, cameras=rig, tails=t).mean - points, axis=-1)[::2]
        )
        for t in ("gaussian", "student")
    )
    assert heavy < plain / 3


def test_what_is_wrong_is_said():
    rig, points, xy, covariance = scene(n=2)
    extrinsic = np.stack([camera.extrinsic for camera in rig])
    for call, message in (
        (lambda: triangulation.triangulate(xy[:3], extrinsic), r"xy \(3, 2, 2\) has 3 views"),
        (lambda: triangulation.triangulate(xy, extrinsic[:, :2]), r"\(V, 3, 4\), got shapes"),
        (
            lambda: triangulation.triangulate(xy, extrinsic, weight=np.ones(4)),
            r"weight has shape \(4,\), expected \(4, 2\)",
        ),
        (lambda: triangulation.reconstruct(xy, covariance, cameras=rig[:3]), "has 4 views, but there are 3 cameras"),
        (
            lambda: triangulation.reconstruct(xy, 0 * covariance, cameras=rig),
            "view 0, point 0 holds a variance that is not",
        ),
        (lambda: triangulation.refine(points[:1], xy, covariance, cameras=rig), r"points has shape \(1, 3\)"),
        (
            lambda: triangulation.reconstruct(xy, covariance, cameras=rig, tails="heavy"),
            "'heavy', expected one of gaussian",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
