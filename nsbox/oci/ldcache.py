"""``/etc/ld.so.cache``: the loader's index of libraries, read from the host and written anew for a layer.

A layer could nearly do without: the default directories are compiled into ld.so. But libraries elsewhere
are found by the cache alone, and ``ctypes.util.find_library`` asks ``ldconfig -p``, which knows nothing else.

The host's own file cannot be copied: it names every library the host has. A subset of its rows in the same
order is a valid cache, since ld.so finds a row by bisection.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("=20sIIB3xI12x")  # magic, rows, bytes of strings, byte order, extensions
_ROW = struct.Struct("=iIIIQ")  # kind of library, its name, its path, (unused), processor features
_LITTLE_ENDIAN, _BIG_ENDIAN = 2, 3


class Row(NamedTuple):
    """One library: ``flags`` is glibc's word for its kind and architecture."""

    flags: int
    name: str
    path: str


def parse(data: bytes) -> tuple[Row, ...]:
    """The rows of a cache, without those for particular processors. Nothing, if it is in an older format."""
    start = data.find(_MAGIC)  # where an older index comes first, this one follows it
    if start < 0 or len(data) < start + _HEADER.size:
        return ()
    _, count, _, _, _ = _HEADER.unpack_from(data, start)
    count = min(count, (len(data) - start - _HEADER.size) // _ROW.size)

    def text(offset: int) -> str:
        end = data.find(b"\0", start + offset)
        return os.fsdecode(data[start + offset : end]) if end > 0 else ""

    rows = []
    for index in range(count):
        flags, name, path, _, features = _ROW.unpack_from(data, start + _HEADER.size + index * _ROW.size)
        if features == 0 and text(path).startswith("/"):
            rows.append(Row(flags, text(name), text(path)))
    return tuple(rows)


def render(rows: Iterable[Row]) -> bytes:
    """A cache of these rows, which must be in the order ``parse`` gave them."""
    rows = list(rows)
    offset = _HEADER.size + _ROW.size * len(rows)
    table, strings = bytearray(), bytearray()
    for row in rows:
        name = offset + len(strings)
        strings += os.fsencode(row.name) + b"\0"
        path = offset + len(strings)
        strings += os.fsencode(row.path) + b"\0"
        table += _ROW.pack(row.flags, name, path, 0, 0)
    order = _LITTLE_ENDIAN if struct.pack("=H", 1) == b"\1\0" else _BIG_ENDIAN
    return _HEADER.pack(_MAGIC, len(rows), len(strings), order, 0) + bytes(table) + bytes(strings)
