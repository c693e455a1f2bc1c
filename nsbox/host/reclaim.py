"""Giving the memory of a paused sandbox back to the host: ``memory.reclaim`` of its cgroup (Linux 5.19)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from nsbox.host import facts

#: So much is asked for at once, in bytes: a write returns when it is done and cannot be cancelled.
_STEP = 16 * 1024 * 1024


def possible(proc: str = "/proc") -> bool:
    """Whether there is swap, without which nothing is given back. Cheap, so that a pause needs no worker
    thread to learn that it has nothing to wait for."""
    return facts.swap(proc)


def reclaim(cgroup: str, until: float, wanted: Callable[[], bool], proc: str = "/proc") -> int | None:
    """Page out what can be, ``until`` then (monotonic) and as long as it is ``wanted``; the bytes freed.

    None where it cannot be done: no swap (only pages of files would go then, which come back dearly), no
    memory controller, or an older kernel. Blocks: for a worker thread.
    """
    if not possible(proc):
        return None
    try:
        before = _current(cgroup)
        descriptor = os.open(os.path.join(cgroup, "memory.reclaim"), os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None
    left = before
    try:
        while left > 0 and wanted() and time.monotonic() < until:
            os.write(descriptor, str(min(left, _STEP)).encode())
            left -= _STEP
        return max(0, before - _current(cgroup))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EINTR):  # less than was asked for: there is no more to be had
            return max(0, before - _seen(cgroup, before))
        return None  # such as ENODEV: it is being removed
    finally:
        os.close(descriptor)


def _current(cgroup: str) -> int:
    with open(os.path.join(cgroup, "memory.current"), encoding="ascii") as file:
        return int(file.read())


def _seen(cgroup: str, otherwise: int) -> int:
    """It may have been ended meanwhile."""
    try:
        return _current(cgroup)
    except OSError:
        return otherwise
