"""WebSockets, as far as the connection is concerned: which requests may become one, and how it is bounded.

hypercorn's stream, less compression (a message of a few bytes could unpack to any size), and with an end:
hypercorn leaves a connection open whose upgrade it refused, and goes on collecting a message that it has
refused as too large.
"""

from __future__ import annotations

import re
import socket
from typing import Any

import h11
import trio
from hypercorn.protocol.events import Body, Data, Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

#: A message that a client sends; more is cut off with 1009.
MAX_MESSAGE = 64 * 1024
#: Frames of one message. Empty ones would never fill it.
MAX_FRAMES = 256
PING_S = 20.0
#: What is sent and not acknowledged by the other host for so long, in ms, ends the connection: a ping is.
_DEAD_MS = 60_000
RULE = "/api/v1/sandboxes/<sandbox_id>/processes/<key>/attach"
ROUTE = re.compile(r"/api/v1/sandboxes/([^/%]+)/processes/([^/%]+)/attach")


def wanted(request: h11.Request) -> bool:
    """A WebSocket is asked for, on a route that is one."""
    path = request.target.partition(b"?")[0].decode("ascii", "replace")
    if request.method != b"GET" or ROUTE.fullmatch(path) is None:
        return False
    told = {name: value.strip().lower() for name, value in request.headers if name in _UPGRADE}
    tokens = {token.strip() for token in told.get(b"connection", b"").split(b",")}
    return told.get(b"upgrade") == b"websocket" and b"upgrade" in tokens


_UPGRADE = (b"upgrade", b"connection")


def begin(request: h11.Request, state: ConnectionState) -> Request:
    """The request as the stream takes it."""
    return Request(
        stream_id=STREAM_ID,
        headers=[pair for pair in request.headers if pair[0] != b"sec-websocket-extensions"],
        http_version=request.http_version.decode(),
        method="GET",
        raw_path=request.target,
        state=state,
    )


class Stream(WSStream):
    """A WebSocket whose peer may send anything."""

    _frames = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._over = trio.Event()

    async def handle(self, event: Any) -> None:
        """What the connection has read."""
        if isinstance(event, (Body, Data)) and not self.closed and not self.handshake.accepted:
            # Nobody may talk before the answer. hypercorn says so, and leaves the application waiting.
            await self._send_error_response(400)
            await self._leave()
            return
        await super().handle(event)
        if isinstance(event, StreamClosed):
            self._over.set()
        if isinstance(event, Request) and self.closed:
            await self._leave()  # the upgrade was refused, and nothing watches a connection that is none

    async def _handle_events(self) -> None:
        """One after the other, and others have their turn between them: sixty thousand bytes may be ten
        thousand frames."""
        for event in self.connection.events():
            if isinstance(event, Message):
                code = await self._take(event)
                if code is not None:
                    await self._send_wsproto_event(CloseConnection(code=code))
                    await self._leave()
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):  # theirs, or wsproto's word for what is no frame
                await self._send_wsproto_event(event.response())
                await self._leave()
            await trio.lowlevel.checkpoint()
            if self.closed:
                return

    async def _take(self, event: Message[Any]) -> int | None:
        """A piece of a message; the code to close with if it is too much."""
        if self.buffer.length + len(event.data) > MAX_MESSAGE:
            return CloseReason.MESSAGE_TOO_BIG
        self.buffer.extend(event)
        self._frames += event.frame_finished
        if event.message_finished:
            assert self.app_put is not None
            message = self.buffer.to_message()
            self.buffer.clear()
            self._frames = 0
            await self.app_put(message)
        elif self._frames >= MAX_FRAMES:
            return CloseReason.POLICY_VIOLATION
        return None

    async def _send_pings(self) -> None:
        """hypercorn's, which sleeps on, and keeps a connection that has ended until the next ping."""
        while not self._over.is_set():
            await self._send_wsproto_event(Ping())
            with trio.move_on_after(PING_S):
                await self._over.wait()

    async def _leave(self) -> None:
        await self.send(StreamClosed(stream_id=STREAM_ID))


def watch_peer(sock: Any) -> None:
    """Have the kernel give up on a peer that is gone without a word (tcp(7))."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MS)
    except OSError:
        pass  # a socket of another kind
