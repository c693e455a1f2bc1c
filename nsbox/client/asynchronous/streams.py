"""What goes on: the events of a command, of a pull, of a build."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Self

from nsbox.client.asynchronous.driver import AsyncDriver
from nsbox.client.call import T
from nsbox.client.errors import NsboxError
from nsbox.client.following import Following
from nsbox.client.routes import commands
from nsbox.client.telling import Telling
from nsbox.client.types.command import CommandEvent, ProcessInfo
from nsbox.client.types.image import Progress


class AsyncCommandStream:
    """Iterate over it: ``Started``, ``Output``, ``Dropped``, ``Exited``. To leave early, ``close`` it or use
    ``async with``; the command goes on. A connection that is lost is taken up again."""

    def __init__(self, driver: AsyncDriver, here: str, following: Following) -> None:
        self._driver, self._here, self._following = driver, here, following
        self._events = driver.events(following)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[CommandEvent]:
        return self

    async def __anext__(self) -> CommandEvent:
        return await anext(self._events)

    @property
    def process(self) -> ProcessInfo | None:
        """What is known of it; None before ``Started``."""
        return self._following.process

    @property
    def offset(self) -> int:
        """Behind the last byte that came: ``follow(offset=…)`` goes on there."""
        return self._following.offset

    async def result(self) -> ProcessInfo:
        """How it ended; what is left of its output is passed over."""
        async for _ in self:
            pass
        assert self.process is not None
        return self.process

    async def signal(self, signal: str | int) -> ProcessInfo:
        """Send a signal to the command, once it has started."""
        if self.process is None:
            raise NsboxError("the command has not started yet")
        return await self._driver.do(commands.signal(commands.at(self._here, self.process.id), signal))

    async def close(self) -> None:
        """Leave."""
        await self._events.aclose()


class AsyncTaskStream(Generic[T]):
    """Iterate over its progress; ``result`` is what comes out of it."""

    def __init__(self, driver: AsyncDriver, telling: Telling[T]) -> None:
        self._telling = telling
        self._events = driver.events(telling)

    def __aiter__(self) -> AsyncIterator[Progress]:
        return self

    async def __anext__(self) -> Progress:
        return await anext(self._events)

    async def result(self, progress: Callable[[Progress], object] | None = None) -> T:
        """Wait for it, telling ``progress`` of each step."""
        async for one in self:
            if progress is not None:
                progress(one)
        assert self._telling.result is not None
        return self._telling.result
