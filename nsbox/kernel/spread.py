"""Where ext4 puts what is made in a folder."""

import fcntl
import os
import struct

#: linux/fs.h, ioctl_iflags(2): an int, whatever the number says.
_GET, _SET = 0x8008_6601, 0x4008_6602
_TOPDIR = 0x0002_0000


def spread(path: str) -> bool:
    """Have the file system put each folder that is made in ``path`` in another part of the disk, as chattr(1)
    ``+T`` does; whether it does.

    ext4 otherwise puts them beside each other. Without a journal it passes over inodes that were freed in the
    last minutes, one by one, for each file that is made: docs/adr/0079 has what that costs a snapshot.
    Other file systems have no such flag, and need none.
    """
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        (flags,) = struct.unpack("i", fcntl.ioctl(folder, _GET, bytes(4)))
        if not flags & _TOPDIR:
            fcntl.ioctl(folder, _SET, struct.pack("i", flags | _TOPDIR))
    except OSError:
        return False
    finally:
        os.close(folder)
    return True
