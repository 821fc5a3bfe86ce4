"""The single place for file access: JSON, atomic writes, checksums, and paths that are not URLs.

JSON and checksums are read and written in buckets too (`jaxpose.buckets`). Only the standard library is imported, so that
every module of the package can use it. Errors name the file, its
contents, what was expected and what to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpose import buckets

__all__ = [
    "is_number",
    "local",
    "read_events",
    "read_json",
    "read_json_lines",
    "sha256",
    "size_and_crc32",
    "to_json",
    "write_json",
    "write_whole",
]

SCHEMES = "gs|s3|https?|ftp|file|hdfs|az|abfss?"
"""Schemes of URLs, recognised after `pathlib` has turned ``gs://bucket`` into ``gs:/bucket``."""


def read_json(path: str | os.PathLike, what: str, *, advice: str = "") -> Any:
    """Reads a JSON file in UTF-8, with or without a byte order mark, UTF-16 or UTF-32.

    Args:
        path: The file.
        what: The kind of file, for error messages, such as "result file" or "file of boxes (--boxes)".
        advice: Advice for a file that does not hold JSON; by default the message asks whether the file is complete.

    Returns:
        The value in the file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The path is a folder, or the file is empty or does not hold JSON.

    >>> read_json("absent.json", "result file")
    Traceback (most recent call last):
    FileNotFoundError: no result file found: absent.json does not exist; check the path
    """
    path = buckets.place(path)
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"no {what} found: {path} does not exist; check the path") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, expected a {what}: give the path of the file in it") from None
    if not content.strip():
        raise ValueError(f"{path} is empty, not a JSON file: expected a {what}; {advice or 'is it complete?'}")
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        fault = f"line {error.lineno}, column {error.colno} is not JSON ({error.msg})"
    except UnicodeDecodeError as error:
        fault = f"byte {error.start} is not JSON in {error.encoding} ({error.reason})"
    except RecursionError:
        fault = "its lists and objects are nested too deeply"
    except ValueError as error:  # an integer of thousands of digits
        fault = str(error)
    raise ValueError(f"{path} is not a JSON file: {fault}; {advice or f'is the {what} complete?'}")


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file atomically, creating its folder: readers see either the old file or the complete new one.

    Args:
        path: The file, which is replaced if it exists.
        content: All of its bytes.

    Raises:
        OSError: The file or its folder cannot be written.
    """
    path = buckets.place(path)
    if not isinstance(path, Path):  # an object appears in its bucket when it is whole
        buckets.put(path, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any, *, indent: int | None = None, allow_nan: bool = False) -> None:
    """Writes a value as JSON in UTF-8, atomically (`write_whole`).

    Args:
        path: The file.
        value: Any value that JSON can hold.
        indent: Spaces per level of nesting; None writes one line without spaces.
        allow_nan: Write NaN and infinities as Python reads them; they are not JSON.

    Raises:
        ValueError: The value holds NaN or an infinity, and `allow_nan` is false.
        OSError: The file or its folder cannot be written.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "new folder" / "value.json"
    >>> write_json(path, {"AP": 0.5, "names": ["nose"]})
    >>> path.read_text(), read_json(path, "value")
    ('{"AP":0.5,"names":["nose"]}', {'AP': 0.5, 'names': ['nose']})
    """
    write_whole(path, to_json(value, path, indent=indent, allow_nan=allow_nan))


def to_json(value: Any, path: str | os.PathLike, *, indent: int | None = None, allow_nan: bool = False) -> bytes:
    """Returns the bytes of a JSON file, as `write_json` writes it.

    Args:
        value: Any value that JSON can hold.
        path: The file, for the message.
        indent: The same as in `write_json`.
        allow_nan: The same as in `write_json`.

    Raises:
        ValueError: The value holds NaN or an infinity, and `allow_nan` is false.

    >>> to_json([1, 2], "list.json")
    b'[1,2]'
    """
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(value, indent=indent, separators=separators, allow_nan=allow_nan)
    except ValueError as error:
        raise ValueError(f"{path} cannot be written as JSON: {error}") from None
    return text.encode() + (b"" if indent is None else b"\n")


def read_json_lines(path: str | os.PathLike) -> Iterator[Any]:
    """Reads a file to which one JSON value per line was appended.

    A line that cannot be read, such as the last one of a run that was killed while writing, is left out.

    Args:
        path: The file.

    Yields:
        The values; none if there is no such file.

    >>> list(read_json_lines("no_such_file"))
    []
    """
    path = buckets.place(path)
    for line in path.read_bytes().decode("utf-8", "replace").splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            continue


def read_events(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads the events of a run's log.jsonl: one JSON object with "event" and "step" per line.

    A resumed run repeats steps: the later event of the same kind and step counts. Lines that are not events are left out.

    Args:
        path: The log.

    Returns:
        The events in the order of their steps; an empty list if there is no such file.

    >>> read_events("no_such_file")
    []
    """
    last: dict[tuple[str, float], dict[str, Any]] = {}
    for event in read_json_lines(path):
        try:
            last[event["event"], float(event["step"])] = event
        except (ValueError, TypeError, KeyError):
            continue
    return sorted(last.values(), key=lambda event: float(event["step"]))


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file in hexadecimal; for a folder, that of the sorted list of its files' names and SHA-256.

    Args:
        path: A file or a folder.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: The file does not exist or cannot be read.

    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp()) / "a"
    >>> write_whole(file, b"text")
    >>> sha256(file)[:8], sha256(file.parent)[:8]
    ('982d9e3e', '8f0dc0c7')
    """
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = [f"{p.relative_to(path).as_posix()} {sha256(p)}\n" for p in sorted(path.rglob("*")) if p.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size_and_crc32(path: str | os.PathLike) -> list[int]:
    """Returns the size in bytes and CRC-32 of a file; checkpoints store them because SHA-256 takes several times longer.

    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp()) / "a"
    >>> write_whole(file, b"text")
    >>> size_and_crc32(file)
    [4, 999008199]
    """
    size = crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def local(path: str | Path) -> Path:
    """Returns the path, unless it is a URL, which `pathlib` would take for a folder named ``gs:``.

    Args:
        path: A file or a folder.

    Raises:
        ValueError: The path is a URL, as a string or as pathlib converts it.

    >>> str(local("runs/data")), str(local("coco:/2017"))
    ('runs/data', 'coco:/2017')
    >>> local(Path("gs://bucket/coco"))
    Traceback (most recent call last):
    ValueError: gs:/bucket/coco is a URL, not a path: mount the bucket (gcsfuse, s3fs) and give its folder, or copy it
        here
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://" if isinstance(path, str) else f"({SCHEMES}):/", str(path)):
        raise ValueError(
            f"{path} is a URL, not a path: mount the bucket (gcsfuse, s3fs) and give its folder, or copy it here"
        )
    return Path(path)


def is_number(value: Any, *, most: float = sys.float_info.max) -> bool:
    """Tells whether a value read from JSON is a finite number.

    Booleans are not numbers, although Python calls them integers; nor are NaN, infinities, and integers too large for a
    float.

    Args:
        value: Any value.
        most: The largest magnitude that is accepted.

    >>> is_number(1), is_number(1e300), is_number(True), is_number(float("nan")), is_number(10**400), is_number("1")
    (True, True, False, False, False, False)
    >>> is_number(-3, most=2.5)
    False
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -most <= value <= most
