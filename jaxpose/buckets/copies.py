"""Folders that are copied between a bucket and this machine, with digests."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxpose.buckets import store

CONTENTS = "contents.json"
"""The list of a folder that `send` has copied completely: {file: [bytes, MD5 in hexadecimal]}."""
FETCHED = ".fetched.json"
"""The digests of the files that `fetch` has copied, beside them: {file: [bytes, digest]}."""
CACHE = Path("runs/cache")
"""The folder of copies of this machine, unless a command names another."""
THREADS = 8


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
    url = store.url_of(url)
    remote = {name: facts for name, facts in store.digests(url).items() if where(name)}
    if not remote:
        raise FileNotFoundError(f"{url} does not exist, or is empty: check the URL")
    remote.pop(CONTENTS, None)
    folder.mkdir(parents=True, exist_ok=True)
    with _folder_lock(folder):
        noted = read_json(folder / FETCHED)
        missing = [name for name, facts in remote.items()
                   if noted.get(name) != facts or not has_size(folder / name, facts[0])]  # fmt: skip
        if missing:
            _fetch_all(url, folder, missing, remote, noted, progress=progress)
    return folder


def _fetch_all(
    url: str, folder: Path, missing: list[str], remote: dict[str, list], noted: dict[str, list], *, progress: bool
) -> None:
    from tqdm import tqdm

    fs, path = store.filesystem(url)
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
                    if not has_size(partial, size) or (len(digest) == 32 and store.md5(partial) != digest):
                        raise ConnectionError(f"{url}/{name} arrived with other contents than its digest says")
                    partial.replace(folder / name)
                finally:
                    partial.unlink(missing_ok=True)

            store.persistently(once, f"{url}/{name} cannot be read", is_copy=True)
            with lock:
                noted[name] = remote[name]
                bar.update(size)

        try:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(copy, missing))
        finally:  # also if it is stopped: what has arrived is not copied again
            write_json(folder / FETCHED, noted)


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

    url = store.url_of(url)
    fs, path = store.filesystem(url)
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
    names = [name for name in names if not is_private(name)]
    local = {name: [(folder / name).stat().st_size, store.md5(folder / name)] for name in names}
    remote = store.digests(url)
    new = [name for name in names if remote.get(name) != local[name]]
    with tqdm(
        total=sum(local[n][0] for n in new), desc=f"to {url}", unit="B", unit_scale=True, disable=not progress
    ) as bar:

        def copy(name: str) -> None:
            store.persistently(
                lambda: fs.put_file(str(folder / name), f"{path}/{name}"),
                f"{url}/{name} cannot be written",
                is_copy=True,
            )
            bar.update(local[name][0])

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(copy, new))
    store.put(f"{url}/{CONTENTS}", json.dumps(local).encode())


def is_private(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith(".") for part in parts) or name.endswith(".partial") or parts[-1] in ("lock", CONTENTS)


def has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Any) -> None:
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
    url = store.url_of(url)
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
    if not store.is_url(path):
        return Path(path)
    url = store.url_of(path)
    if store.place(url).is_dir():
        return fetch(url, local_copy(url, cache))
    parent, _, name = url.rpartition("/")
    return fetch(parent, local_copy(parent, cache), where=lambda other: other == name) / name
