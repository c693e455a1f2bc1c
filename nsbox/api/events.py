"""Server-sent events: an answer that goes on (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from nsbox.api.exchange import Exchange
from nsbox.api.problems import tell

EVENTS = b"text/event-stream"
_ENCODER = msgspec.json.Encoder()
#: A comment now and then tells proxies, and us, that the other side is still there.
_HEARTBEAT = 10.0


def wanted(exchange: Exchange) -> bool:
    """Whether the client accepts events."""
    return EVENTS in (exchange.header(b"accept") or b"").lower()


class Events:
    """The events of one answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sending = trio.Lock()

    async def raw(self, data: bytes) -> None:
        """Bytes that are events already."""
        async with self._sending:  # an event and a heartbeat must not get mixed
            # Nor may one be cancelled half-way, by an error for one: what h11 counts as sent would be lost,
            # the head of the answer too. The connection bounds how slowly it is taken.
            with trio.CancelScope(shield=True):
                await self._exchange.send({"type": "http.response.body", "body": data, "more_body": True})

    async def send(self, kind: str, value: Any, number: int | None = None) -> None:
        """One event; ``number`` is its id, which a client that comes back tells us."""
        head = b"" if number is None else b"id: %d\n" % number
        await self.raw(b"%sevent: %s\ndata: %s\n\n" % (head, kind.encode(), _ENCODER.encode(value)))

    async def beat(self) -> None:
        """For ever."""
        while True:
            await trio.sleep(_HEARTBEAT)
            await self.raw(b": still there\n\n")


@asynccontextmanager
async def events(exchange: Exchange) -> AsyncIterator[Events]:
    """An answer of events. An error within the block becomes the last one, ``problem``: the status is long
    gone."""
    headers = [(b"content-type", EVENTS), (b"x-accel-buffering", b"no")]
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    sender = Events(exchange)
    problem: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.beat)
        try:
            yield sender
        except Exception as error:
            problem = error
        nursery.cancel_scope.cancel()
    if problem is not None:
        await sender.raw(b"event: problem\ndata: %s\n\n" % tell(problem).body)
    await exchange.send({"type": "http.response.body", "body": b""})
