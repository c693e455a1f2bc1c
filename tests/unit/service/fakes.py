"""The host below the services: a keeper that makes sandboxes of nothing, inits that do as the test says."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import trio

from nsbox.host.box import Refusal, RunningCommand, Unresponsive, Use
from nsbox.host.boxtime import BoxTime
from nsbox.host.endpoint import Slot
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Limits, SandboxSpec, Template
from nsbox.wire.messages import Create, Created, Exec, Exited, Refused

SPEC = SandboxSpec(
    limits=Limits(vcpus=1, memory_mb=512, storage_mb=1024, pids=64), timeout_ms=60_000, template="default"
)
TEMPLATE = Template(name="default", layers=("layer",), env={"A": "template"}, workdir="/work", user="ann")


class FakeKeeper:
    """Sandboxes as ids. ``log`` is what was ordered, in order; gates hold an order until they are opened."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.lives: set[str] = set()
        self.create_gate, self.destroy_gate = trio.Event(), trio.Event()
        self.create_gate.set()
        self.destroy_gate.set()
        self.create_fails = self.destroy_fails = False
        self.destroying: dict[str, trio.Event] = {}
        self.frozen: set[str] = set()
        self.freeze_gate = trio.Event()
        self.freeze_gate.set()
        self.freeze_fails = self.thaw_fails = False
        self.cgroup = ""
        self.sandboxes: tuple[str, ...] = ()
        self.strays: tuple[str, ...] = ()

    async def create(self, order: Create) -> Created:
        self.log.append(("create", order.id))
        await self.create_gate.wait()
        await trio.lowlevel.checkpoint()
        if self.create_fails:
            raise Problem(Code.CREATE_FAILED, "no")
        self.lives.add(order.id)
        return Created(order.id, ("pids",), self.cgroup)

    async def destroy(self, sandbox_id: str) -> None:
        """Like the real link, two who ask at the same time share one order."""
        running = self.destroying.get(sandbox_id)
        if running is not None:
            await running.wait()
            return
        self.log.append(("destroy", sandbox_id))
        done = self.destroying[sandbox_id] = trio.Event()
        try:
            await self.destroy_gate.wait()
            await trio.lowlevel.checkpoint()
            if self.destroy_fails:
                raise Problem(Code.SANDBOX_UNRESPONSIVE, "not yet")
            self.lives.discard(sandbox_id)
            self.frozen.discard(sandbox_id)
        finally:
            del self.destroying[sandbox_id]
            done.set()

    async def freeze(self, sandbox_id: str) -> str:
        self.log.append(("freeze", sandbox_id))
        await self.freeze_gate.wait()
        await trio.lowlevel.checkpoint()
        if sandbox_id not in self.lives:
            raise Problem(Code.SANDBOX_GONE, "gone")
        if self.freeze_fails:
            raise Problem(Code.HOST_LACKS, "no cgroup")
        self.frozen.add(sandbox_id)
        return "/nowhere"

    async def thaw(self, sandbox_id: str) -> None:
        self.log.append(("thaw", sandbox_id))
        await trio.lowlevel.checkpoint()
        if sandbox_id not in self.lives:
            raise Problem(Code.SANDBOX_GONE, "gone")
        if self.thaw_fails:
            raise Problem(Code.SANDBOX_UNRESPONSIVE, "no answer")
        self.frozen.discard(sandbox_id)

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()
        self.sandboxes = tuple(self.lives)
        await trio.lowlevel.checkpoint()

    async def audit(self) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        return self.strays

    def count(self, what: str) -> int:
        return sum(1 for kind, _ in self.log if kind == what)


class FakeBox:
    """An init. ``on_exec`` is what it does when a command is started, with the descriptors it was sent."""

    #: By sandbox; set by the fixture for each test anew.
    made: dict[str, FakeBox]
    refuses: bool
    attach_fails: bool
    adopted: list[Any]

    def __init__(self, run_dir: int, sandbox_id: str) -> None:
        if type(self).refuses:
            raise ConnectionRefusedError(111, "nobody listens")
        self.id = sandbox_id
        self.closed = False
        self.time = BoxTime()
        self.quiet_gate = trio.Event()
        self.quiet_gate.set()
        self.full_at = -1.0
        self.used: dict[str, Use] = {}
        self.measure_gate = trio.Event()
        self.measure_gate.set()
        self.log: list[tuple[Any, ...]] = []
        self.exits: dict[str, Slot] = {}
        self.orders: list[Exec] = []
        self.inside: list[dict[str, int]] = []
        self.refusal: Refused | None = None
        self.silent = False
        self.dies_when_killed = True
        self.start_gate = trio.Event()
        self.start_gate.set()
        self._end = trio.Event()
        type(self).made[sandbox_id] = self

    async def measure(self, key: str) -> dict[str, Use]:
        self.log.append(("measure", key))
        await self.measure_gate.wait()
        return self.used

    async def attach(self) -> list[Any]:
        await trio.lowlevel.checkpoint()
        if type(self).attach_fails:
            raise Unresponsive("no answer in time")
        return type(self).adopted

    async def listen(self) -> None:
        await self._end.wait()
        self.closed = True
        self.time.go_on()
        for slot in self.exits.values():
            slot.fail()

    def close(self) -> None:
        self._end.set()

    async def quiet(self) -> None:
        await self.quiet_gate.wait()
        if self.silent:
            raise Unresponsive("init does not come to rest")

    async def exec(self, order: Exec, descriptors: tuple[int, ...]) -> RunningCommand:
        self.orders.append(order)
        mine = [os.dup(one) for one in descriptors]
        streams = dict(zip(("stdin", "stdout", "stderr", "kept1", "kept2"), mine, strict=True))
        self.inside.append(streams)
        try:
            await self.start_gate.wait()
            await trio.lowlevel.checkpoint()
            if self.silent or self.closed:
                raise Unresponsive("no answer in time")
            if self.refusal is not None:
                raise Refusal(self.refusal)
        except BaseException:
            self.let_go(len(self.inside) - 1)
            raise
        slot = self.exits[order.key] = Slot()
        self.log.append(("exec", order.key))
        return RunningCommand(order.key, 41 + len(self.orders), slot)

    def write(self, index: int, stream: str, data: bytes) -> None:
        assert os.write(self.inside[index][stream], data) == len(data)

    def let_go(self, index: int, *names: str) -> None:
        """Close the command's ends of its streams, as its death does."""
        streams = self.inside[index]
        for name in names or tuple(streams):
            if name in streams:
                os.close(streams.pop(name))

    def exit(self, index: int = -1, status: int = 0, oom: int = 0, *, close: bool = True) -> None:
        """A command ends."""
        key = self.orders[index].key
        if close:
            self.let_go(index)
        self.exits[key].fill(Exited(key, status, 0, 0, 0, oom), [])

    async def kill(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append(("kill", key))
        if self.silent:
            raise Unresponsive("no answer in time")
        if self.dies_when_killed:
            self.exit([order.key for order in self.orders].index(key), 9)

    async def forget(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append(("forget", key))

    async def kill_all(self, key: str) -> int:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise Refusal(self.refusal)
        return 3


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that follows from what was done, worker threads included."""
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.001)
