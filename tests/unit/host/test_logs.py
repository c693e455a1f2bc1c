from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbox.host import logs
from nsbox.host.logs import CHUNK, Damaged, Log, Reader, Stream
from nsbox.host.shelf import Shelf, clear, unused
from nsbox.kernel import libc
from tests.fuzz.descriptors import none_leaked


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    with none_leaked():
        yield


class Pipes:
    """stdout and stderr of a command, and its log."""

    def __init__(self, path: Path, head: int | None = None) -> None:
        self.path, self.head = str(path), head
        self.log = Log.create(self.path, b"a note", head)
        self.pipes = [os.pipe2(os.O_NONBLOCK), os.pipe2(os.O_NONBLOCK)]
        self.written: list[tuple[Stream, bytes]] = []

    def write(self, stream: Stream, data: bytes) -> None:
        """And have it taken."""
        self.written.append((stream, data))
        while data:
            data = data[os.write(self.pipes[stream][1], data[:CHUNK]) :]
            while logs.waiting(self.pipes[stream][0]):
                self.log.take(self.pipes[stream][0], stream)

    def restart(self) -> None:
        """The process is killed, and the next one finds the files."""
        self.log.close()
        self.log = Log.open(self.path)
        self.log.keep_head(self.head)

    @property
    def whole(self) -> bytes:
        return b"".join(data for _, data in self.written)

    def of(self, stream: Stream) -> bytes:
        return b"".join(data for one, data in self.written if one is stream)

    def some(self, stream: Stream, most: int) -> bytes:
        """All that is kept of a stream, ``most`` bytes at a time."""
        reader, found, offset, end = self.log.reader(), b"", self.log.start, self.log.end
        try:
            while piece := reader.some(stream, offset, end, most):
                data, offset = piece
                assert len(data) <= most
                if not data:
                    assert offset == end
                    break
                found += data
        finally:
            reader.close()
        return found

    def kept(self) -> tuple[bytes, bytes]:
        reader = self.log.reader()
        try:
            return reader.whole(self.log.end)
        finally:
            reader.close()

    def close(self) -> None:
        self.log.close()
        for pipe in self.pipes:
            for descriptor in pipe:
                os.close(descriptor)


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Pipes]:
    made = Pipes(tmp_path / "cmd")
    yield made
    made.close()


OUT, ERR = Stream.STDOUT, Stream.STDERR


def pieces(log: Log, offset: int = 0) -> list[tuple[Stream, int, bytes]]:
    reader = log.reader()
    found = []
    while offset < log.end:
        piece = reader.read(offset, log.end)
        assert piece is not None
        found.append((piece.stream, piece.offset, piece.data))
        offset += len(piece.data)
    reader.close()
    return found


def test_both_streams_in_the_order_they_came(pipes: Pipes) -> None:
    for stream, data in [(OUT, b"a"), (OUT, b"b"), (ERR, b"!"), (OUT, b"c")]:
        pipes.write(stream, data)
    expected = [(OUT, 0, b"ab"), (ERR, 2, b"!"), (OUT, 3, b"c")]
    assert pieces(pipes.log) == expected
    pipes.restart()
    assert pieces(pipes.log) == expected
    assert pieces(pipes.log, 1) == [(OUT, 1, b"b"), *expected[1:]]
    assert pipes.log.note == b"a note"
    pipes.write(ERR, b"?")
    assert pieces(pipes.log)[-1] == (ERR, 4, b"?")


def test_nothing_there_and_the_end(pipes: Pipes) -> None:
    with pytest.raises(BlockingIOError):
        pipes.log.take(pipes.pipes[OUT][0], OUT)
    os.write(pipes.pipes[OUT][1], b"x")
    os.close(pipes.pipes[OUT][1])
    assert pipes.log.take(pipes.pipes[OUT][0], OUT) == 1
    assert pipes.log.take(pipes.pipes[OUT][0], OUT) == 0
    pipes.pipes[OUT] = os.dup(pipes.pipes[OUT][0]), pipes.pipes[OUT][0]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(Stream), st.binary(min_size=1, max_size=40)),
            st.tuples(st.sampled_from(Stream), st.integers(1, 300_000).map(lambda n: os.urandom(n))),
            st.just("restart"),
            st.integers(0, 200_000),
        ),
        max_size=30,
    )
)
def test_every_byte_at_its_place_or_freed(tmp_path: Path, steps: list[object]) -> None:
    """Whatever is written, in whatever order, however often the process dies and room is made: what is not
    before ``start`` is there, at its offset, as its stream's."""
    pipes = Pipes(tmp_path / "cmd")
    try:
        for step in steps:
            if step == "restart":
                pipes.restart()
            elif isinstance(step, int):
                pipes.log.trim(step)
            elif isinstance(step, tuple):
                pipes.write(*step)
            _check(pipes)
    finally:
        pipes.close()
        logs.remove(pipes.path)


def _check(pipes: Pipes) -> None:
    log, whole = pipes.log, pipes.whole
    assert log.end == len(whole)
    found = pieces(log, log.start)
    assert b"".join(data for _, _, data in found) == whole[log.start :]
    owners = b"".join(bytes([stream]) * len(data) for stream, data in pipes.written)
    assert b"".join(bytes([stream]) * len(data) for stream, _, data in found) == owners[log.start :]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.sampled_from(Stream), st.binary(min_size=1, max_size=30), st.booleans())),
)
def test_the_head_of_each_stream(tmp_path: Path, head: int, steps: list[tuple[Stream, bytes, bool]]) -> None:
    pipes = Pipes(tmp_path / "cmd", head)
    try:
        for stream, data, dies in steps:
            pipes.write(stream, data)
            if dies:
                pipes.restart()
        assert pipes.kept() == (pipes.of(OUT)[:head], pipes.of(ERR)[:head])
        assert pipes.kept() == (pipes.some(OUT, 7), pipes.some(ERR, 1000))
        assert pipes.log.cut == [len(pipes.of(one)) > head for one in Stream]
    finally:
        pipes.close()
        logs.remove(pipes.path)


def test_freed_blocks_are_given_back(pipes: Pipes) -> None:
    for _ in range(64):
        pipes.write(OUT, os.urandom(CHUNK))
    pipes.log.trim(1 << 20)
    os.sync()
    told = os.stat(pipes.path + ".log")
    assert told.st_size == 64 * CHUNK
    assert told.st_blocks * 512 <= (1 << 20) + 2 * 4096
    assert pipes.log.start == 63 * CHUNK - (15 * CHUNK)
    assert pipes.whole[pipes.log.start :] == pipes.kept()[OUT] == pipes.some(OUT, 1000)


def test_marks_are_freed_too(pipes: Pipes) -> None:
    """A command that writes one byte to each stream in turn costs more by its marks than by its bytes."""
    for _ in range(20_000):
        pipes.write(OUT, b"o")
        pipes.write(ERR, b"e")
        pipes.log.trim(256 * 1024)
    assert pipes.log.size < 400 * 1024
    os.sync()
    assert os.stat(pipes.path + ".idx").st_blocks * 512 < 64 * 1024
    pipes.restart()
    _check(pipes)


def test_a_file_system_without_holes(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no holes here")

    monkeypatch.setattr(libc, "punch_hole", refuse)
    for _ in range(40):
        pipes.write(OUT, os.urandom(CHUNK))
    pipes.log.trim(1 << 20)
    assert pipes.log.start == pipes.log.end == 40 * CHUNK
    pipes.write(ERR, b"more")
    pipes.restart()
    _check(pipes)


def test_a_file_system_that_cannot_splice(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, "no splice here")

    monkeypatch.setattr(os, "splice", refuse)
    pipes.write(OUT, b"x" * 100_000)
    pipes.write(ERR, b"y")
    _check(pipes)


@pytest.mark.parametrize("head", [None, 1 << 20])
def test_a_full_disk_costs_output_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: int | None
) -> None:
    pipes = Pipes(tmp_path / "cmd", head)
    pipes.write(OUT, b"before")

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "splice", full)
        pipes.write(OUT, b"during")
    pipes.write(OUT, b"after")
    pipes.restart()
    if head is None:
        assert (pipes.log.start, pipes.log.end, pipes.kept()[OUT]) == (12, 17, b"after")
    else:
        assert (pipes.kept()[OUT], pipes.log.cut) == (b"before", [True, False])
    pipes.close()


def test_killed_between_saying_and_freeing(pipes: Pipes) -> None:
    """The index says that bytes are gone which are still there, or that more are gone than the file has."""
    pipes.write(OUT, b"x" * 10_000)
    pipes.log._forget(4096)
    pipes.restart()
    assert (pipes.log.start, pieces(pipes.log, 4096)) == (4096, [(OUT, 4096, b"x" * 5_904)])
    pipes.log._forget(20_000)
    pipes.restart()
    assert pipes.log.start == pipes.log.end == 20_000


def test_a_mark_that_no_byte_followed(pipes: Pipes) -> None:
    pipes.write(OUT, b"a")
    pipes.log._mark(ERR)
    pipes.restart()
    pipes.write(OUT, b"b")
    assert pieces(pipes.log) == [(OUT, 0, b"a"), (OUT, 1, b"b")]
    pipes.write(ERR, b"c")
    pipes.restart()
    assert pieces(pipes.log)[-1] == (ERR, 2, b"c")


def test_a_hole_punched_while_somebody_reads(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros must not be taken for output."""
    pipes.write(OUT, b"x" * (3 << 20))
    reader = pipes.log.reader()
    real = os.pread

    def slow(descriptor: int, count: int, offset: int) -> bytes:
        monkeypatch.undo()
        pipes.log.trim(4096)
        return real(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", slow)
    assert reader.read(0, pipes.log.end) is None
    reader.close()


def test_readers_outlive_the_files(pipes: Pipes) -> None:
    pipes.write(OUT, b"still here")
    reader: Reader = pipes.log.reader()
    pipes.log.stop_keeping()
    pipes.write(OUT, b"gone")
    assert reader.whole(pipes.log.end) == (b"still here", b"")
    assert not os.path.exists(pipes.path + ".log")
    reader.close()
    reader.close()


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"short",
        logs._HEAD.pack(0, 24, 1 << 60),
        logs._HEAD.pack(0, 1 << 60, 0),
        logs._HEAD.pack(0, 25, 0) + bytes(20),
        logs._HEAD.pack(0, 24, 0) + logs._MARK.pack(99 << 2),
        logs._HEAD.pack(0, 24, 0) + logs._MARK.pack(2 << 2) + logs._MARK.pack(1 << 2),
    ],
)
def test_a_damaged_index(pipes: Pipes, index: bytes) -> None:
    pipes.write(OUT, b"abc")
    Path(pipes.path + ".idx").write_bytes(index)
    with pytest.raises(Damaged):
        Log.open(pipes.path)


def test_one_that_is_there_already_is_not_touched(tmp_path: Path) -> None:
    first = Log.create(str(tmp_path / "x"), b"1")
    with pytest.raises(FileExistsError):
        Log.create(str(tmp_path / "x"), b"2")
    first.close()
    assert Log.open.__name__ == "open"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.idx", "x.log"]


def test_a_shelf(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path), "sb_1")
    assert (shelf.keys(), shelf.end("k")) == ([], None)
    shelf.create("k", b"note", None).close()
    assert (shelf.keys(), shelf.end("k")) == (["k"], None)
    shelf.say_end("k", b"ended")
    log = shelf.open("k")
    assert (log.note, shelf.end("k")) == (b"note", b"ended")
    log.close()
    other = Shelf(str(tmp_path), "sb_2")
    other.create("k", b"", None).close()
    gone = unused(str(tmp_path), {"sb_2"})
    assert gone == [str(tmp_path / "logs" / "sb_1")]
    clear(gone)
    assert (shelf.keys(), other.keys()) == ([], ["k"])
    other.remove("k")
    other.remove("k")
    assert other.keys() == []
    other.clear()
    clear(gone)
    assert unused(str(tmp_path), set()) == unused(str(tmp_path / "nowhere"), set()) == []
