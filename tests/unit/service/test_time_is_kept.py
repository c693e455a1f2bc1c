"""A sandbox has the time it was given, whatever becomes of the host's clocks: row 17 of the acceptance list.

The clocks are the test's own. What the real one is ``test_clock.py`` holds: CLOCK_BOOTTIME, which nobody can
set and which counts sleep.
"""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from nsbox.model.lifecycle import EndReason, State
from nsbox.model.sandbox import Sandbox
from nsbox.service import clock
from tests.acceptance.plugin import Say
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC
from tests.unit.service.test_sandboxes import put

_DAY = 86_400.0


class Clocks:
    """``boot`` goes on by itself; ``wall`` is what somebody sets."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.boot, self.wall = 5_000.0, 1_800_000_000.0
        patch.setattr(clock, "boottime", lambda: self.boot)
        patch.setattr(clock, "wall", lambda: self.wall)


@pytest.fixture
async def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


async def _looked(service: Service) -> None:
    """The loop over deadlines has been around once more."""
    service.sandboxes._deadlines_changed.set()
    await trio.testing.wait_all_tasks_blocked(0.01)


async def _of(service: Service, *seconds: float) -> list[Sandbox]:
    return [
        await service.sandboxes.create("ann", msgspec.structs.replace(SPEC, timeout_ms=int(one * 1000)))
        for one in seconds
    ]


def _is_there(service: Service, one: Sandbox) -> bool:
    return service.registry.find(one.id) is not None


async def _stays(service: Service, one: Sandbox) -> bool:
    """Patiently: its end is written in a thread, for which nobody has promised a time."""
    service.sandboxes._deadlines_changed.set()
    with trio.move_on_after(10):
        while _is_there(service, one):
            await trio.sleep(0.002)
    return _is_there(service, one)


@pytest.mark.parametrize("skew", [_DAY, -_DAY, 3_600.0, -3_600.0, 10 * 365 * _DAY])
async def test_a_clock_that_is_set_ends_nothing_early_or_late(
    service: Service, clocks: Clocks, skew: float, figure: Say
) -> None:
    made = await _of(service, 10, 20, 40, 80)
    service.nursery.start_soon(service.sandboxes.expire)
    await trio.testing.wait_all_tasks_blocked(0.01)
    clocks.wall += skew
    wrong = 0
    for one, seconds in zip(made, (10, 20, 40, 80), strict=True):
        clocks.boot = 5_000.0 + seconds - 0.5
        await _looked(service)
        wrong += not _is_there(service, one)
        clocks.boot = 5_000.0 + seconds + 0.5
        wrong += await _stays(service, one)
    figure(17, tried=len(made), bad=wrong)


async def test_sleep_counts(service: Service, clocks: Clocks, figure: Say) -> None:
    """The host slept for eight hours: trio's clock stood still, and nobody set the event. What is over ends
    within a second of waking up; the others have what is left to them."""
    over, later = await _of(service, 60, 9 * 3_600)
    service.nursery.start_soon(service.sandboxes.expire)
    await trio.testing.wait_all_tasks_blocked(0.01)
    clocks.boot += 8 * 3_600
    woken = trio.current_time()
    with trio.fail_after(10):  # it is a second, on a host that has one for us
        while _is_there(service, over):
            await trio.sleep(0.002)
    took = trio.current_time() - woken
    assert _is_there(service, later)
    clocks.boot += 3_600 - 1
    await _looked(service)
    assert _is_there(service, later)
    clocks.boot += 2
    figure(17, tried=2, bad=await _stays(service, later), seconds_after_waking=took)


async def test_another_boot(service: Service, clocks: Clocks, figure: Say) -> None:
    """CLOCK_BOOTTIME begins anew, so that deadlines of the boot before are far ahead, or long gone. Nothing
    of that boot runs: all of it is lost, none is ended on time, and what is made now has its whole time."""
    before = [msgspec.structs.replace(await put(service, State.RUNNING), boot_id="another") for _ in range(3)]
    for one in before:
        await service.store.update(one)
    clocks.boot = 7.0
    service.start()
    await service.sandboxes.reconcile(())
    service.nursery.start_soon(service.sandboxes.expire)
    (made,) = await _of(service, 60)
    clocks.boot += 59
    await _looked(service)
    early = not _is_there(service, made)
    clocks.boot += 2
    late = await _stays(service, made)
    found = [await service.sandboxes.get("ann", one.id) for one in before]
    wrong = sum((one.state, one.end_reason) != (State.LOST, EndReason.LOST) for one in found)
    figure(17, tried=len(before) + 1, bad=wrong + early + late)
