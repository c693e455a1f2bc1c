"""Commands: run to their end, or in the background. A client that leaves kills nothing."""

import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio

from nsbox.host import pipes
from nsbox.host.box import Adopted, Box, Refusal, RunningCommand, Unresponsive
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import Action
from nsbox.model.sandbox import (
    CommandResult,
    CommandSpec,
    Outcome,
    Process,
    Sandbox,
    new_command_id,
)  # fmt: skip
from nsbox.plan import launch
from nsbox.service import clock, refusals
from nsbox.service.registry import Registry
from nsbox.service.templates import Templates
from nsbox.settings import Settings
from nsbox.wire.framing import PacketTooLarge
from nsbox.wire.messages import Exec, Exited

_T = TypeVar("_T")

#: How long a killed command may take to be reaped, in seconds.
_DEATH = 10.0
#: What is kept of a background process's output, a stream, in bytes.
_TAIL = 65_536


class Commands:
    """Commands of all sandboxes. ``nursery`` is the daemon's."""

    def __init__(
        self, registry: Registry, templates: Templates, settings: Settings, nursery: trio.Nursery
    ) -> None:
        self._registry, self._templates = registry, templates
        self._settings, self._nursery = settings, nursery
        self._background: dict[str, dict[str, Process]] = {}
        self._active: dict[str, int] = {}

    async def run(self, owner: str, sandbox_id: str, spec: CommandSpec) -> CommandResult:
        """Run a command to its end or its time-out. Raises ``Problem`` if it could not be started."""
        sandbox, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
        job = _Job(box, spec, self._settings.output_limit_bytes)
        with self._counted(sandbox_id):
            await job.start(self._order(sandbox, spec))
        self._nursery.start_soon(self._supervise, job, sandbox_id)
        await job.done.wait()
        if job.problem is not None:
            raise job.problem
        assert job.result is not None
        return job.result

    def _counted(self, sandbox_id: str) -> "_Place":
        """A place among the commands of a sandbox; each costs api three descriptors."""
        if self._active.get(sandbox_id, 0) >= self._settings.max_commands:
            raise Problem(
                Code.TOO_MANY_COMMANDS,
                f"{self._settings.max_commands} commands run in this sandbox already",
                remedy="wait for some to end, or end them with DELETE /processes",
            )
        return _Place(self._active, sandbox_id)

    def _order(self, sandbox: Sandbox, spec: CommandSpec) -> Exec:
        template = self._templates.get(sandbox.template)
        argv = spec.argv or (*template.shell, str(spec.command))
        # The image's HOME is its own user's; init knows another's.
        base = {name: value for name, value in template.env.items() if not (spec.user and name == "HOME")}
        return Exec(
            key=new_command_id(),
            argv=argv,
            environ=launch.environment(base, sandbox.env, spec.env),
            # The template's folder is its own user's; another starts at home, which init knows.
            cwd=spec.cwd or ("" if spec.user else template.workdir),
            user=spec.user or template.user,
        )

    async def _supervise(self, job: "_Job", sandbox_id: str) -> None:
        with _Place(self._active, sandbox_id):
            await job.supervise()

    # ---- background

    async def start(self, owner: str, sandbox_id: str, spec: CommandSpec) -> Process:
        """Start a command that runs until it ends or is killed."""
        sandbox, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
        order = self._order(sandbox, spec)
        with self._counted(sandbox_id):
            streams = _Streams.make(spec.stdin)
            try:
                # The read ends go along: init keeps them, so that the output outlives this process.
                running = await started(box, order, streams.theirs)
            except BaseException:
                streams.close_ours()
                raise
            finally:
                streams.close_theirs()
        process = Process(
            id=order.key, pid=running.pid, command=spec.command, cwd=order.cwd or "~", started_at=clock.wall()
        )
        self._keep(sandbox_id, box, running, process, [streams.stdout, streams.stderr])
        self._nursery.start_soon(pipes.feed, streams.stdin, streams.data)
        return process

    def adopt(self, sandbox_id: str, box: Box, commands: list[Adopted]) -> None:
        """Take over what an earlier api process started. Whoever waited for it is gone: it is in the
        background now."""
        for one in commands:
            process = Process(
                id=one.running.key,
                pid=one.running.pid,
                command=list(one.argv),
                cwd=one.cwd,
                started_at=one.started_ns / 1e9,
            )
            self._keep(sandbox_id, box, one.running, process, one.outputs)

    def _keep(
        self, sandbox_id: str, box: Box, running: RunningCommand, process: Process, outputs: list[int]
    ) -> None:
        self._background.setdefault(sandbox_id, {})[process.id] = process
        self._nursery.start_soon(self._watch, sandbox_id, box, running, outputs)

    async def _watch(self, sandbox_id: str, box: Box, running: RunningCommand, outputs: list[int]) -> None:
        """Take in a background process's output and its end. Nobody waits: nothing may be raised."""
        with _Place(self._active, sandbox_id):
            try:
                async with trio.open_nursery() as nursery:
                    for descriptor in outputs:
                        nursery.start_soon(pipes.Tail(descriptor, _TAIL).pump)
                    await running.wait()
                    self._ended(sandbox_id, running.key)
                await box.forget(running.key)
            except* Unresponsive:
                pass
            finally:
                self._ended(sandbox_id, running.key)

    def _ended(self, sandbox_id: str, key: str) -> None:
        processes = self._background.get(sandbox_id, {})
        processes.pop(key, None)
        if not processes:
            self._background.pop(sandbox_id, None)

    async def list(self, owner: str, sandbox_id: str) -> list[Process]:
        """The background processes that run."""
        await self._registry.usable(owner, sandbox_id, Action.EXEC)
        return list(self._background.get(sandbox_id, {}).values())

    async def kill_all(self, owner: str, sandbox_id: str) -> int:
        """End every process of a sandbox, its background processes and commands and all they started."""
        _, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
        try:
            return await _answered(lambda: box.kill_all(new_command_id()))
        except Refusal as refusal:
            raise refusals.of_command(refusal) from refusal


class _Place:
    """Counts a command of a sandbox while it lasts."""

    def __init__(self, counts: dict[str, int], sandbox_id: str) -> None:
        self._counts, self._id = counts, sandbox_id

    def __enter__(self) -> None:
        self._counts[self._id] = self._counts.get(self._id, 0) + 1

    def __exit__(self, *_: object) -> None:
        self._counts[self._id] -= 1
        if not self._counts[self._id]:
            del self._counts[self._id]


class _Streams(msgspec.Struct):
    """A command's three pipes: our ends, what init gets (the command's ends and read ends to keep), and what
    is to be written to stdin."""

    stdin: int
    stdout: int
    stderr: int
    theirs: tuple[int, ...]
    data: bytes

    @classmethod
    def make(cls, data: bytes) -> "_Streams":
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


class _Job:
    """One command that is waited for, from its pipes to its result."""

    def __init__(self, box: Box, spec: CommandSpec, output_limit: int) -> None:
        self._box, self._spec, self._limit = box, spec, output_limit
        self.done = trio.Event()
        self.result: CommandResult | None = None
        self.problem: Problem | None = None

    async def start(self, order: Exec) -> None:
        """Start it. Raises ``Problem``; nothing is left open then."""
        self._begun = time.monotonic()
        streams = _Streams.make(self._spec.stdin)
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
                with trio.move_on_after(self._spec.timeout_ms / 1000) as limit:
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
            with trio.fail_after(_DEATH):
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
            duration_ms=round((time.monotonic() - self._begun) * 1000),
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
            running = await _answered(lambda: box.exec(order, descriptors))
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


async def _answered(ask: Callable[[], Awaitable[_T]]) -> _T:
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
