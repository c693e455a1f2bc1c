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


__all__ = ["Lock", "in_thread", "sleep", "to_the_end"]
