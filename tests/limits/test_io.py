"""The settings io_*: how fast a sandbox may read and write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.daemon import Daemon
from tests.limits.conftest import Make, makers, needs, started

MIB = 1 << 20
#: Bytes a second.
RATE = 4 * MIB
#: Writes 16 MiB around the page cache and says how long that took.
WRITE = """
import mmap, os, time
block = mmap.mmap(-1, 1 << 20)
fd = os.open("/file", os.O_CREAT | os.O_WRONLY | getattr(os, "O_DIRECT", 0))
begun = time.monotonic()
for _ in range(16):
    os.write(fd, block)
os.fsync(fd)
print(time.monotonic() - begun)
"""


@pytest.fixture(scope="module")
def slow() -> Iterator[Daemon]:
    yield from started(settings={"NSBOX_IO_WRITE_BPS": str(RATE), "NSBOX_STORAGE": "watched"})


@pytest.fixture
def make(slow: Daemon) -> Iterator[Make]:
    yield from makers(slow)


def test_writing_is_slowed_down(make: Make) -> None:
    sandbox = make()
    needs(sandbox, "io")
    took = float(sandbox.out(["python3", "-c", WRITE]))
    print(f"16 MiB at 4 MiB/s took {took:.1f} s")
    assert 3.2 <= took <= 30


def test_writing_through_the_page_cache_as_well(make: Make) -> None:
    """cgroup writeback: the sandbox is slowed down, and not whoever flushes for everybody. Only once its
    memory is full of what is not written yet: fsync does not wait, the overlay is volatile."""
    sandbox = make(memoryMb=32, storageMb=256)
    needs(sandbox, "io", "memoryMb")
    through = WRITE.replace('"O_DIRECT"', '"O_NONE"').replace("range(16)", "range(64)")
    took = float(sandbox.out(["python3", "-c", through]))
    print(f"64 MiB at 4 MiB/s, written through the page cache with 32 MiB of memory, took {took:.1f} s")
    assert 4 <= took <= 100
