"""So many of one user at a time: whoever takes long over it keeps nobody else waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class _User:
    def __init__(self, each: int) -> None:
        self.turn = trio.Semaphore(each)
        self.here = 0


class Turns:
    """``each`` of one user at a time. Who has none at work and none waiting is not remembered."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._users: dict[str, _User] = {}

    def __len__(self) -> int:
        return len(self._users)

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the block."""
        one = self._users.setdefault(user, _User(self._each))
        one.here += 1
        try:
            async with one.turn:
                yield
        finally:
            one.here -= 1
            if not one.here:
                del self._users[user]
