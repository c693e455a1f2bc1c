"""Archives that we write, read by two readers: Python's tarfile and the unpacker's own."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.oci.placing import FOLDER
from nsbox.oci.snapshots.copier import OPAQUE
from nsbox.oci.snapshots.tarball import Archive, Segment, coalesced, header
from nsbox.oci.unpacking import archive as unpacking
from nsbox.oci.unpacking.entries import Entry
from nsbox.oci.unpacking.limits import Limits
from nsbox.oci.unpacking.numbers import bounded_time
from nsbox.oci.unpacking.stream import Stream

LIMITS = Limits(max_bytes=1 << 40, max_entries=10_000, max_ratio=1_000_000, max_depth=128, seconds=60.0)
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: not set(name) & {0, 0x2F})
PATHS = st.lists(NAMES, min_size=1, max_size=9).map(b"/".join).filter(lambda path: path.strip(b"./") != b"")


def packed(tree: Path, *, whiteouts: bool = True) -> bytes:
    out = io.BytesIO()
    Archive(os.open(tree, FOLDER), out.write, whiteouts=whiteouts).run()
    return out.getvalue()


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as found:
        return {one.name: one for one in found}


def ours(data: bytes) -> list[Entry]:
    """What the unpacker reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb"), open(writer, "wb", buffering=0) as end:
        assert end.write(data) == len(data), "a small archive"
        end.close()
        stream = Stream(reader, "none", LIMITS)
        return list(unpacking.Archive(stream, LIMITS))


@given(
    path=PATHS,
    link=st.one_of(st.just(b""), st.binary(min_size=1, max_size=300).filter(lambda link: 0 not in link)),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 65_535),
    gid=st.integers(0, 65_535),
    mtime_ns=st.integers(-(10**18), 10**20),
    value=st.binary(max_size=300),
)
def test_a_header_says_what_it_was_told(
    path: bytes, link: bytes, mode: int, uid: int, gid: int, mtime_ns: int, value: bytes
) -> None:
    kind = b"2" if link else b"0"
    records = {b"SCHILY.xattr.user.x": value}
    data = header(
        path, kind, mode=mode, uid=uid, gid=gid, size=0, mtime_ns=mtime_ns, link=link, records=records
    )
    assert len(data) % 512 == 0
    (entry,) = ours(data + bytes(1024))
    assert (entry.name.rstrip(b"/"), entry.link) == (path.rstrip(b"/"), link)
    assert (entry.mode, entry.uid, entry.gid) == (mode, uid, gid)
    assert entry.mtime_ns == bounded_time(mtime_ns), "what a file system can keep"
    assert dict(entry.xattrs) == {b"user.x": value}


@given(size=st.integers(0, 1 << 45))
def test_sizes_of_any_length(size: int) -> None:
    data = header(b"x", b"0", mode=0, uid=0, gid=0, size=size, mtime_ns=0)
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024)), mode="r:") as found:
        assert next(iter(found)).size == size


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=60), st.integers(1, 20)
)
def test_coalesced_segments_cover_the_same(steps: list[tuple[int, int]], most: int) -> None:
    segments, at = [], 0
    for gap, size in steps:
        segments.append(Segment(at + gap, size))
        at += gap + size
    joined = coalesced(segments, most)
    assert len(joined) <= most
    assert joined[0].offset == segments[0].offset
    assert joined[-1].offset + joined[-1].size == at
    covered = {one for part in joined for one in range(part.offset, part.offset + part.size)}
    assert covered >= {one for part in segments for one in range(part.offset, part.offset + part.size)}
    ends = [part.offset + part.size for part in joined]
    assert all(end <= part.offset for end, part in zip(ends, joined[1:], strict=False)), "none overlaps"


def test_a_tree(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o750)
    (tmp_path / "folder" / "file").write_bytes(b"text")
    os.utime(tmp_path / "folder" / "file", ns=(0, 1_500_000_000_123_456_789))
    os.link(tmp_path / "folder" / "file", tmp_path / "hard")
    os.symlink("t" * 150, tmp_path / "soft")
    os.mkfifo(tmp_path / "fifo")
    long = tmp_path / "folder" / ("n" * 200)
    long.write_bytes(b"")
    os.setxattr(tmp_path / "folder", "user.a", b"\0\n=\xff")
    found = members(packed(tmp_path))
    assert list(found) == [".", "fifo", "folder", "folder/file", f"folder/{'n' * 200}", "hard", "soft"]
    assert found["folder"].mode == 0o750
    assert found["folder/file"].size == 4
    assert found["folder/file"].pax_headers["mtime"] == "1500000000.123456789"
    assert (found["hard"].islnk(), found["hard"].linkname) == (True, "folder/file")
    assert found["soft"].linkname == "t" * 150
    assert found["fifo"].isfifo()
    (folder,) = [one for one in ours(packed(tmp_path)) if one.name == b"folder/"]
    assert tuple(folder.xattrs) == ((b"user.a", b"\0\n=\xff"),)


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "zyxab":
        (tmp_path / name).write_text(name)
    assert packed(tmp_path) == packed(tmp_path)
    assert [name for name in members(packed(tmp_path)) if name != "."] == sorted("zyxab")


def test_whiteouts_and_opaque_folders(tmp_path: Path) -> None:
    os.mknod(tmp_path / "gone", stat.S_IFCHR, 0)
    (tmp_path / "opaque").mkdir()
    os.setxattr(tmp_path / "opaque", OPAQUE, b"y")
    assert list(members(packed(tmp_path))) == [".", ".wh.gone", "opaque", "opaque/.wh..wh..opq"]
    assert list(members(packed(tmp_path, whiteouts=False))) == [".", "opaque"]


def test_a_file_that_is_called_like_a_whiteout(tmp_path: Path) -> None:
    """It would delete something where the archive is unpacked."""
    (tmp_path / ".wh.etc").write_text("x")
    out = io.BytesIO()
    archive = Archive(os.open(tmp_path, FOLDER), out.write, whiteouts=True)
    archive.run()
    assert archive.left_out == 1
    assert list(members(out.getvalue())) == ["."]


@pytest.mark.parametrize("holes", [1, 5])
def test_holes_stay_holes(tmp_path: Path, holes: int) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for number in range(holes):
            file.seek((number + 1) * (8 << 20))
            file.write(b"island%d" % number)
        file.truncate((holes + 2) * (8 << 20))
    if os.stat(tmp_path / "sparse").st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no holes")
    data = packed(tmp_path)
    assert len(data) < 1 << 20
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as found:
        member = found.getmember("sparse")
        assert member.size == (holes + 2) * (8 << 20)
        whole = found.extractfile(member)
        assert whole is not None
        assert whole.read() == (tmp_path / "sparse").read_bytes()
