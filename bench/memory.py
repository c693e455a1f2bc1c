"""What an idle sandbox costs in memory, by two ways of counting that err on different sides."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

from bench import load, proc
from bench.daemon import Daemon
from bench.figures import Figure, Target
from bench.probe import Effort

#: What a sandbox keeps ready for its next command is let go after 10 s.
_SETTLE = 16.0
#: What the host still does about sandboxes that are gone: freeing namespaces and cgroups takes seconds.
_CLEAR = 6.0
_LIMIT_KIB = 1536
#: How often it is tried to find the host calm: changed by less than so much for each sandbox, in KiB.
_GOES, _DRIFT_KIB = 3, 150
#: Memory of the kernel by what it is for; the rest is in none of these.
_KERNEL = ("SUnreclaim", "KernelStack", "PageTables", "Percpu")


class _Count(NamedTuple):
    """The host before, during and after, and keeper with all its descendants before and during, in KiB."""

    before: dict[str, float]
    during: dict[str, float]
    after: dict[str, float]
    own_before: int | None
    own_during: int | None

    @property
    def drift(self) -> float:
        """How much the host's memory changed for reasons that are not ours."""
        return abs(self.before["MemAvailable"] - self.after["MemAvailable"])


def idle(daemon: Daemon, effort: Effort) -> list[Figure]:
    """Make many, wait until they have settled, count; kill them and count again.

    Where other work on the host drowns that, once more, and the go with the least drift is told.
    """
    client = daemon.client()
    count = effort.crowd
    goes: list[_Count] = []
    services: list[Figure] = []
    while len(goes) < _GOES and (not goes or goes[-1].drift / count > _DRIFT_KIB):
        daemon.wait_for_inits(daemon.pool)
        time.sleep(_CLEAR)
        before, own_before = _available(), _processes(daemon)
        sandboxes = [client.create() for _ in range(count)]
        daemon.wait_for_inits(daemon.pool + count)
        time.sleep(_SETTLE)
        during, own_during = _available(), _processes(daemon)
        services = services or _services(daemon, count)
        load.kill_all(client, sandboxes)
        daemon.wait_for_inits(daemon.pool)
        time.sleep(_CLEAR)
        goes.append(_Count(before, during, _available(), own_before, own_during))
    client.close()
    best = min(goes, key=lambda one: one.drift)
    return [_available_each(best, count), _pss_each(best, count), *services]


def _available() -> dict[str, float]:
    """The median of a second: other work on the host moves these figures."""
    rows = []
    for _ in range(10):
        rows.append(proc.meminfo())
        time.sleep(0.1)
    wanted = ("MemAvailable", *_KERNEL)
    return {name: statistics.median(row.get(name, 0) for row in rows) for name in wanted}


def _available_each(go: _Count, count: int) -> Figure:
    def each(name: str) -> float:
        return abs((go.before[name] + go.after[name]) / 2 - go.during[name]) / count

    parts = ", ".join(f"{name} {each(name):.0f}" for name in _KERNEL)
    uncertain = f"±{go.drift / 2 / count:.0f} KiB by what the host itself did meanwhile"
    figure = Figure(
        "memory_available",
        f"memory of an idle sandbox, by MemAvailable ({count} of them)",
        "KiB",
        Target(_LIMIT_KIB),
        note=f"of it in the kernel, KiB: {parts}; uncertain: {uncertain}",
    )
    figure.add([each("MemAvailable")], None, proc.load())
    return figure


def _processes(daemon: Daemon) -> int | None:
    """PSS of keeper and all that descends from it, in KiB. None where one may not be read."""
    parts = [proc.Memory.of(pid).pss for pid in (daemon.keeper, *proc.descendants(daemon.keeper))]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _pss_each(go: _Count, count: int) -> Figure:
    figure = Figure(
        "memory_pss",
        f"memory of an idle sandbox, by PSS of its processes ({count} of them)",
        "KiB",
        Target(_LIMIT_KIB),
        note="without what the kernel needs for it",
    )
    if go.own_before is None or go.own_during is None:
        figure.missing = "the processes are non-dumpable: only root may read their smaps_rollup"
    else:
        figure.add([(go.own_during - go.own_before) / count], None, proc.load())
    return figure


def _services(daemon: Daemon, count: int) -> list[Figure]:
    found = []
    for name, pid in (("api", daemon.api), ("keeper", daemon.keeper), ("supervisor", daemon.supervisor)):
        memory = proc.Memory.of(pid)
        pss = "not for us to read" if memory.pss is None else f"{memory.pss} KiB"
        figure = Figure(f"memory_{name}", f"RSS of {name} with {count} sandboxes", "KiB", note=f"PSS {pss}")
        figure.add([memory.rss], None, proc.load())
        found.append(figure)
    return found
