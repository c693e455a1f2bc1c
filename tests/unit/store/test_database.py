from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from nsbox.model.errors import HostProblem
from nsbox.store import schema
from nsbox.store.database import FILE_NAME, Database, Synchronous, connect


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_record_and_its_log_are_private(state_dir: str) -> None:
    old = os.umask(0)
    try:
        connection = connect(state_dir, Synchronous.FULL)
        connection.execute("UPDATE key_changes SET count = 7")
        names = os.listdir(state_dir)
        assert f"{FILE_NAME}-wal" in names
        assert {mode_of(os.path.join(state_dir, name)) for name in names} == {0o600}
        assert mode_of(state_dir) == 0o700
    finally:
        os.umask(old)
        connection.close()


def test_a_file_left_open_to_others_is_closed_to_them(state_dir: str) -> None:
    os.makedirs(state_dir)
    path = os.path.join(state_dir, FILE_NAME)
    Path(path).touch(0o644)
    connect(state_dir, Synchronous.FULL).close()
    assert mode_of(path) == 0o600


@pytest.mark.parametrize(("synchronous", "number"), [(Synchronous.NORMAL, 1), (Synchronous.FULL, 2)])
def test_pragmas(state_dir: str, synchronous: Synchronous, number: int) -> None:
    connection = connect(state_dir, synchronous)
    values = [
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "user_version")
    ]
    connection.close()
    assert values == ["wal", number, 1, 5000, len(schema.MIGRATIONS)]


def test_a_newer_record_is_refused_and_left_alone(state_dir: str) -> None:
    connection = connect(state_dir, Synchronous.FULL)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(HostProblem, match="version 99"):
        connect(state_dir, Synchronous.FULL)
    path = os.path.join(state_dir, FILE_NAME)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (99,)
    connection.close()


def test_a_failing_migration_leaves_nothing(state_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(state_dir, Synchronous.FULL).close()
    broken = (*schema.MIGRATIONS, "CREATE TABLE extra (a INTEGER);\nCREATE TABLE sandboxes (a INTEGER);\n")
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        connect(state_dir, Synchronous.FULL)
    monkeypatch.undo()
    connection = connect(state_dir, Synchronous.FULL)
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'extra'").fetchall() == []
    connection.close()


def test_a_later_migration_runs_once(state_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(state_dir, Synchronous.FULL).close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE extra (a INTEGER);\n"))
    connect(state_dir, Synchronous.FULL).close()
    connection = connect(state_dir, Synchronous.FULL)
    assert connection.execute("SELECT count(*) FROM extra").fetchone() == (0,)
    connection.close()


def test_not_a_database(state_dir: str) -> None:
    os.makedirs(state_dir)
    Path(state_dir, FILE_NAME).write_bytes(b"not a database at all" * 100)
    with pytest.raises(HostProblem, match="damaged") as caught:
        connect(state_dir, Synchronous.FULL)
    assert caught.value.remedy


def test_a_symlink_is_not_followed(state_dir: str, tmp_path: Path) -> None:
    os.makedirs(state_dir)
    Path(state_dir, FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostProblem):
        connect(state_dir, Synchronous.FULL)
    assert not (tmp_path / "elsewhere").exists()


def test_two_processes_make_the_record_at_once(state_dir: str) -> None:
    os.makedirs(state_dir)
    code = (
        "import sys; sys.stdin.read();"
        "from nsbox.store.keys import KeyTable;"
        f"table = KeyTable({state_dir!r}); table.create('k'); table.close()"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    connection = connect(state_dir, Synchronous.FULL)
    assert connection.execute("SELECT count(*) FROM keys").fetchone() == (3,)
    connection.close()


async def test_run_is_one_transaction(database: Database) -> None:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE key_changes SET count = 41")
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        await database.run(work)
    assert await database.read(lambda c: c.execute("SELECT count FROM key_changes").fetchone()) == (0,)


async def test_writers_queue(database: Database) -> None:
    def work(connection: sqlite3.Connection) -> None:
        (count,) = connection.execute("SELECT count FROM key_changes").fetchone()
        connection.execute("UPDATE key_changes SET count = ?", (count + 1,))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(database.run, work)
    assert await database.read(lambda c: c.execute("SELECT count FROM key_changes").fetchone()) == (50,)


async def test_a_locked_record_names_the_remedy(state_dir: str, database: Database) -> None:
    other = connect(state_dir, Synchronous.NORMAL)
    other.execute("BEGIN IMMEDIATE")
    await database.read(lambda c: c.execute("PRAGMA busy_timeout = 1").fetchall())
    with pytest.raises(HostProblem, match="locked"):
        await database.run(lambda c: None)
    other.execute("ROLLBACK")
    other.close()
    await database.run(lambda c: None)


async def test_a_full_disk_is_the_hosts_problem_and_is_survived(database: Database) -> None:
    await database.read(lambda c: c.execute("PRAGMA max_page_count = 1").fetchall())
    blob = bytes(1_000_000)

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO sandboxes VALUES ('s', 'o', 'running', 1, NULL, 1, ?)", (blob,))

    with pytest.raises(HostProblem, match="no space"):
        await database.run(work)
    assert await database.read(lambda c: c.execute("SELECT count(*) FROM sandboxes").fetchone()) == (0,)
