"""The other side of the proxy, played by tests: a server as a sandbox might have it, and its port."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio

from nsbox.host import dialled
from nsbox.model.ports import Port
from nsbox.plan.previews import form
from nsbox.proxy.edge import Bounds, Edge
from nsbox.proxy.server import Connections, serve
from nsbox.service.ports import Found, Reach

A, B = "sb_" + "a" * 32, "sb_" + "b" * 32
HOST_A, HOST_B = f"sb-{'a' * 32}-80.localhost", f"sb-{'b' * 32}-80.localhost"
KEY = "a-preset-key-of-16"

Behaviour = Callable[[trio.SocketStream], Awaitable[None]]


class FakePorts:
    """Both sandboxes expose port 80. ``behaviour`` is what serves a connection, None when nothing listens."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.changed = trio.Event()
        self.behaviour: dict[str, Behaviour | None] = {A: None, B: None}
        self.reach: dict[str, Reach] = {A: Reach.OPEN, B: Reach.OPEN}
        self.public = True
        self.dials: list[str] = []
        #: Those that are resumed when a visitor comes; and for whom that was asked.
        self.wakes: set[str] = set()
        self.woken: list[str] = []
        #: What is done to the sandbox's end before it is handed over, as an init that was taken over might.
        self.tamper: Callable[[socket.socket], None] = lambda sock: None

    def find(self, sandbox_id: str, number: int) -> Found:
        reach = self.reach.get(sandbox_id, Reach.NO_SANDBOX)
        if reach in (Reach.OPEN, Reach.PAUSED):
            if number != 80:
                return Found(Reach.NOT_EXPOSED)
            return Found(reach, Port(port=80, public=self.public))
        return Found(reach)

    def admits(self, token: str, sandbox_id: str, port: Port) -> int | None:
        return 2_000_000_000 if token == "T" else None

    async def wake(self, sandbox_id: str, number: int) -> Found:
        self.woken.append(sandbox_id)
        await trio.lowlevel.checkpoint()
        if sandbox_id in self.wakes and self.reach[sandbox_id] is Reach.PAUSED:
            self.reach[sandbox_id] = Reach.OPEN
        return self.find(sandbox_id, number)

    async def dial(self, sandbox_id: str, number: int) -> socket.socket:
        self.dials.append(sandbox_id)
        behaviour = self.behaviour[sandbox_id]
        await trio.lowlevel.checkpoint()
        if behaviour is None:
            raise dialled.NotListening
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        ours.setblocking(False)
        self.tamper(ours)
        theirs.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self._nursery.start_soon(self._serve, behaviour, stream)
        return ours

    @staticmethod
    async def _serve(behaviour: Behaviour, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await behaviour(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass


class Proxy:
    """A running proxy."""

    def __init__(self, nursery: trio.Nursery, **bounds: float) -> None:
        defaults = {
            "head_s": 5, "keep_alive_s": 5, "idle_s": 30, "connections": 100, "sandbox_connections": 50,
            "grace_s": 1, "stall_s": 5, "linger_s": 1,
        }  # fmt: skip
        self.ports = FakePorts(nursery)
        limits = Bounds(**{**defaults, **bounds})  # type: ignore[arg-type]
        self.edge = Edge(self.ports, form("", 8081), (), lambda presented: presented == KEY, limits)
        self.connections = Connections(self.edge)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.scope = trio.CancelScope()
        self.stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            await serve(self.listener, self.edge, self.connections, task_status=task_status)
        self.stopped.set()

    async def connect(self) -> Visitor:
        return Visitor(await trio.open_tcp_stream(*self.address))

    async def ask(self, data: bytes) -> bytes:
        """Everything that comes back for these bytes, until the proxy closes."""
        async with await self.connect() as visitor:
            await visitor.send(data)
            return await visitor.all()


class Visitor:
    """A client of a few lines."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def __aenter__(self) -> Visitor:
        return self

    async def __aexit__(self, *error: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def get(self, path: str = "/", host: str = HOST_A, method: str = "GET", fields: str = "") -> None:
        await self.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())

    async def until(self, mark: bytes) -> bytes:
        """What comes up to and with ``mark``."""
        with trio.fail_after(10):
            while mark not in self.buffer:
                data = await self.stream.receive_some(65_536)
                assert data, f"closed after {self.buffer!r}"
                self.buffer += data
        end = self.buffer.index(mark) + len(mark)
        found, self.buffer = self.buffer[:end], self.buffer[end:]
        return found

    async def all(self) -> bytes:
        """What comes until the end."""
        with trio.fail_after(15):
            while True:
                try:
                    data = await self.stream.receive_some(65_536)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    found, self.buffer = self.buffer, b""
                    return found
                self.buffer += data


class Origin:
    """A server that answers each request of a connection with what ``answer`` makes of its head."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.heads: list[bytes] = []

    async def __call__(self, stream: trio.SocketStream) -> None:
        visitor = Visitor(stream)
        while True:
            try:
                head = await visitor.until(b"\r\n\r\n")
            except AssertionError:
                return
            self.heads.append(head)
            length = next(
                (int(x[15:]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:")), 0
            )
            while len(visitor.buffer) < length:
                visitor.buffer += await stream.receive_some(65_536)
            body, visitor.buffer = visitor.buffer[:length], visitor.buffer[length:]
            await stream.send_all(self.answer(head + body))


def ok(body: bytes = b"hello", fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
