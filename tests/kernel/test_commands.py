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
time.sleep(60)
"""


def test_descriptors_in_flight_are_nobody_elses_loss(make_sandbox: Callable[..., Sandbox]) -> None:
    """The kernel counts them by user (unix(7)), and all sandboxes' roots are one user to it.

    With init's limit no higher than that of commands, a tenant who hoards them stops every other's init.
    """
    hoarder, neighbour = make_sandbox(), make_sandbox()
    assert neighbour.out("echo fine") == "fine\n"
    assert hoarder.request("POST", "/processes", {"command": ["python3", "-c", _HOARD]}).status == 201
    # It takes a moment, and its own sandbox may be of no more use then: nothing there says when.
    until = time.monotonic() + 3
    while time.monotonic() < until:
        answer = neighbour.exec("echo fine")
        assert answer.status == 200, answer
        assert answer.json["stdout"] == "fine\n", answer
