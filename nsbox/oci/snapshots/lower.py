"""Layers as trees to be read: each for itself, or all as one. In the outer namespace."""

import os
import re
from collections.abc import Sequence

from nsbox.kernel import libc, mounts
from nsbox.oci.placing import FOLDER
from nsbox.oci.snapshots import box
from nsbox.oci.unpacking.refusal import Reason, Refused

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_SANDBOX = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
_READ_ONLY = libc.MOUNT_ATTR_RDONLY | libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV | libc.MOUNT_ATTR_NOEXEC


def layer(layers: int, name: str) -> int:
    """One layer's folder, open."""
    if not _NAME.fullmatch(name):
        raise Refused(Reason.INTERNAL, "that is no layer's name")
    return os.open(name, FOLDER, dir_fd=layers)


def upper(layers: int, sandbox_id: str) -> int:
    """What a sandbox has written, open."""
    if not _SANDBOX.fullmatch(sandbox_id):
        raise Refused(Reason.INTERNAL, "that is no sandbox's id")
    try:
        return os.open(_upper(sandbox_id), FOLDER, dir_fd=layers)
    except FileNotFoundError:
        raise Refused(Reason.BUSY, "the sandbox has nothing on the disk") from None


def is_still(layers: int, sandbox_id: str, folder: int) -> bool:
    """Whether the sandbox's folder is where it was. When a sandbox ends, that is moved away before it is
    emptied: what was read until now was whole."""
    try:
        there = os.stat(_upper(sandbox_id), dir_fd=layers, follow_symlinks=False)
    except FileNotFoundError:
        return False
    same = os.fstat(folder)
    return (there.st_dev, there.st_ino) == (same.st_dev, same.st_ino)


def _upper(sandbox_id: str) -> str:
    return f"../sandboxes/{sandbox_id}/upper"


def merged(layers: int, names: Sequence[str]) -> int:
    """All of them as a sandbox sees them, topmost first, as a mount that is attached nowhere."""
    if len(names) == 1:  # overlayfs wants two where nothing can be written
        return box.picture(layer(layers, names[0]))
    if not names or not all(_NAME.fullmatch(name) for name in names):
        raise Refused(Reason.INTERNAL, "those are no layers' names")
    os.fchdir(layers)  # old kernels have a page for all names: short ones
    return mounts.stack(names, _READ_ONLY)
