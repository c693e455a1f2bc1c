"""The output of a command, over as many connections as it takes: no byte lost, none twice.

It knows no socket. A client asks for the next request, feeds it the bytes of the answer, and tells it when
the connection is gone; what comes out are events. Until nsbox has said which process it is, the same POST is
sent again, with the same Idempotency-Key; from then on the process's log is asked for, which starts nothing.
So a command cannot run twice, however late the client comes back."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

from nsbox.client.call import Request
from nsbox.client.errors import (
    ApiError,
    ConnectionFailed,
    ConnectionLost,
    UnexpectedAnswer,
    from_answer,
    from_document,
)
from nsbox.client.events import Event, Events
from nsbox.client.outputs import STREAMS, Outputs
from nsbox.client.retries import Answer, Attempts
from nsbox.client.types.command import (
    CommandEvent,
    Exited,
    ProcessInfo,
    Started,
    read_process,
)


class Following:
    """One command, from ``offset`` on. ``first`` is how to begin; ``again`` how to go on, given its id."""

    def __init__(
        self, first: Request, again: Callable[[str], Request], attempts: Attempts, offset: int = 0
    ) -> None:
        self._first, self._again, self._attempts = first, again, attempts
        self._events = Events()
        self._outputs = Outputs(offset)
        self._told = False
        self.process: ProcessInfo | None = None
        self.done = False

    @property
    def offset(self) -> int:
        """Behind the last byte that came."""
        return self._outputs.offset

    def request(self) -> Request:
        """What to ask for now."""
        self._events = Events()
        request = self._first if self.process is None else self._again(self.process.id)
        if self.offset:
            last = ("Last-Event-ID", str(self.offset))
            request = request._replace(headers=(*request.headers, last))
        return request

    def refused(self, answer: Answer) -> float:
        """The pause after an answer that is no stream of events. Raises ``ApiError``."""
        if 200 <= answer.status < 300:
            raise UnexpectedAnswer(f"an answer without events (HTTP {answer.status})")
        error = from_answer(answer.status, answer.body, answer.headers.get("retry-after"))
        return self._attempts.refused(error, safe=True)

    def lost(self, error: ConnectionFailed) -> float:
        """The pause after a connection that is gone. Raises it when it is time to give up."""
        return self._attempts.lost(error, safe=True)

    def ended(self) -> None:
        """The answer is over. Raises ``ConnectionLost`` where its last event is missing."""
        if not self.done:
            raise ConnectionLost("the stream ended before the command did")

    def feed(self, data: bytes) -> Iterator[CommandEvent]:
        """What these bytes tell."""
        for event in self._events.feed(data):
            self._attempts.progressed()
            yield from self._take(event)

    def _take(self, event: Event) -> Iterator[CommandEvent]:
        if event.kind == "started":
            self.process = read_process(event.data)
            if not self._told:
                self._told = True
                yield Started(self.process)
        elif event.kind in STREAMS:
            data = base64.b64decode(event.data["data"])
            yield from self._outputs.take(event.kind, int(event.data["offset"]), data)
        elif event.kind == "dropped":
            yield from self._outputs.gap(int(event.data["until"]))
        elif event.kind == "exit":
            self.process = read_process(event.data)
            yield from self._outputs.flush()
            self.done = True
            yield Exited(self.process)
        elif event.kind == "problem":
            raise self._problem(event)

    def _problem(self, event: Event) -> ApiError | ConnectionLost:
        """An API process that is being replaced says so; the command goes on without it."""
        document = event.data if isinstance(event.data, dict) else {}
        if document.get("code") == "shutting_down":
            return ConnectionLost("nsbox is shutting down")
        status = document.get("status")
        return from_document(status if isinstance(status, int) else 500, document)
