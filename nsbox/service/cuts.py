"""What a sandbox has written, copied at one moment: it stands still meanwhile, where it can be made to.

Nothing of that is in the record. An api that dies meanwhile leaves a frozen sandbox that the record calls
running, and the next one thaws those before it asks them anything; the copy is given up by its worker, which
sees that nobody waits any more.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from nsbox.host.box import Unresponsive
from nsbox.host.keeper import KeeperLink
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.lifecycle import Action, State, after
from nsbox.model.sandbox import Backend, Sandbox
from nsbox.model.snapshot import Cut, Standstill
from nsbox.oci.snapshots.orders import Durable, TakeOrder, Taking, TaskRefused
from nsbox.oci.unpacking.refusal import Reason
from nsbox.plan.storage import MIB
from nsbox.service.registry import Live
from nsbox.settings import Settings

_log = logging.getLogger(__name__)


class Cuts:
    """Copies for snapshots, forks and built templates. ``nursery`` is the daemon's."""

    def __init__(self, keeper: KeeperLink, settings: Settings, nursery: trio.Nursery) -> None:
        self._keeper, self._settings, self._nursery = keeper, settings, nursery

    async def cut(
        self,
        live: Live,
        layer: str,
        durable: Durable | None = None,
        *,
        must_stand: bool = False,
    ) -> tuple[Cut, Standstill]:
        """Make ``layer`` of what ``live`` has written; the caller holds it. ``durable`` is called when it is
        on disk. ``must_stand``: rather no copy than one of a sandbox that runs.

        Raises ``Problem``, ``HostProblem``, and nothing is left then.
        """
        async with live.turn:  # nobody pauses or resumes it meanwhile
            after(live.record.state, Action.SNAPSHOT)
            check_storage(live.record)
            with Taking(self._keeper, self._nursery, layer, durable) as worker:
                async with self._standing(live, must_stand=must_stand) as how:
                    try:
                        cut = await worker.make(self._order(live, durable))
                    except TaskRefused as refused:
                        raise problem_of(refused) from refused
            after(live.record.state, Action.SNAPSHOT)  # ended meanwhile?
        return cut, how

    def _order(self, live: Live, durable: Durable | None) -> TakeOrder:
        settings = self._settings
        return TakeOrder(
            sandbox=live.record.id,
            sync=durable is not None,
            seconds=float(settings.snapshot_timeout_s),
            max_bytes=settings.max_layer_bytes,
            max_entries=settings.max_layer_entries,
            reserve=settings.reserve_mb * MIB,
        )

    @asynccontextmanager
    async def _standing(self, live: Live, *, must_stand: bool) -> AsyncGenerator[Standstill, None]:
        """No process of it runs, if that can be had. Questions to its init wait meanwhile."""
        if live.record.state is State.PAUSED:
            yield Standstill.PAUSED
            return
        try:
            yield await self._stopped(live, must_stand)
        finally:
            # Whoever leaves must not leave it standing.
            with trio.CancelScope(shield=True):
                await self._go_on(live)

    async def _stopped(self, live: Live, must_stand: bool) -> Standstill:
        if live.box is not None:
            live.box.time.stop()
            try:
                await live.box.quiet()
            except Unresponsive as error:
                detail = f"the sandbox cannot be made to stand still: {error}"
                raise Problem(Code.SANDBOX_UNRESPONSIVE, detail, remedy="try again") from error
        try:
            await self._keeper.freeze(live.record.id)
        except Problem as problem:
            if problem.code is not Code.HOST_LACKS or must_stand:
                raise
            if live.box is not None:
                live.box.time.go_on()
            return Standstill.RUNNING
        return Standstill.FROZEN

    async def _go_on(self, live: Live) -> None:
        try:
            await self._keeper.thaw(live.record.id)
        except Problem as problem:
            if problem.code not in (Code.HOST_LACKS, Code.SANDBOX_GONE):
                _log.error("%s may stand still: %s", live.record.id, problem.detail)
        if live.box is not None:
            live.box.time.go_on()


def check_storage(record: Sandbox) -> None:
    """Raises ``Problem`` where what it has written cannot be reached."""
    storage = record.storage
    if storage is not None and storage.backend is Backend.TMPFS:
        raise Problem(
            Code.SNAPSHOT_REFUSED,
            "what sandboxes write is kept in memory here (storage = tmpfs), where no snapshot can be taken",
            remedy="have the operator choose another storage",
        )


def problem_of(refused: TaskRefused) -> Problem | HostProblem:
    """What a task's refusal means for who asked."""
    match refused.reason:
        case Reason.BUSY:
            return Problem(Code.SANDBOX_GONE, "the sandbox ended meanwhile", remedy="create a new sandbox")
        case Reason.NO_SPACE:
            return Problem(
                Code.HOST_FULL,
                "the host's disk is nearly full: nothing new is taken in until there is space",
                remedy="delete sandboxes or snapshots that are not needed, or try again later",
            )
        case Reason.HOST | Reason.INTERNAL | Reason.EXISTS:
            return HostProblem(f"the task failed: {refused.detail}", remedy="see the log")
        case _:
            return Problem(
                Code.SNAPSHOT_REFUSED, refused.detail, remedy="remove files that are not needed and try again"
            )
