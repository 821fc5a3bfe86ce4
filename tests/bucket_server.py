"""A Google Cloud Storage on this machine for the tests: gcp-storage-emulator with conditional writes, and faults on request.

    with bucket_server.running() as server:
        server.fault = bucket_server.some(3, "503")     # the third request, and every third after it, is answered so

The emulator ignores ``ifGenerationMatch``, which is what a lock rests on, names no generation when an object is read, and forgets
an upload as soon as it is finished; here all three are as in the real store. Faults: "503" an error that passes; "slow"
an answer after half a second; "cut" the connection ends in the middle of the request's body, and nothing is done; "lost" the request
is done, and the connection ends before the answer.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.storage import Storage

from jaxpose import buckets as ours

BUCKET = "pod"
Fault = Callable[[str, str], str | None]
logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)


def some(every: int, *kinds: str, methods: tuple[str, ...] = ("GET", "POST", "PUT", "DELETE")) -> Fault:
    """Returns the fault that hits each request whose number is a multiple of `every`, with the kinds in turn."""
    numbers, turns = itertools.count(1), itertools.cycle(kinds)
    return lambda method, path: next(turns) if method in methods and next(numbers) % every == 0 else None


class Server(ThreadingHTTPServer):
    """The server; `fault` is asked about every request, `requests` are those so far."""

    daemon_threads = True

    def __init__(self):
        self.storage, self.one, self.requests = Storage(use_memory_fs=True), threading.RLock(), []
        self.fault: Fault = lambda method, path: None
        self.answers: dict[str, bytes] = {}
        buckets.create_bucket(BUCKET, self.storage)
        super().__init__(("127.0.0.1", 0), partial(Handler, self.storage))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What gcsfs and tensorstore must be told."""
        return {"STORAGE_EMULATOR_HOST": self.url, "TENSORSTORE_GCS_HTTP_URL": self.url}

    def handle_error(self, request, client_address) -> None:
        pass  # clients that are killed, and our own cuts


class Handler(emulator.RequestHandler):
    """The emulator's handler behind the faults."""

    def do(self, method: str) -> None:
        server = self.server
        server.requests.append((method, self.path))
        fault = server.fault(method, self.path)
        if fault == "slow":
            time.sleep(0.5)
        if fault == "cut":
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self._hang_up()
            return
        if fault in ("401", "503"):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(int(fault), "backend error" if fault == "503" else "invalid credentials")
            return
        with server.one:
            if not self._is_expected_generation():
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._answer(412, "conditionNotMet")
                return
            if answer := server.answers.pop(
                self.path, None
            ):  # a finished upload is asked again: the emulator has forgotten it
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.wfile.write(answer)
                return
            connection, self.wfile = self.wfile, io.BytesIO()
            getattr(super(), f"do_{method}")()
            answer, self.wfile = self.wfile.getvalue(), connection
            if method == "GET" and (
                generation := self._generation(unquote(urlsplit(self.path).path.rpartition("/o/")[2]))
            ):
                answer = answer.replace(b"\r\n", f"\r\nx-goog-generation: {generation}\r\n".encode(), 1)
        if fault == "lost":
            if "upload_id=" in self.path:
                server.answers[self.path] = answer
            self._hang_up()
        else:
            self.wfile.write(answer)

    def _is_expected_generation(self) -> bool:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if "ifGenerationMatch" not in query or "name" not in query:
            return True
        return (self._generation(query["name"][0]) or "0") == query["ifGenerationMatch"][0]

    def _generation(self, name: str) -> str | None:
        try:
            return str(self.server.storage.get_file_obj(BUCKET, name)["generation"])
        except Exception:  # there is no such object
            return None

    def _answer(self, code: int, message: str) -> None:
        body = json.dumps({"error": {"code": code, "message": message, "errors": [{"reason": message}]}}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self):
        self.do("GET")

    def do_POST(self):
        self.do("POST")

    def do_PUT(self):
        self.do("PUT")

    def do_DELETE(self):
        self.do("DELETE")

    def do_PATCH(self):
        self.do("PATCH")


@contextmanager
def running() -> Iterator[Server]:
    """Runs the server, and tells this process and those that it starts about it."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    _forget_clients()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        _forget_clients()


def _forget_clients() -> None:
    """gcsfs and epath remember the address of the server that they met first."""
    ours.place(f"gs://{BUCKET}")  # before gcsfs is imported, which reads its settings then
    import fsspec
    from etils.epath import backend

    fsspec.get_filesystem_class("gcs").clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
