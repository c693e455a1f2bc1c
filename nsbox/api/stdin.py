"""``POST /sandboxes/:id/processes/:key/stdin``, beside Quart: the body may be bytes of any kind."""

from __future__ import annotations

import re
from functools import partial

from nsbox.api import answers, parameters, query, schema
from nsbox.api.bodies import check_not_compressed
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import CommandsService
from nsbox.model.errors import Code, Problem

_RULE = f"{BASE}/sandboxes/<sandbox_id>/processes/<key>/stdin"
_STDIN = re.compile(f"{BASE}/sandboxes/([^/]+)/processes/([^/]+)/stdin")
_KNOWN = parameters.names(parameters.STDIN)
_WRITE = schema.Reader(schema.WriteStdin)


def route(commands: CommandsService, most: int) -> RawRoute:
    """The route, ready for the gate. ``most``: so large may a piece be; more of them may follow."""
    return RawRoute(_RULE, ("POST",), _takes, partial(_handle, commands, most))


def _takes(exchange: Exchange) -> bool:
    return _STDIN.fullmatch(exchange.scope["path"]) is not None


async def _handle(commands: CommandsService, most: int, exchange: Exchange, owner: str) -> None:
    match = _STDIN.fullmatch(exchange.scope["path"])
    assert match is not None
    asked = query.parse(exchange.scope["query_string"], _KNOWN)
    patience, close = parameters.PATIENCE_MS.of(asked) / 1000, parameters.CLOSE.of(asked)
    check_not_compressed(exchange)
    data = bytearray()
    while piece := await exchange.read(most):
        data += piece
    kind = (exchange.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind == b"application/json":
        wish = _WRITE.read(bytes(data))
        raw, close = wish.raw(), close or wish.close
    else:
        raw = bytes(data)
    written = 0
    if raw:
        async with exchange.while_client_waits():
            written = await commands.write_stdin(owner, match[1], match[2], raw, patience)
    if written < len(raw):
        raise Problem(
            Code.STDIN_FULL,
            f"it took {written} of {len(raw)} bytes within {patience:g} s",
            remedy=f"send the rest, from byte {written} on, when it reads again; stdin is not closed",
            written=written,
        )
    if close:
        await commands.close_stdin(owner, match[1], match[2])
    await exchange.answer_json(answers.StdinView(written=written, closed=close))
