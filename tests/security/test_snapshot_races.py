"""A tree that its owner changes while it is copied, compared or packed: nothing of outside gets in."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nsbox.oci.placing import FOLDER
from nsbox.oci.snapshots import copier
from nsbox.oci.snapshots.compare import Comparison
from nsbox.oci.snapshots.copier import Bounds, Copier
from nsbox.oci.unpacking.refusal import Refused
from tests.conftest import DaemonFactory

CANARY = b"the host's own"
_BOUNDS = Bounds(max_bytes=1 << 30, max_entries=100_000, reserve=0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with files, beside a canary that no copy may hold."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(CANARY)
    for number in range(30):
        folder = tmp_path / "tree" / f"d{number:02}"
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"inside")
    return tmp_path / "tree"


@contextmanager
def swapping(tree: Path) -> Iterator[None]:
    """Folders become symlinks to the outside and back, files symlinks and FIFOs, as fast as it goes."""
    over = threading.Event()
    outside = str(tree.parent / "outside")

    def swap() -> None:
        number = 0
        while not over.is_set():
            number += 1
            folder = tree / f"d{number % 30:02}"
            hidden, link = tree / "hidden", tree / "link"
            os.symlink(outside, link)
            os.rename(folder, hidden)
            os.rename(link, folder)
            os.unlink(folder)
            os.rename(hidden, folder)
            file, other = folder / "file", folder / "other"
            if number % 3 == 0:
                os.mkfifo(other)
            else:
                os.symlink(f"{outside}/file", other)
            os.rename(other, file)
            other.write_bytes(b"inside")
            os.rename(other, file)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def copied(tree: Path, target: Path) -> dict[str, int]:
    target.mkdir()
    source, copy = os.open(tree, FOLDER), os.open(target, FOLDER)
    try:
        return Copier(source, copy, _BOUNDS).run()
    finally:
        os.close(source)
        os.close(copy)


def contents(target: Path) -> set[bytes]:
    found = set()
    for where, _, files in os.walk(target):
        for name in files:
            path = os.path.join(where, name)
            if os.path.isfile(path) and not os.path.islink(path):
                found.add(Path(path).read_bytes())
    return found


def race(tree: Path, rounds: int) -> tuple[set[bytes], int]:
    """What the copies hold, and how often something was seen to change."""
    found: set[bytes] = set()
    changed = 0
    with swapping(tree):
        for number in range(rounds):
            target = tree.parent / f"copy{number}"
            changed += copied(tree, target)["changed"]
            found |= contents(target)
    return found, changed


def test_a_copy_holds_nothing_of_outside(tree: Path) -> None:
    found, changed = race(tree, 150)
    print(f"150 copies of a tree that was changed meanwhile, {changed} changes seen")
    assert found <= {b"inside", b""}, "a file that has just been made is empty"
    assert changed > 0, "the race was on"


def test_without_nofollow_it_would(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: with the walls' first line taken away it does."""
    for name in ("_FOLDER", "_SOURCE"):
        monkeypatch.setattr(copier, name, getattr(copier, name) & ~os.O_NOFOLLOW)
    found: set[bytes] = set()
    for number in range(40):  # how soon depends on the host
        part = tree.parent / f"round{number}"
        part.mkdir()
        os.rename(tree, part / "tree")
        os.rename(tree.parent / "outside", part / "outside")
        found |= race(part / "tree", 50)[0]
        os.rename(part / "tree", tree)
        os.rename(part / "outside", tree.parent / "outside")
        if CANARY in found:
            break
    assert CANARY in found


def test_a_comparison_tells_nothing_of_outside(tree: Path, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    lower.mkdir()
    sizes = set()
    with swapping(tree):
        for _ in range(100):
            over, under = os.open(tree, FOLDER), os.open(lower, FOLDER)
            page = Comparison(over, under, b"", 10_000).run()
            os.close(over)
            os.close(under)
            sizes |= {one["size"] for one in page["changes"] if one["type"] == "file"}
    assert sizes <= {len(b"inside"), 0}
    assert len(CANARY) not in sizes


def copied_within(tree: Path, target: Path, bounds: Bounds) -> str:
    """Why it was refused."""
    target.mkdir()
    source, copy = os.open(tree, FOLDER), os.open(target, FOLDER)
    try:
        with pytest.raises(Refused) as caught:
            Copier(source, copy, bounds).run()
    finally:
        os.close(source)
        os.close(copy)
    return str(caught.value.reason)


def test_bounds(tree: Path, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number, (bounds, reason) in enumerate(
        (
            (_BOUNDS._replace(max_entries=20), "entries"),
            (_BOUNDS._replace(max_bytes=20), "bytes"),
            (_BOUNDS._replace(reserve=1 << 60), "no_space"),
        )
    ):
        assert copied_within(tree, tmp_path / f"bounded{number}", bounds) == reason
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tree_that_is_too_deep(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    here = os.open(top, FOLDER)
    for _ in range(copier.DEPTH + 10):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", FOLDER, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert copied_within(top, tmp_path / "copy", _BOUNDS) == "depth"


ROUTES: tuple[tuple[str, str, object], ...] = (
    ("GET", "/snapshots/{}", None),
    ("DELETE", "/snapshots/{}", None),
    ("GET", "/snapshots/{}/diff", None),
    ("GET", "/snapshots/{}/export?format=oci", None),
    ("GET", "/snapshots/{}/export?format=tar", None),
)


def test_another_owner_finds_no_snapshot(daemon_factory: DaemonFactory) -> None:
    """Two owners × every route that names a snapshot."""
    daemon = daemon_factory()
    made = daemon.nsbox_on_state("keys", "create", "--owner", "eve", "hers")
    assert made.returncode == 0, made
    with daemon.api() as api, daemon.api(made.stdout.strip()) as other:
        sandbox = api.create()
        snapshot = api.request("POST", f"/sandboxes/{sandbox}/snapshots").json["id"]
        assert other.request("GET", "/snapshots").json == []
        for method, path, body in ROUTES:
            answer = other.request(method, path.format(snapshot), body)
            assert (answer.status, answer.code) == (404, "snapshot_not_found"), (method, path)
        assert other.request("POST", "/sandboxes", {"snapshot": snapshot}).code == "snapshot_not_found"
        assert api.request("GET", f"/snapshots/{snapshot}").status == 200
