from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from nsbox.host import pipes
from nsbox.host.box import Adopted, RunningCommand, Use
from nsbox.host.endpoint import Slot
from nsbox.host.logs import CHUNK, Stream
from nsbox.host.shelf import Shelf
from nsbox.model.command import Kind, Note, Request
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import CommandResult, CommandSpec, Outcome, Output, Sandbox
from nsbox.service import clock, jobs, stored
from nsbox.settings import Settings
from nsbox.store.database import Database
from nsbox.wire.messages import Exited, Refused, Running
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


def roomy(service: Service) -> Settings:
    return msgspec.structs.replace(service.settings, output_limit_bytes=1_000_000)


async def pour(service: Service, sandbox: Sandbox, stream: str, data: bytes) -> None:
    """The first command writes more than is held."""
    (job,) = service.commands._jobs[sandbox.id].known()
    for start in range(0, len(data), 50_000):
        behind = job.log.end + len(data[start : start + 50_000])
        FakeBox.made[sandbox.id].write(0, stream, data[start : start + 50_000])
        await until(lambda behind=behind: job.log.end == behind)  # type: ignore[misc]


@pytest.mark.parametrize("left", [False, True])
async def test_large_output_stays_in_its_log(
    service: Service, sandbox: Sandbox, left: bool, no_leaks: None
) -> None:
    """Until it is read, or whoever asked is gone: its room is counted for so long, and nothing stays open."""
    service.commands._settings = roomy(service)
    run = await begin(service, sandbox)
    out, err = os.urandom(200_000), b"e" * 70_000
    await pour(service, sandbox, "stdout", out)
    await pour(service, sandbox, "stderr", err)
    shelf = service.commands._jobs[sandbox.id].shelf
    run.box.exit()
    result = await run.outcome()
    await run.settled()
    assert os.listdir(Path(service.settings.state_dir) / "logs" / sandbox.id) == []  # already
    assert shelf.unread == 270_000
    assert service.commands._jobs[sandbox.id]._size() == 270_000
    for output, whole in ((result.stdout, out), (result.stderr, err)):
        assert (output.data, output.truncated) == (b"", False)
        assert output.source is not None
        if not left:
            read = b""
            while piece := await output.source.next():
                assert len(piece) <= CHUNK
                read += piece
            assert read == whole
            output.source.close()
            output.source.close()
    run.result = None
    del result, output
    assert shelf.unread == 0


@pytest.mark.parametrize("most", [5, 90_000, 300_000])
async def test_the_last_of_an_output(service: Service, sandbox: Sandbox, most: int) -> None:
    service.commands._settings = roomy(service)
    run = await begin(service, sandbox)
    data = os.urandom(100_000)
    await pour(service, sandbox, "stdout", data)
    run.box.exit()
    result = await run.outcome()
    assert await stored.last(result.stdout, most) == data[-most:]
    assert await stored.last(result.stderr, most) == b""
    assert await stored.last(Output(b"abc"), 2) == b"bc"
    await run.settled()


async def test_output_that_is_freed_while_it_is_read(service: Service, sandbox: Sandbox) -> None:
    """Of a command with an Idempotency-Key, to make room for others."""
    service.commands._settings = roomy(service)
    box = FakeBox.made[sandbox.id]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.commands.run, "ann", sandbox.id, LIST, REQUEST)
        await until(lambda: len(box.exits) == 1)
        await pour(service, sandbox, "stdout", b"x" * 150_000)
        box.exit()
    result = await service.commands.run("ann", sandbox.id, LIST, REQUEST)
    await until(lambda: service.commands._active == {})
    (job,) = service.commands._jobs[sandbox.id].all()
    assert result.stdout.source is not None
    assert len(await result.stdout.source.next()) == CHUNK
    await job.trim(0)
    with pytest.raises(Problem) as caught:
        await result.stdout.source.next()
    assert caught.value.code is Code.RANGE_NOT_SATISFIABLE
    for output in (result.stdout, result.stderr):
        assert output.source is not None
        output.source.close()


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
    with pytest.raises(Problem) as caught:  # which no init of ours refuses
        await service.commands.kill_all("ann", sandbox.id)
    assert caught.value.code is Code.SANDBOX_UNRESPONSIVE


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
    real, count = pipes.make, 0

    def make() -> tuple[int, int]:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(24, "too many open files")
        return real()

    monkeypatch.setattr(pipes, "make", make)
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
    ended = await service.commands.list("ann", sandbox.id, everything=True)
    assert [(process.id, process.running, process.signal) for process in ended] == [
        (one.id, False, None),
        (two.id, False, "KILL"),
    ]


def _grown(job: jobs.Job, size: int) -> bool:
    return job.log.end == size


async def test_the_last_bytes_of_a_background_process_are_kept(
    service: Service, sandbox: Sandbox, settings: Settings
) -> None:
    process = await service.commands.start("ann", sandbox.id, LIST)
    box, written = FakeBox.made[sandbox.id], 0
    job = await service.commands.find("ann", sandbox.id, process.id)
    while job.log.start == 0:
        box.write(0, "stdout", bytes([written % 251]) * 65_536)  # would block if nobody read
        written += 1
        assert written < 600
        await until(partial(_grown, job, written * 65_536))
    box.exit(0)
    await until(lambda: service.commands._active == {})
    assert job.log.end == written * 65_536
    assert settings.log_bytes <= job.log.end - job.log.start <= settings.log_bytes + (2 << 20)
    reader = job.reader()
    assert (
        reader.whole(job.log.end)[0]
        == b"".join(bytes([one % 251]) * 65_536 for one in range(written))[job.log.start :]
    )
    assert reader.read(0, job.log.end) is None
    reader.close()


async def test_background_and_the_sandbox_goes(
    service: Service, sandbox: Sandbox, settings: Settings
) -> None:
    process = await service.commands.start("ann", sandbox.id, LIST)
    folder = Path(settings.state_dir) / "logs" / sandbox.id
    assert {one.suffix for one in folder.iterdir()} == {".log", ".idx"}
    await service.sandboxes.kill("ann", sandbox.id)
    FakeBox.made[sandbox.id].let_go(0)
    await until(lambda: service.commands._active == {} and not folder.exists())
    with pytest.raises(Problem) as caught:
        await service.commands.get("ann", sandbox.id, process.id)
    assert caught.value.code is Code.PROCESS_NOT_FOUND


async def test_kill_all(service: Service, sandbox: Sandbox) -> None:
    assert await service.commands.kill_all("ann", sandbox.id) == 3


async def test_a_plain_command_leaves_nothing(service: Service, sandbox: Sandbox, settings: Settings) -> None:
    run = await begin(service, sandbox)
    run.box.write(0, "stdout", b"x")
    run.box.exit()
    await run.outcome()
    await run.settled()
    assert list((Path(settings.state_dir) / "logs" / sandbox.id).iterdir()) == []
    assert await service.commands.list("ann", sandbox.id, everything=True) == []


async def test_so_many_that_have_ended_are_kept(
    service: Service, sandbox: Sandbox, settings: Settings
) -> None:
    box = FakeBox.made[sandbox.id]
    made = []
    for index in range(4):
        made.append((await service.commands.start("ann", sandbox.id, LIST)).id)
        box.exit(index)
        await until(lambda: service.commands._active == {})
    kept = await service.commands.list("ann", sandbox.id, everything=True)
    assert [process.id for process in kept] == made[2:]
    folder = Path(settings.state_dir) / "logs" / sandbox.id
    assert {one.stem for one in folder.iterdir()} == set(made[2:])


# ---- what an earlier api began


class Survivor:
    """What init tells of a command that it was ordered to start by an api that is no more."""

    def __init__(self, key: str) -> None:
        self.key, self.slot = key, Slot()
        self.stdout, self.stderr = os.pipe(), os.pipe()
        self._closed = False

    def told(self) -> Any:
        outputs = [pipes.reopened(self.stdout[0]), pipes.reopened(self.stderr[0])]
        told = Running(self.key, 7, ("sleep", "9"), "/srv", 1_500_000_000)
        return Adopted(RunningCommand(self.key, 7, self.slot), told, outputs)

    def exit(self, status: int = 0) -> None:
        self.slot.fill(Exited(self.key, status, 5_000, 2_000, 77, 0), [])

    def let_go(self) -> None:
        """Every writer closes."""
        for pipe in (self.stdout, self.stderr):
            os.close(pipe[1])
        self._closed = True

    def close(self) -> None:
        if not self._closed:
            self.let_go()
        for pipe in (self.stdout, self.stderr):
            os.close(pipe[0])


@pytest.fixture
def survivor() -> Iterator[Survivor]:
    one = Survivor("cmd_" + "0" * 20)
    yield one
    one.close()


def adopt(service: Service, sandbox: Sandbox, *commands: Survivor) -> None:
    told = [one.told() for one in commands]
    service.commands.adopt(sandbox.id, FakeBox.made[sandbox.id], told)  # type: ignore[arg-type]


async def test_a_command_without_a_log(service: Service, sandbox: Sandbox, survivor: Survivor) -> None:
    adopt(service, sandbox, survivor)
    (process,) = await service.commands.list("ann", sandbox.id)
    assert (process.id, process.pid, process.command) == (survivor.key, 7, ["sleep", "9"])
    assert process.started_at == 1.5
    os.write(survivor.stdout[1], b"x" * 65_536)
    await trio.sleep(0.01)
    os.write(survivor.stdout[1], b"x" * 65_536)  # somebody reads
    survivor.slot.fail()
    survivor.let_go()
    await until(lambda: service.commands._active == {})


@pytest.mark.parametrize("key", ["old", "../../x", "cmd_" + "0" * 19 + "/", ""])
async def test_a_key_that_we_never_made(service: Service, sandbox: Sandbox, key: str) -> None:
    """init may have been taken over, and its keys become names of files."""
    one = Survivor(key)
    adopt(service, sandbox, one)
    assert await service.commands.list("ann", sandbox.id, everything=True) == []
    one.close()


class Restart:
    """An api that dies at some moment, and the next one, on the same state folder."""

    def __init__(self, service: Service, sandbox: Sandbox, database: Database, nursery: trio.Nursery) -> None:
        self.first, self.sandbox, self.database, self.nursery = service, sandbox, database, nursery

    def next(self, *commands: Survivor) -> Service:
        second = Service(self.database, self.nursery, self.first.settings)
        live = second.registry.adopt(self.sandbox)
        live.connect(FakeBox.made[self.sandbox.id])  # type: ignore[arg-type]
        adopt(second, self.sandbox, *commands)
        return second


def left_behind(service: Service, sandbox: Sandbox, survivor: Survivor, note: Note, *written: bytes) -> None:
    """The log of a command, as an api left it that was killed after it had taken ``written`` from the pipes,
    stdout's and stderr's in turn."""
    shelf = Shelf(service.settings.state_dir, sandbox.id)
    log = shelf.create(survivor.key, msgspec.json.encode(note), note.head)
    for index, data in enumerate(written):
        stream = Stream(index % 2)
        pipe = (survivor.stdout, survivor.stderr)[stream]
        if data:
            os.write(pipe[1], data)
            assert log.take(pipe[0], stream) == len(data)
    log.close()


NOTE = Note(kind=Kind.STREAM, command="make", cwd="/src", begun=0.0, started_at=1.0, stood=0.0)


@pytest.fixture
def restart(service: Service, sandbox: Sandbox, database: Database, nursery: trio.Nursery) -> Restart:
    return Restart(service, sandbox, database, nursery)


async def test_reading_goes_on_where_the_log_ends(restart: Restart, survivor: Survivor) -> None:
    left_behind(restart.first, restart.sandbox, survivor, NOTE, b"one ", b"two ", b"three ")
    os.write(survivor.stdout[1], b"four ")
    second = restart.next(survivor)
    (process,) = await second.commands.list("ann", restart.sandbox.id)
    assert (process.kind, process.command, process.cwd) == ("stream", "make", "/src")
    job = await second.commands.find("ann", restart.sandbox.id, survivor.key)
    os.write(survivor.stderr[1], b"five ")
    survivor.exit(3 << 8)
    await job.ended.wait()
    result = await job.result()
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 3)
    assert (result.stdout.data, result.stderr.data) == (b"one three four ", b"two five ")
    assert (job.end.cpu_ms, job.end.peak_kb) == (7, 77) if job.end else False
    survivor.let_go()
    await until(lambda: second.commands._active == {})


async def test_what_ended_with_nobody_there(restart: Restart, survivor: Survivor) -> None:
    left_behind(restart.first, restart.sandbox, survivor, NOTE, b"one ")
    os.write(survivor.stdout[1], b"two")
    survivor.exit()
    second = restart.next(survivor)
    job = await second.commands.find("ann", restart.sandbox.id, survivor.key)
    assert (await job.result()).stdout.data == b"one two"
    survivor.let_go()
    await until(lambda: second.commands._active == {})
    # And once more: init has forgotten it by now, the disk has not.
    third = restart.next()
    again = await third.commands.find("ann", restart.sandbox.id, survivor.key)
    assert (await again.result()).stdout.data == b"one two"
    assert (again.pid, again.end) == (7, job.end)


async def test_a_time_out_goes_on_across_a_restart(
    restart: Restart, survivor: Survivor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was spent is spent, but for the time the sandbox was paused."""
    box = FakeBox.made[restart.sandbox.id]
    box.dies_when_killed = False
    monkeypatch.setattr(jobs, "_DEATH", 0.02)
    begun = clock.boottime() - 100
    note = msgspec.structs.replace(NOTE, kind=Kind.EXEC, timeout_ms=60_000, begun=begun, head=1000)
    left_behind(restart.first, restart.sandbox, survivor, note)
    stood = msgspec.structs.replace(restart.sandbox, stood_s=50.0)
    spared = Restart(restart.first, stood, restart.database, restart.nursery).next(survivor)
    await trio.testing.wait_all_tasks_blocked()
    assert ("kill", survivor.key) not in box.log
    job = await spared.commands.find("ann", restart.sandbox.id, survivor.key)
    assert not job.ended.is_set()
    survivor.slot.fail()
    await job.ended.wait()
    survivor.slot = Slot()
    (Path(restart.first.settings.state_dir) / "logs" / restart.sandbox.id / (survivor.key + ".end")).unlink()
    second = restart.next(survivor)
    job = await second.commands.find("ann", restart.sandbox.id, survivor.key)
    await job.ended.wait()
    assert ("kill", survivor.key) in box.log
    assert job.end is not None
    assert job.end.outcome is Outcome.TIMED_OUT
    assert 99_000 < job.end.duration_ms < 110_000
    survivor.let_go()
    await until(lambda: second.commands._active == {} and spared.commands._active == {})


async def test_a_log_whose_command_never_began(restart: Restart, survivor: Survivor) -> None:
    """api was killed between writing the note and asking init, or init between."""
    left_behind(restart.first, restart.sandbox, survivor, NOTE)
    second = restart.next()
    assert await second.commands.list("ann", restart.sandbox.id, everything=True) == []
    assert Shelf(restart.first.settings.state_dir, restart.sandbox.id).keys() == []


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"\xff" * 100])
async def test_a_damaged_log_is_begun_anew(restart: Restart, survivor: Survivor, damage: bytes) -> None:
    left_behind(restart.first, restart.sandbox, survivor, NOTE, b"lost")
    folder = Path(restart.first.settings.state_dir) / "logs" / restart.sandbox.id
    (folder / f"{survivor.key}.idx").write_bytes(damage)
    second = restart.next(survivor)
    os.write(survivor.stdout[1], b"more")
    survivor.exit()
    job = await second.commands.find("ann", restart.sandbox.id, survivor.key)
    assert (await job.result()).stdout.data == b"more"
    survivor.let_go()
    await until(lambda: second.commands._active == {})


# ---- the same request twice

REQUEST = Request("key", "body")


async def test_the_same_request_twice_runs_once(service: Service, sandbox: Sandbox) -> None:
    box = FakeBox.made[sandbox.id]
    results: list[CommandResult] = []

    async def ask() -> None:
        results.append(await service.commands.run("ann", sandbox.id, LIST, REQUEST))

    box.start_gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)  # while the first is being started
        await trio.testing.wait_all_tasks_blocked()
        box.start_gate.set()
        nursery.start_soon(ask)
        await until(lambda: len(box.exits) == 1)
        box.write(0, "stdout", b"once")
        box.exit(status=2 << 8)
    await ask()  # long after
    assert len(box.orders) == 1
    assert [result.stdout.data for result in results] == [b"once"] * 4
    assert results[0] == results[3]
    with pytest.raises(Problem) as caught:
        await service.commands.run("ann", sandbox.id, LIST, Request("key", "another body"))
    assert caught.value.code is Code.IDEMPOTENCY_MISMATCH
    other = await service.sandboxes.create("ann", SPEC)
    run = Run(service, other, LIST)
    service.nursery.start_soon(run.run)
    await run.started()
    run.box.exit()
    await run.settled()
    await until(lambda: service.commands._active == {})


async def test_a_request_that_failed_may_be_tried_again(service: Service, sandbox: Sandbox) -> None:
    box = FakeBox.made[sandbox.id]
    box.refusal = Refused("k", "fork", 11, "why")
    with pytest.raises(Problem):
        await service.commands.run("ann", sandbox.id, LIST, REQUEST)
    box.refusal = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.commands.run, "ann", sandbox.id, LIST, REQUEST)
        await until(lambda: len(box.exits) == 1)
        box.exit()
    await until(lambda: service.commands._active == {})


async def test_the_same_request_of_another_owner(service: Service, sandbox: Sandbox) -> None:
    process = await service.commands.start("ann", sandbox.id, LIST, request=REQUEST)
    for call in (
        service.commands.run("eve", sandbox.id, LIST, REQUEST),
        service.commands.get("eve", sandbox.id, process.id),
    ):
        with pytest.raises(Problem) as caught:
            await call
        assert caught.value.code is Code.SANDBOX_NOT_FOUND
    FakeBox.made[sandbox.id].exit()
    await until(lambda: service.commands._active == {})


async def test_what_those_that_run_use(service: Service, sandbox: Sandbox) -> None:
    """Asked when somebody looks, and not when nothing runs. An init that does not tell holds nobody up."""
    box = FakeBox.made[sandbox.id]
    assert await service.commands.list("ann", sandbox.id) == []
    one = await service.commands.start("ann", sandbox.id, LIST)
    two = await service.commands.start("ann", sandbox.id, LIST)
    assert "measure" not in {entry[0] for entry in box.log}
    box.used = {one.id: Use(30, 4096), "cmd_invented": Use(1, 1)}
    told = await service.commands.list("ann", sandbox.id)
    assert [(each.id, each.cpu_ms, each.memory) for each in told] == [
        (one.id, 30, 4096),
        (two.id, None, None),
    ]
    assert await service.commands.get("ann", sandbox.id, one.id) == told[0]


async def test_an_init_that_does_not_measure_holds_nobody_up(
    service: Service, sandbox: Sandbox, autojump_clock: trio.testing.MockClock
) -> None:
    one = await service.commands.start("ann", sandbox.id, LIST)
    FakeBox.made[sandbox.id].measure_gate = trio.Event()
    begun = trio.current_time()
    assert await service.commands.list("ann", sandbox.id) == [one]
    assert trio.current_time() - begun < 3


async def test_an_adopted_command_that_could_not_be_started(
    service: Service, sandbox: Sandbox, survivor: Survivor
) -> None:
    """init had not told when the api before us died."""
    adopt(service, sandbox, survivor)
    survivor.slot.fill(Refused(survivor.key, "fork", 11, "why"), [])
    survivor.let_go()
    with pytest.raises(Problem) as caught:
        await service.commands.wait("ann", sandbox.id, survivor.key, 30)
    assert caught.value.code is Code.SANDBOX_EXHAUSTED
    await until(lambda: service.commands._active == {})
    assert await service.commands.list("ann", sandbox.id, everything=True) == []


@pytest.mark.parametrize("where", ["__init__", "begin"])
async def test_a_command_that_cannot_be_seen_to(
    service: Service, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A host that runs short costs that command, and not this process with everybody's."""

    def short(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no more watches")

    monkeypatch.setattr(jobs.Recorder, where, short)
    run = await begin(service, sandbox)
    with pytest.raises(Problem) as caught:
        await run.outcome()
    assert caught.value.code is Code.HOST_LACKS
    monkeypatch.undo()
    assert ("kill", run.key) in run.box.log
    await run.settled()
    run = await begin(service, sandbox)
    run.box.exit()
    assert (await run.outcome()).outcome is Outcome.EXITED
