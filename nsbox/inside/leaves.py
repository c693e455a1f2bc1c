"""Leaf cgroups of commands, below the sandbox's own cgroup, which init holds as a descriptor.

Where the host delegates no cgroup there are none, and everything here does nothing. Where it delegates
memory, each leaf counts its own, so that the kernel ends a command that overran with its whole tree and with
nothing else, and so that it can be told which command that was (docs/adr/0024-out-of-memory.md).
"""

import os
from typing import Final

#: init's own leaf, and that of the file agents.
_OWN: Final = "init"


class Leaves:
    """Makes, ends and removes leaves."""

    def __init__(self, gives_memory: bool) -> None:
        """``gives_memory``: whether the sandbox's cgroup may give that controller to its children. keeper
        knows; an init that looked for itself would pay for it with pages (docs/adr/0017)."""
        self._gives_memory = gives_memory
        self._cgroup: int | None = None
        self._serial = 0
        self._stale: list[str] = []
        self._counted = False

    def use(self, cgroup: int | None) -> None:
        """The sandbox's own cgroup; None where there is none. Called by init, which stands in it.

        With memory, init goes to a leaf of its own: a cgroup with processes cannot give controllers to its
        children (cgroups(7)). It starts in the sandbox's and moves, rather than starting in the leaf, because
        its cgroup namespace must begin at the sandbox's: programs look for memory.max at its top.
        """
        self._cgroup = cgroup
        self._counted = self._gives_memory and cgroup is not None
        if self._counted:
            os.mkdir(_OWN, 0o755, dir_fd=cgroup)
            self._write(f"{_OWN}/cgroup.procs", b"0")
            self._write("cgroup.subtree_control", b"+memory")

    def make(self) -> tuple[str, int | None]:
        """A new leaf: its name and its directory as a descriptor. Raises ``OSError``."""
        if self._cgroup is None:
            return "", None
        self._serial += 1
        leaf = f"c{self._serial}"
        os.mkdir(leaf, 0o755, dir_fd=self._cgroup)
        if self._counted:
            self._write(f"{leaf}/memory.oom.group", b"1")
        return leaf, os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._cgroup)

    def kill(self, leaf: str) -> None:
        """End every process in a leaf."""
        self._write(f"{leaf}/cgroup.kill", b"1")

    def populated(self, leaf: str) -> bool:
        """Whether a process is in a leaf. One that has been removed has none."""
        return bool(leaf and self._read(f"{leaf}/cgroup.procs"))

    def holds_only(self, leaf: str, pid: int) -> bool:
        """Whether ``pid`` is the one process in a leaf. True where there are no leaves."""
        return not leaf or self._read(f"{leaf}/cgroup.procs").split() == [str(pid)]

    def members(self, leaf: str) -> set[int]:
        """The processes in a leaf; none where there are no leaves."""
        return set(map(int, self._read(f"{leaf}/cgroup.procs").split())) if leaf else set()

    def discard(self, leaf: str) -> None:
        """Remove a leaf, now or when what a command left behind in it has ended."""
        if leaf:
            self._stale.append(leaf)
        stale, self._stale = self._stale, []
        for one in stale:
            if not self._removed(one):
                self._stale.append(one)

    def _removed(self, leaf: str) -> bool:
        try:
            os.rmdir(leaf, dir_fd=self._cgroup)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    def oom_killed(self, leaf: str) -> bool:
        """Whether the kernel has killed something in a leaf for lack of memory. To be asked before it is
        discarded. A leaf in which that happened has lost its spawner too, so none is used again."""
        rows = dict(line.split() for line in self._read(f"{leaf}/memory.events").splitlines()) if leaf else {}
        return int(rows.get("oom_kill", 0)) > 0

    def _write(self, path: str, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._cgroup)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

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
