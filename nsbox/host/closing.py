"""Closing what a sandbox sent, which may be made to wait for the one who sent it.

The last holder of a TCP socket with SO_LINGER waits in close(2) until its data is taken, on a non-blocking
socket too, and here the taker is the sandbox: it need not take anything for years. Our loop would stand still
with it, and every sandbox's answers. The option can be cleared before, and set again in between by whoever
has a duplicate; and the socket may also lie unread in the queue of another one, at any depth, which is
emptied by the kernel when that is closed. So the wait itself is bounded: the kernel gives it up for a signal
that is caught (``sk_stream_wait_close``), and for all that one call closes at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

#: How long one call of close(2) may wait, in seconds. What does not linger never does.
_AT_MOST = 0.001


@contextmanager
def promptly() -> Iterator[None]:
    """In here close(2) does not wait for anybody.

    By a timer of the process, whose signals the kernel gives to the main thread if that takes them. In
    other threads nothing is bounded: they hold up only themselves.
    """
    if threading.get_ident() != threading.main_thread().ident:
        yield
        return
    if signal.getsignal(signal.SIGALRM) is not _caught:
        signal.signal(signal.SIGALRM, _caught)
    signal.setitimer(signal.ITIMER_REAL, _AT_MOST, _AT_MOST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _caught(number: int, frame: object) -> None:
    """An ignored signal would not wake anybody."""


def close_all(descriptors: Sequence[int]) -> None:
    """Close every one of ``descriptors``, whoever they came from."""
    if descriptors:
        with promptly():
            for descriptor in descriptors:
                os.close(descriptor)
