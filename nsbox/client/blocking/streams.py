# Made from asynchronous/streams.py by scripts/blocking_client.py: change that one, and run it.
"""What goes on: the events of a command, of a pull, of a build."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self

from nsbox.client.blocking.driver import Driver
from nsbox.client.call import T
from nsbox.client.errors import NsboxError
from nsbox.client.following import Following
from nsbox.client.routes import commands
from nsbox.client.telling import Telling
from nsbox.client.types.command import CommandEvent, ProcessInfo
from nsbox.client.types.image import Progress


class CommandStream:
    """Iterate over it: ``Started``, ``Output``, ``Dropped``, ``Exited``. To leave early, ``close`` it or use
    ``with``; the command goes on. A connection that is lost is taken up again."""

    def __init__(self, driver: Driver, here: str, following: Following) -> None:
        self._driver, self._here, self._following = driver, here, following
        self._events = driver.events(following)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[CommandEvent]:
        return self

    def __next__(self) -> CommandEvent:
        return next(self._events)

    @property
    def process(self) -> ProcessInfo | None:
        """What is known of it; None before ``Started``."""
        return self._following.process

    @property
    def offset(self) -> int:
        """Behind the last byte that came: ``follow(offset=…)`` goes on there."""
        return self._following.offset

    def result(self) -> ProcessInfo:
        """How it ended; what is left of its output is passed over."""
        for _ in self:
            pass
        assert self.process is not None
        return self.process

    def signal(self, signal: str | int) -> ProcessInfo:
        """Send a signal to the command, once it has started."""
        if self.process is None:
            raise NsboxError("the command has not started yet")
        return self._driver.do(commands.signal(commands.at(self._here, self.process.id), signal))

    def close(self) -> None:
        """Leave."""
        self._events.close()


class TaskStream(Generic[T]):
    """Iterate over its progress; ``result`` is what comes out of it."""

    def __init__(self, driver: Driver, telling: Telling[T]) -> None:
        self._telling = telling
        self._events = driver.events(telling)

    def __iter__(self) -> Iterator[Progress]:
        return self

    def __next__(self) -> Progress:
        return next(self._events)

    def result(self, progress: Callable[[Progress], object] | None = None) -> T:
        """Wait for it, telling ``progress`` of each step."""
        for one in self:
            if progress is not None:
                progress(one)
        assert self._telling.result is not None
        return self._telling.result
