"""mmpose's files of Human3.6M and MPI-INF-3DHP: h36m_train.npz or mpi_inf_3dhp_train.npz, ..., and cameras.pkl.

The arrays: imgname (N,), part (N, 17, 3) px and 1, S (N, 17, 4) camera coordinates in m and 1. A name is
"S1/S1_Directions_1.54138969/S1_Directions_1.54138969_000001.jpg", in MPI-INF-3DHP "S4_Seq2_Cam0_001033.jpg". cameras.pkl has by
("S1", "54138969"), there by "S4_Seq2_Cam0", the focal length f, the centre c and the size w, h; Human3.6M's are known without it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose import pickles
from jaxpose.bodies import check_metres
from jaxpose.data import human36m, pairs
from jaxpose.data.pairs import Pairs
from jaxpose.skeleton import H36M17, Skeleton

__all__ = ["MPI_INF_3DHP17", "read"]

H36M_NAME = re.compile(r"(?:.*/)?(S\d+)_(.+?)\.(\d{8})_(\d+)\.\w+")
INF_NAME = re.compile(r"(?:.*/)?((?:S\d+_Seq\d+_Cam\d+)|(?:TS\d+))_(\d+)\.\w+")
MPI_INF_3DHP17 = Skeleton(
    name="mpi_inf_3dhp17",
    joints=(
        "head", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip",
        "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "pelvis", "spine", "nose",
    ),
    flip_pairs=((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13)),
    limbs=(
        (14, 15), (15, 1), (1, 16), (16, 0), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (14, 8), (8, 9), (9, 10), (14, 11),
        (11, 12), (12, 13),
    ),
    sigmas=(0.05,) * 17,
)  # fmt: skip
"""The joints of MPI-INF-3DHP's test set in mmpose's order; the root is joint 14."""


def read(annotations: str | Path, *, cameras: str | Path | None = None) -> Pairs:
    """Reads the poses of a file.

    Args:
        annotations: the .npz file.
        cameras: cameras.pkl; None: the file of this name beside the annotations, or cameras_train.pkl and cameras_test.pkl, or for
            Human3.6M the published cameras.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: arrays are missing or have other shapes; a name or a camera is unknown; or `pairs.check` says what is wrong.
    """
    path = Path(annotations)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected a file of mmpose, with imgname, part and S")
    content = pickles.load_npz(path)
    missing = [name for name in ("imgname", "part", "S") if name not in content]
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)}: it has {', '.join(content)}; expected a file of mmpose")
    names, part, space = (np.asarray(content[name]) for name in ("imgname", "part", "S"))
    if names.ndim != 1 or not len(names):
        raise ValueError(
            f"{path}: imgname has shape {names.shape}: expected the name of the picture of one pose or more"
        )
    if part.shape != (len(names), 17, 3) or space.shape[:2] != (len(names), 17) or space.shape[2] < 3:
        raise ValueError(
            f"{path}: part has shape {part.shape} and S {space.shape} for {len(names)} names: expected (N, 17, 3) and (N, 17, 4)"
        )
    check_metres(space[..., :3], f"{path}: S")
    is_given, cameras = cameras is not None, _cameras_beside(path) if cameras is None else Path(cameras)
    table = _camera_table(cameras) if is_given or cameras.is_file() else {}
    rows = [_row(str(name), table, path, cameras) for name in names]
    is_human36m = H36M_NAME.fullmatch(str(names[0])) is not None
    column = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    groups = {
        key: i for i, key in enumerate(dict.fromkeys(zip(column["sequence"].tolist(), column["camera"].tolist())))
    }
    sequence = np.array([groups[key] for key in zip(column["sequence"].tolist(), column["camera"].tolist())])
    result = Pairs(
        px=part[..., :2].astype(np.float32), joints=(1000 * space[..., :3]).astype(np.float32),
        focal=column["focal"].astype(np.float32), center=column["center"].astype(np.float32),
        size_wh=column["size_wh"].astype(np.float32), sequence=sequence, frame=column["frame"], subject=column["subject"],
        action=column["action"], camera=column["camera"],
        skeleton=H36M17 if is_human36m else MPI_INF_3DHP17, root=0 if is_human36m else MPI_INF_3DHP17.joints.index("pelvis"),
    )  # fmt: skip
    result = result.take(np.lexsort((result.frame, result.sequence)))
    pairs.check(result, what=str(path))
    return result


def _cameras_beside(path: Path) -> Path:
    """Returns the cameras of a file: cameras_train.pkl or cameras_test.pkl, as MPI-INF-3DHP has them, or cameras.pkl."""
    own = path.with_name(f"cameras_{'train' if 'train' in path.stem else 'test'}.pkl")
    return own if own.is_file() else path.with_name("cameras.pkl")


def _camera_table(file: Path) -> dict[Any, Any]:
    table = pickles.load(file)
    if not isinstance(table, dict):
        raise ValueError(f"{file}: a {type(table).__name__}: expected a dictionary of cameras")
    return table


def _row(name: str, table: dict[Any, Any], path: Path, cameras: Path) -> dict[str, Any]:
    """Returns the columns of a picture, from its name and its camera."""
    if match := H36M_NAME.fullmatch(name):
        subject, sequence, camera, frame = match.groups()
        key: Any = (subject, camera)
        names = {
            "subject": subject,
            "action": sequence.split("_")[0],
            "sequence": f"{subject} {sequence}",
            "camera": camera,
        }
    elif match := INF_NAME.fullmatch(name):
        key, frame = match.groups()
        names = {"subject": key.split("_")[0], "action": "", "sequence": key, "camera": key}
    else:
        raise ValueError(f"{path}: the picture {name!r:.100} has a name of neither Human3.6M nor MPI-INF-3DHP")
    if key in table:
        entry = table[key] if isinstance(table[key], dict) else {}
        inner = {k: np.ravel(np.asarray(entry.get(k, ()))) for k in ("f", "c")}
        size = entry.get("w", 0), entry.get("h", 0)
        if any(len(value) != 2 or value.dtype.kind not in "fiu" for value in inner.values()) or not all(
            map(_is_number, size)
        ):
            raise ValueError(f"{cameras}: the camera {key} has no f and c of two numbers, or a size that is none")
        inner = {k: value.astype(float) for k, value in inner.items()}
        if not (inner["f"] > 0).all() or not np.isfinite([*inner["f"], *inner["c"]]).all():
            raise ValueError(
                f"{cameras}: the camera {key} has f {inner['f'].tolist()} and c {inner['c'].tolist()}: expected finite numbers of "
                "pixels, f above 0"
            )
        size = size if min(size) > 300 else (2048, 2048)  # the published file of MPI-INF-3DHP has h = 204 (QUIRK T27)
        return {**names, "frame": int(frame), "focal": inner["f"], "center": inner["c"], "size_wh": np.array(size)}
    lens = next((lens for lens in human36m.LENSES if lens.name == names["camera"]), None)
    if lens is None:
        raise ValueError(
            f"{path}: the camera of {name!r:.100} is unknown: {cameras} does not have it; give mmpose's cameras"
        )
    sizes = {k: np.array(getattr(lens, k), float) for k in ("focal", "center", "size_wh")}
    return {**names, "frame": int(frame), **sizes}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))
