"""Joints in space: the further columns of a table of persons, and the checks of labels in three dimensions.

Units are millimetres in camera coordinates: x to the right, y down, z away from the camera (`jaxpose.cameras`). The joints
are those of the table's keypoints; the camera that sees them has no distortion, as in the published single-stage code. NumPy only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpose import cameras
from jaxpose.bodies import PEOPLE, check_knees, check_order, check_sides
from jaxpose.data.source import Source, person_dtype
from jaxpose.skeleton import Skeleton, root_joints

__all__ = ["check", "flattened", "has_space", "space_dtype", "withheld", "with_space"]

SHORTEST, LONGEST = 5.0, 10_000.0
"""Median lengths of a limb in mm lie between: that of a finger bone is above the first, that of a whale below the second."""
SHORTEST_OF_PEOPLE = 45.0
"""That of people, a small child's, over all persons of a file: adults in centimetres have 25."""
FAR_OFF, ELSEWHERE = 0.1, 0.5
"""Median distance of projected joints from their labels, as a fraction of the box's longer side, above which the camera is wrong: over
all persons of a file, and of a single one."""


def space_dtype(num_joints: int) -> np.dtype:
    """Returns the dtype of a table of persons with joints in space.

    Beside the columns of `jaxpose.data.source.person_dtype`: joints_3d ``(K, 3)`` mm in camera coordinates, 0 where unknown;
    has_depth ``(K,)``, True for a joint that is known in space; root ``(3,)`` mm, the point that depth is relative to, NaN where it
    is unknown; camera ``(4,)``: fx, fy, cx, cy in pixels, NaN where it is unknown.

    Args:
        num_joints: The number of joints K.

    >>> space_dtype(17)["joints_3d"].shape
    (17, 3)
    """
    further = [
        ("joints_3d", np.float64, (num_joints, 3)),
        ("has_depth", np.bool_, (num_joints,)),
        ("root", np.float64, (3,)),
        ("camera", np.float64, (4,)),
    ]
    return np.dtype([(name, *kind) for name, kind in _columns(person_dtype(num_joints))] + further)


def _columns(dtype: np.dtype) -> list[tuple[str, tuple[Any, ...]]]:
    return [(name, (dtype[name].base, dtype[name].shape)) for name in dtype.names]


def has_space(source: Source) -> bool:
    """Tells whether the persons of a source have the columns of `space_dtype`."""
    return "joints_3d" in source.persons.dtype.names


def with_space(
    source: Source, annotations: Mapping[int, Mapping[str, Any]], *, root: Sequence[str] | None = None
) -> Source:
    """Returns a source whose persons have joints in space.

    Args:
        source: A source of persons.
        annotations: By annotation id: "keypoints_3d", 3 K numbers in mm, or None for a person without depth, and "camera", fx, fy,
            cx, cy. A joint of which a coordinate is None is unknown.
        root: Names of the joints whose mean is the root; None: see `jaxpose.skeleton.root_joints`.

    Raises:
        ValueError: The labels are wrong; see `check`.
    """
    joints, persons = root_joints(source.skeleton, root), source.persons
    table = np.zeros(len(persons), space_dtype(source.skeleton.num_joints))
    for column in persons.dtype.names:
        table[column] = persons[column]
    table["root"] = table["camera"] = np.nan
    for row in table:
        person = annotations[int(row["annotation_id"])]
        if person.get("camera") is not None:
            row["camera"] = person["camera"]
        if person.get("keypoints_3d") is None:
            continue
        points = np.array(person["keypoints_3d"], np.float64).reshape(-1, 3)  # None becomes NaN
        row["has_depth"] = np.isfinite(points).all(1)
        row["joints_3d"] = np.where(row["has_depth"][:, None], points, 0.0)
        if row["has_depth"][list(joints)].all():
            row["root"] = points[list(joints)].mean(0)
        else:  # depth relative to an unknown point
            row["has_depth"] = False
    check(table, source.skeleton, name=source.name)
    other = copy.copy(source)
    other.persons = table
    return other


def flattened(source: Source) -> Source:
    """Returns a source without the columns of joints in space, as a net of image coordinates needs it."""
    if not has_space(source):
        return source
    other = copy.copy(source)
    dtype = person_dtype(source.skeleton.num_joints)
    table = np.zeros(len(source.persons), dtype)
    for column in dtype.names:
        table[column] = source.persons[column]
    other.persons = table
    return other


def withheld(source: Source) -> Source:
    """Returns a source whose persons have no depth: only their image coordinates are labels.

    The root and the camera stay, for evaluation.
    """
    other = copy.copy(source)
    persons = np.zeros(len(source.persons), space_dtype(source.skeleton.num_joints))
    persons["root"] = persons["camera"] = np.nan
    for column in source.persons.dtype.names:
        persons[column] = source.persons[column]
    persons["joints_3d"], persons["has_depth"] = 0.0, False
    other.persons = persons
    return other


def check(persons: np.ndarray, skeleton: Skeleton, *, name: str) -> None:
    """Checks joints in space: unit, direction of depth, order of the joints, and that the camera projects them onto the keypoints.

    Args:
        persons: A table of `space_dtype`.
        skeleton: The skeleton of the joints.
        name: The name of the data set, for messages.

    Raises:
        ValueError: Lengths are in another unit; a joint lies behind the camera; the pelvis is far from the middle of the hips;
            people's knees bend to the front; left and right are exchanged in space or in the picture; a person with joints in space
            has no camera; projected joints lie far from their keypoints. The message says what it looks like.
    """
    rows = persons[persons["has_depth"].any(1)]
    if not len(rows):
        return
    points, is_known = rows["joints_3d"], rows["has_depth"]
    _check_unit(rows, skeleton, name)
    behind = (is_known & (points[..., 2] <= 0)).any(1)
    if behind.any():
        person = rows[behind][0]
        raise ValueError(
            f"{name}: {behind.sum()} of {len(rows)} persons, such as annotation {person['annotation_id']}, have joints behind the "
            "camera (z <= 0): these look like world coordinates, root-relative ones, or a camera of the other convention; expected "
            "camera coordinates, x right, y down, z away from the camera"
        )
    check_order(points, skeleton, name, where=is_known)
    if not np.isfinite(rows["camera"]).all():
        person = rows[~np.isfinite(rows["camera"]).all(1)][0]
        raise ValueError(
            f"{name}: annotation {person['annotation_id']} has joints in space and no camera: expected 'camera', fx, fy, cx, cy"
        )
    _check_projection(rows, skeleton, name)
    check_knees(points, skeleton, name, where=is_known)


def _check_unit(rows: np.ndarray, skeleton: Skeleton, name: str) -> None:
    """Raises a ValueError if limbs are too short or too long for millimetres: those of a person, or of the people of a file."""
    lengths = limb_lengths(rows["joints_3d"], skeleton, where=rows["has_depth"])
    has_limb = np.isfinite(lengths).any(1)
    if not has_limb.any():
        return
    people, length = rows[has_limb], np.nanmedian(lengths[has_limb], axis=1)
    wrong = (length < SHORTEST) | (length > LONGEST)
    if skeleton.name in PEOPLE and np.median(length) < SHORTEST_OF_PEOPLE:
        wrong |= length < SHORTEST_OF_PEOPLE
    if not wrong.any():
        return
    first = float(length[wrong][0])
    unit, advice = ("metres", "multiply them by 1000") if first < 1 else ("centimetres", "multiply them by 10")
    if first > LONGEST:
        unit, advice = "millimetres that were multiplied by 1000 as if they were metres", "divide them by 1000"
    raise ValueError(
        f"{name}: {wrong.sum()} of {len(people)} persons, such as annotation {people['annotation_id'][wrong][0]}: the median limb in "
        f"space has a length of {first:.3g}, expected millimetres: these look like {unit}; {advice}"
    )


def _check_projection(rows: np.ndarray, skeleton: Skeleton, name: str) -> None:
    camera, labelled = rows["camera"][:, None], rows["has_depth"] & (rows["keypoints"][..., 2] > 0)
    px = cameras.project(
        np.where(rows["has_depth"][..., None], rows["joints_3d"], (0.0, 0.0, 1.0)),
        focal=np.broadcast_to(camera[..., :2], (*labelled.shape, 2)),
        center=np.broadcast_to(camera[..., 2:], (*labelled.shape, 2)),
    )
    check_sides(px, rows["keypoints"][..., :2], skeleton, name, where=labelled)
    error = np.linalg.norm(px - rows["keypoints"][..., :2], axis=-1) / rows["box"][:, 2:].max(1)[:, None]
    if labelled.any() and (share := float(np.median(error[labelled]))) > FAR_OFF:
        raise ValueError(
            f"{name}: the camera projects the joints in space {share:.0%} of the box's longer side away from the keypoints (median): "
            "the focal length, the principal point or the order of the joints is wrong, or the camera is of another picture"
        )
    compared = labelled.any(1)
    shares = np.nanmedian(np.where(labelled, error, np.nan)[compared], axis=1)
    if (wrong := shares > ELSEWHERE).any():
        raise ValueError(
            f"{name}: of {wrong.sum()} of {len(shares)} persons, such as annotation {rows['annotation_id'][compared][wrong][0]}, the "
            f"camera projects the joints in space {shares[wrong][0]:.0%} of the box's longer side away from the keypoints (median): "
            "joints, camera or keypoints are those of another person or picture"
        )


def limb_lengths(points: np.ndarray, skeleton: Skeleton, *, where: np.ndarray | None = None) -> np.ndarray:
    """Returns the lengths of the skeleton's limbs.

    Args:
        points: ``(..., K, 3)``.
        skeleton: The skeleton.
        where: ``(..., K)`` known joints; None: all.

    Returns:
        ``(..., limbs)`` in the unit of the points; NaN for a limb with an unknown joint.

    >>> from jaxpose.skeleton import H36M17
    >>> limb_lengths(np.zeros((17, 3)), H36M17).shape
    (16,)
    """
    a, b = np.array(skeleton.limbs, int).reshape(-1, 2).T
    lengths = np.linalg.norm(points[..., a, :] - points[..., b, :], axis=-1)
    return lengths if where is None else np.where(where[..., a] & where[..., b], lengths, np.nan)
