"""A layer's folder while it is being made: beside its place, locked, and renamed when it is whole.

A folder that has a layer's name is complete. What is being made has another one, and a lock for as long as
its maker lives, so that what a killed one has left is told from what somebody is at work on.
"""

import fcntl
import os

from nsbox.kernel import namespaces, trees
from nsbox.oci.unpacking.refusal import Reason, Refused

PARTIAL = ".partial"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Placing:
    """A new folder for the layer at ``path``. Raises ``Refused`` where that is there, or is being made.

    As a context: what has not been published when it ends is removed.
    """

    def __init__(self, path: str) -> None:
        where, self._name = os.path.split(path)
        self.layers = os.open(where, FOLDER)
        if _there(self.layers, self._name):
            raise Refused(Reason.EXISTS, f"the layer {self._name} is there already")
        self._partial = self._name + PARTIAL
        self.folder = self._claim()
        self._published = False

    def __enter__(self) -> "Placing":
        return self

    def __exit__(self, *unused: object) -> None:
        if not self._published and self._is_ours():
            trees.remove_tree(self.layers, self._partial)

    def publish(self) -> None:
        """Give it its name. Whether its contents are on disk is the caller's business."""
        if not self._is_ours():
            raise Refused(Reason.BUSY, "somebody removed the folder meanwhile")
        os.rename(self._partial, self._name, src_dir_fd=self.layers, dst_dir_fd=self.layers)
        self._published = True

    def _is_ours(self) -> bool:
        return _there(self.layers, self._partial, os.fstat(self.folder))

    def _claim(self) -> int:
        """A new folder, locked. What an earlier maker has left is removed, if it is not at work."""
        try:
            left = os.open(self._partial, FOLDER, dir_fd=self.layers)
        except FileNotFoundError:
            pass
        else:
            _lock(left)
            if not _there(self.layers, self._partial, os.fstat(left)):  # finished or given up meanwhile
                raise Refused(Reason.BUSY, "the layer was being made by somebody else")
            trees.remove_tree(self.layers, self._partial)
            os.close(left)
        try:
            os.mkdir(self._partial, 0o755, dir_fd=self.layers)
            folder = os.open(self._partial, FOLDER, dir_fd=self.layers)
        except (FileExistsError, FileNotFoundError):
            raise Refused(Reason.BUSY, "the layer is being made by somebody else") from None
        _lock(folder)
        os.fchown(folder, namespaces.OUTER_OFFSET, namespaces.OUTER_OFFSET)
        return folder


def _lock(folder: int) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(Reason.BUSY, "the layer is being made by somebody else") from None


def _there(layers: int, name: str, same: os.stat_result | None = None) -> bool:
    """Whether there is such a name; with ``same``, whether it is that very folder."""
    try:
        there = os.stat(name, dir_fd=layers, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return same is None or (there.st_dev, there.st_ino) == (same.st_dev, same.st_ino)
