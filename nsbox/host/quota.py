"""The pool of projects that ``nsbox setup`` has limited, and taking one for a sandbox.

No list of the projects in use is kept: a directory that has just been given a project is the only inode that
counts for it, or else somebody else has it still. So neither a restart nor a slow deletion can make two
sandboxes share one, and a pool whose quotas are no longer in force is found out at the next use.
"""

from __future__ import annotations

import errno
import os

import msgspec

from nsbox.kernel import projects
from nsbox.plan import storage

#: In the state folder, written by root. What it says is not believed but seen: df shows the limit or not.
FILE = "quota.json"
#: Projects of sizes other than the default.
OTHERS = 96
#: Far from what people number by hand (/etc/projid); then a part for each account.
_FIRST, _PART, _PARTS = 0x4E00_0000, 0x8000, 0x1000


class SizeClass(msgspec.Struct, frozen=True):
    """``count`` projects from ``first`` on, each limited to ``size`` bytes and ``inodes``."""

    size: int
    inodes: int
    first: int
    count: int


class Pool(msgspec.Struct, frozen=True):
    """All classes of one state folder."""

    classes: tuple[SizeClass, ...]

    @property
    def count(self) -> int:
        return sum(one.count for one in self.classes)


def laid_out(uid: int, sizes: list[int], default: int, many: int) -> Pool:
    """The pool of an account: ``many`` projects of the class nearest to ``default``, fewer of the others.

    Two accounts may get the same numbers (uids 4096 apart). They would not disturb each other: see above.
    """
    usual = storage.nearest(sizes, default)
    first = _FIRST + uid % _PARTS * _PART
    classes = []
    for size in sizes:
        count = many if size == usual else OTHERS
        classes.append(SizeClass(size, storage.inodes(size), first, count))
        first += count
    return Pool(tuple(classes))


def load(state_dir: str) -> Pool | None:
    """The pool that was prepared, if one was."""
    try:
        with open(os.path.join(state_dir, FILE), "rb") as file:
            return msgspec.json.decode(file.read(), type=Pool)
    except (OSError, msgspec.DecodeError):
        return None


class NotInForceError(Exception):
    """The file system does not limit the pool's projects (any more)."""


class Projects:
    """Hands out projects. One at a time: not for several threads."""

    def __init__(self, pool: Pool) -> None:
        self._classes = {one.size: one for one in pool.classes}
        self._next: dict[int, int] = {}

    def take(self, directory: int, wanted: int) -> SizeClass | None:
        """Give a new, empty directory a project of about ``wanted`` bytes that nothing else counts for.

        None: no class is near enough, or all of its projects are in use; the directory may be left with one
        that is. Raises ``NotInForceError``.
        """
        size = storage.nearest(self._classes, wanted)
        if size is None:
            return None
        one = self._classes[size]
        for _ in range(one.count):
            index = self._next.get(size, 0)
            self._next[size] = (index + 1) % one.count
            if _is_sole(directory, one, one.first + index):
                return one
        return None


def _is_sole(directory: int, one: SizeClass, project: int) -> bool:
    try:
        projects.give(directory, project)
    except OSError as error:
        if error.errno == errno.EDQUOT:
            return False  # full, so in use
        raise NotInForceError(f"no project can be given: {os.strerror(error.errno or 0)}") from error
    shown = projects.shown(directory)
    if shown.size > one.size or shown.inodes > one.inodes:
        raise NotInForceError(f"project {project} has no limit; it was set up with {one.size} bytes")
    return shown.used_inodes == 1


def probe(state_dir: str, pool: Pool) -> str | None:
    """Why the pool cannot be used, as seen by giving a project to a directory; None where it can."""
    place = os.path.join(state_dir, f".nsbox-quota-{os.getpid()}")
    try:
        os.mkdir(place, 0o700)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = Projects(pool).take(directory, pool.classes[0].size)
        finally:
            os.close(directory)
            os.rmdir(place)
    except (OSError, NotInForceError) as error:
        return str(error)
    return None if found is not None else "all its projects of one size are in use, or none is limited"
