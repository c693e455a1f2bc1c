"""A process at the other end of a WebSocket: its outputs as they come, its stdin, its terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nsbox.client.asynchronous import waiting
from nsbox.client.asynchronous.driver import AsyncDriver, AsyncLine
from nsbox.client.attaching import Attaching
from nsbox.client.errors import ApiError, ConnectionFailed, ConnectionLost, NsboxError, from_document
from nsbox.client.types.command import AttachEvent, Output, ProcessInfo

if TYPE_CHECKING:
    from nsbox.client.asynchronous.processes import AsyncProcess

#: What may have come and not been asked for while somebody writes, in bytes.
_KEPT = 16 * 1024 * 1024
_GOODBYE = 5.0


class AsyncAttached:
    """Iterate over it: ``Started``, ``Output``, ``Dropped``, ``Refused``, ``Reattached``, ``Exited``. Write
    to it meanwhile, also from elsewhere. To leave, ``close`` it or use ``async with``: the process goes on. A
    connection that is lost is taken up again."""

    def __init__(self, driver: AsyncDriver, process: AsyncProcess, attaching: Attaching) -> None:
        self._driver, self._attaching, self.process = driver, attaching, process
        self._line: AsyncLine | None = None
        self._events: deque[AttachEvent] = deque()
        self._kept = 0
        self._news, self._sending, self._writing = waiting.News(), waiting.Lock(), waiting.Lock()
        self._failure: NsboxError | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<AsyncAttached {self.process.id}>"

    async def __aenter__(self) -> Self:
        """Connected, unless it has ended."""
        try:
            await self._until(lambda: self._attaching.open)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[AttachEvent]:
        return self

    async def __anext__(self) -> AttachEvent:
        await self._until(lambda: bool(self._events))
        if not self._events:
            raise StopAsyncIteration
        event = self._events.popleft()
        if isinstance(event, Output):
            self._kept -= len(event.data)
        return event

    @property
    def offset(self) -> int:
        """Behind the last byte that came: ``attach(offset=…)`` goes on there."""
        return self._attaching.offset

    async def result(self) -> ProcessInfo:
        """How it ended; what is left of its output is passed over."""
        async for _ in self:
            pass
        return self.process.info

    async def write(self, data: bytes | str) -> None:
        """To its stdin. Waits while much is not taken yet, and for a connection; nothing is sent twice:
        ``ConnectionLost`` where a part of it may have been lost, ``Conflict`` where it has ended."""
        view = memoryview(data.encode() if isinstance(data, str) else data)
        async with self._writing:
            while view:
                await self._until(lambda: self._attaching.room > 0, bounded=True)
                self._check_running()
                async with self._sending:
                    room = self._attaching.room
                    if room > 0:
                        await self._put(self._attaching.write(bytes(view[:room])))
                        view = view[room:]

    async def close_stdin(self) -> None:
        """It reads its end when it has taken all before; on a terminal that is a ctrl-D."""
        async with self._writing:
            await self._until(lambda: self._attaching.open, bounded=True)
            self._check_running()
            async with self._sending:
                await self._put(self._attaching.close_stdin())

    async def resize(self, rows: int, columns: int) -> None:
        """The size of its terminal, which is told again after a loss."""
        async with self._sending:
            if message := self._attaching.resize(rows, columns):
                await self._put(message)

    async def signal(self, signal: str | int) -> ProcessInfo:
        """Send ``TERM``, ``INT``, 9, … to it and its process group."""
        return await self.process.signal(signal)

    async def close(self) -> None:
        """Leave. Whoever waits for it is told that it is over."""
        self._closed = True
        await self._drop()

    # ---- one receives, for all who wait

    async def _until(self, holds: Callable[[], bool], *, bounded: bool = False) -> None:
        """Until it holds, or the process has ended and all is told, or it is left."""
        while True:
            seen = self._news.count  # before looking: what comes from here on is news
            if holds() or self._attaching.done or self._closed:
                return
            if bounded and self._kept > _KEPT:
                raise NsboxError(
                    f"{self._kept} bytes of output wait to be taken: iterate, and write meanwhile"
                )
            await self._more(seen)

    async def _more(self, seen: int) -> None:
        """Wait for whatever comes next, by receiving it or for who receives it."""
        if not await self._news.turn(seen):
            return
        try:
            if self._failure is not None:
                raise self._failure
            with self._driver.discreet():
                await self._receive()
        except NsboxError as error:
            self._failure = error
            raise
        finally:
            self._news.over()

    async def _receive(self) -> None:
        try:
            line = self._line or await self._connect()
            for event in self._attaching.feed(await line.receive()):
                self._events.append(event)
                self._kept += len(event.data) if isinstance(event, Output) else 0
            self.process.info = self._attaching.process
            async with self._sending:
                if answers := self._attaching.answers():
                    await self._put(answers)
        except ConnectionFailed as error:
            await self._drop()
            if not self._closed:
                await self._driver.sleep(self._attaching.lost(error))
        except ApiError as error:
            await self._drop()
            await self._driver.sleep(self._attaching.refused(error))

    async def _connect(self) -> AsyncLine:
        async with self._sending:
            self._line = line = await self._driver.line(*self._attaching.begin())
        if self._closed:
            await self._drop()
        return line

    async def _put(self, message: bytes) -> None:
        """Send it, with the lock held. What was sent in part has ended the connection."""
        try:
            if (line := self._line) is None:
                raise ConnectionLost("the connection was lost")
            await line.send(message)
        except BaseException:
            self._attaching.open = False
            await self._drop()
            raise

    async def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with waiting.to_the_end(_GOODBYE):
                await line.close()

    def _check_running(self) -> None:
        if self._attaching.done:
            raise from_document(
                409, {"code": "process_ended", "detail": "the process has ended", "status": 409}
            )
        if self._closed:
            raise NsboxError("the connection was left")
