"""Raw TCP: a port of the host that leads to a port of a sandbox, for what is not HTTP."""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

import trio

from nsbox.host import dialled
from nsbox.host.box import Unresponsive
from nsbox.model.errors import Code, Problem
from nsbox.proxy import relay
from nsbox.proxy.edge import Edge
from nsbox.proxy.relay import ClosedError, Line
from nsbox.proxy.server import Connections, accept_all
from nsbox.service.ports import Reach


class _Published(NamedTuple):
    listener: socket.socket
    host_port: int
    scope: trio.CancelScope


class Tunnel:
    """One connection, from a client to a sandbox."""

    endless = True

    def __init__(self, sock: socket.socket, place: tuple[str, int], edge: Edge) -> None:
        self.place: tuple[str, int] | None = place
        self._place = place
        self._sandbox_id, self._number = place
        self._edge = edge
        self._client = Line(sock, edge.held, self._moved, lambda blocked: None)
        self._upstream: Line | None = None
        self.busy, self.since = True, edge.now
        self.deadline = edge.now + edge.bounds.idle_s

    def _moved(self) -> None:
        self.deadline = self._edge.now + self._edge.bounds.idle_s

    def abort(self) -> None:
        """Close both sides."""
        self._client.close()
        if self._upstream is not None:
            self._upstream.close()

    async def run(self) -> None:
        """Relay both ways until both sides have ended. Raises nothing but cancellation."""
        entered = self._edge.enter(self._sandbox_id)
        try:
            if entered and (await self._edge.ports.wake(*self._place)).reach is Reach.OPEN:
                sock = await self._edge.ports.dial(self._sandbox_id, self._number)
                upstream = self._upstream = Line(sock, self._edge.held, self._moved, lambda blocked: None)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(relay.everything, upstream, self._client)
                    await relay.everything(self._client, upstream)
        except* (ClosedError, Unresponsive, dialled.NotListening):
            pass  # there is no page in TCP: the connection is closed
        finally:
            self.abort()
            if entered:
                self._edge.leave(self._sandbox_id)


class Publisher:
    """The ports of the host that lead into sandboxes. ``nursery`` is the daemon's."""

    def __init__(self, host: str, ports: range, nursery: trio.Nursery) -> None:
        self._host, self._ports, self._nursery = host, ports, nursery
        self._published: dict[tuple[str, int], _Published] = {}
        self._next = 0
        self._connections: Connections | None = None

    def use(self, connections: Connections) -> None:
        """Where connections are counted and looked after. Before anything is published."""
        self._connections = connections

    def open(self, sandbox_id: str, port: int, wanted: int | None) -> int:
        """Listen on a port of the host; which one it is. Idempotent. Raises ``Problem(NO_HOST_PORT)``."""
        place = (sandbox_id, port)
        known = self._published.get(place)
        if known is not None:
            return known.host_port
        listener = self._listen(wanted)
        published = self._published[place] = _Published(
            listener, listener.getsockname()[1], trio.CancelScope()
        )
        self._nursery.start_soon(self._serve, place, published)
        return published.host_port

    def _listen(self, wanted: int | None) -> socket.socket:
        if not self._ports:
            raise Problem(
                Code.NO_HOST_PORT,
                "this nsbox publishes no TCP ports",
                field="protocol",
                remedy="set tcp_ports, e.g. to 30000-30999",
            )
        count = len(self._ports)
        # The next one each time: a client that still knows an address does not meet somebody else's sandbox.
        candidates = [self._ports[(self._next + step) % count] for step in range(count)]
        if wanted is not None and wanted in self._ports:
            candidates = [wanted]
        for number in candidates:
            listener = _bound(self._host, number)
            if listener is not None:
                self._next = (self._ports.index(number) + 1) % count
                return listener
        raise Problem(
            Code.NO_HOST_PORT,
            "no port of the host is free for this",
            remedy="take others away with DELETE, or widen tcp_ports",
        )

    async def _serve(self, place: tuple[str, int], published: _Published) -> None:
        connections = self._connections
        assert connections is not None

        async def handle(sock: socket.socket, address: str) -> None:
            if connections.make_room(address):
                await connections.serve(Tunnel(sock, place, connections.edge), address)
            else:
                dialled.close(sock)

        with published.scope, published.listener:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_gone, place)
                    await accept_all(published.listener, nursery, handle)
            finally:
                trio.lowlevel.notify_closing(published.listener)

    async def _until_gone(self, place: tuple[str, int]) -> None:
        """Nobody else tells when a sandbox has ended."""
        assert self._connections is not None
        ports = self._connections.edge.ports
        while ports.find(*place).reach is not Reach.NO_SANDBOX:
            with trio.move_on_after(1):
                await ports.changed.wait()
        self.close(*place)

    def close(self, sandbox_id: str, port: int) -> None:
        """Stop listening, and cut what came by this way. Idempotent."""
        published = self._published.pop((sandbox_id, port), None)
        if published is not None:
            published.scope.cancel()

    def address(self, host_port: int) -> str:
        """Where clients connect."""
        shown = f"[{self._host}]" if ":" in self._host else self._host
        return f"tcp://{shown}:{host_port}"


def _bound(host: str, port: int) -> socket.socket | None:
    """A listening socket; None when the port is taken."""
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return None
        raise Problem(Code.NO_HOST_PORT, f"tcp_host cannot be listened on: {error.strerror}") from error
    return listener
