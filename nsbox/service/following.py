"""Following what a command writes: from any offset on, and for as long as it runs."""

from __future__ import annotations

from typing import NamedTuple, Self

import trio

from nsbox.host.logs import CHUNK, Piece, Reader
from nsbox.service.jobs import Job

#: Reads so near the end are done at once: what was written a moment ago is in memory.
_NEAR = 1 << 20


class Gap(NamedTuple):
    """The bytes from ``offset`` to ``until`` are no longer kept."""

    offset: int
    until: int


class Follower:
    """Reads a command's log in order. Use as a context.

    ``text``: no piece ends within a character of UTF-8, unless other bytes follow there, or nothing more.
    """

    def __init__(self, job: Job, offset: int, *, text: bool = False) -> None:
        self.job, self.offset, self._first, self._text = job, offset, offset, text
        self._reader: Reader | None = None

    def __enter__(self) -> Self:
        self._reader = self.job.reader()
        self.job.follow(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.job.unfollow(self)
        if self._reader is not None:
            self._reader.close()

    async def next(self) -> Piece | Gap | None:
        """What comes next; waits for it. None once the command has ended and all it wrote until then has been
        given."""
        while True:
            await trio.lowlevel.checkpoint()
            news = self.job.news
            found = await self.look()
            if found is not None or (self.job.ended.is_set() and self.offset >= self._until()):
                return found
            if not self.job.ended.is_set():
                await news.wait()

    async def look(self) -> Piece | Gap | None:
        """What is there now; None if there is nothing more at the moment."""
        log, until = self.job.log, self._until()
        if self.offset < log.start:
            gap = Gap(self.offset, log.start)
            self._move(log.start)
            return gap
        if self.offset >= until:
            return None
        piece = await self._read(until)
        if piece is None:  # freed, just now
            return await self.look()
        if self._text:
            piece = self._whole_characters(piece, until)
        if piece is not None:
            self._move(piece.offset + len(piece.data))
        return piece

    def _until(self) -> int:
        """The end of the log, or what it was when the command ended: whoever asks for what came later gets
        that too, and nobody waits for it."""
        end = self.job.end
        return self.job.log.end if end is None or self._first > end.log_end else end.log_end

    async def _read(self, until: int) -> Piece | None:
        assert self._reader is not None
        if self.job.log.end - self.offset <= _NEAR:
            return self._reader.read(self.offset, until)
        return await trio.to_thread.run_sync(self._reader.read, self.offset, until, 4 * CHUNK)

    def _whole_characters(self, piece: Piece, until: int) -> Piece | None:
        rest = incomplete(piece.data)
        if not rest:
            return piece
        if rest < len(piece.data):
            return piece._replace(data=piece.data[:-rest])
        if piece.offset + rest < until or self.job.ended.is_set():
            return piece  # it will never be whole
        return None

    def _move(self, offset: int) -> None:
        self.offset = offset
        self.job.read_on()


def incomplete(data: bytes) -> int:
    """How many bytes at the end of ``data`` are the beginning of a character in UTF-8 that is not whole."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < needed else 0
        if byte < 0x80:
            return 0
    return 0
