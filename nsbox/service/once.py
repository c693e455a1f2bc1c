"""Requests with an ``Idempotency-Key``: whoever asks again, while it is under way or later, gets what the
first asking made, and nothing is made twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from nsbox.model.errors import Code, Problem
from nsbox.model.request import Request

T = TypeVar("T")


def check(earlier: Request, request: Request) -> None:
    """Both have the same key. Raises ``Problem`` when they ask for different things."""
    if earlier != request:
        raise Problem(
            Code.IDEMPOTENCY_MISMATCH,
            "this Idempotency-Key was used for another request",
            field="Idempotency-Key",
            remedy="use a new key for each request",
        )


class Once(Generic[T]):
    """What is under way, by owner and key. ``nursery`` is the daemon's: a client that has a key means to come
    back, so what it asked for is carried on when it leaves."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._making: dict[tuple[str, str], _Making[T]] = {}

    async def do(
        self,
        owner: str,
        request: Request,
        earlier: Callable[[], Awaitable[tuple[Request, T] | None]],
        work: Callable[[], Awaitable[T]],
    ) -> T:
        """What ``work`` makes, or has made. ``earlier``: what the record has of this key; what failed does
        not count. Raises what ``work`` raises."""
        making = self._making.get((owner, request.key))
        if making is None:
            found = await earlier()
            if found is not None:
                check(found[0], request)
                return found[1]
            # Somebody may have begun while the record was read.
            making = self._making.get((owner, request.key))
        if making is None:
            making = self._making[owner, request.key] = _Making[T](request)
            self._nursery.start_soon(self._make, owner, making, work)
        check(making.request, request)
        await making.done.wait()
        if making.error is not None:
            raise making.error
        assert making.made is not None
        return making.made

    async def _make(self, owner: str, making: _Making[T], work: Callable[[], Awaitable[T]]) -> None:
        try:
            making.made = await work()
        except Exception as error:
            making.error = error  # whoever waits tells it
        finally:
            if making.made is None and making.error is None:
                making.error = Problem(Code.SHUTTING_DOWN, "nsbox is being stopped", remedy="try again")
            del self._making[owner, making.request.key]
            making.done.set()


class _Making(Generic[T]):
    """Something that is being made, and those who wait for it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.done = trio.Event()
        self.made: T | None = None
        self.error: Exception | None = None
