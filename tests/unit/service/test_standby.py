"""Pauses and resumes that nobody asks for: who is idle, who is not, and whoever comes in between."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import msgspec
import pytest
import trio

from nsbox.host.box import Unresponsive
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import Action, EndReason, State
from nsbox.model.ports import Port, Protocol
from nsbox.model.sandbox import CommandSpec, Sandbox, SandboxSpec
from nsbox.model.standby import AutoPause, OnExpiry, Standby
from nsbox.service import sandboxes as sandboxes_module
from nsbox.service import standby as module
from nsbox.service.ports import Ports, Reach
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC, FakeBox, until
from tests.unit.service.test_sandboxes import problem_of

IDLE_MS = 50
RUN = CommandSpec(argv=("run",), command=["run"], timeout_ms=60_000)


def spec(
    *,
    idle_ms: int | None = IDLE_MS,
    ignore: bool = False,
    expiry: OnExpiry = OnExpiry.KILL,
    resume: bool = True,
) -> SandboxSpec:
    pause = None if idle_ms is None else AutoPause(idle_ms=idle_ms, ignore_processes=ignore)
    return msgspec.structs.replace(
        SPEC, standby=Standby(auto_pause=pause, on_expiry=expiry, auto_resume=resume)
    )


@pytest.fixture
async def watched(
    service: Service, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    """Looked at often, on a host with a freezer."""
    monkeypatch.setattr(module, "_LOOK", 0.005)
    service.keeper.cgroup = "/nowhere"
    nursery.start_soon(service.standbys.watch)
    yield service
    nursery.cancel_scope.cancel()


def state(service: Service, sandbox: Sandbox) -> State:
    live = service.registry.find(sandbox.id)
    assert live is not None
    return live.record.state


async def is_paused(service: Service, sandbox: Sandbox) -> None:
    await until(lambda: state(service, sandbox) is State.PAUSED and sandbox.id in service.keeper.frozen)


async def stays_up(service: Service, sandbox: Sandbox) -> None:
    """What is waited for is that nothing happens, for several times as long as it would take."""
    await trio.sleep(IDLE_MS / 1000 * 5)
    assert state(service, sandbox) is State.RUNNING


async def test_an_idle_one_is_paused_and_goes_on_when_it_is_needed(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    await is_paused(watched, made)
    record = await watched.store.get(made.id)
    assert record is not None
    assert record.state is State.PAUSED
    for action in (Action.EXEC, Action.FILES):
        await watched.sandboxes.pauses.pause("ann", made.id)
        found, _, _ = await watched.registry.usable("ann", made.id, action)
        assert found.state is State.RUNNING
        assert made.id not in watched.keeper.frozen


async def test_without_auto_resume_it_is_refused(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec(resume=False))
    await is_paused(watched, made)
    problem = await problem_of(watched.registry.usable("ann", made.id, Action.EXEC))
    assert (problem.code, problem.remedy) == (Code.WRONG_STATE, "resume it first")
    assert made.id in watched.keeper.frozen


async def test_who_was_not_made_so_is_never_paused(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec(idle_ms=None))
    await stays_up(watched, made)


async def test_somebody_else_wakes_nothing(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    await is_paused(watched, made)
    assert (await problem_of(watched.registry.usable("eve", made.id, Action.EXEC))).code is (
        Code.SANDBOX_NOT_FOUND
    )
    assert made.id in watched.keeper.frozen


async def test_a_visitor_keeps_it_up(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    watched.visitors.add(made.id)
    await stays_up(watched, made)
    watched.visitors.clear()
    await is_paused(watched, made)


async def test_a_file_request_keeps_it_up(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    live = watched.registry.find(made.id)
    assert live is not None
    assert live.agents is not None
    async with live.agents._limit:
        await stays_up(watched, made)
    await is_paused(watched, made)


@pytest.mark.parametrize("ignore", [False, True])
async def test_a_background_process_keeps_it_up_unless_it_is_not_to(watched: Service, ignore: bool) -> None:
    made = await watched.sandboxes.create("ann", spec(ignore=ignore))
    await watched.commands.start("ann", made.id, RUN)
    if ignore:
        await is_paused(watched, made)
    else:
        await stays_up(watched, made)
        FakeBox.made[made.id].exit()
        await is_paused(watched, made)


async def test_a_process_that_somebody_follows_keeps_it_up(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec(ignore=True))
    process = await watched.commands.start("ann", made.id, RUN)
    with await watched.commands.follow("ann", made.id, process.id, 0, text=False):
        await stays_up(watched, made)
    await is_paused(watched, made)


async def test_a_command_that_is_waited_for_always_keeps_it_up(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec(ignore=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.commands.run, "ann", made.id, RUN)
        await until(lambda: bool(FakeBox.made[made.id].exits))
        await stays_up(watched, made)
        FakeBox.made[made.id].exit()
    await is_paused(watched, made)


async def test_a_command_that_is_being_started_keeps_it_up(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    box = FakeBox.made[made.id]
    box.start_gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.commands.start, "ann", made.id, RUN)
        await stays_up(watched, made)
        box.start_gate.set()
    box.exit()


# ---- changed later


async def test_it_is_changed_as_a_whole(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", SPEC)
    wish = spec(resume=False).standby
    assert (await watched.standbys.set("ann", made.id, wish)).standby == wish
    await is_paused(watched, made)
    record = await watched.standbys.set("ann", made.id, Standby(auto_resume=True))
    assert (record.state, record.standby) == (State.PAUSED, Standby(auto_resume=True))
    assert await watched.store.get(made.id) == record
    await watched.registry.usable("ann", made.id, Action.FILES)
    await stays_up(watched, made)
    assert (await problem_of(watched.standbys.set("eve", made.id, wish))).code is Code.SANDBOX_NOT_FOUND
    await watched.sandboxes.kill("ann", made.id)
    assert (await problem_of(watched.standbys.set("ann", made.id, wish))).code is Code.WRONG_STATE


async def test_a_host_that_cannot_freeze_says_so(service: Service) -> None:
    for wish in (spec(), spec(idle_ms=None, expiry=OnExpiry.PAUSE)):
        assert (await problem_of(service.sandboxes.create("ann", wish))).code is Code.HOST_LACKS
        assert len(service.registry) == 0
        assert service.keeper.lives == set()
    made = await service.sandboxes.create("ann", SPEC)
    problem = await problem_of(service.standbys.set("ann", made.id, spec().standby))
    assert (problem.code, problem.field) == (Code.HOST_LACKS, "autoPause")
    await service.standbys.set("ann", made.id, Standby(auto_resume=True))


# ---- at its end


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    told = [5000.0]
    monkeypatch.setattr("nsbox.service.clock.boottime", lambda: told[0])
    monkeypatch.setattr(sandboxes_module, "_PAUSE_AGAIN", 0.01)
    return told


async def test_its_time_is_over_and_it_is_paused(
    service: Service, nursery: trio.Nursery, now: list[float]
) -> None:
    service.keeper.cgroup = "/nowhere"
    made = await service.sandboxes.create("ann", spec(idle_ms=None, expiry=OnExpiry.PAUSE))
    nursery.start_soon(service.sandboxes.expire)
    now[0] += SPEC.timeout_ms / 1000
    service.sandboxes._look_at_deadlines()
    await is_paused(service, made)
    live = service.registry.find(made.id)
    assert live is not None
    assert live.record.remaining_s == SPEC.timeout_ms / 1000
    now[0] += 1_000_000
    await service.registry.usable("ann", made.id, Action.EXEC)
    assert live.record.deadline == now[0] + SPEC.timeout_ms / 1000
    nursery.cancel_scope.cancel()


async def test_one_that_cannot_be_paused_is_ended(
    service: Service, nursery: trio.Nursery, now: list[float]
) -> None:
    service.keeper.cgroup = "/nowhere"
    made = await service.sandboxes.create("ann", spec(idle_ms=None, expiry=OnExpiry.PAUSE))
    service.keeper.freeze_fails = True
    nursery.start_soon(service.sandboxes.expire)
    now[0] += SPEC.timeout_ms / 1000
    service.sandboxes._look_at_deadlines()
    await until(lambda: service.registry.find(made.id) is None)
    record = await service.store.get(made.id)
    assert record is not None
    assert record.end_reason is EndReason.EXPIRED
    assert service.keeper.count("freeze") == sandboxes_module._PAUSE_TRIES
    nursery.cancel_scope.cancel()


# ---- who comes in between


async def test_many_at_once_resume_it_once(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    await is_paused(watched, made)
    before = watched.keeper.count("thaw")
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(watched.registry.usable, "ann", made.id, Action.FILES)
    assert watched.keeper.count("thaw") == before + 1


async def test_who_comes_while_it_is_being_paused_waits_and_goes_on(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    watched.keeper.freeze_gate = trio.Event()
    await until(lambda: watched.keeper.count("freeze") == 1)
    found: list[State] = []

    async def come() -> None:
        found.append((await watched.registry.usable("ann", made.id, Action.EXEC))[0].state)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        await trio.sleep(0.05)
        assert found == []
        watched.keeper.freeze_gate.set()
    assert found == [State.RUNNING]
    assert made.id not in watched.keeper.frozen


async def test_what_was_about_to_ask_init_has_it_resumed(watched: Service) -> None:
    """The pause came between the look at the state and the question."""
    made = await watched.sandboxes.create("ann", spec(idle_ms=None))
    await watched.registry.usable("ann", made.id, Action.EXEC)
    await watched.sandboxes.pauses.pause("ann", made.id)
    with trio.fail_after(5):
        await FakeBox.made[made.id].time.going()
    await until(lambda: state(watched, made) is State.RUNNING)


async def test_a_resume_that_fails_is_told_to_all(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    await is_paused(watched, made)
    watched.keeper.thaw_fails = True
    problems: list[Problem] = []

    async def come() -> None:
        problems.append(await problem_of(watched.registry.usable("ann", made.id, Action.EXEC)))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(come)
    assert [one.code for one in problems] == [Code.SANDBOX_UNRESPONSIVE] * 5
    assert state(watched, made) is State.PAUSED
    watched.keeper.thaw_fails = False
    await watched.registry.usable("ann", made.id, Action.EXEC)


async def test_one_that_ends_while_it_is_waited_for(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    watched.keeper.freeze_gate = trio.Event()
    await until(lambda: watched.keeper.count("freeze") == 1)
    codes: list[Code] = []

    async def come() -> None:
        codes.append((await problem_of(watched.registry.usable("ann", made.id, Action.EXEC))).code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        await trio.sleep(0.05)
        await watched.sandboxes.kill("ann", made.id)
        watched.keeper.freeze_gate.set()
    assert codes in ([Code.WRONG_STATE], [Code.SANDBOX_GONE])


@pytest.mark.parametrize("seed", range(3))
async def test_requests_and_pauses_in_any_order(watched: Service, seed: int) -> None:
    """Idle after no time at all, paused by others too: no request is refused or hangs, what it asks is asked
    of a running sandbox, and in the end record and kernel agree."""
    chance = random.Random(seed)
    made = await watched.sandboxes.create("ann", spec(idle_ms=0))
    box = FakeBox.made[made.id]
    asked = 0

    async def client(mine: random.Random) -> None:
        nonlocal asked
        for _ in range(25):
            await watched.registry.usable("ann", made.id, mine.choice([Action.EXEC, Action.FILES]))
            for _ in range(mine.randrange(3)):
                await trio.lowlevel.checkpoint()
            await box.time.going()  # as every question to init does
            assert made.id not in watched.keeper.frozen
            asked += 1
            await trio.sleep(mine.choice([0, 0, 0.001, 0.01]))

    async def pauser(mine: random.Random) -> None:
        for _ in range(10):
            await watched.sandboxes.pauses.pause("ann", made.id)
            await trio.sleep(mine.choice([0, 0.002]))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(client, random.Random(chance.random()))
            nursery.start_soon(pauser, random.Random(chance.random()))
    assert asked == 150
    await is_paused(watched, made)
    assert await watched.store.get(made.id) == watched.registry.find(made.id).record  # type: ignore[union-attr]
    assert watched.keeper.count("thaw") > 1


# ---- visitors


async def test_a_visit_wakes_it(watched: Service) -> None:
    made = await watched.sandboxes.create("ann", spec())
    live = watched.registry.find(made.id)
    assert live is not None
    port = Port(port=80, protocol=Protocol.HTTP, public=True, salt="s")
    await watched.registry.change(live, ports=(port,))
    await is_paused(watched, made)
    visited = Ports(watched.registry, None, None, None, 4)  # type: ignore[arg-type]
    assert visited.find(made.id, 80).reach is Reach.PAUSED  # a look wakes nobody
    assert (await visited.wake(made.id, 80)).reach is Reach.OPEN
    assert (await visited.wake("sb_none", 80)).reach is Reach.NO_SANDBOX
    await is_paused(watched, made)
    watched.keeper.thaw_fails = True
    with pytest.raises(Unresponsive):
        await visited.wake(made.id, 80)
