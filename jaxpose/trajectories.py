"""Trajectories: the joints of one video over time with their covariances, in an array file for other tools.

The file is NumPy's .npz without pickled objects. T frames, P persons, K joints; coordinates are pixels of the image,
pixel centres are at integers:

    mean         (T, P, K, 2)      float64; NaN where a person or a joint is absent
    covariance   (T, P, K, 2, 2)   float64, pixels squared; NaN where it is unknown (absent, or a net without a density)
    score        (T, P, K)         float64, in [0, 1]; 0 where absent
    frame        (T,)              int64, number of each frame in its video, from 0, ascending
    fps          ()                float64, frames per second of the video
    names        (K,)              text, the joints
    size_wh      (2,)              int64, width and height of a frame
    individuals  (P,)              text, the persons; may be missing
    edges        (E, 2)            int64, limbs as pairs of joints; may be missing
    tracked      ()                bool: person p is the same one in all frames; may be missing (False)
    radius       ()                float64 pixels: `score` is the probability that the error of a joint is below it; NaN
    or missing:
                                   `score` is the confidence of a net without a density

Only NumPy and `jaxpose.files` are imported.
"""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpose import files

__all__ = ["Trajectories", "read", "write"]

REQUIRED = ("mean", "covariance", "score", "frame", "fps", "names", "size_wh")
OPTIONAL = ("individuals", "edges", "tracked", "radius")
TOLERANCE = 1e-6
"""The asymmetry or negative eigenvalue that a covariance may have, relative to its trace."""
MOST_BYTES, MOST_COMPRESSED = 1 << 30, 200
"""Arrays of more bytes than the first are read only if the file is not compressed more than the second: real poses are not."""
BROKEN = (
    ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What NumPy and zipfile raise for files that are damaged, encrypted, of another kind, or that state impossible sizes."""


@dataclass(frozen=True)
class Trajectories:
    """The joints of P persons in T frames; see the module for shapes and units.

    Attributes:
        mean: (T, P, K, 2) pixels, NaN where absent.
        covariance: (T, P, K, 2, 2) pixels squared, NaN where unknown.
        score: (T, P, K) in [0, 1].
        frame: (T,) ascending numbers of the frames.
        fps: Frames per second.
        names: The K names of joints.
        size_wh: The width and height of a frame in pixels.
        individuals: The P names of persons; by default "person1" and so on.
        edges: Pairs of joints.
        tracked: True if person p is the same one in all frames.
        radius: Pixels; `score` is the probability that a joint's error is below this. None: it is a confidence without
            that meaning.

    Raises:
        ValueError: Shapes do not fit one another, or values are outside their range; the message names the array.

    >>> walk = Trajectories(np.zeros((5, 1, 2, 2)), np.ones((5, 1, 2, 1, 1)) * np.eye(2), np.ones((5, 1, 2)), np.arange(5), 25.0,
    ...                     ("nose", "tail"), (640, 480))
    >>> walk.individuals, walk.present.sum().item()
    (('person1',), 5)
    """

    mean: np.ndarray
    covariance: np.ndarray
    score: np.ndarray
    frame: np.ndarray
    fps: float
    names: tuple[str, ...]
    size_wh: tuple[int, int]
    individuals: tuple[str, ...] | None = None
    edges: tuple[tuple[int, int], ...] = ()
    tracked: bool = False
    radius: float | None = None

    def __post_init__(self):
        def put(name: str, value) -> None:
            object.__setattr__(self, name, value)  # the class is frozen

        for name in ("mean", "covariance", "score"):
            put(name, np.asarray(getattr(self, name), np.float64))
        put("frame", np.asarray(self.frame))
        put("names", tuple(str(name) for name in self.names))
        if self.individuals is None and self.mean.ndim == 4:
            put("individuals", tuple(f"person{p + 1}" for p in range(self.mean.shape[1])))
        put("individuals", tuple(str(name) for name in self.individuals or ()))
        _check(self)
        put("frame", self.frame.astype(np.int64))
        put("fps", float(self.fps))
        put("size_wh", tuple(int(side) for side in self.size_wh))
        put("edges", tuple((int(a), int(b)) for a, b in self.edges))
        put("tracked", bool(self.tracked))

    @property
    def present(self) -> np.ndarray:
        """(T, P) bool, True if the person has a joint in the frame."""
        return np.isfinite(self.mean).all(-1).any(-1)

    def replace(self, **changes) -> Trajectories:
        """Returns a copy with these attributes changed, which is checked again."""
        return dataclasses.replace(self, **changes)


def write(path: str | os.PathLike, trajectories: Trajectories) -> None:
    """Writes trajectories to an .npz file, atomically.

    Args:
        path: The file; its name ends in .npz.
        trajectories: The trajectories to write.

    Raises:
        ValueError: The name does not end in .npz.
        OSError: The file cannot be written.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "walk.npz"
    >>> write(path, Trajectories(np.zeros((3, 1, 1, 2)), np.full((3, 1, 1, 2, 2), np.nan), np.ones((3, 1, 1)), [4, 5, 6], 30.0,
    ...                          ["nose"], (64, 48)))
    >>> read(path).frame.tolist(), read(path).names
    ([4, 5, 6], ('nose',))
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"{path}: trajectories are written to a file that ends in .npz")
    content = io.BytesIO()
    np.savez_compressed(
        content,
        mean=trajectories.mean,
        covariance=trajectories.covariance,
        score=trajectories.score,
        frame=trajectories.frame,
        fps=np.float64(trajectories.fps),
        names=np.array(trajectories.names, np.str_),
        size_wh=np.array(trajectories.size_wh, np.int64),
        individuals=np.array(trajectories.individuals, np.str_),
        edges=np.array(trajectories.edges, np.int64).reshape(-1, 2),
        tracked=np.bool_(trajectories.tracked),
        radius=np.float64(np.nan if trajectories.radius is None else trajectories.radius),
    )
    files.write_whole(path, content.getvalue())


def read(path: str | os.PathLike) -> Trajectories:
    """Reads trajectories from an .npz file.

    Args:
        path: A file that `write` wrote, or one with the same arrays.

    Returns:
        The trajectories, checked.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not an .npz file, an array is missing, or one does not fit the others.

    >>> read("absent.npz")
    Traceback (most recent call last):
    FileNotFoundError: no trajectories found: absent.npz does not exist; `jaxpose predict VIDEO` writes them
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no trajectories found: {path} does not exist; `jaxpose predict VIDEO` writes them")
    if not zipfile.is_zipfile(path):  # NumPy would advise to unpickle it
        raise ValueError(f"{path} is not an .npz file of trajectories: expected a ZIP archive, as np.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as stored:
            _check_sizes(path, stored.zip)
            arrays = {name: stored[name] for name in (*REQUIRED, *OPTIONAL) if name in stored.files}
            names = sorted(stored.files)
    except BROKEN as error:
        raise ValueError(f"{path} is not an .npz file of trajectories: {error}") from None
    if missing := [name for name in REQUIRED if name not in arrays]:
        raise ValueError(f"{path} has no array {', '.join(missing)}, it has {', '.join(names)}: is it of trajectories?")
    try:
        return _from_arrays(arrays)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuses files whose arrays would fill the memory, since sizes that a file states are not to be trusted."""
    total, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if total > max(MOST_BYTES, MOST_COMPRESSED * size):
        raise ValueError(
            f"its {size} bytes hold arrays of {total} bytes: expected poses, which are not compressed so far"
        )


def _from_arrays(arrays: dict[str, np.ndarray]) -> Trajectories:
    numbers = {name: _one_number(arrays[name], name) for name in ("fps", "radius", "tracked") if name in arrays}
    radius = numbers.get("radius", np.nan)
    return Trajectories(
        mean=arrays["mean"],
        covariance=arrays["covariance"],
        score=arrays["score"],
        frame=arrays["frame"],
        fps=numbers["fps"],
        names=tuple(arrays["names"].ravel().tolist()),
        size_wh=tuple(arrays["size_wh"].ravel().tolist()),
        individuals=tuple(arrays["individuals"].ravel().tolist()) if "individuals" in arrays else None,
        edges=tuple(map(tuple, arrays["edges"].reshape(-1, 2).tolist())) if "edges" in arrays else (),
        tracked=bool(numbers.get("tracked", False)),
        radius=None if np.isnan(radius) else radius,
    )


def _one_number(array: np.ndarray, name: str) -> float:
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has shape {array.shape} of {array.dtype}, expected one number")
    return float(array.reshape(()))


def _check(t: Trajectories) -> None:
    """Raises a ValueError that names the first array that does not fit."""
    if t.mean.ndim != 4 or t.mean.shape[-1] != 2:
        raise ValueError(f"mean has shape {t.mean.shape}, expected (T, P, K, 2)")
    frames, people, joints = t.mean.shape[:3]
    shapes = {
        "covariance": (t.covariance.shape, (frames, people, joints, 2, 2)),
        "score": (t.score.shape, (frames, people, joints)),
        "frame": (t.frame.shape, (frames,)),
        "names": ((len(t.names),), (joints,)),
        "size_wh": (np.shape(t.size_wh), (2,)),
        "individuals": ((len(t.individuals),), (people,)),
    }
    for name, (shape, expected) in shapes.items():
        if shape != expected:
            raise ValueError(f"{name} has shape {shape}, expected {expected}: mean is {t.mean.shape}")
    _check_values(t)
    for name, values in (("names", t.names), ("individuals", t.individuals)):
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"{name} holds {repeated[0]!r} twice")
    if any(len(edge) != 2 or not all(0 <= joint < joints for joint in edge) for edge in t.edges):
        raise ValueError(f"edges are {t.edges}, expected pairs of joints from 0 to {joints - 1}")


def _check_values(t: Trajectories) -> None:
    absent = np.isnan(t.mean).any(-1)
    if np.isinf(t.mean).any():
        raise ValueError("mean holds infinite coordinates, expected numbers, or NaN where a joint is absent")
    if not ((t.score >= 0) & (t.score <= 1)).all():
        raise ValueError("score holds values outside [0, 1]")
    if t.frame.dtype.kind not in "iu" or (np.diff(t.frame.astype(np.int64)) <= 0).any():
        raise ValueError("frame does not hold ascending whole numbers")
    if (t.frame < 0).any():
        raise ValueError(f"frame begins with {t.frame[0]}: frames are counted from 0")
    if not (np.isfinite(t.fps) and t.fps > 0):
        raise ValueError(f"fps is {t.fps}, expected a positive number")
    if not all(float(side).is_integer() and side > 0 for side in t.size_wh):
        raise ValueError(f"size_wh is {tuple(t.size_wh)}, expected the width and height in pixels")
    if t.radius is not None and not (np.isfinite(t.radius) and t.radius > 0):
        raise ValueError(f"radius is {t.radius}, expected a positive number of pixels or None")
    is_known = np.isfinite(t.covariance).all((-1, -2)) & ~absent
    (xx, xy), (yx, yy) = (
        np.moveaxis(t.covariance[is_known], (-2, -1), (0, 1)) if is_known.any() else np.zeros((2, 2, 0))
    )
    slack = TOLERANCE * np.maximum(xx + yy, 0)
    if (np.abs(xy - yx) > slack).any() or (xx < 0).any() or (yy < 0).any() or (xx * yy - xy * yx < -(slack**2)).any():
        raise ValueError("covariance holds matrices that are not symmetric and positive semi-definite")
