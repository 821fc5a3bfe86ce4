"""Pairs of poses: the joints of a person in a picture, in pixels, and the same joints in space. NumPy only.

Every row is one person seen by one camera in one frame; the rows of a sequence are together and in order, so that a temporal net
can read the frames before and after. Joints in space are in mm in the axes of the camera (`jaxpose.cameras`), absolute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from jaxpose.bodies import PEOPLE, check_knees, check_millimetres, check_order, check_sides
from jaxpose.cameras import project
from jaxpose.skeleton import Skeleton

__all__ = ["Pairs", "check", "windows"]

FAR_OFF = 25.0  # px: linear projections of real labels are within 6 px, another convention is off by hundreds


@dataclass(frozen=True)
class Pairs:
    """N pairs of poses.

    Attributes:
        px: ``(N, K, 2)`` pixels: of the labels, or of a 2D detector.
        joints: ``(N, K, 3)`` mm in the axes of the camera.
        focal, center, size_wh: ``(N, 2)`` px.
        sequence: ``(N,)`` integers: rows of one sequence and camera, which are together and in order.
        frame: ``(N,)`` numbers of the frames in their sequence.
        subject, action, camera: ``(N,)`` strings.
        skeleton: the joints.
        root: index of the joint that positions are relative to.
    """

    px: np.ndarray
    joints: np.ndarray
    focal: np.ndarray
    center: np.ndarray
    size_wh: np.ndarray
    sequence: np.ndarray
    frame: np.ndarray
    subject: np.ndarray
    action: np.ndarray
    camera: np.ndarray
    skeleton: Skeleton
    root: int = 0

    def __len__(self) -> int:
        return len(self.px)

    def take(self, index: np.ndarray) -> Pairs:
        """Returns some rows, by their indices or a mask."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return Pairs(**{name: a[index] if isinstance(a, np.ndarray) else a for name, a in arrays.items()})

    def of_subjects(self, subjects: Sequence[str]) -> Pairs:
        """Returns the rows of these subjects."""
        return self.take(np.isin(self.subject, list(subjects)))


def join(parts: Sequence[Pairs]) -> Pairs:
    """Returns the rows of all parts, whose sequences stay apart.

    Raises:
        ValueError: there is no part, or their skeletons differ.
    """
    if not parts or any(part.skeleton != parts[0].skeleton for part in parts):
        raise ValueError(f"{len(parts)} parts to join: expected one or more with the same skeleton")
    values = {}
    for f in fields(Pairs):
        columns = [getattr(part, f.name) for part in parts]
        values[f.name] = np.concatenate(columns) if isinstance(columns[0], np.ndarray) else columns[0]
    offsets = np.cumsum([0, *(part.sequence.max(initial=-1) + 1 for part in parts[:-1])])
    values["sequence"] = np.concatenate([part.sequence + offset for part, offset in zip(parts, offsets)])
    return Pairs(**values)


def windows(pairs: Pairs, frames: int, *, causal: bool = False, rows: np.ndarray | None = None) -> np.ndarray:
    """Returns the rows that a temporal net reads for each row, at the ends of a sequence its first or last row again.

    Args:
        pairs: the pairs.
        frames: the receptive field of the net, an odd number.
        causal: True if the row is the last of its frames instead of the one in the middle.
        rows: ``(B,)`` the rows that are predicted; None: all, N * frames integers, gigabytes for 243 frames of Human3.6M.

    Returns:
        ``(B, frames)`` or ``(N, frames)`` indices.
    """
    starts = np.flatnonzero(np.diff(pairs.sequence, prepend=pairs.sequence[:1] - 1))
    rows = np.arange(len(pairs)) if rows is None else rows
    which = np.searchsorted(starts, rows, side="right") - 1
    first, last = starts[which], np.append(starts[1:], len(pairs))[which] - 1
    offsets = np.arange(frames) - (frames - 1 if causal else frames // 2)
    return np.clip(rows[:, None] + offsets, first[:, None], last[:, None])


def check(pairs: Pairs, *, what: str, exact: bool = True) -> None:
    """Raises a ValueError if pairs are not what they should be, and says what they look like.

    All of them together are checked first, then those of each subject and camera.

    Args:
        pairs: the pairs.
        what: the name that errors give them, such as the file.
        exact: True if the pixels are those of the joints in space, which the cameras must then project onto them; False for the
            pixels of a detector.

    Raises:
        ValueError: there are no pairs; a number is not finite; the joints in space look like another unit, like another order of the
            joints, like mirrored bodies, or like another convention of the camera.
    """
    if not len(pairs):
        raise ValueError(f"{what}: no poses")
    names = pairs.skeleton.joints
    for name, array in (("pixel", pairs.px), ("position in space", pairs.joints)):
        if not (finite := np.isfinite(array).all(-1)).all():
            row, joint = np.argwhere(~finite)[0].tolist()
            raise ValueError(
                f"{what}: {_row(pairs, row)}: the {name} of joint {joint} ({names[joint]}) is {array[row, joint].tolist()}: expected "
                "finite numbers"
            )
    _check_bodies(pairs, what, exact=exact)
    groups = _groups(pairs)
    for rows in groups if len(groups) > 1 else ():
        some = pairs.take(rows)
        _check_bodies(some, f"{what}: {some.subject[0]}, camera {some.camera[0]}", exact=exact)


def _check_bodies(pairs: Pairs, what: str, *, exact: bool) -> None:
    check_millimetres(pairs.joints, what, of_people=pairs.skeleton.name in PEOPLE)
    check_order(pairs.joints, pairs.skeleton, what)
    if exact:
        _check_projection(pairs, what)
    check_knees(pairs.joints, pairs.skeleton, what)


def _groups(pairs: Pairs) -> list[np.ndarray]:
    """Returns the indices of the rows of each subject and camera."""
    _, first, inverse = np.unique(pairs.sequence, return_index=True, return_inverse=True)
    names: dict[tuple[str, str], int] = {}
    group = np.array([names.setdefault((str(pairs.subject[i]), str(pairs.camera[i])), len(names)) for i in first])
    return [np.flatnonzero(group[inverse] == number) for number in range(len(names))]


def _check_projection(pairs: Pairs, what: str) -> None:
    depth = np.median(pairs.joints[..., 2])
    if depth <= 0:
        raise ValueError(
            f"{what}: people are at the depth {depth:.0f} mm, behind the camera: this looks like the other convention of a camera's "
            "position (t = -R position) or joints in world coordinates; expected X_camera = R (X_world - position)"
        )
    px = project(pairs.joints, focal=pairs.focal[:, None], center=pairs.center[:, None])
    error = np.linalg.norm(px - pairs.px, axis=-1)
    check_sides(px, pairs.px, pairs.skeleton, what)
    off = float(np.nanmedian(error)) if np.isfinite(error).any() else float("inf")
    if off > FAR_OFF:
        row = int(np.nanargmax(np.nanmedian(np.where(np.isfinite(error), error, 1e9), axis=1)))
        raise ValueError(
            f"{what}: the cameras project the joints in space {off:.0f} px beside their pixels ({_row(pairs, row)}): this looks like "
            "other cameras, another convention of a camera's position, another order of the joints, or other frames"
        )


def _row(pairs: Pairs, row: int) -> str:
    return f"{pairs.subject[row]} {pairs.action[row]} camera {pairs.camera[row]} frame {pairs.frame[row]}"


def sequences(pairs: Pairs) -> Iterator[np.ndarray]:
    """Yields the indices of the rows of every sequence."""
    starts = np.flatnonzero(np.diff(pairs.sequence, prepend=pairs.sequence[:1] - 1))
    yield from np.split(np.arange(len(pairs)), starts[1:])
