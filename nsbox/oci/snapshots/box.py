"""The box in which trees that a sandbox has filled are read: as that of an unpacker (docs/adr/0035), with
other trees.

Whoever reads is root of a sandbox's ids, can name nothing, and has the trees it is given by descriptors, each
a mount of its own whose ``..`` ends at its top. It has no network, hardly any capability, and a short list
of system calls. What it says is believed only as far as its form goes.
"""

import gc
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias

import prctl

from nsbox.inside import privileges
from nsbox.kernel import capabilities, libc, mounts, namespaces, seccomp
from nsbox.oci.unpacking import walls
from nsbox.oci.unpacking.refusal import Reason, Refused, reported

_QUIET = libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV | libc.MOUNT_ATTR_NOEXEC
#: Address space: Python's own, and what a tree's names and hard links may take.
_MEMORY = 512 << 20

_STAGING = "/tmp"  # noqa: S108 - any folder that is there; what lies in it is not touched
_MAPPED = b"mapped"
_ORDER_BYTES = 65_536
#: What one message can carry is 253 descriptors (SCM_MAX_FD); a stack has 127 layers.
_MOST_TREES = 200

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
    """What of the box differs: what the child may do, how much it may say, how much it may have open."""

    writes: bool
    report_bytes: int = 16_384
    descriptors: int = 1_024


class Given(NamedTuple):
    """What a child has: ``trees``, each a mount of its own and attached nowhere, one descriptor more or -1,
    and what it was told."""

    trees: list[int]
    kept: int
    told: dict[str, Any]


Work: TypeAlias = Callable[[Given], dict[str, Any]]


def picture(folder: int, *, writable: bool = False) -> int:
    """The folder as a mount of its own, attached nowhere. In the outer namespace."""
    tree = libc.open_tree(folder, b".")
    attributes = _QUIET if writable else _QUIET | libc.MOUNT_ATTR_RDONLY
    libc.mount_setattr(tree, b"", attributes, flags=libc.AT_EMPTY_PATH)
    return tree


def run(
    trees: Sequence[int], work: Work, bounds: Walls, *, seconds: float, hang_up: int, kept: int = -1
) -> dict[str, Any]:
    """Make a child and have it do ``work``: see ``Child.run``."""
    with Child(work, bounds) as child:
        return child.run(trees, seconds=seconds, hang_up=hang_up, kept=kept)


class Child:
    """A process in namespaces of its own, which waits for what it is to do ``work`` on. To make it takes
    longer than a small tree does, so it may be made before anybody knows of which tree. As a context: nothing
    of it is left at the end.

    Raises ``OSError``.
    """

    def __init__(self, work: Work, bounds: Walls) -> None:
        self._bounds = bounds
        self._order, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        with theirs:
            self._pid = libc.clone3(walls.FLAGS)
            if self._pid == 0:
                os.close(self._reader)
                self._order.close()
                _child(theirs, writer, work, bounds)
        os.close(writer)
        try:
            namespaces.write_sandbox_maps(self._pid)
            self._order.send(_MAPPED)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing of it is left."""
        if self._pid:
            self._end()
        self._order.close()
        os.close(self._reader)

    def run(
        self,
        trees: Sequence[int],
        *,
        seconds: float,
        hang_up: int,
        kept: int = -1,
        told: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What it says; once. When the other end of the socket ``hang_up`` is closed, the work is given up.

        Raises ``Refused``, ``Gone``, ``OSError``.
        """
        deadline = time.monotonic() + seconds
        order = {"trees": len(trees), "seconds": seconds, "told": dict(told or {})}
        descriptors = [*trees, kept] if kept >= 0 else trees
        try:
            socket.send_fds(self._order, [json.dumps(order).encode()], list(descriptors))
            said = _listen(self._reader, hang_up, deadline, self._bounds.report_bytes)
        finally:
            status, used = self._end()
        # The kernel's limit of processor time is the same number, and ends the child without a word.
        if said is None or used >= seconds:
            raise Refused(Reason.TIME, f"it took more than {seconds:g} s")
        return _understood(said, status)

    def _end(self) -> tuple[int, float]:
        """Its status, and the seconds of processor time it took."""
        # It is process 1 of its pid namespace, so nothing of it can be left.
        os.kill(self._pid, signal.SIGKILL)
        _, status, usage = os.wait4(self._pid, 0)
        self._pid = 0
        return status, usage.ru_utime + usage.ru_stime


def _child(orders: socket.socket, report: int, work: Work, bounds: Walls) -> NoReturn:
    try:
        said = json.dumps(_tried(orders, report, work, bounds)).encode()
        rest = memoryview(b"\n" + said + b"\n")
        while rest:
            rest = rest[os.write(report, rest) :]
    finally:
        os._exit(0)


def _tried(orders: socket.socket, report: int, work: Work, bounds: Walls) -> dict[str, Any]:
    try:
        if orders.recv(len(_MAPPED)) != _MAPPED:
            raise OSError(0, "the caller is gone")
        namespaces.become_root()
        privileges.die_with_parent(signal.SIGKILL)
        # What Python or libc would say at their end must not get into a file that is open as 0, 1 or 2.
        for stream in (0, 1, 2):
            os.dup2(report, stream)
        gc.disable()
        calls = f"{_READING} {_WRITING}" if bounds.writes else _READING
        ioctls = frozenset({FICLONE}) if bounds.writes else frozenset[int]()
        policy = seccomp.allow_list(os.uname().machine, frozenset(calls.split()), ioctls)
        _leave_every_file()
        given, seconds = _given(orders)
        _confine({0, 1, 2, report, given.kept, *given.trees}, bounds, seconds)
        libc.seccomp_filter(policy)
        return work(given)
    except Exception as error:
        return reported(error, "reading what the sandbox has written")


def _leave_every_file() -> None:
    """What can be named from here on is one empty folder; trees are reached by their descriptors.

    Before the order comes, since letting go of the old root takes milliseconds. Nothing can be imported any
    more.
    """
    mounts.make_private()
    mounts.mount_empty(_STAGING)
    mounts.pivot_onto(_STAGING)


def _given(orders: socket.socket) -> tuple[Given, float]:
    """What ``Child.run`` was called with, when it is."""
    data, descriptors, _, _ = socket.recv_fds(orders, _ORDER_BYTES, _MOST_TREES + 1)
    if not data:
        raise OSError(0, "the caller is gone")
    order = json.loads(data)
    trees, rest = descriptors[: order["trees"]], descriptors[order["trees"] :]
    return Given(trees, rest[0] if rest else -1, order["told"]), order["seconds"]


def _confine(descriptors: set[int], bounds: Walls, allowed: float) -> None:
    """Give up everything else, but for system calls."""
    privileges.close_all_but(descriptors - {-1})
    seconds = int(allowed) + 1
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
