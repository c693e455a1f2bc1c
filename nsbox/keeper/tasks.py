"""Programs that keeper may run for api in the outer namespace, where files can be owned by sandbox ids."""

import os
import signal
import sys
from typing import NoReturn

from nsbox.inside import privileges
from nsbox.keeper import layout
from nsbox.kernel import libc, python
from nsbox.wire.messages import Task

#: By name, since api may ask for these and for nothing else.
MODULES = {
    "embed": "nsbox.oci.embed_worker",
    "remove-layer": "nsbox.oci.remove_layer",
    "keep-layer": "nsbox.oci.keep_layer",
    "unpack": "nsbox.oci.unpacking.worker",
}


class BadTask(Exception):
    """api asked for something that is not a task."""


def start(task: Task, descriptors: list[int]) -> int:
    """Start ``task`` with the three descriptors as its standard streams; its pid.

    Raises ``BadTask``, ``OSError``.
    """
    if task.name not in MODULES or len(descriptors) != 3 or not layout.LAYER_NAME.fullmatch(task.argument):
        raise BadTask(f"no task {task.name!r} with {task.argument!r}")
    pid = libc.clone3()
    if pid == 0:
        _run(MODULES[task.name], os.path.abspath(f"{layout.LAYERS}/{task.argument}"), descriptors)
    return pid


def _run(module: str, argument: str, descriptors: list[int]) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for wanted, descriptor in enumerate(descriptors):
            os.dup2(descriptor, wanted)
        libc.close_range(3)
        privileges.die_with_parent(signal.SIGKILL)
        os.execv(sys.executable, python.command(module, argument))  # noqa: S606
    finally:
        os._exit(127)
