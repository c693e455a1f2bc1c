"""Billing periods: calendar months in UTC, and days as they are counted and written. Pure."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import NamedTuple

_EPOCH = date(1970, 1, 1).toordinal()
_DAY_S = 86_400
_WRITTEN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(\Z|T)")


class Period(NamedTuple):
    """Whole days, counted from the epoch; ``end`` is not in it."""

    begin: int
    end: int

    @property
    def begins_at(self) -> float:
        """Seconds since the epoch."""
        return float(self.begin * _DAY_S)

    @property
    def ends_at(self) -> float:
        """Seconds since the epoch."""
        return float(self.end * _DAY_S)


def month_of(wall: float) -> Period:
    """The month of a time in seconds since the epoch."""
    first = datetime.fromtimestamp(wall, UTC).date().replace(day=1)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return Period(day_number(first), day_number(after))


def day_number(day: date) -> int:
    """Days since the epoch."""
    return day.toordinal() - _EPOCH


def day_name(number: int) -> str:
    """``2026-11-25``."""
    return date.fromordinal(number + _EPOCH).isoformat()


def parse_day(text: str) -> int | None:
    """A day, or a time that is the beginning of one: what is given back as one may be asked for. None for
    anything else."""
    if not _WRITTEN.match(text):  # fromisoformat takes much more, weeks for one
        return None
    try:
        if len(text) == len("2026-11-25"):
            return day_number(date.fromisoformat(text))
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None or moment.utcoffset():
        return None
    return day_number(moment.date()) if moment.time() == time() else None
