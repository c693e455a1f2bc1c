"""keeper's rules, with boxes that are made of nothing: every order in every phase, answered exactly once."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nsbox.keeper import core, tasks
from nsbox.keeper.boxes import Phase
from nsbox.plan.baseline import prepare
from nsbox.wire.framing import decode, encode
from nsbox.wire.messages import (
    PROTOCOL_VERSION,
    TO_KEEPER,
    Created,
    Destroy,
    Destroyed,
    Failed,
    Gone,
    Hello,
    Ready,
    Task,
    TaskDone,
    Welcome,
)  # fmt: skip
from tests.unit.keeper.fakes import FakeBox, World, order

CREATED = Created("sb_1", ("pids",))


def blank(world: World) -> FakeBox:
    world.keeper.refill()
    box = world.pool.made[-1]
    assert world.say(box, Ready("")) == []
    assert box.phase is Phase.BLANK
    return box


def launching(world: World, sandbox_id: str = "sb_1") -> FakeBox:
    box = blank(world)
    assert world.obey(order(sandbox_id)) == []
    assert box.phase is Phase.LAUNCHING
    return box


def running(world: World, sandbox_id: str = "sb_1") -> FakeBox:
    box = launching(world, sandbox_id)
    assert world.say(box, Ready(sandbox_id)) == [Created(sandbox_id, ("pids",))]
    return box


# ---- create


def test_from_stock(world: World) -> None:
    box = running(world)
    assert box.launched == 1
    assert world.pool.take() is None


def test_a_blank_that_is_prepared_goes_before_one_that_is_not(world: World) -> None:
    world.keeper.refill()
    ready = blank(world)
    world.obey(order("sb_1"))
    assert world.box_of("sb_1") is ready


def test_from_a_blank_that_is_still_being_prepared(world: World) -> None:
    world.keeper.refill()
    (box,) = world.pool.made
    assert world.obey(order("sb_1")) == []
    assert box.phase is Phase.PREPARING
    assert world.say(box, Ready("")) == []
    assert box.phase is Phase.LAUNCHING
    assert world.say(box, Ready("sb_1")) == [CREATED]


def test_without_any_stock(world: World) -> None:
    assert world.obey(order("sb_1")) == []
    box = world.box_of("sb_1")
    world.say(box, Ready(""))
    assert world.say(box, Ready("sb_1")) == [CREATED]


def test_a_second_one_of_the_same_id(world: World) -> None:
    box = running(world)
    (answer,) = world.obey(order("sb_1"))
    assert isinstance(answer, Failed)
    assert (answer.id, answer.stage, answer.errno) == ("sb_1", "order", errno.EINVAL)
    assert box.phase is Phase.RUNNING
    assert world.obey(Destroy("sb_1")) == []
    assert world.die(box) == [Destroyed("sb_1")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "../x"},
        {"id": "a/b"},
        {"id": "box-1"},
        {"id": "a" * 65},
        {"id": "a\n"},
        {"id": "\ud800"},
        {"id": "x" * 380_000},
        {"layers": ()},
        {"layers": ("..",)},
        {"layers": ("a:b",)},
        {"layers": ("a,b",)},
        {"layers": ("ok", "/etc")},
        {"layers": ("a\\",)},
        {"layers": ("a" * 129,)},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_names_that_are_no_names(world: World, wrong: dict[str, Any]) -> None:
    """An id becomes a path and a layer a mount option; a giant one must not come back in a giant answer."""
    blank(world)
    (answer,) = world.obey(order("sb_1")._replace(**wrong))
    assert isinstance(answer, Failed)
    assert answer.stage == "order"
    assert len(answer.id) <= 64
    assert world.pool.take() is not None  # no blank was spent


def test_a_clone_that_fails(world: World) -> None:
    world.kernel.clone_fails = True
    (answer,) = world.obey(order("sb_1"))
    assert isinstance(answer, Failed)
    assert (answer.stage, answer.errno) == ("clone", 11)
    assert world.obey(Destroy("sb_1")) == [Destroyed("sb_1")]
    assert world.pool.made[0].closed == 1


def test_a_clone_that_fails_when_there_is_a_process_already(world: World) -> None:
    world.kernel.clone_fails = "late"
    world.obey(order("sb_1"))
    (box,) = world.pool.made
    assert box.pid in world.kernel.killed
    assert world.die(box) == []
    assert box.closed == 1
    assert world.keeper.end_all() == 0


def test_a_launch_that_fails_is_answered_at_once_and_cleared_at_death(world: World) -> None:
    box = blank(world)
    world.kernel.launch_fails = True
    (answer,) = world.obey(order("sb_1"))
    assert isinstance(answer, Failed)
    assert (answer.stage, answer.errno) == ("overlay", 28)
    assert world.sweeper.discarded == []
    assert world.obey(Destroy("sb_1")) == [Destroyed("sb_1")]
    assert world.die(box) == []
    assert world.sweeper.discarded == ["sandboxes/sb_1"]


def test_a_box_that_fails_while_it_is_launched(world: World) -> None:
    box = launching(world)
    failed = Failed("sb_1", "root", 40, "a symlink")
    assert world.say(box, failed) == [failed]
    assert world.die(box) == []
    assert world.sweeper.discarded == ["sandboxes/sb_1"]


def test_a_box_that_dies_while_it_is_prepared_or_launched(world: World) -> None:
    world.obey(order("sb_1"))
    (answer,) = world.die(world.box_of("sb_1"))
    assert isinstance(answer, Failed)
    assert answer.id == "sb_1"
    (answer,) = world.die(launching(world, "sb_2"))
    assert isinstance(answer, Failed)
    assert answer.id == "sb_2"


def test_a_stocked_blank_that_fails_is_given_to_nobody(world: World) -> None:
    """Between its kill and its death it is still there."""
    world.keeper.refill()
    (bad,) = world.pool.made
    assert world.say(bad, Failed("", "prepare", 1, "x")) == []
    world.obey(order("sb_1"))
    assert world.box_of("sb_1") is not bad


def test_failures_in_a_row_are_counted(world: World) -> None:
    for count in (1, 2):
        world.keeper.refill()
        world.say(world.pool.made[-1], Failed("", "prepare", 1, "x"))
        assert world.keeper.failures == count
    blank(world)
    assert world.keeper.failures == 0


# ---- destroy


def test_what_is_not_there_is_destroyed(world: World) -> None:
    assert world.obey(Destroy("sb_never")) == [Destroyed("sb_never")]


def test_a_running_one_when_it_is_dead_and_not_before(world: World) -> None:
    box = running(world)
    assert world.obey(Destroy("sb_1")) == []
    assert box.pid in world.kernel.killed
    assert world.die(box) == [Destroyed("sb_1")]
    assert world.sweeper.discarded == ["sandboxes/sb_1"]
    assert box.closed == 1
    assert box not in world.watcher.watched
    assert world.obey(Destroy("sb_1")) == [Destroyed("sb_1")]


def test_twice_is_answered_once(world: World) -> None:
    box = running(world)
    assert world.obey(Destroy("sb_1")) == []
    assert world.obey(Destroy("sb_1")) == []
    assert world.die(box) == [Destroyed("sb_1")]


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.LAUNCHING])
def test_while_it_is_being_made_both_orders_are_answered(world: World, phase: Phase) -> None:
    if phase is Phase.LAUNCHING:
        box = launching(world)
    else:
        world.obey(order("sb_1"))
        box = world.box_of("sb_1")
    assert box.phase is phase
    (answer,) = world.obey(Destroy("sb_1"))
    assert isinstance(answer, Failed)
    assert answer.errno == errno.ECANCELED
    assert world.die(box) == [Destroyed("sb_1")]


@pytest.mark.parametrize("last", [Ready("sb_1"), Failed("sb_1", "root", 1, "x")])
def test_what_a_box_said_just_before_it_was_killed_counts_no_more(world: World, last: Any) -> None:
    """Once its Failed was taken for the answer to Destroy, which then never came."""
    box = launching(world)
    box.say(last)
    world.obey(Destroy("sb_1"))
    world.answers.clear()
    world.keeper.hear(box)
    assert world.answers == []
    assert world.die(box) == [Destroyed("sb_1")]


def test_one_that_died_by_itself(world: World) -> None:
    box = running(world)
    assert world.die(box, 139) == [Gone("sb_1", 139)]
    assert world.sweeper.discarded == ["sandboxes/sb_1"]
    assert world.obey(Destroy("sb_1")) == [Destroyed("sb_1")]


@pytest.mark.parametrize("said", [Ready("sb_1"), Failed("sb_1", "root", 1, "x")])
def test_a_running_sandbox_cannot_say_anything(world: World, said: Any) -> None:
    """It may have been taken over. It lives, and its later end is still told.

    What would lie in keeper's socket unread would be closed with it, descriptors too, and that may wait for
    whoever sent them.
    """
    box = running(world)
    with pytest.raises(BrokenPipeError):
        world.say(box, said)
    assert world.answers == []
    assert box.phase is Phase.RUNNING
    assert box not in world.watcher.watched  # nor can it keep keeper busy
    assert world.die(box) == [Gone("sb_1", 9)]


def test_garbage_from_a_box(world: World) -> None:
    box = launching(world)
    assert box.inside is not None
    box.inside.send(b"garbage")
    world.keeper.hear(box)
    assert box not in world.watcher.watched
    (answer,) = world.die(box)
    assert isinstance(answer, Failed)


# ---- time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(core.time, "monotonic", lambda: now[0])
    return now


def test_a_box_that_is_stuck(clock: list[float], world: World) -> None:
    box = launching(world)
    clock[0] += core._PATIENCE - 1
    world.keeper.give_up_stuck()
    assert world.answers == []
    clock[0] += 2
    world.keeper.give_up_stuck()
    (answer,) = world.answers
    assert isinstance(answer, Failed)
    assert answer.errno == errno.ETIMEDOUT
    assert world.die(box) == []


def test_one_that_was_destroyed_and_does_not_die(clock: list[float], world: World) -> None:
    """It is waited for: Destroyed says that nothing is left."""
    box = launching(world)
    world.obey(Destroy("sb_1"))
    world.answers.clear()
    clock[0] += 100
    world.keeper.give_up_stuck()
    assert world.answers == []
    assert world.die(box) == [Destroyed("sb_1")]


def test_a_running_one_is_never_stuck(clock: list[float], world: World) -> None:
    running(world)
    clock[0] += 10_000
    world.answers.clear()
    world.keeper.give_up_stuck()
    assert world.answers == []


# ---- another api


def test_hello_lists_what_lives_and_what_is_being_made(world: World) -> None:
    """What an api ordered that died meanwhile must be known to the next, or nobody would ever end it."""
    running(world, "sb_1")
    launching(world, "sb_2")
    world.obey(order("sb_3"))
    ending = running(world, "sb_4")
    world.obey(Destroy("sb_4"))
    (answer,) = world.obey(Hello(PROTOCOL_VERSION))
    assert answer == Welcome(PROTOCOL_VERSION, ("pids",), ("sb_1", "sb_2", "sb_3"), len(world.keeper.pool))
    assert world.die(ending) == [Destroyed("sb_4")]


# ---- tasks, orphans, the sweeper


def test_a_task_and_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "start", lambda task, descriptors, spare: 55)
    assert world.obey(Task("k", "embed", "layer")) == []
    world.kernel.dead.append((55, 256))
    world.keeper.reap()
    assert world.answers == [TaskDone("k", 256)]


def test_a_spare_that_died(world: World) -> None:
    world.keeper.spare.pid = 56
    world.kernel.dead.append((56, 9))
    world.keeper.reap()
    assert world.answers == []
    assert world.keeper.spare.pid == 0


@pytest.mark.parametrize(("name", "argument"), [("rm", "layer"), ("embed", "../x"), ("embed", ""), ("", "")])
def test_what_is_no_task(world: World, name: str, argument: str) -> None:
    assert world.obey(Task("k", name, argument)) == [TaskDone("k", 127 << 8)]


def test_orphans_are_reaped_and_helpers_replaced(world: World) -> None:
    world.kernel.dead += [(4711, 0), (world.sweeper.pid, 0), (4712, 9), (world.host.zygote.pid, 0)]
    world.keeper.reap()
    assert world.answers == []
    assert (world.sweeper.starts, world.host.zygote.starts) == (1, 1)


def test_the_end_of_all(world: World) -> None:
    boxes = [running(world, "sb_1"), launching(world, "sb_2"), blank(world)]
    assert world.keeper.end_all() == 3
    assert world.kernel.killed == {box.pid for box in boxes}
    for box in boxes:
        world.die(box)
    assert world.keeper.end_all() == 0
    assert all(box.closed == 1 for box in boxes)


# ---- any order of events

IDS = st.sampled_from(["sb_1", "sb_2", "sb_3"])


class AnyOrder(RuleBasedStateMachine):
    """api orders, boxes speak and die, in any order. What is owed to api is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.world = World()
        self.now = 1000.0
        self.patch.setattr(core.os, "waitpid", self.world.kernel.waitpid)
        self.patch.setattr(core.time, "monotonic", lambda: self.now)
        self.owed: Counter[tuple[str, str]] = Counter()
        self.lives: set[str] = set()  # sandboxes api was told of, less those it was told are gone

    def teardown(self) -> None:
        """In the end everybody is dead and nothing is owed."""
        for box in list(self.world.kernel.alive.values()):
            self.world.kernel.die(box.pid)
        self.world.answers.clear()
        self.world.keeper.reap()
        self.settle()
        assert not +self.owed, f"never answered: {self.owed}"
        assert not self.lives
        assert self.world.keeper.end_all() == 0
        assert not self.world.watcher.watched
        assert all(box.closed == 1 for box in self.world.pool.made)
        discarded = Counter(self.world.sweeper.discarded)
        assert discarded == Counter(box.folder for box in self.world.pool.made if box.order is not None)
        self.world.close()
        self.patch.undo()

    def settle(self) -> None:
        """Strike out what has been answered."""
        for answer in self.world.answers:
            match answer:
                case Created(sandbox_id):
                    self.pay("create", sandbox_id)
                    self.lives.add(sandbox_id)
                case Failed(sandbox_id):
                    self.pay("create", sandbox_id)
                case Destroyed(sandbox_id):
                    self.lives.discard(sandbox_id)
                    self.owed["destroy", sandbox_id] = 0  # api shares one answer among those who wait
                case Gone(sandbox_id):
                    assert sandbox_id in self.lives
                    self.lives.discard(sandbox_id)
        self.world.answers.clear()

    def pay(self, what: str, sandbox_id: str) -> None:
        assert self.owed[what, sandbox_id] > 0, f"answered twice: {what} {sandbox_id}"
        self.owed[what, sandbox_id] -= 1

    def boxes(self) -> list[FakeBox]:
        return [box for box in self.world.kernel.alive.values() if box.inside is not None]

    @rule()
    def refill(self) -> None:
        if self.world.pool.wants_more:
            self.world.keeper.refill()

    @rule(sandbox_id=IDS)
    def create(self, sandbox_id: str) -> None:
        self.owed["create", sandbox_id] += 1
        self.world.keeper.obey(order(sandbox_id), [])
        self.settle()

    @rule(sandbox_id=IDS)
    def destroy(self, sandbox_id: str) -> None:
        self.owed["destroy", sandbox_id] += 1
        self.world.keeper.obey(Destroy(sandbox_id), [])
        self.settle()

    @precondition(lambda self: self.boxes())
    @rule(data=st.data(), good=st.booleans())
    def speak(self, data: st.DataObject, good: bool) -> None:
        """Said and not yet heard: keeper may do other things first."""
        box = data.draw(st.sampled_from(self.boxes()))
        with contextlib.suppress(BrokenPipeError):  # it runs: keeper has closed its ears
            box.say(Ready(box.id) if good else Failed(box.id, "root", 1, "x"))

    @precondition(lambda self: self.boxes())
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        box = data.draw(st.sampled_from(self.boxes()))
        assert box.control is not None
        box.control.setblocking(False)
        if box in self.world.watcher.watched and readable(box):
            self.world.keeper.hear(box)
            self.settle()

    @precondition(lambda self: self.world.kernel.alive)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.world.kernel.die(data.draw(st.sampled_from(list(self.world.kernel.alive))))

    @rule()
    def reap(self) -> None:
        self.world.keeper.reap()
        self.settle()

    @rule(seconds=st.sampled_from([1, 25]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.world.keeper.give_up_stuck()
        self.settle()

    @rule(fails=st.sampled_from([False, False, True, "late"]))
    def clones_fail(self, fails: str | bool) -> None:
        self.world.kernel.clone_fails = fails

    @rule(fails=st.booleans())
    def launches_fail(self, fails: bool) -> None:
        self.world.kernel.launch_fails = fails

    @invariant()
    def what_api_believes_is_there(self) -> None:
        self.world.answers.clear()
        self.world.keeper.obey(Hello(PROTOCOL_VERSION), [])
        (welcome,) = self.world.answers
        self.world.answers.clear()
        assert isinstance(welcome, Welcome)
        asked_to_end = {
            sandbox_id for (what, sandbox_id), count in self.owed.items() if what == "destroy" and count
        }
        assert self.lives - asked_to_end <= set(welcome.sandboxes)

    @invariant()
    def who_was_not_killed_is_not_ending(self) -> None:
        for box in self.world.pool.made:
            assert (box.phase is Phase.ENDING) <= (box.pid == 0 or box.pid in self.world.kernel.killed)


def readable(box: FakeBox) -> bool:
    assert box.control is not None
    try:
        box.control.recv(1, 2)  # MSG_PEEK
    except BlockingIOError:
        return False
    return True


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_keeper_does_not_grow_with_the_sandboxes_it_has_had(world: World) -> None:
    """Not by what it remembers, nor by what CPython keeps for it: it collects no garbage, and its pages are
    shared by all inits."""

    def rounds(first: int, count: int) -> None:
        for number in range(first, first + count):
            name = f"sb_{number:032}"
            prepare()
            box = running(world, name)
            world.obey(decode(encode(Destroy(name)), TO_KEEPER))
            world.die(box)
            box.close()
            world.pool.made.clear()
            world.sweeper.discarded.clear()
            world.kernel.killed.clear()

    rounds(0, 300)
    before = sys.getallocatedblocks()
    rounds(300, 300)
    assert sys.getallocatedblocks() - before < 150
