"""Archives of hostile sandboxes: whatever is in them, nothing outside the folder is made or changed."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbox.cli.unpacking import unpack
from nsbox.model.errors import HostProblem


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, target, mode
    made.size = 4 if kind == tarfile.REGTYPE else 0
    return made


def archive(*members: tarfile.TarInfo) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for one in members:
            tar.addfile(one, io.BytesIO(b"data") if one.isreg() else None)
    file.seek(0)
    return file


def test_what_is_honest(tmp_path: Path) -> None:
    made = archive(
        member(".", tarfile.DIRTYPE, mode=0o755),
        member("./shut", tarfile.DIRTYPE, mode=0o500),
        member("./shut/in", mode=0o640),
        member("./program", mode=0o6755),
        member("./same", tarfile.LNKTYPE, "./program"),
        member("./link", tarfile.SYMTYPE, "shut/in"),
        member("./shut/up", tarfile.SYMTYPE, "../program"),
    )
    assert unpack(made, str(tmp_path / "t")) == []
    top = tmp_path / "t"
    assert (top / "shut").stat().st_mode & 0o777 == 0o500
    assert (top / "shut" / "in").stat().st_mode & 0o7777 == 0o640
    assert (top / "program").stat().st_mode & 0o7777 == 0o755, "no set-user bit comes along"
    assert (top / "same").samefile(top / "program")
    assert (top / "link").read_bytes() == (top / "shut" / "up").read_bytes() == b"data"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..", "a/../x", "/".join("d" * 300)])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "t").mkdir()
    for kind in (tarfile.REGTYPE, tarfile.DIRTYPE):
        with pytest.raises(HostProblem, match="leads elsewhere"):
            unpack(archive(member(name, kind)), str(tmp_path / "t"))
    assert list(tmp_path.iterdir()) == [tmp_path / "t"]


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../x", "a/../../x", "", "a/../..", "a/..", "..", "./../x"]
)
def test_symlinks_that_lead_elsewhere_are_left_out(tmp_path: Path, target: str) -> None:
    assert unpack(archive(member("l", tarfile.SYMTYPE, target)), str(tmp_path / "t")) == ["l"]
    assert list((tmp_path / "t").iterdir()) == []


def test_nothing_is_written_through_a_symlink(tmp_path: Path) -> None:
    """One of the archive's, and one that was there before."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    top = tmp_path / "t"
    top.mkdir()
    (top / "old").symlink_to(outside)
    (top / "f").symlink_to(outside / "file")
    for name in ("old/x", "old/file"):
        with pytest.raises(HostProblem, match="could not be unpacked"):
            unpack(archive(member(name)), str(top))
    with pytest.raises(HostProblem):
        unpack(archive(member("h", tarfile.LNKTYPE, "old/file")), str(top))
    with pytest.raises(HostProblem, match="no file"):
        unpack(archive(member("h", tarfile.LNKTYPE, "f")), str(top))
    unpack(archive(member("f")), str(top))  # the link is replaced, not followed
    assert [one.name for one in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "mine"
    assert (top / "f").read_bytes() == b"data"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_left_out(tmp_path: Path, kind: bytes) -> None:
    assert unpack(archive(member("d", kind)), str(tmp_path / "t")) == ["d"]


def test_a_few_bytes_do_not_fill_the_disk(tmp_path: Path) -> None:
    """A sparse file of much nothing; and one file under a thousand names."""
    sparse = member("s")
    sparse.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 27),
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        sparse.size = 512
        tar.addfile(sparse, io.BytesIO(b"0\n".ljust(512, b"\0")))
    file.seek(0)
    assert unpack(file, str(tmp_path / "s")) == ["s"]
    names = [member(f"n{number}", tarfile.LNKTYPE, "f") for number in range(1000)]
    unpack(archive(member("f"), *names), str(tmp_path / "t"))
    assert (tmp_path / "t" / "f").stat().st_nlink == 1001


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 100, b"x" * 2000])
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(HostProblem, match="could not be unpacked"):
        unpack(io.BytesIO(data), str(tmp_path / "t"))


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "/"]), max_size=4).map("/".join)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.lists(
        st.builds(
            member,
            NAMES,
            st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
            NAMES,
            st.sampled_from([0o700, 0o644, 0o4755]),
        ),
        max_size=7,
    )
)
def test_no_archive_reaches_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[tarfile.TarInfo]
) -> None:
    around = tmp_path_factory.mktemp("x")
    (around / "canary").write_text("mine")
    top = around / "in" / "t"
    top.mkdir(parents=True)
    try:
        unpack(archive(*members), str(top))
    except HostProblem:
        pass
    assert sorted(os.listdir(around)) == ["canary", "in"]
    assert os.listdir(around / "in") == ["t"]
    assert (around / "canary").read_text() == "mine"
    real = os.path.realpath(top)
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if not os.path.exists(path):
                continue  # a symlink to nothing, or to itself
            led = os.path.realpath(path)
            assert led == real or led.startswith(real + os.sep), "a symlink leads outside"
