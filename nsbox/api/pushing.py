"""``POST /images/push`` and ``POST /snapshots/:id/push``, beside Quart: as pulls, they take minutes, and tell
how far they are as server-sent events to whoever accepts those. A client that leaves does not end a push.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

from nsbox.api import events, query, schema, views
from nsbox.api.bodies import Bodies
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import PushService, Services

_OF_IMAGE = schema.Reader(schema.PushImage)
_OF_SNAPSHOT = schema.Reader(schema.PushSnapshot)
_SNAPSHOT = re.compile(f"{BASE}/snapshots/([^/]+)/push")
_IMAGE = re.compile(f"{BASE}/images/push")
_NONE: frozenset[str] = frozenset()


def images_route(services: Services, bodies: Bodies) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(f"{BASE}/images/push", ("POST",), _is_post(_IMAGE), partial(_image, services, bodies))


def snapshots_route(services: Services, bodies: Bodies) -> RawRoute:
    """The route, ready for the gate."""
    rule = f"{BASE}/snapshots/<snapshot_id>/push"
    return RawRoute(rule, ("POST",), _is_post(_SNAPSHOT), partial(_snapshot, services, bodies))


def _is_post(path: re.Pattern[str]) -> Callable[[Exchange], bool]:
    def takes(exchange: Exchange) -> bool:
        return exchange.scope["method"] == "POST" and path.fullmatch(exchange.scope["path"]) is not None

    return takes


async def _image(services: Services, bodies: Bodies, exchange: Exchange, owner: str) -> None:
    query.parse(exchange.scope["query_string"], _NONE)
    wish = _OF_IMAGE.read(await bodies.read(exchange, "push_image"))
    await _answer(exchange, services.pushes.image(wish.image, wish.to))


async def _snapshot(services: Services, bodies: Bodies, exchange: Exchange, owner: str) -> None:
    query.parse(exchange.scope["query_string"], _NONE)
    found = _SNAPSHOT.fullmatch(exchange.scope["path"])
    assert found is not None
    wish = _OF_SNAPSHOT.read(await bodies.read(exchange, "push_snapshot"))
    await _answer(exchange, services.pushes.snapshot(services.snapshots.get(owner, found[1]), wish.to))


async def _answer(exchange: Exchange, push: PushService) -> None:
    async with exchange.while_client_waits():
        if not events.wanted(exchange):
            told = views.pushed(await push.wait())
        else:
            async with events.events(exchange) as sender:
                async with aclosing(push.news()) as news:
                    async for one in news:
                        await sender.send("progress", views.progress(one))
                await sender.send("pushed", views.pushed(await push.wait()))
            return
    await exchange.answer_json(told)
