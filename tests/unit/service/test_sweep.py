"""Each rule: the thing is broken, seen twice, told and mended; and what is under way is left alone."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
import trio

from nsbox.model.lifecycle import EndReason, State
from nsbox.model.sandbox import Sandbox
from nsbox.service.registry import Live
from nsbox.service.sweep import Finding, Sweep
from nsbox.service.tally import Tally
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC, until


@pytest.fixture
async def tally(service: Service) -> Tally:
    return Tally()


@pytest.fixture
async def sweep(service: Service, tally: Tally) -> Sweep:
    return Sweep(
        service.registry,
        service.sandboxes,
        service.keeper,  # type: ignore[arg-type]
        service.settings.state_dir,
        3600,
        tally,
    )


async def found(sweep: Sweep, tally: Tally, rule: str, name: str) -> None:
    """Not by the first look, and by the second."""
    assert await sweep.look() == []
    assert await sweep.look() == [Finding(rule, name)]
    assert tally.swept.total(rule) == 1


async def nothing_more(sweep: Sweep) -> None:
    assert [await sweep.look() for _ in range(3)] == [[], [], []]


def live(service: Service, sandbox: Sandbox) -> Live:
    one = service.registry.find(sandbox.id)
    assert one is not None
    return one


async def test_all_is_well(service: Service, sweep: Sweep) -> None:
    await service.sandboxes.create("ann", SPEC)
    await nothing_more(sweep)


async def test_a_box_that_nobody_knows(service: Service, sweep: Sweep, tally: Tally) -> None:
    service.keeper.lives.add("sb_unknown")
    await found(sweep, tally, "unknown_box", "sb_unknown")
    assert service.keeper.lives == set()
    await nothing_more(sweep)


async def test_a_box_that_is_gone(service: Service, sweep: Sweep, tally: Tally) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    service.keeper.lives.clear()
    await found(sweep, tally, "missing_box", made.id)
    await until(lambda: service.registry.find(made.id) is None)
    record = await service.store.get(made.id)
    assert record is not None
    assert (record.state, record.end_reason) == (State.STOPPED, EndReason.CRASHED)
    await nothing_more(sweep)


async def test_a_row_that_nobody_knows(service: Service, sweep: Sweep, tally: Tally) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    odd = msgspec.structs.replace(made, id="sb_odd")
    await service.store.insert(odd)
    await found(sweep, tally, "unknown_row", "sb_odd")
    record = await service.store.get("sb_odd")
    assert record is not None
    assert (record.state, record.end_reason) == (State.LOST, EndReason.LOST)
    assert live(service, made).record == made
    await nothing_more(sweep)


async def test_a_row_that_is_gone(service: Service, sweep: Sweep, tally: Tally) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    database = service.store._database
    await database.run(lambda c: c.execute("DELETE FROM sandboxes WHERE id = ?", (made.id,)))
    await found(sweep, tally, "missing_row", made.id)
    assert await service.store.get(made.id) == made
    await nothing_more(sweep)


async def test_logs_of_nobody(service: Service, sweep: Sweep, tally: Tally, tmp_path: Path) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    for name in ("sb_odd", made.id):
        (tmp_path / "logs" / name).mkdir(parents=True)
    await found(sweep, tally, "unknown_logs", str(tmp_path / "logs/sb_odd"))
    assert [one.name for one in (tmp_path / "logs").iterdir()] == [made.id]
    await nothing_more(sweep)


@pytest.mark.parametrize("frozen", [True, False])
async def test_the_kernel_says_something_else(
    service: Service, sweep: Sweep, tally: Tally, tmp_path: Path, frozen: bool
) -> None:
    made = await service.sandboxes.create("ann", SPEC)
    await service.registry.change(live(service, made), cgroup=str(tmp_path))
    events = tmp_path / "cgroup.events"
    events.write_text(f"populated 1\nfrozen {int(not frozen)}\n")
    if not frozen:
        await service.sandboxes.pauses.pause("ann", made.id)
    await nothing_more(sweep)
    events.write_text(f"populated 1\nfrozen {int(frozen)}\n")
    async with live(service, made).turn:
        await nothing_more(sweep)  # somebody is at it
    before = service.keeper.count("thaw"), service.keeper.count("freeze")
    await found(sweep, tally, "frozen_though_running" if frozen else "running_though_paused", made.id)
    after = service.keeper.count("thaw"), service.keeper.count("freeze")
    assert after == (before[0] + frozen, before[1] + (not frozen))


async def test_what_keeper_found_is_told(service: Service, sweep: Sweep, tally: Tally) -> None:
    service.keeper.strays = ("stray_folder sb_odd",)
    assert await sweep.look() == [Finding("stray_folder", "sb_odd")]
    assert tally.swept.total("stray_folder") == 1


async def test_what_cannot_be_mended_is_found_again(service: Service, sweep: Sweep) -> None:
    service.keeper.lives.add("sb_unknown")
    service.keeper.destroy_fails = True
    assert [len(await sweep.look()) for _ in range(4)] == [0, 1, 0, 1]
    service.keeper.destroy_fails = False
    assert [len(await sweep.look()) for _ in range(4)] == [0, 1, 0, 0]


@pytest.mark.parametrize("seed", range(4))
async def test_creates_and_ends_under_way_are_left_alone(service: Service, sweep: Sweep, seed: int) -> None:
    """Sweeps without any rest between, beside sandboxes that come and go: nothing is found."""
    done = trio.Event()
    sweeps: list[list[Finding]] = []

    async def live_and_die(chance: random.Random) -> None:
        for _ in range(12):
            made = await service.sandboxes.create("ann", SPEC)
            for _ in range(chance.randrange(30)):
                await trio.lowlevel.checkpoint()
            if chance.random() < 0.3:
                await service.sandboxes.pauses.pause("ann", made.id)
            await service.sandboxes.kill("ann", made.id)

    async def look() -> None:
        while not done.is_set():
            sweeps.append(await sweep.look())
            await trio.lowlevel.checkpoint()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            async with trio.open_nursery() as workers:
                for number in range(3):
                    workers.start_soon(live_and_die, random.Random(seed * 10 + number))
            done.set()
    assert len(sweeps) > 5
    assert [one for one in sweeps if one] == []
