"""``GET /sandboxes/:id/processes/:key/logs``, beside Quart: it may go on for as long as the command runs."""

from __future__ import annotations

import re
from functools import partial

from nsbox.api import events, leaving, parameters, query, streaming
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import CommandsService
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Encoding

_RULE = f"{BASE}/sandboxes/<sandbox_id>/processes/<key>/logs"
_LOGS = re.compile(f"{BASE}/sandboxes/([^/]+)/processes/([^/]+)/logs")
_KNOWN = parameters.names(parameters.LOGS)


def route(commands: CommandsService) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(_RULE, ("GET",), _takes, partial(_handle, commands))


def _takes(exchange: Exchange) -> bool:
    return _LOGS.fullmatch(exchange.scope["path"]) is not None


async def _handle(commands: CommandsService, exchange: Exchange, owner: str) -> None:
    match = _LOGS.fullmatch(exchange.scope["path"])
    assert match is not None
    asked = query.parse(exchange.scope["query_string"], _KNOWN)
    how, begin = streaming.encoding(asked), streaming.offset(exchange, asked)
    raw, follow, stream = (
        parameters.RAW_LOG.of(asked),
        parameters.FOLLOW.of(asked),
        parameters.ONE_STREAM.of(asked),
    )
    limit = parameters.LOG_LIMIT.of(asked)
    follow = follow or (events.wanted(exchange) and not raw)
    if leaving.kills(asked) and not follow:
        raise Problem(Code.INVALID_FIELD, f"{leaving.NAME} goes with follow=true", field=leaving.NAME)
    leash = leaving.Leash(commands, match[1], exchange, kill=leaving.kills(asked))
    leash.hold(match[2])
    if not await _no_body(exchange):
        raise Problem(Code.INVALID_REQUEST, "the request has a body, and none is taken")
    if raw:
        follower = await commands.follow(owner, match[1], match[2], begin, text=False)
        async with leash:
            await streaming.as_bytes(exchange, follower, stream, wait=follow)
        return
    if stream is not None:
        raise Problem(Code.INVALID_FIELD, "stream goes with raw=true", field="stream")
    text = how is Encoding.UTF8
    follower = await commands.follow(owner, match[1], match[2], begin, text=text)
    if follow:
        async with leash:
            await streaming.as_events(exchange, follower, how)
    else:
        await streaming.as_json(exchange, follower, how, limit)


async def _no_body(exchange: Exchange) -> bool:
    return not await exchange.read(0)
