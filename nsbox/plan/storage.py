"""Sizes of storage: the classes that a quota pool has, and how many inodes go with so many bytes. Pure.

Only root can limit a project, and root is there only once, at set-up. So the limits are set for a table of
sizes beforehand, and a sandbox takes a project of the size that is nearest to what it asked for.
"""

from collections.abc import Iterable
from math import ceil, floor, log2

MIB = 1 << 20
#: Sizes for each doubling: neighbours differ by a factor of 1.09, so the nearest is within 4.5 %, and powers
#: of two are met exactly.
STEPS = 8
#: The most that the nearest size differs from what was asked for, as a factor.
WITHIN = 1.046
_PAGE = 4096
_BYTES_PER_INODE = 8192
_FEWEST_INODES = 16_384


def inodes(size: int) -> int:
    """How many files and directories go with ``size`` bytes: one for 8 KiB, twice as many as mke2fs makes."""
    return max(_FEWEST_INODES, size // _BYTES_PER_INODE)


def sizes(low_mb: int, high_mb: int) -> list[int]:
    """The classes for what may be asked for, in bytes."""
    first, last = floor(log2(low_mb) * STEPS), ceil(log2(high_mb) * STEPS)
    return [round(MIB * 2 ** (step / STEPS) / _PAGE) * _PAGE for step in range(first, last + 1)]


def nearest(classes: Iterable[int], wanted: int) -> int | None:
    """The class that differs least from ``wanted`` bytes, as a factor. None: none is near enough."""
    best = min(classes, key=lambda size: abs(log2(size / wanted)), default=None)
    if best is None or not 1 / WITHIN <= best / wanted <= WITHIN:
        return None
    return best
