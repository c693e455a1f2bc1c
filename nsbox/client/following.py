"""The output of a command, over as many connections as it takes: no byte lost, none twice.

It knows no socket. A client asks for the next request, feeds it the bytes of the answer, and tells it when
the connection is gone; what comes out are events. Until nsbox has said which process it is, the same POST is
sent again, with the same Idempotency-Key; from then on the process's log is asked for, which starts nothing.
So a command cannot run twice, however late the client comes back."""

from __future__ import annotations

import base64
import codecs
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
from nsbox.client.retries import Answer, Attempts
from nsbox.client.types.command import (
    CommandEvent,
    Dropped,
    Exited,
    Output,
    ProcessInfo,
    Started,
    read_process,
)

_STREAMS = ("stdout", "stderr")


class Following:
    """One command, from ``offset`` on. ``first`` is how to begin; ``again`` how to go on, given its id."""

    def __init__(
        self, first: Request, again: Callable[[str], Request], attempts: Attempts, offset: int = 0
    ) -> None:
        self._first, self._again, self._attempts = first, again, attempts
        self._events = Events()
        self._decoders = {one: codecs.getincrementaldecoder("utf-8")("replace") for one in _STREAMS}
        self._told = False
        self.offset = offset
        self.process: ProcessInfo | None = None
        self.done = False

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
        elif event.kind in _STREAMS:
            yield from self._output(event)
        elif event.kind == "dropped":
            yield from self._gap(int(event.data["until"]))
        elif event.kind == "exit":
            self.process = read_process(event.data)
            yield from self._flush()
            self.done = True
            yield Exited(self.process)
        elif event.kind == "problem":
            raise self._problem(event)

    def _output(self, event: Event) -> Iterator[CommandEvent]:
        offset, data = int(event.data["offset"]), base64.b64decode(event.data["data"])
        if offset > self.offset:
            yield from self._gap(offset)
        new = data[self.offset - offset :]  # what is known already does not come twice
        if new:
            start, self.offset = self.offset, offset + len(data)
            yield Output(event.kind, start, new, self._decoders[event.kind].decode(new))

    def _gap(self, until: int) -> Iterator[CommandEvent]:
        if until > self.offset:
            start, self.offset = self.offset, until
            yield from self._flush()
            yield Dropped(start, until)

    def _flush(self) -> Iterator[CommandEvent]:
        """Half a character whose other half never comes."""
        for stream, decoder in self._decoders.items():
            text = decoder.decode(b"", True)
            decoder.reset()
            if text:
                yield Output(stream, self.offset, b"", text)

    def _problem(self, event: Event) -> ApiError | ConnectionLost:
        """An API process that is being replaced says so; the command goes on without it."""
        document = event.data if isinstance(event.data, dict) else {}
        if document.get("code") == "shutting_down":
            return ConnectionLost("nsbox is shutting down")
        status = document.get("status")
        return from_document(status if isinstance(status, int) else 500, document)
