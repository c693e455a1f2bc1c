"""keeper's core and the network: what waits for what."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from nsbox.keeper import core as core_module
from nsbox.keeper import network as network_module
from nsbox.keeper.boxes import Box, Phase
from nsbox.wire.messages import (
    AskRefusals,
    Created,
    Failed,
    Message,
    NetworkSet,
    NetworkState,
    Ready,
    Refusals,
    SetNetwork,
)
from tests.unit.keeper.fakes import FakePool, FakeSweeper, Kernel, order


class FakeNetwork:
    """Notes what it is asked; the test says when it has happened."""

    def __init__(self) -> None:
        self.policies: list[tuple[int, str]] = []
        self.unplugged: list[int] = []
        self.state = NetworkState(1, "")
        self.slots = itertools.count()

    def plug(self, box: Box) -> None:
        box.plugging = True

    def has_plugged(self, box: Box) -> None:
        box.plugging = False
        box.slot = next(self.slots)

    def set_policy(self, box: Box, policy: str) -> None:
        box.policy_pending = True
        self.policies.append((box.number, policy))

    def unplug(self, box: Box) -> None:
        self.unplugged.append(box.number)

    def ask_log(self, box: Box) -> bool:
        return True

    def reaped(self, pid: int, status: int) -> bool:
        return False


class Watcher:
    def watch(self, box: Box) -> None: ...
    def unwatch(self, box: Box) -> None: ...


@pytest.fixture
def scene(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[core_module.Keeper, FakeNetwork, list[Message], FakePool]]:
    kernel = Kernel()
    answers: list[Message] = []
    network, pool = FakeNetwork(), FakePool(0, kernel)
    keeper = core_module.Keeper(
        pool._host, pool, Watcher(), answers.append, network  # type: ignore[arg-type]
    )  # fmt: skip
    monkeypatch.setattr(keeper, "sweeper", FakeSweeper())
    yield keeper, network, answers, pool
    for box in pool.made:
        box.close()


def test_a_blank_is_one_when_it_has_its_link(scene) -> None:  # type: ignore[no-untyped-def]
    keeper, network, _, pool = scene
    keeper.refill()
    box = pool.made[0]
    box.say(Ready(""))
    keeper.hear(box)
    assert box.phase is Phase.PREPARING
    network.has_plugged(box)
    keeper.linked(box)
    assert box.phase is Phase.BLANK


def test_created_is_said_when_the_policy_holds(scene) -> None:  # type: ignore[no-untyped-def]
    keeper, network, answers, pool = scene
    keeper.obey(order("sb_1")._replace(network='{"mode": "off"}'), [])
    box = pool.made[0]
    network.has_plugged(box)
    box.say(Ready(""))
    keeper.hear(box)
    assert network.policies == [(box.number, '{"mode": "off"}')]
    box.say(Ready("sb_1"))
    keeper.hear(box)
    assert answers == []
    box.policy_pending = False
    keeper.policy_set(box, "")
    assert answers == [Created("sb_1", ("pids",))]


def test_a_policy_that_cannot_be_put_fails_the_create(scene) -> None:  # type: ignore[no-untyped-def]
    keeper, network, answers, pool = scene
    keeper.obey(order("sb_1"), [])
    box = pool.made[0]
    network.has_plugged(box)
    box.say(Ready(""))
    keeper.hear(box)
    keeper.policy_set(box, "no room")
    assert answers == [Failed("sb_1", "network", 0, "no room")]
    assert box.phase is Phase.ENDING


def test_without_a_link_a_sandbox_is_made_and_policies_are_taken(scene) -> None:  # type: ignore[no-untyped-def]
    keeper, network, answers, pool = scene
    keeper.obey(order("sb_1"), [])
    box = pool.made[0]
    box.plugging = False
    for ready in ("", "sb_1"):
        box.say(Ready(ready))
        keeper.hear(box)
    keeper.obey(SetNetwork("sb_1", "{}"), [])
    keeper.obey(SetNetwork("sb_2", "{}"), [])
    keeper.obey(AskRefusals("sb_2"), [])
    assert answers == [
        Created("sb_1", ("pids",)),
        NetworkSet("sb_1", ""),
        NetworkSet("sb_2", ""),
        Refusals("sb_2", ()),
    ]
    assert network.policies == []


def test_a_moment_without_a_way_out_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [100.0], []
    monkeypatch.setattr(network_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(network_module, "_log", told.append)
    outage = network_module.Outage()

    def look(after: float, up: int, detail: str = "") -> None:
        now[0] += after
        outage.look(NetworkState(up, detail))

    look(1, 0, "pasta is being started")
    look(1, 1)
    assert told == []
    look(60, 0, "pasta is being started")
    look(1, 0, "no connection to the outside")
    assert told == []
    look(5, 0, "no connection to the outside")
    look(5, 0, "no connection to the outside")
    assert told == ["no way out: no connection to the outside"]
    look(1, 1)
    look(1, 1)
    assert told[1:] == ["sandboxes get out again"]
    look(60, 0, "pasta is not installed")
    look(9, 0, "pasta is not installed")
    assert told[2:] == ["no way out: pasta is not installed"]
