"""Reads and writes pictures and videos with OpenCV (the extra `data`). `jaxpose.view.overlay` draws poses on them.

A picture is (h, w, 3) uint8 RGB, the way that a person sees it: turned as its EXIF data say, transparent parts white.
Data sets are decoded by the same function, `jaxpose.data.pixels.rgb`; whether their pictures are turned depends on which
version was labelled (`jaxpose.data.orientation`).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxpose.data.pixels import decode_picture, opencv, over_white, rgb

log = logging.getLogger("jaxpose")

MAX_PIXELS = 100_000_000
MAX_SIDE = 32_766  # the limit of OpenCV's warp
PICTURES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
VIDEOS = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif"))


def picture(source: Any, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> np.ndarray:
    """Converts a file, a PIL image or an array to (h, w, 3) uint8 RGB.

    Args:
        source: A path; a PIL image; or an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), uint8 or uint16, RGB(A). Of 16
            bits the upper 8 are kept; grey becomes RGB; transparent parts become white.
        max_pixels: The largest number of pixels; larger pictures raise an error before they are decoded.
        upright: Turn a file as its EXIF data say. False takes the stored pixels, to which COCO's annotations refer.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not an image, or is truncated or too large; the array has another shape or dtype.

    >>> picture(np.full((2, 3), 65535, np.uint16))[0, 0].tolist()
    [255, 255, 255]
    """
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source), max_pixels, upright)
    if isinstance(source, Image.Image):
        return _from_pillow(source, "the image", max_pixels, upright)
    array = np.asarray(source)
    if array.ndim == 2:
        array = array[..., None]
    if (
        array.ndim != 3
        or array.shape[-1] not in (1, 3, 4)
        or 0 in array.shape
        or array.dtype not in (np.uint8, np.uint16)
    ):
        raise ValueError(
            f"an image is {array.dtype} {np.shape(source)}: expected (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of uint8 or "
            "uint16, RGB; floats in 0..1 times 255 and cast, BGR reversed with [..., ::-1]"
        )
    _check_pixels(array.shape[1], array.shape[0], "an image", max_pixels)
    array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    if array.shape[-1] == 4:
        array = over_white(array)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _from_file(path: Path, max_pixels: int, upright: bool) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"image {path} does not exist")
    if not path.is_file():
        raise ValueError(f"image {path} is a folder: name an image file")
    with _our_limit():
        try:
            with Image.open(path) as header:
                size = header.size
        except (OSError, SyntaxError, ValueError):
            size = (0, 0)  # decoding reports the error
        _check_pixels(*size, f"image {path}", max_pixels)
        return _from_pillow(decode_picture(path.read_bytes(), path), f"image {path}", max_pixels, upright)


def _from_pillow(image: Image.Image, name: str, max_pixels: int, upright: bool) -> np.ndarray:
    _check_pixels(*image.size, name, max_pixels)
    with _our_limit():
        return rgb(image, name, upright=upright)


def _check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise ValueError(
            f"{name} has {width}x{height} pixels: OpenCV takes sides up to {MAX_SIDE}, make it smaller or cut it"
        )
    if width * height > max_pixels:
        raise ValueError(
            f"{name} has {width}x{height} pixels, more than {max_pixels:,}: make it smaller, or allow more (max_pixels, --max-pixels)"
        )


@contextmanager
def _our_limit() -> Iterator[None]:
    """Disables Pillow's own limit of pixels, and its warnings about strange metadata."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@dataclass(frozen=True)
class Video:
    """The header of a video, or an open camera or stream. `frames` is 0 if their number is not known."""

    path: Any
    size_wh: tuple[int, int]
    rate: float
    frames: int
    opened: Any = None
    """The reader and the first frame of a camera or a stream, which cannot be opened twice."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the frames (h, w, 3) uint8 RGB, turned as a player would."""
        cv2 = opencv()
        reader, first = self.opened or (_reader(str(self.path)), None)
        try:
            while True:
                success, frame = (True, first) if first is not None else reader.read()
                first = None
                if not success:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            reader.release()


def video(path: str | Path) -> Video:
    """Opens a video; iterate over it for its frames.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a video, or has no frame.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"video {path} does not exist")
    cv2, reader = opencv(), _reader(str(path))
    success, first = reader.read()
    rate, count = reader.get(cv2.CAP_PROP_FPS), reader.get(cv2.CAP_PROP_FRAME_COUNT)
    reader.release()
    if not success:
        raise ValueError(f"video {path} cannot be read: it is truncated, damaged or not a video that OpenCV can decode")
    return Video(path, (first.shape[1], first.shape[0]), _valid_rate(rate), max(int(count), 0))


def stream(source: int | str, name: Any) -> Video:
    """Opens a camera by its number, or a stream by its address (rtsp://, http://, ...); iterate once over its frames.

    Args:
        source: The number or the address to open.
        name: The name in messages and results.

    Raises:
        ValueError: The source does not open, or sends no picture.
    """
    cv2, reader = opencv(), _reader(source)
    success, first = reader.read() if reader.isOpened() else (False, None)
    if not success:
        reader.release()
        kind = f"camera {source}" if isinstance(source, int) else f"stream {name}"
        raise ValueError(f"{kind} sends no picture: is it there, is the address right, and may this machine reach it?")
    size = (first.shape[1], first.shape[0])
    return Video(name, size, _valid_rate(reader.get(cv2.CAP_PROP_FPS)), 0, (reader, first))


def _valid_rate(rate: float) -> float:
    """Returns frames per second; 25 if the header's value is invalid."""
    return float(rate) if np.isfinite(rate) and 0 < rate <= 1000 else 25.0


def _reader(source: int | str) -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # our errors already report its messages
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    cv2 = opencv()
    return cv2.VideoCapture(source) if isinstance(source, int) else cv2.VideoCapture(source, cv2.CAP_FFMPEG)


class VideoWriter:
    """Writes frames to an MP4 file; a context manager.

    The codec is H.264, which browsers play, if the program ffmpeg is installed and can encode it; otherwise MPEG-4 part
    2, which OpenCV's wheels can write and browsers do not play. The file name ends in .partial.mp4 until the file is
    complete.
    """

    def __init__(self, path: str | Path, *, size_wh: Sequence[int], rate: float):
        cv2 = opencv()
        self.path, self.size_wh = Path(path), tuple(size_wh)
        self.partial = self.path.with_suffix(".partial.mp4")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = cv2.VideoWriter(
            str(self.partial), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), rate, self.size_wh
        )
        if not self.writer.isOpened():
            raise OSError(
                f"cannot write {self.path}: is the folder writable, and {size_wh[0]}x{size_wh[1]} a size that MPEG-4 takes?"
            )

    def write(self, frame: np.ndarray) -> None:
        """Appends one frame (h, w, 3) uint8 RGB."""
        if frame.shape != (self.size_wh[1], self.size_wh[0], 3):
            raise ValueError(f"a frame is {frame.shape}, the video is {self.size_wh[0]}x{self.size_wh[1]}")
        self.writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self.writer.release()
        if kind is None:
            as_h264(self.partial)
            self.partial.replace(self.path)
        else:
            self.partial.unlink(missing_ok=True)


def as_h264(path: Path) -> bool:
    """Encodes an MP4 file as H.264, in place; returns whether that was done. If it cannot be, a hint is logged once."""
    program = h264_program()
    if program is None:
        return False
    encoded = path.with_suffix(".h264.mp4")
    # Chroma at half resolution needs an even number of pixels each way; a last row or column is repeated.
    even = "pad=ceil(iw/2)*2:ceil(ih/2)*2"
    command = [program, "-y", "-v", "error", "-i", str(path), "-vf", even, "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    command += ["-crf", "18", "-movflags", "+faststart", str(encoded)]
    try:
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        encoded.replace(path)
    except (OSError, subprocess.CalledProcessError) as error:
        encoded.unlink(missing_ok=True)
        log.warning("%s stays MPEG-4 part 2, which browsers do not play: ffmpeg failed (%s)", path, error)
        return False
    return True


@lru_cache(maxsize=1)
def h264_program() -> str | None:
    """Returns the path of ffmpeg if it is installed and encodes H.264; else None, after a hint in the log."""
    program = shutil.which("ffmpeg")
    if program is not None:
        listed = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False)
        if " libx264 " in listed.stdout:
            return program
    log.warning(
        "overlays of videos are MPEG-4 part 2, which browsers do not play: install ffmpeg with libx264 for H.264"
    )
    return None


def save_picture(image: np.ndarray, path: str | Path) -> Path:
    """Writes (h, w, 3) uint8 RGB; the suffix selects the format."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 92} if path.suffix in (".jpg", ".jpeg") else {}))
    return path
