"""Layers as they travel to a registry: archives packed by gzip. In the box.

The same tree gives the same bytes, so what is sent later has the digest that was told before. Which bytes
that are is up to the version of the packer: both passes are made by one.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from isal import isal_zlib

from nsbox.oci.snapshots import tarball

#: The fastest but one. Nothing names the time or the file in the header (RFC 1952).
_LEVEL, _GZIP = 1, 31
#: Archives are written in small pieces, of which packing each would be slow.
_PORTION = 1 << 18


class Packed(NamedTuple):
    """``diff_id`` is of the plain archive, ``digest`` and ``size`` are of what travels."""

    diff_id: str
    digest: str
    size: int


def measure(top: int) -> Packed:
    """Read the tree ``top`` for what it will be called."""
    whole = hashlib.sha256()
    size = 0

    def write(data: bytes) -> None:
        nonlocal size
        whole.update(data)
        size += len(data)

    diff_id = _pack(top, write)
    return Packed(diff_id, f"sha256:{whole.hexdigest()}", size)


def send(top: int, write: Callable[[bytes], None]) -> None:
    """Read it again, and write it."""
    _pack(top, write)


def _pack(top: int, write: Callable[[bytes], None]) -> str:
    plain = hashlib.sha256()
    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP)
    portion = bytearray()

    def flush() -> None:
        plain.update(portion)
        if data := packer.compress(bytes(portion)):
            write(data)
        portion.clear()

    def take(data: bytes) -> None:
        portion.extend(data)
        if len(portion) >= _PORTION:
            flush()

    tarball.Archive(top, take, whiteouts=True).run()
    flush()
    write(packer.flush())
    return f"sha256:{plain.hexdigest()}"
