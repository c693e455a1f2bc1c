from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.kernel import trees
from tests.fuzz.descriptors import none_leaked

NOBODY = 65_534


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Something outside that must live, with a name that the trees link to."""
    path = tmp_path / "canary"
    path.mkdir()
    (path / "alive").write_bytes(b"x")
    yield path
    assert os.listdir(path) == ["alive"]


def remove(folder: Path, name: str) -> None:
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with none_leaked():
            trees.remove_tree(parent, name)
    finally:
        os.close(parent)


def make_deep(folder: Path, levels: int) -> None:
    """By descriptor, as the path would be longer than PATH_MAX; a file and a link at each level."""
    here = os.open(folder, os.O_RDONLY)
    for level in range(levels):
        os.mkdir("d", dir_fd=here)
        if level % 50 == 0:
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
            os.symlink("/etc", "l", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_five_thousand_levels(tmp_path: Path, canary: Path) -> None:
    """With few descriptors and no deep recursion: rmtree gives up at a fifth of this."""
    (tmp_path / "t").mkdir()
    make_deep(tmp_path / "t", 5_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))
    try:
        remove(tmp_path, "t")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(tmp_path) == ["canary"]


def test_twenty_thousand_entries(tmp_path: Path, canary: Path) -> None:
    (tmp_path / "t").mkdir()
    inside = os.open(tmp_path / "t", os.O_RDONLY)
    (tmp_path / "t/0").write_bytes(b"")
    for number in range(1, 20_000):
        os.symlink("../canary", str(number), dir_fd=inside)
    os.close(inside)
    remove(tmp_path, "t")
    assert os.listdir(tmp_path) == ["canary"]


@pytest.mark.parametrize("levels", [62, 63, 64, 65, 66, 127, 128, 129])
def test_about_the_depth_where_subtrees_are_moved(tmp_path: Path, levels: int) -> None:
    (tmp_path / "t").mkdir()
    make_deep(tmp_path / "t", levels)
    remove(tmp_path, "t")
    assert os.listdir(tmp_path) == []


def test_links_to_outside_are_removed_and_not_followed(tmp_path: Path, canary: Path) -> None:
    (tmp_path / "t/d").mkdir(parents=True)
    (tmp_path / "t/absolute").symlink_to(canary)
    (tmp_path / "t/d/relative").symlink_to("../../canary")
    (tmp_path / "t/d/file").symlink_to(canary / "alive")
    os.link(canary / "alive", tmp_path / "t/d/hard")
    remove(tmp_path, "t")
    (tmp_path / "top").symlink_to("canary")
    remove(tmp_path, "top")
    assert os.listdir(tmp_path) == ["canary"]


def test_special_files_and_names_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    os.mkfifo(tmp_path / "t/fifo")
    os.mkdir(os.fsencode(tmp_path) + b"/t/\xff\n")
    os.close(os.open(os.fsencode(tmp_path) + b"/t/\xff\n/\xfe", os.O_CREAT))
    remove(tmp_path, "t")
    assert os.listdir(tmp_path) == []


def test_a_single_file_and_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    remove(tmp_path, "f")
    with pytest.raises(FileNotFoundError):
        remove(tmp_path, "f")


def test_names_like_those_it_gives_are_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant might know how subtrees are named that are moved up; names are drawn anew each time."""
    (tmp_path / "t").mkdir()
    make_deep(tmp_path / "t", 200)
    for number in range(5):
        (tmp_path / f"t/.nsbox-moved-{os.getpid()}-{number}/full").mkdir(parents=True)
    seen = []
    real = os.rename

    def rename(source: str, target: str, **where: Any) -> None:
        seen.append(target)
        real(source, target, **where)

    monkeypatch.setattr(trees.os, "rename", rename)
    remove(tmp_path, "t")
    assert os.listdir(tmp_path) == []
    assert len(set(seen)) == len(seen) >= 3


def in_child(work: Callable[[], None]) -> int:
    """``work`` in a fork, for what only an ordinary user shows; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def as_nobody(tmp_path: Path) -> Callable[[Callable[[], None]], int]:
    """Runs work as a user whom permissions bind. Root passes them all."""
    if os.geteuid():
        return in_child
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and not folder.stat().st_mode & 0o001:
            if str(folder).startswith("/tmp/pytest-of"):
                folder.chmod(0o711)
            else:
                pytest.skip(f"{folder} cannot be entered by others")
    os.chown(tmp_path, NOBODY, NOBODY)

    def run(work: Callable[[], None]) -> int:
        def become_and_work() -> None:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()

        return in_child(become_and_work)

    return run


def test_directories_without_any_permission(
    tmp_path: Path, as_nobody: Callable[[Callable[[], None]], int]
) -> None:
    """As overlayfs leaves its work folder."""

    def work() -> None:
        for path in ("t/work/inner", "t/other"):
            os.makedirs(tmp_path / path)
            (tmp_path / path / "f").write_bytes(b"")
        for path in ("t/work/inner", "t/work", "t/other", "t"):
            os.chmod(tmp_path / path, 0)
        remove(tmp_path, "t")

    assert as_nobody(work) == 0
    assert os.listdir(tmp_path) == []


def test_what_may_not_be_removed_is_told_and_the_rest_is_gone(
    tmp_path: Path, as_nobody: Callable[[Callable[[], None]], int]
) -> None:
    """Also what lies too deep and had been moved up already."""

    def work() -> None:
        for path in ("t/0deep", "t/a/locked", "t/z"):
            os.makedirs(tmp_path / path)
        (tmp_path / "t/a/locked/f").write_bytes(b"")
        (tmp_path / "t/z/f").write_bytes(b"")
        make_deep(tmp_path / "t/0deep", 200)
        os.chmod(tmp_path / "t/a/locked", 0o500)
        with pytest.raises(PermissionError):
            remove(tmp_path, "t")

    assert as_nobody(work) == 0
    left = sorted(
        os.path.relpath(os.path.join(path, name), tmp_path)
        for path, folders, names in os.walk(tmp_path)
        for name in folders + names
    )
    assert left == ["t", "t/a", "t/a/locked", "t/a/locked/f"]


def _fill(folder: str, started: Any) -> None:
    number = 0
    while True:
        number += 1
        try:
            os.makedirs(f"{folder}/d{number % 7}/e")
        except FileExistsError:
            pass
        except FileNotFoundError:
            if not os.path.isdir(folder):
                return
        try:
            open(f"{folder}/d{number % 5}/f{number}", "w").close()
            open(f"{folder}/f{number}", "w").close()
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.isdir(folder):
                return
        if number == 50:
            started.set()


def test_while_somebody_keeps_adding(tmp_path: Path, canary: Path) -> None:
    """It comes to an end, either with all gone or with "not empty", and can be asked again."""
    (tmp_path / "t").mkdir()
    context = multiprocessing.get_context("fork")
    started = context.Event()
    child = context.Process(target=_fill, args=(str(tmp_path / "t"), started))
    child.start()
    try:
        assert started.wait(10)
        for _ in range(5):
            try:
                remove(tmp_path, "t")
            except OSError:
                continue
            break
    finally:
        child.kill()
        child.join()
    if (tmp_path / "t").exists():
        remove(tmp_path, "t")
    assert os.listdir(tmp_path) == ["canary"]


#: A tree as nested dictionaries; None is a file, a string a symlink to it.
entries = st.recursive(
    st.none() | st.sampled_from(["..", "/etc", "../canary", "a", "/"]),
    lambda inner: st.dictionaries(st.sampled_from("abcdefgh"), inner, max_size=5),
    max_leaves=30,
)


def build(path: Path, what: Any) -> None:
    if what is None:
        path.write_bytes(b"")
    elif isinstance(what, str):
        path.symlink_to(what)
    else:
        path.mkdir()
        for name, inner in what.items():
            build(path / name, inner)


@given(entries, st.integers(1, 3))
def test_any_tree(tmp_path_factory: pytest.TempPathFactory, what: Any, depth: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "trees"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "canary/alive").mkdir(parents=True)
    build(folder / "t", what)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "_DEPTH", depth)  # so that small trees are deep
        remove(folder, "t")
    assert os.listdir(folder) == ["canary"]
    assert os.listdir(folder / "canary") == ["alive"]
