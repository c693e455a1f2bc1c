"""Boxes that freeze: every order is answered exactly once, and nothing stays half frozen."""

from __future__ import annotations

import errno

import pytest

from nsbox.keeper import freezer as module
from nsbox.keeper.boxes import Box
from nsbox.wire.messages import Destroy, Destroyed, Freeze, Frozen, Gone, Thaw, Thawed
from tests.unit.keeper.fakes import FakeBox, FakeHost, World
from tests.unit.keeper.test_core import launching, running

FREEZE, THAW = Freeze("sb_1"), Thaw("sb_1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def look(world: World) -> list[object]:
    world.answers.clear()
    world.keeper.freezer.look()
    return list(world.answers)


def stuck(world: World) -> FakeBox:
    """One that has been told to freeze and has not."""
    box = running(world)
    box.stuck = True
    assert world.obey(FREEZE) == []
    assert world.keeper.freezer.rest is not None
    return box


def test_one_that_freezes_at_once(world: World) -> None:
    box = running(world)
    for _ in range(2):
        assert world.obey(FREEZE) == [Frozen("sb_1", 0, "")]
        assert box.wants_frozen
        assert world.keeper.freezer.rest is None
    for _ in range(2):
        assert world.obey(THAW) == [Thawed("sb_1", 0)]
        assert not box.wants_frozen


def test_one_that_takes_a_moment_is_answered_once(world: World) -> None:
    box = stuck(world)
    assert world.obey(FREEZE) == []  # another api asks: one answer is for both
    assert look(world) == []
    box.stuck = False
    assert look(world) == [Frozen("sb_1", 0, "")]
    assert look(world) == []
    assert world.keeper.freezer.rest is None


def test_one_that_does_not_freeze_goes_on(world: World, clock: list[float]) -> None:
    box = stuck(world)
    clock[0] += module.PATIENCE
    assert look(world) == []
    clock[0] += 0.1
    assert look(world) == [Frozen("sb_1", errno.EBUSY, "")]
    assert not box.wants_frozen
    assert world.keeper.freezer.rest is None


def test_a_thaw_takes_a_freeze_back(world: World) -> None:
    box = stuck(world)
    assert world.obey(THAW) == [Frozen("sb_1", errno.ECANCELED, ""), Thawed("sb_1", 0)]
    assert not box.wants_frozen
    assert look(world) == []


def test_one_that_is_ended_meanwhile(world: World) -> None:
    box = stuck(world)
    assert world.obey(Destroy("sb_1")) == [Frozen("sb_1", errno.ESRCH, "")]
    assert look(world) == []
    assert world.die(box) == [Destroyed("sb_1")]


def test_one_that_dies_meanwhile(world: World) -> None:
    assert world.die(stuck(world)) == [Frozen("sb_1", errno.ESRCH, ""), Gone("sb_1", 9)]
    assert look(world) == []


def test_what_does_not_run(world: World) -> None:
    launching(world)
    for name in ("sb_1", "sb_never"):
        assert world.obey(Freeze(name)) == [Frozen(name, errno.ESRCH, "")]
        assert world.obey(Thaw(name)) == [Thawed(name, errno.ESRCH)]


def test_a_kernel_that_refuses(world: World) -> None:
    box = running(world)
    box.freeze_error = errno.EACCES
    assert world.obey(FREEZE) == [Frozen("sb_1", errno.EACCES, "")]
    assert world.obey(THAW) == [Thawed("sb_1", errno.EACCES)]
    assert world.keeper.freezer.rest is None


def test_a_host_without_cgroups() -> None:
    """It cannot freeze, and whatever is there goes on."""
    box = Box(1, FakeHost())  # type: ignore[arg-type]
    told: list[Frozen] = []
    freezer = module.Freezer(told.append)
    freezer.freeze(box)
    assert told == [Frozen("", errno.EOPNOTSUPP, "")]
    assert freezer.thaw(box) == 0
    assert freezer.rest is None
