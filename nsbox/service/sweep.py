"""Now and then: are the records, the host and what is in memory of one mind? What differs is told, counted
and mended.

Two rules keep it off what is just happening. Each difference must be seen by two sweeps in a row, an interval
apart, before it counts. And keeper is asked before the registry is read: a sandbox that was made in between
is missing from keeper's list once, and never twice. See adr/0061.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
import trio

from nsbox.host import shelf
from nsbox.host.keeper import KeeperLink
from nsbox.model.lifecycle import EndReason, State
from nsbox.model.sandbox import Sandbox
from nsbox.service import clock
from nsbox.service.registry import Live, Registry
from nsbox.service.sandboxes import Sandboxes
from nsbox.service.tally import Tally

_log = logging.getLogger(__name__)


class Finding(NamedTuple):
    """A difference: by which rule, and of what."""

    rule: str
    name: str


class Sweep:
    """Looks, and mends. ``interval`` in seconds."""

    def __init__(
        self,
        registry: Registry,
        sandboxes: Sandboxes,
        keeper: KeeperLink,
        state_dir: str,
        interval: float,
        tally: Tally,
    ) -> None:
        self._registry, self._sandboxes, self._keeper = registry, sandboxes, keeper
        self._state_dir, self._interval, self._tally = state_dir, interval, tally
        self._seen: set[Finding] = set()
        self._rows: dict[str, Sandbox] = {}
        self._menders: dict[str, Callable[[str], Awaitable[None]]] = {
            "unknown_box": self._keeper.destroy,
            "missing_box": self._bury,
            "frozen_though_running": self._let_go_on,
            "running_though_paused": self._freeze,
            "unknown_row": self._lose,
            "missing_row": self._write_again,
            "unknown_logs": self._clear_logs,
        }

    async def watch(self) -> None:
        """For ever."""
        while True:
            await trio.sleep(self._interval)
            try:
                await self.look()
            except Exception:
                _log.exception("the records could not be compared with the host")

    async def look(self) -> list[Finding]:
        """One sweep; what counted, and was mended or tried to be."""
        # keeper mends what is its own: strays that belong to no box.
        strays = [Finding(*row.split(" ", 1)) for row in await self._keeper.audit()]
        found = await self._differences()
        confirmed = [one for one in found if one in self._seen]
        self._seen = set(found) - set(confirmed)
        for one in strays + confirmed:
            _log.warning("the sweep found: %s: %s", one.rule, one.name)
            self._tally.swept.add(one.rule)
        for one in confirmed:
            try:
                await self._menders[one.rule](one.name)
            except Exception:
                _log.exception("%s of %s could not be mended", one.rule, one.name)
        return strays + confirmed

    async def _differences(self) -> list[Finding]:
        await self._keeper.ping()
        boxes = set(self._keeper.sandboxes)  # before the registry is looked at
        rows = self._rows = {row.id: row for row in await self._registry.store.all_alive()}
        living = {live.record.id: live for live in self._registry.all()}
        found = [Finding("unknown_box", one) for one in boxes - set(living)]
        found += [Finding("unknown_row", one) for one in set(rows) - set(living)]
        for sandbox_id, live in living.items():
            if live.record.state in (State.RUNNING, State.PAUSED):
                if sandbox_id not in boxes:
                    found.append(Finding("missing_box", sandbox_id))
                elif (rule := _standstill(live)) is not None:
                    found.append(Finding(rule, sandbox_id))
                if sandbox_id not in rows:
                    found.append(Finding("missing_row", sandbox_id))
        folders = await trio.to_thread.run_sync(shelf.unused, self._state_dir, set(living))
        found += [Finding("unknown_logs", folder) for folder in folders]
        return sorted(found)

    # ---- mended. Each looks again: something may have happened since.

    async def _bury(self, sandbox_id: str) -> None:
        self._sandboxes.gone(sandbox_id)

    async def _let_go_on(self, sandbox_id: str) -> None:
        live = self._registry.find(sandbox_id)
        if live is not None:
            async with live.turn:
                if live.record.state is State.RUNNING:
                    await self._keeper.thaw(sandbox_id)

    async def _freeze(self, sandbox_id: str) -> None:
        live = self._registry.find(sandbox_id)
        if live is not None:
            async with live.turn:
                if live.record.state is State.PAUSED:
                    await self._sandboxes.pauses.keep(live)

    async def _lose(self, sandbox_id: str) -> None:
        row = self._rows.get(sandbox_id)
        if row is not None and self._registry.find(sandbox_id) is None:
            lost = msgspec.structs.replace(
                row, state=State.LOST, end_reason=EndReason.LOST, ended_at=clock.wall()
            )
            await self._registry.store.update(lost)

    async def _write_again(self, sandbox_id: str) -> None:
        live = self._registry.find(sandbox_id)
        if live is not None and live.record.state.alive:
            await self._registry.store.insert(live.record)

    async def _clear_logs(self, folder: str) -> None:
        if self._registry.find(folder.rpartition("/")[2]) is None:
            await trio.to_thread.run_sync(shelf.clear, [folder])


def _standstill(live: Live) -> str | None:
    """Whether the kernel says something else than the record. Not while a pause or a resume is under way."""
    if not live.record.cgroup or live.turn.locked():
        return None
    try:
        with open(f"{live.record.cgroup}/cgroup.events", encoding="ascii") as file:
            frozen = "frozen 1" in file.read()
    except OSError:
        return None
    if frozen is (live.record.state is State.PAUSED):
        return None
    return "frozen_though_running" if frozen else "running_though_paused"
