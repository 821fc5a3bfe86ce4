"""MPI-INF-3DHP as its authors give it out: S1/Seq1/annot.mat and camera.calibration, and TS1/annot_data.mat of the test set.

annot.mat (MATLAB 5) has a cell per camera in annot2, (F, 56) px, and in annot3, (F, 84) mm in the axes of the camera: x, y or
x, y, z of 28 joints. The skeleton of univ_annot3 has one height for all people and does not project onto annot2; it is not read.
camera.calibration is text, one block per camera. annot_data.mat (MATLAB 7.3, which is HDF5, so that h5py reads it) has annot2
(F, 1, 17, 2), annot3 (F, 1, 17, 3) and valid_frame (F,); the cameras are not in it and follow from the labels by least squares, as in
mmpose's converter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose import matlab
from jaxpose.data import pairs
from jaxpose.data.formats.mmpose_3d import MPI_INF_3DHP17
from jaxpose.data.pairs import Pairs

__all__ = ["CAMERAS", "TEST", "TRAIN", "is_folder", "read_test", "read_train"]

TRAIN = tuple(f"S{i}" for i in range(1, 9))
"""The subjects to train on."""
TEST = tuple(f"TS{i}" for i in range(1, 7))
"""The sequences of the test set."""
CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)
"""Cameras at the height of a person, on which the published results train; the other six look from above or from close by."""
JOINTS = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)
"""The test set's 17 joints among the 28 of annot.mat."""
RAW, KEPT = 28, len(JOINTS)
ROOT = MPI_INF_3DHP17.joints.index("pelvis")
OUTDOORS = ("TS5", "TS6")  # 1920 x 1080, the others 2048 x 2048
MOST_NUMBERS = 50_000_000  # of an array of the test set, whose largest has 6,151 * 51


def is_folder(folder: str | Path) -> bool:
    """Returns whether a folder holds MPI-INF-3DHP as its authors give it out."""
    return any(_parts(Path(folder), "S*/Seq*/annot.mat")) or any(_parts(Path(folder), "TS*/annot_data.mat"))


def _parts(folder: Path, pattern: str) -> list[Path]:
    """Returns the files of a pattern in a folder or one of its subfolders, such as train and test."""
    return sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))


def read_train(
    folder: str | Path, *, subjects: Sequence[str] = TRAIN, cameras: Sequence[int] = CAMERAS, every: int = 1
) -> Pairs:
    """Reads the poses of training subjects.

    Args:
        folder: The folder with S1/Seq1/annot.mat and S1/Seq1/camera.calibration, ..., or its parent.
        subjects: "S1", ..., "S8"; both sequences of each are read.
        cameras: Numbers of cameras, from 0 to 13.
        every: Take every so many frames of each sequence.

    Raises:
        FileNotFoundError: A subject or a file is missing; the message names what is there.
        ValueError: A file is bad, a camera unknown, or `pairs.check` says what is wrong with the poses.
    """
    files = _parts(Path(folder), "S*/Seq*/annot.mat")
    names = sorted({path.parts[-3] for path in files})
    parts = []
    for subject in subjects:
        own = [path for path in files if path.parts[-3] == subject]
        if not own:
            raise FileNotFoundError(f"{folder}: no {subject}/Seq*/annot.mat; it has {', '.join(names) or 'no subject'}")
        for path in own:
            parts += _sequence(path, cameras, every)
    result = pairs.join(parts)
    pairs.check(result, what=str(folder))
    return result


def _sequence(path: Path, cameras: Sequence[int], every: int) -> list[Pairs]:
    """Returns the poses of each camera of a sequence."""
    content = matlab.load(path, "the annot.mat of a sequence of MPI-INF-3DHP")
    missing = [name for name in ("annot2", "annot3") if name not in content]
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)}: it has {', '.join(k for k in content if k[:2] != '__')}")
    lenses = read_calibration(path.with_name("camera.calibration"))
    subject, sequence = path.parts[-3:-1]
    parts = []
    for number in cameras:
        px, joints = (
            _cell(content[name], number, size, f"{path}: {name}") for name, size in (("annot2", 2), ("annot3", 3))
        )
        if len(px) != len(joints):
            raise ValueError(f"{path}: camera {number} has {len(px)} frames in annot2 and {len(joints)} in annot3")
        if number not in lenses:
            raise ValueError(
                f"{path.with_name('camera.calibration')}: no camera {number}; it has {', '.join(map(str, lenses))}"
            )
        frames = np.arange(0, len(px), every)
        parts.append(
            _pairs(
                px[frames],
                joints[frames],
                frames=frames,
                subject=subject,
                camera=f"{sequence}_{number}",
                **lenses[number],
            )
        )
    return parts


def _cell(cells: Any, number: int, size: int, what: str) -> np.ndarray:
    """Returns the joints (F, 17, size) of a camera."""
    cells = np.asarray(cells).ravel()
    if cells.dtype != object or not 0 <= number < len(cells):
        raise ValueError(f"{what}: no cell of camera {number}; it has {len(cells)} entries, expected one per camera")
    values = np.asarray(cells[number])
    if values.ndim != 2 or values.shape[1] != RAW * size or values.dtype.kind not in "fiu" or not len(values):
        raise ValueError(
            f"{what} of camera {number} has shape {values.shape}: expected (F, {RAW * size}), {size} numbers of {RAW} joints"
        )
    return values.reshape(len(values), RAW, size)[:, JOINTS].astype(np.float32)


def read_calibration(path: str | Path) -> dict[int, dict[str, np.ndarray]]:
    """Reads the focal lengths, centres and sizes of the cameras of a camera.calibration, by their numbers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has no camera, or one without size or intrinsic, or with other numbers of numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected the cameras of a sequence of MPI-INF-3DHP")
    lenses: dict[int, dict[str, np.ndarray]] = {}
    entries: dict[str, np.ndarray] = {}
    for line in [*path.read_text(errors="replace").splitlines(), "name"]:
        words = line.split()
        if words[:1] == ["name"]:
            if "name" in entries:
                lenses[int(entries["name"][0])] = _lens(entries, path)
            entries = {}
        if words[:1] in (["name"], ["size"], ["intrinsic"]):
            try:
                entries[words[0]] = np.array([float(word) for word in words[1:]])
            except ValueError:
                raise ValueError(f"{path}: {line.strip()!r:.100}: expected numbers after {words[0]!r}") from None
            if words[0] == "name" and not len(entries["name"]):
                del entries["name"]
    if not lenses:
        raise ValueError(f"{path}: no camera; expected blocks of lines with name, size and intrinsic")
    return lenses


def _lens(entries: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Returns focal, center and size_wh of a block of a calibration."""
    size, inner = entries.get("size", np.zeros(0)), entries.get("intrinsic", np.zeros(0))
    if size.shape != (2,) or inner.shape != (16,) or not (inner[[0, 5]] > 0).all() or not (size > 0).all():
        raise ValueError(
            f"{path}: camera {entries['name'][0]:g} has {len(size)} numbers in size and {len(inner)} in intrinsic: expected a width "
            "and a height, and a matrix of 4 x 4 with focal lengths above 0, "
            f"not {', '.join(f'{value:g}' for value in inner[[0, 5]]) if len(inner) > 5 else 'none'}"
        )
    return {"focal": inner[[0, 5]], "center": inner[[2, 6]], "size_wh": size}


def read_test(folder: str | Path, *, sequences: Sequence[str] = TEST, every: int = 1, valid_only: bool = True) -> Pairs:
    """Reads the poses of the test set.

    Args:
        folder: The folder with TS1/annot_data.mat, ..., or its parent.
        sequences: "TS1", ..., "TS6".
        every: Take every so many frames of each sequence, counted among those that are taken.
        valid_only: Take the frames that the authors evaluate, valid_frame.

    Raises:
        FileNotFoundError: A sequence is missing; the message names what is there.
        ImportError: h5py is not installed.
        ValueError: A file is bad, no frame is valid, or `pairs.check` says what is wrong with the poses.
    """
    files = {path.parts[-2]: path for path in _parts(Path(folder), "TS*/annot_data.mat")}
    parts = []
    for name in sequences:
        if name not in files:
            raise FileNotFoundError(f"{folder}: no {name}/annot_data.mat; it has {', '.join(files) or 'no sequence'}")
        px, joints, valid = _hdf5(files[name])
        lens = fitted_lens(px, joints)
        frames = np.flatnonzero(valid)[::every] if valid_only else np.arange(0, len(px), every)
        if not len(frames):
            raise ValueError(f"{files[name]}: no frame has a valid_frame of 1")
        size = np.array((1920.0, 1080.0) if name in OUTDOORS else (2048.0, 2048.0))
        parts.append(_pairs(px[frames], joints[frames], frames=frames, subject=name, camera=name, size_wh=size, **lens))
    result = pairs.join(parts)
    pairs.check(result, what=str(folder))
    return result


def _hdf5(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pixels (F, 17, 2), positions (F, 17, 3) and whether a frame is valid (F,)."""
    try:
        import h5py
    except ImportError:
        raise ImportError(
            f"{path} is a MATLAB file of version 7.3, which h5py reads: python -m pip install h5py (it comes with the extra data)"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            arrays = {}
            for name in ("annot2", "annot3", "valid_frame"):
                if name not in file or not isinstance(file[name], h5py.Dataset):
                    raise ValueError(f"no {name}: it has {', '.join(file)}")
                if file[name].size > MOST_NUMBERS:
                    raise ValueError(f"{name} has {file[name].size} numbers: expected at most {MOST_NUMBERS}")
                arrays[name] = np.asarray(file[name])
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: {error!s:.300}; expected the annot_data.mat of MPI-INF-3DHP's test set") from None
    count = arrays["valid_frame"].size
    for name, size in (("annot2", 2), ("annot3", 3)):
        if arrays[name].size != count * KEPT * size or arrays[name].dtype.kind not in "fiu" or not count:
            raise ValueError(
                f"{path}: {name} has shape {arrays[name].shape} and there are {count} frames: expected ({count}, 1, {KEPT}, {size})"
            )
    px, joints = (arrays[f"annot{size}"].reshape(count, KEPT, size).astype(np.float32) for size in (2, 3))
    return px, joints, arrays["valid_frame"].ravel() > 0


def fitted_lens(px: np.ndarray, joints: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the focal lengths and the centre of the camera without distortion that projects joints onto pixels best.

    Args:
        px: ``(F, K, 2)``.
        joints: ``(F, K, 3)`` in the axes of the camera.

    >>> joints = np.random.default_rng(0).uniform(1, 2, (5, 4, 3))
    >>> px = joints[..., :2] / joints[..., 2:] * [1500, 1400] + [1000, 900]
    >>> {name: value.round(3).tolist() for name, value in fitted_lens(px, joints).items()}
    {'focal': [1500.0, 1400.0], 'center': [1000.0, 900.0]}
    """
    is_finite = np.isfinite(px).all(-1) & np.isfinite(joints).all(-1)
    px, joints = px[is_finite].astype(np.float64), joints[is_finite].astype(np.float64)
    fits = [np.linalg.lstsq(joints[:, [i, 2]], px[:, i] * joints[:, 2], rcond=None)[0] for i in range(2)]
    return {"focal": np.array([fit[0] for fit in fits]), "center": np.array([fit[1] for fit in fits])}


def _pairs(px, joints, *, frames, subject, camera, focal, center, size_wh) -> Pairs:
    """Returns the poses of one camera in one sequence."""
    count = len(px)
    each = {"focal": focal, "center": center, "size_wh": size_wh}
    columns = {name: np.tile(np.asarray(value, np.float32), (count, 1)) for name, value in each.items()}
    return Pairs(
        px=px, joints=joints, **columns, sequence=np.zeros(count, np.int64), frame=np.asarray(frames) + 1,
        subject=np.full(count, subject), action=np.full(count, ""), camera=np.full(count, camera), skeleton=MPI_INF_3DHP17, root=ROOT,
    )  # fmt: skip
