"""The output of a command by its offsets, however often its pieces come: what is known already is cut off, a
gap is told, and text is decoded across pieces."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from nsbox.client.types.command import Dropped, Output

STREAMS = ("stdout", "stderr")


class Outputs:
    """``offset`` is behind the last byte that was told."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self._decoders = {one: codecs.getincrementaldecoder("utf-8")("replace") for one in STREAMS}

    def take(self, stream: str, offset: int, data: bytes) -> Iterator[Output | Dropped]:
        """Some bytes, the first of which is at ``offset``."""
        if offset > self.offset:
            yield from self.gap(offset)
        new = data[self.offset - offset :]  # what is known already does not come twice
        if new:
            start, self.offset = self.offset, offset + len(data)
            yield Output(stream, start, new, self._decoders[stream].decode(new))

    def gap(self, until: int) -> Iterator[Output | Dropped]:
        """The bytes before ``until`` come no more."""
        if until > self.offset:
            start, self.offset = self.offset, until
            yield from self.flush()
            yield Dropped(start, until)

    def flush(self) -> Iterator[Output]:
        """Half a character whose other half never comes."""
        for stream, decoder in self._decoders.items():
            text = decoder.decode(b"", True)
            decoder.reset()
            if text:
                yield Output(stream, self.offset, b"", text)
