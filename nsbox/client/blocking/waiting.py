"""How threads wait: the twin of ``asynchronous.waiting``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Condition, Lock
from time import sleep
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """It is in one."""
    return function(*args)


def to_the_end(seconds: float) -> AbstractContextManager[None]:
    """Nobody cancels a thread; its requests have times of their own."""
    return nullcontext()


class News:
    """One fetches what is new, for all who wait for it. ``count``: how often somebody has.

    A lock would not do: whoever fetches again at once gets it before those who wait for what was fetched, and
    then holds it for as long as nothing else comes."""

    def __init__(self) -> None:
        self.count, self._busy, self._told = 0, False, Condition()

    def turn(self, seen: int) -> bool:
        """Whether it is the caller who fetches, until ``over``; false when there is news since ``seen``."""
        with self._told:
            while self.count == seen and self._busy:
                self._told.wait()
            mine = self.count == seen
            self._busy = self._busy or mine
            return mine

    def over(self) -> None:
        """It was fetched, or could not be."""
        with self._told:
            self.count, self._busy = self.count + 1, False
            self._told.notify_all()


__all__ = ["Lock", "News", "in_thread", "sleep", "to_the_end"]
