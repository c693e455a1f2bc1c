"""Bodies that are taken whole: their type, their size, and where large ones wait until they are."""

from __future__ import annotations

import re
from collections.abc import Callable

from nsbox.api import caps
from nsbox.api.exchange import Exchange
from nsbox.api.services import ReserveService
from nsbox.api.spool import Spool
from nsbox.api.turns import Turns
from nsbox.model.errors import Code, Problem

# Bodies above the first size are read on disk, by so many requests of one user at a time. With 16 MiB each,
# thousands of slow senders would otherwise own the memory; were there so many turns for all users together, a
# few who send slowly would have them all. On disk nobody takes anything from anybody else.
_LARGE = 64 * 1024
_LARGE_OF_ONE = 4
_JSON_TYPE = re.compile(rb"application/(?:[a-z0-9.!#$&^_-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


class Bodies:
    """Reads bodies of up to as many bytes as the table has, which are counted as they come, announced or
    chunked."""

    def __init__(self, limits: dict[str, int], reserve: ReserveService) -> None:
        self._limits, self._reserve = limits, reserve
        self._large = Turns(_LARGE_OF_ONE)

    async def read(self, exchange: Exchange, operation: str) -> bytes:
        """The whole body; empty where there is none, and then its type does not matter. Raises ``Problem``:
        HOST_FULL for a large one."""
        return await self._read(exchange, operation, _check_type)

    async def read_any(self, exchange: Exchange, operation: str) -> bytes:
        """As ``read``, of whatever type."""
        return await self._read(exchange, operation, check_not_compressed)

    async def _read(self, exchange: Exchange, operation: str, check: Callable[[Exchange], None]) -> bytes:
        limit = self._limits.get(operation, caps.SMALL)
        body = bytearray()
        while chunk := await exchange.read(limit):
            if not body:
                check(exchange)
            body += chunk
            if len(body) > _LARGE:
                return await self._read_on(exchange, limit, body)
        return bytes(body)

    async def _read_on(self, exchange: Exchange, limit: int, body: bytearray) -> bytes:
        user = exchange.caller.user.id if exchange.caller is not None else ""
        async with self._large.turn(user):
            self._reserve.check(limit)
            with Spool() as spool:
                await spool.write(body)
                body.clear()
                while chunk := await exchange.read(limit):
                    await spool.write(chunk)
                return await spool.read()


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
