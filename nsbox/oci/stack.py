"""A look into a stack of layers without mounting it: is there a shell, is there the working directory?

The layers are an image's, so no path of theirs is ever followed by the kernel: each step is looked at first,
and a symlink is followed here, within the stack. Nothing is opened; what api may not look at is unknown.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Sequence

_MOST_LINKS = 40
_OPAQUE = "user.overlay.opaque"


class Hidden(Exception):
    """A folder on the way cannot be looked into by the daemon's user."""


class Stack:
    """``layers`` are folders, topmost first, in the form that overlayfs takes."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers = layers

    def mode(self, path: str) -> int | None:
        """The type and permissions of what ``path`` leads to in the merged tree; None where nothing is.

        Raises ``Hidden``.
        """
        todo = deque(part for part in path.split("/") if part not in ("", "."))
        at: list[str] = []
        found: int | None = stat.S_IFDIR | 0o755
        links = 0
        while todo:
            part = todo.popleft()
            if part == "..":
                at = at[:-1]
                continue
            place, found = self._look([*at, part])
            if found is None:
                return None
            if stat.S_ISLNK(found):
                links += 1
                if links > _MOST_LINKS:
                    return None
                target = os.readlink(place)
                at = [] if target.startswith("/") else at
                todo.extendleft(reversed([part for part in target.split("/") if part not in ("", ".")]))
                found = stat.S_IFDIR | 0o755  # in case the link leads to where we are
            elif stat.S_ISDIR(found):
                at.append(part)
            elif todo:
                return None
        return found

    def _look(self, parts: list[str]) -> tuple[str, int | None]:
        """One name below folders that are known to be visible, and no symlinks."""
        for layer in self._layers:
            place, covers = layer, False
            for part in parts[:-1]:
                place = f"{place}/{part}"
                status = _lstat(place)
                if status is None:
                    break
                if not stat.S_ISDIR(status.st_mode):
                    return place, None  # a whiteout, or a file that the folder above it covers
                covers = covers or _is_opaque(place)
            else:
                place = f"{place}/{parts[-1]}"
                status = _lstat(place)
                if status is not None:
                    hidden = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
                    return place, None if hidden else status.st_mode
            if covers:
                return place, None
        return "", None


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise Hidden(path) from error


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError as error:
        if error.errno == errno.EACCES:
            raise Hidden(path) from error
        return False


def has_shell(layers: Sequence[str]) -> bool:
    """Whether /bin/sh can be started; when that cannot be told, yes: then a command tells."""
    try:
        mode = Stack(layers).mode("/bin/sh")
    except Hidden:
        return True
    return mode is not None and stat.S_ISREG(mode) and bool(mode & 0o111)


def has_folder(layers: Sequence[str], path: str) -> bool:
    """Whether a folder is there; when that cannot be told, yes."""
    try:
        mode = Stack(layers).mode(path)
    except Hidden:
        return True
    return mode is not None and stat.S_ISDIR(mode)
