"""Which system calls api may make: what its Python, SQLite, TLS and sockets were seen to use, and their kin.

All else is EPERM: above all whatever starts a program or a process, reaches another process, makes a
namespace or a mount, or loads code into the kernel. api does none of that itself: keeper and its tasks do,
which the supervisor starts, not api. Threads are made by clone(2), whose flags can be seen, so clone3(2),
whose flags cannot, does not exist here; glibc falls back on the older.
"""

from __future__ import annotations

import termios
from collections.abc import Mapping
from typing import Final

from nsbox.kernel import projects, seccomp
from nsbox.kernel.seccomp import AnyBit, Rule, Switch, Verdict

ALLOWED: Final[Mapping[str, str]] = {
    "files; what is opened by its path is Landlock's to decide": """
        read write open close stat fstat lstat newfstatat statx lseek pread64 pwrite64 readv writev preadv
        pwritev preadv2 pwritev2 access faccessat faccessat2 openat openat2 creat close_range dup dup2 dup3
        fcntl flock pipe pipe2 sendfile splice tee copy_file_range truncate ftruncate fallocate fadvise64
        readahead fsync fdatasync syncfs sync_file_range getdents getdents64 getcwd rename renameat renameat2
        mkdir mkdirat rmdir link linkat unlink unlinkat readlink readlinkat chmod fchmod fchmodat fchmodat2
        umask utimensat statfs fstatfs memfd_create
    """,
    "waiting for events": """
        poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
        eventfd eventfd2
    """,
    "memory": "munmap mremap msync brk madvise mincore membarrier map_shadow_stack",
    "threads": """
        exit exit_group futex futex_waitv futex_wake futex_wait futex_requeue set_tid_address set_robust_list
        get_robust_list rseq sched_yield sched_getaffinity restart_syscall
    """,
    "signals that are received": """
        rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause
        setitimer
    """,
    "who and what we are": """
        getpid getppid gettid getpgid getpgrp getsid getuid geteuid getgid getegid getresuid getresgid
        getgroups getrlimit getrusage getcpu getpriority sysinfo uname
    """,
    "clocks that are read": """
        time gettimeofday times clock_gettime clock_getres clock_nanosleep nanosleep
    """,
    "sockets, once made": """
        connect accept accept4 bind listen sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown
        getsockname getpeername setsockopt getsockopt
    """,
    "randomness": "getrandom",
    "the kernel's own way back from a uprobe": "uretprobe uprobe",
}

_CLONE_THREAD: Final = 0x0001_0000
_PR_SET_NAME: Final = 15
#: Those that Python and trio use on sockets, pipes and standard streams; and project quotas.
_IOCTLS: Final = frozenset(
    {termios.TCGETS, termios.FIONREAD, termios.FIONBIO, termios.FIOCLEX, termios.FIONCLEX, termios.TIOCGWINSZ}
) | {projects.GET, projects.SET}
#: No memory is both written and run: PROT_WRITE with PROT_EXEC, with or without PROT_READ. Modules that are
#: imported late are mapped to be read and run.
_NOT_BOTH: Final = Switch(2, {6: Verdict.EPERM, 7: Verdict.EPERM}, Verdict.ALLOW)


def _checked(pid: int) -> dict[str, Rule]:
    ourselves = Switch(0, {pid: Verdict.ALLOW}, Verdict.EPERM)
    return {
        "clone": AnyBit(0, _CLONE_THREAD, Verdict.ALLOW, Verdict.EPERM),
        "clone3": Verdict.ENOSYS,
        "mmap": _NOT_BOTH,
        "mprotect": _NOT_BOTH,
        "ioctl": seccomp.only_ioctls(_IOCTLS),
        # trio names its threads. What prctl has besides (dumpable, the death signal) stays as it is.
        "prctl": Switch(0, {_PR_SET_NAME: Verdict.ALLOW}, Verdict.EPERM),
        # 0: oneself. Of others of the same user the limits could be lowered until they fail.
        "prlimit64": Switch(0, {0: Verdict.ALLOW}, Verdict.EPERM),
        "tgkill": ourselves,  # abort() and raise()
        "socket": seccomp.CHECKED["socket"],
        "socketpair": seccomp.CHECKED["socketpair"],
    }


def program(machine: str, pid: int) -> bytes:
    """The filter for api, whose process is ``pid``."""
    names = frozenset(name for group in ALLOWED.values() for name in group.split())
    return seccomp.allow_only(machine, names, _checked(pid))
