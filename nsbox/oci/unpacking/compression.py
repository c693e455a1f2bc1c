"""From a blob's bytes to the archive's, in bounded pieces and to a clean end.

Each function is a generator over pieces of at most ``PIECE`` bytes (zstd: one block, 128 KiB). A stream that
ends before its own end mark is an error here already: the archive's end mark alone would leave the rest of a
cut blob unnoticed.
"""

from collections.abc import Callable, Iterator

import zstandard
from isal import igzip_lib

from nsbox.oci.unpacking.limits import ZSTD_WINDOW
from nsbox.oci.unpacking.refusal import Reason, Refused

#: Gives the blob's next bytes, none at its end.
Read = Callable[[], bytes]

PIECE = 1 << 19
#: What a gzip member is fed with at a time. It keeps what it did not use as a copy, so that a blob of
#: thousands of tiny members would copy more the larger this is.
_GZIP_FEED = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"

#: Its stubs do not say that it is an exception.
_IsalError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]

_ZSTD_MAGIC = 0xFD2F_B528
_SKIPPABLE, _SKIPPABLE_MASK = 0x184D_2A50, 0xFFFF_FFF0
_ZSTD_BLOCK = 128 << 10


def plain(read: Read) -> Iterator[bytes]:
    """No compression."""
    while piece := read():
        yield piece


def gunzip(read: Read) -> Iterator[bytes]:
    """RFC 1952, with any number of members (eStargz has one for each file). Zeros may follow, nothing
    else.
    """
    source = _Bytes(read)
    if source.ended:
        raise Refused(Reason.TRUNCATED, "the blob is empty")
    while not source.ended:
        if source.peek(2) != _GZIP_MAGIC:
            raise Refused(Reason.CORRUPT, "what should be gzip is not, or something follows its end")
        yield from _member(source)
        source.skip_zeros()


def _member(source: "_Bytes") -> Iterator[bytes]:
    member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    try:
        while not member.eof:
            fed = b""
            if member.needs_input and not (fed := source.some(_GZIP_FEED)):
                raise Refused(Reason.TRUNCATED, "the gzip stream ends in the middle")
            if piece := member.decompress(fed, PIECE):
                yield piece
    except _IsalError as error:
        raise Refused(Reason.CORRUPT, f"gzip: {error}") from error
    source.give_back(member.unused_data)


def unzstd(read: Read) -> Iterator[bytes]:
    """RFC 8878, frame by frame and block by block.

    zstandard's stream reader says nothing of a frame that is cut, and its decompressobj takes no bound on
    what it gives: 64 KiB of repeated blocks would come out as 2 GiB at once. One block gives 128 KiB at most.
    """
    source = _Bytes(read)
    if source.ended:
        raise Refused(Reason.TRUNCATED, "the blob is empty")
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    try:
        while not source.ended:
            magic = source.take(4)
            number = int.from_bytes(magic, "little")
            if number & _SKIPPABLE_MASK == _SKIPPABLE:
                source.skip(int.from_bytes(source.take(4), "little"))
            elif number == _ZSTD_MAGIC:
                yield from _frame(decompressor, magic, source)
            else:
                raise Refused(Reason.CORRUPT, "what should be zstd is not, or something follows its end")
    except zstandard.ZstdError as error:
        raise Refused(Reason.CORRUPT, f"zstd: {error}") from error


def _frame(decompressor: zstandard.ZstdDecompressor, magic: bytes, source: "_Bytes") -> Iterator[bytes]:
    frame = decompressor.decompressobj()
    descriptor = source.take(1)
    flags = descriptor[0]
    single = flags >> 5 & 1
    content_size = (single, 2, 4, 8)[flags >> 6]
    rest = (1 - single) + (0, 1, 2, 4)[flags & 3] + content_size  # window, dictionary, content size
    frame.decompress(magic + descriptor + source.take(rest))
    last = 0
    while not last:
        head = source.take(3)
        number = int.from_bytes(head, "little")
        last, kind, size = number & 1, number >> 1 & 3, number >> 3
        if size > _ZSTD_BLOCK:
            raise Refused(Reason.CORRUPT, "zstd: a block is too large")
        # Kind 1 repeats a single byte; kind 3 is refused by the decompressor.
        if piece := frame.decompress(head + source.take(1 if kind == 1 else size)):
            yield piece
    if flags >> 2 & 1:
        frame.decompress(source.take(4))
    if not frame.eof:
        raise Refused(Reason.CORRUPT, "zstd: the frame does not end where its last block does")


class _Bytes:
    """A blob's bytes with a little looking ahead."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._held, self._at = b"", 0

    @property
    def ended(self) -> bool:
        if self._at < len(self._held):
            return False
        self._held, self._at = self._read(), 0
        return not self._held

    def some(self, most: int) -> bytes:
        """Some bytes; none at the end."""
        if self.ended:
            return b""
        piece = self._held[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def take(self, count: int) -> bytes:
        """Exactly so many."""
        end = self._at + count
        if end <= len(self._held):
            piece, self._at = self._held[self._at : end], end
            return piece
        pieces = []
        while count:
            if not (piece := self.some(count)):
                raise Refused(Reason.TRUNCATED, "the zstd stream ends in the middle")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int) -> None:
        while count:
            if not (piece := self.some(min(count, PIECE))):
                raise Refused(Reason.TRUNCATED, "the zstd stream ends in the middle")
            count -= len(piece)

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        while len(self._held) - self._at < count:
            more = self._read()
            if not more:
                break
            self._held, self._at = self._held[self._at :] + more, 0
        return self._held[self._at : self._at + count]

    def give_back(self, unused: bytes) -> None:
        """The end of what was last given out, which was not wanted."""
        self._at -= len(unused)

    def skip_zeros(self) -> None:
        while not self.ended:
            rest = self._held[self._at : self._at + PIECE].lstrip(b"\0")
            self._at = min(self._at + PIECE, len(self._held)) - len(rest)
            if rest:
                return
