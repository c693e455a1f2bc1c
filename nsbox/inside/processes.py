"""The sandbox's processes as /proc shows them, for where no cgroup tells them apart."""

import os
import signal
from typing import NamedTuple

#: TASK_COMM_LEN of the kernel, less the terminating NUL.
_NAME_LENGTH = 15


class Row(NamedTuple):
    """One process: its parent, the leader of its session, and what it uses: clock ticks of processor time,
    those of children that it has waited for included, and pages of memory."""

    pid: int
    parent: int
    session: int
    ticks: int = 0
    pages: int = 0


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
        # proc_pid_stat(5), less the two fields in front: utime, stime, cutime, cstime; rss.
        ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
        found.append(Row(int(name), int(fields[1]), int(fields[3]), ticks, int(fields[21])))
    return found


def tree(leader: int, table: list[Row]) -> set[int]:
    """``leader``, all that descends from it, and all sessions that any of those lead."""
    members = {leader}
    while True:
        more = {row.pid for row in table if row.parent in members or row.session in members} - members
        if not more:
            return members
        members |= more


def led_session(pid: int) -> bytes:
    """The name (proc_pid_stat(5), "comm") of a process that leads a session, zombie or not; else empty."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            front, _, back = file.read().rpartition(b")")
    except OSError:
        return b""
    return front.partition(b"(")[2] if int(back.split()[3]) == pid else b""


def heir(argv: tuple[str, ...], known: set[int], dead: dict[int, bytes]) -> int:
    """The pid of the command that ran ``argv`` and fell to init before anybody had told its pid; 0 where none
    or more than one fits: an exit status must not go to the wrong command.

    ``known``: init's other children. ``dead``: what it has reaped besides, and of which name. A command
    leads its own session. The kernel shows a script's interpreter before its arguments, and until it has
    executed its program the copied command line of nsbox. What a process says of itself can be made up, by
    its own sandbox only.
    """
    own, wanted = _arguments(os.getpid()), [os.fsencode(one) for one in argv]
    name = os.path.basename(wanted[0])[:_NAME_LENGTH]
    found = [pid for pid, shown in dead.items() if shown == name]
    for row in rows():
        if row.parent == 1 and row.session == row.pid and row.pid not in known:
            shown = _arguments(row.pid)
            if shown == own or _is_tail(wanted, shown):
                found.append(row.pid)
    return found[0] if len(found) == 1 else 0


def _arguments(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")[:-1]
    except OSError:
        return []


def _is_tail(wanted: list[bytes], shown: list[bytes]) -> bool:
    tail = shown[-len(wanted) :]
    if len(tail) < len(wanted):
        return False
    return tail[1:] == wanted[1:] and os.path.basename(tail[0]) == os.path.basename(wanted[0])


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
