from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import NoReturn

import pytest

from nsbox.inside import channel
from nsbox.wire.framing import MAX_DESCRIPTORS, MAX_PACKET, PacketTooLarge, WireError
from nsbox.wire.messages import TO_INIT, Exec, Kill, Put, Started
from tests.fuzz.descriptors import none_leaked

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.prepare(ours)
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def test_descriptors_travel_in_order_and_stay_open_here(pair: Pair) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb", buffering=0):
        channel.send(pair[0], Exec("k", ("a",), (), "", ""), [reader, writer])
        received = channel.receive(pair[1], TO_INIT)
        assert received is not None
        message, got = received
        try:
            assert message == Exec("k", ("a",), (), "", "")
            assert not any(os.get_inheritable(one) for one in got)
            os.write(got[1], b"through")
            assert os.read(reader, 10) == b"through"
        finally:
            channel.close_all(got)
        os.fstat(reader)


def test_the_end_is_none(pair: Pair) -> None:
    pair[0].close()
    assert channel.receive(pair[1], TO_INIT) is None


def test_nothing_to_read_is_told_apart_from_the_end(pair: Pair) -> None:
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        channel.receive(pair[1], TO_INIT)


@pytest.mark.parametrize("wrong", [b"", b"garbage", b"\xff" * 100])
def test_what_comes_with_garbage_is_closed(pair: Pair, descriptors: list[int], wrong: bytes) -> None:
    with none_leaked():
        socket.send_fds(pair[0], [wrong], descriptors)
        with pytest.raises(WireError):
            channel.receive(pair[1], TO_INIT)


def test_what_comes_with_a_message_out_of_place_is_closed(pair: Pair, descriptors: list[int]) -> None:
    with none_leaked():
        channel.send(pair[0], Started("k", 1), descriptors)
        with pytest.raises(WireError, match="got Started"):
            channel.receive(pair[1], TO_INIT)


def test_more_descriptors_than_any_message_has(pair: Pair, descriptors: list[int]) -> None:
    with none_leaked():
        channel.send(pair[0], Kill("k"), (descriptors * 20)[: MAX_DESCRIPTORS + 10])
        with pytest.raises(WireError, match="larger"):
            channel.receive(pair[1], TO_INIT)


def test_a_packet_larger_than_the_buffer(pair: Pair) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_PACKET)
    try:
        pair[0].send(b"x" * (MAX_PACKET + 1))
    except OSError:
        pytest.skip("this host's wmem_max is too small for such a packet")
    with pytest.raises(WireError, match="larger"):
        channel.receive(pair[1], TO_INIT)


def test_a_message_that_does_not_fit_is_not_sent_in_part(pair: Pair) -> None:
    with pytest.raises(PacketTooLarge):
        channel.send(pair[0], Put("", 0, b"x" * MAX_PACKET))
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        channel.receive(pair[1], TO_INIT)


def test_a_wrong_message_does_not_spoil_the_next(pair: Pair) -> None:
    pair[0].send(b"garbage")
    channel.send(pair[0], Kill("k"))
    with pytest.raises(WireError):
        channel.receive(pair[1], TO_INIT)
    assert channel.receive(pair[1], TO_INIT) == (Kill("k"), [])


def _wait_and_die(sock: socket.socket) -> NoReturn:
    """A process that waits for an order, as a spawner does, and that takes no processor from its parent."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        channel.receive_alive(sock, TO_INIT)
    finally:
        os._exit(0)


def _is_waiting(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def test_an_order_to_a_process_that_was_killed_while_it_waited_counts_as_unread() -> None:
    """Kill first, send second, with both on one processor, so that the waiter finds the packet and the signal
    together when it is let run. With a plain ``receive`` most rounds fail."""
    before, tried = os.sched_getaffinity(0), 0
    os.sched_setaffinity(0, {min(before)})
    try:
        for _ in range(30):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    _wait_and_die(theirs)
                theirs.close()
                while not _is_waiting(pid):
                    os.sched_yield()
                os.kill(pid, signal.SIGKILL)
                try:
                    channel.send(ours, Kill("key"))
                except BrokenPipeError:  # another process was let run in between, and the waiter after it
                    os.waitpid(pid, 0)
                    continue
                os.waitpid(pid, 0)
                with pytest.raises(ConnectionResetError):
                    ours.recv(1)
                tried += 1
    finally:
        os.sched_setaffinity(0, before)
    assert tried
