"""The plan of a host that has none: everybody may use what the settings allow, and nothing is counted."""

from __future__ import annotations

from datetime import UTC, datetime

from nsbox.model.account import UNLIMITED
from nsbox.model.plan import Plan, PlanAndUse, Use
from nsbox.settings import Settings


class Unlimited:
    """Of every user the same."""

    def __init__(self, settings: Settings) -> None:
        self._plan = Plan(
            name=UNLIMITED,
            compute_seconds_per_month=None,
            vcpus=settings.vcpus.high,
            memory_mb=settings.memory_mb.high,
            storage_mb=settings.storage_mb.high,
            timeout_ms=settings.timeout_ms.high,
            sandboxes=settings.max_sandboxes,
        )

    async def of(self, user_id: str) -> PlanAndUse:
        """The plan, and the month that it is (UTC) with nothing counted in it."""
        begin = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        after = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
        return PlanAndUse(
            self._plan,
            Use(period_start=begin.timestamp(), period_end=after.timestamp(), compute_seconds=0),
        )
