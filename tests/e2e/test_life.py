# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""The daemon as its operator meets it: stopped, killed in parts, replaced, restarted; keys and secrets."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.acceptance.plugin import Say
from tests.conftest import DaemonFactory
from tests.e2e.account import CHECKOUT
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import SLOWNESS, Daemon, descendants, processes, settle, wait_until


def sandbox_processes(daemon: Daemon) -> list[int]:
    """Every process of keeper and of what it made: init, commands, agents, blanks."""
    return [one.pid for one in descendants(daemon.pid) if one.pid != daemon.api_pid and one.state != "Z"]


def gone(pids: list[int]) -> bool:
    table = {one.pid: one.state for one in processes()}
    return all(table.get(pid, "Z") == "Z" for pid in pids)


# ---- stop


@pytest.mark.parametrize(("busy", "bound"), [(False, 3.0), (True, 8.0)], ids=["idle", "busy"])
def test_sigterm_ends_everything_and_the_record_says_so(
    daemon_factory: DaemonFactory, busy: bool, bound: float
) -> None:
    """A request that is being answered gets the grace time (5 s) to come to its end."""
    daemon = daemon_factory()
    waiting = None
    with daemon.api() as api:
        made = [api.sandbox() for _ in range(5)]
        for one in made:
            one.request("POST", "/processes", {"command": "trap '' TERM HUP INT; sleep 9001"})
        if busy:
            waiting = threading.Thread(target=_exec_for_long, args=[daemon, made[0].id])
            waiting.start()
            wait_until(lambda: "sleep 60" in made[0].out("ps -eo args"), what="a command runs")
        family = [one.pid for one in descendants(daemon.pid)]
        begun = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
        took = time.monotonic() - begun
        wait_until(lambda: gone(family), 2, "every process is gone")
    if waiting is not None:
        waiting.join(10)
        assert not waiting.is_alive()
    print(f"SIGTERM (busy: {busy}): 5 sandboxes and the daemon ended in {took * 1000:.0f} ms")
    assert took < bound * SLOWNESS
    assert os.listdir(f"{daemon.state_dir}/run") == []
    daemon.stop()
    with daemon.start().api() as api:
        for one in made:
            record = api.get(one.id)
            assert (record["status"], record["endReason"]) == ("stopped", "shutdown")
        assert api.sandbox().out("echo works") == "works\n"
        wait_until(lambda: os.listdir(f"{daemon.state_dir}/trash") == [], what="the trash is emptied")


def _exec_for_long(daemon: Daemon, sandbox_id: str) -> None:
    with contextlib.suppress(OSError), daemon.api() as api:
        api.request("POST", f"/sandboxes/{sandbox_id}/exec", {"command": "sleep 60"})


def test_sigterm_while_sandboxes_are_being_made(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    statuses: list[int] = []

    def make() -> None:
        with contextlib.suppress(OSError), daemon.api() as api:
            statuses.append(api.request("POST", "/sandboxes", {}).status)

    threads = [threading.Thread(target=make) for _ in range(40)]
    for thread in threads:
        thread.start()
    wait_until(lambda: statuses, what="the first is made")
    family = [one.pid for one in descendants(daemon.pid)]
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(20) == 0
    for thread in threads:
        thread.join(20)
    wait_until(lambda: gone(family), 2, "every process is gone")
    assert set(statuses) <= {201, 503}, statuses
    daemon.stop()
    with daemon.start().api() as api:
        assert api.request("GET", "/sandboxes").json == []
        assert {one["status"] for one in api.request("GET", "/sandboxes?status=all").json} <= {
            "stopped",
            "failed",
            "lost",
        }
        assert os.listdir(f"{daemon.state_dir}/sandboxes") == []


# ---- keeper and the supervisor


@pytest.mark.parametrize("victim", ["keeper", "supervisor"])
def test_when_keeper_goes_everything_goes(daemon_factory: DaemonFactory, victim: str, figure: Say) -> None:
    """Whichever is killed: no process of a sandbox is left to run without anybody who knows of it."""
    daemon = daemon_factory()
    with daemon.api() as api:
        made = [api.sandbox() for _ in range(3)]
        for one in made:
            one.request(
                "POST",
                "/processes",
                {
                    "command": [
                        "python3",
                        "-c",
                        "import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(9002)",
                    ]
                },
            )
        before = [one.pid for one in descendants(daemon.pid)]
        assert len(before) > 10
        begun = time.monotonic()
        daemon.kill(daemon.keeper_pid if victim == "keeper" else daemon.pid, signal.SIGKILL)
        wait_until(lambda: gone(before), 10, "every process is gone")
        took = time.monotonic() - begun
        status = daemon.wait(20)
    print(f"{victim} killed: {len(before)} processes gone in {took * 1000:.0f} ms, survivors = 0")
    assert took < 2 * SLOWNESS
    assert status != 0
    daemon.stop()
    with daemon.start().api() as api:
        for one in made:
            record = api.get(one.id)
            assert (record["status"], record["endReason"]) == ("lost", "lost")
        assert api.sandbox().out("echo works") == "works\n"
    figure(5, tried=len(before), seconds=took)


# ---- api


def replaced_by(daemon: Daemon, target: int, number: int) -> float:
    """Seconds from the signal until another api is ready."""
    old = daemon.api_pid
    begun = time.monotonic()
    daemon.kill(target, number)
    daemon.wait_ready(15)
    took = time.monotonic() - begun
    assert daemon.api_pid not in (0, old)
    return took


def _ticked_since(sandbox: Sandbox, before: str) -> bool:
    return bool(sandbox.read("/tmp/tick").json["content"] != before)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP], ids=lambda one: one.name)
def test_sandboxes_outlive_api(daemon_factory: DaemonFactory, number: signal.Signals, figure: Say) -> None:
    """Twice: the second api must be as fit to be adopted from as the first."""
    daemon = daemon_factory()
    with daemon.api() as api:
        one, other = api.sandbox(envVars={"A": "b"}), api.sandbox()
        one.write("/tmp/kept", "x")
        one.request(
            "POST",
            "/processes",
            {"command": "while :; do echo tick; date +%s%N >/tmp/tick; sleep 0.02; done"},
        )
        wait_until(lambda: one.read("/tmp/tick").status == 200, what="the process works")
        inits = sandbox_processes(daemon)
        api.kill(other.id)
        slowest = 0.0
        for round_ in range(2):
            target = daemon.pid if number is signal.SIGHUP else daemon.api_pid
            took = replaced_by(daemon, target, number)
            slowest = max(slowest, took)
            print(f"api {number.name}, round {round_}: another was ready after {took * 1000:.0f} ms")
            assert took < 3 * SLOWNESS
            api.close()
            assert [record["id"] for record in api.request("GET", "/sandboxes").json] == [one.id]
            assert api.get(one.id)["status"] == "running"
            assert one.read("/tmp/kept").json["content"] == "x"
            assert one.out("echo $A") == "b\n"
            ticked = one.read("/tmp/tick").json["content"]
            wait_until(partial(_ticked_since, one, ticked), 3, "the process still works")
            assert one.write("/tmp/new", "y").status == 200
            new = api.sandbox()
            assert new.out("echo new") == "new\n"
            api.kill(new.id)
        assert daemon.keeper_pid in inits
        figure(4, "at any time", tried=2, slowest_recovery_s=slowest)
        assert api.get(other.id)["status"] == "stopped"
        assert api.kill(one.id).json["status"] == "stopped"


def test_an_api_that_hangs_is_replaced(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(settings={"hang_timeout_s": "15"})
    with daemon.api() as api:
        sandbox = api.sandbox()
        before = daemon.api_pid
        daemon.kill(before, signal.SIGSTOP)
        daemon.wait_ready()
        api.close()
        assert daemon.api_pid not in (0, before)
        assert "api has not had an answer from keeper for 15 s" in daemon.log()
        assert sandbox.out("echo lives") == "lives\n"


def test_a_daemon_that_cannot_serve_at_all_ends(daemon_factory: DaemonFactory) -> None:
    """A record of a newer version, say: it is said once, and nothing is tried for ever or left running."""
    daemon = daemon_factory(start=False)
    with sqlite3.connect(f"{daemon.state_dir}/nsbox.db") as database:
        database.execute("PRAGMA user_version = 9999")
    if daemon.who.as_root:
        os.chown(f"{daemon.state_dir}/nsbox.db", daemon.who.uid, daemon.who.gid)
    done = subprocess.run(
        daemon.command(), env=daemon.environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=60 * SLOWNESS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done
    assert done.stderr.count("newer") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "starting it again" not in done.stderr


def test_a_reload_fails_no_request(own_daemon: Daemon) -> None:
    """SIGHUP while clients come and go: the socket stays, so nobody is refused."""
    failures: list[str] = []
    counts = [0]
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            with own_daemon.api() as api:
                try:
                    answer = api.request("GET", "/sandboxes")
                    counts[0] += 1
                    if answer.status != 200:
                        failures.append(str(answer))
                except OSError as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            took = replaced_by(own_daemon, own_daemon.pid, signal.SIGHUP)
            print(f"reload: {took * 1000:.0f} ms")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    print(f"{counts[0]} requests during two reloads, {len(failures)} failed")
    assert failures == []


def test_api_killed_at_random_under_load(daemon_factory: DaemonFactory, figure: Say) -> None:
    """Creates, commands and deletes in flight each time; afterwards nothing is left that nobody knows of."""
    daemon = daemon_factory()
    done = threading.Event()
    made = [0]

    def load() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError, AssertionError, ValueError), daemon.api() as api:
                sandbox = api.sandbox()
                sandbox.exec("echo x; sleep 0.05")
                sandbox.write("/tmp/x", "x" * 100_000)
                api.kill(sandbox.id)
                made[0] += 1

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    times = []
    try:
        for pause in (0.05, 0.31, 0.13):
            time.sleep(pause)  # at some moment, not at a chosen one
            times.append(replaced_by(daemon, daemon.api_pid, signal.SIGKILL))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    with daemon.api() as api:
        for record in api.request("GET", "/sandboxes").json:
            assert record["status"] == "running", record
            assert api.kill(record["id"]).json["status"] == "stopped"
        residue = settle(daemon)
        assert (residue.sandboxes, residue.trash) == (0, 0), residue
        assert api.request("GET", "/sandboxes").json == []
    print(f"api killed {len(times)} times under load ({made[0]} rounds went through): ready again after "
          f"{[f'{one * 1000:.0f} ms' for one in times]}, orphans = 0")  # fmt: skip
    assert max(times) < 4 * SLOWNESS
    figure(4, "at any time", tried=len(times), slowest_recovery_s=max(times))


# ---- one daemon for a folder


def test_a_second_daemon_refuses(daemon: Daemon, daemon_factory: DaemonFactory) -> None:
    second = daemon_factory(state_dir=daemon.state_dir, start=False)
    done = subprocess.run(
        second.command(),
        env=second.environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30 * SLOWNESS,
        check=False,
    )
    assert done.returncode != 0
    assert "another nsbox uses" in done.stderr
    assert daemon.state_dir in done.stderr
    assert "Traceback" not in done.stderr
    with daemon.api() as api:
        assert api.request("GET", "/sandboxes").status == 200


def test_a_taken_port_is_said(daemon: Daemon, daemon_factory: DaemonFactory) -> None:
    other = daemon_factory(start=False)
    port = daemon.url.rsplit(":", 1)[1]
    command = [port if word == "0" else word for word in other.command()]
    done = subprocess.run(
        command,
        env=other.environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30 * SLOWNESS,
        check=False,
    )
    assert done.returncode != 0
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


# ---- keys


def test_a_revoked_key_is_refused_at_once(daemon: Daemon) -> None:
    made = daemon.nsbox("keys", "create", "short-lived", "--state-dir", daemon.state_dir)
    key = made.stdout.strip()
    identifier = made.stderr.split()[0]
    with daemon.api(key) as api:
        assert api.request("GET", "/sandboxes").status == 200
        revoked = daemon.nsbox("keys", "revoke", identifier, "--state-dir", daemon.state_dir)
        assert revoked.returncode == 0, revoked.stderr
        answer = api.request("GET", "/sandboxes")
        assert (answer.status, answer.code) == (401, "invalid_key")
    listed = daemon.nsbox("keys", "list", "--state-dir", daemon.state_dir).stdout
    assert key not in listed
    assert identifier in listed


def test_the_first_key_is_in_a_file_that_nobody_else_reads(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(key=None)
    path = f"{daemon.state_dir}/first-key"
    found = os.stat(path)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, daemon.who.uid)
    assert stat.S_IMODE(os.stat(daemon.state_dir).st_mode) == 0o700
    with open(path, encoding="ascii") as file:
        key = file.read().strip()
    assert path in "".join(daemon.printed)
    assert key not in "".join(daemon.printed) + daemon.log()
    with Api(daemon.url, key) as api:
        assert api.request("GET", "/sandboxes").status == 200
    with Api(daemon.url, key[:-1]) as api:
        assert api.request("GET", "/sandboxes").status == 401
    os.unlink(path)
    daemon.stop()
    daemon.start()
    assert not os.path.exists(path)
    with Api(daemon.url, key) as api:
        assert api.request("GET", "/sandboxes").status == 200


# ---- secrets


def test_secrets_are_nowhere_to_be_read(daemon_factory: DaemonFactory) -> None:
    """The preset key, a variable of a sandbox, its commands' input: not in any process's command line or
    environment (but that of the sandbox's own command), not in the log, not in the files but the record."""
    daemon = daemon_factory()
    assert daemon.key is not None
    secret, word = "value-of-a-variable-31337", "typed-into-stdin-31337"
    with daemon.api() as api:
        sandbox = api.sandbox(envVars={"TOKEN": secret})
        sandbox.run("cat >/dev/null; echo $TOKEN", stdin=word)
        sandbox.exec("true", env={"A": secret}, user="nobody-here")
        sandbox.request("POST", "/exec", {"command": "true", "env": {"A\0": secret}})
        api.request("GET", "/sandboxes", key=daemon.key + "x")
        secrets = [daemon.key.encode(), secret.encode(), word.encode()]
        scanned, unreadable = 0, 0
        for pid in (daemon.pid, *(one.pid for one in descendants(daemon.pid))):
            for name in ("cmdline", "environ"):
                try:
                    with open(f"/proc/{pid}/{name}", "rb") as file:
                        content = file.read()
                except OSError:
                    unreadable += 1
                    continue
                scanned += 1
                # execve leaves what it was given in the supervisor's memory: its own uid and root can read it.
                known = secrets[1:] if (pid, name) == (daemon.pid, "environ") else secrets
                assert [one for one in known if one in content] == [], (pid, name)
        assert secret not in api.request("GET", f"/sandboxes/{sandbox.id}").body.decode()
    daemon.stop()
    assert [one for one in secrets if one in daemon.log().encode() + "".join(daemon.printed).encode()] == []
    with open(f"{daemon.state_dir}/nsbox.db", "rb") as file:
        assert daemon.key.encode() not in file.read()
    print(f"secrets: {scanned} files of /proc scanned ({unreadable} unreadable), 0 found")


def test_the_state_folder_is_private(daemon: Daemon) -> None:
    for name in ("", "sandboxes", "layers", "run", "trash", "nsbox.db"):
        found = os.stat(os.path.join(daemon.state_dir, name))
        assert stat.S_IMODE(found.st_mode) & 0o077 == 0, name
        assert found.st_uid == daemon.who.uid, name


def test_the_daemon_is_not_root_and_promises_no_new_privileges(daemon: Daemon) -> None:
    with open(f"/proc/{daemon.api_pid}/status", encoding="ascii") as file:
        told = dict(line.split(":", 1) for line in file)
    assert set(told["Uid"].split()) == {str(daemon.who.uid)} != {"0"}
    assert told["NoNewPrivs"].strip() == "1"
    assert int(told["CapEff"], 16) == int(told["CapPrm"], 16) == 0


# ---- many at once


def test_a_hundred_creates_at_once(own_daemon: Daemon) -> None:
    with own_daemon.api() as api:
        api.kill(api.create())  # the first one has keeper start its storage watcher, which stays
        before = settle(own_daemon)
        begun = time.monotonic()
        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(lambda _: api.request("POST", "/sandboxes"), range(100)))
        took = time.monotonic() - begun
        assert [answer.status for answer in answers] == [201] * 100
        ids = {answer.json["id"] for answer in answers}
        assert len(ids) == 100
        with ThreadPoolExecutor(20) as pool:
            echoed = list(
                pool.map(
                    lambda one: api.request("POST", f"/sandboxes/{one}/exec", {"command": "hostname"}).json[
                        "stdout"
                    ],
                    ids,
                )
            )
            assert len(set(echoed)) == 100
            ended = time.monotonic()
            assert {answer.json["status"] for answer in pool.map(api.kill, ids)} == {"stopped"}
        print(
            f"100 creates at once: {took * 1000:.0f} ms; 100 deletes: {(time.monotonic() - ended) * 1000:.0f} ms"
        )
        api.close()
        after = settle(own_daemon)
    assert after._replace(api_fds=0) == before._replace(api_fds=0)
    assert after.api_fds <= before.api_fds + 2


def test_a_hundred_rounds_leave_nothing(own_daemon: Daemon) -> None:
    with own_daemon.api() as api:
        warm = api.sandbox()
        warm.out("true")
        api.kill(warm.id)
        before = settle(own_daemon)
        rss = own_daemon.rss_kib()
        begun = time.monotonic()
        for number in range(100):
            sandbox = api.sandbox()
            assert sandbox.out(f"echo {number} | tee /tmp/x") == f"{number}\n"
            assert sandbox.read("/tmp/x").json["content"] == f"{number}\n"
            if number % 3 == 0:
                sandbox.request("POST", "/processes", {"command": "sleep 600"})
            assert api.kill(sandbox.id).status == 200
        took = time.monotonic() - begun
        after = settle(own_daemon)
    print(f"100 × create, exec, read, delete: {took * 10:.1f} ms a round; before {before}, after {after}; "
          f"rss of api {rss} → {own_daemon.rss_kib()} KiB")  # fmt: skip
    assert after == before
