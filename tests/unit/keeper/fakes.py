"""keeper's surroundings without processes: boxes whose init the test plays, a kernel that reports deaths."""

from __future__ import annotations

import itertools
import os
import socket
from typing import Any

from nsbox.inside import channel
from nsbox.keeper.boxes import Box, Phase, StageError
from nsbox.keeper.core import Keeper
from nsbox.keeper.pool import Pool
from nsbox.wire.messages import TO_KEEPER, Create, Message


class FakeChild:
    """A child that keeper always has. Counts how often it was started."""

    _pids = itertools.count(7)

    def __init__(self) -> None:
        self.pid = next(self._pids)
        self.starts = 0

    def start(self) -> None:
        self.starts += 1


class FakeHost:
    """What boxes share, with no cgroup."""

    def __init__(self) -> None:
        self.zygote = FakeChild()

    cgroup = None
    controllers = ()
    enforced = ("pids",)


class FakeBox(Box):
    """A box that is made of nothing. ``inside`` is init's end of the control socket."""

    def __init__(self, number: int, kernel: Kernel) -> None:
        super().__init__(number, FakeHost())  # type: ignore[arg-type]
        self.kernel = kernel
        self.closed = self.launched = 0
        self.inside: socket.socket | None = None

    def clone(self) -> None:
        if self.kernel.clone_fails:
            if self.kernel.clone_fails == "late":
                self.pid = next(self.kernel.pids)
                self.kernel.alive[self.pid] = self
            raise StageError("clone", OSError(11, "again"))
        self.pid = next(self.kernel.pids)
        self.control, self.inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.alive[self.pid] = self

    def launch(self) -> None:
        assert self.phase is Phase.BLANK
        assert self.order is not None
        self.phase = Phase.LAUNCHING
        self.launched += 1
        if self.kernel.launch_fails:
            raise StageError("overlay", OSError(28, "full"))

    def kill(self) -> None:
        self.phase = Phase.ENDING
        self.kernel.killed.add(self.pid)

    def close(self) -> None:
        self.closed += 1
        for sock in (self.control, self.inside):
            if sock is not None:
                sock.close()

    def say(self, message: Message) -> None:
        assert self.inside is not None
        channel.send(self.inside, message)


class Kernel:
    """Who lives, who was killed, and who is dead and not yet waited for."""

    def __init__(self) -> None:
        self.pids = itertools.count(100)
        self.alive: dict[int, FakeBox] = {}
        self.killed: set[int] = set()
        self.dead: list[tuple[int, int]] = []
        self.clone_fails: str | bool = False
        self.launch_fails = False

    def die(self, pid: int, status: int = 9) -> None:
        self.alive.pop(pid)
        self.dead.append((pid, status))

    def waitpid(self, pid: int, flags: int) -> tuple[int, int]:
        assert (pid, flags) == (-1, os.WNOHANG)
        return self.dead.pop(0) if self.dead else (0, 0)


class FakePool(Pool):
    """The real stock, of fake boxes, which never rests."""

    def __init__(self, size: int, kernel: Kernel) -> None:
        super().__init__(size, FakeHost())  # type: ignore[arg-type]
        self._kernel = kernel
        self.made: list[FakeBox] = []

    def make(self) -> FakeBox:
        self._serial += 1
        self.made.append(FakeBox(self._serial, self._kernel))
        return self.made[-1]


class FakeSweeper(FakeChild):
    """Remembers what was thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.discarded: list[str] = []

    def discard(self, path: str) -> None:
        self.discarded.append(path)


class Watcher:
    """Which boxes' control sockets the loop would listen to."""

    def __init__(self) -> None:
        self.watched: set[Any] = set()

    def watch(self, box: Box) -> None:
        assert box not in self.watched
        self.watched.add(box)

    def unwatch(self, box: Box) -> None:
        self.watched.discard(box)


class World:
    """A keeper and all around it. ``answers`` is what api was told."""

    def __init__(self, size: int = 2) -> None:
        self.kernel, self.watcher, self.answers = Kernel(), Watcher(), []  # type: ignore[var-annotated]
        self.pool = FakePool(size, self.kernel)
        self.host = FakeHost()
        self.keeper = Keeper(self.host, self.pool, self.watcher, self.answers.append)  # type: ignore[arg-type]
        self.sweeper = FakeSweeper()
        self.keeper.sweeper = self.sweeper  # type: ignore[assignment]

    def obey(self, message: Message) -> list[Message]:
        """What api is told at once."""
        assert type(message) in TO_KEEPER
        self.answers.clear()
        self.keeper.obey(message, [])
        return list(self.answers)

    def say(self, box: FakeBox, message: Message) -> list[Message]:
        """A box says something, and keeper hears it if it still listens."""
        self.answers.clear()
        box.say(message)
        if box in self.watcher.watched:
            self.keeper.hear(box)
        return list(self.answers)

    def die(self, box: FakeBox, status: int = 9) -> list[Message]:
        """The kernel reports a death."""
        self.answers.clear()
        self.kernel.die(box.pid, status)
        self.keeper.reap()
        return list(self.answers)

    def box_of(self, sandbox_id: str) -> FakeBox:
        return next(box for box in self.pool.made if box.id == sandbox_id)

    def close(self) -> None:
        for box in self.pool.made:
            box.close()


def order(sandbox_id: str) -> Create:
    return Create(sandbox_id, ("layer",), "host", 1, 2, 3, 4, "")
