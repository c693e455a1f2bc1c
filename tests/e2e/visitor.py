"""Visitors of previews: HTTP to the proxy of a daemon, with the Host that a browser would send."""

from __future__ import annotations

import http.client
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.e2e.client import Answer, Sandbox

PATIENCE = 60.0


class Preview(NamedTuple):
    """An exposed port. ``netloc`` is its host name and port; it is reached on the loopback."""

    url: str
    netloc: str
    port: int
    told: dict[str, Any]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(
        self, path: str = "/", *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            connection.request(method, path, body, {"Host": self.netloc, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def raw(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def expose(sandbox: Sandbox, port: int, **wish: Any) -> Preview:
    """Expose a port; unless told otherwise, wait until something listens."""
    answer = sandbox.request("POST", "/ports", {"port": port, "waitMs": 30_000, **wish})
    assert answer.status in (200, 201), answer
    parts = urlsplit(answer.json["url"])
    assert parts.port is not None
    return Preview(answer.json["url"], parts.netloc, parts.port, answer.json)


def start(sandbox: Sandbox, command: str | list[str], **more: Any) -> None:
    answer = sandbox.request("POST", "/processes", {"command": command, **more})
    assert answer.status == 201, answer


def serve(sandbox: Sandbox, name: str, source: str, interpreter: str = "python3") -> None:
    """Write a server into the sandbox and start it."""
    assert sandbox.write(f"/srv/{name}", source).status == 200
    start(sandbox, f"exec {interpreter} /srv/{name} >/tmp/{name}.log 2>&1")
