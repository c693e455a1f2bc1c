"""JSON bodies of requests: their type, their size, and how many large ones are read at once."""

from __future__ import annotations

import re

import trio

from nsbox.api.exchange import Exchange
from nsbox.model.errors import Code, Problem

# Bodies above the first size are read by so many requests at a time: with 16 MiB each, thousands of
# slow senders would otherwise own the memory.
_LARGE = 256 * 1024
_LARGE_AT_ONCE = 16
_JSON_TYPE = re.compile(rb"application/(?:[a-z0-9.!#$&^_-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


class JsonBodies:
    """Reads bodies of up to ``limit`` bytes, which are counted as they come, announced or chunked."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._large = trio.Semaphore(_LARGE_AT_ONCE)

    async def read(self, exchange: Exchange) -> bytes:
        """The whole body; empty where there is none, and then its type does not matter."""
        body = bytearray()
        queued = False
        try:
            while chunk := await exchange.read(self._limit):
                if not body:
                    _check_type(exchange)
                if not queued and len(body) + len(chunk) > _LARGE:
                    await self._large.acquire()
                    queued = True
                body += chunk
        finally:
            if queued:
                self._large.release()
        return bytes(body)


def check_not_compressed(exchange: Exchange) -> None:
    """A compressed body would be a bomb in waiting, and nobody needs one."""
    coding = exchange.header(b"content-encoding")
    if coding is not None and coding.strip().lower() != b"identity":
        raise Problem(
            Code.UNSUPPORTED_MEDIA_TYPE, "a compressed body is not taken", remedy="leave out Content-Encoding"
        )


def _check_type(exchange: Exchange) -> None:
    check_not_compressed(exchange)
    kind = exchange.header(b"content-type")
    if kind is not None and not _JSON_TYPE.fullmatch(kind.strip()):
        raise Problem(
            Code.UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON",
            remedy="send Content-Type: application/json; a file may also be application/octet-stream",
        )
