"""Draws one person on a small picture: the truth in green, the prediction in orange. It uses Pillow and NumPy only.

Pages (`jaxpose.view.report`) and sheets (`jaxpose.view.results`) consist of these tiles.
"""

from __future__ import annotations

import base64
import functools
import io
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jaxpose.evaluation.cases import Case
from jaxpose.view.palette import NO_IMAGE, TILE_ERROR, TILE_PREDICTION, TILE_TRUTH, Color, limbs_shown

__all__ = ["Pictures", "around", "data_uri", "draw", "name_of", "of_source", "shown_joints"]

FINER = 2  # the lines are drawn this many times larger, then reduced
QUALITIES = (85, 75, 60, 45, 30)

Images = str | os.PathLike | Callable[[Mapping[str, Any]], bytes]


class Pictures:
    """The images of a ground truth, opened on demand.

    Args:
        images: the folder that the file names are relative to; or a function from the entry of an image in the ground
            truth to the bytes of its file, which raises an OSError or ValueError if there is no file.

    Attributes:
        missing: file name -> reason, for the requested images that could not be read.

    >>> pictures = Pictures("no_such_folder")
    >>> pictures.get({"id": 1, "file_name": "a.jpg"}), list(pictures.missing)
    (None, ['a.jpg'])
    """

    CACHED = 8

    def __init__(self, images: Images):
        self._read = images if callable(images) else functools.partial(_read, Path(images))
        self._cache: OrderedDict[Any, Image.Image | None] = OrderedDict()
        self.missing: dict[str, str] = {}

    def get(self, entry: Mapping[str, Any]) -> Image.Image | None:
        """Returns the RGB picture (without applying its EXIF orientation, as in the annotations), or None."""
        key = entry["id"]
        if key in self._cache:
            return self._cache[key]
        try:
            with Image.open(io.BytesIO(self._read(entry))) as picture:
                self._cache[key] = picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self._cache[key] = None
            self.missing[name_of(entry)] = " ".join(str(getattr(error, "strerror", None) or error).split())
        if len(self._cache) > self.CACHED:
            self._cache.popitem(last=False)
        return self._cache.get(key)


def of_source(source: Any) -> Callable[[Mapping[str, Any]], bytes]:
    """Returns the argument of `Pictures` for an open data set (`jaxpose.data.source.Source`), which needs no folder.

    >>> from types import SimpleNamespace
    >>> source = SimpleNamespace(images={"image_id": np.array([7])}, jpeg=lambda index: b"the file")
    >>> of_source(source)({"id": 7})
    b'the file'
    """
    index = {int(number): i for i, number in enumerate(source.images["image_id"])}

    def read(entry: Mapping[str, Any]) -> bytes:
        if entry["id"] not in index:
            raise ValueError(f"the data set does not hold image {entry['id']}")
        return source.jpeg(index[entry["id"]])

    return read


def name_of(entry: Mapping[str, Any]) -> str:
    """Returns the file name of an image of a ground truth, or its id if the file does not give a name.

    >>> name_of({"id": 7})
    'image 7'
    """
    return str(entry.get("file_name", f"image {entry['id']}"))


def _read(folder: Path, entry: Mapping[str, Any]) -> bytes:
    """Reads a file of the folder; names that lead out of the folder are errors."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"image {entry['id']} has no file name in the ground truth")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} leads out of the image folder {folder}")
    return path.read_bytes()


def shown_joints(case: Case) -> np.ndarray:
    """Returns ``(K,)`` bool, the joints of a prediction to draw: those with a positive confidence, or all if there are none.

    >>> record = {"keypoints": [1.0, 2.0, 0.5, 0.0, 0.0, 0.0], "score": 1.0}
    >>> shown_joints(Case("unmatched", {"id": 1}, None, record)).tolist()
    [True, False]
    """
    confident = case.found[:, 2] > 0
    return confident if confident.any() else np.ones_like(confident)


def around(case: Case, *, aspect: float, margin: float = 0.2, least: float = 32.0) -> tuple[float, float, float, float]:
    """Returns the part of the image to show, x0, y0, x1, y1 in pixels: box, labels and prediction, with a margin.

    Predicted joints that are more than a box's size away from the person are clipped, so that the person does not become tiny.

    Args:
        case: the case whose person is shown.
        aspect: width / height of the part.
        margin: margin on each side, as a part of the extent.
        least: smallest side in pixels.

    >>> person = {"bbox": [10, 10, 40, 80], "keypoints": [20, 20, 2]}
    >>> [round(v) for v in around(Case("missed", {"id": 1}, person), aspect=0.5)]
    [2, -6, 58, 106]
    """
    points = []
    if case.person is not None:
        x, y, w, h = case.person["bbox"]
        points += [(x, y), (x + w, y + h), *case.truth[case.truth[:, 2] > 0, :2]]
    if case.record is not None:
        predicted = case.found[shown_joints(case), :2]
        if points:
            low, high = np.min(points, axis=0), np.max(points, axis=0)
            predicted = np.clip(predicted, 2 * low - high, 2 * high - low)
        points += list(predicted)
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    centre, size = (low + high) / 2, np.maximum((high - low) * (1 + 2 * margin), least)
    size = np.array([max(size[0], size[1] * aspect), max(size[1], size[0] / aspect)])
    x0, y0, x1, y1 = (*(centre - size / 2), *(centre + size / 2))
    return float(x0), float(y0), float(x1), float(y1)


def draw(
    case: Case,
    picture: Image.Image | None,
    *,
    limbs: Sequence[tuple[int, int]],
    size_wh: tuple[int, int] = (240, 300),
    truth: bool = True,
    prediction: bool = True,
) -> Image.Image:
    """Draws the person with labels and prediction, and a thin line from each labelled joint to its prediction.

    Args:
        case: the case to draw.
        picture: the whole image, or None for grey.
        limbs: pairs of joints (`jaxpose.skeleton.Skeleton.limbs`).
        size_wh: width and height of the tile in pixels.
        truth, prediction: whether to draw each of them. With both, the lines of the errors are drawn too.

    >>> person = {"bbox": [10, 10, 40, 80], "keypoints": [20, 20, 2]}
    >>> draw(Case("missed", {"id": 1}, person), None, limbs=[]).size
    (240, 300)
    """
    width, height = size_wh
    x0, y0, x1, y1 = around(case, aspect=width / height)
    zoom = width / (x1 - x0)
    tile = Image.new("RGB", size_wh, NO_IMAGE.rgb)
    if picture is not None:
        _paste(tile, picture, (x0, y0, x1, y1), zoom)
    layer = Image.new("RGBA", (width * FINER, height * FINER), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    # Pixel centres are at integers: pixel 0 covers -0.5 to 0.5. Values beyond a million are invisible, and Pillow fails on them.
    place = lambda xy: np.clip((xy - (x0, y0) + 0.5) * zoom * FINER - 0.5, -1e6, 1e6)  # noqa: E731
    poses = {}
    if truth and case.person is not None:
        poses["truth"] = place(case.truth[:, :2]), case.truth[:, 2] > 0, TILE_TRUTH
    if prediction and case.record is not None:
        poses["prediction"] = place(case.found[:, :2]), shown_joints(case), TILE_PREDICTION
    if len(poses) == 2:
        (a, labelled, _), (b, confident, _) = poses["truth"], poses["prediction"]
        for k in np.flatnonzero(labelled & confident):
            pen.line([*a[k], *b[k]], fill=(*TILE_ERROR.rgb, 255), width=FINER + 1)
    for xy, is_drawn, color in poses.values():
        _pose(pen, xy, is_drawn, limbs, color)
    tile.paste(layer := layer.resize(size_wh, Image.Resampling.BOX), (0, 0), layer)
    return tile


def _paste(tile: Image.Image, picture: Image.Image, part: tuple[float, ...], zoom: float) -> None:
    """Pastes the visible part of the picture at its place."""
    x0, y0, x1, y1 = part
    inner = (max(x0, 0.0), max(y0, 0.0), min(x1, picture.width), min(y1, picture.height))
    if inner[2] - inner[0] < 1e-3 or inner[3] - inner[1] < 1e-3:
        return
    size = (max(1, round((inner[2] - inner[0]) * zoom)), max(1, round((inner[3] - inner[1]) * zoom)))
    visible = picture.resize(size, Image.Resampling.BICUBIC, box=inner, reducing_gap=2.0)
    tile.paste(visible, (round((inner[0] - x0) * zoom), round((inner[1] - y0) * zoom)))


def _pose(pen: ImageDraw.ImageDraw, xy: np.ndarray, is_drawn: np.ndarray, limbs, color: Color) -> None:
    for width, ink in ((4, (0, 0, 0, 120)), (2, (*color.rgb, 255))):  # a dark rim is visible on any picture
        for a, b in limbs_shown(limbs, is_drawn):
            pen.line([*xy[a], *xy[b]], fill=ink, width=width * FINER)
        radius = (width + 2) / 2 * FINER
        for x, y in xy[is_drawn]:
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink)


def data_uri(tile: Image.Image, *, limit: int = 40_000) -> str:
    """Returns the picture as a JPEG for a page, of at most `limit` characters: coarser, then smaller, until it fits.

    >>> data_uri(Image.new("RGB", (8, 8)))[:23]
    'data:image/jpeg;base64,'
    """
    while True:
        for quality in QUALITIES:
            out = io.BytesIO()
            tile.save(out, "JPEG", quality=quality, optimize=True)
            uri = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
            if len(uri) <= limit:
                return uri
        tile = tile.resize((max(1, tile.width // 2), max(1, tile.height // 2)), Image.Resampling.BOX)
        if tile.size == (1, 1):
            return uri
