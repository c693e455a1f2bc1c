from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from nsbox.service import unlimited
from nsbox.service.unlimited import Unlimited
from nsbox.settings import Settings


@pytest.mark.parametrize(
    ("now", "begin", "end"),
    [
        ("2026-12-31T23:59:59+00:00", "2026-12-01", "2027-01-01"),
        ("2028-02-29T00:00:00+00:00", "2028-02-01", "2028-03-01"),
        ("2027-01-01T00:00:00+00:00", "2027-01-01", "2027-02-01"),
    ],
)
async def test_the_month_that_it_is(monkeypatch: pytest.MonkeyPatch, now: str, begin: str, end: str) -> None:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(now).astimezone(tz)

    monkeypatch.setattr(unlimited, "datetime", Frozen)
    plan, use = await Unlimited(Settings()).of("us_1")
    shown = [datetime.fromtimestamp(at, UTC).date().isoformat() for at in (use.period_start, use.period_end)]
    assert shown == [begin, end]
    assert (plan.name, plan.compute_seconds_per_month, plan.vcpus) == ("unlimited", None, 4)
    assert (use.compute_seconds, use.compute_seconds_limit) == (0, None)
