"""Checks of labelled bodies in space: their unit, the order of their joints, and their sides; every error says what it looks like.

The readers of labels (`jaxpose.data.space`, `jaxpose.data.pairs`) and of results (`jaxpose.evaluation.poses_3d`) share them. What is
known of people's bodies, such as their size and the way in which knees bend, is asked of `PEOPLE`'s skeletons only. NumPy only.
"""

from __future__ import annotations

import numpy as np

from jaxpose.skeleton import Skeleton

__all__ = ["PEOPLE", "check_knees", "check_metres", "check_millimetres", "check_order", "check_sides"]

PEOPLE = frozenset({"coco17", "crowdpose14", "mpii16", "h36m17", "h36m18", "mpi_inf_3dhp17"})
"""Names of the skeletons of people; a skeleton of one's own may be that of an animal."""
METRES = 20.0
"""An extent of bodies in space that is below it, as a number, is one in metres."""
CENTIMETRES, TALLEST = 250.0, 20_000.0
"""Extents of people in mm lie between."""
HIP_SHARE = 0.5
"""The pelvis is nearer to the middle of the hips than this part of their distance."""
APART = 0.02
"""Distance of a joint from its label, as a part of the body's extent in the picture, from which on left and right can be told apart."""
EXCHANGED = 3.0
"""Left and right of a joint are exchanged where its labels are this many times as near to the joint of the other side."""
BENT = 0.3
"""The least bend of a knee that is looked at, as a sine: no knee bends so far to the front."""
LEAST_KNEES, BACKWARDS = 3, 0.9
"""Number of bent knees, and part of them that has to bend to the front, for a body to be mirrored."""
MOST_POSES = 20_000  # whose knees are looked at, evenly spaced


def check_order(joints: np.ndarray, skeleton: Skeleton, what: str, *, where: np.ndarray | None = None) -> None:
    """Raises a ValueError if the pelvis is far from the middle of the hips, which is how a wrong order of the joints looks.

    A skeleton without a pelvis or hips is not checked.

    Args:
        joints: ``(N, K, 3)`` in mm.
        skeleton: The joints.
        what: How the error calls the poses, such as the file.
        where: ``(N, K)`` bool, False for joints that are unknown; None: all are known.

    >>> from jaxpose.skeleton import H36M17
    >>> pose = np.zeros((1, 17, 3))
    >>> pose[0, [H36M17.joints.index("left_hip"), H36M17.joints.index("right_hip")], 0] = [-130, 130]
    >>> check_order(pose, H36M17, "poses.json")
    >>> pose[0, 0, 1] = 400  # an ankle, perhaps
    >>> check_order(pose, H36M17, "poses.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: poses.json: the pelvis (joint 0) is 400 mm from the middle of the hips (joints 4 and 1), which are 260 mm apart: ...
    """
    places = _places(skeleton, ("pelvis", "left_hip", "right_hip"))
    if places is None:
        return
    complete = joints[:, places] if where is None else joints[:, places][where[:, places].all(1)]
    if not len(complete):
        return
    pelvis, left, right = np.moveaxis(complete, 1, 0)
    width = float(np.median(np.linalg.norm(left - right, axis=-1)))
    off = float(np.median(np.linalg.norm(pelvis - (left + right) / 2, axis=-1)))
    if off > HIP_SHARE * max(width, 1e-9):
        raise ValueError(
            f"{what}: the pelvis (joint {places[0]}) is {off:.0f} mm from the middle of the hips (joints {places[1]} and {places[2]}), "
            f"which are {width:.0f} mm apart: this looks like another order of the joints than {skeleton.name}'s, which is "
            f"{', '.join(skeleton.joints)}"
        )


def check_sides(
    px: np.ndarray, labels: np.ndarray, skeleton: Skeleton, what: str, *, where: np.ndarray | None = None
) -> None:
    """Raises a ValueError if projected joints lie on their labels with left and right exchanged only, all of them or some pairs.

    A pelvis that is between the hips does not tell such an order of the joints.

    Args:
        px: ``(N, K, 2)`` projected joints in space; NaN where a joint is behind the camera.
        labels: ``(N, K, 2)`` labelled pixels.
        skeleton: The joints.
        what: How the error calls the poses, such as the file.
        where: ``(N, K)`` bool, False for joints that are unknown in space or in the picture; None: all are known.

    >>> from jaxpose.skeleton import H36M17
    >>> px = np.random.default_rng(0).uniform(0, 500, (1, 17, 2))
    >>> check_sides(px, px + 3, H36M17, "poses.json")
    >>> check_sides(px, px[:, H36M17.flip_index] + 3, H36M17, "poses.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: poses.json: the joints in space lie ... px beside their pixels, and 4 px with left and right exchanged: ...
    """
    flip = np.array(skeleton.flip_index)
    compared = np.ones(px.shape[:-1], bool) if where is None else where
    compared = (
        compared & compared[:, flip] & np.isfinite(px + px[:, flip] + labels).all(-1) & (flip != np.arange(len(flip)))
    )
    if not compared.any():
        return
    off, exchanged = (np.linalg.norm(p - labels, axis=-1) for p in (px, px[:, flip]))
    pairs = _distances_of_pairs(off, exchanged, labels, skeleton, compared)
    wrong = [pair for pair in pairs if pair[1] > EXCHANGED * pair[2]]
    if wrong and any(across > EXCHANGED * beside for _, beside, across in pairs):
        name, beside, across = wrong[0]
        raise ValueError(
            f"{what}: {', '.join(name for name, *_ in wrong)}: left and right are exchanged in space or in the picture, and not those "
            f"of the other joints: the two of {name} lie {beside:.0f} px beside their pixels, and {across:.0f} px with left and right "
            f"exchanged; the order of the joints is {', '.join(skeleton.joints)}"
        )
    beside, across = (float(np.median(distance[compared])) for distance in (off, exchanged))
    if wrong or (beside > 1 and 2 * across < beside):
        raise ValueError(
            f"{what}: the joints in space lie {beside:.0f} px beside their pixels, and {across:.0f} px with left and right exchanged: "
            f"this looks like another order of the joints than {skeleton.name}'s, with left for right in space or in the picture"
        )


def _distances_of_pairs(
    off: np.ndarray, exchanged: np.ndarray, labels: np.ndarray, skeleton: Skeleton, compared: np.ndarray
) -> list[tuple[str, float, float]]:
    """Returns the name of each pair and its median distances from the pixels, as it is and exchanged, if it is far enough apart."""
    places = np.where(compared[..., None], labels, np.nan)[compared.any(1)]
    size = float(np.median((np.nanmax(places, axis=1) - np.nanmin(places, axis=1)).max(-1)))
    pairs = []
    for pair in skeleton.flip_pairs:
        where = compared[:, pair]
        if where.any():
            beside, across = (float(np.median(distance[:, pair][where])) for distance in (off, exchanged))
            if max(beside, across) > max(APART * size, 1.0):
                pairs.append((skeleton.joints[pair[0]], beside, across))
    return pairs


def check_knees(joints: np.ndarray, skeleton: Skeleton, what: str, *, where: np.ndarray | None = None) -> None:
    """Raises a ValueError if people's knees bend to the front, which is how a mirrored body looks: left for right, or an axis negated.

    Neither the camera nor the pixels tell this, if they are those of the same body. Only `PEOPLE`'s skeletons are checked, and of
    them knees that are bent by 17 degrees or more, about the axis through the hips.

    Args:
        joints: ``(N, K, 3)`` in a right-handed frame, such as that of a camera: x right, y down, z away.
        skeleton: The joints.
        what: How the error calls the poses, such as the file.
        where: ``(N, K)`` bool, False for joints that are unknown; None: all are known.

    >>> from jaxpose.skeleton import H36M17
    >>> sitting = np.zeros((3, 17, 3))  # seen from the front: x right, y down, z away
    >>> sitting[:, [4, 5, 6, 1, 2, 3]] = [
    ...     [150, 0, 0], [150, 0, -400], [150, 400, -400], [-150, 0, 0], [-150, 0, -400], [-150, 400, -400]]
    >>> check_knees(sitting, H36M17, "poses.json")
    >>> check_knees(sitting * [1, 1, -1], H36M17, "poses.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: poses.json: 6 of 6 bent knees bend to the front: this looks like left for right, ...
    """
    names = [f"{side}_{part}" for side in ("left", "right") for part in ("hip", "knee", "ankle")]
    places = _places(skeleton, names) if skeleton.name in PEOPLE else None
    if places is None:
        return
    legs = np.asarray(joints[:, places], np.float64)
    legs = legs if where is None else legs[where[:, places].all(1)]
    legs = legs[:: max(len(legs) // MOST_POSES, 1)].reshape(-1, 2, 3, 3)
    hips = legs[:, :1, 0] - legs[:, 1:, 0]  # from the right one to the left one
    thigh, shank = legs[:, :, 1] - legs[:, :, 0], legs[:, :, 2] - legs[:, :, 1]
    lengths = [np.linalg.norm(bone, axis=-1) for bone in (thigh, shank, hips)]
    bend = (np.cross(thigh, shank) * hips).sum(-1) / np.maximum(np.prod(np.broadcast_arrays(*lengths), axis=0), 1e-9)
    bent, wrong = int((np.abs(bend) > BENT).sum()), int((bend < -BENT).sum())
    if bent >= LEAST_KNEES and wrong >= BACKWARDS * bent:
        raise ValueError(
            f"{what}: {wrong} of {bent} bent knees bend to the front: this looks like left for right, or like a mirrored body (an axis "
            f"negated, or two axes exchanged); expected axes such as x right, y down, z away, and the joints "
            f"{', '.join(skeleton.joints)}"
        )


def check_millimetres(joints: np.ndarray, what: str, *, of_people: bool = False) -> float:
    """Returns the extent of bodies in space (median, the longest axis), and raises a ValueError if it looks like another unit.

    Args:
        joints: ``(N, K, 3)`` in mm, N at least 1.
        what: How the error calls the poses, such as the file.
        of_people: True for labels of people, whose size is known: centimetres are seen too, and numbers that are too large.

    >>> check_millimetres(np.array([[[0.0, 0.0, 0.0], [0.0, 1.7, 0.2]]]), "poses.json")
    Traceback (most recent call last):
    ValueError: poses.json: the poses are 1.7 tall, which looks like metres: expected mm, multiply by 1000
    """
    extent = float(np.median((joints.max(1) - joints.min(1)).max(-1)))
    if 0 < extent < METRES:
        raise ValueError(
            f"{what}: the poses are {extent:.3g} tall, which looks like metres: expected mm, multiply by 1000"
        )
    if of_people and 0 < extent < CENTIMETRES:
        raise ValueError(
            f"{what}: the poses are {extent:.3g} tall, which looks like centimetres: expected people, in mm; multiply by 10"
        )
    if of_people and extent > TALLEST:
        raise ValueError(
            f"{what}: the poses are {extent:.4g} mm tall: expected people, in mm; were millimetres multiplied by 1000, as if they were "
            "metres?"
        )
    return extent


def check_metres(joints: np.ndarray, what: str) -> None:
    """Raises a ValueError if people in space, in metres, look like another unit.

    Args:
        joints: ``(N, K, 3)`` in m.
        what: How the error calls the poses, such as the file.

    >>> check_metres(np.array([[[0.0, 0.0, 0.0], [0.0, 1700.0, 200.0]]]), "poses.npz")
    Traceback (most recent call last):
    ValueError: poses.npz: people are 1.7e+03 tall, which looks like millimetres: expected metres
    """
    extent = float(np.median(np.ptp(joints, axis=1).max(-1))) if len(joints) else 0.0
    if extent > METRES:
        unit = "centimetres" if 1000 * extent / 100 < TALLEST / 4 else "millimetres"
        raise ValueError(f"{what}: people are {extent:.3g} tall, which looks like {unit}: expected metres")
    if 0 < 1000 * extent < METRES:
        raise ValueError(
            f"{what}: people are {extent:.2g} tall, which in mm is {1000 * extent:.2g} and looks like metres: expected mm there and "
            "metres in the file; multiply it by 1000"
        )


def _places(skeleton: Skeleton, names: tuple[str, ...] | list[str]) -> list[int] | None:
    """Returns the indices of joints, or None if the skeleton lacks one."""
    if not all(name in skeleton.joints for name in names):
        return None
    return [skeleton.joints.index(name) for name in names]
