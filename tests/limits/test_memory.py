"""memoryMb: what overruns is ended, with its command, and nothing else is; and it is told."""

from __future__ import annotations

import pytest

from tests.acceptance.plugin import Say
from tests.e2e.account import runner
from tests.limits.conftest import Make, as_root, needs

#: Takes memory, touching it, 4 MiB at a time, beyond what any sandbox here has with its swap. It has an end,
#: at half a GiB: where nothing limits it, the host's own lack of memory would end it, which looks the same.
HOG = "data = []\nfor _ in range(128): data.append(bytearray(b'x') * (4 << 20))"
#: The same, with an end, saying how far it has come.
GROW = """
data = []
for n in range(60):
    data.append(bytearray(b"x") * (2 << 20))
    print(2 * n + 2, flush=True)
"""
#: Many small processes, none of them as large as an init.
SWARM = """
import os, time
for _ in range(200):
    if os.fork() == 0:
        data = bytearray(b"x") * (1 << 20)
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""


def test_the_command_that_overran_is_ended(make: Make, figure: Say) -> None:
    sandbox = make(memoryMb=64)
    needs(sandbox, "memoryMb")
    result = sandbox.run(["python3", "-c", HOG])
    assert (result["outcome"], result["signal"], result["exitCode"]) == ("oom", "KILL", None)
    assert sandbox.out("echo on") == "on\n"
    told = sandbox.api.get(sandbox.id)
    assert told["status"] == "running"
    assert told["oom"]["kills"] >= 1
    assert told["oom"]["lastAt"] is not None
    figure(10, "memory bomb", tried=1)


def test_it_is_told_of_a_child_as_well(make: Make) -> None:
    """The shell did nothing wrong, and yet: what it was asked for is not done."""
    sandbox = make(memoryMb=64)
    needs(sandbox, "memoryMb")
    result = sandbox.run(f'echo before; python3 -c "{HOG}"; echo "after $?"')
    assert (result["outcome"], result["signal"], result["stdout"]) == ("oom", "KILL", "before\n")


def test_the_neighbours_in_the_sandbox_live_on(make: Make) -> None:
    sandbox = make(memoryMb=128)
    needs(sandbox, "memoryMb")
    server = sandbox.request("POST", "/processes", {"command": "while sleep 1; do :; done"})
    assert server.status in (200, 201), server
    assert sandbox.run(["python3", "-c", HOG])["outcome"] == "oom"
    listed = sandbox.request("GET", "/processes").json
    assert [one["pid"] for one in (listed if isinstance(listed, list) else listed["processes"])] == [
        server.json["pid"]
    ]
    killed = sandbox.run("kill -9 $$")
    assert killed["outcome"] == "signaled", "somebody else's lack of memory is not this command's"


def test_init_outlives_a_swarm(make: Make, figure: Say) -> None:
    """None of these processes is as large as init, which the kernel would take for the culprit."""
    sandbox = make(memoryMb=96)
    needs(sandbox, "memoryMb")
    result = sandbox.run(["python3", "-c", SWARM])
    assert result["outcome"] == "oom", result
    assert sandbox.out("echo on") == "on\n"
    figure(10, "memory bomb", tried=1)
    assert sandbox.api.get(sandbox.id)["status"] == "running"


def test_files_still_go_after_it(make: Make) -> None:
    sandbox = make(memoryMb=64)
    needs(sandbox, "memoryMb")
    for _ in range(3):
        assert sandbox.run(["python3", "-c", HOG])["outcome"] == "oom"
    assert sandbox.write("/tmp/x", "y").status == 200
    assert sandbox.read("/tmp/x").json["content"] == "y"


def test_what_a_program_sees_is_the_limit(make: Make) -> None:
    sandbox = make(memoryMb=64)
    needs(sandbox, "memoryMb")
    assert (
        sandbox.out("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max") == "67108864\n67108864\n"
    )


def test_swap_is_bounded(make: Make) -> None:
    """With far more swap on the host than the sandbox may have: it ends at memory and swap together."""
    who = runner()
    script = (
        "test $(wc -l </proc/swaps) -gt 1 || { fallocate -l 512M /var/tmp/nsbox-swap && "
        "chmod 600 /var/tmp/nsbox-swap && mkswap -q /var/tmp/nsbox-swap && swapon /var/tmp/nsbox-swap; }"
    )
    sandbox = make(memoryMb=48)
    needs(sandbox, "memoryMb")
    if (done := as_root(who, "sh", "-c", script)).returncode:
        pytest.skip(f"no swap can be had: {done.stderr.strip()[-200:]}")
    try:
        result = sandbox.run(["python3", "-c", GROW])
        reached = int(result["stdout"].split()[-1])
        print(f"48 MiB of memory and 48 MiB of swap held {reached} MiB; {result['outcome']}")
        assert result["outcome"] == "oom"
        assert 60 <= reached <= 96
    finally:
        as_root(
            who,
            "sh",
            "-c",
            "test ! -e /var/tmp/nsbox-swap || { swapoff /var/tmp/nsbox-swap; rm -f /var/tmp/nsbox-swap; }",
        )
