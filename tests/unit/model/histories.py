"""Simulated months: sandboxes that are made, paused, resumed and killed while api, keeper and the host crash
and somebody sets the clock. What they cost is known by another way than the ledger's: time is let pass."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from hypothesis import strategies as st

from nsbox.model.lifecycle import State
from nsbox.model.usage import DAY, SECOND, Entry, Moment

BEGIN = 1_793_491_200 * SECOND  # 2026-11-01T00:00:00Z
_PULSE = 2 * SECOND


class Box:
    """A sandbox, as whoever watches it sees it."""

    def __init__(self, name: str, owner: str, key: str) -> None:
        self.name, self.owner, self.key = name, owner, key
        self.state = State.CREATING
        #: When it ran, by a true clock: from, to, and how wrong the wall clock was.
        self.ran: list[tuple[int, int, int]] = []
        self.since: int | None = None
        self.skew = 0


class World:
    """``true`` is real time, which nobody in it knows; ``skew`` how wrong the wall clock is."""

    def __init__(self, true: int = BEGIN) -> None:
        self.true, self.skew, self.boots = true, 0, 1
        self.booted = true
        self.boxes: list[Box] = []
        self.entries: list[Entry] = []
        self.pulse: tuple[Moment, int] | None = None
        self.last_beat = true
        self.api = True

    @property
    def now(self) -> Moment:
        return Moment(self.true + self.skew, f"boot-{self.boots}", self.true - self.booted)

    # ---- time

    def wait(self, length: int) -> None:
        """Time passes; while api lives and something runs, there is a beat every two seconds."""
        end = self.true + length
        if self.api and any(box.state is State.RUNNING for box in self.boxes):
            if self.last_beat + _PULSE <= end:
                self.true = max(self.true, self.last_beat + _PULSE)
                self._beat()
            self.last_beat += (end - self.last_beat) // _PULSE * _PULSE
            if self.last_beat > self.true:
                self.true = self.last_beat
                self._beat()
        self.true = end

    def _beat(self) -> None:
        """What runs is known alive, and runs on under the clock as it is."""
        self.last_beat = self.true
        for box in self.boxes:
            if box.state is State.RUNNING and box.skew != self.skew:
                self._stop(box, self.true)
                self._note(box, State.RUNNING, State.RUNNING, self.now)
                self._start(box)
        self.pulse = self.now, self.true

    def set_clock(self, skew: int) -> None:
        """As somebody with root may."""
        self.skew = skew

    # ---- what clients do; only with an api

    def create(self, owner: str, key: str) -> None:
        box = Box(f"sb_{len(self.boxes)}", owner, key)
        self.boxes.append(box)
        self._note(box, None, State.CREATING, self.now)

    def ready(self, box: Box) -> None:
        if self._moved(box, State.CREATING, State.RUNNING):
            self._start(box)

    def fail(self, box: Box) -> None:
        self._moved(box, State.CREATING, State.FAILED)

    def pause(self, box: Box) -> None:
        if self._moved(box, State.RUNNING, State.PAUSED):
            self._stop(box, self.true)

    def resume(self, box: Box) -> None:
        if self._moved(box, State.PAUSED, State.RUNNING):
            self._start(box)

    def kill(self, box: Box) -> None:
        if box.state.final or not self.api:
            return
        if box.state is State.RUNNING:
            self._stop(box, self.true)
        self._note(box, box.state, State.STOPPING, self.now)

    def gone(self, box: Box) -> None:
        self._moved(box, State.STOPPING, State.STOPPED)

    # ---- crashes

    def api_dies(self, away: int) -> None:
        """Sandboxes live on, and nobody beats meanwhile."""
        self.api = False
        self.wait(away)
        self._api_starts()

    def keeper_dies(self, away: int) -> None:
        """And all sandboxes with it. They are found lost when the daemon starts again."""
        self.api = False
        self.true += away
        self._lose()
        self._api_starts()

    def host_dies(self, away: int) -> None:
        """The same; and ticks begin anew."""
        self.api = False
        self.true += away
        self.boots += 1
        self.booted = self.true
        self._lose()
        self._api_starts()

    def _api_starts(self) -> None:
        self.api = True
        self._beat()

    def _lose(self) -> None:
        """What the record says was alive was so at the last pulse, and more is not known."""
        known = self.pulse[1] if self.pulse is not None else None
        moment = self.pulse[0] if self.pulse is not None else self.now._replace(boot="", ticks=0)
        for box in self.boxes:
            if box.state.final:
                continue
            if box.state is State.RUNNING:
                assert box.since is not None
                self._stop(box, max(box.since, known if known is not None else box.since))
            lost = State.STOPPED if box.state is State.STOPPING else State.LOST
            self._note(box, box.state, lost, self.now if lost is State.STOPPED else moment)

    # ---- the ledger, and the truth

    def _moved(self, box: Box, before: State, after: State) -> bool:
        if box.state is not before or not self.api:
            return False
        self._note(box, before, after, self.now)
        return True

    def _note(self, box: Box, before: State | None, after: State, moment: Moment) -> None:
        box.state = after
        first = "" if before is None else before.value
        seq = len(self.entries) + 1
        self.entries.append(Entry(seq, box.name, box.owner, box.key, first, after.value, *moment))

    def _start(self, box: Box) -> None:
        box.since, box.skew = self.true, self.skew

    def _stop(self, box: Box, at: int) -> None:
        assert box.since is not None
        box.ran.append((box.since, at, box.skew))
        box.since = None

    def cost(self) -> Counter[tuple[int, str]]:
        """Seconds by day and sandbox: a coin is thrown in whenever the sandbox runs and the last one is used
        up, and falls on the day that the wall clock shows."""
        found: Counter[tuple[int, str]] = Counter()
        for box in self.boxes:
            lasting = [] if box.since is None else [(box.since, self.true, box.skew)]
            paid = 0  # microseconds that are paid for, and not run yet
            for begin, end, skew in [*box.ran, *lasting]:
                at = begin
                while at < end:
                    sure = min(end - at, DAY - (at + skew) % DAY) // SECOND
                    if not paid and sure:  # so many coins one after the other, all on this day
                        found[(at + skew) // DAY, box.name] += sure
                        at += sure * SECOND
                        continue
                    if not paid:
                        found[(at + skew) // DAY, box.name] += 1
                        paid = SECOND
                    step = min(paid, end - at)
                    at, paid = at + step, paid - step
        return found


class Event(NamedTuple):
    """What happens next, and how long after the one before."""

    after: int
    what: str
    which: int
    length: int


_WHAT = [
    *("create", "ready", "ready", "pause", "resume", "resume", "kill", "gone") * 3,
    *("fail", "api_dies", "keeper_dies", "host_dies", "set_clock"),
]
#: Microseconds: seconds mostly, and any at all.
LENGTHS = st.one_of(
    st.integers(0, 3 * SECOND),
    st.integers(0, 30).map(lambda seconds: seconds * SECOND),
    st.integers(0, 2 * 3600 * SECOND),
)
EVENTS = st.lists(
    st.builds(Event, LENGTHS, st.sampled_from(_WHAT), st.integers(0, 7), LENGTHS), min_size=20, max_size=60
)
_OWNERS, _KEYS = ("us_ann", "us_bob"), ("key_1", "key_2", "key_3")


def happen(world: World, event: Event) -> None:
    """One event."""
    world.wait(event.after)
    if event.what == "create":
        world.create(_OWNERS[event.which % 2], _KEYS[event.which % 3])
    elif event.what == "set_clock":
        world.set_clock((event.which - 3) * event.length)
    elif event.what in ("api_dies", "keeper_dies", "host_dies"):
        getattr(world, event.what)(event.length)
    elif alive := [box for box in world.boxes if not box.state.final]:
        getattr(world, event.what)(alive[-1 - event.which % len(alive)])
