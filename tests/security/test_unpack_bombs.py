"""Row 16 of the acceptance list: what grows out of little is refused within the caps, in flat memory."""

from __future__ import annotations

import functools
import gzip
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import zstandard

from nsbox.oci.layers import Caps, Compression
from tests.acceptance.plugin import Say
from tests.security.tar_maker import END, archive, entry, extended, folder, hard_link, record, symlink
from tests.security.unpack_lab import Lab, lab

pytestmark = pytest.mark.namespaces

_MOST_KIB = 100 * 1024
_MOST_SECONDS = 60.0
_ZEROS = bytes(16 << 20)


class Bomb(NamedTuple):
    name: str
    make: Callable[[], bytes]
    wants: str
    compression: Compression = Compression.NONE
    caps: Caps | None = None


def _zeros(pack: Callable[[bytes], bytes], copies: int) -> bytes:
    """An archive with one file of zeros, in pieces that are packed once each."""
    return pack(entry(b"zeros", size=copies * len(_ZEROS))) + pack(_ZEROS) * copies + pack(END)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 6)


def _repeated_block() -> bytes:
    """A frame of 100,000 blocks that each repeat one byte 128 Ki times: 12 GB out of 400 kB."""
    head = _zstd(entry(b"zeros", size=100_000 << 17))
    frame = b"\x28\xb5\x2f\xfd\x00\x58"  # no sizes, no checksum, a window of 2 MiB
    block = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = ((128 << 10) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return head + frame + block * 99_999 + last


def _many_keys() -> bytes:
    records = b"".join(record(b"%x" % number, b"") for number in range(100_000))[: 1 << 20]
    return archive(entry(b"h", b"x", records.rpartition(b"\n")[0] + b"\n"), entry(b"f"))


def _large_headers() -> bytes:
    one = extended({b"comment": b"x" * 1_000_000}) + entry(b"./", b"5")
    return _gzip(one * 16) * 200 + _gzip(END)


def _maps() -> bytes:
    """Sparse files of 65,536 pieces each."""
    text = b"65536\n" + b"".join(b"%d\n0\n" % (number * 2) for number in range(65_536))
    text += bytes(-len(text) % 512)
    keys = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"200000"}
    return archive(*(entry(b"f%d" % number, data=text, pax=keys) for number in range(5)))


def _folders() -> bytes:
    """More folders than anybody keeps open, each visited twice."""
    names = [b"d%d" % number for number in range(3000)]
    return archive(*map(folder, names), *(entry(name + b"/f") for name in names))


def _climbing_links() -> bytes:
    """Each link leads through all before it."""
    links = [symlink(b"l0", b"d")] + [
        symlink(b"l%d" % n, b"l%d/../l%d" % (n - 1, n - 1)) for n in range(1, 30)
    ]
    return archive(folder(b"d"), *links, entry(b"l29/f"))


_DEVICE = entry(b"dev", b"3")
_BOMBS = (
    Bomb("gzip: 4 GiB of zeros", functools.partial(_zeros, _gzip, 256), "ratio", Compression.GZIP),
    Bomb("zstd: 4 GiB of zeros", functools.partial(_zeros, _zstd, 256), "ratio", Compression.ZSTD),
    Bomb("gzip: beyond the bytes", functools.partial(_zeros, _gzip, 2048), "bytes", Compression.GZIP),
    Bomb(
        "gzip: 1 GiB behind the end",
        lambda: _gzip(archive(entry())) + _gzip(_ZEROS) * 200, "bytes", Compression.GZIP,
        Caps(max_ratio=1 << 30, max_bytes=1 << 30),
    ),
    Bomb("zstd: blocks that repeat a byte", _repeated_block, "ratio", Compression.ZSTD),
    Bomb(
        "zstd: 1 GiB, all allowed but that", functools.partial(_zeros, _zstd, 64), "bytes", Compression.ZSTD,
        Caps(max_ratio=1 << 30, max_bytes=1 << 29),
    ),
    Bomb("pax: 100,000 keys", _many_keys, "headers"),
    Bomb("pax: 3 GB of headers", _large_headers, "ratio", Compression.GZIP),
    Bomb(
        "1 M entries", lambda: _gzip(_DEVICE * 10_000) * 100 + _gzip(END), "entries", Compression.GZIP,
        Caps(max_ratio=1 << 30),
    ),
    Bomb(
        "files beyond the entries", lambda: archive(*(entry(b"%d" % number) for number in range(5001))),
        "entries", caps=Caps(max_entries=5000),
    ),
    Bomb("a path of 2,000 folders", lambda: archive(entry(pax={b"path": b"d/" * 2000 + b"f"})), "depth"),
    Bomb("files with holes of 40 GiB", lambda: archive(*[_hole(b"%d" % n) for n in range(5)]), "bytes"),
    Bomb("sparse files of 65,536 pieces", _maps, ""),
    Bomb("3,000 folders, twice", _folders, ""),
    Bomb("links through links", _climbing_links, "depth"),
    Bomb("10,000 hard links to itself", lambda: archive(entry(b"f"), hard_link(b"f", b"f") * 10_000), ""),
    Bomb("2,000 times the same file", lambda: archive(entry(b"f", data=b"x") * 2_000), ""),
    Bomb(
        "a folder of 2,000 files, replaced",
        lambda: archive(*(entry(b"d/%d" % number) for number in range(2000)), entry(b"d")), "",
    ),
)  # fmt: skip


def _hole(name: bytes) -> bytes:
    keys = {b"GNU.sparse.size": b"%d" % (8 << 30), b"GNU.sparse.map": b"0,0"}
    return entry(name, pax=keys)


@pytest.fixture(scope="module")
def place() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[tuple[str, str, float, float]]]:
    """Name, verdict, MiB, seconds; printed at the end."""
    rows: list[tuple[str, str, float, float]] = []
    yield rows
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print()
        for name, verdict, mib, seconds in rows:
            print(f"  {name:38} {verdict:10} {mib:6.1f} MiB {seconds:7.2f} s")


@pytest.mark.parametrize("bomb", _BOMBS, ids=[bomb.name.replace(" ", "-") for bomb in _BOMBS])
async def test_within_the_caps(
    place: Lab, table: list[tuple[str, str, float, float]], bomb: Bomb, figure: Say
) -> None:
    made = await place.unpack(bomb.make(), compression=bomb.compression, caps=bomb.caps)
    told = made.report or made.refusal
    assert told is not None
    table.append((bomb.name, made.reason or "harmless", told.peak_kib / 1024, told.seconds))
    assert made.reason == bomb.wants, made.refusal
    assert 0 < told.peak_kib <= _MOST_KIB
    assert told.seconds <= _MOST_SECONDS
    assert place.left() == []
    figure(16, tried=1, peak_MiB=told.peak_kib / 1024, seconds=told.seconds)


async def test_a_blob_that_never_comes(place: Lab, figure: Say) -> None:
    reader, writer = os.pipe()
    try:
        made = await place.unpack(reader, caps=Caps(seconds=1.0))
    finally:
        os.close(reader)
        os.close(writer)
    assert made.reason == "time"
    assert made.refusal is not None
    assert made.refusal.seconds < 20
    assert place.left() == []
    figure(16, tried=1, seconds=made.refusal.seconds)


async def test_the_largest_window_fits(place: Lab) -> None:
    """32 MiB of window and what comes with it stay below 100 MiB."""
    params = zstandard.ZstdCompressionParameters(window_log=25, enable_ldm=1)
    packer = zstandard.ZstdCompressor(compression_params=params).compressobj()
    data = os.urandom(1 << 16)
    text = entry(b"f", size=64 << 20) + data * 1024 + END
    made = await place.unpack(
        packer.compress(text) + packer.flush(), compression=Compression.ZSTD, caps=Caps(max_ratio=10**6)
    )
    assert made.report is not None, made.refusal
    print(made.report)
    assert made.report.peak_kib <= _MOST_KIB
