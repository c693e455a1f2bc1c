"""The process that sandboxes' inits are copied from.

keeper does not clone them from itself: whatever it writes to between two clones is no longer shared by the
older one, and keeper is busy. The zygote does nothing but clone, so its pages stay common to all. With
CLONE_PARENT its copies are keeper's children, to be waited for there.
"""

import os
import select
import signal
import socket
import struct
import sys
from typing import NoReturn

import prctl

from nsbox.inside import init as inside_init
from nsbox.inside import privileges
from nsbox.inside.rehearsal import rehearse
from nsbox.keeper import layout
from nsbox.kernel import libc, namespaces, rawsocket
from nsbox.plan import baseline
from nsbox.wire.framing import ANCILLARY_ROOM, descriptors_in

#: The id that the new namespaces belong to.
_ORDER = struct.Struct("i")
#: A pid, or an errno below zero.
_ANSWER = struct.Struct("i")
_TO_CGROUP = [prctl.CAP_DAC_OVERRIDE]
#: How long a clone may take, in seconds.
_PATIENCE = 10.0


class Zygote:
    """keeper's handle on it. ``restart`` replaces one that died."""

    def __init__(self, mould: inside_init.Mould) -> None:
        self._mould = mould
        self._sock: socket.socket | None = None
        self.pid = 0

    def start(self) -> None:
        """Fork it from this process, as early as can be. Raises ``OSError``."""
        if self._sock is not None:
            self._sock.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = libc.clone3()
            if self.pid == 0:
                _serve(theirs, self._mould)
        self._sock = ours

    def clone(self, control: socket.socket, listener: socket.socket, cgroup: int | None, owner: int) -> int:
        """A new blank with these descriptors, in new namespaces of ``owner`` and in ``cgroup``; its pid.

        Raises ``OSError``.
        """
        assert self._sock is not None
        descriptors = [control.fileno(), listener.fileno(), *([] if cgroup is None else [cgroup])]
        socket.send_fds(self._sock, [_ORDER.pack(owner)], descriptors)
        ready, _, _ = select.select([self._sock], [], [], _PATIENCE)
        data = self._sock.recv(_ANSWER.size) if ready else b""
        if len(data) != _ANSWER.size:
            # A late answer would be taken for that to the next question: another zygote takes its place.
            os.kill(self.pid, signal.SIGKILL)
            raise OSError(0, "the zygote died or does not answer")
        (pid,) = _ANSWER.unpack(data)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return int(pid)


def _serve(sock: socket.socket, mould: inside_init.Mould) -> NoReturn:
    """In the zygote. As little as possible: what is touched here is copied for every sandbox."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        privileges.redirect_standard_streams()
        privileges.close_all_but({0, 1, 2, sock.fileno()})
        privileges.name_process("nsbox-zygote")
        privileges.die_with_parent(signal.SIGKILL)
        raw = rawsocket.adopt(os.dup(sock.fileno()))
        sock.close()
        sys._clear_type_cache()  # keeper's entries, each of which init would have to throw out
        privileges.divide(mould.divided, baseline.SHARE)
        init = inside_init.cast(mould)
        rehearse(mould, layout.RUN)
        room = ANCILLARY_ROOM
        while True:
            data, ancillary, _, _ = raw.recvmsg(_ORDER.size, room)
            if not data:
                break
            descriptors = descriptors_in(ancillary)
            cgroup = descriptors[2] if len(descriptors) == 3 else None
            pid = _clone_as(_ORDER.unpack(data)[0], cgroup)
            if pid == 0:
                raw.close()
                control, listener = rawsocket.adopt(descriptors[0]), rawsocket.adopt(descriptors[1])
                inside_init.main(init, control, listener, cgroup, mould)
            for descriptor in descriptors:
                os.close(descriptor)
            raw.send(_ANSWER.pack(pid))
    finally:
        os._exit(0)


def _clone_as(owner: int, cgroup: int | None) -> int:
    """Clone a box whose namespaces ``owner`` has made; 0 in the box, else its pid, or an errno below zero.

    Only the effective id is changed: the real one leads back. Leaving 0 takes the effective capabilities, and
    one of them is needed to put the box into its cgroup, which is another's.
    """
    os.seteuid(owner)
    try:
        prctl._prctl.set_caps(_TO_CGROUP, [], [], [], [], [])
        pid = libc.clone3(namespaces.SANDBOX_FLAGS | libc.CLONE_PARENT, cgroup)
        if pid == 0:
            return 0
    except OSError as error:
        pid = -(error.errno or 1)
    os.seteuid(0)
    # A change of ids clears the one and sets the other anew.
    privileges.die_with_parent(signal.SIGKILL)
    libc.stay_hidden()
    return pid
