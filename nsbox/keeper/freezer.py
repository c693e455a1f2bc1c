"""Boxes that are to freeze: asked for by one write, done when every task has stopped by itself.

Nothing here waits. ``cgroup.events`` could be watched (kernfs wakes EPOLLPRI), but the kernel tells of it
once in 10 ms at most (CGROUP_FILE_NOTIFY_MIN_INTV), so that a pause soon after a resume would take that long.
Looking at once, and again and again while one is to freeze, is quicker and needs no descriptor: adr/0050.
"""

import errno
import time
from collections.abc import Callable

from nsbox.keeper.boxes import Box
from nsbox.wire.messages import Frozen

#: How long it may take, in seconds. A task in uninterruptible sleep (a disk does not answer) does not stop.
PATIENCE = 2.0
#: When it is looked again, in seconds: an idle box stops within some tenths of a millisecond, and whoever has
#: not stopped after ``_SOON`` is busy in the kernel, which is no reason to be busy here.
_OFTEN, _RARELY = 0.0002, 0.001
_SOON = 0.003


class Freezer:
    """Freezes and thaws. ``answer`` tells api how a freeze ended: each is told of exactly once."""

    def __init__(self, answer: Callable[[Frozen], None]) -> None:
        self._answer = answer
        self._since: dict[Box, float] = {}

    @property
    def rest(self) -> float | None:
        """In how many seconds ``look`` is to be called; None while nothing is to freeze."""
        if not self._since:
            return None
        youngest = max(self._since.values())
        return _OFTEN if time.monotonic() - youngest < _SOON else _RARELY

    def freeze(self, box: Box) -> None:
        """Begin. One that is frozen already is told to be at once."""
        if box in self._since:
            return  # asked for by an api process that is gone; the one that asks now gets the answer
        try:
            box.freeze(True)
        except OSError as error:
            self._tell(box, error.errno or errno.EIO)
            return
        self._since[box] = time.monotonic()
        self.look()

    def thaw(self, box: Box) -> int:
        """Let it go on; 0 or an errno. Where there is no cgroup it never stood still."""
        if self._since.pop(box, None) is not None:
            self._tell(box, errno.ECANCELED)
        try:
            box.freeze(False)
        except OSError as error:
            return 0 if error.errno == errno.EOPNOTSUPP else error.errno or errno.EIO
        return 0

    def forget(self, box: Box) -> None:
        """It is being ended: frozen tasks take SIGKILL as others do."""
        if self._since.pop(box, None) is not None:
            self._tell(box, errno.ESRCH)

    def look(self) -> None:
        """Tell of those that have frozen, and let those go on that do not come to it."""
        horizon = time.monotonic() - PATIENCE
        for box, since in list(self._since.items()):
            try:
                if box.frozen():
                    self._end(box, 0)
                elif since < horizon:
                    # Half frozen would be worse than not at all: what waits for it would never know.
                    box.freeze(False)
                    self._end(box, errno.EBUSY)
            except OSError as error:
                self._end(box, error.errno or errno.EIO)

    def _end(self, box: Box, number: int) -> None:
        del self._since[box]
        self._tell(box, number)

    def _tell(self, box: Box, number: int) -> None:
        self._answer(Frozen(box.id, number, box.cgroup.path if box.cgroup is not None and not number else ""))
