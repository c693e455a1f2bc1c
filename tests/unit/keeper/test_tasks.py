"""The spare task: when there is one, and who is asked when it is gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from nsbox.keeper import tasks
from nsbox.wire.messages import Task

PID = 4711
QUIET = 0.1


class World:
    """A spare whose process the test plays, and a clock that it sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.inside: list[socket.socket] = []
        self.clones = self.failure = 0
        self.spare = tasks.Spare()
        monkeypatch.setattr(tasks.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(tasks.libc, "clone3", self._clone)
        monkeypatch.setattr(tasks.socket, "socketpair", self._pair)

    def _clone(self) -> int:
        self.clones += 1
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure))
        return PID

    def _pair(self, *kind: int) -> tuple[socket.socket, socket.socket]:
        ours, theirs = _real_pair(*kind)
        self.inside.append(theirs.dup())
        return ours, theirs

    def tend(self, later: float) -> bool:
        """Whether there is one when so much time has passed."""
        self.now += later
        self.spare.tend(QUIET)
        return bool(self.spare.pid)

    def taken(self) -> str:
        """What the last of them was told to do."""
        data, descriptors, _, _ = socket.recv_fds(self.inside[-1], 4096, 3)
        for descriptor in descriptors:
            os.close(descriptor)
        assert len(descriptors) == (3 if data else 0)
        return data.decode()


_real_pair = socket.socketpair


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(monkeypatch)
    yield world
    world.spare.forget()
    for end in world.inside:
        end.close()


def take(world: World) -> int:
    return tasks.start(Task("k", "take", "s-1"), [0, 1, 2], world.spare)


def test_there_is_none_until_it_was_missed(world: World) -> None:
    assert not world.tend(3600)
    assert not world.spare.wanted
    take(world)
    assert world.spare.wanted
    assert not world.tend(QUIET / 2), "whoever has just asked gets the processors"
    assert world.tend(1)
    assert not world.spare.wanted


def test_the_next_task_is_the_spares(world: World) -> None:
    take(world)
    world.tend(1)
    assert (world.clones, take(world)) == (2, PID)
    assert world.clones == 2
    assert world.taken().endswith("/layers/s-1")
    assert world.spare.pid == 0, "its end is the end of a task, and not that of the spare"
    assert world.tend(1)


def test_other_tasks_are_not_for_it(world: World) -> None:
    take(world)
    world.tend(1)
    tasks.start(Task("k", "diff", "s-1"), [0, 1, 2], world.spare)
    assert world.spare.pid == PID
    assert world.clones == 3


def test_one_that_has_died(world: World) -> None:
    take(world)
    world.tend(1)
    for end in world.inside:
        end.close()
    assert take(world) == PID
    assert world.clones == 3, "the task is done all the same"
    assert world.spare.pid == 0
    assert world.tend(1)


def test_it_goes_when_nobody_asks(world: World) -> None:
    take(world)
    assert world.tend(1)
    assert world.tend(50)
    assert not world.tend(20)
    assert world.taken() == "", "it is told by the end of its socket"
    assert not world.tend(3600)
    assert world.clones == 2


def test_no_process_to_be_had(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    take(world)
    world.failure = 11
    assert not world.tend(1)
    assert not world.spare.wanted, "not again and again"
    assert "no spare task" in capfd.readouterr().err
