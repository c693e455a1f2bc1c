"""One command from its pipes to its end, and how requests to init are answered in the API's words."""

import logging
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec
import trio

from nsbox.host import pipes
from nsbox.host.box import Adopted, Box, Refusal, RunningCommand, Unresponsive
from nsbox.host.closing import close_all
from nsbox.host.logs import CHUNK, Log, Reader, Stream
from nsbox.host.pipes import Input, Recorder
from nsbox.host.shelf import Shelf
from nsbox.model.command import End, Kind, Note
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.sandbox import CommandResult, Outcome, Output, StoredInput
from nsbox.service import clock, refusals
from nsbox.service.stored import Stored
from nsbox.wire.framing import PacketTooLarge
from nsbox.wire.messages import Exec, Exited

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_ENCODER = msgspec.json.Encoder()

#: How long a killed command may take to be reaped, in seconds. As the sandbox counts them, like the time-out.
_DEATH = 10.0


class Streams(msgspec.Struct):
    """A command's three pipes: our ends, what init gets (the command's ends and those to keep), and what is
    to be written to stdin. ``open``: stdin is not closed behind that."""

    stdin: int
    stdout: int
    stderr: int
    theirs: tuple[int, ...]
    data: bytes | StoredInput
    open: bool

    @classmethod
    def make(cls, data: bytes | StoredInput, open_: bool = False) -> "Streams":
        """Raises ``OSError`` when api is out of descriptors; none stays open then."""
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += pipes.make()
            opened += [pipes.reopened(opened[2])]
            opened += [pipes.reopened(opened[4])]
            if open_:
                opened += [pipes.reopened_input(opened[1])]
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        in_read, in_write, out_kept, out_write, err_kept, err_write, out, err, *more = opened
        theirs = in_read, out_write, err_write, out_kept, err_kept
        if more:  # init keeps the write end: the command's stdin outlives this process
            return cls(more[0], out, err, (*theirs, in_write), data, True)
        return cls(in_write, out, err, theirs, data, False)

    def close_theirs(self) -> None:
        for descriptor in self.theirs:
            os.close(descriptor)

    def close_ours(self) -> None:
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.close(descriptor)


class Follows(Protocol):
    """Who reads a log has come up to ``offset``."""

    offset: int


class Job:
    """One command from its pipes to its end. What it writes goes to its log, and outlives this process."""

    def __init__(self, key: str, note: Note, box: Box | None, shelf: Shelf) -> None:
        self.key, self.note, self._inside, self._shelf = key, note, box, shelf
        self.pid = 0
        self.end: End | None = None
        self.problem: Problem | None = None
        #: It has begun, or could not be.
        self.begun = trio.Event()
        #: It has ended, or could not be begun.
        self.ended = trio.Event()
        #: Kept after its end, to be asked for. Else it is gone when nobody waits any more.
        self.kept = note.kind is not Kind.EXEC or note.request is not None
        #: Among the processes that run, as clients see them; those that were waited for are, once adopted.
        self.background = note.kind is not Kind.EXEC
        self.waiting = 0
        self._followers: set[Follows] = set()
        self._read_on = trio.Event()
        self._news = trio.Event()
        self._output: tuple[Output, Output] | None = None
        self._stdin: tuple[int, bytes | StoredInput] | None = None
        #: Its stdin, if that is kept open; and what goes there first.
        self.input: Input | None = None
        self._typed: bytes | StoredInput = b""
        self.log: Log
        #: Held by whoever changes the log.
        self.writing = trio.Lock()

    @property
    def _box(self) -> Box:
        assert self._inside is not None, "nothing is asked of a sandbox whose init is not known"
        return self._inside

    # ---- begun

    async def start(self, order: Exec, stdin: bytes | StoredInput) -> None:
        """Start it. Raises ``Problem``; nothing is left then."""
        try:
            self._since, self._known_since = self._box.time.now(), time.monotonic()
            self.log = self.new_log()
            try:
                await self._start(order, stdin)
            except BaseException:
                self.log.close()
                self.log.remove()
                raise
        except BaseException as error:
            self.problem = error if isinstance(error, Problem) else _not_begun()
            self.ended.set()
            raise
        finally:
            self.begun.set()

    def new_log(self) -> Log:
        """Before the command: whatever runs has its log, also when this process dies in between."""
        try:
            return self._shelf.create(self.key, _ENCODER.encode(self.note), self.note.head)
        except OSError as error:
            raise HostProblem(
                f"there is no room for the log of a command: {error}",
                remedy="free space on the disk of the state folder",
            ) from error

    async def _start(self, order: Exec, stdin: bytes | StoredInput) -> None:
        streams = Streams.make(stdin, self.note.input_open)
        try:
            # The read ends go along: init keeps them, so that the output outlives this process.
            self._running = await started(self._box, order, streams.theirs)
        except BaseException:
            streams.close_ours()
            raise
        finally:
            streams.close_theirs()
        self.pid = self._running.pid
        if not isinstance(stdin, bytes):
            stdin.take()
        if streams.open:
            self.input, self._typed = Input(streams.stdin), streams.data
        else:
            self._stdin = (streams.stdin, streams.data)
        self._outputs = [streams.stdout, streams.stderr]

    def adopt(self, box: Box, log: Log, adopted: Adopted, spent: float, end: End | None) -> None:
        """An earlier process began it. ``spent`` of its time is over; ``end`` is known if it has ended."""
        self._inside = box
        self.log, self._running, self.end = log, adopted.running, end
        log.keep_head(self.note.head)
        self.pid = adopted.running.pid
        self._since, self._known_since = self._box.time.now() - spent, 0.0
        self._outputs = adopted.outputs
        self.input = Input(adopted.input) if adopted.input >= 0 else None
        self.kept = self.background = True
        self.begun.set()
        if end is not None:
            self.ended.set()

    def stand(self, log: Log) -> None:
        """An earlier process began it, and its sandbox is paused: what is on disk is all that is known, and
        it has not ended. ``adopt`` or ``lose`` follows."""
        self.log = log
        self.kept = self.background = True
        self.begun.set()

    @property
    def followed(self) -> bool:
        """Whether somebody follows what it writes."""
        return bool(self._followers)

    @property
    def stands(self) -> bool:
        return self._inside is None and not self.ended.is_set()

    def lose(self) -> None:
        """One that stands will not go on."""
        self.end = End(
            outcome=Outcome.SANDBOX_GONE, pid=0, duration_ms=0, ended_at=clock.wall(), log_end=self.log.end
        )
        self.log.close()
        self.ended.set()
        self._tell()

    def restore(self, log: Log, end: End) -> None:
        """An earlier process saw it end, and nothing of it is left to come."""
        self.log, self.end, self.pid = log, end, end.pid
        log.close()
        self.kept = True
        self.begun.set()
        self.ended.set()

    # ---- until it ends

    async def supervise(self, make_room: Callable[[], Awaitable[None]], keep: int) -> None:
        """See it to its end. Runs in the daemon's nursery: nothing may be raised. ``make_room`` is called
        when its log has grown much, and keeps ``keep`` of it."""
        self._keep = keep
        try:
            await self._supervise(make_room)
        except Unresponsive:
            pass
        except Exception as error:
            # A host that runs short, or a fault of ours, costs this command and not everybody's.
            _log.error("%s cannot be seen to, and is ended", self.key, exc_info=error)
            self._over(_short())
            for end in (self._box.kill, self._box.forget):
                try:
                    await end(self.key)
                except Unresponsive:
                    break

    async def _supervise(self, make_room: Callable[[], Awaitable[None]]) -> None:
        async def over() -> None:
            await make_room()
            await self._hold()

        try:
            recorder = Recorder(self.log, self._outputs, self.writing, self._tell, over)
        except OSError:
            close_all(self._outputs)
            self.log.close()
            raise
        try:
            if self.end is None:
                await self._see_to_its_end(recorder)
            await self._drain(recorder)
        finally:
            recorder.close()
            self._close_input()
            with trio.CancelScope(shield=True):
                async with self.writing:
                    self.log.close()

    async def _see_to_its_end(self, recorder: Recorder) -> None:
        try:
            self.end = await self._the_end(recorder)
            if self.kept:
                self._write_down(self.end)
            elif self.waiting:
                self._output = self._gather()  # now: its log is about to be removed
        except* Refusal as refused:  # of one that was adopted before it had started
            self.problem = refusals.of_command(_first(refused))
        except* Exception:
            self.problem = _short()
            raise
        finally:
            self._over(Problem(Code.SANDBOX_GONE, "nsbox is being stopped"))

    def _over(self, problem: Problem) -> None:
        """It has ended, or nobody knows how: for ``problem``, where there is none yet. Idempotent."""
        if self.end is None and self.problem is None:
            self.problem = problem
        self._close_input()
        self.ended.set()
        self._tell()

    def _close_input(self) -> None:
        if self.input is not None:
            self.input.close()
        if self._stdin is not None:
            descriptor, data = self._stdin
            os.close(descriptor)
            if not isinstance(data, bytes):
                data.close()
            self._stdin = None

    async def _the_end(self, recorder: Recorder) -> End:
        timed_out = False
        exited: Exited | None = None
        limit = math.inf if self.note.timeout_ms is None else self.note.timeout_ms / 1000
        async with trio.open_nursery() as nursery:
            recorder.begin(nursery)
            if self._stdin is not None:
                nursery.start_soon(pipes.feed, *self._stdin)
                self._stdin = None  # closed by that
            if self.input is not None and self._typed:
                nursery.start_soon(self.input.write, self._typed, math.inf)
            try:
                left = limit - (self._box.time.now() - self._since)
                with self._box.time.limit(math.inf if self._running.over else left) as scope:
                    exited = await self._running.wait()
                timed_out = scope.cancelled_caught
                if timed_out:
                    await self._kill(self._box, self._running.wait)
            except Unresponsive:
                exited = None
            nursery.cancel_scope.cancel()
        recorder.finish()
        if timed_out:
            return self._outcome(Outcome.TIMED_OUT, exited)
        return self._outcome(Outcome.SANDBOX_GONE, None) if exited is None else self._of(exited)

    async def _kill(self, box: Box, over: Callable[[], Awaitable[object]]) -> None:
        """End the whole tree; a sandbox whose init does not see to it is taken for broken."""
        await box.kill(self.key)
        try:
            with box.time.fail_after(_DEATH):
                await over()
        except trio.TooSlowError as error:
            raise Unresponsive("a killed command was not reaped") from error

    def _of(self, exited: Exited) -> End:
        status = exited.status
        if not (os.WIFEXITED(status & 0xFFFF) or os.WIFSIGNALED(status & 0xFFFF)):
            return self._outcome(
                Outcome.SANDBOX_GONE, None
            )  # no status of an end: init is not itself any more
        code = os.waitstatus_to_exitcode(status & 0xFFFF)
        if code >= 0:
            return self._outcome(Outcome.EXITED, exited, exit_code=code)
        return self._outcome(self._why_killed(exited, -code), exited, signal=signal_name(-code))

    def _why_killed(self, exited: Exited, number: int) -> Outcome:
        if exited.oom:
            return Outcome.OOM
        # keeper says so before it ends all commands of a sandbox: whoever is killed then was alive.
        if number == signal.SIGKILL and self._box.full_at >= self._known_since:
            return Outcome.STORAGE_FULL
        return Outcome.SIGNALED

    def _outcome(
        self,
        outcome: Outcome,
        exited: Exited | None,
        *,
        exit_code: int | None = None,
        signal: str | None = None,
    ) -> End:
        return End(
            outcome=outcome,
            pid=self._running.pid,
            duration_ms=round((self._box.time.now() - self._since) * 1000),
            ended_at=clock.wall(),
            log_end=self.log.end,
            exit_code=exit_code,
            signal="KILL" if outcome is Outcome.TIMED_OUT else signal,
            cpu_ms=None if exited is None else _bounded(exited.user_us + exited.system_us) // 1000,
            peak_kb=None if exited is None else _bounded(exited.peak_kib),
        )

    def _write_down(self, end: End) -> None:
        """Before anybody is told: whoever asks again, a later process too, gets the same answer."""
        try:
            self._shelf.say_end(self.key, _ENCODER.encode(end))
        except FileNotFoundError:
            pass  # the sandbox is gone, its logs with it
        except OSError as error:
            _log.warning("the end of %s is not written down: %s", self.key, error)

    async def _drain(self, recorder: Recorder) -> None:
        """A process that the command left behind may still write. That is taken in, or thrown away where
        nobody can ask for it any more: it is neither stopped by a full pipe nor killed by a closed one."""
        if not self.kept:
            self.log.stop_keeping()
        if not recorder.ended and not self._box.closed:
            await recorder.pump()
        await self._box.forget(self.key)

    # ---- what others ask

    async def kill(self, box: Box) -> None:
        """End it, and return when it has ended. Raises ``Unresponsive``."""
        await self._kill(box, self.ended.wait)

    async def cut(self) -> None:
        """End it, without waiting: in a sandbox that is paused, when that is resumed."""
        if self._inside is not None and self.begun.is_set() and not self.ended.is_set():
            try:
                await self._inside.kill(self.key)
            except Unresponsive:
                pass  # it is over with that sandbox anyway

    def follow(self, who: Follows) -> None:
        """Until ``unfollow``, have ``news`` set when there is some."""
        self._followers.add(who)

    def unfollow(self, who: Follows) -> None:
        self._followers.discard(who)
        self.read_on()

    def read_on(self) -> None:
        """A follower has come further."""
        self._read_on.set()

    async def _hold(self) -> None:
        """A stream is not written faster than those read it who follow it now; that is what a pipe does. When
        nobody follows, it goes on, and the oldest bytes go.

        Who does not read at all is cut off by the connection, and holds nobody up any more.
        """
        while self.note.kind in (Kind.STREAM, Kind.TERMINAL) and self._followers and not self.ended.is_set():
            if self.log.end - min(one.offset for one in self._followers) <= self._keep // 2:
                return
            self._read_on = trio.Event()
            await self._read_on.wait()

    def _tell(self) -> None:
        if self._followers:
            self._news.set()
            self._news = trio.Event()

    @property
    def news(self) -> trio.Event:
        """Set when there is more in the log, or the end."""
        return self._news

    async def result(self) -> CommandResult:
        """Wait for the end; the whole answer. Raises ``Problem``."""
        self.waiting += 1
        try:
            await self.ended.wait()
            if self.problem is not None:
                raise self.problem
            assert self.end is not None
            stdout, stderr = self._output or self._gather()
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._output = None
        return CommandResult(
            outcome=self.end.outcome,
            stdout=stdout,
            stderr=stderr,
            duration_ms=self.end.duration_ms,
            exit_code=self.end.exit_code,
            signal=self.end.signal,
        )

    def _gather(self) -> tuple[Output, Output]:
        """What it wrote until it ended. Little of it is read at once; of more, where to read it: answers that
        wait for their readers would otherwise be held whole, ten mebibytes of each stream."""
        assert self.end is not None
        log, end = self.log, self.end.log_end
        if end - log.start > CHUNK:
            return self._stored(Stream.STDOUT, end), self._stored(Stream.STDERR, end)
        reader = self.reader()
        try:
            stdout, stderr = reader.whole(end)
        finally:
            reader.close()
        return (
            Output(stdout, self._incomplete(Stream.STDOUT)),
            Output(stderr, self._incomplete(Stream.STDERR)),
        )

    def _stored(self, stream: Stream, end: int) -> Output:
        counted = None if self.kept else self._shelf  # one that is kept is counted anyway
        return Output(b"", self._incomplete(stream), Stored(self.reader(), stream, end, counted))

    def _incomplete(self, stream: Stream) -> bool:
        return self.log.start > 0 or self.log.cut[stream]

    def reader(self) -> Reader:
        """Of its log. Raises ``Problem`` when that is gone."""
        try:
            return self.log.reader()
        except FileNotFoundError as error:
            raise Problem(Code.PROCESS_NOT_FOUND, "the output of this command is no longer kept") from error

    async def trim(self, keep: int) -> None:
        """Have its log take less room: of one that has ended, none."""
        async with self.writing:
            if self.log.closed:
                self.log.start = self.log.end
                await trio.to_thread.run_sync(self.log.empty)
            elif self.log.keeps_head:
                self.log.cut_short()
            else:
                await trio.to_thread.run_sync(self.log.trim, keep)

    def discard(self) -> None:
        """Nobody can ask for it any more."""
        self.kept = False
        self.log.stop_keeping()


def _short() -> Problem:
    return Problem(
        Code.HOST_LACKS,
        "the host ran short of something while the command ran, which was ended",
        remedy="try again; the operator's log tells what",
    )


def _first(refused: BaseExceptionGroup[Refusal]) -> Refusal:
    """The one that there is: nurseries wrap it once each."""
    found = refused.exceptions[0]
    return found if isinstance(found, Refusal) else _first(found)


def _not_begun() -> Problem:
    return Problem(Code.HOST_LACKS, "the command could not be started", remedy="try again")


def _bounded(number: int) -> int:
    """What an init said, as a number that fits anywhere."""
    return min(max(number, 0), 1 << 53)


async def started(box: Box, order: Exec, descriptors: tuple[int, ...]) -> RunningCommand:
    """Have init start a command. Raises ``Problem``.

    Shielded, and bounded by init's patience: a client that leaves now would leave a command behind that
    nobody sees to.
    """
    try:
        with trio.CancelScope(shield=True):
            running = await answered(lambda: box.exec(order, descriptors))
        return running  # noqa: RET504 - mypy: a cancel scope may swallow
    except Refusal as refusal:
        raise refusals.of_command(refusal) from refusal
    except PacketTooLarge as error:
        raise Problem(
            Code.BODY_TOO_LARGE,
            "the command and its environment are too large",
            field="command",
            remedy="write it to a file with PUT /files and run that",
        ) from error


async def answered(ask: Callable[[], Awaitable[_T]]) -> _T:
    try:
        return await ask()
    except Unresponsive as error:
        raise Problem(
            Code.SANDBOX_UNRESPONSIVE,
            f"the sandbox does not answer: {error}",
            remedy="delete it and create a new one",
        ) from error


def signal_name(number: int) -> str:
    """``KILL`` for 9; the number itself for a real-time signal."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)
