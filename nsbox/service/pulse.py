"""Keeps the ledger able to tell the truth: when sandboxes were last known alive, under which wall clock they
run, and that few of its entries are not folded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import trio

from nsbox.model.lifecycle import State
from nsbox.model.usage import SECOND, Moment
from nsbox.service import clock
from nsbox.service.registry import Registry
from nsbox.store.ledger import Ledger

_log = logging.getLogger(__name__)

#: As often as keeper is asked: so much of a run may not be billed when its keeper or its host dies.
INTERVAL = 2.0
#: How many beats from one folding to the next.
_FOLD = 5
#: What is taken for a clock that was set, in microseconds. One that is slewed gets there as well, late.
_STEP = SECOND


class Keeper(Protocol):
    """What is asked of the link to keeper."""

    answered_at: float  # time.monotonic()


class Pulse:
    """Beats while something runs."""

    def __init__(
        self, ledger: Ledger, registry: Registry, keeper: Keeper, now: Callable[[], Moment] = clock.moment
    ) -> None:
        self._ledger, self._registry, self._keeper, self._now = ledger, registry, keeper, now
        self._offset: int | None = None

    async def begin(self) -> None:
        """At api's start, before anything is found lost: from here on there is a ledger, and an api before
        this one may have known another wall clock."""
        now = self._now()
        await self._ledger.take_over(now)
        last = await self._ledger.last_pulse()
        self._offset = last.wall - last.ticks if last is not None and last.boot == now.boot else None

    async def watch(self) -> None:
        """For ever."""
        beats, failing = 0, False
        while True:
            try:
                await self.beat()
                if beats % _FOLD == 0:
                    await self._ledger.fold()
                failing = False
            except Exception:
                if not failing:  # a full disk stays full for a while
                    _log.exception("the ledger could not be kept")
                failing = True
            beats += 1
            await trio.sleep(INTERVAL)

    async def beat(self) -> None:
        """Note that what runs was alive when keeper last answered."""
        if not any(live.record.state is State.RUNNING for live in self._registry.all()):
            self._offset = None  # whoever runs next begins under the clock as it is then
            return
        now = self._now()
        if self._offset is None:
            self._offset = now.wall - now.ticks
        elif abs(now.wall - now.ticks - self._offset) >= _STEP:
            self._offset = now.wall - now.ticks
            _log.info("the wall clock was set; %d sandboxes run on", await self._ledger.begin_again(now))
        ago = max(0, round((time.monotonic() - self._keeper.answered_at) * SECOND))
        await self._ledger.pulse(Moment(now.wall - ago, now.boot, now.ticks - ago))
