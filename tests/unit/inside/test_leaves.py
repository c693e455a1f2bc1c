"""Leaf cgroups on a plain folder, whose files a test writes as the kernel would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbox.inside.leaves import Leaves


@pytest.fixture
def leaves(tmp_path: Path) -> Iterator[Leaves]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    made = Leaves(gives_memory=False)
    made.use(descriptor)
    yield made
    os.close(descriptor)


def make(leaves: Leaves) -> str:
    name, descriptor = leaves.make()
    assert descriptor is not None
    os.close(descriptor)
    return name


def test_each_is_new_and_removed_when_it_is_empty(leaves: Leaves, tmp_path: Path) -> None:
    one, two = make(leaves), make(leaves)
    assert sorted(os.listdir(tmp_path)) == sorted([one, two])
    (tmp_path / one / "somebody").write_text("")  # a folder that is not empty, as a leaf in use, stays
    leaves.discard(one)
    leaves.discard(two)
    assert os.listdir(tmp_path) == [one]
    os.unlink(tmp_path / one / "somebody")
    leaves.discard("")
    assert os.listdir(tmp_path) == []


def test_one_that_is_gone_is_no_error(leaves: Leaves, tmp_path: Path) -> None:
    os.rmdir(tmp_path / make(leaves))
    leaves.discard("c1")
    assert leaves._stale == []


@pytest.mark.parametrize(
    ("content", "alone"), [("42\n", True), ("42\n43\n", False), ("", False), ("4\n", False)]
)
def test_who_is_alone(leaves: Leaves, tmp_path: Path, content: str, alone: bool) -> None:
    name = make(leaves)
    (tmp_path / name / "cgroup.procs").write_text(content)
    assert leaves.holds_only(name, 42) is alone


def test_kill(leaves: Leaves, tmp_path: Path) -> None:
    name = make(leaves)
    (tmp_path / name / "cgroup.kill").write_text("")
    leaves.kill(name)
    assert (tmp_path / name / "cgroup.kill").read_text() == "1"


def test_lack_of_memory_is_told_of_the_leaf_it_was_in(leaves: Leaves, tmp_path: Path) -> None:
    name, other = make(leaves), make(leaves)
    assert not leaves.oom_killed(name)
    for leaf, kills in ((name, 2), (other, 0)):
        (tmp_path / leaf / "memory.events").write_text(f"low 0\noom 3\noom_kill {kills}\noom_group_kill 1\n")
    assert leaves.oom_killed(name)
    assert not leaves.oom_killed(other)
    assert not leaves.oom_killed("gone")


def test_with_memory_init_has_a_leaf_and_leaves_go_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel would make of it is seen in tests/limits; here, what is written, and in which order:
    no controllers for children while a process stands above them."""
    written: list[tuple[str, bytes]] = []
    monkeypatch.setattr(Leaves, "_write", lambda self, path, data: written.append((path, data)))
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    counted = Leaves(gives_memory=True)
    counted.use(descriptor)
    name = make(counted)
    assert written == [
        ("init/cgroup.procs", b"0"),
        ("cgroup.subtree_control", b"+memory"),
        (f"{name}/memory.oom.group", b"1"),
    ]
    assert (tmp_path / "init").is_dir()
    os.close(descriptor)


def test_where_there_are_none() -> None:
    leaves = Leaves(gives_memory=True)
    assert leaves.make() == ("", None)
    assert leaves.holds_only("", 1)
    assert not leaves.oom_killed("")
    leaves.discard("")
