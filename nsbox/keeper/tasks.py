"""Programs that keeper may run for api in the outer namespace, where files can be owned by sandbox ids."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from nsbox.inside import channel, privileges
from nsbox.keeper import layout
from nsbox.kernel import libc, python
from nsbox.wire.messages import Task

#: By name, since api may ask for these and for nothing else.
MODULES = {
    "embed": "nsbox.oci.embed_worker",
    "remove-layer": "nsbox.oci.remove_layer",
    "unpack": "nsbox.oci.unpacking.worker",
    "take": "nsbox.oci.snapshots.take",
    "diff": "nsbox.oci.snapshots.diff",
    "export": "nsbox.oci.snapshots.export",
}
#: Run in the fork itself: a sandbox stands still meanwhile, and starting an interpreter takes 30 ms. What
#: such a module imports is imported after the fork, so that keeper and its inits do not pay for it. Its
#: ``prepare`` does what can be done before anything is known of the task, and gives its ``main``.
_AT_ONCE = frozenset({"take"})


#: For how long there is a spare after the last task, in seconds.
_KEPT = 60.0


class BadTask(Exception):
    """api asked for something that is not a task."""


def start(task: Task, descriptors: list[int], spare: "Spare") -> int:
    """Start ``task`` with the three descriptors as its standard streams; its pid.

    Raises ``BadTask``, ``OSError``.
    """
    if task.name not in MODULES or len(descriptors) != 3 or not layout.LAYER_NAME.fullmatch(task.argument):
        raise BadTask(f"no task {task.name!r} with {task.argument!r}")
    argument = os.path.abspath(f"{layout.LAYERS}/{task.argument}")
    at_once = task.name in _AT_ONCE
    if at_once and (pid := spare.hand(task.name, argument, descriptors)):
        return pid
    pid = libc.clone3()
    if pid == 0:
        _run(MODULES[task.name], argument, descriptors, at_once=at_once)
    return pid


def _run(module: str, argument: str, descriptors: list[int], *, at_once: bool) -> NoReturn:
    status = 127
    try:
        _leave_keeper()
        _take_streams(descriptors)
        libc.close_range(3)
        if at_once:
            privileges.name_process("nsbox-task")
            status = _prepare(module)([argument])
        else:
            os.execv(sys.executable, python.command(module, argument))  # noqa: S606
    except Exception as error:
        print(f"nsbox keeper: {module}: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _leave_keeper() -> None:
    """What a fork of keeper must not share with it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    privileges.die_with_parent(signal.SIGKILL)


def _take_streams(descriptors: list[int]) -> None:
    for wanted, descriptor in enumerate(descriptors):
        os.dup2(descriptor, wanted)


def _prepare(module: str) -> Callable[[list[str]], int]:
    prepared: Callable[[list[str]], int] = import_module(module).prepare()
    return prepared


class Spare:
    """A process that is ready for the next task of a kind that runs at once. It takes up its order some 15 ms
    earlier than a new one. It takes some MiB, so there is none until somebody has asked for such a
    task, nor when nobody has for a while.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._name = ""
        self._sock: socket.socket | None = None
        self._asked = 0.0

    def hand(self, name: str, argument: str, descriptors: list[int]) -> int:
        """Have it do a task; its pid, 0 if there is none. From then on it is a task and no spare."""
        self._name, self._asked = name, time.monotonic()
        if self._sock is None:
            return 0
        try:
            socket.send_fds(self._sock, [argument.encode()], descriptors)
        except OSError:  # it has died
            self.forget()
            return 0
        pid = self.pid
        self.forget()
        return pid

    @property
    def wanted(self) -> bool:
        """Whether ``tend`` is to be called soon."""
        return bool(self._name) and self._sock is None

    def tend(self, quiet: float) -> None:
        """Make one, ``quiet`` seconds after it was last asked for; end it when that is long ago."""
        if not self._name:
            return
        since = time.monotonic() - self._asked
        if since >= _KEPT:
            self._name = ""
            self.forget()  # its socket was its reason to wait
        elif self._sock is None and since >= quiet:
            try:
                self._make(MODULES[self._name])
            except OSError as error:  # the next task is slower; that is all
                print(f"nsbox keeper: no spare task: {error}", file=sys.stderr, flush=True)
                self._name = ""
                self.forget()

    def forget(self) -> None:
        """It is none any more: it has died, works, or ends."""
        if self._sock is not None:
            self._sock.close()
        self._sock, self.pid = None, 0

    def _make(self, module: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock = ours
        with theirs:
            self.pid = libc.clone3()
            if self.pid == 0:
                _wait(module, theirs)


def _wait(module: str, orders: socket.socket) -> NoReturn:
    """In the spare."""
    status = 127
    try:
        _leave_keeper()
        privileges.redirect_standard_streams()
        privileges.close_all_but({0, 1, 2, orders.fileno()})
        privileges.name_process("nsbox-spare")
        main = _prepare(module)
        argument, descriptors, _, _ = socket.recv_fds(orders, 4096, 3)
        if argument:
            privileges.name_process("nsbox-task")
            _take_streams(descriptors)
            channel.close_all([*descriptors, orders.detach()])
            status = main([argument.decode()])
    finally:
        os._exit(status)
