"""``POST /images/import``, beside Quart: an archive as raw bytes, to disk at the pace of the disk."""

from __future__ import annotations

import os
from functools import partial

import trio

from nsbox.api import parameters, query, views
from nsbox.api.bodies import check_not_compressed
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import Services
from nsbox.model.errors import Code, HostProblem, Problem

_PATH = f"{BASE}/images/import"
_KNOWN = parameters.names((parameters.NAME,))
_PORTION = 1 << 20


def route(services: Services, most: int) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(_PATH, ("POST",), _takes, partial(_handle, services, most))


def _takes(exchange: Exchange) -> bool:
    return bool(exchange.scope["method"] == "POST" and exchange.scope["path"] == _PATH)


async def _handle(services: Services, limit: int, exchange: Exchange, owner: str) -> None:
    check_not_compressed(exchange)
    name = parameters.NAME.of(query.parse(exchange.scope["query_string"], _KNOWN))
    if exchange.announced_length() > limit:
        raise Problem(Code.BODY_TOO_LARGE, f"an archive may have up to {limit} bytes", limit=limit)
    spool = services.images.spool()  # without a name: it goes with the descriptor, however this ends
    try:
        await services.images.have_room(exchange.announced_length())
        await _take_in(services, exchange, spool, limit)
        image = await services.images.import_archive(spool, name)
    finally:
        os.close(spool)
    await exchange.answer_json(views.image(image))


async def _take_in(services: Services, exchange: Exchange, spool: int, limit: int) -> None:
    portion = bytearray()
    try:
        while chunk := await exchange.read(limit):
            portion += chunk
            if len(portion) >= _PORTION:
                await services.images.have_room(len(portion))
                await trio.to_thread.run_sync(_write, spool, bytes(portion))
                portion = bytearray()
        await trio.to_thread.run_sync(_write, spool, bytes(portion))
    except OSError as error:
        detail = f"the archive could not be taken in: {error}"
        raise HostProblem(detail, remedy="free some disk space") from error


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
