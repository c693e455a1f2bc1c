"""Programs that keeper may run for api in the outer namespace, where files can be owned by sandbox ids."""

import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

from nsbox.inside import privileges
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
#: such a module imports is imported after the fork, so that keeper and its inits do not pay for it.
_AT_ONCE = frozenset({"take"})


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
        argument = os.path.abspath(f"{layout.LAYERS}/{task.argument}")
        _run(MODULES[task.name], argument, descriptors, at_once=task.name in _AT_ONCE)
    return pid


def _run(module: str, argument: str, descriptors: list[int], *, at_once: bool) -> NoReturn:
    status = 127
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for wanted, descriptor in enumerate(descriptors):
            os.dup2(descriptor, wanted)
        libc.close_range(3)
        privileges.die_with_parent(signal.SIGKILL)
        if at_once:
            privileges.name_process("nsbox-task")
            status = import_module(module).main([argument])
        else:
            os.execv(sys.executable, python.command(module, argument))  # noqa: S606
    except Exception as error:
        print(f"nsbox keeper: {module}: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)
