"""One command from its pipes to its result, and how requests to init are answered in the API's words."""

import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio

from nsbox.host import pipes
from nsbox.host.box import Box, Refusal, RunningCommand, Unresponsive
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import CommandResult, CommandSpec, Outcome
from nsbox.service import refusals
from nsbox.wire.framing import PacketTooLarge
from nsbox.wire.messages import Exec, Exited

_T = TypeVar("_T")

#: How long a killed command may take to be reaped, in seconds. As the sandbox counts them, like the time-out.
_DEATH = 10.0


class Streams(msgspec.Struct):
    """A command's three pipes: our ends, what init gets (the command's ends and read ends to keep), and what
    is to be written to stdin."""

    stdin: int
    stdout: int
    stderr: int
    theirs: tuple[int, ...]
    data: bytes

    @classmethod
    def make(cls, data: bytes) -> "Streams":
        """Raises ``OSError`` when api is out of descriptors; none stays open then."""
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += pipes.make()
            opened += [pipes.reopened(opened[2])]
            opened += [pipes.reopened(opened[4])]
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        in_read, in_write, out_kept, out_write, err_kept, err_write, out, err = opened
        return cls(in_write, out, err, (in_read, out_write, err_write, out_kept, err_kept), data)

    def close_theirs(self) -> None:
        for descriptor in self.theirs:
            os.close(descriptor)

    def close_ours(self) -> None:
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.close(descriptor)


class Job:
    """One command that is waited for, from its pipes to its result."""

    def __init__(self, box: Box, spec: CommandSpec, output_limit: int) -> None:
        self._box, self._spec, self._limit = box, spec, output_limit
        self.done = trio.Event()
        self.result: CommandResult | None = None
        self.problem: Problem | None = None

    async def start(self, order: Exec) -> None:
        """Start it. Raises ``Problem``; nothing is left open then."""
        self._begun = self._box.time.now()
        streams = Streams.make(self._spec.stdin)
        try:
            # The read ends go along: init keeps them, so that the output outlives this process.
            self._running = await started(self._box, order, streams.theirs)
        except BaseException:
            streams.close_ours()
            raise
        finally:
            streams.close_theirs()
        self._streams = streams
        self._stdout = pipes.Collector(streams.stdout, self._limit)
        self._stderr = pipes.Collector(streams.stderr, self._limit)

    async def supervise(self) -> None:
        """See it to its end. Runs in the daemon's nursery: nothing may be raised."""
        try:
            try:
                self.result = await self._collect()
            except Unresponsive:
                self.result = self._outcome(Outcome.SANDBOX_GONE)
            except Problem as problem:
                self.problem = problem
            finally:
                self.done.set()
            await self._drain()
        except Unresponsive:
            pass
        finally:
            self._stdout.close()
            self._stderr.close()

    async def _collect(self) -> CommandResult:
        timed_out = False
        exited: Exited | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stdout.pump)
            nursery.start_soon(self._stderr.pump)
            nursery.start_soon(pipes.feed, self._streams.stdin, self._streams.data)
            try:
                with self._box.time.limit(self._spec.timeout_ms / 1000) as limit:
                    exited = await self._running.wait()
                timed_out = limit.cancelled_caught
                if timed_out:
                    await self._kill()
            except Unresponsive:
                pass
            nursery.cancel_scope.cancel()
        self._stdout.finish()
        self._stderr.finish()
        if timed_out:
            return self._outcome(Outcome.TIMED_OUT)
        return self._outcome(Outcome.SANDBOX_GONE) if exited is None else self._of(exited)

    async def _kill(self) -> None:
        """End the whole tree; a sandbox whose init does not see to it is taken for broken."""
        await self._box.kill(self._running.key)
        try:
            with self._box.time.fail_after(_DEATH):
                await self._running.wait()
        except trio.TooSlowError as error:
            raise Unresponsive("a killed command was not reaped") from error

    def _of(self, exited: Exited) -> CommandResult:
        status = exited.status
        if not (os.WIFEXITED(status & 0xFFFF) or os.WIFSIGNALED(status & 0xFFFF)):
            return self._outcome(Outcome.SANDBOX_GONE)  # no status of an end: init is not itself any more
        code = os.waitstatus_to_exitcode(status & 0xFFFF)
        if code >= 0:
            return self._outcome(Outcome.EXITED, exit_code=code)
        outcome = Outcome.OOM if exited.oom else Outcome.SIGNALED
        return self._outcome(outcome, signal=signal_name(-code))

    def _outcome(
        self, outcome: Outcome, *, exit_code: int | None = None, signal: str | None = None
    ) -> CommandResult:
        return CommandResult(
            outcome=outcome,
            stdout=self._stdout.output(),
            stderr=self._stderr.output(),
            duration_ms=round((self._box.time.now() - self._begun) * 1000),
            exit_code=exit_code,
            signal="KILL" if outcome is Outcome.TIMED_OUT else signal,
        )

    async def _drain(self) -> None:
        """A process that the command left behind may still write: take it in and throw it away, so that it
        is neither stopped by a full pipe nor killed by a closed one."""
        self._stdout.stop_keeping()
        self._stderr.stop_keeping()
        if not (self._stdout.ended and self._stderr.ended) and not self._box.closed:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stdout.pump)
                nursery.start_soon(self._stderr.pump)
        await self._box.forget(self._running.key)


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
