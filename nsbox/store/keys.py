"""API keys: made, shown once, kept as hashes, revoked at once.

A key is 256 random bits, so one SHA-256 is enough: there is nothing to guess that a slow hash would slow
down, and argon2 would cost 100 ms of every request.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeAlias

import msgspec

from nsbox.model.account import (
    DEFAULT_SCOPES,
    Grant,
    KeyRecord,
    Role,
    Scope,
    User,
    good_name,
    grants,
)
from nsbox.model.errors import HostProblem
from nsbox.store import users
from nsbox.store.database import FILE_NAME, Synchronous, connect, translated

KEY_PREFIX = "nsbox_"
_KEY_BYTES = 32  # 43 characters of unpadded URL-safe base64
_SHOWN = 12  # characters of a key that are kept to recognise it by
_PRESET_LENGTH = range(16, 201)
#: From this length on a key counts as random: 32 hex digits are 128 bits.
_RANDOM_LENGTH = 32
_COLUMNS = ", ".join(KeyRecord.__struct_fields__)
#: How many keys of one user are kept that are revoked or expired: the oldest go when a new one is made.
_KEPT_DEAD = 100


_Records: TypeAlias = list[KeyRecord]  # `list` inside KeyTable is its method


class KeyNotFoundError(LookupError):
    """No key has this id or prefix."""


class AmbiguousKeyError(LookupError):
    """Several keys have this prefix; the id is needed."""


def fingerprint(plaintext: str) -> bytes:
    """What is kept instead of the key. Whatever a client presents can be hashed, even lone surrogates."""
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).digest()


def can_be_guessed(plaintext: str) -> bool:
    """Whether it is so short that it may be a word: preset keys may. Ours are random, and longer."""
    return len(plaintext) < _RANDOM_LENGTH


# ---- rows: each function takes the connection, so that several are one transaction of the caller


def insert(
    connection: sqlite3.Connection,
    name: str,
    user: User,
    scopes: Iterable[Scope] | None = None,
    expires_at: float | None = None,
) -> tuple[KeyRecord, str]:
    """A new key. The plaintext exists only in the answer."""
    plaintext = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    record = _new(name, user, plaintext, plaintext[:_SHOWN], scopes, expires_at)
    _drop_dead(connection, user.id)
    _write(connection, record)
    return record, plaintext


def of_user(connection: sqlite3.Connection, owner: str | None) -> _Records:
    """The keys of one user, or all, dead ones too, oldest first."""
    return _select(connection, "1" if owner is None else "owner = ?", owner)


def unrevoked(connection: sqlite3.Connection) -> _Records:
    """Of all users."""
    return _select(connection, "revoked_at IS NULL", None)


def get(connection: sqlite3.Connection, key_id: str) -> KeyRecord | None:
    """The key with this id."""
    return next(iter(_select(connection, "id = ?", key_id)), None)


def revoke(connection: sqlite3.Connection, key_id: str) -> None:
    """Idempotent: the time of the first stays."""
    connection.execute(
        "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (time.time(), key_id)
    )


def remove_all(connection: sqlite3.Connection, owner: str) -> None:
    """Forget all keys of a user who goes."""
    connection.execute("DELETE FROM keys WHERE owner = ?", (owner,))


def administrators(connection: sqlite3.Connection) -> int:
    """How many keys can make others: in force, of an administrator who is not disabled, with that scope."""
    able = {
        user.id
        for user in users.everybody(connection)
        if user.role is Role.ADMIN and user.disabled_at is None
    }
    now = time.time()
    return sum(
        record.owner in able and record.in_force(now) and Grant(Scope.ADMIN, True) in grants(record.scopes)
        for record in of_user(connection, None)
    )


def _new(
    name: str,
    user: User,
    plaintext: str,
    prefix: str,
    scopes: Iterable[Scope] | None = None,
    expires_at: float | None = None,
) -> KeyRecord:
    if not good_name(name):
        raise HostProblem("the name of a key must be 1 to 64 printable characters")
    chosen = DEFAULT_SCOPES[user.role] if scopes is None else tuple(scopes)
    if Scope.ADMIN in chosen and user.role is not Role.ADMIN:
        raise HostProblem(
            f"keys with the scope admin are for administrators, and {user.name} is none",
            remedy=f"nsbox users set {user.id} --role admin",
        )
    if not chosen:
        raise HostProblem("a key without a scope would open nothing")
    return KeyRecord(
        id="key_" + secrets.token_hex(8),
        name=name,
        owner=user.id,
        hash=fingerprint(plaintext),
        prefix=prefix,
        created_at=time.time(),
        scopes=tuple(scope for scope in Scope if scope in chosen),
        expires_at=expires_at,
    )


def _write(connection: sqlite3.Connection, record: KeyRecord) -> None:
    row = msgspec.structs.asdict(record) | {"scopes": " ".join(record.scopes)}
    marks = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO keys ({_COLUMNS}) VALUES ({marks})", row)  # noqa: S608 (constant)


def _drop_dead(connection: sqlite3.Connection, owner: str) -> None:
    """Whoever makes and revokes keys all day does not fill the record."""
    connection.execute(
        "DELETE FROM keys WHERE id IN (SELECT id FROM keys WHERE owner = ?"
        " AND (revoked_at IS NOT NULL OR expires_at <= ?) ORDER BY created_at DESC LIMIT -1 OFFSET ?)",
        (owner, time.time(), _KEPT_DEAD),
    )


def _select(connection: sqlite3.Connection, condition: str, value: object) -> _Records:
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM keys WHERE {condition} ORDER BY created_at, id",  # noqa: S608 (constant)
        () if value is None else (value,),
    )
    return [_record(row) for row in rows]


class KeyTable:
    """The keys, for the command line and for the start of the daemon: synchronous, and durable
    (a commit is on disk when a call returns)."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE_NAME)
        self.connection = connect(state_dir, Synchronous.FULL)

    def __enter__(self) -> KeyTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the record."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that the block does, or nothing."""
        with translated(self._path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    self.connection.execute("ROLLBACK")
                raise

    def create(
        self,
        name: str,
        user: User | None = None,
        scopes: Iterable[Scope] | None = None,
        expires_at: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key, of the administrator unless said otherwise. The plaintext exists only in the answer."""
        with translated(self._path):
            user = user or users.first_admin(self.connection)
            return insert(self.connection, name, user, scopes, expires_at)

    def import_key(self, plaintext: str, name: str) -> KeyRecord:
        """Make a preset key of the administrator's known. Idempotent: a key that is known already is returned
        as it is, so one that was revoked stays revoked (look at ``revoked_at``)."""
        if len(plaintext) not in _PRESET_LENGTH or not all("!" <= char <= "~" for char in plaintext):
            raise HostProblem(
                "a preset key must be 16 to 200 visible ASCII characters",
                remedy="make one with: openssl rand -hex 32",
            )
        with translated(self._path):
            known = _select(self.connection, "hash = ?", fingerprint(plaintext))
            if known:
                return known[0]
            # A preset key may be short: show no more than a quarter of it.
            prefix = plaintext[: min(_SHOWN, len(plaintext) // 4)]
            record = _new(name, users.first_admin(self.connection), plaintext, prefix)
            _write(self.connection, record)
        return record

    def list(self, owner: str | None = None) -> _Records:
        """Every key, or those of one user, dead ones too, oldest first."""
        with translated(self._path):
            return of_user(self.connection, owner)

    def revoke(self, key: str) -> KeyRecord:
        """Revoke the key with this id or, where only one has it, this prefix. Idempotent.

        Success means it is revoked on disk, and every api process refuses it from its next request on.
        """
        with translated(self._path):
            found = _select(self.connection, "id = ?", key) or _select(self.connection, "prefix = ?", key)
            if not found:
                raise KeyNotFoundError(key)
            if len(found) > 1:
                raise AmbiguousKeyError(key)
            revoke(self.connection, found[0].id)
            return _select(self.connection, "id = ?", found[0].id)[0]

    def forget(self, plaintext: str) -> None:
        """Delete a key without a trace: one that a command made for itself, and that nobody was shown.

        Idempotent. A key that somebody had is revoked instead: its record tells who did what.
        """
        with translated(self._path):
            self.connection.execute("DELETE FROM keys WHERE hash = ?", (fingerprint(plaintext),))


def _record(row: tuple[object, ...]) -> KeyRecord:
    members = dict(zip(KeyRecord.__struct_fields__, row, strict=True))
    members["scopes"] = str(members["scopes"]).split()
    return msgspec.convert(members, KeyRecord)
