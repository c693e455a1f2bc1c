"""The box that a layer is unpacked in: what this process can still see and do when the first byte is read.

In the order in which it is put up: ids of a sandbox (the caller maps them), the layer's folder as the only
file system there is, no descriptors but three, limits, five capabilities, and a list of system calls.
"""

import os
import resource

import prctl

from nsbox.inside import privileges
from nsbox.kernel import capabilities, libc, mounts, namespaces, seccomp
from nsbox.oci.unpacking.folders import DESCRIPTORS
from nsbox.oci.unpacking.limits import Limits

FLAGS = namespaces.SANDBOX_FLAGS
_STAGING = "/tmp"  # noqa: S108 - any folder that is there; what lies in it is not touched
_QUIET = libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV | libc.MOUNT_ATTR_NOEXEC
#: Files of all owners are made, changed and given away; and file capabilities are set.
KEPT = frozenset(
    {prctl.CAP_CHOWN, prctl.CAP_DAC_OVERRIDE, prctl.CAP_FOWNER, prctl.CAP_FSETID, prctl.CAP_SETFCAP}
)
#: For Python, both decompressors and a parser that keeps nothing; a zstd window of 32 MiB is in it. Address
#: space, since the limit on data does not count what is mapped.
_MEMORY = 384 << 20

_SYSTEM_CALLS = """
    read write lseek close openat mkdirat mknodat symlinkat linkat unlinkat renameat renameat2 rename
    readlinkat fstat newfstatat statx getdents64 ftruncate fcntl dup
    fchown fchownat fchmod fchmodat utimensat fsetxattr
    mkdir unlink rmdir symlink link readlink mknod stat lstat
    brk munmap mremap madvise futex getrandom clock_gettime gettimeofday getrusage getpid gettid
    rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall sched_yield exit exit_group
"""


def picture(folder: int) -> int:
    """The layer's folder as a mount of its own, attached nowhere. In the outer namespace."""
    tree = libc.open_tree(folder, b".")
    libc.mount_setattr(tree, b"", _QUIET, flags=libc.AT_EMPTY_PATH)
    return tree


def enter(tree: int) -> None:
    """Make ``tree`` all that there is. In a mount namespace of its own."""
    mounts.make_private()
    mounts.attach(tree, _STAGING)
    os.close(tree)
    mounts.pivot_onto(_STAGING)


def confine(limits: Limits) -> None:
    """Give up everything that making files does not need. Nothing can be imported after ``enter``."""
    privileges.close_all_but({0, 1, 2})
    seconds = int(limits.seconds) + 1
    for number, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, DESCRIPTORS),
        (resource.RLIMIT_FSIZE, limits.max_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, _MEMORY),
    ):
        resource.setrlimit(number, (most, most))
    prctl.set_dumpable(0)
    prctl.set_no_new_privs(1)
    capabilities.drop_to(KEPT)
    libc.seccomp_filter(seccomp.allow_list(os.uname().machine, frozenset(_SYSTEM_CALLS.split())))
