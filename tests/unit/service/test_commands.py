from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from nsbox.host.box import Adopted, RunningCommand
from nsbox.host.endpoint import Slot
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import CommandResult, CommandSpec, Outcome, Sandbox
from nsbox.service import commands as module
from nsbox.service import jobs
from nsbox.wire.messages import Refused, Running
from tests.fuzz.descriptors import none_leaked
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC, FakeBox, until

LIST = CommandSpec(argv=("run", "it"), command=["run", "it"])


class Run:
    """A command that was asked for, in the background of the test."""

    def __init__(self, service: Service, sandbox: Sandbox, spec: CommandSpec) -> None:
        self.box = FakeBox.made[sandbox.id]
        self.index = len(self.box.orders)
        self.result: CommandResult | None = None
        self.problem: Problem | None = None
        self.scope = trio.CancelScope()
        self._service, self._id, self._spec = service, sandbox.id, spec

    async def run(self) -> None:
        with self.scope:
            try:
                self.result = await self._service.commands.run("ann", self._id, self._spec)
            except Problem as problem:
                self.problem = problem

    async def started(self) -> None:
        await until(lambda: ("exec", self.key) in self.box.log)
        await trio.testing.wait_all_tasks_blocked()

    @property
    def key(self) -> str:
        return self.box.orders[self.index].key if len(self.box.orders) > self.index else ""

    async def outcome(self) -> CommandResult:
        await until(lambda: self.result is not None or self.problem is not None)
        if self.problem is not None:
            raise self.problem
        assert self.result is not None
        return self.result

    async def settled(self) -> None:
        """Nothing is done for it any more."""
        await until(lambda: ("forget", self.key) in self.box.log and not self._service.commands._active)


@pytest.fixture
def no_leaks() -> Iterator[None]:
    with none_leaked():
        yield


@pytest.fixture
async def sandbox(no_leaks: None, service: Service) -> AsyncIterator[Sandbox]:
    made = await service.sandboxes.create("ann", SPEC)
    yield made
    for box in FakeBox.made.values():
        for index in range(len(box.inside)):
            box.let_go(index)
        box.close()
    await until(lambda: not service.commands._active)


async def begin(service: Service, sandbox: Sandbox, spec: CommandSpec = LIST) -> Run:
    run = Run(service, sandbox, spec)
    service.nursery.start_soon(run.run)
    await run.started()
    return run


async def test_what_init_is_told(service: Service, sandbox: Sandbox) -> None:
    spec = CommandSpec(argv=(), command="echo hi", env={"A": "mine", "B": "b"})
    run = await begin(service, sandbox, spec)
    order = run.box.orders[0]
    assert order.argv == ("/bin/sh", "-c", "echo hi")
    assert order.environ == ("A=mine", "B=b")
    assert (order.cwd, order.user) == ("/work", "ann")
    run.box.exit()
    await run.outcome()
    more = CommandSpec(argv=("x",), command=["x"], cwd="/else", user="bob")
    run = await begin(service, sandbox, more)
    assert (run.box.orders[1].argv, run.box.orders[1].cwd, run.box.orders[1].user) == (("x",), "/else", "bob")
    run.box.exit()
    await run.settled()


@pytest.mark.parametrize(
    ("status", "oom", "outcome", "code", "signal"),
    [
        (0, 0, Outcome.EXITED, 0, None),
        (3 << 8, 0, Outcome.EXITED, 3, None),
        (255 << 8, 1, Outcome.EXITED, 255, None),
        (9, 0, Outcome.SIGNALED, None, "KILL"),
        (9, 1, Outcome.OOM, None, "KILL"),
        (11 | 0x80, 0, Outcome.SIGNALED, None, "SEGV"),
        (40, 0, Outcome.SIGNALED, None, "40"),
        # What waitpid never says of an end, and an init that was taken over may.
        (0x137F, 0, Outcome.SANDBOX_GONE, None, None),
        (0xFFFF, 0, Outcome.SANDBOX_GONE, None, None),
        (-1, 0, Outcome.SANDBOX_GONE, None, None),
        ((1 << 62) | (5 << 8), 0, Outcome.EXITED, 5, None),
    ],
)
async def test_how_a_command_ended(
    service: Service,
    sandbox: Sandbox,
    status: int,
    oom: int,
    outcome: Outcome,
    code: int | None,
    signal: str | None,
) -> None:
    run = await begin(service, sandbox)
    run.box.exit(status=status, oom=oom)
    result = await run.outcome()
    assert (result.outcome, result.exit_code, result.signal) == (outcome, code, signal)
    await run.settled()


async def test_output_and_input(service: Service, sandbox: Sandbox) -> None:
    run = await begin(service, sandbox, CommandSpec(argv=("x",), command=["x"], stdin=b"question"))
    assert os.read(run.box.inside[0]["stdin"], 100) == b"question"
    assert os.read(run.box.inside[0]["stdin"], 100) == b""
    run.box.write(0, "stdout", b"out")
    run.box.write(0, "stderr", b"err")
    run.box.exit()
    result = await run.outcome()
    assert (result.stdout.data, result.stderr.data) == (b"out", b"err")
    assert not result.stdout.truncated
    await run.settled()


async def test_output_beyond_the_limit(service: Service, sandbox: Sandbox) -> None:
    run = await begin(service, sandbox)
    run.box.write(0, "stdout", b"x" * 1000)
    run.box.write(0, "stderr", b"y" * 1001)
    run.box.exit()
    result = await run.outcome()
    assert (len(result.stdout.data), result.stdout.truncated) == (1000, False)
    assert (len(result.stderr.data), result.stderr.truncated) == (1000, True)
    await run.settled()


async def test_a_process_left_behind_does_not_keep_the_answer(service: Service, sandbox: Sandbox) -> None:
    """What it writes later is drained, so that it neither waits nor is killed; its place is still taken."""
    run = await begin(service, sandbox)
    run.box.write(0, "stdout", b"before the exit")
    run.box.exit(close=False)
    result = await run.outcome()
    assert result.stdout.data == b"before the exit"
    assert service.commands._active == {sandbox.id: 1}
    for _ in range(5):
        run.box.write(0, "stdout", b"z" * 60_000)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.01)
    run.box.let_go(0)
    await run.settled()


async def test_time_is_over(service: Service, sandbox: Sandbox) -> None:
    run = await begin(service, sandbox, CommandSpec(argv=("x",), command=["x"], timeout_ms=30))
    run.box.write(0, "stdout", b"so far")
    result = await run.outcome()
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.TIMED_OUT, None, "KILL")
    assert result.stdout.data == b"so far"
    assert 30 <= result.duration_ms < 1000
    assert ("kill", run.key) in run.box.log
    await run.settled()


@pytest.mark.parametrize("how", ["silent", "immortal"])
async def test_time_is_over_and_init_does_not_see_to_it(
    service: Service, sandbox: Sandbox, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_DEATH", 0.02)
    run = await begin(service, sandbox, CommandSpec(argv=("x",), command=["x"], timeout_ms=20))
    run.box.silent, run.box.dies_when_killed = how == "silent", False
    assert (await run.outcome()).outcome is Outcome.TIMED_OUT
    run.box.silent = False
    run.box.let_go(0)
    await run.settled()


async def test_the_sandbox_goes_meanwhile(service: Service, sandbox: Sandbox) -> None:
    run = await begin(service, sandbox)
    run.box.write(0, "stdout", b"last words")
    await service.sandboxes.kill("ann", sandbox.id)
    run.box.let_go(0)
    result = await run.outcome()
    assert result.outcome is Outcome.SANDBOX_GONE
    assert result.stdout.data == b"last words"


async def test_a_client_that_leaves_kills_nothing(service: Service, sandbox: Sandbox) -> None:
    run = await begin(service, sandbox)
    run.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert not [one for one in run.box.log if one[0] == "kill"]
    assert service.commands._active == {sandbox.id: 1}
    run.box.exit()
    await run.settled()


async def test_a_client_that_leaves_while_its_command_is_started(service: Service, sandbox: Sandbox) -> None:
    """The command runs then, and is seen to like any other: its time-out holds."""
    box = FakeBox.made[sandbox.id]
    box.start_gate = trio.Event()
    run = Run(service, sandbox, CommandSpec(argv=("x",), command=["x"], timeout_ms=30))
    service.nursery.start_soon(run.run)
    await until(lambda: len(box.orders) == 1)
    run.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    box.start_gate.set()
    await until(lambda: ("kill", box.orders[0].key) in box.log)
    await run.settled()


@pytest.mark.parametrize(
    ("stage", "code", "field"),
    [
        ("user", Code.INVALID_FIELD, "user"),
        ("cwd", Code.INVALID_FIELD, "cwd"),
        ("fork", Code.SANDBOX_EXHAUSTED, None),
    ],
)
async def test_init_refuses(
    service: Service, sandbox: Sandbox, stage: str, code: Code, field: str | None
) -> None:
    FakeBox.made[sandbox.id].refusal = Refused("k", stage, 11, "why")
    for work in (service.commands.run, service.commands.start):
        with pytest.raises(Problem) as caught:
            await work("ann", sandbox.id, LIST)
        assert (caught.value.code, caught.value.field) == (code, field)
    assert service.commands._active == {}
    with pytest.raises(Problem):
        await service.commands.kill_all("ann", sandbox.id)


async def test_init_is_silent(service: Service, sandbox: Sandbox) -> None:
    FakeBox.made[sandbox.id].silent = True
    for work in (service.commands.run, service.commands.start):
        with pytest.raises(Problem) as caught:
            await work("ann", sandbox.id, LIST)
        assert caught.value.code is Code.SANDBOX_UNRESPONSIVE
    assert service.commands._active == {}


async def test_somebody_elses_sandbox(service: Service, sandbox: Sandbox) -> None:
    calls = [
        service.commands.run("eve", sandbox.id, LIST), service.commands.start("eve", sandbox.id, LIST),
        service.commands.list("eve", sandbox.id), service.commands.kill_all("eve", sandbox.id),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Problem) as caught:
            await call
        assert caught.value.code is Code.SANDBOX_NOT_FOUND
    assert FakeBox.made[sandbox.id].orders == []


async def test_places_are_counted_and_given_back(service: Service, sandbox: Sandbox) -> None:
    runs = [await begin(service, sandbox) for _ in range(3)]
    for work in (service.commands.run, service.commands.start):
        with pytest.raises(Problem) as caught:
            await work("ann", sandbox.id, LIST)
        assert caught.value.code is Code.TOO_MANY_COMMANDS
    runs[0].box.exit(0)
    await runs[0].outcome()
    await until(lambda: service.commands._active[sandbox.id] == 2)
    other = await service.sandboxes.create("ann", SPEC)
    run = await begin(service, other)  # another sandbox has places of its own
    run.box.exit()
    for index in (1, 2):
        runs[index].box.exit(index)
        await runs[index].outcome()
    await until(lambda: service.commands._active == {})


async def test_out_of_descriptors_while_pipes_are_made(
    service: Service, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = module.pipes.make, 0

    def make() -> tuple[int, int]:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(24, "too many open files")
        return real()

    monkeypatch.setattr(module.pipes, "make", make)
    with pytest.raises(OSError):
        await service.commands.run("ann", sandbox.id, LIST)
    assert service.commands._active == {}


# ---- background


async def test_background_processes_are_listed_until_they_end(service: Service, sandbox: Sandbox) -> None:
    box = FakeBox.made[sandbox.id]
    one = await service.commands.start("ann", sandbox.id, LIST)
    two = await service.commands.start("ann", sandbox.id, CommandSpec(argv=(), command="sleep 9"))
    assert (one.pid, one.command, one.cwd) == (42, ["run", "it"], "/work")
    assert two.command == "sleep 9"
    assert await service.commands.list("ann", sandbox.id) == [one, two]
    await until(lambda: service.commands._active == {sandbox.id: 2})
    box.exit(0)
    await until(lambda: ("forget", one.id) in box.log)
    assert await service.commands.list("ann", sandbox.id) == [two]
    box.exit(1, 9)
    await until(lambda: service.commands._active == {})
    assert await service.commands.list("ann", sandbox.id) == []
    assert service.commands._background == {}


async def test_background_output_is_drained(service: Service, sandbox: Sandbox) -> None:
    await service.commands.start("ann", sandbox.id, LIST)
    box = FakeBox.made[sandbox.id]
    for _ in range(5):
        box.write(0, "stdout", b"x" * 65_536)  # would block if nobody read
        await trio.sleep(0.01)
    box.exit(0)
    await until(lambda: service.commands._active == {})


async def test_background_and_the_sandbox_goes(service: Service, sandbox: Sandbox) -> None:
    await service.commands.start("ann", sandbox.id, LIST)
    await service.sandboxes.kill("ann", sandbox.id)
    await until(lambda: service.commands._active == {} and service.commands._background == {})


async def test_kill_all(service: Service, sandbox: Sandbox) -> None:
    assert await service.commands.kill_all("ann", sandbox.id) == 3


async def test_commands_of_an_earlier_api(service: Service, sandbox: Sandbox) -> None:
    box = FakeBox.made[sandbox.id]
    reader, writer = os.pipe()
    slot = Slot()
    told = Running("old", 7, ("sleep", "9"), "/srv", 1_500_000_000)
    adopted: list[Any] = [Adopted(RunningCommand("old", 7, slot), told, [reader])]
    service.commands.adopt(sandbox.id, box, adopted)  # type: ignore[arg-type]
    (process,) = await service.commands.list("ann", sandbox.id)
    assert (process.id, process.pid, process.command, process.started_at) == ("old", 7, ["sleep", "9"], 1.5)
    os.write(writer, b"x" * 65_536)
    await trio.sleep(0.01)
    os.write(writer, b"x" * 65_536)  # somebody reads
    os.close(writer)
    slot.fail()
    await until(lambda: service.commands._background == {})
