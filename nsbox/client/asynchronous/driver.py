"""Does what the descriptions say, with connections and a clock that can be waited for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol, TypeVar

from nsbox.client.asynchronous import waiting
from nsbox.client.call import Call, Request, T
from nsbox.client.errors import ApiError, ConnectionFailed
from nsbox.client.fetching import Fetching
from nsbox.client.retries import Answer, Attempts, Pause, Retries, steps
from nsbox.client.told import Told, is_events

if TYPE_CHECKING:
    from nsbox.client.websocket import WebSocket

E = TypeVar("E")


class AsyncReply(Protocol):
    """The head of an answer, and its body to be read."""

    status: int
    headers: dict[str, str]

    async def __aenter__(self) -> AsyncReply: ...
    async def __aexit__(self, *unused: object) -> None: ...
    def pieces(self) -> AsyncGenerator[bytes, None]: ...
    async def read(self) -> bytes: ...


class AsyncLine(Protocol):
    """A connection of its own. ``receive`` gives nothing at its end."""

    async def send(self, data: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    async def close(self) -> None: ...


class AsyncTransport(Protocol):
    """Sends requests. Raises ``ConnectionFailed`` and nothing else."""

    async def send(self, request: Request) -> AsyncReply: ...
    async def line(self, request: Request, socket: WebSocket) -> AsyncLine: ...
    async def close(self) -> None: ...


class AsyncDriver:
    """One nsbox, one key."""

    def __init__(
        self,
        transport: AsyncTransport,
        secret: str,
        retries: Retries,
        headers: tuple[tuple[str, str], ...] = (),
        sleep: Callable[[float], Awaitable[object]] = waiting.sleep,
    ) -> None:
        self._transport, self._secret, self._retries = transport, secret, retries
        self._headers, self.sleep = headers, sleep
        self._reached = False

    async def close(self) -> None:
        """Close its connections."""
        await self._transport.close()

    @property
    def retries(self) -> Retries:
        """How patient it is now."""
        return self._retries if self._reached else self._retries.unreached

    def attempts(self) -> Attempts:
        """For something that is tried."""
        return Attempts(self.retries)

    async def do(self, call: Call[T]) -> T:
        """One call, to its end. Raises ``NsboxError``."""
        with self.discreet():
            return await self._drive(steps(call, self.retries))

    async def _drive(self, plan: Generator[Request | Pause, Answer | ConnectionFailed | None, T]) -> T:
        try:
            step = next(plan)
            while True:
                step = plan.send(await self._outcome(step))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _outcome(self, step: Request | Pause) -> Answer | ConnectionFailed | None:
        if isinstance(step, Pause):
            await self.sleep(step.seconds)
            return None
        try:
            return await self.ask(step)
        except ConnectionFailed as error:
            return error

    async def send(self, request: Request) -> AsyncReply:
        """A request, and the head of its answer. Raises ``ConnectionFailed``."""
        reply = await self._transport.send(self._whole(request))
        self._reached = True
        return reply

    async def line(self, request: Request, socket: WebSocket) -> AsyncLine:
        """A connection on which a WebSocket was asked for. Raises ``ConnectionFailed``."""
        line = await self._transport.line(self._whole(request), socket)
        self._reached = True
        return line

    def _whole(self, request: Request) -> Request:
        return request._replace(headers=(*request.headers, *self._headers))

    async def ask(self, request: Request) -> Answer:
        """A request and its whole answer, once. Raises ``ConnectionFailed``."""
        async with await self.send(request) as reply:
            return Answer(reply.status, reply.headers, await reply.read())

    async def events(self, told: Told[E]) -> AsyncGenerator[E, None]:
        """All of it, however often the connection is lost. Raises ``NsboxError``. Close it."""
        with self.discreet():
            while True:
                try:
                    async with await self.send(told.request()) as reply:
                        if is_events(reply.status, reply.headers):
                            async with aclosing(reply.pieces()) as pieces:
                                async for piece in pieces:
                                    for event in told.feed(piece):
                                        yield event
                                    if told.done:
                                        return
                            told.ended()
                        answer = Answer(reply.status, reply.headers, await reply.read())
                    await self.sleep(told.refused(answer))
                except ConnectionFailed as error:
                    await self.sleep(told.lost(error))

    async def fetch(self, fetching: Fetching) -> AsyncGenerator[tuple[int, bytes], None]:
        """Bytes and where they go. Raises ``NsboxError``. Close it."""
        with self.discreet():
            while True:
                try:
                    async with await self.send(fetching.request()) as reply:
                        if reply.status in (200, 206):
                            at = fetching.begun(reply.status, reply.headers)
                            async with aclosing(reply.pieces()) as pieces:
                                async for piece in pieces:
                                    fetching.took(len(piece))
                                    yield at, piece
                                    at += len(piece)
                            return
                        answer = Answer(reply.status, reply.headers, await reply.read())
                    await self.sleep(fetching.refused(answer))
                except ConnectionFailed as error:
                    await self.sleep(fetching.lost(error))

    @contextlib.contextmanager
    def discreet(self) -> Iterator[None]:
        """No error tells the key, also where somebody sends it back."""
        try:
            yield
        except ApiError as error:
            if self._secret in f"{error} {error.document}":
                raise error.without(self._secret) from None
            raise
