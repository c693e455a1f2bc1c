"""``GET /usage``: what it takes, and both forms of its answer. And the plan's defaults on a create."""

from __future__ import annotations

import csv
import io

import msgspec
import pytest

from nsbox.model.period import parse_day
from nsbox.settings import Bound, Settings
from nsbox.store.ledger import By
from tests.unit.api.client import running
from tests.unit.api.fakes import OTHER_KEY

NOVEMBER = parse_day("2026-11-01")
assert NOVEMBER is not None
_RANGE = "from=2026-11-01&to=2026-12-01T00:00:00.000Z"


async def test_by_day_unless_it_is_said() -> None:
    async with running() as server:
        server.fakes.usage.lines["ann"] = [(str(NOVEMBER), 5), (str(NOVEMBER + 2), 7)]
        answer = await server.ask("GET", f"/usage?{_RANGE}")
        assert answer.json() == {
            "from": "2026-11-01T00:00:00.000Z",
            "to": "2026-12-01T00:00:00.000Z",
            "by": "day",
            "computeSeconds": 12,
            "usage": [
                {"day": "2026-11-01", "computeSeconds": 5},
                {"day": "2026-11-03", "computeSeconds": 7},
            ],
        }
        assert server.fakes.usage.asked == [("ann", NOVEMBER, NOVEMBER + 30, By.DAY)]


@pytest.mark.parametrize(
    ("by", "lines", "told"),
    [
        ("sandbox", [("sb_1", 2)], [{"sandboxId": "sb_1", "computeSeconds": 2}]),
        (
            "key",
            [("", 1), ("key_1", 1)],
            [{"keyId": None, "computeSeconds": 1}, {"keyId": "key_1", "computeSeconds": 1}],
        ),
        ("total", [("", 2)], [{"computeSeconds": 2}]),
        ("total", [], [{"computeSeconds": 0}]),
        ("day", [], []),
    ],
)
async def test_each_form(by: str, lines: list[tuple[str, int]], told: list[dict[str, object]]) -> None:
    async with running() as server:
        server.fakes.usage.lines["ann"] = lines
        answer = await server.ask("GET", f"/usage?by={by}")
        assert answer.json()["usage"] == told
        assert answer.json()["computeSeconds"] == sum(seconds for _, seconds in lines)
        answer = await server.ask("GET", f"/usage?by={by}&format=csv")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"].startswith('attachment; filename="usage-')
        rows = list(csv.reader(io.StringIO(answer.body.decode(), newline="")))
        name = {"sandbox": ["sandboxId"], "key": ["keyId"], "day": ["day"], "total": []}[by]
        assert rows[0] == [*name, "computeSeconds"]
        assert rows[1:] == [["" if part is None else str(part) for part in line.values()] for line in told]


async def test_somebody_elses_is_not_told() -> None:
    async with running() as server:
        server.fakes.usage.lines["ann"] = [("sb_1", 2)]
        answer = await server.ask("GET", "/usage?by=sandbox", key=OTHER_KEY)
        assert answer.json()["usage"] == []
        assert server.fakes.usage.asked[0][0] == "bob"
        assert (await server.ask("GET", "/usage", key=None)).status == 401


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("by=month", 422, "by"),
        ("by=", 422, "by"),
        ("format=xml", 422, "format"),
        ("from=yesterday", 422, "from"),
        ("to=2026-11-31", 422, "to"),
        ("to=2026-11-30T12:00:00Z", 422, "to"),
        ("from=%ff", 422, "from"),
        ("since=2026-11-01", 400, "since"),
        ("by=day&by=key", 400, "by"),
    ],
)
async def test_what_is_wrong_is_named(query: str, status: int, field: str) -> None:
    async with running() as server:
        answer = await server.ask("GET", f"/usage?{query}")
        assert (answer.status, answer.json()["field"]) == (status, field)


async def test_who_asks_for_nothing_gets_what_the_plan_allows() -> None:
    async with running() as server:
        narrow = Bound(1_000, 86_400_000, 5_000)
        server.fakes.plans.settings = msgspec.structs.replace(Settings(), timeout_ms=narrow)
        answer = await server.ask("POST", "/sandboxes")
        assert answer.json()["timeoutMs"] == 5_000
