"""The life of sandboxes: made, found, ended on request or on time, never half."""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial

import trio

from nsbox.host.box import Adopted, Box, Unresponsive
from nsbox.host.keeper import KeeperLink
from nsbox.host.storage import Reserve, Rooms
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.lifecycle import Action, EndReason, State
from nsbox.model.sandbox import Sandbox, SandboxSpec, Template, new_sandbox_id
from nsbox.model.standby import OnExpiry
from nsbox.plan import launch
from nsbox.service import clock, standby
from nsbox.service.pauses import Pauses
from nsbox.service.plans import Plans
from nsbox.service.registry import Live, Registry
from nsbox.service.templates import Templates
from nsbox.settings import Settings
from nsbox.wire.messages import Storage

_log = logging.getLogger(__name__)

#: How often agents that are not used are let go and ended records are looked at, in seconds.
_HOUSEKEEPING = 5.0
_PRUNING = 3600.0
#: How many sandboxes are taken over at once when api starts. Nobody is served before that is over, and an
#: init that says nothing is waited for as long as one that is slow: a tenant who has many such should cost
#: all others one wait, not one after the other.
_RECONCILED_AT_ONCE = 512
#: How often it is tried to pause what is to be paused at its end, and how long between, in seconds.
_PAUSE_TRIES = 10
_PAUSE_AGAIN = 1.0


class Sandboxes:
    """All sandboxes of this daemon. ``nursery`` is the daemon's: what is begun for a client is finished even
    when the client leaves. ``adopt`` takes over the commands of sandboxes that were found alive."""

    def __init__(
        self,
        registry: Registry,
        keeper: KeeperLink,
        templates: Templates,
        settings: Settings,
        run_dir: int,
        nursery: trio.Nursery,
        adopt: Callable[[str, Box, list[Adopted]], None],
        rooms: Rooms,
        reserve: Reserve,
        plans: Plans,
    ) -> None:
        self._adopt, self._rooms, self._reserve, self._plans = adopt, rooms, reserve, plans
        self._registry, self._keeper, self._templates = registry, keeper, templates
        self._settings, self._run_dir, self._nursery = settings, run_dir, nursery
        self._boot_id = clock.boot_id()
        self._closing = False
        self._wanted: Counter[str] = Counter()  # asked for, by owner, and not in the registry yet
        self._deadlines_changed = trio.Event()
        self.pauses = Pauses(registry, keeper, self._reattach, self._end, self._look_at_deadlines, plans)

    # ---- create

    async def create(self, owner: str, spec: SandboxSpec, *, on_disk: bool = False) -> Sandbox:
        """A running sandbox. When it raises, or the client leaves meanwhile, nothing of it is left.

        ``on_disk``: what it writes will be kept, so it has to be on the disk whatever the setting says.
        """
        self._plans.check(owner, spec.limits, spec.timeout_ms)
        self.check_room(owner, 1)
        self._reserve.check()
        making = _Making()
        self._wanted[owner] += 1
        try:
            await self._plans.check_seconds(owner)
            # It may have to be pulled first. No checkpoint between this and its layers being held.
            template = spec.base or await self._templates.obtain(spec.template, spec.pull)
            if self._closing:
                raise _shutting_down()
        except BaseException:
            self._no_longer_wanted(owner)
            raise
        record = self._new_record(owner, spec, template)
        holding = self._templates.hold(template.layers)
        holding.__enter__()
        self._nursery.start_soon(self._make, record, making, holding, on_disk)
        try:
            await making.done.wait()
        except trio.Cancelled:
            making.abandoned = True
            raise
        if making.problem is not None:
            raise making.problem
        assert making.record is not None
        return making.record

    async def check(self, owner: str, spec: SandboxSpec, count: int) -> None:
        """For who has work to do before so many are made. Raises what ``create`` would."""
        self._plans.check(owner, spec.limits, spec.timeout_ms)
        self.check_room(owner, count)
        await self._plans.check_seconds(owner)

    def check_room(self, owner: str, count: int) -> None:
        """Raises ``Problem`` when so many more are too many."""
        if self._closing:
            raise _shutting_down()
        self._plans.check_count(owner, self._wanted[owner] + count)
        there = len(self._registry) + self._wanted.total()
        if there + count > self._settings.max_sandboxes:
            raise Problem(
                Code.TOO_MANY_SANDBOXES,
                f"{there} sandboxes are alive already, of at most {self._settings.max_sandboxes}",
                remedy="delete some, or raise max_sandboxes",
            )

    def _no_longer_wanted(self, owner: str) -> None:
        self._wanted[owner] -= 1
        if not self._wanted[owner]:
            del self._wanted[owner]

    def _new_record(self, owner: str, spec: SandboxSpec, template: Template) -> Sandbox:
        now, seconds = clock.wall(), spec.timeout_ms / 1000
        return Sandbox(
            id=new_sandbox_id(),
            owner=owner,
            key=spec.key,
            state=State.CREATING,
            limits=spec.limits,
            timeout_ms=spec.timeout_ms,
            template=template.name,
            layers=template.layers,
            base=template,
            origin=spec.origin,
            env=spec.env,
            region=self._settings.region,
            network=spec.network,
            standby=spec.standby,
            created_at=now,
            expires_at=now + seconds,
            deadline=clock.boottime() + seconds,
            boot_id=self._boot_id,
            request=spec.request,
        )

    async def _make(
        self, record: Sandbox, making: "_Making", holding: AbstractContextManager[None], on_disk: bool
    ) -> None:
        try:
            try:
                live = await self._registry.add(record)
            finally:
                self._no_longer_wanted(record.owner)
                holding.__exit__(None, None, None)  # from here on the registry tells that they are needed
            try:
                making.record = await self._launch(live, on_disk)
            except BaseException:
                await self._roll_back(live)
                raise
            self._look_at_deadlines()
            if making.abandoned:
                await self._end(live, EndReason.KILLED)
        except Problem as problem:
            # Ended by the shutdown while it was being made: that is no conflict of the client's making.
            making.problem = _shutting_down() if self._closing else problem
        except Exception:
            _log.exception("a sandbox could not be made")
            making.problem = Problem(
                Code.CREATE_FAILED, "the sandbox could not be made", remedy="see the log"
            )
        finally:
            making.done.set()

    async def _launch(self, live: Live, on_disk: bool) -> Sandbox:
        storage = self._rooms.make(live.record.id, live.record.limits, on_disk=on_disk)
        order = launch.order(live.record, storage, self._settings.network_reachable)
        try:
            created = await self._keeper.create(order)
        except BaseException:
            self._rooms.discard(live.record.id)
            raise
        if live.record.standby.pauses and not created.cgroup:
            raise standby.no_freezer()
        try:
            box = Box(self._run_dir, live.record.id)
            await box.attach()
        except (OSError, Unresponsive) as error:
            raise Problem(Code.CREATE_FAILED, f"the sandbox's init does not answer: {error}") from error
        live.connect(box)
        self._nursery.start_soon(box.listen)
        return await self._registry.move(
            live, Action.READY, made=True, enforced=created.enforced, storage=storage, cgroup=created.cgroup
        )

    async def _roll_back(self, live: Live) -> None:
        with trio.CancelScope(shield=True):
            try:
                await self._keeper.destroy(live.record.id)
            except Problem:
                await self._registry.move(live, Action.KILL, EndReason.FAILED)  # house-keeping tries again
                return
            if live.record.state is State.CREATING:
                await self._registry.move(live, Action.FAIL, EndReason.FAILED)
            elif live.record.state is State.RUNNING:  # it ran, and that could not be written down
                await self._registry.move(live, Action.KILL, EndReason.FAILED)
                await self._registry.move(live, Action.GONE)

    # ---- look

    async def get(self, owner: str, sandbox_id: str) -> Sandbox:
        """The record, of the living and, for a while, of the ended."""
        live = self._registry.find(sandbox_id)
        if live is not None and live.record.owner == owner:
            await self._registry.look_at_memory(live)
        return await self._registry.record(owner, sandbox_id)

    async def list(self, owner: str, states: frozenset[State]) -> list[Sandbox]:
        """The owner's sandboxes in any of ``states``."""
        return await self._registry.records(owner, states)

    # ---- end

    async def kill(self, owner: str, sandbox_id: str) -> Sandbox:
        """End a sandbox; returns when nothing of it runs. Ending one that is ended is no error."""
        record = await self._registry.record(owner, sandbox_id)
        live = self._registry.find(sandbox_id)
        if live is None:
            return record
        return await self._end(live, EndReason.KILLED)

    async def _end(self, live: Live, reason: EndReason) -> Sandbox:
        """By way of the tombstone STOPPING. Shielded: a DELETE whose client leaves is still carried out."""
        with trio.CancelScope(shield=True):
            await self._registry.move(live, Action.KILL, reason)
            await self._registry.look_at_memory(live)
            await self._keeper.destroy(live.record.id)
            if live.record.state is State.STOPPING:  # nobody else has seen to it meanwhile
                await self._registry.move(live, Action.GONE)
        return live.record

    def gone(self, sandbox_id: str) -> None:
        """keeper says that a sandbox ended by itself."""
        live = self._registry.find(sandbox_id)
        if live is not None:
            self._nursery.start_soon(
                self._reported, lambda: self._bury(live), f"recording the end of {sandbox_id}"
            )

    def storage(self, told: Storage) -> None:
        """keeper says that a sandbox has passed a watched storage limit, or is below it again."""
        live = self._registry.find(told.id)
        if live is None or live.box is None:
            return
        if told.over:
            live.box.full_at = time.monotonic()
            _log.warning("%s has written %d bytes, %d inodes", told.id, told.used_bytes, told.used_inodes)
        if bool(told.over) is not live.record.storage_full:
            self._nursery.start_soon(
                self._reported,
                partial(self._registry.change, live, storage_full=bool(told.over)),
                f"recording the storage of {told.id}",
            )

    async def _bury(self, live: Live) -> None:
        if live.record.state.alive:
            await self._registry.move(live, Action.KILL, EndReason.CRASHED)
            if live.record.state is State.STOPPING:  # nobody else has seen to it meanwhile
                await self._registry.move(live, Action.GONE)

    # ---- time

    def _look_at_deadlines(self) -> None:
        """One has been added or moved."""
        self._deadlines_changed.set()

    async def expire(self) -> None:
        """End what is over its time, for ever. The time of a paused sandbox stands still."""
        while True:
            self._deadlines_changed = trio.Event()
            now = clock.boottime()
            for live in self._registry.all():
                if _is_over(live, now):
                    self._nursery.start_soon(self._expire, live)
            later = [one.record.deadline for one in self._registry.all() if one.record.deadline > now]
            # trio's clock stands still while the host sleeps and CLOCK_BOOTTIME does not: look often.
            with trio.move_on_after(min([1.0, *(deadline - now for deadline in later)])):
                await self._deadlines_changed.wait()

    async def _expire(self, live: Live) -> None:
        if live.expiring or not _is_over(live, clock.boottime()):  # paused, given more time, or ended
            return
        if live.record.standby.on_expiry is OnExpiry.PAUSE and await self._paused_instead(live):
            return
        await self._reported(lambda: self._end(live, EndReason.EXPIRED), f"ending {live.record.id} on time")

    async def _paused_instead(self, live: Live) -> bool:
        """Whether that is settled. One that cannot be made to stand still does not run for ever."""
        live.expiring = True
        try:
            for _ in range(_PAUSE_TRIES):
                try:
                    await self.pauses.by_itself(live, Action.EXPIRE, lambda: _is_over(live, clock.boottime()))
                    return True
                except (Problem, HostProblem) as problem:
                    _log.warning("%s is not paused at its end: %s", live.record.id, problem.detail)
                await trio.sleep(_PAUSE_AGAIN)
        finally:
            live.expiring = False
        return not _is_over(live, clock.boottime())

    async def keep_house(self) -> None:
        """Retry tombstones, let go of idle agents, forget old records, for ever."""
        next_pruning = 0.0
        while True:
            for live in self._registry.all():
                if live.agents is not None:
                    live.agents.let_go()
                if live.record.state is State.STOPPING:
                    self._nursery.start_soon(self._retry, live)
                elif live.record.state is State.RUNNING:
                    await self._reported(partial(self._registry.look_at_memory, live), "counting OOM kills")
            if trio.current_time() >= next_pruning:
                next_pruning = trio.current_time() + _PRUNING
                await self._reported(self._prune, "forgetting old records")
            await trio.sleep(_HOUSEKEEPING)

    async def _prune(self) -> None:
        await self._registry.store.prune(clock.wall() - self._settings.keep_records_s)

    async def _retry(self, live: Live) -> None:
        await self._reported(lambda: self._end(live, EndReason.KILLED), f"ending {live.record.id} again")

    async def _reported(self, work: Callable[[], Awaitable[object]], what: str) -> None:
        """Nobody waits for this: a failure is logged, and the next round tries again."""
        try:
            await work()
        except Exception:
            _log.exception("%s failed", what)

    # ---- start and stop

    async def reconcile(self, alive: tuple[str, ...]) -> None:
        """At the start: make the record and the host agree, both ways. Idempotent.

        A row without a sandbox is lost; a sandbox without a row, or one that was never announced, is ended;
        where both are there, it is adopted. One that the record calls paused is frozen, whatever it was: its
        init is asked nothing, and is adopted when it is resumed.
        """
        rows = {record.id: record for record in await self._registry.store.all_alive()}
        for sandbox_id in alive:
            if sandbox_id not in rows:
                await self._reported(partial(self._keeper.destroy, sandbox_id), f"ending {sandbox_id}")
        living = set(alive)
        lives = [self._registry.adopt(record) for record in rows.values()]
        # Many at once: each waits for keeper and for its init, which are other processes.
        limit = trio.CapacityLimiter(_RECONCILED_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for live in lives:
                nursery.start_soon(self._reconcile, live, live.record.id in living, limit)

    async def _reconcile(self, live: Live, there: bool, limit: trio.CapacityLimiter) -> None:
        record = live.record
        async with limit:
            if not there:
                await self._registry.move(live, Action.LOSE, EndReason.LOST)
            elif record.state is State.PAUSED:
                await self._reported(partial(self.pauses.keep, live), f"keeping {record.id} paused")
            elif record.state is State.CREATING or not await self._reattach(live):
                await self._reported(partial(self._end, live, EndReason.CRASHED), f"ending {record.id}")

    async def _reattach(self, live: Live) -> bool:
        """Take over a sandbox that an earlier api had, with its commands; False if that cannot be."""
        if live.record.state is State.STOPPING:
            return False
        try:
            await self._keeper.thaw(live.record.id)  # a frozen init would not answer
            box = Box(self._run_dir, live.record.id)
            commands = await box.attach()
        except (OSError, Unresponsive, Problem) as error:
            _log.warning("%s cannot be adopted: %s", live.record.id, error)
            return False
        live.connect(box)
        self._nursery.start_soon(box.listen)
        self._adopt(live.record.id, box, commands)
        return True

    def refuse_new(self) -> None:
        """The daemon is being stopped: no sandbox is made any more."""
        self._closing = True

    async def end_all(self) -> None:
        """The daemon is being stopped: end every sandbox, and say so in its record."""
        async with trio.open_nursery() as nursery:
            for live in self._registry.all():
                nursery.start_soon(
                    self._reported, lambda one=live: self._end(one, EndReason.SHUTDOWN), "stopping"
                )


def _is_over(live: Live, now: float) -> bool:
    return live.record.state is State.RUNNING and live.record.deadline <= now


def _shutting_down() -> Problem:
    return Problem(Code.SHUTTING_DOWN, "nsbox is being stopped", remedy="try again in a few seconds")


class _Making:
    """A sandbox being made on behalf of a client that may leave."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.abandoned = False
        self.record: Sandbox | None = None
        self.problem: Problem | None = None
