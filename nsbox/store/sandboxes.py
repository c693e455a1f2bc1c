"""The rows of sandboxes. What a state means, and who may see a row, is decided above.

A row whose state is new is written together with an entry of the ledger, which is looked up here and not told
by whoever writes: so the two cannot disagree.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from typing import TypeAlias

import msgspec

from nsbox.model.lifecycle import State
from nsbox.model.sandbox import Sandbox
from nsbox.model.usage import Moment
from nsbox.store import ledger
from nsbox.store.database import Database

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Sandbox)
_ALIVE = frozenset(state for state in State if state.alive)
_FINAL = frozenset(state for state in State if state.final)
_Records: TypeAlias = list[Sandbox]  # `list` inside SandboxStore is its method


class RecordMissingError(LookupError):
    """An update of a sandbox that was never inserted, or is pruned."""


class SandboxStore:
    """The record of every sandbox, living or ended. ``now`` is what entries of the ledger are dated with."""

    def __init__(self, database: Database, now: Callable[[], Moment] = ledger.now) -> None:
        self._database, self._now = database, now

    async def insert(self, sandbox: Sandbox) -> None:
        """Success means the row is there; an id that exists raises ``sqlite3.IntegrityError``."""
        row, moment = _row(sandbox), self._now()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO sandboxes (id, owner, state, created_at, ended_at, deadline, body)"
                " VALUES (:id, :owner, :state, :created_at, :ended_at, :deadline, :body)",
                row,
            )
            ledger.begin(connection, sandbox, moment)

        await self._database.run(work)

    async def update(self, sandbox: Sandbox) -> None:
        """Replace the whole row. Raises ``RecordMissingError`` where there is none: nothing is revived."""
        row, moment = _row(sandbox), self._now()  # when it was decided, not when the queue has come to it

        def work(connection: sqlite3.Connection) -> int:
            ledger.move(connection, sandbox, moment)  # first: it looks at the row as it was
            return connection.execute(
                "UPDATE sandboxes SET owner = :owner, state = :state, created_at = :created_at,"
                " ended_at = :ended_at, deadline = :deadline, body = :body WHERE id = :id",
                row,
            ).rowcount

        if await self._database.run(work) == 0:
            raise RecordMissingError(sandbox.id)

    async def get(self, sandbox_id: str) -> Sandbox | None:
        """The record, whoever owns it."""
        rows = await self._select("id = ?", (sandbox_id,))
        return rows[0] if rows else None

    async def list(self, owner: str, states: Collection[State]) -> _Records:
        """The records of ``owner`` in any of ``states``, oldest first."""
        return await self._select(f"owner = ? AND {_any_of(states)}", (owner, *_names(states)))

    async def all_alive(self) -> _Records:
        """Every record that claims processes on the host: what a start-up reconciles."""
        return await self._select(_any_of(_ALIVE), _names(_ALIVE))

    async def prune(self, ended_before: float) -> int:
        """Forget the sandboxes that ended before then (wall clock). Returns how many."""

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                f"DELETE FROM sandboxes WHERE {_any_of(_FINAL)} AND ended_at < ?",  # noqa: S608 (marks only)
                (*_names(_FINAL), ended_before),
            ).rowcount

        return await self._database.run(work)

    async def _select(self, condition: str, values: tuple[str, ...]) -> _Records:
        query = f"SELECT body FROM sandboxes WHERE {condition} ORDER BY created_at, id"  # noqa: S608

        def work(connection: sqlite3.Connection) -> _Records:
            return [_DECODER.decode(body) for (body,) in connection.execute(query, values)]

        return await self._database.read(work)


def _row(sandbox: Sandbox) -> dict[str, object]:
    return {
        "id": sandbox.id,
        "owner": sandbox.owner,
        "state": sandbox.state.value,
        "created_at": sandbox.created_at,
        "ended_at": sandbox.ended_at,
        "deadline": sandbox.deadline,
        "body": _ENCODER.encode(sandbox),
    }


def _any_of(states: Collection[State]) -> str:
    return f"state IN ({', '.join('?' * len(states))})"


def _names(states: Collection[State]) -> tuple[str, ...]:
    return tuple(state.value for state in states)
