"""cgroup v2 as objects: cgroupspy's descriptors for the files, our own types where v2 differs from v1.

The path of the hierarchy is a parameter, so all of this is tested on a plain folder.
"""

import errno
import os
from typing import Any, NamedTuple

from cgroupspy.controllers import Controller
from cgroupspy.interfaces import (
    BaseFileInterface,
    DictFile,
    FlagFile,
    IntegerFile,
    ListFile,
    MultiLineIntegerFile,
)

#: The controllers that nsbox's limits need, by the limit they serve.
CONTROLLERS = {"vcpus": "cpu", "memoryMb": "memory", "pids": "pids"}
#: Of use where the host delegates it.
OPTIONAL_CONTROLLERS = ("io",)

#: Processor shares where processors are short (cpu.weight, 1 to 10000; the kernel's own default is 100).
#: The daemon does little, and everybody waits for it.
DAEMON_WEIGHT = 10_000
BOX_WEIGHT = 100  # for each vcpu

#: What cpu.max counts in: microseconds of quota in each of these. A fifth of the kernel's default: no
#: longer does a sandbox stand still that has used up its share, or take every processor when it has not.
CPU_PERIOD_US = 20_000


class MaxFile(BaseFileInterface):  # type: ignore[misc]  # cgroupspy has no types
    """A number or ``max``, which is None here. (cgroupspy's own types would write -1, a v1 idiom.)"""

    def sanitize_get(self, value: str) -> int | None:
        return None if value == "max" else int(value)

    def sanitize_set(self, value: int | None) -> str:
        return "max" if value is None else str(int(value))


class CpuMax(BaseFileInterface):  # type: ignore[misc]
    """``cpu.max``: microseconds of quota for each period of ``CPU_PERIOD_US``, None for no limit."""

    def sanitize_get(self, value: str) -> int | None:
        quota = value.split(maxsplit=1)[0]
        return None if quota == "max" else int(quota)

    def sanitize_set(self, value: int | None) -> str:
        return f"{'max' if value is None else int(value)} {CPU_PERIOD_US}"


class TextFile(BaseFileInterface):  # type: ignore[misc]
    """Text, as it is: files such as io.max take a line for each device."""

    def sanitize_get(self, value: str) -> str:
        return value.strip()

    def sanitize_set(self, value: str) -> str:
        return value


class Node(NamedTuple):
    """What cgroupspy's Controller wants to know of a cgroup."""

    full_path: bytes


class Files(Controller):  # type: ignore[misc]
    """The files of one cgroup."""

    controllers = ListFile("cgroup.controllers")
    processes = MultiLineIntegerFile("cgroup.procs")
    events = DictFile("cgroup.events", readonly=True)
    freeze = FlagFile("cgroup.freeze")
    kill = IntegerFile("cgroup.kill", writeonly=True)
    max_descendants = MaxFile("cgroup.max.descendants")
    cpu_max = CpuMax("cpu.max")
    cpu_weight = IntegerFile("cpu.weight")
    cpu_stat = DictFile("cpu.stat", readonly=True)
    memory_max = MaxFile("memory.max")
    memory_swap_max = MaxFile("memory.swap.max")
    memory_current = IntegerFile("memory.current", readonly=True)
    memory_events = DictFile("memory.events", readonly=True)
    io_max = TextFile("io.max")
    pids_max = MaxFile("pids.max")
    pids_current = IntegerFile("pids.current", readonly=True)


class Cgroup:
    """One cgroup, by its absolute path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.files: Any = Files(Node(os.fsencode(path)))

    def __repr__(self) -> str:
        return f"Cgroup({self.path!r})"

    def child(self, name: str) -> "Cgroup":
        return Cgroup(os.path.join(self.path, name))

    def create(self) -> None:
        """Make it; one that is there already is a leftover with the same meaning."""
        try:
            os.mkdir(self.path)
        except FileExistsError:
            pass
        os.chmod(self.path, 0o755)  # noqa: S103 - whatever the umask: api reads what keeper makes

    def open(self) -> int:
        """Its directory as a descriptor, for clone3 and for work on its children."""
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def children(self) -> list[str]:
        """The names of the cgroups right below. One that is gone has none."""
        try:
            with os.scandir(self.path) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def enable(self, controllers: list[str]) -> None:
        """Give ``controllers`` to the children, each by its own write: a failing one undoes nothing."""
        for name in controllers:
            with open(os.path.join(self.path, "cgroup.subtree_control"), "w", encoding="ascii") as file:
                file.write("+" + name)

    def delegate(self, uid: int, gid: int) -> None:
        """Let ``uid`` make cgroups below this one and move its processes among them, and nothing else.

        The three files are those of cgroups(7), "Cgroups v2 delegation"; the limits stay the owner's.
        """
        os.chown(self.path, uid, gid)
        for name in ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
            os.chown(os.path.join(self.path, name), uid, gid)

    def populated(self) -> bool:
        """Whether it or a descendant has a process that is not a zombie. A cgroup that is gone has none."""
        try:
            return bool(self.files.events["populated"])
        except (FileNotFoundError, OSError) as error:
            if isinstance(error, FileNotFoundError) or error.errno == errno.ENODEV:
                return False
            raise

    def kill(self) -> None:
        """End every process in it and below with SIGKILL (Linux 5.14). One that is gone is no error."""
        try:
            self.files.kill = 1
        except FileNotFoundError:
            pass

    def remove(self) -> bool:
        """Remove it and its children; False while there still is a process in one.

        The last process leaves its cgroup a moment after waitpid reported it, so callers try again.
        """
        try:
            for directory, _, _ in os.walk(self.path, topdown=False):
                os.rmdir(directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True
