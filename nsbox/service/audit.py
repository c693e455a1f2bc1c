"""The audit log: taken down before requests are answered, written to the record behind their backs.

What is noted goes to a file at once, which outlives a crash of this process, and within a second to the
record, where it is looked for. Keys that are not known are summed up by address and minute, and of no more
than a few addresses, so that a guesser fills no disk; those of the last minute a crash loses."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import trio

from nsbox.model.audit import Event, Outcome, Wish
from nsbox.model.errors import HostProblem
from nsbox.store.audit import AuditTable
from nsbox.store.audit_tail import AuditTail

_log = logging.getLogger(__name__)

#: How long something may be in memory and the file only.
FLUSH_S = 1.0
_FORGET_S = 3600.0
#: Guesses: one record for each of so many addresses in so many seconds, and one for all others.
BURST_S = 60.0
ADDRESSES = 4
OTHERS = "others"
GUESS = "authenticate"
#: What cannot be written is kept up to here; then the oldest go, and a line in the operator's log says so.
_MOST = 50_000
_DAY = 86_400.0


class _Guesses(NamedTuple):
    first: float
    number: int


class Audit:
    """Noted by the HTTP layer."""

    def __init__(self, table: AuditTable, tail: AuditTail, keep_days: int, most: int) -> None:
        self._table, self._keep_s, self._limit = table, keep_days * _DAY, most
        self._tail, self._trouble = tail, ""
        self._waiting: deque[Event] = deque()
        self._guesses: dict[str, _Guesses] = {}
        self._burst_ends = 0.0
        self._lost = 0
        self._flushing = trio.Lock()

    def note(self, event: Event) -> None:
        """Take it down. Returning means that a crash does not lose it; requests wait for that, so it is no
        more than an append."""
        if len(self._waiting) >= _MOST:
            self._waiting.popleft()
            self._lost += 1
        else:  # the file is bounded by the same number
            self._in_file(lambda: self._tail.add(event))
        self._waiting.append(event)

    def _in_file(self, work: Callable[[], None]) -> None:
        """What the file does not take is in memory still: for the operator to know, not for the client."""
        try:
            work()
        except HostProblem as problem:
            self._trouble = problem.detail

    def note_guess(self, client: str) -> None:
        """A key was shown that opens nothing."""
        now = time.time()
        if not self._guesses:
            self._burst_ends = time.monotonic() + BURST_S
        name = client if client in self._guesses or len(self._guesses) < ADDRESSES else OTHERS
        known = self._guesses.get(name, _Guesses(now, 0))
        self._guesses[name] = known._replace(number=known.number + 1)

    async def find(self, wish: Wish) -> list[Event]:
        """The newest first; what was noted before this is among them."""
        await self.flush(guesses=False)
        return await self._table.find(wish)

    async def flush(self, *, guesses: bool) -> None:
        """Write what waits. ``guesses``: also those of a minute that has not passed yet."""
        async with self._flushing:
            if guesses or (self._guesses and time.monotonic() >= self._burst_ends):
                self._end_burst()
            if self._tail.left:
                await self._table.restore(self._tail.left)
                self._tail.left = []
            batch = list(self._waiting)
            if batch:
                await self._table.append(batch)
            for _ in range(min(len(batch), len(self._waiting))):
                self._waiting.popleft()
            self._in_file(lambda: self._tail.keep(self._waiting))

    def _end_burst(self) -> None:
        for client, found in self._guesses.items():
            self.note(
                Event(
                    at=found.first,
                    action=GUESS,
                    client=client,
                    outcome=Outcome.REFUSED,
                    status=401,
                    count=found.number,
                )
            )
        self._guesses.clear()

    async def watch(self) -> None:
        """Write and forget, for ever."""
        next_forget = 0.0
        while True:
            await self._tried()
            if time.monotonic() >= next_forget:
                next_forget = time.monotonic() + _FORGET_S
                await self._forget()
            await trio.sleep(FLUSH_S)

    async def close(self) -> None:
        """Write all: the last that is done before the record is closed."""
        with trio.CancelScope(shield=True):
            await self._tried(guesses=True)

    async def _tried(self, *, guesses: bool = False) -> None:
        try:
            await self.flush(guesses=guesses)
        except HostProblem as problem:
            _log.error("the audit log cannot be written, and waits: %s", problem.detail)
        if self._trouble:
            _log.error("a crash would lose the last second of the audit log: %s", self._trouble)
            self._trouble = ""
        if self._lost:
            _log.error("%d events of the audit log are lost: too many waited to be written", self._lost)
            self._lost = 0

    async def _forget(self) -> None:
        try:
            await self._table.forget(time.time() - self._keep_s, self._limit)
        except HostProblem as problem:
            _log.warning("the audit log is not shortened: %s", problem.detail)
