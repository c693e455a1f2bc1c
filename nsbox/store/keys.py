"""API keys: made, shown once, kept as hashes, revoked at once.

A key is 256 random bits, so one SHA-256 is enough: there is nothing to guess that a slow hash would slow
down, and argon2 would cost 100 ms of every request.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from types import TracebackType
from typing import TypeAlias

import msgspec

from nsbox.model.errors import HostProblem
from nsbox.store.database import FILE_NAME, Database, Synchronous, connect, translated

KEY_PREFIX = "nsbox_"
_KEY_BYTES = 32  # 43 characters of unpadded URL-safe base64
_SHOWN = 12  # characters of a key that are kept to recognise it by
_PRESET_LENGTH = range(16, 201)
_NAME_LENGTH = range(1, 65)
_COLUMNS = "id, name, owner, hash, prefix, created_at, revoked_at, last_used_at"
# The ring is read on trio's thread: waiting long there would stop every request.
_RING_BUSY_TIMEOUT_MS = 250


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key. Times are wall-clock seconds, for display."""

    id: str
    name: str
    owner: str
    hash: bytes
    prefix: str
    created_at: float
    revoked_at: float | None = None
    last_used_at: float | None = None

    def __repr__(self) -> str:
        return f"KeyRecord({self.id}, {self.name!r}, owner={self.owner!r})"


_Records: TypeAlias = list[KeyRecord]  # `list` inside KeyTable is its method


class KeyNotFoundError(LookupError):
    """No key has this id or prefix."""


class AmbiguousKeyError(LookupError):
    """Several keys have this prefix; the id is needed."""


def fingerprint(plaintext: str) -> bytes:
    """What is kept instead of the key. Whatever a client presents can be hashed, even lone surrogates."""
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).digest()


class KeyTable:
    """The keys, for the command line and for the start of the daemon: synchronous, and durable
    (a commit is on disk when a call returns)."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE_NAME)
        self._connection = connect(state_dir, Synchronous.FULL)

    def __enter__(self) -> KeyTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the record."""
        self._connection.close()

    def create(self, name: str, owner: str = "admin") -> tuple[KeyRecord, str]:
        """A new key. The plaintext exists only in the answer."""
        plaintext = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        return self._insert(name, owner, plaintext, plaintext[:_SHOWN]), plaintext

    def import_key(self, plaintext: str, name: str, owner: str = "admin") -> KeyRecord:
        """Make a preset key known. Idempotent: a key that is known already is returned as it is,
        so one that was revoked stays revoked (look at ``revoked_at``)."""
        if len(plaintext) not in _PRESET_LENGTH or not all("!" <= char <= "~" for char in plaintext):
            raise HostProblem(
                "a preset key must be 16 to 200 visible ASCII characters",
                remedy="make one with: openssl rand -hex 32",
            )
        known = self._select("hash = ?", fingerprint(plaintext))
        if known:
            return known[0]
        # A preset key may be short: show no more than a quarter of it.
        return self._insert(name, owner, plaintext, plaintext[: min(_SHOWN, len(plaintext) // 4)])

    def list(self) -> _Records:
        """Every key, revoked ones too, oldest first."""
        return self._select("1", None)

    def revoke(self, key: str) -> KeyRecord:
        """Revoke the key with this id or, where only one has it, this prefix. Idempotent.

        Success means it is revoked on disk, and every api process refuses it from its next request on.
        """
        found = self._select("id = ?", key) or self._select("prefix = ?", key)
        if not found:
            raise KeyNotFoundError(key)
        if len(found) > 1:
            raise AmbiguousKeyError(key)
        with translated(self._path):
            self._connection.execute(
                "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
                (time.time(), found[0].id),
            )
        return self._select("id = ?", found[0].id)[0]

    def forget(self, plaintext: str) -> None:
        """Delete a key without a trace: one that a command made for itself, and that nobody was shown.

        Idempotent. A key that somebody had is revoked instead: its record tells who did what.
        """
        with translated(self._path):
            self._connection.execute("DELETE FROM keys WHERE hash = ?", (fingerprint(plaintext),))

    def _insert(self, name: str, owner: str, plaintext: str, prefix: str) -> KeyRecord:
        for what, text in (("name", name), ("owner", owner)):
            if len(text) not in _NAME_LENGTH or not text.isprintable():
                raise HostProblem(f"the {what} of a key must be 1 to 64 printable characters")
        record = KeyRecord(
            id="key_" + secrets.token_hex(8),
            name=name,
            owner=owner,
            hash=fingerprint(plaintext),
            prefix=prefix,
            created_at=time.time(),
        )
        with translated(self._path):
            self._connection.execute(
                f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (constant)
                msgspec.structs.astuple(record),
            )
        return record

    def _select(self, condition: str, value: object) -> _Records:
        with translated(self._path):
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM keys WHERE {condition} ORDER BY created_at, id",  # noqa: S608
                () if value is None else (value,),
            ).fetchall()
        return [_record(row) for row in rows]


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
        self._keys: dict[bytes, KeyRecord] = {}
        self._used: dict[str, float] = {}

    def find(self, presented: str) -> KeyRecord | None:
        """The key, when it is known and not revoked.

        Raises ``HostProblem`` when the record cannot be read: a key that cannot be checked is not let in.
        """
        with translated(self._path):
            self._refresh()
        digest = fingerprint(presented)
        # What is looked up is a hash: its timing tells nothing about a key that is not known already.
        record = self._keys.get(digest)
        if record is None or not hmac.compare_digest(record.hash, digest):
            return None
        self._used[record.id] = time.time()
        return record

    def _refresh(self) -> None:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return
        (changes,) = self._connection.execute("SELECT count FROM key_changes").fetchone()
        if changes != self._key_changes:
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM keys WHERE revoked_at IS NULL")  # noqa: S608
            self._keys = {record.hash: record for record in map(_record, rows)}
        # Last, so that an error above makes the next look-up try again. The count was read before the
        # keys: a change between the two is seen again, never missed.
        self._data_version, self._key_changes = version, changes

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


def _record(row: tuple[object, ...]) -> KeyRecord:
    return msgspec.convert(dict(zip(KeyRecord.__struct_fields__, row, strict=True)), KeyRecord)
