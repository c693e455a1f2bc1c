"""``nsbox exec``: a command in a sandbox, as if it were here.

Its output comes as it is written, also when the connection is lost or the API process is replaced. Exit
status: the command's own; 128+N when signal N ended it; 124 timed out; 125 nsbox itself failed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Sequence

import click

from nsbox.cli import arguments, remote, status
from nsbox.cli.output import report
from nsbox.client import Client, Conflict, Dropped, Exited, NsboxError, Output, ProcessInfo, Sandbox, Started
from nsbox.client.blocking.processes import Process
from nsbox.client.blocking.streams import CommandStream
from nsbox.client.types import CommandEvent
from nsbox.model.errors import HostProblem

_CHUNK = 64 * 1024
#: An api is replaced in a second or two, a daemon within a minute.
_PATIENCE = 60.0
#: As long as the daemon lets a command live.
_A_DAY = 86_400.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-u", "--user", metavar="USER", help="Who to be inside: a name or uid, with :group if need be.")
@click.option("-w", "--cwd", metavar="DIR", help="Where to run it.")
@click.option("-e", "--env", "given", multiple=True, metavar="K=V", help="A variable; repeatable.")
@click.option("--timeout", type=click.FloatRange(min=0.001, max=_A_DAY), metavar="S",
              help="Kill it after so many seconds.  [default: a day]")  # fmt: skip
@remote.options
@remote.sandbox_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    user: str | None,
    cwd: str | None,
    given: Sequence[str],
    timeout: float | None,
    context: str | None,
    as_json: bool,
    sandbox: str,
    command: Sequence[str],
) -> None:
    """Run COMMAND in SANDBOX: nsbox exec sb_… -- python3 -c 'print(2+2)'

    What is piped in is its standard input. Ctrl-C is sent to it; the third time it is left alone. Exit
    status: the command's; 128+N for signal N; 124 timed out; 125 nsbox itself failed.
    """
    wanted = list(command[1:] if command[:1] == ("--",) else command)
    env = arguments.variables(given)
    try:
        with remote.connected(context, _PATIENCE) as nsbox:
            if as_json:
                code = _whole(nsbox, sandbox, wanted, cwd, env, user, timeout)
            else:
                code = _Execution(nsbox.sandbox(sandbox)).run(wanted, cwd, env, user, timeout)
    except HostProblem as problem:
        report(problem)
        code = status.FAILED
    sys.exit(code)


def _whole(
    nsbox: Client,
    sandbox: str,
    command: list[str],
    cwd: str | None,
    env: dict[str, str],
    user: str | None,
    timeout: float | None,
) -> int:
    """The answer of ``POST …/exec`` as it is, but with text for outputs."""
    import msgspec

    given = b""
    if is_given():
        while chunk := os.read(0, _CHUNK):
            given += chunk
    found = nsbox.sandbox(sandbox).exec(
        command, cwd=cwd, env=env, user=user, stdin=given, timeout=timeout or _A_DAY
    )
    told = {
        "stdout": found.stdout,
        "stderr": found.stderr,
        "exitCode": found.exit_code,
        "durationMs": found.duration_ms,
        "timedOut": found.timed_out,
        "signal": found.signal,
        "outcome": found.outcome,
        "truncated": found.truncated,
    }
    remote.echo_json(msgspec.json.encode(told))
    return status.of(found.exit_code, found.signal, found.outcome)


def is_given() -> bool:
    """Whether something is piped or redirected in: not a terminal, a closed stream or a device."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


class _Execution:
    """One command, and what goes to it and comes from it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._process: ProcessInfo | None = None
        self._waiting: list[int] = []
        self._interrupts = 0
        self._failure: NsboxError | None = None

    def run(
        self,
        command: list[str],
        cwd: str | None,
        env: dict[str, str],
        user: str | None,
        timeout: float | None,
    ) -> int:
        """The exit status."""
        with self._forwarding():
            if not is_given():
                stream = self._sandbox.stream(command, cwd=cwd, env=env, user=user, timeout=timeout or _A_DAY)
                return self._follow(stream)
            process = self._sandbox.processes.start(
                command, cwd=cwd, env=env, user=user, stdin_open=True, timeout=timeout or _A_DAY
            )
            threading.Thread(target=self._feed, args=[process], daemon=True).start()
            return self._follow(process.follow())

    def _follow(self, stream: CommandStream) -> int:
        ended: ProcessInfo | None = None
        try:
            with stream:
                for event in stream:
                    self._show(event)
                    if isinstance(event, Exited):
                        ended = event.process
        except BrokenPipeError:
            # Whoever read it has left: what a pipe would tell a program that is here.
            self._signal(signal.SIGPIPE)
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)  # nothing more is flushed to it
            return 128 + signal.SIGPIPE
        assert ended is not None
        if self._failure is not None:
            click.echo(f"nsbox: standard input broke off: {self._failure}", err=True)
        return status.of(ended.exit_code, ended.signal, ended.outcome)

    def _show(self, event: CommandEvent) -> None:
        if isinstance(event, Output):
            _write(1 if event.stream == "stdout" else 2, event.data)
        elif isinstance(event, Started):
            self._process = event.process
            for number in self._waiting:
                self._send(number)
        elif isinstance(event, Dropped):
            lost = event.until - event.offset
            click.echo(f"nsbox: {lost} bytes of output are lost: they came too fast", err=True)

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        """Signals are for the command. Whoever is in a hurry presses Ctrl-C three times and leaves it."""
        before = {number: signal.signal(number, self._take) for number in _FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 2:
                click.echo("nsbox: left; the command may go on", err=True)
                raise SystemExit(128 + number)
        if self._process is None:
            self._waiting.append(number)
        else:
            self._send(number)

    def _send(self, number: int) -> None:
        """By a thread: the main one may be in the middle of a request, and hold its locks."""
        threading.Thread(target=self._signal, args=[number], daemon=True).start()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        # Too late is no error, and whoever presses again learns of any other.
        with contextlib.suppress(NsboxError):
            Process(self._sandbox._driver, self._sandbox._at, self._process).signal(number)

    def _feed(self, process: Process) -> None:
        try:
            while chunk := os.read(0, _CHUNK):
                process.write(chunk)
            process.close_stdin()
        except Conflict:
            pass  # it has ended, or has closed it: as with a pipe
        except NsboxError as error:
            self._failure = error


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
