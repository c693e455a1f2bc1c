"""``POST /sandboxes/:id/exec``, beside Quart, which would add 0.4 ms to the most frequent request of all."""

from __future__ import annotations

import re
from functools import partial

from nsbox.api import query, schema, views
from nsbox.api.bodies import JsonBodies
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import CommandsService
from nsbox.model.errors import Code, Problem
from nsbox.settings import Settings

_EXEC = re.compile(f"{BASE}/sandboxes/([^/]+)/exec")
_RUN = schema.Reader(schema.RunCommand)
_NONE: frozenset[str] = frozenset()


def route(commands: CommandsService, bodies: JsonBodies, settings: Settings) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(_takes, partial(_handle, commands, bodies, settings))


def _takes(exchange: Exchange) -> bool:
    return _EXEC.fullmatch(exchange.scope["path"]) is not None


async def _handle(
    commands: CommandsService, bodies: JsonBodies, settings: Settings, exchange: Exchange, owner: str
) -> None:
    match = _EXEC.fullmatch(exchange.scope["path"])
    assert match is not None
    if exchange.scope["method"] != "POST":
        raise Problem(Code.METHOD_NOT_ALLOWED, "the route takes POST", allowed=["POST"])
    query.parse(exchange.scope["query_string"], _NONE)
    spec = _RUN.read(await bodies.read(exchange)).spec(settings)
    async with exchange.while_client_waits():
        outcome = await commands.run(owner, match[1], spec)
    await exchange.answer_json(views.result(outcome, spec.encoding))
