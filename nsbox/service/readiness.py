"""When a background process is ready: a port listens, or it has said so."""

from __future__ import annotations

import msgspec
import trio

from nsbox.host.logs import Piece, Stream
from nsbox.service.commands import Commands
from nsbox.service.following import Follower
from nsbox.service.ports import Ports

#: A line that is longer is looked at in parts.
_LONGEST_LINE = 65_536


class ReadyWhen(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two, and how long to wait for it, in seconds."""

    port: int | None = None
    line: str | None = None
    patience: float


class Readiness:
    """Waits for background processes."""

    def __init__(self, commands: Commands, ports: Ports) -> None:
        self._commands, self._ports = commands, ports

    async def wait(self, owner: str, sandbox_id: str, key: str, when: ReadyWhen) -> bool:
        """Whether it got ready before the time was over or it had ended. Raises ``Problem``."""
        if when.line is not None:
            with trio.move_on_after(when.patience):
                return await self._says(owner, sandbox_id, key, when.line.encode())
            return False
        assert when.port is not None
        found = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_it_ends, owner, sandbox_id, key, nursery.cancel_scope)
            found = await self._ports.listens(owner, sandbox_id, when.port, when.patience)
            nursery.cancel_scope.cancel()
        return found

    async def _until_it_ends(self, owner: str, sandbox_id: str, key: str, scope: trio.CancelScope) -> None:
        job = await self._commands.find(owner, sandbox_id, key)
        await job.ended.wait()
        scope.cancel()

    async def _says(self, owner: str, sandbox_id: str, key: str, wanted: bytes) -> bool:
        follower: Follower = await self._commands.follow(owner, sandbox_id, key, 0, text=False)
        lines = dict.fromkeys(Stream, b"")
        with follower:
            while (found := await follower.next()) is not None:
                if not isinstance(found, Piece):
                    lines = dict.fromkeys(Stream, b"")
                    continue
                text = lines[found.stream] + found.data
                if wanted in text:
                    return True
                lines[found.stream] = text.rpartition(b"\n")[2][-_LONGEST_LINE:]
        return False
