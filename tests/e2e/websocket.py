"""A WebSocket to a process, for tests: blocking, over wsproto, each message as it comes."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from nsbox.model.errors import HostProblem

_HEAD = struct.Struct(">BQ")
_CHUNK = 65_536
_MAX_REFUSAL = 65_536


class Refused(HostProblem):
    """The daemon is there and says no. ``passing``: it may say otherwise soon."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail or f"HTTP {status}")
        self.status, self.passing = status, status >= 500


class Lost(Exception):
    """The connection is gone; it can be taken up again."""


class Output(NamedTuple):
    """Some bytes of the process; ``offset`` is that of the first."""

    channel: int
    offset: int
    data: bytes


class Told(NamedTuple):
    """A message of the server: its type, and all of it."""

    kind: str
    body: dict[str, Any]


class Socket:
    """One connection. ``url`` is the API's, ``path`` what comes behind it. Raises ``Lost``, ``Refused``."""

    def __init__(self, url: str, path: str, headers: list[tuple[str, str]], timeout_s: float = 10) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        secure = parts.scheme == "https"
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._text = ""
        self._data = b""
        self._over: str | None = None
        try:
            self._sock: socket.socket = socket.create_connection(
                (parts.hostname, parts.port or (443 if secure else 80)), timeout_s
            )
            if secure:
                context = ssl.create_default_context()
                self._sock = context.wrap_socket(self._sock, server_hostname=parts.hostname)
        except ssl.SSLCertVerificationError as error:  # it will not be another one in a second
            raise Refused(0, f"its certificate is not trusted: {error.verify_message}") from error
        except OSError as error:
            raise Lost(str(error)) from error
        protocols = [value for name, value in headers if name.lower() == "sec-websocket-protocol"]
        self._send(
            Request(
                host=parts.netloc,
                target=parts.path + path,
                subprotocols=protocols[0].split(", ") if protocols else ["nsbox.v1"],
                extra_headers=[
                    (name.encode(), value.encode())
                    for name, value in headers
                    if name.lower() != "sec-websocket-protocol"
                ],
            )
        )
        try:
            self._shake_hands()
        except BaseException:
            self.close()
            raise
        self._sock.settimeout(None)

    def _shake_hands(self) -> None:
        refused, body = 0, b""
        while True:
            self._feed()
            for event in self._ws.events():
                if isinstance(event, AcceptConnection):
                    return
                if isinstance(event, RejectConnection):
                    refused = event.status_code
                    if not event.has_body:
                        raise Refused(refused, "")
                elif isinstance(event, RejectData):
                    body += event.data
                    if event.body_finished or len(body) > _MAX_REFUSAL:
                        raise Refused(refused, _detail(body))

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> Iterator[Output | Told]:
        """Wait for something to come; what it says. Raises ``Lost`` at the end."""
        found = list(self.pending())  # some of it may have come with the handshake
        if not found and self._over is None:
            self._feed()
            found = list(self.pending())
        if not found and self._over is not None:
            raise Lost(self._over)
        yield from found

    def pending(self) -> Iterator[Output | Told]:
        """What has come already."""
        for event in self._ws.events():
            if isinstance(event, BytesMessage):
                self._data += event.data
                if event.message_finished:
                    data, self._data = self._data, b""
                    if len(data) >= _HEAD.size:
                        channel, offset = _HEAD.unpack_from(data)
                        yield Output(channel, offset, data[_HEAD.size :])
            elif isinstance(event, TextMessage):
                self._text += event.data
                if event.message_finished:
                    text, self._text = self._text, ""
                    body = json.loads(text)
                    yield Told(str(body.get("type")), body)
            elif isinstance(event, Ping):
                self._send(event.response())
            elif isinstance(event, CloseConnection):
                self._over = event.reason or f"closed ({event.code})"  # told when the rest is read

    def type(self, data: bytes) -> None:
        """Send to stdin."""
        self._send(BytesMessage(b"\0" + data))

    def tell(self, kind: str, **members: Any) -> None:
        """Send a control message."""
        self._send(TextMessage(json.dumps({"type": kind, **members})))

    def leave(self) -> None:
        """Say good-bye, and close."""
        try:
            self._send(CloseConnection(1000))
        except Lost:
            pass
        self.close()

    def close(self) -> None:
        self._sock.close()

    def _feed(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
            while data and isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
                data += self._sock.recv(_CHUNK)  # poll(2) knows nothing of what TLS has unpacked
            self._ws.receive_data(data or None)
        except (OSError, ProtocolError) as error:
            raise Lost(str(error)) from error
        if not data:
            raise Lost("the connection has ended")

    def _send(self, event: Any) -> None:
        try:
            self._sock.sendall(self._ws.send(event))
        except (OSError, ProtocolError) as error:
            raise Lost(str(error)) from error


def _detail(body: bytes) -> str:
    try:
        document = json.loads(body)
        return f"{document['detail']} ({document['code']})"
    except (ValueError, KeyError, TypeError):
        return ""
