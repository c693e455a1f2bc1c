"""An HTTP server that breaks off where it is told to: after so many bytes of an answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Seen(NamedTuple):
    """A request, as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


def answer(
    body: bytes, status: int = 200, kind: str = "application/json", *, chunked: bool = False, **more: str
) -> bytes:
    """A whole answer. Headers by keyword: ``retry_after="1"``."""
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    if not chunked:
        lines.append(f"content-length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body
    lines.append("transfer-encoding: chunked")
    pieces = [body[start : start + 40] for start in range(0, len(body), 40)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join([*lines, "", ""]).encode() + framed + b"0\r\n\r\n"


class CuttingServer:
    """``reply`` says what to answer. Of the first answers only so many bytes are sent as ``cuts`` says, and
    then the connection is closed; None, and when there are no more: the whole."""

    def __init__(self, reply: Callable[[Seen], bytes], cuts: list[int | None] | None = None) -> None:
        self.reply, self.cuts = reply, list(cuts or [])
        self.seen: list[Seen] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
                thread = threading.Thread(target=self._serve, args=[connection])
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = connection.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                first, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body, buffer = self._body(connection, headers, buffer)
                method, target, _ = first.split()
                with self._lock:
                    self.seen.append(Seen(method, target, headers, body))
                    cut = self.cuts.pop(0) if self.cuts else None
                whole = self.reply(self.seen[-1])
                connection.sendall(whole if cut is None else whole[:cut])
                if cut is not None:
                    return
        with self._lock:
            self._open.discard(connection)

    @staticmethod
    def _body(connection: socket.socket, headers: dict[str, str], buffer: bytes) -> tuple[bytes, bytes]:
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                while b"\r\n" not in buffer:
                    buffer += connection.recv(65536)
                line, _, buffer = buffer.partition(b"\r\n")
                size = int(line, 16)
                while len(buffer) < size + 2:
                    buffer += connection.recv(65536)
                body, buffer = body + buffer[:size], buffer[size + 2 :]
                if not size:
                    return body, buffer
        length = int(headers.get("content-length", 0))
        while len(buffer) < length:
            data = connection.recv(65536)
            if not data:
                raise OSError("the client left")
            buffer += data
        return buffer[:length], buffer[length:]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


@contextlib.contextmanager
def cutting(reply: Callable[[Seen], bytes], cuts: list[int | None] | None = None) -> Iterator[CuttingServer]:
    server = CuttingServer(reply, cuts)
    try:
        yield server
    finally:
        server.close()
