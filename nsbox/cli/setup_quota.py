"""``sudo nsbox setup``, the part for storage: a pool of project quotas, and a file system that has them.

Only root can limit a project. So it is done once, for a table of sizes; afterwards the daemon, an ordinary
user, gives its own directories projects of this pool.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from nsbox.host import facts, quota
from nsbox.kernel import libc
from nsbox.model.errors import HostProblem
from nsbox.plan import storage
from nsbox.settings import Settings


class QuotaPool:
    """Limits for the projects of the pool, and the file that names them to the daemon."""

    def __init__(self, user: str, settings: Settings) -> None:
        self.user, self.folder = user, settings.state_dir
        self._bound, self._many = settings.storage_mb, settings.max_sandboxes
        self.title = f"a pool of project quotas for {self.folder}"

    @property
    def path(self) -> str:
        return os.path.join(self.folder, quota.FILE)

    def _pool(self) -> quota.Pool:
        try:
            uid = pwd.getpwnam(self.user).pw_uid
        except KeyError:
            uid = 0  # a dry run before the account is made: its numbers come with it
        sizes = storage.sizes(self._bound.low, self._bound.high)
        return quota.laid_out(uid, sizes, self._bound.default * storage.MIB, self._many)

    def is_done(self) -> bool:
        """The file says it and the kernel agrees, for each class's last project: they are set in order."""
        pool = self._pool()
        if quota.load(self.folder) != pool:
            return False
        try:
            with _opened(self.folder) as directory:
                if not libc.project_quotas_enforced(directory):
                    return False  # quotaoff was here
                found = [libc.get_project_quota(directory, one.first + one.count - 1) for one in pool.classes]
        except OSError:
            return False
        return all(
            (seen.size, seen.inodes) == (one.size, one.inodes)
            for seen, one in zip(found, pool.classes, strict=True)
        )

    def commands(self) -> Sequence[str]:
        pool = self._pool()
        first, last = pool.classes[0], pool.classes[-1]
        return [
            *([] if self._enforced() else ["put the file system's project quotas in force (`quotaon -P`)"]),
            f"limit the projects {first.first} to {last.first + last.count - 1} of the file system of "
            f"{self.folder}: {len(pool.classes)} sizes from {first.size >> 20} to {last.size >> 20} MiB",
            f"write {self.path}",
        ]

    def apply(self) -> None:
        if not os.path.isdir(self.folder):
            raise HostProblem(
                f"there is no state folder {self.folder}, where the pool is written down",
                remedy="start `nsbox serve` once as its user, or let `sudo nsbox setup` make it",
            )
        pool = self._pool()
        self._enforce()
        self._limit((number, one.size, one.inodes) for number, one in _projects(pool))
        text = msgspec.json.format(msgspec.json.encode(pool)) + b"\n"
        try:
            with _opened(self.folder) as directory:
                _put(directory, quota.FILE, text)
        except OSError as error:
            raise HostProblem(f"{self.path} cannot be written: {error.strerror}") from error

    def undo_commands(self) -> Sequence[str]:
        return [f"take the limits of the projects of {self.user} away", f"remove {self.path}"]

    def is_undone(self) -> bool:
        return not os.path.lexists(self.path)

    def undo(self) -> None:
        """Take the limits away. What counts for the projects stays counted until it is deleted.

        Of the projects that the account is given by number, not of those that the file names: the folder is
        the account's, which could have put another file there, with projects of somebody else's.
        """
        self._limit((number, 0, 0) for number, _ in _projects(self._pool()))
        os.unlink(self.path)

    def _enforced(self) -> bool:
        try:
            with _opened(self.folder) as directory:
                return libc.project_quotas_enforced(directory)
        except OSError:
            return True  # unknown: a file system without them, or a dry run that is not root's

    def _enforce(self) -> None:
        if self._enforced():
            return
        try:
            with _opened(self.folder) as directory:
                libc.enforce_project_quotas(directory)
        except OSError as error:
            raise HostProblem(
                f"project quotas cannot be put in force on the file system of {self.folder}: {error}",
                remedy="mount it with the option prjquota; docs/operations.md, Disk, says how",
            ) from error

    def _limit(self, wanted: Iterable[tuple[int, int, int]]) -> None:
        with _opened(self.folder) as directory:
            for project, size, inodes in wanted:
                try:
                    libc.set_project_quota(directory, project, size, inodes)
                except OSError as error:
                    raise HostProblem(
                        f"project {project} cannot be limited on the file system of {self.folder}: {error}",
                        remedy="mount it with the option prjquota; docs/operations.md, Disk, says how",
                    ) from error


def _put(directory: int, name: str, text: bytes) -> None:
    """Write a file as root into a folder that is somebody else's: never through a link that lies there."""
    temporary = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o644, dir_fd=directory), "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def _projects(pool: quota.Pool) -> Iterator[tuple[int, quota.SizeClass]]:
    for one in pool.classes:
        for index in range(one.count):
            yield one.first + index, one


@contextmanager
def _opened(folder: str) -> Iterator[int]:
    """The folder, or what will hold it, as a descriptor."""
    descriptor = os.open(facts.nearest_existing(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
