"""What sandboxes have cost, as their owner asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nsbox.model.errors import Code, Problem
from nsbox.model.period import Period, month_of
from nsbox.model.usage import SECOND, Moment
from nsbox.service import clock
from nsbox.store.ledger import By, Ledger


class Report(NamedTuple):
    """Seconds by what was asked for; a day is a number, counted from the epoch."""

    period: Period
    by: By
    lines: list[tuple[str, int]]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(seconds for _, seconds in self.lines)


class Usage:
    """Reads the ledger."""

    def __init__(self, ledger: Ledger, now: Callable[[], Moment] = clock.moment) -> None:
        self._ledger, self._now = ledger, now

    async def report(self, owner: str, begin: int | None, end: int | None, by: By) -> Report:
        """Of whole days. Where only one end is given, the other is that of the current month."""
        now = self._now()
        month = month_of(now.wall / SECOND)
        period = Period(month.begin if begin is None else begin, month.end if end is None else end)
        if period.begin >= period.end:
            raise Problem(Code.INVALID_FIELD, "to is a later day than from, and not in it", field="to")
        return Report(period, by, await self._ledger.report(owner, period, by, now))
