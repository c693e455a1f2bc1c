"""Landlock: a process gives up rights on files, ports and other processes, for itself and all it starts.

No privilege is needed but no_new_privs. The kernel grows by ABI versions; what one does not know may not be
asked for, so a set of rules is made of what is known here and there. Layouts and bits are those of the
kernel's linux/landlock.h; see landlock(7).

A right is looked at when something is opened by its path. What is open already, and what comes over a socket,
keeps the rights that it was opened with; pipes, sockets and memfds have no path and are not meant.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator
from enum import IntFlag
from typing import Final

from nsbox.kernel import libc

_VERSION: Final = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH, _NET_PORT = 1, 2
#: Packed in the kernel's header: twelve bytes.
_PATH_RULE, _PORT_RULE = struct.Struct("=Qi"), struct.Struct("=QQ")


class Files(IntFlag):
    """What is done with files: LANDLOCK_ACCESS_FS_*."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


_BIND_TCP: Final = 1  # LANDLOCK_ACCESS_NET_BIND_TCP


class Scope(IntFlag):
    """What is no longer reached outside of the process and those it starts: LANDLOCK_SCOPE_*."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


READ: Final = Files.READ_FILE | Files.READ_DIR
#: Of a rule about a file that is no directory only these are taken: others are EINVAL.
_OF_FILES: Final = Files.EXECUTE | Files.WRITE_FILE | Files.READ_FILE | Files.TRUNCATE | Files.IOCTL_DEV
#: ABI version → the rights on files that came with it.
_SINCE: Final = (
    (1, Files(Files.REFER - 1)),
    (2, Files.REFER),  # before, nothing could be renamed into another directory at all
    (3, Files.TRUNCATE),
    (5, Files.IOCTL_DEV),
)
_NETWORK_SINCE, _SCOPES_SINCE = 4, 6


def version() -> int:
    """The ABI of the kernel's Landlock; 0 where it has none or was started without."""
    try:
        return libc.landlock_create_ruleset(None, _VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, 0):  # 0: a machine unknown to libc.py
            return 0
        raise


def known(abi: int) -> Files:
    """All rights on files that this ABI can take away."""
    found = Files(0)
    for since, rights in _SINCE:
        if abi >= since:
            found |= rights
    return found


def attributes(abi: int, scopes: Scope) -> bytes:
    """struct landlock_ruleset_attr, as long as this ABI has it: longer is E2BIG."""
    words = [int(known(abi))]
    if abi >= _NETWORK_SINCE:
        words.append(_BIND_TCP)
    if abi >= _SCOPES_SINCE:
        words.append(int(scopes))
    return struct.pack(f"={len(words)}Q", *words)


class Ruleset:
    """Rules being made: at first nothing is allowed. The descriptor is a context manager's."""

    def __init__(self, abi: int, scopes: Scope) -> None:
        self._abi = abi
        self.descriptor = libc.landlock_create_ruleset(attributes(abi, scopes))

    def allow(self, path: str, rights: Files) -> bool:
        """``rights`` on ``path`` and on all below it. False if there is no such path: there is nothing to be
        allowed then. Symbolic links are followed, as whoever opens the path will."""
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            rights &= known(self._abi)
            if not _is_directory(descriptor):
                rights &= _OF_FILES
            libc.landlock_add_rule(self.descriptor, _PATH_BENEATH, _PATH_RULE.pack(rights, descriptor))
        finally:
            os.close(descriptor)
        return True

    def allow_port(self, port: int) -> None:
        """Listening on a TCP port. Ports that are not named are not bound, where the kernel can tell."""
        if self._abi >= _NETWORK_SINCE:
            libc.landlock_add_rule(self.descriptor, _NET_PORT, _PORT_RULE.pack(_BIND_TCP, port))

    def enforce(self) -> None:
        """From here on, for this thread: call it before there are others."""
        libc.landlock_restrict_self(self.descriptor)


@contextlib.contextmanager
def ruleset(abi: int, scopes: Scope) -> Iterator[Ruleset]:
    """Rules, to be enforced within."""
    made = Ruleset(abi, scopes)
    try:
        yield made
    finally:
        os.close(made.descriptor)


def _is_directory(descriptor: int) -> bool:
    return os.fstat(descriptor).st_mode & 0o170000 == 0o040000
