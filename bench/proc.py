"""What /proc says of processes and of the host."""

from __future__ import annotations

import os
import platform
import time
from typing import Any, NamedTuple

PROC = "/proc"


def read(path: str) -> str:
    """The text of a file; empty where it is not there or not for us."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def name_of(pid: int) -> str:
    return read(f"{PROC}/{pid}/comm").strip()


def parents() -> dict[int, int]:
    """Every process that is not a zombie, and its parent."""
    found = {}
    for entry in os.listdir(PROC):
        if entry.isdigit() and (stat := read(f"{PROC}/{entry}/stat")):
            state, parent = stat.rpartition(") ")[2].split()[:2]
            if state != "Z":
                found[int(entry)] = int(parent)
    return found


def descendants(top: int) -> list[int]:
    """All that descends from a process."""
    table = parents()
    members = {top}
    while more := {pid for pid, parent in table.items() if parent in members} - members:
        members |= more
    return sorted(members - {top})


def children(pid: int) -> list[int]:
    """Its children, by one read where the kernel offers that: it is asked between two samples."""
    path = f"{PROC}/{pid}/task/{pid}/children"
    if os.path.exists(path):
        return [int(one) for one in read(path).split()]
    return [child for child, parent in parents().items() if parent == pid]


class Memory(NamedTuple):
    """Of one process, in KiB. ``pss`` counts a page that n processes share as an n-th; None: not for us."""

    rss: int
    pss: int | None

    @classmethod
    def of(cls, pid: int) -> Memory:
        rolled = _kib(read(f"{PROC}/{pid}/smaps_rollup"))
        return cls(_kib(read(f"{PROC}/{pid}/status")).get("VmRSS", 0), rolled.get("Pss"))


def meminfo() -> dict[str, int]:
    """KiB by name."""
    return _kib(read(f"{PROC}/meminfo"))


def _kib(text: str) -> dict[str, int]:
    rows = (line.partition(":") for line in text.splitlines() if line.endswith(" kB"))
    return {name: int(rest.split()[0]) for name, _, rest in rows}


def load() -> float:
    return os.getloadavg()[0]


class Pressure:
    """The share of a stretch of time in which something waited for a CPU.

    The load average looks back a minute; this is exact for a round of a second.
    """

    def __init__(self) -> None:
        self._stalled, self._begun = _stalled(), time.monotonic()

    def share(self) -> float | None:
        """Since this was made; None where the kernel does not count it."""
        now, stalled = time.monotonic(), _stalled()
        if stalled is None or self._stalled is None or now <= self._begun:
            return None
        return round(min(1.0, (stalled - self._stalled) / 1e6 / (now - self._begun)), 3)


def _stalled() -> int | None:
    for line in read(f"{PROC}/pressure/cpu").splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2])
    return None


def machine(folder: str) -> dict[str, Any]:
    """The facts without which the figures mean nothing. ``folder``: where the daemons keep their state."""
    models = [line for line in read(f"{PROC}/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "cpuModel": models[0].partition(": ")[2] if models else platform.machine(),
        "memoryMiB": meminfo().get("MemTotal", 0) // 1024,
        "python": platform.python_version(),
        "stateFileSystem": _filesystem(folder),
    }


def _filesystem(folder: str) -> str:
    best, kind = "", "?"
    for line in read(f"{PROC}/self/mounts").splitlines():
        _, where, what = line.split()[:3]
        inside = where == "/" or folder == where or folder.startswith(where + "/")
        if inside and len(where) >= len(best):
            best, kind = where, what
    return kind
