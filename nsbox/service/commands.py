"""Commands: run to their end, or in the background. A client that leaves kills nothing, and the death of this
process neither: the next one adopts what runs, and reads on where the log ends."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
import trio

from nsbox.host import shelf
from nsbox.host.box import Adopted, Box, Refusal
from nsbox.host.logs import Damaged, Log
from nsbox.host.shelf import Shelf
from nsbox.model.command import KEY, End, Kind, Note, Request
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.lifecycle import Action, State, after
from nsbox.model.sandbox import (
    CommandResult,
    CommandSpec,
    Encoding,
    Outcome,
    Process,
    Sandbox,
    StoredInput,
    TerminalSize,
    new_command_id,
)
from nsbox.plan import launch
from nsbox.service import clock, refusals
from nsbox.service.following import Follower
from nsbox.service.jobs import Job, answered
from nsbox.service.registry import Registry
from nsbox.service.shelves import Jobs
from nsbox.service.shown import measured, view
from nsbox.service.tally import Tally
from nsbox.service.templates import Templates
from nsbox.settings import Settings
from nsbox.wire.messages import Exec

_log = logging.getLogger(__name__)

_NOTES = msgspec.json.Decoder(Note)
_ENDS = msgspec.json.Decoder(End)


class Commands:
    """Commands of all sandboxes. ``nursery`` is the daemon's."""

    def __init__(
        self,
        registry: Registry,
        templates: Templates,
        settings: Settings,
        nursery: trio.Nursery,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally or Tally()
        self._registry, self._templates = registry, templates
        self._settings, self._nursery = settings, nursery
        self._jobs: dict[str, Jobs] = {}
        self._active: dict[str, int] = {}
        registry.on_end(self._forget_all)

    # ---- begin

    async def run(
        self,
        owner: str,
        sandbox_id: str,
        spec: CommandSpec,
        request: Request | None = None,
        begun: Callable[[str], None] = lambda _: None,
    ) -> CommandResult:
        """Run a command to its end or its time-out; ``begun`` is told its id. Raises ``Problem`` if it could
        not be started."""
        with self._tally.exec_seconds.timed():
            job = await self._begin(owner, sandbox_id, spec, Kind.EXEC, request)
            begun(job.key)  # no checkpoint since it has begun: from here on a client that leaves is noticed
            result = await job.result()
        self._tally.outcomes.add(result.outcome.value)
        live = self._registry.find(sandbox_id)
        if result.outcome is Outcome.OOM and live is not None:
            await self._registry.look_at_memory(live)
        return result

    async def start(
        self,
        owner: str,
        sandbox_id: str,
        spec: CommandSpec,
        request: Request | None = None,
    ) -> Process:
        """Start a command that runs until it ends or is killed."""
        kind = Kind.PROCESS if spec.terminal is None else Kind.TERMINAL
        return view(await self._begin(owner, sandbox_id, spec, kind, request))

    async def stream(
        self, owner: str, sandbox_id: str, spec: CommandSpec, offset: int, request: Request | None = None
    ) -> Following:
        """Start a command whose output somebody follows. It runs to its end or its time-out, whoever
        leaves."""
        job = await self._begin(owner, sandbox_id, spec, Kind.STREAM, request)
        return self._following(job, offset, spec.encoding is Encoding.UTF8)

    async def follow(self, owner: str, sandbox_id: str, key: str, offset: int, *, text: bool) -> Following:
        """Follow what a command writes."""
        return self._following(await self.find(owner, sandbox_id, key), offset, text)

    @staticmethod
    def _following(job: Job, offset: int, text: bool) -> Following:
        if offset > job.log.end:
            raise Problem(
                Code.RANGE_NOT_SATISFIABLE,
                f"the output ends at {job.log.end} so far",
                field="offset",
                end=job.log.end,
            )
        return Following(job, offset, text=text)

    async def begin(self, sandbox: Sandbox) -> None:
        """Start what the template starts in each of its sandboxes. Raises ``Problem`` if it cannot."""
        start = sandbox.base.start if sandbox.base is not None else ()
        if start:
            await self.start(sandbox.owner, sandbox.id, CommandSpec(argv=start, command=list(start)))

    async def _begin(
        self, owner: str, sandbox_id: str, spec: CommandSpec, kind: Kind, request: Request | None
    ) -> Job:
        """A command that has begun, now or by an earlier request with the same key."""
        if request is not None and (earlier := await self._earlier(owner, sandbox_id, request)):
            return earlier
        sandbox, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
        order = self._order(sandbox, spec)
        note = self._note(sandbox, spec, order, kind, request)
        # No checkpoint since the look for an earlier one.
        jobs = self._of(sandbox_id)
        job = Job(order.key, note, box, jobs.shelf)
        with self._counted(sandbox_id):
            jobs.add(job)
            job.waiting += 1  # by the time the caller asks for the result it may have ended
            try:
                with self._tally.start_seconds.timed():
                    await job.start(order, spec.stdin)
                self._tally.commands.add(kind.value)
            except BaseException:
                self._tally.failures.add()
                jobs.drop(job)
                raise
            finally:
                job.waiting -= 1
            self._nursery.start_soon(self._supervise, job, jobs)
        return job

    async def _earlier(self, owner: str, sandbox_id: str, request: Request) -> Job | None:
        await self._registry.record(owner, sandbox_id)
        jobs = self._jobs.get(sandbox_id)
        job = jobs.requested(request) if jobs is not None else None
        if job is not None:
            await job.begun.wait()
            if job.problem is not None:
                raise job.problem
        return job

    def _counted(self, sandbox_id: str) -> _Place:
        """A place among the commands of a sandbox; each costs api five descriptors."""
        if self._active.get(sandbox_id, 0) >= self._settings.max_commands:
            raise Problem(
                Code.TOO_MANY_COMMANDS,
                f"{self._settings.max_commands} commands run in this sandbox already",
                remedy="wait for some to end, or end them with DELETE /processes",
            )
        return _Place(self._active, sandbox_id)

    def _order(self, sandbox: Sandbox, spec: CommandSpec) -> Exec:
        # As it was when the sandbox was made. Records of before there were images have only the name.
        template = sandbox.base or self._templates.get(sandbox.template)
        if not spec.argv and not template.shell:
            raise Problem(
                Code.NO_SHELL,
                f"{template.name} has no /bin/sh that a command in one string could be given to",
                field="command",
                remedy='give the command as a list: ["/program", "argument"]',
            )
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
            tty=spec.terminal.packed if spec.terminal is not None else 0,
        )

    def _note(
        self, sandbox: Sandbox, spec: CommandSpec, order: Exec, kind: Kind, request: Request | None
    ) -> Note:
        return Note(
            kind=kind,
            command=spec.command,
            cwd=order.cwd or "~",
            begun=clock.boottime(),
            started_at=clock.wall(),
            stood=clock.stood(sandbox),
            timeout_ms=spec.timeout_ms,
            head=self._settings.output_limit_bytes if kind is Kind.EXEC else None,
            encoding=spec.encoding,
            request=request,
            input_open=spec.stdin_open or spec.terminal is not None,
        )

    async def _supervise(self, job: Job, jobs: Jobs) -> None:
        with _Place(self._active, jobs.sandbox_id):
            await job.supervise(jobs.make_room, self._settings.log_bytes)
        jobs.ended(job)

    # ---- adopt

    def adopt(self, sandbox_id: str, box: Box, commands: list[Adopted]) -> None:
        """Take over what an earlier api process began, and what it saw end."""
        jobs = self._of(sandbox_id)
        live = self._registry.find(sandbox_id)
        stood = clock.stood(live.record) if live is not None else 0.0
        known = set(jobs.shelf.keys())
        for one in commands:
            known.discard(one.running.key)
            if not KEY.fullmatch(one.running.key) or len(one.outputs) != 2:
                one.close()  # init is not itself any more, or we are out of descriptors
                continue
            try:
                job, log, end = self._found(jobs, box, one, stood)
            except HostProblem as problem:
                _log.warning("the output of %s is lost: %s", one.running.key, problem.detail)
                one.close()
                continue
            spent = clock.boottime() - job.note.begun - (stood - job.note.stood)
            job.adopt(box, log, one, max(spent, 0.0), end)
            jobs.add(job)
            self._nursery.start_soon(self._supervise, job, jobs)
        for key in known:
            self._restore(jobs, key)

    def remember(self) -> None:
        """At the start, of sandboxes that are paused: init answers nobody now, and the logs say what was
        begun and what has ended. The rest is learnt when they are resumed."""
        for live in self._registry.all():
            if live.record.state is State.PAUSED and live.box is None:
                jobs = self._of(live.record.id)
                for key in sorted(jobs.shelf.keys()):
                    self._stand(jobs, key)

    def _stand(self, jobs: Jobs, key: str) -> None:
        if not KEY.fullmatch(key):
            return
        try:
            if jobs.shelf.end(key) is not None:
                self._restore(jobs, key)
                return
            log = jobs.shelf.open(key)
        except (OSError, Damaged):
            return
        try:
            job = Job(key, _NOTES.decode(log.note), None, jobs.shelf)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.close()
            return
        job.stand(log)
        jobs.add(job)

    def _found(self, jobs: Jobs, box: Box, one: Adopted, stood: float) -> tuple[Job, Log, End | None]:
        key = one.running.key
        known = jobs.find(key)
        if known is not None and known.stands:
            return known, known.log, None
        if known is not None:
            jobs.drop(known)
        try:
            log = jobs.shelf.open(key)
            note, told = _NOTES.decode(log.note), jobs.shelf.end(key)
            return Job(key, note, box, jobs.shelf), log, _ENDS.decode(told) if told else None
        except (OSError, Damaged, msgspec.DecodeError, UnicodeDecodeError):
            jobs.shelf.remove(key)
        note = Note(
            kind=Kind.PROCESS,
            command=list(one.argv),
            cwd=one.cwd,
            begun=clock.boottime(),
            started_at=one.started_ns / 1e9,
            stood=stood,
        )
        job = Job(key, note, box, jobs.shelf)
        return job, job.new_log(), None

    def _restore(self, jobs: Jobs, key: str) -> None:
        """What init knows nothing of has ended, or never began."""
        known = jobs.find(key)
        if known is not None:
            if known.stands:
                known.lose()
                jobs.forget(known)
            return
        try:
            told = jobs.shelf.end(key)
            if told is not None:
                log = jobs.shelf.open(key)
                job = Job(key, _NOTES.decode(log.note), None, jobs.shelf)
                job.restore(log, _ENDS.decode(told))
                jobs.add(job)
                jobs.ended(job)
                return
        except (OSError, Damaged, msgspec.DecodeError, UnicodeDecodeError):
            pass
        jobs.shelf.remove(key)

    # ---- those that are there

    def _of(self, sandbox_id: str) -> Jobs:
        found = self._jobs.get(sandbox_id)
        if found is None:
            shelf = Shelf(self._settings.state_dir, sandbox_id)
            found = self._jobs[sandbox_id] = Jobs(sandbox_id, shelf, self._settings)
        return found

    def _forget_all(self, sandbox_id: str) -> None:
        """The sandbox has ended: its logs go with it."""
        jobs = self._jobs.pop(sandbox_id, None)
        if jobs is not None:
            jobs.closed = True
            for job in jobs.known():
                if job.stands:
                    job.lose()
            self._nursery.start_soon(trio.to_thread.run_sync, jobs.shelf.clear)

    async def clear_unused(self) -> None:
        """Once, at the start: remove the logs of sandboxes that are no more. Which those are is settled
        before anybody else has a turn, and could make one."""
        alive = {live.record.id for live in self._registry.all()}
        gone = shelf.unused(self._settings.state_dir, alive)
        await trio.to_thread.run_sync(shelf.clear, gone)

    def busy(self, sandbox_id: str, ignore_processes: bool) -> bool:
        """Whether a command runs, or is being started."""
        jobs = self._jobs.get(sandbox_id)
        return jobs is not None and any(_keeps_busy(job, ignore_processes) for job in jobs.known())

    async def list(self, owner: str, sandbox_id: str, everything: bool = False) -> list[Process]:
        """The background processes that run; or all commands that are known, ended ones too."""
        record = await self._registry.record(owner, sandbox_id)
        if not everything and record.state is not State.PAUSED:
            after(record.state, Action.EXEC)
        jobs = self._jobs.get(sandbox_id)
        found = [job for job in (jobs.all() if jobs else []) if everything or _in_the_list(job)]
        return await measured(self._box(sandbox_id), found)

    async def find(self, owner: str, sandbox_id: str, key: str) -> Job:
        """One that is known by its id. Raises ``Problem``."""
        await self._registry.record(owner, sandbox_id)
        jobs = self._jobs.get(sandbox_id)
        job = jobs.find(key) if jobs is not None else None
        if job is None or not job.begun.is_set() or job.problem is not None:
            raise Problem(
                Code.PROCESS_NOT_FOUND,
                f"there is no command {key[:64]!r} in this sandbox, or it ended long ago",
                remedy="list them with GET /processes?all=true",
            )
        return job

    async def get(self, owner: str, sandbox_id: str, key: str) -> Process:
        """What is known of one."""
        (told,) = await measured(self._box(sandbox_id), [await self.find(owner, sandbox_id, key)])
        return told

    def _box(self, sandbox_id: str) -> Box | None:
        live = self._registry.find(sandbox_id)
        return live.box if live is not None else None

    async def cut(self, sandbox_id: str, key: str) -> None:
        """End a command whose client has left and wanted that. Waits for nothing."""
        jobs = self._jobs.get(sandbox_id)
        job = jobs.find(key) if jobs is not None else None
        if job is not None:
            await job.cut()

    async def wait(self, owner: str, sandbox_id: str, key: str, seconds: float) -> Process:
        """A command once it has ended, or as it is when the time is over."""
        job = await self.find(owner, sandbox_id, key)
        with trio.move_on_after(seconds):
            await job.ended.wait()
        return Following(job, 0).process()

    async def signal(self, owner: str, sandbox_id: str, key: str, number: int) -> Process:
        """Send a signal to a command that runs. Raises ``Problem``."""
        job = await self.find(owner, sandbox_id, key)
        _, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
        try:
            there = not job.ended.is_set() and await answered(
                lambda: box.signal(new_command_id(), key, number)
            )
        except Refusal as refusal:
            raise refusals.never(refusal) from refusal
        if not there:
            raise Problem(Code.PROCESS_ENDED, "it has ended", remedy="ask for it: its exit code is there")
        return view(job)

    async def write_stdin(
        self, owner: str, sandbox_id: str, key: str, data: bytes | StoredInput, patience: float
    ) -> int:
        """Write to a command's stdin; how much of it was taken within ``patience`` seconds. Raises
        ``Problem``; ``STDIN_CLOSED`` tells in ``written`` what was taken before."""
        job = await self.find(owner, sandbox_id, key)
        await self._registry.usable(owner, sandbox_id, Action.EXEC)
        written = 0
        if job.input is not None and not job.ended.is_set():
            written = await job.input.write(data, patience)
        if job.ended.is_set():
            raise Problem(Code.PROCESS_ENDED, "it has ended", written=written)
        if job.input is None or (job.input.closed and written < len(data)):
            raise Problem(
                Code.STDIN_CLOSED,
                "its stdin is closed, or was not kept open",
                remedy='start it with "stdin": "open"',
                written=written,
            )
        return written

    async def close_stdin(self, owner: str, sandbox_id: str, key: str) -> None:
        """Let a command's stdin come to its end. Idempotent. Raises ``Problem``."""
        job = await self.find(owner, sandbox_id, key)
        if job.input is None or job.input.closed:
            return
        _, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
        await answered(lambda: box.close_input(key))
        job.input.close()

    async def resize(self, owner: str, sandbox_id: str, key: str, size: TerminalSize) -> None:
        """Give a command's terminal another size. Raises ``Problem``."""
        job = await self.find(owner, sandbox_id, key)
        if job.note.kind is not Kind.TERMINAL:
            raise Problem(Code.NO_TERMINAL, "it runs on no terminal", remedy='start it with "terminal"')
        if not job.ended.is_set():
            _, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
            await answered(lambda: box.resize(key, size.packed))

    async def end(self, owner: str, sandbox_id: str, key: str) -> Process:
        """End a command with all it started, and forget it; how it ended. Raises ``Problem``."""
        job = await self.find(owner, sandbox_id, key)
        if not job.ended.is_set():
            _, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
            await answered(lambda: job.kill(box))
        told = Following(job, 0).process()
        jobs = self._jobs.get(sandbox_id)
        if jobs is not None:
            jobs.forget(job)
        return told

    async def kill_all(self, owner: str, sandbox_id: str) -> int:
        """End every process of a sandbox, its background processes and commands and all they started."""
        _, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
        try:
            return await answered(lambda: box.kill_all(new_command_id()))
        except Refusal as refusal:
            raise refusals.never(refusal) from refusal


def _keeps_busy(job: Job, ignore_processes: bool) -> bool:
    background = job.note.kind in (Kind.PROCESS, Kind.TERMINAL)
    ignored = ignore_processes and background and not job.followed
    return not job.ended.is_set() and not ignored


def _in_the_list(job: Job) -> bool:
    return job.begun.is_set() and not job.ended.is_set() and job.background


class Following(Follower):
    """A follower, for those who do not know what a job is."""

    def process(self) -> Process:
        """The command as it is now. Raises ``Problem`` for one that, after all, could not be started."""
        if self.job.problem is not None:
            raise self.job.problem
        return view(self.job)


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
