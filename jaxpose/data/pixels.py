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

__all__ = ["decode_picture", "decoded", "load_jpeg", "opencv", "warped"]

PICTURE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits: others would lose their range


def load_jpeg(path: str | Path, *, size_wh: tuple[int, int] | None = None, verify: bool = False) -> bytes:
    """Reads an image file as the bytes of a JPEG file that a decoder accepts.

    Other formats (PNG, ...) of 8 bits, and JPEG files in CMYK, are converted to RGB JPEG of quality 95 without chroma
    subsampling. An orientation in the EXIF data is ignored, as COCO's annotations do.

    Args:
        path: the path of the image.
        size_wh: width and height in the annotations; None checks no size.
        verify: decode the image completely; by default its header is checked, and that the file ends as a JPEG file does.
            With OpenCV (the extra `data`) this also finds data that is missing or overwritten inside a complete file, which
            decoders fill up with grey; without OpenCV, only what Pillow cannot decode. Nothing finds damage that happens to
            decode.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the path is a folder; the file is no image, truncated, damaged or of more than 8 bits; its size is not
            that of the annotations.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"image {path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"image {path} is a folder: name an image file") from None
    if not data.startswith(b"\xff\xd8\xff"):
        data, verify = _convert(data, path), False
    size, components = _jpeg_header(data, path)
    if verify or not data.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
        decode_picture(data, path)
    if verify and (warning := _libjpeg_warning(data)):
        raise ValueError(f"image {path} is damaged inside ({warning}): replace it")
    if components == 4:
        data = _convert(data, path)
    if size_wh is not None and size != tuple(size_wh):
        turned = size == tuple(size_wh[::-1])  # what a viewer does with an orientation in the EXIF data
        raise ValueError(
            f"image {path} is {size[0]}x{size[1]} pixels, its annotations say {size_wh[0]}x{size_wh[1]}: "
            + ("save the image turned, as it was annotated" if turned else "resize the image or the annotations")
        )
    return data


def _jpeg_header(data: bytes, path: Path) -> tuple[tuple[int, int], int]:
    """Returns ((width, height), number of components) from the frame header."""
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
    """Decodes the bytes of an image file completely.

    Args:
        data: the bytes.
        path: the name of the file in messages.

    Raises:
        ValueError: the bytes cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no image that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f"image {path} cannot be read ({reason}): it is truncated, damaged or no image; replace it"
        ) from None


def _libjpeg_warning(data: bytes) -> str:
    """Returns libjpeg's warning about a JPEG file that it decodes nevertheless; "" for none, and without OpenCV.

    libjpeg writes it to the error stream only, which OpenCV permits and Pillow does not. Superfluous bytes before the end
    marker (0xd9) come after the last pixel and are no damage.
    """
    try:
        import cv2

        error_stream = os.dup(2)
    except (ImportError, OSError):  # OSError: there is no error stream
        return ""
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        finally:
            os.dup2(error_stream, 2)
            os.close(error_stream)
        messages.seek(0)
        lines = messages.read().decode(errors="replace").splitlines()
    damage = (line for line in lines if line.startswith(("Corrupt JPEG data", "Premature end of JPEG")))
    return next((line for line in damage if not line.endswith("before marker 0xd9")), "")


def _convert(data: bytes, path: Path) -> bytes:
    """Returns an image of another format as an RGB JPEG file."""
    out, picture = io.BytesIO(), decode_picture(data, path)
    if picture.mode not in PICTURE_MODES:
        raise ValueError(
            f"image {path} has the mode {picture.mode!r}, expected 8 bits a channel ({', '.join(PICTURE_MODES)}): convert it"
        )
    picture.convert("RGB").save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def decoded(jpeg: bytes, ratio: int = 1) -> np.ndarray:
    """Decodes a JPEG file; an orientation in its EXIF data is ignored.

    Args:
        jpeg: the bytes of the file.
        ratio: 1, 2, 4 or 8: decode to 1 / `ratio` of the size, rounded up.

    Returns:
        ``(h, w, 3)`` uint8 RGB.

    Raises:
        ValueError: the file cannot be decoded.
    """
    cv2 = opencv()
    # The flags for a smaller image in grey, and that for RGB: those in colour are for BGR.
    smaller = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | smaller.get(ratio, 0)
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    if image is None:
        raise ValueError("the JPEG data cannot be decoded")
    return image


def warped(region: np.ndarray, warp: np.ndarray, size_wh: Sequence[int]) -> np.ndarray:
    """Warps an image bilinearly; what lies beyond it is black.

    Args:
        region: ``(h, w, 3)`` or ``(h, w)`` uint8.
        warp: ``(2, 3)`` affine from pixels of `region` to pixels of the result.
        size_wh: width and height of the result.

    Returns:
        ``(H, W, 3)`` or ``(H, W)`` uint8.
    """
    cv2 = opencv()
    return cv2.warpAffine(region, warp, tuple(size_wh), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@lru_cache(maxsize=1)
def opencv():
    """Imports OpenCV, bound to one thread because samples are made in parallel, and returns it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise ImportError("the input pipeline needs OpenCV: pip install 'jaxpose[data]'") from None
    cv2.setNumThreads(1)
    return cv2
