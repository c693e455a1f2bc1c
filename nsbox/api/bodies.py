"""JSON bodies of requests: their type, their size, and how many large ones are read at once."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack

from nsbox.api import caps
from nsbox.api.exchange import Exchange
from nsbox.api.turns import Turns
from nsbox.model.errors import Code, Problem

# Bodies above the first size are read by so many requests at a time, and by so many of one user: with 16 MiB
# each, thousands of slow senders would otherwise own the memory, and sixteen of one tenant everybody's turn.
_LARGE = 64 * 1024
_LARGE_AT_ONCE = 16
_LARGE_OF_ONE = 4
_JSON_TYPE = re.compile(rb"application/(?:[a-z0-9.!#$&^_-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


class JsonBodies:
    """Reads bodies of up to as many bytes as the table has, which are counted as they come, announced or
    chunked."""

    def __init__(self, limits: dict[str, int]) -> None:
        self._limits = limits
        self._large = Turns(_LARGE_AT_ONCE, _LARGE_OF_ONE)

    async def read(self, exchange: Exchange, operation: str) -> bytes:
        """The whole body; empty where there is none, and then its type does not matter."""
        limit = self._limits.get(operation, caps.SMALL)
        body = bytearray()
        async with AsyncExitStack() as stack:
            while chunk := await exchange.read(limit):
                if not body:
                    _check_type(exchange)
                if len(body) <= _LARGE < len(body) + len(chunk):
                    user = exchange.caller.user.id if exchange.caller is not None else ""
                    await stack.enter_async_context(self._large.turn(user))
                body += chunk
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
