"""``POST /sandboxes/:id/exec``, beside Quart, which would add 0.4 ms to the most frequent request of all.

With ``stream=true`` the answer is events (``streaming``).
"""

from __future__ import annotations

import re
from functools import partial

import msgspec

from nsbox.api import idempotency, leaving, parameters, query, schema, streaming, views
from nsbox.api.bodies import Bodies
from nsbox.api.exchange import Exchange
from nsbox.api.gradual import Gradual
from nsbox.api.inputs import Inputs, held
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import CommandsService
from nsbox.model.command import Request
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import CommandResult, CommandSpec, Encoding
from nsbox.settings import Settings

_RULE = f"{BASE}/sandboxes/<sandbox_id>/exec"
_EXEC = re.compile(f"{BASE}/sandboxes/([^/]+)/exec")
_RUN = schema.Reader(schema.RunCommand)
_KNOWN = parameters.names(parameters.EXEC)


def route(commands: CommandsService, bodies: Bodies, inputs: Inputs, settings: Settings) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(_RULE, ("POST",), _takes, partial(_handle, commands, bodies, inputs, settings))


def _takes(exchange: Exchange) -> bool:
    return _EXEC.fullmatch(exchange.scope["path"]) is not None


async def _handle(
    commands: CommandsService,
    bodies: Bodies,
    inputs: Inputs,
    settings: Settings,
    exchange: Exchange,
    owner: str,
) -> None:
    match = _EXEC.fullmatch(exchange.scope["path"])
    assert match is not None
    asked = query.parse(exchange.scope["query_string"], _KNOWN)
    stream = parameters.STREAM.of(asked)
    spec = _RUN.read(await bodies.read(exchange, "exec_command")).spec(settings)
    begin = streaming.offset(exchange, asked) if stream else None
    if not stream and "offset" in asked:
        raise Problem(Code.INVALID_REQUEST, "offset goes with stream=true", field="offset")
    request = idempotency.request(idempotency.presented(exchange), "stream" if stream else "exec", spec)
    leash = leaving.Leash(commands, match[1], exchange, kill=leaving.kills(asked))
    assert isinstance(spec.stdin, bytes)
    stdin = await inputs.lay_down(owner, spec.stdin)
    with held(stdin):
        # By this name: nothing else may hold what waits for the command to read it.
        spec = msgspec.structs.replace(spec, stdin=stdin)
        if begin is not None:
            async with leash:
                await _stream(commands, exchange, owner, match[1], spec, begin, request, leash)
            return
        async with leash, exchange.while_client_waits():
            outcome = await commands.run(owner, match[1], spec, request, leash.hold)
    if outcome.stdout.source is None and outcome.stderr.source is None:
        await exchange.answer_json(views.result(outcome, spec.encoding))
    else:
        await _answer_gradually(exchange, outcome, spec.encoding)


async def _answer_gradually(exchange: Exchange, outcome: CommandResult, encoding: Encoding) -> None:
    """As a short answer, but never whole in memory: the output is read as the client takes it."""
    answer, members = Gradual(exchange), dict(views.result(outcome, encoding))
    sources = {"stdout": outcome.stdout.source, "stderr": outcome.stderr.source}
    try:
        async with exchange.while_client_waits():
            before = b"{"
            for name, source in sources.items():
                shown = members.pop(name)
                await answer.write(before + b'"%s":' % name.encode())
                before = b","
                if source is None:
                    await answer.write(msgspec.json.encode(shown))
                else:
                    await answer.write_text(source.next, encoding)
            await answer.write_rest(members)
    finally:
        for source in sources.values():
            if source is not None:
                source.close()


async def _stream(
    commands: CommandsService,
    exchange: Exchange,
    owner: str,
    sandbox_id: str,
    spec: CommandSpec,
    begin: int,
    request: Request | None,
    leash: leaving.Leash,
) -> None:
    """A client that lost its connection may as well ask again, with the same Idempotency-Key and the last id:
    it gets the rest of what it was getting."""
    if begin and request is None:
        raise Problem(
            Code.INVALID_REQUEST,
            "a new command begins at 0",
            field="Last-Event-ID",
            remedy="ask for /processes/ID/logs?follow=true, or send the first request's Idempotency-Key",
        )
    follower = await commands.stream(owner, sandbox_id, spec, begin, request)
    leash.hold(follower.process().id)
    await streaming.as_events(exchange, follower, spec.encoding)
