"""Cameras: projection with lens distortion and its inverse, world and camera coordinates, calibration files.

Convention
    Camera coordinates have x to the right, y downwards and z forwards: ``X_camera = R (X_world - position)``, with R
    ``(3, 3)`` from world to camera. The unit of length is the caller's (millimetres, metres, squares of a checkerboard).
    With (x, y) = (X / Z, Y / Z) and r^2 = x^2 + y^2, distortion moves a point to

        x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6 + c (p1 y + p2 x)) + p2 r^2
        y' = y (1 + k1 r^2 + k2 r^4 + k3 r^6 + c (p1 y + p2 x)) + p1 r^2

    with c = 2 in OpenCV's model and c = 1 in Human3.6M's own; the pixel is ``focal * (x', y') + center``. The tangential
    pair is (p1, p2) in the order of OpenCV and of Human3.6M's metadata.xml.

A point that is not in front of its camera has no pixel: NaN. Parameters of a camera have the leading dimensions of the
points, or the first of them: ``focal (2,)`` goes with any points, ``focal (B, 2)`` with points ``(B, K, 3)``; a dimension of
1 stands for any. NumPy in gives NumPy out without JAX; JAX arrays give JAX arrays.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from jaxpose.geometry import _as_float

__all__ = [
    "Camera",
    "back_project",
    "camera_to_world",
    "project",
    "read_calibration",
    "rotation_matrix",
    "undistort",
    "world_to_camera",
]

Array = Any  # numpy.ndarray or jax.Array, whichever came in
Model = Literal["human36m", "opencv"]
NEWTON_STEPS = 20
TOLERANCE = {8: 1e-9, 4: 1e-4}
"""Largest error of an undistorted point, in units of the focal length, by the bytes of a number."""


def project(
    points: Array,
    *,
    focal: Array,
    center: Array,
    radial: Array | None = None,
    tangential: Array | None = None,
    model: Model = "human36m",
) -> Array:
    """Pixels of points in camera coordinates.

    Args:
        points: ``(..., 3)`` camera coordinates.
        focal: ``(..., 2)`` focal length in pixels, along x and y.
        center: ``(..., 2)`` principal point in pixels.
        radial: ``(..., 3)`` k1, k2, k3; None: no radial distortion.
        tangential: ``(..., 2)`` p1, p2; None: no tangential distortion.
        model: "human36m" or "opencv", see the module.

    Returns:
        ``(..., 2)`` pixels; NaN where the depth is not positive.

    Raises:
        ValueError: a wrong shape; an unknown model.

    Source: Human3.6M's own code and Martinez et al. 2017 (model "human36m"); OpenCV's `projectPoints` ("opencv"). The
    published lifting code tabulates the tangential pair of Human3.6M in reversed order and applies it reversed: the numbers
    are equal. mmpose applies OpenCV's model to Human3.6M's parameters, which moves points by up to 0.2 px. VideoPose3D
    brings points more than 45 degrees off the axis to 45 before it distorts them, which no person of Human3.6M is.

    >>> project([[0.1, 0.2, 2.0]], focal=(1000.0, 1000.0), center=(500.0, 500.0))
    array([[550., 600.]])
    """
    xp, points, focal, center, radial, tangential = _inputs(
        points, 3, "points", focal, center, radial, tangential, model
    )
    depth = points[..., 2:]
    front = depth > 0
    xy = xp.where(front, points[..., :2], 0) / xp.where(front, depth, 1)
    return xp.where(front, _distort(xp, xy, radial, tangential, model) * focal + center, xp.nan)


def back_project(px: Array, *, depth: Array, focal: Array, center: Array) -> Array:
    """Points in camera coordinates of pixels with a known depth, for a camera without distortion.

    Args:
        px: ``(..., 2)`` pixels.
        depth: ``(...)`` depths; the result has their unit.
        focal, center: The same as in `project`.

    Returns:
        ``(..., 3)``: the inverse of `project`.

    Raises:
        ValueError: a wrong shape.

    >>> back_project([[550.0, 600.0]], depth=[2.0], focal=(1000.0, 1000.0), center=(500.0, 500.0))
    array([[0.1, 0.2, 2. ]])
    """
    xp, px, focal, center, _, _ = _inputs(px, 2, "px", focal, center, None, None, "human36m")
    _, depth = _as_float(depth)
    if depth.shape != px.shape[:-1]:
        raise ValueError(f"depth has shape {depth.shape}, expected {px.shape[:-1]}: one depth for each of px")
    return xp.concatenate([(px - center) / focal * depth[..., None], depth[..., None]], -1)


def undistort(
    px: Array,
    *,
    focal: Array,
    center: Array,
    radial: Array | None = None,
    tangential: Array | None = None,
    model: Model = "human36m",
) -> Array:
    """Returns rays of pixels, (X / Z, Y / Z): the inverse of `project` up to the depth, by Newton's method.

    Args:
        px: ``(..., 2)`` pixels.
        focal, center, radial, tangential, model: The same as in `project`.

    Returns:
        ``(..., 2)``; times the focal length plus the centre, these are the pixels of a camera without distortion. NaN where
        the model has no such ray, which happens to pixels far outside of the calibrated picture.

    Raises:
        ValueError: The same as for `project`.

    >>> camera = dict(focal=(800.0, 800.0), center=(320.0, 240.0), radial=(-0.2, 0.05, 0.0), model="opencv")
    >>> ray = undistort([[600.0, 100.0]], **camera)
    >>> project(np.append(ray, [[1.0]], axis=1), **camera)
    array([[600., 100.]])
    """
    xp, px, focal, center, radial, tangential = _inputs(px, 2, "px", focal, center, radial, tangential, model)
    target = (px - center) / focal
    finite = xp.isfinite(target)
    target = xp.where(finite, target, 0)
    xy = target
    for _ in range(NEWTON_STEPS if radial is not None or tangential is not None else 0):
        error = _distort(xp, xy, radial, tangential, model) - target
        xy = xy - xp.clip(_solve(xp, _jacobian(xp, xy, radial, tangential, model), error), -0.5, 0.5)
    error = xp.abs(_distort(xp, xy, radial, tangential, model) - target).max(-1, keepdims=True)
    xx, xy_, yy = _jacobian(xp, xy, radial, tangential, model)
    upright = (xx * yy - xy_**2 > 0)[..., None] & (xx > 0)[..., None]  # not folded over
    good = (error <= TOLERANCE[target.dtype.itemsize]) & upright & finite.all(-1, keepdims=True)
    return xp.where(good, xy, xp.nan)


def world_to_camera(points: Array, *, rotation: Array, position: Array) -> Array:
    """Points in the coordinates of a camera: ``R (X - position)``.

    Args:
        points: ``(..., 3)`` world coordinates.
        rotation: ``(..., 3, 3)`` from world to camera.
        position: ``(..., 3)`` of the camera in the world.

    Returns:
        ``(..., 3)``.

    Raises:
        ValueError: a wrong shape.

    >>> world_to_camera([1.0, 2.0, 3.0], rotation=np.eye(3), position=(0.0, 0.0, -2.0))
    array([1., 2., 5.])
    """
    xp, points, rotation, position = _pose(points, rotation, position)
    return (rotation @ (points - position)[..., None])[..., 0]


def camera_to_world(points: Array, *, rotation: Array, position: Array) -> Array:
    """Points in world coordinates: ``R^T X + position``, the inverse of `world_to_camera`.

    Args:
        points: ``(..., 3)`` camera coordinates.
        rotation: ``(..., 3, 3)`` from world to camera.
        position: ``(..., 3)`` of the camera in the world.

    Returns:
        ``(..., 3)``.

    Raises:
        ValueError: a wrong shape.

    >>> camera_to_world([1.0, 2.0, 5.0], rotation=np.eye(3), position=(0.0, 0.0, -2.0))
    array([1., 2., 3.])
    """
    xp, points, rotation, position = _pose(points, rotation, position)
    return (xp.swapaxes(rotation, -1, -2) @ points[..., None])[..., 0] + position


def rotation_matrix(vector: Array) -> Array:
    """The matrix of a rotation vector (Rodrigues): axis times angle.

    Args:
        vector: ``(..., 3)`` radians.

    Returns:
        ``(..., 3, 3)``.

    Raises:
        ValueError: a wrong shape.

    >>> rotation_matrix([0.0, 0.0, np.pi / 2]).round(6) @ (1.0, 0.0, 0.0)
    array([0., 1., 0.])
    """
    xp, vector = _as_float(vector)
    _check(vector, (3,), "vector")
    square = (vector**2).sum(-1)[..., None, None]
    angle = xp.sqrt(xp.where(square > 0, square, 1))
    sine = xp.where(square > 0, xp.sin(angle) / angle, 1)
    versine = xp.where(square > 0, 2 * (xp.sin(angle / 2) / angle) ** 2, 0.5)
    x, y, z = (vector[..., i] for i in range(3))
    zero = xp.zeros_like(x)
    cross = xp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape((*x.shape, 3, 3))
    return xp.eye(3, dtype=vector.dtype) + sine * cross + versine * (cross @ cross)


@dataclass(frozen=True)
class Camera:
    """One calibrated camera.

    Attributes:
        name: The name of the view.
        size_wh: The width and height of its pictures in pixels, or None.
        focal: (2,) focal lengths, pixels.
        center: (2,) principal point, pixels.
        radial: (3,) radial distortion.
        tangential: (2,) tangential distortion.
        rotation: (3, 3) from world to camera.
        position: (3,) in the world.
        model: The model of the distortion.
    """

    name: str
    size_wh: tuple[int, int] | None
    focal: np.ndarray
    center: np.ndarray
    radial: np.ndarray
    tangential: np.ndarray
    rotation: np.ndarray
    position: np.ndarray
    model: Model = "opencv"

    @property
    def extrinsic(self) -> np.ndarray:
        """(3, 4): [R | -R position], the projection of world points to rays."""
        return np.concatenate([self.rotation, -(self.rotation @ self.position)[:, None]], axis=1)

    @property
    def lens(self) -> dict[str, Any]:
        """The keyword arguments of `project` and of `undistort`."""
        return {name: getattr(self, name) for name in ("focal", "center", "radial", "tangential", "model")}

    def project(self, points: Array) -> Array:
        """Pixels ``(..., 2)`` of world points ``(..., 3)``."""
        return project(world_to_camera(points, rotation=self.rotation, position=self.position), **self.lens)


def read_calibration(path: str | Path) -> tuple[Camera, ...]:
    """The cameras of a calibration file as Anipose writes it.

    A TOML file with a table for every camera, ``[cam_0]`` and so on, that holds ``name``, ``size`` (width and height),
    ``matrix`` (3 rows), ``distortions`` (none, or k1, k2, p1, p2 and perhaps k3, of OpenCV's model), ``rotation`` (a rotation
    vector) and ``translation`` (t of R X + t). Other tables, such as ``[metadata]``, are left alone.

    Args:
        path: The file.

    Returns:
        The cameras in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML; it has no camera; a value is missing or impossible; a fisheye lens; two cameras of one name.

    >>> read_calibration("absent.toml")
    Traceback (most recent call last):
    FileNotFoundError: no calibration found: absent.toml does not exist; check the path
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no calibration found: {path} does not exist; check the path")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from None
    cameras = tuple(
        _camera(f"{path}: [{key}]", table)
        for key, table in tables.items()
        if isinstance(table, dict) and ("matrix" in table or key.startswith("cam"))
    )
    if not cameras:
        raise ValueError(f"{path} has no camera: expected tables [cam_0], [cam_1], ... as Anipose writes them")
    names = [camera.name for camera in cameras]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has two cameras named {repeated[0]!r}: rename one of them")
    return cameras


def _camera(place: str, table: dict[str, Any]) -> Camera:
    if table.get("fisheye"):
        raise ValueError(f"{place} is a fisheye lens, which is not supported: undistort its pictures first")

    def numbers(name: str, *shapes: tuple[int, ...]) -> np.ndarray:
        if name not in table:
            raise ValueError(f"{place} has no {name!r}, it has {', '.join(map(repr, table)) or 'nothing'}")
        try:
            value = np.array(table[name], np.float64)
        except (TypeError, ValueError, OverflowError):
            value = np.array(np.nan)
        if value.shape not in shapes or not np.isfinite(value).all():
            expected = " or ".join("x".join(map(str, shape)) for shape in shapes)
            raise ValueError(f"{place} has {name} = {str(table[name])[:100]}, expected {expected} finite numbers")
        return value

    matrix = numbers("matrix", (3, 3))
    if not (
        matrix[0, 0] > 0
        and matrix[1, 1] > 0
        and np.allclose(matrix[[0, 1, 2, 2], [1, 0, 0, 1]], 0)
        and matrix[2, 2] == 1
    ):
        raise ValueError(
            f"{place} has matrix = {matrix.tolist()}, expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive fx and fy"
        )
    distortions = np.zeros(5)
    given = numbers("distortions", (0,), (4,), (5,), (1, 4), (1, 5)).ravel() if "distortions" in table else np.zeros(0)
    distortions[: len(given)] = given
    rotation = rotation_matrix(numbers("rotation", (3,), (3, 1)).ravel())
    size = numbers("size", (2,)) if table.get("size") is not None else None
    if size is not None and not ((size > 0) & (size == size.round())).all():
        raise ValueError(f"{place} has size = {table['size']}, expected the width and height in whole pixels")
    return Camera(
        name=str(table.get("name", place.rpartition("[")[2].rstrip("]"))),
        size_wh=None if size is None else (int(size[0]), int(size[1])),
        focal=matrix[[0, 1], [0, 1]],
        center=matrix[:2, 2],
        radial=distortions[[0, 1, 4]],
        tangential=distortions[[2, 3]],
        rotation=rotation,
        position=-rotation.T @ numbers("translation", (3,), (3, 1)).ravel(),
    )


def _distort(xp, xy: Array, radial: Array | None, tangential: Array | None, model: Model) -> Array:
    """(x, y) -> (x', y') of the module's docstring."""
    r2 = (xy**2).sum(-1, keepdims=True)
    factor = 1.0
    if radial is not None:
        factor = factor + r2 * (radial[..., :1] + r2 * (radial[..., 1:2] + r2 * radial[..., 2:]))
    if tangential is None:
        return xy * factor
    swapped = tangential[..., ::-1]  # p2 goes with x
    factor = factor + (2 if model == "opencv" else 1) * (swapped * xy).sum(-1, keepdims=True)
    return xy * factor + swapped * r2


def _jacobian(
    xp, xy: Array, radial: Array | None, tangential: Array | None, model: Model
) -> tuple[Array, Array, Array]:
    """dx'/dx, (dx'/dy + dy'/dx) / 2 and dy'/dy; in OpenCV's model the two in the middle are equal."""
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    factor, slope = xp.ones_like(r2), xp.zeros_like(r2)  # and its derivative by r^2
    if radial is not None:
        k1, k2, k3 = (radial[..., i] for i in range(3))
        factor = factor + r2 * (k1 + r2 * (k2 + r2 * k3))
        slope = slope + k1 + r2 * (2 * k2 + r2 * 3 * k3)
    xx, cross, yy = factor + 2 * x * x * slope, 2 * x * y * slope, factor + 2 * y * y * slope
    if tangential is not None:
        p1, p2 = tangential[..., 0], tangential[..., 1]
        c = 2 if model == "opencv" else 1
        t = c * (p1 * y + p2 * x)
        xx = xx + t + (c + 2) * p2 * x
        yy = yy + t + (c + 2) * p1 * y
        cross = cross + (c + 2) / 2 * (p1 * x + p2 * y)
    return xx, cross, yy


def _solve(xp, symmetric: tuple[Array, Array, Array], right: Array) -> Array:
    """The solution of a 2x2 system, whose matrix is not inverted where it is singular."""
    xx, cross, yy = symmetric
    det = xx * yy - cross * cross
    det = xp.where(xp.abs(det) > 1e-3, det, xp.where(det < 0, -1e-3, 1e-3))
    a, b = right[..., 0], right[..., 1]
    return xp.stack([(yy * a - cross * b) / det, (xx * b - cross * a) / det], axis=-1)


def _inputs(first: Array, length: int, name: str, focal, center, radial, tangential, model: str) -> tuple:
    if model not in get_args(Model):
        raise ValueError(f"model is {model!r}, expected one of {', '.join(get_args(Model))}")
    parameters = {"focal": (focal, 2), "center": (center, 2), "radial": (radial, 3), "tangential": (tangential, 2)}
    present = {key: value for key, value in parameters.items() if value[0] is not None}
    xp, first, *arrays = _as_float(first, *(array for array, _ in present.values()))
    _check(first, (length,), name)
    fitted: dict[str, Array | None] = dict.fromkeys(parameters)
    for (key, (_, size)), array in zip(present.items(), arrays, strict=True):
        _check(array, (size,), key)
        fitted[key] = _fit(array, first.shape, 1, key, name)
    return xp, first, *fitted.values()


def _pose(points: Array, rotation: Array, position: Array) -> tuple:
    xp, points, rotation, position = _as_float(points, rotation, position)
    for array, shape, name in ((points, (3,), "points"), (rotation, (3, 3), "rotation"), (position, (3,), "position")):
        _check(array, shape, name)
    return (
        xp,
        points,
        _fit(rotation, points.shape, 2, "rotation", "points"),
        _fit(position, points.shape, 1, "position", "points"),
    )


def _check(array: Array, shape: tuple[int, ...], name: str) -> None:
    if array.shape[-len(shape) :] != shape:
        raise ValueError(f"{name} must be (..., {', '.join(map(str, shape))}), got shape {array.shape}")


def _fit(array: Array, shape: tuple[int, ...], own: int, name: str, first: str) -> Array:
    """A parameter with `own` axes of its own, given leading dimensions that broadcast against those of the points."""
    batch, points = array.shape[: array.ndim - own], shape[:-1]
    if len(batch) > len(points) or any(b not in (1, p) for b, p in zip(batch, points)):
        raise ValueError(f"the leading dimensions of {name} {array.shape} must be the first ones of {first} {shape}")
    return array.reshape((*batch, *[1] * (len(points) - len(batch)), *array.shape[array.ndim - own :]))
