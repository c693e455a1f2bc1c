"""Connections to the record: ``nsbox.db`` in the state folder.

Durability is a property of the connection, not switched by PRAGMA between writes: the daemon's writer
uses ``synchronous=NORMAL`` (sandbox rows are on the create path, and after a power cut no sandbox is left
that a lost row could misreport), whoever writes keys opens a connection with ``FULL`` (a revoked key must
stay revoked). A switch would need a lock around every write and would be forgotten once.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar

import trio

from nsbox.model.errors import HostProblem
from nsbox.store.schema import migrate

FILE_NAME = "nsbox.db"
BUSY_TIMEOUT_MS = 5_000

T = TypeVar("T")


class Synchronous(StrEnum):
    """What a commit waits for, with a write-ahead log (https://www.sqlite.org/pragma.html#pragma_synchronous)."""

    NORMAL = "NORMAL"  # a power cut may lose the last commits; it never corrupts
    FULL = "FULL"  # a commit is on disk


def connect(
    state_dir: str, synchronous: Synchronous, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS
) -> sqlite3.Connection:
    """An autocommitting connection to the record, made and migrated where needed.

    Raises ``HostProblem`` when the record cannot be opened, with the way out.
    """
    path = os.path.join(state_dir, FILE_NAME)
    with translated(path):
        _make_private(path)
        # Used from worker threads, one at a time: the module is built serialised (threadsafety 3).
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms:d}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous.value}")
            connection.execute("PRAGMA foreign_keys = ON")
            migrate(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _make_private(path: str) -> None:
    """The record holds hashes of keys and the environments of sandboxes: 0600 from its first moment.

    SQLite gives the ``-wal`` and ``-shm`` files the mode of the file they belong to. One that exists is not
    opened here: closing it again would drop all POSIX locks this process holds on it (fcntl(2)), and another
    process would take the log for abandoned and delete it, with what is in it.
    """
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        if os.path.islink(path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
        os.chmod(path, 0o600)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what the host does to the record into a ``HostProblem``. Errors of our own SQL pass."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        problem = _problem(path, error)
        if problem is None:
            raise
        raise problem from error
    except OSError as error:
        raise HostProblem(
            f"the record {path} cannot be opened: {error.strerror}",
            remedy="run as the user that runs `nsbox serve`, or give another --state-dir",
        ) from error


def _problem(path: str, error: sqlite3.DatabaseError) -> HostProblem | None:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the high bits are the extended code
    match primary:
        case sqlite3.SQLITE_FULL:
            return HostProblem(f"no space is left for the record {path}", remedy="free space on that disk")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return HostProblem(
                f"another process keeps the record {path} locked", remedy="end the program that has it open"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return HostProblem(
                f"the record {path} is damaged: {error}",
                remedy="move it away; nsbox makes a new one, and keys must be made anew",
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_PERM:
            return HostProblem(f"the record {path} cannot be read or written: {error}")
        case _:
            return None


class Database:
    """A writer of the daemon's: a connection, and a queue of one before it. There is one for each kind of
    durability.

    Calls run in a worker thread. A cancelled caller still waits for its statement to end (trio does not
    abandon the thread), so a write is never half-known.
    """

    def __init__(self, state_dir: str, synchronous: Synchronous = Synchronous.NORMAL) -> None:
        self._path = os.path.join(state_dir, FILE_NAME)
        self._connection = connect(state_dir, synchronous)
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work(connection)`` in the writer's thread; several statements of it are one transaction."""
        return await trio.to_thread.run_sync(self._transaction, work, limiter=self._limiter)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite itself rolls back on some errors (disk full, I/O): a second ROLLBACK would fail.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        return result

    async def probe(self) -> None:
        """Write what changes nothing, of the one page that every database has. Raises as ``run``."""

        def work(connection: sqlite3.Connection) -> None:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {int(version):d}")

        await self.run(work)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """``query(connection)`` in the writer's thread, without a transaction: for a single SELECT."""
        return await trio.to_thread.run_sync(self._plain, query, limiter=self._limiter)

    def _plain(self, query: Callable[[sqlite3.Connection], T]) -> T:
        with translated(self._path):
            return query(self._connection)

    def close(self) -> None:
        """Fold the log into the file and let go. Safe to call twice."""
        self._connection.close()
