"""All of nsbox's ctypes: system calls that Python's standard library does not offer.

Every wrapper raises ``OSError`` with the call's name and the arguments that matter, so that a failed
set-up step can say what it was. Numbers that differ between machines are in ``_NUMBERS``.

``PyDLL`` keeps the interpreter's lock during the call: ``clone3`` copies the process, and a child that
was copied without the lock held would wait for it for ever. None of the other calls here block for long.
"""

import ctypes
import os
import signal
import struct
from typing import Final, NamedTuple

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
# Looked up once, before anything is forked: finding a function is Python code that each process would repeat.
_ZERO = ctypes.c_ulong(0)
_unshare, _setns, _mount, _umount2, _prctl, _fstatfs, _syncfs = (
    _libc.unshare,
    _libc.setns,
    _libc.mount,
    _libc.umount2,
    _libc.prctl,
    _libc.fstatfs,
    _libc.syncfs,
)

# These numbers are the same on every machine that got its table after Linux 5.1 unified them;
# x86_64 and aarch64 differ only in the older calls.
_UNIFIED = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}
_NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {**_UNIFIED, "pivot_root": 155, "waitid": 247, "seccomp": 317},
    "aarch64": {**_UNIFIED, "pivot_root": 41, "waitid": 95, "seccomp": 277},
}

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

CLONE_PARENT: Final = 0x8000
CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWCGROUP: Final = 0x0200_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000
CLONE_INTO_CGROUP: Final = 0x2_0000_0000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_MOVE: Final = 0x2000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000
MNT_DETACH: Final = 2

OPEN_TREE_CLONE: Final = 0x1
OPEN_TREE_CLOEXEC: Final = 0x8_0000
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
FSOPEN_CLOEXEC: Final = 0x1
FSMOUNT_CLOEXEC: Final = 0x1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8

CLOSE_RANGE_CLOEXEC: Final = 4
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
PR_SET_NO_NEW_PRIVS: Final = 38

_Q_GETQUOTA, _Q_SETQUOTA, _PRJQUOTA, _QIF_LIMITS = 0x80_0007, 0x80_0008, 2, 5
#: Of linux/dqblk_xfs.h, which ext4 understands as well; and the flag "limits of projects are enforced".
_Q_XQUOTAON, _Q_XGETQSTAT, _PROJECTS_ENFORCED = 0x5801, 0x5805, 1 << 5
#: struct if_dqblk of quotactl(2): hard and soft limit in KiB and use in bytes, the same for inodes, two
#: times, and which of them are meant.
_DQBLK = struct.Struct("8QI4x")

_SECCOMP_SET_MODE_FILTER: Final = 1

_CORE_FLAG: Final = 0x80  # WCOREFLAG of wait(2)

# f_type values of statfs(2) that nsbox tells apart.
PROC_SUPER_MAGIC: Final = 0x9FA0
SYSFS_MAGIC: Final = 0x6265_6572
CGROUP2_SUPER_MAGIC: Final = 0x6367_7270


_MACHINE = os.uname().machine
_HERE = _NUMBERS.get(_MACHINE, {})


def _number(name: str) -> int:
    try:
        return _HERE[name]
    except KeyError:
        raise OSError(0, f"nsbox does not know the number of {name} on {_MACHINE}") from None


_About = tuple[bytes | int | None, ...]


def _checked(result: int, name: str, about: _About = ()) -> int:
    """``result``, unless it says that the call failed. The sentence is put together only then."""
    if result >= 0:
        return result
    error = ctypes.get_errno()
    raise OSError(error, f"{name}({', '.join(map(_text, about))}): {os.strerror(error)}")


def _call(name: str, *arguments: object, about: _About = ()) -> int:
    return _checked(_syscall(_number(name), *arguments), name, about)


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


# One for all calls, made before any fork: making it would cost each process pages of its own.
_clone_arguments = _CloneArgs()
_clone_reference = ctypes.byref(_clone_arguments)
_CLONE_SIZE: Final = ctypes.sizeof(_clone_arguments)
_SIGCHLD: Final = int(signal.SIGCHLD)


def clone3(flags: int = 0, cgroup: int | None = None) -> int:
    """Fork into new namespaces and, with ``cgroup`` (a directory's descriptor), straight into a cgroup.

    Returns the child's pid, or 0 in the child. Starting in the cgroup rather than moving there later
    spares the write lock that every migration takes, and leaves no moment outside the limits.
    Only for single-threaded processes: no fork handler of libc or of Python runs.
    """
    arguments = _clone_arguments
    arguments.flags = flags if cgroup is None else flags | CLONE_INTO_CGROUP
    # With CLONE_PARENT the child announces its end as its new sibling would: a signal given is EINVAL.
    arguments.exit_signal = 0 if flags & CLONE_PARENT else _SIGCHLD
    arguments.cgroup = cgroup or 0
    return _call("clone3", _clone_reference, _CLONE_SIZE, about=(flags,))


class Ended(NamedTuple):
    """How a child ended: its status as of waitpid, processor time in microseconds, peak memory in KiB."""

    status: int
    user_us: int
    system_us: int
    peak_kib: int


def await_end(pid: int) -> Ended:
    """Wait until a child has ended, and leave it to be reaped: waitid(2) with WNOWAIT.

    Python's own waitid gives no resource usage, and its wait4 reaps.
    """
    information, usage = ctypes.create_string_buffer(128), ctypes.create_string_buffer(144)
    while True:
        try:
            _call("waitid", os.P_PID, pid, information, os.WEXITED | os.WNOWAIT, usage, about=(pid,))
            break
        except InterruptedError:
            continue
    code, value = struct.unpack_from("8xi12xi", information)  # si_code, si_status
    user_s, user_us, system_s, system_us, peak = struct.unpack_from("qqqqq", usage)
    core = _CORE_FLAG if code == os.CLD_DUMPED else 0
    status = value << 8 if code == os.CLD_EXITED else value | core
    return Ended(status, user_s * 1_000_000 + user_us, system_s * 1_000_000 + system_us, peak)


def unshare(flags: int) -> None:
    """unshare(2). Python has it from 3.12 on only."""
    _checked(_unshare(flags), "unshare", (flags,))


def setns(descriptor: int, kind: int) -> None:
    """setns(2): enter a namespace. Python has it from 3.12 on only."""
    _checked(_setns(descriptor, kind), "setns", (descriptor, kind))


def mount(
    source: bytes | None, target: bytes, kind: bytes | None, flags: int = 0, data: bytes | None = None
) -> None:
    """mount(2), the old call: still the shortest way to bind, to move and to change propagation."""
    result = _mount(source, target, kind, ctypes.c_ulong(flags), data)
    _checked(result, "mount", (source, target, kind, flags))


def umount(target: bytes, flags: int = MNT_DETACH) -> None:
    """umount2(2), lazily by default."""
    _checked(_umount2(target, flags), "umount2", (target,))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """pivot_root(2). With ``.`` for both, the old root lies over the new one and is unmounted there."""
    _call("pivot_root", new_root, put_old, about=(new_root, put_old))


def open_tree(dirfd: int, path: bytes, flags: int = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC) -> int:
    """open_tree(2): a mount as a descriptor; with OPEN_TREE_CLONE a detached copy of it."""
    return _call("open_tree", dirfd, path, ctypes.c_uint(flags), about=(path,))


def move_mount(from_fd: int, from_path: bytes, to_fd: int, to_path: bytes, flags: int) -> None:
    """move_mount(2): attach a detached mount, or move one that is attached."""
    _call("move_mount", from_fd, from_path, to_fd, to_path, ctypes.c_uint(flags), about=(to_path,))


def fsopen(kind: bytes) -> int:
    """fsopen(2): begin to configure a new file system instance."""
    return _call("fsopen", kind, ctypes.c_uint(FSOPEN_CLOEXEC), about=(kind,))


def fsconfig(fd: int, command: int, key: bytes | None = None, value: bytes | None = None) -> None:
    """fsconfig(2), for flags, strings and the create command."""
    try:
        _call("fsconfig", fd, ctypes.c_uint(command), key, value, 0, about=(command, key, value))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}{_context_message(fd)}") from None


def _context_message(fd: int) -> str:
    """What the kernel wrote about the failure: reading a file-system context gives its log, a line a read."""
    try:
        return " (" + os.read(fd, 4096).decode("utf-8", "replace").strip() + ")"
    except OSError:
        return ""


def fsmount(fd: int, attributes: int = 0) -> int:
    """fsmount(2): the configured instance as a detached mount."""
    return _call("fsmount", fd, ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(attributes))


def mount_setattr(dirfd: int, path: bytes, set_: int, clear: int = 0, flags: int = 0) -> None:
    """mount_setattr(2): change a mount's attributes, recursively with AT_RECURSIVE in ``flags``."""
    attributes = struct.pack("QQQQ", set_, clear, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    _call("mount_setattr", dirfd, path, ctypes.c_uint(flags), attributes, size, about=(path,))


def openat2(dirfd: int, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): open a path that may not leave ``dirfd`` or pass symlinks, as ``resolve`` says."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    return _call("openat2", dirfd, path, how, ctypes.c_size_t(len(how)), about=(path,))


def syncfs(fd: int) -> None:
    """syncfs(2): all of the file system behind ``fd``, and no other."""
    _checked(_syncfs(fd), "syncfs", (fd,))


_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_M_MMAP_THRESHOLD: Final = -3


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(2): give the blocks of a part of a file back. Its size stays, and the part reads as zeros.

    The one call here that may wait for a disk, and its callers have threads: so it lets go of the
    interpreter's lock, and is looked up when it is needed, which in keeper and init is never."""
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    result = fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length))
    _checked(result, "fallocate", (fd, offset, length))


def map_large_blocks(least: int) -> None:
    """malloc(3) maps blocks of so many bytes each on its own, and unmaps them when they are freed.

    glibc does so from 128 KiB on until one is freed, and from then on takes blocks up to that one's size, and
    up to 32 MiB, from the heap, mallopt(3). There, what is freed between two small blocks that live stays
    resident, and a block that is a little larger does not fit in. Does nothing with a libc that has no
    mallopt: musl maps large blocks always.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ctypes.c_int(_M_MMAP_THRESHOLD), ctypes.c_int(least))


def close_range(first: int, last: int = 0xFFFF_FFFF, flags: int = 0) -> None:
    """close_range(2): close every descriptor from ``first`` on, also those Python does not know of; with
    CLOSE_RANGE_CLOEXEC, have exec close them."""
    _call("close_range", ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags))


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2), for the options that python-prctl does not know."""
    result = _prctl(option, _word(arg2), _word(arg3), _word(arg4), _word(arg5))
    return _checked(result, "prctl", (option, arg2))


def stay_hidden() -> None:
    """Be non-dumpable: nobody inside may trace us or read /proc/PID/mem.

    After every change of ids: the kernel then sets it anew, to fs.suid_dumpable, and that may be 1 (proc(5)).
    """
    _checked(_prctl(PR_SET_DUMPABLE, _ZERO, _ZERO, _ZERO, _ZERO), "prctl", (PR_SET_DUMPABLE,))


def set_name(name: bytes) -> None:
    """Name this thread, up to 15 bytes: PR_SET_NAME of prctl(2)."""
    _checked(_prctl(_PR_SET_NAME, name), "prctl", (_PR_SET_NAME, name))


def _word(value: int) -> ctypes.c_ulong:
    return ctypes.c_ulong(value) if value else _ZERO


class _FilterProgram(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


class Filter:
    """A classic BPF program (packed ``struct sock_filter``, eight bytes each), ready to be installed.

    Made once, before processes are forked that install it: ``ctypes.cast`` is slow.
    """

    def __init__(self, program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._header = _FilterProgram(len(program) // 8, ctypes.cast(self._buffer, ctypes.c_void_p))
        self.reference = ctypes.byref(self._header)


def seccomp_filter(program: Filter | bytes) -> None:
    """Install a filter for this process and all that it will start."""
    ready = program if isinstance(program, Filter) else Filter(program)
    _call("seccomp", _SECCOMP_SET_MODE_FILTER, 0, ready.reference)


def landlock_create_ruleset(attributes: bytes | None, flags: int = 0) -> int:
    """landlock_create_ruleset(2): a new set of rules as a descriptor; with flags, what the kernel knows."""
    size = ctypes.c_size_t(len(attributes or b""))
    return _call("landlock_create_ruleset", attributes, size, ctypes.c_uint(flags), about=(flags,))


def landlock_add_rule(ruleset: int, kind: int, rule: bytes) -> None:
    """landlock_add_rule(2)."""
    _call("landlock_add_rule", ruleset, ctypes.c_int(kind), rule, ctypes.c_uint(0), about=(ruleset, kind))


def landlock_restrict_self(ruleset: int) -> None:
    """landlock_restrict_self(2): this thread, and all that it will start."""
    _call("landlock_restrict_self", ruleset, ctypes.c_uint(0), about=(ruleset,))


def set_command_line(title: bytes) -> None:
    """Replace what /proc/PID/cmdline shows, in place: the kernel reads it from the process's own memory.

    A process that was forked and never exec'd shows its parent's arguments, host paths and all.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end of proc(5), less the first three
    if start and end > start:
        room = end - start
        ctypes.memmove(start, title[: room - 1].ljust(room, b"\0"), room)


def set_project_quota(fd: int, project: int, size: int, inodes: int) -> None:
    """quotactl_fd(2): limit a project on the file system of ``fd`` to ``size`` bytes. Zeros take the limits
    away. Only root may."""
    block = _DQBLK.pack(size // 1024, 0, 0, inodes, 0, 0, 0, 0, _QIF_LIMITS)
    _call("quotactl_fd", fd, _Q_SETQUOTA << 8 | _PRJQUOTA, project, block, about=(project, size, inodes))


class ProjectQuota(NamedTuple):
    """Limits and use of a project."""

    size: int
    used: int
    inodes: int
    used_inodes: int


def get_project_quota(fd: int, project: int) -> ProjectQuota:
    """quotactl_fd(2): a project's limits and use. Only root may."""
    buffer = ctypes.create_string_buffer(_DQBLK.size)
    _call("quotactl_fd", fd, _Q_GETQUOTA << 8 | _PRJQUOTA, project, buffer, about=(project,))
    hard, _, used, inodes, _, used_inodes, *_ = _DQBLK.unpack(buffer.raw)
    return ProjectQuota(hard * 1024, used, inodes, used_inodes)


def project_quotas_enforced(fd: int) -> bool:
    """quotactl_fd(2): whether limits of projects hold on the file system of ``fd``: ``quotaoff`` ends it."""
    buffer = ctypes.create_string_buffer(128)  # struct fs_quota_stat has 80 bytes
    _call("quotactl_fd", fd, _Q_XGETQSTAT << 8 | _PRJQUOTA, 0, buffer)
    return bool(struct.unpack_from("H", buffer, 2)[0] & _PROJECTS_ENFORCED)


def enforce_project_quotas(fd: int) -> None:
    """quotactl_fd(2): what ``quotaon`` does. Only root may, and only where projects are accounted for."""
    flags = struct.pack("I", _PROJECTS_ENFORCED)
    _call("quotactl_fd", fd, _Q_XQUOTAON << 8 | _PRJQUOTA, 0, flags)


def filesystem_type(fd: int) -> int:
    """``f_type`` of fstatfs(2), which ``os.fstatvfs`` does not tell."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes on both machines
    _checked(_fstatfs(fd, buffer), "fstatfs", (fd,))
    return int(struct.unpack_from("q", buffer)[0])


def _text(value: bytes | int | None) -> str:
    if isinstance(value, int):
        return hex(value) if value > 4096 else str(value)
    return "none" if value is None else value.decode("utf-8", "backslashreplace")
