"""The archive's bytes, in order: counted, digested, and given out in the sizes that the parser asks for."""

import hashlib
import os
from collections.abc import Iterator

from nsbox.oci.unpacking import compression
from nsbox.oci.unpacking.limits import RATIO_FLOOR, Limits
from nsbox.oci.unpacking.refusal import Reason, Refused

_WAYS = {"none": compression.plain, "gzip": compression.gunzip, "zstd": compression.unzstd}
_READ = 1 << 18


class Stream:
    """An uncompressed archive. Everything in it counts for the digest, also what nobody asked for."""

    def __init__(self, blob: int, way: str, limits: Limits) -> None:
        self._blob, self._limits = blob, limits
        self._pieces = _WAYS[way](self._read)
        self._piece, self._at = b"", 0
        self._before = 0  # bytes of all pieces before this one
        self._compressed = 0
        self._digest = hashlib.sha256()

    def _read(self) -> bytes:
        data = os.read(self._blob, _READ)
        self._compressed += len(data)
        return data

    @property
    def position(self) -> int:
        """How many bytes have been taken."""
        return self._before + self._at

    @property
    def diff_id(self) -> str:
        """The digest of all that was read; of the archive, after ``drain``."""
        return f"sha256:{self._digest.hexdigest()}"

    def _next(self) -> bool:
        """Go on to the next piece, if there is one."""
        self._before += len(self._piece)
        self._at = 0
        self._piece = next(self._pieces, b"")
        if not self._piece:
            return False
        self._digest.update(self._piece)
        total = self._before + len(self._piece)
        if total > self._limits.max_bytes:
            raise Refused(Reason.BYTES, f"more than {self._limits.max_bytes} bytes come out of the layer")
        if total > RATIO_FLOOR and total > self._compressed * self._limits.max_ratio:
            raise Refused(
                Reason.RATIO,
                f"{total} bytes come out of {self._compressed}: more than {self._limits.max_ratio} times",
            )
        return True

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes. For what fits into memory; see ``pieces``."""
        end = self._at + count
        if end <= len(self._piece):
            taken = self._piece[self._at : end]
            self._at = end
            return taken
        return b"".join(self.pieces(count))

    def header(self) -> bytes | None:
        """The next 512 bytes; None at the very end."""
        if self._at >= len(self._piece) and not self._next():
            return None
        return self.take(512)

    def pieces(self, count: int) -> Iterator[bytes | memoryview]:
        """``count`` bytes, piece by piece. Raises ``Refused`` when there are fewer."""
        while count > 0:
            if self._at >= len(self._piece) and not self._next():
                raise Refused(Reason.TRUNCATED, "the archive ends in the middle of an entry")
            start = self._at
            self._at = end = min(start + count, len(self._piece))
            count -= end - start
            yield memoryview(self._piece)[start:end]

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        end = self._at + count
        if end <= len(self._piece):
            self._at = end
            return
        for _ in self.pieces(count):
            pass

    def drain(self) -> None:
        """Read to the end: what follows the archive's end mark belongs to the digest."""
        while self._next():
            pass
