"""What a user's plan allows, asked in one place before anything is made, resumed or given more time.

Caps (403 ``plan_limit``) come before compute seconds (402 ``quota_exhausted``): what a plan never allows is
told as that, whatever is left of the month.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.lifecycle import State
from nsbox.model.period import Period, day_name, month_of
from nsbox.model.plan import Plan as WholePlan
from nsbox.model.plan import PlanAndUse, Use
from nsbox.model.sandbox import Limits, Sandbox
from nsbox.model.usage import SECOND, Fold, Moment, runs_out
from nsbox.service import clock
from nsbox.service.registry import Registry
from nsbox.settings import UNLIMITED, Bound, Plan, Settings
from nsbox.store.ledger import Ledger

_REMEDY = "ask for less, or have the operator give you another plan"
_UPKEEP = (State.CREATING, State.RUNNING)


class Budget(NamedTuple):
    """An owner's month, at a moment. ``out_at``: when the first second begins that is one too many, in ticks;
    None where nothing runs, or without a limit."""

    period: Period
    used: int
    allowed: int | None
    out_at: int | None

    @property
    def is_spent(self) -> bool:
        """No second more may begin."""
        return self.allowed is not None and self.used >= self.allowed


class Plans:
    """``plan_name`` tells which plan somebody chose for an owner, and is asked anew each time. Empty: nobody
    did, and it is the settings' default."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        ledger: Ledger,
        plan_name: Callable[[str], str] = lambda _: "",
        now: Callable[[], Moment] = clock.moment,
    ) -> None:
        self._settings, self._registry, self._ledger, self._now = settings, registry, ledger, now
        self._plan_name = plan_name
        self._narrowed: dict[str, Settings] = {}

    def name_of(self, owner: str) -> str:
        """What builds templates is no user, and has a name that none can have."""
        return UNLIMITED if owner.startswith("\0") else self._plan_name(owner) or self._settings.default_plan

    def plan_of(self, owner: str) -> Plan:
        """Raises ``HostProblem`` when the settings have no such plan any more: whoever took it out decides
        what its users get instead."""
        return self._settings.plan(self.name_of(owner))

    def check_name(self, name: str) -> None:
        """Whether somebody can be given this plan. Raises ``Problem``."""
        try:
            self._settings.plan(name or self._settings.default_plan)
        except HostProblem as problem:
            raise Problem(
                Code.INVALID_FIELD, problem.detail, field="plan", remedy="choose one of these"
            ) from problem

    def settings_for(self, owner: str) -> Settings:
        """The settings, with defaults that the owner's plan allows: who asks for nothing is not refused."""
        name = self.name_of(owner)
        if name not in self._narrowed:
            self._narrowed[name] = _narrowed(self._settings, self._settings.plan(name))
        return self._narrowed[name]

    async def of(self, user_id: str) -> PlanAndUse:
        """The plan and the month so far."""
        plan, settings = self.plan_of(user_id), self._settings
        budget = await self.budget(user_id)
        whole = WholePlan(
            name=self.name_of(user_id),
            compute_seconds_per_month=plan.compute_seconds,
            vcpus=_least(plan.vcpus, settings.vcpus.high),
            memory_mb=_least(plan.memory_mb, settings.memory_mb.high),
            storage_mb=_least(plan.storage_mb, settings.storage_mb.high),
            timeout_ms=_least(plan.timeout_ms, settings.timeout_ms.high),
            sandboxes=_least(plan.sandboxes, settings.max_sandboxes),
        )
        use = Use(
            period_start=budget.period.begins_at,
            period_end=budget.period.ends_at,
            compute_seconds=budget.used,
            compute_seconds_limit=budget.allowed,
        )
        return PlanAndUse(whole, use)

    # ---- caps

    def check(self, owner: str, limits: Limits, timeout_ms: int) -> None:
        """Raises ``Problem(PLAN_LIMIT)``."""
        plan = self.plan_of(owner)
        self._within(owner, limits.vcpus, plan.vcpus, "vcpus")
        self._within(owner, limits.memory_mb, plan.memory_mb, "memoryMb")
        self._within(owner, limits.storage_mb, plan.storage_mb, "storageMb")
        self._within(owner, timeout_ms, plan.timeout_ms, "timeoutMs")

    def check_timeout(self, owner: str, timeout_ms: int) -> None:
        """Raises ``Problem(PLAN_LIMIT)``."""
        self._within(owner, timeout_ms, self.plan_of(owner).timeout_ms, "timeoutMs")

    def _within(self, owner: str, value: int, most: int | None, field: str) -> None:
        if most is not None and value > most:
            raise Problem(
                Code.PLAN_LIMIT,
                f"the plan {self.name_of(owner)} allows {field} up to {most}",
                field=field,
                remedy=_REMEDY,
                limit=most,
            )

    def check_count(self, owner: str, more: int) -> None:
        """Whether there may be so many more. Paused ones count: they hold memory and disk."""
        most = self.plan_of(owner).sandboxes
        if most is not None:
            alive = sum(live.record.owner == owner for live in self._registry.all())
            self._room(owner, alive + more, most)

    def _room(self, owner: str, wanted: int, most: int) -> None:
        if wanted > most:
            raise Problem(
                Code.PLAN_LIMIT,
                f"the plan {self.name_of(owner)} allows {most} sandboxes at once, and this makes {wanted}",
                field="sandboxes",
                remedy="delete some, or have the operator give you another plan",
                limit=most,
            )

    # ---- compute seconds

    async def check_seconds(self, owner: str) -> None:
        """Raises ``Problem(QUOTA_EXHAUSTED)``."""
        if self.plan_of(owner).compute_seconds is None:
            return
        budget = await self.budget(owner)
        if budget.is_spent:
            raise Problem(
                Code.QUOTA_EXHAUSTED,
                f"the {budget.allowed} compute seconds that the plan {self.name_of(owner)} has for this month"
                " are used up",
                remedy="wait until renewsAt, or have the operator give you another plan",
                computeSeconds=budget.used,
                computeSecondsLimit=budget.allowed,
                renewsAt=f"{day_name(budget.period.end)}T00:00:00.000Z",
            )

    async def may_run(self, record: Sandbox) -> None:
        """Whether a paused sandbox may be resumed. The plan may be a smaller one by now, so the sandboxes
        that run are counted again. Raises ``Problem``."""
        most = self.plan_of(record.owner).sandboxes
        if most is not None:
            found = (live.record for live in self._registry.all())
            running = sum(one.owner == record.owner and one.state in _UPKEEP for one in found)
            self._room(record.owner, running + 1, most)
        await self.check_seconds(record.owner)

    async def budget(self, owner: str) -> Budget:
        """As it is now."""
        now = self._now()
        period = month_of(now.wall / SECOND)
        spent = await self._ledger.spent(owner, period)
        fold = Fold(dict(spent.meters))
        fold.look(now)
        running = sum(count for (day, _), count in fold.seconds.items() if period.begin <= day < period.end)
        used, allowed = spent.closed + running, self.plan_of(owner).compute_seconds
        out_at = None if allowed is None else runs_out(used, spent.meters.values(), allowed, now)
        return Budget(period, used, allowed, out_at)


def _least(most: int | None, high: int) -> int:
    return high if most is None else min(most, high)


def _narrowed(settings: Settings, plan: Plan) -> Settings:
    changed = {
        name: Bound(bound.low, bound.high, min(bound.default, most))
        for name in ("vcpus", "memory_mb", "storage_mb", "timeout_ms")
        if (most := getattr(plan, name)) is not None and (bound := getattr(settings, name)).default > most
    }
    return msgspec.structs.replace(settings, **changed) if changed else settings
