"""What commands have written, on disk: absolute offsets that never shift, both streams in one file.

A command's log is two files. ``KEY.log`` holds the bytes in the order in which they were taken, and the
offset of a byte is its place in that file, for ever: old bytes are freed by punching holes, and only the end
moves. ``KEY.idx`` begins with what is known of the command (the note) and goes on with marks: from which
offset on the bytes are which stream's.

api may be killed between any two system calls, and no byte may be lost or come twice. So bytes go from the
pipe to the file by one splice(2): they are in the one or in the other. A mark is written *before* the bytes
it speaks of; one that no byte followed counts for nothing. And what is to be freed is said in the index
before it is freed."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
from array import array
from bisect import bisect_right
from enum import IntEnum
from typing import NamedTuple

from nsbox.kernel import libc

#: As much as a pipe holds, usually.
CHUNK = 65_536
_BLOCK = 4_096
#: Old bytes are freed so many at a time.
_STEP = 1 << 20
#: What a mark costs in the count of what a log keeps: it takes memory too.
_MARK_COST = 64
#: More marks than this are not kept of a log that keeps its beginning.
_MOST_MARKS = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# Start of the bytes that are kept, place of the first mark that counts, length of the note.
_HEAD = struct.Struct("<QQQ")
_MARK = struct.Struct("<Q")
_MAX_NOTE = 1 << 20


class Stream(IntEnum):
    """Which output of a command."""

    STDOUT = 0
    STDERR = 1


#: Kinds of marks beyond the streams: of this stream (less two) bytes were thrown away.
_CUT = 2
_KIND_BITS = 2


class Damaged(Exception):
    """The files do not hold a log."""


class Piece(NamedTuple):
    """Some bytes of one stream, and where they begin."""

    stream: Stream
    offset: int
    data: bytes


class Log:
    """One command's log, being written. Synchronous; who calls sees to it that only one call of ``take``,
    ``trim`` and ``discard`` happens at a time, in whatever thread. What else is here may be asked meanwhile.

    ``head``: keep so many bytes of each stream, the first ones. None: keep all, until ``trim``.
    """

    def __init__(
        self, path: str, data: int, index: int, head: int | None, note: bytes, marks_at: int
    ) -> None:
        self._path, self._data, self._index, self._head = path, data, index, head
        self.note = note
        self.start = self.end = 0
        self.cut = [False, False]
        self.kept = [0, 0]  # bytes taken in, of each stream
        self._marks = array("Q")
        self._marks_at = marks_at  # where the first of those is in the index
        self.keeps = True

    # ---- made and found

    @classmethod
    def create(cls, path: str, note: bytes, head: int | None = None) -> Log:
        """A new one; ``path`` without suffix. Raises ``OSError``, and leaves nothing then."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        data = os.open(path + ".log", flags, 0o600)
        index = -1
        try:
            index = os.open(path + ".idx", flags, 0o600)
            padding = -(_HEAD.size + len(note)) % _MARK.size
            marks_at = _HEAD.size + len(note) + padding
            whole = _HEAD.pack(0, marks_at, len(note)) + note + bytes(padding)
            if os.write(index, whole) != len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            os.close(data)
            if index >= 0:
                os.close(index)
            remove(path)
            raise
        return cls(path, data, index, head, note, marks_at)

    @classmethod
    def open(cls, path: str) -> Log:
        """One that an earlier process left. Raises ``OSError``, ``Damaged``."""
        data = os.open(path + ".log", os.O_RDWR | os.O_CLOEXEC)
        index = -1
        try:
            index = os.open(path + ".idx", os.O_RDWR | os.O_CLOEXEC)
            return cls._read(path, data, index)
        except BaseException:
            os.close(data)
            if index >= 0:
                os.close(index)
            raise

    @classmethod
    def _read(cls, path: str, data: int, index: int) -> Log:
        head = os.pread(index, _HEAD.size, 0)
        if len(head) < _HEAD.size:
            raise Damaged("the index has no head")
        start, marks_at, size = _HEAD.unpack(head)
        note = os.pread(index, size, _HEAD.size) if size <= _MAX_NOTE else b""
        total = os.fstat(index).st_size
        if len(note) != size or not _HEAD.size + size <= marks_at <= total or marks_at % _MARK.size:
            raise Damaged("the head of the index is not whole")
        log = cls(path, data, index, None, note, marks_at)
        raw = os.pread(index, total - marks_at, marks_at)
        log._marks.frombytes(raw[: len(raw) // _MARK.size * _MARK.size])
        log.start, log.end = start, os.fstat(data).st_size
        if log.end < start:  # killed between saying that bytes are dropped and making it so
            os.ftruncate(data, start)
            log.end = start
        log._count()
        return log

    def _count(self) -> None:
        """What the marks say in sum; and that they are in order."""
        last, of = 0, None
        for mark in self._marks:
            offset, kind = mark >> _KIND_BITS, mark & 3
            if not last <= offset <= self.end:
                raise Damaged("the marks are not in order")
            if of is not None:
                self.kept[of] += offset - last
            last = offset
            if kind >= _CUT:
                self.cut[kind - _CUT] = True
            else:
                of = kind
        if of is not None:
            self.kept[of] += self.end - last

    def keep_head(self, head: int | None) -> None:
        """As ``head`` of a new one."""
        self._head = head

    @property
    def keeps_head(self) -> bool:
        return self._head is not None

    @property
    def size(self) -> int:
        """What it takes, of disk and memory together, about."""
        return self.end - self.start + len(self._marks) * _MARK_COST

    # ---- take

    def take(self, pipe: int, stream: Stream) -> int:
        """Move what is in a pipe here, a chunk at most; how much, 0 at the pipe's end. Raises
        ``BlockingIOError`` when there is nothing now."""
        there = waiting(pipe)
        if not there:
            if not _ended(pipe):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            there = waiting(pipe)
            if not there:
                return 0
        room = min(there, CHUNK, self._room(stream))
        if room <= 0:
            return self._throw_away(pipe, stream)
        try:
            self._mark(stream)
            moved = self._move(pipe, room)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return self._lose(pipe, stream)
        self.end += moved
        self.kept[stream] += moved
        return moved

    def _room(self, stream: Stream) -> int:
        if not self.keeps or (self.cut[stream] and self._head is not None):
            return 0
        if self._head is None:
            return CHUNK
        if len(self._marks) >= _MOST_MARKS:
            return 0
        return self._head - self.kept[stream]

    def _move(self, pipe: int, count: int) -> int:
        try:
            return os.splice(pipe, self._data, count, offset_dst=self.end, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # A file system that cannot splice. Killed between the two calls, api loses this chunk.
        return os.pwrite(self._data, os.read(pipe, count), self.end)

    def _mark(self, kind: int) -> None:
        """From here on the bytes are this stream's, unless they are already."""
        marks = self._marks
        if kind < _CUT:
            last = next((one & 3 for one in reversed(marks[-3:]) if one & 3 < _CUT), None)
            if last == kind:
                return
        mark = self.end << _KIND_BITS | kind
        where = self._marks_at + len(marks) * _MARK.size
        if os.pwrite(self._index, _MARK.pack(mark), where) != _MARK.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        marks.append(mark)

    def _throw_away(self, pipe: int, stream: Stream) -> int:
        if self.keeps and not self.cut[stream]:
            self._cut(stream)
        return len(os.read(pipe, CHUNK))

    def _cut(self, stream: Stream) -> None:
        self.cut[stream] = True
        try:
            self._mark(_CUT + stream)
        except OSError:
            pass  # the disk is full: a later process will not know, this one does

    def _lose(self, pipe: int, stream: Stream) -> int:
        """The disk is full: the command goes on, what it writes is dropped, and that is told."""
        if self._head is not None:
            return self._throw_away(pipe, stream)
        lost = len(os.read(pipe, CHUNK))
        self.end += lost
        try:
            self._forget(self.end)
            os.ftruncate(self._data, 0)
            os.ftruncate(self._data, self.end)
        except OSError:
            self.start = self.end  # known to this process at least
        return lost

    def cut_short(self) -> None:
        """Keep nothing more, and say so."""
        for stream in Stream:
            if not self.cut[stream]:
                self._cut(stream)

    # ---- free

    def trim(self, keep: int) -> None:
        """Free old bytes until about ``keep`` are left of ``size``; not before it is well above that."""
        if self.size < keep + min(_STEP, keep // 4) or not self.size:
            return
        marks, start = self._marks, self.start
        cost = len(marks) * _MARK_COST
        if cost > keep // 2:
            few = max(1, keep // 4 // _MARK_COST)
            start, cost = marks[-few:][0] >> _KIND_BITS, few * _MARK_COST
        start = max(start, self.end - max(keep - cost, 0))
        if keep:
            start = start // _BLOCK * _BLOCK
        if start <= self.start:
            return
        self._forget(start)
        try:
            libc.punch_hole(self._data, 0, start)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._forget(self.end)  # all or nothing, on this file system
            os.ftruncate(self._data, 0)
            os.ftruncate(self._data, self.end)

    def _forget(self, start: int) -> None:
        """Say that the bytes before ``start`` are gone, here and on disk."""
        marks = self._marks
        # The last mark at or before it still counts, and of several at one place the last stream's.
        first = max(0, bisect_right(marks, start << _KIND_BITS | 3) - 1)
        while first > 0 and marks[first] & 3 >= _CUT:
            first -= 1
        at = self._marks_at + first * _MARK.size
        os.pwrite(self._index, _HEAD.pack(start, at, len(self.note)), 0)
        if first:
            self._marks = marks[first:]  # anew: somebody may be reading the old one
            hole = at // _BLOCK * _BLOCK
            begin = -(-(_HEAD.size + len(self.note)) // _BLOCK) * _BLOCK
            if hole > begin:
                try:
                    libc.punch_hole(self._index, begin, hole - begin)
                except OSError:
                    pass  # 8 bytes a mark, and only where holes cannot be punched
        self._marks_at = at
        self.start = start

    def stop_keeping(self) -> None:
        """Nobody wants it: from now on all is thrown away. The files are removed."""
        self.keeps = False
        self.remove()

    def remove(self) -> None:
        """Remove the files. Who reads goes on."""
        remove(self._path)

    def close(self) -> None:
        """No more is written. Idempotent."""
        if self._data >= 0:
            os.close(self._data)
            os.close(self._index)
            self._data = self._index = -1

    @property
    def closed(self) -> bool:
        return self._data < 0

    def empty(self) -> None:
        """After ``close``, and after ``start`` was set to ``end``: free all that it takes on disk."""
        try:
            other = Log.open(self._path)
        except (OSError, Damaged):
            return  # removed meanwhile
        try:
            other.trim(0)
        finally:
            other.close()
        self._marks, self._marks_at = other._marks, other._marks_at

    # ---- read

    def run(self, offset: int, end: int) -> tuple[Stream, int]:
        """Whose the byte at ``offset`` is, and up to where, ``end`` at most, the bytes are that one's."""
        marks = self._marks
        index = bisect_right(marks, offset << _KIND_BITS | 3) - 1
        before = index
        while before > 0 and marks[before] & 3 >= _CUT:
            before -= 1
        stream = Stream(marks[before] & 1)
        for after in range(index + 1, len(marks)):
            if marks[after] & 3 < _CUT and marks[after] & 3 != stream:
                # A mark that no byte followed is overruled by the next at the same place.
                return stream, min(end, marks[after] >> _KIND_BITS)
        return stream, end

    def reader(self) -> Reader:
        """For who follows it. Raises ``OSError``."""
        if self._data >= 0:
            return Reader(self, os.dup(self._data))  # its files may have been removed by now
        return Reader(self, os.open(self._path + ".log", os.O_RDONLY | os.O_CLOEXEC))


class Reader:
    """Reads a log, also while it is written and after it was removed. Close it."""

    def __init__(self, log: Log, descriptor: int) -> None:
        self.log, self._descriptor = log, descriptor

    def read(self, offset: int, end: int, most: int = CHUNK) -> Piece | None:
        """The next bytes of one stream from ``offset`` on, before ``end``. None where they are gone: begin
        again at ``log.start``. ``offset`` is before ``end``, and ``end`` not after ``log.end``."""
        if offset < self.log.start:
            return None
        stream, until = self.log.run(offset, end)
        data = os.pread(self._descriptor, min(most, until - offset), offset)
        # Looked at again: the hole may have been punched meanwhile, and reads as zeros.
        if offset < self.log.start or not data:
            return None
        return Piece(stream, offset, data)

    def some(self, stream: Stream, offset: int, end: int, most: int) -> tuple[bytes, int] | None:
        """The next bytes of this stream from ``offset`` on, ``most`` of them, and where to go on; none at
        ``end``. None where they are gone."""
        found = bytearray()
        while offset < end and len(found) < most:
            if offset < self.log.start:
                return None
            whose, until = self.log.run(offset, end)
            if whose is not stream:
                offset = until
                continue
            piece = self.read(offset, until, most - len(found))
            if piece is None:
                return None
            found += piece.data
            offset += len(piece.data)
        return bytes(found), offset

    def whole(self, end: int) -> tuple[bytes, bytes]:
        """All that is kept, stream by stream."""
        found = bytearray(), bytearray()
        offset = self.log.start
        while offset < end:
            piece = self.read(offset, end, 1 << 20)
            if piece is None:
                if self.log.start <= offset:
                    break
                offset = self.log.start
                continue
            found[piece.stream].extend(piece.data)
            offset += len(piece.data)
        return bytes(found[0]), bytes(found[1])

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def waiting(pipe: int) -> int:
    """How many bytes are in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), "little")


def _ended(pipe: int) -> bool:
    """Every writer has closed. Asked without reading: what is read must have somewhere to go."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


def remove(path: str) -> None:
    """Remove a log and the word on its end. Idempotent."""
    for suffix in (".log", ".idx", ".end"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            pass
