from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.model.lifecycle import State
from nsbox.model.period import Period
from nsbox.model.usage import DAY, SECOND, Entry, Fold, Moment, bill
from nsbox.store import ledger, schema
from nsbox.store.database import Database
from nsbox.store.ledger import By, Ledger
from nsbox.store.sandboxes import SandboxStore
from tests.unit.model.histories import BEGIN, EVENTS, Event, World, happen
from tests.unit.store.test_sandboxes import make

_ALL = Period(-1_000_000, 1_000_000)
_INSERT = "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = "seq, sandbox, owner, key, before, after, wall, boot, ticks"


class Clock:
    """Moments as the test says."""

    def __init__(self) -> None:
        self.moment = Moment(BEGIN, "boot", 0)

    def __call__(self) -> Moment:
        return self.moment

    def go_on(self, seconds: float) -> None:
        passed = round(seconds * SECOND)
        self.moment = Moment(self.moment.wall + passed, self.moment.boot, self.moment.ticks + passed)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> SandboxStore:
    return SandboxStore(database, clock)


@pytest.fixture
def books(database: Database, state_dir: str) -> Iterator[Ledger]:
    found = Ledger(database, state_dir)
    yield found
    found.close()


async def entries(database: Database) -> list[Entry]:
    return await database.read(
        lambda connection: [
            Entry(*row) for row in connection.execute(f"SELECT {_COLUMNS} FROM ledger ORDER BY seq")
        ]
    )


# ---- written with the row


async def test_each_change_of_a_state_is_an_entry_and_nothing_else_is(
    database: Database, store: SandboxStore, clock: Clock
) -> None:
    record = make("us_ann", State.CREATING, key="key_1")
    await store.insert(record)
    for state in (State.RUNNING, State.RUNNING, State.PAUSED, State.STOPPING, State.STOPPED):
        clock.go_on(1.5)
        await store.update(msgspec.structs.replace(record, state=state, deadline=clock.moment.ticks))
    told = [(one.before, one.after, one.ticks / SECOND) for one in await entries(database)]
    assert told == [
        ("", "creating", 0),
        ("creating", "running", 1.5),
        ("running", "paused", 4.5),
        ("paused", "stopping", 6),
        ("stopping", "stopped", 7.5),
    ]
    assert {(one.sandbox, one.owner, one.key, one.boot) for one in await entries(database)} == {
        (record.id, "us_ann", "key_1", "boot")
    }


async def test_a_row_that_cannot_be_written_leaves_no_entry(database: Database, store: SandboxStore) -> None:
    record = make()
    await store.insert(record)
    with pytest.raises(sqlite3.IntegrityError):
        await store.insert(record)
    with pytest.raises(LookupError):
        await store.update(make())
    assert len(await entries(database)) == 1


async def test_an_entry_that_cannot_be_written_leaves_the_row_as_it_was(
    database: Database, store: SandboxStore
) -> None:
    record = make()
    await store.insert(record)

    def forbid(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'no'); END")

    await database.run(forbid)
    with pytest.raises(sqlite3.IntegrityError):
        await store.update(msgspec.structs.replace(record, state=State.PAUSED))
    assert await store.get(record.id) == record


async def test_the_ledger_outlives_the_record(database: Database, store: SandboxStore) -> None:
    await store.insert(make(state=State.STOPPED, ended_at=1.0))
    assert await store.prune(2.0) == 1
    assert len(await entries(database)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET wall = 0",
        "DELETE FROM ledger",
        "INSERT OR REPLACE INTO ledger SELECT seq, 'sb', owner, key, before, after, 0, boot, 0 FROM ledger",
        "REPLACE INTO ledger SELECT * FROM ledger",
        "INSERT INTO ledger SELECT * FROM ledger WHERE true ON CONFLICT DO UPDATE SET wall = 0",
        "UPDATE OR REPLACE ledger SET seq = seq + 1",
    ],
)
async def test_nothing_in_it_is_changed_or_removed(
    database: Database, store: SandboxStore, statement: str
) -> None:
    await store.insert(make())
    await store.insert(make())
    before = await entries(database)
    with pytest.raises(sqlite3.IntegrityError, match="the ledger is only added to"):
        await database.run(lambda connection: connection.execute(statement))
    assert await entries(database) == before


# ---- what is found lost


async def test_what_is_lost_was_alive_at_the_last_pulse(
    database: Database, store: SandboxStore, books: Ledger, clock: Clock
) -> None:
    early, late = make("us", key="k"), make("us", key="k")
    await store.insert(early)
    clock.go_on(10)
    await books.pulse(clock.moment)
    clock.go_on(1)
    await store.insert(late)
    clock.moment = Moment(BEGIN + 5 * DAY, "another boot", 7 * SECOND)
    for record in (early, late):
        await store.update(msgspec.structs.replace(record, state=State.LOST))
    assert await books.report("us", _ALL, By.SANDBOX, clock.moment) == [(early.id, 10)]


async def test_what_is_lost_before_the_first_pulse_costs_nothing(
    store: SandboxStore, books: Ledger, clock: Clock
) -> None:
    record = make("us")
    await store.insert(record)
    clock.go_on(100)
    await store.update(msgspec.structs.replace(record, state=State.LOST))
    assert await books.report("us", _ALL, By.TOTAL, clock.moment) == []


# ---- a new clock, a new ledger


async def test_under_a_new_wall_clock_seconds_go_to_other_days(
    store: SandboxStore, books: Ledger, clock: Clock
) -> None:
    record = make("us")
    await store.insert(record)
    clock.go_on(10.5)
    clock.moment = clock.moment._replace(wall=clock.moment.wall - 3 * DAY)
    assert await books.begin_again(clock.moment) == 1
    clock.go_on(10.5)
    day = BEGIN // DAY
    assert await books.report("us", _ALL, By.DAY, clock.moment) == [(str(day - 3), 10), (str(day), 11)]


async def test_what_ran_before_there_was_a_ledger_is_billed_from_its_first_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A reload replaces api by a newer one, and sandboxes live on."""
    state_dir = str(tmp_path / "older")
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[: schema.MIGRATIONS.index(schema._LEDGER)])
        older.setattr(ledger, "begin", lambda *_: None)
        database = Database(state_dir)
        running, paused = make("us"), make("us", State.PAUSED)
        await SandboxStore(database, clock).insert(running)
        await SandboxStore(database, clock).insert(paused)
        database.close()
    database = Database(state_dir)
    books = Ledger(database, state_dir)
    clock.go_on(1000)
    assert await books.take_over(clock.moment) == 1
    assert await books.take_over(clock.moment) == 0
    clock.go_on(10)
    assert await books.report("us", _ALL, By.SANDBOX, clock.moment) == [(running.id, 10)]
    books.close()
    database.close()


# ---- reports and folding


def filled(world: World) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(connection)
    connection.executemany(_INSERT, world.entries)
    return connection


def expected(world: World, owner: str, by: By, period: Period = _ALL) -> dict[str, int]:
    mine = {entry.sandbox for entry in world.entries if entry.owner == owner}
    sums: Counter[str] = Counter()
    for cell in bill(world.entries, world.now):
        if cell.sandbox in mine and period.begin <= cell.day < period.end:
            name = {By.DAY: str(cell.day), By.SANDBOX: cell.sandbox, By.KEY: cell.key, By.TOTAL: ""}[by]
            sums[name] += cell.seconds
    return dict(sums)


@given(EVENTS, st.lists(st.integers(1, 9), max_size=8), st.sampled_from(By), st.integers(-2, 2))
def test_folded_or_not_the_bill_is_the_same(
    events: list[Event], pieces: list[int], by: By, first: int
) -> None:
    """However much of it is folded, in whatever pieces, while the history goes on."""
    world = World()
    for event in events:
        happen(world, event)
    connection = filled(world)
    day = BEGIN // DAY
    for piece in [*pieces, 1_000_000]:
        for owner in ("us_ann", "us_bob"):
            for period in (_ALL, Period(day + first, day + first + 2)):
                found = dict(ledger.report(connection, owner, period, by, world.now))
                assert found == expected(world, owner, by, period)
                spent = ledger.spent(connection, owner, period)
                fold = Fold(dict(spent.meters))
                fold.look(world.now)
                running = sum(n for (one, _), n in fold.seconds.items() if period.begin <= one < period.end)
                assert spent.closed + running == sum(expected(world, owner, By.TOTAL, period).values())
        ledger.fold_some(connection, piece)
    connection.close()


@given(EVENTS)
def test_the_folded_tables_can_be_made_anew(events: list[Event]) -> None:
    world = World()
    for event in events:
        happen(world, event)
    connection = filled(world)
    ledger.fold_some(connection, 1_000_000)
    before = [connection.execute(f"SELECT * FROM {name}").fetchall() for name in _CACHES]
    for name in _CACHES:
        connection.execute(f"DELETE FROM {name}")
    while ledger.fold_some(connection, 3):
        pass
    assert [connection.execute(f"SELECT * FROM {name}").fetchall() for name in _CACHES] == before
    connection.close()


_CACHES = ("usage_days", "usage_meters", "usage_folded")


async def test_a_report_waits_for_no_writer_and_sees_what_is_written(
    database: Database, books: Ledger, store: SandboxStore, clock: Clock, state_dir: str
) -> None:
    await store.insert(make("us"))
    clock.go_on(3)
    other = sqlite3.connect(os.path.join(state_dir, "nsbox.db"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert await books.report("us", _ALL, By.TOTAL, clock.moment) == [("", 3)]
    finally:
        other.close()
    assert await books.fold() == 1
    assert await books.fold() == 0
    assert await books.report("us", _ALL, By.TOTAL, clock.moment) == [("", 3)]
    assert await books.report("them", _ALL, By.TOTAL, clock.moment) == []
