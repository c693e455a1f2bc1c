"""Copies what a sandbox has written. The tree may change meanwhile: its owner may be hostile, and where no
cgroup is delegated nobody can be made to stand still.

Everything is reached by descriptors and names without a slash, no symlink is followed, and what a name is, is
asked of the descriptor. Names, owners, modes, times, extended attributes, hard links, holes and overlayfs's
whiteouts and opaque folders are kept; sockets are left out, whose listeners are not copied either, and
devices, which no sandbox can make. Of overlayfs's own attributes the others (origin, impure, ...) tell of
the mount that the tree was written by.

Not by hard links: overlayfs writes to the files of the upper folder in place, so the copy would change too
(docs/adr/0056).
"""

import errno
import fcntl
import os
import stat
from enum import Enum
from typing import NamedTuple

from nsbox.oci.snapshots.box import FICLONE
from nsbox.oci.unpacking.refusal import Reason, Refused, refusal, shown

#: Folders in a path. Two descriptors each.
DEPTH = 256
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a file that has become a FIFO must not hang us.
_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TARGET = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 8 << 20
#: How often the free space is looked at.
_LOOK_ENTRIES = 256
#: A hard link's first name must be nameable from the top.
_LONGEST_PATH = 3_800
_OVERLAY, OPAQUE = "user.overlay.", "user.overlay.opaque"
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_NO_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
#: What a swapped or vanished name gives: the tree has changed since it was listed.
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.ESTALE)


class Bounds(NamedTuple):
    """What a copy may cost; ``reserve``: so many bytes of the disk stay free."""

    max_bytes: int
    max_entries: int
    reserve: int


class _Kind(Enum):
    """What a listing says of a name. It may be another thing by the time it is opened."""

    FILE, FOLDER, OTHER = range(3)


class _Name(NamedTuple):
    name: str
    kind: _Kind


class _Open(NamedTuple):
    """A folder that is being copied, and the names that are left of it."""

    source: int
    target: int
    names: list[_Name]
    path: str


class Copier:
    """Copies the folder ``source`` into the empty folder ``target``, both open."""

    def __init__(self, source: int, target: int, bounds: Bounds) -> None:
        self._bounds, self._top = bounds, target
        self._stack = [_Open(source, target, _listed(source), "")]
        self._links: dict[tuple[int, int], str] = {}
        self._clones = True
        self._looked = 0
        self.entries = self.bytes = self.skipped = self.dropped = self.changed = self.cloned = 0

    def run(self) -> dict[str, int]:
        """Copy all; what was done. Raises ``Refused``, ``OSError``."""
        self._look_at_space()
        try:
            while self._stack:
                here = self._stack[-1]
                if here.names:
                    self._entry(here, here.names.pop())
                else:
                    self._leave(self._stack.pop())
        finally:
            for left in self._stack[1:]:
                os.close(left.source)
                os.close(left.target)
        names = "entries", "bytes", "skipped", "dropped", "changed", "cloned"
        return {name: getattr(self, name) for name in names}

    def _leave(self, done: _Open) -> None:
        # Last: filling a folder changes its times, and its set-group-ID bit would give its files a group.
        status = os.fstat(done.source)
        os.fchown(done.target, status.st_uid, status.st_gid)
        os.fchmod(done.target, stat.S_IMODE(status.st_mode))
        self._attributes(done.source, done.target)
        os.utime(done.target, ns=(status.st_atime_ns, status.st_mtime_ns))
        if self._stack:
            os.close(done.source)
            os.close(done.target)

    def _entry(self, here: _Open, entry: _Name) -> None:
        self.entries += 1
        if self.entries > self._bounds.max_entries:
            raise Refused(Reason.ENTRIES, f"there are more than {self._bounds.max_entries} files and folders")
        if self.entries % _LOOK_ENTRIES == 0:
            self._look_at_space()
        try:
            self._copy(here, entry)
        except OSError as error:
            if error.errno not in _CHANGED:
                raise refusal(error, shown(os.fsencode(entry.name))) from error
            self._vanished()

    def _vanished(self) -> None:
        self.entries -= 1
        self.changed += 1

    def _copy(self, here: _Open, entry: _Name) -> None:
        if entry.kind is _Kind.FILE:
            self._file(here, entry.name)
        elif entry.kind is _Kind.FOLDER:
            self._folder(here, entry.name)
        else:
            self._other(here, entry.name)

    def _other(self, here: _Open, name: str) -> None:
        status = os.stat(name, dir_fd=here.source, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            self._vanished()  # it was something else when it was listed
        elif kind == stat.S_IFCHR and status.st_rdev == 0:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=here.target)  # a whiteout
        elif kind == stat.S_IFLNK:
            if not self._is_linked(here, name, status):
                os.symlink(_link(here.source, name), name, dir_fd=here.target)
                self._own_by_name(here, name, status)
        elif kind == stat.S_IFIFO:
            if not self._is_linked(here, name, status):
                os.mkfifo(name, 0o600, dir_fd=here.target)
                self._own_by_name(here, name, status)
                os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=here.target)
        else:
            self.entries -= 1
            self.skipped += 1

    @staticmethod
    def _own_by_name(here: _Open, name: str, status: os.stat_result) -> None:
        """In the target, where nobody else is at work."""
        os.chown(name, status.st_uid, status.st_gid, dir_fd=here.target, follow_symlinks=False)
        times = status.st_atime_ns, status.st_mtime_ns
        os.utime(name, ns=times, dir_fd=here.target, follow_symlinks=False)

    def _folder(self, here: _Open, name: str) -> None:
        if len(self._stack) > DEPTH:
            raise Refused(Reason.DEPTH, f"folders are nested more than {DEPTH} deep")
        source = os.open(name, _FOLDER, dir_fd=here.source)
        names = _listed(source)
        os.mkdir(name, 0o700, dir_fd=here.target)
        target = os.open(name, _FOLDER, dir_fd=here.target)
        self._stack.append(_Open(source, target, names, f"{here.path}{name}/"))

    def _file(self, here: _Open, name: str) -> None:
        original = os.open(name, _SOURCE, dir_fd=here.source)
        try:
            status = os.fstat(original)
            if not stat.S_ISREG(status.st_mode):
                self._vanished()
            elif not self._is_linked(here, name, status):
                self._contents(here, name, original, status)
        finally:
            os.close(original)

    def _is_linked(self, here: _Open, name: str, status: os.stat_result) -> bool:
        """Make it a hard link, if it is one to what was copied before."""
        if status.st_nlink < 2:
            return False
        known = self._links.get((status.st_dev, status.st_ino))
        if known is not None:
            os.link(known, name, src_dir_fd=self._top, dst_dir_fd=here.target, follow_symlinks=False)
            return True
        path = f"{here.path}{name}"
        if len(path) < _LONGEST_PATH:  # else it becomes a file of its own
            self._links[status.st_dev, status.st_ino] = path
        return False

    def _contents(self, here: _Open, name: str, original: int, status: os.stat_result) -> None:
        mode = stat.S_IMODE(status.st_mode)
        copy = os.open(name, _TARGET, mode & 0o777, dir_fd=here.target)
        try:
            if status.st_size:
                self._data(original, copy, status)
            # Owner first: chown clears set-id bits and capabilities. We are 0:0 here.
            if status.st_uid or status.st_gid:
                os.fchown(copy, status.st_uid, status.st_gid)
            if mode > 0o777:
                os.fchmod(copy, mode)
            self._attributes(original, copy)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(copy)
        after = os.fstat(original)
        if _version(after) != _version(status):
            self.changed += 1

    def _data(self, original: int, copy: int, status: os.stat_result) -> None:
        size = status.st_size
        if self._clones and self._cloned(original, copy):
            self._count(min(size, status.st_blocks * 512))
            self.cloned += 1
        elif status.st_blocks * 512 >= size:
            self._range(original, copy, 0, size)
        else:
            self._pieces(original, copy, size)

    def _cloned(self, original: int, copy: int) -> bool:
        """Whether the file system has let both share their blocks."""
        try:
            fcntl.ioctl(copy, FICLONE, original)
        except OSError as error:
            if error.errno not in _NO_CLONE:
                raise
            self._clones = False  # nor will it for the next one
            return False
        return True

    def _pieces(self, original: int, copy: int, size: int) -> None:
        """What is not a hole. Between two questions the file may have changed: no more than ``size``."""
        offset = 0
        while offset < size:
            try:
                begin = os.lseek(original, offset, os.SEEK_DATA)
                offset = os.lseek(original, begin, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but a hole is left
            self._range(original, copy, begin, min(offset, size))
        os.ftruncate(copy, size)

    def _range(self, original: int, copy: int, begin: int, end: int) -> None:
        while begin < end:
            count = self._some(original, copy, begin, min(end - begin, _PIECE))
            if not count:
                return  # it has become shorter
            begin += count
            self._count(count)
            if count == _PIECE:
                self._look_at_space()

    @staticmethod
    def _some(original: int, copy: int, offset: int, count: int) -> int:
        try:
            return os.copy_file_range(original, copy, count, offset, offset)
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
        return os.pwrite(copy, os.pread(original, min(count, 1 << 20), offset), offset)

    def _count(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self._bounds.max_bytes:
            raise Refused(Reason.BYTES, f"the files have more than {self._bounds.max_bytes} bytes")

    def _look_at_space(self) -> None:
        figures = os.fstatvfs(self._top)
        if figures.f_bavail * figures.f_frsize < self._bounds.reserve:
            raise Refused(Reason.NO_SPACE, "the disk is nearly full")

    def _attributes(self, original: int, copy: int) -> None:
        for name in os.listxattr(original):
            if name.startswith(_OVERLAY) and name != OPAQUE:
                continue
            try:
                os.setxattr(copy, name, os.getxattr(original, name))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self.dropped += 1  # what this namespace may not set stays behind


def _listed(folder: int) -> list[_Name]:
    """The kinds come with the names, from the folder itself: a stat for each name would cost a tenth more."""
    with os.scandir(folder) as entries:
        return [_Name(entry.name, _kind(entry)) for entry in entries]


def _kind(entry: os.DirEntry[str]) -> _Kind:
    if entry.is_file(follow_symlinks=False):
        return _Kind.FILE
    return _Kind.FOLDER if entry.is_dir(follow_symlinks=False) else _Kind.OTHER


def _link(folder: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.EINVAL:  # it was one a moment ago
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
        raise


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
