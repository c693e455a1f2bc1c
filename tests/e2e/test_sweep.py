"""The sweep, on a real daemon: what is broken from outside is told, counted and mended."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator

import pytest

from nsbox.model.lifecycle import State
from tests.conftest import new_key
from tests.e2e.client import Api
from tests.e2e.daemon import Daemon, settle, wait_until
from tests.e2e.test_metrics import scrape
from tests.e2e.test_pause import pause

#: An interval of 1 s, two looks, and a busy host.
PATIENCE = 20


@pytest.fixture(scope="module")
def swept() -> Iterator[Daemon]:
    one = Daemon(key=new_key(), settings={"NSBOX_SWEEP_S": "1"})
    try:
        yield one.start()
    finally:
        one.close()


def count(api: Api, rule: str) -> float:
    return scrape(api).samples.get(("nsbox_sweep_findings_total", (("rule", rule),)), 0)


def told(daemon: Daemon, rule: str, name: str) -> None:
    with daemon.api() as api:
        wait_until(lambda: count(api, rule) >= 1, PATIENCE, f"{rule} is counted")
    assert f"the sweep found: {rule}: " in daemon.log()
    assert name in daemon.log()


def boxes(daemon: Daemon) -> str:
    """The folder of the boxes' cgroups."""
    with open(f"/proc/{daemon.keeper_pid}/cgroup", encoding="ascii") as file:
        own = next(line.strip()[3:] for line in file if line.startswith("0::"))
    for mount in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if os.path.isdir(os.path.dirname(mount + own)) and "nsbox-" in own:
            return os.path.dirname(mount + own)
    pytest.skip("no cgroup is delegated here")


def test_strays_on_disk(swept: Daemon) -> None:
    state = swept.state_dir
    with swept.api() as api:
        made = api.sandbox()
        assert made.out("echo x") == "x\n"
        os.makedirs(f"{state}/sandboxes/sb_stray/upper/deep")
        os.makedirs(f"{state}/logs/sb_stray")
        with open(f"{state}/run/sb_stray.sock", "w", encoding="ascii"):
            pass
        mine = [
            "sandboxes/sb_stray/upper/deep",
            "sandboxes/sb_stray/upper",
            "sandboxes/sb_stray",
            "logs/sb_stray",
        ]
        for folder in (f"{state}/{one}" for one in mine):
            os.chown(folder, swept.who.uid, swept.who.gid)
        for rule in ("stray_folder", "stray_socket", "unknown_logs"):
            told(swept, rule, "sb_stray")
        for path in ("sandboxes/sb_stray", "logs/sb_stray", "run/sb_stray.sock"):
            wait_until(lambda path=path: not os.path.exists(f"{state}/{path}"), PATIENCE, f"{path} is gone")  # type: ignore[misc]
        assert made.out("echo y") == "y\n"
        assert {rule: count(api, rule) for rule in ("unknown_box", "missing_box", "missing_row")} == {
            "unknown_box": 0, "missing_box": 0, "missing_row": 0,
        }  # fmt: skip


def test_a_stray_cgroup(swept: Daemon) -> None:
    stray = f"{boxes(swept)}/box-99999"
    os.mkdir(stray)
    os.chown(stray, swept.who.uid, swept.who.gid)
    told(swept, "stray_cgroup", "box-99999")
    wait_until(lambda: not os.path.exists(stray), PATIENCE, "it is gone")


def test_rows(swept: Daemon) -> None:
    with swept.api() as api:
        made, stray = api.sandbox(), f"sb_{'s' * 32}"
        with contextlib.closing(sqlite3.connect(f"{swept.state_dir}/nsbox.db", timeout=30)) as database:
            database.execute(
                "INSERT INTO sandboxes SELECT ?, owner, state, created_at, ended_at, deadline,"
                " CAST(replace(CAST(body AS TEXT), id, ?) AS BLOB), request_key"
                " FROM sandboxes WHERE id = ?",
                (stray, stray, made.id),
            )
            database.execute("DELETE FROM sandboxes WHERE id = ?", (made.id,))
            database.commit()
        told(swept, "unknown_row", stray)
        told(swept, "missing_row", made.id)
        wait_until(lambda: api.get(stray)["status"] == State.LOST, PATIENCE, "it is told to be lost")
        assert api.get(made.id)["status"] == "running"
        swept.stop()
    with swept.start().api() as api:
        assert api.get(made.id)["endReason"] == "shutdown"  # the row is there again


def test_standstills(swept: Daemon) -> None:
    with swept.api() as api:
        running, paused = api.sandbox(), api.sandbox()
        pause(paused)
        above = boxes(swept)
        found = {name for name in os.listdir(above) if name.startswith("box-")}
        frozen = {name for name in found if _frozen(f"{above}/{name}")}
        (other,) = [name for name in found - frozen if _holds(f"{above}/{name}", running.id, swept)]
        (asleep,) = frozen
        _write(f"{above}/{other}/cgroup.freeze", "1")
        _write(f"{above}/{asleep}/cgroup.freeze", "0")
        told(swept, "frozen_though_running", running.id)
        told(swept, "running_though_paused", paused.id)
        assert running.out("echo x") == "x\n"
        wait_until(lambda: _frozen(f"{above}/{asleep}"), PATIENCE, "it stands still")


def _frozen(path: str) -> bool:
    with open(f"{path}/cgroup.events", encoding="ascii") as file:
        return "frozen 1" in file.read()


def _holds(path: str, sandbox_id: str, daemon: Daemon) -> bool:
    """Whether it is the sandbox's: its record says where it is."""
    with contextlib.closing(sqlite3.connect(f"{daemon.state_dir}/nsbox.db", timeout=30)) as database:
        (body,) = database.execute("SELECT body FROM sandboxes WHERE id = ?", (sandbox_id,)).fetchone()
    text = body.decode() if isinstance(body, bytes) else str(body)
    return f'{os.path.basename(path)}"' in text


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def test_sandboxes_that_come_and_go_are_left_alone(swept: Daemon) -> None:
    """Sweeps each second beside creates, commands, pauses and ends: nothing is found."""
    with swept.api() as api:
        before, said = _findings(api), swept.log().count("the sweep found")
        for round_ in range(40):
            made = api.sandbox()
            assert made.out("echo x") == "x\n"
            if round_ % 4 == 0:
                made.request("POST", "/pause")
            assert api.kill(made.id).status == 200
        settle(swept)
        assert _findings(api) == before
    assert swept.log().count("the sweep found") == said


def _findings(api: Api) -> float:
    found = scrape(api).samples.items()
    return sum(value for (name, _), value in found if name == "nsbox_sweep_findings_total")
