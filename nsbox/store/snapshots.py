"""The rows of snapshots."""

from __future__ import annotations

import sqlite3

import msgspec

from nsbox.model.snapshot import Snapshot
from nsbox.store.database import Database

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Snapshot)


class SnapshotStore:
    """The record of every snapshot, and of every fork that is being made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, snapshot: Snapshot) -> None:
        """Insert it, or replace the whole row."""
        row = snapshot.id, snapshot.owner, snapshot.created_at, _ENCODER.encode(snapshot)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO snapshots (id, owner, created_at, body) VALUES (?, ?, ?, ?)", row
            )

        await self._database.run(work)

    async def forget(self, snapshot_id: str) -> None:
        """Idempotent."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM snapshots WHERE id = ?", (snapshot_id,))

        await self._database.run(work)

    async def all(self) -> list[Snapshot]:
        """Everybody's, oldest first."""

        def work(connection: sqlite3.Connection) -> list[Snapshot]:
            rows = connection.execute("SELECT body FROM snapshots ORDER BY created_at, id")
            return [_DECODER.decode(body) for (body,) in rows]

        return await self._database.read(work)
