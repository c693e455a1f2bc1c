"""Serving: accept, cap, and stop in bounded time whatever the clients do."""

from __future__ import annotations

import logging
import socket as stdlib_socket
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from nsbox.api import websocket
from nsbox.api.connection import Connection, IdleTimer
from nsbox.plan import edge
from nsbox.plan.shares import Shares
from nsbox.settings import Settings

_MAX_HEAD_BYTES = 32 * 1024  # a path of 4,095 bytes, percent-encoded, is 12 KiB
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


async def serve(
    app: Any,
    sock: stdlib_socket.socket,
    settings: Settings,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the ASGI application on a socket that listens already, until cancelled.

    Then no connection is accepted any more, idle ones are closed, requests in progress may finish within
    ``shutdown_grace_s``, and what is left is cut. ``sock`` is closed when this returns.
    """
    sock.setblocking(False)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    connections = _Connections(app, settings)
    async with trio.open_nursery() as nursery, listener:
        handlers = await nursery.start(connections.hold)
        try:
            task_status.started()
            await trio.serve_listeners(connections.handle, [listener], handler_nursery=handlers)
        finally:
            connections.stop()


class _Connections:
    """The live connections. ``_idle`` has those that wait for a request, the longest waiting first."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app = ASGIWrapper(app)
        self._settings = settings
        self._config = _config(settings)
        self._context = WorkerContext(None)
        self._stopping = trio.Event()
        self._changed = trio.Event()
        self._shares = Shares(settings.address_connections, edge.trusted(settings.trusted_proxies))
        #: Each with the share that it is counted in.
        self._live: dict[Connection, str | None] = {}
        self._idle: dict[Connection, None] = {}

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close."""
        share = self._shares.name(_peer(stream))
        if not self._make_room(share) or self._stopping.is_set():
            await _refuse(stream)
            return
        timer = IdleTimer(
            self._settings.header_timeout_s,
            self._settings.keep_alive_s,
            lambda idle: self._note(connection, idle),
        )
        connection = Connection(self._app, self._config, self._context, stream, timer)
        self._live[connection] = share
        self._shares.enter(share)
        try:
            await connection.run()
        finally:
            self._forget(connection)
            self._changed.set()

    def _note(self, connection: Connection, idle: bool) -> None:
        self._idle.pop(connection, None)
        if idle and connection in self._live:
            self._idle[connection] = None

    def _make_room(self, share: str | None) -> bool:
        """At the cap the longest idle connection goes: a crowd that sends no requests keeps nobody out. Where
        it is the share of one client that is full, it goes of that client's."""
        if self._shares.full(share):
            oldest = next((one for one in self._idle if self._live.get(one) == share), None)
        elif len(self._live) < self._settings.max_connections:
            return True
        else:
            oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        self._forget(oldest)
        oldest.abort()
        return True

    def _forget(self, connection: Connection) -> None:
        """It is over, or as good as that. Idempotent."""
        self._idle.pop(connection, None)
        if connection in self._live:
            self._shares.leave(self._live.pop(connection))

    def stop(self) -> None:
        """Begin the end. Synchronous, so that it works in a cancelled task."""
        self._stopping.set()

    async def hold(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Keep the nursery of the connections, shielded: whoever cancels ``serve`` means "stop", and requests
        in progress have the grace time."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as handlers:
                task_status.started(handlers)
                await self._stopping.wait()
                await self._context.terminated.set()  # a connection closes after the answer it is giving
                for connection in list(self._idle):
                    connection.abort()
                with trio.move_on_after(self._settings.shutdown_grace_s):
                    await self._none_left()
                # A write to a client that does not read is shielded: closing its socket is what ends it.
                for connection in list(self._live):
                    connection.abort()
                handlers.cancel_scope.cancel()

    async def _none_left(self) -> None:
        while self._live:
            self._changed = trio.Event()
            await self._changed.wait()


def _peer(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""  # it has left already


async def _refuse(stream: trio.SocketStream) -> None:
    with trio.move_on_after(1):
        try:
            await stream.send_all(_REFUSAL)
        except trio.BrokenResourceError:
            pass
    await trio.aclose_forcefully(stream)


def _config(settings: Settings) -> Config:
    config = Config()
    config.accesslog = None  # 14 % of a short request
    config.errorlog = logging.getLogger(__name__)
    config.include_server_header = False
    config.h11_max_incomplete_size = _MAX_HEAD_BYTES
    config.keep_alive_timeout = settings.keep_alive_s
    config.websocket_max_message_size = websocket.MAX_MESSAGE
    config.websocket_ping_interval = websocket.PING_S
    config.keep_alive_max_requests = 1_000_000
    config.max_app_queue_size = 2  # pieces of 64 KiB that have come and nobody asks for; ten are hypercorn's
    return config
