"""A paused sandbox gives its memory back where the host has swap, and has all of it again afterwards.

And what its metrics tell where the host delegates controllers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from nsbox.host import facts
from tests.e2e.account import runner
from tests.e2e.client import Sandbox
from tests.e2e.daemon import wait_until
from tests.limits.conftest import Make, as_root, needs

MIB = 1 << 20
#: Holds 64 MiB that no file has, says when it does, and looks at it again when it is told to.
HOLD = """
import os, time
data = [os.urandom(4096) for _ in range(64 * 256)]
whole = hash(b"".join(data))
open("/tmp/held", "w").close()
while not os.path.exists("/tmp/look"):
    time.sleep(0.05)
print("same" if hash(b"".join(data)) == whole else "other")
"""


@pytest.fixture
def swap() -> Iterator[None]:
    """A host with swap: as it is, or with a file of 256 MiB that root adds for the test."""
    if facts.swap():
        yield
        return
    descriptor, path = tempfile.mkstemp(prefix="nsbox-swap-", dir="/var/tmp")
    os.posix_fallocate(descriptor, 0, 256 * MIB)
    os.close(descriptor)
    try:
        for command in (["chown", "0:0", path], ["chmod", "600", path], ["mkswap", path], ["swapon", path]):
            done = as_root(runner(), *command)
            if done.returncode:
                pytest.skip(
                    f"this host has no swap, and root could not add some: {done.stderr.strip()[-200:]}"
                )
        yield
        as_root(runner(), "swapoff", path)
    finally:
        as_root(runner(), "rm", "-f", path)


def _memory(sandbox: Sandbox) -> dict[str, int]:
    answer = sandbox.request("GET", "/metrics?history=false")
    assert answer.status == 200, answer
    found: dict[str, int] = answer.json["now"]["memory"]
    return found


def test_a_pause_gives_memory_back(make: Make, swap: None) -> None:
    sandbox = make(memoryMb=256)
    needs(sandbox, "memoryMb")
    if not os.path.exists("/sys/fs/cgroup/memory.reclaim") and facts.kernel().version < (5, 19):
        pytest.skip("memory.reclaim came with Linux 5.19")
    process = sandbox.request("POST", "/processes", {"command": ["python3", "-c", HOLD]}).json
    wait_until(lambda: sandbox.read("/tmp/held").status == 200, 60, "it holds its memory")
    before = _memory(sandbox)
    assert before["bytes"] > 64 * MIB
    answer = sandbox.request("POST", "/pause").json
    assert answer["reclaimedBytes"] > 32 * MIB, answer
    after = _memory(sandbox)
    assert before["bytes"] - after["bytes"] > 32 * MIB
    assert after["swapBytes"] > 32 * MIB
    assert sandbox.request("POST", "/resume").status == 200
    assert sandbox.write("/tmp/look", "").status == 200
    ended = sandbox.request("GET", f"/processes/{process['id']}/wait?timeoutMs=120000").json
    assert ended["exitCode"] == 0
    assert sandbox.request("GET", f"/processes/{process['id']}/logs?raw=true").body == b"same\n"


def test_metrics_where_there_are_controllers(make: Make) -> None:
    sandbox = make(memoryMb=128)
    needs(sandbox, "memoryMb")
    needs(sandbox, "pids")
    sandbox.out("head -c 20000000 /dev/zero | tail -c 1 | wc -c")
    now = sandbox.request("GET", "/metrics?history=false").json["now"]
    assert now["memory"]["bytes"] > 0
    assert now["processes"] >= 1
    assert now["cpu"]["usedMs"] > 0
    assert now["cpu"]["throttledMs"] is not None
