from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import State
from nsbox.model.request import Request
from nsbox.model.sandbox import Sandbox, SandboxSpec
from nsbox.service import sandboxes as module
from nsbox.wire.messages import Refused
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC, TEMPLATE, FakeBox, until

KEYED = msgspec.structs.replace(SPEC, request=Request("key", "body"))


async def test_asked_for_twice_at_once_and_later(service: Service) -> None:
    made: list[Sandbox] = []

    async def ask() -> None:
        made.append(await service.creations.create("ann", KEYED))

    service.keeper.create_gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        service.keeper.create_gate.set()
    await ask()
    assert service.keeper.count("create") == 1
    assert {one.id for one in made} == {made[0].id}
    assert len(made) == 3
    other = msgspec.structs.replace(SPEC, request=Request("key", "something else"))
    with pytest.raises(Problem) as caught:
        await service.creations.create("ann", other)
    assert caught.value.code is Code.IDEMPOTENCY_MISMATCH
    hers = await service.creations.create("eve", other)  # keys are each owner's own
    assert hers.id != made[0].id


async def test_a_client_that_leaves_comes_back_for_it(service: Service) -> None:
    service.keeper.create_gate = trio.Event()
    with trio.move_on_after(0.01):
        await service.creations.create("ann", KEYED)
    service.keeper.create_gate.set()
    await until(lambda: len(service.keeper.lives) == 1)
    record = await service.creations.create("ann", KEYED)
    assert (record.state, service.keeper.count("create")) == (State.RUNNING, 1)


async def test_without_a_key_each_is_another(service: Service) -> None:
    first, second = [await service.creations.create("ann", SPEC) for _ in range(2)]
    assert first.id != second.id


async def test_one_that_failed_is_tried_again(service: Service) -> None:
    service.keeper.create_fails = True
    for _ in range(2):
        with pytest.raises(Problem):
            await service.creations.create("ann", KEYED)
    service.keeper.create_fails = False
    assert (await service.creations.create("ann", KEYED)).state is State.RUNNING
    assert service.keeper.count("create") == 3


async def test_what_it_is_by_then(service: Service) -> None:
    record = await service.creations.create("ann", KEYED)
    await service.sandboxes.kill("ann", record.id)
    again = await service.creations.create("ann", KEYED)
    assert (again.id, again.state) == (record.id, State.STOPPED)


async def test_after_a_restart(service: Service) -> None:
    record = await service.creations.create("ann", KEYED)
    service.start()
    await service.sandboxes.reconcile(tuple(service.keeper.lives))
    assert (await service.creations.create("ann", KEYED)).id == record.id


async def test_killed_before_it_was_announced(service: Service) -> None:
    """The next api ends what the record calls creating; whoever asks again gets a sandbox that runs."""
    service.keeper.create_gate = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.creations.create, "ann", KEYED)
            while not service.registry.all():
                await trio.sleep(0.001)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    (live,) = service.registry.all()
    assert live.record.state is State.CREATING
    service.start()
    service.keeper.create_gate = trio.Event()
    service.keeper.create_gate.set()
    await service.sandboxes.reconcile((live.record.id,))
    again = await service.creations.create("ann", KEYED)
    assert (again.id != live.record.id, again.state) == (True, State.RUNNING)


async def test_what_the_template_starts_is_started_once(service: Service) -> None:
    service.templates.add(msgspec.structs.replace(TEMPLATE, start=("server",)))
    record = await service.creations.create("ann", KEYED)
    assert (await service.creations.create("ann", KEYED)).id == record.id
    assert len(await service.commands.list("ann", record.id)) == 1
    await service.sandboxes.kill("ann", record.id)


@pytest.mark.parametrize("spec", [SPEC, KEYED], ids=["plain", "keyed"])
async def test_a_template_that_cannot_start_leaves_no_sandbox(
    service: Service, spec: SandboxSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same request may be sent again."""
    service.templates.add(msgspec.structs.replace(TEMPLATE, start=("server",)))
    refusal: Refused | None = Refused("k", "fork", 11, "why")

    class Refusing(FakeBox):
        def __init__(self, run_dir: int, sandbox_id: str) -> None:
            super().__init__(run_dir, sandbox_id)
            self.refusal = refusal

    monkeypatch.setattr(module, "Box", Refusing)
    with pytest.raises(Problem) as caught:
        await service.creations.create("ann", spec)
    assert caught.value.code is Code.SANDBOX_EXHAUSTED
    assert (len(service.registry), service.keeper.lives) == (0, set())
    refusal = None
    record = await service.creations.create("ann", spec)
    assert record.state is State.RUNNING
    await service.sandboxes.kill("ann", record.id)
