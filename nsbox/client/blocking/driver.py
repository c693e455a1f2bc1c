# Made from asynchronous/driver.py by scripts/blocking_client.py: change that one, and run it.
"""Does what the descriptions say, with connections and a clock that can be waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Protocol, TypeVar

from nsbox.client.blocking import waiting
from nsbox.client.call import Call, Request, T
from nsbox.client.errors import ApiError, ConnectionFailed
from nsbox.client.fetching import Fetching
from nsbox.client.retries import Answer, Attempts, Pause, Retries, steps
from nsbox.client.told import Told, is_events

if TYPE_CHECKING:
    from nsbox.client.websocket import WebSocket

E = TypeVar("E")


class Reply(Protocol):
    """The head of an answer, and its body to be read."""

    status: int
    headers: dict[str, str]

    def __enter__(self) -> Reply: ...
    def __exit__(self, *unused: object) -> None: ...
    def pieces(self) -> Generator[bytes, None, None]: ...
    def read(self) -> bytes: ...


class Line(Protocol):
    """A connection of its own. ``receive`` gives nothing at its end."""

    def send(self, data: bytes) -> None: ...
    def receive(self) -> bytes: ...
    def close(self) -> None: ...


class Transport(Protocol):
    """Sends requests. Raises ``ConnectionFailed`` and nothing else."""

    def send(self, request: Request) -> Reply: ...
    def line(self, request: Request, socket: WebSocket) -> Line: ...
    def close(self) -> None: ...


class Driver:
    """One nsbox, one key."""

    def __init__(
        self,
        transport: Transport,
        secret: str,
        retries: Retries,
        headers: tuple[tuple[str, str], ...] = (),
        sleep: Callable[[float], object] = waiting.sleep,
    ) -> None:
        self._transport, self._secret, self._retries = transport, secret, retries
        self._headers, self.sleep = headers, sleep
        self._reached = False

    def close(self) -> None:
        """Close its connections."""
        self._transport.close()

    @property
    def retries(self) -> Retries:
        """How patient it is now."""
        return self._retries if self._reached else self._retries.unreached

    def attempts(self) -> Attempts:
        """For something that is tried."""
        return Attempts(self.retries)

    def do(self, call: Call[T]) -> T:
        """One call, to its end. Raises ``NsboxError``."""
        with self.discreet():
            return self._drive(steps(call, self.retries))

    def _drive(self, plan: Generator[Request | Pause, Answer | ConnectionFailed | None, T]) -> T:
        try:
            step = next(plan)
            while True:
                step = plan.send(self._outcome(step))
        except StopIteration as end:
            result: T = end.value
            return result

    def _outcome(self, step: Request | Pause) -> Answer | ConnectionFailed | None:
        if isinstance(step, Pause):
            self.sleep(step.seconds)
            return None
        try:
            return self.ask(step)
        except ConnectionFailed as error:
            return error

    def send(self, request: Request) -> Reply:
        """A request, and the head of its answer. Raises ``ConnectionFailed``."""
        reply = self._transport.send(self._whole(request))
        self._reached = True
        return reply

    def line(self, request: Request, socket: WebSocket) -> Line:
        """A connection on which a WebSocket was asked for. Raises ``ConnectionFailed``."""
        line = self._transport.line(self._whole(request), socket)
        self._reached = True
        return line

    def _whole(self, request: Request) -> Request:
        return request._replace(headers=(*request.headers, *self._headers))

    def ask(self, request: Request) -> Answer:
        """A request and its whole answer, once. Raises ``ConnectionFailed``."""
        with self.send(request) as reply:
            return Answer(reply.status, reply.headers, reply.read())

    def events(self, told: Told[E]) -> Generator[E, None, None]:
        """All of it, however often the connection is lost. Raises ``NsboxError``. Close it."""
        with self.discreet():
            while True:
                try:
                    with self.send(told.request()) as reply:
                        if is_events(reply.status, reply.headers):
                            with closing(reply.pieces()) as pieces:
                                for piece in pieces:
                                    yield from told.feed(piece)
                                    if told.done:
                                        return
                            told.ended()
                        answer = Answer(reply.status, reply.headers, reply.read())
                    self.sleep(told.refused(answer))
                except ConnectionFailed as error:
                    self.sleep(told.lost(error))

    def fetch(self, fetching: Fetching) -> Generator[tuple[int, bytes], None, None]:
        """Bytes and where they go. Raises ``NsboxError``. Close it."""
        with self.discreet():
            while True:
                try:
                    with self.send(fetching.request()) as reply:
                        if reply.status in (200, 206):
                            at = fetching.begun(reply.status, reply.headers)
                            with closing(reply.pieces()) as pieces:
                                for piece in pieces:
                                    fetching.took(len(piece))
                                    yield at, piece
                                    at += len(piece)
                            return
                        answer = Answer(reply.status, reply.headers, reply.read())
                    self.sleep(fetching.refused(answer))
                except ConnectionFailed as error:
                    self.sleep(fetching.lost(error))

    @contextlib.contextmanager
    def discreet(self) -> Iterator[None]:
        """No error tells the key, also where somebody sends it back."""
        try:
            yield
        except ApiError as error:
            if self._secret in f"{error} {error.document}":
                raise error.without(self._secret) from None
            raise
