"""``POST /sandboxes/:id/processes/:key/stdin``, beside Quart: the body may be bytes of any kind."""

from __future__ import annotations

import re
from functools import partial

from nsbox.api import answers, parameters, query, schema
from nsbox.api.bodies import Bodies
from nsbox.api.exchange import Exchange
from nsbox.api.inputs import Inputs, held
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import CommandsService
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import StoredInput

_RULE = f"{BASE}/sandboxes/<sandbox_id>/processes/<key>/stdin"
_STDIN = re.compile(f"{BASE}/sandboxes/([^/]+)/processes/([^/]+)/stdin")
_KNOWN = parameters.names(parameters.STDIN)
_WRITE = schema.Reader(schema.WriteStdin)


def route(commands: CommandsService, bodies: Bodies, inputs: Inputs) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(_RULE, ("POST",), _takes, partial(_handle, commands, bodies, inputs))


def _takes(exchange: Exchange) -> bool:
    return _STDIN.fullmatch(exchange.scope["path"]) is not None


async def _handle(
    commands: CommandsService, bodies: Bodies, inputs: Inputs, exchange: Exchange, owner: str
) -> None:
    match = _STDIN.fullmatch(exchange.scope["path"])
    assert match is not None
    asked = query.parse(exchange.scope["query_string"], _KNOWN)
    patience, close = parameters.PATIENCE_MS.of(asked) / 1000, parameters.CLOSE.of(asked)
    data, closes = await _read(exchange, bodies, inputs, owner)
    close, size, written = close or closes, len(data), 0
    with held(data):
        if size:
            async with exchange.while_client_waits():
                written = await commands.write_stdin(owner, match[1], match[2], data, patience)
    if written < size:
        raise Problem(
            Code.STDIN_FULL,
            f"it took {written} of {size} bytes within {patience:g} s",
            remedy=f"send the rest, from byte {written} on, when it reads again; stdin is not closed",
            written=written,
        )
    if close:
        await commands.close_stdin(owner, match[1], match[2])
    await exchange.answer_json(answers.StdinView(written=written, closed=close))


async def _read(
    exchange: Exchange, bodies: Bodies, inputs: Inputs, owner: str
) -> tuple[bytes | StoredInput, bool]:
    """What is to be written, and whether that is all. Here, so that nothing else of it is held meanwhile."""
    data = await bodies.read_any(exchange, "write_stdin")
    kind = (exchange.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        return await inputs.lay_down(owner, data), False
    wish = _WRITE.read(data)
    return await inputs.lay_down(owner, wish.raw()), wish.close
