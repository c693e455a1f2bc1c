"""Identity maps and the order in which a process becomes root of a user namespace.

Two maps exist. The *outer* namespace (keeper): 0 is the daemon's user, 1..65536 its subuid range. A
*sandbox* namespace: 0..65535 are the outer 1..65536, so that a sandbox's root is never the daemon's user.
"""

import os
from typing import NamedTuple

from nsbox.kernel import libc

#: How many ids a sandbox has: 0..65535, what Debian's base-passwd and nobody (65534) need.
SANDBOX_IDS = 65_536
#: Where a sandbox's ids begin in the outer namespace.
OUTER_OFFSET = 1

#: Everything a sandbox has of its own, but the cgroup namespace: that one is unshared by the blank itself,
#: since clone3 roots it at the *parent's* cgroup even with CLONE_INTO_CGROUP.
SANDBOX_FLAGS = (
    libc.CLONE_NEWUSER
    | libc.CLONE_NEWNS
    | libc.CLONE_NEWPID
    | libc.CLONE_NEWNET
    | libc.CLONE_NEWIPC
    | libc.CLONE_NEWUTS
)
#: keeper is process 1 of a pid namespace: when it dies, however it dies, the kernel ends all it made.
KEEPER_FLAGS = libc.CLONE_NEWUSER | libc.CLONE_NEWNS | libc.CLONE_NEWPID


class IdRange(NamedTuple):
    """A line of /etc/subuid or /etc/subgid: ``length`` ids from ``start`` on."""

    start: int
    length: int


def owner_of(number: int) -> int:
    """Which outer id makes the namespaces of box ``number``.

    The kernel counts inotify instances, queues, pending signals and locked memory for an id in its namespace,
    then for the id that *made* that namespace, and so on to the daemon's user (kernel/ucount.c). Were all
    sandboxes made by one id, they would be one in the middle. Made by one each, what one of them takes is
    counted there for all its 65,536 ids together, and can be bounded. Nothing runs under such an id in the
    outer namespace, where it would have all rights over the sandbox's.
    """
    return OUTER_OFFSET + number % SANDBOX_IDS


def write_sandbox_maps(pid: int) -> None:
    """Give a blank its ids. keeper may: it has CAP_SETUID and CAP_SETGID in the parent namespace."""
    line = f"0 {OUTER_OFFSET} {SANDBOX_IDS}".encode()
    for name in ("uid_map", "gid_map"):
        # One write(2): the kernel takes a map only whole and only once (user_namespaces(7)).
        descriptor = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def outer_map_arguments(pid: int, own_id: int, subordinate: IdRange) -> list[str]:
    """The arguments of newuidmap or newgidmap for keeper's namespace."""
    return [str(pid), "0", str(own_id), "1", str(OUTER_OFFSET), str(subordinate.start), str(SANDBOX_IDS)]


def become_root() -> None:
    """Take on ids 0 of the namespace that was just mapped, with no supplementary groups.

    Groups first: after setuid the right to change them is still there (we are root of the namespace), but a
    group left over from the daemon's user would show as 65534 and grant access to its files.
    """
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    libc.stay_hidden()
