"""Trees as tar archives, written as they are read: ustar with pax headers where ustar does not do.

The same tree gives the same bytes each time: an image's layer is named by its digest, which is asked for
before the layer is sent. Owners are those that the sandbox sees. What OCI's layers cannot hold is left out
and counted: sockets, devices, and names that begin as whiteouts do.
"""

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from nsbox.oci.snapshots.copier import DEPTH, OPAQUE
from nsbox.oci.unpacking.refusal import Reason, Refused
from nsbox.oci.unpacking.whiteouts import PREFIX

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = 512
_PIECE = 256 << 10
#: What octal digits hold in ustar's fields for sizes and times.
_OCTAL_11 = 8**11
_NAME = 100
#: Holes are worth a map where they save so much; and a map has so many pieces at most.
_HOLES = 1 << 20
_SEGMENTS = 16_384
_USER, _OVERLAY, _CAPABILITY = "user.", "user.overlay.", "security.capability"
_OPAQUE_NAME = b".wh..wh..opq"
_SECOND = 1_000_000_000

Write = Callable[[bytes], object]


class Segment(NamedTuple):
    """Where a file has data."""

    offset: int
    size: int


class _Open(NamedTuple):
    descriptor: int
    names: list[bytes]
    path: bytes


class Archive:
    """Writes the tree ``top`` with ``write``. ``whiteouts``: it is a layer; otherwise it is all that is
    seen."""

    def __init__(self, top: int, write: Write, *, whiteouts: bool) -> None:
        self._top, self._write, self._whiteouts = top, write, whiteouts
        self._links: dict[tuple[int, int], bytes] = {}
        self._stack: list[_Open] = []
        self.left_out = 0

    def run(self) -> None:
        """All of it, with the end mark. Raises ``OSError``, ``Refused``."""
        self._folder(self._top, b"./")
        while self._stack:
            here = self._stack[-1]
            if here.names:
                self._entry(here, here.names.pop())
            else:
                self._stack.pop()
                os.close(here.descriptor)
        self._write(bytes(2 * _BLOCK))

    def _folder(self, descriptor: int, path: bytes) -> None:
        if len(self._stack) > DEPTH:
            raise Refused(Reason.DEPTH, f"folders are nested more than {DEPTH} deep")
        self._header(path, b"5", os.fstat(descriptor), attributes=_attributes(descriptor))
        inner = b"" if path == b"./" else path
        if self._whiteouts and _is_opaque(descriptor):
            self._mark(inner + _OPAQUE_NAME)
        names = sorted(map(os.fsencode, os.listdir(descriptor)), reverse=True)
        self._stack.append(_Open(descriptor, names, inner))

    def _entry(self, here: _Open, name: bytes) -> None:
        status = os.stat(name, dir_fd=here.descriptor, follow_symlinks=False)
        path, kind = here.path + name, stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFCHR and status.st_rdev == 0:
            if self._whiteouts:
                self._mark(here.path + PREFIX + name)
        elif name.startswith(PREFIX) or kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO):
            self.left_out += 1
        elif kind == stat.S_IFDIR:
            self._folder(os.open(name, _FOLDER, dir_fd=here.descriptor), path + b"/")
        elif self._is_linked(path, status):
            pass
        elif kind == stat.S_IFREG:
            descriptor = os.open(name, _FILE, dir_fd=here.descriptor)
            try:
                self._file(descriptor, path, os.fstat(descriptor))
            finally:
                os.close(descriptor)
        elif kind == stat.S_IFLNK:
            target = os.fsencode(os.readlink(name, dir_fd=here.descriptor))
            self._header(path, b"2", status, link=target)
        else:
            self._header(path, b"6", status)

    def _mark(self, path: bytes) -> None:
        """An empty file whose name says all."""
        self._write(header(path, b"0", mode=0, uid=0, gid=0, size=0, mtime_ns=0))

    def _is_linked(self, path: bytes, status: os.stat_result) -> bool:
        """Write a hard link, if it is one to what has gone before."""
        if status.st_nlink < 2:
            return False
        known = self._links.setdefault((status.st_dev, status.st_ino), path)
        if known == path:
            return False
        self._header(path, b"1", status, link=known)
        return True

    def _file(self, descriptor: int, path: bytes, status: os.stat_result) -> None:
        attributes = _attributes(descriptor)
        if status.st_size - status.st_blocks * _BLOCK < _HOLES:
            self._header(path, b"0", status, size=status.st_size, attributes=attributes)
            self._data(descriptor, Segment(0, status.st_size))
            self._pad(status.st_size)
            return
        segments = coalesced(list(_segments(descriptor, status.st_size)), _SEGMENTS)
        table = _table(segments, status.st_size)
        stored = len(table) + sum(segment.size for segment in segments)
        # As GNU tar does it (sparse format 1.0): the name goes into the header, the map before the data.
        sparse = {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": path,
            b"GNU.sparse.realsize": b"%d" % status.st_size,
        }
        self._header(
            b"GNUSparseFile.0/file", b"0", status, size=stored, attributes=attributes, records=sparse
        )
        self._write(table)
        for segment in segments:
            self._data(descriptor, segment)
        self._pad(stored)

    def _data(self, descriptor: int, segment: Segment) -> None:
        offset, end = segment.offset, segment.offset + segment.size
        while offset < end:
            piece = os.pread(descriptor, min(_PIECE, end - offset), offset)
            if not piece:
                raise Refused(Reason.INTERNAL, "a layer has changed")
            self._write(piece)
            offset += len(piece)

    def _pad(self, size: int) -> None:
        if size % _BLOCK:
            self._write(bytes(_BLOCK - size % _BLOCK))

    def _header(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        size: int = 0,
        link: bytes = b"",
        attributes: dict[bytes, bytes] | None = None,
        records: dict[bytes, bytes] | None = None,
    ) -> None:
        self._write(
            header(
                path,
                kind,
                mode=stat.S_IMODE(status.st_mode),
                uid=status.st_uid,
                gid=status.st_gid,
                size=size,
                mtime_ns=status.st_mtime_ns,
                link=link,
                records={**(records or {}), **(attributes or {})},
            )
        )


def header(
    path: bytes,
    kind: bytes,
    *,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime_ns: int,
    link: bytes = b"",
    records: dict[bytes, bytes] | None = None,
) -> bytes:
    """What stands before an entry's data: a header, and a pax header before it where one is needed."""
    more = dict(records or {})
    if len(path) > _NAME:
        more[b"path"] = path
    if len(link) > _NAME:
        more[b"linkpath"] = link
    if size >= _OCTAL_11:
        more[b"size"] = b"%d" % size
    seconds, rest = divmod(mtime_ns, _SECOND)
    if rest or not 0 <= seconds < _OCTAL_11:
        more[b"mtime"] = _decimal(mtime_ns)
    before = b""
    if more:
        body = b"".join(_record(name, more[name]) for name in sorted(more))
        before = _ustar(b"pax/header", b"x", 0o644, 0, 0, len(body), 0, b"") + body
        before += bytes(-len(body) % _BLOCK)
    whole = min(max(seconds, 0), _OCTAL_11 - 1)
    return before + _ustar(path[:_NAME], kind, mode, uid, gid, size % _OCTAL_11, whole, link[:_NAME])


def _ustar(
    path: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes
) -> bytes:
    block = b"".join(
        (
            path.ljust(_NAME, b"\0"),
            b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime),
            b"        ",
            kind,
            link.ljust(_NAME, b"\0"),
            b"ustar\x0000",
        )
    ).ljust(_BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(name: bytes, value: bytes) -> bytes:
    """``LENGTH NAME=VALUE\\n``, of which LENGTH is the length of all."""
    bare = len(name) + len(value) + 3
    length = bare + len(str(bare))
    while length != bare + len(str(length)):
        length = bare + len(str(length))
    return b"%d %b=%b\n" % (length, name, value)


def _decimal(mtime_ns: int) -> bytes:
    sign, (seconds, rest) = "-" if mtime_ns < 0 else "", divmod(abs(mtime_ns), _SECOND)
    fraction = f".{rest:09}".rstrip("0").rstrip(".")
    return f"{sign}{seconds}{fraction}".encode()


def _segments(descriptor: int, size: int) -> Iterator[Segment]:
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        offset = min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
        yield Segment(begin, offset - begin)


def coalesced(segments: list[Segment], most: int) -> list[Segment]:
    """Not more than ``most``: neighbours are joined over the holes between them, which are zeros."""
    while len(segments) > most:
        pairs = zip(segments[::2], [*segments[1::2], segments[-1]], strict=False)
        segments = [Segment(one.offset, two.offset + two.size - one.offset) for one, two in pairs]
    return segments


def _table(segments: list[Segment], size: int) -> bytes:
    """How many pieces, and where they are; the last one is empty and tells the end."""
    pieces = [*segments, Segment(size, 0)]
    lines = [len(pieces), *(number for piece in pieces for number in piece)]
    table = b"".join(b"%d\n" % number for number in lines)
    return table + bytes(-len(table) % _BLOCK)


def _attributes(descriptor: int) -> dict[bytes, bytes]:
    """As all tools write them: ``SCHILY.xattr.NAME``. Overlayfs's own tell of a mount; access lists are the
    host's."""
    found: dict[bytes, bytes] = {}
    for name in os.listxattr(descriptor):
        wanted = name == _CAPABILITY or (name.startswith(_USER) and not name.startswith(_OVERLAY))
        if wanted and "=" not in name:  # such a name has no place in a pax record
            found[b"SCHILY.xattr." + os.fsencode(name)] = os.getxattr(descriptor, name)
    return found


def _is_opaque(descriptor: int) -> bool:
    try:
        return os.getxattr(descriptor, OPAQUE) == b"y"
    except OSError:
        return False
