"""What a sandbox sent is closed without waiting for it, wherever it is: by the closers, and by the kernel."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from nsbox.host import box as module
from nsbox.host import closing
from nsbox.host.box import Box
from nsbox.host.endpoint import Closed, Endpoint
from nsbox.wire.framing import encode
from nsbox.wire.messages import FROM_AGENT, AgentReady, Done, Exited
from tests.fuzz.descriptors import none_leaked
from tests.unit.host.inits import RunDir, attached

#: How long the sockets here linger, in seconds, and in how much less they must be closed.
_LINGER, _SOON = 20, 5.0


class Lingering:
    """A TCP connection that nobody reads, with as much under way as it takes. Its end stays with the test."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.ours = socket.create_connection(listener.getsockname())
            self.end, _ = listener.accept()
        self.ours.setblocking(False)
        try:
            while True:
                self.ours.send(bytes(65_536))
        except BlockingIOError:
            pass
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _LINGER))

    def close_ours(self) -> None:
        """Of the test's holders the last: in the test's own process this, too, would wait."""
        with closing.promptly():
            self.ours.close()


@pytest.fixture
def lingering() -> Iterator[Lingering]:
    one = Lingering()
    yield one
    one.end.close()
    one.close_ours()


@contextlib.contextmanager
def soon() -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < _SOON, "something waited for a sandbox"


def give(to: socket.socket, data: bytes, *descriptors: int) -> None:
    to.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


def test_a_socket_that_lingers(lingering: Lingering) -> None:
    with soon():
        closing.close_all([lingering.ours.detach()])


def test_it_does_linger_when_nothing_is_done_about_it() -> None:
    """Or the tests here show nothing."""
    lingering = Lingering()
    lingering.ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
    begun = time.monotonic()
    lingering.ours.close()
    assert time.monotonic() - begun > 0.5
    lingering.end.close()


def in_a_queue(descriptor: int) -> int:
    """A socket in whose queue ``descriptor`` lies, the only one of it."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    give(theirs, b"x", descriptor)
    os.close(descriptor)
    theirs.close()
    return ours.detach()


def test_one_in_the_queue_of_one_in_the_queue_of_one(lingering: Lingering) -> None:
    with soon():
        closing.close_all([in_a_queue(in_a_queue(lingering.ours.detach()))])


def as_done(theirs: socket.socket, descriptor: int) -> None:
    give(theirs, encode(Done(0)), descriptor)


def as_no_message(theirs: socket.socket, descriptor: int) -> None:
    give(theirs, b"garbage", descriptor)


def behind_many(theirs: socket.socket, descriptor: int) -> None:
    give(theirs, encode(Done(0)), *[0] * 252, descriptor)


@pytest.mark.parametrize("said", [as_done, as_no_message, behind_many])
async def test_it_comes_with_a_message(
    lingering: Lingering, said: Callable[[socket.socket, int], None]
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    endpoint = Endpoint(ours, FROM_AGENT)
    with theirs, none_leaked():
        said(theirs, lingering.ours.fileno())
        os.close(lingering.ours.detach())
        with soon(), pytest.raises(Closed):
            await endpoint.receive()
    endpoint.close()


async def test_it_is_never_read(lingering: Lingering) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    endpoint = Endpoint(ours, FROM_AGENT)
    as_done(theirs, lingering.ours.fileno())
    os.close(lingering.ours.detach())
    with soon():
        endpoint.close()
    theirs.close()


async def test_it_comes_for_an_agent(
    lingering: Lingering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket itself, or in the queue of one that would do."""
    monkeypatch.setattr(module, "_PATIENCE", 1)
    run_dir = RunDir(str(tmp_path))
    box, peer = await attached(run_dir)
    sent = in_a_queue(lingering.ours.detach())
    with soon():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.listen)

            async def init() -> None:
                received = await peer.receive()
                assert received is not None
                await peer.send(AgentReady(received[0].key), [sent])
                closing.close_all([sent])  # who is the last to have it is not said

            nursery.start_soon(init)
            (await box.open_agent("k", "")).close()
            box.close()
    peer.close()
    run_dir.close()


def test_a_backlog_that_is_full_is_not_waited_for(tmp_path: Path) -> None:
    """init may have shortened it, and accepts when it pleases: a second api would have stood still here."""
    with none_leaked():
        folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(f"/proc/self/fd/{folder}/sb_1.sock")
        listener.listen(0)
        trio.run(_connected_twice, folder)
        listener.close()
        os.close(folder)


async def _connected_twice(folder: int) -> None:
    made = [Box(folder, "sb_1")]
    with closing.promptly(), contextlib.suppress(BlockingIOError):  # no call waits for long in there
        made.append(Box(folder, "sb_1"))
    for box in made:
        box.close()
    assert len(made) == 1


async def test_thousands_of_packets_with_descriptors_cost_one(tmp_path: Path) -> None:
    """The first that nobody asked for is the last that is read."""
    run_dir = RunDir(str(tmp_path))
    box, peer = await attached(run_dir)
    sent = 0
    with trio.fail_after(_SOON), none_leaked():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.listen)
            try:
                while sent < 5_000:
                    await peer.send_raw(encode(Exited("k", 0, 0, 0, 0, 0)), [0])
                    sent += 1
            except (BrokenPipeError, ConnectionResetError):
                pass
    assert sent < 1_000
    peer.close()
    run_dir.close()
