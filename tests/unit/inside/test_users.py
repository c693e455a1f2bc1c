from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbox.inside import users
from nsbox.inside.users import ROOT, Credentials, UnknownUser, lookup
from nsbox.kernel import libc

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
# a comment

ann:x:1000:1000:Ann:/home/ann:/bin/sh
bob:x:1001:100::
1002:x:1500:1500::/home/digits:/bin/sh
homeless:x:1003:1003:::/bin/sh
short:x:7
"""
GROUP = """root:x:0:
staff:x:50:ann,bob
ann:x:1000:
games:x:60:bob,annabel
77:x:78:ann
"""


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sandbox's /etc, before it is hostile. Every look-up goes here, by the call that the real ones use."""
    (tmp_path / "passwd").write_text(PASSWD)
    (tmp_path / "group").write_text(GROUP)
    real = libc.openat2

    def openat2(directory: int, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
        assert path.startswith(b"/etc/")
        there = os.fsencode(tmp_path / os.fsdecode(path.removeprefix(b"/etc/")))
        return real(directory, there, flags, mode, resolve)

    monkeypatch.setattr(users.libc, "openat2", openat2)
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", ROOT),
        ("root", ROOT),
        ("0", ROOT),
        ("ann", Credentials(1000, 1000, (50, 78), "/home/ann")),
        ("1000", Credentials(1000, 1000, (50, 78), "/home/ann")),  # a number finds its row
        ("ann:games", Credentials(1000, 60, (), "/home/ann")),
        ("ann:60", Credentials(1000, 60, (), "/home/ann")),
        ("ann:77", Credentials(1000, 78, (), "/home/ann")),  # a group whose name is a number
        ("ann:4711", Credentials(1000, 4711, (), "/home/ann")),
        ("4711", Credentials(4711, 0, (), "/")),
        ("4711:4712", Credentials(4711, 4712, (), "/")),
        ("65535:65535", Credentials(65535, 65535, (), "/")),
        ("1002", Credentials(1500, 1500, (), "/home/digits")),  # the name wins over the number
        ("homeless", Credentials(1003, 1003, (), "/")),
        ("0:staff", Credentials(0, 50, (), "/root")),
    ],
)
def test_who_is_who(etc: Path, wanted: str, expected: Credentials) -> None:
    assert lookup(wanted) == expected


@pytest.mark.parametrize(
    "wanted",
    ["nobody-of-that-name", "ann:nogroup", "65536", "4294967296", "4294967295", "-1", "+5", " 5", "5 ", "1_0",
     "0x5", "٣", "１２", "²", "99999999999999999999", ":5", "bob", "short", "ann:-1", "ann:65536", "ann\0",
     "ann\n"],
)  # fmt: skip
def test_who_is_nobody(etc: Path, wanted: str) -> None:
    with pytest.raises(UnknownUser):
        lookup(wanted)


@pytest.mark.parametrize("uid", ["-1", "65536", "4294967296", "0x0", "", " 0", "٠", "1e3", "0" * 6, "00001 "])
def test_a_row_with_a_bad_number_is_an_error_and_never_root(etc: Path, uid: str) -> None:
    (etc / "passwd").write_text(f"eve:x:{uid}:5::/:/bin/sh\nmal:x:5:{uid}::/:/bin/sh\n")
    for name in ("eve", "mal"):
        with pytest.raises(UnknownUser, match="gives"):
            lookup(name)


def test_the_first_of_two_rows_counts(etc: Path) -> None:
    (etc / "passwd").write_text("eve:x:5:5::/a:/s\neve:x:0:0::/b:/s\n")
    assert lookup("eve") == Credentials(5, 5, (), "/a")


def to_fifo(etc: Path) -> None:
    os.mkfifo(etc / "fifo")
    os.symlink("fifo", etc / "passwd")


def to_directory(etc: Path) -> None:
    os.mkdir(etc / "passwd")


def to_device(etc: Path) -> None:
    os.symlink("/dev/zero", etc / "passwd")


def to_itself(etc: Path) -> None:
    os.symlink("passwd", etc / "passwd")


def to_a_descriptor(etc: Path) -> None:
    """A magic link: through it the file of another process would be read."""
    descriptor = os.open(etc / "other", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, PASSWD.encode())
    os.symlink(f"/proc/self/fd/{descriptor}", etc / "passwd")


def to_nothing(etc: Path) -> None:
    pass


@pytest.mark.parametrize("make", [to_fifo, to_directory, to_device, to_itself, to_a_descriptor, to_nothing])
def test_a_passwd_that_is_no_file(etc: Path, make: Callable[[Path], None]) -> None:
    """Nobody is found, nothing waits, and root and plain numbers still work."""
    (etc / "passwd").unlink()
    make(etc)
    assert lookup("") == ROOT
    assert lookup("1000:1000") == Credentials(1000, 1000, (), "/")
    with pytest.raises(UnknownUser):
        lookup("ann")


def test_not_even_a_fifo_with_something_in_it(etc: Path) -> None:
    """Or whoever writes to it could tell each reader something else."""
    (etc / "passwd").unlink()
    os.mkfifo(etc / "passwd")
    descriptor = os.open(etc / "passwd", os.O_RDWR)
    try:
        os.write(descriptor, PASSWD.encode())
        with pytest.raises(UnknownUser):
            lookup("ann")
    finally:
        os.close(descriptor)


def test_a_link_to_a_regular_file_is_followed(etc: Path) -> None:
    """Some images have /etc/passwd elsewhere; all of this happens within the sandbox."""
    (etc / "passwd").rename(etc / "elsewhere")
    os.symlink("elsewhere", etc / "passwd")
    assert lookup("ann").uid == 1000


def test_only_the_first_mebibyte_is_read(etc: Path) -> None:
    with open(etc / "passwd", "w") as file:
        file.write("early:x:5:5::/:/s\n")
        file.truncate(1 << 40)  # sparse: a TiB that costs nothing
    assert lookup("early").uid == 5
    row = "late:x:6:6::/:/s\n"
    (etc / "passwd").write_text("#" * (1 << 20) + "\n" + row)
    with pytest.raises(UnknownUser):
        lookup("late")


def test_no_more_groups_than_the_bound(etc: Path) -> None:
    (etc / "group").write_text("".join(f"g{number}:x:{number}:ann\n" for number in range(1, 500)))
    assert lookup("ann").groups == tuple(range(1, 65))


def test_groups_with_bad_numbers_are_passed_over(etc: Path) -> None:
    (etc / "group").write_text("a:x:-1:ann\nb:x:65536:ann\nc:x::ann\nd:x:5:ann\ne:x:6:ann:more\nf:x:7:bann\n")
    assert lookup("ann").groups == (5,)


cells = (
    st.sampled_from(["", "root", "ann", "0", "5", "-1", "65535", "65536", "٣", "\0", ":", ",", "\n", "x"])
    | st.text()
)
rows = st.lists(st.lists(cells, max_size=8).map(":".join), max_size=6).map("\n".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(passwd=rows | st.binary(max_size=200), group=rows | st.binary(max_size=200), wanted=cells | st.text())
def test_whatever_is_in_there_ids_stay_in_range(
    etc: Path, passwd: str | bytes, group: str | bytes, wanted: str
) -> None:
    for name, content in (("passwd", passwd), ("group", group)):
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (etc / name).write_bytes(data)
    try:
        who = lookup(wanted)
    except UnknownUser:
        return
    assert all(0 <= number < 65_536 for number in (who.uid, who.gid, *who.groups))
    assert len(who.groups) <= 64
