"""Tickets for browsers: once, soon, one process, one origin."""

from __future__ import annotations

import pytest

from nsbox.api import tickets
from nsbox.api.tickets import Tickets
from nsbox.model.errors import Problem
from tests.unit.api.fakes import KEY, FakeKeys

PAGE = "https://page.example"
ME = FakeKeys().callers[KEY]


def test_good_once() -> None:
    ours = Tickets()
    made = ours.make(ME, "sbx", "cmd", PAGE)
    assert ours.take(made, "sbx", "cmd", PAGE) == ME
    with pytest.raises(Problem):
        ours.take(made, "sbx", "cmd", PAGE)


@pytest.mark.parametrize(
    "wrong", [("sbx", "other", PAGE), ("other", "cmd", PAGE), ("sbx", "cmd", None), ("sbx", "cmd", "null")]
)
def test_for_one_place_and_origin_and_used_up_by_a_wrong_try(wrong: tuple[str, str, str | None]) -> None:
    ours = Tickets()
    made = ours.make(ME, "sbx", "cmd", PAGE)
    with pytest.raises(Problem):
        ours.take(made, *wrong)
    with pytest.raises(Problem):
        ours.take(made, "sbx", "cmd", PAGE)


def test_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(tickets.time, "monotonic", lambda: now[0])
    ours = Tickets()
    made = ours.make(ME, "sbx", "cmd", None)
    now[0] += tickets.KEEP_S + 1
    with pytest.raises(Problem):
        ours.take(made, "sbx", "cmd", None)


def test_there_are_never_more_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "_MOST", 3)
    ours = Tickets()
    made = [ours.make(ME, "sbx", "cmd", None) for _ in range(5)]
    with pytest.raises(Problem):
        ours.take(made[1], "sbx", "cmd", None)
    assert ours.take(made[4], "sbx", "cmd", None) == ME
