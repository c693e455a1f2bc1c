"""Heads of HTTP/1 messages, read strictly: whatever two readers could take in two ways is refused. Pure.

Where a head may end and what a field is follows RFC 9112; each leniency that the RFC allows and that has been
used to smuggle requests (bare LF, folded lines, blanks before a colon, doubled lengths) is not granted.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Fields = list[tuple[bytes, bytes]]

#: A path of 4,095 bytes, percent-encoded, is 12 KiB; cookies take the rest.
MAX_HEAD = 64 * 1024
MAX_FIELDS = 200
_MAX_LENGTH = 18  # digits of Content-Length: what fits 64 bits with room

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Targets: no blanks, no controls, nothing beyond ASCII (RFC 3986). Servers differ in what they do to others.
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")
_FIELD = re.compile(
    rb"(" + _TOKEN + rb"):[ \t]*((?:[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?)[ \t]*"
)
_DIGITS = re.compile(rb"[0-9]{1,%d}" % _MAX_LENGTH)
_BARE_LF = re.compile(rb"(?<!\r)\n")


class MalformedError(Exception):
    """Not HTTP, or not HTTP that everybody reads alike. ``status`` is what the sender is told."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.detail, self.status = detail, status


class Request(NamedTuple):
    """A request's head. ``length`` is that of the body, None where it is chunked."""

    method: bytes
    target: bytes
    minor: int
    fields: Fields
    host: bytes
    length: int | None
    connection: frozenset[bytes]

    @property
    def upgrade(self) -> bytes | None:
        """The protocol that the client would like to go on with; not with a body, whose end would be
        unclear."""
        if b"upgrade" not in self.connection or self.minor == 0 or self.length != 0:
            return None
        return first(self.fields, b"upgrade")

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow. HTTP/1.0 has no way that everybody understands."""
        return self.minor == 1 and b"close" not in self.connection


class Response(NamedTuple):
    """A response's head. ``length``: see ``body_of``."""

    status: int
    reason: bytes
    minor: int
    fields: Fields
    chunked: bool
    length: int | None
    connection: frozenset[bytes]


def end_of_head(buffer: bytes) -> int:
    """Where the first head of ``buffer`` ends, -1 if it is not complete. Raises ``MalformedError``."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD:
            raise MalformedError("the head is too large", 431)
        if _BARE_LF.search(buffer):
            raise MalformedError("a line of the head ends without CR")
        return -1
    if end > MAX_HEAD:
        raise MalformedError("the head is too large", 431)
    return end + 4


def first(fields: Fields, name: bytes) -> bytes | None:
    """The first value of a field; ``name`` in lower case."""
    return next((value for field, value in fields if field.lower() == name), None)


def request(head: bytes) -> Request:
    """The head of a request, its last empty line included. Raises ``MalformedError``."""
    lines = head[:-4].split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(lines[0])
    if line is None:
        raise MalformedError("the first line is not a request of HTTP/1.1")
    method, target, minor = line[1], line[2], int(line[3])
    fields, framing = _fields(lines)
    hosts = framing[b"host"]
    if len(hosts) > 1 or (minor == 1 and not hosts):
        raise MalformedError("there must be one Host")
    chunked = _is_chunked(framing[b"transfer-encoding"], minor)
    length = _length(framing[b"content-length"])
    if chunked and length is not None:
        raise MalformedError("Content-Length and Transfer-Encoding together")
    host = hosts[0] if hosts else b""
    target = _origin_form(method, target, host)
    connection = _tokens(framing[b"connection"])
    return Request(method, target, minor, fields, host, None if chunked else length or 0, connection)


def response(head: bytes) -> Response:
    """The head of a response. Raises ``MalformedError``."""
    lines = head[:-4].split(b"\r\n")
    line = _STATUS_LINE.fullmatch(lines[0])
    if line is None:
        raise MalformedError("the first line is not a response of HTTP/1.1")
    minor = int(line[1])
    fields, framing = _fields(lines)
    chunked = _is_chunked(framing[b"transfer-encoding"], minor)
    length = _length(framing[b"content-length"])
    if chunked and length is not None:
        raise MalformedError("Content-Length and Transfer-Encoding together")
    return Response(
        int(line[2]), line[3] or b"", minor, fields, chunked, length, _tokens(framing[b"connection"])
    )


def field_line(line: bytes) -> tuple[bytes, bytes]:
    """Name and value of one line. Raises ``MalformedError``."""
    match = _FIELD.fullmatch(line)
    if match is None:
        raise MalformedError("a field of the head is malformed")
    return match[1], match[2]


_FRAMING = (b"host", b"content-length", b"transfer-encoding", b"connection")


def _fields(lines: list[bytes]) -> tuple[Fields, dict[bytes, list[bytes]]]:
    """All fields, and the values of those that decide where a message ends and whose it is."""
    if len(lines) > MAX_FIELDS + 1:
        raise MalformedError("too many fields in the head", 431)
    framing: dict[bytes, list[bytes]] = {name: [] for name in _FRAMING}
    fields = []
    for line in lines[1:]:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise MalformedError("a field of the head is malformed")
        name, value = match.groups()
        fields.append((name, value))
        lower = name.lower()
        if lower in framing:
            framing[lower].append(value)
    return fields, framing


def _is_chunked(codings: list[bytes], minor: int) -> bool:
    if not codings:
        return False
    if minor == 0:
        raise MalformedError("HTTP/1.0 has no Transfer-Encoding")
    if len(codings) > 1 or codings[0].lower() != b"chunked":
        raise MalformedError("a Transfer-Encoding other than chunked", 501)
    return True


def _length(values: list[bytes]) -> int | None:
    if not values:
        return None
    if len(values) > 1 or _DIGITS.fullmatch(values[0]) is None:
        raise MalformedError("Content-Length is not one number")
    return int(values[0])


def _tokens(values: list[bytes]) -> frozenset[bytes]:
    return frozenset(token.strip(b" \t").lower() for value in values for token in value.split(b","))


def _origin_form(method: bytes, target: bytes, host: bytes) -> bytes:
    """The target as a server wants it. The absolute form must be taken (RFC 9112, 3.2.2); one that names
    another host than Host does could be read in two ways."""
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    scheme, separator, rest = target.partition(b"://")
    if method == b"CONNECT" or not separator or scheme.lower() not in (b"http", b"https"):
        raise MalformedError("the target is not a path")
    end = min((index for index in (rest.find(b"/"), rest.find(b"?")) if index >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:]
    if authority.lower() != host.lower():
        raise MalformedError("the target names another host than Host does")
    return path if path.startswith(b"/") else b"/" + path
