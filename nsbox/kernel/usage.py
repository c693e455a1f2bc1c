"""How much a directory tree takes up, for trees that somebody else is filling meanwhile."""

import os
from typing import Final, NamedTuple

#: Deeper than this nobody means it; who looks at it all the same would need a descriptor for each level.
_DEPTH: Final = 256
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = 512  # what st_blocks counts in, whatever the file system


class Usage(NamedTuple):
    """Bytes on disk and inodes. ``whole`` is false when the tree was too deep to be measured to its end."""

    size: int
    inodes: int
    whole: bool


def measure(top: int) -> Usage:
    """What is below the open directory ``top``. Files with several names count once. What vanishes while
    this looks is passed over."""
    size = inodes = 0
    whole = True
    linked: set[int] = set()
    open_directories = [os.dup(top)]
    pending: list[list[str]] = [[]]
    try:
        found, pending[0] = _look(open_directories[0], linked)
        size, inodes = size + found.size, inodes + found.inodes
        while open_directories:
            if not pending[-1]:
                pending.pop()
                os.close(open_directories.pop())
                continue
            name = pending[-1].pop()
            if len(open_directories) >= _DEPTH:
                whole = False
                continue
            try:
                directory = os.open(name, _FLAGS, dir_fd=open_directories[-1])
            except OSError:
                continue  # gone, or not a directory any more
            open_directories.append(directory)
            found, below = _look(directory, linked)
            size, inodes = size + found.size, inodes + found.inodes
            pending.append(below)
    finally:
        for directory in open_directories:
            os.close(directory)
    return Usage(size, inodes, whole)


def _look(directory: int, linked: set[int]) -> tuple[Usage, list[str]]:
    """One directory: what its entries take up, and which of them are directories."""
    size = inodes = 0
    below: list[str] = []
    try:
        entries = os.scandir(directory)
    except OSError:
        return Usage(0, 0, True), below
    with entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
            elif found.st_nlink > 1:
                if found.st_ino in linked:
                    continue
                linked.add(found.st_ino)
            size += found.st_blocks * _BLOCK
            inodes += 1
    return Usage(size, inodes, True), below
