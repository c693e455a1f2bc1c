"""Leaf cgroups of commands, below the sandbox's own cgroup, which init holds as a descriptor.

Where the host delegates no cgroup there are none, and everything here does nothing.
"""

import os


class Leaves:
    """Makes, ends and removes leaves."""

    def __init__(self) -> None:
        self._cgroup: int | None = None
        self._serial = 0
        self._stale: list[str] = []
        self._oom_kills = 0

    def use(self, cgroup: int | None) -> None:
        """The sandbox's own cgroup; None where there is none."""
        self._cgroup = cgroup

    def make(self) -> tuple[str, int | None]:
        """A new leaf: its name and its directory as a descriptor. Raises ``OSError``."""
        if self._cgroup is None:
            return "", None
        self._serial += 1
        leaf = f"c{self._serial}"
        os.mkdir(leaf, 0o755, dir_fd=self._cgroup)
        return leaf, os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._cgroup)

    def kill(self, leaf: str) -> None:
        """End every process in a leaf."""
        descriptor = os.open(f"{leaf}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._cgroup)
        try:
            os.write(descriptor, b"1")
        finally:
            os.close(descriptor)

    def populated(self, leaf: str) -> bool:
        """Whether a process is in a leaf. One that has been removed has none."""
        return bool(leaf and self._read(f"{leaf}/cgroup.procs"))

    def holds_only(self, leaf: str, pid: int) -> bool:
        """Whether ``pid`` is the one process in a leaf. True where there are no leaves."""
        return not leaf or self._read(f"{leaf}/cgroup.procs").split() == [str(pid)]

    def discard(self, leaf: str) -> None:
        """Remove a leaf, now or when what a command left behind in it has ended."""
        if leaf:
            self._stale.append(leaf)
        self._stale = [one for one in self._stale if not self._removed(one)]

    def _removed(self, leaf: str) -> bool:
        try:
            os.rmdir(leaf, dir_fd=self._cgroup)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    def oom_killed(self) -> bool:
        """Whether the kernel has killed something for lack of memory since this was last asked."""
        before, self._oom_kills = self._oom_kills, self._count_oom_kills()
        return self._oom_kills > before

    def _count_oom_kills(self) -> int:
        rows = dict(line.split() for line in self._read("memory.events").splitlines())
        return int(rows.get("oom_kill", 0))

    def _read(self, path: str) -> str:
        if self._cgroup is None:
            return ""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._cgroup)
        except OSError:
            return ""
        try:
            return os.read(descriptor, 65_536).decode()
        except OSError:
            return ""
        finally:
            os.close(descriptor)
