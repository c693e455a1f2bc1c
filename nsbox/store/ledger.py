"""The ledger: every transition of every sandbox, for ever, and the sums of it that are kept beside it.

The ledger is the truth. It is only ever added to, which triggers see to, and always in the transaction that
changes the row of the sandbox. What it adds up to is folded into ``usage_days`` and ``usage_meters`` now and
then, so that nobody has to read months of it: a cache, which may be emptied at any time. A reading takes what
is folded and the entries behind that, in one snapshot of the file.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import trio

from nsbox.model.lifecycle import State
from nsbox.model.period import Period
from nsbox.model.sandbox import Sandbox
from nsbox.model.usage import Entry, Fold, Meter, Moment
from nsbox.store.database import FILE_NAME, Database, Synchronous, connect, translated

#: Entries of one transaction of folding: some milliseconds in which nothing else is written.
_FOLDED_AT_ONCE = 500
#: Sandboxes of one statement; SQLite's own bound of variables is far above.
_NAMED_AT_ONCE = 500
_ENTRY = "seq, sandbox, owner, key, before, after, wall, boot, ticks"
#: Of no boot: a run that ends here is as long as nothing.
_NEVER = Moment(0, "", 0)
_KEEP_METER = (
    "INSERT INTO usage_meters (owner, sandbox, key, ran, wall, boot, ticks) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET ran = excluded.ran, wall = excluded.wall, boot = excluded.boot,"
    " ticks = excluded.ticks"
)
_ADD_SECONDS = (
    "INSERT INTO usage_days (owner, day, sandbox, key, seconds) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds"
)


class By(StrEnum):
    """What a report has a line for."""

    DAY = "day"
    SANDBOX = "sandbox"
    KEY = "key"
    TOTAL = "total"


class Spent(NamedTuple):
    """Seconds of a period that are over and billed, and the meters of what is alive."""

    closed: int
    meters: dict[str, Meter]


@functools.cache
def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def now() -> Moment:
    """As all clocks have it."""
    ticks = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    return Moment(time.time_ns() // 1000, _boot(), ticks)


# ---- written in others' transactions


def begin(connection: sqlite3.Connection, sandbox: Sandbox, moment: Moment) -> None:
    """The first entry of a sandbox."""
    connection.execute(
        "INSERT INTO ledger (sandbox, owner, key, before, after, wall, boot, ticks)"
        " VALUES (?, ?, ?, '', ?, ?, ?, ?)",
        (sandbox.id, sandbox.owner, sandbox.key, sandbox.state.value, *moment),
    )


def move(connection: sqlite3.Connection, sandbox: Sandbox, moment: Moment) -> None:
    """An entry, if the row that is about to be replaced has another state. What is found lost was last known
    alive at the last pulse, whenever it is found."""
    if sandbox.state is State.LOST:
        moment = last_pulse(connection) or moment._replace(boot=_NEVER.boot, ticks=_NEVER.ticks)
    state = sandbox.state.value
    connection.execute(
        "INSERT INTO ledger (sandbox, owner, key, before, after, wall, boot, ticks)"
        " SELECT id, ?, ?, state, ?, ?, ?, ? FROM sandboxes WHERE id = ? AND state <> ?",
        (sandbox.owner, sandbox.key, state, *moment, sandbox.id, state),
    )


def last_pulse(connection: sqlite3.Connection) -> Moment | None:
    """When sandboxes were last known alive."""
    row = connection.execute("SELECT wall, boot, ticks FROM pulse").fetchone()
    return None if row is None else Moment(*row)


# ---- read in one snapshot


def _folded(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM usage_folded").fetchone()
    return 0 if row is None else int(row[0])


def _meters(connection: sqlite3.Connection, condition: str, values: Iterable[str]) -> dict[str, Meter]:
    rows = connection.execute(
        f"SELECT sandbox, owner, key, ran, wall, boot, ticks FROM usage_meters WHERE {condition}",  # noqa: S608
        tuple(values),
    )
    return {
        sandbox: Meter(owner, key, ran, None if boot is None else Moment(wall, boot, ticks))
        for sandbox, owner, key, ran, wall, boot, ticks in rows
    }


def _fold_of(connection: sqlite3.Connection, owner: str) -> Fold:
    """What is alive, by what is folded and what came after."""
    fold = Fold(_meters(connection, "owner = ?", (owner,)))
    behind = connection.execute(
        f"SELECT {_ENTRY} FROM ledger WHERE seq > ? AND owner = ? ORDER BY seq",  # noqa: S608 (names only)
        (_folded(connection), owner),
    )
    for row in behind:
        fold.take(Entry(*row))
    return fold


def spent(connection: sqlite3.Connection, owner: str, period: Period) -> Spent:
    """What an owner has used up, but for what runs now."""
    fold = _fold_of(connection, owner)
    (folded,) = connection.execute(
        "SELECT coalesce(sum(seconds), 0) FROM usage_days WHERE owner = ? AND day >= ? AND day < ?",
        (owner, period.begin, period.end),
    ).fetchone()
    behind = sum(count for (day, _), count in fold.seconds.items() if period.begin <= day < period.end)
    return Spent(folded + behind, fold.meters)


def report(
    connection: sqlite3.Connection, owner: str, period: Period, by: By, moment: Moment
) -> list[tuple[str, int]]:
    """Lines and their seconds, what runs counted up to ``moment``. In the order of what they are for; a day
    is a number."""
    sums: dict[str, int] = {}
    column = {By.DAY: "day", By.SANDBOX: "sandbox", By.KEY: "key", By.TOTAL: "''"}[by]
    for name, seconds in connection.execute(
        f"SELECT {column}, sum(seconds) FROM usage_days"  # noqa: S608 (one of four)
        f" WHERE owner = ? AND day >= ? AND day < ? GROUP BY {column}",
        (owner, period.begin, period.end),
    ):
        sums[str(name)] = seconds
    fold = _fold_of(connection, owner)
    fold.look(moment)
    for cell in fold.cells():
        if period.begin <= cell.day < period.end:
            name = {By.DAY: str(cell.day), By.SANDBOX: cell.sandbox, By.KEY: cell.key, By.TOTAL: ""}[by]
            sums[name] = sums.get(name, 0) + cell.seconds
    return sorted(sums.items(), key=(lambda line: int(line[0])) if by is By.DAY else None)


# ---- folding


def fold_some(connection: sqlite3.Connection, most: int = _FOLDED_AT_ONCE) -> int:
    """Fold the next entries, in the transaction that is open. How many those were."""
    entries = [
        Entry(*row)
        for row in connection.execute(
            f"SELECT {_ENTRY} FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608 (names only)
            (_folded(connection), most),
        )
    ]
    if not entries:
        return 0
    owners = {entry.sandbox: entry.owner for entry in entries}
    fold = Fold(_meters_of(connection, owners))
    for entry in entries:
        fold.take(entry)
    connection.executemany(
        _ADD_SECONDS,
        [
            (owners[sandbox], day, sandbox, fold.keys[sandbox], seconds)
            for (day, sandbox), seconds in fold.seconds.items()
        ],
    )
    connection.executemany(
        "DELETE FROM usage_meters WHERE owner = ? AND sandbox = ?",
        [(owner, sandbox) for sandbox, owner in owners.items() if sandbox not in fold.meters],
    )
    connection.executemany(
        _KEEP_METER,
        [
            (one.owner, sandbox, one.key, one.ran, *(one.since or (None, None, None)))
            for sandbox, one in fold.meters.items()
        ],
    )
    connection.execute(
        "INSERT INTO usage_folded VALUES (1, ?) ON CONFLICT DO UPDATE SET seq = excluded.seq",
        (entries[-1].seq,),
    )
    return len(entries)


def _meters_of(connection: sqlite3.Connection, owners: dict[str, str]) -> dict[str, Meter]:
    names = [part for sandbox, owner in owners.items() for part in (owner, sandbox)]
    found: dict[str, Meter] = {}
    for start in range(0, len(names), 2 * _NAMED_AT_ONCE):
        some = names[start : start + 2 * _NAMED_AT_ONCE]
        marks = ", ".join(["(?, ?)"] * (len(some) // 2))
        found |= _meters(connection, f"(owner, sandbox) IN (VALUES {marks})", some)
    return found


class Ledger:
    """Reads on a connection of its own, in threads of its own: a long report keeps no sandbox from being
    made."""

    def __init__(self, database: Database, state_dir: str) -> None:
        self._database, self._state_dir = database, state_dir
        self._reader: sqlite3.Connection | None = None
        self._limiter = trio.CapacityLimiter(1)
        self._reading = threading.Lock()  # of a thread, against ``close``

    async def spent(self, owner: str, period: Period) -> Spent:
        """On the writer's connection: whoever waits for this waits for few rows, and not behind a report."""
        return await self._database.read(lambda connection: spent(connection, owner, period))

    async def report(self, owner: str, period: Period, by: By, moment: Moment) -> list[tuple[str, int]]:
        """See the function of this name."""

        def work() -> list[tuple[str, int]]:
            with translated(os.path.join(self._state_dir, FILE_NAME)), self._reading:
                reader = self._opened()
                reader.execute("BEGIN")
                try:
                    return report(reader, owner, period, by, moment)
                finally:
                    reader.execute("COMMIT")

        return await trio.to_thread.run_sync(work, limiter=self._limiter)

    def _opened(self) -> sqlite3.Connection:
        if self._reader is None:
            self._reader = connect(self._state_dir, Synchronous.NORMAL)
            self._reader.execute("PRAGMA query_only = ON")
        return self._reader

    async def pulse(self, moment: Moment) -> None:
        """What the record calls running was alive then. In the same file as the ledger, so that a power cut
        which takes an entry takes every later pulse too."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO pulse VALUES (1, ?, ?, ?) ON CONFLICT DO UPDATE SET wall = excluded.wall,"
                " boot = excluded.boot, ticks = excluded.ticks",
                moment,
            )

        await self._database.run(work)

    async def last_pulse(self) -> Moment | None:
        """When that was."""
        return await self._database.read(last_pulse)

    async def begin_again(self, moment: Moment) -> int:
        """What runs runs on under another wall clock: its seconds belong to other days from here on. How
        many do."""
        return await self._database.run(lambda connection: _run_on(connection, moment, "running"))

    async def take_over(self, moment: Moment) -> int:
        """At the first start that has a ledger: what runs is billed from here on."""

        def work(connection: sqlite3.Connection) -> int:
            if connection.execute("SELECT 1 FROM ledger LIMIT 1").fetchone():
                return 0
            return _run_on(connection, moment, "")

        return await self._database.run(work)

    async def fold(self) -> int:
        """Fold all that is there, a piece at a time. How many entries those were."""
        done = 0
        while count := await self._database.run(fold_some):
            done += count
        return done

    def close(self) -> None:
        """When nothing is read any more."""
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None


def _run_on(connection: sqlite3.Connection, moment: Moment, before: str) -> int:
    return connection.execute(
        "INSERT INTO ledger (sandbox, owner, key, before, after, wall, boot, ticks)"
        " SELECT id, owner, coalesce(json_extract(CAST(body AS TEXT), '$.key'), ''), ?, state, ?, ?, ?"
        " FROM sandboxes WHERE state = ?",
        (before, *moment, State.RUNNING.value),
    ).rowcount
