# Made from asynchronous/sandbox.py by scripts/blocking_client.py: change that one, and run it.
"""A sandbox at hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nsbox.client.blocking import waiting
from nsbox.client.blocking.driver import Driver
from nsbox.client.blocking.files import Files
from nsbox.client.blocking.method import Made, Method, Scope
from nsbox.client.blocking.processes import Processes
from nsbox.client.blocking.streams import CommandStream
from nsbox.client.call import Request
from nsbox.client.errors import NsboxError
from nsbox.client.following import Following
from nsbox.client.routes import commands, ports, sandboxes
from nsbox.client.types.image import Forks
from nsbox.client.types.sandbox import SandboxInfo

if TYPE_CHECKING:
    from nsbox.client.blocking.attached import Attached

#: How long a cancelled block may wait for the end of its sandbox, in seconds.
_KILL = 60.0


class Ports(Scope):
    """Ports of a sandbox that can be reached from outside."""

    expose = Method(ports.expose)
    list = Method(ports.get_all)
    close = Method(ports.close)
    link = Method(ports.link)


def _forks(source: Sandbox, made: Forks) -> list[Sandbox]:
    return [Sandbox(source._driver, info.id, info) for info in made.sandboxes]


class Sandbox(Scope):
    """A sandbox. With ``with`` it is killed at the end of the block, whatever ends that."""

    exec = Method(commands.run)
    pause = Method(sandboxes.pause)
    resume = Method(sandboxes.resume)
    kill = Method(sandboxes.kill)
    set_timeout = Method(sandboxes.set_timeout)
    set_lifecycle = Method(sandboxes.set_lifecycle)
    metrics = Method(sandboxes.metrics)
    network = Method(sandboxes.network)
    set_network = Method(sandboxes.set_network)
    network_log = Method(sandboxes.network_log)
    snapshot = Method(sandboxes.snapshot)
    snapshots = Method(sandboxes.snapshots)
    diff = Method(sandboxes.diff)
    fork = Made(sandboxes.fork, _forks)

    def __init__(self, driver: Driver, sandbox_id: str, info: SandboxInfo | None = None) -> None:
        super().__init__(driver, sandboxes.at(sandbox_id))
        self.id = sandbox_id
        self._info = info
        self.files = Files(driver, self._at)
        self.processes = Processes(driver, self._at)
        self.ports = Ports(driver, self._at)

    def __repr__(self) -> str:
        return f"<Sandbox {self.id}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What went wrong in the block is told, and not that the end could not be made after it."""
        try:
            with waiting.to_the_end(_KILL):
                self.kill()
        except (NsboxError, TimeoutError):
            if error is None:
                raise

    @property
    def info(self) -> SandboxInfo:
        """How it was when nsbox was asked last; asks if it never was."""
        return self._info or self.refresh()

    def refresh(self) -> SandboxInfo:
        """How it is now."""
        self._info = self._driver.do(sandboxes.get(self._at))
        return self._info

    def terminal(
        self,
        command: commands.Command | None = None,
        *,
        rows: int = 24,
        columns: int = 80,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Attached:
        """Start a command, or a shell, in a terminal, and attach to it. It outlives the connection:
        ``kill`` its ``process``, or have the shell exit."""
        process = self.processes.start(
            commands.SHELL if command is None else command,
            cwd=cwd,
            env=env,
            user=user,
            terminal=(rows, columns),
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return process.attach()

    def stream(
        self,
        command: commands.Command,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> CommandStream:
        """Run a command, and iterate over its output as it comes: ``with`` closes it."""
        request = commands.stream(
            self._at,
            command,
            cwd=cwd,
            env=env,
            user=user,
            stdin=stdin,
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        following = Following(request, self._log_of, self._driver.attempts())
        return CommandStream(self._driver, self._at, following)

    def _log_of(self, process_id: str) -> Request:
        return commands.follow(commands.at(self._at, process_id))
