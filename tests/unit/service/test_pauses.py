"""Pause, resume and time: the record, the kernel and the clocks agree, whatever fails and whoever comes."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from nsbox.host.box import Unresponsive
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.lifecycle import Action, EndReason, State
from nsbox.model.sandbox import CommandSpec, Sandbox
from nsbox.service import clock
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC, FakeBox, until
from tests.unit.service.test_commands import Run
from tests.unit.service.test_sandboxes import problem_of, put

SPEC_RUN = CommandSpec(argv=("run",), command=["run"], timeout_ms=500)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of CLOCK_BOOTTIME."""
    told = [5000.0]
    monkeypatch.setattr(clock, "boottime", lambda: told[0])
    return told


@pytest.fixture
async def made(service: Service) -> Sandbox:
    return await service.sandboxes.create("ann", SPEC)


async def stored(service: Service, sandbox: Sandbox) -> Sandbox:
    record = await service.store.get(sandbox.id)
    assert record is not None
    live = service.registry.find(sandbox.id)
    assert live is None or live.record == record
    return record


async def pause(service: Service, sandbox: Sandbox) -> Sandbox:
    record, reclaimed = await service.sandboxes.pauses.pause("ann", sandbox.id)
    assert reclaimed is None
    return record


async def resume(service: Service, sandbox: Sandbox) -> Sandbox:
    return await service.sandboxes.pauses.resume("ann", sandbox.id)


async def test_a_pause_and_a_resume(service: Service, now: list[float], made: Sandbox) -> None:
    service.keeper.log.clear()
    now[0] += 20
    made = await service.sandboxes.get("ann", made.id)
    paused = await pause(service, made)
    left = made.deadline - now[0]
    assert (paused.state, paused.remaining_s) == (State.PAUSED, left)
    assert await stored(service, made) == paused
    assert service.keeper.frozen == {made.id}
    assert await pause(service, made) == paused
    now[0] += 10_000
    resumed = await resume(service, made)
    assert (resumed.state, resumed.remaining_s, resumed.deadline) == (State.RUNNING, None, now[0] + left)
    assert resumed.expires_at == pytest.approx(clock.wall() + left, abs=5)
    assert await stored(service, made) == resumed
    assert await resume(service, made) == resumed
    assert service.keeper.frozen == set()
    assert [what for what, _ in service.keeper.log] == ["freeze", "thaw"]


async def test_what_is_not_ones_own_or_has_ended(service: Service, made: Sandbox) -> None:
    pauses = service.sandboxes.pauses
    for work in (pauses.pause, pauses.resume, lambda *who: pauses.set_timeout(*who, 5_000)):
        assert (await problem_of(work("eve", made.id))).code is Code.SANDBOX_NOT_FOUND
        assert (await problem_of(work("ann", "sb_never"))).code is Code.SANDBOX_NOT_FOUND
    await service.sandboxes.kill("ann", made.id)
    for work in (pauses.pause, pauses.resume, lambda *who: pauses.set_timeout(*who, 5_000)):
        assert (await problem_of(work("ann", made.id))).code is Code.WRONG_STATE


async def test_nothing_is_asked_of_a_paused_one(service: Service, made: Sandbox) -> None:
    """From the moment that the pause is begun, before anything is frozen."""
    service.keeper.freeze_gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pause, service, made)
        await until(lambda: service.keeper.count("freeze") == 1)
        assert (await stored(service, made)).state is State.PAUSED  # the row came first
        for action in (Action.EXEC, Action.FILES):
            problem = await problem_of(service.registry.usable("ann", made.id, action))
            assert (problem.code, problem.remedy) == (Code.WRONG_STATE, "resume it first")
        service.keeper.freeze_gate.set()


async def test_init_is_left_in_peace_first(service: Service, made: Sandbox) -> None:
    box = FakeBox.made[made.id]
    box.quiet_gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pause, service, made)
        await until(lambda: service.registry.find(made.id).record.state is State.PAUSED)  # type: ignore[union-attr]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert service.keeper.count("freeze") == 0
        box.quiet_gate.set()
    assert service.keeper.count("freeze") == 1


# ---- what fails


@pytest.mark.parametrize(
    ("fault", "code"),
    [("keeper", Code.HOST_LACKS), ("init", Code.SANDBOX_UNRESPONSIVE)],
)
async def test_a_pause_that_fails_changes_nothing(
    service: Service, now: list[float], made: Sandbox, fault: str, code: Code
) -> None:
    made = await service.sandboxes.get("ann", made.id)
    service.keeper.freeze_fails = fault == "keeper"
    box = FakeBox.made[made.id]
    box.silent = fault == "init"
    assert (await problem_of(pause(service, made))).code is code
    record = await stored(service, made)
    assert msgspec.structs.replace(record, expires_at=made.expires_at) == made
    assert service.keeper.frozen == set()
    with trio.fail_after(0):
        await box.time.going()
    service.keeper.freeze_fails = box.silent = False
    assert (await pause(service, made)).state is State.PAUSED


async def test_a_pause_that_cannot_be_taken_back_is_one(service: Service, made: Sandbox) -> None:
    """keeper answers nothing: it may have frozen it. Paused is what can be mended by a resume."""
    service.keeper.freeze_fails = service.keeper.thaw_fails = True
    await problem_of(pause(service, made))
    assert (await stored(service, made)).state is State.PAUSED
    await problem_of(resume(service, made))
    assert (await stored(service, made)).state is State.PAUSED
    service.keeper.thaw_fails = False
    assert (await resume(service, made)).state is State.RUNNING


async def test_a_row_that_cannot_be_written(
    service: Service, made: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = service.store.update

    async def full(record: Sandbox) -> None:
        if record.state is State.PAUSED:
            raise HostProblem("the disk is full")
        await real(record)

    monkeypatch.setattr(service.store, "update", full)
    with pytest.raises(HostProblem):
        await pause(service, made)
    assert service.keeper.count("freeze") == 0
    assert (await stored(service, made)).state is State.RUNNING


async def test_a_client_that_leaves(service: Service, made: Sandbox) -> None:
    """Its pause is whole."""
    service.keeper.freeze_gate = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as client:
            client.start_soon(pause, service, made)
            await until(lambda: service.keeper.count("freeze") == 1)
            client.cancel_scope.cancel()
            service.keeper.freeze_gate.set()
    assert (await stored(service, made)).state is State.PAUSED
    assert service.keeper.frozen == {made.id}


# ---- time


async def test_a_paused_one_does_not_expire(service: Service, now: list[float], made: Sandbox) -> None:
    service.nursery.start_soon(service.sandboxes.expire)
    made = await service.sandboxes.create("ann", SPEC)
    await pause(service, made)
    now[0] += 10_000
    service.sandboxes._look_at_deadlines()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await stored(service, made)).state is State.PAUSED
    await resume(service, made)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await stored(service, made)).state is State.RUNNING
    now[0] += 61
    service.sandboxes._look_at_deadlines()
    await until(lambda: service.registry.find(made.id) is None)
    assert (await stored(service, made)).end_reason is EndReason.EXPIRED


async def test_more_or_less_time(service: Service, now: list[float], made: Sandbox) -> None:
    set_timeout = service.sandboxes.pauses.set_timeout
    record = await set_timeout("ann", made.id, 90_000)
    assert (record.timeout_ms, record.deadline) == (90_000, now[0] + 90)
    await pause(service, made)
    record = await set_timeout("ann", made.id, 7_000)
    assert (record.state, record.remaining_s, record.timeout_ms) == (State.PAUSED, 7, 7_000)
    assert await stored(service, made) == record
    now[0] += 100
    assert (await resume(service, made)).deadline == now[0] + 7
    service.nursery.start_soon(service.sandboxes.expire)
    await set_timeout("ann", made.id, 60_000)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await set_timeout("ann", made.id, 1)  # nobody has to come round for a nearer deadline to be seen
    now[0] += 1
    service.sandboxes._look_at_deadlines()
    await until(lambda: service.registry.find(made.id) is None)


async def test_a_commands_time_stands_still(service: Service, made: Sandbox) -> None:
    spec = SPEC_RUN
    run = Run(service, made, spec)
    service.nursery.start_soon(run.run)
    await run.started()
    await pause(service, made)
    await trio.sleep(0.6)
    assert run.result is None
    await resume(service, made)
    run.box.exit(run.index)
    result = await run.outcome()
    assert result.exit_code == 0
    assert result.duration_ms < 500
    await run.settled()


async def test_the_death_of_a_killed_command_is_waited_for(service: Service, made: Sandbox) -> None:
    """Its time was over just before the pause: that init does not tell of its death is not init's fault."""
    run = Run(service, made, SPEC_RUN)
    run.box.dies_when_killed = False
    service.nursery.start_soon(run.run)
    await run.started()
    await until(lambda: ("kill", run.key) in run.box.log)
    await pause(service, made)
    assert run.box.time._ends
    assert all(scope.deadline == float("inf") for scope in run.box.time._ends)
    await resume(service, made)
    run.box.exit(run.index, 9)
    assert (await run.outcome()).outcome.value == "timedOut"
    await run.settled()


# ---- api is replaced


async def left(service: Service) -> Sandbox:
    """A row that says paused, of a sandbox that lives."""
    record = await put(service, State.PAUSED)
    record = msgspec.structs.replace(record, remaining_s=30.0)
    await service.store.update(record)
    service.keeper.lives.add(record.id)
    return record


async def test_it_stays_paused_and_its_init_is_asked_nothing(service: Service) -> None:
    record = await left(service)
    await service.sandboxes.reconcile((record.id,))
    assert await stored(service, record) == record
    assert service.keeper.frozen == {record.id}  # also one that was not yet, or not any more
    assert record.id not in FakeBox.made
    resumed = await resume(service, record)
    assert resumed.deadline == pytest.approx(clock.boottime() + 30, abs=5)
    assert service.keeper.frozen == set()
    _, box, _ = await service.registry.usable("ann", record.id, Action.EXEC)
    assert box is FakeBox.made[record.id]  # type: ignore[comparison-overlap]
    assert (await pause(service, record)).state is State.PAUSED


async def test_one_that_can_no_longer_be_frozen_runs(service: Service) -> None:
    record = await left(service)
    service.keeper.freeze_fails = True
    await service.sandboxes.reconcile((record.id,))
    assert (await stored(service, record)).state is State.RUNNING
    await service.registry.usable("ann", record.id, Action.EXEC)


async def test_one_that_the_record_says_runs_does(service: Service) -> None:
    record = await put(service, State.RUNNING)
    service.keeper.lives.add(record.id)
    service.keeper.frozen.add(record.id)
    await service.sandboxes.reconcile((record.id,))
    assert service.keeper.frozen == set()


async def test_one_whose_init_does_not_answer_any_more(service: Service, fake_boxes: type[FakeBox]) -> None:
    record = await left(service)
    await service.sandboxes.reconcile((record.id,))
    fake_boxes.attach_fails = True
    assert (await problem_of(resume(service, record))).code is Code.SANDBOX_GONE
    found = await stored(service, record)
    assert (found.state, found.end_reason) == (State.STOPPED, EndReason.CRASHED)
    assert service.keeper.lives == set()


async def test_inits_that_say_nothing_are_waited_for_together(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant has many of them: an api that has just started serves nobody before they are given up."""
    records = [await put(service, State.RUNNING) for _ in range(100)]
    service.keeper.lives.update(record.id for record in records)
    asked, all_asked = set[str](), trio.Event()

    async def attach(box: FakeBox) -> list[object]:
        asked.add(str(id(box)))
        if len(asked) == len(records):
            all_asked.set()
        await all_asked.wait()
        raise Unresponsive("no answer in time")

    monkeypatch.setattr(FakeBox, "attach", attach)
    with trio.fail_after(60):
        await service.sandboxes.reconcile(tuple(record.id for record in records))
    assert service.keeper.lives == set()


async def test_one_that_was_never_resumed_is_killed(service: Service) -> None:
    record = await left(service)
    await service.sandboxes.reconcile((record.id,))
    assert (await service.sandboxes.kill("ann", record.id)).state is State.STOPPED
    other = await left(service)
    await service.sandboxes.reconcile((other.id,))
    await service.sandboxes.end_all()
    assert (await stored(service, other)).end_reason is EndReason.SHUTDOWN


# ---- many at once


async def test_a_kill_does_not_wait_for_a_pause(service: Service, made: Sandbox) -> None:
    service.keeper.freeze_gate = trio.Event()
    problems: list[Problem] = []

    async def client() -> None:
        problems.append(await problem_of(pause(service, made)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        await until(lambda: service.keeper.count("freeze") == 1)
        assert (await service.sandboxes.kill("ann", made.id)).state is State.STOPPED
        service.keeper.freeze_gate.set()
    assert [one.code for one in problems] == [Code.SANDBOX_GONE]
    assert (await stored(service, made)).state is State.STOPPED


@pytest.mark.parametrize("seed", range(20))
async def test_any_order(service: Service, seed: int) -> None:
    """Whatever comes at once, what is frozen is what is recorded as paused, and everybody is answered."""
    chance = random.Random(seed)
    made = await service.sandboxes.create("ann", SPEC)
    pauses = service.sandboxes.pauses
    acts: list[Any] = [
        pauses.pause,
        pauses.resume,
        lambda *who: pauses.set_timeout(*who, 60_000),
    ]

    codes: set[Code] = set()

    async def client(act: Any) -> None:
        await trio.sleep(chance.random() / 100)
        try:
            await act("ann", made.id)
        except Problem as problem:
            codes.add(problem.code)

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(client, chance.choice(acts))
    paused = (await stored(service, made)).state is State.PAUSED
    assert service.keeper.frozen == ({made.id} if paused else set())
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(client, chance.choice([*acts, service.sandboxes.kill]))
        nursery.start_soon(client, service.sandboxes.kill)
    assert (await stored(service, made)).state is State.STOPPED
    assert service.keeper.lives == service.keeper.frozen == set()
    assert codes <= {Code.WRONG_STATE, Code.SANDBOX_GONE}
