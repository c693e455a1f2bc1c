"""Requests that are answered whole, beside Quart, which would add 0.3 ms to each, and twice that when nothing
was asked for a while: a sandbox and its files are what is asked for most (docs/adr/0101)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from nsbox.api import idempotency, query
from nsbox.api.asked import Asked
from nsbox.api.bodies import Bodies
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import RawRoute

_NAMED = re.compile("<[a-z_]+>")


class Answer(NamedTuple):
    """``value`` becomes JSON. ``location``: of what was made."""

    value: Any
    status: int = 200
    location: str | None = None


class Way(NamedTuple):
    """What a path has for a method: the operation's name, the parameters that it knows, and what is done with
    the request and what the path names."""

    method: str
    name: str
    known: frozenset[str]
    handle: Callable[..., Awaitable[Answer]]


def route(rule: str, bodies: Bodies, *ways: Way) -> RawRoute:
    """A path of which nothing is left to Quart. Raw routes before it may take a part of it."""
    pattern = re.compile(_NAMED.sub("([^/]+)", rule))
    by_method = {way.method: way for way in ways}
    if "GET" in by_method:
        by_method["HEAD"] = by_method["GET"]

    def takes(exchange: Exchange) -> bool:
        return pattern.fullmatch(exchange.scope["path"]) is not None

    async def handle(exchange: Exchange, owner: str) -> None:
        way, found = by_method[exchange.scope["method"]], pattern.fullmatch(exchange.scope["path"])
        assert found is not None
        # What only looks takes no body, whatever else the operation's name allows.
        body = await bodies.read(exchange, "" if way.method == "GET" else way.name)
        assert exchange.caller is not None
        parameters = query.parse(exchange.scope["query_string"], way.known)
        asked = Asked(owner, parameters, body, exchange.caller, idempotency.presented(exchange))
        async with exchange.while_client_waits():
            answer = await way.handle(asked, *found.groups())
        more = [] if answer.location is None else [(b"location", answer.location.encode("ascii"))]
        await exchange.answer_json(answer.value, answer.status, more)

    return RawRoute(rule, tuple(sorted(by_method)), takes, handle)
