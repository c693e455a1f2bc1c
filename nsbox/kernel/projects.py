"""Project ids of directories: what a project quota counts together (ext4 and XFS).

Only a process of the initial user namespace may change one (fileattr_set_prepare() of Linux says EINVAL to
others), so keeper cannot, and neither can anybody in a sandbox. Of those, the owner of the directory may.
"""

import fcntl
import os
import struct
from typing import NamedTuple

#: FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR of linux/fs.h, with their struct fsxattr: flags, extent size,
#: number of extents, project, extent size for copy-on-write.
GET, SET = 0x801C_581F, 0x401C_5820
_FSXATTR = struct.Struct("5I8x")
#: What is made below inherits project and flag; a rename or link into another project is EXDEV.
_INHERIT = 0x200


class Shown(NamedTuple):
    """What statvfs(3) says of a directory: for one with a limited project its limits, as df shows them."""

    size: int
    inodes: int
    used_inodes: int


def get(directory: int) -> tuple[int, bool]:
    """The project of an open file or directory, and whether what is made in it inherits that."""
    flags, _, _, project, _ = _FSXATTR.unpack(fcntl.ioctl(directory, GET, bytes(_FSXATTR.size)))
    return project, bool(flags & _INHERIT)


def give(directory: int, project: int) -> None:
    """Make a directory, and all that will be made in it, count for ``project``.

    Raises ``OSError``: ENOTTY or EOPNOTSUPP where the file system has no projects, EDQUOT where the project
    is full.
    """
    flags, extent, extents, _, cow = _FSXATTR.unpack(fcntl.ioctl(directory, GET, bytes(_FSXATTR.size)))
    fcntl.ioctl(directory, SET, _FSXATTR.pack(flags | _INHERIT, extent, extents, project, cow))


def shown(directory: int) -> Shown:
    """The limits in force for an open directory of a project, and how many inodes that has."""
    figures = os.statvfs(directory)
    return Shown(figures.f_blocks * figures.f_frsize, figures.f_files, figures.f_files - figures.f_ffree)
