"""Processes of nsbox inside stay non-dumpable when their ids change."""

from __future__ import annotations

import os
from collections.abc import Callable

import prctl
import pytest

from nsbox.inside import privileges
from nsbox.kernel import namespaces


def dumpable_after(action: Callable[[], None]) -> int:
    """In a child that was dumpable before. Its ids stay what they are: if they changed, the kernel would set
    it anew, as fs.suid_dumpable says, which most likely is 0 here, and the test would show nothing."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            prctl.set_dumpable(1)
            action()
            status = prctl.get_dumpable()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set its groups")
@pytest.mark.parametrize(
    "action", [namespaces.become_root, lambda: privileges.become(0, 0, ())], ids=["init", "commands"]
)
def test_ids_are_changed_and_nobody_may_look(action: Callable[[], None]) -> None:
    assert dumpable_after(lambda: None) == 1
    assert dumpable_after(action) == 0
