"""Poses in space as one self-contained page that the mouse turns: bodies, hands, any skeleton.

The page holds everything that it shows and fetches nothing. It needs NumPy only, neither JAX nor matplotlib.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxpose.files import write_whole
from jaxpose.skeleton import Skeleton
from jaxpose.view.report.page import escaped, page
from jaxpose.view.report.sections import scores_section

__all__ = ["ellipsoids_of", "section", "write"]

LEFT, RIGHT, MIDDLE = 0, 1, 2
MOST = 200
"""The largest number of poses of a page, about 3 KB each."""


def write(
    path: str | os.PathLike,
    poses: ArrayLike,
    *,
    skeleton: Skeleton,
    truth: ArrayLike | None = None,
    ellipsoids: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    title: str = "Poses in space",
    text: str = "",
    scores: Mapping[str, float] | None = None,
    unit: str = "mm",
) -> dict[str, Any]:
    """Writes a page with poses that the mouse turns, atomically.

    Args:
        path: path of the page.
        poses: ``(N, K, 3)`` joints in the camera's axes: x to the right, y down, z away from the camera. A joint with a
            coordinate that is not finite is not drawn.
        skeleton: limbs, and left and right by their names.
        truth: ``(N, K, 3)`` labelled joints in the same coordinates; None: there are none.
        ellipsoids: ``(N, K, 3, 3)`` matrices S of regions {x: (x - pose)^T S^-1 (x - pose) <= 1} (`ellipsoids_of`); None: there
            are none.
        names: N titles of the poses; None: their numbers.
        title: title of the page.
        text: a sentence below the title.
        scores: numbers to print above the poses.
        unit: the unit of the coordinates.

    Returns:
        path, bytes and poses (the number of poses on the page, at most `MOST`), as JSON values.

    Raises:
        ValueError: a shape does not fit, or there is no pose.

    >>> from tempfile import mkdtemp
    >>> from jaxpose.skeleton import H36M17
    >>> write(mkdtemp() + "/space.html", np.zeros((2, 17, 3)), skeleton=H36M17)["poses"]
    2
    """
    parts = [f"<header><h1>{escaped(title)}</h1>{f'<p>{escaped(text)}</p>' if text else ''}</header>"]
    if scores:
        parts.append(scores_section(scores))
    parts.append(section(poses, skeleton=skeleton, truth=truth, ellipsoids=ellipsoids, names=names, unit=unit))
    content = page(title, "\n".join(parts), script="space.js", command="jaxpose").encode("utf-8", errors="replace")
    write_whole(path, content)
    return {"path": str(path), "bytes": len(content), "poses": min(len(np.asarray(poses)), MOST)}


def section(
    poses: ArrayLike,
    *,
    skeleton: Skeleton,
    truth: ArrayLike | None = None,
    ellipsoids: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    unit: str = "mm",
) -> str:
    """Returns the element that shows the poses, for a page with the script ``space.js``; the arguments are those of `write`.

    >>> from jaxpose.skeleton import H36M17
    >>> 'data-scene="{&quot;unit&quot;: &quot;mm&quot;' in section(np.zeros((1, 17, 3)), skeleton=H36M17)
    True
    """
    poses = _checked("poses", poses, None, skeleton.num_joints, (3,))
    if not len(poses):
        raise ValueError("poses is empty: expected at least one pose (N, K, 3)")
    truth = None if truth is None else _checked("truth", truth, len(poses), skeleton.num_joints, (3,))
    if ellipsoids is not None:
        ellipsoids = _checked("ellipsoids", ellipsoids, len(poses), skeleton.num_joints, (3, 3))
    names = [f"pose {i + 1}" for i in range(len(poses))] if names is None else [str(name) for name in names]
    if len(names) != len(poses):
        raise ValueError(f"names has {len(names)} titles for {len(poses)} poses")
    scene = {
        "unit": unit,
        "limbs": [list(limb) for limb in skeleton.limbs],
        "side": sides(skeleton),
        "poses": [
            {
                "xyz": _points(poses[i]),
                **({} if truth is None else {"truth": _points(truth[i])}),
                **({} if ellipsoids is None else {"ellipsoids": _matrices(ellipsoids[i])}),
            }
            for i in range(min(len(poses), MOST))
        ],
    }
    options = "".join(f"<option>{escaped(name)}</option>" for name in names[:MOST])
    boxes = [f'<label>Pose <select name="pose">{options}</select></label>']
    if truth is not None:
        boxes.append('<label><input type="checkbox" name="truth" checked> labels</label>')
    if ellipsoids is not None:
        boxes.append('<label><input type="checkbox" name="regions" checked> regions</label>')
    keys = (
        "Drag to turn, scroll to zoom, double-click to start again; the arrow keys turn too. Orange: left, blue: right, yellow: "
        "middle" + (", green: labels." if truth is not None else ".")
    )
    return (
        f'<section><h2>In space</h2><div class="space" data-scene="{escaped(json.dumps(scene))}"><p>{"".join(boxes)}</p>'
        f'<canvas tabindex="0" role="img" aria-label="Poses in space"></canvas><p><small>{keys}</small></p></div></section>'
    )


def ellipsoids_of(sigma: ArrayLike, *, half_axes: ArrayLike, directions: ArrayLike) -> np.ndarray:
    """Returns the matrices S of the ellipsoids that `jaxpose.density.Region.ellipse` gives, placed and scaled.

    Args:
        sigma: ``(..., 3)`` sigma of each coordinate, in the unit of the poses: the scale of the standardised error.
        half_axes: ``(3,)`` half axes of the region of the standardised error.
        directions: ``(3, 3)`` their directions, as columns.

    Returns:
        ``(..., 3, 3)``: diag(sigma) V diag(half axes squared) V^T diag(sigma).

    >>> ellipsoids_of(np.array([2.0, 1.0, 1.0]), half_axes=np.array([1.0, 2.0, 3.0]), directions=np.eye(3)).diagonal().tolist()
    [4.0, 4.0, 9.0]
    """
    sigma, axes = np.asarray(sigma, np.float64), np.asarray(directions) * np.asarray(half_axes)
    return sigma[..., :, None] * (axes @ axes.T) * sigma[..., None, :]


def sides(skeleton: Skeleton) -> list[int]:
    """Returns the side of each joint by the pairs of the skeleton: 0 left, 1 right, 2 neither.

    >>> from jaxpose.skeleton import H36M17
    >>> sides(H36M17)[:5]
    [2, 1, 1, 1, 0]
    """
    result = [MIDDLE] * skeleton.num_joints
    for a, b in skeleton.flip_pairs:
        left, right = (b, a) if _is_right(skeleton.joints[a]) else (a, b)
        result[left], result[right] = LEFT, RIGHT
    return result


def _is_right(name: str) -> bool:
    return "right" in name.lower() or name[:2] in ("r_", "R_")


def _checked(name: str, values: ArrayLike, count: int | None, joints: int, last: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 + len(last) or values.shape[1:] != (joints, *last) or count not in (None, len(values)):
        wanted = ", ".join(map(str, ("N" if count is None else count, joints, *last)))
        raise ValueError(f"{name} has shape {values.shape}: expected ({wanted})")
    return values


def _points(pose: np.ndarray) -> list[list[float] | None]:
    return [[round(v, 3) for v in joint] if np.isfinite(joint).all() else None for joint in pose.tolist()]


def _matrices(matrices: np.ndarray) -> list[list[float] | None]:
    """Returns the upper triangle of each symmetric matrix, row by row, to six digits."""
    upper = matrices[:, *np.triu_indices(3)]
    return [[float(f"{v:.6g}") for v in row] if np.isfinite(row).all() else None for row in upper.tolist()]
