"""Counting what is open, for tests that say nothing leaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def open_now() -> dict[int, str]:
    """This process's descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # that of the listing itself
    return found


@contextmanager
def none_leaked() -> Iterator[None]:
    """What is open after the block was open before it."""
    before = open_now()
    yield
    more = {number: what for number, what in open_now().items() if number not in before}
    assert not more, f"left open: {more}"
