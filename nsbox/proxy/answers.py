"""What a sandbox answers, on its way to the visitor: one task for each connection to a sandbox's port.

It is believed in nothing: an answer that nobody asked for ends the connection, one that two readers could end
in two places is not passed on, and one that is cut off is cut off for the visitor, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsbox.proxy import head, relay, rewrite
from nsbox.proxy.bodies import Body, Chunked, Endless, Sized
from nsbox.proxy.head import MalformedError, Response
from nsbox.proxy.pages import Fault
from nsbox.proxy.relay import ClosedError, Line

if TYPE_CHECKING:
    from nsbox.proxy.connection import Connection, Exchange

#: Interim answers (100, 103) before the answer proper.
_MOST_INTERIM = 32


async def take(connection: Connection, upstream: Line) -> None:
    """Pass answers on until the sandbox's side ends, or the visitor's connection does."""
    try:
        while await _next(connection, upstream):
            pass
    except ClosedError:
        connection.abort()
    finally:
        exchange = connection.exchange
        if exchange is None or not exchange.tunnel:  # of a tunnel, the other half may go on
            if connection.upstream is upstream:
                connection.upstream = None
            upstream.close()
        if exchange is not None and connection.upstream is None:
            exchange.done.set()


async def _next(connection: Connection, upstream: Line) -> bool:
    """One answer; whether another may follow."""
    interim = 0
    buffer = b""
    while True:
        try:
            end = head.end_of_head(buffer) if buffer else -1
            response = head.response(buffer[:end]) if end >= 0 else None
        except MalformedError as error:
            return await _fail(
                connection, f"What listens on this port does not answer in HTTP: {error.detail}."
            )
        if response is None:
            try:
                data = await upstream.receive()
            except ClosedError:
                data = memoryview(b"")
            exchange = connection.exchange
            if exchange is None or exchange.done.is_set():
                return False  # it hangs up between requests, or says something that nobody asked for
            if not data:
                return await _ended(connection, exchange, begun=bool(buffer or interim))
            buffer += data
            continue
        buffer = buffer[end:]
        assert exchange is not None
        exchange.again = False
        if response.status == 101:
            await _tunnel(connection, exchange, upstream, response, buffer)
            return False
        if response.status >= 200:
            return await _respond(connection, exchange, upstream, response, buffer)
        interim += 1
        if interim > _MOST_INTERIM:
            return await _fail(connection, "Too many interim answers.")
        if exchange.request.minor:  # HTTP/1.0 does not know them
            await connection.client.send(rewrite.response_head(response, close=False))


async def _ended(connection: Connection, exchange: Exchange, *, begun: bool) -> bool:
    """The sandbox's side closed instead of answering."""
    if exchange.again and not begun:
        await connection.send_again(exchange)
        return False
    return await _fail(connection, "What listens on this port closed the connection without an answer.")


async def _fail(connection: Connection, detail: str) -> bool:
    exchange = connection.exchange
    if exchange is None or exchange.done.is_set():
        return False
    await connection.tell(Fault.BAD_ANSWER, exchange.request, detail)
    exchange.done.set()
    return False


async def _tunnel(
    connection: Connection, exchange: Exchange, upstream: Line, response: Response, rest: bytes
) -> None:
    if exchange.request.upgrade is None:
        await _fail(connection, "It changes to a protocol that nobody asked for.")
        return
    await connection.client.send(rewrite.response_head(response, close=False) + rest)
    exchange.tunnel = True
    exchange.done.set()
    await relay.everything(upstream, connection.client)


async def _respond(
    connection: Connection, exchange: Exchange, upstream: Line, response: Response, rest: bytes
) -> bool:
    """The answer proper; whether another may follow on this connection."""
    request = exchange.request
    until = body_of(request.method, response)
    if response.chunked and not request.minor:
        return await _fail(connection, "It sends chunks to a client of HTTP/1.0.")
    endless = isinstance(until, Endless)
    last = endless or not request.keeps_alive
    told = rewrite.response_head(response, close=last, cookie=exchange.cookie)
    try:
        used = until.feed(memoryview(rest)) if rest and not until.done else 0
        await connection.client.send(told + rest[:used] if used else told)
        rest = await relay.body(upstream, connection.client, until) or rest[used:]
    except MalformedError as error:
        raise ClosedError(upstream, error.detail) from error
    if not until.done and not endless:
        raise ClosedError(upstream, "an answer that was cut off")
    exchange.done.set()
    if last or not exchange.request_done:
        connection.hang_up()
        return False
    connection.rest()
    return not rest and response.minor == 1 and b"close" not in response.connection


def body_of(method: bytes, response: Response) -> Body:
    """Where the body of an answer ends (RFC 9112, 6.3)."""
    if method == b"HEAD" or response.status in (204, 304):
        return Sized(0)
    if response.chunked:
        return Chunked()
    return Endless() if response.length is None else Sized(response.length)
