"""Which system calls a sandbox may make, and that table compiled to the kernel's filter language.

The table is total: every name of ``syscalls.py`` stands in exactly one of the groups below with the
reason why, and what stands nowhere is refused. Three answers are given on purpose:

* ``EPERM`` for what a program can know and may not do: it reads as a container without that right.
* ``ENOSYS`` for what the table does not know (a kernel may be newer than nsbox) and for calls whose
  callers keep an older way for kernels without them: they then take it.
* death by ``SIGSYS`` for another architecture's entry. There an error would not do: a 32-bit program
  whose every call fails cannot even exit (musl's ``_Exit`` tries again for ever, burning its CPU).

What the filter does not do: it sees registers, never memory. So ``ptrace`` across users is refused by
credentials (no CAP_SYS_PTRACE is left, and init is not dumpable), device nodes by the user namespace, raw
sockets by the missing CAP_NET_RAW; and ``clone3``, whose flags are in memory, cannot be allowed in part.

Without no_new_privs, seccomp(2) wants CAP_SYS_ADMIN: load the filter *before* the capabilities go where a
template needs set-user-ID programs. Compile before forking; the bytes are the same for every sandbox.
"""

import struct
from collections.abc import Mapping, Set
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from nsbox.kernel import syscalls


class Verdict(IntEnum):
    """What the filter returns: SECCOMP_RET_* with, for errors, the errno in the low half."""

    ALLOW = 0x7FFF_0000
    KILL = 0x8000_0000
    EPERM = 0x0005_0000 | 1
    ENOSYS = 0x0005_0000 | 38
    EPROTONOSUPPORT = 0x0005_0000 | 93
    EAFNOSUPPORT = 0x0005_0000 | 97


class Switch(NamedTuple):
    """Decide by the low 32 bits of an argument.

    Only for arguments that the kernel itself takes as 32 bits wide: there the upper half is noise, and a
    filter that compared all 64 could be passed by setting a bit in it (CVE-2019-7303, CVE-2019-10063).
    """

    argument: int
    cases: Mapping[int, "Rule"]
    otherwise: "Rule"


class AnyBit(NamedTuple):
    """Decide by whether an argument's half has any bit of a mask set."""

    argument: int
    mask: int
    verdict: Verdict
    otherwise: "Rule"
    high: bool = False


Rule: TypeAlias = Verdict | Switch | AnyBit

# ------------------------------------------------------------------------------------ the policy

ALLOWED: Final[Mapping[str, str]] = {
    # chroot works with CAP_SYS_CHROOT, which is kept. mknod makes fifos and sockets and overlay's 0/0
    # devices; others are refused by the user namespace.
    "files and descriptors": """
        read write open close stat fstat lstat newfstatat statx lseek pread64 pwrite64 readv writev preadv
        pwritev preadv2 pwritev2 access faccessat faccessat2 openat openat2 creat close_range dup dup2 dup3
        fcntl flock pipe pipe2 sendfile splice tee vmsplice copy_file_range truncate ftruncate fallocate
        fadvise64 readahead fsync fdatasync sync syncfs sync_file_range getdents getdents64 getcwd chdir
        fchdir chroot rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink
        symlinkat readlink readlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask
        utime utimes utimensat futimesat mknod mknodat statfs fstatfs memfd_create inotify_init
        inotify_init1 inotify_add_watch inotify_rm_watch
    """,
    "extended attributes": """
        setxattr lsetxattr fsetxattr setxattrat getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr
        flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
    """,
    "waiting for events": """
        poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
        eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime
    """,
    "asynchronous files, the old way: databases need it, and it has nothing of io_uring's reach": """
        io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
    """,
    "memory": """
        mmap munmap mremap mprotect msync brk madvise mincore mlock mlock2 munlock mlockall munlockall
        membarrier pkey_mprotect pkey_alloc pkey_free mseal map_shadow_stack
    """,
    "processes and threads": """
        fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open
        pidfd_send_signal getpid getppid gettid getpgid setpgid getpgrp getsid setsid set_tid_address
        set_robust_list get_robust_list rseq futex futex_waitv futex_wake futex_wait futex_requeue prctl
        arch_prctl restart_syscall
    """,
    "signals": """
        rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo
        rt_tgsigqueueinfo rt_sigsuspend sigaltstack pause alarm
    """,
    "identity: the user namespace and the bounding set decide": """
        getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid
        setresuid setresgid setfsuid setfsgid setgroups capget capset
    """,
    "clocks that are read, timers": """
        time gettimeofday times clock_gettime clock_getres clock_nanosleep nanosleep getitimer setitimer
        timer_create timer_settime timer_gettime timer_getoverrun timer_delete
    """,
    "scheduling and limits: what raises them needs capabilities that are gone": """
        sched_yield sched_setparam sched_getparam sched_setscheduler sched_getscheduler sched_setattr
        sched_getattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval
        sched_setaffinity sched_getaffinity getpriority setpriority ioprio_set ioprio_get getrlimit
        setrlimit prlimit64 getrusage getcpu sysinfo uname
    """,
    "System V and POSIX queues: their own ipc namespace": """
        shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open
        mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    """,
    "sockets, once made": """
        connect accept accept4 bind listen sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown
        getsockname getpeername setsockopt getsockopt
    """,
    "debuggers and allocators, on processes one may ptrace": """
        ptrace process_vm_readv process_vm_writev process_madvise process_mrelease
    """,
    "walls inside the sandbox: browsers and build tools put up their own": """
        seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
    """,
    "randomness": "getrandom",
    # Linux 6.14 passes these by every filter; refusing them on 6.11 to 6.13 would crash a program whose
    # functions the host's owner traces. Called from anywhere else they fail or end the caller.
    "the kernel's own way back from a uprobe": "uretprobe uprobe",
}

REFUSED: Final[Mapping[str, str]] = {
    "mounts, old and new: the tree is fixed before the first command runs": """
        mount umount2 pivot_root open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick
        mount_setattr statmount listmount
    """,
    "other namespaces": "setns",
    "code in the kernel": """
        init_module finit_module delete_module create_module get_kernel_syms query_module kexec_load
        kexec_file_load bpf
    """,
    "interfaces that no ordinary program needs, each with a history of holes": """
        io_uring_setup io_uring_enter io_uring_register userfaultfd perf_event_open remap_file_pages
    """,
    "keyrings: their budget is per host user, whom all sandboxes share": "add_key request_key keyctl",
    "files by handle or by mount, past the path's permissions": """
        name_to_handle_at open_by_handle_at fanotify_init fanotify_mark lookup_dcookie
    """,
    "the host's own state": """
        reboot swapon swapoff acct quotactl quotactl_fd syslog settimeofday clock_settime clock_adjtime
        adjtimex sethostname setdomainname vhangup iopl ioperm sysfs ustat uselib
    """,
    "segment descriptors: 16-bit code only, and a history of holes": "modify_ldt",
    "NUMA placement: libnuma takes EPERM for a machine without": """
        mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages
    """,
    "another process's descriptors and kernel addresses": "pidfd_getfd kcmp",
}

ABSENT: Final[Mapping[str, str]] = {
    "its flags are in memory, unseen; libc falls back to clone": "clone3",
    "new and optional, with an older way: ioctl, mincore, mlock, files of /proc and /sys": """
        file_getattr file_setattr cachestat memfd_secret lsm_get_self_attr lsm_set_self_attr
        lsm_list_modules
    """,
    "numbers that the kernel keeps without a call behind them": """
        _sysctl getpmsg putpmsg afs_syscall tuxcall security vserver epoll_ctl_old epoll_wait_old
        set_thread_area get_thread_area nfsservctl
    """,
}

# CLONE_NEWTIME is missing on purpose: in clone(2) its bit is part of the exit signal.
_NEW_NAMESPACES: Final = 0x7E02_0000  # cgroup, uts, ipc, user, pid, net; and mount
_UNSHARE_HARMLESS: Final = 0x0000_0200 | 0x0000_0400 | 0x0004_0000  # CLONE_FS, CLONE_FILES, CLONE_SYSVSEM

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
# The plain protocols only: each further one (SCTP, DCCP, L2TP, SMC, MPTCP …) is a module that the kernel
# loads on demand for whoever asks. EPROTONOSUPPORT is what a kernel without it says; Go's listeners, which
# try MPTCP first, fall back on it.
_INTERNET: Final = Switch(
    2,
    dict.fromkeys((0, 1, 6, 17, 58), Verdict.ALLOW),  # any, ICMP, TCP, UDP, ICMPv6
    Verdict.EPROTONOSUPPORT,
)
# Routes (getifaddrs), socket diagnosis (ss) and device events (libudev). Refusing NETLINK_AUDIT this way
# also lets su, sudo and cron go on as on a kernel without audit, where EPERM would stop them.
_NETLINK: Final = Switch(2, dict.fromkeys((0, 4, 15), Verdict.ALLOW), Verdict.EPROTONOSUPPORT)

_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423

# PER_LINUX, PER_LINUX32 (uname only), UNAME26, both, ADDR_NO_RANDOMIZE, and the question "which now?".
# Without ADDR_NO_RANDOMIZE neither gdb nor the thread sanitizer works; it weakens its own process alone,
# and exec of a set-user-ID program clears it. READ_IMPLIES_EXEC and the historic layouts stay out.
_PERSONALITIES: Final = (0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0xFFFF_FFFF)

CHECKED: Final[Mapping[str, Rule]] = {
    "clone": AnyBit(0, _NEW_NAMESPACES, Verdict.EPERM, Verdict.ALLOW),
    # An allow-list in both halves: unshare is where new kinds of namespace will appear.
    "unshare": AnyBit(
        0,
        ~_UNSHARE_HARMLESS & 0xFFFF_FFFF,
        Verdict.EPERM,
        AnyBit(0, 0xFFFF_FFFF, Verdict.EPERM, Verdict.ALLOW, high=True),
    ),
    # AF_ALG (CVE-2026-31431), AF_VSOCK (the host's hypervisor), AF_PACKET and all the rare ones are out.
    "socket": Switch(
        0,
        {_AF_UNIX: Verdict.ALLOW, _AF_INET: _INTERNET, _AF_INET6: _INTERNET, _AF_NETLINK: _NETLINK},
        Verdict.EAFNOSUPPORT,
    ),
    # The kernel makes both sockets, loading the family's module, before it finds that no pair is possible.
    "socketpair": Switch(0, {_AF_UNIX: Verdict.ALLOW}, Verdict.EAFNOSUPPORT),
    # Typing into the caller's terminal (CVE-2017-5226), pasting into a console (CVE-2023-28100), and line
    # disciplines, which are loaded on demand and were written for modems (CVE-2017-2636, CVE-2023-6546).
    "ioctl": Switch(1, dict.fromkeys((_TIOCSTI, _TIOCLINUX, _TIOCSETD), Verdict.EPERM), Verdict.ALLOW),
    "personality": Switch(0, dict.fromkeys(_PERSONALITIES, Verdict.ALLOW), Verdict.EPERM),
}

#: To be left out, in tests, like the name of a call: the refusal of other architectures.
FOREIGN: Final = "foreign architectures"

_AUDIT_ARCH: Final = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}


def compile_policy(machine: str, without: Set[str] = frozenset()) -> bytes:
    """The policy as an array of ``struct sock_filter`` for ``machine`` (as ``uname -m`` names it).

    ``without`` names calls that are let through (or ``FOREIGN``): with it a test shows that a defence
    bites, by seeing what happens when it alone is missing. Nobody else passes it but ``init_policy``.
    """
    numbers = syscalls.numbers(machine)
    unknown = without - numbers.keys() - {FOREIGN}
    if unknown:
        raise ValueError(f"cannot leave out what is no system call of {machine}: {sorted(unknown)}")
    verdicts = _verdicts()
    rules: dict[int, Rule] = {
        number: Verdict.ALLOW if name in without else verdicts.get(name, Verdict.EPERM)
        for name, number in numbers.items()
    }
    # A tracer that skips a call sets its number to -1. The kernel then does nothing, and an error from
    # here would overwrite the result which the tracer chose.
    rules[0xFFFF_FFFF] = Verdict.ALLOW
    program = [] if FOREIGN in without else _refuse_other_than(_AUDIT_ARCH[machine])
    program += [_load(_NUMBER_OFFSET), *_tree(_intervals(rules))]
    return _packed(program)


def init_policy(machine: str) -> bytes:
    """What init itself runs under: the policy, and clone3, with which it starts commands in their cgroups.

    Whatever it starts gets ``clone3_guard`` on top. Together the two are ``compile_policy``: of several
    filters the strictest answer counts.
    """
    return compile_policy(machine, without={"clone3"})


def clone3_guard(machine: str) -> bytes:
    """A filter that takes clone3 away and nothing else; load it last, before exec."""
    clone3 = syscalls.numbers(machine)["clone3"]
    allow = _rule(Verdict.ALLOW)
    program = [
        *_refuse_other_than(_AUDIT_ARCH[machine]),
        _load(_NUMBER_OFFSET),
        *_if(_IF_EQUAL, clone3, skip=len(allow)),
        *allow,
        *_rule(Verdict.ENOSYS),
    ]
    return _packed(program)


_EXECUTABLE: Final = 0x4  # PROT_EXEC


#: Memory that no code can be put into.
_DATA_ONLY: Final[Rule] = AnyBit(2, _EXECUTABLE, Verdict.EPERM, Verdict.ALLOW)


def only_ioctls(numbers: Set[int]) -> Rule:
    """The kernel takes the number of an ioctl as 32 bits wide."""
    cases: dict[int, Rule] = dict.fromkeys(numbers, Verdict.ALLOW)
    return Switch(1, cases, Verdict.EPERM)


def allow_list(machine: str, names: Set[str], ioctls: Set[int] = frozenset()) -> bytes:
    """A filter for a process that needs little: ``names``, ``ioctls`` by their numbers, and memory that no
    code can be put into."""
    checked = {"mmap": _DATA_ONLY, "mprotect": _DATA_ONLY}
    return allow_only(machine, names, {**checked, "ioctl": only_ioctls(ioctls)} if ioctls else checked)


def allow_only(machine: str, names: Set[str], checked: Mapping[str, Rule]) -> bytes:
    """A filter that lets ``names`` through, and of ``checked`` what each one's rule does.

    All else is EPERM, or ENOSYS where nsbox does not know the number. A name that this machine has no call
    for is skipped, as aarch64 has none of the older file calls.
    """
    rules: dict[int, Rule] = {
        number: checked.get(name, Verdict.ALLOW if name in names else Verdict.EPERM)
        for name, number in syscalls.numbers(machine).items()
    }
    rules[0xFFFF_FFFF] = Verdict.EPERM  # so that what lies between is a gap like others
    program = [*_refuse_other_than(_AUDIT_ARCH[machine]), _load(_NUMBER_OFFSET), *_tree(_intervals(rules))]
    return _packed(program)


def table(machine: str) -> list[tuple[str, int, str]]:
    """Name, number and verdict of every known call, by number; for people and for tests.

    The verdict is ``allow``, the name of an errno, or ``checked`` where the arguments decide. Numbers that
    are not in the list get ENOSYS.
    """
    verdicts = _verdicts()
    return [
        (name, number, _verdict_text(verdicts.get(name, Verdict.EPERM)))
        for name, number in syscalls.numbers(machine).items()
    ]


def _verdicts() -> dict[str, Rule]:
    groups = ((ALLOWED, Verdict.ALLOW), (REFUSED, Verdict.EPERM), (ABSENT, Verdict.ENOSYS))
    verdicts: dict[str, Rule] = {
        name: verdict for group, verdict in groups for names in group.values() for name in names.split()
    }
    verdicts.update(CHECKED)
    return verdicts


def _verdict_text(rule: Rule) -> str:
    if not isinstance(rule, Verdict):
        return "checked"
    return "allow" if rule is Verdict.ALLOW else rule.name


# ------------------------------------------------------------------------------------ the compiler
#
# An instruction is (code, jump if true, jump if false, k). Jumps count from the next instruction, so a
# piece of program means the same wherever it is put; every piece here ends in a return on every way.
#
# Only plain loads, comparisons and returns are used, and a call's number is decided before any argument is
# looked at: since Linux 5.11 the kernel tries the filter out on every number when it is loaded, and calls
# that are allowed whatever their arguments never run it again.

_Instruction: TypeAlias = tuple[int, int, int, int]

_LOAD, _RETURN, _JUMP = 0x20, 0x06, 0x05  # BPF_LD|BPF_W|BPF_ABS, BPF_RET|BPF_K, BPF_JMP|BPF_JA
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45  # BPF_JMP|BPF_K with BPF_JEQ, BPF_JGE, BPF_JSET
_LONGEST_JUMP = 255  # a condition's two distances have eight bits each; BPF_JA's has 32

# struct seccomp_data: nr, arch, instruction_pointer, args[6]; both machines are little-endian.
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16


class _Interval(NamedTuple):
    """Numbers from ``first`` up to the next interval share one rule."""

    first: int
    rule: Rule


def _intervals(rules: Mapping[int, Rule]) -> list[_Interval]:
    intervals: list[_Interval] = []

    def extend(first: int, rule: Rule) -> None:
        if not intervals or intervals[-1].rule is not rule:
            intervals.append(_Interval(first, rule))

    expected = 0
    for number, rule in sorted(rules.items(), key=lambda item: item[0]):
        if number > expected:
            extend(expected, Verdict.ENOSYS)  # a gap
        extend(number, rule)
        expected = number + 1
    return intervals


def _tree(intervals: list[_Interval]) -> list[_Instruction]:
    """Binary search: a chain of comparisons would be 200 steps long for the newest calls."""
    if len(intervals) == 1:
        return _rule(intervals[0].rule)
    middle = len(intervals) // 2
    below, from_middle = _tree(intervals[:middle]), _tree(intervals[middle:])
    return [*_if(_IF_AT_LEAST, intervals[middle].first, skip=len(below)), *below, *from_middle]


def _rule(rule: Rule) -> list[_Instruction]:
    if isinstance(rule, Verdict):
        return [(_RETURN, 0, 0, rule)]
    program = [_load_argument(rule.argument, high=isinstance(rule, AnyBit) and rule.high)]
    if isinstance(rule, AnyBit):
        otherwise = _rule(rule.otherwise)
        return [*program, *_if(_IF_ANY_BIT, rule.mask, skip=len(otherwise)), *otherwise, *_rule(rule.verdict)]
    for value, chosen in rule.cases.items():
        body = _rule(chosen)
        program += [_unless_equal(value, skip=len(body)), *body]
    return program + _rule(rule.otherwise)


def _refuse_other_than(architecture: int) -> list[_Instruction]:
    refusal = _rule(Verdict.KILL)
    return [_load(_ARCH_OFFSET), *_if(_IF_EQUAL, architecture, skip=len(refusal)), *refusal]


def _if(condition: int, k: int, skip: int) -> list[_Instruction]:
    """Skip the next ``skip`` instructions if the condition holds; by way of a long jump where it is far."""
    if skip <= _LONGEST_JUMP:
        return [(condition, skip, 0, k)]
    return [(condition, 0, 1, k), (_JUMP, 0, 0, skip)]


def _unless_equal(k: int, skip: int) -> _Instruction:
    assert skip <= _LONGEST_JUMP
    return (_IF_EQUAL, 0, skip, k)


def _packed(program: list[_Instruction]) -> bytes:
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _load(offset: int) -> _Instruction:
    return (_LOAD, 0, 0, offset)


def _load_argument(index: int, *, high: bool) -> _Instruction:
    return _load(_ARGUMENTS_OFFSET + 8 * index + 4 * high)
