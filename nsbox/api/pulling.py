"""``POST /images`` and ``POST /templates``, beside Quart: they take minutes, and tell how far they are as
server-sent events to whoever accepts those. A client that leaves does not end a pull.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import trio

from nsbox.api import answers, events, query, schema, views
from nsbox.api.bodies import Bodies
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import PullService, Services
from nsbox.model.sandbox import Template
from nsbox.service import registries

_PULL = schema.Reader(schema.PullImage)
_BUILD = schema.Reader(schema.BuildTemplate)
_NONE: frozenset[str] = frozenset()


def images_route(services: Services, bodies: Bodies) -> RawRoute:
    """The route, ready for the gate."""
    rule = f"{BASE}/images"
    return RawRoute(rule, ("POST",), partial(_is_post, rule), partial(_pull, services, bodies))


def templates_route(services: Services, bodies: Bodies) -> RawRoute:
    """The route, ready for the gate."""
    rule = f"{BASE}/templates"
    return RawRoute(rule, ("POST",), partial(_is_post, rule), partial(_build, services, bodies))


def _is_post(path: str, exchange: Exchange) -> bool:
    return bool(exchange.scope["method"] == "POST" and exchange.scope["path"] == path)


async def _pull(services: Services, bodies: Bodies, exchange: Exchange, owner: str) -> None:
    query.parse(exchange.scope["query_string"], _NONE)
    wish = _PULL.read(await bodies.read(exchange, "pull_image"))
    pull = services.images.pull(registries.read(wish.image))
    async with exchange.while_client_waits():
        if not events.wanted(exchange):
            image = views.image(await pull.wait())
        else:
            async with events.events(exchange) as sender:
                await _follow(pull, sender.send)
            return
    await exchange.answer_json(image)


async def _follow(pull: PullService, send: Callable[[str, Any], Any]) -> None:
    async with aclosing(pull.news()) as news:
        async for one in news:
            await send("progress", views.progress(one))
    await send("image", views.image(await pull.wait()))


async def _build(services: Services, bodies: Bodies, exchange: Exchange, owner: str) -> None:
    query.parse(exchange.scope["query_string"], _NONE)
    file = _BUILD.read(await bodies.read(exchange, "build_template")).file()
    async with exchange.while_client_waits():
        if not events.wanted(exchange):
            template = await services.building.build(file, lambda _: None)
        else:
            async with events.events(exchange) as sender:
                await _tell_building(services, file, sender.send)
            return
    await exchange.answer_json(_template(template))


async def _tell_building(services: Services, file: Any, send: Callable[[str, Any], Any]) -> None:
    lines: trio.MemorySendChannel[str]
    lines, incoming = trio.open_memory_channel[str](100)
    built: list[Template] = []

    async def build() -> None:
        with lines:
            built.append(await services.building.build(file, lines.send_nowait))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(build)
        with incoming:
            async for line in incoming:
                await send("progress", answers.StepView(step=line))
    await send("template", _template(built[0]))


def _template(template: Template) -> answers.BuiltView:
    return {"id": template.name, "image": template.image, "layers": len(template.layers), "ready": True}
