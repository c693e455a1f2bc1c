"""``nsbox shell``: a terminal in a sandbox. It outlives the connection, the daemon's api and this command.

Exit status: the command's own; 128+N when signal N ended it; 0 when detached; 125 nsbox itself failed.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence

import click

from nsbox.cli import remote, status
from nsbox.cli.escape import DETACH, Escape
from nsbox.cli.output import report
from nsbox.client import Attached, Client, Conflict, ConnectionFailed, NsboxError, Output, Process
from nsbox.client.routes.commands import SHELL
from nsbox.model.errors import HostProblem

#: How long to try to come back, in seconds: an api is replaced in a second or two.
_PATIENCE = 60.0
_CHUNK = 4096


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--attach", "key", metavar="PROCESS", help="Come back to a terminal that runs already.")
@click.option("--user", metavar="USER", help="Who to be inside.")
@remote.context_option
@remote.sandbox_argument
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(
    key: str | None, user: str | None, context: str | None, sandbox: str, command: Sequence[str]
) -> None:
    """A terminal in SANDBOX: nsbox shell sb_… [-- COMMAND …]

    NSBOX_URL and NSBOX_API_KEY, or a context, say which daemon. Enter ~. leaves, and what runs goes on: the
    line that is then printed brings you back. Exit status: the command's; 128+N for signal N; 125 nsbox
    itself failed.
    """
    try:
        if not os.isatty(0) or not os.isatty(1):
            raise HostProblem("this is not a terminal", remedy="use nsbox exec for commands in scripts")
        # click takes only a -- before the first argument for what it is.
        wanted = list(command[1:] if command[:1] == ("--",) else command)
        with remote.connected(context, _PATIENCE) as nsbox:
            process = _process(nsbox, sandbox, key, wanted, user)
            with process.attach() as attached:
                code = _Shell(attached).run()
        if code is None:
            again = f"nsbox shell --attach {process.id} {sandbox}"
            click.echo(f"\nnsbox: left; what runs goes on. Come back with: {again}", err=True)
            code = 0
    except HostProblem as problem:
        report(problem)
        code = status.FAILED
    sys.exit(code)


def _process(nsbox: Client, sandbox: str, key: str | None, command: list[str], user: str | None) -> Process:
    processes = nsbox.sandbox(sandbox).processes
    if key is not None:
        return processes.get(key)
    columns, rows = shutil.get_terminal_size()
    return processes.start(
        command or SHELL,
        terminal=(rows, columns),
        env={"TERM": os.environ.get("TERM", "xterm-256color")},
        user=user,
    )


class _Shell:
    """This terminal, and one in a sandbox. What comes is shown by a thread; this one types."""

    def __init__(self, attached: Attached) -> None:
        self._attached = attached
        self._escape = Escape()
        self._resized, self._over = True, False
        self._failure: NsboxError | None = None

    def run(self) -> int | None:
        """Until the command ends: the exit status; or the user leaves: None. Raises ``NsboxError``."""
        with _raw(), _woken() as woken:
            before = signal.signal(signal.SIGWINCH, self._note_size)
            threading.Thread(target=self._show, daemon=True).start()
            try:
                left = self._type(woken)
            finally:
                signal.signal(signal.SIGWINCH, before)
        if left:
            return None
        if self._failure is not None:
            raise self._failure
        ended = self._attached.process.info
        return status.of(ended.exit_code, ended.signal, ended.outcome)

    def _note_size(self, number: int, frame: object) -> None:
        self._resized = True

    def _show(self) -> None:
        try:
            for event in self._attached:
                if isinstance(event, Output):
                    _write(event.data)
        except NsboxError as error:
            self._failure = error
        except OSError:
            pass  # this terminal is gone, as who reads from it will see
        finally:
            self._over = True
            signal.raise_signal(signal.SIGWINCH)  # wakes the one that waits for keys

    def _type(self, woken: int) -> bool:
        """Pass on what the user types, until that is to leave (true) or nobody is there any more."""
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        poll.register(0, select.POLLIN)
        while not self._over:
            # Whether it comes back, or has ended, is seen by who reads. What was being typed is lost.
            with contextlib.suppress(ConnectionFailed, Conflict):
                if self._resized:
                    self._resized = False
                    columns, rows = os.get_terminal_size(1)
                    self._attached.resize(max(rows, 1), max(columns, 1))
                ready = dict(poll.poll())
                if woken in ready:
                    os.read(woken, _CHUNK)
                if 0 in ready:
                    data = os.read(0, _CHUNK)
                    found = self._escape.take(data)
                    if not data or found is DETACH:  # without data this terminal is gone
                        return True
                    assert isinstance(found, bytes)
                    self._attached.write(found)
        return False


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Every key goes to the sandbox, those that make signals too. Whatever happens, the terminal is given
    back as it was."""
    before = termios.tcgetattr(0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _woken() -> Iterator[int]:
    """A descriptor that is readable when a signal came: poll(2) is begun again after one."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
