"""What holds each limit, as one line of the product, and the tests that must fail without it.

A test that passes with and without the thing it is about proves nothing. ``sh scripts/test-host --defence-off
NAME`` (or ``all``) takes a defence out of the *installed* copy in the machine and demands that its tests fail
there. The product knows nothing of it; ``tests/unit/test_machine_defences.py`` holds the list to the sources.
"""

from __future__ import annotations

from typing import NamedTuple


class Defence(NamedTuple):
    """``old`` stands exactly once in ``file`` (of the package nsbox) and is replaced by ``new``. Every test
    that ``tests`` selects must fail then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_BOXES = "keeper/boxes.py"
_POOL = "libc.set_project_quota(directory, project, size, inodes)"
_SOLE = "return shown.used_inodes == 1"
_MEMORY = "tests/limits/test_memory.py::"
_QUOTA = "tests/limits/test_quota.py::"
_TMPFS = "tests/limits/test_tmpfs.py::"

DEFENCES = (
    Defence(
        "cpu.max",
        _BOXES,
        "files.cpu_max = order.cpu_quota_us or None",
        "files.cpu_max = None",
        ("tests/limits/test_processor.py::test_one_processor_is_one_processor",),
    ),
    Defence(
        "memory.max",
        _BOXES,
        "files.memory_max = order.memory_bytes or None",
        "files.memory_max = None",
        (
            f"{_MEMORY}test_the_command_that_overran_is_ended",
            f"{_MEMORY}test_it_is_told_of_a_child_as_well",
            f"{_MEMORY}test_the_neighbours_in_the_sandbox_live_on",
            f"{_MEMORY}test_init_outlives_a_swarm",
            f"{_MEMORY}test_what_a_program_sees_is_the_limit",
        ),
    ),
    Defence(
        "memory.swap.max",
        _BOXES,
        "files.memory_swap_max = order.memory_bytes or None",
        "files.memory_swap_max = None",
        (f"{_MEMORY}test_swap_is_bounded",),
    ),
    Defence(
        "memory.oom.group",
        "inside/leaves.py",
        'self._write(f"{leaf}/memory.oom.group", b"1")',
        "pass",
        (f"{_MEMORY}test_it_is_told_of_a_child_as_well",),
    ),
    Defence(
        "pids.max",
        _BOXES,
        "files.pids_max = order.pids or None",
        "files.pids_max = None",
        ("tests/limits/test_processes.py::test_processes_end_at_the_limit",),
    ),
    Defence(
        "cgroup.max.descendants",
        _BOXES,
        "files.max_descendants = order.pids + _SPARE_CGROUPS if order.pids else None",
        "files.max_descendants = None",
        ("tests/limits/test_processes.py::test_cgroups_are_counted_too",),
    ),
    Defence(
        "io.max",
        _BOXES,
        "files.io_max = self.host.io_max",
        "pass",
        ("tests/limits/test_io.py",),
    ),
    Defence(
        "quota",
        "host/quota.py",
        _SOLE,
        "projects.give(directory, 0)\n    return True",  # the daemon believes it, and nothing is counted
        (
            f"{_QUOTA}test_bytes_end_at_the_limit_and_df_says_so",
            f"{_QUOTA}test_an_upload_ends_there_as_well",
            f"{_QUOTA}test_inodes_end_too",
        ),
    ),
    # A pool that setup did not limit as it says: the daemon looks, and takes the watcher instead.
    Defence(
        "quota-bytes",
        "cli/setup_quota.py",
        _POOL,
        "libc.set_project_quota(directory, project, size * 2, inodes)",
        (f"{_QUOTA}test_bytes_end_at_the_limit_and_df_says_so",),
    ),
    Defence(
        "quota-inodes",
        "cli/setup_quota.py",
        _POOL,
        "libc.set_project_quota(directory, project, size, inodes * 2)",
        (f"{_QUOTA}test_inodes_end_too",),
    ),
    Defence(
        "quota-project-in-use",
        "host/quota.py",
        _SOLE,
        "return True",
        (f"{_QUOTA}test_an_api_that_starts_anew_takes_no_project_twice",),
    ),
    Defence(
        "tmpfs-size",
        _BOXES,
        '("size", str(order.storage_bytes))',
        '("size", "2g")',
        (
            f"{_TMPFS}test_bytes_end_at_the_limit_and_df_says_so",
            f"{_TMPFS}test_it_never_takes_more_than_half_of_the_memory",
        ),
    ),
    Defence(
        "tmpfs-inodes",
        _BOXES,
        '("nr_inodes", str(order.inodes))',
        '("nr_inodes", "1000000")',
        (f"{_TMPFS}test_inodes_end_too",),
    ),
    Defence(
        "storage-watcher",
        _BOXES,
        "watcher.mark(self.folder, order.storage_bytes, order.inodes)",
        "pass",
        (
            "tests/limits/test_watched.py::test_what_writes_beyond_it_is_ended_and_told",
            "tests/limits/test_watched.py::test_an_upload_ends_there_as_well",
        ),
    ),
    Defence(
        "disk-reserve",
        "host/storage.py",
        "if not self._reserve:",
        "if True:",
        ("tests/limits/test_reserve.py",),
    ),
    Defence(
        "neighbours",
        _BOXES,
        "        if self.cgroup is None:\n            return\n        files = self.cgroup.files\n",
        "        if self is not None:\n            return\n        files = self.cgroup.files\n",
        ("tests/limits/test_neighbours.py",),
    ),
)
