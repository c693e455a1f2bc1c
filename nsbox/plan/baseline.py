"""The walls of every sandbox, as data: what is masked, read-only, bound and budgeted. Pure.

Sources: shared practice of OCI runtimes (runtime-spec, config-linux.md), Docker's and Podman's defaults,
and the CVEs named beside the entries.
"""

import resource

from nsbox.wire.messages import Prepare

#: Nodes bound from the host's /dev; mknod is not possible in a user namespace.
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

#: Hidden entirely: they tell of the host or its other tenants. What a kernel does not have is passed over.
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/cmdline",  # names the host's disks, and on some hosts more than its owner thinks
    "/proc/diskstats",  # how much the others read and write, by the block
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/partitions",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/swaps",  # a path on the host
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",  # CVE-2020-8694: power meters as a side channel
)

#: Visible and not writable. /proc/sysrq-trigger and /proc/sys reach the whole kernel.
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

#: Per user namespace (namespaces(7)): all sandboxes share one range of ids, so the kernel's per-user
#: budgets would be one pot for all of them. Nested user namespaces are off: they open most of the
#: kernel's attack surface to code that has no privilege otherwise.
BUDGETS = {
    "max_user_namespaces": 0,
    "max_mnt_namespaces": 0,
    "max_pid_namespaces": 0,
    "max_net_namespaces": 0,
    "max_ipc_namespaces": 0,
    "max_uts_namespaces": 0,
    "max_cgroup_namespaces": 0,
    "max_time_namespaces": 0,
    "max_inotify_instances": 128,
    "max_inotify_watches": 65_536,
    "max_fanotify_groups": 0,
    "max_fanotify_marks": 0,
}

#: Soft and hard. No core dumps: they would land wherever the host's core_pattern says. Descriptors are not
#: here: inside/privileges.py divides what the host allows.
RLIMITS = {
    resource.RLIMIT_CORE: (0, 0),
    resource.RLIMIT_MEMLOCK: (8 << 20, 8 << 20),
    resource.RLIMIT_MSGQUEUE: (819_200, 819_200),
    resource.RLIMIT_RTPRIO: (0, 0),
    resource.RLIMIT_NICE: (0, 0),
}

SHM_BYTES = 64 << 20

#: What the kernel counts for each user of the host, whom all sandboxes share: one of them gets this part of
#: it at most, under all its ids together. A part and no guarantee: four that conspire leave others nothing.
SHARE = 4
#: By namespace (namespaces(7)): the bound to be set, and where it stands what the daemon's user has of it.
SHARED = {
    "max_inotify_instances": "/proc/sys/fs/inotify/max_user_instances",
    "max_inotify_watches": "/proc/sys/fs/inotify/max_user_watches",
}
#: Not MEMLOCK: mlock(2) counts for each process, and for what is counted otherwise the kernel compares pages
#: with a bound in bytes.
_RLIMITS_SHARED = (resource.RLIMIT_MSGQUEUE, resource.RLIMIT_SIGPENDING)


def shared_rlimits(pids_are_held: bool) -> tuple[int, ...]:
    """Which resource limits are divided. Processes only where pids.max does not hold them: it is exact, and
    the operator may have set it higher than this part."""
    return _RLIMITS_SHARED if pids_are_held else (*_RLIMITS_SHARED, resource.RLIMIT_NPROC)


def share(whole: int) -> int:
    """One sandbox's part."""
    return max(1, whole // SHARE)


#: Made once. A tuple of a generator is made larger and cut to its size, and CPython keeps what was cut when
#: it is let go, 2,000 of each size: keeper would grow with every blank until then.
_PREPARE = Prepare(
    devices=DEVICES,
    masked=MASKED,
    readonly=READONLY,
    budgets=tuple([f"{name}={number}" for name, number in BUDGETS.items()]),
    rlimits=tuple([f"{number}={soft}:{hard}" for number, (soft, hard) in RLIMITS.items()]),
    shm_bytes=SHM_BYTES,
)


def prepare() -> Prepare:
    """What a blank is told to make ready."""
    return _PREPARE
