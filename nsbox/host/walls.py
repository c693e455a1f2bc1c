"""The walls that api puts up around itself: whoever takes it over by way of HTTP, a registry or an init gets
no further than api must.

In the order in which they are put up, before there is any other thread: nobody looks into the process; memory
is bounded; Landlock takes away all files but those that are named here, TCP ports to listen on, and signals
to others; the filter takes away system calls, the making of walls among them. no_new_privs came first.
"""

from __future__ import annotations

import os
import resource
import ssl
import sys
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from nsbox.host import apicalls
from nsbox.kernel import landlock, libc
from nsbox.kernel.landlock import READ, Files, Scope

#: Below it no file can be renamed into another folder (EXDEV), which the record and the blobs do.
_LEAST_ABI: Final = 2
#: Bytes from which on a block of memory is given back when it is freed.
_LARGE_BLOCK: Final = 256 * 1024
#: Software, its data and the host's configuration: modules that are imported late, certificates, zones, how
#: names are resolved; and the default template is picked from here. What there is only for root stays so.
_HOST: Final = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/nix/store", "/gnu/store", "/proc", "/sys",
)  # fmt: skip
_RESOLVER: Final = "/etc/resolv.conf"
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
#: No devices, sockets, FIFOs or symbolic links: api makes none. And nothing anywhere is executed.
_OWN: Final = (
    READ
    | Files.WRITE_FILE
    | Files.TRUNCATE
    | Files.MAKE_REG
    | Files.MAKE_DIR
    | Files.REMOVE_FILE
    | Files.REMOVE_DIR
    | Files.REFER
)


class Places(msgspec.Struct, frozen=True):
    """What is special about this daemon. ``reading``: files and folders that the settings name. ``cgroup``:
    the delegated one, or nothing. ``ports``: those that sandboxes may be given."""

    state_dir: str
    cgroup: str = ""
    reading: tuple[str, ...] = ()
    ports: range = range(0)


class InForce(msgspec.Struct, frozen=True):
    """Which walls stand. ``landlock`` is its ABI, 0 without; ``memory_mb`` 0 without a bound."""

    landlock: int = 0
    seccomp: bool = False
    memory_mb: int = 0

    @property
    def all(self) -> bool:
        return bool(self.landlock and self.seccomp and self.memory_mb)

    def __str__(self) -> str:
        files = f"Landlock (ABI {self.landlock})" if self.landlock else "no Landlock"
        calls = "a system call filter" if self.seccomp else "no system call filter"
        memory = f"{self.memory_mb} MiB of memory at most" if self.memory_mb else "no bound on memory"
        return f"{files}, {calls}, {memory}"


def expected(memory_mb: int) -> InForce:
    """What an api that starts on this kernel gets, unless the operator turned it off."""
    abi = landlock.version()
    return InForce(abi if abi >= _LEAST_ABI else 0, True, memory_mb)


def put_up(places: Places, memory_mb: int, environment: Mapping[str, str]) -> InForce:
    """Put up all that this kernel has; what that is. Raises ``OSError`` if one of them cannot be."""
    import prctl  # late: nsbox doctor looks at this module where prctl cannot be imported, and says so

    found = expected(memory_mb)
    prctl.set_dumpable(0)  # nobody of the same user reads memory, environment or descriptors
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _bound_memory(found.memory_mb)
    if found.landlock:
        _restrict(found.landlock, places, environment)
    libc.seccomp_filter(apicalls.program(os.uname().machine, os.getpid()))
    return found


def _bound_memory(megabytes: int) -> None:
    """RLIMIT_DATA: what is private and can be written. What does not fit fails in the one request with
    MemoryError. A cgroup's bound would end api as a whole, and is not to be had everywhere; RLIMIT_AS would
    count what malloc only reserves, 64 MiB for each thread. What counts has to go when it is freed:
    otherwise ever new large requests fill the bound with holes."""
    libc.map_large_blocks(_LARGE_BLOCK)
    size = megabytes << 20
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _restrict(abi: int, places: Places, environment: Mapping[str, str]) -> None:
    scopes = Scope.SIGNAL
    if not environment.get("NOTIFY_SOCKET", "").startswith(
        "@"
    ):  # the way to systemd may be an abstract socket
        scopes |= Scope.ABSTRACT_UNIX_SOCKET
    with landlock.ruleset(abi, scopes) as rules:
        rules.allow(places.state_dir, _OWN)
        for path in sorted(set(_readable(places))):
            rules.allow(path, READ)
        for device in _DEVICES:
            rules.allow(device, Files.READ_FILE | Files.WRITE_FILE | Files.TRUNCATE)
        if places.cgroup:
            rules.allow(places.cgroup, READ | Files.WRITE_FILE)
        for port in places.ports:
            rules.allow_port(port)
        rules.enforce()


def _readable(places: Places) -> Iterator[str]:
    yield from _HOST
    # This Python, what it imports, and nsbox itself, wherever they are installed.
    yield from (sys.prefix, sys.base_prefix, sys.exec_prefix, *(path for path in sys.path if path))
    # It may be a link into /run, where it is written anew whenever the network changes.
    yield os.path.dirname(os.path.realpath(_RESOLVER))
    certificates = ssl.get_default_verify_paths()
    for path in (*places.reading, certificates.cafile, certificates.capath):
        if path:
            yield from _with_its_folder(path)


def _with_its_folder(path: str) -> Iterator[str]:
    """A file that is replaced is another file, which a rule about the first does not mean; so the folder is
    allowed, unless that would be everything."""
    for one in {os.path.abspath(path), os.path.realpath(path)}:
        folder = one if os.path.isdir(one) else os.path.dirname(one)
        yield one if folder == "/" else folder
