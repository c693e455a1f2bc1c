"""File agents and api, each hostile to the other.

An agent that was taken over answers api's requests with anything: each caller gets an answer or a
``Problem``, soon, nothing stays open, and what a listing takes is bounded. And an agent is sent anything: it
answers, or hangs up; it never goes down by an error that nobody foresaw, nor stands still. That one is a
real process in a folder of its own, as its root: what is drawn may well be an order to remove ``/``.

``NSBOX_SOAK=N`` and ``NSBOX_FUZZ=N`` try N times as much.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nsbox.api import contents
from nsbox.host.agents import Agents
from nsbox.host.boxtime import BoxTime
from nsbox.host.endpoint import Endpoint
from nsbox.host.storage import Reserve
from nsbox.inside import channel
from nsbox.inside.agent import Agent
from nsbox.kernel import libc, rawsocket
from nsbox.model.errors import Code, Problem
from nsbox.service.files import Files
from nsbox.wire.framing import MAX_PACKET, WireError, decode, encode
from nsbox.wire.messages import (
    FROM_AGENT,
    TO_AGENT,
    Abort,
    Commit,
    Done,
    Entries,
    Message,
    Opened,
    Put,
    Read,
    Refused,
    Remove,
    Scan,
    Write,
    Writing,
)
from tests.fuzz.descriptors import none_leaked
from tests.unit.host.inits import Peer
from tests.unit.wire.shapes import any_message

_TIMES = min(int(os.environ.get("NSBOX_SOAK") or os.environ.get("NSBOX_FUZZ") or 1), 50)
_FUZZED = settings(
    derandomize=_TIMES == 1,
    max_examples=120 * _TIMES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_numbers = st.sampled_from([0, 1, -1, 0o644, 0o7777, 1 << 20, 1 << 31, (1 << 63) - 1, -(1 << 63)])


# ---- api ← an agent


class Box:
    """Gives out agents that answer as it was drawn, and at the end of that hang up."""

    def __init__(self, answers: list[Any], spare: list[int], nursery: trio.Nursery) -> None:
        self.time = BoxTime()
        self._answers, self._spare, self._nursery = answers, spare, nursery

    async def open_agent(self, key: str, user: str) -> Endpoint:
        await trio.lowlevel.checkpoint()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._nursery.start_soon(self._play, Peer(theirs))
        return Endpoint(ours, FROM_AGENT)

    async def _play(self, peer: Peer) -> None:
        try:
            while await peer.receive() is not None and self._answers:
                for message, kinds in self._answers.pop(0):
                    sent = encode(message) if isinstance(message, tuple) else message
                    await peer.send_raw(sent, [self._spare[kind % len(self._spare)] for kind in kinds])
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            peer.close()


class Registry:
    """Has one sandbox."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def usable(self, owner: str, sandbox_id: str, action: Any) -> tuple[Any, Any, Agents]:
        await trio.lowlevel.checkpoint()
        return None, None, self._agents

    def find(self, sandbox_id: str) -> None:
        """It has no storage that could be full."""


class Listings:
    max_list_entries = 1_000


async def _asked(box: Box, questions: list[int]) -> list[Problem | None]:
    """What the API asks of files, several at once."""
    agents = Agents(box)  # type: ignore[arg-type]
    files = Files(Registry(agents), Listings(), Reserve("/", 0))  # type: ignore[arg-type]
    told: list[Problem | None] = []

    async def read() -> None:
        async with files.open("ann", "sb", b"/f") as one:
            await contents._begin(one)
            await contents._Contents(one, b"/f", 1_000).look_through()

    async def upload() -> None:
        async with files.upload("ann", "sb", b"/f", None) as one:
            await one.write(b"x" * 1_000)

    asked: list[Callable[[], Awaitable[object]]] = [
        read,
        lambda: files.list("ann", "sb", b"/", True),
        lambda: files.write("ann", "sb", b"/f", b"small", None),
        lambda: files.write("ann", "sb", b"/f", bytes(200_000), 0o644),
        lambda: files.remove("ann", "sb", b"/f", True),
        upload,
    ]

    async def ask(number: int) -> None:
        try:
            await asked[number % len(asked)]()
            told.append(None)
        except Problem as problem:
            told.append(problem)

    with trio.fail_after(3_600):
        async with trio.open_nursery() as clients:
            for number in questions:
                clients.start_soon(ask, number)
    agents.close()
    return told


@pytest.fixture(scope="module")
def spare() -> Iterator[list[int]]:
    """Some that may be what an agent opens, and some that may not."""
    memory = os.memfd_create("x")
    os.write(memory, b"contents")
    found = [memory, os.open("/dev/null", os.O_RDWR), os.open("/", os.O_RDONLY), *os.pipe()]
    found += [os.open(f"/proc/self/fd/{memory}", os.O_RDONLY), os.open(f"/proc/self/fd/{memory}", os.O_PATH)]
    found += [os.open("/proc/self/status", os.O_RDONLY), socket.socket().detach()]
    yield found
    for descriptor in found:
        os.close(descriptor)


_values = st.one_of(
    _numbers, st.sampled_from([None, "", "f", "\ud800", 1e308, [], {}, 10**300, "../x", True])
)
_rows = st.one_of(
    st.lists(_values, min_size=8, max_size=8).map(json.dumps),
    st.lists(_values, max_size=9).map(json.dumps),
    st.sampled_from(["", "[" * 10_000, "9" * 5_000, "NaN", '["\\ud800"]']),
)
_answers = st.one_of(
    st.builds(Opened, _numbers, _numbers, _numbers),
    st.just(Writing("")),
    st.builds(Entries, st.lists(_rows, max_size=3).map(tuple), st.sampled_from([0, 0, 1]), _numbers),
    st.builds(Done, _numbers),
    st.builds(Refused, st.just(""), st.sampled_from(["path", "type", "fork", "\ud800"]), _numbers,
              st.sampled_from(["", "\ud800", "x" * 5_000])),
    any_message,
    st.binary(min_size=1, max_size=32),
)  # fmt: skip
#: Mostly with as many descriptors as belong to it.
_along = st.one_of(
    st.lists(st.integers(0, 9), min_size=1, max_size=1), st.lists(st.integers(0, 9), max_size=3)
)
_volleys = st.lists(
    _answers.flatmap(
        lambda one: st.tuples(
            st.just(one), _along if isinstance(one, Opened | Writing) else st.sampled_from([[], [], [], [1]])
        )
    ),
    max_size=3,
)


@_FUZZED
@given(answers=st.lists(_volleys, max_size=12), asked=st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_whatever_agents_answer(spare: list[int], answers: list[Any], asked: list[int]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            told = await _asked(Box(list(answers), spare, nursery), asked)
            assert len(told) == len(asked)
            assert all(one is None or one.code is not Code.INTERNAL for one in told)

    with none_leaked():
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


@pytest.mark.parametrize("part", ["long rows", "nothing", "many rows"])
def test_a_listing_is_bounded(part: str) -> None:
    """By what it takes, and not only by how many rows: one of them fills a packet."""
    row = json.dumps(["n" * 300_000, 0o100644, 1, 1, 1, 1, 1, None])
    short = json.dumps(["n", 0o100644, 1, 1, 1, 1, 1, None])
    said = {"long rows": (row,), "nothing": (), "many rows": (short,) * 900}[part]
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.receive()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 5_000:
                await peer.send(Entries(said, 1, 0))
                sent += 1
        peer.close()

    class Endless(Box):
        async def _play(self, peer: Peer) -> None:
            await endless(peer)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            (problem,) = await _asked(Endless([], [], nursery), [1])
            # Long names are no crime, so what is there is given; the rest is no listing of ours.
            assert (problem is None) is (part == "long rows")

    tracemalloc.start()
    try:
        trio.run(main)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent < 1_000
    assert peak < 150 << 20


# ---- an agent ← api

_EOF, _HUNG_UP, _ERROR = 0, 3, 9
_SOON = 30.0
_NAMES = [
    "f",
    "d",
    "d/g",
    "l",
    "loop",
    "fifo",
    "new/deep/er",
    "d/",
    "",
    "/",
    ".",
    "..",
    "../..",
    "/../x",
    "dangling",
]
_ODD = ["x" * 300, "x/" * 3_000, "a\0b", "\ud800", "\udcff", "/proc/self/exe", "/dev/null", "\n"]
_paths = st.sampled_from([*_NAMES, *_NAMES, *_ODD])
_requests = st.one_of(
    st.builds(Read, _paths),
    st.builds(Write, _paths, _numbers),
    st.builds(Commit, st.just("")),
    st.builds(Abort, st.just("")),
    st.builds(Put, _paths, _numbers, st.binary(max_size=64)),
    st.builds(Scan, _paths, _numbers, _numbers),
    st.builds(Remove, _paths, _numbers),
)


def _serve(sock: Any, folder: Path) -> NoReturn:
    """An agent with a root of its own, as a sandbox has."""
    status = _ERROR
    try:
        os.chroot(folder)
        os.chdir("/")
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        Agent(sock).serve()
        status = _EOF
    except (WireError, OSError):
        status = _HUNG_UP  # as agent.run has it
    finally:
        os._exit(status)


class Child:
    """A real agent, and api's end of its socket."""

    def __init__(self, folder: Path) -> None:
        self.sock, theirs = rawsocket.pair()
        channel.prepare(self.sock)
        channel.prepare(theirs)
        self.pid = libc.clone3()
        if self.pid == 0:
            self.sock.close()
            _serve(theirs, folder)
        theirs.close()
        self.sock.settimeout(_SOON)

    def say(self, packet: bytes, descriptors: list[int]) -> bool:
        """Whether there is somebody to hear it."""
        try:
            socket.send_fds(self.sock, [packet], descriptors)  # type: ignore[arg-type]
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def answers(self) -> Iterator[Message]:
        """All that belong to one request. Raises ``TimeoutError`` where none comes."""
        while True:
            received = channel.receive(self.sock, FROM_AGENT)
            assert received is not None, "it hung up"
            message, descriptors = received
            channel.close_all(descriptors)
            assert len(descriptors) == isinstance(message, Opened | Writing)
            yield message
            if not isinstance(message, Entries) or not message.more:
                return

    def end(self) -> int:
        """Hang up; how it ended."""
        self.sock.close()
        watched = os.pidfd_open(self.pid)
        try:
            ready, _, _ = select.select([watched], [], [], _SOON)
            if not ready:
                os.kill(self.pid, signal.SIGKILL)
        finally:
            os.close(watched)
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert ready, "it stands still"
        return status


def _furnish(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d/g").write_bytes(b"contents")
    (folder / "f").write_bytes(b"more")
    (folder / "l").symlink_to("d/g")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere/at/all")
    os.mkfifo(folder / "fifo")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("chroot(2) is for root, and without it an order to remove / would be carried out")
    return tmp_path


def _acts(packet: bytes) -> bool:
    """Whether it is a request."""
    try:
        decode(packet, TO_AGENT)
    except WireError:
        return False
    return len(packet) <= MAX_PACKET


def test_whatever_an_agent_is_asked(root: Path, spare: list[int]) -> None:
    made = 0

    @_FUZZED
    @example(said=[(encode(Put("f", 1 << 62, b"x")), 0)])
    @example(said=[(encode(Write("f", 1 << 62)), 0), (encode(Commit("")), 0)])
    @example(said=[(encode(Write("f", 5)), 0)] * 3)
    @example(said=[(encode(Remove("/", 1)), 0), (encode(Scan("/", 1, 1 << 62)), 0)])
    @given(
        said=st.lists(
            st.tuples(
                st.one_of(
                    *[_requests.map(encode)] * 6, any_message.map(encode), st.binary(min_size=1, max_size=40)
                ),
                st.sampled_from([0, 0, 0, 1, 6, 7, 200]),
            ),
            max_size=10,
        )
    )
    def check(said: list[tuple[bytes, int]]) -> None:
        nonlocal made
        made += 1
        folder = root / str(made)
        folder.mkdir()
        _furnish(folder)
        child = Child(folder)
        hung_up = False
        try:
            hung_up = converse(child, said)
        finally:
            status = child.end()
        assert status == (_HUNG_UP if hung_up else _EOF)
        left = list(folder.rglob(".nsbox-*"))
        assert not left, "half a file is left"

    def converse(child: Child, said: list[tuple[bytes, int]]) -> bool:
        """Whether it is to hang up."""
        for packet, count in said:
            fits = _acts(packet) and count <= 6
            if not child.say(packet, [spare[one % len(spare)] for one in range(count)]) or not fits:
                return True
            assert list(child.answers())
        return False

    with none_leaked():
        check()


def test_requests_that_are_not_waited_for(root: Path) -> None:
    """An api that asks and asks and reads nothing: the agent waits for it, and ends when it hangs up."""
    _furnish(root)
    for number in range(2_000):
        (root / f"d/{number}").touch()
    with none_leaked():
        child = Child(root)
        child.sock.setblocking(False)
        begun = time.monotonic()
        asked = 0
        with contextlib.suppress(BlockingIOError):
            while asked < 50_000:
                child.sock.send(encode(Scan("/", 1, 1 << 62)))
                asked += 1
        assert asked < 50_000
        assert child.end() in (_EOF, _HUNG_UP)
        assert time.monotonic() - begun < _SOON
