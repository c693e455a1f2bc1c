"""Sandboxes that stand still: paused, resumed, and how much time they have.

The order is what makes a crash harmless. Pause writes the row first and freezes then; resume thaws first and
writes then. So whatever is frozen is recorded as paused, and what is recorded as paused and is not frozen is
frozen by the next api process (``keep``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import trio

from nsbox.host import reclaim
from nsbox.host.box import Unresponsive
from nsbox.host.keeper import KeeperLink
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import Action, EndReason, State, after
from nsbox.model.sandbox import Sandbox
from nsbox.service import clock
from nsbox.service.plans import Plans
from nsbox.service.registry import Live, Registry

_log = logging.getLogger(__name__)

#: How long an answer may wait for memory to be paged out, in seconds. What is left then stays where it is.
_RECLAIM = 5.0


class Pauses:
    """The standstills of all sandboxes. ``reattach`` thaws one and connects to its init, ``end`` ends one,
    ``moved`` is told when a deadline has been moved."""

    def __init__(
        self,
        registry: Registry,
        keeper: KeeperLink,
        reattach: Callable[[Live], Awaitable[bool]],
        end: Callable[[Live, EndReason], Awaitable[Sandbox]],
        moved: Callable[[], None],
        plans: Plans,
    ) -> None:
        self._registry, self._keeper, self._plans = registry, keeper, plans
        self._reattach, self._end, self._moved = reattach, end, moved
        # Few at a time: each may hold a worker thread for seconds, and the disk is one.
        self._reclaiming = trio.CapacityLimiter(2)

    async def pause(self, owner: str, sandbox_id: str) -> tuple[Sandbox, int | None]:
        """Stop every process of a sandbox; the record then, and the bytes of memory that were given back,
        None where nothing was tried. Idempotent. Raises ``Problem``; it runs on then, or has ended."""
        live = await self._found(owner, sandbox_id, Action.PAUSE)
        async with live.turn:
            after(live.record.state, Action.PAUSE)
            if live.record.state is State.PAUSED:
                return live.record, None
            # Bounded by init's patience and keeper's. A client that leaves leaves no half pause behind.
            with trio.CancelScope(shield=True):
                record, cgroup = await self._freeze(live, Action.PAUSE)
        return record, await self._give_back(live, cgroup)

    async def by_itself(self, live: Live, action: Action, still: Callable[[], bool]) -> bool:
        """A pause that nobody asked for; whether there was one. ``still`` is asked in one step with the
        change of state: whoever has come by then has come in time, and who comes after that finds it paused.

        ``EXPIRE`` gives it its whole time again. Raises ``Problem``; it runs on then, or has ended.
        """
        async with live.turn:
            if live.record.state is not State.RUNNING or not still():
                return False
            with trio.CancelScope(shield=True):
                _, cgroup = await self._freeze(live, action)
        await self._give_back(live, cgroup)
        return True

    async def _freeze(self, live: Live, action: Action) -> tuple[Sandbox, str]:
        now = clock.boottime()
        left = max(0.0, live.record.deadline - now)
        anew = live.record.timeout_ms / 1000 if action is Action.EXPIRE else left
        try:
            if live.box is not None:
                # In one step with the state below: no question to init is begun from now on.
                live.box.time.stop()
            await self._registry.move(live, action, remaining_s=anew, paused_at=now)
            if live.box is not None:
                await live.box.quiet()
            cgroup = await self._keeper.freeze(live.record.id)
        except Unresponsive as error:
            await self._back(live, left)
            raise Problem(
                Code.SANDBOX_UNRESPONSIVE, f"the sandbox cannot be paused: {error}", remedy="try again"
            ) from error
        except Exception:
            await self._back(live, left)
            raise
        after(live.record.state, Action.PAUSE)  # ended meanwhile?
        return live.record, cgroup

    async def _back(self, live: Live, left: float) -> None:
        """A pause has failed. Where it is not even known to run, it stays paused: that can be resumed."""
        try:
            await self._keeper.thaw(live.record.id)
        except Problem as problem:
            if live.record.state is State.PAUSED:
                _log.warning("%s stays paused: %s", live.record.id, problem.detail)
            return
        self._let_go_on(live)
        if live.record.state is State.PAUSED:
            await self._move_on(live, Action.RESUME, left)

    async def _give_back(self, live: Live, cgroup: str) -> int | None:
        """Outside of the turn: a resume does not wait for it, and ends it."""

        def wanted() -> bool:
            return live.record.state is State.PAUSED

        if not reclaim.possible():
            return None
        until = time.monotonic() + _RECLAIM  # the wait for a place counts too
        return await trio.to_thread.run_sync(reclaim.reclaim, cgroup, until, wanted, limiter=self._reclaiming)

    async def resume(self, owner: str, sandbox_id: str) -> Sandbox:
        """Let it go on. Idempotent. Raises ``Problem``; it is paused then as before, or has ended."""
        return await self._go_on(await self._found(owner, sandbox_id, Action.RESUME), Action.RESUME)

    async def wake(self, live: Live) -> Sandbox:
        """The same, because somebody needs it. However many ask at once, it is resumed once."""
        return await self._go_on(live, Action.WAKE)

    async def _go_on(self, live: Live, action: Action) -> Sandbox:
        async with live.turn:
            after(live.record.state, action)
            if live.record.state is State.RUNNING:
                return live.record
            await self._plans.may_run(live.record)
            after(live.record.state, action)  # ended meanwhile?
            with trio.CancelScope(shield=True):
                record = await self._thaw(live, action)
        return record

    async def _thaw(self, live: Live, action: Action) -> Sandbox:
        if live.box is not None:
            await self._keeper.thaw(live.record.id)
        elif not await self._reattach(live):
            if live.record.state is State.PAUSED:
                await self._end(live, EndReason.CRASHED)
            raise Problem(Code.SANDBOX_GONE, "the sandbox cannot go on", remedy="create a new sandbox")
        self._let_go_on(live)
        return await self._move_on(live, action, live.record.remaining_s or 0.0)

    async def _move_on(self, live: Live, action: Action, left: float) -> Sandbox:
        """Its time goes on with what was left of it. Raises ``Problem`` when it has ended meanwhile."""
        live.touch()
        record = await self._registry.move(
            live,
            action,
            deadline=clock.boottime() + left,
            expires_at=clock.wall() + left,
            remaining_s=None,
            stood_s=clock.stood(live.record),
            paused_at=None,
        )
        self._moved()
        return record

    @staticmethod
    def _let_go_on(live: Live) -> None:
        if live.box is not None:
            live.box.time.go_on()

    async def set_timeout(self, owner: str, sandbox_id: str, timeout_ms: int) -> Sandbox:
        """Its time is over so long from now; standstills do not count. Raises ``Problem``."""
        live = await self._found(owner, sandbox_id, Action.TIMEOUT)
        self._plans.check_timeout(owner, timeout_ms)
        async with live.turn:
            after(live.record.state, Action.TIMEOUT)
            seconds = timeout_ms / 1000
            if live.record.state is State.PAUSED:
                return await self._registry.change(live, timeout_ms=timeout_ms, remaining_s=seconds)
            ends = {"deadline": clock.boottime() + seconds, "expires_at": clock.wall() + seconds}
            record = await self._registry.change(live, timeout_ms=timeout_ms, **ends)
            self._moved()
            return record

    async def keep(self, live: Live) -> None:
        """At api's start: make sure that one which the record calls paused stands still. If it cannot, it
        runs, and the record says that."""
        try:
            await self._keeper.freeze(live.record.id)
        except Problem as problem:
            _log.warning("%s cannot be kept paused, and runs: %s", live.record.id, problem.detail)
            await self._thaw(live, Action.RESUME)

    async def _found(self, owner: str, sandbox_id: str, action: Action) -> Live:
        record = await self._registry.record(owner, sandbox_id)
        after(record.state, action)
        live = self._registry.find(sandbox_id)
        if live is None:
            raise Problem(Code.SANDBOX_GONE, "the sandbox is no longer there", remedy="create a new sandbox")
        return live
