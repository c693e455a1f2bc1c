"""How tasks wait: the twin of ``blocking.waiting``. What is made from one text waits by these names only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
from anyio import Lock, sleep

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Do what may take its time without making other tasks wait."""
    return await anyio.to_thread.run_sync(function, *args)


@contextmanager
def to_the_end(seconds: float) -> Iterator[None]:
    """What is cancelled goes on for so long. Raises ``TimeoutError``."""
    with anyio.CancelScope(shield=True), anyio.fail_after(seconds):
        yield


class News:
    """One fetches what is new, for all who wait for it. ``count``: how often somebody has."""

    def __init__(self) -> None:
        self.count, self._busy, self._told = 0, False, anyio.Event()

    async def turn(self, seen: int) -> bool:
        """Whether it is the caller who fetches, until ``over``; false when there is news since ``seen``."""
        while self.count == seen and self._busy:
            await self._told.wait()
        mine = self.count == seen
        self._busy = self._busy or mine
        return mine

    def over(self) -> None:
        """It was fetched, or could not be."""
        self.count, self._busy = self.count + 1, False
        told, self._told = self._told, anyio.Event()
        told.set()


__all__ = ["Lock", "News", "in_thread", "sleep", "to_the_end"]
