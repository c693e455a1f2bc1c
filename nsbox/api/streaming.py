"""The output of a command, as events or as bytes, from any offset on and for as long as it runs.

The id of an event is the offset behind its bytes. A client that comes back names the last one it has seen
(``Last-Event-ID``, as browsers do, or ``offset``) and goes on there, whatever happened to it or to us
meanwhile."""

from __future__ import annotations

import base64
from typing import Any

from nsbox.api import parameters, query, views
from nsbox.api.events import Events, events
from nsbox.api.exchange import Exchange
from nsbox.api.gradual import Gradual
from nsbox.api.services import FollowerService
from nsbox.host.logs import Piece, Stream
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Encoding

_LAST = "Last-Event-ID"
_OCTETS = b"application/octet-stream"


def offset(exchange: Exchange, asked: query.Query) -> int:
    """Where to begin: behind the last event that the client has seen, else at ``offset``, else at 0."""
    begin = parameters.OFFSET.of(asked)
    last = exchange.header(_LAST.lower().encode())
    return begin if last is None else parameters.OFFSET.read(last, _LAST)


def encoding(asked: query.Query) -> Encoding:
    """``utf8`` unless something else is asked for."""
    return Encoding(parameters.LOG_ENCODING.of(asked) or Encoding.UTF8)


def shown(piece: Piece, how: Encoding) -> str:
    """Bytes as JSON takes them."""
    if how is Encoding.BASE64:
        return base64.b64encode(piece.data).decode()
    return piece.data.decode("utf-8", "replace")


async def as_events(exchange: Exchange, follower: FollowerService, how: Encoding) -> None:
    """All that comes, until the command has ended. Events: ``started``, ``stdout``, ``stderr``, ``dropped``,
    ``exit``, and ``problem`` if something goes wrong."""
    with follower:
        async with exchange.while_client_waits(), events(exchange) as sender:
            await sender.send("started", views.process(follower.process()))
            while (found := await follower.next()) is not None:
                await _send(sender, found, how, follower.offset)
            await sender.send("exit", views.process(follower.process()))


async def _send(sender: Events, found: Any, how: Encoding, behind: int) -> None:
    if isinstance(found, Piece):
        kind = found.stream.name.lower()
        await sender.send(kind, {"offset": found.offset, "data": shown(found, how)}, behind)
    else:
        await sender.send("dropped", {"offset": found.offset, "until": found.until}, behind)


async def as_bytes(exchange: Exchange, follower: FollowerService, stream: str | None, *, wait: bool) -> None:
    """The bytes themselves, of one stream or both as they came. What is not kept any more at the beginning is
    left out, and ``X-Log-Offset`` says where it begins; later that breaks the answer off."""
    with follower:
        async with exchange.while_client_waits():
            found = await follower.look()
            if found is not None and not isinstance(found, Piece):
                found = await follower.look()
            begin = found.offset if found is not None else follower.offset
            headers = [(b"content-type", _OCTETS), (b"x-log-offset", b"%d" % begin)]
            await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
            while True:
                if found is None:
                    found = await (follower.next() if wait else follower.look())
                    if found is None:
                        break
                if not isinstance(found, Piece):
                    raise Problem(Code.RANGE_NOT_SATISFIABLE, "the output came faster than it was read")
                if found.data and stream in (None, found.stream.name.lower()):
                    body = {"type": "http.response.body", "body": found.data, "more_body": True}
                    await exchange.send(body)
                found = None
            await exchange.send({"type": "http.response.body", "body": b""})


async def as_json(exchange: Exchange, follower: FollowerService, how: Encoding, limit: int) -> None:
    """What is there now, up to ``limit`` bytes, and where to go on. Sent as it is read: of a command that
    writes a byte here and a byte there, ten megabytes are many times that in chunks."""
    answer, before = Gradual(exchange), b""
    dropped, begin, taken = 0, follower.offset, 0
    with follower:
        async with exchange.while_client_waits():
            await answer.write(b'{"offset":%d,"encoding":"%s","chunks":[' % (begin, how.value.encode()))
            while taken < limit and (found := await follower.look()) is not None:
                if isinstance(found, Piece):
                    taken += len(found.data)
                    await answer.write(before)
                    await _write_chunk(answer, found, how)
                    before = b","
                else:
                    dropped += found.until - found.offset
            await answer.write(b"]")
            process = views.process(follower.process())
            await answer.write_rest({"nextOffset": follower.offset, "dropped": dropped, "process": process})


async def _write_chunk(answer: Gradual, piece: Piece, how: Encoding) -> None:
    """An ``answers.ChunkView``."""
    rest = [piece.data]

    async def once() -> bytes:
        return rest.pop() if rest else b""

    stream = b"stdout" if piece.stream is Stream.STDOUT else b"stderr"
    await answer.write(b'{"stream":"%s","offset":%d,"data":' % (stream, piece.offset))
    await answer.write_text(once, how)
    await answer.write(b"}")
