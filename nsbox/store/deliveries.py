"""What is still to be told to webhooks: a queue that outlives the daemon."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial

import msgspec

from nsbox.store.database import Database

_COLUMNS = "id, hook, event, body, tries, due"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One happening for one hook. ``due``: wall-clock seconds before which it is not tried (again)."""

    id: int
    hook: str
    event: str
    body: bytes
    tries: int
    due: float


class DeliveryQueue:
    """The table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, hooks: Sequence[str], event: str, body: bytes, due: float, most: int) -> int:
        """One for each hook; how many of the oldest went, because a hook had ``most`` already."""
        return await self._database.run(partial(_add, hooks, event, body, due, most))

    async def next_of(self, hook: str) -> Delivery | None:
        """The one that is due first."""
        return await self._database.read(partial(_next, hook))

    async def done(self, delivery: Delivery) -> None:
        """It is told, or given up."""
        await self._database.run(
            lambda connection: connection.execute("DELETE FROM deliveries WHERE id = ?", [delivery.id])
        )

    async def again(self, delivery: Delivery, due: float) -> None:
        """It failed, and is to be tried once more."""
        await self._database.run(
            lambda connection: connection.execute(
                "UPDATE deliveries SET tries = tries + 1, due = ? WHERE id = ?", [due, delivery.id]
            )
        )

    async def forget_others(self, hooks: Sequence[str]) -> None:
        """Remove what is for hooks that are not set any more."""
        marks = ", ".join("?" * len(hooks))
        await self._database.run(
            lambda connection: connection.execute(
                f"DELETE FROM deliveries WHERE hook NOT IN ({marks})",  # noqa: S608 - question marks
                list(hooks),
            )
        )


def _add(
    hooks: Sequence[str], event: str, body: bytes, due: float, most: int, connection: sqlite3.Connection
) -> int:
    lost = 0
    for hook in hooks:
        connection.execute(
            "INSERT INTO deliveries (hook, event, body, tries, due) VALUES (?, ?, ?, 0, ?)",
            [hook, event, body, due],
        )
        lost += connection.execute(
            "DELETE FROM deliveries WHERE hook = ? AND id <= "
            "(SELECT id FROM deliveries WHERE hook = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            [hook, hook, most],
        ).rowcount
    return lost


def _next(hook: str, connection: sqlite3.Connection) -> Delivery | None:
    query = f"SELECT {_COLUMNS} FROM deliveries WHERE hook = ? ORDER BY due, id LIMIT 1"  # noqa: S608
    row = connection.execute(query, [hook]).fetchone()
    return None if row is None else Delivery(**dict(zip(_COLUMNS.split(", "), row, strict=True)))
