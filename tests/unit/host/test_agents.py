from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from nsbox.host import agents as module
from nsbox.host.agents import Agents, Conversation, plain_file
from nsbox.host.box import Refusal, Unresponsive
from nsbox.host.boxtime import BoxTime
from nsbox.host.endpoint import Endpoint
from nsbox.kernel import libc
from nsbox.wire.messages import FROM_AGENT, Done, Entries, Opened, Read, Refused, Remove, Scan, Started
from tests.fuzz.descriptors import none_leaked
from tests.unit.host.inits import Peer


def on_tmpfs() -> int:
    return os.memfd_create("x")


def a_pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def a_fifo() -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(f"{folder}/f")
        return os.open(f"{folder}/f", os.O_RDONLY | os.O_NONBLOCK)


def a_socket() -> int:
    return socket.socket().detach()


OTHERS: list[Callable[[], int]] = [
    a_pipe,
    a_fifo,
    a_socket,
    lambda: os.open("/", os.O_RDONLY),
    lambda: os.open("/", os.O_PATH),
    lambda: os.open("/dev/zero", os.O_RDONLY),
    lambda: os.open("/dev/tty", os.O_PATH),
    lambda: os.open("/proc/self/mem", os.O_RDONLY),
    lambda: os.open("/proc/self/status", os.O_RDONLY),
    lambda: os.open("/sys/kernel/profiling", os.O_RDONLY),
    lambda: os.pidfd_open(os.getpid()),
    lambda: os.eventfd(0),
]


@pytest.mark.parametrize("make", OTHERS)
def test_only_a_regular_file_of_overlay_or_tmpfs(make: Callable[[], int]) -> None:
    with none_leaked():
        try:
            descriptor = make()
        except OSError as error:
            pytest.skip(f"this host has none: {error}")
        with pytest.raises(Unresponsive):
            plain_file([descriptor])


@pytest.mark.parametrize("count", [0, 2, 5])
def test_exactly_one(count: int) -> None:
    with none_leaked(), pytest.raises(Unresponsive):
        plain_file([on_tmpfs() for _ in range(count)])


def test_that_one_is_handed_on() -> None:
    descriptor = on_tmpfs()
    assert plain_file([descriptor]) == descriptor
    os.close(descriptor)


def test_what_is_written_to_is_of_a_mount() -> None:
    """A file in memory that is of none is bounded by nothing, and what api writes is counted for api. One
    that lost its name meanwhile, as its folder was removed, is still of its mount."""
    with none_leaked(), pytest.raises(Unresponsive):
        plain_file([on_tmpfs()], mounted=True)
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        if libc.filesystem_type(file.fileno()) not in module._PLAIN:
            pytest.skip("/dev/shm of this host is no tmpfs")
        assert os.fstat(file.fileno()).st_nlink == 0
        assert plain_file([file.fileno()], mounted=True) == file.fileno()


def test_a_file_of_the_hosts_disk_is_not_the_sandboxs(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    if libc.filesystem_type(descriptor) in module._PLAIN:
        os.close(descriptor)
        pytest.skip("the temporary folder of this host is itself a tmpfs or an overlay")
    with none_leaked(), pytest.raises(Unresponsive):
        os.fstat(descriptor)
        plain_file([os.dup(descriptor)])
    os.close(descriptor)


# ---- conversations


class FakeBox:
    """Gives out agents whose other end the test plays."""

    def __init__(self) -> None:
        self.time = BoxTime()
        self.peers: list[Peer] = []
        self.error: Exception | None = None

    async def open_agent(self, key: str, user: str) -> Endpoint:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peers.append(Peer(theirs))
        return Endpoint(ours, FROM_AGENT)

    def close(self) -> None:
        for peer in self.peers:
            if peer.sock.fileno() >= 0:
                peer.close()


@pytest.fixture
def leaks() -> Any:
    with none_leaked():
        yield


@pytest.fixture
async def box(leaks: None) -> Any:
    made = FakeBox()
    yield made
    made.close()


def of(box: FakeBox) -> Agents:
    return Agents(box)  # type: ignore[arg-type]


async def test_an_agent_is_used_again(box: FakeBox) -> None:
    agents = of(box)
    for _ in range(3):
        async with agents.use() as agent:
            assert agent.clean
    assert len(box.peers) == 1
    agents.close()
    assert await box.peers[0].receive() is None


async def test_an_answer_with_its_descriptors(box: FakeBox) -> None:
    agents = of(box)
    async with agents.use() as agent:
        (peer,) = box.peers
        await peer.send(Opened(3, 0, 0), [0])
        answer, descriptors = await agent.ask(Read("/f"))
        assert answer == Opened(3, 0, 0)
        assert len(descriptors) == 1
        os.close(descriptors[0])
        assert await peer.expect(Read) == Read("/f")
    agents.close()


@pytest.mark.parametrize(("answer", "count"), [(Refused("", "path", 2, "x"), 1), (Opened(1, 2, 0), 2)])
async def test_more_descriptors_than_belong_to_an_answer(box: FakeBox, answer: Any, count: int) -> None:
    agents = of(box)
    async with agents.use() as agent:
        await box.peers[0].send(answer, [0] * count)
        with pytest.raises(Unresponsive, match="descriptors"):
            await agent.ask(Read("/f"))
        assert not agent.clean
    agents.close()


async def test_a_refusal_leaves_the_agent_fit_and_nothing_open(box: FakeBox) -> None:
    agents = of(box)
    async with agents.use() as agent:
        await box.peers[0].send(Refused("", "path", 2, "x"))
        with pytest.raises(Refusal):
            await agent.ask(Read("/f"))
        assert agent.clean
    agents.close()


async def test_a_listing_in_several_parts(box: FakeBox) -> None:
    agents = of(box)
    async with agents.use() as agent:
        for part in (Entries(("a",), 1, 0), Entries(("b",), 0, 0)):
            await box.peers[0].send(part)
        first, _ = await agent.ask(Scan("/", 0, 9))
        second, _ = await agent.more()
        assert (first.rows, second.rows) == (("a",), ("b",))  # type: ignore[union-attr]
    agents.close()


async def test_an_agent_killed_before_it_read_the_request_is_replaced_unseen(box: FakeBox) -> None:
    agents = of(box)
    async with agents.use() as agent:
        box.peers[0].close()

        async def serve_the_second() -> None:
            while len(box.peers) < 2:
                await trio.lowlevel.checkpoint()
            await box.peers[1].send(Done(7))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_the_second)
            answer, _ = await agent.ask(Remove("/f", 0))
    assert answer == Done(7)
    agents.close()


async def test_one_that_may_have_read_it_is_not_asked_again(box: FakeBox) -> None:
    """It may have done what it was asked before it died: to ask another could do it twice."""
    agents = of(box)
    async with agents.use() as agent, trio.open_nursery() as nursery:

        async def read_and_die() -> None:
            await box.peers[0].expect(Remove)
            box.peers[0].close()

        nursery.start_soon(read_and_die)
        with pytest.raises(Unresponsive):
            await agent.ask(Remove("/f", 0))
    assert len(box.peers) == 1
    agents.close()


@pytest.mark.parametrize("what", ["garbage", "out of place", "silence"])
async def test_an_agent_that_fails_is_replaced(
    box: FakeBox, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    agents = of(box)
    with pytest.raises(Unresponsive):
        async with agents.use() as agent:
            peer = box.peers[0]
            match what:
                case "garbage":
                    await peer.send_raw(b"garbage", [0])
                case "out of place":
                    await peer.send(Started("k", 1), [0])
            await agent.ask(Read("/f"))
    async with agents.use():
        assert len(box.peers) == 2
    agents.close()


async def test_an_agent_that_died_while_idle_is_not_given_out(box: FakeBox) -> None:
    agents = of(box)
    async with agents.use():
        pass
    box.peers[0].close()
    async with agents.use():
        assert len(box.peers) == 2
    agents.close()


async def test_one_that_speaks_unasked_is_not_given_out(box: FakeBox) -> None:
    """Its answer would be taken for that of the next request."""
    agents = of(box)
    async with agents.use():
        pass
    await box.peers[0].send(Done(0))
    async with agents.use():
        assert len(box.peers) == 2
    agents.close()


async def test_a_client_that_leaves_in_the_middle_spoils_only_its_agent(box: FakeBox) -> None:
    agents = of(box)
    with trio.move_on_after(0.02):
        async with agents.use() as agent:
            await agent.ask(Read("/slow"))
    async with agents.use() as agent:
        assert len(box.peers) == 2
        assert isinstance(agent, Conversation)
    agents.close()


async def test_at_most_so_many_at_once(box: FakeBox) -> None:
    agents = of(box)
    release = trio.Event()

    async def user() -> None:
        async with agents.use():
            await release.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(user)
        await trio.testing.wait_all_tasks_blocked()
        assert len(box.peers) == module._MOST
        release.set()
    assert len(box.peers) == module._MOST
    agents.close()


async def test_a_place_is_free_again_when_no_agent_can_be_had(box: FakeBox) -> None:
    agents = of(box)
    box.error = Unresponsive("no")
    for _ in range(10):
        with pytest.raises(Unresponsive):
            async with agents.use():
                pass
    box.error = None
    async with agents.use():
        pass
    agents.close()


async def test_idle_agents_are_let_go_in_time(box: FakeBox, autojump_clock: trio.testing.MockClock) -> None:
    agents = of(box)
    async with agents.use():
        pass
    await trio.sleep(module._KEEP - 1)
    agents.let_go()
    async with agents.use():
        assert len(box.peers) == 1
    await trio.sleep(module._KEEP + 1)
    agents.let_go()
    assert await box.peers[0].receive() is None


async def test_an_agent_that_stands_still_is_not_slow(box: FakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way when its sandbox is paused waits for the resume."""
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    agents = of(box)
    async with agents.use() as agent, trio.open_nursery() as nursery:
        box.time.stop()

        async def answers_late() -> None:
            await box.peers[0].expect(Read)
            await trio.sleep(0.4)
            box.time.go_on()
            await box.peers[0].send(Done(7))

        nursery.start_soon(answers_late)
        answer, _ = await agent.ask(Read("/a"))
        assert answer == Done(7)
    agents.close()
