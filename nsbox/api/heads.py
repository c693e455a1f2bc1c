"""Heads of requests, read more strictly than h11 does: what two readers could take in two ways is refused,
and so is a head of too many lines. RFC 9112 allows some leniency; each kind of it has been used to smuggle a
request past a proxy. What the proxy of previews refuses, the API refuses too.
"""

from __future__ import annotations

from typing import Any

import h11

#: Of a head. h11 bounds its bytes, but thirty thousand bytes may be seven thousand fields, at 60 ms of the
#: processor for whoever sends them, with a key or without.
MAX_FIELDS = 200
_VERSIONS = frozenset({b"1.0", b"1.1"})


class StrictConnection(h11.Connection):
    """h11's, with a look at each head before and after it is parsed."""

    def next_event(self) -> Any:
        """Raises ``h11.RemoteProtocolError``, as h11 itself does."""
        if self.their_state is h11.IDLE:
            check_bytes(self.trailing_data[0])
        event = super().next_event()
        if type(event) is h11.Request:
            check_request(event)
        return event


def check_bytes(received: bytes) -> None:
    """What has come of a head, and perhaps more behind it."""
    end = received.find(b"\r\n\r\n")
    head = received if end < 0 else received[:end]
    lines = head.count(b"\r\n")
    if lines > MAX_FIELDS:
        raise h11.RemoteProtocolError("too many fields", error_status_hint=431)
    if head.count(b"\n") != lines:
        raise h11.RemoteProtocolError("a line ends without CR")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise h11.RemoteProtocolError("a folded field")


def check_request(request: h11.Request) -> None:
    """What h11 takes, and others read otherwise: a length that is told twice, chunks in HTTP/1.0, a method or
    a version that is none."""
    if request.http_version not in _VERSIONS:
        raise h11.RemoteProtocolError("not HTTP/1.0 or 1.1")
    if not request.method.isupper():
        # Methods are case-sensitive: one that a proxy does not know as DELETE must not delete.
        raise h11.RemoteProtocolError("no method")
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
        raise h11.RemoteProtocolError("the length of the body is told in two ways")
