"""Making a layer's tree of an archive's entries.

The walls are elsewhere: this process sees nothing but the layer's folder (``walls``), so that whatever is
wrong here stays in the layer. What is here makes the tree the one that Docker would make. Every step is taken
relative to a directory's descriptor and without following links; a parent that is a symlink leads to where it
would lead in a container with this layer as its root.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from nsbox.kernel import trees
from nsbox.oci.unpacking import attributes, whiteouts
from nsbox.oci.unpacking.entries import Entry, Kind
from nsbox.oci.unpacking.folders import Folder, Folders
from nsbox.oci.unpacking.limits import NAME_BYTES, PATH_BYTES, Limits
from nsbox.oci.unpacking.refusal import Reason, Refused, refusal, shown
from nsbox.oci.unpacking.stream import Stream

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Files up to this size are taken from the stream at once.
_SMALL = 1 << 16
_IDS = 65_536


class Place(NamedTuple):
    """A name in an open folder."""

    folder: Folder
    name: bytes


class Tree:
    """Fills the directory ``root``. ``Refused`` leaves it half done."""

    def __init__(self, root: int, stream: Stream, limits: Limits) -> None:
        self._stream, self._limits = stream, limits
        self._folders = Folders(root, limits.max_depth)
        self._last: tuple[bytes, Folder] | None = None
        self.bytes = self.devices_skipped = self.xattrs_dropped = 0
        self._makers: dict[Kind, Callable[[Entry, Place], None]] = {
            Kind.FILE: self._file,
            Kind.DIRECTORY: self._directory,
            Kind.SYMLINK: self._symlink,
            Kind.HARD_LINK: self._hard_link,
            Kind.FIFO: self._fifo,
        }

    def add(self, entry: Entry) -> None:
        """Make one entry. Raises ``Refused``."""
        if not (0 <= entry.uid < _IDS and 0 <= entry.gid < _IDS):
            raise Refused(
                Reason.OWNER,
                f"{shown(entry.name)} belongs to {entry.uid}:{entry.gid}; a sandbox's ids end at {_IDS - 1}",
            )
        if entry.kind is Kind.DEVICE:
            self.devices_skipped += 1
            return
        try:
            self._add(entry)
        except OSError as error:
            raise refusal(error, shown(entry.name)) from error

    def _add(self, entry: Entry) -> None:
        self._folders.trim()
        if whiteouts.META in entry.name and whiteouts.lies_in_meta(entry.name):
            return
        place = self._place(entry.name)
        if place is None:
            self._top(entry)
        elif place.name.startswith(whiteouts.PREFIX):
            place.folder.changed = True
            whiteouts.apply(place.folder.descriptor, place.name)
        else:
            place.folder.changed = True
            self._makers[entry.kind](entry, place)

    def finish(self) -> None:
        """Set what is left: the times of folders that are still open."""
        self._folders.close()

    # names

    def _place(self, name: bytes) -> Place | None:
        """Where an entry goes, its parents made where they are missing; None for the top folder itself."""
        head, _, base = name.rstrip(b"/").rpartition(b"/")
        # Nearly all entries lie in the folder of the one before.
        last = self._last
        if last is not None and last[0] == head and last[1].is_open and base not in (b"", b".", b".."):
            if len(base) > NAME_BYTES:
                raise Refused(Reason.NAME, f"a name of {len(base)} bytes")
            return Place(last[1], base)
        parts = self._parts(name)
        if not parts:
            return None
        if any(part.startswith(whiteouts.PREFIX) for part in parts[:-1]):
            raise Refused(Reason.NAME, f"{shown(name)} lies in a whiteout")
        folder = self._folders.walk(parts[:-1], make=True)
        # "a/." says its name before the end: the folder is that of no other name then.
        self._last = (head, folder) if base == parts[-1] else None
        return Place(folder, parts[-1])

    def _parts(self, name: bytes) -> list[bytes]:
        if len(name) > PATH_BYTES:
            raise Refused(Reason.NAME, f"a path of {len(name)} bytes")
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if not name or b".." in parts:
            raise Refused(Reason.NAME, f"the name {shown(name)} leads out of its folder")
        if len(parts) > self._limits.max_depth:
            raise Refused(Reason.DEPTH, f"a path of {len(parts)} parts")
        if max(map(len, parts), default=0) > NAME_BYTES:
            raise Refused(Reason.NAME, f"a name of more than {NAME_BYTES} bytes")
        return parts

    # kinds

    def _top(self, entry: Entry) -> None:
        if entry.kind is not Kind.DIRECTORY:
            raise Refused(Reason.NAME, f"{shown(entry.name)} is no name for a file")
        self._dress(self._folders.top, entry, mode_set=False)

    def _directory(self, entry: Entry, place: Place) -> None:
        try:
            os.mkdir(place.name, entry.mode & 0o777, dir_fd=place.folder.descriptor)
        except FileExistsError:
            status = self._status(place)
            if not stat.S_ISDIR(status.st_mode):
                self._clear(place)
                os.mkdir(place.name, 0o700, dir_fd=place.folder.descriptor)
                folder = self._folders.enter(place.folder, place.name)
                if whiteouts.is_whiteout(status):
                    whiteouts.make_opaque(folder.descriptor)
            else:
                folder = self._folders.enter(place.folder, place.name)
            self._dress(folder, entry, mode_set=False)
        else:
            folder = self._folders.enter(place.folder, place.name, new=True)
            self._dress(folder, entry, mode_set=entry.mode < 0o1000 and not place.folder.gives_group)

    def _dress(self, folder: Folder, entry: Entry, *, mode_set: bool) -> None:
        """Give a folder its owner, mode and attributes. Its time comes when it is closed: filling changes
        it.
        """
        if entry.uid or entry.gid or not mode_set:
            os.fchown(folder.descriptor, entry.uid, entry.gid)
            os.fchmod(folder.descriptor, entry.mode)
        folder.gives_group = bool(entry.mode & stat.S_ISGID)
        folder.mtime_ns, folder.changed = entry.mtime_ns, True
        if entry.xattrs:
            self.xattrs_dropped += attributes.set_on(folder.descriptor, entry)

    def _file(self, entry: Entry, place: Place) -> None:
        descriptor = self._new_file(place, entry.mode & 0o777)
        try:
            self._write(descriptor, entry)
            # Owner first, since a change of owner clears set-id bits and capabilities.
            if entry.uid or entry.gid or place.folder.gives_group:
                os.fchown(descriptor, entry.uid, entry.gid)
                os.fchmod(descriptor, entry.mode)
            elif entry.mode > 0o777:
                os.fchmod(descriptor, entry.mode)
            if entry.xattrs:
                self.xattrs_dropped += attributes.set_on(descriptor, entry)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _new_file(self, place: Place, mode: int) -> int:
        try:
            return os.open(place.name, _NEW_FILE, mode, dir_fd=place.folder.descriptor)
        except FileExistsError:
            self._clear(place)
            return os.open(place.name, _NEW_FILE, mode, dir_fd=place.folder.descriptor)

    def _write(self, descriptor: int, entry: Entry) -> None:
        self.bytes += entry.size
        if self.bytes > self._limits.max_bytes:
            raise Refused(Reason.BYTES, f"the files have more than {self._limits.max_bytes} bytes")
        if entry.segments is None:
            self._copy(descriptor, entry.stored)
            return
        for offset, length in entry.segments:
            os.lseek(descriptor, offset, os.SEEK_SET)
            self._copy(descriptor, length)
        os.ftruncate(descriptor, entry.size)

    def _copy(self, descriptor: int, size: int) -> None:
        if 0 < size <= _SMALL:
            data = self._stream.take(size)
            if os.write(descriptor, data) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return
        for piece in self._stream.pieces(size):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    def _symlink(self, entry: Entry, place: Place) -> None:
        if not entry.link or len(entry.link) >= PATH_BYTES:
            raise Refused(Reason.LINK, f"the link {shown(entry.name)} leads nowhere")
        self._make(place, lambda: os.symlink(entry.link, place.name, dir_fd=place.folder.descriptor))
        self._dress_by_name(entry, place)

    def _fifo(self, entry: Entry, place: Place) -> None:
        self._make(place, lambda: os.mkfifo(place.name, entry.mode, dir_fd=place.folder.descriptor))
        self._dress_by_name(entry, place)
        if entry.mode > 0o777:
            os.chmod(place.name, entry.mode, dir_fd=place.folder.descriptor)

    def _dress_by_name(self, entry: Entry, place: Place) -> None:
        """What cannot be opened has no attributes of its own either: user.* is for files and folders."""
        directory = place.folder.descriptor
        os.chown(place.name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        times = entry.mtime_ns, entry.mtime_ns
        os.utime(place.name, ns=times, dir_fd=directory, follow_symlinks=False)
        self.xattrs_dropped += len(entry.xattrs)

    def _hard_link(self, entry: Entry, place: Place) -> None:
        parts = self._parts(entry.link)
        if not parts:
            raise Refused(Reason.LINK, f"{shown(entry.name)} is a hard link to a folder")
        try:
            original = Place(self._folders.walk(parts[:-1], make=False), parts[-1])
            status = self._status(original)
        except FileNotFoundError:
            raise Refused(
                Reason.LINK, f"{shown(entry.name)} links to {shown(entry.link)}, not made before"
            ) from None
        if stat.S_ISDIR(status.st_mode) or whiteouts.is_whiteout(status):
            raise Refused(Reason.LINK, f"{shown(entry.name)} links to {shown(entry.link)}, which is no file")
        try:
            self._link(original, place)
        except FileExistsError:
            there = self._status(place)
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                return
            self._clear(place)
            self._relink(entry, parts, place)

    def _relink(self, entry: Entry, parts: list[bytes], place: Place) -> None:
        """What was cleared away may have been the link's target, or a folder above it."""
        try:
            self._link(Place(self._folders.walk(parts[:-1], make=False), parts[-1]), place)
        except FileNotFoundError:
            raise Refused(Reason.LINK, f"{shown(entry.name)} replaces what it links to") from None

    @staticmethod
    def _link(original: Place, place: Place) -> None:
        os.link(
            original.name,
            place.name,
            src_dir_fd=original.folder.descriptor,
            dst_dir_fd=place.folder.descriptor,
            follow_symlinks=False,
        )

    # what is in the way

    def _make(self, place: Place, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            self._clear(place)
            make()

    def _clear(self, place: Place) -> None:
        """Remove what an earlier entry has put there: the later one counts."""
        if stat.S_ISDIR(self._status(place).st_mode):
            self._last = None
            self._folders.forget(place.folder, place.name)
            trees.remove_tree(place.folder.descriptor, os.fsdecode(place.name))
        else:
            os.unlink(place.name, dir_fd=place.folder.descriptor)

    @staticmethod
    def _status(place: Place) -> os.stat_result:
        return os.stat(place.name, dir_fd=place.folder.descriptor, follow_symlinks=False)
