from __future__ import annotations

import pytest

from nsbox.keeper import pool as module
from nsbox.keeper.boxes import Phase
from nsbox.keeper.pool import Pool
from tests.unit.keeper.fakes import FakeHost


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def pool(clock: list[float]) -> Pool:
    return Pool(2, FakeHost())  # type: ignore[arg-type]


def test_the_readiest_first(pool: Pool) -> None:
    one, two = pool.make(), pool.make()
    two.phase = Phase.BLANK
    for box in (one, two):
        pool.stock(box)
    assert not pool.wants_more
    assert [pool.take(), pool.take(), pool.take()] == [two, one, None]
    assert pool.wants_more


def test_names_are_never_used_twice(pool: Pool) -> None:
    assert len({pool.make().name for _ in range(10)}) == 10


def test_after_a_failure_it_rests(pool: Pool, clock: list[float]) -> None:
    box = pool.make()
    pool.stock(box)
    pool.drop(box)
    assert not pool.wants_more
    clock[0] += module._REST
    assert pool.wants_more
    pool.drop(box)  # not in stock any more: no reason to rest
    assert pool.wants_more


def test_none_are_kept_when_none_are_wanted(clock: list[float]) -> None:
    assert not Pool(0, FakeHost()).wants_more  # type: ignore[arg-type]
