"""On a folder that plays a cgroup: a host needs swap and a memory controller to show the real thing."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from nsbox.host import reclaim as module
from nsbox.host.reclaim import reclaim

MIB = 1024 * 1024


class Kernel:
    """A cgroup's two files. Each write frees what it asks for, as long as ``freeable`` lasts."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cgroup, self.proc = tmp_path / "box", tmp_path / "proc"
        self.cgroup.mkdir()
        self.proc.mkdir()
        self.swaps("/swapfile file 1024 0 -2\n")
        (self.cgroup / "memory.reclaim").write_text("")
        self.current = self.freeable = 40 * MIB
        self.asked: list[int] = []
        self.error = 0
        self._write = os.write
        self.hold(self.current)
        monkeypatch.setattr(module.os, "write", self.write)

    def swaps(self, rows: str) -> None:
        (self.proc / "swaps").write_text(f"Filename Type Size Used Priority\n{rows}")

    def hold(self, current: int) -> None:
        self.current = current
        (self.cgroup / "memory.current").write_text(f"{current}\n")

    def write(self, descriptor: int, data: bytes) -> int:
        asked = int(data)
        self.asked.append(asked)
        if self.error:
            raise OSError(self.error, "no")
        freed = min(asked, self.freeable)
        self.freeable -= freed
        self.hold(self.current - freed)
        if freed < asked:
            raise OSError(errno.EAGAIN, "less than was asked for")
        return len(data)

    def reclaim(self, patience: float = 60, wanted: bool = True) -> int | None:
        return reclaim(str(self.cgroup), time.monotonic() + patience, lambda: wanted, str(self.proc))


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


def test_all_of_it(kernel: Kernel) -> None:
    assert kernel.reclaim() == 40 * MIB
    assert kernel.asked == [16 * MIB, 16 * MIB, 8 * MIB]  # in steps, since one cannot be broken off


def test_what_can_be_had(kernel: Kernel) -> None:
    kernel.freeable = 20 * MIB
    assert kernel.reclaim() == 20 * MIB
    assert len(kernel.asked) == 2


@pytest.mark.parametrize(("patience", "wanted"), [(-1.0, True), (60.0, False)])
def test_no_longer_than_it_may(kernel: Kernel, patience: float, wanted: bool) -> None:
    assert kernel.reclaim(patience, wanted) == 0
    assert kernel.asked == []


def test_without_swap_it_is_not_tried(kernel: Kernel) -> None:
    kernel.swaps("")
    assert kernel.reclaim() is None
    assert kernel.asked == []


@pytest.mark.parametrize("missing", ["memory.current", "memory.reclaim"])
def test_without_the_controller_or_on_an_old_kernel(kernel: Kernel, missing: str) -> None:
    (kernel.cgroup / missing).unlink()
    assert kernel.reclaim() is None


def test_one_that_is_ended_meanwhile(kernel: Kernel) -> None:
    kernel.error = errno.ENODEV
    assert kernel.reclaim() is None
