"""Reading an archive with the parser alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from nsbox.oci.unpacking.archive import Archive
from nsbox.oci.unpacking.entries import Entry
from nsbox.oci.unpacking.limits import Limits
from nsbox.oci.unpacking.stream import Stream

LIMITS = Limits(max_bytes=1 << 30, max_entries=10_000, max_ratio=1 << 20, max_depth=128, seconds=10)


class Read(NamedTuple):
    entry: Entry
    data: bytes


def blob(data: bytes) -> int:
    descriptor = os.memfd_create("blob", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def with_stream(data: bytes, work: Callable[[Stream], Any], way: str, limits: Limits) -> Any:
    descriptor = blob(data)
    try:
        return work(Stream(descriptor, way, limits))
    finally:
        os.close(descriptor)


def read(data: bytes, way: str = "none", limits: Limits = LIMITS) -> tuple[list[Read], bool]:
    """All entries with what is stored of them, and whether the end mark was there. Raises ``Refused``."""

    def work(stream: Stream) -> tuple[list[Read], bool]:
        archive = Archive(stream, limits)
        found = [Read(entry, stream.take(entry.stored)) for entry in archive]
        stream.drain()
        return found, archive.ended

    return with_stream(data, work, way, limits)


def content(one: Read) -> bytes:
    """A file as it would be on disk."""
    if one.entry.segments is None:
        return one.data
    whole, at = bytearray(one.entry.size), 0
    for offset, length in one.entry.segments:
        whole[offset : offset + length] = one.data[at : at + length]
        at += length
    return bytes(whole)
