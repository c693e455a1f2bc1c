# Made from asynchronous/attached.py by scripts/blocking_client.py: change that one, and run it.
"""A process at the other end of a WebSocket: its outputs as they come, its stdin, its terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nsbox.client.attaching import Attaching
from nsbox.client.blocking import waiting
from nsbox.client.blocking.driver import Driver, Line
from nsbox.client.errors import ApiError, ConnectionFailed, ConnectionLost, NsboxError, from_document
from nsbox.client.types.command import AttachEvent, Output, ProcessInfo

if TYPE_CHECKING:
    from nsbox.client.blocking.processes import Process

#: What may have come and not been asked for while somebody writes, in bytes.
_KEPT = 16 * 1024 * 1024
_GOODBYE = 5.0


class Attached:
    """Iterate over it: ``Started``, ``Output``, ``Dropped``, ``Refused``, ``Reattached``, ``Exited``. Write
    to it meanwhile, also from elsewhere. To leave, ``close`` it or use ``with``: the process goes on. A
    connection that is lost is taken up again."""

    def __init__(self, driver: Driver, process: Process, attaching: Attaching) -> None:
        self._driver, self._attaching, self.process = driver, attaching, process
        self._line: Line | None = None
        self._events: deque[AttachEvent] = deque()
        self._kept = 0
        self._news, self._sending, self._writing = waiting.News(), waiting.Lock(), waiting.Lock()
        self._failure: NsboxError | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Attached {self.process.id}>"

    def __enter__(self) -> Self:
        """Connected, unless it has ended."""
        try:
            self._until(lambda: self._attaching.open)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[AttachEvent]:
        return self

    def __next__(self) -> AttachEvent:
        self._until(lambda: bool(self._events))
        if not self._events:
            raise StopIteration
        event = self._events.popleft()
        if isinstance(event, Output):
            self._kept -= len(event.data)
        return event

    @property
    def offset(self) -> int:
        """Behind the last byte that came: ``attach(offset=…)`` goes on there."""
        return self._attaching.offset

    def result(self) -> ProcessInfo:
        """How it ended; what is left of its output is passed over."""
        for _ in self:
            pass
        return self.process.info

    def write(self, data: bytes | str) -> None:
        """To its stdin. Waits while much is not taken yet, and for a connection; nothing is sent twice:
        ``ConnectionLost`` where a part of it may have been lost, ``Conflict`` where it has ended."""
        view = memoryview(data.encode() if isinstance(data, str) else data)
        with self._writing:
            while view:
                self._until(lambda: self._attaching.room > 0, bounded=True)
                self._check_running()
                with self._sending:
                    room = self._attaching.room
                    if room > 0:
                        self._put(self._attaching.write(bytes(view[:room])))
                        view = view[room:]

    def close_stdin(self) -> None:
        """It reads its end when it has taken all before; on a terminal that is a ctrl-D."""
        with self._writing:
            self._until(lambda: self._attaching.open, bounded=True)
            self._check_running()
            with self._sending:
                self._put(self._attaching.close_stdin())

    def resize(self, rows: int, columns: int) -> None:
        """The size of its terminal, which is told again after a loss."""
        with self._sending:
            if message := self._attaching.resize(rows, columns):
                self._put(message)

    def signal(self, signal: str | int) -> ProcessInfo:
        """Send ``TERM``, ``INT``, 9, … to it and its process group."""
        return self.process.signal(signal)

    def close(self) -> None:
        """Leave. Whoever waits for it is told that it is over."""
        self._closed = True
        self._drop()

    # ---- one receives, for all who wait

    def _until(self, holds: Callable[[], bool], *, bounded: bool = False) -> None:
        """Until it holds, or the process has ended and all is told, or it is left."""
        while True:
            seen = self._news.count  # before looking: what comes from here on is news
            if holds() or self._attaching.done or self._closed:
                return
            if bounded and self._kept > _KEPT:
                raise NsboxError(
                    f"{self._kept} bytes of output wait to be taken: iterate, and write meanwhile"
                )
            self._more(seen)

    def _more(self, seen: int) -> None:
        """Wait for whatever comes next, by receiving it or for who receives it."""
        if not self._news.turn(seen):
            return
        try:
            if self._failure is not None:
                raise self._failure
            with self._driver.discreet():
                self._receive()
        except NsboxError as error:
            self._failure = error
            raise
        finally:
            self._news.over()

    def _receive(self) -> None:
        try:
            line = self._line or self._connect()
            for event in self._attaching.feed(line.receive()):
                self._events.append(event)
                self._kept += len(event.data) if isinstance(event, Output) else 0
            self.process.info = self._attaching.process
            with self._sending:
                if answers := self._attaching.answers():
                    self._put(answers)
        except ConnectionFailed as error:
            self._drop()
            if not self._closed:
                self._driver.sleep(self._attaching.lost(error))
        except ApiError as error:
            self._drop()
            self._driver.sleep(self._attaching.refused(error))

    def _connect(self) -> Line:
        with self._sending:
            self._line = line = self._driver.line(*self._attaching.begin())
        if self._closed:
            self._drop()
        return line

    def _put(self, message: bytes) -> None:
        """Send it, with the lock held. What was sent in part has ended the connection."""
        try:
            if (line := self._line) is None:
                raise ConnectionLost("the connection was lost")
            line.send(message)
        except BaseException:
            self._attaching.open = False
            self._drop()
            raise

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with waiting.to_the_end(_GOODBYE):
                line.close()

    def _check_running(self) -> None:
        if self._attaching.done:
            raise from_document(
                409, {"code": "process_ended", "detail": "the process has ended", "status": 409}
            )
        if self._closed:
            raise NsboxError("the connection was left")
