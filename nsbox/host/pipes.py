"""What commands write, moved into their logs; what they read, written. Without waiting in the loop."""

import fcntl
import math
import os
import stat
from collections.abc import Awaitable, Callable, Sequence

import trio

from nsbox.host.closing import close_all
from nsbox.host.logs import Log, Stream, waiting
from nsbox.model.sandbox import Source

_CHUNK = 65_536
#: Up to so many bytes are written at once, without a thread.
_SMALL = 16_384
#: How long to rest between chunks that are thrown away, and after so many in a row that are kept: a command
#: that writes for ever must not take a processor from everybody else, and may still end by itself.
_REST, _IN_A_ROW = 0.002, 16
#: After how many bytes it is looked at whether there is room for more.
_MUCH = 1 << 20


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
            close_all([descriptor])
    return found


def reclaimed_input(descriptors: Sequence[int]) -> int:
    """The write end of a pipe of ours among what a sandbox sent, anew; -1 where there is none, or nobody
    reads it any more. All of ``descriptors`` are closed."""
    found = -1
    for descriptor in descriptors:
        try:
            told = os.fstat(descriptor)
            if found < 0 and stat.S_ISFIFO(told.st_mode) and told.st_uid == os.getuid():
                found = reopened_input(descriptor)
        except OSError:
            pass  # ENXIO: whoever read it has closed it
        finally:
            close_all([descriptor])
    return found


def reopened_input(descriptor: int) -> int:
    """The write end of a pipe anew, as ``reopened``. Raises ``OSError``, ENXIO where nobody reads it."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)


class _Held:
    """A ``Source`` of what is in memory already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def next(self) -> bytes:
        data, self._data = self._data, b""
        return data

    def close(self) -> None:
        self._data = b""


class Input:
    """The stdin of a command that is kept open: written in pieces, by one after the other."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._turn = trio.Lock()

    @property
    def closed(self) -> bool:
        """By us, or by whoever read it."""
        return self._descriptor < 0

    async def write(self, data: bytes | Source, patience: float) -> int:
        """How much of it was taken, within so many seconds: all, or what there was room for."""
        source, taken = _source(data), 0
        try:
            with trio.move_on_after(patience):
                async with self._turn:
                    while not self.closed and (piece := await source.next()):
                        left = memoryview(piece)
                        while left and not self.closed:
                            count = await self._put(left)
                            taken, left = taken + count, left[count:]
        finally:
            source.close()
        return taken

    async def _put(self, data: memoryview) -> int:
        """What there is room for; waits for some where there is none."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            await self._room()
        except BrokenPipeError:
            self.close()
        return 0

    async def _room(self) -> None:
        try:
            await trio.lowlevel.wait_writable(self._descriptor)
        except trio.ClosedResourceError:
            pass

    def close(self) -> None:
        """Idempotent. Who waits for room is woken."""
        if self._descriptor >= 0:
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class Recorder:
    """Moves a command's outputs into its log. Owns the two descriptors.

    ``writing`` is held while the log is changed. ``news`` is called when it has grown; ``over`` when it has
    grown much, without that lock.
    """

    def __init__(
        self,
        log: Log,
        outputs: Sequence[int],
        writing: trio.Lock,
        news: Callable[[], None] = lambda: None,
        over: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.log = log
        self._pipes = dict(zip(Stream, outputs, strict=True))
        for descriptor in outputs:
            os.set_blocking(descriptor, False)
        self._writing, self._news, self._over = writing, news, over
        self._grown = 0
        self._busy = 0

    @property
    def ended(self) -> bool:
        """Nobody is left who could write anything."""
        return not self._pipes

    async def pump(self) -> None:
        """Until every writer has closed."""
        async with trio.open_nursery() as nursery:
            self.begin(nursery)

    def begin(self, nursery: trio.Nursery) -> None:
        """``pump`` in a nursery that is there already."""
        for stream in list(self._pipes):
            nursery.start_soon(self._pump, stream)

    async def _pump(self, stream: Stream) -> None:
        descriptor = self._pipes[stream]
        while True:
            try:
                # Hardly ever held by anybody else; and the usual way would be a turn of the loop each time.
                self._writing.acquire_nowait()
            except trio.WouldBlock:
                await self._writing.acquire()
            try:
                taken = await self._take(descriptor, stream)
            except BlockingIOError:
                taken = -1
            finally:
                self._writing.release()
            if taken < 0:
                self._busy = 0
                await trio.lowlevel.wait_readable(descriptor)
                continue
            if not taken:
                self._end(stream)
                return
            self._news()
            await self._rest(stream, taken)

    async def _take(self, descriptor: int, stream: Stream) -> int:
        # A worker thread costs more than a small write does; a large one may wait for the disk.
        if waiting(descriptor) <= _SMALL:
            return self.log.take(descriptor, stream)
        return await trio.to_thread.run_sync(self.log.take, descriptor, stream, limiter=_writers())

    async def _rest(self, stream: Stream, taken: int) -> None:
        """A command that writes for ever must not take a processor from everybody else."""
        self._grown += taken
        if self._grown >= _MUCH and self._over is not None:
            self._grown = 0
            await self._over()
        self._busy += taken >= _CHUNK // 2
        if taken < _CHUNK // 2:
            await trio.lowlevel.checkpoint()
        elif not self.log.keeps or self.log.cut[stream] or self._busy % _IN_A_ROW == 0:
            await trio.sleep(_REST)
        else:
            await trio.lowlevel.checkpoint()

    def _end(self, stream: Stream) -> None:
        descriptor = self._pipes.pop(stream, None)
        if descriptor is not None:
            os.close(descriptor)

    def finish(self) -> None:
        """Take what is in the pipes now. The command has exited, so all it wrote is in there; a grandchild
        that goes on writing must not keep us, hence the pipe's own size as the bound. While ``pump`` does not
        run."""
        for stream, descriptor in list(self._pipes.items()):
            left = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
            while left > 0:
                try:
                    taken = self.log.take(descriptor, stream)
                except BlockingIOError:
                    break
                left -= taken
                if not taken:
                    self._end(stream)
                    break
        self._news()

    def close(self) -> None:
        """Let go of the pipes. Idempotent."""
        for stream in list(self._pipes):
            self._end(stream)


_limiters: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("writers")


def _writers() -> trio.CapacityLimiter:
    """Threads for logs are few and their own: a slow disk must not hold up what else needs threads."""
    try:
        return _limiters.get()
    except LookupError:
        limiter = trio.CapacityLimiter(8)
        _limiters.set(limiter)
        return limiter


async def feed(descriptor: int, data: bytes | Source) -> None:
    """Write ``data`` and close both. A command that closes its stdin or ends early is no error."""
    os.set_blocking(descriptor, False)
    stdin = Input(descriptor)
    try:
        await stdin.write(data, math.inf)
    finally:
        stdin.close()


def _source(data: bytes | Source) -> Source:
    return _Held(data) if isinstance(data, bytes) else data
