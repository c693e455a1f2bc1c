"""The unpacking worker without some of its walls, so that a test can see what each of them holds.

``main`` is started in the outer namespace by ``nsbox.host.outer``, in keeper's stead. The product has no
switch for this: the walls are taken away here, by hand.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

import prctl

from nsbox.kernel import libc, mounts
from nsbox.oci.unpacking import attributes, box, folders, tree, worker
from nsbox.oci.unpacking.refusal import Reason, Refused

_PR_CAPBSET_READ = 23


def _no_pivot() -> None:
    mounts.pivot_into = os.fchdir


def _no_nofollow() -> None:
    folders.FLAGS &= ~os.O_NOFOLLOW


def _no_checks_of_names() -> None:
    """As a naive unpacker goes: what is there is followed, ".." included."""

    def parts(_: tree.Tree, name: bytes) -> list[bytes]:
        return [part for part in name.split(b"/") if part not in (b"", b".")]

    def walk(self: folders.Folders, parts: list[bytes], *, make: bool) -> folders.Folder:
        here = self.top
        for name in parts:
            try:
                here = self.enter(here, name)
            except FileNotFoundError:
                here = self._make(here, name)
        return here

    tree.Tree._parts = parts
    folders.Folders.walk = walk


def _overlay_xattrs() -> None:
    attributes._OVERLAY = b"no such prefix"


def _no_filter() -> None:
    libc.seccomp_filter = lambda _: None


def _look_around() -> None:
    """Instead of reading a layer: tell what somebody could do who took over the process here."""

    def told(*_: object) -> NoReturn:
        raise Refused(Reason.INTERNAL, json.dumps(_seen()))

    box.unpack = told


def _seen() -> dict[str, Any]:
    seen = {
        "root": os.listdir("/"),
        "descriptors": [number for number in range(1024) if _is_open(number)],
        "pid": os.getpid(),
        "bounding": _bounding(),
    }
    # Last: without the filter one of them gives a new user namespace, and so all capabilities.
    return seen | {"calls": {name: _tried(call) for name, call in _CALLS.items()}}


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _bounding() -> list[int] | None:
    """None where the filter does not let us ask."""
    found: list[int] = []
    for number in range(64):
        try:
            if libc.prctl(_PR_CAPBSET_READ, number):
                found.append(number)
        except OSError as error:
            return None if error.errno == errno.EPERM else found
    return found


def _tried(call: Callable[[], Any]) -> int:
    """The errno, or a number that it gives, else 0."""
    try:
        result = call()
    except OSError as error:
        return error.errno or -1
    return result if isinstance(result, int) else 0


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


_CALLS: dict[str, Callable[[], Any]] = {
    "socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
    "inet": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
    "fork": _fork,
    "exec": lambda: os.execv("/nothing", ["nothing"]),
    "mmap_exec": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close(),
    "memfd": lambda: os.close(os.memfd_create("x")),
    "mount": lambda: libc.mount(b"none", b"/", b"tmpfs"),
    "umount": lambda: libc.umount(b"/"),
    "unshare": lambda: libc.unshare(libc.CLONE_NEWUSER),
    "open_tree": lambda: libc.open_tree(libc.AT_FDCWD, b"/"),
    "chroot": lambda: os.chroot("/"),
    "setuid": lambda: os.setuid(7),
    "kill": lambda: os.kill(2, 0),
    "pidfd": lambda: os.pidfd_open(1),
    "device": lambda: os.mknod("/null", 0o20666, os.makedev(1, 3)),
    "sethostname": lambda: socket.sethostname("x"),
}

_TAKE_AWAY: dict[str, Callable[[], None]] = {
    "pivot": _no_pivot,
    "nofollow": _no_nofollow,
    "dot-dot": _no_checks_of_names,
    "overlay": _overlay_xattrs,
    "filter": _no_filter,
    "reading": _look_around,
}


def main(arguments: list[str]) -> int:
    order = json.loads(arguments[0])
    prctl.set_pdeathsig(signal.SIGKILL)
    mounts.make_private()
    # Process 1 of a pid namespace writes its child's maps by the pid in there.
    mounts.mount_new("proc", "/proc", attributes=libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV)
    for wall in order["without"]:
        _TAKE_AWAY[wall]()
    for wanted, descriptor in ((0, order["blob"]), (1, order["socket"])):
        os.dup2(descriptor, wanted)
    return worker.main([order["path"]])
