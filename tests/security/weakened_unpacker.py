"""The unpacking worker without some of its walls, so that a test can see what each of them holds.

``main`` is started in the outer namespace by ``nsbox.host.outer``, in keeper's stead. The product has no
switch for this: the walls are taken away here, by hand.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import prctl

from nsbox.kernel import libc, mounts
from nsbox.oci.unpacking import attributes, folders, tree, worker


def _no_pivot() -> None:
    mounts.pivot_into = os.fchdir


def _no_nofollow() -> None:
    folders.FLAGS &= ~os.O_NOFOLLOW  # type: ignore[misc]


def _dot_dot() -> None:
    def parts(_: tree.Tree, name: bytes) -> list[bytes]:
        return [part for part in name.split(b"/") if part not in (b"", b".")]

    tree.Tree._parts = parts  # type: ignore[method-assign]
    folders.Folders.walk = _plain_walk  # type: ignore[method-assign]


def _plain_walk(self: folders.Folders, parts: list[bytes], *, make: bool) -> folders.Folder:
    """As a naive unpacker goes: what is there is followed, ".." included."""
    here = self.top
    for name in parts:
        try:
            here = self.enter(here, name)
        except FileNotFoundError:
            if not make:
                raise
            here = self._make(here, name)
    return here


def _overlay_xattrs() -> None:
    attributes._OVERLAY = b"no such prefix"


def _no_filter() -> None:
    libc.seccomp_filter = lambda _: None


_TAKE_AWAY: dict[str, Callable[[], None]] = {
    "pivot": _no_pivot,
    "nofollow": _no_nofollow,
    "dot-dot": _dot_dot,
    "overlay": _overlay_xattrs,
    "filter": _no_filter,
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
