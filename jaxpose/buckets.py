"""Folders in buckets (``gs://``, ``s3://``): copied to and from this machine with digests, locked, and named like paths.

A bucket is no file system. It has no locks, no renames and no appends, and an object is either whole or absent. What a run needs of
those has a replacement here:

    lock      `only_one`: an object that is written only if its generation is the expected one, and renewed while its owner lives
    rename    none is needed: objects appear when they are whole, and the list of a folder's digests comes last (`send`)
    append    `Mirror`: a log grows by parts, which are joined when it is read and replaced by one object at the end

Reading goes the other way: `fetch` copies a folder to this machine once, a file at a time under a name that is not read, checks its
digest, and renames it; whatever is there already and unchanged is not copied again.

`place` turns a URL into a path object with the methods of `pathlib.Path` (`etils.epath`), for whoever reads or writes single files;
orbax takes it too. gs:// needs gcsfs (``pip install "jaxpose[gcs]"``), s3:// s3fs. Only the standard library is imported until then.
"""

from __future__ import annotations

import _thread
import base64
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = [
    "Mirror",
    "digests",
    "fetch",
    "is_url",
    "mirrored",
    "move",
    "only_one",
    "origin",
    "place",
    "put",
    "send",
    "url_of",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")

LIBRARIES = {"gs": ("gcsfs", 'pip install "jaxpose[gcs]"'), "s3": ("s3fs", "pip install s3fs")}
CONTENTS = "contents.json"
"""The list of a folder that `send` has copied completely: {file: [bytes, MD5 in hexadecimal]}."""
FETCHED = ".fetched.json"
"""The digests of the files that `fetch` has copied, beside them: {file: [bytes, digest]}."""
LEASE_S = 60.0
"""A lock that is not renewed for this time belongs to nobody: its owner was killed, or cannot reach the bucket."""
LOG_IN = "log in (gcloud auth application-default login)"
TRIES, FIRST_PAUSE_S = 3, 1.0  # each of gcsfs, which repeats a request five times within half a minute
THREADS = 8
PUSH_S = 30.0

CACHE = Path("runs/cache")
"""The folder of copies of this machine, unless a command names another."""

_MIRRORS: dict[Path, str] = {}


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
    _require(url)
    from etils import epath

    return epath.Path(url)


def origin(path: str | os.PathLike) -> Any:
    """Returns the path object of what a path of this machine is a copy of (`Mirror`); of the path itself if it is none."""
    if not is_url(path):
        here = Path(path).absolute()
        for folder in (here, *here.parents):
            if folder in _MIRRORS:
                return place(_MIRRORS[folder]) / here.relative_to(folder) if here != folder else place(_MIRRORS[folder])
    return place(path)


def _require(url: str) -> None:
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


def _filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Returns the file system of a URL, and the path within it, "bucket/folder"."""
    _require(url)
    import fsspec

    scheme, _, path = url.partition("://")
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
        yield
    except Exception as error:  # the libraries of HTTP have many types
        if not is_url(path) or isinstance(error, FileNotFoundError | ImportError):
            raise
        if _is_refused(error):
            raise PermissionError(f"{path} cannot be read: {error}: {LOG_IN}") from None
        raise OSError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _persistently(work: Callable[[], T], what: str) -> T:
    """Returns work(), repeated with growing pauses while the bucket fails for reasons that pass.

    Raises:
        FileNotFoundError, PermissionError: As `work`.
        OSError: It failed to the end.
    """
    pause = FIRST_PAUSE_S
    for attempt in range(1, TRIES + 1):
        try:
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
    fs, path = _filesystem(url)
    # "a/run" would list "a/run_2" too.
    try:
        entries = _persistently(lambda: fs.find(path + "/", detail=True), f"{url} cannot be listed")
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


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def fetch(
    url: str | os.PathLike, folder: Path, *, where: Callable[[str], bool] = lambda name: True, progress: bool = True
) -> Path:
    """Copies a folder of a bucket to this machine, or what is new in it; processes of one machine wait for each other.

    Every file is written under another name, checked by size and digest, and renamed: a process that dies leaves no half file
    behind, and the next one goes on where it stopped.

    Args:
        url: The folder in the bucket. If `send` wrote it, it must be complete, and its own digests are checked.
        folder: The folder on this machine.
        where: Function from a name in the folder to whether it is copied.
        progress: Show a progress bar.

    Returns:
        `folder`.

    Raises:
        FileNotFoundError: There is no such folder.
        OSError: The bucket does not answer, or a file is not what its digest says.
    """
    url = url_of(url)
    remote = {name: facts for name, facts in digests(url).items() if where(name)}
    if not remote:
        raise FileNotFoundError(f"{url} does not exist, or is empty: check the URL")
    remote.pop(CONTENTS, None)
    folder.mkdir(parents=True, exist_ok=True)
    with _folder_lock(folder):
        noted = _read_json(folder / FETCHED)
        missing = [name for name, facts in remote.items()
                   if noted.get(name) != facts or not _has_size(folder / name, facts[0])]  # fmt: skip
        if missing:
            _fetch_all(url, folder, missing, remote, noted, progress=progress)
    return folder


def _fetch_all(
    url: str, folder: Path, missing: list[str], remote: dict[str, list], noted: dict[str, list], *, progress: bool
) -> None:
    from tqdm import tqdm

    fs, path = _filesystem(url)
    total = sum(remote[name][0] for name in missing)
    lock = threading.Lock()
    with tqdm(total=total, desc=f"from {url}", unit="B", unit_scale=True, disable=not progress) as bar:

        def copy(name: str) -> None:
            size, digest = remote[name]

            def once() -> None:
                partial = folder / f"{name}.{os.getpid()}.partial"
                partial.parent.mkdir(parents=True, exist_ok=True)
                try:
                    fs.get_file(f"{path}/{name}", str(partial))
                    if not _has_size(partial, size) or (len(digest) == 32 and _md5(partial) != digest):
                        raise ConnectionError(f"{url}/{name} arrived with other contents than its digest says")
                    partial.replace(folder / name)
                finally:
                    partial.unlink(missing_ok=True)

            _persistently(once, f"{url}/{name} cannot be read")
            with lock:
                noted[name] = remote[name]
                bar.update(size)

        try:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(copy, missing))
        finally:  # also if it is stopped: what has arrived is not copied again
            _write_json(folder / FETCHED, noted)


def send(folder: Path, url: str | os.PathLike, *, progress: bool = True) -> None:
    """Copies a folder into a bucket, or what is new in it, and its list of contents last: until then it counts as incomplete.

    Args:
        folder: The folder on this machine; hidden files, and those that are being written, are left out.
        url: The folder in the bucket.
        progress: Show a progress bar.

    Raises:
        OSError: The bucket does not answer.
    """
    from tqdm import tqdm

    url = url_of(url)
    fs, path = _filesystem(url)
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
    names = [name for name in names if not _is_private(name)]
    local = {name: [(folder / name).stat().st_size, _md5(folder / name)] for name in names}
    remote = digests(url)
    new = [name for name in names if remote.get(name) != local[name]]
    with tqdm(
        total=sum(local[n][0] for n in new), desc=f"to {url}", unit="B", unit_scale=True, disable=not progress
    ) as bar:

        def copy(name: str) -> None:
            _persistently(lambda: fs.put_file(str(folder / name), f"{path}/{name}"), f"{url}/{name} cannot be written")
            bar.update(local[name][0])

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(copy, new))
    put(f"{url}/{CONTENTS}", json.dumps(local).encode())


def move(url: str | os.PathLike, to: str | os.PathLike) -> None:
    """Gives every object below a folder of a bucket another folder, one after another: what dies in between leaves both."""
    (fs, path), (_, target) = _filesystem(url_of(url)), _filesystem(url_of(to))
    for name in digests(url):
        _persistently(
            lambda name=name: fs.cp_file(f"{path}/{name}", f"{target}/{name}"), f"{url}/{name} cannot be copied"
        )
        _persistently(lambda name=name: fs.rm_file(f"{path}/{name}"), f"{url}/{name} cannot be removed")


def _is_private(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith(".") for part in parts) or name.endswith(".partial") or parts[-1] in ("lock", CONTENTS)


def put(url: str | os.PathLike, content: bytes) -> None:
    """Writes an object of a bucket, which appears when it is whole.

    Raises:
        OSError: The bucket does not answer.
    """
    url = url_of(url)
    fs, path = _filesystem(url)
    try:
        _persistently(lambda: fs.pipe_file(path, content), f"{url} cannot be written")
    except FileNotFoundError:
        raise _no_bucket(url) from None


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.replace(path)


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def local_copy(url: str | os.PathLike, cache: Path) -> Path:
    """Returns the place of this machine for a copy of a URL, in a folder of copies; its last part is that of the URL.

    >>> local_copy("gs://bucket/sets/coco", Path("runs/cache")).as_posix()
    'runs/cache/bucket_sets_26a3/coco'
    """
    url = url_of(url)
    parent, _, name = url.rpartition("/")
    place = re.sub(r"[^\w.-]+", "_", parent.partition("://")[2]) or "bucket"
    return cache / f"{place}_{hashlib.sha256(parent.encode()).hexdigest()[:4]}" / name


def here(path: str | os.PathLike, cache: Path) -> Path:
    """Returns a path of this machine: the path itself, or a copy of the folder or the object that a URL names.

    Args:
        path: A path of this machine or a URL.
        cache: The folder of copies.

    Raises:
        FileNotFoundError: There is nothing at the URL.
        OSError: The bucket does not answer.
    """
    if not is_url(path):
        return Path(path)
    url = url_of(path)
    if place(url).is_dir():
        return fetch(url, local_copy(url, cache))
    parent, _, name = url.rpartition("/")
    return fetch(parent, local_copy(parent, cache), where=lambda other: other == name) / name


@contextmanager
def mirrored(folder: Path, url: str) -> Iterator[None]:
    """Makes a folder of this machine stand for one of a bucket in `origin`; nothing is copied."""
    folder = folder.absolute()
    _MIRRORS[folder] = url
    try:
        yield
    finally:
        _MIRRORS.pop(folder, None)


class Mirror:
    """A folder of this machine whose files are those of a folder in a bucket, as a context manager.

    Entering it copies the bucket's files here; while it is open, a thread copies what changes here into the bucket every
    `seconds`, and closing it copies the rest. A file that only grows (``*.jsonl``) goes into the bucket in parts, which closing
    replaces by one object. `origin` of a path inside is its place in the bucket, which is where checkpoints go by themselves.

    Args:
        folder: The folder on this machine.
        url: The folder in the bucket.
        leave: Names at the top of the folder that are not copied, such as "checkpoints".
        writes: Copy files into the bucket, as one process of a run does.
        seconds: Seconds between two copies.

    Raises:
        OSError: The bucket does not answer.
    """

    def __init__(
        self, folder: Path, url: str, *, leave: tuple[str, ...] = (), writes: bool = True, seconds: float = PUSH_S
    ):
        self.folder, self.url, self.leave = folder.absolute(), url, leave
        self.writes, self.seconds = writes, seconds
        self._sent: dict[str, tuple[int, int]] = {}
        self._grown: dict[str, int] = {}  # bytes of a growing file that are in the bucket
        self._in_parts: set[str] = set()  # growing files with parts of this process in the bucket
        self._stop = threading.Event()
        self._busy = threading.Lock()

    def __enter__(self) -> Mirror:
        if self.writes:
            self._pull()
        _MIRRORS[self.folder] = self.url
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        if self.writes:
            self._thread.start()
        return self

    def __exit__(self, kind, value, traceback) -> None:
        _MIRRORS.pop(self.folder, None)
        if not self.writes:
            return
        self._stop.set()
        self._thread.join()
        try:
            self.push()
            self._join_parts()
        except OSError as error:
            if kind is None:  # do not hide an error that is already being raised
                raise
            logger.warning("%s; what was not copied is in %s", error, self.folder)

    def push(self) -> None:
        """Copies what has changed here since the last time into the bucket.

        Raises:
            OSError: The bucket does not answer.
        """
        fs, path = _filesystem(self.url)
        with self._busy:
            for name, file in self._files():
                facts = file.stat()
                mark = (facts.st_size, facts.st_mtime_ns)
                if self._sent.get(name) == mark:
                    continue
                if name.endswith(".jsonl"):
                    self._push_part(name, file)
                else:
                    content = file.read_bytes()
                    put(f"{self.url}/{name}", content)
                self._sent[name] = mark

    def _push_part(self, name: str, file: Path) -> None:
        start = self._grown.get(name, 0)
        with file.open("rb") as opened:
            opened.seek(start)
            content = opened.read()
        content = content[: content.rfind(b"\n") + 1]
        if content:
            put(f"{self.url}/{_parts(name)}/{start:012d}", content)
            self._grown[name] = start + len(content)
            self._in_parts.add(name)

    def _join_parts(self) -> None:
        fs, path = _filesystem(self.url)
        for name, file in self._files():
            if name in self._in_parts:
                put(f"{self.url}/{name}", file.read_bytes())
                # Whoever dies here leaves parts that the whole file covers.
                old = [f"{path}/{part}" for part in digests(self.url) if part.startswith(_parts(name) + "/")]
                for part in old:
                    _persistently(lambda part=part: fs.rm_file(part), f"{self.url}/{_parts(name)} cannot be removed")

    def _pull(self) -> None:
        remote = digests(self.url)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, file in self._files():  # another run's, or from before a kill: the bucket decides
            if name not in remote:
                file.unlink()
        here = {name: [file.stat().st_size, _md5(file)] for name, file in self._files()}
        _write_json(self.folder / FETCHED, here)
        wanted = {name for name in remote if not self._is_left(name) and not PART.search(name)}
        if wanted:
            fetch(self.url, self.folder, where=wanted.__contains__, progress=False)
        for part in sorted(name for name in remote if PART.search(name)):
            file, start = self.folder / PART.sub("", part), int(part.rpartition("/")[2])
            if start >= (file.stat().st_size if file.exists() else 0):
                with file.open("ab") as opened:
                    opened.write(_get(f"{self.url}/{part}"))
        for name, file in self._files():
            facts = file.stat()
            self._sent[name], self._grown[name] = (facts.st_size, facts.st_mtime_ns), facts.st_size

    def _files(self) -> Iterator[tuple[str, Path]]:
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if file.is_file() and not self._is_left(name):
                yield name, file

    def _is_left(self, name: str) -> bool:
        return name.split("/")[0] in self.leave or _is_private(name)

    def _repeat(self) -> None:
        while not self._stop.wait(self.seconds):
            try:
                self.push()
            except OSError as error:  # the next time, or closing, sends it
                logger.warning("%s; it is tried again", error)


PART = re.compile(r"\.parts/\d{12}$")


def _parts(name: str) -> str:
    return f"{name}.parts"


def _get(url: str) -> bytes:
    fs, path = _filesystem(url)
    return _persistently(lambda: fs.cat_file(path), f"{url} cannot be read")


@contextmanager
def only_one(url: str | os.PathLike, *, what: str = "another run", lease_s: float = LEASE_S) -> Iterator[None]:
    """Locks a folder of a bucket against a second process, as long as this one lives and reaches the bucket.

    The lock is the object ``lock`` in the folder. It is created only if there is none, and renewed every quarter of `lease_s`,
    each time only if its generation is the one that was written last. One that is not renewed for `lease_s` is taken over;
    one of a dead process of this machine at once. On gs:// no two processes can hold it. Other stores have no generations:
    there the lock is a sign, and two processes that start within the same second may both see none.

    Args:
        url: The folder.
        what: The owner, for the error message.
        lease_s: Seconds after which a lock that is not renewed belongs to nobody.

    Raises:
        ValueError: Another process holds it.
        OSError: The bucket does not answer.
    """
    lock = _Lock(f"{url_of(url)}/lock", what, lease_s)
    lock.acquire()
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(lease_s / 4):
            if not lock.renew():
                return

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        lock.release()


class _Lock:
    """The object of `only_one`, and the generation that this process wrote last."""

    def __init__(self, url: str, what: str, lease_s: float):
        self.url, self.what, self.lease_s = url, what, lease_s
        self.owner = {"process": os.getpid(), "host": platform.node(), "id": uuid.uuid4().hex}
        self.generation = "0"

    def acquire(self) -> None:
        seen, since = None, time.monotonic()
        while True:
            holder, generation = self._read()
            if generation is None or self._is_dead(holder) or holder.get("id") == self.owner["id"]:
                if self._write(generation or "0"):
                    return
                continue
            if seen is None:
                logger.warning("%s may be in use (process %s on %s): waiting %.0f s for a sign of its owner",
                               self.url.rpartition("/")[0], holder.get("process"), holder.get("host"), self.lease_s)  # fmt: skip
            elif seen != generation:
                raise ValueError(
                    f"{self.what} works in {self.url.rpartition('/')[0]} (process {holder.get('process')} on "
                    f"{holder.get('host')}): wait for it, or give another folder"
                )
            elif time.monotonic() - since > self.lease_s:
                if self._write(generation):
                    return
                continue
            seen = generation
            time.sleep(self.lease_s / 20)

    def renew(self) -> bool:
        """Returns whether the lock still belongs to this process; a bucket that does not answer is asked again later."""
        try:
            is_ours = self._write(self.generation)
        except OSError as error:
            logger.warning("%s", error)
            return True
        if not is_ours and self._read()[0].get("id") == self.owner["id"]:  # its own write, whose answer was lost
            self.generation = self._read()[1] or "0"
            return True
        if not is_ours:
            logger.error("%s was taken over by another process: this one stops", self.url)
            _thread.interrupt_main()
        return is_ours

    def release(self) -> None:
        try:
            if self._read()[0].get("id") == self.owner["id"]:
                fs, path = _filesystem(self.url)
                _persistently(lambda: fs.rm_file(path), f"{self.url} cannot be removed")
        except OSError as error:  # it runs out by itself
            logger.warning("%s", error)

    def _is_dead(self, holder: dict[str, Any]) -> bool:
        if holder.get("host") != platform.node() or not isinstance(holder.get("process"), int):
            return False
        try:
            os.kill(holder["process"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _read(self) -> tuple[dict[str, Any], str | None]:
        """Returns the owner and the generation; ({}, None) if there is no lock."""
        fs, path = _filesystem(self.url)
        try:
            facts = _persistently(lambda: fs.info(path), f"{self.url} cannot be read")
            holder = json.loads(_persistently(lambda: fs.cat_file(path), f"{self.url} cannot be read"))
        except FileNotFoundError:
            return {}, None
        except ValueError:
            holder = {}
        return holder if isinstance(holder, dict) else {}, str(
            facts.get("generation") or facts.get("LastModified") or "1"
        )

    def _write(self, expected: str) -> bool:
        """Writes the lock if its generation is `expected`, "0" for none; returns whether it was."""
        fs, path = _filesystem(self.url)
        content = json.dumps(self.owner | {"time": time.time()}).encode()
        if not self.url.startswith("gs:"):
            if self._read()[1] not in (None, expected) and expected != "0":
                return False
            put(self.url, content)
            self.generation = self._read()[1] or "0"
            return True
        bucket, _, key = path.partition("/")

        def upload() -> Any:
            return fs.call(
                "POST", f"{fs._location}/upload/storage/v1/b/{bucket}/o", uploadType="media", name=key, data=content,
                ifGenerationMatch=expected, headers={"Content-Type": "application/octet-stream"}, json_out=True,
            )  # fmt: skip

        try:
            self.generation = str(_persistently(upload, f"{self.url} cannot be written")["generation"])
        except FileExistsError:  # what gcsfs makes of 412, another generation
            return False
        return True
