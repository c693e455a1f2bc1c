"""A sandbox at hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nsbox.client.asynchronous import waiting
from nsbox.client.asynchronous.driver import AsyncDriver
from nsbox.client.asynchronous.files import AsyncFiles
from nsbox.client.asynchronous.method import AsyncMade, AsyncMethod, AsyncScope
from nsbox.client.asynchronous.processes import AsyncProcesses
from nsbox.client.asynchronous.streams import AsyncCommandStream
from nsbox.client.call import Request
from nsbox.client.errors import NsboxError
from nsbox.client.following import Following
from nsbox.client.routes import commands, ports, sandboxes
from nsbox.client.types.image import Forks
from nsbox.client.types.sandbox import SandboxInfo

if TYPE_CHECKING:
    from nsbox.client.asynchronous.attached import AsyncAttached

#: How long a cancelled block may wait for the end of its sandbox, in seconds.
_KILL = 60.0


class AsyncPorts(AsyncScope):
    """Ports of a sandbox that can be reached from outside."""

    expose = AsyncMethod(ports.expose)
    list = AsyncMethod(ports.get_all)
    close = AsyncMethod(ports.close)
    link = AsyncMethod(ports.link)


def _forks(source: AsyncSandbox, made: Forks) -> list[AsyncSandbox]:
    return [AsyncSandbox(source._driver, info.id, info) for info in made.sandboxes]


class AsyncSandbox(AsyncScope):
    """A sandbox. With ``async with`` it is killed at the end of the block, whatever ends that."""

    exec = AsyncMethod(commands.run)
    pause = AsyncMethod(sandboxes.pause)
    resume = AsyncMethod(sandboxes.resume)
    kill = AsyncMethod(sandboxes.kill)
    set_timeout = AsyncMethod(sandboxes.set_timeout)
    set_lifecycle = AsyncMethod(sandboxes.set_lifecycle)
    metrics = AsyncMethod(sandboxes.metrics)
    network = AsyncMethod(sandboxes.network)
    set_network = AsyncMethod(sandboxes.set_network)
    network_log = AsyncMethod(sandboxes.network_log)
    snapshot = AsyncMethod(sandboxes.snapshot)
    snapshots = AsyncMethod(sandboxes.snapshots)
    diff = AsyncMethod(sandboxes.diff)
    fork = AsyncMade(sandboxes.fork, _forks)

    def __init__(self, driver: AsyncDriver, sandbox_id: str, info: SandboxInfo | None = None) -> None:
        super().__init__(driver, sandboxes.at(sandbox_id))
        self.id = sandbox_id
        self._info = info
        self.files = AsyncFiles(driver, self._at)
        self.processes = AsyncProcesses(driver, self._at)
        self.ports = AsyncPorts(driver, self._at)

    def __repr__(self) -> str:
        return f"<AsyncSandbox {self.id}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What went wrong in the block is told, and not that the end could not be made after it."""
        try:
            with waiting.to_the_end(_KILL):
                await self.kill()
        except (NsboxError, TimeoutError):
            if error is None:
                raise

    async def info(self) -> SandboxInfo:
        """How it was when nsbox was asked last; asks if it never was."""
        return self._info or await self.refresh()

    async def refresh(self) -> SandboxInfo:
        """How it is now."""
        self._info = await self._driver.do(sandboxes.get(self._at))
        return self._info

    async def terminal(
        self,
        command: commands.Command | None = None,
        *,
        rows: int = 24,
        columns: int = 80,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the daemon keeps it
        idempotency_key: str | None = None,
    ) -> AsyncAttached:
        """Start a command, or a shell, in a terminal, and attach to it. It outlives the connection:
        ``kill`` its ``process``, or have the shell exit."""
        process = await self.processes.start(
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
    ) -> AsyncCommandStream:
        """Run a command, and iterate over its output as it comes: ``async with`` closes it."""
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
        return AsyncCommandStream(self._driver, self._at, following)

    def _log_of(self, process_id: str) -> Request:
        return commands.follow(commands.at(self._at, process_id))
