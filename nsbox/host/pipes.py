"""Reading what commands write and writing what they read, within bounds and without waiting in the loop."""

import fcntl
import os
import stat
from collections.abc import Sequence

import trio

from nsbox.model.sandbox import Output

_CHUNK = 65_536
#: After the bound is reached, how long to rest between chunks that are thrown away: a command that writes
#: for ever must not take a processor from everybody else, and may still end by itself.
_REST = 0.002


def make() -> tuple[int, int]:
    """A pipe, both ends close-on-exec. Only our end gets O_NONBLOCK: the other is the command's stream."""
    return os.pipe2(os.O_CLOEXEC)


def reopened(descriptor: int) -> int:
    """The read end of a pipe anew, for us alone, non-blocking.

    init keeps a duplicate of the descriptor that it is sent. O_NONBLOCK is a property of what the two share:
    an init that was taken over could clear it and so have read(2) hold up our loop.
    """
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def reclaimed(descriptors: Sequence[int]) -> list[int]:
    """Read ends of those ``descriptors`` from a sandbox that are pipes of ours; the rest is closed."""
    found = []
    for descriptor in descriptors:
        try:
            told = os.fstat(descriptor)
            if stat.S_ISFIFO(told.st_mode) and told.st_uid == os.getuid():
                found.append(reopened(descriptor))
        except OSError:
            pass  # we are out of descriptors: the output is lost, the command is not
        finally:
            os.close(descriptor)
    return found


class Collector:
    """Keeps the first ``limit`` bytes of a pipe and throws the rest away. Owns the descriptor."""

    def __init__(self, descriptor: int, limit: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._limit = limit
        self._data = bytearray()
        self._truncated = False
        self.ended = False

    async def pump(self) -> None:
        """Read until every writer has closed."""
        while not self.ended:
            try:
                self._take(os.read(self._descriptor, _CHUNK))
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._descriptor)
                continue
            if self._truncated:
                await trio.sleep(_REST)
            else:
                await trio.lowlevel.checkpoint()

    def _take(self, chunk: bytes) -> None:
        if not chunk:
            self.ended = True
            return
        room = self._limit - len(self._data)
        self._data += chunk[:room]
        self._truncated = self._truncated or len(chunk) > room

    def finish(self) -> None:
        """Take what is in the pipe now. The command has exited, so all it wrote is in there; a grandchild
        that goes on writing must not keep us, hence the pipe's own size as the bound."""
        left = fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ)
        while left > 0 and not self.ended:
            try:
                chunk = os.read(self._descriptor, _CHUNK)
            except BlockingIOError:
                return
            left -= len(chunk)
            self._take(chunk)

    def output(self) -> Output:
        return Output(bytes(self._data), self._truncated)

    def stop_keeping(self) -> None:
        """From now on everything is thrown away, and what was kept is freed."""
        self._data = bytearray()
        self._limit = 0
        self._truncated = True

    def close(self) -> None:
        """Let go of the pipe."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Tail:
    """Keeps the last ``limit`` bytes of a pipe. Owns the descriptor."""

    def __init__(self, descriptor: int, limit: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._limit = limit
        self.data = bytearray()

    async def pump(self) -> None:
        """Read until every writer has closed."""
        try:
            while True:
                try:
                    chunk = os.read(self._descriptor, _CHUNK)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._descriptor)
                    continue
                if not chunk:
                    return
                self.data += chunk
                del self.data[: -self._limit]
                await trio.sleep(_REST if len(chunk) == _CHUNK else 0)
        finally:
            os.close(self._descriptor)


async def feed(descriptor: int, data: bytes) -> None:
    """Write ``data`` and close. A command that closes its stdin or ends early is no error."""
    os.set_blocking(descriptor, False)
    view = memoryview(data)
    try:
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(descriptor)
    except BrokenPipeError:
        pass
    finally:
        os.close(descriptor)
