"""A folder of this machine that stands for one of a bucket, which follows what changes in it."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxpose.buckets import copies, store

logger = logging.getLogger("jaxpose.buckets")
PUSH_S = 30.0
_MIRRORS: dict[Path, str] = {}


def origin(path: str | os.PathLike) -> Any:
    """Returns the path object of what a path of this machine is a copy of (`Mirror`); of the path itself if it is none."""
    if not store.is_url(path):
        here = Path(path).absolute()
        for folder in (here, *here.parents):
            if folder in _MIRRORS:
                return (
                    store.place(_MIRRORS[folder]) / here.relative_to(folder)
                    if here != folder
                    else store.place(_MIRRORS[folder])
                )
    return store.place(path)


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
        fs, path = store.filesystem(self.url)
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
                    store.put(f"{self.url}/{name}", content)
                self._sent[name] = mark

    def _push_part(self, name: str, file: Path) -> None:
        start = self._grown.get(name, 0)
        with file.open("rb") as opened:
            opened.seek(start)
            content = opened.read()
        content = content[: content.rfind(b"\n") + 1]
        if content:
            store.put(f"{self.url}/{_parts(name)}/{start:012d}", content)
            self._grown[name] = start + len(content)
            self._in_parts.add(name)

    def _join_parts(self) -> None:
        fs, path = store.filesystem(self.url)
        for name, file in self._files():
            if name in self._in_parts:
                store.put(f"{self.url}/{name}", file.read_bytes())
                # Whoever dies here leaves parts that the whole file covers.
                old = [f"{path}/{part}" for part in store.digests(self.url) if part.startswith(_parts(name) + "/")]
                for part in old:
                    store.persistently(
                        lambda part=part: fs.rm_file(part), f"{self.url}/{_parts(name)} cannot be removed"
                    )

    def _pull(self) -> None:
        remote = store.digests(self.url)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, file in self._files():  # another run's, or from before a kill: the bucket decides
            if name not in remote:
                file.unlink()
        here = {name: [file.stat().st_size, store.md5(file)] for name, file in self._files()}
        copies.write_json(self.folder / copies.FETCHED, here)
        wanted = {name for name in remote if not self._is_left(name) and not PART.search(name)}
        if wanted:
            copies.fetch(self.url, self.folder, where=wanted.__contains__, progress=False)
        for part in sorted(name for name in remote if PART.search(name)):
            file, start = self.folder / PART.sub("", part), int(part.rpartition("/")[2])
            if start >= (file.stat().st_size if file.exists() else 0):
                with file.open("ab") as opened:
                    opened.write(store.get(f"{self.url}/{part}"))
        for name, file in self._files():
            facts = file.stat()
            self._sent[name], self._grown[name] = (facts.st_size, facts.st_mtime_ns), facts.st_size

    def _files(self) -> Iterator[tuple[str, Path]]:
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if file.is_file() and not self._is_left(name):
                yield name, file

    def _is_left(self, name: str) -> bool:
        return name.split("/")[0] in self.leave or copies.is_private(name)

    def _repeat(self) -> None:
        while not self._stop.wait(self.seconds):
            try:
                self.push()
            except OSError as error:  # the next time, or closing, sends it
                logger.warning("%s; it is tried again", error)


PART = re.compile(r"\.parts/\d{12}$")


def _parts(name: str) -> str:
    return f"{name}.parts"
