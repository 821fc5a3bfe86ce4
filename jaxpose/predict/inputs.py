"""The inputs of `jaxpose predict`: expands names, folders, patterns, cameras and addresses into pictures and videos."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from jaxpose.data.pixels import know_heic
from jaxpose.predict import media

__all__ = ["Live", "expand_inputs", "is_live", "is_video"]

log = logging.getLogger("jaxpose")
ADDRESS = re.compile(r"(rtsp|rtsps|rtmp|http|https|udp|tcp)://", re.IGNORECASE)
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
PICTURE_BRANDS = (*HEIC_BRANDS, b"avif", b"avis")
VIDEO_SIGNS = {0: (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"FLV"), 4: (b"ftyp", b"moov", b"mdat"), 8: (b"AVI ",)}
MAX_NAMES = 5


@dataclass(frozen=True)
class Live:
    """A camera (its number) or the address of a stream, used like the path of a video.

    >>> Live("rtsp://10.0.0.7:554/garden?x=1").stem, Live("0").stem
    ('garden', 'camera_0')
    """

    address: str

    @property
    def source(self) -> int | str:
        """The value that OpenCV opens."""
        return int(self.address) if self.address.isdecimal() else self.address

    @property
    def stem(self) -> str:
        """The beginning of the names of its output files."""
        if self.address.isdecimal():
            return f"camera_{self.address}"
        place = re.sub(r"[?#].*", "", ADDRESS.sub("", self.address)).rstrip("/")
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(place.rpartition("/")[2] or place).stem) or "stream"

    @property
    def name(self) -> str:
        return self.stem

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.address,)

    def resolve(self) -> Live:
        return self

    def __str__(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self.address)  # without user name and password


def is_live(name: str) -> bool:
    """Tells whether an input is a camera's number or an address, not a file.

    >>> is_live("rtsp://camera/1"), is_live("photo.jpg")
    (True, False)
    """
    return bool(ADDRESS.match(name)) or (name.isdecimal() and len(name) <= 3 and not Path(name).exists())


def is_video(file: Path | Live) -> bool:
    """Tells whether an input is a video, by its suffix, or by its content if the suffix is not known."""
    return isinstance(file, Live) or _kind(file) == "video"


def expand_inputs(inputs: Iterable[str], *, recursive: bool = False) -> list[Path | Live]:
    """Expands names, folders and patterns into pictures and videos, each listed once; cameras and addresses are kept.

    In a folder every file is taken that is a picture or a video, whatever its suffix. A warning lists the other files and
    the folders within it.

    Args:
        inputs: Names of files or folders, patterns, numbers of cameras, addresses of streams.
        recursive: Look into nested folders too.

    Raises:
        FileNotFoundError: An input matches no picture or video.
        ValueError: There are no inputs.
    """
    files: dict[Path | Live, None] = {}
    for name in inputs:
        path = Path(name)
        if is_live(name):
            files[Live(name)] = None
            continue
        if path.is_dir():
            some = _in_folder(path, recursive)
        elif path.exists():
            some = [path]
        else:
            some = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file() and _kind(p))
        if not some:
            raise FileNotFoundError(f"{name}: no such file, and no folder or pattern with pictures or videos in it")
        files |= dict.fromkeys(some)
    if not files:
        raise ValueError("no inputs: name pictures, videos or folders after the checkpoint")
    return list(files)


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    """Returns the pictures and videos of a folder; a warning lists everything else."""
    paths = sorted(folder.rglob("*") if recursive else folder.iterdir())
    files = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    kinds = {path: _kind(path) for path in files}
    others = [path for path in files if kinds[path] is None]
    heic = [path for path in others if _is_heic(path)]
    if heic:
        log.warning(
            "%s: %d HEIC pictures are left out, such as %s: to read them, pip install pillow-heif",
            folder,
            len(heic),
            heic[0].name,
        )
    rest = [path for path in others if path not in heic]
    if rest:
        names = ", ".join(path.name for path in rest[:MAX_NAMES]) + (", ..." if len(rest) > MAX_NAMES else "")
        log.warning("%s: %d files are left out, being no pictures or videos: %s", folder, len(rest), names)
    folders = [] if recursive else [path.name for path in paths if path.is_dir()]
    if folders:
        names = ", ".join(folders[:MAX_NAMES]) + (", ..." if len(folders) > MAX_NAMES else "")
        log.warning("%s: %d folders in it are left out (--recursive looks into them): %s", folder, len(folders), names)
    return [path for path in files if kinds[path] is not None]


def _kind(path: Path) -> str | None:
    """Returns "picture", "video", or None."""
    suffix = path.suffix.lower()
    if suffix in media.PICTURES | media.VIDEOS:
        return "video" if suffix in media.VIDEOS else "picture"
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head[4:8] == b"ftyp" and head[8:12] in PICTURE_BRANDS:
            know_heic()
        elif any(head[at : at + len(sign)] == sign for at, signs in VIDEO_SIGNS.items() for sign in signs):
            return "video"
        with Image.open(path):
            return "picture"
    except Exception:  # many exception types: the file may be anything
        return None


def _is_heic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS


def limited(frames: Iterable, count: int | None) -> Iterator:
    """Yields the first `count` frames of a stream, or all of them for None. Ctrl-C ends a stream without an error."""
    try:
        for i, frame in enumerate(frames):
            if count is not None and i >= count:
                return
            yield frame
    except KeyboardInterrupt:
        log.warning("stopped; frames that were read so far are kept")
