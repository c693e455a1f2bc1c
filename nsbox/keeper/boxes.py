"""One sandbox as keeper sees it: a process, a cgroup, a socket, a directory, and how each comes and goes."""

import enum
import errno
import os
import socket
import sys
from typing import NamedTuple

from nsbox.inside import channel
from nsbox.keeper import layout, watcher
from nsbox.keeper.zygote import Zygote
from nsbox.kernel import libc, mounts, namespaces
from nsbox.kernel.cgroup import BOX_WEIGHT, CPU_PERIOD_US, Cgroup
from nsbox.plan import baseline
from nsbox.wire.messages import Create, Launch


class Phase(enum.Enum):
    """How far a box has come."""

    PREPARING = enum.auto()  # cloned; making its namespaces ready
    BLANK = enum.auto()  # waits for an image and a tenant
    LAUNCHING = enum.auto()  # has its root; pivots and drops privileges
    RUNNING = enum.auto()
    ENDING = enum.auto()  # killed; not yet reaped


#: cgroups below a box's own: its leaves, most of them with a process, and its init's.
_SPARE_CGROUPS = 64


class Host(NamedTuple):
    """What all boxes share: the delegated cgroup (or None), its controllers, the zygote, the line for io.max
    (or none)."""

    cgroup: Cgroup | None
    controllers: tuple[str, ...]
    zygote: Zygote
    io_max: str = ""

    @property
    def enforced(self) -> tuple[str, ...]:
        """The limits, by their API names, that cgroups hold here."""
        names = {"cpu": "vcpus", "memory": "memoryMb", "pids": "pids"}
        io = ["io"] if self.io_max and "io" in self.controllers else []
        return tuple(sorted([*(names[one] for one in self.controllers if one in names), *io]))


class StageError(Exception):
    """A step of making a box failed."""

    def __init__(self, stage: str, error: OSError) -> None:
        super().__init__(f"{stage}: {error}")
        self.stage, self.error = stage, error


class Box:
    """A blank, and later a sandbox."""

    def __init__(self, number: int, host: Host) -> None:
        self.number = number
        self.name = f"box-{number}"
        self.host = host
        self.phase = Phase.PREPARING
        self.order: Create | None = None
        self.destroy_asked = False
        self.cgroup = host.cgroup.child(self.name) if host.cgroup else None
        self.pid = 0
        self.control: socket.socket | None = None
        self.prepared = self.ready = False  # what init has said of this phase
        # Its link, as the network's process told: no slot means none.
        self.plugging = self.policy_pending = False
        self.slot = -1
        self.addresses: tuple[str, ...] = ()
        self.nameserver = ""
        self.policy = ""

    @property
    def id(self) -> str:
        """The sandbox's id; empty while it has none."""
        return self.order.id if self.order else ""

    @property
    def _first_socket(self) -> str:
        """Where a blank listens until it has an id. No sandbox id has a dash, so no two names collide."""
        return f"{layout.RUN}/{self.name}.sock"

    @property
    def folder(self) -> str:
        return f"{layout.SANDBOXES}/{self.id}"

    @property
    def enforced(self) -> tuple[str, ...]:
        """The limits that hold for this sandbox."""
        storage = ("storageMb",) if self.order is not None and self.order.storage else ()
        return tuple(sorted((*self.host.enforced, *storage)))

    def clone(self) -> None:
        """Fork the process into its namespaces and cgroup, and give it its ids. Raises ``StageError``."""
        stage = "cgroup"
        cgroup_fd = None
        try:
            cgroup_fd = self._make_cgroup()
            stage = "socket"
            with _listen(self._first_socket) as listener:
                stage = "clone"
                self._clone(listener, cgroup_fd)
        except OSError as error:
            raise StageError(stage, error) from error
        finally:
            if cgroup_fd is not None:
                os.close(cgroup_fd)

    def _make_cgroup(self) -> int | None:
        if self.cgroup is None:
            return None
        self.cgroup.create()
        self.cgroup.delegate(namespaces.OUTER_OFFSET, namespaces.OUTER_OFFSET)
        return self.cgroup.open()

    def _clone(self, listener: socket.socket, cgroup_fd: int | None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        channel.prepare(ours)
        with theirs:
            self.pid = self.host.zygote.clone(theirs, listener, cgroup_fd, namespaces.owner_of(self.number))
        namespaces.write_sandbox_maps(self.pid)
        channel.send(ours, baseline.prepare())

    def launch(self) -> None:
        """Set the limits, mount the root and hand it over. The box must be a blank with an order.

        Raises ``StageError``; the caller destroys the box then.
        """
        assert self.order is not None
        assert self.control is not None
        self.phase = Phase.LAUNCHING
        stage = "limits"
        try:
            self._limit(self.order)
            stage = "folder"
            self._make_folder(self.order)
            os.rename(self._first_socket, layout.sandbox_socket(self.id))
            stage = "overlay"
            root = self._mount(self.order)
            try:
                stage = "launch"
                channel.send(self.control, self._words(self.order), [root])
            finally:
                os.close(root)
        except OSError as error:
            raise StageError(stage, error) from error

    def _words(self, order: Create) -> Launch:
        return Launch(order.id, order.hostname, self.addresses, self.nameserver)

    def _limit(self, order: Create) -> None:
        if self.cgroup is None:
            return
        files = self.cgroup.files
        files.max_descendants = order.pids + _SPARE_CGROUPS if order.pids else None
        if "cpu" in self.host.controllers:
            files.cpu_max = order.cpu_quota_us or None
            files.cpu_weight = max(1, min(10_000, BOX_WEIGHT * order.cpu_quota_us // CPU_PERIOD_US))
        if "memory" in self.host.controllers:
            files.memory_max = order.memory_bytes or None
            # Swap on top of memory, as much again: bounded, yet enough for a pause to page a sandbox out.
            files.memory_swap_max = order.memory_bytes or None
        if "pids" in self.host.controllers:
            files.pids_max = order.pids or None
        if "io" in self.host.controllers and self.host.io_max:
            files.io_max = self.host.io_max

    def _make_folder(self, order: Create) -> None:
        try:
            os.mkdir(self.folder, 0o700)
        except FileExistsError:
            if order.storage != "quota":  # api makes those: only it may give them a project
                raise
        if order.storage == "tmpfs":
            # Where the overlay finds it; taken off again when the overlay stands, which keeps it.
            options = [("size", str(order.storage_bytes)), ("nr_inodes", str(order.inodes)), ("mode", "700")]
            mounts.mount_new("tmpfs", self.folder, options, libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV)
        for name, mode in (("upper", 0o755), ("work", 0o700)):
            os.mkdir(f"{self.folder}/{name}")
            os.chmod(
                f"{self.folder}/{name}", mode
            )  # upper's is that of the sandbox's /; mkdir's loses the umask
            os.chown(f"{self.folder}/{name}", namespaces.OUTER_OFFSET, namespaces.OUTER_OFFSET)
        if order.storage == "watched":
            watcher.mark(self.folder, order.storage_bytes, order.inodes)

    def _mount(self, order: Create) -> int:
        """The sandbox's root, as a detached mount.

        Mounted here and not by the sandbox: keeper can traverse the 0700 state folder and the sandbox cannot.
        The layers' folder is the current directory meanwhile, since old kernels cap mount options at a page.
        """
        os.chdir(layout.LAYERS)
        try:
            return mounts.overlay(order.layers, f"../{self.folder}/upper", f"../{self.folder}/work")
        finally:
            os.chdir("..")
            if order.storage == "tmpfs":
                libc.umount(self.folder.encode())

    def freeze(self, wanted: bool) -> None:
        """Have its processes stop, or go on. They stop a moment later: ask ``frozen``. Raises ``OSError``."""
        if self.cgroup is None:
            raise OSError(errno.EOPNOTSUPP, "there is no cgroup here")
        self.cgroup.files.freeze = wanted

    def frozen(self) -> bool:
        """Whether every one of its processes has stopped. Raises ``OSError``."""
        return self.cgroup is not None and bool(self.cgroup.files.events["frozen"])

    def kill(self) -> None:
        """End every process of the box. What is left is removed when waitpid has reported its init."""
        self.phase = Phase.ENDING
        try:
            if self.cgroup is not None:
                self.cgroup.kill()
        except OSError as error:
            print(f"nsbox keeper: {self.name}: cgroup.kill: {error}", file=sys.stderr, flush=True)
        # The end of its init ends a pid namespace, so this alone is enough where there is no cgroup.
        if self.pid:
            try:
                os.kill(self.pid, 9)
            except ProcessLookupError:
                pass

    def hear_no_more(self) -> None:
        """From here on tenants' code may have taken over what speaks in there, and nothing is expected of it.

        It cannot be queued either. Descriptors in a queue are closed by who closes the socket, and the last
        holder of a lingering TCP socket waits for its data to be taken (SO_LINGER): for the sandbox, that is,
        which may have years.
        """
        if self.control is not None:
            self.control.shutdown(socket.SHUT_RD)

    def end_commands(self) -> None:
        """End all that runs in the sandbox but its init, which goes on and takes orders."""
        if self.cgroup is not None:
            for name in self.cgroup.children():
                if name != "init":
                    self.cgroup.child(name).kill()
        elif self.control is not None:
            self.control.send(b"k")  # init does it itself: without cgroups nobody else knows whom to spare

    def close(self) -> None:
        """Remove its socket. Its process is gone."""
        if self.control is not None:
            self.control.close()
            self.control = None
        for path in (self._first_socket, *([layout.sandbox_socket(self.id)] if self.id else [])):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener
