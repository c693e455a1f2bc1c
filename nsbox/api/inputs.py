"""What goes to a command's stdin waits on disk where it is much: nobody knows when the command reads it.

In memory it would be up to 12 MiB for each request, and a user may have a thousand (docs/adr/0107).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nsbox.api.services import ReserveService
from nsbox.api.spool import Spool
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import StoredInput
from nsbox.settings import MIB

#: What a pipe takes at once, and so what is held of an input that waits.
_PIECE: Final = 64 * 1024
#: Of one user, together, until commands have read it.
_MOST_OF_ONE: Final = 512 * MIB


class Inputs:
    """All that waits, by user."""

    def __init__(self, reserve: ReserveService) -> None:
        self._reserve = reserve
        self.waiting: Counter[str] = Counter()

    async def lay_down(self, user: str, data: bytes) -> bytes | StoredInput:
        """``data`` as it is where it is little. ``held`` sees to its end. Raises ``Problem``: STDIN_FULL,
        HOST_FULL."""
        if len(data) <= _PIECE:
            return data
        if self.waiting[user] + len(data) > _MOST_OF_ONE:
            raise Problem(
                Code.STDIN_FULL,
                f"{_MOST_OF_ONE // MIB} MiB of input wait for commands that do not read it",
                remedy="let them read it, or end them",
                written=0,
            )
        self._reserve.check(len(data))
        laid = _Laid(self.waiting, user, len(data))
        try:
            await laid.write(data)
        except BaseException:
            laid.close()
            raise
        return laid


@contextmanager
def held(data: bytes | StoredInput) -> Iterator[None]:
    """For as long as the request. Not left to the interpreter: an error holds the frames that it came
    through, and with them what they knew, until the next collection."""
    try:
        yield
    finally:
        if isinstance(data, _Laid):
            data.release()


class _Laid:
    """A ``StoredInput``. It counts for its user until it is closed."""

    def __init__(self, waiting: Counter[str], user: str, size: int) -> None:
        self._waiting, self._user, self._size = waiting, user, size
        self._offset, self._taken = 0, False
        self._spool: Spool | None = Spool()
        waiting[user] += size

    def __len__(self) -> int:
        return self._size

    async def write(self, data: bytes) -> None:
        assert self._spool is not None
        await self._spool.write(data)

    async def next(self) -> bytes:
        if self._spool is None:
            return b""
        piece = await self._spool.some(self._offset, _PIECE)
        self._offset += len(piece)
        return piece

    def close(self) -> None:
        if self._spool is None:
            return
        self._spool.close()
        self._spool = None
        self._waiting[self._user] -= self._size
        if not self._waiting[self._user]:
            del self._waiting[self._user]

    def take(self) -> None:
        self._taken = True

    def release(self) -> None:
        """Close it, unless it was taken."""
        if not self._taken:
            self.close()
