"""Means and deviations of joints, by which the nets of Martinez et al. and of mmpose are trained. NumPy only.

These codes train a lifter on standardised numbers: every coordinate minus its mean over the training poses, divided by its standard
deviation. A file of weights does not hold the means and deviations; `Statistics.of` computes them from the data that a net was
trained on, and `folded` multiplies them into the first and the last layer, which then read pixels and predict metres.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.data.pairs import Pairs

__all__ = ["FIELDS", "INPUT_JOINTS", "OUTPUT_JOINTS", "Statistics", "folded"]

FIELDS = ("mean_2d", "std_2d", "mean_3d", "std_3d")
INPUT_JOINTS = tuple(i for i in range(17) if i != 9)
"""Joints of Human3.6M that the published net reads: all but the nose."""
OUTPUT_JOINTS = tuple(range(1, 17))
"""Joints of Human3.6M that it predicts: all but the pelvis, which is at 0."""
MM = 1000.0


@dataclass(frozen=True)
class Statistics:
    """Means and deviations of the coordinates of joints over training poses.

    Attributes:
        mean_2d, std_2d: ``(K, 2)`` px, of the K joints that a net reads.
        mean_3d, std_3d: ``(K', 3)``, of the K' joints that it predicts, relative to the root and without it; mm in the published code.

    >>> ones = np.ones((2, 3))
    >>> statistics = Statistics(np.zeros((2, 2)), np.ones((2, 2)), 5 * ones, 2 * ones)
    >>> statistics.standardize_joints(7 * ones).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    mean_2d: np.ndarray
    std_2d: np.ndarray
    mean_3d: np.ndarray
    std_3d: np.ndarray

    def __post_init__(self) -> None:
        for name, size in zip(FIELDS, (2, 2, 3, 3)):
            array = np.asarray(getattr(self, name), np.float64)
            array = array.reshape(-1, size) if array.ndim < 2 and array.size and array.size % size == 0 else array
            if array.ndim != 2 or array.shape[-1] != size or not np.isfinite(array).all():
                raise ValueError(
                    f"{name} has shape {np.shape(array)}: expected ({name[-2:]} joints, {size}) finite numbers"
                )
            if name.startswith("std") and (array <= 0).any():
                joint = int(np.argmax((array <= 0).any(-1)))
                raise ValueError(
                    f"{name} is {array[joint].tolist()} for joint {joint}: expected deviations above 0; leave out joints that "
                    "do not move, such as the root"
                )
            object.__setattr__(self, name, array)
        for mean, std in (("mean_2d", "std_2d"), ("mean_3d", "std_3d")):
            if getattr(self, mean).shape != getattr(self, std).shape:
                raise ValueError(
                    f"{mean} has shape {getattr(self, mean).shape} and {std} {getattr(self, std).shape}: expected the same joints"
                )

    @classmethod
    def of(
        cls,
        pairs: Pairs,
        *,
        input_joints: tuple[int, ...] = INPUT_JOINTS,
        output_joints: tuple[int, ...] = OUTPUT_JOINTS,
    ) -> Statistics:
        """Computes the statistics of training poses as Martinez's code does: pixels as they are, space relative to the root.

        Args:
            pairs: The training poses, S1, S5, S6, S7 and S8 of Human3.6M for the published net.
            input_joints: Indices of the joints that the net reads.
            output_joints: Indices of the joints that it predicts.

        Raises:
            ValueError: There are no poses, or a coordinate never changes.
        """
        if not len(pairs):
            raise ValueError("no poses to compute means and deviations of")
        px = np.asarray(pairs.px, np.float64)[:, list(input_joints)]
        joints = np.asarray(pairs.joints, np.float64)
        joints = (joints - joints[:, pairs.root, None])[:, list(output_joints)]
        return cls(px.mean(0), px.std(0), joints.mean(0), joints.std(0))

    @classmethod
    def read(cls, path: str | Path) -> Statistics:
        """Reads an .npz file with the arrays mean_2d, std_2d, mean_3d and std_3d, flat or one row per joint.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no .npz file, lacks an array, or one has another shape or is not finite.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: expected an .npz file with {', '.join(FIELDS)}")
        try:
            with np.load(path, allow_pickle=False) as content:
                missing = [name for name in FIELDS if name not in content.files]
                if missing:
                    raise ValueError(f"it lacks {', '.join(missing)}, it has {', '.join(content.files)}")
                return cls(**{name: content[name] for name in FIELDS})
        except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: {str(error) or type(error).__name__:.300}; expected an .npz file with {', '.join(FIELDS)}"
            ) from None

    def write(self, path: str | Path) -> None:
        """Writes the file that `read` reads."""
        np.savez(path, **{name: getattr(self, name) for name in FIELDS})

    def standardize_px(self, px: np.ndarray) -> np.ndarray:
        """Returns what the net reads of pixels ``(..., K, 2)``."""
        return (px - self.mean_2d) / self.std_2d

    def standardize_joints(self, joints: np.ndarray) -> np.ndarray:
        """Returns what the net predicts of joints ``(..., K', 3)`` relative to the root."""
        return (joints - self.mean_3d) / self.std_3d

    def restore_joints(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `standardize_joints`."""
        return values * self.std_3d + self.mean_3d


def folded(variables: Mapping[str, Any], statistics: Statistics) -> dict[str, Any]:
    """Returns the variables of a net that reads pixels and predicts metres, from those of a net of standardised numbers.

    Args:
        variables: The variables of a `nets.LinearLifter` that was trained on standardised pixels and mm.
        statistics: The means and deviations of its training.

    Raises:
        ValueError: The statistics have other numbers of joints than the net.
    """
    params = dict(variables["params"])
    first, last = (
        {name: np.asarray(value, np.float64) for name, value in params[name].items()} for name in ("w1", "w2")
    )
    counts = first["kernel"].shape[0] // 2, last["bias"].shape[0] // 3
    if counts != (len(statistics.mean_2d), len(statistics.mean_3d)):
        raise ValueError(
            f"the statistics are of {len(statistics.mean_2d)} joints in pixels and {len(statistics.mean_3d)} in space, the net reads "
            f"{counts[0]} and predicts {counts[1]}"
        )
    kernel = first["kernel"] / statistics.std_2d.reshape(-1, 1)
    params["w1"] = {"kernel": kernel, "bias": first["bias"] - statistics.mean_2d.ravel() @ kernel}
    scale = statistics.std_3d.ravel() / MM
    params["w2"] = {"kernel": last["kernel"] * scale, "bias": last["bias"] * scale + statistics.mean_3d.ravel() / MM}
    dtype = np.asarray(variables["params"]["w1"]["kernel"]).dtype
    for name in ("w1", "w2"):
        params[name] = {key: value.astype(dtype) for key, value in params[name].items()}
    return {**variables, "params": params}
