"""How much a directory tree takes up, for trees that somebody else is filling meanwhile."""

import os
from typing import Final, NamedTuple

#: So many directories are held open on the way down; further up they are found again by "..".
_HELD: Final = 64
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = 512  # what st_blocks counts in, whatever the file system


class Usage(NamedTuple):
    """Bytes on disk and inodes. ``whole`` is false when somebody moved what was being looked at, so that the
    way back up was lost."""

    size: int
    inodes: int
    whole: bool


class _Descent:
    """Where in a tree one is. A descriptor for each level is what an attacker would make us run out of."""

    def __init__(self, top: int) -> None:
        self._held = [top]  # -1 where it was let go
        self._known = [(0, 0)]  # device and inode of those

    @property
    def here(self) -> int:
        return self._held[-1]

    def down(self, name: str) -> bool:
        """False when it is gone, or no directory any more."""
        try:
            self._held.append(os.open(name, _FLAGS, dir_fd=self.here))
        except OSError:
            return False
        self._known.append((0, 0))
        far = len(self._held) - 1 - _HELD
        if far >= 0:
            self._known[far] = _identity(self._held[far])
            os.close(self._held[far])
            self._held[far] = -1
        return True

    def up(self) -> bool:
        """False when ".." leads somewhere else than one came from, which might be out of the tree."""
        below = self._held.pop()
        self._known.pop()
        try:
            if not self._held or self.here >= 0:
                return True
            self._held[-1] = os.open("..", _FLAGS, dir_fd=below)
            return _identity(self.here) == self._known[-1]
        except OSError:
            return False
        finally:
            os.close(below)

    def close(self) -> None:
        for descriptor in self._held:
            if descriptor >= 0:
                os.close(descriptor)


def _identity(directory: int) -> tuple[int, int]:
    found = os.fstat(directory)
    return found.st_dev, found.st_ino


def measure(top: int) -> Usage:
    """What is below the open directory ``top``. Files with several names count once. What vanishes while
    this looks is passed over."""
    linked: set[int] = set()
    descent = _Descent(os.dup(top))
    try:
        (size, inodes, _), below = _look(descent.here, linked)
        pending = [below]
        while pending:
            if not pending[-1]:
                pending.pop()
                if not descent.up():
                    return Usage(size, inodes, False)
                continue
            if descent.down(pending[-1].pop()):
                found, below = _look(descent.here, linked)
                size, inodes = size + found.size, inodes + found.inodes
                pending.append(below)
    finally:
        descent.close()
    return Usage(size, inodes, True)


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
