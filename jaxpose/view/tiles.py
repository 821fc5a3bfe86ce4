"""One person on a small picture: the truth in green, the prediction in orange. Pillow and NumPy only.

What a page (`jaxpose.view.report`) and a sheet (`jaxpose.view.results`) are made of.
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

FINER = 2  # the lines are drawn so many times larger, then reduced
QUALITIES = (85, 75, 60, 45, 30)

Images = str | os.PathLike | Callable[[Mapping[str, Any]], bytes]


class Pictures:
    """The images of a ground truth, opened when asked for.

    Args:
        images: the folder that the file names are relative to; or a function, from the entry of an image in the ground
            truth to the bytes of its file, that raises an OSError or ValueError where there is none.

    Attributes:
        missing: file name -> why, of those that were asked for and could not be read.

    >>> pictures = Pictures("no_such_folder")
    >>> pictures.get({"id": 1, "file_name": "a.jpg"}), list(pictures.missing)
    (None, ['a.jpg'])
    """

    KEPT = 8

    def __init__(self, images: Images):
        self._read = images if callable(images) else functools.partial(_read, Path(images))
        self._kept: OrderedDict[Any, Image.Image | None] = OrderedDict()
        self.missing: dict[str, str] = {}

    def get(self, entry: Mapping[str, Any]) -> Image.Image | None:
        """The RGB picture (an orientation in the EXIF data ignored, as the annotations do), or None."""
        key = entry["id"]
        if key in self._kept:
            return self._kept[key]
        try:
            with Image.open(io.BytesIO(self._read(entry))) as picture:
                self._kept[key] = picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self._kept[key] = None
            self.missing[name_of(entry)] = " ".join(str(getattr(error, "strerror", None) or error).split())
        if len(self._kept) > self.KEPT:
            self._kept.popitem(last=False)
        return self._kept.get(key)


def of_source(source: Any) -> Callable[[Mapping[str, Any]], bytes]:
    """What `Pictures` takes, of a data set that is open (`jaxpose.data.source.Source`), whose folder is needed no more.

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
    """Of an image of a ground truth: its file name, which not every file gives.

    >>> name_of({"id": 7})
    'image 7'
    """
    return str(entry.get("file_name", f"image {entry['id']}"))


def _read(folder: Path, entry: Mapping[str, Any]) -> bytes:
    """A file of the folder; a ground truth does not choose what else is read."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"image {entry['id']} has no file name in the ground truth")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} leads out of the image folder {folder}")
    return path.read_bytes()


def shown_joints(case: Case) -> np.ndarray:
    """``(K,)`` bool, the joints of a prediction to draw: of some confidence; all of them where none has any.

    >>> record = {"keypoints": [1.0, 2.0, 0.5, 0.0, 0.0, 0.0], "score": 1.0}
    >>> shown_joints(Case("unmatched", {"id": 1}, None, record)).tolist()
    [True, False]
    """
    confident = case.found[:, 2] > 0
    return confident if confident.any() else np.ones_like(confident)


def around(case: Case, *, aspect: float, margin: float = 0.2, least: float = 32.0) -> tuple[float, float, float, float]:
    """The part of the image to show, x0, y0, x1, y1 in pixels: box, labels and prediction, with a margin.

    Predicted joints more than a box's size away from the person do not count, lest the person becomes a dot.

    Args:
        case: of whom.
        aspect: width by height of the part.
        margin: on either side, as a part of the extent.
        least: the smallest side, pixels.

    >>> person = {"bbox": [10, 10, 40, 80], "keypoints": [20, 20, 2]}
    >>> [round(v) for v in around(Case("missed", {"id": 1}, person), aspect=0.5)]
    [2, -6, 58, 106]
    """
    points = []
    if case.person is not None:
        x, y, w, h = case.person["bbox"]
        points += [(x, y), (x + w, y + h), *case.truth[case.truth[:, 2] > 0, :2]]
    if case.record is not None:
        found = case.found[shown_joints(case), :2]
        if points:
            low, high = np.min(points, axis=0), np.max(points, axis=0)
            found = np.clip(found, 2 * low - high, 2 * high - low)
        points += list(found)
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
    found: bool = True,
) -> Image.Image:
    """The person with labels and prediction, and a thin line from each labelled joint to where it was found.

    Args:
        case: of whom.
        picture: the whole image, or None for grey.
        limbs: pairs of joints (`jaxpose.skeleton.Skeleton.limbs`).
        size_wh: of the tile, pixels.
        truth, found: what to draw. The lines of the errors come with both.

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
    # Pixel centres are at integers: pixel 0 covers -0.5 to 0.5. Beyond a million nothing is seen, and Pillow stumbles.
    place = lambda xy: np.clip((xy - (x0, y0) + 0.5) * zoom * FINER - 0.5, -1e6, 1e6)  # noqa: E731
    poses = {}
    if truth and case.person is not None:
        poses["truth"] = place(case.truth[:, :2]), case.truth[:, 2] > 0, TILE_TRUTH
    if found and case.record is not None:
        poses["found"] = place(case.found[:, :2]), shown_joints(case), TILE_PREDICTION
    if len(poses) == 2:
        (a, labelled, _), (b, confident, _) = poses["truth"], poses["found"]
        for k in np.flatnonzero(labelled & confident):
            pen.line([*a[k], *b[k]], fill=(*TILE_ERROR.rgb, 255), width=FINER + 1)
    for xy, shown, color in poses.values():
        _pose(pen, xy, shown, limbs, color)
    tile.paste(layer := layer.resize(size_wh, Image.Resampling.BOX), (0, 0), layer)
    return tile


def _paste(tile: Image.Image, picture: Image.Image, part: tuple[float, ...], zoom: float) -> None:
    """The part of the picture that there is, at its place."""
    x0, y0, x1, y1 = part
    inner = (max(x0, 0.0), max(y0, 0.0), min(x1, picture.width), min(y1, picture.height))
    if inner[2] - inner[0] < 1e-3 or inner[3] - inner[1] < 1e-3:
        return
    size = (max(1, round((inner[2] - inner[0]) * zoom)), max(1, round((inner[3] - inner[1]) * zoom)))
    shown = picture.resize(size, Image.Resampling.BICUBIC, box=inner, reducing_gap=2.0)
    tile.paste(shown, (round((inner[0] - x0) * zoom), round((inner[1] - y0) * zoom)))


def _pose(pen: ImageDraw.ImageDraw, xy: np.ndarray, is_drawn: np.ndarray, limbs, color: Color) -> None:
    for width, ink in ((4, (0, 0, 0, 120)), (2, (*color.rgb, 255))):  # a dark rim: seen on any picture
        for a, b in limbs_shown(limbs, is_drawn):
            pen.line([*xy[a], *xy[b]], fill=ink, width=width * FINER)
        radius = (width + 2) / 2 * FINER
        for x, y in xy[is_drawn]:
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink)


def data_uri(tile: Image.Image, *, limit: int = 40_000) -> str:
    """The picture as a JPEG within a page, of at most `limit` characters: coarser, then smaller, until it fits.

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
