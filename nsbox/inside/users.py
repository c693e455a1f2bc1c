"""Who a command runs as: names and numbers, looked up in the sandbox's own /etc.

The files belong to the sandbox, so they are read as hostile input: regular files only, the first MiB only,
numbers strictly in range (CVE-2024-9676 and the "wrong user in exec" family).
"""

import os
import stat
from typing import NamedTuple

from nsbox.kernel import libc
from nsbox.kernel.namespaces import SANDBOX_IDS

_LARGEST = 1 << 20


class UnknownUser(Exception):
    """The user or group asked for is not there."""


class Credentials(NamedTuple):
    """What setgroups, setgid and setuid get, and the home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


ROOT = Credentials(0, 0, (), "/root")


def lookup(wanted: str) -> Credentials:
    """The credentials for ``""`` (root), ``name``, ``uid``, ``name:group`` or ``uid:gid``.

    Raises ``UnknownUser``.
    """
    if wanted in ("", "0", "root"):
        return ROOT
    user, _, group = wanted.partition(":")
    accounts = [line.split(":") for line in _lines("/etc/passwd")]
    account = _find(accounts, user, 7)
    if account is None:
        uid = _number(user)
        if uid is None:
            raise UnknownUser(f"the sandbox has no user {user!r}")
        # As runc does: a number that /etc/passwd does not know has the primary group 0.
        name, gid, home = "", 0, "/"
    else:
        name, home = account[0], account[5] or "/"
        uid, gid = _needed(account[2], user), _needed(account[3], user)
    members = [line.split(":") for line in _lines("/etc/group")]
    if group:
        return Credentials(uid, _group(members, group), (), home)
    groups = tuple(
        found
        for row in members
        if len(row) == 4 and name and name in row[3].split(",")
        if (found := _number(row[2])) is not None
    )
    return Credentials(uid, gid, groups[:64], home)


def _group(rows: list[list[str]], group: str) -> int:
    row = _find(rows, group, 4)
    found = _number(group) if row is None else _number(row[2])
    if found is None:
        raise UnknownUser(f"the sandbox has no group {group!r}")
    return found


def _needed(text: str, user: str) -> int:
    number = _number(text)
    if number is None:
        raise UnknownUser(f"the sandbox's /etc/passwd gives {user!r} the id {text[:20]!r}")
    return number


def _number(text: str) -> int | None:
    """A decimal in 0..65535; ``int`` alone would take ``+1``, ``1_0``, spaces, other scripts' digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        return None
    number = int(text)
    return number if number < SANDBOX_IDS else None


def _find(rows: list[list[str]], key: str, width: int) -> list[str] | None:
    """The row of that name, else of that number: a name may consist of digits, and then it is a name."""
    exact = [row for row in rows if len(row) == width and row[0] == key]
    number = _number(key)
    by_number = [
        row for row in rows if len(row) == width and number is not None and _number(row[2]) == number
    ]
    return next(iter(exact + by_number), None)


def _lines(path: str) -> list[str]:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = libc.openat2(libc.AT_FDCWD, path.encode(), flags, resolve=libc.RESOLVE_NO_MAGICLINKS)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        return os.read(descriptor, _LARGEST).decode("utf-8", "replace").split("\n")
    except OSError:
        return []
    finally:
        os.close(descriptor)
