"""The folders of a layer that are open while it is filled.

A bounded number of them: a hostile archive has more folders than descriptors or memory. That is also why a
folder's time is set when it is closed, and not from a list at the end: whoever opens it again later notes
the time that it has, and sets it again.
"""

import os
import stat
from collections.abc import Sequence

from nsbox.oci.unpacking import whiteouts
from nsbox.oci.unpacking.refusal import Reason, Refused, shown

#: Without O_NOFOLLOW the kernel would go where the image says.
FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40  # as in the kernel's own walk (path_resolution(7))
#: Folders entered on one walk, links and all. An entry has three walks at most, and until it is done none of
#: what they opened is closed.
_MOST_STEPS = 256
#: Folders that stay open from one entry to the next.
_KEPT_OPEN = 128
#: Descriptors that are needed at most.
DESCRIPTORS = _KEPT_OPEN + 3 * _MOST_STEPS + 64


class Folder:
    """An open folder. ``path`` has no links in it. ``mtime_ns`` is the time to leave it with, if known;
    ``gives_group``: what is made in it gets its group."""

    __slots__ = ("changed", "descriptor", "gives_group", "mtime_ns", "path")

    def __init__(self, path: bytes, descriptor: int, mtime_ns: int | None, gives_group: bool) -> None:
        self.path, self.descriptor = path, descriptor
        self.mtime_ns, self.gives_group = mtime_ns, gives_group
        self.changed = False

    @property
    def is_open(self) -> bool:
        return self.descriptor >= 0

    def close(self, *, gone: bool = False) -> None:
        """Leave it with its time, unless it is about to be removed."""
        descriptor, self.descriptor = self.descriptor, -1
        try:
            if self.changed and self.mtime_ns is not None and not gone:
                os.utime(descriptor, ns=(self.mtime_ns, self.mtime_ns))
        finally:
            os.close(descriptor)


class Folders:
    """Open folders by their paths, the one not used for longest first."""

    def __init__(self, root: int, max_depth: int) -> None:
        self.top = Folder(b"", root, None, gives_group=False)
        self._max_depth = max_depth
        self._open: dict[bytes, Folder] = {}

    def enter(self, parent: Folder, name: bytes, *, new: bool = False) -> Folder:
        """A real folder in ``parent``. Raises ``OSError``: ENOENT, and ENOTDIR for all else, links too."""
        path = parent.path + b"/" + name
        folder = self._open.pop(path, None)
        if folder is None:
            descriptor = os.open(name, FLAGS, dir_fd=parent.descriptor)
            if new:
                folder = Folder(path, descriptor, None, parent.gives_group)
            else:
                status = os.fstat(descriptor)
                folder = Folder(path, descriptor, status.st_mtime_ns, bool(status.st_mode & stat.S_ISGID))
        self._open[path] = folder
        return folder

    def walk(self, parts: Sequence[bytes], *, make: bool) -> Folder:
        """The folder at ``parts``, symlinks followed as with the layer as root; made if it may be."""
        path = b"/" + b"/".join(parts)
        cached = self._open.pop(path, None)
        if cached is not None:
            self._open[path] = cached
            return cached
        todo, links, steps = list(reversed(parts)), 0, 0
        here = [self.top]
        while todo:
            name = todo.pop()
            steps += 1
            if name == b"..":
                del here[max(1, len(here) - 1) :]
                continue
            try:
                here.append(self.enter(here[-1], name))
            except FileNotFoundError:
                if not make:
                    raise
                here.append(self._make(here[-1], name))
            except NotADirectoryError:
                target = self._target(here[-1], name, make=make)
                if target is None:
                    here.append(self._make(here[-1], name))
                    whiteouts.make_opaque(here[-1].descriptor)
                    continue
                links += 1
                if target.startswith(b"/"):
                    del here[1:]
                todo += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
            if links > _MOST_LINKS or steps > _MOST_STEPS or len(here) + len(todo) > self._max_depth + 1:
                raise Refused(Reason.DEPTH, f"{shown(path)} is too deep, or its links go in circles")
        return here[-1]

    def trim(self) -> None:
        """Close what was not used for long. Between entries only: walks stand on what they opened."""
        while len(self._open) > _KEPT_OPEN:
            self._open.pop(next(iter(self._open))).close()

    def _target(self, parent: Folder, name: bytes, *, make: bool) -> bytes | None:
        """What the link ``name`` says; None for a whiteout, which is gone then."""
        status = os.stat(name, dir_fd=parent.descriptor, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(name, dir_fd=parent.descriptor)
        if make and whiteouts.is_whiteout(status):
            parent.changed = True
            os.unlink(name, dir_fd=parent.descriptor)
            return None
        raise Refused(
            Reason.NAME, f"{shown(parent.path + b'/' + name)} is no folder, and something lies in it"
        )

    def _make(self, parent: Folder, name: bytes) -> Folder:
        """A folder that the archive does not mention, or not yet."""
        parent.changed = True
        os.mkdir(name, 0o755, dir_fd=parent.descriptor)
        folder = self.enter(parent, name, new=True)
        if parent.gives_group:
            os.fchown(folder.descriptor, 0, 0)
            os.fchmod(folder.descriptor, 0o755)
            folder.gives_group = False
        return folder

    def forget(self, parent: Folder, name: bytes) -> None:
        """Close a folder that is about to go, and all below it."""
        gone = parent.path + b"/" + name
        for path in [path for path in self._open if path == gone or path.startswith(gone + b"/")]:
            self._open.pop(path).close(gone=True)

    def close(self) -> None:
        """Close all, the top one too; the deepest first does not matter, since closing changes no folder."""
        for folder in self._open.values():
            folder.close()
        self._open.clear()
        self.top.close()
