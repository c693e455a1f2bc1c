"""How threads wait: the twin of ``asynchronous.waiting``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
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


__all__ = ["Lock", "in_thread", "sleep", "to_the_end"]
