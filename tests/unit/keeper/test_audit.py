"""What belongs to no box, on folders that look like a state folder and a cgroup tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsbox.keeper import layout
from nsbox.keeper.audit import Audit
from nsbox.kernel.cgroup import Cgroup


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in layout.FOLDERS:
        (tmp_path / folder).mkdir()
    (tmp_path / "cgroup").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/keeper.sock").touch()
    return tmp_path


class _World:
    def __init__(self, state: Path) -> None:
        self.audit, self.discarded = Audit(), list[str]()
        self.delegated: Cgroup | None = Cgroup(str(state / "cgroup"))

    def look(self, names: list[str], ids: list[str]) -> tuple[str, ...]:
        cgroups = [self.delegated.child(name).path for name in names] if self.delegated else []
        findings, self.removed = self.audit.look(names, ids, cgroups, self.delegated, self.discarded.append)
        return findings


def _box(state: Path, name: str, sandbox_id: str = "") -> None:
    (state / f"run/{name}.sock").touch()
    (state / f"cgroup/{name}").mkdir()
    if sandbox_id:
        (state / f"run/{sandbox_id}.sock").touch()
        (state / f"sandboxes/{sandbox_id}").mkdir()


def test_what_is_a_boxs_stays(state: Path) -> None:
    world = _World(state)
    _box(state, "box-1", "sb_a")
    _box(state, "box-2")
    (state / "cgroup/daemon").mkdir()
    (state / "run/other").touch()
    for _ in range(3):
        assert world.look(["box-1", "box-2"], ["sb_a"]) == ()
    assert world.discarded == []


def test_a_stray_goes_when_it_was_seen_twice(state: Path) -> None:
    world = _World(state)
    _box(state, "box-1", "sb_a")
    assert world.look([], []) == ()
    assert world.look([], []) == (
        "stray_cgroup box-1",
        "stray_folder sb_a",
        "stray_socket box-1.sock",
        "stray_socket sb_a.sock",
    )
    assert world.discarded == ["sandboxes/sb_a"]
    assert [os.path.basename(one.path) for one in world.removed] == ["box-1"]
    assert os.listdir("run") == ["keeper.sock"]


def test_a_folder_that_is_ordered_meanwhile_stays(state: Path) -> None:
    """api makes it, and orders the sandbox then."""
    world = _World(state)
    (state / "sandboxes/sb_new").mkdir()
    assert world.look([], []) == ()
    assert world.look([], ["sb_new"]) == ()
    assert world.look([], []) == ()  # seen for the first time again
    assert world.look([], []) == ("stray_folder sb_new",)


def test_without_a_cgroup(state: Path) -> None:
    world = _World(state)
    world.delegated = None
    assert (world.look([], []), world.look([], [])) == ((), ())
