"""The parser against archives that others wrote, and against what nobody would write."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from nsbox.oci.unpacking.entries import Kind
from nsbox.oci.unpacking.refusal import Reason, Refused
from tests.security import hostile_layers
from tests.security.tar_maker import (
    END,
    archive,
    entry,
    extended,
    folder,
    long_link,
    long_name,
    record,
    symlink,
)
from tests.unit.oci.unpacking.reading import LIMITS, content, read, with_stream

_TYPES = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARD_LINK,
    tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.CHRTYPE: Kind.DEVICE,
    tarfile.BLKTYPE: Kind.DEVICE,
}
#: The same examples every time: a run must not fail by chance. More: NSBOX_FUZZ=1.
_CALM = settings(
    deadline=None,
    derandomize="NSBOX_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
_FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

_letters = some.text(
    some.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=40
)
_names = some.lists(_letters, min_size=1, max_size=8).map("/".join)


@some.composite
def _members(draw: some.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(draw(_names))
    info.type = draw(some.sampled_from(list(_TYPES)))
    info.mode = draw(some.integers(0, 0o7777))
    info.uid, info.gid = draw(some.integers(0, 1 << 30)), draw(some.integers(0, 1 << 30))
    info.mtime = draw(some.integers(-(2**30), 2**32))
    data = draw(some.binary(max_size=1500)) if info.isreg() else b""
    info.size = len(data)
    if info.issym() or info.islnk():
        info.linkname = draw(_names)
    return info, data


def _written(members: list[tuple[tarfile.TarInfo, bytes]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@_CALM
@given(some.lists(_members(), max_size=6), some.sampled_from(["gnu", "pax"]))
def test_what_tarfile_writes(members: list[tuple[tarfile.TarInfo, bytes]], form: str) -> None:
    found, ended = read(_written(members, _FORMATS[form]))
    assert ended
    assert len(found) == len(members)
    for one, (info, data) in zip(found, members, strict=True):
        made = one.entry
        assert made.name.rstrip(b"/") == info.name.encode().rstrip(b"/")
        is_old_folder = info.type == tarfile.AREGTYPE and info.name.endswith("/")
        assert made.kind is (Kind.DIRECTORY if is_old_folder else _TYPES[info.type])
        assert (made.mode, made.uid, made.gid) == (info.mode, info.uid, info.gid)
        assert made.mtime_ns == int(info.mtime) * 10**9
        assert made.link == info.linkname.encode()
        assert content(one) == data


@_CALM
@given(some.lists(_members(), min_size=1, max_size=3), some.sampled_from(list(_FORMATS)), some.data())
def test_every_prefix_is_refused(members: Any, form: str, data: Any) -> None:
    try:
        whole = _written(members, _FORMATS[form]).rstrip(b"\0")
    except ValueError:
        return  # ustar cannot say it
    whole += bytes(-len(whole) % 512) + END
    assert read(whole)[1]
    cut = data.draw(some.integers(0, len(whole) - 1))
    try:
        ended = read(whole[:cut])[1]
    except Refused as refused:
        ended = refused.reason not in (Reason.TRUNCATED, Reason.CORRUPT)
    assert not ended, "an archive without its end mark is refused by whoever unpacks it"


_WAYS = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor(write_checksum=True).compress}


@pytest.mark.parametrize("way", list(_WAYS))
def test_every_prefix_of_a_packed_archive_is_refused(way: str) -> None:
    whole = _WAYS[way](archive(entry(data=os.urandom(3000)), folder(b"d")))
    assert read(whole, way)[1]
    for cut in range(len(whole)):
        with pytest.raises(Refused) as caught:
            read(whole[:cut], way)
        assert caught.value.reason is Reason.TRUNCATED or cut < 4


@pytest.mark.parametrize("way", ["none", *_WAYS])
@settings(_CALM, max_examples=150)
@given(some.data())
def test_changed_bytes_crash_nothing(way: str, data: Any) -> None:
    pieces = _pieces()
    chosen = data.draw(some.lists(some.sampled_from(range(len(pieces))), min_size=1, max_size=5))
    blob = bytearray(b"".join(pieces[one] for one in chosen) + END)
    if way != "none":
        blob = bytearray(_WAYS[way](bytes(blob)))
    for _ in range(data.draw(some.integers(1, 6))):
        blob[data.draw(some.integers(0, len(blob) - 1))] = data.draw(some.integers(0, 255))
    with contextlib.suppress(Refused):
        read(bytes(blob), way)


@functools.cache
def _pieces() -> list[bytes]:
    blobs = [case.blob.removesuffix(END) for case in hostile_layers.cases(b"/var/tmp/x")]
    return [blob for blob in blobs if 0 < len(blob) < 20_000]


@_CALM
@given(some.binary(max_size=3000), some.sampled_from(["none", *_WAYS]))
def test_noise_crashes_nothing(noise: bytes, way: str) -> None:
    with pytest.raises(Refused):
        read(b"x" + noise, way)  # zeros alone would be an archive of nothing


# GNU tar, where it is installed


def _gnu_tar(tmp_path: Path, *options: str) -> bytes:
    if (
        shutil.which("tar") is None
        or "GNU tar"
        not in subprocess.run(["tar", "--version"], capture_output=True, text=True, check=False).stdout
    ):
        pytest.skip("no GNU tar here")
    return subprocess.run(
        ["tar", "-C", str(tmp_path), "--sort=name", *options, "-cf", "-", "."],
        capture_output=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes(tmp_path: Path, form: str) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d/file").write_bytes(b"hello" * 1000)
    os.link(tmp_path / "d/file", tmp_path / "d/other")
    (tmp_path / "link").symlink_to("d/file")
    if form not in ("v7", "ustar"):
        (tmp_path / ("long" * 50)).symlink_to("target" * 40)
    if form != "v7":
        os.mkfifo(tmp_path / "z")
    found, ended = read(_gnu_tar(tmp_path, f"--format={form}"))
    assert ended
    by_name = {one.entry.name: one for one in found}
    assert by_name[b"./d/"].entry.kind is Kind.DIRECTORY
    assert by_name[b"./d/"].entry.mode == 0o700
    assert content(by_name[b"./d/file"]) == b"hello" * 1000
    assert by_name[b"./d/other"].entry.link == b"./d/file"
    assert by_name[b"./link"].entry.link == b"d/file"
    assert by_name[b"./d/file"].entry.mtime_ns // 10**9 == int((tmp_path / "d/file").stat().st_mtime)
    if form not in ("v7", "ustar"):
        assert by_name[b"./" + b"long" * 50].entry.link == b"target" * 40
    if form == "posix":
        assert by_name[b"./d/file"].entry.mtime_ns == (tmp_path / "d/file").stat().st_mtime_ns


@pytest.mark.parametrize(
    "options",
    [
        ("--format=oldgnu",),
        *(("--format=posix", f"--sparse-version={version}") for version in ("0.0", "0.1", "1.0")),
    ],
)
@pytest.mark.parametrize("pieces", [0, 1, 3, 60])
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: tuple[str, ...], pieces: int) -> None:
    whole = bytearray(8192 * (2 * pieces + 1) + 100)
    for number in range(pieces):
        whole[8192 * 2 * number : 8192 * (2 * number) + 4096] = os.urandom(4096)
    with open(tmp_path / "sparse", "wb") as file:
        for number in range(pieces):
            file.seek(8192 * 2 * number)
            file.write(whole[8192 * 2 * number :][:4096])
        file.truncate(len(whole))
    found, _ = read(_gnu_tar(tmp_path, "--sparse", *options))
    made = found[-1]
    assert made.entry.name == b"./sparse"
    assert made.entry.size == len(whole)
    assert content(made) == whole


# rules, one by one


def one(*blocks: bytes) -> Any:
    return read(archive(*blocks))[0][-1].entry


def test_names_in_all_their_ways() -> None:
    assert one(entry(b"c", prefix=b"a/b")).name == b"a/b/c"
    assert one(entry(b"c", prefix=b"a/b", magic=b"ustar  \0")).name == b"c", "GNU keeps times there"
    star = {"at476": b"00000000000 00000000000 ", "at508": b"tar\0"}
    assert one(entry(b"c", prefix=b"p" * 131, **star)).name == b"p" * 131 + b"/c"
    assert one(long_name(b"l" * 300), entry(b"short")).name == b"l" * 300
    assert one(long_link(b"l" * 300), symlink(b"s", b"short")).link == b"l" * 300
    assert one(entry(b"c", pax={b"path": b"a=b\nc"})).name == b"a=b\nc"
    assert one(long_name(b"gnu"), entry(b"c", pax={b"path": b"pax"})).name == b"pax"
    assert one(entry(b"x" * 100)).name == b"x" * 100, "no zero byte ends a full field"


def test_headers_are_for_one_entry() -> None:
    found, _ = read(archive(long_name(b"long"), entry(b"a", pax={b"uid": b"7"}), entry(b"b", gid=3)))
    assert [(made.entry.name, made.entry.uid, made.entry.gid) for made in found] == [
        (b"long", 7, 0),
        (b"b", 0, 3),
    ]


def test_global_headers_last_and_can_be_taken_back() -> None:
    first = extended({b"uid": b"7", b"mtime": b"5"}, b"g")
    found, _ = read(archive(first, entry(b"a"), entry(b"b", pax={b"uid": b""}, uid=2), entry(b"c")))
    assert [made.entry.uid for made in found] == [7, 2, 7]
    assert {made.entry.mtime_ns for made in found} == {5 * 10**9}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1.5", 1_500_000_000),
        (b"-1.5", -1_500_000_000),
        (b"7", 7 * 10**9),
        (b"0.0000000019", 1),
        (b"1.", 10**9),
    ],
)
def test_times(text: bytes, nanoseconds: int) -> None:
    assert one(entry(pax={b"mtime": text})).mtime_ns == nanoseconds


def test_large_and_negative_numbers() -> None:
    assert one(entry(uid=1 << 40)).uid == 1 << 40
    assert one(entry(mtime=-5)).mtime_ns == -5 * 10**9
    assert one(entry(raw_mtime=b"            ")).mtime_ns == 0
    assert one(entry(raw_mode=b"   644 \0")).mode == 0o644


def test_the_size_of_a_pax_header_counts() -> None:
    blob = entry(b"f", data=b"hello", size=0, pax={b"size": b"5"})
    assert content(read(archive(blob))[0][0]) == b"hello"


def test_links_have_no_data() -> None:
    found, _ = read(archive(entry(b"f"), entry(b"h", b"1", link=b"f", size=4096), entry(b"g", data=b"x")))
    assert [made.entry.name for made in found] == [b"f", b"h", b"g"]


def test_a_signed_checksum() -> None:
    plain = bytearray(entry(b"\xfc\xfe"))
    total = sum(byte - 256 if byte > 127 else byte for byte in plain[:148] + plain[156:512]) + 8 * 32
    plain[148:156] = b"%06o\0 " % total
    assert one(bytes(plain)).name == b"\xfc\xfe"


def test_unread_data_are_passed_over() -> None:
    found, _ = read(archive(entry(b"a", data=b"x" * 5000), entry(b"b")))
    assert [made.entry.name for made in found] == [b"a", b"b"]


def test_xattrs_are_bytes_with_anything_in_them() -> None:
    value = bytes(range(256))
    made = one(entry(pax={b"SCHILY.xattr.user.a": value, b"SCHILY.xattr.user.b": b""}))
    assert made.xattrs == ((b"user.a", value), (b"user.b", b""))


@pytest.mark.parametrize("reader", [(b"x", record(b"path", b"y")), (b"L", b"y\0"), (b"K", b"y\0")])
def test_a_header_of_nothing_at_the_end(reader: tuple[bytes, bytes]) -> None:
    with pytest.raises(Refused):
        read(archive(entry(b"f"), entry(b"h", *reader)))


def test_the_digest_is_of_everything() -> None:
    data = archive(entry(data=b"x")) + b"behind the end" * 1000

    def drained(stream: Any) -> str:
        stream.take(512)
        stream.drain()
        return str(stream.diff_id)

    for way, pack in {"none": bytes, **_WAYS}.items():
        assert with_stream(pack(data), drained, way, LIMITS) == "sha256:" + hashlib.sha256(data).hexdigest()
