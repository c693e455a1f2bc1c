"""``GET /snapshots/:id/export`` and ``GET /images/export``, beside Quart: archives as they are written."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial

from nsbox.api import parameters, query
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import Services

_SNAPSHOT = re.compile(f"{BASE}/snapshots/([^/]+)/export")
_IMAGE = f"{BASE}/images/export"
_FORMAT = parameters.names((parameters.FORMAT,))
_IMAGE_FORMAT = parameters.names(parameters.EXPORT_IMAGE)


def snapshots_route(services: Services) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(
        f"{BASE}/snapshots/<snapshot_id>/export",
        ("GET",),
        lambda exchange: _is_get(exchange, _SNAPSHOT),
        partial(_snapshot, services),
    )


def images_route(services: Services) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(
        _IMAGE, ("GET",), lambda exchange: _is_get(exchange, re.compile(_IMAGE)), partial(_image, services)
    )


def _is_get(exchange: Exchange, path: re.Pattern[str]) -> bool:
    return exchange.scope["method"] == "GET" and path.fullmatch(exchange.scope["path"]) is not None


async def _snapshot(services: Services, exchange: Exchange, owner: str) -> None:
    layout = _layout(query.parse(exchange.scope["query_string"], _FORMAT))
    found = _SNAPSHOT.fullmatch(exchange.scope["path"])
    assert found is not None
    record = services.snapshots.get(owner, found[1])
    await _send(exchange, record.id, services.exports.snapshot(record, layout=layout))


async def _image(services: Services, exchange: Exchange, owner: str) -> None:
    asked = query.parse(exchange.scope["query_string"], _IMAGE_FORMAT)
    name = parameters.IMAGE.of(asked)
    await _send(exchange, "image", services.exports.image(name, layout=_layout(asked)))


def _layout(asked: query.Query) -> bool:
    return parameters.FORMAT.of(asked) == "oci"


async def _send(
    exchange: Exchange, name: str, archive: AbstractAsyncContextManager[AsyncGenerator[bytes, None]]
) -> None:
    headers = [
        (b"content-type", b"application/x-tar"),
        (b"content-disposition", f'attachment; filename="{name}.tar"'.encode("ascii", "replace")),
    ]
    async with exchange.while_client_waits(), archive as whole, aclosing(whole) as pieces:
        # The first piece is there before the head goes out, so that an error of it can still be told.
        piece = await anext(pieces, b"")
        await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
        while piece:
            await exchange.send({"type": "http.response.body", "body": piece, "more_body": True})
            piece = await anext(pieces, b"")
        await exchange.send({"type": "http.response.body", "body": b""})
