"""Server-sent events out of the bytes of an answer, however those are cut."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from nsbox.client.errors import UnexpectedAnswer

#: An event of nsbox's has a piece of output of some 64 KiB. Whoever sends more is not nsbox.
_LONGEST = 16 * 1024 * 1024


class Event(NamedTuple):
    """One event. ``id`` only where it has one of its own."""

    kind: str
    data: Any
    id: int | None


class Events:
    """Feed it; an event comes out once the empty line behind it is there. What is cut off is forgotten with
    this object: the next answer begins with a new one."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now."""
        # The end of an event may be cut itself: look a byte back.
        begin = max(len(self._rest) - 1, 0)
        self._rest += data
        found, done = [], 0
        while (end := self._rest.find(b"\n\n", begin)) >= 0:
            event = _parse(bytes(self._rest[done:end]))
            if event is not None:
                found.append(event)
            done = begin = end + 2
        del self._rest[:done]
        if len(self._rest) > _LONGEST:
            raise UnexpectedAnswer(f"an event of more than {_LONGEST} bytes")
        return found


def _parse(block: bytes) -> Event | None:
    kind, data, number = "", b"", None
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            kind = value.decode("utf-8", "replace")
        elif field == b"data":
            data += value
        elif field == b"id" and value.isdigit() and len(value) < 19:
            number = int(value)
    if not kind:
        return None  # a comment: still there
    try:
        return Event(kind, msgspec.json.decode(data), number)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(f"an event without JSON: {error}") from error
