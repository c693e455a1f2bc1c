"""What the file agent does, in a plain directory: none of it needs a namespace."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.inside import files
from nsbox.inside.files import Refusal
from nsbox.kernel import libc
from tests.fuzz.descriptors import none_leaked


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of this host counts as the sandbox's overlay."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    kind = libc.filesystem_type(descriptor)
    os.close(descriptor)
    monkeypatch.setattr(files, "PLAIN", frozenset({kind}))


@pytest.fixture(autouse=True)
def nothing_leaks() -> object:
    with none_leaked():
        yield


def listed(path: Path, recursive: bool = False, limit: int = 1000) -> list[str]:
    return [json.loads(row)[0] for row in files.scan(str(path), recursive, limit) if row is not files.CUT]


# ---- read


def test_a_regular_file_is_handed_out_itself(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    descriptor, copied = files.open_for_reading(str(tmp_path / "f"))
    try:
        assert not copied
        assert os.read(descriptor, 10) == b"data"
        assert os.fstat(descriptor).st_ino == (tmp_path / "f").stat().st_ino
        with pytest.raises(OSError):
            os.write(descriptor, b"x")
    finally:
        os.close(descriptor)


def test_a_file_of_proc_is_copied() -> None:
    descriptor, copied = files.open_for_reading("/proc/self/status")
    try:
        assert copied
        assert b"\nPid:\t%d\n" % os.getpid() in os.read(descriptor, 65_536)
    finally:
        os.close(descriptor)


def test_a_file_that_opens_and_cannot_be_read_leaves_nothing_open() -> None:
    """Once it left the copy open: some hundred reads, and the agent was out of descriptors."""
    with pytest.raises(OSError):
        files.open_for_reading("/proc/self/mem")


def test_an_endless_file_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LARGEST_COPY", 100)
    descriptor, _ = files.open_for_reading("/proc/self/status")
    try:
        assert os.fstat(descriptor).st_size == 100
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "link to a fifo", "missing", "loop"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path, number = tmp_path / "it", errno.EINVAL
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
            number = errno.EISDIR
        case "device":
            path = Path("/dev/null")
        case "link to a fifo":
            os.mkfifo(tmp_path / "fifo")
            path.symlink_to("fifo")
        case "missing":
            number = errno.ENOENT
        case "loop":
            path.symlink_to("it")
            number = errno.ELOOP
    with pytest.raises((Refusal, OSError)) as caught:
        files.open_for_reading(str(path))
    assert caught.value.errno == number  # type: ignore[union-attr]


def test_magic_links_are_refused(tmp_path: Path) -> None:
    """They would name the agent's own descriptors: its socket, a file half written."""
    descriptor = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT)
    try:
        for path in (f"/proc/self/fd/{descriptor}", f"/proc/self/fd/{descriptor}/", "/proc/self/exe"):
            with pytest.raises(OSError) as caught:
                files.open_for_reading(path)
            assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
        with pytest.raises(OSError):
            list(files.scan("/proc/self/cwd", False, 10))
        with pytest.raises(OSError):
            files.remove("/proc/self/cwd/secret", False)
    finally:
        os.close(descriptor)


def test_a_nul_in_a_path(tmp_path: Path) -> None:
    for call in (
        lambda: files.open_for_reading(f"{tmp_path}/a\0b"),
        lambda: files.put(f"{tmp_path}/a\0b", -1, b""),
        lambda: files.remove(f"{tmp_path}/a\0b", False),
        lambda: list(files.scan(f"{tmp_path}\0", False, 1)),
    ):
        with pytest.raises((Refusal, ValueError)):
            call()


# ---- write


def test_a_new_file(tmp_path: Path) -> None:
    assert files.put(str(tmp_path / "new"), -1, b"data") == 4
    assert (tmp_path / "new").read_bytes() == b"data"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["new"]


def test_parents_are_made(tmp_path: Path) -> None:
    files.put(str(tmp_path / "a/b/c/f"), 0o600, b"x")
    assert (tmp_path / "a/b/c/f").read_bytes() == b"x"
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) & 0o755 == 0o755 & ~os.umask(
        os.umask(0o022) or 0o022
    )


@pytest.mark.parametrize(
    ("old", "asked", "expected"), [(0o4751, -1, 0o4751), (0o600, 0o640, 0o640), (0o444, -1, 0o444)]
)
def test_the_mode_is_kept_or_set(tmp_path: Path, old: int, asked: int, expected: int) -> None:
    (tmp_path / "f").write_bytes(b"old and longer")
    os.chmod(tmp_path / "f", old)
    files.put(str(tmp_path / "f"), asked, b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == expected


def test_the_owner_is_kept(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    if os.geteuid():
        pytest.skip("only root may give files away")
    os.chown(tmp_path / "f", 4711, 4712)
    files.put(str(tmp_path / "f"), -1, b"new")
    found = (tmp_path / "f").stat()
    assert (found.st_uid, found.st_gid) == (4711, 4712)


def test_who_has_it_open_reads_the_old_file_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with open(tmp_path / "f", "rb") as reader:
        files.put(str(tmp_path / "f"), -1, b"new")
        assert reader.read() == b"old"


def test_nothing_is_seen_before_commit_and_abort_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    replacement, descriptor = files.begin_replacing(str(tmp_path / "f"), -1)
    os.write(descriptor, b"half")
    assert (tmp_path / "f").read_bytes() == b"old"
    hidden = [name for name in os.listdir(tmp_path) if name != "f"]
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in hidden] == [0o600]
    os.close(descriptor)
    files.abort(replacement)
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_abort_after_somebody_removed_the_temporary_file(tmp_path: Path) -> None:
    replacement, descriptor = files.begin_replacing(str(tmp_path / "f"), -1)
    os.close(descriptor)
    os.unlink(tmp_path / replacement.temporary)
    files.abort(replacement)
    assert os.listdir(tmp_path) == []


def test_a_commit_that_fails_leaves_nothing(tmp_path: Path) -> None:
    replacement, descriptor = files.begin_replacing(str(tmp_path / "f"), -1)
    (tmp_path / "f").mkdir()  # meanwhile
    with pytest.raises(OSError):
        files.commit(replacement, descriptor)
    os.close(descriptor)
    assert os.listdir(tmp_path) == ["f"]


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(OSError):
        files.put(str(tmp_path / "f"), -1, b"new")
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_a_symlink_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "real")
    files.put(str(tmp_path / "one"), -1, b"new")
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "one").is_symlink()
    (tmp_path / "dangling").symlink_to("fresh")
    files.put(str(tmp_path / "dangling"), -1, b"x")
    assert (tmp_path / "fresh").read_bytes() == b"x"


@pytest.mark.parametrize(
    "kind", ["loop", "fifo", "directory", "slash", "dot", "dots", "empty", "root", "under a file"]
)
def test_what_cannot_be_replaced(tmp_path: Path, kind: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(b"")
    top = str(tmp_path)
    path = {"slash": f"{top}/new/", "dot": f"{top}/.", "dots": f"{top}/..", "empty": "", "root": "/"}.get(
        kind
    )
    path = f"{top}/file/f" if kind == "under a file" else path if path is not None else f"{top}/{kind}"
    before = sorted(os.listdir(tmp_path))
    with pytest.raises((Refusal, OSError)):
        files.put(path, -1, b"x")
    assert sorted(os.listdir(tmp_path)) == before


# ---- list


def test_rows_say_what_stat_says(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    os.chmod(tmp_path / "f", 0o4640)
    (tmp_path / "l").symlink_to("f")
    os.mkfifo(tmp_path / "p")
    (tmp_path / "d").mkdir()
    rows = {row[0]: row[1:] for row in map(json.loads, files.scan(str(tmp_path), False, 10))}
    assert list(rows) == ["d", "f", "l", "p"]
    for name, (kind, size, mode, uid, gid, mtime_ns, target) in rows.items():
        found = os.lstat(tmp_path / name)
        assert (kind, size, mode) == (stat.S_IFMT(found.st_mode), found.st_size, stat.S_IMODE(found.st_mode))
        assert (uid, gid, mtime_ns) == (found.st_uid, found.st_gid, found.st_mtime_ns)
        assert target == ("f" if name == "l" else None)


def test_names_that_are_not_text(tmp_path: Path) -> None:
    names = [b"\xff\xfe", b"caf\xe9", "\U0001f600".encode(), b"new\nline", b'"quote\\', b"\x01"]
    for name in names:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert sorted(map(os.fsencode, listed(tmp_path))) == sorted(names)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two directories at the top, two files in each, one of those directories twice as deep."""
    for path in ("a/1", "a/2", "b/1", "b/c/3"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    return tmp_path


def test_recursive_or_not(tree: Path) -> None:
    assert listed(tree) == ["a", "b"]
    assert sorted(listed(tree, True)) == ["a", "a/1", "a/2", "b", "b/1", "b/c", "b/c/3"]


@pytest.mark.parametrize("limit", range(9))
def test_one_row_more_than_the_limit_exactly_when_there_is_one(tree: Path, limit: int) -> None:
    """By that row the agent knows that the listing was cut, also when the limit falls between two folders."""
    assert len(listed(tree, True, limit)) == min(7, limit + 1)


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/up").symlink_to("..")
    (tmp_path / "d/root").symlink_to("/")
    assert listed(tmp_path, True) == ["d", "d/root", "d/up"]
    (tmp_path / "link").symlink_to("d")
    assert listed(tmp_path / "link") == ["root", "up"]  # but what is asked for may be one


def test_a_tree_deeper_than_a_path_is_long(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    name = "d" * 200
    for _ in range(30):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found = listed(tmp_path, True)
    assert 15 < len(found) < 30
    assert files.CUT in list(files.scan(str(tmp_path), True, 1000)), (
        "what is left out is not passed over in silence"
    )
    assert max(len(one) for one in found) < 4096 + 256


def test_a_directory_that_goes_away_meanwhile(tree: Path) -> None:
    rows = files.scan(str(tree), True, 100)
    assert json.loads(next(rows))[0] == "a"
    files.remove(str(tree / "b"), True)
    assert sorted(json.loads(row)[0] for row in rows if not row.startswith('["b"')) == ["a/1", "a/2"]


def test_a_directory_swapped_for_a_link_is_not_entered(tree: Path) -> None:
    rows = files.scan(str(tree), True, 100)
    next(rows)
    files.remove(str(tree / "b"), True)
    (tree / "b").symlink_to("/etc")
    assert not [row for row in rows if row.startswith('["b/')]


def test_a_listing_given_up_halfway_leaves_nothing_open(tree: Path) -> None:
    rows = files.scan(str(tree), True, 100)
    for _ in range(3):
        next(rows)
    rows.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["f", "missing"])
def test_what_is_no_directory_cannot_be_listed(tmp_path: Path, path: str) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        list(files.scan(str(tmp_path / path), False, 10))
    assert caught.value.errno == (errno.ENOTDIR if path == "f" else errno.ENOENT)


# ---- remove


def test_a_symlink_itself_is_removed(tmp_path: Path) -> None:
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/alive").write_bytes(b"")
    (tmp_path / "link").symlink_to("canary")
    with pytest.raises(Refusal):
        files.remove(str(tmp_path / "link") + "/", True)
    files.remove(str(tmp_path / "link"), True)
    assert sorted(os.listdir(tmp_path)) == ["canary"]
    assert os.listdir(tmp_path / "canary") == ["alive"]


def test_a_full_directory_only_when_told_so(tree: Path) -> None:
    with pytest.raises(OSError) as caught:
        files.remove(str(tree / "b"), False)
    assert caught.value.errno == errno.ENOTEMPTY
    files.remove(str(tree / "b") + "/", True)
    assert os.listdir(tree) == ["a"]


@pytest.mark.parametrize("path", ["", "/", "//", "/.", "/..", "/tmp/.", "/tmp/.."])
def test_what_is_never_removed(path: str) -> None:
    with pytest.raises(Refusal):
        files.remove(path, True)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.remove(str(tmp_path / "x"), True)


@given(st.binary(max_size=5000), st.integers(0, 0o777))
def test_what_is_put_is_read(tmp_path_factory: pytest.TempPathFactory, data: bytes, mode: int) -> None:
    path = str(tmp_path_factory.getbasetemp() / "round")
    assert files.put(path, mode | 0o400, data) == len(data)
    descriptor, _ = files.open_for_reading(path)
    try:
        assert os.read(descriptor, 6000) == data
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == mode | 0o400
    finally:
        os.close(descriptor)
