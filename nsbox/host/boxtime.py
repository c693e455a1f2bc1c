"""Time as a sandbox lives it: it stands still while the sandbox is paused.

What waits for something inside counts in it: a command's time-out, the death of what was killed, the patience
with init and with file agents. A paused sandbox is not slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio


class BoxTime:
    """The clock of one sandbox, and the limits that are kept by it."""

    def __init__(self) -> None:
        self._stopped_at: float | None = None
        self._lost = 0.0  # how long it has stood still, in all
        self._ends: dict[trio.CancelScope, float] = {}
        self._going = trio.Event()
        self._going.set()
        #: Called when somebody begins to wait for it to go on.
        self.wanted: Callable[[], None] = lambda: None

    def now(self) -> float:
        """Seconds; only differences mean something."""
        return (trio.current_time() if self._stopped_at is None else self._stopped_at) - self._lost

    @property
    def stands(self) -> bool:
        return self._stopped_at is not None

    def stop(self) -> None:
        """Stand still. Idempotent."""
        if self._stopped_at is None:
            self._stopped_at = trio.current_time()
            self._going = trio.Event()
            for scope in self._ends:
                scope.deadline = math.inf

    def go_on(self) -> None:
        """Idempotent."""
        if self._stopped_at is not None:
            self._lost += trio.current_time() - self._stopped_at
            self._stopped_at = None
            self._going.set()
            for scope, end in self._ends.items():
                scope.deadline = end + self._lost

    async def going(self) -> None:
        """Wait until it does not stand still. No checkpoint where it does not."""
        while self._stopped_at is not None:
            self.wanted()
            await self._going.wait()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[trio.CancelScope]:
        """``trio.move_on_after``, in this time."""
        with trio.CancelScope() as scope:
            end = self._ends[scope] = self.now() + seconds
            if self._stopped_at is None:
                scope.deadline = end + self._lost
            try:
                yield scope
            finally:
                del self._ends[scope]

    @contextmanager
    def fail_after(self, seconds: float) -> Iterator[None]:
        """``trio.fail_after``, in this time. Raises ``trio.TooSlowError``."""
        with self.limit(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise trio.TooSlowError
