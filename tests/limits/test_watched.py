"""storageMb where no quota holds it: measured, and what writes is ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.plugin import Say
from tests.e2e.client import Sandbox
from tests.e2e.daemon import Daemon, descendants, wait_until
from tests.limits.conftest import Make, makers

MIB = 1 << 20
#: Writes 20 MiB each second, for ever: what it can pass its limit by is then known.
SLOWLY = """
import time
with open("/fill", "wb", buffering=0) as file:
    while True:
        file.write(b"x" * (2 << 20))
        time.sleep(0.1)
"""
FAST = "cat /dev/zero > /fill"
FILES = "mkdir /many; i=0; while :; do i=$((i+1)); : > /many/$i; done"


@pytest.fixture
def watched(small: Daemon) -> Iterator[Make]:
    yield from makers(small)


def full(sandbox: Sandbox) -> bool:
    return bool(sandbox.api.get(sandbox.id)["limits"]["storage"]["full"])


def test_what_writes_beyond_it_is_ended_and_told(watched: Make, figure: Say) -> None:
    sandbox, other = watched(storageMb=32), watched(storageMb=32)
    told = sandbox.api.get(sandbox.id)["limits"]
    assert told["storage"] == {"backend": "watched", "storageMb": 32.0, "inodes": 16384, "full": False}
    assert "storageMb" in told["enforced"]
    result = sandbox.run(["python3", "-c", SLOWLY], timeoutMs=60_000)
    assert (result["outcome"], result["signal"]) == ("storageFull", "KILL"), result
    size = int(sandbox.out("stat -c %s /fill"))
    print(f"32 MiB, written at 20 MiB/s: ended at {size / MIB:.1f} MiB")
    assert size >= 31 * MIB
    wait_until(lambda: full(sandbox), 10, "the record says so")
    assert other.out("echo on") == "on\n"
    assert not full(other)
    figure(10, "disk fill", tried=1, watched_MiB_of_32=size / MIB)


def test_it_is_usable_again_once_something_is_removed(watched: Make) -> None:
    sandbox = watched(storageMb=16)
    assert sandbox.run(["python3", "-c", SLOWLY])["outcome"] == "storageFull"
    wait_until(lambda: full(sandbox), 10, "the record says so")
    answer = sandbox.upload("/more", b"x" * MIB)
    assert (answer.status, answer.code) == (409, "no_space"), answer
    assert sandbox.write("/more", "y").status == 409
    assert sandbox.out("rm /fill; echo removed") == "removed\n"
    wait_until(lambda: not full(sandbox), 10, "the record says so")
    assert sandbox.upload("/more", b"x" * MIB).status == 200


def test_a_fast_one_passes_it_by_a_bounded_amount(watched: Make) -> None:
    """By what can be written between two looks, and while one is made: the rate of the disk decides."""
    sandbox = watched(storageMb=16)
    begun = time.monotonic()
    result = sandbox.run(FAST, timeoutMs=120_000)
    took = time.monotonic() - begun
    size = int(sandbox.out("stat -c %s /fill"))
    rate = size / took
    print(f"16 MiB, written at {rate / MIB:.0f} MiB/s: ended at {size / MIB:.0f} MiB after {took:.2f} s")
    assert result["outcome"] == "storageFull"
    assert took < 30


def test_inodes_too(watched: Make, figure: Say) -> None:
    sandbox = watched(storageMb=16, memoryMb=512)
    result = sandbox.run(FILES, timeoutMs=600_000)
    assert result["outcome"] == "storageFull", result
    figure(10, "inode fill", tried=1, watched_inodes_of_16384=int(sandbox.out("ls -f /many | wc -l")))


def test_an_upload_ends_there_as_well(watched: Make) -> None:
    """api writes it, and nobody ends api: it looks itself at what was told, now and then."""
    sandbox = watched(storageMb=16)
    answers = []
    for number in range(40):
        answers.append(sandbox.upload(f"/part{number}", b"x" * (8 * MIB)))
        if answers[-1].status != 200:
            break
        time.sleep(0.05)
    assert (answers[-1].status, answers[-1].code) == (409, "no_space")
    print(f"16 MiB: uploads of 8 MiB were refused after {len(answers) - 1}")


def test_a_watcher_that_dies_is_replaced(small: Daemon, watched: Make) -> None:
    sandbox = watched(storageMb=16)

    def watchers() -> list[int]:
        return [one.pid for one in descendants(small.pid) if one.name == "nsbox-watcher"]

    (before,) = watchers()
    small.kill(before, 9)
    wait_until(lambda: watchers() and before not in watchers(), 10, "another watcher")
    assert sandbox.run(["python3", "-c", SLOWLY])["outcome"] == "storageFull"


def test_an_idle_one_costs_next_to_nothing(small: Daemon, watched: Make) -> None:
    """What the watcher spends on five sandboxes in which nothing happens, of one processor."""
    for _ in range(5):
        watched(storageMb=16)
    (watcher,) = [one.pid for one in descendants(small.pid) if one.name == "nsbox-watcher"]

    def spent() -> float:
        with open(f"/proc/{watcher}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    begun = spent()
    threading.Event().wait(5)  # what is measured is a span of time
    share = (spent() - begun) / 5
    print(f"the watcher used {share:.1%} of a processor")
    assert share <= 0.11
