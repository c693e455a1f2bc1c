"""How much a tree takes up, on real trees."""

from __future__ import annotations

import os
from pathlib import Path

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


def test_a_tree_that_is_too_deep_is_told_as_such(tmp_path: Path) -> None:
    """It could hide anything: whoever watches takes it for too much."""
    at = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(300):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    assert not measure(tmp_path).whole
