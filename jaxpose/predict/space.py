"""Poses in space of a 3D run: joints in millimetres, absolute where camera and root depth are known, else about the root.

A single picture states neither the size of a person nor the distance. What is known decides:

    camera and depth of the root     joints in camera coordinates
    camera alone                     joints about the root; the depth at which the limbs have the mean length of the training persons
    neither                          joints about the root, in the axes of the camera; the scale (mm per pixel) that does the same
                                     without perspective

Hands in 2.5D are placed by `jaxpose.predict.hands`. NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose import cameras, density
from jaxpose.skeleton import Skeleton

__all__ = ["SPACE_COLUMNS", "SpacePage", "SpacePoses", "check_camera", "columns_of", "placed"]

PUBLISHED_LENGTH = {"h36m17": 4502.881, "h36m18": 4502.881}
"""Total length of the limbs of Human3.6M's persons in mm, for weights that store none (the code of integral regression)."""
STEPS = 60  # of bisection
NEAREST_ROOT = (
    100.0  # mm; a smaller depth of a person's or hand's root is in metres, and would put joints behind the camera
)
LEVEL = 0.9  # probability of the regions of a page, unless another one is given
SPACE_COLUMNS = ("x_mm", "y_mm", "z_mm", "deviation_x_mm", "deviation_y_mm", "deviation_z_mm")
"""Further columns of poses.csv for a run in space; the deviations are 0 for a net without a likelihood."""


@dataclass(frozen=True)
class SpacePoses:
    """The joints of P people in space.

    Attributes:
        joints: (P, K, 3) mm: x to the right, y down, z away from the camera.
        is_absolute: True if they are camera coordinates, False if they are relative to the root.
        sigma: (P, K, 3) mm, the scale of a likelihood; None for nets without one. That of x is negative for a mirrored crop.
        density: The model of the standardised error in space, or None.
        assumed: What was assumed of hands that the picture does not show, a sentence; "" for nothing, and for bodies.
    """

    joints: np.ndarray
    is_absolute: bool
    sigma: np.ndarray | None = None
    density: density.Model | None = field(default=None, repr=False)
    assumed: str = ""

    @property
    def deviation(self) -> np.ndarray | None:
        """(P, K, 3) standard deviations in mm, or None without a density."""
        return None if self.density is None else np.abs(self.sigma) * density.moments(self.density).standard_deviation

    def ellipsoids(self, level: float) -> np.ndarray | None:
        """Returns matrices S (P, K, 3, 3) in square mm of the regions {x: (x - joint)^T S^-1 (x - joint) <= 1}; None without a density.

        An ellipsoid has the mean and covariance of the predicted density, and holds a joint with this probability exactly if that
        is Gaussian (`jaxpose.density.Region.ellipse`).
        """
        if self.density is None:
            return None
        from jaxpose.view.space import ellipsoids_of

        _, half_axes, directions = density.region(self.density, level).ellipse()
        return ellipsoids_of(self.sigma, half_axes=half_axes, directions=directions)


def columns_of(poses: SpacePoses) -> np.ndarray:
    """Returns the numbers of `SPACE_COLUMNS`, (P, K, 6)."""
    deviation = poses.deviation
    return np.concatenate([poses.joints, np.zeros_like(poses.joints) if deviation is None else deviation], -1)


class SpacePage:
    """The poses of one call of `jaxpose predict` as a page that the mouse turns.

    Args:
        skeleton: The skeleton of the poses.
        level: The probability of the regions; None: `LEVEL`.
    """

    def __init__(self, skeleton: Skeleton, *, level: float | None = None):
        self.skeleton, self.level = skeleton, LEVEL if level is None else level
        self.names: list[str] = []
        self.joints: list[np.ndarray] = []
        self.ellipsoids: list[np.ndarray] = []
        self.is_absolute, self.assumed = False, ""

    def add(self, name: str, poses: SpacePoses) -> None:
        """Adds the people of a picture, as long as the page has room."""
        from jaxpose.view.space import MOST

        room = MOST - len(self.joints)
        if room <= 0 or not len(poses.joints):
            return
        self.is_absolute, self.assumed = poses.is_absolute, poses.assumed
        self.joints += list(poses.joints[:room])
        self.names += [f"{name}, person {p + 1}" for p in range(len(poses.joints[:room]))]
        if (regions := poses.ellipsoids(self.level)) is not None:
            self.ellipsoids += list(regions[:room])

    def write(self, path: Path) -> None:
        """Writes the page, if there is a pose."""
        from jaxpose.view import space

        if not self.joints:
            return
        frame = "Coordinates of the camera" if self.is_absolute else "Relative to the root, in the axes of the camera"
        assumed = f" Assumed: {self.assumed}." if self.assumed else ""
        regions = f" Ellipsoids: regions of {self.level:.0%}." if self.ellipsoids else ""
        space.write(
            path, np.stack(self.joints), skeleton=self.skeleton, names=self.names, text=f"{frame}, in mm.{assumed}{regions}",
            ellipsoids=np.stack(self.ellipsoids) if self.ellipsoids else None,
        )  # fmt: skip


def check_camera(camera: Sequence[float] | None, root_depth: float | None) -> np.ndarray | None:
    """Returns a camera as fx, fy, cx, cy.

    Args:
        camera: f, cx, cy or fx, fy, cx, cy in pixels; None: unknown.
        root_depth: The depth of the root in mm; None: unknown.

    Raises:
        ValueError: The camera has other numbers, a focal length or the depth is not positive, the depth is too small to be in mm,
            or there is a depth without a camera.

    >>> check_camera((1145.0, 512.0, 515.0), None)
    array([1145., 1145.,  512.,  515.])
    """
    if root_depth is not None and not (np.isfinite(root_depth) and root_depth > 0):
        raise ValueError(f"--root-depth {root_depth}: expected a positive number of mm")
    if camera is None:
        if root_depth is not None:
            raise ValueError(f"--root-depth {root_depth:g} needs the camera too: --camera FX FY CX CY")
        return None
    if root_depth is not None and root_depth < NEAREST_ROOT:
        raise ValueError(
            f"--root-depth {root_depth:g}: expected mm, the distance of the root from the camera, at least {NEAREST_ROOT:g}; "
            "is it in metres?"
        )
    numbers = np.array(camera, np.float64)
    numbers = numbers if numbers.shape != (3,) else numbers[[0, 0, 1, 2]]
    if numbers.shape != (4,) or not np.isfinite(numbers).all() or not (numbers[:2] > 0).all():
        raise ValueError(
            f"--camera {' '.join(map(str, camera))}: expected f cx cy or fx fy cx cy in pixels of the picture"
        )
    return numbers


def placed(
    xy: np.ndarray,
    depth: np.ndarray,
    *,
    skeleton: Skeleton,
    root: Sequence[int],
    bone_length: float | None,
    camera: np.ndarray | None = None,
    root_depth: float | None = None,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Places joints in space.

    Args:
        xy: (P, K, 2) pixels of the picture.
        depth: (P, K) mm relative to the root.
        skeleton: The skeleton of the joints.
        root: The joints whose mean is the root.
        bone_length: Mean length in mm of all limbs of a person together; None: that of Human3.6M, for its skeletons.
        camera: (4,) fx, fy, cx, cy in pixels, or None.
        root_depth: The depth of the root in mm, or None.

    Returns:
        joints (P, K, 3) in mm, the size of a pixel in mm at each joint (P, K), and whether the joints are camera coordinates.

    Raises:
        ValueError: The size of a person is unknown: no camera with a root depth, and no length of the limbs.

    >>> from jaxpose.skeleton import H36M17
    >>> xy = np.random.default_rng(0).uniform(0, 100, (1, 17, 2))
    >>> joints, _, is_absolute = placed(xy, np.zeros((1, 17)), skeleton=H36M17, root=(0,), bone_length=4000.0)
    >>> limbs = joints[0][np.array(H36M17.limbs)]
    >>> round(float(np.linalg.norm(limbs[:, 0] - limbs[:, 1], axis=-1).sum())), is_absolute
    (4000, False)
    """
    root, edges = list(root), np.array(skeleton.limbs, int).reshape(-1, 2)
    xy, depth = np.asarray(xy, np.float64), np.asarray(depth, np.float64)

    def about_root(joints: np.ndarray) -> np.ndarray:
        return joints - joints[:, root].mean(1, keepdims=True)

    def in_camera(distance: np.ndarray) -> np.ndarray:
        focal, center = (np.broadcast_to(camera[part], xy.shape) for part in (slice(0, 2), slice(2, 4)))
        return cameras.back_project(xy, depth=np.maximum(depth + distance[:, None], 1.0), focal=focal, center=center)

    def scaled(size: np.ndarray) -> np.ndarray:
        flat = (xy - xy[:, root].mean(1, keepdims=True)) * size[:, None, None]
        return np.concatenate([flat, depth[..., None]], -1)

    if camera is not None and root_depth is not None:
        joints = in_camera(np.full(len(xy), float(root_depth)))
        return joints, joints[..., 2] / camera[:2].mean(), True
    length = PUBLISHED_LENGTH.get(skeleton.name) if bone_length is None else bone_length
    if length is None:
        raise ValueError(
            "the checkpoint states no length of the limbs, so the size of a person in mm is unknown: give --camera and --root-depth"
        )

    def total(place: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        def of(value: np.ndarray) -> np.ndarray:
            joints = place(value)
            return np.linalg.norm(joints[:, edges[:, 0]] - joints[:, edges[:, 1]], axis=-1).sum(-1)

        return of

    if camera is not None:
        distance = _solve(total(in_camera), length, len(xy), low=10.0, high=1e6)
        joints = in_camera(distance)
        return about_root(joints), joints[..., 2] / camera[:2].mean(), False
    size = _solve(total(scaled), length, len(xy), low=1e-4, high=1e4)
    return about_root(scaled(size)), np.broadcast_to(size[:, None], depth.shape), False


def _solve(function: Any, value: float, count: int, *, low: float, high: float) -> np.ndarray:
    """Returns the arguments (count,) at which an increasing function has a value, by bisection of their logarithms."""
    low, high = np.full(count, np.log(low)), np.full(count, np.log(high))
    for _ in range(STEPS):
        middle = (low + high) / 2
        is_above = function(np.exp(middle)) > value
        low, high = np.where(is_above, low, middle), np.where(is_above, middle, high)
    return np.exp((low + high) / 2)
