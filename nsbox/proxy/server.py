"""The proxy's listener: accept, cap, look after, and stop in bounded time whatever the visitors do."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from nsbox.host import dialled
from nsbox.proxy import pages
from nsbox.proxy.connection import Connection
from nsbox.proxy.edge import Edge
from nsbox.proxy.pages import Fault
from nsbox.service.ports import Reach

_log = logging.getLogger(__name__)

#: How often deadlines are looked at, in seconds: theirs are seconds, too.
_LOOK = 0.5
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Watched(Protocol):
    """A connection that may be cut."""

    deadline: float
    busy: bool
    since: float

    @property
    def endless(self) -> bool:
        """Has no answer that one could wait for: it is a tunnel."""
        ...

    @property
    def place(self) -> tuple[str, int] | None:
        """The sandbox and port it leads to, once that is known."""
        ...

    def abort(self) -> None: ...

    async def run(self) -> None: ...


class Connections:
    """The live connections of the proxy, HTTP and raw."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        #: Each with the share that it is counted in.
        self._live: dict[Watched, str | None] = {}
        self._changed = trio.Event()

    def make_room(self, address: str) -> bool:
        """At the cap the longest idle connection goes: a crowd that asks for nothing keeps nobody out. Where
        it is the share of one client that is full, it goes of that client's."""
        shares = self.edge.shares
        share = shares.name(address)
        if shares.full(share):
            idle = [one for one, its in self._live.items() if its == share and not one.busy]
        elif len(self._live) < self.edge.bounds.connections:
            return True
        else:
            idle = [one for one in self._live if not one.busy]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one.since)
        self._forget(oldest)
        oldest.abort()
        return True

    async def serve(self, one: Watched, address: str) -> None:
        """Run a connection, known to those who may cut it."""
        share = self._live[one] = self.edge.shares.name(address)
        self.edge.shares.enter(share)
        try:
            await one.run()
        finally:
            self._forget(one)
            self._changed.set()

    def _forget(self, one: Watched) -> None:
        """It is over, or as good as that. Idempotent."""
        if one in self._live:
            self.edge.shares.leave(self._live.pop(one))

    async def look_after(self) -> None:
        """Cut what has taken too long, or leads where nobody may go any more. For ever."""
        while True:
            self.edge.now = now = trio.current_time()
            for one in list(self._live):
                if one.deadline < now or not self._still(one):
                    one.abort()
            with trio.move_on_after(_LOOK):
                await self.edge.ports.changed.wait()

    def _still(self, one: Watched) -> bool:
        place = one.place
        if place is None:
            return True
        found = self.edge.ports.find(*place)
        return found.reach in (Reach.OPEN, Reach.PAUSED)

    async def end(self) -> None:
        """Idle connections and tunnels at once; requests in progress when they are done, or the grace time is
        over."""
        for one in list(self._live):
            if not one.busy or one.endless:
                one.abort()
        with trio.move_on_after(self.edge.bounds.grace_s):
            while any(one.busy for one in self._live):
                self._changed = trio.Event()
                with trio.move_on_after(_LOOK):
                    await self._changed.wait()
        for one in list(self._live):
            one.abort()


async def accept_all(
    listener: socket.socket, nursery: trio.Nursery, handle: Callable[[socket.socket, str], Awaitable[None]]
) -> None:
    """Accept for ever. ``handle`` owns the socket."""
    listener.setblocking(False)
    while True:
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(listener)
            continue
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                _log.warning("no connection can be accepted for now: %s", error)
                await trio.sleep(0.1)  # the waiting ones are not lost
            await trio.lowlevel.checkpoint()  # or a client that left before it was accepted
            continue
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        nursery.start_soon(handle, sock, address[0])
        await trio.lowlevel.checkpoint()


async def serve(
    listener: socket.socket,
    edge: Edge,
    connections: Connections,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve previews on a socket that listens already, until cancelled. It is closed when this returns."""

    async def handle(sock: socket.socket, address: str) -> None:
        if not connections.make_room(address):
            _refuse(sock)
            return
        await connections.serve(Connection(sock, address, edge), address)

    async with trio.open_nursery() as outer:
        handlers = await outer.start(_hold, connections)
        with listener:
            task_status.started()
            try:
                await accept_all(listener, handlers, handle)
            finally:
                trio.lowlevel.notify_closing(listener)
                handlers.stop.set()


class _Handlers:
    """Where connections are served: they outlive the order to stop by the grace time."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.stop = trio.Event()

    def start_soon(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        self.nursery.start_soon(work, *arguments)


async def _hold(connections: Connections, *, task_status: trio.TaskStatus[_Handlers]) -> None:
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            handlers = _Handlers(nursery)
            nursery.start_soon(connections.look_after)
            task_status.started(handlers)
            await handlers.stop.wait()
            await connections.end()
            nursery.cancel_scope.cancel()


def _refuse(sock: socket.socket) -> None:
    """One word, if the socket takes it at once, as a new one does."""
    try:
        sock.send(pages.answer(Fault.TOO_MANY, None), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        pass
    dialled.close(sock)
