"""What an archive says shall be made: pure data, not yet believed."""

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2
    HARD_LINK = 3
    FIFO = 4
    DEVICE = 5


class Segment(NamedTuple):
    """A stretch of a sparse file that has data."""

    offset: int
    length: int


class Entry(NamedTuple):
    """One entry. ``name`` and ``link`` are as in the archive. ``size`` is the file's, holes and all;
    ``stored`` what the archive has of it, and ``segments`` where that goes (None: it is the whole file)."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    stored: int = 0
    link: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    segments: tuple[Segment, ...] | None = None
