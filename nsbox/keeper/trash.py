"""Deleting what sandboxes leave behind, in a process of its own.

Killing a sandbox moves its directories to ``trash/`` by one rename; what a tenant filled with a million
files is then taken apart here, while keeper goes on making sandboxes.
"""

import os
import signal
import sys
from typing import NoReturn

from nsbox.inside import privileges
from nsbox.keeper import layout
from nsbox.kernel import libc, trees


class Sweeper:
    """The sweeping child. ``sweep`` wakes it; ``restart`` replaces one that died."""

    def __init__(self) -> None:
        self.pid = 0
        self._wake = -1
        self._serial = 0
        self._late: list[str] = []  # what could not be moved, as on a full disk: tried again each time

    def start(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.pid = libc.clone3()
        if self.pid == 0:
            _sweep_for_ever(reader)
        os.close(reader)
        if self._wake >= 0:
            os.close(self._wake)
        os.set_blocking(writer, False)
        self._wake = writer
        self.wake()

    def discard(self, path: str) -> None:
        """Move ``path`` out of the way now and delete it soon. One that is not there is no error."""
        late, self._late = [*self._late, path], []
        for one in late:
            self._serial += 1
            try:
                os.rename(one, f"{layout.TRASH}/{os.path.basename(one)}.{os.getpid()}.{self._serial}")
            except FileNotFoundError:
                continue
            except OSError as error:
                print(f"nsbox keeper: cannot move {one} away: {error}", file=sys.stderr, flush=True)
                self._late.append(one)
        self.wake()

    def wake(self) -> None:
        try:
            os.write(self._wake, b"x")
        except (BlockingIOError, BrokenPipeError):
            pass  # awake already, or dead and about to be restarted


def _sweep_for_ever(reader: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        privileges.close_all_but({0, 1, 2, reader})
        privileges.name_process("nsbox-sweeper")
        privileges.die_with_parent(signal.SIGKILL)
        trash = os.open(layout.TRASH, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        while os.read(reader, 4096):
            for name in os.listdir(trash):
                _remove(trash, name)
    finally:
        os._exit(0)


def _remove(trash: int, name: str) -> None:
    try:
        trees.remove_tree(trash, name)
    except OSError as error:
        print(f"nsbox keeper: cannot delete {layout.TRASH}/{name}: {error}", file=sys.stderr, flush=True)
