"""Zombies: none, ever. What ends as a child of ours is reaped, whoever left it to us and however it ended.

Every other file is looked at as well when its last test is over (``no_zombies_are_left``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.client import Sandbox
from tests.e2e.daemon import Daemon, descendants, no_zombies, wait_until, zombies

#: Forks twice, many times: the grandchildren fall to init and end at different moments, some at once.
_ORPHANS = """
import os, time
for number in range(200):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid() if number % 2 else None
            time.sleep(number % 20 / 20)
        os._exit(0)
    os.wait()
"""
#: Never waits for its children, and ends.
_CARELESS = """
import os, time
for _ in range(100):
    if os.fork() == 0:
        os._exit(0)
time.sleep(0.2)
"""


@contextlib.contextmanager
def watched(daemon: Daemon) -> Iterator[None]:
    """While the block runs too: nobody is a zombie in two looks a second apart."""
    over, stuck = threading.Event(), []
    top = daemon.pid

    def look() -> None:
        while not over.is_set():
            before = {one.pid for one in zombies(top)}
            if over.wait(1.0):
                return
            stuck.extend(one for one in zombies(top) if one.pid in before)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert stuck == []
    no_zombies(top)


@pytest.mark.parametrize("script", [_ORPHANS, _CARELESS], ids=["orphans", "careless"])
def test_what_falls_to_init(daemon: Daemon, sandbox: Sandbox, script: str) -> None:
    with watched(daemon):
        for _ in range(3):
            assert sandbox.run(["python3", "-c", script])["exitCode"] == 0
        key = sandbox.request("POST", "/processes", {"command": ["python3", "-c", script]}).json["id"]
        assert sandbox.request("GET", f"/processes/{key}/wait").json["status"] == "exited"
        assert int(sandbox.out("ls -d /proc/[0-9]* | wc -l")) > 0


def test_ended_from_all_sides(daemon: Daemon, sandbox: Sandbox) -> None:
    """By signals, by time, by DELETE, by an end of everything: with children that fall to init meanwhile."""
    trees = "i=0; while [ $i -lt 20 ]; do (sleep 300 & sleep 300) & i=$((i+1)); done; wait"
    with watched(daemon):
        timed = sandbox.run(trees, timeoutMs=300)
        assert timed["timedOut"], timed
        for number in ("KILL", "TERM", "HUP"):
            key = sandbox.request("POST", "/processes", {"command": trees}).json["id"]
            sandbox.request("POST", f"/processes/{key}/signal", {"signal": number})
            sandbox.request("DELETE", f"/processes/{key}")
        for _ in range(3):
            sandbox.request("POST", "/processes", {"command": trees})
        assert sandbox.request("DELETE", "/processes").status == 200
        assert sandbox.out("echo well") == "well\n"


def test_a_death_under_a_frozen_cgroup(daemon: Daemon, sandbox: Sandbox) -> None:
    """SIGKILL ends what stands still too, and init, which stands as well, can reap only when it goes on."""
    key = sandbox.request(
        "POST", "/processes", {"command": "sleep 7701 & sleep 7702 & exec sleep 7703"}
    ).json["id"]
    wait_until(lambda: sandbox.out("ps -eo args | grep -c '^sleep 770' || true") == "3\n", what="they run")
    if sandbox.request("POST", "/pause").status == 503:
        pytest.skip("no cgroup is delegated here, and pausing needs one")
    sleepers = [one.pid for one in descendants(daemon.pid) if b"sleep\x00770" in _arguments(one.pid)]
    assert len(sleepers) == 3
    for pid in sleepers:
        daemon.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(_arguments(pid) for pid in sleepers), what="they are dead")
    assert sandbox.request("POST", "/resume").status == 200
    no_zombies(daemon.pid)
    ended = sandbox.request("GET", f"/processes/{key}/wait").json
    assert (ended["outcome"], ended["signal"]) == ("signaled", "KILL")
    table = {one.pid for one in descendants(daemon.pid)}
    assert not table & set(sleepers)


def test_a_sandbox_that_ends_while_it_stands(daemon: Daemon, sandbox: Sandbox) -> None:
    other = sandbox.api.sandbox()
    other.request(
        "POST", "/processes", {"command": "i=0; while [ $i -lt 30 ]; do sleep 300 & i=$((i+1)); done; wait"}
    )
    other.request("POST", "/pause")
    with watched(daemon):
        assert sandbox.api.kill(other.id).status == 200


def test_whose_api_died(own_daemon: Daemon) -> None:
    """What ends between two apis is reaped all the same."""
    with own_daemon.api() as api:
        sandbox = api.sandbox()
        for number in range(10):
            sandbox.request("POST", "/processes", {"command": f"sleep 0.{number}; exit {number}"})
        with watched(own_daemon):
            for _ in range(2):
                own_daemon.kill(own_daemon.api_pid, signal.SIGKILL)
                own_daemon.wait_ready(30)
            api.close()
            wait_until(lambda: sandbox.request("GET", "/processes").json == [], what="all have ended")
        codes = sorted(one["exitCode"] for one in sandbox.request("GET", "/processes?all=true").json)
        assert codes == list(range(10))
        api.kill(sandbox.id)


def _arguments(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_a_zombie_would_be_seen() -> None:
    """The look itself: a child of this process that nobody waits for."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        wait_until(lambda: pid in {one.pid for one in zombies(os.getpid())}, what="it is one")
        with pytest.raises(AssertionError, match="zombies"):
            no_zombies(os.getpid())
    finally:
        os.waitpid(pid, 0)
    no_zombies(os.getpid())
