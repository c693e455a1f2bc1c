"""Pauses the sandboxes of an owner whose compute seconds are used up. Nothing is killed, and nothing lost.

When an owner runs out is computed from what runs, and computed anew when that changes, when the plan does and
when the month does. Between that nothing is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf

import trio

from nsbox.model.errors import HostProblem
from nsbox.model.lifecycle import Action, State
from nsbox.model.period import Period, month_of
from nsbox.model.sandbox import Sandbox
from nsbox.model.usage import SECOND, Moment
from nsbox.service import clock
from nsbox.service.pauses import Pauses
from nsbox.service.plans import Budget, Plans
from nsbox.service.registry import Live, Registry
from nsbox.settings import Plan

_log = logging.getLogger(__name__)

#: A pause is recorded some milliseconds after it is decided; begun this early, in ticks, the second that
#: would be one too many is not begun.
_EARLY = 50_000
#: trio's clock stands still while the host sleeps and CLOCK_BOOTTIME does not: look often, as at deadlines.
_LOOK, _NOBODY = 1.0, 5.0
#: How long after a pause that failed it is tried again, in seconds.
_AGAIN = 5.0


class Quotas:
    """``nursery`` is the daemon's."""

    def __init__(
        self,
        plans: Plans,
        registry: Registry,
        pauses: Pauses,
        nursery: trio.Nursery,
        now: Callable[[], Moment] = clock.moment,
        on_out: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``on_out`` is told of an owner who has run out, once a month."""
        self._plans, self._registry, self._pauses = plans, registry, pauses
        self._nursery, self._on_out, self._now = nursery, on_out, now
        self._told: dict[str, Period] = {}
        self._known: dict[str, _Known] = {}
        self._moved: set[str] = set()
        self._changed = trio.Event()
        self._pausing: set[str] = set()
        registry.on_written(self._note)

    def _note(self, record: Sandbox) -> None:
        """On the path of every create: where nobody has a limit, nobody is woken."""
        if self._limit(record.owner) is not None:
            self._moved.add(record.owner)
            self._changed.set()

    def _limit(self, owner: str) -> Plan | None:
        """The owner's plan, if its compute seconds have an end."""
        try:
            plan = self._plans.plan_of(owner)
        except HostProblem as problem:
            _log.warning("nobody knows when %s runs out: %s", owner, problem.detail)
            return None
        return None if plan.compute_seconds is None else plan

    async def watch(self) -> None:
        """Pause whoever has run out, for ever."""
        while True:
            self._changed = trio.Event()
            try:
                wait = await self.look()
            except Exception:
                _log.exception("compute seconds could not be counted")
                wait = _AGAIN
            with trio.move_on_after(wait):
                await self._changed.wait()

    async def look(self) -> float:
        """Once; how many seconds until the next look."""
        owners = self._limited()
        for owner in [one for one in self._known if one not in owners]:
            del self._known[owner]
        moved, self._moved = self._moved, set()
        month = month_of(self._now().wall / SECOND)
        for owner, plan in owners.items():
            known = self._known.get(owner)
            if known is None or owner in moved or known.plan is not plan or known.budget.period != month:
                self._known[owner] = _Known(plan, await self._plans.budget(owner))
        for live in self._registry.all():
            if self._is_due(live) and live.record.id not in self._pausing:
                self._pausing.add(live.record.id)
                self._tell(live.record.owner, month)
                self._nursery.start_soon(self._pause, live)
        return self._patience(month)

    def _tell(self, owner: str, month: Period) -> None:
        if self._told.get(owner) != month:
            self._told[owner] = month
            self._on_out(owner)

    def _limited(self) -> dict[str, Plan]:
        """Owners of what runs, whose compute seconds have an end."""
        owners = {one.record.owner for one in self._registry.all() if one.record.state is State.RUNNING}
        plans = {owner: self._limit(owner) for owner in owners}
        return {owner: plan for owner, plan in plans.items() if plan is not None}

    def _is_due(self, live: Live) -> bool:
        """Whether it is to be paused now. Nothing is awaited."""
        known = self._known.get(live.record.owner)
        if live.record.state is not State.RUNNING or known is None or known.budget.out_at is None:
            return False
        return known.budget.out_at - _EARLY <= self._now().ticks

    def _patience(self, month: Period) -> float:
        if not self._known:
            return _NOBODY
        now = self._now()
        outs = [one.budget.out_at for one in self._known.values() if one.budget.out_at is not None]
        # Those that are over are being paused, which tells.
        ahead = [(out - _EARLY - now.ticks) / SECOND for out in outs if out - _EARLY > now.ticks]
        return max(0.0, min([_LOOK, month.ends_at - now.wall / SECOND, *ahead], default=inf))

    async def _pause(self, live: Live) -> None:
        try:
            await self._pauses.by_itself(live, Action.EXHAUST, lambda: self._is_due(live))
        except Exception as error:
            # It goes on, and so does its bill: better than to kill what cannot be made to stand still.
            _log.warning("%s has no compute seconds left and is not paused: %s", live.record.id, error)
            await trio.sleep(_AGAIN)
        finally:
            self._pausing.discard(live.record.id)


class _Known:
    """What was computed for an owner, under which plan."""

    def __init__(self, plan: Plan, budget: Budget) -> None:
        self.plan, self.budget = plan, budget
