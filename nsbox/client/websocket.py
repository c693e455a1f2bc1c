"""One WebSocket (RFC 6455), without a socket: bytes in and out. Imported by those only who attach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from nsbox.client.errors import ConnectionLost

PROTOCOL = "nsbox.v1"
_MAX_REFUSAL = 65_536


class Accepted(NamedTuple):
    """It is open."""


class Refused(NamedTuple):
    """It will not be: an answer of HTTP instead."""

    status: int
    headers: dict[str, str]
    body: bytes


class Closed(NamedTuple):
    """The peer has closed it."""

    code: int
    reason: str


Message = Accepted | Refused | Closed | str | bytes


class WebSocket:
    """``feed`` tells what has come; what all else gives is to be sent, in that order."""

    def __init__(self) -> None:
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._refusal: Refused | None = None
        self._text, self._data = "", b""

    def ask(self, host: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
        """The request to open it."""
        extra = [(name.encode(), value.encode()) for name, value in headers]
        return self._ws.send(Request(host=host, target=target, subprotocols=[PROTOCOL], extra_headers=extra))

    def send(self, message: str | bytes) -> bytes:
        """One message."""
        if isinstance(message, str):
            return self._ws.send(TextMessage(message))
        return self._ws.send(BytesMessage(message))

    def leave(self) -> bytes:
        """The good-bye. Nothing where none can be said any more."""
        try:
            return self._ws.send(CloseConnection(1000))
        except ProtocolError:
            return b""

    def feed(self, data: bytes, answers: bytearray) -> Iterator[Message]:
        """What these bytes tell. What has to be answered by itself (pings) is added to ``answers``. Raises
        ``ConnectionLost`` where the peer does not keep to the protocol."""
        try:
            self._ws.receive_data(data)
            for event in self._ws.events():
                if isinstance(event, Ping):
                    answers += self._ws.send(event.response())
                else:
                    yield from self._take(event)
        except ProtocolError as error:
            raise ConnectionLost(f"the connection broke off: {error}") from error

    def _take(self, event: Event) -> Iterator[Message]:
        if isinstance(event, AcceptConnection):
            yield Accepted()
        elif isinstance(event, RejectConnection):
            headers = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
            self._refusal = Refused(event.status_code, headers, b"")
            if not event.has_body:
                yield self._refusal
        elif isinstance(event, RejectData):
            assert self._refusal is not None
            self._refusal = self._refusal._replace(body=self._refusal.body + event.data)
            if event.body_finished or len(self._refusal.body) > _MAX_REFUSAL:
                yield self._refusal
        elif isinstance(event, TextMessage):
            self._text += event.data
            if event.message_finished:
                text, self._text = self._text, ""
                yield text
        elif isinstance(event, BytesMessage):
            self._data += event.data
            if event.message_finished:
                whole, self._data = self._data, b""
                yield whole
        elif isinstance(event, CloseConnection):
            yield Closed(event.code, event.reason or "")
