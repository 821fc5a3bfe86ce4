"""`jaxpose predict` for boundaries in scans: pictures of scans and Duke's .mat files in; pictures and a table out."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxpose import density, inference, tasks
from jaxpose.data.scans import Prepared, Scan, duke, feed, prepare
from jaxpose.data.scans.scan import pixel_size
from jaxpose.predict.restore import restored

if TYPE_CHECKING:
    from PIL import Image

PICTURES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
COLUMNS = (
    "file",
    "scan",
    "boundary",
    "column",
    "row",
    "sigma",
    "low",
    "high",
    "row_um",
    "sigma_um",
    "low_um",
    "high_um",
)
USUAL_LEVEL = 0.9
SIXTEEN_BITS = 65535
CROSSED_PX, CROSSED = 2.0, 0.2
"""Boundaries of a column are out of order if one lies this many pixels above the previous one; a scan is doubtful if more than this
part of its columns are."""
COLOURED, MOSTLY = (
    40,
    0.1,
)  # difference of a pixel's channels, and share of such pixels: lines drawn into a scan are less
WIDTH_UM = 8700.0  # of a Spectralis scan; the lateral scale of a picture, which states none, follows from it

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ScanBoundaries:
    """The boundaries of one scan in the pixels of the scan, counted from 0.

    Attributes:
        scan: the scan.
        names: names of the K boundaries, from top to bottom.
        rows: (W, K) rows.
        sigma: (W, K) scale of the error in pixels; None if it is not trained.
        bands: lowest and highest row (W, K) of the region that holds each boundary with the requested probability; None if the
            net states no density.
    """

    scan: Scan
    names: tuple[str, ...]
    rows: np.ndarray
    sigma: np.ndarray | None
    bands: tuple[np.ndarray, np.ndarray] | None


class ScanPredictor:
    """Predicts the boundaries of scans; created by `load`. A program is compiled once per width of the scans.

    Attributes:
        task: the task of the checkpoint.
        options: options of `jaxpose.data.scans.prepare`, as the run was trained.
        model: the density of the standardised error; None: the net states none.
    """

    def __init__(
        self, task: tasks.Boundaries, variables: Any, config: Mapping[str, Any], *, flip_test: bool | None = None
    ):
        self.task, run = task, config.get("run") or {}
        self.options = {
            "height": task.height,
            "is_flattened": run.get("flatten", True),
            "is_compensated": run.get("compensate", True),
        }
        self.model = task.density(variables)
        flip_test = inference.from_checkpoint(config).flip_test if flip_test is None else flip_test
        weights = task.inference_variables(variables)
        self._predict = jax.jit(lambda images: task.predict(weights, {"image": images}, flip_test=flip_test))

    def __call__(self, scan: Scan, *, level: float = USUAL_LEVEL) -> ScanBoundaries:
        """Returns the boundaries of a scan.

        Args:
            scan: the scan.
            level: the probability with which a band holds its boundary.

        Raises:
            ValueError: the scan holds no retina; the level is outside (0, 1); weights are not finite.
        """
        prepared: Prepared = prepare(scan, **self.options)
        image = feed.padded(prepared.image, self.task.net.backbone.size_multiple)
        outputs = jax.device_get(self._predict(image[None]))
        width = prepared.image.shape[1]
        rows, sigma = (outputs[name][0, :width].astype(np.float64) for name in ("rows", "sigma"))
        if not (np.isfinite(rows).all() and np.isfinite(sigma).all()):
            raise ValueError("the net's outputs are not finite: its weights are damaged, or its training diverged")
        rows, sigma = prepared.to_scan(rows, sigma)
        if (crossed := float((np.diff(rows) < -CROSSED_PX).any(-1).mean())) > CROSSED:
            logger.warning(
                "%s: boundaries cross in %.0f %% of the columns: is it a scan of a retina, with depth from top to bottom?",
                scan.name, 100 * crossed,
            )  # fmt: skip
        bands = None
        if self.model is not None:
            bands = tasks.bands(rows, sigma, density.region(self.model, level).extent())
        return ScanBoundaries(scan, self.task.skeleton.joints, rows, sigma if self.task.learns_sigma else None, bands)


def load(directory: str | Path, *, step: Any = "best", flip_test: bool | None = None) -> ScanPredictor:
    """Builds a predictor from a run on scans.

    Args:
        directory: the run's folder.
        step: the checkpoint to load; see `checkpoint.restore_model`.
        flip_test: average with the mirrored scan; None: as the run was evaluated.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or no run on scans.
    """
    task, variables, config, flips = restored(directory, tasks.Boundaries, step=step, flip_test=flip_test)
    return ScanPredictor(task, variables, config, flip_test=flips)


def scans_of(path: Path, *, pixel_um: Sequence[float] | None = None) -> list[Scan]:
    """Returns the scans in a file: one of a picture, all of a Duke file.

    Args:
        path: a picture, whose rows are depth, in grey values; or a .mat file of the Duke DME data.
        pixel_um: height, or height and width, of a pixel in micrometres; None: what a .mat file states, else the height of a
            Spectralis scan, and for a picture a width of 8.7 mm in all.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is neither.
    """
    if path.suffix.lower() == ".mat":
        return duke.read_file(path, labelled=False, pixel_um=pixel_um)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a picture of a scan, or Subject_NN.mat")
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            colours, image = _values(picture)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} is no picture of a scan ({error}): expected grey values, {' '.join(PICTURES)}"
        ) from None
    if (share := float((np.ptp(colours, axis=-1) > COLOURED).mean())) > MOSTLY:
        raise ValueError(
            f"{path} is no picture of a scan ({share:.0%} of its pixels are in colours): expected grey values"
        )
    size = {"lateral_um": WIDTH_UM / image.shape[1]} | pixel_size(pixel_um, "--pixel-um")
    return [Scan(path.stem, path.stem, image, **size)]


def _values(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Returns the colours (H, W, 3) and the grey values (H, W) uint8 of a picture; those of 16 bits are divided by 257.

    Raises:
        ValueError: it holds numbers of another kind.
    """
    if picture.mode in ("F", "I") and not (picture.mode == "I" and max(picture.getextrema()) <= SIXTEEN_BITS):
        raise ValueError("its values are neither of 8 nor of 16 bits")
    if picture.mode.startswith("I"):
        image = np.round(np.asarray(picture) / (SIXTEEN_BITS / 255)).astype(np.uint8)
        return np.repeat(image[..., None], 3, -1), image
    return np.asarray(picture.convert("RGB"), np.int16), np.asarray(picture.convert("L"))


def files_of(inputs: Iterable[str]) -> Iterator[Path]:
    """Yields the files of names and folders; in a folder, those that may hold scans.

    Raises:
        FileNotFoundError: a name is neither, or a folder holds no such file.
    """
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            some = sorted(p for p in path.iterdir() if p.suffix.lower() in (*PICTURES, ".mat"))
            if not some:
                raise FileNotFoundError(f"{path} holds no picture of a scan and no .mat file")
            yield from some
        elif path.exists():
            yield path
        else:
            raise FileNotFoundError(f"{path}: no such file or folder; expected pictures of scans, or Subject_NN.mat")


def run(
    directory: Path,
    inputs: Iterable[str],
    *,
    out: Path,
    level: float | None = None,
    pixel_um: Sequence[float] | None = None,
    overlay: bool = True,
    step: Any = "best",
    flip_test: bool | None = None,
) -> None:
    """Predicts the boundaries of scans and writes boundaries.csv, and a picture of each scan, into a folder.

    Args:
        directory: the run's folder.
        inputs: pictures of scans, .mat files of the Duke DME data, and folders of them.
        out: the folder for the output files.
        level: the probability with which a band holds its boundary; None: 0.9 if the net states a density.
        pixel_um: the size of a pixel in micrometres, as for `scans_of`.
        overlay: draw the scans with their boundaries.
        step: the checkpoint to load.
        flip_test: average with the mirrored scan; None: as the run was evaluated.

    Raises:
        FileNotFoundError: a file or the checkpoint is missing.
        ValueError: a file holds no scan; the level is not between 0 and 1, or the net states no density.
    """  # fmt: skip
    pixel_size(pixel_um, "--pixel-um")
    files = list(files_of(inputs))
    predictor = load(directory, step=step, flip_test=flip_test)
    if level is not None and predictor.model is None:
        raise ValueError(f"--region {level}: the net in {directory} states no density of its error")
    level = USUAL_LEVEL if level is None else level
    if not 0 < level < 1:
        raise ValueError(f"--region {level}: expected a probability between 0 and 1")
    out.mkdir(parents=True, exist_ok=True)
    count, failures = 0, []
    with open(out / "boundaries.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for path in files:
            try:
                for scan in scans_of(path, pixel_um=pixel_um):
                    prediction = predictor(scan, level=level)
                    writer.writerows(table(path, prediction))
                    count += 1
                    if overlay:
                        draw(prediction, out, level=level)
            except ValueError as error:
                failures.append(str(error))
    print(json.dumps({"scans": count, "failed": len(failures), "out": str(out)}))
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(files)} files failed, the rest is in {out}: {'; '.join(failures[:3])}"
        )


def table(path: Path, prediction: ScanBoundaries) -> Iterator[tuple[Any, ...]]:
    """Yields a row of `COLUMNS` for every boundary and column; empty where the net does not state a value."""
    for k, name in enumerate(prediction.names):
        for x, row in enumerate(prediction.rows[:, k]):
            sigma = "" if prediction.sigma is None else round(float(prediction.sigma[x, k]), 3)
            limits = (
                ("", "") if prediction.bands is None else (round(float(side[x, k]), 2) for side in prediction.bands)
            )
            pixels = [round(float(row), 2), sigma, *limits]
            in_um = ["" if value == "" else round(value * prediction.scan.axial_um, 2) for value in pixels]
            yield path.name, prediction.scan.name, name, x, *pixels, *in_um


def draw(prediction: ScanBoundaries, out: Path, *, level: float) -> Path:
    """Draws a scan with its boundaries and bands into a folder, and returns the picture's path."""
    from jaxpose.view.figures.boundaries import scan_boundaries

    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in prediction.scan.name)
    return scan_boundaries(
        prediction.scan.image, prediction.rows, out / f"{name}_boundaries.png", names=prediction.names,
        bands=prediction.bands, labels=None if prediction.scan.rows is None else prediction.scan.rows.T,
        title=prediction.scan.name, band_title=f"{100 * level:g} % bands",
    )  # fmt: skip
