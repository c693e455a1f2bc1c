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
import time
import tty
from collections.abc import Iterator, Sequence
from typing import Any

import click

from nsbox.cli import contexts, remote
from nsbox.cli.client import Client
from nsbox.cli.escape import DETACH, Escape
from nsbox.cli.output import report
from nsbox.cli.run import exit_status
from nsbox.cli.status import FAILED
from nsbox.cli.websocket import Lost, Output, Refused, Socket
from nsbox.model.errors import HostProblem

#: How long to try to come back, in seconds: an api is replaced in a second or two.
_PATIENCE = 60.0
_PAUSE = 0.2
#: Less than what the daemon takes before it cuts a client off.
_WINDOW = 128 * 1024
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
    """A terminal in SANDBOX: nsbox shell sbx_… [-- COMMAND …]

    NSBOX_URL and NSBOX_API_KEY, or a context, say which daemon. Enter ~. leaves, and what runs goes on: the
    line that is then printed brings you back. Exit status: the command's; 128+N for signal N; 125 nsbox
    itself failed.
    """
    try:
        chosen = contexts.chosen(os.environ, context)
        url, bearer = chosen.url, chosen.key
        if not os.isatty(0) or not os.isatty(1):
            raise HostProblem(
                "this is not a terminal", remedy="use POST …/exec or `nsbox run` for commands in scripts"
            )
        with Client(url, bearer) as client:
            # click takes only a -- before the first argument for what it is.
            wanted = list(command[1:] if command[:1] == ("--",) else command)
            key = key or _start(client, sandbox, wanted, user)
            status = _Shell(client.url, bearer, sandbox, key).run()
    except HostProblem as problem:
        report(problem)
        status = FAILED
    sys.exit(status)


def _start(client: Client, sandbox: str, command: list[str], user: str | None) -> str:
    columns, rows = shutil.get_terminal_size()
    wish: dict[str, Any] = {
        # The sandbox's own login shell would be in /etc/passwd; what every image has is sh.
        "command": command or "if command -v bash >/dev/null; then exec bash; else exec sh; fi",
        "terminal": {"rows": rows, "columns": columns},
        "env": {"TERM": os.environ.get("TERM", "xterm-256color")},
    }
    if user is not None:
        wish["user"] = user
    answer = client.request("POST", f"/sandboxes/{sandbox}/processes", wish)
    if not answer.ok:
        raise HostProblem(f"no terminal: {answer.explain()}")
    return str(answer.body["id"])


class _Shell:
    """This terminal, and one in a sandbox."""

    def __init__(self, url: str, bearer: str, sandbox: str, key: str) -> None:
        self._url, self._sandbox, self._key = url, sandbox, key
        self._headers = [("Authorization", f"Bearer {bearer}")]
        self._offset = 0
        self._sent = self._taken = 0
        self._escape = Escape()
        self._ended: dict[str, Any] | None = None
        self._resized = True
        self._socket: Socket | None = None

    def run(self) -> int:
        """Until the command ends or the user leaves; the exit status."""
        with _raw(), _woken() as wake:
            signal.signal(signal.SIGWINCH, self._note_size)
            try:
                left = self._until_over(wake)
            finally:
                signal.signal(signal.SIGWINCH, signal.SIG_DFL)
                if self._socket is not None:
                    self._socket.leave()
        if left:
            again = f"nsbox shell --attach {self._key} {self._sandbox}"
            click.echo(f"\nnsbox: left; what runs goes on. Come back with: {again}", err=True)
            return 0
        assert self._ended is not None
        return exit_status(self._ended)

    def _note_size(self, number: int, frame: object) -> None:
        self._resized = True

    def _until_over(self, wake: int) -> bool:
        """Whether the user has left."""
        while True:
            try:
                self._connect()
                return self._serve(wake)
            except Lost:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None

    def _connect(self) -> None:
        """Raises ``HostProblem`` when that is in vain."""
        until = time.monotonic() + _PATIENCE
        path = f"/sandboxes/{self._sandbox}/processes/{self._key}/attach?offset={self._offset}"
        while True:
            try:
                self._socket = Socket(self._url, path, self._headers)
            except (Lost, Refused) as error:
                # An api that is just starting says 503.
                if time.monotonic() > until or (isinstance(error, Refused) and not error.passing):
                    detail = error.detail if isinstance(error, HostProblem) else str(error)
                    raise HostProblem(f"no connection to the terminal: {detail}") from error
                time.sleep(_PAUSE)
                continue
            break
        self._resized = True  # it may have another size than when the connection was lost
        self._sent = self._taken = 0

    def _serve(self, wake: int) -> bool:
        assert self._socket is not None
        sock = self._socket
        self._hear(list(sock.pending()))
        while self._ended is None:
            if self._resized:
                self._resized = False
                columns, rows = os.get_terminal_size(1)
                sock.tell("resize", rows=max(rows, 1), columns=max(columns, 1))
            room = self._sent - self._taken < _WINDOW
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            poll.register(sock.fileno(), select.POLLIN)
            if room:
                poll.register(0, select.POLLIN)
            ready = dict(poll.poll())
            if wake in ready:
                os.read(wake, _CHUNK)
            if 0 in ready and self._type(sock):
                return True
            if sock.fileno() in ready:
                self._hear(list(sock.receive()))
        return False

    def _type(self, sock: Socket) -> bool:
        """Pass on what the user types; whether that was to leave."""
        data = os.read(0, _CHUNK)
        if not data:
            return True  # this terminal is gone
        found = self._escape.take(data)
        if found is DETACH:
            return True
        assert isinstance(found, bytes)
        if found:
            sock.type(found)
            self._sent += len(found)
        return False

    def _hear(self, messages: list[Any]) -> None:
        for one in messages:
            if isinstance(one, Output):
                _write(one.data)
                self._offset = one.offset + len(one.data)
            elif one.kind == "dropped":
                self._offset = one.body["until"]
            elif one.kind == "stdin":
                self._taken = one.body["taken"]
            elif one.kind == "exit":
                self._ended = one.body["process"]


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
