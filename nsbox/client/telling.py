"""A pull, a push or a build, told as it goes on: progress, then what came of it, or what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from nsbox.client.call import Request
from nsbox.client.errors import ConnectionFailed, ConnectionLost, UnexpectedAnswer, from_answer, from_document
from nsbox.client.events import Events
from nsbox.client.retries import Answer, Attempts
from nsbox.client.types.image import Progress, Pushed

T = TypeVar("T")


class Telling(Generic[T]):
    """``safe``: asking again joins what goes on, as for pulls and pushes; a build would begin anew."""

    def __init__(
        self,
        request: Request,
        attempts: Attempts,
        *,
        last: str,
        read: Callable[[Any], T],
        safe: bool,
    ) -> None:
        self._request, self._attempts, self._safe = request, attempts, safe
        self._last, self._read = last, read
        self._events = Events()
        self.done = False
        self.result: T | None = None

    def request(self) -> Request:
        """What to ask for now."""
        self._events = Events()
        return self._request

    def refused(self, answer: Answer) -> float:
        """The pause after an answer that is no stream of events. Raises ``ApiError``."""
        if 200 <= answer.status < 300:
            raise UnexpectedAnswer(f"an answer without events (HTTP {answer.status})")
        error = from_answer(answer.status, answer.body, answer.headers.get("retry-after"))
        return self._attempts.refused(error, safe=self._safe)

    def lost(self, error: ConnectionFailed) -> float:
        """The pause after a connection that is gone. Raises it when it is time to give up."""
        return self._attempts.lost(error, safe=self._safe)

    def ended(self) -> None:
        """The answer is over. Raises ``ConnectionLost`` where its last event is missing."""
        if not self.done:
            raise ConnectionLost("the connection was lost before it was done")

    def feed(self, data: bytes) -> Iterator[Progress]:
        """What these bytes tell."""
        for event in self._events.feed(data):
            self._attempts.progressed()
            told = event.data if isinstance(event.data, dict) else {}
            if event.kind == "progress":
                yield _progress(told)
            elif event.kind == self._last:
                self.result, self.done = self._read(event.data), True
            elif event.kind == "problem":
                status = told.get("status")
                raise from_document(status if isinstance(status, int) else 500, told)


def pushed(request: Request, attempts: Attempts) -> Telling[Pushed]:
    """A push."""
    return Telling(
        request, attempts, last="pushed", read=lambda data: msgspec.convert(data, Pushed), safe=True
    )


def _progress(told: dict[str, Any]) -> Progress:
    return Progress(
        told.get("stage"), told.get("layer"), told.get("current", 0), told.get("total", 0), told.get("step")
    )
