"""Where a sandbox writes, and what holds its limit: chosen here, made ready here, kept by keeper."""

from __future__ import annotations

import logging
import os

from nsbox.host import facts, quota
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.sandbox import Backend, Limits, Storage
from nsbox.plan import storage as plan
from nsbox.settings import Settings, StorageMode

_log = logging.getLogger(__name__)

#: tmpfs has attributes user.*, without which overlayfs cannot replace a directory, from here on.
TMPFS_KERNEL = (6, 6)
#: A tmpfs may take this part of a sandbox's memory: its pages are no process's, so nothing would be freed
#: by ending processes when they fill it.
_TMPFS_SHARE = 2
_SETUP = "sudo nsbox setup (see docs/operations.md, Disk)"


def require(settings: Settings) -> None:
    """Raise ``HostProblem`` unless the backend that the settings insist on is to be had."""
    if settings.storage is StorageMode.QUOTA:
        pool = quota.load(settings.state_dir)
        if pool is None:
            raise HostProblem(f"{settings.state_dir} has no pool of project quotas", remedy=_SETUP)
        why = quota.probe(settings.state_dir, pool)
        if why is not None:
            raise HostProblem(f"the project quotas of {settings.state_dir} do not hold: {why}", remedy=_SETUP)
    elif settings.storage is StorageMode.TMPFS and facts.kernel().version < TMPFS_KERNEL:
        needed = ".".join(map(str, TMPFS_KERNEL))
        raise HostProblem(
            f"storage=tmpfs needs Linux {needed}: before, tmpfs had no attributes for overlayfs",
            remedy="storage=auto",
        )


class Rooms:
    """The folders ``sandboxes/ID`` of sandboxes to be. A quota is given here and not by keeper, since only a
    process of the initial user namespace may do that."""

    def __init__(self, state_dir: str, mode: StorageMode) -> None:
        self._folder = os.path.join(state_dir, "sandboxes")
        self._mode = mode
        pool = quota.load(state_dir) if mode in (StorageMode.AUTO, StorageMode.QUOTA) else None
        self._projects = quota.Projects(pool) if pool is not None else None

    def make(self, sandbox_id: str, limits: Limits, *, on_disk: bool = False) -> Storage:
        """Choose and prepare. ``on_disk``: what is written will be kept, and a tmpfs goes with its sandbox.

        Raises ``Problem`` where only a quota would do and none is free.
        """
        wanted = limits.storage_mb * plan.MIB
        if self._mode is StorageMode.TMPFS and not on_disk:
            size = min(wanted, limits.memory_mb * plan.MIB // _TMPFS_SHARE)
            return Storage(Backend.TMPFS, size, plan.inodes(size))
        if self._projects is not None:
            found = self._take(self._projects, sandbox_id, wanted)
            if found is not None:
                return Storage(Backend.QUOTA, found.size, found.inodes)
        if self._mode is StorageMode.QUOTA:
            raise Problem(
                Code.HOST_FULL,
                f"no quota of {limits.storage_mb} MiB is free",
                remedy="delete sandboxes of this size, or ask for another storageMb",
            )
        return Storage(Backend.WATCHED, wanted, plan.inodes(wanted))

    def _take(self, projects: quota.Projects, sandbox_id: str, wanted: int) -> quota.SizeClass | None:
        place = os.path.join(self._folder, sandbox_id)
        found = None
        try:
            os.mkdir(place, 0o700)
            directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = projects.take(directory, wanted)
            finally:
                os.close(directory)
        except (OSError, quota.NotInForceError) as error:
            _log.warning("no quota for %s: %s", sandbox_id, error)
        if found is None:
            self.discard(sandbox_id)
        return found

    def discard(self, sandbox_id: str) -> None:
        """Remove a folder that keeper was never told of. One that it uses is not empty, and is its own."""
        try:
            os.rmdir(os.path.join(self._folder, sandbox_id))
        except OSError:
            pass


class Reserve:
    """The free disk that is kept for those who are there already."""

    def __init__(self, state_dir: str, reserve_mb: int) -> None:
        self._state_dir, self._reserve = state_dir, reserve_mb * plan.MIB

    def check(self, more: int = 0) -> None:
        """Raises ``Problem(HOST_FULL)`` when ``more`` bytes would touch it. Looked at each time, so that work
        goes on by itself once there is space."""
        if not self._reserve:
            return
        figures = os.statvfs(self._state_dir)
        if figures.f_bavail * figures.f_frsize - more < self._reserve:
            raise full()


def full() -> Problem:
    """What is said when the reserve is touched, or when not even that is left."""
    return Problem(
        Code.HOST_FULL,
        "the host's disk is nearly full: nothing new is taken in until there is space",
        remedy="delete sandboxes or files that are not needed, or try again later",
    )
