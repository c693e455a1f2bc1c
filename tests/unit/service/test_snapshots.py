"""Snapshots and forks: who stands still and when, what is written down, and what is left when it fails."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from nsbox.host.storage import Reserve
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.request import Request
from nsbox.model.sandbox import Sandbox
from nsbox.model.snapshot import Snapshot, Standstill
from nsbox.oci.snapshots import orders
from nsbox.service import clock
from nsbox.service.cuts import Cuts
from nsbox.service.images import Images
from nsbox.service.snapshots import Snapshots
from nsbox.store.database import Database
from nsbox.store.snapshots import SnapshotStore
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC, TEMPLATE, until
from tests.unit.service.test_sandboxes import problem_of

CUT = {"entries": 3, "bytes": 5, "skipped": 0, "dropped": 0, "changed": 0, "cloned": 0}


class Worker:
    """keeper's tasks: layers as empty folders. ``gate`` holds a copy, ``says`` is what it answers."""

    def __init__(self, state: Path, log: list[tuple[str, str]]) -> None:
        self.layers, self.log = state / "layers", log
        self.layers.mkdir(exist_ok=True)
        for name in TEMPLATE.layers:
            (self.layers / name).mkdir(exist_ok=True)
        self.gate, self.synced = trio.Event(), trio.Event()
        self.gate.set()
        self.synced.set()
        self.says: dict[str, Any] = CUT
        self.orders: list[dict[str, Any]] = []

    async def task(self, key: str, name: str, argument: str, descriptors: Sequence[int]) -> int:
        if name == "remove-layer":
            shutil.rmtree(self.layers / argument, ignore_errors=True)
            return 0
        assert name == "take"
        with socket.socket(fileno=os.dup(descriptors[0])) as end:
            end.setblocking(False)
            stream = trio.socket.from_stdlib_socket(end)
            said = await stream.recv(4096)
            if not said:
                return 1
            self.orders.append(json.loads(said))
            self.log.append(("copy", argument))
            await self.gate.wait()
            if "reason" not in self.says:
                (self.layers / argument).mkdir()
            try:
                await stream.send(json.dumps(self.says).encode())
            except OSError:
                return 1
        await self.synced.wait()
        return 0

    def there(self) -> list[str]:
        return [name for name in os.listdir(self.layers) if name.startswith("s-")]


class Kit:
    """Snapshots, and what is around them."""

    def __init__(self, service: Service, database: Database) -> None:
        self.service, self.database = service, database
        self.worker = Worker(Path(service.settings.state_dir), service.keeper.log)
        service.keeper.task = self.worker.task  # type: ignore[attr-defined]
        self.start()

    def start(self) -> None:
        """As the next api finds it."""
        service = self.service

        def standing() -> list[tuple[str, ...]]:
            return [live.record.layers for live in service.registry.all()] + self.snapshots.stacks()

        keeper: Any = service.keeper
        self.reserve = Reserve("/", 0)
        images = Images(service.settings, keeper, service.nursery, standing, self.reserve)
        cuts = Cuts(keeper, service.settings, service.nursery)
        self.store = SnapshotStore(self.database)
        self.snapshots = Snapshots(
            self.store,
            service.registry,
            images,
            service.templates,
            cuts,
            service.sandboxes,
            service.creations,
            service.settings,
            self.reserve,
            service.nursery,
        )

    async def take(self, sandbox: Sandbox, *, must_stand: bool = False) -> Snapshot:
        return await self.snapshots.take("ann", sandbox.id, "n", must_stand=must_stand)

    async def nothing_is_left(self) -> None:
        assert self.snapshots.of_owner("ann") == []
        assert await self.store.all() == []
        await until(lambda: self.worker.there() == [])


@pytest.fixture
async def kit(service: Service, database: Database) -> Kit:
    return Kit(service, database)


@pytest.fixture
async def made(kit: Kit) -> Sandbox:
    sandbox = await kit.service.sandboxes.create("ann", SPEC)
    kit.service.keeper.log.clear()
    return sandbox


async def test_it_stands_while_it_is_copied(kit: Kit, made: Sandbox) -> None:
    kit.worker.synced = trio.Event()
    taken = await kit.take(made)
    assert [what for what, _ in kit.service.keeper.log] == ["freeze", "copy", "thaw"]
    assert taken.standstill is Standstill.FROZEN
    assert taken.base.layers == (taken.layer, *made.layers)
    assert kit.snapshots.get("ann", taken.id) == taken
    assert await kit.store.all() == [taken]
    assert kit.worker.orders[0]["sandbox"] == made.id
    assert not kit.snapshots.is_durable(taken)
    kit.worker.synced.set()
    await until(lambda: kit.snapshots.is_durable(taken))


@pytest.mark.parametrize("slow", ["answer", "record"])
async def test_a_disk_that_is_quicker_than_we_are(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """The worker has ended before its answer was taken up, or before the row was written: it counts."""
    sandbox = await kit.service.sandboxes.create("ann", SPEC)
    if slow == "record":
        save = kit.store.save

        async def late(record: Snapshot) -> None:
            await save(record)
            if record.cut is not None:
                await trio.testing.wait_all_tasks_blocked()

        monkeypatch.setattr(kit.store, "save", late)
    else:
        make = orders.Taking.make

        async def behind(taking: orders.Taking, order: orders.TakeOrder) -> Any:
            send = taking._ours.send

            async def sent(data: bytes) -> int:
                done = await send(data)
                await trio.testing.wait_all_tasks_blocked()  # the worker has answered and ended
                return int(done)

            monkeypatch.setattr(taking._ours, "send", sent)
            return await make(taking, order)

        monkeypatch.setattr(orders.Taking, "make", behind)
    taken = await kit.take(sandbox)
    await until(lambda: kit.snapshots.is_durable(taken))


async def test_somebody_elses(kit: Kit, made: Sandbox) -> None:
    taken = await kit.take(made)
    for work in (
        lambda: kit.snapshots.take("eve", made.id, "", must_stand=False),
        lambda: kit.snapshots.of_sandbox("eve", made.id),
        lambda: kit.snapshots.fork("eve", made.id, 1, SPEC),
    ):
        assert (await problem_of(work())).code is Code.SANDBOX_NOT_FOUND
    assert (await problem_of(kit.snapshots.remove("eve", taken.id))).code is Code.SNAPSHOT_NOT_FOUND
    assert kit.snapshots.of_owner("eve") == []


async def test_a_paused_one_stays_as_it_is(kit: Kit, made: Sandbox) -> None:
    await kit.service.sandboxes.pauses.pause("ann", made.id)
    kit.service.keeper.log.clear()
    taken = await kit.take(made)
    assert [what for what, _ in kit.service.keeper.log] == ["copy"]
    assert taken.standstill is Standstill.PAUSED
    assert kit.service.keeper.frozen == {made.id}


async def test_without_a_cgroup(kit: Kit, made: Sandbox) -> None:
    kit.service.keeper.freeze_fails = True
    refused = await problem_of(kit.take(made, must_stand=True))
    assert refused.code is Code.HOST_LACKS
    await kit.nothing_is_left()
    taken = await kit.take(made)
    assert taken.standstill is Standstill.RUNNING
    await kit.service.registry.find(made.id).box.time.going()  # type: ignore[union-attr]


async def test_a_disk_that_is_nearly_full(kit: Kit, made: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(more: int = 0) -> None:
        raise Problem(Code.HOST_FULL, "no")

    monkeypatch.setattr(kit.reserve, "check", full)
    assert (await problem_of(kit.take(made))).code is Code.HOST_FULL
    assert (await problem_of(kit.snapshots.fork("ann", made.id, 1, SPEC))).code is Code.HOST_FULL
    assert kit.service.keeper.log == []
    await kit.nothing_is_left()


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("no_space", Code.HOST_FULL),
        ("busy", Code.SANDBOX_GONE),
        ("entries", Code.SNAPSHOT_REFUSED),
        ("depth", Code.SNAPSHOT_REFUSED),
        ("time", Code.SNAPSHOT_REFUSED),
    ],
)
async def test_a_copy_that_is_refused(kit: Kit, made: Sandbox, reason: str, code: Code) -> None:
    kit.worker.says = {"reason": reason, "detail": "because"}
    assert (await problem_of(kit.take(made))).code is code
    assert kit.service.keeper.frozen == set()
    await kit.nothing_is_left()


@pytest.mark.parametrize("said", [{"reason": "host", "detail": "no"}, {"nonsense": 1}, []])
async def test_a_worker_that_fails(kit: Kit, made: Sandbox, said: Any) -> None:
    kit.worker.says = said
    with pytest.raises(HostProblem):
        await kit.take(made)
    assert kit.service.keeper.frozen == set()
    await kit.nothing_is_left()


async def test_a_client_that_leaves(kit: Kit, made: Sandbox) -> None:
    kit.worker.gate = trio.Event()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kit.take, made)
            await until(lambda: "copy" in dict(kit.service.keeper.log))
            scope.cancel()
    assert kit.service.keeper.frozen == set()
    kit.worker.gate.set()
    assert kit.snapshots.of_owner("ann") == []
    assert await kit.store.all() == []


async def test_one_that_ends_meanwhile(kit: Kit, made: Sandbox) -> None:
    kit.worker.gate = trio.Event()
    problems: list[Problem] = []

    async def take() -> None:
        problems.append(await problem_of(kit.take(made)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await until(lambda: "copy" in dict(kit.service.keeper.log))
        await kit.service.sandboxes.kill("ann", made.id)
        kit.worker.gate.set()
    assert problems[0].code is Code.WRONG_STATE
    await kit.nothing_is_left()


async def test_a_layer_stays_while_somebody_stands_on_it(kit: Kit, made: Sandbox) -> None:
    await kit.snapshots.reconcile()
    taken = await kit.take(made)

    wish = msgspec.structs.replace(SPEC, base=taken.base, origin=taken.id)
    again = await kit.service.sandboxes.create("ann", wish)
    await kit.snapshots.remove("ann", taken.id)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert kit.worker.there() == [taken.layer]
    await kit.service.sandboxes.kill("ann", again.id)
    await until(lambda: kit.worker.there() == [])


async def test_forks_all_or_none(kit: Kit, made: Sandbox) -> None:
    """The room is for four, and one is there."""
    forks, cut = await kit.snapshots.fork("ann", made.id, 3, SPEC)
    assert len({one.id for one in forks}) == 3
    assert {one.layers for one in forks} == {(cut.layer, *made.layers)}
    assert {one.origin for one in forks} == {made.id}
    assert await kit.store.all() == []
    assert kit.worker.there() == [cut.layer]
    for one in forks:
        await kit.service.sandboxes.kill("ann", one.id)
    kit.service.keeper.create_fails = True
    kit.snapshots.sweep_soon()
    await until(lambda: kit.worker.there() == [])
    assert (await problem_of(kit.snapshots.fork("ann", made.id, 3, SPEC))).code is Code.CREATE_FAILED
    assert [live.record.id for live in kit.service.registry.all()] == [made.id]
    await kit.nothing_is_left()


async def test_the_last_of_the_forks_fails(kit: Kit, made: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    create: Callable[..., Any] = kit.service.creations.create
    count = 0

    async def third_time_unlucky(*more: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise Problem(Code.CREATE_FAILED, "no")
        return await create(*more)

    monkeypatch.setattr(kit.service.creations, "create", third_time_unlucky)
    assert (await problem_of(kit.snapshots.fork("ann", made.id, 3, SPEC))).code is Code.CREATE_FAILED
    assert kit.service.keeper.lives == {made.id}
    await kit.nothing_is_left()


async def test_a_fork_that_an_api_has_not_finished(kit: Kit, made: Sandbox) -> None:
    """Its row tells the next one that not all were made."""
    forks, cut = await kit.snapshots.fork("ann", made.id, 2, SPEC)

    await kit.store.save(msgspec.structs.replace(cut, sandboxes=()))
    kit.start()
    await kit.snapshots.load()
    await kit.snapshots.reconcile()
    assert kit.service.keeper.lives == {made.id}
    assert {one.id for one in forks}.isdisjoint(live.record.id for live in kit.service.registry.all())
    await kit.nothing_is_left()


async def test_too_many(kit: Kit, made: Sandbox) -> None:

    kit.service.settings = msgspec.structs.replace(kit.service.settings, max_snapshots=1)
    kit.start()
    await kit.take(made)
    assert (await problem_of(kit.take(made))).code is Code.TOO_MANY_SNAPSHOTS
    assert len(kit.worker.there()) == 1


async def test_a_snapshot_that_is_asked_for_again(kit: Kit, made: Sandbox) -> None:
    """At once, later, and at the next api: the same one. While it is made, and whoever has left."""

    async def ask(body: str = "b") -> Snapshot:
        return await kit.snapshots.take("ann", made.id, "n", must_stand=False, request=Request("k", body))

    kit.worker.gate = trio.Event()
    async with trio.open_nursery() as nursery:  # the client leaves in the middle
        nursery.start_soon(ask)
        await until(lambda: any(what == "copy" for what, _ in kit.worker.log))
        nursery.cancel_scope.cancel()
    answers: list[Snapshot] = []
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(lambda: _into(answers, ask()))
        await trio.testing.wait_all_tasks_blocked()
        kit.worker.gate.set()
    first = await ask()
    assert answers == [first, first]
    assert kit.snapshots.of_owner("ann") == [first]
    assert (await problem_of(ask("other"))).code is Code.IDEMPOTENCY_MISMATCH
    kit.start()
    await kit.snapshots.load()
    assert (await ask()).id == first.id
    await kit.snapshots.remove("ann", first.id)
    assert (await ask()).id != first.id


async def _into(answers: list[Any], answer: Any) -> None:
    answers.append(await answer)


async def test_a_snapshot_that_failed_is_taken_anew(kit: Kit, made: Sandbox) -> None:
    request = Request("k", "b")
    kit.worker.says = {"reason": "no_space", "detail": "full"}
    with pytest.raises(Problem):
        await kit.snapshots.take("ann", made.id, "n", must_stand=False, request=request)
    kit.worker.says = CUT
    record = await kit.snapshots.take("ann", made.id, "n", must_stand=False, request=request)
    assert kit.snapshots.of_owner("ann") == [record]


async def test_a_fork_that_is_asked_for_again(kit: Kit, made: Sandbox) -> None:
    request = Request("k", "b")

    async def ask() -> tuple[list[Sandbox], Snapshot]:
        return await kit.snapshots.fork("ann", made.id, 2, SPEC, request)

    forks, cut = await ask()
    assert await ask() == (forks, cut)
    assert kit.snapshots.of_owner("ann") == []
    kit.start()
    await kit.snapshots.load()
    await kit.snapshots.reconcile()
    assert [one.id for one in (await ask())[0]] == [one.id for one in forks]
    assert len(kit.service.registry) == 3
    for one in forks:
        await kit.service.sandboxes.kill("ann", one.id)
    await until(lambda: kit.worker.there() == [])  # that it is known of holds no layer
    assert {one.state.value for one in (await ask())[0]} == {"stopped"}
    other = Request("k", "other")
    problem = await problem_of(kit.snapshots.fork("ann", made.id, 1, SPEC, other))
    assert problem.code is Code.IDEMPOTENCY_MISMATCH


async def test_an_old_fork_is_forgotten(kit: Kit, made: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sandboxes' records are, by then."""
    await kit.snapshots.fork("ann", made.id, 1, SPEC, Request("k", "b"))
    (row,) = await kit.store.all()
    later = clock.wall() + kit.service.settings.keep_records_s + 1
    monkeypatch.setattr(clock, "wall", lambda: later)
    await kit.snapshots.fork("ann", made.id, 1, SPEC)
    assert await kit.store.all() == []
    assert row.id not in kit.snapshots._records
