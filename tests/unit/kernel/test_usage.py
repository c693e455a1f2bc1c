"""How much a tree takes up, on real trees."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from nsbox.kernel import usage


def measure(path: Path) -> usage.Usage:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = len(os.listdir("/proc/self/fd"))
        found = usage.measure(descriptor)
        assert len(os.listdir("/proc/self/fd")) == before
        return found
    finally:
        os.close(descriptor)


def test_files_folders_and_links_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_bytes(b"x" * 300_000)
    (tmp_path / "a/b/link").symlink_to("/nowhere")
    found = measure(tmp_path)
    assert (found.inodes, found.whole) == (4, True)
    assert 300_000 <= found.size <= 400_000


def test_a_file_with_several_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 300_000)
    os.link(tmp_path / "one", tmp_path / "two")
    found = measure(tmp_path)
    assert found.inodes == 1
    assert found.size < 400_000


def test_holes_take_nothing(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert measure(tmp_path).size < 1 << 20


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/usr")
    assert measure(tmp_path).inodes == 1


def chain(top: Path, depth: int) -> int:
    """The lowest of so many directories, each in the one before, with a file in it."""
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    return at


@pytest.mark.parametrize("depth", [62, 63, 64, 65, 66, 1000])
def test_a_tree_of_any_depth_is_counted_with_few_descriptors(tmp_path: Path, depth: int) -> None:
    (tmp_path / "z").mkdir()
    for name in ("a", "z/b"):
        (tmp_path / name).mkdir()
        os.close(chain(tmp_path / name, depth))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 80, limits[1]))
    try:
        assert measure(tmp_path)[1:] == (3 + 2 * (depth + 1), True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        # What pytest clears up with, three runs later, recurses: a RecursionError at the end of that run.
        subprocess.run(["rm", "-rf", tmp_path / "a", tmp_path / "z"], check=True)


def test_who_moves_directories_meanwhile_leads_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way up would go through the new place's parents, and on above the top."""
    top, outside = tmp_path / "top", tmp_path / "outside"
    top.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"x" * 100_000)
    lowest = chain(top, 200)
    looked = usage._look
    depth = 0

    def look(directory: int, linked: set[int]) -> tuple[usage.Usage, list[str]]:
        nonlocal depth
        depth += 1
        if depth == 180:
            middle = top.joinpath(*["d"] * 100)
            middle.rename(outside / "moved")
        return looked(directory, linked)

    monkeypatch.setattr(usage, "_look", look)
    found = measure(top)
    os.close(lowest)
    assert not found.whole
    assert found.size < 200 * 4096 + 100_000
