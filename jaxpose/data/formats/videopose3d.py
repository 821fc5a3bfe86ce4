"""VideoPose3D's files of Human3.6M: data_3d_h36m.npz with joints in world metres, data_2d_h36m_*.npz with pixels of four cameras.

Both hold dictionaries as pickles, which are read without running them (`jaxpose.pickles`). The cameras are Human3.6M's, from
`jaxpose.data.human36m`. The 2D files of detectors may be longer than the 3D ones and are cut. Sequences without 3D joints are
left out, and so is S11 "Directions", whose video is damaged and whose 2D labels do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose import pickles
from jaxpose.bodies import check_metres
from jaxpose.data import human36m, pairs
from jaxpose.data.pairs import Pairs
from jaxpose.skeleton import H36M17

__all__ = ["find", "read", "view_pairs", "write"]

FILE_3D = "data_3d_h36m.npz"


def find(folder: str | Path, *, keypoints: str = "gt") -> tuple[Path, Path]:
    """Locates the two files in a folder.

    Args:
        folder: the folder.
        keypoints: the source of the 2D joints, "gt", "cpn_ft_h36m_dbb", or the end of another file's name.

    Raises:
        FileNotFoundError: a file is missing; the message names what is there.
    """
    folder = Path(folder)
    paths = folder / FILE_3D, folder / f"data_2d_h36m_{keypoints}.npz"
    for path in paths:
        if not path.is_file():
            others = ", ".join(sorted(p.name for p in folder.glob("*.npz"))) if folder.is_dir() else "no such folder"
            raise FileNotFoundError(f"{path}: no such file; in {folder}: {others or 'no .npz file'}")
    return paths


def read(path_3d: str | Path, path_2d: str | Path, *, subjects: Sequence[str], every: int = 1) -> Pairs:
    """Reads the poses of some subjects.

    Args:
        path_3d: data_3d_h36m.npz.
        path_2d: data_2d_h36m_gt.npz, or that of a detector.
        subjects: "S1", "S5", ...
        every: take every so many frames of each sequence.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file holds anything else; a subject is missing; shapes do not fit; or `pairs.check` says what is wrong.
    """
    space, px = _of(path_3d, "positions_3d"), _of(path_2d, "positions_2d")
    parts = []
    for subject in subjects:
        for path, content in ((path_3d, space), (path_2d, px)):
            if subject not in content:
                raise ValueError(f"{path}: no subject {subject}: it has {', '.join(map(str, content))}")
        for action, world in space[subject].items():
            if action in px[subject]:
                where = f"{path_2d}: {subject} {action}"
                world = _world(world, f"{path_3d}: {subject} {action}")
                parts += _views(world, px[subject][action], subject, action, where, every=every)
    if not parts:
        raise ValueError(f"{path_2d}: no sequence of {', '.join(subjects)} is in {path_3d} too")
    result = pairs.join(parts)
    # Which of the two files is at fault cannot be told.
    pairs.check(result, what=f"{path_3d} and {Path(path_2d).name}", exact=str(path_2d).endswith("_gt.npz"))
    return result


def _of(path: str | Path, name: str) -> dict[str, dict[str, Any]]:
    """Returns {subject: {action: ...}} of a file."""
    content = pickles.load_npz(path)
    if name not in content:
        raise ValueError(f"{path}: no {name}: it has {', '.join(content)}; expected a file of VideoPose3D")
    table = content[name]
    if not isinstance(table, dict) or not all(isinstance(actions, dict) for actions in table.values()):
        raise ValueError(f"{path}: {name} is no dictionary of dictionaries, by subject and action")
    return table


def _world(world: Any, where: str) -> np.ndarray:
    """Returns the 17 joints (T, 17, 3) in world mm."""
    world = _numbers(world, where)
    if world.ndim != 3 or world.shape[-1] != 3 or world.shape[1] not in (human36m.NUM_RAW, H36M17.num_joints):
        raise ValueError(f"{where}: joints have shape {world.shape}: expected (T, 32, 3) or (T, 17, 3)")
    world = world.astype(np.float64)
    if world.shape[1] == human36m.NUM_RAW:
        world = world[:, list(human36m.RAW_JOINTS)]
    if not np.isfinite(world).all():
        frame = int(np.argwhere(~np.isfinite(world))[0][0])
        raise ValueError(f"{where}: the joints of frame {frame} are not finite")
    check_metres(world, where)
    return 1000 * world


def _numbers(values: Any, where: str) -> np.ndarray:
    """Returns an array of numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{where}: {' '.join(str(values).split()):.60} is no array of numbers")
    return array


def _views(world: np.ndarray, views: Any, subject: str, action: str, where: str, *, every: int) -> list[Pairs]:
    if not isinstance(views, (list, tuple, np.ndarray)) or len(views) != len(human36m.LENSES):
        raise ValueError(f"{where}: expected a list of 4 arrays, one per camera")
    parts = []
    for number, view in enumerate(views):
        px = _numbers(view, f"{where}, camera {number}")
        if px.ndim != 3 or px.shape[1:] != (H36M17.num_joints, 2):
            raise ValueError(f"{where}, camera {number}: 2D joints have shape {px.shape}: expected (T, 17, 2)")
        if len(px) < len(world):
            raise ValueError(
                f"{where}, camera {number}: {len(px)} frames in 2D, {len(world)} in 3D: expected as many or more"
            )
        joints = human36m.seen_by(world, subject, number)[::every]
        parts.append(view_pairs(px[: len(world) : every], joints, subject, action, number, every=every))
    return parts


def view_pairs(px: np.ndarray, joints: np.ndarray, subject: str, action: str, number: int, *, every: int = 1) -> Pairs:
    """Returns one sequence of one camera of Human3.6M, from pixels (T, 17, 2) and joints in space (T, 17, 3)."""
    rows, lens = len(px), human36m.LENSES[number]
    columns = {name: np.tile(np.float32(getattr(lens, name)), (rows, 1)) for name in ("focal", "center", "size_wh")}
    return Pairs(
        px=px.astype(np.float32), joints=joints.astype(np.float32), **columns,
        sequence=np.zeros(rows, np.int64), frame=np.arange(rows) * every, subject=np.full(rows, subject),
        action=np.full(rows, action.split(" ")[0]), camera=np.full(rows, lens.name), skeleton=H36M17,
    )  # fmt: skip


def write(folder: str | Path, world: dict[str, dict[str, np.ndarray]]) -> tuple[Path, Path]:
    """Writes joints as the two files of VideoPose3D, with the pixels of Human3.6M's cameras.

    Args:
        folder: the folder.
        world: joints (T, 17, 3) in world mm, by subject and action.

    Returns:
        The paths of the two files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    space: dict[str, dict[str, np.ndarray]] = {}
    flat: dict[str, dict[str, list[np.ndarray]]] = {}
    for subject, actions in world.items():
        space[subject], flat[subject] = {}, {}
        for action, joints in actions.items():
            raw = np.zeros((len(joints), human36m.NUM_RAW, 3), np.float32)
            raw[:, list(human36m.RAW_JOINTS)] = joints / 1000
            space[subject][action] = raw
            flat[subject][action] = [
                human36m.pixels(human36m.seen_by(joints, subject, number), lens).astype(np.float32)
                for number, lens in enumerate(human36m.LENSES)
            ]
    paths = folder / FILE_3D, folder / "data_2d_h36m_gt.npz"
    metadata = {"num_joints": 17, "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]}
    np.savez_compressed(paths[0], positions_3d=np.array(space, dtype=object))
    np.savez_compressed(paths[1], positions_2d=np.array(flat, dtype=object), metadata=np.array(metadata, dtype=object))
    return paths
