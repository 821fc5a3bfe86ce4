"""JPEG files and their pixels: reading and checking a file, decoding it, warping a region of it.

Reading and checking need Pillow only; `decoded` and `warped`, which make the batches, need OpenCV (the extra `data`).
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

PICTURE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # modes of 8 bits
DEEP_MODES = ("I", "F")  # modes of 32 bits per pixel, whose range of values is not defined


def load_jpeg(
    path: str | Path, *, size_wh: tuple[int, int] | None = None, verify: bool = False, upright: bool = False
) -> bytes:
    """Reads an image file as the bytes of a JPEG file that a decoder accepts.

    Other formats (PNG, ...), JPEG files in CMYK, and pictures that have to be turned are converted to RGB JPEG of quality
    95 without chroma subsampling, with the pixels of `rgb`.

    Args:
        path: The path of the image.
        size_wh: The width and height in the annotations; None checks no size.
        verify: Decode the image completely; by default only its header is checked, and that the file ends as a JPEG file
            does. With OpenCV (the extra `data`) this also detects missing or overwritten data inside a complete file,
            which decoders fill with grey; without OpenCV, only data that Pillow cannot decode. Damage that decodes
            without a warning is not detected.
        upright: Turn the picture as its EXIF orientation says; otherwise the stored pixels are taken.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The path is a folder; the file is not an image, or is truncated, damaged or of 32 bits per pixel;
            its size is not that of the annotations.
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
    if verify and (warning := _libjpeg_warning(data)):
        raise ValueError(f"image {path} is damaged inside ({warning}): replace it")
    if components == 4 or (upright and any(sign in data for sign in SIGNS)):
        picture = decode_picture(data, path)
        if components == 4 or orientation(picture) != 1:
            data = _as_jpeg(rgb(picture, f"image {path}", upright=upright))
            size, _ = _jpeg_header(data, path)
    if size_wh is not None and size != tuple(size_wh):
        turned = size == tuple(size_wh[::-1])  # as a viewer shows it if the EXIF data have an orientation
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


_HEIC: dict[str, bool] = {}


def know_heic() -> bool:
    """Registers HEIC with Pillow, if pillow-heif is installed; returns True if this call was the first to do so."""
    if "known" in _HEIC:
        return False
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    _HEIC["known"] = True
    return True


def decode_picture(data: bytes, path: str | Path) -> Image.Image:
    """Decodes the bytes of an image file completely.

    Args:
        data: The bytes of the file.
        path: The name of the file in messages.

    Raises:
        ValueError: The bytes cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if data[4:8] == b"ftyp" and isinstance(error, UnidentifiedImageError):
            if know_heic():
                return decode_picture(data, path)
            raise ValueError(
                f"image {path} cannot be read: it looks like HEIC, for which pillow-heif is needed: pip install pillow-heif, or "
                "save it as JPEG"
            ) from None
        reason = "not an image that Pillow can read" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f"image {path} cannot be read ({reason}): it is truncated, damaged or not an image; replace it"
        ) from None


def _libjpeg_warning(data: bytes) -> str:
    """Returns libjpeg's warning about a JPEG file that it nevertheless decodes; "" for none, and without OpenCV.

    libjpeg writes it to the error stream only, which OpenCV permits and Pillow does not. Superfluous bytes before the end
    marker (0xd9) come after the last pixel and do no damage.
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


def _convert(data: bytes, path: Path, upright: bool) -> bytes:
    """Returns an image of another format as an RGB JPEG file."""
    return _as_jpeg(rgb(decode_picture(data, path), f"image {path}", upright=upright))


def _as_jpeg(pixels: np.ndarray) -> bytes:
    """Returns pixels as a JPEG file of quality 95, without chroma subsampling."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def rgb(picture: Image.Image, name: str, *, upright: bool) -> np.ndarray:
    """Returns the pixels of a picture, the same for training, evaluation and `jaxpose predict`.

    Args:
        picture: A decoded picture.
        name: The name in messages.
        upright: Turn the picture as its EXIF orientation says.

    Returns:
        ``(h, w, 3)`` uint8 RGB: grey becomes RGB, the upper 8 of 16 bits are kept, transparent parts become white.

    Raises:
        ValueError: The picture has 32 bits per pixel, whose range of values is not defined.

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
            f"{name} has the mode {picture.mode!r}, 32 bits per pixel, whose range is not defined; expected 8 bits per channel "
            f"({', '.join(PICTURE_MODES)}) or 16 of grey: convert it"
        )
    if picture.has_transparency_data:
        return over_white(np.asarray(picture.convert("RGBA")))
    return np.asarray(picture.convert("RGB"))


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Composes ``(h, w, 4)`` uint8 over white, ``(h, w, 3)``: transparent parts become white."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def decoded(jpeg: bytes, ratio: int = 1) -> np.ndarray:
    """Decodes a JPEG file; an orientation in its EXIF data is ignored.

    Args:
        jpeg: The bytes of the file.
        ratio: 1, 2, 4 or 8, to decode to 1 / `ratio` of the size, rounded up.

    Returns:
        ``(h, w, 3)`` uint8 RGB.

    Raises:
        ValueError: The file cannot be decoded.
    """
    cv2 = opencv()
    # The flags of smaller grey images combined with that of RGB, because the colour ones give BGR.
    smaller = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | smaller.get(ratio, 0)
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    if image is None:
        raise ValueError("the JPEG data cannot be decoded")
    return image


def warped(region: np.ndarray, warp: np.ndarray, size_wh: Sequence[int]) -> np.ndarray:
    """Warps an image bilinearly; pixels beyond it are black.

    Args:
        region: ``(h, w, 3)`` or ``(h, w)`` uint8.
        warp: ``(2, 3)`` affine from pixels of `region` to pixels of the result.
        size_wh: The width and height of the result.

    Returns:
        ``(H, W, 3)`` or ``(H, W)`` uint8.
    """
    cv2 = opencv()
    return cv2.warpAffine(region, warp, tuple(size_wh), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@lru_cache(maxsize=1)
def opencv():
    """Imports OpenCV, bound to one thread because samples are made in parallel, and returns it.

    Raises:
        ImportError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise ImportError("the input pipeline needs OpenCV: pip install 'jaxpose[data]'") from None
    cv2.setNumThreads(1)
    return cv2
