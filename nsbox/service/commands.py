"""Commands: run to their end, or in the background. A client that leaves kills nothing."""

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
from nsbox.service.jobs import Job, Streams, answered, started
from nsbox.service.registry import Registry
from nsbox.service.templates import Templates
from nsbox.settings import Settings
from nsbox.wire.messages import Exec

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
        job = Job(box, spec, self._settings.output_limit_bytes)
        with self._counted(sandbox_id):
            await job.start(self._order(sandbox, spec))
        self._nursery.start_soon(self._supervise, job, sandbox_id)
        await job.done.wait()
        if job.problem is not None:
            raise job.problem
        assert job.result is not None
        live = self._registry.find(sandbox_id)
        if job.result.outcome is Outcome.OOM and live is not None:
            await self._registry.look_at_memory(live)
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
        )

    async def _supervise(self, job: Job, sandbox_id: str) -> None:
        with _Place(self._active, sandbox_id):
            await job.supervise()

    # ---- background

    async def begin(self, sandbox: Sandbox) -> None:
        """Start what the template starts in each of its sandboxes. Raises ``Problem`` if it cannot."""
        start = sandbox.base.start if sandbox.base is not None else ()
        if start:
            await self.start(sandbox.owner, sandbox.id, CommandSpec(argv=start, command=list(start)))

    async def start(self, owner: str, sandbox_id: str, spec: CommandSpec) -> Process:
        """Start a command that runs until it ends or is killed."""
        sandbox, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
        order = self._order(sandbox, spec)
        with self._counted(sandbox_id):
            streams = Streams.make(spec.stdin)
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
            return await answered(lambda: box.kill_all(new_command_id()))
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
