"""The Duke DME data (Chiu 2015): `Subject_01.mat` to `Subject_10.mat`, each with 61 scans of which 11 have labels.

    images (496, 768, 61) uint8, depth x width x scan
    manualLayers1, manualLayers2 (8, 768, 61): rows of the boundaries by two graders, from 1 as in MATLAB; NaN: not drawn
    manualFluid1, manualFluid2 (496, 768, 61): regions of fluid, numbered; NaN is no fluid
    automaticLayersDME (8, 768, 61): Chiu's algorithm
    axial_um, lateral_um: height and width of a pixel in micrometres; not in the published files, for scans of other devices

The authors give the data for research and education only, and it may not be passed on: nothing of it is in this package.
The common evaluation (Rathke 2017) scores columns 135 to 634, counted from 1 (`RATHKE`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose import matlab
from jaxpose.data.scans.scan import Scan, pixel_size

log = logging.getLogger(__name__)

RATHKE = slice(134, 634)
"""The 500 columns that are scored, counted from 0."""
BOUNDARIES = 8
MOST_OUTSIDE, MOST_CROSSED = 0.05, 0.5
"""Parts of the labels that may lie outside the pictures, and of the columns in which a boundary may lie above the one before it."""
CROSSING = 20.0
"""Pixels by which drawn boundaries that touch may cross in a column."""
FILE = re.compile(r"subject_?(\d+)\.mat", re.IGNORECASE)


def subjects(folder: str | Path) -> dict[int, Path]:
    """Returns the files of a folder by the number of their subject.

    Args:
        folder: the folder of the files, or one above it (2015_BOE_Chiu).

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: no file is called Subject_NN.mat, or two have the same number.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: expected the folder with Subject_01.mat to Subject_10.mat")
    files: dict[int, Path] = {}
    for path in sorted([*folder.glob("*.mat"), *folder.glob("*/*.mat")]):
        if match := FILE.fullmatch(path.name):
            number = int(match[1])
            if number in files:
                raise ValueError(f"{folder}: two files of subject {number}, {files[number]} and {path}; keep one")
            files[number] = path
    if not files:
        raise ValueError(f"{folder} holds no Subject_NN.mat: expected the files of the Duke DME data (2015_BOE_Chiu)")
    return files


def read(
    folder: str | Path, numbers: Iterable[int], *, grader: Literal[1, 2] = 1, pixel_um: Sequence[float] | None = None
) -> list[Scan]:
    """Reads the labelled scans of some subjects.

    Args:
        folder: the folder of the files.
        numbers: the numbers of the subjects.
        grader: the grader whose labels are read.
        pixel_um: size of a pixel, as for `read_file`.

    Raises:
        FileNotFoundError, ValueError: as for `subjects` and `read_file`; or a subject is missing.
    """
    files = subjects(folder)
    numbers = list(numbers)
    if missing := [n for n in numbers if n not in files]:
        raise ValueError(
            f"{folder} has no file of subject {', '.join(map(str, missing))}: the subjects are {', '.join(map(str, files))}"
        )
    return [scan for number in numbers for scan in read_file(files[number], grader=grader, pixel_um=pixel_um)]


def read_file(
    path: str | Path, *, grader: Literal[1, 2] = 1, labelled: bool = True, pixel_um: Sequence[float] | None = None
) -> list[Scan]:
    """Reads the scans of one subject.

    Args:
        path: a file Subject_NN.mat of MATLAB 5, the version of the published files.
        grader: the grader whose labels are read.
        labelled: True: the scans with labels, which must be there; False: all scans, with labels or without.
        pixel_um: height, or height and width, of a pixel in micrometres; None: axial_um and lateral_um of the file, and without
            those the size of the published scans.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is no such file, its arrays do not fit one another, or no scan has labels.
    """
    path = Path(path)
    content = load(path)
    images = content.get("images")
    if images is None or images.ndim not in (2, 3) or images.dtype != np.uint8:
        what = (
            "has no array 'images'" if images is None else f"has images of shape {images.shape} and type {images.dtype}"
        )
        raise ValueError(
            f"{path} {what}: expected (depth, width, scans) uint8; it holds {', '.join(content) or 'nothing'}"
        )
    images = images[..., None] if images.ndim == 2 else images
    layers = _array(content, f"manualLayers{grader}", (BOUNDARIES, *images.shape[1:]), path, needed=labelled)
    layers = None if layers is None else _checked(layers, len(images), f"{path}: manualLayers{grader}")
    fluid = _array(content, f"manualFluid{grader}", images.shape, path, needed=False)
    is_labelled = np.zeros(images.shape[2], bool) if layers is None else np.isfinite(layers).any((0, 1))
    if labelled and not is_labelled.any():
        raise ValueError(
            f"{path}: manualLayers{grader} has no finite value, so that no scan has labels; the other grader is "
            f"manualLayers{3 - grader}"
        )
    size = _pixel_size(content, path) | pixel_size(pixel_um, "--pixel-um")
    match = FILE.fullmatch(path.name)
    subject = f"subject {int(match[1])}" if match else path.stem
    return [
        Scan(
            name=f"{path.stem} scan {i + 1}",
            subject=subject,
            image=np.ascontiguousarray(images[:, :, i]),
            rows=layers[:, :, i] - 1.0 if is_labelled[i] else None,
            fluid=None if fluid is None else np.nan_to_num(fluid[:, :, i]) > 0.5,
            **size,
        )
        for i in range(images.shape[2])
        if is_labelled[i] or not labelled
    ]


def _checked(layers: np.ndarray, height: int, what: str) -> np.ndarray:
    """Returns labels (K, W, scans) with NaN for those that no picture of this height can have, of which it warns.

    Raises:
        ValueError: many rows are outside the pictures, or the boundaries are not in their order from top to bottom.
    """
    zeros, layers = int((layers == 0).sum()), np.where(layers == 0, np.nan, layers)
    is_drawn = np.isfinite(layers)
    with np.errstate(invalid="ignore"):
        outside = (layers < 0.5) | (layers > height + 0.5)
        apart = np.diff(np.where(outside, np.nan, layers), axis=0)
        crossed = (apart < 0).sum((1, 2)) / np.maximum(np.isfinite(apart).sum((1, 2)), 1)
    if outside.sum() > MOST_OUTSIDE * is_drawn.sum():
        place = tuple(np.argwhere(outside)[0])
        raise ValueError(
            f"{what} has {outside.sum()} of {is_drawn.sum()} rows outside the pictures, such as {layers[place]:.4g} ({_named(place)}): "
            f"expected rows in pixels from 1, the top, to {height}, and NaN where nothing is drawn"
        )
    if (crossed > MOST_CROSSED).any():
        first = int(crossed.argmax())
        raise ValueError(
            f"{what}: boundary {first + 2} lies above boundary {first + 1} in {crossed[first]:.0%} of the columns: expected "
            f"{BOUNDARIES} boundaries from top to bottom, rows counted from the top"
        )
    if zeros or outside.any():
        log.warning(
            "%s: left out %d labels that are 0, where rows count from 1, and %d outside the pictures of %d rows",
            what, zeros, int(outside.sum()), height,
        )  # fmt: skip
    if (number := int((apart < -CROSSING).sum())) > 0:
        boundary, *place = np.argwhere(apart < -CROSSING)[0]
        log.warning(
            "%s: in %d places a boundary lies above the one before it by more than %g pixels, such as %s; they are used as they are",
            what, number, CROSSING, _named((boundary + 1, *place)),
        )  # fmt: skip
    return np.where(outside, np.nan, layers)


def _named(place: Sequence[int]) -> str:
    """Returns the name of an entry of the labels, counted from 1."""
    return ", ".join(f"{name} {i + 1}" for name, i in zip(("boundary", "column", "scan"), place, strict=True))


def load(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a MATLAB 5 file by name; nothing in the file is run.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged, no MATLAB 5 file, or inflates out of proportion to its size.
    """
    content = matlab.load(path, "a file of scans such as Subject_01.mat")
    return {name: value for name, value in content.items() if isinstance(value, np.ndarray)}


def _pixel_size(content: dict[str, np.ndarray], path: Path) -> dict[str, float]:
    """Returns the size of a pixel that a file states, as arguments of `Scan`; {} if it states none."""
    values = []
    for name in ("axial_um", "lateral_um"):
        if name not in content:
            break
        value = content[name]
        if value.size != 1 or value.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {name} has shape {value.shape}, expected one number of micrometres")
        values.append(float(value.reshape(())))
    return pixel_size(values, f"{path}: axial_um, lateral_um")


def _array(
    content: dict[str, Any], name: str, shape: tuple[int, ...], path: Path, *, needed: bool
) -> np.ndarray | None:
    """Returns an array as numbers of this shape; None if it is absent and not needed."""
    value = content.get(name)
    if value is None:
        if needed:
            raise ValueError(f"{path} has no array {name!r}, the labels: it holds {', '.join(content) or 'nothing'}")
        return None
    value = value[..., None] if value.ndim == 2 else value
    if value.shape != shape or value.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: {name} has shape {value.shape} and type {value.dtype}, expected numbers of shape {shape}"
        )
    value = value.astype(np.float64)
    if np.isinf(value).any():
        raise ValueError(f"{path}: {name} holds infinite values: expected numbers, or NaN where nothing is drawn")
    return value
