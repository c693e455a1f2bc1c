"""Files that say what of the layers below is gone, in the form that overlayfs reads.

A deleted name is a character device 0/0; a folder that hides the one below has an attribute in the namespace
``user.``, since the overlay is mounted with ``userxattr``. In archives both are files with names of their own
(image-spec, layer.md).
"""

import os
import stat

from nsbox.oci.unpacking.refusal import Reason, Refused, shown

PREFIX = b".wh."
#: What aufs keeps for itself: opaque marks, and folders that no layer gets.
META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_XATTR = "user.overlay.opaque"
_DEVICE = os.makedev(0, 0)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEVICE


def lies_in_meta(name: bytes) -> bool:
    """Whether a path leads through a folder of aufs' own."""
    return any(part.startswith(META) for part in name.rstrip(b"/").split(b"/")[:-1])


def make_opaque(directory: int) -> None:
    """Hide what the layers below have in this folder."""
    os.setxattr(directory, _XATTR, b"y")


def apply(directory: int, name: bytes) -> None:
    """Do what an entry called ``name``, with the prefix, says. Raises ``Refused``."""
    if name == _OPAQUE:
        make_opaque(directory)
        return
    if name.startswith(META):
        return  # aufs' own bookkeeping
    deleted = name[len(PREFIX) :]
    if deleted in (b"", b".", b".."):
        raise Refused(Reason.NAME, f"the whiteout {shown(name)} is of nothing")
    try:
        status = os.stat(deleted, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        os.mknod(deleted, stat.S_IFCHR, _DEVICE, dir_fd=directory)
        return
    # A whiteout is about the layers below alone: what this one has of that name stays, and hides them.
    if stat.S_ISDIR(status.st_mode):
        folder = os.open(deleted, _FOLDER, dir_fd=directory)
        try:
            make_opaque(folder)
        finally:
            os.close(folder)
