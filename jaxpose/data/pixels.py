"""JPEG files, and what becomes of their pixels: reading and checking a file, decoding it, warping a region of it.

Reading and checking need Pillow only; `decoded` and `warped`, which the batches are made of, need OpenCV (the extra `data`).
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxpose.data.orientation import SIGNS, TURNS, orientation

__all__ = ["decode_picture", "decoded", "load_jpeg", "opencv", "over_white", "rgb", "warped"]

PICTURE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits
DEEP_MODES = ("I", "F")  # of 32 bits a pixel: their range says nothing


def load_jpeg(
    path: str | Path, *, size_wh: tuple[int, int] | None = None, verify: bool = False, upright: bool = False
) -> bytes:
    """The bytes of a JPEG file that a decoder will accept.

    Other formats (PNG, ...), JPEG files in CMYK, and pictures that have to be turned are converted to RGB JPEG of quality
    95 without chroma subsampling, their pixels as `rgb` reads them.

    Args:
        path: of the image.
        size_wh: width and height that the annotations give it; None: not checked.
        upright: turn the picture as its EXIF orientation says; otherwise its pixels are taken as they are stored.
        verify: decode it completely. Otherwise the header, and that the file ends as a JPEG file does. With OpenCV
            (the extra `data`) that finds data that is missing or overwritten inside a whole file too, which decoders
            fill up with grey; without it, only what Pillow cannot decode. Nothing finds damage that happens to decode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder; not an image; truncated or damaged; of 32 bits a pixel; another size than the annotations
            say.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"image {path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"image {path} is a folder: name an image file") from None
    if not data.startswith(b"\xff\xd8\xff"):
        data, verify = _convert(data, path, upright), False
    size, components = _jpeg_header(data, path)
    if verify or not data.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
        decode_picture(data, path)
    if verify and (complaint := _complaint(data)):
        raise ValueError(f"image {path} is damaged inside ({complaint}): replace it")
    if components == 4 or (upright and any(sign in data for sign in SIGNS)):
        picture = decode_picture(data, path)
        if components == 4 or orientation(picture) != 1:
            data = _as_jpeg(rgb(picture, f"image {path}", upright=upright))
            size, _ = _jpeg_header(data, path)
    if size_wh is not None and size != tuple(size_wh):
        turned = size == tuple(size_wh[::-1])  # what a viewer does with an orientation in the EXIF data
        raise ValueError(
            f"image {path} is {size[0]}x{size[1]} pixels, its annotations say {size_wh[0]}x{size_wh[1]}: "
            + (
                "save the image turned, as it was annotated, or read it turned (--exif apply)"
                if turned
                else "resize the image or the annotations"
            )
        )
    return data


def _jpeg_header(data: bytes, path: Path) -> tuple[tuple[int, int], int]:
    """((width, height), number of components) of the frame header."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return (width, height), data[at + 9]
        fill = marker == 0xFF or 0xD0 <= marker <= 0xD9 or marker == 0x01  # markers without a length
        at += 1 if marker == 0xFF else 2 if fill else 2 + int.from_bytes(data[at + 2 : at + 4])
    raise ValueError(f"image {path} is truncated or not a JPEG file: it has no frame header; replace the file")


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode_picture(data: bytes, path: str | Path) -> Image.Image:
    """An image file's bytes, decoded completely; a ValueError naming `path` where that fails."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no image that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f"image {path} cannot be read ({reason}): it is truncated, damaged or no image; replace it"
        ) from None


def _complaint(data: bytes) -> str:
    """What libjpeg says of a JPEG file that it decodes nevertheless; "" for nothing, and without OpenCV.

    It says it on the error stream only, where OpenCV lets it and Pillow does not. Bytes too many before the end marker
    (0xd9) come after the last pixel.
    """
    try:
        import cv2

        kept = os.dup(2)
    except (ImportError, OSError):  # there is no error stream
        return ""
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    damage = (line for line in lines if line.startswith(("Corrupt JPEG data", "Premature end of JPEG")))
    return next((line for line in damage if not line.endswith("before marker 0xd9")), "")


def _convert(data: bytes, path: Path, upright: bool) -> bytes:
    return _as_jpeg(rgb(decode_picture(data, path), f"image {path}", upright=upright))


def _as_jpeg(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def rgb(picture: Image.Image, name: str, *, upright: bool) -> np.ndarray:
    """The pixels of a picture, as training, evaluation and `jaxpose predict` see them.

    Args:
        picture: Decoded.
        name: For the message.
        upright: Turn it as its EXIF orientation says.

    Returns:
        ``(h, w, 3)`` uint8 RGB: grey becomes RGB, 16 bits keep their upper 8, what is transparent becomes white.

    Raises:
        ValueError: 32 bits a pixel, whose range says nothing.

    >>> rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "it", upright=True).tolist()
    [[[255, 255, 255]]]
    """
    if upright and (tag := orientation(picture)) != 1:
        picture = picture.transpose(TURNS[tag])
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    if picture.mode in DEEP_MODES:
        raise ValueError(
            f"{name} has the mode {picture.mode!r}, 32 bits a pixel, whose range says nothing; expected 8 bits a channel "
            f"({', '.join(PICTURE_MODES)}) or 16 of grey: convert it"
        )
    if picture.has_transparency_data:
        return over_white(np.asarray(picture.convert("RGBA")))
    return np.asarray(picture.convert("RGB"))


def over_white(rgba: np.ndarray) -> np.ndarray:
    """``(h, w, 4)`` uint8 -> ``(h, w, 3)``: what is transparent becomes white."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def decoded(jpeg: bytes, ratio: int = 1) -> np.ndarray:
    """``(h, w, 3)`` uint8 RGB, 1 / `ratio` (1, 2, 4, 8) of its size, rounded up; an orientation in the EXIF data is
    ignored."""
    cv2 = opencv()
    # The flags for a smaller image in grey, and that for RGB: those in colour are for BGR.
    smaller = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | smaller.get(ratio, 0)
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    if image is None:
        raise ValueError("the JPEG data cannot be decoded")
    return image


def warped(region: np.ndarray, warp: np.ndarray, size_wh: Sequence[int]) -> np.ndarray:
    """An image of `size_wh` under the affine `warp`, bilinear, black beyond `region`."""
    cv2 = opencv()
    return cv2.warpAffine(region, warp, tuple(size_wh), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@lru_cache(maxsize=1)
def opencv():
    try:
        import cv2
    except ImportError:
        raise ImportError("the input pipeline needs OpenCV: pip install 'jaxpose[data]'") from None
    cv2.setNumThreads(1)  # the samples are what is parallel
    return cv2
