"""A tar archive, entry by entry: V7, ustar, GNU and POSIX (pax) forms, as docker, buildah, GNU tar and
libarchive write them.

Python's tarfile is not used: it is five times slower and takes what it does not understand for something
else. Here what is not understood is refused.
"""

import struct
from collections.abc import Iterator

from nsbox.oci.unpacking import numbers, pax
from nsbox.oci.unpacking.entries import Entry, Kind
from nsbox.oci.unpacking.limits import HEADER_BYTES, HEADERS_PER_ENTRY, PATH_BYTES, SEGMENTS, Limits
from nsbox.oci.unpacking.refusal import Reason, Refused, shown
from nsbox.oci.unpacking.stream import Stream

#: name mode uid gid size mtime checksum type linkname magic (version uname gname devices) prefix
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s6s82x155s12x")
_ZEROS = bytes(512)
_BLANK_SUM = 8 * 0x20  # the checksum's own field counts as spaces
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.DEVICE,
    b"4": Kind.DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_LINKS = (Kind.SYMLINK, Kind.HARD_LINK)
_MAGIC = b"ustar\0"
_LONGEST_NAME = 2 * PATH_BYTES
# GNU's own sparse form: four pieces in the header, 21 in each block that follows it.
_GNU_PIECES, _GNU_EXTENDED, _GNU_SIZE = slice(386, 482), 482, slice(483, 495)
_MORE_PIECES, _MORE_EXTENDED = slice(0, 504), 504


class Archive:
    """Iterating gives the entries. An entry's data are the stream's next ``stored`` bytes; what is not taken
    of them is passed over."""

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream, self._limits = stream, limits
        self._extended = pax.Extended()
        self._long_name = self._long_link = b""
        self.entries = 0
        #: Whether the two zero blocks were there that end an archive.
        self.ended = False

    def __iter__(self) -> Iterator[Entry]:
        stream, headers = self._stream, 0
        while (block := stream.header()) is not None:
            if block == _ZEROS:
                self._end()
                break
            fields = _FIELDS.unpack(block)
            _check_sum(block, fields[6])
            kind = _KINDS.get(fields[7])
            if kind is None:
                headers += 1
                if headers > HEADERS_PER_ENTRY:
                    raise Refused(Reason.HEADERS, "too many extended headers for one entry")
                self._take_in(fields[7], numbers.field(fields[4]))
                continue
            headers = 0
            self.entries += 1
            if self.entries > self._limits.max_entries:
                raise Refused(Reason.ENTRIES, f"more than {self._limits.max_entries} entries")
            entry = self._entry(kind, block, fields)
            end = stream.position + entry.stored + -entry.stored % 512
            yield entry
            stream.skip(end - stream.position)
        if self._extended.pending or self._long_name or self._long_link:
            raise Refused(Reason.TRUNCATED, "the archive ends after an extended header")

    def _end(self) -> None:
        """After one block of zeros: another, or (as some writers leave it) nothing."""
        block = self._stream.header()
        if block is not None and block != _ZEROS:
            raise Refused(Reason.CORRUPT, "a block of zeros in the middle of the archive")
        self.ended = block is not None

    # what stands before an entry

    def _take_in(self, kind: bytes, size: int) -> None:
        if kind in b"LK":
            if size > _LONGEST_NAME:
                raise Refused(Reason.HEADERS, f"a name of {size} bytes")
            name = self._data(size).partition(b"\0")[0]
            if kind == b"L":
                self._long_name = name
            else:
                self._long_link = name
        elif kind in b"xX":
            self._extended.add(self._data(size))
        elif kind == b"g":
            self._extended.add_for_all(self._data(size))
        else:
            raise Refused(Reason.UNSUPPORTED, f"an entry of type {kind!r}")

    def _data(self, size: int) -> bytes:
        if not 0 <= size <= HEADER_BYTES:
            raise Refused(Reason.HEADERS, f"an extended header of {size} bytes")
        data = self._stream.take(size)
        self._stream.skip(-size % 512)
        return data

    # the entry itself

    def _entry(self, kind: Kind, block: bytes, fields: tuple[bytes, ...]) -> Entry:
        name, mode, uid, gid, size, mtime, _, flag, link, magic, prefix = fields
        name = name.partition(b"\0")[0]
        if magic == _MAGIC and prefix[0]:
            # star keeps two times at the prefix's end, and says so.
            prefix = prefix[:131] if block.endswith(b"tar\0") else prefix
            name = prefix.partition(b"\0")[0] + b"/" + name
        name = self._long_name or name
        if flag == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY  # before POSIX there was no type for it
        link = (self._long_link or link.partition(b"\0")[0]) if kind in _LINKS else b""
        # Only files have data, whatever stands there: some writers give a hard link its file's size.
        stored = numbers.field(size) if kind is Kind.FILE else 0
        entry = Entry(
            name,
            kind,
            numbers.field(mode) & 0o7777,
            numbers.field(uid),
            numbers.field(gid),
            numbers.bounded_time(numbers.field(mtime) * 10**9),
            stored,
            stored,
            link,
        )
        self._long_name = self._long_link = b""
        if self._extended:
            entry = self._extend(entry)
        if flag == b"S":
            entry = self._gnu_sparse(entry, block)
        return self._checked(entry)

    def _extend(self, entry: Entry) -> Entry:
        """Let extended headers have their say."""
        keys = self._extended.of_next()
        changes: dict[str, object] = {}
        for key, name in ((b"path", "name"), (b"linkpath", "link")):
            if key in keys:
                changes[name] = keys[key]
        for key, name in ((b"uid", "uid"), (b"gid", "gid")):
            if key in keys:
                changes[name] = numbers.decimal(keys[key])
        if b"mtime" in keys:
            changes["mtime_ns"] = numbers.seconds(keys[b"mtime"])
        if entry.kind is Kind.FILE and b"size" in keys:
            changes["size"] = changes["stored"] = numbers.decimal(keys[b"size"])
        entry = entry._replace(**changes, xattrs=pax.xattrs(keys))  # type: ignore[arg-type]
        if entry.kind is Kind.FILE:
            entry = self._pax_sparse(entry, keys)
        self._extended.forget()
        return entry

    def _pax_sparse(self, entry: Entry, keys: dict[bytes, bytes]) -> Entry:
        size = keys.get(b"GNU.sparse.realsize", keys.get(b"GNU.sparse.size"))
        if size is None:
            return entry
        entry = entry._replace(size=numbers.decimal(size), name=keys.get(b"GNU.sparse.name", entry.name))
        if keys.get(b"GNU.sparse.major") == b"1":
            return self._sparse_1_0(entry)
        values = self._extended.sparse_map(keys)
        if values is None:
            raise Refused(Reason.CORRUPT, "a sparse file without a map")
        return entry._replace(segments=pax.segments(values, entry.size, entry.stored))

    def _sparse_1_0(self, entry: Entry) -> Entry:
        """The map is in the data: how many pieces, then their offsets and lengths, a line each."""
        text, read = b"", 0
        values: list[int] = []
        wanted = 1
        while len(values) < wanted:
            line, found, rest = text.partition(b"\n")
            if found:
                values.append(numbers.decimal(line))
                text = rest
                if len(values) == 1:
                    wanted = 1 + 2 * values[0]
                    if values[0] > SEGMENTS:
                        raise Refused(Reason.HEADERS, "a sparse file has too many pieces")
                continue
            if len(text) > 512 or read + 512 > entry.stored + -entry.stored % 512:
                raise Refused(Reason.CORRUPT, "a sparse file's map is broken")
            text += self._stream.take(512)
            read += 512
        stored = entry.stored - read
        return entry._replace(stored=stored, segments=pax.segments(values[1:], entry.size, stored))

    def _gnu_sparse(self, entry: Entry, block: bytes) -> Entry:
        size = numbers.field(block[_GNU_SIZE])
        pieces, extended = block[_GNU_PIECES], block[_GNU_EXTENDED]
        values = _gnu_pieces(pieces)
        blocks = 0
        while extended:
            blocks += 1
            if blocks * 21 > SEGMENTS:
                raise Refused(Reason.HEADERS, "a sparse file has too many pieces")
            block = self._stream.take(512)
            pieces, extended = block[_MORE_PIECES], block[_MORE_EXTENDED]
            values += _gnu_pieces(pieces)
        return entry._replace(size=size, segments=pax.segments(values, size, entry.stored))

    def _checked(self, entry: Entry) -> Entry:
        if entry.size < 0 or entry.stored < 0:
            raise Refused(Reason.CORRUPT, "a file of less than no bytes")
        if entry.size > self._limits.max_bytes:
            raise Refused(Reason.BYTES, f"{shown(entry.name)} has {entry.size} bytes")
        if b"\0" in entry.name or b"\0" in entry.link:
            raise Refused(Reason.NAME, f"a zero byte in the name {shown(entry.name)}")
        return entry


def _gnu_pieces(data: bytes) -> list[int]:
    values = []
    for at in range(0, len(data), 24):
        if data[at + 12] == 0:  # no more
            break
        values += [numbers.field(data[at : at + 12]), numbers.field(data[at + 12 : at + 24])]
    return values


def _check_sum(block: bytes, stated: bytes) -> None:
    wanted = numbers.field(stated)
    if sum(block) - sum(stated) + _BLANK_SUM != wanted:
        # Some old writers added signed bytes.
        signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:])
        if signed + _BLANK_SUM != wanted:
            raise Refused(Reason.CORRUPT, "a header's checksum is wrong")
