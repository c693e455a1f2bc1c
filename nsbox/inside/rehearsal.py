"""What every idle init will do, done beforehand in the zygote, so that its copies write to fewer pages.

CPython 3.11 rewrites a function's code while it runs for the first dozen times (PEP 659), remembers in static
data which attribute it found where, and counts references to the names it looks for. After some repetitions
it does none of that. Whatever still changes then is copied for each sandbox.
"""

import _socket
import os
import signal
from typing import NoReturn

import prctl

from nsbox.inside import privileges
from nsbox.inside.init import Init, KeeperGone, Mould
from nsbox.inside.leaves import Leaves
from nsbox.kernel import capabilities, rawsocket
from nsbox.kernel.rawsocket import RawSocket

#: A function is specialised after some 8 calls and as many tries of each of its instructions.
_TIMES = 24
#: What the zygote can do without. Its copies get all capabilities again, with their user namespaces.
_LITTLE = capabilities.Gone([prctl.CAP_WAKE_ALARM], [prctl.CAP_WAKE_ALARM])


def rehearse(mould: Mould, folder: str) -> None:
    """To be called in the zygote, once SIGCHLD is handled: an init's life without a command, repeated.

    ``folder``: where for a moment something can be made that stands for the first spawner's leaf cgroup.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for _ in range(_TIMES):
        _perform(Init(mould))
        _keep_a_leaf(descriptor)
    os.close(descriptor)


def _keep_a_leaf(folder: int) -> None:
    leaves = Leaves(gives_memory=False)  # a plain folder has no such files
    leaves.use(folder)
    leaf, descriptor = leaves.make()
    if descriptor is not None:
        os.close(descriptor)
    leaves.discard(leaf)


def _perform(init: Init) -> None:
    control, keeper = rawsocket.pair()
    listener = RawSocket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    listener.bind("")  # any free abstract name, unix(7)
    listener.listen(1)
    init.take(control, listener, None)
    init.come_in(0, _LITTLE, _wait)
    capabilities.release(_LITTLE)
    init.begin()
    api = RawSocket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    api.connect(listener.getsockname())
    init.turn()  # it is greeted
    api.recv(64)
    api.close()
    init.turn()  # and missed
    init.commands.let_go(0.0)  # the spawner has been idle for long
    init.turn()  # and is reaped
    keeper.close()
    try:
        init.turn()
    except KeeperGone:
        pass
    os.close(signal.set_wakeup_fd(-1))
    init.close()


def _wait(sock: RawSocket) -> NoReturn:
    """The first spawner's part. It has a copy of init's end of the socket: left open, there is no hang-up."""
    privileges.close_all_but({0, 1, 2, sock.fileno()})
    sock.recv(1)
    os._exit(0)
