from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.lifecycle import Action, EndReason, State
from nsbox.model.sandbox import Sandbox, new_sandbox_id
from nsbox.service import clock
from nsbox.service import sandboxes as module
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC, FakeBox, until


async def problem_of(work: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await work
    return caught.value


async def states(service: Service) -> dict[str, State]:
    return {one.id: one.state for one in await service.store.list("ann", frozenset(State))}


# ---- create


async def test_a_sandbox_is_made(service: Service) -> None:
    before = clock.boottime()
    made = await service.sandboxes.create("ann", SPEC)
    assert made.state is State.RUNNING
    assert made.enforced == ("pids",)
    assert made.layers == ("layer",)
    assert before + 60 <= made.deadline <= clock.boottime() + 60
    assert made.boot_id == clock.boot_id()
    assert await service.store.get(made.id) == made
    assert await service.sandboxes.get("ann", made.id) == made
    assert (await problem_of(service.sandboxes.get("eve", made.id))).code is Code.SANDBOX_NOT_FOUND


async def test_keeper_refuses(service: Service) -> None:
    service.keeper.create_fails = True
    assert (await problem_of(service.sandboxes.create("ann", SPEC))).code is Code.CREATE_FAILED
    (record,) = await service.store.list("ann", frozenset(State))
    assert (record.state, record.end_reason) == (State.FAILED, EndReason.FAILED)
    assert record.ended_at is not None
    assert service.keeper.log == [("create", record.id), ("destroy", record.id)]
    assert len(service.registry) == 0


@pytest.mark.parametrize("step", ["refuses", "attach_fails"])
async def test_init_does_not_answer(service: Service, fake_boxes: type[FakeBox], step: str) -> None:
    setattr(fake_boxes, step, True)
    assert (await problem_of(service.sandboxes.create("ann", SPEC))).code is Code.CREATE_FAILED
    assert list((await states(service)).values()) == [State.FAILED]
    assert service.keeper.lives == set()
    assert len(service.registry) == 0


async def test_the_intent_cannot_be_written(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(record: Sandbox) -> None:
        raise HostProblem("the disk is full")

    monkeypatch.setattr(service.store, "insert", full)
    for _ in range(10):  # a failed one takes no place
        assert (await problem_of(service.sandboxes.create("ann", SPEC))).code is Code.CREATE_FAILED
    assert service.keeper.log == []


async def test_that_it_runs_cannot_be_written(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is left then, in the host or in memory; the next reconcile sees to the row."""
    real = service.store.update

    async def full_once(record: Sandbox) -> None:
        if record.state is State.RUNNING:
            raise sqlite3.OperationalError("disk full")
        await real(record)

    monkeypatch.setattr(service.store, "update", full_once)
    assert (await problem_of(service.sandboxes.create("ann", SPEC))).code is Code.CREATE_FAILED
    assert service.keeper.lives == set()
    assert len(service.registry) == 0
    assert list((await states(service)).values()) == [State.STOPPED]


async def test_a_failed_one_that_cannot_be_ended_is_a_tombstone(service: Service) -> None:
    service.keeper.create_fails = service.keeper.destroy_fails = True
    await problem_of(service.sandboxes.create("ann", SPEC))
    assert list((await states(service)).values()) == [State.STOPPING]
    service.keeper.destroy_fails = False
    service.nursery.start_soon(service.sandboxes.keep_house)
    await until(lambda: len(service.registry) == 0)
    (record,) = await service.store.list("ann", frozenset(State))
    assert (record.state, record.end_reason) == (State.STOPPED, EndReason.FAILED)


async def test_the_client_leaves_while_it_is_made(service: Service) -> None:
    service.keeper.create_gate = trio.Event()
    with trio.move_on_after(0.05) as client:
        await service.sandboxes.create("ann", SPEC)
    assert client.cancelled_caught
    service.keeper.create_gate.set()
    await until(lambda: service.keeper.count("destroy") == 1 and len(service.registry) == 0)
    assert service.keeper.lives == set()
    assert list((await states(service)).values()) == [State.STOPPED]


async def test_it_is_killed_while_it_is_made(service: Service) -> None:
    service.keeper.create_gate = trio.Event()
    problems: list[Problem] = []

    async def client() -> None:
        problems.append(await problem_of(service.sandboxes.create("ann", SPEC)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        await until(lambda: service.keeper.count("create") == 1)
        (live,) = service.registry.all()
        killed = await service.sandboxes.kill("ann", live.record.id)
        assert killed.state is State.STOPPED
        service.keeper.create_gate.set()
    assert len(problems) == 1
    assert (await service.sandboxes.get("ann", live.record.id)).state is State.STOPPED
    assert service.keeper.lives == set()  # though keeper made it after it was told to end it


async def test_too_many(service: Service) -> None:
    """Counted also while they are made: many at once do not get past the bound."""
    results: list[str] = []

    async def client() -> None:
        try:
            await service.sandboxes.create("ann", SPEC)
            results.append("made")
        except Problem as problem:
            results.append(problem.code)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client)
    assert sorted(results) == ["made"] * 4 + [Code.TOO_MANY_SANDBOXES] * 16
    (one, *_) = service.registry.all()
    await service.sandboxes.kill("ann", one.record.id)
    await service.sandboxes.create("ann", SPEC)


async def test_an_unknown_template_costs_nothing(service: Service) -> None:
    spec = msgspec.structs.replace(SPEC, template="gone")
    assert (await problem_of(service.sandboxes.create("ann", spec))).code is Code.TEMPLATE_NOT_AVAILABLE
    assert service.keeper.log == []
    assert await states(service) == {}


async def test_none_are_made_any_more(service: Service) -> None:
    service.sandboxes.refuse_new()
    assert (await problem_of(service.sandboxes.create("ann", SPEC))).code is Code.SHUTTING_DOWN


# ---- end


async def test_it_is_ended_once_whoever_asks(service: Service) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    service.keeper.destroy_gate = trio.Event()
    ended: list[Sandbox] = []

    async def client() -> None:
        ended.append(await service.sandboxes.kill("ann", made.id))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client)
        await until(lambda: service.keeper.count("destroy") == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        service.keeper.destroy_gate.set()
    assert service.keeper.count("destroy") == 1
    assert {one.state for one in ended} == {State.STOPPED}
    again = await service.sandboxes.kill("ann", made.id)
    assert (again.state, again.end_reason) == (State.STOPPED, EndReason.KILLED)
    assert service.keeper.count("destroy") == 1
    assert FakeBox.made[made.id]._end.is_set()


async def test_a_client_that_leaves_does_not_stop_its_kill(service: Service) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    service.keeper.destroy_gate = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as client:
            client.start_soon(service.sandboxes.kill, "ann", made.id)
            await until(lambda: service.keeper.count("destroy") == 1)
            client.cancel_scope.cancel()
            service.keeper.destroy_gate.set()
    assert (await service.sandboxes.get("ann", made.id)).state is State.STOPPED


async def test_somebody_elses_is_not_there(service: Service) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    assert (await problem_of(service.sandboxes.kill("eve", made.id))).code is Code.SANDBOX_NOT_FOUND
    assert (await problem_of(service.sandboxes.kill("ann", "sb_x"))).code is Code.SANDBOX_NOT_FOUND
    assert service.keeper.count("destroy") == 0
    assert await service.sandboxes.list("eve", frozenset(State)) == []


async def test_one_that_cannot_be_ended_now_is_tried_again(service: Service) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    service.keeper.destroy_fails = True
    await problem_of(service.sandboxes.kill("ann", made.id))
    assert (await service.sandboxes.get("ann", made.id)).state is State.STOPPING
    service.keeper.destroy_fails = False
    service.nursery.start_soon(service.sandboxes.keep_house)
    await until(lambda: service.registry.find(made.id) is None)
    assert (await states(service))[made.id] is State.STOPPED


async def test_one_that_died_by_itself(service: Service) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    service.sandboxes.gone(made.id)
    service.sandboxes.gone("sb_never")
    await until(lambda: service.registry.find(made.id) is None)
    await trio.testing.wait_all_tasks_blocked(0.01)
    record = await service.sandboxes.get("ann", made.id)
    assert (record.state, record.end_reason) == (State.STOPPED, EndReason.CRASHED)


async def test_one_that_dies_while_it_is_being_killed(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Once both said "gone", the second in vain, and that error ended api."""
    for _ in range(20):
        made = await service.sandboxes.create("ann", SPEC)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.sandboxes.kill, "ann", made.id)
            await until(lambda: service.keeper.count("destroy") > 0)
            service.sandboxes.gone(made.id)
            service.sandboxes.gone(made.id)
        await until(lambda: service.registry.find(made.id) is None)  # noqa: B023
        assert (await service.sandboxes.get("ann", made.id)).state is State.STOPPED
        service.keeper.log.clear()
    assert caplog.records == []


async def test_a_record_that_cannot_be_written_does_not_end_api(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await service.sandboxes.create("ann", SPEC)

    async def full(record: Sandbox) -> None:
        raise HostProblem("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "update", full)
        service.sandboxes.gone(made.id)
        await trio.testing.wait_all_tasks_blocked(0.01)
    service.nursery.start_soon(service.sandboxes.keep_house)
    await until(lambda: service.registry.find(made.id) is None)


# ---- time


async def test_it_ends_on_time(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5000.0]
    monkeypatch.setattr(clock, "boottime", lambda: now[0])
    made = await service.sandboxes.create("ann", SPEC)
    other = await service.sandboxes.create("ann", msgspec.structs.replace(SPEC, timeout_ms=120_000))
    service.nursery.start_soon(service.sandboxes.expire)
    await trio.testing.wait_all_tasks_blocked(0.01)
    now[0] += 59
    service.sandboxes._deadlines_changed.set()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert service.keeper.count("destroy") == 0
    now[0] += 1
    service.sandboxes._deadlines_changed.set()
    await until(lambda: service.registry.find(made.id) is None)
    record = await service.sandboxes.get("ann", made.id)
    assert (record.state, record.end_reason) == (State.STOPPED, EndReason.EXPIRED)
    assert service.registry.find(other.id) is not None


async def test_a_short_time_is_not_overrun(service: Service) -> None:
    service.nursery.start_soon(service.sandboxes.expire)
    await trio.testing.wait_all_tasks_blocked(0.01)
    begun = trio.current_time()
    made = await service.sandboxes.create("ann", msgspec.structs.replace(SPEC, timeout_ms=100))
    await until(lambda: service.registry.find(made.id) is None)
    assert 0.09 <= trio.current_time() - begun < 0.6


async def test_one_whose_end_failed_is_not_ended_again_and_again(service: Service) -> None:
    service.keeper.destroy_fails = True
    service.nursery.start_soon(service.sandboxes.expire)
    made = await service.sandboxes.create("ann", msgspec.structs.replace(SPEC, timeout_ms=10))
    await until(lambda: service.keeper.count("destroy") == 1)
    for _ in range(10):
        service.sandboxes._deadlines_changed.set()
        await trio.testing.wait_all_tasks_blocked(0.005)
    assert service.keeper.count("destroy") == 1  # keep_house tries again, now and then
    assert (await service.sandboxes.get("ann", made.id)).state is State.STOPPING


async def test_old_records_are_forgotten(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    await service.sandboxes.kill("ann", made.id)
    kept = await service.sandboxes.create("ann", SPEC)
    week = service.settings.keep_records_s
    real = clock.wall
    monkeypatch.setattr(clock, "wall", lambda: real() + week + 1)
    service.nursery.start_soon(service.sandboxes.keep_house)
    with trio.fail_after(5):
        while await service.store.get(made.id) is not None:
            await trio.sleep(0.001)
    assert await service.store.get(kept.id) is not None


# ---- start and stop


async def put(service: Service, state: State) -> Sandbox:
    """A row that an earlier daemon left."""
    made = service.sandboxes._new_record("ann", SPEC, service.templates.get("default"))
    record = msgspec.structs.replace(made, id=new_sandbox_id(), state=state)
    await service.store.insert(record)
    return record


async def test_both_ways_and_twice(service: Service) -> None:
    """Rows without sandboxes, sandboxes without rows, and both in every state."""
    here = {state: await put(service, state) for state in State if state.alive}
    missing = {state: await put(service, state) for state in State if state.alive}
    await put(service, State.STOPPED)
    alive = (*(one.id for one in here.values()), "sb_unknown")
    service.keeper.lives |= set(alive)
    for _ in range(2):
        await service.sandboxes.reconcile(tuple(sorted(service.keeper.lives)))
        found = await states(service)
        assert [found[here[one].id] for one in (State.CREATING, State.STOPPING)] == [State.STOPPED] * 2
        assert [found[here[one].id] for one in (State.RUNNING, State.PAUSED)] == [State.RUNNING, State.PAUSED]
        lost = {state: found[missing[state].id] for state in missing}
        assert lost.pop(State.STOPPING) is State.STOPPED
        assert set(lost.values()) == {State.LOST}
        assert service.keeper.lives == {here[State.RUNNING].id, here[State.PAUSED].id}
        service.start()  # as another daemon would
    assert service.keeper.count("destroy") == 3


async def test_one_that_lives_is_adopted_and_can_be_used(service: Service) -> None:
    record = await put(service, State.RUNNING)
    service.keeper.lives.add(record.id)
    await service.sandboxes.reconcile((record.id,))
    _, box, _ = await service.registry.usable("ann", record.id, Action.EXEC)
    assert box is FakeBox.made[record.id]  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("step", ["refuses", "attach_fails"])
async def test_one_whose_init_does_not_answer_is_ended(
    service: Service, fake_boxes: type[FakeBox], step: str
) -> None:
    record = await put(service, State.RUNNING)
    service.keeper.lives.add(record.id)
    setattr(fake_boxes, step, True)
    await service.sandboxes.reconcile((record.id,))
    found = await service.sandboxes.get("ann", record.id)
    assert (found.state, found.end_reason) == (State.STOPPED, EndReason.CRASHED)


async def test_what_cannot_be_ended_does_not_keep_the_daemon_from_starting(service: Service) -> None:
    record = await put(service, State.CREATING)
    service.keeper.destroy_fails = True
    await service.sandboxes.reconcile((record.id, "sb_unknown"))
    assert (await service.sandboxes.get("ann", record.id)).state is State.STOPPING


async def test_the_end_of_the_daemon(service: Service) -> None:
    made = [await service.sandboxes.create("ann", SPEC) for _ in range(3)]
    service.sandboxes.refuse_new()
    await service.sandboxes.end_all()
    assert service.keeper.lives == set()
    for one in made:
        record = await service.sandboxes.get("ann", one.id)
        assert (record.state, record.end_reason) == (State.STOPPED, EndReason.SHUTDOWN)


async def test_one_that_cannot_be_ended_does_not_keep_the_others(service: Service) -> None:
    made = [await service.sandboxes.create("ann", SPEC) for _ in range(2)]
    real = service.keeper.destroy

    async def destroy(sandbox_id: str) -> None:
        if sandbox_id == made[0].id:
            raise Problem(Code.SANDBOX_UNRESPONSIVE, "no")
        await real(sandbox_id)

    service.keeper.destroy = destroy  # type: ignore[method-assign]
    await service.sandboxes.end_all()
    assert service.keeper.lives == {made[0].id}


def test_housekeeping_is_often_enough() -> None:
    assert 1 <= module._HOUSEKEEPING <= 10
