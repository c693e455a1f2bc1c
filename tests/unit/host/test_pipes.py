from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from nsbox.host import pipes
from nsbox.host.pipes import Collector, Tail, feed
from tests.fuzz.descriptors import none_leaked


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    with none_leaked():
        yield


class Writer:
    """The command's end of a pipe, blocking like the real one, written to without waiting by the test."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def write(self, data: bytes) -> None:
        assert os.write(self.descriptor, data) == len(data)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@pytest.fixture
def pipe() -> Iterator[tuple[int, Writer]]:
    reader, descriptor = pipes.make()
    writer = Writer(descriptor)
    yield reader, writer
    writer.close()


Pipe = tuple[int, Writer]


def test_no_end_of_a_pipe_is_inherited(pipe: Pipe) -> None:
    assert not os.get_inheritable(pipe[0])
    assert not os.get_inheritable(pipe[1].descriptor)
    os.close(pipe[0])


def test_only_our_end_does_not_block(pipe: Pipe) -> None:
    """A command whose stdout is O_NONBLOCK loses output: most programs do not expect EAGAIN."""
    collector = Collector(pipe[0], 10)
    assert not os.get_blocking(pipe[0])
    assert os.get_blocking(pipe[1].descriptor)
    collector.close()


@pytest.mark.parametrize(
    ("size", "limit", "truncated"),
    [(0, 0, False), (1, 0, True), (9, 10, False), (10, 10, False), (11, 10, True)],
)
async def test_up_to_the_limit_and_truncated_beyond(
    pipe: Pipe, size: int, limit: int, truncated: bool
) -> None:
    reader, writer = pipe
    collector = Collector(reader, limit)
    data = bytes(range(size))
    writer.write(data) if size else None
    writer.close()
    await collector.pump()
    assert collector.ended
    assert collector.output().data == data[:limit]
    assert collector.output().truncated is truncated
    collector.close()


async def test_a_large_output_is_kept_up_to_the_limit_and_drained_to_the_end(pipe: Pipe) -> None:
    reader, writer = pipe
    limit = 300_000
    collector = Collector(reader, limit)
    with subprocess.Popen(["head", "-c", "2000000", "/dev/zero"], stdout=writer.descriptor) as child:
        writer.close()
        with trio.fail_after(10):
            await collector.pump()
        assert child.wait() == 0  # it was never stopped by a full pipe
    assert collector.output().data == bytes(limit)
    assert collector.output().truncated
    collector.close()


async def test_finish_takes_all_that_was_written_before_the_exit(pipe: Pipe) -> None:
    """Though another process keeps the pipe open, so that no end comes."""
    reader, writer = pipe
    fcntl.fcntl(writer.descriptor, fcntl.F_SETPIPE_SZ, 1 << 20)
    collector = Collector(reader, 10 << 20)
    data = os.urandom(1 << 20)
    writer.write(data)  # the pipe is full to the brim
    collector.finish()
    assert collector.output().data == data
    assert not collector.ended
    collector.close()


async def test_finish_does_not_follow_a_writer_that_never_stops(pipe: Pipe) -> None:
    reader, writer = pipe
    collector = Collector(reader, 1 << 30)
    with subprocess.Popen(["yes"], stdout=writer.descriptor) as child:
        writer.close()
        await trio.lowlevel.wait_readable(reader)
        collector.finish()
        # Its bound is the pipe's size; one chunk may go beyond.
        assert 0 < len(collector.output().data) <= (1 << 16) * 2
        child.kill()
    collector.close()


async def test_a_writer_that_never_stops_costs_neither_memory_nor_the_loop(pipe: Pipe) -> None:
    reader, writer = pipe
    collector = Collector(reader, 1000)
    with subprocess.Popen(["yes"], stdout=writer.descriptor) as child:
        writer.close()
        turns = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collector.pump)
            with trio.move_on_after(0.2):
                while True:
                    turns += 1
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        child.kill()
    assert turns > 20
    assert len(collector.output().data) == 1000
    collector.close()


async def test_cancelled_while_it_waits_and_closed_twice(pipe: Pipe) -> None:
    collector = Collector(pipe[0], 10)
    with trio.move_on_after(0.01) as scope:
        await collector.pump()
    assert scope.cancelled_caught
    pipe[1].write(b"late")
    collector.finish()
    assert collector.output().data == b"late"
    collector.close()
    collector.close()


async def test_stop_keeping_frees_and_goes_on_draining(pipe: Pipe) -> None:
    reader, writer = pipe
    collector = Collector(reader, 100)
    writer.write(b"kept")
    collector.finish()
    collector.stop_keeping()
    writer.write(b"dropped")
    writer.close()
    await collector.pump()
    assert collector.output().data == b""
    assert collector.ended
    collector.close()


# ---- Tail


async def test_the_last_bytes_are_kept(pipe: Pipe) -> None:
    tail = Tail(pipe[0], 5)
    pipe[1].write(b"0123456789")
    pipe[1].close()
    await tail.pump()
    assert tail.data == b"56789"


async def test_a_tail_of_much_output_stays_small(pipe: Pipe) -> None:
    tail = Tail(pipe[0], 70_000)
    with subprocess.Popen(["sh", "-c", "head -c 1000000 /dev/zero; printf end"], stdout=pipe[1].descriptor):
        pipe[1].close()
        with trio.fail_after(10):
            await tail.pump()
    assert len(tail.data) == 70_000
    assert tail.data.endswith(b"\0end")


async def test_a_cancelled_tail_closes(pipe: Pipe) -> None:
    with trio.move_on_after(0.01):
        await Tail(pipe[0], 5).pump()
    with pytest.raises(BrokenPipeError):
        os.write(pipe[1].descriptor, b"x")


# ---- feed


async def test_feeding_more_than_a_pipe_holds(pipe: Pipe) -> None:
    reader, writer = pipe
    data = os.urandom(300_000)
    collector = Collector(reader, len(data))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed, os.dup(writer.descriptor), data)
        writer.close()
        nursery.start_soon(collector.pump)
    assert collector.output().data == data
    assert not collector.output().truncated
    collector.close()


async def test_nothing_to_feed_is_an_end_at_once(pipe: Pipe) -> None:
    await feed(os.dup(pipe[1].descriptor), b"")
    pipe[1].close()
    assert os.read(pipe[0], 1) == b""
    os.close(pipe[0])


async def test_a_command_that_does_not_read_its_stdin(pipe: Pipe) -> None:
    os.close(pipe[0])
    await feed(os.dup(pipe[1].descriptor), b"x" * 100_000)


async def test_a_command_that_stops_reading_halfway(pipe: Pipe) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed, os.dup(pipe[1].descriptor), b"x" * 1_000_000)
        await trio.testing.wait_all_tasks_blocked()
        os.close(pipe[0])


async def test_a_cancelled_feed_closes(pipe: Pipe) -> None:
    with trio.move_on_after(0.01) as scope:
        await feed(os.dup(pipe[1].descriptor), b"x" * 1_000_000)
    assert scope.cancelled_caught
    pipe[1].close()
    os.set_blocking(pipe[0], False)
    while os.read(pipe[0], 1 << 20):
        pass
    os.close(pipe[0])
