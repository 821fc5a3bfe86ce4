"""EXIF orientation: which pictures have one, and whether the labels refer to the turned or to the stored picture.

A camera that was held upside down stores the pixels that way, with a tag that says how to turn them. Viewers, browsers
and most annotation tools turn; some tools, and programs that read the pixels with older defaults of OpenCV or
torchvision, do not. If the two sizes differ, the annotated size decides; else the poses may: people stand upright in
one of the two.
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

TAG = 0x0112  # its values are those below, and 1 for no turn
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
SIDEWAYS = (5, 6, 7, 8)
UPSIDE_DOWN = (3, 4)
SIGNS = (b"Exif", b"eXIf", b"EXIF", b"exif", b"Orientation")  # a file with the tag contains one of these
HEAD = 1 << 17  # the number of bytes of a JPEG file that contain its metadata
AT_ONCE = 64  # files per task of a thread
HIGH = ("head", "nose", "eye", "ear", "mouth", "neck", "chin", "face", "snout")
LOW = ("ankle", "knee", "foot", "toe", "heel", "paw", "hoof", "hip")
MOST = 0.7  # the share of the persons that have to agree


@dataclass(frozen=True)
class Tagged:
    """An image with an orientation other than 1. `size_wh` is the size of the stored pixels."""

    tag: int
    size_wh: tuple[int, int]

    @property
    def upright_wh(self) -> tuple[int, int]:
        """The size of the turned picture."""
        return self.size_wh[::-1] if self.tag in SIDEWAYS else self.size_wh


def orientation(picture: Image.Image) -> int:
    """Returns the EXIF orientation of a picture, 1 to 8; 1 if its EXIF data cannot be read.

    >>> orientation(Image.new("RGB", (2, 3)))
    1
    """
    try:
        tag = picture.getexif().get(TAG, 1)
    except Exception:  # many exception types: the data may be anything
        return 1
    return tag if tag in TURNS else 1


def scan(paths: Sequence[Path]) -> dict[int, Tagged]:
    """Finds the images with an orientation.

    Args:
        paths: The paths of the images; those that cannot be read have no orientation.

    Returns:
        The orientation by the index of the path.
    """
    parts = [range(start, min(start + AT_ONCE, len(paths))) for start in range(0, len(paths), AT_ONCE)]
    with ThreadPoolExecutor(8) as pool:  # a file system may be slow to answer
        of_parts = pool.map(lambda part: {i: tagged for i in part if (tagged := _tagged(paths[i])) is not None}, parts)
        return {i: tagged for of_part in of_parts for i, tagged in of_part.items()}


def _without_metadata(file: BinaryIO) -> bool:
    """Tells whether a file is a JPEG whose header has no segment for EXIF data or XMP. Only the header is read."""
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
                picture.load()  # the tag may come after the pixels
            tag = orientation(picture)
    except Exception:  # a damaged file is reported when it is read
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
        tagged: The result of `scan`.
        sizes: ``(num_images, 2)`` annotated widths and heights.
        persons: A table of `jaxpose.data.source.person_dtype`.
        skeleton: The skeleton of the keypoints.
        exif: "apply" or "ignore" for all; "auto" decides an image by its annotated size if that is conclusive. Others
            follow the majority of those, else the poses that stand upright, else they are turned, as viewers show them.

    Returns:
        The indices of the images to turn, and a sentence for the log, "" if no image has an orientation.
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
    """Returns True if the annotated size is that of the turned picture, False for the stored one, None if both fit or neither."""
    if tagged.size_wh == tagged.upright_wh:
        return None
    return True if annotated == tagged.upright_wh else False if annotated == tagged.size_wh else None


def _by_pose(tagged: dict[int, Tagged], sizes: np.ndarray, persons: np.ndarray, skeleton: Skeleton) -> tuple[int, int]:
    """Counts persons in images stored upside down or sideways that stand upright as labelled, and those that do not."""
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
