"""What a command wrote, where that is too much to be held: it stays in the log until somebody takes it."""

from __future__ import annotations

import trio

from nsbox.host.logs import CHUNK, Reader, Stream
from nsbox.host.shelf import Shelf
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Output

#: So much is read at a time, and held for whoever takes it slowly: as JSON it may be six times that.
_AT_A_TIME = CHUNK


class Stored:
    """A stream of a command that has ended, by its log. A ``model.sandbox.Source``; it owns the reader.

    ``shelf``: where the log is removed before it is read, and the room that it takes is to be counted.
    """

    def __init__(self, reader: Reader, stream: Stream, end: int, shelf: Shelf | None = None) -> None:
        self._reader, self._stream, self._end = reader, stream, end
        self._offset = reader.log.start
        self._shelf, self._size = shelf, reader.log.kept[stream]
        if shelf is not None:
            shelf.unread += self._size

    async def next(self) -> bytes:
        """Some more; none at the end. Raises ``Problem`` where the log was freed meanwhile."""
        found = await trio.to_thread.run_sync(
            self._reader.some, self._stream, self._offset, self._end, _AT_A_TIME
        )
        if found is None:
            raise Problem(Code.RANGE_NOT_SATISFIABLE, "the output of this command is no longer kept")
        data, self._offset = found
        return data

    def close(self) -> None:
        """Idempotent."""
        self._reader.close()
        if self._shelf is not None:
            self._shelf.unread -= self._size
            self._shelf = None

    def __del__(self) -> None:
        # A client may leave between the end of its command and the answer; then nobody has it to close it.
        self.close()


async def last(output: Output, most: int) -> bytes:
    """The end of what a command wrote, ``most`` bytes of it."""
    if output.source is None:
        return output.data[-most:]
    kept = b""
    try:
        while piece := await output.source.next():
            kept = (kept + piece)[-most:]
    finally:
        output.source.close()
    return kept
