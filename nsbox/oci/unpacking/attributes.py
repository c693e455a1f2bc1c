"""Which extended attributes of an image a layer gets.

Only ``user.`` ones and file capabilities. ``user.overlay.`` would forge overlayfs's own (redirects, opaque
folders, whiteouts: everything that it keeps there), ``trusted.`` and the rest of ``security.`` are the
host's. A capability is written by a root of a user namespace: the kernel adds the id that this root has
outside (revision 3), and honours it for sandboxes, whose root is the same, alone.
"""

import errno
import os

from nsbox.oci.unpacking.entries import Entry
from nsbox.oci.unpacking.refusal import Reason, Refused, shown

_CAPABILITY = b"security.capability"
_USER, _OVERLAY = b"user.", b"user.overlay."
_REVISION = {2: 20, 3: 24}  # bytes of vfs_cap_data
_TOO_MUCH = (errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE)


def set_on(descriptor: int, entry: Entry) -> int:
    """Set an entry's attributes on its file or folder; how many were left out. Raises ``Refused``."""
    dropped = 0
    for name, stated in entry.xattrs:
        value = _usable(name, stated)
        if value is None:
            dropped += 1
            continue
        try:
            os.setxattr(descriptor, name, value)
        except OSError as error:
            if error.errno in _TOO_MUCH:
                raise Refused(
                    Reason.XATTRS, f"the file system has no room for {shown(name)} of {shown(entry.name)}"
                ) from error
            dropped += 1  # this file system has none, or not this one
    return dropped


def _usable(name: bytes, value: bytes) -> bytes | None:
    """What is to be set; None for an attribute that a layer does not get."""
    if name == _CAPABILITY:
        return _own(value)
    if not name.startswith(_USER) or name.startswith(_OVERLAY) or b"\0" in name:
        return None
    return value


def _own(value: bytes) -> bytes | None:
    """A capability as root of this namespace gives it: revision 2. One that only the root of another
    namespace would get means nothing here."""
    revision = value[3] if len(value) >= 4 else 0
    if _REVISION.get(revision) != len(value):
        return None
    if revision == 3 and value[20:] != bytes(4):
        return None
    return value[:3] + b"\2" + value[4:20]
