"""One process a folder of a bucket."""

from __future__ import annotations

import _thread
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxpose.buckets import store

logger = logging.getLogger("jaxpose.buckets")
LEASE_S = 60.0
"""A lock that is not renewed for this time belongs to nobody: its owner was killed, or cannot reach the bucket."""


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
    lock = _Lock(f"{store.url_of(url)}/lock", what, lease_s)
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
                fs, path = store.filesystem(self.url)
                store.persistently(lambda: fs.rm_file(path), f"{self.url} cannot be removed")
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
        fs, path = store.filesystem(self.url)
        try:
            facts = store.persistently(lambda: fs.info(path), f"{self.url} cannot be read")
            holder = json.loads(store.persistently(lambda: fs.cat_file(path), f"{self.url} cannot be read"))
        except FileNotFoundError:
            return {}, None
        except ValueError:
            holder = {}
        return holder if isinstance(holder, dict) else {}, str(
            facts.get("generation") or facts.get("LastModified") or "1"
        )

    def _write(self, expected: str) -> bool:
        """Writes the lock if its generation is `expected`, "0" for none; returns whether it was."""
        fs, path = store.filesystem(self.url)
        content = json.dumps(self.owner | {"time": time.time()}).encode()
        if not self.url.startswith("gs:"):
            if self._read()[1] not in (None, expected) and expected != "0":
                return False
            store.put(self.url, content)
            self.generation = self._read()[1] or "0"
            return True
        bucket, _, key = path.partition("/")

        def upload() -> Any:
            return fs.call(
                "POST", f"{fs._location}/upload/storage/v1/b/{bucket}/o", uploadType="media", name=key, data=content,
                ifGenerationMatch=expected, headers={"Content-Type": "application/octet-stream"}, json_out=True,
            )  # fmt: skip

        try:
            self.generation = str(store.persistently(upload, f"{self.url} cannot be written")["generation"])
        except FileExistsError:  # what gcsfs makes of 412, another generation
            return False
        return True
