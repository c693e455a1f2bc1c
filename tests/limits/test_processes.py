"""pids, and how many cgroups a sandbox may have."""

from __future__ import annotations

from tests.acceptance.plugin import Say
from tests.limits.conftest import Make, needs

FORKS = """
import os, time
made = 0
try:
    while made < 3000:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
    print(made, 0)
except OSError as error:
    print(made, error.errno)
"""


def test_processes_end_at_the_limit(make: Make, figure: Say) -> None:
    sandbox = make(memoryMb=1024)  # so that memory does not end it first
    needs(sandbox, "pids")
    made, why = sandbox.out(["python3", "-c", FORKS]).split()
    print(f"processes made before {why}: {made}")
    assert why == "11"  # EAGAIN
    assert 450 <= int(made) <= 512  # nsbox's own are among the 512
    figure(10, "fork bomb", tried=int(made))
    assert sandbox.request("DELETE", "/processes").status == 200
    assert sandbox.out("echo on") == "on\n"


def test_cgroups_are_counted_too(make: Make) -> None:
    sandbox = make()
    needs(sandbox, "pids")
    assert sandbox.out("cat /sys/fs/cgroup/cgroup.max.descendants") == "576\n"
