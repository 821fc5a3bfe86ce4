"""Buckets as such: URLs, the libraries that reach them, requests that are repeated, listings with digests, single objects."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

logger = logging.getLogger("jaxpose.buckets")
T = TypeVar("T")

LIBRARIES = {"gs": ("gcsfs", 'pip install "jaxpose[gcs]"'), "s3": ("s3fs", "pip install s3fs")}
LOG_IN = "log in (gcloud auth application-default login)"
TRIES, FIRST_PAUSE_S = 3, 1.0  # each of gcsfs, which repeats a request five times within half a minute
SILENCE_S = 5.0
"""Seconds without an answer after which a sentence says what is waited for."""


def url_of(path: str | os.PathLike) -> str | None:
    """Returns the URL of a folder or file in a bucket; None for a path of this machine.

    >>> url_of("gs://bucket/run"), url_of(Path("gs://bucket/run")), url_of("runs/a")
    ('gs://bucket/run', 'gs://bucket/run', None)
    """
    slashes = "//" if isinstance(path, str) else "//?"  # pathlib has made one of two
    match = re.match(rf"({'|'.join(LIBRARIES)}):{slashes}(.+)", str(path))
    return f"{match[1]}://{match[2].rstrip('/')}" if match else None


def is_url(path: str | os.PathLike) -> bool:
    """Tells whether a path names a folder or file in a bucket."""
    return url_of(path) is not None


def place(path: str | os.PathLike) -> Any:
    """Returns the path object of a path: `pathlib.Path`, or for a URL one with the same methods.

    Args:
        path: A path of this machine, or a URL of a bucket, also as `pathlib` writes it.

    Raises:
        ImportError: The library for this kind of bucket is not installed.

    >>> str(place("runs/a") / "b")
    'runs/a/b'
    """
    url = url_of(path)
    if url is None:
        return Path(path)
    require(url)
    from etils import epath

    return epath.Path(url)


def require(url: str) -> None:
    """Raises an ImportError if the library of a kind of bucket is missing; sets up the libraries otherwise."""
    library, advice = LIBRARIES[url.partition(":")[0]]
    if importlib.util.find_spec(library) is None:
        raise ImportError(f"{url} needs {library}, which is not installed: {advice}")
    # TensorFlow, where it is installed, would be started for every path.
    os.environ.setdefault("EPATH_USE_TF", "false")
    from etils.epath import gpath

    gpath._is_tf_installed.cache_clear()  # it remembers the answer from before, if any path was looked at already
    # Otherwise gcsfs asks a second service what kind of bucket it is, for a minute where that does not answer.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the traceback of an error that it raises as well
    import fsspec

    # Others write to the bucket too (orbax's tensorstore in this process already), so listings must not be remembered.
    settings = fsspec.config.conf.setdefault({"gs": "gcs"}.get(url[:2], url[:2]), {})
    settings.setdefault("use_listings_cache", False)
    if url.startswith("gs:") and os.environ.get("STORAGE_EMULATOR_HOST"):
        settings.setdefault("token", "anon")


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Returns the file system of a URL, and the path within it, "bucket/folder"."""
    require(url)
    import fsspec

    scheme, _, path = url.partition("://")
    with telling(
        url
    ):  # the search for credentials asks a server that only exists on Google Cloud, for a minute and a half
        return fsspec.filesystem({"gs": "gcs"}.get(scheme, scheme)), path


def _is_refused(error: Exception) -> bool:
    return getattr(error, "code", None) in (401, 403) or str(error).startswith("Forbidden")  # gcsfs's form of 403


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Turns the errors of a bucket's libraries into errors that name the path; a path of this machine is left alone.

    Args:
        path: What is read within the block.

    Raises:
        FileNotFoundError: As within the block.
        PermissionError: The bucket refuses access.
        OSError: The bucket does not answer.

    >>> with naming("gs://bucket/run"):
    ...     raise TimeoutError("no answer")
    Traceback (most recent call last):
    OSError: gs://bucket/run cannot be read: TimeoutError: no answer
    """
    try:
        with telling(str(path)) if is_url(path) else nullcontext():
            yield
    except Exception as error:  # the libraries of HTTP have many types
        if not is_url(path) or isinstance(error, FileNotFoundError | ImportError):
            raise
        if _is_refused(error):
            raise PermissionError(f"{path} cannot be read: {error}: {LOG_IN}") from None
        raise OSError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


_TELLING = threading.local()


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Says after `SILENCE_S`, and then every half minute, that a bucket has not answered yet; within another one, nothing.

    Args:
        what: What is waited for, a URL.
    """
    if getattr(_TELLING, "active", False):
        yield
        return
    answered, start = threading.Event(), time.monotonic()

    def tell() -> None:
        wait = SILENCE_S
        while not answered.wait(wait):
            logger.warning(
                "%s: no answer for %.0f s, still trying; if it does not come, check the network and the name, or %s",
                what, time.monotonic() - start, LOG_IN,
            )  # fmt: skip
            wait = 30.0

    thread = threading.Thread(target=tell, daemon=True)
    _TELLING.active = True
    thread.start()
    try:
        yield
    finally:
        _TELLING.active = False
        answered.set()
        thread.join()


def persistently(work: Callable[[], T], what: str, *, is_copy: bool = False) -> T:
    """Returns work(), repeated with growing pauses while the bucket fails for reasons that pass.

    Args:
        work: The request.
        what: What cannot be done if it fails, "URL cannot be read".
        is_copy: The request may take long, and has a progress bar; of another one that takes long a sentence tells.

    Raises:
        FileNotFoundError, PermissionError: As `work`.
        OSError: It failed to the end.
    """
    pause = FIRST_PAUSE_S
    for attempt in range(1, TRIES + 1):
        try:
            with nullcontext() if is_copy else telling(what.split(" ")[0]):
                return work()
        except (FileNotFoundError, PermissionError, FileExistsError):
            raise
        except Exception as error:  # the libraries of HTTP have many types
            if _is_refused(error):
                raise PermissionError(f"{what}: {error}: {LOG_IN}") from None
            if attempt == TRIES:
                raise OSError(f"{what}: {type(error).__name__}: {error} (tried {TRIES} times)") from error
            logger.warning(
                "%s: %s: trying again in %.1f s", what, str(error).splitlines()[0] if str(error) else error, pause
            )
        time.sleep(pause)
        pause *= 2
    raise AssertionError


def digests(folder: str | os.PathLike) -> dict[str, list]:
    """Returns [bytes, digest] of every object below a folder of a bucket, from its listing: nothing is read.

    Args:
        folder: The URL.

    Returns:
        By name, relative to the folder. The digest is the store's: an MD5 or a CRC-32C; "" if it names none.

    Raises:
        FileNotFoundError: There is no such bucket; a folder without objects is none, and gives {}.
        ValueError: A name leads out of the folder, as no program of good will writes it.
        OSError: The bucket does not answer.
    """
    url = url_of(folder)
    fs, path = filesystem(url)
    # "a/run" would list "a/run_2" too.
    try:
        entries = persistently(lambda: fs.find(path + "/", detail=True), f"{url} cannot be listed")
    except FileNotFoundError:
        raise _no_bucket(url) from None
    facts = {name.removeprefix(path + "/"): [entry["size"], _digest(entry)] for name, entry in sorted(entries.items())
             if not name.endswith("/") and name.startswith(path + "/")}  # fmt: skip
    if outside := [name for name in facts if name.startswith("/") or ".." in name.split("/")]:
        raise ValueError(
            f"{url} holds the object {outside[0]!r:.100}, whose copy would lie outside of the folder: remove it from the bucket"
        )
    return facts


def _no_bucket(url: str) -> FileNotFoundError:
    bucket = "/".join(url.split("/")[:3])
    return FileNotFoundError(
        f"{url}: there is no bucket {bucket}, or it is hidden from this account: check the name, or create it "
        f"(gcloud storage buckets create {bucket})"
    )


def _digest(entry: dict[str, Any]) -> str:
    if entry.get("md5Hash"):
        return base64.b64decode(entry["md5Hash"]).hex()
    tag = str(entry.get("ETag", "")).strip('"')
    return tag if re.fullmatch("[0-9a-f]{32}", tag) else str(entry.get("crc32c") or tag)


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def put(url: str | os.PathLike, content: bytes) -> None:
    """Writes an object of a bucket, which appears when it is whole.

    Raises:
        OSError: The bucket does not answer.
    """
    url = url_of(url)
    fs, path = filesystem(url)
    try:
        persistently(lambda: fs.pipe_file(path, content), f"{url} cannot be written")
    except FileNotFoundError:
        raise _no_bucket(url) from None


def get(url: str) -> bytes:
    fs, path = filesystem(url)
    return persistently(lambda: fs.cat_file(path), f"{url} cannot be read")


def move(url: str | os.PathLike, to: str | os.PathLike) -> None:
    """Gives every object below a folder of a bucket another folder, one after another: what dies in between leaves both."""
    (fs, path), (_, target) = filesystem(url_of(url)), filesystem(url_of(to))
    for name in digests(url):
        persistently(
            lambda name=name: fs.cp_file(f"{path}/{name}", f"{target}/{name}"), f"{url}/{name} cannot be copied"
        )
        persistently(lambda name=name: fs.rm_file(f"{path}/{name}"), f"{url}/{name} cannot be removed")
