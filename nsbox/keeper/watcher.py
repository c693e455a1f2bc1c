"""Storage limits where no quota holds them: a process that measures what sandboxes have written.

It looks only when the disk has changed by more than a little, and spends at most a tenth of a processor on
it. What a sandbox writes between two looks is how far it can pass its limit. Files that are open and have no
name are not seen: against malice there are quotas.

What it watches stands in ``sandboxes/ID/limit``, so that a watcher that replaces a dead one knows it too.
"""

import os
import select
import signal
import sys
import time
from typing import NamedTuple, NoReturn

from nsbox.inside import privileges
from nsbox.keeper import layout
from nsbox.kernel import libc, usage

_LIMIT = "limit"
_USED = "used"
#: How often the disk is looked at, in seconds, and what counts as a change of it.
_TICK = 0.1
_BYTES, _INODES = 1 << 20, 64
#: Everything is measured after so long all the same: what one deletes may hide what another writes.
_LONGEST = 5.0
#: Seconds of rest for each second of work.
_REST = 9.0


class Report(NamedTuple):
    """What a sandbox has written."""

    id: str
    size: int
    inodes: int
    over: bool


def mark(folder: str, size: int, inodes: int) -> None:
    """Have the sandbox in ``folder`` watched."""
    descriptor = os.open(f"{folder}/{_LIMIT}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{size} {inodes}".encode())
    finally:
        os.close(descriptor)


class Watcher:
    """keeper's handle on it. Started with the first sandbox that is watched, and again when it dies."""

    def __init__(self) -> None:
        self.pid = 0
        self.reports = -1
        self._rest = b""

    def start(self) -> None:
        self.close()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.pid = libc.clone3()
        if self.pid == 0:
            _watch_for_ever(writer)
        os.close(writer)
        os.set_blocking(reader, False)
        self.reports, self._rest = reader, b""

    def close(self) -> None:
        if self.reports >= 0:
            os.close(self.reports)
            self.reports = -1

    def read(self) -> list[Report]:
        """What it has found since the last time."""
        try:
            data = os.read(self.reports, 65_536)
        except BlockingIOError:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [_report(line.decode()) for line in lines]


def _report(line: str) -> Report:
    sandbox_id, size, inodes, over = line.split()
    return Report(sandbox_id, int(size), int(inodes), over == "1")


def _watch_for_ever(writer: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        privileges.close_all_but({0, 1, 2, writer})
        privileges.name_process("nsbox-watcher")
        privileges.die_with_parent(signal.SIGKILL)
        os.nice(5)
        folder = os.open(layout.SANDBOXES, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        rounds = Rounds(folder)
        while True:
            select.select([], [], [], rounds.pause)
            for report in rounds.look():
                os.write(writer, f"{report.id} {report.size} {report.inodes} {report.over:d}\n".encode())
    except BaseException as error:
        print(f"nsbox keeper: the watcher ends: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(0)


class Rounds:
    """What the watcher does, one look at a time. ``folder`` is that of all sandboxes."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        # Those above their limit, and what they had at the first look after that was told: until their
        # commands have really ended they go on growing, which is no reason to end the next ones too.
        self._over: dict[str, tuple[int, int] | None] = {}
        self._told: dict[str, tuple[int, int]] = {}
        self._seen = (0, 0)
        self._measured = 0.0
        self.pause = _TICK

    def look(self) -> list[Report]:
        """Measure if there is reason to; whom keeper must hear of."""
        figures = os.fstatvfs(self._folder)
        now = (figures.f_bfree * figures.f_frsize, figures.f_ffree)
        changed = abs(now[0] - self._seen[0]) >= _BYTES or abs(now[1] - self._seen[1]) >= _INODES
        begun = time.monotonic()
        # One that is above its limit is looked at each time: it may free space by less than a change.
        if not (changed or self._over or begun - self._measured >= _LONGEST):
            self.pause = _TICK
            return []
        self._seen = now
        reports = self._measure_all()
        self._measured = time.monotonic()
        self.pause = max(_TICK, _REST * (self._measured - begun))
        return reports

    def _measure_all(self) -> list[Report]:
        reports = []
        names = os.listdir(self._folder)
        for gone in self._over.keys() - set(names):
            del self._over[gone]
        for gone in self._told.keys() - set(names):
            del self._told[gone]
        for name in names:
            report = self._measure(name)
            if report is not None and self._is_news(report):
                reports.append(report)
        return reports

    def _measure(self, name: str) -> Report | None:
        try:
            limit = os.open(f"{name}/{_LIMIT}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
            try:
                size, inodes = (int(number) for number in os.read(limit, 64).split())
            finally:
                os.close(limit)
            upper = os.open(f"{name}/upper", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._folder)
        except (OSError, ValueError):
            return None  # has a quota, or is being made or removed
        try:
            found = usage.measure(upper)
        finally:
            os.close(upper)
        self._write_down(name, found.size, found.inodes)
        over = found.size > size or found.inodes > inodes or not found.whole
        return Report(name, found.size, found.inodes, over)

    def _write_down(self, name: str, size: int, inodes: int) -> None:
        """For who asks what a sandbox has written: api cannot look itself, since it is not its file's owner.

        In one write of always the same length, and only what is new.
        """
        if self._told.get(name) == (size, inodes):
            return
        try:
            used = os.open(
                f"{name}/{_USED}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._folder
            )
        except OSError:
            return  # it is being removed
        try:
            os.pwrite(used, f"{size:20d} {inodes:20d}".encode(), 0)
            self._told[name] = size, inodes
        except OSError:
            pass  # the disk is full: told later
        finally:
            os.close(used)

    def _is_news(self, report: Report) -> bool:
        """Told: who passes the limit, who grows again above it, and who is below it again."""
        if not report.over:
            return self._over.pop(report.id, False) is not False
        if report.id not in self._over:
            self._over[report.id] = None
            return True
        base = self._over[report.id]
        if base is None:
            self._over[report.id] = report.size, report.inodes
            return False
        # By more than a little: who removes files may write a few bytes meanwhile. The base stays until it is
        # told again, so many littles are found out.
        if report.size - base[0] < _BYTES and report.inodes - base[1] < _INODES:
            shrunk = min(base[0], report.size), min(base[1], report.inodes)
            self._over[report.id] = shrunk
            return False
        self._over[report.id] = None
        return True
