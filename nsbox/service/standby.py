"""Sandboxes that are paused when nobody has needed them for a while, and go on when somebody does.

What counts as use: a command that runs (background processes too, unless the sandbox was made otherwise), a
file request, a connection to one of its ports. See adr/0059.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import Action, State, after
from nsbox.model.sandbox import Sandbox
from nsbox.model.standby import Standby
from nsbox.service.pauses import Pauses
from nsbox.service.registry import Live, Registry

_log = logging.getLogger(__name__)

#: How often it is looked who is idle, in seconds: a pause comes so much late.
_LOOK = 0.5


class Standbys:
    """``running``: whether a command runs in a sandbox, background processes counted or not; ``visited``:
    whether a connection to one of its ports is open."""

    def __init__(
        self,
        registry: Registry,
        pauses: Pauses,
        nursery: trio.Nursery,
        running: Callable[[str, bool], bool],
        visited: Callable[[str], bool],
    ) -> None:
        self._registry, self._pauses, self._nursery = registry, pauses, nursery
        self._running, self._visited = running, visited
        registry.use_waker(pauses.wake, self._wanted)

    async def set(self, owner: str, sandbox_id: str, standby: Standby) -> Sandbox:
        """What it shall do by itself from now on. Raises ``Problem``."""
        record = await self._registry.record(owner, sandbox_id)
        after(record.state, Action.TIMEOUT)
        live = self._registry.find(sandbox_id)
        if live is None:
            raise Problem(Code.SANDBOX_GONE, "the sandbox is no longer there", remedy="create a new sandbox")
        if standby.pauses and not record.cgroup:
            raise no_freezer()
        live.touch()
        return await self._registry.change(live, standby=standby)

    async def watch(self) -> None:
        """Pause who has been idle for long enough, for ever."""
        while True:
            for live in self._registry.all():
                if self._is_due(live) and not live.turn.locked():
                    self._nursery.start_soon(self._pause, live)
            await trio.sleep(_LOOK)

    def _is_due(self, live: Live) -> bool:
        """Whether it is to be paused now. Nothing is awaited."""
        wish = live.record.standby.auto_pause
        if wish is None or live.record.state is not State.RUNNING:
            return False
        if self._in_use(live, wish.ignore_processes):
            live.touch()
            return False
        return trio.current_time() - live.used_at >= wish.idle_ms / 1000

    def _in_use(self, live: Live, ignore_processes: bool) -> bool:
        sandbox_id = live.record.id
        return (
            (live.agents is not None and live.agents.busy)
            or self._running(sandbox_id, ignore_processes)
            or self._visited(sandbox_id)
        )

    async def _pause(self, live: Live) -> None:
        try:
            await self._pauses.by_itself(live, Action.IDLE, lambda: self._is_due(live))
        except Problem as problem:
            _log.warning("%s is idle and cannot be paused: %s", live.record.id, problem.detail)
            live.touch()  # not at once again
        except Exception:
            _log.exception("pausing %s failed", live.record.id)
            live.touch()

    def _wanted(self, live: Live) -> None:
        """Something was asked of its init while it was being paused, and waits for that to be over."""
        if live.wakes:
            self._nursery.start_soon(self._wake, live)

    async def _wake(self, live: Live) -> None:
        try:
            await self._registry.awake(live)
        except Exception as error:
            # Whoever waits is told when the sandbox ends, or when its patience is over.
            _log.warning("%s is needed and cannot be resumed: %s", live.record.id, error)


def no_freezer() -> Problem:
    """It would never be paused, though the client relies on that."""
    return Problem(
        Code.HOST_LACKS,
        "this host gives nsbox no cgroup, so nothing can be paused by itself",
        field="autoPause",
        remedy="leave out autoPause and onExpiry, or have the operator run nsbox doctor",
    )
