"""Layers unpacked by the real worker, behind its walls: what comes out, and what the box is like."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import zstandard

from nsbox.oci.layers import Compression
from nsbox.oci.unpacking import walls
from tests.kernel.test_outer import descendants
from tests.security.tar_maker import archive, entry, folder, hard_link, symlink
from tests.security.unpack_lab import Lab, lab

pytestmark = pytest.mark.namespaces

_OPAQUE = "user.overlay.opaque"


@pytest.fixture(scope="module")
def place() -> Iterator[Lab]:
    with lab() as made:
        yield made


async def test_everything_that_an_entry_says(place: Lab) -> None:
    made = await place.unpack(
        archive(
            folder(b"./", mode=0o711, mtime=5, uid=3, gid=4),
            folder(b"d", mode=0o2750, uid=33, gid=44, mtime=1_000_000_000),
            entry(b"d/inherits", data=b"x", mode=0o640),
            folder(b"d/deep", mode=0o555),
            entry(b"d/deep/file", data=b"y" * 100_000, mode=0o4755, uid=65_535, gid=65_534),
            entry(b"d/half", pax={b"mtime": b"1600000000.25"}),
            symlink(b"link", b"../any/where", uid=7, gid=8, mtime=77),
            hard_link(b"again", b"d/deep/file"),
            entry(b"pipe", b"6", mode=0o6622, uid=9, gid=9, mtime=88),
            entry(b"implicit/parent/f"),
            folder(b"shut", mode=0, mtime=99),
            entry(b"shut/f", mode=0),
            folder(b"sticky", mode=0o1777),
        )
    )
    assert made.report is not None, made.refusal
    tree = made.tree
    assert (made.report.entries, made.report.bytes) == (13, 100_001)
    rows = {name: (seen.kind, seen.permissions, seen.uid, seen.gid) for name, seen in tree.items()}
    assert rows == {
        ".": ("d", 0o711, 3, 4),
        "d": ("d", 0o2750, 33, 44),
        "d/inherits": ("-", 0o640, 0, 0),
        "d/deep": ("d", 0o555, 0, 0),
        "d/deep/file": ("-", 0o4755, 65_535, 65_534),
        "d/half": ("-", 0o644, 0, 0),
        "link": ("l", 0o777, 7, 8),
        "again": ("-", 0o4755, 65_535, 65_534),
        "pipe": ("p", 0o6622, 9, 9),
        "implicit": ("d", 0o755, 0, 0),
        "implicit/parent": ("d", 0o755, 0, 0),
        "implicit/parent/f": ("-", 0o644, 0, 0),
        "shut": ("d", 0, 0, 0),
        "shut/f": ("-", 0, 0, 0),
        "sticky": ("d", 0o1777, 0, 0),
    }
    assert tree["d/deep/file"].content == b"y" * 100_000
    assert tree["d/deep/file"].links == 2
    assert tree["link"].content == b"../any/where"
    times = {".": 5, "d": 1_000_000_000, "d/half": 1_600_000_000.25, "link": 77, "pipe": 88, "shut": 99}
    assert {name: tree[name].mtime_ns / 10**9 for name in times} == times


async def test_times_of_folders_survive_a_second_visit(place: Lab) -> None:
    """Also when so many were open in between that each was closed."""
    names = [b"d%03d" % number for number in range(300)]
    visits = [entry(name + b"/late") for name in names]
    made = await place.unpack(archive(*(folder(name, mtime=1234) for name in names), *visits))
    assert {made.tree[name.decode()].mtime_ns for name in names} == {1234 * 10**9}


async def test_later_entries_replace_earlier_ones(place: Lab) -> None:
    made = await place.unpack(
        archive(
            entry(b"a", data=b"1"), entry(b"a", data=b"22"),
            folder(b"b"), entry(b"b/c/d"), entry(b"b", data=b"file"),
            entry(b"c"), folder(b"c"), entry(b"c/in", data=b"x"),
            symlink(b"d", b"c"), folder(b"d"), entry(b"d/in", data=b"y"),
            entry(b"e"), symlink(b"e", b"a"),
            folder(b"f", mode=0o700), entry(b"f/kept", data=b"z"), folder(b"f", mode=0o755, mtime=7),
            entry(b"g", data=b"old"), hard_link(b"h", b"g"), entry(b"g", data=b"new"),
            symlink(b"i", b"c"), entry(b"i/sub/1"), folder(b"i/."), entry(b"i/sub/2"),
            symlink(b"lib", b"usr/lib"), folder(b"usr"), folder(b"usr/lib"), entry(b"lib/x", data=b"lib"),
        )
    )  # fmt: skip
    assert made.report is not None, made.refusal
    kinds = {name: (seen.kind, seen.content) for name, seen in made.tree.items() if seen.kind != "d"}
    assert kinds == {
        "a": ("-", b"22"),
        "b": ("-", b"file"),
        "c/in": ("-", b"x"),
        "d/in": ("-", b"y"),
        "e": ("l", b"a"),
        "f/kept": ("-", b"z"),
        "g": ("-", b"new"),
        "h": ("-", b"old"),
        "c/sub/1": ("-", b""),
        "i/sub/2": ("-", b""),
        "lib": ("l", b"usr/lib"),
        "usr/lib/x": ("-", b"lib"),
    }
    assert (made.tree["f"].permissions, made.tree["f"].mtime_ns) == (0o755, 7 * 10**9)


async def test_whiteouts(place: Lab) -> None:
    made = await place.unpack(
        archive(
            folder(b"d", mtime=5), entry(b"d/.wh.gone"), entry(b"o/.wh..wh..opq"), entry(b"o/new"),
            entry(b".wh.first"), folder(b"first"), entry(b"first/f"),
            folder(b"last"), entry(b"last/f"), entry(b".wh.last"),
            entry(b".wh..wh.plnk/1"), entry(b".wh..wh.orph"),
        )
    )  # fmt: skip
    if made.reason == "name":
        pytest.fail(str(made.refusal))
    tree = made.tree
    assert tree["d/gone"].is_whiteout
    assert tree["d"].mtime_ns == 5 * 10**9
    opaque = {name for name, seen in tree.items() if seen.xattrs.get(_OPAQUE) == b"y"}
    assert opaque == {"o", "first", "last"}, "what hides a folder below and is one itself is opaque"
    assert {name for name, seen in tree.items() if seen.is_whiteout} == {"d/gone"}


def _capability(revision: int) -> bytes:
    return struct.pack("<5I", revision << 24 | 1, 1 << 10, 0, 0, 0) + (bytes(4) if revision == 3 else b"")


@pytest.mark.parametrize("revision", [2, 3])
async def test_capabilities_become_those_of_a_sandboxs_root(place: Lab, revision: int) -> None:
    keys = {b"SCHILY.xattr.security.capability": _capability(revision), b"SCHILY.xattr.user.note": b"\0\xff"}
    made = await place.unpack(archive(entry(b"ping", data=b"x", mode=0o755, pax=keys)))
    assert made.report is not None, made.refusal
    if "user.note" not in made.tree["ping"].xattrs:
        pytest.skip("this file system has no user attributes")
    assert made.tree["ping"].xattrs["user.note"] == b"\0\xff"
    held = made.tree["ping"].xattrs["security.capability"]
    magic, permitted = struct.unpack_from("<2I", held)
    assert (magic >> 24, permitted) == (3, 1 << 10)
    assert struct.unpack("<I", held[20:24])[0] == place.first_id, "the id that a sandbox's root has outside"
    assert made.report.xattrs_dropped == 0


@pytest.mark.parametrize("form", ["oldgnu", "0.0", "0.1", "1.0"])
async def test_sparse_files_keep_their_holes(place: Lab, tmp_path: Path, form: str) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar here")
    with open(tmp_path / "f", "wb") as file:
        file.seek(50 << 20)
        file.write(b"end" * 1000)
        file.truncate(60 << 20)
    options = ["--format=oldgnu"] if form == "oldgnu" else ["--format=posix", f"--sparse-version={form}"]
    command = ["tar", "-C", str(tmp_path), "--owner=0", "--group=0", "--sparse", *options, "-cf", "-", "f"]
    blob = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(blob) < 1 << 20
    made = await place.unpack(blob, keep=True, name=f"sparse-{form}")
    path = f"{place.state_dir}/layers/sparse-{form}"
    assert made.report is not None, made.refusal
    assert made.report.bytes == 60 << 20
    with open(f"{path}/f", "rb") as left, open(tmp_path / "f", "rb") as right:
        assert hashlib.file_digest(left, "sha256").digest() == hashlib.file_digest(right, "sha256").digest()
    assert os.stat(f"{path}/f").st_blocks * 512 < 1 << 20
    shutil.rmtree(path)


@pytest.mark.parametrize("way", list(Compression))
async def test_compressions_and_the_digest(place: Lab, way: Compression) -> None:
    data = archive(entry(b"f", data=os.urandom(300_000)))
    pack = {"none": bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}[way.value]
    wanted = f"sha256:{hashlib.sha256(data).hexdigest()}"
    made = await place.unpack(pack(data), compression=way, diff_id=wanted)
    assert made.report is not None, made.refusal
    assert made.report.diff_id == wanted
    assert made.tree["f"].size == 300_000


async def test_the_digest_makes_up_for_a_missing_end_mark(place: Lab) -> None:
    data = entry(b"f", data=b"x")
    wanted = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (await place.unpack(data, diff_id=wanted)).reason == ""
    assert (await place.unpack(data)).reason == "truncated"


async def test_gnu_tars_own_work_is_the_same(place: Lab, tmp_path: Path) -> None:
    """A tree of this host, by GNU tar and by the worker."""
    if shutil.which("tar") is None:
        pytest.skip("no tar here")
    source = os.path.dirname(os.__file__)
    pack = ["tar", "-C", source, "--numeric-owner", "-cf", "-", "json", "email", "encodings", "collections"]
    blob = subprocess.run(pack, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-C", str(tmp_path), "--numeric-owner", "-xpf", "-"], input=blob, check=True)
    made = await place.unpack(blob)
    assert made.report is not None, made.refusal
    theirs = place.look(str(tmp_path))
    for seen in (made.tree, theirs):
        del seen["."]
    first = place.first_id
    assert {name: seen._replace(uid=0, gid=0, size=0) for name, seen in made.tree.items()} == {
        name: seen._replace(uid=0, gid=0, size=0) for name, seen in theirs.items()
    }
    assert {seen.uid for seen in made.tree.values()} == {seen.uid + first for seen in theirs.values()}


async def test_an_overlay_of_layers_shows_what_is_left(place: Lab) -> None:
    """Mounted as sandboxes mount it, deleted names are gone and opaque folders hide what is below."""
    lower = archive(*map(entry, (b"kept", b"gone", b"o/old", b"d/a", b"d/b", b"r/old")))
    upper = archive(*map(entry, (b".wh.gone", b"o/.wh..wh..opq", b"o/new", b"d/.wh.a", b".wh.r", b"r/new")))
    assert (await place.unpack(lower, keep=True, name="lower")).report
    assert (await place.unpack(upper, keep=True, name="upper")).report
    look = (
        "import os, sys; from nsbox.kernel import libc, mounts; libc.unshare(0x20000); mounts.make_private();"
        "os.chdir(sys.argv[1]); os.makedirs('o/u'); os.mkdir('o/w'); os.mkdir('o/m');"
        "mounts.attach(mounts.overlay(['layers/upper', 'layers/lower'], 'o/u', 'o/w'), 'o/m');"
        "found = [os.path.join(w, n) for w, d, f in os.walk('o/m') for n in d + f];"
        "print(sorted(os.path.relpath(one, 'o/m') for one in found))"
    )
    done = place.in_outer(look, place.state_dir)
    for name in ("lower", "upper"):
        shutil.rmtree(f"{place.state_dir}/layers/{name}")
    shutil.rmtree(f"{place.state_dir}/o", ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['d', 'd/b', 'kept', 'o', 'o/new', 'r', 'r/new']"


# the worker's own conduct


async def test_a_layer_that_is_there_is_not_touched(place: Lab) -> None:
    first = await place.unpack(archive(entry(b"f", data=b"1")), keep=True, name="same")
    second = await place.unpack(archive(entry(b"f", data=b"2")), keep=True, name="same")
    assert (first.reason, second.reason) == ("", "exists")
    assert place.look(f"{place.state_dir}/layers/same")["f"].content == b"1"
    shutil.rmtree(f"{place.state_dir}/layers/same")


async def test_what_a_killed_worker_left_is_replaced(place: Lab) -> None:
    left = f"{place.state_dir}/layers/late.partial"
    os.makedirs(f"{left}/deep/er")
    for path in (left, f"{left}/deep", f"{left}/deep/er"):
        os.chown(path, place.who.uid, place.who.gid)
    made = await place.unpack(archive(entry(b"new")), name="late")
    assert set(made.tree) == {".", "new"}
    assert place.left() == []


async def test_two_at_once_get_one_layer(place: Lab) -> None:
    reader, writer = os.pipe()
    results = []

    async def slow() -> None:
        results.append(await place.unpack(reader, keep=True, name="twice"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow)
        while not os.path.exists(f"{place.state_dir}/layers/twice.partial"):
            await trio.sleep(0.01)
        other = await trio.to_thread.run_sync(lambda: place.weakened(archive(entry(b"f")), name="twice"))
        os.write(writer, archive(entry(b"f", data=b"x")))
        os.close(writer)
    os.close(reader)
    assert other["reason"] == "busy"
    assert results[0].report is not None, results[0].refusal
    shutil.rmtree(f"{place.state_dir}/layers/twice")


async def test_cancelled_it_gives_up_and_leaves_nothing(place: Lab) -> None:
    reader, writer = os.pipe()
    partial = f"{place.state_dir}/layers/endless.partial"
    with trio.move_on_after(60) as limit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: place.unpack(reader, name="endless"))
            while not os.path.exists(partial):
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        while place.left():
            await trio.sleep(0.01)
    os.close(reader)
    os.close(writer)
    assert not limit.cancelled_caught, place.left()


async def test_a_killed_worker_takes_its_child_along(place: Lab) -> None:
    reader, writer = os.pipe()
    results = []

    async def slow() -> None:
        results.append(await place.unpack(reader, name="struck"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow)
        while not (family := _workers(place)):
            await trio.sleep(0.01)
        os.kill(family[0], signal.SIGKILL)
    os.close(reader)
    os.close(writer)
    assert results[0].reason == "internal", "nobody was left to say more"
    with trio.fail_after(20):
        while any(os.path.exists(f"/proc/{pid}") for pid in family):
            await trio.sleep(0.01)
    assert place.left() == ["struck.partial"], "the next worker replaces it"
    assert (await place.unpack(archive(entry(b"f")), name="struck")).report is not None
    assert place.left() == []


def _workers(place: Lab) -> list[int]:
    """The worker that has a child, and that child; nothing before there is one."""
    for pid in descendants(place.keeper_pid):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"nsbox.oci.unpacking.worker" in file.read() and (children := descendants(pid)):
                return [pid, *children]
    return []


# the box


def test_the_box_sees_and_may_nothing_else(place: Lab) -> None:
    seen = place.probe()
    assert seen["root"] == [], "nothing but the layer, which is empty yet"
    assert seen["descriptors"] == [0, 1, 2]
    assert seen["pid"] == 1
    assert seen["bounding"] is None, "the filter does not even let it ask"
    refused = {errno.EPERM, errno.ENOSYS}
    assert {name: code for name, code in seen["calls"].items() if code not in refused} == {}
    assert len(seen["calls"]) >= 10


def test_the_filter_bites(place: Lab) -> None:
    with_it, without = place.probe()["calls"], place.probe("filter")
    assert {"socket", "fork", "mmap_exec", "memfd"} <= {
        name for name in with_it if without["calls"][name] == 0
    }
    assert without["bounding"] == sorted(walls.KEPT)
