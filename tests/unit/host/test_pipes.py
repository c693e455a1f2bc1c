from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from nsbox.host import pipes
from nsbox.host.logs import Log, Stream
from nsbox.host.pipes import Recorder, feed
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


class Kept:
    """A recorder of one pipe, as stdout, with a log of its own; stderr has ended."""

    def __init__(self, folder: Path, descriptor: int, head: int | None = None) -> None:
        self.log = Log.create(str(folder / "cmd"), b"", head)
        other, writer = pipes.make()
        os.close(writer)
        self.recorder = Recorder(self.log, [descriptor, other], trio.Lock())

    @property
    def data(self) -> bytes:
        reader = self.log.reader()
        data = reader.whole(self.log.end)[0]
        reader.close()
        return data

    def close(self) -> None:
        self.recorder.close()
        self.log.close()


KeptFactory = Callable[..., Kept]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[KeptFactory]:
    made: list[Kept] = []

    def make(descriptor: int, head: int | None = None) -> Kept:
        made.append(Kept(tmp_path, descriptor, head))
        return made[0]

    yield make
    for one in made:
        one.close()


def test_no_end_of_a_pipe_is_inherited(pipe: Pipe) -> None:
    assert not os.get_inheritable(pipe[0])
    assert not os.get_inheritable(pipe[1].descriptor)
    os.close(pipe[0])


def test_only_our_end_does_not_block(pipe: Pipe, kept: KeptFactory) -> None:
    """A command whose stdout is O_NONBLOCK loses output: most programs do not expect EAGAIN."""
    kept(pipe[0])
    assert not os.get_blocking(pipe[0])
    assert os.get_blocking(pipe[1].descriptor)


@pytest.mark.parametrize(
    ("size", "limit", "truncated"),
    [(0, 0, False), (1, 0, True), (9, 10, False), (10, 10, False), (11, 10, True)],
)
async def test_up_to_the_limit_and_truncated_beyond(
    pipe: Pipe, kept: KeptFactory, size: int, limit: int, truncated: bool
) -> None:
    reader, writer = pipe
    one = kept(reader, limit)
    data = bytes(range(size))
    writer.write(data) if size else None
    writer.close()
    await one.recorder.pump()
    assert one.recorder.ended
    assert one.data == data[:limit]
    assert one.log.cut == [truncated, False]


async def test_a_large_output_is_kept_up_to_the_limit_and_drained_to_the_end(
    pipe: Pipe, kept: KeptFactory
) -> None:
    reader, writer = pipe
    limit = 300_000
    one = kept(reader, limit)
    with subprocess.Popen(["head", "-c", "2000000", "/dev/zero"], stdout=writer.descriptor) as child:
        writer.close()
        with trio.fail_after(10):
            await one.recorder.pump()
        assert child.wait() == 0  # it was never stopped by a full pipe
    assert one.data == bytes(limit)
    assert one.log.cut[Stream.STDOUT]


async def test_finish_takes_all_that_was_written_before_the_exit(pipe: Pipe, kept: KeptFactory) -> None:
    """Though another process keeps the pipe open, so that no end comes."""
    reader, writer = pipe
    fcntl.fcntl(writer.descriptor, fcntl.F_SETPIPE_SZ, 1 << 20)
    one = kept(reader)
    data = os.urandom(1 << 20)
    writer.write(data)  # the pipe is full to the brim
    one.recorder.finish()
    assert one.data == data
    assert not one.recorder.ended


async def test_finish_does_not_follow_a_writer_that_never_stops(pipe: Pipe, kept: KeptFactory) -> None:
    reader, writer = pipe
    one = kept(reader)
    with subprocess.Popen(["yes"], stdout=writer.descriptor) as child:
        writer.close()
        await trio.lowlevel.wait_readable(reader)
        one.recorder.finish()
        # Its bound is the pipe's size; one chunk may go beyond.
        assert 0 < len(one.data) <= (1 << 16) * 2
        child.kill()


@pytest.mark.parametrize("head", [1000, None])
async def test_a_writer_that_never_stops_costs_neither_memory_nor_the_loop(
    pipe: Pipe, kept: KeptFactory, head: int | None
) -> None:
    reader, writer = pipe
    one = kept(reader, head)
    with subprocess.Popen(["yes"], stdout=writer.descriptor) as child:
        writer.close()
        turns = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.recorder.pump)
            with trio.move_on_after(0.2):
                while True:
                    turns += 1
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        child.kill()
    assert turns > 20
    assert one.log.end == 1000 if head else one.log.end > 1000


async def test_cancelled_while_it_waits_and_closed_twice(pipe: Pipe, kept: KeptFactory) -> None:
    one = kept(pipe[0])
    with trio.move_on_after(0.01) as scope:
        await one.recorder.pump()
    assert scope.cancelled_caught
    pipe[1].write(b"late")
    one.recorder.finish()
    assert one.data == b"late"
    one.close()
    one.close()


async def test_cancelled_in_the_middle_of_much_nothing_is_lost(pipe: Pipe, kept: KeptFactory) -> None:
    """A thread that moves bytes is waited for: what it has taken is in the log, and counted."""
    reader, writer = pipe
    one = kept(reader)
    script = "import os\nfor n in range(40000): os.write(1, b'%07d\\n' % n)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=writer.descriptor) as child:
        writer.close()
        while not one.recorder.ended:
            with trio.move_on_after(0.003):
                await one.recorder.pump()
        child.wait()
    assert one.data == b"".join(b"%07d\n" % number for number in range(40_000))


async def test_what_nobody_wants_is_drained(pipe: Pipe, kept: KeptFactory, tmp_path: Path) -> None:
    reader, writer = pipe
    one = kept(reader)
    writer.write(b"kept")
    one.recorder.finish()
    one.log.stop_keeping()
    assert not list(tmp_path.iterdir())
    writer.write(b"dropped")
    writer.close()
    await one.recorder.pump()
    assert one.log.end == 4
    assert one.recorder.ended


# ---- feed


async def test_feeding_more_than_a_pipe_holds(pipe: Pipe, kept: KeptFactory) -> None:
    reader, writer = pipe
    data = os.urandom(300_000)
    one = kept(reader)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed, os.dup(writer.descriptor), data)
        writer.close()
        nursery.start_soon(one.recorder.pump)
    assert one.data == data
    assert one.log.cut == [False, False]


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


class Pieces:
    """A ``Source``."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.closed = list(pieces), False

    async def next(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed = True


async def test_pieces_are_fed_one_after_the_other() -> None:
    read, write = os.pipe()
    source, found = Pieces(b"a" * 100_000, b"b" * 100_000), bytearray()

    async def take() -> None:
        while data := await trio.to_thread.run_sync(os.read, read, 65_536):
            found.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await pipes.feed(write, source)
    os.close(read)
    assert found == b"a" * 100_000 + b"b" * 100_000
    assert source.closed


async def test_pieces_that_nobody_reads_any_more_are_let_go() -> None:
    read, write = os.pipe()
    os.close(read)
    source = Pieces(b"a" * 10, b"b")
    await pipes.feed(write, source)
    assert source.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write)


async def test_what_was_taken_of_pieces_is_told() -> None:
    """The rest of a piece that there was no room for is not."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    stdin, source = pipes.Input(write), Pieces(b"a" * 40_000, b"b" * 40_000)
    taken = await stdin.write(source, 1)
    assert 40_000 < taken < 80_000  # a pipe holds pages, and the first piece ends within one
    assert source.closed
    assert os.read(read, 80_000) == (b"a" * 40_000 + b"b" * 40_000)[:taken]
    stdin.close()
    os.close(read)
