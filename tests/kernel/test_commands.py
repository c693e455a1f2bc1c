"""Commands of neighbours: what one sandbox does to the kernel's per-user accounts, the next must not feel."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.client import Sandbox

pytestmark = pytest.mark.namespaces

#: Sends descriptors that nobody receives, as many as it may, and waits.
_HOARD = """
import array, resource, socket, time
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
kept, count = [], 0
try:
    while count < 200_000:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        kept.append(pair)
        pair[0].setblocking(False)
        try:
            for _ in range(10):
                rights = array.array("i", [0] * 250)
                pair[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                count += 250
        except BlockingIOError:
            pass
except OSError:
    pass
print(count, flush=True)
open("/tmp/count", "w").write(str(count))
time.sleep(60)
"""


def test_descriptors_in_flight_are_nobody_elses_loss(make_sandbox: Callable[..., Sandbox]) -> None:
    """The kernel counts them by user (unix(7)), and all sandboxes' roots are one user to it. With init's limit
    no higher than that of commands, a tenant who hoards them keeps every init from passing any."""
    hoarder, neighbour = make_sandbox(), make_sandbox()
    assert neighbour.sh("echo fine").stdout == "fine\n"
    hoarder.start(["python3", "-c", _HOARD])
    for _ in range(200):
        if hoarder.sh("cat /tmp/count").stdout:
            break
        time.sleep(0.05)
    assert neighbour.sh("echo fine").stdout == "fine\n"
