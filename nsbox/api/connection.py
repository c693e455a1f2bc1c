"""One HTTP connection: hypercorn's protocol, with what it leaves open closed.

hypercorn on trio lets an error of one connection end the server (its issue 225), cuts nobody who sends
headers or reads answers slowly, keeps the task of a client that left until the keep-alive time is over,
and blocks for ever when an application answers without reading the body. Its parts are replaced here,
each by a subclass or a look-alike; the version is pinned for that. Of its ``TCPServer`` nothing would have
remained to inherit.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, H11SendableEvent, LifespanState
from hypercorn.utils import parse_socket_addr

from nsbox.api import websocket
from nsbox.api.heads import StrictConnection

_logger = logging.getLogger(__name__)

RECEIVE_CHUNK = 64 * 1024
#: A reader must take this much in this time, or is cut: some 9 kB/s.
SEND_CHUNK = 256 * 1024
SEND_STALL_S = 30


class Tasks(TaskGroup):
    """Starts the application for a request, with a channel that never blocks for ever."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Any,
        send: Callable[[Any], Awaitable[None]],
    ) -> Callable[[Any], Awaitable[None]]:
        """hypercorn calls this for each request, and the function it gets for each part of the body.

        hypercorn sends the disconnect through the same bounded queue as the body. With a full queue and
        an application that no longer reads, that waits for ever, and so does the connection. Here a
        disconnect closes the queue, and the end of the application opens it.
        """
        to_app, from_connection = trio.open_memory_channel[Any](config.max_app_queue_size)

        async def receive() -> Any:
            try:
                return await from_connection.receive()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}  # of a WebSocket too: who reads those knows no other

        async def run() -> None:
            with from_connection:
                await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)
                await send(None)  # ends a response that the application left unfinished, and the connection

        async def put(event: Any) -> None:
            if event["type"] in ("http.disconnect", "websocket.disconnect"):
                to_app.close()
                return
            try:
                await to_app.send(event)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the application has ended: nobody wants the rest

        self.spawn(run)
        return put


class Http1(H11Protocol):
    """HTTP/1.1, and WebSockets on the one route that has them. HTTP/2 without TLS has no users here, and what
    nobody needs is a road into the server that is best closed: an ``Upgrade`` may simply be ignored (RFC
    9110, 7.8)."""

    _held = b""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connection = StrictConnection(
            h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size
        )

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        """Hold the head of an answer of known length back until something follows it: one write, and one
        wake-up of the client, instead of two. What streams may be silent for long, and whoever asked for it
        wants to know that it was found."""
        if self._refuses(event):
            # What is left to do is to take in some of a body that nobody wants: whoever sends it has no claim
            # to a place that somebody else needs.
            await self.send(Updated(idle=True))
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        self._held += data
        if not (isinstance(event, h11.Response) and _length_known(event)):
            held, self._held = self._held, b""
            await self.send(RawData(data=held))

    def _refuses(self, event: H11SendableEvent) -> bool:
        """Whether this is an error that is told before the request is complete."""
        return (
            isinstance(event, h11.Response)
            and event.status_code >= 400
            and self.connection.their_state is h11.SEND_BODY
        )

    async def _check_protocol(self, event: h11.Request) -> None:
        pass

    async def _create_stream(self, request: h11.Request) -> None:
        if any(name == b"upgrade" for name, _ in request.headers) and not websocket.wanted(request):
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=[(name, value) for name, value in request.headers if name != b"upgrade"],
                http_version=request.http_version,
            )
        if not websocket.wanted(request):
            await super()._create_stream(request)
            return
        self.stream = websocket.Stream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        self.connection = H11WSConnection(cast(h11.Connection, self.connection))
        await self.stream.handle(websocket.begin(request, self.connection_state))


def _length_known(event: h11.Response) -> bool:
    return any(name == b"content-length" for name, _ in event.headers)


class IdleTimer:
    """How long a connection may wait for the whole head of a request: one task and one deadline a
    connection, moved between requests, where hypercorn starts a task for each wait.

    The deadline is the header time from the first byte on (or from the connection's beginning), and the
    keep-alive time between requests.
    """

    def __init__(self, header_s: float, keep_alive_s: float, on_change: Callable[[bool], None]) -> None:
        self._header_s = header_s
        self._keep_alive_s = keep_alive_s
        self._on_change = on_change
        self._scope = trio.CancelScope()
        self._idle = False
        self._in_head = False
        self._ended = False

    def start(self, tasks: TaskGroup, close: Callable[[], Awaitable[None]]) -> None:
        """The connection is new."""
        self._wait(self._header_s, in_head=True)
        tasks.spawn(self._watch, close)

    def waits(self) -> None:
        """The connection waits for its next request."""
        self._wait(self._keep_alive_s, in_head=False)

    def works(self) -> None:
        """The head of a request is complete."""
        self._idle = False
        self._on_change(False)
        self._scope.deadline = inf

    def bytes_came(self) -> None:
        """The first byte of a head starts the header time; the bytes after it do not prolong it."""
        if self._idle and not self._in_head:
            self._in_head = True
            self._scope.deadline = trio.current_time() + self._header_s

    def end(self) -> None:
        """The client has left: let the watching task go. hypercorn keeps it, and the descriptor, until the
        keep-alive time is over."""
        self._ended = True
        self._scope.cancel()

    def _wait(self, seconds: float, *, in_head: bool) -> None:
        self._idle, self._in_head = True, in_head
        self._on_change(True)
        self._scope.deadline = trio.current_time() + seconds

    async def _watch(self, close: Callable[[], Awaitable[None]]) -> None:
        with self._scope:
            await trio.sleep_forever()
        if not self._ended:
            with trio.CancelScope(shield=True):
                await close()


class Connection:
    """A connection that can end in any way without taking the server with it."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: trio.SocketStream,
        timer: IdleTimer,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._stream = stream
        self._timer = timer
        self._send_lock = trio.Lock()

    async def run(self) -> None:
        """Serve until either side has had enough. Raises nothing but cancellation."""
        try:
            await self._serve()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client left in the middle of something
        except* Exception:
            _logger.warning("a connection was closed because of an error", exc_info=True)
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the socket now. Whoever waits for it, even shielded, wakes with ``ClosedResourceError``."""
        self._stream.socket.close()

    async def _serve(self) -> None:
        socket = self._stream.socket
        websocket.watch_peer(socket)
        client = parse_socket_addr(socket.family, socket.getpeername())
        server = parse_socket_addr(socket.family, socket.getsockname())
        async with Tasks() as tasks:
            self._protocol = Http1(
                self._app,
                self._config,
                self._context,
                tasks,
                ConnectionState(LifespanState()),
                False,
                client,
                server,
                self._do,
            )
            self._timer.start(tasks, self._close)
            await self._read_data()

    async def _read_data(self) -> None:
        try:
            while True:
                try:
                    data = await self._stream.receive_some(RECEIVE_CHUNK)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                self._timer.bytes_came()
                await self._protocol.handle(RawData(bytes(data)))
                if not data:
                    break
        finally:
            self._timer.end()
        await self._protocol.handle(Closed())

    async def _do(self, event: Event) -> None:
        """What the protocol wants done to the connection."""
        if isinstance(event, RawData):
            if event.data:
                await self._send(event.data)
        elif isinstance(event, Closed):
            await self._close()
        elif isinstance(event, Updated):
            if event.idle:
                self._timer.waits()
            else:
                self._timer.works()

    async def _send(self, data: bytes) -> None:
        """Shielded, since half a message would spoil the connection; bounded, since a client may not read."""
        async with self._send_lock:
            try:
                for start in range(0, len(data), SEND_CHUNK):
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_STALL_S) as scope:
                        await self._stream.send_all(memoryview(data)[start : start + SEND_CHUNK])
                    if scope.cancelled_caught:
                        self.abort()
                        break
                else:
                    return
            except (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError):
                pass  # it is gone, or is being closed
        await self._protocol.handle(Closed())

    async def _close(self) -> None:
        """The protocol has said its last word, or has waited long enough."""
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError):
            pass  # the client is gone already, or another task is still writing
        await self._stream.aclose()
        await self._protocol.handle(Closed())
