"""cgroup v2 as the kernel has it, in a cgroup of this test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from nsbox.host import facts
from nsbox.keeper.boxes import Box, Host
from nsbox.kernel import libc
from nsbox.kernel.cgroup import Cgroup

#: Microseconds. A process counts as frozen before it has left the processor, and the last of what it used
#: is booked when it does: some milliseconds later where processors are emulated. Whoever goes on uses all of
#: ``A_WHILE``.
A_WHILE = 0.1
BOOKED_LATE = 30_000


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    here = facts.cgroup()
    if here.folder is None:
        pytest.skip("no cgroup v2 is mounted here")
    made = Cgroup(here.folder).child(f"nsbox-test-{os.getpid()}")
    try:
        os.mkdir(made.path)
    except OSError as error:
        pytest.skip(f"no cgroup can be made below {here.folder}: {error}")
    yield made
    made.kill()
    until(made.remove)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)  # the kernel tells nobody when the last process has left
    raise AssertionError("it did not come to pass")


def started_in(cgroup: Cgroup) -> int:
    """A process that was born there."""
    descriptor = cgroup.open()
    try:
        pid = libc.clone3(cgroup=descriptor)
        if pid == 0:
            try:
                signal.pause()
            finally:
                os._exit(1)
    finally:
        os.close(descriptor)
    return pid


def test_born_killed_removed(cgroup: Cgroup) -> None:
    inner = cgroup.child("box-1")
    inner.create()
    pid = started_in(inner)
    assert list(inner.files.processes) == [pid]
    assert cgroup.populated()
    assert not cgroup.remove()  # not while somebody is in there
    assert inner.populated()
    cgroup.kill()  # those below too
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    until(lambda: not cgroup.populated())
    until(inner.remove)
    assert not os.path.exists(inner.path)
    assert not inner.populated()
    inner.kill()  # of one that is gone: no error


def test_frozen_it_does_nothing_and_can_be_killed(cgroup: Cgroup) -> None:
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as child:
        cgroup.files.processes = [child.pid]
        cgroup.files.freeze = True
        until(lambda: bool(cgroup.files.events["frozen"]))
        before = cgroup.files.cpu_stat["usage_usec"]
        time.sleep(A_WHILE)
        assert cgroup.files.cpu_stat["usage_usec"] - before < BOOKED_LATE
        cgroup.kill()
        assert child.wait(5) == -signal.SIGKILL


def test_a_box_is_frozen_when_the_kernel_says_so(cgroup: Cgroup) -> None:
    """With more busy processes than processors, and below it, as commands are: it takes a moment."""
    box = Box(1, Host(cgroup, (), None))  # type: ignore[arg-type]
    assert box.cgroup is not None
    box.cgroup.create()
    leaves = [box.cgroup.child(f"c{number}") for number in range(4)]
    children = []
    for leaf in leaves:
        leaf.create()
        children.append(subprocess.Popen(["sh", "-c", "while :; do :; done"]))
        leaf.files.processes = [children[-1].pid]
    early = 0
    for _ in range(20):
        assert not box.frozen()
        box.freeze(True)
        early += not box.frozen()
        until(box.frozen)
        before = box.cgroup.files.cpu_stat["usage_usec"]
        time.sleep(A_WHILE)
        assert box.cgroup.files.cpu_stat["usage_usec"] - before < BOOKED_LATE
        box.freeze(False)
        until(lambda: not box.frozen())
    print(f"{early} of 20 were not frozen yet when the write had returned")
    box.cgroup.kill()
    for child in children:
        assert child.wait(5) == -signal.SIGKILL
