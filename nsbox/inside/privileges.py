"""Giving up, for good, what a sandbox's init and its commands must not have."""

import os
import resource
from collections.abc import Iterable

from nsbox.kernel import capabilities, libc

_COMMAND_DESCRIPTORS = 65_536
#: The soft limit: programs that use select(2) break with more.
_SELECTABLE = 1024


def limit_descriptors() -> None:
    """Give this process, and the commands it will start, at most half the descriptors that init has.

    The kernel counts descriptors in flight on unix sockets for each user, against the sender's RLIMIT_NOFILE,
    and all sandboxes share their users: what one sandbox's commands can bring that count to must leave room
    for the inits of all (ETOOMANYREFS, unix(7)). keeper has raised init's as far as the host allows.
    """
    _, most = resource.prlimit(1, resource.RLIMIT_NOFILE)
    hard = min(_COMMAND_DESCRIPTORS, most // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_SELECTABLE, hard), hard))


def limit(pid: int, rlimits: Iterable[str]) -> None:
    """Apply ``NUMBER=SOFT:HARD`` pairs to a process. A hard limit of the host that is lower stays."""
    for pair in rlimits:
        number, values = pair.split("=")
        soft, hard = (int(value) for value in values.split(":"))
        _, highest = resource.prlimit(pid, int(number))
        if highest != resource.RLIM_INFINITY:
            hard = min(hard, highest)
        resource.prlimit(pid, int(number), (min(soft, hard), hard))


def promise(gone: capabilities.Gone) -> None:
    """Give up what can be given up while mounts are still to be made: what an exec could bring."""
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    capabilities.confine(gone)


def drop(gone: capabilities.Gone, program: libc.Filter) -> None:
    """Let go of all capabilities but those that commands may have, and load the system call filter.

    The filter comes last, since it refuses what the steps before it call. With no_new_privs it needs no
    capability; a template without them would have to load it first.
    """
    capabilities.release(gone)
    libc.seccomp_filter(program)


def become(uid: int, gid: int, groups: Iterable[int]) -> None:
    """Take on a user's ids for good, and stay out of sight of that user's other processes."""
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    libc.stay_hidden()


def divide(kinds: Iterable[int], share: int) -> None:
    """Lower these limits of the calling process to a part of what they are. A user namespace that it makes
    is bounded by them as a whole (kernel/user_namespace.c), whatever its processes set for themselves."""
    for kind in kinds:
        soft, hard = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(kind, (max(1, soft // share), hard))


def die_with_parent(signal_number: int) -> None:
    """Ask for ``signal_number`` when the parent dies. After every change of ids, which clears it."""
    libc.prctl(libc.PR_SET_PDEATHSIG, signal_number)


def name_process(name: str) -> None:
    """What ps shows of a process that was forked and not exec'd. keeper has replaced the command line."""
    libc.set_name(name.encode())


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor that is not in ``kept``, known to Python or not (CVE-2024-21626)."""
    first = 0
    for descriptor in sorted(kept):
        if descriptor > first:
            libc.close_range(first, descriptor - 1)
        first = descriptor + 1
    libc.close_range(first)


def redirect_standard_streams() -> None:
    """0, 1 and 2 become /dev/null, so that no stray write reaches the daemon's log or terminal."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)
