"""Bytes for nsbox: whatever can be read, as often as it can be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import IO

#: What is sent: bytes, text in UTF-8, an open file from where it stands, or pieces as they come.
Content = bytes | bytearray | memoryview | str | IO[bytes] | Iterable[bytes]
#: Called with how many bytes are sent, and how many there are (None where that is not known).
Tell = Callable[[int, int | None], object]
CHUNK = 256 * 1024


class Upload:
    """A body. ``size`` where it is known. ``replayable``: whether it can be read again from its beginning."""

    def __init__(self, content: Content, tell: Tell | None = None) -> None:
        self._tell = tell
        self._data: bytes | None = None
        self._file: IO[bytes] | None = None
        self._pieces: Iterable[bytes] | None = None
        self._start = 0
        self.size: int | None = None
        if isinstance(content, str):
            self._data = content.encode()
        elif isinstance(content, (bytes, bytearray, memoryview)):
            self._data = bytes(content)
        elif hasattr(content, "read"):
            self._file = content  # type: ignore[assignment]
        else:
            self._pieces = content
        self.replayable = self._data is not None or self._measure_file()
        if self._data is not None:
            self.size = len(self._data)

    @property
    def in_memory(self) -> bool:
        """Reading it does not wait for a disk."""
        return self._data is not None

    def _measure_file(self) -> bool:
        """A pipe has a descriptor and no size."""
        file = self._file
        if file is None or not file.seekable():
            return False
        self._start = file.tell()
        self.size = file.seek(0, os.SEEK_END) - self._start
        file.seek(self._start)
        return True

    def pieces(self) -> Iterator[bytes]:
        """All of it, from the beginning. What has grown meanwhile is cut, as its length was said."""
        sent = 0
        for piece in self._raw():
            given = piece if self.size is None else piece[: self.size - sent]
            if given:
                sent += len(given)
                yield given
                if self._tell is not None:
                    self._tell(sent, self.size)

    def _raw(self) -> Iterator[bytes]:
        if self._data is not None:
            view = memoryview(self._data)
            for start in range(0, len(view), CHUNK):
                yield bytes(view[start : start + CHUNK])
        elif self._file is not None:
            if self.replayable:
                self._file.seek(self._start)
            while piece := self._file.read(CHUNK):
                yield piece
        elif self._pieces is not None:
            yield from self._pieces
