"""Whether sandboxes can be made now, and what is not as it should be. Asked for often, so nothing is tried
here: what is told was learnt by the way, or by a write of one page now and then."""

from __future__ import annotations

import logging
import time

import trio

import nsbox
from nsbox.host.keeper import KeeperLink
from nsbox.host.storage import Reserve
from nsbox.model.errors import HostProblem, Problem
from nsbox.service.registry import Registry
from nsbox.settings import NetworkUse, Settings
from nsbox.store.database import Database

_log = logging.getLogger(__name__)

#: keeper is asked every 2 s, and answers at once.
_KEEPER_PATIENCE = 10.0
#: How often it is tried whether the record can be written, in seconds.
_PROBE = 10.0


class Health:
    """Told by the daemon what it knows."""

    def __init__(
        self, registry: Registry, keeper: KeeperLink, reserve: Reserve, database: Database, settings: Settings
    ) -> None:
        self._registry, self._keeper, self._reserve = registry, keeper, reserve
        self._database, self._settings = database, settings
        self._record_trouble = ""
        self.ready = False

    async def watch(self) -> None:
        """Try whether the record can be written, for ever."""
        while True:
            await self.probe()
            await trio.sleep(_PROBE)

    async def probe(self) -> None:
        """A write that changes nothing, of the one page that every database has."""
        trouble = ""
        try:
            await self._database.probe()
        except HostProblem as problem:
            trouble = problem.detail
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
        if trouble and not self._record_trouble:
            _log.error("the record cannot be written: %s", trouble)
        self._record_trouble = trouble

    def reasons(self) -> tuple[bool, list[str]]:
        """Whether sandboxes can be made, and what is wrong, as names that stay the same."""
        stops = []
        if time.monotonic() - self._keeper.answered_at > _KEEPER_PATIENCE:
            stops.append("keeper_away")
        if self._record_trouble:
            stops.append("record_not_writable")
        try:
            self._reserve.check()
        except (Problem, OSError):
            stops.append("disk_reserve_reached")
        others = []
        if len(self._registry) >= self._settings.max_sandboxes:
            others.append("too_many_sandboxes")  # busy, not ill: whoever restarts it would make it worse
        if self._settings.network is NetworkUse.ON and not self._keeper.network.up:
            others.append("network_down")
        return not stops, stops + others

    def health(self) -> tuple[bool, dict[str, object]]:
        """Whether sandboxes can be made, and facts that are no secret."""
        able, reasons = self.reasons()
        if not self.ready:
            status = "starting"
        elif not able:
            status = "unavailable"
        else:
            status = "degraded" if reasons else "ok"
        return self.ready and able, {
            "status": status,
            "reasons": reasons,
            "version": nsbox.__version__,
            "sandboxes": len(self._registry),
            "enforced": list(self._keeper.enforced),
        }
