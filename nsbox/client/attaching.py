"""One process over as many WebSockets as it takes: no byte of its output is lost or comes twice. No socket.

A client asks how to begin, feeds what it receives, and tells when the connection is gone. What goes to the
process is never sent twice: after a loss it is said how many bytes are not known to have been taken."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from nsbox.client.call import Request, query
from nsbox.client.errors import (
    ApiError,
    ConnectionFailed,
    ConnectionLost,
    NsboxError,
    UnexpectedAnswer,
    from_answer,
    from_document,
)
from nsbox.client.outputs import STREAMS, Outputs
from nsbox.client.retries import Attempts
from nsbox.client.types.command import (
    AttachEvent,
    Exited,
    ProcessInfo,
    Reattached,
    Refused,
    Started,
    read_process,
)
from nsbox.client.websocket import Accepted, Closed, Message, WebSocket
from nsbox.client.websocket import Refused as NoSocket

_HEAD = struct.Struct(">BQ")
#: nsbox cuts off who has sent 256 KiB that are not taken yet, and takes messages of 64.
_WINDOW, _MESSAGE = 128 * 1024, 32 * 1024
#: The code with which nsbox closes after a ``problem`` of its own.
_FAILED = 1011


class Attaching:
    """``open`` while messages can be sent; ``done`` after the last event."""

    def __init__(self, path: str, process: ProcessInfo, attempts: Attempts, offset: int) -> None:
        self._path, self._attempts = path, attempts
        self._outputs = Outputs(offset)
        self._socket = WebSocket()
        self._answers = bytearray()
        self._size: tuple[int, int] | None = None
        self._sent = self._taken = self._unsure = 0
        self._problem: ApiError | None = None
        self._told = False
        self.process, self.open, self.done = process, False, False

    @property
    def offset(self) -> int:
        """Behind the last byte that came."""
        return self._outputs.offset

    @property
    def room(self) -> int:
        """So many bytes may be sent now."""
        return min(_WINDOW - (self._sent - self._taken), _MESSAGE) if self.open else 0

    # ---- connections

    def begin(self) -> tuple[Request, WebSocket]:
        """A new connection: what to ask for, and how."""
        self.open, self._socket, self._problem = False, WebSocket(), None
        self._unsure += self._sent - self._taken
        self._sent = self._taken = 0
        self._answers.clear()
        return Request("GET", f"{self._path}/attach?{query(offset=self.offset)}"), self._socket

    def lost(self, error: ConnectionFailed) -> float:
        """The pause after a connection that is gone. Raises it when it is time to give up."""
        self.open = False
        return self._attempts.lost(error, safe=True)

    def refused(self, error: ApiError) -> float:
        """The pause after a refusal. Raises it where asking again is in vain."""
        self.open = False
        return self._attempts.refused(error, safe=True)

    # ---- what comes

    def feed(self, data: bytes) -> Iterator[AttachEvent]:
        """What these bytes tell; none are the end. Raises ``ConnectionLost``, ``ApiError``."""
        if not data:
            raise ConnectionLost("the connection has ended")
        for message in self._socket.feed(data, self._answers):
            yield from self._take(message)

    def answers(self) -> bytes:
        """What is to be sent now, whatever else is."""
        data = bytes(self._answers)
        self._answers.clear()
        return data

    def _take(self, message: Message) -> Iterator[AttachEvent]:
        if isinstance(message, bytes):
            yield from self._output(message)
        elif isinstance(message, str):
            yield from self._control(message)
        elif isinstance(message, Accepted):
            self.open = True
            if self._size is not None:  # it may have another one than when the connection was lost
                self._answers += self.resize(*self._size)
            if self._told:
                unsure, self._unsure = self._unsure, 0
                yield Reattached(unsure)
        elif isinstance(message, NoSocket):
            if message.status < 400:
                raise UnexpectedAnswer(f"an answer without a WebSocket (HTTP {message.status})")
            raise from_answer(message.status, message.body, message.headers.get("retry-after"))
        elif not self.done:
            raise self._why(message)

    def _output(self, message: bytes) -> Iterator[AttachEvent]:
        if len(message) < _HEAD.size or message[0] not in (1, 2):
            raise UnexpectedAnswer("a message of no stream that is known")
        channel, offset = _HEAD.unpack_from(message)
        yield from self._outputs.take(STREAMS[channel - 1], offset, message[_HEAD.size :])

    def _control(self, text: str) -> Iterator[AttachEvent]:
        try:
            told = msgspec.json.decode(text, type=dict[str, Any])
            kind = told["type"]
            if kind == "started":
                self._attempts.progressed()
                self.process = read_process(told["process"])
                if not self._told:
                    self._told = True
                    yield Started(self.process)
            elif kind == "stdin":
                self._taken = int(told["taken"])
            elif kind == "dropped":
                yield from self._outputs.gap(int(told["until"]))
            elif kind == "problem":
                status = told["problem"].get("status")
                self._problem = from_document(status if isinstance(status, int) else 500, told["problem"])
                yield Refused(self._problem)
            elif kind == "exit":
                self.process = read_process(told["process"])
                yield from self._outputs.flush()
                self.open, self.done = False, True
                yield Exited(self.process)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnexpectedAnswer(f"a message that nsbox does not send: {error}") from error

    def _why(self, closed: Closed) -> NsboxError:
        """An API process that is being replaced says so; the process goes on without it."""
        problem = self._problem
        if closed.code == _FAILED and problem is not None and problem.code != "shutting_down":
            return problem
        return ConnectionLost(f"nsbox has closed the connection: {closed.reason or closed.code}")

    # ---- what goes. Raises ``ConnectionLost`` while it is not open.

    def write(self, data: bytes) -> bytes:
        """For stdin, not more than there is ``room`` for."""
        message = self._message(b"\0" + data)
        self._sent += len(data)
        return message

    def close_stdin(self) -> bytes:
        """When all before it is taken, it is closed; on a terminal that is a ctrl-D."""
        return self._message('{"type":"closeStdin"}')

    def resize(self, rows: int, columns: int) -> bytes:
        """The terminal's size, also of connections to come. Nothing to be sent while it is not open."""
        self._size = rows, columns
        told = {"type": "resize", "rows": rows, "columns": columns}
        return self._message(msgspec.json.encode(told).decode()) if self.open else b""

    def _message(self, message: str | bytes) -> bytes:
        if not self.open:
            raise ConnectionLost("the connection was lost")
        return self._socket.send(message)
