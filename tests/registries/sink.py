"""A registry of the tests' own that takes what is pushed: honest by default, and lying as a test has it.

``lies`` are asked first, by method and a part of the path; each may be asked so many times, and answers in
its own way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.registries.images import OCI_MANIFEST, sha256

Lie = Callable[["Taker"], None]


class Told(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    authorization: str | None


class Taker(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    sink: Sink

    def _any(self) -> None:
        sink = self.sink
        sink.asked.append(Told(self.command, self.path, self.headers.get("authorization")))
        try:
            lie = sink.lie(self.command, self.path)
            if lie is not None:
                lie(self)
            else:
                self.honest()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any

    def honest(self) -> None:
        sink, parts = self.sink, urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match self.command:
            case "HEAD" | "GET":
                data = sink.stored.get(parts.path)
                kind = OCI_MANIFEST if "/manifests/" in parts.path else "application/octet-stream"
                self.reply(404 if data is None else 200, data or b"", {"Content-Type": kind})
            case "POST":
                mounted = sink.stored.get(f"/v2/{asked.get('from')}/blobs/{asked.get('mount')}")
                top = parts.path.removesuffix("uploads/")
                if mounted is not None:
                    sink.stored[f"{top}{asked['mount']}"] = mounted
                    self.reply(201)
                else:
                    number = len(sink.asked)
                    self.reply(202, headers={"Location": f"{parts.path}u{number}?state=s"})
            case "PUT":
                self.put(self.body(), asked)
            case _:
                self.reply(204)

    def put(self, data: bytes, asked: dict[str, str]) -> None:
        sink, path = self.sink, urlsplit(self.path).path
        digest = sha256(data)
        if "/manifests/" in path:
            for name in (path, f"{path.rpartition('/')[0]}/{digest}"):
                sink.stored[name] = data
        elif digest != asked.get("digest"):
            self.reply(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            return
        else:
            sink.stored[f"{path.partition('uploads/')[0]}{digest}"] = data
        self.reply(201, headers={"Docker-Content-Digest": digest})

    def body(self, most: int = 1 << 40) -> bytes:
        """The request's body, or its beginning."""
        return self.rfile.read(min(most, int(self.headers.get("content-length", "0"))))

    def reply(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hang_up(self) -> None:
        """End the connection, whatever was promised."""
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: tests look at ``asked``."""


class Sink:
    """``stored``: what is at a path."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.asked: list[Told] = []
        self._lies: list[tuple[str, str, Lie, int]] = []
        self.stopping = threading.Event()
        handler = type("OwnTaker", (Taker,), {"sink": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def lies(self, method: str, path: str, lie: Lie, times: int = 1 << 30) -> None:
        """``path`` is a part of it."""
        self._lies.append((method, path, lie, times))

    def lie(self, method: str, path: str) -> Lie | None:
        with self._lock:
            for number, (its_method, part, lie, left) in enumerate(self._lies):
                if left and its_method == method and part in path:
                    self._lies[number] = its_method, part, lie, left - 1
                    return lie
        return None

    def count(self, method: str, path: str = "") -> int:
        return sum(one.method == method and path in one.path for one in self.asked)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def taking() -> Iterator[Sink]:
    sink = Sink()
    sink.start()
    try:
        yield sink
    finally:
        sink.stop()
