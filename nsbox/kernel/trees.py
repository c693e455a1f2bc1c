"""Removing directory trees that someone else has filled: deep, wide, unreadable, changing meanwhile.

``shutil.rmtree`` holds a descriptor and a Python frame for each level and gives up on a tree some thousand
levels deep, which a sandbox makes with one line of shell.
"""

import os
import stat
from collections.abc import Callable, Iterator

#: Below this depth directories are first moved up to the top of the tree.
_DEPTH = 64
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(parent: int, name: str) -> None:
    """Remove ``name`` in the directory ``parent`` with all below it, never following a symlink.

    Raises ``OSError`` for what may not be removed; everything that may be is removed before that.
    """
    information = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(information.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    top = _open(parent, name)
    failure: OSError | None = None
    try:
        emptied = _Emptied(top)
        for step in emptied.steps():
            try:
                step()
            except OSError as error:
                failure = failure or error
    finally:
        os.close(top)
    if failure:
        raise failure
    os.rmdir(name, dir_fd=parent)


def _open(parent: int, name: str) -> int:
    try:
        return os.open(name, _FLAGS, dir_fd=parent)
    except PermissionError:
        # overlayfs leaves work/ with mode 000, and a sandbox's user may have done the same to its own.
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _FLAGS, dir_fd=parent)


class _Emptied:
    """The work of emptying one tree; ``moved`` are subtrees brought up to its top for being too deep."""

    def __init__(self, top: int) -> None:
        self.top = top
        self.moved: list[str] = []

    def steps(self) -> Iterator[Callable[[], None]]:
        yield lambda: self.empty(self.top, 0)
        while self.moved:
            yield self.remove_moved

    def empty(self, directory: int, depth: int) -> None:
        failure: OSError | None = None
        with os.scandir(directory) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in names:
            try:
                self._remove(directory, name, is_directory, depth)
            except FileNotFoundError:
                continue  # somebody else was faster
            except OSError as error:
                failure = failure or error
        if failure:
            raise failure

    def _remove(self, directory: int, name: str, is_directory: bool, depth: int) -> None:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
        elif depth < _DEPTH:
            inner = _open(directory, name)
            try:
                self.empty(inner, depth + 1)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=directory)
        else:
            # Unguessable: whoever filled the tree may have put something in the way.
            free = f".nsbox-moved-{os.urandom(8).hex()}"
            os.rename(name, free, src_dir_fd=directory, dst_dir_fd=self.top)
            self.moved.append(free)

    def remove_moved(self) -> None:
        name = self.moved.pop()
        inner = _open(self.top, name)
        try:
            self.empty(inner, 1)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=self.top)
