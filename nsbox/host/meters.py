"""What a sandbox uses, read from the files of its cgroup and of its init: six small reads, nothing is asked.

Network bytes are those of the sandbox's own interface, which init's ``/proc/PID/net/dev`` shows; the loopback
does not count. init's pid comes from its cgroup, where the kernel translates it for whoever reads.
"""

from __future__ import annotations

import os

from nsbox.model.metrics import Reading
from nsbox.model.sandbox import Backend, Storage

_LOOPBACK = "lo"


def read(cgroup: str, proc: str = "/proc") -> Reading:
    """All but the disk. Whatever is not there, or goes away meanwhile, is None."""
    if not cgroup:
        return Reading()
    cpu = _pairs(_text(cgroup, "cpu.stat"))
    received, sent = _traffic(cgroup, proc)
    io_read, io_written = _io(_text(cgroup, "io.stat"))
    return Reading(
        cpu_us=cpu.get("usage_usec"),
        throttled_us=cpu.get("throttled_usec"),
        memory=_number(_text(cgroup, "memory.current")),
        memory_peak=_number(_text(cgroup, "memory.peak")),
        swap=_number(_text(cgroup, "memory.swap.current")),
        io_read=io_read,
        io_written=io_written,
        processes=_number(_text(cgroup, "pids.current")),
        received=received,
        sent=sent,
    )


def disk(state_dir: str, sandbox_id: str, storage: Storage | None) -> tuple[int, int] | None:
    """Bytes and inodes that a sandbox has written; None where nobody counts them.

    Under a project quota, statvfs(2) of a directory that hands its project down tells of the quota. Where
    storage is watched, the watcher says what it has measured last. A tmpfs is mounted in keeper's namespace.
    """
    place = os.path.join(state_dir, "sandboxes", sandbox_id)
    if storage is None or storage.backend is Backend.TMPFS:
        return None
    try:
        if storage.backend is Backend.QUOTA:
            figures = os.statvfs(place)
            return (figures.f_blocks - figures.f_bfree) * figures.f_frsize, figures.f_files - figures.f_ffree
        size, inodes = (int(number) for number in (_text(place, "used") or "").split())
    except (OSError, ValueError):
        return None
    return size, inodes


def _text(folder: str, name: str) -> str | None:
    try:
        descriptor = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 65_536).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdigit() else None


def _pairs(text: str | None) -> dict[str, int]:
    found = {}
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def _io(text: str | None) -> tuple[int | None, int | None]:
    """``8:0 rbytes=1 wbytes=2 …``, a line for each device; a device that nothing was done on has no line."""
    if text is None:
        return None, None
    sums = {"rbytes": 0, "wbytes": 0}
    for field in text.split():
        name, _, value = field.partition("=")
        if name in sums and value.isdigit():
            sums[name] += int(value)
    return sums["rbytes"], sums["wbytes"]


def _members(cgroup: str) -> list[str]:
    """Processes of a sandbox, init among them: in a leaf of its own where there are controllers. Any will do,
    since none can leave the sandbox's network."""
    return (_text(f"{cgroup}/init", "cgroup.procs") or _text(cgroup, "cgroup.procs") or "").split()


def _traffic(cgroup: str, proc: str) -> tuple[int | None, int | None]:
    """Bytes received and sent by the sandbox; none where it has no link."""
    pids = _members(cgroup)
    table = _text(f"{proc}/{pids[0]}/net", "dev") if pids else None
    # Looked at again: one that died meanwhile may have left its pid to somebody else.
    if table is None or pids[0] not in _members(cgroup):
        return None, None
    received = sent = 0
    for line in table.splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = rest.split()
        if name.strip() != _LOOPBACK and len(numbers) >= 16:
            received, sent = received + int(numbers[0]), sent + int(numbers[8])
    return received, sent
