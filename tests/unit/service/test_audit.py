"""When the audit log is written, and what bounds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from nsbox.model.audit import Event, Outcome, Wish
from nsbox.model.errors import HostProblem
from nsbox.service import audit
from nsbox.service.audit import ADDRESSES, OTHERS, Audit
from nsbox.store import audit_tail
from nsbox.store.audit_tail import AuditTail


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

    async def restore(self, events: Sequence[Event]) -> None:
        await self.append([one for one in events if one not in self.written])

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
def tail(tmp_path: Path) -> Iterator[AuditTail]:
    one = AuditTail(str(tmp_path))
    yield one
    one.close()


@pytest.fixture
def log(table: FakeTable, tail: AuditTail) -> Audit:
    return Audit(table, tail, 90, 1_000)  # type: ignore[arg-type]


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


async def test_what_was_noted_outlives_a_crash_and_is_written_once(
    log: Audit, table: FakeTable, tmp_path: Path
) -> None:
    """``crash``: what a new process finds at that moment."""

    def crash() -> tuple[Audit, FakeTable, AuditTail]:
        other = FakeTable()
        other.written = list(table.written)
        found = AuditTail(str(tmp_path))
        return Audit(other, found, 90, 1_000), other, found  # type: ignore[arg-type]

    async def check(number: int) -> None:
        new, other, found = crash()
        await new.flush(guesses=False)
        assert [one.at for one in other.written] == [float(n) for n in range(number)]
        found.close()

    for number in range(3):
        log.note(event(number))
    assert table.written == []
    assert len(crash()[2].left) == 3
    await log.flush(guesses=False)
    assert crash()[2].left == []
    log.note(event(3))
    log.note(event(4))
    table.written.append(event(3))  # written, and it died before it could say so
    await check(5)


class SlowTable(FakeTable):
    """Takes its time for a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = trio.Event(), trio.Event()

    async def append(self, events: Sequence[Event]) -> None:
        self.begun.set()
        await self.go_on.wait()
        await super().append(events)


async def test_what_comes_while_it_is_written_stays_in_the_file(tail: AuditTail, tmp_path: Path) -> None:
    table = SlowTable()
    log = Audit(table, tail, 90, 1_000)  # type: ignore[arg-type]
    log.note(event(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(log.flush, guesses=False))
        await table.begun.wait()
        log.note(event(1))
        table.go_on.set()
    log.note(event(2))
    left = AuditTail(str(tmp_path))
    assert [one.at for one in left.left] == [1.0, 2.0]
    left.close()
    await log.flush(guesses=False)
    assert [one.at for one in table.written] == [0.0, 1.0, 2.0]


async def test_a_full_disk_is_the_operators_to_know(
    log: Audit, table: FakeTable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_tail.os, "write", lambda file, data: 3)
    log.note(event(0))
    monkeypatch.undo()
    await log.close()
    assert [one.at for one in table.written] == [0.0]
    assert "a crash would lose the last second of the audit log: no space is left" in caplog.text


async def test_a_guesser_fills_no_disk(log: Audit, table: FakeTable) -> None:
    for number in range(10_000):
        log.note_guess(f"192.0.{number % 256}.{number // 256}")
    await log.close()
    assert len(table.written) == ADDRESSES + 1
    assert sum(one.count for one in table.written) == 10_000
    assert {one.outcome for one in table.written} == {Outcome.REFUSED}
    assert table.written[-1].client == OTHERS
