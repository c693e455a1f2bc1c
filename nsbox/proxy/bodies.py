"""Where the body of a message ends. Pure: each is fed what came and says how much of it is the body's."""

from __future__ import annotations

import re
from typing import Protocol

from nsbox.proxy.head import MalformedError, field_line

_MAX_LINE = 4 * 1024  # a chunk's size with its extensions
_MAX_TRAILERS = 16 * 1024
#: Extensions are let through as they are, but for what could end a line in somebody's eyes.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\x20-\x7e\t\x80-\xff]*)?")


class Body(Protocol):
    """A body on its way. ``done``: its last byte has been fed."""

    done: bool

    def feed(self, data: memoryview) -> int:
        """How many of the bytes are the body's. Raises ``MalformedError``."""
        ...


class Sized:
    """So many bytes; none is done at once."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: memoryview) -> int:
        taken = min(len(data), self._left)
        self._left -= taken
        self.done = self._left == 0
        return taken


class Endless:
    """All that comes until the sender closes."""

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: memoryview) -> int:
        return len(data)


class Chunked:
    """Chunks (RFC 9112, 7.1). ``forbidden`` says which names no trailer may have: those that decide
    something, and that a server might merge into the head."""

    def __init__(self, forbidden: frozenset[bytes] = frozenset()) -> None:
        self.done = False
        self._forbidden = forbidden
        self._left = 0  # bytes of the chunk in hand, its CRLF not included
        self._line = b""  # a line that is not complete
        self._in_trailers = False
        self._end_of_chunk = 0  # bytes of CRLF that must come
        self._trailers = 0

    def feed(self, data: memoryview) -> int:
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
            elif self._end_of_chunk:
                if data[at] != (0x0D if self._end_of_chunk == 2 else 0x0A):
                    raise MalformedError("a chunk does not end where it says")
                self._end_of_chunk -= 1
                at += 1
            else:
                at = self._take_line(data, at)
        return at

    def _take_line(self, data: memoryview, at: int) -> int:
        """Take in a line, or as much of it as is there."""
        window = bytes(data[at : at + _MAX_LINE + 2])
        end = window.find(b"\n")
        part = window if end < 0 else window[: end + 1]
        self._line += part
        if len(self._line) > _MAX_LINE:
            raise MalformedError("a line between chunks is too long")
        if end >= 0:
            line, self._line = self._line, b""
            if not line.endswith(b"\r\n"):
                raise MalformedError("a line between chunks ends without CR")
            self._end_line(line[:-2])
        return at + len(part)

    def _end_line(self, line: bytes) -> None:
        if self._in_trailers:
            self._trailer(line)
            return
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise MalformedError("the size of a chunk is malformed")
        self._left = int(match[1], 16)
        if self._left:
            self._end_of_chunk = 2
        else:
            self._in_trailers = True

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailers += len(line)
        if self._trailers > _MAX_TRAILERS:
            raise MalformedError("too many trailers", 431)
        name, _ = field_line(line)
        if name.lower().replace(b"_", b"-") in self._forbidden:
            raise MalformedError("a trailer that must not be one")
