"""The sandboxes that live: their records and the connections to their inits, in memory.

The record on disk is the truth that survives; this is the part of it that is in use. Only this module moves a
sandbox from one state to the next, and only by the transition table.
"""

from collections.abc import Awaitable, Callable

import msgspec
import trio

from nsbox.host import cgroups
from nsbox.host.agents import Agents
from nsbox.host.box import Box
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import Action, EndReason, State, after
from nsbox.model.sandbox import Sandbox
from nsbox.service import clock
from nsbox.store.sandboxes import SandboxStore


class Live:
    """A sandbox that is not ended. ``box`` and ``agents`` are there while it runs, and while it is paused
    unless api was replaced meanwhile.

    ``turn``: pauses, resumes and changes of its time go one after the other. An end waits for none of them,
    so whoever holds it looks at the state again after each wait.
    """

    def __init__(self, record: Sandbox, wanted: Callable[["Live"], None] = lambda _: None) -> None:
        self.record, self._wanted = record, wanted
        self.box: Box | None = None
        self.agents: Agents | None = None
        self.turn = trio.Lock()
        #: Somebody sees to it that its time is over.
        self.expiring = False
        self.touch()

    def touch(self) -> None:
        """It is in use now. By trio's clock, which stands still while the host sleeps: nobody could come."""
        self.used_at = trio.current_time()

    def connect(self, box: Box) -> None:
        self.box = box
        self.agents = Agents(box)
        box.time.wanted = lambda: self._wanted(self)

    @property
    def wakes(self) -> bool:
        """It is paused, and whoever needs it may have it resumed."""
        return self.record.state is State.PAUSED and self.record.standby.auto_resume

    def disconnect(self) -> None:
        if self.agents is not None:
            self.agents.close()
        if self.box is not None and not self.box.closed:
            self.box.close()


class Registry:
    """Who lives, and what the record says of the rest."""

    def __init__(self, store: SandboxStore) -> None:
        self.store = store
        self._live: dict[str, Live] = {}
        self._on_end: list[Callable[[str], None]] = []
        self._on_move: list[Callable[[Action, Sandbox], None]] = []
        self._on_written: list[Callable[[Sandbox], None]] = []
        self._on_oom: list[Callable[[Sandbox], None]] = []
        self._wake: Callable[[Live], Awaitable[object]] = _cannot_wake
        self._wanted: Callable[[Live], None] = lambda _: None

    def on_end(self, call: Callable[[str], None]) -> None:
        """Have ``call`` told of each sandbox of which only a record is left."""
        self._on_end.append(call)

    def on_move(self, call: Callable[[Action, Sandbox], None]) -> None:
        """Have ``call`` told of each change of a state, and what it was done for."""
        self._on_move.append(call)

    def on_written(self, call: Callable[[Sandbox], None]) -> None:
        """Have ``call`` told of each change of a state that the record has, and the ledger with it."""
        self._on_written.append(call)

    def on_oom(self, call: Callable[[Sandbox], None]) -> None:
        """Have ``call`` told when the kernel has ended processes of a sandbox for lack of memory."""
        self._on_oom.append(call)

    def use_waker(self, wake: Callable[[Live], Awaitable[object]], wanted: Callable[[Live], None]) -> None:
        """``wake`` resumes a paused sandbox; ``wanted`` hears that something waits for one to go on."""
        self._wake, self._wanted = wake, wanted

    def __len__(self) -> int:
        return len(self._live)

    def all(self) -> list[Live]:
        return list(self._live.values())

    def find(self, sandbox_id: str) -> Live | None:
        return self._live.get(sandbox_id)

    async def add(self, record: Sandbox) -> Live:
        """Write the intent down, before anything of it exists."""
        await self.store.insert(record)
        return self.adopt(record)

    def adopt(self, record: Sandbox) -> Live:
        """Take over a sandbox that the record already has."""
        live = self._live[record.id] = Live(record, self._wanted_one)
        return live

    async def move(
        self, live: Live, action: Action, reason: EndReason | None = None, **changes: object
    ) -> Sandbox:
        """Do what the transition table says ``action`` leads to, in memory and on disk.

        Raises ``Problem(WRONG_STATE)``, and changes nothing then.
        """
        before = live.record.state
        state = after(before, action)
        if reason is not None and live.record.end_reason is None:
            changes["end_reason"] = reason
        if state.final:
            changes["ended_at"] = clock.wall()
        live.record = msgspec.structs.replace(live.record, state=state, **changes)
        if state.final:
            self._live.pop(live.record.id, None)
            live.disconnect()
            for call in self._on_end:
                call(live.record.id)
        if state is not before:
            for told in self._on_move:
                told(action, live.record)
        await self.store.update(live.record)
        if state is not before:
            for call_after in self._on_written:
                call_after(live.record)
        return live.record

    async def change(self, live: Live, **changes: object) -> Sandbox:
        """Change what is no state, in memory and on disk."""
        live.record = msgspec.structs.replace(live.record, **changes)
        await self.store.update(live.record)
        return live.record

    async def look_at_memory(self, live: Live) -> None:
        """Take over what the kernel has counted of processes ended for lack of memory."""
        kills = cgroups.oom_kills(live.record.cgroup) if live.record.cgroup else 0
        if kills > live.record.oom_kills:
            await self.change(live, oom_kills=kills, last_oom_at=clock.wall())
            for told in self._on_oom:
                told(live.record)

    async def record(self, owner: str, sandbox_id: str) -> Sandbox:
        """The record as it is now. Raises ``Problem(SANDBOX_NOT_FOUND)``, also for another owner's."""
        live = self._live.get(sandbox_id)
        found = live.record if live is not None else await self.store.get(sandbox_id)
        if found is None or found.owner != owner:
            raise not_found(sandbox_id)
        return found

    def _wanted_one(self, live: Live) -> None:
        self._wanted(live)

    async def awake(self, live: Live) -> None:
        """Note that somebody needs it; where it is paused and may be resumed for that, it is. Raises
        ``Problem``. No checkpoint where it runs.

        Somebody may pause it again before the resume is told here: hence the loop.
        """
        live.touch()
        while live.wakes:
            await self._wake(live)
            live.touch()

    async def usable(self, owner: str, sandbox_id: str, action: Action) -> tuple[Sandbox, Box, Agents]:
        """A sandbox on which ``action`` is allowed now, resumed for that where it may be. Raises
        ``Problem``."""
        record = await self.record(owner, sandbox_id)
        live = self._live.get(sandbox_id)
        if live is not None:
            await self.awake(live)
            record = live.record
        after(record.state, action)
        if live is None or live.box is None or live.agents is None or live.box.closed:
            raise Problem(Code.SANDBOX_GONE, "the sandbox is no longer there", remedy="create a new sandbox")
        return record, live.box, live.agents

    async def records(self, owner: str, states: frozenset[State]) -> list[Sandbox]:
        """The owner's sandboxes in any of ``states``, oldest first."""
        if all(state.alive for state in states):
            found = [one.record for one in self._live.values()]
            return [one for one in found if one.owner == owner and one.state in states]
        return await self.store.list(owner, states)


async def _cannot_wake(live: Live) -> None:
    after(live.record.state, Action.EXEC)  # nobody resumes anything here: refused as without autoResume


def not_found(sandbox_id: str) -> Problem:
    """The same for what never was and for what is somebody else's."""
    return Problem(
        Code.SANDBOX_NOT_FOUND,
        f"there is no sandbox {sandbox_id[:64]!r}",
        remedy="list yours with GET /api/v1/sandboxes",
    )
