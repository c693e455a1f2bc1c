from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbox.model.account import Role, Scope, User
from nsbox.model.errors import HostProblem
from nsbox.store import keys as key_rows
from nsbox.store import users
from nsbox.store.database import Database
from nsbox.store.keyring import KeyRing
from nsbox.store.keys import AmbiguousKeyError, KeyNotFoundError, KeyTable


@pytest.fixture
def table(state_dir: str) -> Iterator[KeyTable]:
    with KeyTable(state_dir) as table:
        yield table


@pytest.fixture
def ring(state_dir: str) -> Iterator[KeyRing]:
    ring = KeyRing(state_dir)
    yield ring
    ring.close()


def test_create(table: KeyTable, state_dir: str) -> None:
    record, plaintext = table.create("laptop")
    assert re.fullmatch(r"nsbox_[A-Za-z0-9_-]{43}", plaintext)
    assert record.id.startswith("key_")
    admin = users.first_admin(table.connection)
    assert (record.name, record.owner, record.prefix) == ("laptop", admin.id, plaintext[:12])
    assert (admin.name, admin.role) == ("admin", Role.ADMIN)
    assert record.scopes == (Scope.SANDBOXES, Scope.FILES, Scope.IMAGES, Scope.ADMIN)
    assert record.hash == hashlib.sha256(plaintext.encode()).digest()
    assert table.list() == [record]
    assert plaintext not in repr(record)
    assert repr(record.hash) not in repr(record)
    everything = b"".join(path.read_bytes() for path in Path(state_dir).iterdir())
    assert plaintext[12:].encode() not in everything


def test_keys_differ(table: KeyTable) -> None:
    assert len({table.create("k")[1] for _ in range(20)}) == 20


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "a\x1b[2J"])
def test_bad_names(table: KeyTable, name: str) -> None:
    with pytest.raises(HostProblem, match="name"):
        table.create(name)
    with pytest.raises(HostProblem, match="user"):
        users.insert(table.connection, name)
    assert table.list() == []


def test_revoke_by_id_and_prefix(table: KeyTable) -> None:
    one, _ = table.create("one")
    two, _ = table.create("two")
    revoked = table.revoke(one.id)
    assert revoked.revoked_at is not None
    assert table.revoke(one.id) == revoked, "a second time changes nothing"
    assert table.revoke(two.prefix).id == two.id
    with pytest.raises(KeyNotFoundError):
        table.revoke("nsbox_")
    with pytest.raises(KeyNotFoundError):
        table.revoke("")


def test_forget_leaves_nothing_and_holds_at_once(table: KeyTable, ring: KeyRing) -> None:
    _, kept = table.create("kept")
    _, plaintext = table.create("for a moment")
    assert ring.find(plaintext) is not None
    table.forget(plaintext)
    table.forget(plaintext)
    assert ring.find(plaintext) is None
    assert ring.find(kept) is not None
    assert [record.name for record in table.list()] == ["kept"]


def test_ambiguous_prefix(table: KeyTable) -> None:
    table.import_key("same" + "a" * 12, "one")
    table.import_key("same" + "b" * 12, "two")
    with pytest.raises(AmbiguousKeyError):
        table.revoke("same")
    assert [key.revoked_at for key in table.list()] == [None, None]


def test_import_is_idempotent_and_never_revives(table: KeyTable, ring: KeyRing) -> None:
    preset = "0123456789abcdef"
    record = table.import_key(preset, "bootstrap")
    assert record.prefix == "0123", "a short key is not shown by three quarters"
    assert table.import_key(preset, "again") == record
    found = ring.find(preset)
    assert found is not None
    assert found.key == record
    table.revoke(record.id)
    assert table.import_key(preset, "bootstrap").revoked_at is not None
    assert ring.find(preset) is None


@pytest.mark.parametrize("plaintext", ["x" * 15, "x" * 201, "x" * 16 + " ", "x" * 16 + "é", "x" * 16 + "\n"])
def test_import_refuses(table: KeyTable, plaintext: str) -> None:
    with pytest.raises(HostProblem, match="16 to 200"):
        table.import_key(plaintext, "bootstrap")


def test_ring_finds_only_the_whole_key(table: KeyTable, ring: KeyRing) -> None:
    ann = users.insert(table.connection, "ann")
    record, plaintext = table.create("laptop", ann)
    found = ring.find(plaintext)
    assert found is not None
    assert (found.key, found.user) == (record, ann)
    for wrong in (
        "",
        plaintext[:-1],
        plaintext + " ",
        plaintext.swapcase(),
        record.prefix,
        record.id,
        "\ud800",
    ):
        assert ring.find(wrong) is None


def test_revocation_by_another_process_holds_at_once(table: KeyTable, ring: KeyRing, state_dir: str) -> None:
    record, plaintext = table.create("laptop")
    assert ring.find(plaintext) is not None
    code = f"from nsbox.store.keys import KeyTable; KeyTable({state_dir!r}).revoke({record.id!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert ring.find(plaintext) is None


async def test_sandbox_writes_do_not_reload_the_ring(
    table: KeyTable, ring: KeyRing, database: Database
) -> None:
    _, plaintext = table.create("laptop")
    ring.find(plaintext)
    before = ring._keys
    await database.run(lambda c: c.execute("DELETE FROM sandboxes"))
    table.import_key("0123456789abcdef", "x")
    assert ring.find(plaintext) is not None
    assert ring._keys is not before
    before = ring._keys
    await ring.record_use(database)
    await database.run(
        lambda c: c.execute("INSERT INTO sandboxes VALUES ('a', 'o', 'running', 1, NULL, 1, x'00')")
    )
    assert ring.find(plaintext) is not None
    assert ring._keys is before


# ---- what is over, and what never was


def at(monkeypatch: pytest.MonkeyPatch, moment: float) -> None:
    monkeypatch.setattr(key_rows.time, "time", lambda: moment)


def test_an_expired_key_is_refused_at_once(
    table: KeyTable, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, 1_000.0)
    record, plaintext = table.create("short", None, None, 1_060.0)
    assert ring.find(plaintext) is not None
    at(monkeypatch, 1_059.9)
    assert ring.caller(record.id) is not None
    at(monkeypatch, 1_060.0)
    assert ring.find(plaintext) is None
    assert ring.caller(record.id) is None
    assert not ring.is_key(plaintext)


def test_keys_of_a_disabled_user_are_refused_at_once(table: KeyTable, ring: KeyRing) -> None:
    ann = users.insert(table.connection, "ann")
    record, plaintext = table.create("k", ann)
    assert ring.find(plaintext) is not None
    users.replace(table.connection, User(id=ann.id, name="ann", disabled_at=1.0))
    assert ring.find(plaintext) is None
    assert ring.caller(record.id) is None
    assert ring.user(ann.id) is not None, "an administrator may still act for the user"
    users.replace(table.connection, ann)
    assert ring.find(plaintext) is not None


def test_a_role_that_is_taken_away_takes_the_scope_along(table: KeyTable, ring: KeyRing) -> None:
    boss = users.insert(table.connection, "boss", Role.ADMIN)
    _, plaintext = table.create("k", boss, [Scope.ADMIN, Scope.READ_ONLY])
    found = ring.find(plaintext)
    assert found is not None
    assert found.may_act_for_others
    users.replace(table.connection, User(id=boss.id, name="boss", role=Role.USER))
    found = ring.find(plaintext)
    assert found is not None
    assert found.grants == frozenset(), "and read-only alone is not what is left"


def test_a_key_without_its_scope_is_not_made(table: KeyTable) -> None:
    ann = users.insert(table.connection, "ann")
    with pytest.raises(HostProblem, match="administrators"):
        table.create("k", ann, [Scope.SANDBOXES, Scope.ADMIN])
    with pytest.raises(HostProblem, match="nothing"):
        table.create("k", ann, [])
    assert table.list() == []


def test_dead_keys_do_not_pile_up(table: KeyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rows, "_KEPT_DEAD", 3)
    kept, _ = table.create("kept")
    for count in range(6):
        table.revoke(table.create(f"k{count}")[0].id)
    assert [one.name for one in table.list()] == ["kept", "k2", "k3", "k4", "k5"]
    assert table.list()[0] == kept


def test_a_visitor_who_shows_a_key_does_not_use_it(table: KeyTable, ring: KeyRing) -> None:
    _, plaintext = table.create("laptop")
    assert ring.is_key(plaintext)
    assert ring._used == {}


def test_what_can_be_guessed(table: KeyTable) -> None:
    assert key_rows.can_be_guessed("0123456789abcdef")
    assert key_rows.can_be_guessed("x" * 31)
    assert not key_rows.can_be_guessed("x" * 32)
    assert not key_rows.can_be_guessed(table.create("k")[1])


async def test_record_use(table: KeyTable, ring: KeyRing, database: Database) -> None:
    record, plaintext = table.create("laptop")
    await ring.record_use(database)
    assert table.list()[0].last_used_at is None
    ring.find(plaintext)
    ring.find("something else")
    await ring.record_use(database)
    used = table.list()[0].last_used_at
    assert used is not None
    assert used >= record.created_at


def test_ring_that_cannot_read_lets_nobody_in_and_tries_again(
    table: KeyTable, ring: KeyRing, state_dir: str
) -> None:
    _, plaintext = table.create("laptop")
    assert ring.find(plaintext) is not None
    other = sqlite3.connect(os.path.join(state_dir, "nsbox.db"), isolation_level=None)
    other.execute("PRAGMA legacy_alter_table = ON")  # triggers stay as they are
    other.execute("ALTER TABLE keys RENAME TO hidden")
    other.execute("UPDATE key_changes SET count = count + 1")
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError):
            ring.find(plaintext)
    other.execute("ALTER TABLE hidden RENAME TO keys")
    other.close()
    assert ring.find(plaintext) is not None
