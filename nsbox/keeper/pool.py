"""Blanks in stock: made while nobody waits, so that create need not."""

import time
from collections import deque

from nsbox.keeper.boxes import Box, Host, Phase

#: After a blank could not be made, how long the pool rests before it tries again, in seconds.
_REST = 1.0


class Pool:
    """Makes blanks and hands them out. ``boxes`` of every phase are the caller's; this knows the stock."""

    def __init__(self, size: int, host: Host) -> None:
        self.size = size
        self._host = host
        self._stock: deque[Box] = deque()
        self._serial = 0
        self._not_before = 0.0

    @property
    def wants_more(self) -> bool:
        return len(self._stock) < self.size and time.monotonic() >= self._not_before

    def __len__(self) -> int:
        return len(self._stock)

    @property
    def low(self) -> bool:
        """Less than half of the stock is there."""
        return 2 * len(self._stock) < self.size

    @property
    def resting(self) -> bool:
        """Short of blanks, and waiting until it tries again."""
        return len(self._stock) < self.size and not self.wants_more

    def make(self) -> Box:
        """A new box, cloned. Raises ``StageError`` with the box as ``box``."""
        self._serial += 1
        return Box(self._serial, self._host)

    def stock(self, box: Box) -> None:
        self._stock.append(box)

    def take(self) -> Box | None:
        """A blank, the readiest one: one that is prepared, else one that is being prepared."""
        for box in self._stock:
            if box.phase is Phase.BLANK:
                self._stock.remove(box)
                return box
        return self._stock.popleft() if self._stock else None

    def drop(self, box: Box) -> None:
        """A box died; if it was in stock, rest before the next."""
        if box in self._stock:
            self._stock.remove(box)
            self.rest()

    def rest(self) -> None:
        self._not_before = time.monotonic() + _REST
