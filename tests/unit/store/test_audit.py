"""The audit log is only appended to, whoever holds the file."""

from __future__ import annotations

import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from nsbox.model.audit import Event, Outcome, Wish
from nsbox.store.audit import AuditTable
from nsbox.store.audit_tail import FILE_NAME, AuditTail
from nsbox.store.database import Database

EVENT = Event(
    at=1.0,
    action="exec_command",
    client="192.0.2.7",
    outcome=Outcome.DONE,
    status=200,
    user="us_ann",
    key="key_1",
    sandbox="sb_1",
)


def event(**more: object) -> Event:
    return msgspec.structs.replace(EVENT, **more)


async def test_what_a_crash_left_is_appended_once(database: Database) -> None:
    table = AuditTable(database)
    await table.append([event(at=float(n)) for n in range(5)])
    await table.restore([event(at=float(n)) for n in range(3, 8)])
    assert [one.at for one in await table.find(Wish(limit=20))] == [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_the_file_takes_what_a_full_disk_cut_short(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with closing(AuditTail(str(tmp_path))) as tail:
        tail.add(event(at=0.1))
        with open(path, "ab") as file:
            file.write(b'\n{"at":1.0,"act')
        tail.add(event(at=1e9 / 7))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with closing(AuditTail(str(tmp_path))) as tail:
        assert tail.left == [event(at=0.1), event(at=1e9 / 7)]
        tail.keep([event(at=5.0)])
        tail.add(event(at=6.0))
    with closing(AuditTail(str(tmp_path))) as tail:
        assert tail.left == [event(at=5.0), event(at=6.0)]
        tail.keep([])
    assert path.stat().st_size == 0
    assert [one.name for one in tmp_path.iterdir()] == [FILE_NAME]


async def test_what_goes_in_comes_out_the_newest_first(database: Database) -> None:
    table = AuditTable(database)
    await table.append([event(at=float(n), target="t" if n else None, subject="us_bob") for n in range(5)])
    found = await table.find(Wish(limit=2))
    assert [one.at for one in found] == [4.0, 3.0]
    assert found[0] == event(at=4.0, target="t", subject="us_bob", id=found[0].id)
    rest = await table.find(Wish(limit=10, before=found[-1].id))
    assert [one.at for one in rest] == [2.0, 1.0, 0.0]


async def test_who_sees_what(database: Database) -> None:
    table = AuditTable(database)
    await table.append(
        [
            event(sandbox="sb_a"),
            event(sandbox="sb_b", user="us_bob", action="kill_sandbox"),
            event(sandbox="sb_c", user="us_root", subject="us_ann"),
            event(sandbox=None, user=None, key=None, action="authenticate"),
        ]
    )

    async def seen(**wish: str) -> list[str | None]:
        return [one.sandbox for one in await table.find(Wish(limit=10, **wish))]  # type: ignore[arg-type]

    assert await seen() == [None, "sb_c", "sb_b", "sb_a"]
    assert await seen(owner="us_ann") == ["sb_c", "sb_a"]  # also what was done for her
    assert await seen(owner="us_bob") == ["sb_b"]
    assert await seen(user="us_root") == ["sb_c"]
    assert await seen(owner="us_ann", user="us_bob") == []
    assert await seen(sandbox="sb_b", action="kill_sandbox") == ["sb_b"]
    assert await seen(sandbox="sb_b", action="exec_command") == []


FORBIDDEN = [
    "UPDATE audit SET user = 'us_other'",
    "DELETE FROM audit",
    "UPDATE audit_kept SET since = 9e12",
    "DELETE FROM audit_kept",
    "REPLACE INTO audit SELECT * FROM audit",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_nothing_is_changed_or_removed(database: Database, statement: str) -> None:
    table = AuditTable(database)
    await table.append([event(at=time.time())])
    with pytest.raises(sqlite3.IntegrityError, match="audit log"):
        await database.run(lambda connection: connection.execute(statement))
    assert len(await table.find(Wish(limit=10))) == 1


async def test_what_is_old_or_too_much_goes_and_nothing_else(database: Database) -> None:
    table, now = AuditTable(database), time.time()
    await table.append([event(at=now - age) for age in (9e6, 8e6, 7200.0, 5000.0, 10.0, 0.0)])
    assert await table.forget(now - 86_400, most=100) == 2
    assert await table.forget(now - 86_400, most=1) == 2  # of what is more than one, the last hour stays
    assert await table.forget(now + 1e9, most=1) == 0
    ages = [round(now - one.at) for one in await table.find(Wish(limit=10))]
    assert ages == [0, 10]
    # The clock was set back: nothing goes, and nothing breaks.
    assert await table.forget(0.0, most=100) == 0
