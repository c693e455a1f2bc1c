"""One request and its answer, over ASGI: bodies read in bounded space and time, answers ended properly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import msgspec
import trio

from nsbox.api.problems import tell
from nsbox.model.account import Caller
from nsbox.model.errors import Code, Problem

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# A body must begin within the first, and then come at the second or faster.
BODY_GRACE_S = 30
BODY_BYTES_PER_S = 16 * 1024
# A body that nobody wants is still taken in up to here: closing a socket with unread bytes makes the
# kernel send RST, and the client may then lose the answer that told it why.
DRAIN_BYTES = 32 * 1024 * 1024
DRAIN_S = 2
#: A long answer is sent in pieces of so many bytes.
PIECE = 256 * 1024

# No answer is for a cache, nor for a browser to guess at.
_COMMON: Headers = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
_NO_HEADERS: Headers = []
#: What an answer of JSON is sent with.
JSON = (b"content-type", b"application/json")
_ENCODER = msgspec.json.Encoder()


class ClientLeftError(Exception):
    """There is nobody to answer."""


class Exchange:
    """Wraps ``receive`` and ``send`` of one request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.started = False
        #: Headers of every answer; a route whose answers a cache may keep has others.
        self.common = _COMMON
        #: Who asks, once that is known.
        self.caller: Caller | None = None
        #: Whether it was ended because the key has (``ongoing``).
        self.cut = False
        #: Whose requests at once this one is counted among.
        self.counted: str | None = None
        #: Hears the status and the headers of the answer as it begins.
        self.watch: Callable[[int, Headers], None] | None = None
        #: What the answer tells besides, whatever it is.
        self.extra: tuple[tuple[bytes, bytes], ...] = ()
        self._receive = receive
        self._send = send
        self._body_ended = False
        self._received = 0
        self._left = False
        self._pace = _Pace()

    def header(self, name: bytes) -> bytes | None:
        """The first header of this name."""
        return next((value for header, value in self.scope["headers"] if header == name), None)

    def announced_length(self) -> int:
        """``Content-Length``, or 0 where the body is chunked. (h11 has checked that it is a number.)"""
        return int(self.header(b"content-length") or b"0")

    async def receive(self) -> dict[str, Any]:
        """The next message, as it is. An application beside us is given this."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_ended = True
        return message

    async def read(self, limit: int) -> bytes:
        """The next piece of the body; none at its end. Raises ``BODY_TOO_LARGE`` as soon as it is known that
        the whole has more than ``limit``.

        Not an async generator: one that is left in the middle must be closed by hand.
        """
        if self.announced_length() > limit:
            raise self._too_large(limit)
        while not self._body_ended:
            with self._pace.measured():
                message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            piece: bytes = message.get("body", b"")
            self._pace.credit(len(piece))
            self._received += len(piece)
            if self._received > limit:
                raise self._too_large(limit)
            if piece:
                return piece
        return b""

    def _too_large(self, limit: int) -> Problem:
        return Problem(Code.BODY_TOO_LARGE, f"the body may have up to {limit} bytes", limit=limit)

    @asynccontextmanager
    async def while_client_waits(self) -> AsyncIterator[None]:
        """Cancels the block when the client leaves, and raises ``ClientLeftError``: nobody wants the rest of
        its work. Only for a request whose body has been read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()
        if self._left:
            raise ClientLeftError

    async def _watch(self, scope: trio.CancelScope) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self._left = True
        scope.cancel()

    async def send(self, message: dict[str, Any]) -> None:
        """Pass on a message of the answer.

        The last one is shielded: hypercorn tells the application of the end of the connection from
        within that call, and quart-trio then cancels the application. Our own connection has no
        checkpoint behind that point, hypercorn's has: there, the keep-alive deadline was never set.
        """
        if message["type"] == "http.response.start":
            self.started = True
            headers = [*message.get("headers", []), *self.extra, *self.common]
            if self.watch is not None:
                self.watch(message["status"], headers)
            await self._send({**message, "headers": headers})
            return
        message = await self._send_all_but_the_last_piece(message)
        if message.get("more_body", False):
            await self._send(message)
            return
        with trio.CancelScope(shield=True):
            await self._finish(message)

    async def _send_all_but_the_last_piece(self, message: dict[str, Any]) -> dict[str, Any]:
        """What is left to send. h11 and the connection copy what they are given, which of ten megabytes is
        felt."""
        body = message.get("body", b"")
        last = max(0, len(body) - 1) // PIECE * PIECE
        for begin in range(0, last, PIECE):
            await self._send({**message, "body": body[begin : begin + PIECE], "more_body": True})
        return {**message, "body": body[last:]} if last else message

    async def _finish(self, message: dict[str, Any]) -> None:
        if not self._body_ended:
            await self._send({**message, "more_body": True})
            message = {"type": "http.response.body", "body": b""}
            await self._drain()
        await self._send(message)

    async def _drain(self) -> None:
        rest = DRAIN_BYTES
        with trio.move_on_after(DRAIN_S):
            while not self._body_ended and rest > 0:
                rest -= len((await self.receive()).get("body", b""))

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer at once."""
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, (b"content-length", b"%d" % len(body))],
            }
        )
        await self.send({"type": "http.response.body", "body": body})

    async def answer_json(self, value: Any, status: int = 200, headers: Headers = _NO_HEADERS) -> None:
        """A whole JSON answer."""
        await self.answer(status, [JSON, *headers], _ENCODER.encode(value))

    async def fail(self, error: BaseException) -> None:
        """Answer with a problem. An answer that has begun cannot be mended: it is left unfinished, which
        closes the connection, so that the client sees that something is missing."""
        told = tell(error)
        if not self.started:
            await self.answer(told.status, told.headers, told.body)


class _Pace:
    """How much time a client may still take for its body: what the services take does not count."""

    def __init__(self) -> None:
        self._left = float(BODY_GRACE_S)

    def credit(self, count: int) -> None:
        self._left += count / BODY_BYTES_PER_S

    def measured(self) -> _Wait:
        return _Wait(self)

    def spend(self, seconds: float) -> None:
        self._left -= seconds

    @property
    def left(self) -> float:
        return max(self._left, 0.0)


class _Wait:
    """Time spent waiting for the client, and an end to it."""

    def __init__(self, pace: _Pace) -> None:
        self._pace = pace
        self._scope = trio.CancelScope()
        self._since = inf

    def __enter__(self) -> None:
        self._since = trio.current_time()
        self._scope.deadline = self._since + self._pace.left
        self._scope.__enter__()

    def __exit__(self, *error: Any) -> bool:
        caught = bool(self._scope.__exit__(*error))
        self._pace.spend(trio.current_time() - self._since)
        if self._scope.cancelled_caught:
            raise Problem(
                Code.INVALID_REQUEST, "the body came too slowly", remedy="send it without long pauses"
            )
        return caught
