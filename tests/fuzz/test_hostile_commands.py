"""An init that lies about commands: their ids, pids, counts, ends, and the pipes that they write to.

Asked from where the API asks: whatever init says or leaves unsaid, a caller gets an answer or a ``Problem``,
every task ends once the sandbox is over, nothing stays open, and what is kept is bounded. ``NSBOX_SOAK=N``
and ``NSBOX_FUZZ=N`` try N times as much.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nsbox.host.agents import Agents
from nsbox.host.box import Box, Unresponsive
from nsbox.model.errors import Problem
from nsbox.model.lifecycle import State
from nsbox.model.sandbox import CommandSpec, Limits, Sandbox, Template, TerminalSize
from nsbox.service.commands import Commands
from nsbox.service.registry import Live
from nsbox.settings import Settings
from nsbox.wire.framing import encode
from nsbox.wire.messages import (
    PROTOCOL_VERSION,
    Attached,
    Exec,
    Exited,
    Killed,
    Measured,
    Message,
    Refused,
    Running,
    Signal,
    Started,
)
from tests.fuzz.descriptors import none_leaked
from tests.unit.host.inits import Peer, RunDir, attached

_TIMES = min(int(os.environ.get("NSBOX_SOAK") or os.environ.get("NSBOX_FUZZ") or 1), 50)
_FUZZED = settings(
    derandomize=_TIMES == 1,
    max_examples=40 * _TIMES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
#: So much is kept of a command's output here, and of all together.
_KEPT = 4_096
_RECORD = Sandbox(
    id="sb_1", owner="ann", state=State.RUNNING, limits=Limits(vcpus=1, memory_mb=1, storage_mb=1, pids=1),
    timeout_ms=1, template="default", layers=("l",), env={}, region="", created_at=0, expires_at=0,
    deadline=0, boot_id="", base=Template(name="default", layers=("l",), env={}, workdir="/"),
)  # fmt: skip


class OneSandbox:
    """The registry, of one sandbox."""

    def __init__(self, box: Box) -> None:
        self.live = Live(_RECORD)
        self.live.box, self.live.agents = box, Agents(box)
        self.ended: list[Callable[[str], None]] = []

    def on_end(self, call: Callable[[str], None]) -> None:
        self.ended.append(call)

    def find(self, sandbox_id: str) -> Live:
        return self.live

    async def record(self, owner: str, sandbox_id: str) -> Sandbox:
        return _RECORD

    async def usable(self, owner: str, sandbox_id: str, action: Any) -> tuple[Any, Any, Any]:
        await trio.lowlevel.checkpoint()
        return _RECORD, self.live.box, self.live.agents

    async def look_at_memory(self, live: Live) -> None:
        """There is no cgroup."""


# ---- what init does

_numbers = st.sampled_from([0, 1, 9, 137, 0x137F, 256, 0xFFFF, -1, 1 << 31, (1 << 63) - 1, -(1 << 63)])
_strings = st.sampled_from(["", "x", "\ud800", "\0", "y" * 5_000, "cmd_" + "0" * 20, "../../x"])
_argvs = st.lists(_strings, max_size=3).map(tuple)
#: Whose the word is: of who asked, of one that was asked before, or of nobody.
_whose = st.sampled_from(["this", "this", "this", "this", "earlier", "nobody"])


def _said(make: Callable[..., Message], *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(_whose, st.builds(lambda *values: lambda key: make(key, *values), *fields))


_words = st.one_of(
    _said(Started, _numbers),
    _said(Exited, _numbers, _numbers, _numbers, _numbers, _numbers),
    _said(Refused, st.sampled_from(["user", "cwd", "fork", "exec", "\ud800"]), _numbers, _strings),
    _said(Killed, _numbers),
    _said(lambda key, rows: Measured(key, rows), _argvs),
    _said(lambda key, cpu, memory: Measured(key, (f"{key} {cpu} {memory}",)), _numbers, _numbers),
    _said(Running, _numbers, _argvs, _strings, _numbers),
    _said(lambda key, version: Attached(version, 3), _numbers),
)
#: What it does besides to the pipes of the last command.
_deeds = st.sampled_from(["write", "much", "steal", "close", "nothing", "nothing", "hang up"])
#: An order is answered as it should be, or by some words; then come some deeds.
_moves = st.lists(
    st.tuples(st.booleans(), st.lists(_words, max_size=4), st.lists(_deeds, max_size=3)), max_size=14
)


class Liar:
    """Answers one request after the other as it was drawn, and then no more."""

    def __init__(self, peer: Peer, moves: list[Any]) -> None:
        self.peer, self._moves = peer, list(moves)
        self._keys = ["cmd_" + "f" * 20]
        self._streams: list[int] = []

    async def run(self) -> None:
        try:
            while received := await self.peer.receive():
                message, descriptors = received
                if isinstance(message, Exec):
                    self._let_go()
                    self._streams = descriptors
                else:
                    for descriptor in descriptors:
                        os.close(descriptor)
                if self._moves:
                    await self._move(message, *self._moves.pop(0))
        except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
            pass
        finally:
            self._let_go()
            if self.peer.sock.fileno() >= 0:
                self.peer.close()

    async def _move(self, message: Any, right: bool, words: list[Any], deeds: list[str]) -> None:
        key = getattr(message, "key", "")
        if right:
            await self.peer.send(
                Started(key, 5) if isinstance(message, Exec) else
                Killed(key, 1) if isinstance(message, Signal) else Exited(key, 0, 1, 1, 1, 0)
            )  # fmt: skip
        for whose, make in words:
            of = {"this": key, "earlier": self._keys[-1], "nobody": "cmd_" + "e" * 20}[whose]
            await self.peer.send_raw(encode(make(of)))
        self._keys.append(key)
        for deed in deeds:
            await trio.sleep(0.01)
            self._do(deed)

    def _do(self, deed: str) -> None:
        if deed == "hang up":
            self.peer.close()
            raise trio.ClosedResourceError
        if not self._streams:
            return
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            match deed:
                case "write":
                    os.write(self._streams[1], b"\xf0\x9f out")
                    os.write(self._streams[2], b"err")
                case "much":
                    os.set_blocking(self._streams[1], False)
                    os.write(self._streams[1], bytes(65_536))
                case "steal":
                    os.set_blocking(self._streams[3], False)
                    os.read(self._streams[3], 1_000)
                case "close":
                    self._let_go()

    def _let_go(self) -> None:
        for descriptor in self._streams:
            os.close(descriptor)
        self._streams = []


# ---- who asks


class Asker:
    """The API, of one client. Whatever becomes of a question is an answer or a problem."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.known: list[str] = []

    async def ask(self, number: int) -> None:
        with contextlib.suppress(Problem):
            await self._ask(number)

    async def _ask(self, number: int) -> None:
        plain = CommandSpec(argv=("x",), command=["x"], stdin=b"in" * 50_000, timeout_ms=50)
        typed = CommandSpec(argv=("x",), command=["x"], stdin_open=True, terminal=TerminalSize(1, 1))
        commands, key = self.commands, self.known[-1] if self.known else "cmd_" + "0" * 20
        asked: list[Callable[[], Awaitable[Any]]] = [
            lambda: commands.run("ann", "sb_1", plain),
            self._follow,
            self._start,
            lambda: commands.list("ann", "sb_1", everything=True),
            lambda: commands.get("ann", "sb_1", key),
            lambda: commands.signal("ann", "sb_1", key, 15),
            lambda: commands.write_stdin("ann", "sb_1", key, b"z" * 70_000, 0.1),
            lambda: commands.resize("ann", "sb_1", key, TerminalSize(2, 2)),
            lambda: commands.close_stdin("ann", "sb_1", key),
            lambda: commands.wait("ann", "sb_1", key, 0.1),
            lambda: commands.kill_all("ann", "sb_1"),
            lambda: commands.end("ann", "sb_1", key),
            lambda: commands.start("ann", "sb_1", typed),
        ]
        await asked[number % len(asked)]()

    async def _start(self) -> None:
        spec = CommandSpec(argv=("x",), command=["x"], stdin_open=True, timeout_ms=200)
        self.known.append((await self.commands.start("ann", "sb_1", spec)).id)

    async def _follow(self) -> None:
        spec = CommandSpec(argv=("x",), command=["x"], timeout_ms=100)
        with await self.commands.stream("ann", "sb_1", spec, 0) as following:
            last = 0
            while (piece := await following.next()) is not None:
                assert piece.offset >= last  # offsets are api's own, and nothing that init says moves them
                last = piece.offset
            following.process()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Of one example, short enough for the path of a socket."""
    with tempfile.TemporaryDirectory(prefix="nsbox-") as folder:
        yield Path(folder)


def _settings(folder: Path) -> Settings:
    return Settings(
        max_commands=4, output_limit_bytes=1_000, keep_ended=2, log_bytes=_KEPT, logs_bytes=2 * _KEPT,
        state_dir=str(folder),
    )  # fmt: skip


def _clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.01)


async def _within(work: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """``work``, and all that it leaves in the nursery. By a clock that jumps: a task that waits for what
    never comes fails here at once."""
    with trio.fail_after(3_600):
        async with trio.open_nursery() as nursery:
            await work(nursery)


@_FUZZED
@given(moves=_moves, asked=st.lists(st.integers(0, 12), min_size=1, max_size=12))
def test_whatever_init_says_of_commands(moves: list[Any], asked: list[int]) -> None:
    async def main(folder: Path, nursery: trio.Nursery) -> None:
        run_dir = RunDir(str(folder))
        box, peer = await attached(run_dir)
        nursery.start_soon(box.listen)
        nursery.start_soon(Liar(peer, moves).run)
        commands = Commands(OneSandbox(box), None, _settings(folder), nursery)  # type: ignore[arg-type]
        asker = Asker(commands)
        async with trio.open_nursery() as clients:
            for number in asked:
                clients.start_soon(asker.ask, number)
                await trio.sleep(0.001)
        assert not box._answers
        assert len(box._exits) <= len(asked)
        box.close()
        run_dir.close()

    with _folder() as folder, none_leaked():
        trio.run(partial(_within, partial(main, folder)), clock=_clock())


# ---- what an earlier api began, says init

_claims = st.lists(
    st.tuples(
        st.sampled_from([*["running"] * 12, "exited", "exited", "started", "garbage"]),
        st.sampled_from([*["cmd_" + digit * 20 for digit in "0123456789"], "old", "../x", "\ud800"]),
        _numbers, _argvs, _strings, st.sampled_from([2, 2, 2, 2, 2, 3, 3, 0, 1, 4]),
    ),
    max_size=5,
)  # fmt: skip
_MINE = "cmd_" + "0" * 20


@_FUZZED
@example(claims=[("running", _MINE, 1, ("\ud800",), "/", 2)], more=0, words=[])
@example(claims=[("running", _MINE, 1, ("a",), "/\ud800", 2)], more=0, words=[])
@example(claims=[("running", _MINE, 1, ("y" * 5_000,) * 9, "/" * 9_000, 2)], more=0, words=[])
@given(claims=_claims, more=st.sampled_from([0, 0, 0, 1, -1]), words=st.lists(_words, max_size=4))
def test_whatever_init_says_was_begun(claims: list[Any], more: int, words: list[Any]) -> None:
    async def main(folder: Path, nursery: trio.Nursery) -> None:
        run_dir = RunDir(str(folder))
        run_dir.listen("sb_1")
        box = Box(run_dir.descriptor, "sb_1")
        peer = run_dir.accept("sb_1")
        reader, writer = os.pipe()
        await peer.send(Attached(PROTOCOL_VERSION, max(0, len(claims) + more)))
        for kind, key, number, argv, text, count in claims:
            said = {
                "running": encode(Running(key, number, argv, text, number)),
                "exited": encode(Exited(key, number, number, number, number, number)),
                "started": encode(Started(key, number)),
                "garbage": b"garbage",
            }[kind]
            await peer.send_raw(said, [(reader, writer)[one % 2] for one in range(count)])
        commands = Commands(OneSandbox(box), None, _settings(folder), nursery)  # type: ignore[arg-type]
        try:
            adopted = await box.attach()
        except Unresponsive:
            adopted = []
        else:
            nursery.start_soon(box.listen)
            commands.adopt("sb_1", box, adopted)
        for _, make in words:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await peer.send_raw(encode(make(_MINE)))
        with contextlib.suppress(Problem):
            for one in await commands.list("ann", "sb_1", everything=True):
                assert len(one.cwd) + sum(map(len, one.command)) < 9_000
                await commands.wait("ann", "sb_1", one.id, 0.1)
        os.close(reader)
        os.close(writer)
        peer.close()
        box.close()
        run_dir.close()

    with _folder() as folder, none_leaked():
        trio.run(partial(_within, partial(main, folder)), clock=_clock())
