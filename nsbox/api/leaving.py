"""``onDisconnect``: what becomes of a command when the client leaves that waits for it or follows it.

By default it goes on. The wish belongs to one connection, and is not written down anywhere: when api is
replaced no client has left, so nothing is killed, and who takes the command up again says it again.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import trio

from nsbox.api import parameters, query
from nsbox.api.exchange import ClientLeftError, Exchange
from nsbox.api.services import CommandsService

NAME = parameters.ON_DISCONNECT.name


def kills(asked: query.Query) -> bool:
    """Whether the client wants its command ended when it leaves."""
    return parameters.ON_DISCONNECT.of(asked) == "kill"


class Leash:
    """Ends the command it ``holds`` when the block ends because the client of ``exchange`` has left, or was
    cut off with its key; if ``kill``. Whatever else ends the block, the end of this process for one, is no
    leaving."""

    def __init__(self, commands: CommandsService, sandbox_id: str, exchange: Exchange, *, kill: bool) -> None:
        self._commands, self._sandbox_id, self._kill = commands, sandbox_id, kill
        self._exchange = exchange
        self._key = ""

    def hold(self, key: str) -> None:
        """The command has begun."""
        self._key = key

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ClientLeftError) or (error is not None and self._exchange.cut):
            await self.let_go()

    async def let_go(self) -> None:
        """The client has left. Shielded: so may be whoever asks."""
        if self._kill and self._key:
            with trio.CancelScope(shield=True):
                await self._commands.cut(self._sandbox_id, self._key)
