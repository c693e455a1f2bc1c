"""Room on the disk for what is pulled: looked for before it comes, and watched while it does.

A registry says how large a layer is packed, and nobody how large it will be. The reserve is for sandboxes
that are there already: a pull, which any key may begin, stops before it takes that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from nsbox.host.storage import Reserve
from nsbox.model.errors import Problem

#: Seconds between two looks. A disk that writes 2 GB/s takes the reserve's 512 MiB in about one of them.
_LOOK_S = 0.25


class Room:
    """``give_way`` removes what nobody needs."""

    def __init__(self, reserve: Reserve, give_way: Callable[[], Awaitable[object]]) -> None:
        self._reserve, self._give_way = reserve, give_way

    async def have(self, more: int) -> None:
        """For so many bytes beside the reserve; what is kept only for a next try goes first.

        Raises ``Problem(HOST_FULL)``.
        """
        try:
            self._reserve.check(more)
        except Problem:
            await self._give_way()
            self._reserve.check(more)

    async def watch(self) -> None:
        """Until the reserve is touched. Raises ``Problem(HOST_FULL)`` then."""
        while True:
            await trio.sleep(_LOOK_S)
            self._reserve.check()
