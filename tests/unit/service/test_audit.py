"""When the audit log is written, and what bounds it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from nsbox.model.audit import Event, Outcome, Wish
from nsbox.model.errors import HostProblem
from nsbox.service import audit
from nsbox.service.audit import ADDRESSES, OTHERS, Audit


class FakeTable:
    def __init__(self) -> None:
        self.written: list[Event] = []
        self.broken = False
        self.batches = 0

    async def append(self, events: Sequence[Event]) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise HostProblem("the disk is full")
        self.batches += 1
        self.written += events

    async def find(self, wish: Wish) -> list[Event]:
        return self.written[-wish.limit :]

    async def forget(self, before: float, most: int) -> int:
        return 0


def event(number: int = 0) -> Event:
    return Event(at=float(number), action="x", client="::1", outcome=Outcome.DONE, status=200)


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


@pytest.fixture
def log(table: FakeTable) -> Audit:
    return Audit(table, 90, 1_000)  # type: ignore[arg-type]


async def test_batches(log: Audit, table: FakeTable, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.watch)
        await trio.sleep(0.5)
        for number in range(100):
            log.note(event(number))
        assert table.written == []
        await trio.sleep(audit.FLUSH_S)
        assert [one.at for one in table.written] == [float(n) for n in range(100)]
        assert table.batches == 1
        nursery.cancel_scope.cancel()


async def test_a_question_and_the_end_write_what_waits(log: Audit, table: FakeTable) -> None:
    log.note(event(1))
    assert [one.at for one in await log.find(Wish(limit=5))] == [1.0]
    log.note(event(2))
    log.note_guess("192.0.2.1")
    with trio.CancelScope() as scope:
        scope.cancel()  # as the end of the daemon comes
        await log.close()
    assert [one.action for one in table.written] == ["x", "x", audit.GUESS]


async def test_what_cannot_be_written_waits_and_is_bounded(
    log: Audit, table: FakeTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "_MOST", 10)
    table.broken = True
    for number in range(12):
        log.note(event(number))
    await log.close()
    assert "2 events of the audit log are lost" in caplog.text
    assert "the disk is full" in caplog.text
    table.broken = False
    await log.close()
    assert [one.at for one in table.written] == [float(n) for n in range(2, 12)]


async def test_a_guesser_fills_no_disk(log: Audit, table: FakeTable) -> None:
    for number in range(10_000):
        log.note_guess(f"192.0.{number % 256}.{number // 256}")
    await log.close()
    assert len(table.written) == ADDRESSES + 1
    assert sum(one.count for one in table.written) == 10_000
    assert {one.outcome for one in table.written} == {Outcome.REFUSED}
    assert table.written[-1].client == OTHERS
