"""A plain HTTP client over trio and h11, and raw connections, for a server on the loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import h11
import trio

from nsbox.api.app import create_app
from nsbox.api.server import serve
from nsbox.settings import Settings
from tests import conformance
from tests.unit.api.fakes import KEY, Fakes

_check = conformance.checker(ids=False)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/problem+json", self
        document = self.json()
        assert document["status"] == self.status
        assert {"type", "title", "status", "detail", "code"} <= set(document)
        return str(document["code"])


class Server(NamedTuple):
    port: int
    fakes: Fakes
    nursery: trio.Nursery

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, method: str, target: str, body: Any = None, **more: Any) -> Answer:
        """One request on a connection of its own. A body that is no bytes is sent as JSON."""
        async with await self.connect() as stream:
            answer = await ask(stream, method, target, body, **more)
        if answer.status < 400:  # fakes raise what no real service does
            _check(method, _full(target), *answer)
        return answer

    async def sandbox(self) -> str:
        answer = await self.ask("POST", "/sandboxes")
        assert answer.status == 201
        return str(answer.json()["id"])


def head(method: str, target: str, headers: dict[str, str], key: str | None = KEY) -> bytes:
    lines = [f"{method} {_full(target)} HTTP/1.1", "Host: x"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _full(target: str) -> str:
    if target.startswith("//"):
        return target[1:]
    return "/api/v1" + target if target.startswith("/") and not target.startswith("/healthz") else target


async def ask(
    stream: trio.SocketStream,
    method: str,
    target: str,
    body: Any = None,
    *,
    key: str | None = KEY,
    headers: dict[str, str] | None = None,
    chunked: bool = False,
) -> Answer:
    sent = {} if headers is None else dict(headers)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    if chunked:
        sent["Transfer-Encoding"] = "chunked"
        framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(body)) + b"0\r\n\r\n"
    else:
        framed = body or b""
        if body is not None:
            sent["Content-Length"] = str(len(body))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, stream, head(method, target, sent, key) + framed)
        return await read_answer(stream, method)


def _parts(body: bytes) -> list[bytes]:
    return [body[start : start + 65536] for start in range(0, len(body), 65536)]


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        pass


async def read_answer(stream: trio.SocketStream, method: str = "GET") -> Answer:
    """Raises ``h11.RemoteProtocolError`` when the answer is cut short."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    response: h11.Response | None = None
    body = bytearray()
    with trio.fail_after(10):
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
    assert response is not None
    headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}
    return Answer(response.status_code, headers, bytes(body))


def listening_socket() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@asynccontextmanager
async def running(settings: Settings | None = None, fakes: Fakes | None = None) -> AsyncIterator[Server]:
    """The whole HTTP layer on a socket of the loopback."""
    fakes = fakes or Fakes()
    settings = settings or Settings(state_dir="/nonexistent", shutdown_grace_s=1)
    sock = listening_socket()
    port = sock.getsockname()[1]
    async with trio.open_nursery() as nursery:

        async def run(task_status: Any) -> None:
            app = create_app(fakes.services, settings)
            nursery.start_soon(app.ongoing.watch)
            await serve(app, sock, settings, task_status=task_status)

        await nursery.start(run)
        yield Server(port, fakes, nursery)
        nursery.cancel_scope.cancel()
