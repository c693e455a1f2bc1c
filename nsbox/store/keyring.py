"""The keys in force, in memory: asked on each request."""

from __future__ import annotations

import hmac
import os
import time

from nsbox.model.account import Caller, KeyRecord, User, grants
from nsbox.store import keys, users
from nsbox.store.database import FILE_NAME, Database, Synchronous, connect, translated

# The ring is read on trio's thread: waiting long there would stop every request.
_RING_BUSY_TIMEOUT_MS = 250


class KeyRing:
    """The keys in force, in memory, for the API: one look-up a request.

    Another process may revoke a key at any time. ``PRAGMA data_version`` of this connection, which never
    writes, changes with every commit of any other; it is read from shared memory in microseconds, so it
    is asked on every look-up. ``key_changes`` then tells whether keys were concerned.
    """

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE_NAME)
        self._connection = connect(state_dir, Synchronous.NORMAL, busy_timeout_ms=_RING_BUSY_TIMEOUT_MS)
        self._data_version = -1
        self._key_changes = -1
        self._keys: dict[bytes, Caller] = {}
        self._by_id: dict[str, Caller] = {}
        self._users: dict[str, User] = {}
        self._used: dict[str, float] = {}

    def find(self, presented: str) -> Caller | None:
        """Whose key it is, when it is in force: known, not revoked, not expired, its user not disabled.

        Raises ``HostProblem`` when the record cannot be read: a key that cannot be checked is not let in.
        """
        found = self._look_up(presented)
        if found is not None:
            self._used[found.key.id] = time.time()
        return found

    def is_key(self, presented: str) -> bool:
        """The same, without counting as a use: what a stranger sends to somebody else is none."""
        return self._look_up(presented) is not None

    def caller(self, key_id: str) -> Caller | None:
        """Who uses the key with this id, if it is in force. For what goes on for long."""
        self._read()
        found = self._by_id.get(key_id)
        return found if found is not None and found.key.in_force(time.time()) else None

    def user(self, user_id: str) -> User | None:
        """The user with this id, disabled or not."""
        self._read()
        return self._users.get(user_id)

    def plan_of(self, user_id: str) -> str:
        """The name of the plan that somebody chose for a user; empty where nobody did."""
        user = self.user(user_id)
        return "" if user is None else user.plan

    def _look_up(self, presented: str) -> Caller | None:
        self._read()
        digest = keys.fingerprint(presented)
        # What is looked up is a hash: its timing tells nothing about a key that is not known already.
        found = self._keys.get(digest)
        if found is None or not hmac.compare_digest(found.key.hash, digest):
            return None
        return found if found.key.in_force(time.time()) else None

    def _read(self) -> None:
        with translated(self._path):
            self._refresh()

    def _refresh(self) -> None:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return
        (changes,) = self._connection.execute("SELECT count FROM key_changes").fetchone()
        if changes != self._key_changes:
            records = keys.unrevoked(self._connection)
            self._users = {user.id: user for user in users.everybody(self._connection)}
            self._keys = {record.hash: self._caller(record) for record in records if self._able(record.owner)}
            self._by_id = {caller.key.id: caller for caller in self._keys.values()}
        # Last, so that an error above makes the next look-up try again. The count was read before the
        # keys: a change between the two is seen again, never missed.
        self._data_version, self._key_changes = version, changes

    def _able(self, owner: str) -> bool:
        user = self._users.get(owner)
        return user is not None and user.disabled_at is None

    def _caller(self, record: KeyRecord) -> Caller:
        user = self._users[record.owner]
        return Caller(key=record, user=user, grants=grants(record.scopes, user.role))

    async def record_use(self, database: Database) -> None:
        """Write down when each key was last used. For a timer: it is display only, and not worth a
        write for each request."""
        used, self._used = self._used, {}
        if used:
            rows = [(when, key_id) for key_id, when in used.items()]
            await database.run(lambda c: c.executemany("UPDATE keys SET last_used_at = ? WHERE id = ?", rows))

    def close(self) -> None:
        """Let go of the record."""
        self._connection.close()
