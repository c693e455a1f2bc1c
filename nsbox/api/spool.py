"""What comes slowly waits on disk, in a file without a name: it costs no memory, however many send."""

from __future__ import annotations

import os
import tempfile
from types import TracebackType
from typing import Self

import trio

from nsbox.model.errors import HostProblem

#: Written so many bytes at a time.
_PIECE = 256 * 1024


class Spool:
    """Bytes on disk, in the folder for temporary files: of api that is the state folder. Use as a context."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it ends with us
        self._waiting = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """What it holds is gone. Idempotent."""
        self._file.close()

    async def write(self, data: bytes | bytearray) -> None:
        """Append. Raises ``HostProblem`` where there is no room."""
        if len(data) >= _PIECE and not self._waiting:
            await self._put(bytes(data))
            return
        self._waiting += data
        if len(self._waiting) >= _PIECE:
            await self._flush()

    async def read(self) -> bytes:
        """All of it."""
        if self._waiting:
            await self._flush()
        return await trio.to_thread.run_sync(self._all)

    async def some(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on; none at the end."""
        if self._waiting:
            await self._flush()
        await trio.lowlevel.checkpoint()
        buffer = bytearray(size)
        try:
            # Mostly it is in the page cache still, and a thread would cost more than the copy.
            count = os.preadv(self._file.fileno(), [buffer], offset, os.RWF_NOWAIT)
        except OSError:  # EAGAIN: from the disk. Some file systems do not know the flag
            return await trio.to_thread.run_sync(os.pread, self._file.fileno(), size, offset)
        return bytes(memoryview(buffer)[:count])

    def _all(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    async def _flush(self) -> None:
        data, self._waiting = bytes(self._waiting), bytearray()
        await self._put(data)

    async def _put(self, data: bytes) -> None:
        try:
            await trio.to_thread.run_sync(_write_all, self._file.fileno(), data)
        except OSError as error:
            raise HostProblem(
                f"there is no room for a large request: {error.strerror}",
                remedy="free space on the disk of the state folder",
            ) from error


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
