"""A record of version 2, as a daemon left it that was killed: two tenants with keys, sandboxes and a
snapshot, and a third who had a key once. What it holds is in ``records/version2.sql``."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbox.model.account import Role, Scope
from nsbox.model.lifecycle import State
from nsbox.store import users
from nsbox.store.database import FILE_NAME, Database, Synchronous, connect
from nsbox.store.keyring import KeyRing
from nsbox.store.keys import KeyTable
from nsbox.store.sandboxes import SandboxStore
from nsbox.store.schema import MIGRATIONS
from nsbox.store.snapshots import SnapshotStore

_OLD = Path(__file__).parent / "records" / "version2.sql"
PRESET = "0123456789abcdef-preset"


def old_record(state_dir: str, more: str = "") -> None:
    os.makedirs(state_dir)
    connection = sqlite3.connect(os.path.join(state_dir, FILE_NAME))
    connection.executescript(_OLD.read_text() + more)
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


@pytest.fixture
def old(state_dir: str) -> str:
    old_record(state_dir)
    return state_dir


@pytest.fixture
def table(old: str) -> Iterator[KeyTable]:
    with KeyTable(old) as table:
        yield table


def test_owners_are_users(table: KeyTable) -> None:
    found = {user.name: user for user in users.everybody(table.connection)}
    assert {name: user.role for name, user in found.items()} == {
        "admin": Role.ADMIN,
        "bob": Role.USER,
        "eve": Role.USER,
    }
    for user in found.values():
        assert re.fullmatch(r"us_[0-9a-f]{32}", user.id)
        assert (user.plan, user.disabled_at) == ("", None)
        assert user.created_at > 1_795_000_000
    assert users.first_admin(table.connection) == found["admin"]


def test_keys_stay_what_they_were(table: KeyTable, old: str) -> None:
    by_name = {user.name: user.id for user in users.everybody(table.connection)}
    keys = {key.name: key for key in table.list()}
    assert {name: key.owner for name, key in keys.items()} == {
        "bootstrap": by_name["admin"],
        "hers": by_name["eve"],
        "old": by_name["bob"],
    }
    assert keys["bootstrap"].scopes == (Scope.SANDBOXES, Scope.FILES, Scope.IMAGES, Scope.ADMIN)
    assert keys["hers"].scopes == (Scope.SANDBOXES, Scope.FILES)
    assert keys["old"].revoked_at is not None
    assert keys["hers"].last_used_at is not None
    assert {key.expires_at for key in keys.values()} == {None}
    ring = KeyRing(old)
    found = ring.find(PRESET)
    ring.close()
    assert found is not None
    assert (found.user.name, found.administers) == ("admin", True)
    assert table.import_key(PRESET, "bootstrap") == keys["bootstrap"]


async def test_sandboxes_and_snapshots_go_along(old: str) -> None:
    database = Database(old)
    try:
        by_name = {user.name: user.id for user in await database.read(users.everybody)}
        sandboxes, snapshots = SandboxStore(database), SnapshotStore(database)
        hers = await sandboxes.list(by_name["eve"], set(State))
        his = await sandboxes.list(by_name["admin"], set(State))
        assert [one.owner for one in (*hers, *his)] == [by_name["eve"], *[by_name["admin"]] * 2]
        assert {one.state for one in his} == {State.RUNNING, State.STOPPED}
        assert {"A": 'é"x', "TOKEN": "hunter2"} in [one.env for one in his]
        assert [one.owner for one in await snapshots.all()] == [by_name["eve"]]
        assert await sandboxes.list("eve", set(State)) == []
        await sandboxes.update(hers[0])  # the row and its body agree
        assert await sandboxes.get(hers[0].id) == hers[0]
    finally:
        database.close()


def test_what_nobody_owns_stays_nobodys(state_dir: str) -> None:
    old_record(
        state_dir,
        "INSERT INTO sandboxes SELECT 'sb_built', char(0) || 'builder', state, created_at, ended_at,"
        " deadline, body FROM sandboxes LIMIT 1;",
    )
    with KeyTable(state_dir) as table:
        assert len(users.everybody(table.connection)) == 3
        (owner,) = table.connection.execute("SELECT owner FROM sandboxes WHERE id = 'sb_built'").fetchone()
        assert owner == "\0builder"


def test_without_an_admin_the_first_key_decides(state_dir: str) -> None:
    gone = "DELETE FROM keys WHERE owner = 'admin'; DELETE FROM sandboxes WHERE owner = 'admin';"
    old_record(state_dir, gone)
    with KeyTable(state_dir) as table:
        roles = {user.name: user.role for user in users.everybody(table.connection)}
    assert roles == {"bob": Role.USER, "eve": Role.ADMIN}


def test_without_keys_the_usual_name_decides(state_dir: str) -> None:
    old_record(state_dir, "DELETE FROM keys;")
    with KeyTable(state_dir) as table:
        roles = {user.name: user.role for user in users.everybody(table.connection)}
    assert roles == {"admin": Role.ADMIN, "eve": Role.USER}


def test_an_empty_record_gets_an_administrator_when_one_is_needed(state_dir: str) -> None:
    with KeyTable(state_dir) as table:
        assert users.everybody(table.connection) == []
        record, _ = table.create("first")
        assert [user.id for user in users.everybody(table.connection)] == [record.owner]


def test_two_at_once_migrate_once(old: str) -> None:
    failed: list[BaseException] = []

    def migrate() -> None:
        try:
            connect(old, Synchronous.FULL).close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    connection = connect(old, Synchronous.FULL)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert connection.execute("SELECT count(*) FROM users").fetchone() == (3,)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_key_of_nobody_cannot_be_written(table: KeyTable) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        table.connection.execute("UPDATE keys SET owner = 'us_nobody'")
    with pytest.raises(sqlite3.IntegrityError):
        table.connection.execute("DELETE FROM users")
