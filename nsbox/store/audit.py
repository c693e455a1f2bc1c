"""The table of the audit log. SQLite itself forbids to change what is in it, and to remove what is not old
(``schema``); ``forget`` is the one place that removes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial

from nsbox.model.audit import Event, Outcome, Wish
from nsbox.store.database import Database

_COLUMNS = "at, action, client, outcome, status, user, subject, key, sandbox, target, count"
_INSERT = f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant


class AuditTable:
    """Reads and appends."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, events: Sequence[Event]) -> None:
        """Returning means that all are in the record."""
        await self._database.run(partial(_append, events))

    async def restore(self, events: Sequence[Event]) -> None:
        """Append those that are not there: what a process that died had noted, and perhaps written. It cannot
        have written anything behind them, so only as many of the last rows are looked at."""
        await self._database.run(partial(_restore, events))

    async def find(self, wish: Wish) -> list[Event]:
        """The newest first."""
        return await self._database.read(partial(_find, wish))

    async def forget(self, before: float, most: int) -> int:
        """Remove what is older than ``before``, and what is more than the newest ``most``, but nothing of the
        last hour; how many that were."""
        return await self._database.run(partial(_forget, before, most))


def _append(events: Sequence[Event], connection: sqlite3.Connection) -> None:
    connection.executemany(_INSERT, [_row(one) for one in events])


def _restore(events: Sequence[Event], connection: sqlite3.Connection) -> None:
    last = connection.execute(f"SELECT {_COLUMNS} FROM audit ORDER BY id DESC LIMIT ?", [len(events)])  # noqa: S608
    there = set(last)
    _append([one for one in events if _row(one) not in there], connection)


def _row(one: Event) -> tuple[object, ...]:
    return (
        one.at,
        one.action,
        one.client,
        one.outcome.value,
        one.status,
        one.user,
        one.subject,
        one.key,
        one.sandbox,
        one.target,
        one.count,
    )


def _find(wish: Wish, connection: sqlite3.Connection) -> list[Event]:
    conditions, values = ["1"], list[object]()
    for condition, value in (
        ("id < ?", wish.before),
        ("ifnull(subject, user) = ?", wish.owner),
        ("user = ?", wish.user),
        ("sandbox = ?", wish.sandbox),
        ("action = ?", wish.action),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    query = (
        f"SELECT id, {_COLUMNS} FROM audit WHERE {' AND '.join(conditions)} "  # noqa: S608 - constants
        "ORDER BY id DESC LIMIT ?"
    )
    return [_event(row) for row in connection.execute(query, [*values, wish.limit])]


def _event(row: tuple[object, ...]) -> Event:
    names = ("id", *_COLUMNS.split(", "))
    told = dict(zip(names, row, strict=True))
    return Event(**{**told, "outcome": Outcome(str(told["outcome"]))})  # type: ignore[arg-type]


def _forget(before: float, most: int, connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT at FROM audit ORDER BY id DESC LIMIT 1 OFFSET ?", [most]).fetchone()
    until = max(before, found[0] if found is not None else before)
    # The table of the limit refuses one that is less than an hour ago.
    connection.execute(
        "UPDATE audit_kept SET since = max(since, min(?, (julianday('now') - 2440587.5) * 86400.0 - 3601))",
        [until],
    )
    return connection.execute("DELETE FROM audit WHERE at < (SELECT since FROM audit_kept)").rowcount
