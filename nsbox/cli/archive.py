"""What ``nsbox image import`` sends: one plain tar, whatever it was given."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import threading
import zlib
from collections.abc import Iterator
from typing import IO

import zstandard

from nsbox.model.errors import HostProblem

_CHUNK = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def outgoing(path: str) -> tuple[int | None, Iterator[bytes]]:
    """The bytes to send, and how many where that is known: a folder becomes a tar on the way, and what is
    packed is unpacked, since the daemon wants to find things in it."""
    if path != "-" and stat.S_ISDIR(os.stat(path).st_mode):
        if not os.path.exists(os.path.join(path, "oci-layout")):
            raise HostProblem(f"{path} is no OCI layout: it has no file oci-layout")
        return None, _packed(path)
    # _pieces closes it.
    source = open(path, "rb") if path != "-" else open(0, "rb", closefd=False)  # noqa: SIM115
    head = source.peek(4)
    if head.startswith(_GZIP):
        return None, _pieces(gzip.GzipFile(fileobj=source), source)
    if head.startswith(_ZSTD):
        return None, _pieces(zstandard.ZstdDecompressor().stream_reader(source), source)
    size = os.fstat(source.fileno()).st_size if path != "-" else None
    return size, _pieces(source, source)


def _pieces(
    reader: gzip.GzipFile | zstandard.ZstdDecompressionReader | IO[bytes], source: IO[bytes]
) -> Iterator[bytes]:
    with source:
        try:
            while chunk := reader.read(_CHUNK):
                yield chunk
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise HostProblem(f"the archive is damaged: {error}") from error


def _packed(folder: str) -> Iterator[bytes]:
    """The layout's own files and blobs, not what else may lie there."""
    reader, writer = os.pipe()
    failures: list[OSError] = []

    def pack(target: IO[bytes]) -> None:
        try:
            with target, tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for name in ("oci-layout", "index.json", "blobs"):
                    archive.add(os.path.join(folder, name), name)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=pack, args=(os.fdopen(writer, "wb"),), daemon=True)
    thread.start()
    with os.fdopen(reader, "rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk
    thread.join()
    if failures:
        # The daemon has been sent half an archive, and must not take it for a whole one.
        raise HostProblem(f"{folder} is no OCI layout that can be read: {failures[0]}")
