"""Poses of kinematic people seen by Human3.6M's cameras, unrendered: pairs of 2D and 3D joints, by the ten thousand.

Seven subjects of fixed proportions, named as Human3.6M's; poses, directions and places are drawn for every frame, and every pose
is seen by the subject's four cameras. The kind of the legs ("stand", "walk", "sit", ...) stands for the action.
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxpose.data import human36m, pairs
from jaxpose.data.formats import videopose3d
from jaxpose.data.pairs import Pairs
from jaxpose.data.synthetic import pose
from jaxpose.files import write_whole
from jaxpose.skeleton import H36M17

__all__ = ["draw", "load", "seen"]

VERSION = 1
PLACE = 900.0  # mm: people stand within this distance of the middle, in x and in y
TO_WORLD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # y up, z forward -> z up
TEST_SHARE = 5  # a held-out subject has a fifth of the poses of one to train on


def draw(subject: str, count: int, *, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Draws poses of one subject.

    Args:
        subject: name of a subject, which decides its proportions.
        count: number of poses.
        seed: seed of the poses.

    Returns:
        ``(count, 17, 3)`` in world mm, z up, and the kind of each pose.

    >>> joints, kinds = draw("S1", 2)
    >>> joints.shape, bool((joints[..., 2] > -1e-6).all())
    ((2, 17, 3), True)
    """
    number = int(subject[1:])
    shape = _adult(np.random.default_rng((7, number)))
    rng = np.random.default_rng((seed, number, VERSION))
    joints, kinds = np.empty((count, H36M17.num_joints, 3)), []
    for i in range(count):
        body = pose.sample_body(rng, yaw=float(rng.uniform(0, 360)), shape=shape)
        joints[i] = 1000 * body.space_joints[: H36M17.num_joints] @ TO_WORLD.T
        joints[i, :, :2] += rng.uniform(-PLACE, PLACE, 2) - joints[i, 0, :2]
        kinds.append(body.kind)
    return joints, kinds


def _adult(rng: np.random.Generator) -> pose.Shape:
    while (shape := pose.sample_shape(rng)).height < 1.48:
        pass
    return shape


def seen(world: np.ndarray, kinds: list[str], subject: str) -> Pairs:
    """Returns poses (N, 17, 3) in world mm as four cameras see them; every pose is a sequence of its own."""
    parts = []
    for number, lens in enumerate(human36m.LENSES):
        joints = human36m.seen_by(world, subject, number)
        part = videopose3d.view_pairs(human36m.pixels(joints, lens), joints, subject, "", number)
        rows = np.arange(len(part))
        parts.append(replace(part, action=np.array(kinds), sequence=rows, frame=rows))
    return pairs.join(parts)


def load(folder: str | os.PathLike, *, poses: int, seed: int = 0) -> tuple[Pairs, Pairs]:
    """Returns pairs to train on and pairs of held-out subjects; drawn at the first use, then read from a file of the folder.

    Args:
        folder: the folder, created if needed.
        poses: number of poses of each of the five subjects to train on; the two held-out ones have a fifth of it.
        seed: seed of the poses.
    """
    path = Path(folder) / f"lifting_v{VERSION}_{poses}_{seed}.npz"
    if not path.is_file():
        _write(path, poses=poses, seed=seed)
    with np.load(path, allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    splits = []
    for subjects in (human36m.TRAIN, human36m.TEST):
        splits.append(
            pairs.join([seen(content[s].astype(np.float64), content[f"{s}_kind"].tolist(), s) for s in subjects])
        )
    return splits[0], splits[1]


def _write(path: Path, *, poses: int, seed: int) -> None:
    arrays: dict[str, np.ndarray] = {}
    for subject in human36m.SUBJECTS:
        count = poses if subject in human36m.TRAIN else max(poses // TEST_SHARE, 1)
        joints, kinds = draw(subject, count, seed=seed)
        arrays |= {subject: joints.astype(np.float32), f"{subject}_kind": np.array(kinds)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())
