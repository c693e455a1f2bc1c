"""HTTP/1.1 over one keep-alive connection, in as few instructions as will do.

What a client library costs is the client's affair. On a host with few CPUs it would be measured as the
daemon's, and in the load tests be taken from it.
"""

from __future__ import annotations

import json
import socket
from typing import Any

BASE = "/api/v1"
_PATIENCE = 90.0


class RefusedError(Exception):
    """The daemon's answer was not the one that the measurement needs."""


class Client:
    """One connection, one request at a time."""

    def __init__(self, address: tuple[str, int], key: str) -> None:
        self._key = key
        self._socket = socket.create_connection(address, _PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + data)
        return self._answer()

    def _answer(self) -> tuple[int, bytes]:
        received = self._more(b"")
        while (end := received.find(b"\r\n\r\n")) < 0:
            received = self._more(received)
        head = received[:end].lower()
        _, found, tail = head.partition(b"\r\ncontent-length:")
        if not found:
            raise RefusedError(f"an answer without a length: {head!r}")
        whole = end + 4 + int(tail.partition(b"\r\n")[0])
        while len(received) < whole:
            received = self._more(received)
        return int(head[9:12]), received[end + 4 : whole]

    def _more(self, received: bytes) -> bytes:
        chunk = self._socket.recv(262_144)
        if not chunk:
            raise RefusedError("the daemon closed the connection")
        return received + chunk

    # ---- what is measured

    def _expect(self, wanted: int, method: str, path: str, body: Any = None) -> bytes:
        status, answer = self.request(method, path, body)
        if status != wanted:
            raise RefusedError(f"{method} {path}: {status} {answer[:300].decode(errors='replace')}")
        return answer

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Anything else that answers with 200 or 201, as its JSON."""
        status, answer = self.request(method, BASE + path, body)
        if status not in (200, 201):
            raise RefusedError(f"{method} {path}: {status} {answer[:300].decode(errors='replace')}")
        return json.loads(answer)

    def health(self) -> None:
        self._expect(200, "GET", f"{BASE}/healthz")

    def create(self, wish: Any = None) -> str:
        return str(json.loads(self._expect(201, "POST", f"{BASE}/sandboxes", wish))["id"])

    def get(self, sandbox: str) -> Any:
        return json.loads(self._expect(200, "GET", f"{BASE}/sandboxes/{sandbox}"))

    def run(self, sandbox: str, command: str | list[str], output: bytes = b'"stdout":""') -> None:
        """Run to the end; the answer must hold ``output`` and tell of a clean exit."""
        answer = self._expect(200, "POST", f"{BASE}/sandboxes/{sandbox}/exec", {"command": command})
        if output not in answer or b'"exitCode":0' not in answer:
            raise RefusedError(f"{command}: {answer[:300].decode(errors='replace')}")

    def write(self, sandbox: str, path: str, content: str) -> None:
        self._expect(200, "PUT", f"{BASE}/sandboxes/{sandbox}/files?path={path}", {"content": content})

    def read(self, sandbox: str, path: str) -> None:
        self._expect(200, "GET", f"{BASE}/sandboxes/{sandbox}/files?path={path}")

    def kill(self, sandbox: str) -> None:
        self._expect(200, "DELETE", f"{BASE}/sandboxes/{sandbox}")
