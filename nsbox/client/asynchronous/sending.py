"""Bytes for nsbox, read without making others wait."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

import anyio.to_thread

from nsbox.client.sending import CHUNK, Content, Tell, Upload

#: What is sent: as for threads, or pieces that come in their own time.
AsyncContent = Content | AsyncIterable[bytes]


class AsyncUpload:
    """A body. ``size`` where it is known. ``replayable``: whether it can be read again from its beginning."""

    def __init__(self, content: AsyncContent, tell: Tell | None = None) -> None:
        self._tell = tell
        self._stream = content if isinstance(content, AsyncIterable) else None
        self._upload = None if isinstance(content, AsyncIterable) else Upload(content, tell)
        self.size = self._upload.size if self._upload else None
        self.replayable = bool(self._upload and self._upload.replayable)

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, from the beginning."""
        if self._upload is not None:
            pieces = self._upload.pieces()
            if self._upload.in_memory:
                for piece in pieces:
                    yield piece
                return
            while piece := await anyio.to_thread.run_sync(next, pieces, b""):
                yield piece
        elif self._stream is not None:
            sent = 0
            async for piece in self._stream:
                yield piece
                sent += len(piece)
                if self._tell is not None:
                    self._tell(sent, None)


__all__ = ["CHUNK", "AsyncContent", "AsyncUpload"]
