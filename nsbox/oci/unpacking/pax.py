"""Extended headers of POSIX archives: records of ``LENGTH KEY=VALUE`` and a line feed."""

from collections.abc import Iterator, Mapping

from nsbox.oci.unpacking import numbers
from nsbox.oci.unpacking.entries import Segment
from nsbox.oci.unpacking.limits import SEGMENTS, XATTRS_PER_ENTRY
from nsbox.oci.unpacking.refusal import Reason, Refused

XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."
#: What must not hold for all entries that follow: it would tell this parser another tree than others.
_OF_ONE = (b"path", b"linkpath", b"size")
#: Far more than anybody writes; each key costs a hundred bytes beside its own.
_KEYS = 256


class Extended:
    """The records in force for the next entry, and those of global headers for all of them."""

    def __init__(self) -> None:
        self._for_all: dict[bytes, bytes] = {}
        self._for_next: dict[bytes, bytes] = {}
        self._map: list[int] = []  # GNU.sparse 0.0 repeats two keys; the order of their values counts

    def add(self, data: bytes) -> None:
        """Take in a header for the next entry."""
        for key, value in records(data):
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                if len(self._map) >= 2 * SEGMENTS:
                    raise Refused(Reason.HEADERS, "a sparse file has too many pieces")
                self._map.append(numbers.decimal(value))
            else:
                self._for_next[key] = value
        _bound(self._for_next)

    def add_for_all(self, data: bytes) -> None:
        """Take in a global header."""
        for key, value in records(data):
            if key in _OF_ONE or key.startswith((_SPARSE, XATTR)):
                raise Refused(Reason.UNSUPPORTED, f"a global header sets {key[:40]!r}")
            self._for_all[key] = value
        _bound(self._for_all)

    @property
    def pending(self) -> bool:
        """Whether something was said of an entry that has not come."""
        return bool(self._for_next or self._map)

    def __bool__(self) -> bool:
        return bool(self._for_next or self._for_all or self._map)

    def of_next(self) -> dict[bytes, bytes]:
        """What holds for the next entry. An empty value takes a key back (pax(1))."""
        merged = self._for_all | self._for_next
        return {key: value for key, value in merged.items() if value or key.startswith(XATTR)}

    def forget(self) -> None:
        """The entry is done."""
        self._for_next, self._map = {}, []

    def sparse_map(self, keys: Mapping[bytes, bytes]) -> list[int] | None:
        """Offsets and lengths in turn, as the formats 0.0 and 0.1 have them in the header."""
        if self._map:
            return self._map
        text = keys.get(b"GNU.sparse.map")
        if text is None:
            return None
        if text.count(b",") >= 2 * SEGMENTS:
            raise Refused(Reason.HEADERS, "a sparse file has too many pieces")
        return [numbers.decimal(one) for one in text.split(b",")]


def _bound(keys: Mapping[bytes, bytes]) -> None:
    if len(keys) > _KEYS:
        raise Refused(Reason.HEADERS, "extended headers set too many keys")


def records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a header. Raises ``Refused``."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            raise Refused(Reason.CORRUPT, "a record of an extended header has no length")
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 2 or data[end - 1] != 0x0A or not equals or not key:
            raise Refused(Reason.CORRUPT, "a record of an extended header is broken")
        yield key, value
        at = end


def xattrs(keys: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes; which of them are set is not decided here."""
    found = tuple((key[len(XATTR) :], value) for key, value in keys.items() if key.startswith(XATTR))
    if len(found) > XATTRS_PER_ENTRY:
        raise Refused(Reason.XATTRS, f"an entry has {len(found)} extended attributes")
    return found


def segments(values: list[int], size: int, stored: int) -> tuple[Segment, ...]:
    """A sparse file's pieces, in order and within the file, and together all that is stored."""
    if len(values) % 2:
        raise Refused(Reason.CORRUPT, "a sparse file's map is broken")
    pieces = tuple(Segment(*pair) for pair in zip(values[::2], values[1::2], strict=True))
    end = 0
    for piece in pieces:
        if piece.offset < end or piece.offset + piece.length > size:
            raise Refused(Reason.CORRUPT, "a sparse file's pieces overlap or lie beyond its end")
        end = piece.offset + piece.length
    if sum(piece.length for piece in pieces) != stored:
        raise Refused(Reason.CORRUPT, "a sparse file's map does not fit what is stored")
    return pieces
