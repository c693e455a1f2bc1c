"""Reduce the calling process to the capabilities that a sandbox's root keeps.

Which ways lead to a capability, and what closes each: an exec as root takes from the bounding set; an exec
of a file with capabilities takes from bounding, and from inheritable (CVE-2022-29162: a set that is not
empty by default comes back that way); an exec as anybody takes from ambient; and until the next exec there
is what the process holds. So all five sets are brought down, for every capability the kernel has.
"""

import errno
from collections.abc import Collection
from typing import Final, NamedTuple

import prctl

from nsbox.kernel import libc

#: What Podman leaves to a container's root: enough for package managers and servers. No MKNOD, NET_RAW or
#: AUDIT_WRITE, which Docker adds, and nothing that reaches past the sandbox's own namespaces.
KEPT: Final[frozenset[int]] = frozenset(
    {
        prctl.CAP_CHOWN,
        prctl.CAP_DAC_OVERRIDE,
        prctl.CAP_FOWNER,
        prctl.CAP_FSETID,
        prctl.CAP_KILL,
        prctl.CAP_NET_BIND_SERVICE,
        prctl.CAP_SETFCAP,
        prctl.CAP_SETGID,
        prctl.CAP_SETPCAP,
        prctl.CAP_SETUID,
        prctl.CAP_SYS_CHROOT,
    }
)

_HIGHEST_POSSIBLE: Final = 63  # a capability set has 64 bits

_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECUREBITS: Final = 28  # prctl.set_securebits refuses the ambient bits
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_NO_CAP_AMBIENT_RAISE: Final = 1 << 6
_NO_CAP_AMBIENT_RAISE_LOCKED: Final = 1 << 7

#: NOROOT stays off, and is locked there: with it uid 0 would gain nothing at exec, and commands that run as
#: root would lose even the kept capabilities. NO_SETUID_FIXUP likewise: without the fix-up a process that
#: becomes an ordinary user would go on as a powerful one. Ambient capabilities, the one way past exec
#: without root, are off for good. KEEP_CAPS is left alone: it ends with the next exec, and daemons that
#: bind a low port and then leave root (named, chronyd) do not start when they may not set it.
SECUREBITS: Final[int] = (
    prctl.SECBIT_NOROOT_LOCKED
    | prctl.SECBIT_NO_SETUID_FIXUP_LOCKED
    | _NO_CAP_AMBIENT_RAISE
    | _NO_CAP_AMBIENT_RAISE_LOCKED
)


class Gone(NamedTuple):
    """Capabilities to give up: those that are held, and those that are inheritable, which is all."""

    held: list[int]
    inheritable: list[int]


def drop_to(kept: Collection[int] = KEPT) -> None:
    """Leave the calling process ``kept`` in permitted, effective and bounding, and nothing elsewhere.

    For a single-threaded process (capabilities belong to threads) that is root with all capabilities in its
    user namespace. Cannot be undone, and repeating it does no harm as long as SETPCAP is kept. The order
    is forced: bounding set and securebits are changed with CAP_SETPCAP, so what is held goes last.
    """
    gone = all_but(kept)
    confine(gone)
    release(gone)


def all_but(kept: Collection[int] = KEPT) -> Gone:
    """What is to be given up on this kernel, also what python-prctl has no name for, because the running
    kernel is newer than its headers.

    The kernel itself says where its list ends; /proc/sys/kernel/cap_last_cap need not be mounted.
    """
    held = []
    for capability in range(_HIGHEST_POSSIBLE + 1):
        try:
            libc.prctl(_PR_CAPBSET_READ, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # beyond the last one
                break
            raise
        if capability not in kept:
            held.append(capability)
    return Gone(held, [*held, *kept])


def confine(gone: Gone) -> None:
    """The first part of ``drop_to``: an exec can bring nothing of ``gone``; what is held stays."""
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    held, _ = gone
    for capability in held:
        libc.prctl(_PR_CAPBSET_DROP, capability)
    libc.prctl(_PR_SET_SECUREBITS, SECUREBITS)


def release(gone: Gone) -> None:
    """The second part of ``drop_to``: give up what is held, in all three sets by one capset(2).

    ``prctl.set_caps`` refuses numbers above those of its own headers, so this goes to the function it wraps,
    which passes them on to libcap. Its arguments: what to set in effective, permitted and inheritable, and
    what to clear there. All at once, since effective may never exceed permitted (EPERM).
    """
    held, inheritable = gone
    prctl._prctl.set_caps([], [], [], held, held, inheritable)
