"""The root file system of a sandbox, from within its mount namespace.

Made in two steps. *Before* a tenant is known: /dev, /proc and /sys are built on a staging tmpfs, masks and
all. *At create*: the root arrives as a detached mount, the three are moved onto it by descriptor, and the
process pivots. The second step is the one a client waits for.
"""

import os
from typing import Final

from nsbox.kernel import libc, mounts
from nsbox.wire.messages import Prepare

#: A directory that every Linux host has and that needs no privilege to reach. Mounted over in the
#: blank's own mount namespace only.
STAGING: Final = "/tmp"  # noqa: S108
_TREES = ("dev", "proc", "sys")
_QUIET = libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV | libc.MOUNT_ATTR_NOEXEC


def stage(order: Prepare) -> None:
    """Build /dev, /proc and /sys aside. The caller is root of its namespaces, in the host's tree."""
    mounts.make_private()
    mounts.mount_new("tmpfs", STAGING, [("size", "64k"), ("mode", "700")], libc.MOUNT_ATTR_NOSUID)
    for name in (*_TREES, "root", "empty"):
        os.mkdir(f"{STAGING}/{name}", 0o755)
    _stage_dev(order)
    mounts.mount_empty(f"{STAGING}/empty")
    mounts.mount_new("proc", f"{STAGING}/proc", attributes=_QUIET)
    _stage_sys()
    for path in filter(_exists, order.masked):
        mounts.mask(STAGING + path, f"{STAGING}/dev/null", f"{STAGING}/empty")
    # After the last new mount: fsmount(2) counts against max_mnt_namespaces for a moment (seen on 6.18).
    for name, value in (pair.split("=") for pair in order.budgets):
        _write_budget(f"{STAGING}/proc/sys/user/{name}", value)
    for path in filter(_exists, order.readonly):
        mounts.make_readonly(STAGING + path)


def _exists(path: str) -> bool:
    return os.path.lexists(STAGING + path)


def _write_budget(path: str, value: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except FileNotFoundError:
        pass  # an older kernel, without this kind of namespace or group


def _stage_dev(order: Prepare) -> None:
    dev = f"{STAGING}/dev"
    mounts.mount_new(
        "tmpfs", dev, [("size", "64k"), ("mode", "755")], libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NOEXEC
    )
    for name in order.devices:
        os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        mounts.bind(f"/dev/{name}", f"{dev}/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{dev}/{name}", 0o755)
    options = [("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")]
    mounts.mount_new("devpts", f"{dev}/pts", options, libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NOEXEC)
    mounts.mount_new("tmpfs", f"{dev}/shm", [("size", str(order.shm_bytes)), ("mode", "1777")], _QUIET)
    mounts.mount_new("mqueue", f"{dev}/mqueue", attributes=_QUIET)
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        os.symlink(target, f"{dev}/{name}")


def _stage_sys() -> None:
    """sysfs of the sandbox's own network namespace, and its own view of cgroup limits, both read-only.

    Java, Node and Go size themselves by memory.max and cpu.max, which they look for there.
    """
    mounts.mount_new("sysfs", f"{STAGING}/sys", attributes=_QUIET | libc.MOUNT_ATTR_RDONLY)
    try:
        mounts.mount_new("cgroup2", f"{STAGING}/sys/fs/cgroup", attributes=_QUIET | libc.MOUNT_ATTR_RDONLY)
    except OSError:
        pass  # no cgroup v2 here: the directory stays empty


def enter(root: int) -> None:
    """Stand in ``root``, a detached mount, with /dev, /proc and /sys in place and nothing else in reach.

    Raises ``OSError``, for an image whose /dev, /proc or /sys is not a directory.
    """
    mounts.attach(root, f"{STAGING}/root")
    directory = os.open(f"{STAGING}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in _TREES:
        target = mounts.open_mount_point(directory, name)
        try:
            mounts.move_onto(f"{STAGING}/{name}", target)
        finally:
            os.close(target)
    mounts.pivot_into(directory)
    os.close(directory)
    _check_proc()


def _check_proc() -> None:
    """/proc must be procfs before anything is written to it or believed of it (CVE-2025-52881)."""
    descriptor = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if libc.filesystem_type(descriptor) != libc.PROC_SUPER_MAGIC:
            raise OSError(0, "/proc is not procfs")
    finally:
        os.close(descriptor)
