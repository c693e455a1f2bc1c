"""What each sandbox uses: now, and for the last hour, in memory.

An hour is 120 samples of twelve numbers: 12.5 KB for each sandbox at most. They are forgotten with the
sandbox, and when this process is replaced.
"""

from __future__ import annotations

import logging
from array import array

import trio

from nsbox.host import meters
from nsbox.model.lifecycle import Action, State, after
from nsbox.model.metrics import Reading, Sample
from nsbox.model.sandbox import Sandbox
from nsbox.service import clock
from nsbox.service.registry import Registry

_log = logging.getLogger(__name__)

INTERVAL = 30.0
KEPT = 120
_METERED = (State.RUNNING, State.PAUSED)
_WIDTH = len(Reading._fields)
_UNKNOWN = -1


class Ring:
    """The last samples of one sandbox, oldest first when asked for."""

    def __init__(self) -> None:
        self._at = array("d")
        self._numbers = array("q")
        self._next = 0

    def add(self, at: float, reading: Reading) -> None:
        row = [_UNKNOWN if one is None else min(one, (1 << 63) - 1) for one in reading]
        if len(self._at) < KEPT:
            self._at.append(at)
            self._numbers.extend(row)
            return
        self._at[self._next] = at
        self._numbers[self._next * _WIDTH : (self._next + 1) * _WIDTH] = array("q", row)
        self._next = (self._next + 1) % KEPT

    def all(self) -> list[tuple[float, Reading]]:
        found = []
        for step in range(len(self._at)):
            place = (self._next + step) % len(self._at)
            row = self._numbers[place * _WIDTH : (place + 1) * _WIDTH]
            found.append((self._at[place], Reading(*(None if one == _UNKNOWN else one for one in row))))
        return found


class Meters:
    """Reads, and remembers."""

    def __init__(self, registry: Registry, state_dir: str) -> None:
        self._registry, self._state_dir = registry, state_dir
        self._rings: dict[str, Ring] = {}
        registry.on_end(self._forget)

    def _forget(self, sandbox_id: str) -> None:
        self._rings.pop(sandbox_id, None)

    async def watch(self) -> None:
        """Take a sample of everybody now and then, for ever."""
        while True:
            await trio.sleep(INTERVAL)
            try:
                await self.sample()
            except Exception:
                _log.exception("the use of sandboxes could not be read")

    async def sample(self) -> None:
        """One of each. In a worker thread: a few hundred sandboxes take some hundredths of a second."""
        records = self._metered()
        readings = await trio.to_thread.run_sync(lambda: [self.read(record) for record in records])
        now = clock.wall()
        for record, reading in zip(records, readings, strict=True):
            if self._registry.find(record.id) is not None:
                self._rings.setdefault(record.id, Ring()).add(now, reading)

    def _metered(self) -> list[Sandbox]:
        return [live.record for live in self._registry.all() if live.record.state in _METERED]

    async def of_all(self) -> list[tuple[str, Reading]]:
        """What everybody uses now."""
        records = self._metered()
        readings = await trio.to_thread.run_sync(lambda: [self.read(record) for record in records])
        return [(record.id, reading) for record, reading in zip(records, readings, strict=True)]

    def read(self, record: Sandbox) -> Reading:
        """What it uses now."""
        reading = meters.read(record.cgroup)
        used = meters.disk(self._state_dir, record.id, record.storage)
        return reading if used is None else reading._replace(disk=used[0], inodes=used[1])

    async def get(self, owner: str, sandbox_id: str) -> tuple[Sandbox, Sample, list[Sample]]:
        """The record, what it uses now, and the last hour. Raises ``Problem``."""
        record = await self._registry.record(owner, sandbox_id)
        after(record.state, Action.METRICS)
        ring = self._rings.get(sandbox_id)
        earlier = ring.all() if ring is not None else []
        *history, now = _rated([*earlier, (clock.wall(), self.read(record))])
        return record, now, history


def _rated(points: list[tuple[float, Reading]]) -> list[Sample]:
    found = []
    before: tuple[float, Reading] | None = None
    for at, reading in points:
        percent = None
        if before is not None and reading.cpu_us is not None and before[1].cpu_us is not None:
            passed = at - before[0]
            used = reading.cpu_us - before[1].cpu_us
            if passed > 0 and used >= 0:  # the wall clock may have been set
                percent = round(used / passed / 10_000, 2)
        found.append(Sample(at, reading, percent))
        before = at, reading
    return found
