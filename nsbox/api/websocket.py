"""WebSockets, as far as the connection is concerned: which requests may become one, and how it is bounded.

hypercorn's stream, less compression (a message of a few bytes could unpack to any size), and with the end
that a broken peer is given instead of an exception.
"""

from __future__ import annotations

import re
import socket
from typing import Any

import h11
from hypercorn.protocol.events import Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import ConnectionState
from wsproto.events import CloseConnection
from wsproto.utilities import RemoteProtocolError

#: A message that a client sends; more is cut off with 1009.
MAX_MESSAGE = 64 * 1024
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

    async def handle(self, event: Any) -> None:
        """What the connection has read."""
        try:
            await super().handle(event)
        except RemoteProtocolError as error:
            told = error.event_hint
            code = told.code if isinstance(told, CloseConnection) else 1002
            await self._send_wsproto_event(CloseConnection(code=code))
            await self.send(StreamClosed(stream_id=STREAM_ID))


def watch_peer(sock: Any) -> None:
    """Have the kernel give up on a peer that is gone without a word (tcp(7))."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MS)
    except OSError:
        pass  # a socket of another kind
