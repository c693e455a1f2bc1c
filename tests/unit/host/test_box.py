from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from nsbox.host import box as module
from nsbox.host.box import Box, Refusal, RunningCommand, Unresponsive, Use
from nsbox.wire.messages import (
    PROTOCOL_VERSION,
    Agent,
    AgentReady,
    Attached,
    Dialled,
    Exec,
    Exited,
    Forget,
    Gone,
    Kill,
    KillAll,
    Killed,
    Measure,
    Measured,
    Read,
    Refused,
    Running,
    Started,
)  # fmt: skip
from tests.unit.host.inits import Peer, RunDir, attached

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")

ORDER = Exec("k", ("a",), (), "", "")
EXITED = Exited("k", 0, 1, 2, 3, 0)
RUNNING = Running("r", 5, ("sleep", "1"), "/srv", 1_000)


@asynccontextmanager
async def connected(run_dir: RunDir) -> AsyncIterator[tuple[Box, Peer]]:
    """A box that listens, and its init, which has been attached to."""
    box, peer = await attached(run_dir)
    try:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(box.listen)
                yield box, peer
                box.close()
    finally:
        peer.close()
        box.close()


async def at_once(*work: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The results of several things done at the same time; an error as it is."""
    results: list[Any] = [None] * len(work)

    async def one(index: int, what: Callable[[], Awaitable[Any]]) -> None:
        try:
            results[index] = await what()
        except (Unresponsive, Refusal) as error:
            results[index] = error

    async with trio.open_nursery() as nursery:
        for index, what in enumerate(work):
            nursery.start_soon(one, index, what)
    return results


async def test_a_command_from_start_to_end(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            order, descriptors = await peer.receive() or (None, [])
            assert order == ORDER
            assert len(descriptors) == 2
            for descriptor in descriptors:
                os.close(descriptor)
            await peer.send(Started("k", 42))
            await peer.send(EXITED)

        command, _ = await at_once(lambda: box.exec(ORDER, (0, 1)), init)
        assert isinstance(command, RunningCommand)
        assert command.pid == 42
        assert await command.wait() == EXITED
        assert await command.wait() == EXITED


async def test_an_end_before_the_start_was_told_is_kept(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            await peer.expect(Exec)
            await peer.send(EXITED)
            await peer.send(Started("k", 42))

        command, _ = await at_once(lambda: box.exec(ORDER, ()), init)
        assert await command.wait() == EXITED


async def test_a_refusal_says_why(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            await peer.expect(Exec)
            await peer.send(Refused("k", "cwd", 2, "no such folder"))

        refusal, _ = await at_once(lambda: box.exec(ORDER, ()), init)
        assert isinstance(refusal, Refusal)
        assert (refusal.stage, refusal.errno, refusal.detail) == ("cwd", 2, "no such folder")


@pytest.mark.parametrize("answer", [Killed("k", 1), AgentReady("k")])
async def test_another_answer_than_the_one_that_fits(run_dir: RunDir, answer: Any) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            await peer.expect(Exec)
            await peer.send(answer, [0])

        error, _ = await at_once(lambda: box.exec(ORDER, ()), init)
        assert isinstance(error, Unresponsive)


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (Started("k", 1), 1),
        (EXITED, 5),
        (Attached(1, 1), 1),
        (RUNNING, 2),
        (RUNNING, 4),
        (AgentReady("never asked for"), 1),
        (Dialled("never asked for"), 1),
        (AgentReady("k"), 2),
        (Refused("neither", "", 0, ""), 1),
        (Killed("k", 1), 253),
    ],
    ids=repr,
)
async def test_descriptors_that_belong_to_nothing_end_it(run_dir: RunDir, message: Any, count: int) -> None:
    """They are closed, and no more are taken: each may cost everybody time (see ``closing``)."""
    async with connected(run_dir) as (box, peer):
        await peer.send(message, [0] * count)
        await trio.testing.wait_all_tasks_blocked()
        assert box.closed


async def test_an_agent_that_comes_late_is_let_go_and_ends_nothing(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(box.open_agent, "k", "")
                await peer.expect(Agent)
                scope.cancel()
        await peer.send(AgentReady("k"), [0])
        await trio.testing.wait_all_tasks_blocked()
        assert not box.closed
        assert not box._given_up
        await peer.send(AgentReady("k"), [0])  # once
        await trio.testing.wait_all_tasks_blocked()
        assert box.closed


async def test_what_was_given_up_is_not_remembered_without_end(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_GIVEN_UP", 3)
    async with connected(run_dir) as (box, _):
        for number in range(10):
            with trio.CancelScope() as scope:
                scope.cancel()
                await box.dial(f"k{number}", 4, 80)
        assert list(box._given_up) == ["k7", "k8", "k9"]


@pytest.mark.parametrize("count", [0, 2, 5])
async def test_an_agent_is_one_descriptor(run_dir: RunDir, count: int) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            await peer.expect(Agent)
            await peer.send(AgentReady("k"), [0] * count)

        error, _ = await at_once(lambda: box.open_agent("k", ""), init)
        assert isinstance(error, Unresponsive)


def a_file() -> int:
    return os.open("/dev/null", os.O_RDWR)


def a_pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def a_tcp_socket() -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()


def a_stream() -> int:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours.detach()


@pytest.mark.parametrize("make", [a_file, a_pipe, a_tcp_socket, a_stream])
async def test_something_else_for_an_agent(run_dir: RunDir, make: Callable[[], int]) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            await peer.expect(Agent)
            descriptor = make()
            await peer.send(AgentReady("k"), [descriptor])
            os.close(descriptor)

        error, _ = await at_once(lambda: box.open_agent("k", ""), init)
        assert isinstance(error, Unresponsive)


async def test_an_agents_socket_works(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        async def init() -> None:
            await peer.expect(Agent)
            with theirs:
                await peer.send(AgentReady("k"), [theirs.fileno()])

        endpoint, _ = await at_once(lambda: box.open_agent("k", "ann"), init)
        agent = Peer(ours)
        await endpoint.send(Read("/f"))
        assert await agent.expect(Read) == Read("/f")
        endpoint.close()
        agent.close()


async def test_hanging_up_tells_everybody_who_waits(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            await peer.expect(Exec)
            await peer.send(Started("k", 1))
            await peer.expect(KillAll)
            peer.close()

        async def run() -> Any:
            command = await box.exec(ORDER, ())
            return await at_once(command.wait, lambda: box.kill_all("q"))

        (one, two), _ = await at_once(run, init)
        assert isinstance(one, Unresponsive)
        assert isinstance(two, Unresponsive)
        assert box.closed
        for ask in (lambda: box.exec(ORDER, ()), lambda: box.kill("k"), lambda: box.forget("k")):
            (error,) = await at_once(ask)
            assert isinstance(error, Unresponsive)


async def test_hanging_up_ourselves_while_listening_is_no_error(run_dir: RunDir) -> None:
    """Once it was a ClosedResourceError in the daemon's nursery, which ended api."""
    async with connected(run_dir) as (box, _):
        await trio.testing.wait_all_tasks_blocked()
        box.close()
        await trio.testing.wait_all_tasks_blocked()
        assert box.closed


@pytest.mark.parametrize("data", [b"garbage", b"\0" * 100, b"\xff"])
async def test_what_is_no_message_ends_the_connection(run_dir: RunDir, data: bytes) -> None:
    async with connected(run_dir) as (box, peer):
        await peer.send_raw(data, [0])
        assert await peer.receive() is None
        assert box.closed


async def test_a_message_that_is_not_inits_ends_the_connection(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):
        await peer.send(Gone("sb_1", 0), [0, 0])
        assert await peer.receive() is None
        assert box.closed


async def test_kill_and_forget_are_not_answered(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):
        await box.kill("a")
        await box.forget("b")
        assert await peer.expect(Kill) == Kill("a")
        assert await peer.expect(Forget) == Forget("b")


# ---- an init that does not answer


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)


@pytest.mark.usefixtures("impatient")
async def test_no_answer_and_a_late_one(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):
        (error,) = await at_once(lambda: box.exec(ORDER, ()))
        assert isinstance(error, Unresponsive)
        await peer.send(Started("k", 1), [0])
        await peer.send(AgentReady("k"), [0])
        await trio.testing.wait_all_tasks_blocked()
        assert not box._answers
        assert not box._exits


@pytest.mark.usefixtures("impatient")
async def test_an_init_that_does_not_read(run_dir: RunDir) -> None:
    """Neither an order nor a kill waits for ever for room in its socket."""
    async with connected(run_dir) as (box, _):
        big = Exec("k", ("x" * 100_000,), (), "", "")
        for _ in range(6):
            await at_once(lambda: box.exec(big, ()))
        (error,) = await at_once(lambda: fill(box))
        assert isinstance(error, Unresponsive)


async def fill(box: Box) -> None:
    while True:
        await box.kill("k" * 1000)


# ---- attaching


async def attach(run_dir: RunDir, *said: Any, descriptors: tuple[int, ...] = (0, 0)) -> Any:
    """What attach makes of an init that says this and nothing more, and what it is told in turn."""
    run_dir.listen("sb_1")
    box = Box(run_dir.descriptor, "sb_1")
    peer = run_dir.accept("sb_1")
    try:
        for one in said:
            await peer.send(one, descriptors if isinstance(one, Running) else [])
        if not said:
            peer.close()
        adopted = await box.attach()
        introduced = {one.key for one in said if isinstance(one, Running)}
        for one in said:
            if isinstance(one, Exited) and one.key not in introduced:
                assert await peer.expect(Forget) == Forget(one.key)
        return adopted
    except Unresponsive as error:
        if peer.sock.fileno() >= 0:
            while await peer.receive() is not None:  # it comes to an end: nothing is left half-open
                pass
        return error
    finally:
        if peer.sock.fileno() >= 0:
            peer.close()
        box.close()


async def test_commands_of_the_api_before(run_dir: RunDir) -> None:
    """What runs is taken over with its output; an end that belongs to nothing is forgotten."""
    reader, writer = os.pipe()
    (one,) = await attach(run_dir, Attached(PROTOCOL_VERSION, 2), RUNNING, EXITED, descriptors=(reader,))
    assert (one.running.key, one.running.pid) == ("r", 5)
    assert (one.argv, one.cwd, one.started_ns) == (("sleep", "1"), "/srv", 1_000)
    (output,) = one.outputs
    os.write(writer, b"said")
    assert os.read(output, 10) == b"said"
    # The other side shares the descriptor it was sent, and could clear what is set on that one.
    os.set_blocking(reader, True)
    assert not os.get_blocking(output)
    for descriptor in (output, reader, writer):
        os.close(descriptor)


async def test_a_command_that_ended_with_nobody_there(run_dir: RunDir) -> None:
    """Its end is known, and what it wrote is still in the pipes."""
    reader, writer = os.pipe()
    said = Attached(PROTOCOL_VERSION, 2), RUNNING, EXITED._replace(key="r")
    (one,) = await attach(run_dir, *said, descriptors=(reader,))
    assert one.running.over
    assert await one.running.wait() == EXITED._replace(key="r")
    os.write(writer, b"last words")
    assert os.read(one.outputs[0], 20) == b"last words"
    one.close()
    for descriptor in (reader, writer):
        os.close(descriptor)


async def test_the_same_command_twice(run_dir: RunDir) -> None:
    assert isinstance(await attach(run_dir, Attached(PROTOCOL_VERSION, 2), RUNNING, RUNNING), Unresponsive)


@pytest.mark.parametrize("starts", [True, False])
async def test_a_command_that_was_ordered_and_had_not_started(run_dir: RunDir, starts: bool) -> None:
    """The api process that had ordered it died before init had an answer."""
    run_dir.listen("sb_1")
    box = Box(run_dir.descriptor, "sb_1")
    peer = run_dir.accept("sb_1")
    await peer.send(Attached(PROTOCOL_VERSION, 1))
    await peer.send(RUNNING._replace(pid=0))
    (one,) = await box.attach()
    assert (one.running.pid, one.running.over) == (0, False)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.listen)
            if starts:
                await peer.send(Started("r", 8))
                await peer.send(EXITED._replace(key="r"))
                assert (await one.running.wait()).status == 0
                assert one.running.pid == 8
            else:
                await peer.send(Refused("r", "fork", 11, "no"))
                with pytest.raises(Refusal):
                    await one.running.wait()
            box.close()
    peer.close()


@pytest.mark.parametrize("make", [a_file, a_tcp_socket, a_stream, lambda: os.open("/", os.O_RDONLY)])
async def test_outputs_that_are_no_pipes(run_dir: RunDir, make: Callable[[], int]) -> None:
    """Reading a directory, say, is an error: it must not end api, nor happen again at each start."""
    descriptor = make()
    (one,) = await attach(run_dir, Attached(PROTOCOL_VERSION, 1), RUNNING, descriptors=(descriptor,) * 3)
    os.close(descriptor)
    assert one.outputs == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "said",
    [
        (),
        (Attached(PROTOCOL_VERSION + 1, 0),),
        (Started("k", 1),),
        (Attached(PROTOCOL_VERSION, 1),),
        (Attached(PROTOCOL_VERSION, 1), Started("k", 1)),
        (Attached(PROTOCOL_VERSION, 2), RUNNING),
        (Attached(PROTOCOL_VERSION, 2), RUNNING, Started("k", 1)),
        (Attached(PROTOCOL_VERSION, 1 << 62),),
        (Gone("x", 0),),
    ],
    ids=repr,
)
async def test_an_init_that_cannot_be_attached_to(run_dir: RunDir, said: tuple[Any, ...]) -> None:
    reader, writer = os.pipe()
    assert isinstance(await attach(run_dir, *said, descriptors=(reader,)), Unresponsive)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")  # what was taken over by then is let go
    os.close(writer)


async def test_fewer_than_none(run_dir: RunDir) -> None:
    assert await attach(run_dir, Attached(PROTOCOL_VERSION, -5)) == []


async def test_no_socket_there(run_dir: RunDir) -> None:
    with pytest.raises(OSError):
        Box(run_dir.descriptor, "sb_2")


# ---- paused


async def test_it_is_quiet_when_every_question_is_answered(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):
        await box.quiet()
        done: list[str] = []

        async def ask() -> None:
            await box.kill_all("k")
            done.append("answered")

        async def quiet() -> None:
            await box.quiet()
            done.append("quiet")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await peer.expect(KillAll)
            nursery.start_soon(quiet)
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            await peer.send(Killed("k", 1))
        assert sorted(done) == ["answered", "quiet"]


async def test_one_that_does_not_come_to_rest(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(run_dir) as (box, peer), trio.open_nursery() as nursery:
        nursery.start_soon(at_once, lambda: box.kill_all("k"))
        await peer.expect(KillAll)
        monkeypatch.setattr(module, "_PATIENCE", 0.02)
        with pytest.raises(Unresponsive, match="rest"):
            await box.quiet()
        nursery.cancel_scope.cancel()


async def test_nothing_is_asked_of_a_paused_one(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the wait for the resume is not taken for init's silence."""
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    async with connected(run_dir) as (box, peer), trio.open_nursery() as nursery:
        box.time.stop()
        nursery.start_soon(box.kill_all, "k")
        await box.quiet()
        await trio.sleep(0.2)
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
        monkeypatch.setattr(module, "_PATIENCE", 5)
        box.time.go_on()
        await peer.expect(KillAll)
        await peer.send(Killed("k", 1))


async def test_who_waits_for_a_resume_hears_of_the_end(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer), trio.open_nursery() as nursery:
        box.time.stop()

        async def ask() -> None:
            with pytest.raises(Unresponsive, match="gone"):
                await box.kill_all("k")

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        peer.close()


async def test_what_commands_use(run_dir: RunDir) -> None:
    """Rows that init made up are no rows: whatever is left fits a whole number."""
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            assert await peer.expect(Measure) == Measure("q")
            rows = (
                "cmd_a 10 4096",
                "cmd_b -1 5",
                "cmd_c 1",
                "x" * 65 + " 1 1",
                "cmd_d 1 1 1",
                f"cmd_e 1 {10**15}",
            )
            await peer.send(Measured("q", rows))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(init)
            assert await box.measure("q") == {"cmd_a": Use(10, 4096)}


async def test_nothing_is_measured_while_it_stands_still(run_dir: RunDir) -> None:
    """And nobody waits for it to go on, or has it woken."""
    async with connected(run_dir) as (box, _):
        woken: list[None] = []
        box.time.wanted = lambda: woken.append(None)
        box.time.stop()
        assert await box.measure("q") == {}
        assert not woken
