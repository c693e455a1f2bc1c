"""A registry of the tests' own, on the loopback: honest by default, and lying as a test has it.

A test replaces ``answer``, or adds to ``lies``: by path, a function that is given the handler and answers in
its own way. Every request is noted.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tests.registries.images import MadeImage

Lie = Callable[["Handler"], None]


class Asked(NamedTuple):
    """A request as it came."""

    path: str
    authorization: str | None
    range: str | None


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    registry: FakeRegistry

    def do_GET(self) -> None:
        registry = self.registry
        registry.asked.append(Asked(self.path, self.headers.get("authorization"), self.headers.get("range")))
        path = self.path.partition("?")[0]
        lie = registry.lies.get(path) or registry.lies.get("*")
        try:
            if lie is not None:
                lie(self)
            else:
                self.honest()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_POST = do_GET

    def honest(self) -> None:
        found = self.registry.documents.get(self.path.partition("?")[0])
        if found is None:
            self.reply(404, b'{"errors":[]}')
            return
        data, kind = found
        wanted = self.headers.get("range")
        if wanted:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self.reply(206, data[start:], kind, headers)
        else:
            self.reply(200, data, kind)

    def reply(
        self,
        status: int,
        body: bytes = b"",
        kind: str = "application/octet-stream",
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, where: str, status: int = 307) -> None:
        self.reply(status, headers={"Location": where})

    def hang_up(self) -> None:
        """End the connection, whatever was promised."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    def handle(self) -> None:
        try:
            super().handle()
        except (ssl.SSLError, ConnectionError):
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: tests look at ``asked``."""


class FakeRegistry:
    """``documents``: what is at a path, and its type."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.documents: dict[str, tuple[bytes, str]] = {}
        self.lies: dict[str, Lie] = {}
        self.asked: list[Asked] = []
        self.stopping = threading.Event()
        handler = type("OwnHandler", (Handler,), {"registry": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if tls is not None:
            # The handshake is left to the connection's own thread: a client that refuses it ends that alone.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def push(self, name: str, made: MadeImage, tag: str = "latest") -> str:
        """The image's reference."""
        for digest, blob in made.blobs.items():
            self.documents[f"/v2/{name}/blobs/{digest}"] = blob, "application/octet-stream"
        for wanted in (tag, made.digest):
            self.documents[f"/v2/{name}/manifests/{wanted}"] = made.manifest, made.media_type
        return f"{self.host}/{name}:{tag}"

    def paths(self, part: str = "") -> list[str]:
        return [one.path for one in self.asked if part in one.path]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[FakeRegistry]:
    registry = FakeRegistry(tls)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()
