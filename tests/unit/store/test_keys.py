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

from nsbox.model.errors import HostProblem
from nsbox.store.database import Database
from nsbox.store.keys import AmbiguousKeyError, KeyNotFoundError, KeyRing, KeyTable


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
    assert (record.name, record.owner, record.prefix) == ("laptop", "admin", plaintext[:12])
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
    with pytest.raises(HostProblem, match="owner"):
        table.create("ok", owner=name)
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
    assert ring.find(preset) == record
    table.revoke(record.id)
    assert table.import_key(preset, "bootstrap").revoked_at is not None
    assert ring.find(preset) is None


@pytest.mark.parametrize("plaintext", ["x" * 15, "x" * 201, "x" * 16 + " ", "x" * 16 + "é", "x" * 16 + "\n"])
def test_import_refuses(table: KeyTable, plaintext: str) -> None:
    with pytest.raises(HostProblem, match="16 to 200"):
        table.import_key(plaintext, "bootstrap")


def test_ring_finds_only_the_whole_key(table: KeyTable, ring: KeyRing) -> None:
    record, plaintext = table.create("laptop", owner="ann")
    assert ring.find(plaintext) == record
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
        lambda c: c.execute("INSERT INTO sandboxes VALUES ('a', 'o', 'running', 1, NULL, 1, x'00', NULL)")
    )
    assert ring.find(plaintext) is not None
    assert ring._keys is before


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
    other.execute("ALTER TABLE keys RENAME TO hidden")
    other.execute("UPDATE key_changes SET count = count + 1")
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError):
            ring.find(plaintext)
    other.execute("ALTER TABLE hidden RENAME TO keys")
    other.close()
    assert ring.find(plaintext) is not None
