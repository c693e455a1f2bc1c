"""An init that was taken over says anything, in any order, with anything attached: api must not care.

Asserted for every run: no error but the expected ones reaches a caller, nobody waits for ever, what was sent
along is closed, and nothing is remembered of what was never asked for.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from nsbox.host import box as module
from nsbox.host import dialled
from nsbox.host.agents import Agents
from nsbox.host.box import Box, Refusal, Unresponsive
from nsbox.wire.framing import encode
from nsbox.wire.messages import (
    PROTOCOL_VERSION,
    AgentReady,
    Attached,
    Dialled,
    Exec,
    Exited,
    Killed,
    Read,
    Refused,
    Running,
    Scan,
    Started,
)  # fmt: skip
from tests.fuzz.descriptors import none_leaked
from tests.unit.host.inits import Peer, RunDir, attached
from tests.unit.wire.shapes import KINDS, example

SEEDS = range(40)
#: The kinds of the messages that bring a descriptor, as they begin.
_WITH_ONE = frozenset(encode(one)[:1] for one in (AgentReady(""), Dialled("")))


class Hostile:
    """Answers each request with a volley of packets drawn at random, some of which fit."""

    def __init__(self, peer: Peer, seed: int) -> None:
        self.peer, self.random = peer, random.Random(seed)
        self.attachments = [os.open("/dev/null", os.O_RDONLY), *os.pipe(), os.open("/", os.O_RDONLY)]
        self.attachments += [socket.socket().detach(), socket.socket(socket.AF_INET6).detach()]

    async def run(self) -> None:
        """Until the other side hangs up, or until it is tired of waiting for that."""
        await self.peer.send(Attached(PROTOCOL_VERSION, 0))
        try:
            while received := await self.peer.receive():
                message, descriptors = received
                for descriptor in descriptors:
                    os.close(descriptor)
                key = message[0] if message and isinstance(message[0], str) else ""
                for _ in range(self.random.randrange(6)):
                    packet = self.packet(key)
                    await self.peer.send_raw(packet, self.some_descriptors(packet))
                if self.random.random() < 0.02:
                    break
        except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
            pass
        finally:
            self.close()

    def packet(self, key: str) -> bytes:
        rnd = self.random
        number = rnd.choice([0, 1, -1, 0x7F, 0xFFFF, 1 << 62, -(1 << 63), 1 << 40])
        fitting: list[Any] = [
            Started(key, number), Exited(key, number, number, -1, 0, number), Killed(key, number),
            Refused(key, "user", number, "\ud800" * 9), AgentReady(key), Attached(1, number), Dialled(key),
            Running(key, number, ("a",), "/", number),
        ]  # fmt: skip
        kind = rnd.random()
        if kind < 0.75:
            return encode(rnd.choice(fitting))
        if kind < 0.9:
            return encode(example(rnd.choice(KINDS)))
        data = bytearray(encode(rnd.choice(fitting)))
        data[rnd.randrange(len(data))] = rnd.randrange(256)
        return bytes(data[: rnd.randrange(1, len(data) + 1)])

    def some_descriptors(self, packet: bytes) -> list[int]:
        """Mostly as many as belong to it: the first that does not ends the conversation."""
        fitting = 1 if packet[:1] in _WITH_ONE else 0
        count = fitting if self.random.random() < 0.97 else self.random.choice([0, 1, 2, 5, 9, 253])
        return [self.random.choice(self.attachments) for _ in range(count)]

    def close(self) -> None:
        if self.peer.sock.fileno() >= 0:
            self.peer.close()
        for descriptor in self.attachments:
            os.close(descriptor)
        self.attachments.clear()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.02)


async def ask(box: Box, number: int, rnd: random.Random) -> None:
    """One client's request. Whatever comes of it is an answer or one of three errors."""
    key = f"key{number}"
    try:
        match rnd.randrange(6):
            case 0:
                command = await box.exec(Exec(key, ("a",), (), "", ""), ())
                assert isinstance(command.pid, int)
                with trio.move_on_after(0.01):
                    assert isinstance(await command.wait(), Exited)
            case 1:
                assert isinstance(await box.kill_all(key), int)
            case 2:
                (await box.open_agent(key, "")).close()
            case 3:
                await box.kill(key)
            case 4:
                await box.forget(key)
            case 5:
                dialled.close(await box.dial(key, rnd.choice([4, 6]), rnd.randrange(1, 65_536)))
    except (Unresponsive, Refusal, dialled.NotListening):
        pass


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_it_says(tmp_path: Path, seed: int) -> None:
    run_dir = RunDir(str(tmp_path))
    with none_leaked(), trio.fail_after(10):
        run_dir.listen("sb_1")
        box = Box(run_dir.descriptor, "sb_1")
        hostile = Hostile(run_dir.accept("sb_1"), seed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hostile.run)
            assert await box.attach() == []
            nursery.start_soon(box.listen)
            async with trio.open_nursery() as clients:
                for number in range(20):
                    clients.start_soon(ask, box, number, random.Random(seed * 1000 + number))
            assert not box._answers  # nothing is kept of who no longer waits
            box.close()
        assert len(box._exits) <= 20  # commands that were started and whose end was never told
        run_dir.hush()
    run_dir.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_it_says_at_the_start(tmp_path: Path, seed: int) -> None:
    rnd = random.Random(seed)
    run_dir = RunDir(str(tmp_path))
    with none_leaked(), trio.fail_after(10):
        run_dir.listen("sb_1")
        box = Box(run_dir.descriptor, "sb_1")
        hostile = Hostile(run_dir.accept("sb_1"), seed)
        await hostile.peer.send(Attached(PROTOCOL_VERSION, rnd.choice([0, 1, 3, 2000, 2001, -1, 1 << 62])))
        try:
            for _ in range(rnd.randrange(8)):
                claims = rnd.choice([Running("r", 1, ("a",), "/", 1), Exited("e", 0, 0, 0, 0, 0)])
                data = encode(claims) if rnd.random() < 0.8 else hostile.packet("k")
                await hostile.peer.send_raw(data, hostile.some_descriptors(data))
            adopted = await box.attach()
        except (Unresponsive, BrokenPipeError):
            adopted = []
        for one in adopted:
            for descriptor in one.outputs:
                os.close(descriptor)
        box.close()
        hostile.close()
        run_dir.hush()
    run_dir.close()


async def test_a_flood_costs_no_memory_and_leaves_the_others_their_turn(tmp_path: Path) -> None:
    """20,000 messages that nobody asked for, of which 5,000 are read. Descriptors cannot be among them: the
    first would end it."""
    run_dir = RunDir(str(tmp_path))
    box, peer = await attached(run_dir)
    turns = 0

    async def flood(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        packets = [encode(Exited("x" * 1000, 0, 0, 0, 0, 0)), encode(AgentReady("y" * 1000))]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for number in range(20_000):
                await peer.send_raw(packets[number % 2])
            raise AssertionError("it never ends")

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.sleep(0)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.listen)
            nursery.start_soon(somebody_else)
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            await flood(trio.TASK_STATUS_IGNORED)
            after = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            box.close()
            nursery.cancel_scope.cancel()
    assert after - before < 1_000_000
    assert turns > 1_000
    assert not box._exits
    peer.close()
    run_dir.close()


async def test_clearing_o_nonblock_does_not_stop_the_loop(tmp_path: Path) -> None:
    """An agent's socket came from the sandbox, which may have kept a duplicate and set it to block."""
    run_dir = RunDir(str(tmp_path))
    box, peer = await attached(run_dir)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def init() -> None:
        received = await peer.receive()
        assert received is not None
        await peer.send(AgentReady(received[0].key), [theirs.fileno()])

    with ours, theirs, trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.listen)
            nursery.start_soon(init)
            agents = Agents(box)
            async with agents.use() as agent:
                os.set_blocking(theirs.fileno(), True)  # the same open file description as api's end
                with trio.move_on_after(0.05) as waited:
                    await agent.ask(Read("/f"))
                assert waited.cancelled_caught  # it waited in trio, not in recvmsg
                with trio.move_on_after(0.05) as waited:
                    while True:
                        await agent.endpoint.send(Scan("x" * 10_000, 0, 1))
                assert waited.cancelled_caught
            agents.close()
            box.close()
    peer.close()
    run_dir.close()
