"""JSON answers that are sent while they are made, so that a large one is nowhere whole.

Fifty commands may end at once with ten mebibytes in each stream, JSON makes six bytes of some, and whoever
asked may take hours to read it: what is held for each is a piece.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
import trio

from nsbox.api.exchange import JSON, Exchange
from nsbox.model.sandbox import Encoding

#: As much is sent at a time; an answer that is not longer is sent as any other, with its length.
_PIECE = 64 * 1024
#: And so much becomes text at a time: of zeros JSON makes six times that.
_SLICE = 16 * 1024
_ENCODER = msgspec.json.Encoder()

#: Some more bytes; none at the end.
Next = Callable[[], Awaitable[bytes]]


class Gradual:
    """An answer of JSON, written piece by piece. What fails once it has begun leaves it unfinished, which
    closes the connection: nobody takes the part for the whole."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._waiting = bytearray()

    async def write(self, data: bytes) -> None:
        """Append. Waits for the client, once there is a piece."""
        self._waiting += data
        if len(self._waiting) < _PIECE:
            return
        if not self._exchange.started:
            await self._exchange.send({"type": "http.response.start", "status": 200, "headers": [JSON]})
        # Others have a turn, even where nobody is there any more to be waited for.
        await trio.lowlevel.checkpoint()
        body, self._waiting = bytes(self._waiting), bytearray()
        await self._exchange.send({"type": "http.response.body", "body": body, "more_body": True})

    async def write_text(self, following: Next, encoding: Encoding, errors: str = "replace") -> None:
        """Append what ``following`` gives, as a string of JSON, its quotes included. ``errors`` as in
        ``bytes.decode``."""
        text: _Text = _Base64() if encoding is Encoding.BASE64 else _Utf8(errors)
        await self.write(b'"')
        while piece := await following():
            for begin in range(0, len(piece), _SLICE):
                await self.write(text.encode(piece[begin : begin + _SLICE]))
        await self.write(text.encode(b"", final=True) + b'"')

    async def write_rest(self, members: dict[str, Any]) -> None:
        """Append the last members of an object, and its end; that is the end of the answer."""
        self._waiting += b"," + _ENCODER.encode(members)[1:]
        if self._exchange.started:
            await self._exchange.send({"type": "http.response.body", "body": bytes(self._waiting)})
        else:
            await self._exchange.answer(200, [JSON], bytes(self._waiting))


class _Text(Protocol):
    """Bytes → the inside of a string of JSON."""

    def encode(self, data: bytes, *, final: bool = False) -> bytes: ...


class _Utf8:
    def __init__(self, errors: str) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def encode(self, data: bytes, *, final: bool = False) -> bytes:
        return _ENCODER.encode(self._decoder.decode(data, final))[1:-1]


class _Base64:
    """Three bytes are four characters: what is over waits for the next piece."""

    def __init__(self) -> None:
        self._over = b""

    def encode(self, data: bytes, *, final: bool = False) -> bytes:
        data = self._over + data
        whole = len(data) if final else len(data) // 3 * 3
        self._over = data[whole:]
        return base64.b64encode(data[:whole])
