"""EXIF orientation: which pictures carry one, and whether the labels were made on the turned or on the stored picture.

A camera that was held upside down stores the pixels so, with a tag that says how to turn them. Viewers, browsers and most
annotation tools turn; some tools, and whoever reads the pixels with OpenCV's or torchvision's defaults of old, do not. Where
the sizes differ, the annotated size tells; else the poses may: people stand upright in one of the two readings.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from jaxpose import sides
from jaxpose.data.reading import Exif
from jaxpose.skeleton import Skeleton

__all__ = ["Tagged", "decide", "orientation", "scan"]

TAG = 0x0112  # its values are those below, and 1: as it is
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
SIDEWAYS = (5, 6, 7, 8)
UPSIDE_DOWN = (3, 4)
SIGNS = (b"Exif", b"eXIf", b"EXIF", b"exif", b"Orientation")  # one of these stands in a file that has the tag
HEAD = 1 << 17  # bytes of a JPEG file in which its metadata stand
AT_ONCE = 64  # files that a thread looks at
HIGH = ("head", "nose", "eye", "ear", "mouth", "neck", "chin", "face", "snout")
LOW = ("ankle", "knee", "foot", "toe", "heel", "paw", "hoof", "hip")
MOST = 0.7  # of the persons have to agree


@dataclass(frozen=True)
class Tagged:
    """An image with an orientation other than 1. size_wh: of the stored pixels."""

    tag: int
    size_wh: tuple[int, int]

    @property
    def upright_wh(self) -> tuple[int, int]:
        """The size of the turned picture."""
        return self.size_wh[::-1] if self.tag in SIDEWAYS else self.size_wh


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation of a picture, 1 to 8. Data that cannot be read turn nothing.

    >>> orientation(Image.new("RGB", (2, 3)))
    1
    """
    try:
        tag = picture.getexif().get(TAG, 1)
    except Exception:  # of many types: the data are anything
        return 1
    return tag if tag in TURNS else 1


def scan(paths: Sequence[Path]) -> dict[int, Tagged]:
    """Finds the images with an orientation.

    Args:
        paths: Of the images; those that cannot be read have none.

    Returns:
        Index of the path -> what it says.
    """
    parts = [range(start, min(start + AT_ONCE, len(paths))) for start in range(0, len(paths), AT_ONCE)]
    with ThreadPoolExecutor(8) as pool:  # a file system may be slow to answer
        of_parts = pool.map(lambda part: {i: found for i in part if (found := _tagged(paths[i])) is not None}, parts)
        return {i: found for of_part in of_parts for i, found in of_part.items()}


def _without_metadata(file: BinaryIO) -> bool:
    """Whether a file is a JPEG file whose header holds no segment for EXIF data or XMP. Only the header is read."""
    at, head = 2, file.read(2)
    if head != b"\xff\xd8":
        return False
    while True:
        file.seek(at)
        marker = file.read(4)
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] == 0xE1:
            return False
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC) or marker[1] == 0xDA:
            return True  # the frame begins
        at += 2 + int.from_bytes(marker[2:4])


def _tagged(path: Path) -> Tagged | None:
    try:
        with open(path, "rb") as file:
            if _without_metadata(file):
                return None
            file.seek(0)
            data = file.read(HEAD)
            if not data.startswith(b"\xff\xd8"):
                data += file.read()
        if not any(sign in data for sign in SIGNS):
            return None
        with Image.open(io.BytesIO(data)) as picture:
            size = picture.size
            if picture.format == "PNG" and picture.getexif().get(TAG) is None:
                picture.load()  # the tag may stand behind the pixels
            tag = orientation(picture)
    except Exception:  # a damaged file is named when it is read
        return None
    return Tagged(tag, size) if tag != 1 else None


def decide(
    tagged: dict[int, Tagged],
    *,
    sizes: np.ndarray,
    persons: np.ndarray,
    skeleton: Skeleton,
    exif: Exif = "auto",
) -> tuple[frozenset[int], str]:
    """Decides which images are turned.

    Args:
        tagged: Of `scan`.
        sizes: ``(num_images, 2)``: the annotated width and height.
        persons: Table of `jaxpose.data.source.person_dtype`.
        skeleton: Of its keypoints.
        exif: "apply" or "ignore" for all; "auto": an image whose annotated size tells, by its size; the others as most of
            those, else as the poses stand upright, else turned, as viewers show them.

    Returns:
        Indices of the images to turn; and a sentence to say, "" where no image has an orientation.
    """
    if not tagged:
        return frozenset(), ""
    count = f"{len(tagged)} of {len(sizes)} images have an EXIF orientation"
    other = "; --exif apply or --exif ignore chooses"
    if exif == "apply":
        return frozenset(tagged), f"{count}: turned upright, as asked for (--exif apply)"
    if exif == "ignore":
        return frozenset(), f"{count}: their pixels are taken as they are stored, as asked for (--exif ignore)"
    certain = {i: _by_size(t, tuple(int(v) for v in sizes[i])) for i, t in tagged.items()}
    turned, stored = (sum(value is wanted for value in certain.values()) for wanted in (True, False))
    if turned or stored:
        rest, why = turned >= stored, f"the annotated sizes say so of {max(turned, stored)}"
        if turned and stored:
            why += f" and the contrary of {min(turned, stored)}, which are read so"
    else:
        upright, others = _by_pose(tagged, sizes, persons, skeleton)
        votes = upright + others
        if votes and max(upright, others) >= MOST * votes:
            rest, why = upright > others, f"so {max(upright, others)} of {votes} labelled poses stand upright"
            why = why if rest else f"turned, {others} of {votes} labelled poses would not stand upright"
        else:
            rest, why = True, "as viewers and annotation tools show them; sizes and poses cannot tell"
    turn = frozenset(i for i, value in certain.items() if (rest if value is None else value))
    how = "they are turned upright" if rest else "their pixels are taken as they are stored"
    return turn, f"{count}: {how} ({why}){other}"


def _by_size(tagged: Tagged, annotated: tuple[int, int]) -> bool | None:
    """Whether the annotated size is that of the turned picture (True), of the stored one (False), or of both (None)."""
    if tagged.size_wh == tagged.upright_wh:
        return None
    return True if annotated == tagged.upright_wh else False if annotated == tagged.size_wh else None


def _by_pose(tagged: dict[int, Tagged], sizes: np.ndarray, persons: np.ndarray, skeleton: Skeleton) -> tuple[int, int]:
    """Of the persons in images that are stored upside down or sideways: how many stand upright as labelled, how many not."""
    high, low = (_named(skeleton, words) for words in (HIGH, LOW))
    upright = others = 0
    for person in persons[np.isin(persons["image"], list(tagged))] if high and low else ():
        tag, keypoints = tagged[int(person["image"])].tag, person["keypoints"]
        top, bottom = ([k for k in joints if keypoints[k, 2] > 0] for joints in (high, low))
        if tag not in UPSIDE_DOWN + SIDEWAYS or not top or not bottom:
            continue
        dx, dy = keypoints[bottom, :2].mean(0) - keypoints[top, :2].mean(0)
        if tag in UPSIDE_DOWN and abs(dy) > abs(dx) or tag in SIDEWAYS:
            upright, others = (upright + 1, others) if dy > abs(dx) else (upright, others + 1)
    return upright, others


def _named(skeleton: Skeleton, words: Sequence[str]) -> list[int]:
    fits: Callable[[str], bool] = lambda token: token.casefold() in words  # noqa: E731
    return [k for k, name in enumerate(skeleton.joints) if any(map(fits, sides.TOKEN.findall(name)))]
