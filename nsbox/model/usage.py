"""What is billed: from transitions of sandboxes to seconds. Pure, in integers: microseconds and seconds.

A sandbox runs from an entry that leads to ``running`` to the next one that leads away from it, and its length
is a difference of CLOCK_BOOTTIME within one boot: nobody can set that clock. Between two boots nothing runs.
The wall clock only says when a run began; from there on its seconds follow one another, whatever is done to
the wall clock meanwhile.

All running time of a sandbox is one line on which the pauses are left out. Its n-th second is billed, whole,
when it begins, and belongs to the day (UTC) in which it does. So a sandbox costs its whole running time
rounded up once, however often it was paused; and days, sandboxes and keys are sums of the same seconds.
See adr/0065.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nsbox.model.lifecycle import State

SECOND = 1_000_000
DAY = 86_400 * SECOND
_RUNNING = State.RUNNING.value


class Moment(NamedTuple):
    """``wall``: microseconds since the epoch, by a clock that may be wrong. ``ticks``: microseconds of
    CLOCK_BOOTTIME, which mean something within the boot ``boot`` only."""

    wall: int
    boot: str
    ticks: int


class Entry(NamedTuple):
    """A transition of a sandbox, as the ledger has it. ``before`` is empty at the beginning. ``key`` is the
    id of the key that made the sandbox."""

    seq: int
    sandbox: str
    owner: str
    key: str
    before: str
    after: str
    wall: int
    boot: str
    ticks: int

    @property
    def moment(self) -> Moment:
        """When it was."""
        return Moment(self.wall, self.boot, self.ticks)


class Run(NamedTuple):
    """A stretch of running: it began at ``wall`` when the sandbox had run for ``ran`` already."""

    ran: int
    wall: int
    length: int


class Meter(NamedTuple):
    """Of one sandbox: how long it has run, and since when it does, if it does."""

    owner: str
    key: str
    ran: int = 0
    since: Moment | None = None

    def until(self, moment: Moment) -> Run | None:
        """The run that lasts, up to then. A moment of another boot, or before it, ends it where it began:
        more is not known."""
        if self.since is None:
            return None
        known = self.since.boot == moment.boot
        return Run(self.ran, self.since.wall, max(0, moment.ticks - self.since.ticks) if known else 0)

    def after(self, entry: Entry) -> Meter:
        """What it shows then."""
        run = self.until(entry.moment)
        ran = self.ran + (run.length if run is not None else 0)
        return Meter(self.owner, self.key, ran, entry.moment if entry.after == _RUNNING else None)


class Cell(NamedTuple):
    """Seconds of one sandbox on one day, which is counted from the epoch."""

    day: int
    sandbox: str
    key: str
    seconds: int


def whole_seconds(length: int) -> int:
    """Rounded up."""
    return -(-length // SECOND)


def by_day(run: Run) -> Iterator[tuple[int, int]]:
    """Its seconds, by the day in which each begins."""
    done, end = whole_seconds(run.ran), whole_seconds(run.ran + run.length)
    while done < end:
        day = (run.wall + done * SECOND - run.ran) // DAY
        # How many begin before the day is over, counted from the sandbox's first.
        before = min(end, whole_seconds((day + 1) * DAY - run.wall + run.ran))
        yield day, before - done
        done = before


class Fold:
    """Takes entries in, in their order. ``meters``: what is known of sandboxes by what came before."""

    def __init__(self, meters: dict[str, Meter] | None = None) -> None:
        self.meters = meters if meters is not None else {}
        self.seconds: dict[tuple[int, str], int] = {}
        self.keys: dict[str, str] = {}

    def take(self, entry: Entry) -> None:
        """One more."""
        meter = self.meters.get(entry.sandbox) or Meter(entry.owner, entry.key)
        self._bill(entry.sandbox, meter, entry.moment)
        if State(entry.after).final:
            self.meters.pop(entry.sandbox, None)  # nothing follows
        else:
            self.meters[entry.sandbox] = meter.after(entry)

    def look(self, now: Moment) -> None:
        """Bill what runs, up to now. Nothing may be taken in after that."""
        for sandbox, meter in self.meters.items():
            self._bill(sandbox, meter, now)

    def _bill(self, sandbox: str, meter: Meter, moment: Moment) -> None:
        run = meter.until(moment)
        if run is None:
            return
        self.keys[sandbox] = meter.key
        for day, seconds in by_day(run):
            self.seconds[day, sandbox] = self.seconds.get((day, sandbox), 0) + seconds

    def cells(self) -> list[Cell]:
        """What has been billed."""
        return [
            Cell(day, sandbox, self.keys[sandbox], seconds)
            for (day, sandbox), seconds in self.seconds.items()
        ]


def bill(entries: Iterable[Entry], now: Moment) -> list[Cell]:
    """All of a ledger, from its beginning."""
    fold = Fold()
    for entry in entries:
        fold.take(entry)
    fold.look(now)
    return fold.cells()


def runs_out(used: int, meters: Iterable[Meter], allowed: int, now: Moment) -> int | None:
    """When the first second begins that is one too many, in ticks of this boot; None where nothing runs.
    ``used`` counts the seconds that have begun."""
    left = allowed - used
    until_next = []
    for meter in meters:
        run = meter.until(now)
        if run is not None:
            until_next.append(-(run.ran + run.length) % SECOND)
    if not until_next:
        return None
    if left < 0:
        return now.ticks
    rounds, place = divmod(left, len(until_next))
    return now.ticks + rounds * SECOND + sorted(until_next)[place]
