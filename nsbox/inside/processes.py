"""The sandbox's processes as /proc shows them, for where no cgroup tells them apart."""

import os
import signal
from typing import NamedTuple


class Row(NamedTuple):
    """One process: its parent and the leader of its session."""

    pid: int
    parent: int
    session: int


def rows() -> list[Row]:
    """Every process of this pid namespace but init."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name is in parentheses and may itself hold spaces and parentheses.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        found.append(Row(int(name), int(fields[1]), int(fields[3])))
    return found


def tree(leader: int, table: list[Row]) -> set[int]:
    """``leader``, all that descends from it, and all sessions that any of those lead."""
    members = {leader}
    while True:
        more = {row.pid for row in table if row.parent in members or row.session in members} - members
        if not more:
            return members
        members |= more


def kill_tree(leader: int) -> None:
    """End a tree: stopped first, so that nobody forks away between the look and the kill."""
    members: set[int] = set()
    for _ in range(8):
        found = tree(leader, rows())
        if found <= members:
            break
        for pid in found - members:
            _signal(pid, signal.SIGSTOP)
        members |= found
    for pid in members:
        _signal(pid, signal.SIGKILL)


def kill_all(uncounted: set[int]) -> int:
    """End every process but this one, init; how many there were besides ``uncounted``.

    The kernel walks its list under a lock that fork needs too, so a fork bomb does not outrun it.
    """
    count = sum(row.pid not in uncounted for row in rows())
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return count


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
