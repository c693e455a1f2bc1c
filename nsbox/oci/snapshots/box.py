"""The box in which trees that a sandbox has filled are read: as that of an unpacker (docs/adr/0035), with
other trees.

Whoever reads is root of a sandbox's ids, sees nothing but the trees it is given, each a mount of its own
whose ``..`` ends at its top, has no network, hardly any capability, and a short list of system calls. What
it says is believed only as far as its form goes.
"""

import gc
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import prctl

from nsbox.inside import privileges
from nsbox.kernel import capabilities, libc, namespaces, seccomp
from nsbox.oci.unpacking import walls
from nsbox.oci.unpacking.refusal import Reason, Refused, reported

_QUIET = libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV | libc.MOUNT_ATTR_NOEXEC
#: Address space: Python's own, and what a tree's names and hard links may take.
_MEMORY = 512 << 20

_READING = """
    read pread64 write close lseek openat fstat newfstatat statx getdents64 readlinkat fstatfs
    fgetxattr flistxattr fcntl dup
    brk munmap mremap madvise futex getrandom clock_gettime gettimeofday getrusage getpid gettid
    rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall sched_yield exit exit_group
    open stat lstat readlink poll ppoll
"""
_WRITING = """
    pwrite64 copy_file_range ftruncate mkdirat mknodat symlinkat linkat unlinkat
    fchown fchownat fchmod fchmodat utimensat fsetxattr
    mkdir unlink rmdir symlink link mknod
"""
#: linux/fs.h: _IOW(0x94, 9, int).
FICLONE = 0x4004_9409


class Gone(Exception):
    """Nobody waits for the result any more."""


class Walls(NamedTuple):
    """What of the box differs: what the child may do, how long it may take, how much it may say."""

    writes: bool
    seconds: float
    report_bytes: int = 16_384
    descriptors: int = 1_024


def picture(folder: int, *, writable: bool = False) -> int:
    """The folder as a mount of its own, attached nowhere. In the outer namespace."""
    tree = libc.open_tree(folder, b".")
    attributes = _QUIET if writable else _QUIET | libc.MOUNT_ATTR_RDONLY
    libc.mount_setattr(tree, b"", attributes, flags=libc.AT_EMPTY_PATH)
    return tree


def run(
    trees: Sequence[int], work: Callable[[], dict[str, Any]], bounds: Walls, *, hang_up: int, kept: int = -1
) -> dict[str, Any]:
    """Have a child do ``work`` and give back what it says. The first of ``trees`` is all that it can name,
    the others it reaches by their descriptors, and ``kept`` is one more that it may use.

    When the other end of the socket ``hang_up`` is closed, the work is given up. Raises ``Refused``,
    ``Gone``, ``OSError``.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    mapped, tell = os.pipe2(os.O_CLOEXEC)
    deadline = time.monotonic() + bounds.seconds
    pid = libc.clone3(walls.FLAGS)
    if pid == 0:
        os.close(tell)
        os.close(reader)
        _child(mapped, writer, trees, kept, work, bounds)
    try:
        os.close(writer)
        os.close(mapped)
        namespaces.write_sandbox_maps(pid)
        os.write(tell, b"x")
        said = _listen(reader, hang_up, deadline, bounds.report_bytes)
    finally:
        # It is process 1 of its pid namespace, so nothing of it can be left.
        os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        os.close(tell)
        os.close(reader)
    # The kernel's limit of processor time is the same number, and ends the child without a word.
    if said is None or usage.ru_utime + usage.ru_stime >= bounds.seconds:
        raise Refused(Reason.TIME, f"it took more than {bounds.seconds:g} s")
    return _understood(said, status)


def _child(
    mapped: int,
    report: int,
    trees: Sequence[int],
    kept: int,
    work: Callable[[], dict[str, Any]],
    bounds: Walls,
) -> NoReturn:
    try:
        said = json.dumps(_tried(mapped, report, trees, kept, work, bounds)).encode()
        rest = memoryview(b"\n" + said + b"\n")
        while rest:
            rest = rest[os.write(report, rest) :]
    finally:
        os._exit(0)


def _tried(
    mapped: int,
    report: int,
    trees: Sequence[int],
    kept: int,
    work: Callable[[], dict[str, Any]],
    bounds: Walls,
) -> dict[str, Any]:
    try:
        if os.read(mapped, 1) != b"x":
            raise OSError(0, "the caller is gone")
        namespaces.become_root()
        privileges.die_with_parent(signal.SIGKILL)
        # What Python or libc would say at their end must not get into a file that is open as 0, 1 or 2.
        for stream in (0, 1, 2):
            os.dup2(report, stream)
        gc.disable()
        walls.enter(os.dup(trees[0]))
        _confine({0, 1, 2, report, kept, *trees[1:]}, bounds)
        return work()
    except Exception as error:
        return reported(error, "reading what the sandbox has written")


def _confine(descriptors: set[int], bounds: Walls) -> None:
    """Give up everything else. Nothing can be imported any more."""
    privileges.close_all_but(descriptors - {-1})
    seconds = int(bounds.seconds) + 1
    for number, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, bounds.descriptors),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, _MEMORY),
    ):
        resource.setrlimit(number, (most, most))
    prctl.set_dumpable(0)
    prctl.set_no_new_privs(1)
    capabilities.drop_to(walls.KEPT if bounds.writes else {prctl.CAP_DAC_READ_SEARCH})
    calls = f"{_READING} {_WRITING}" if bounds.writes else _READING
    ioctls = frozenset({FICLONE}) if bounds.writes else frozenset[int]()
    libc.seccomp_filter(seccomp.allow_list(os.uname().machine, frozenset(calls.split()), ioctls))


def _listen(reader: int, hang_up: int, deadline: float, most: int) -> bytes | None:
    """What the child says until it ends; None when it does not in time. Raises ``Gone``."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(hang_up, select.POLLRDHUP)
    pieces: list[bytes] = []
    size = 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        for descriptor, _ in poll.poll(left * 1000):
            if descriptor == hang_up:
                raise Gone
            piece = os.read(reader, 65_536)
            pieces.append(piece)
            size += len(piece)
            if not piece or size > most:
                return b"".join(pieces)


def _understood(said: bytes, status: int) -> dict[str, Any]:
    last = said.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        told = json.loads(last)
        if not isinstance(told, dict):
            raise TypeError
        if set(told) == {"reason", "detail"}:
            raise Refused(Reason(told["reason"]), str(told["detail"])[:1000])
    except (ValueError, TypeError, RecursionError):
        detail = f"the reader ended with status {status}: {said[-300:].decode('utf-8', 'replace')}"
        raise Refused(Reason.INTERNAL, detail) from None
    return told
