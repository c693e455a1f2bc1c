"""What running commands use: each with all that it has started, and nobody else's."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.client import JSON, Sandbox
from tests.e2e.daemon import Daemon, wait_until

MIB = 1 << 20
#: Burns half a second of processor time, takes memory, and waits.
_WORK = """
import os, sys, time
megabytes, left = int(sys.argv[1]), float(sys.argv[2])
kept = b"x" * (megabytes << 20)
begun = time.process_time()
while time.process_time() - begun < left:
    pass
print("done", flush=True)
time.sleep(600)
"""


def start(sandbox: Sandbox, command: str | list[str]) -> str:
    answer = sandbox.request("POST", "/processes", {"command": command})
    assert answer.status == 201, answer
    assert (answer.json["cpuMs"], answer.json["memoryBytes"]) == (None, None), "nobody has asked"
    return str(answer.json["id"])


def use(sandbox: Sandbox) -> dict[str, JSON]:
    return {one["id"]: one for one in sandbox.request("GET", "/processes?all=true").json}


def done(sandbox: Sandbox, key: str, times: int) -> None:
    def wrote() -> bool:
        return sandbox.request("GET", f"/processes/{key}/logs?raw=true").body.count(b"done") == times

    wait_until(wrote, 60, "the work is done")


def test_what_each_uses_with_all_it_has_started(sandbox: Sandbox) -> None:
    """A child in the same session, one that has ended and was waited for, another in a session of its own:
    all count for the command that started them; the neighbour has only its own."""
    sandbox.write("/tmp/work.py", _WORK)
    work = "python3 /tmp/work.py"
    busy = start(sandbox, f"{work} 30 0.3 & setsid {work} 30 0.3 & timeout 2 {work} 1 0.3; sleep 600")
    calm = start(sandbox, ["sleep", "600"])
    done(sandbox, busy, 3)
    wait_until(lambda: use(sandbox)[busy]["cpuMs"] >= 850, 60, "the one that ended is counted")
    told = use(sandbox)
    assert 850 <= told[busy]["cpuMs"] < 5_000
    assert 60 * MIB <= told[busy]["memoryBytes"] < 300 * MIB
    assert told[calm]["cpuMs"] <= 100
    assert 0 < told[calm]["memoryBytes"] < 20 * MIB
    one = sandbox.request("GET", f"/processes/{busy}").json
    assert one["cpuMs"] >= told[busy]["cpuMs"]
    ended = sandbox.request("DELETE", f"/processes/{busy}").json
    assert "memoryBytes" not in ended
    assert set(use(sandbox)) == {calm}


def test_orphans_count_where_there_are_leaves(sandbox: Sandbox) -> None:
    """What has left the session, and whose parents are gone, is found by its cgroup only."""
    sandbox.write("/tmp/work.py", _WORK)
    key = start(sandbox, "(setsid python3 /tmp/work.py 40 0.2 &); sleep 600")
    done(sandbox, key, 1)
    memory = use(sandbox)[key]["memoryBytes"]
    if memory < 40 * MIB:
        pytest.skip("no cgroup is delegated here: an orphan of another session is nobody's")
    assert use(sandbox)[key]["cpuMs"] >= 190


def test_a_terminal_counts_and_its_spawner_does_not(sandbox: Sandbox) -> None:
    wish = {"command": ["sleep", "600"], "terminal": {"rows": 24, "columns": 80}}
    key = sandbox.request("POST", "/processes", wish).json["id"]
    # In the middle of its execve(2), which nobody waits for here, a process has no memory yet: seen once.
    wait_until(lambda: use(sandbox)[key]["memoryBytes"], 10, "it is measured")
    assert use(sandbox)[key]["memoryBytes"] < 8 * MIB


def test_a_paused_sandbox_is_neither_asked_nor_woken(sandbox: Sandbox) -> None:
    key = start(sandbox, ["sleep", "600"])
    if sandbox.request("POST", "/pause").status == 503:
        pytest.skip("no cgroup is delegated here, and pausing needs one")
    assert use(sandbox)[key]["memoryBytes"] is None
    assert sandbox.api.get(sandbox.id)["status"] == "paused"
    assert sandbox.request("POST", "/resume").status == 200
    # Once it was 0 here, on a busy host; perhaps its execve(2) had been under way when it was paused.
    wait_until(lambda: use(sandbox)[key]["memoryBytes"], 10, "it is measured again")


def test_an_adopted_command_is_measured(own_daemon: Daemon) -> None:
    with own_daemon.api() as api:
        sandbox = api.sandbox()
        key = start(sandbox, ["sleep", "600"])
        own_daemon.kill(own_daemon.api_pid, signal.SIGKILL)
        own_daemon.wait_ready(30)
        assert use(sandbox)[key]["memoryBytes"] > 0
        api.kill(sandbox.id)
