from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsbox.host import cgroups, facts
from nsbox.host.cgroups import Delegation
from nsbox.kernel.cgroup import CONTROLLERS, Cgroup
from nsbox.model.errors import HostProblem

ALL = tuple(CONTROLLERS.values())


def test_all_limits_or_a_way_out() -> None:
    cgroups.require(Delegation(None, ALL))
    with pytest.raises(HostProblem, match="vcpus, memoryMb") as caught:
        cgroups.require(Delegation(None, ("pids",)))
    assert caught.value.remedy
    assert "best-effort" in caught.value.remedy


def test_leftovers_are_removed_and_the_living_kept(tmp_path: Path) -> None:
    nobody = 4_194_305  # one more than a pid can be
    starting = f"nsbox-ann-{os.getpid()}"  # empty, and its daemon lives
    for name, populated in ((f"nsbox-{nobody}", 0), (f"nsbox-ann-{nobody}", 1), (starting, 0), ("other", 0)):
        (tmp_path / name / "daemon").mkdir(parents=True)
        (tmp_path / name / "cgroup.events").write_text(f"populated {populated}\n")
    removed = []
    real = Cgroup.remove

    def remove(self: Cgroup) -> bool:
        removed.append(os.path.basename(self.path))
        os.unlink(os.path.join(self.path, "cgroup.events"))  # a cgroup's files go by themselves
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cgroup, "remove", remove)
        cgroups._remove_stale(Cgroup(str(tmp_path)))
    assert removed == [f"nsbox-{nobody}"]
    assert set(os.listdir(tmp_path)) == {f"nsbox-ann-{nobody}", starting, "other"}


def test_what_is_to_be_had_is_enabled(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    assert cgroups._enable_all(Cgroup(str(tmp_path))) == ["cpu", "pids", "io"]


def test_a_controller_that_is_refused_does_not_take_the_others_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")

    def enable(self: Cgroup, names: list[str]) -> None:
        if names == ["memory"]:
            raise OSError(16, "busy")

    monkeypatch.setattr(Cgroup, "enable", enable)
    assert cgroups._enable_all(Cgroup(str(tmp_path))) == ["cpu", "pids"]


class Here:
    """What facts.cgroup says."""

    def __init__(self, folder: str | None, delegated: bool, controllers: tuple[str, ...]) -> None:
        self.folder, self.delegated, self.controllers = folder, delegated, controllers


class Systemd:
    user_manager = True


@pytest.mark.parametrize(
    ("delegated", "controllers", "environment", "asks"),
    [
        (True, ALL, {}, False),
        (True, ("pids",), {}, True),
        (False, (), {}, True),
        (False, (), {"NSBOX_IN_SCOPE": "1"}, False),  # it asked already, and this is what it got
    ],
)
def test_when_systemd_is_asked(
    monkeypatch: pytest.MonkeyPatch,
    delegated: bool,
    controllers: tuple[str, ...],
    environment: dict[str, str],
    asks: bool,
) -> None:
    monkeypatch.setattr(facts, "cgroup", lambda: Here("/x", delegated, controllers))
    monkeypatch.setattr(cgroups.shutil, "which", lambda name: f"/usr/bin/{name}")
    command = cgroups.scope_command(["nsbox", "serve"], environment, Systemd())  # type: ignore[arg-type]
    assert (command is not None) is asks
    if command is not None:
        assert command[:2] == ["systemd-run", "--user"]
        assert "Delegate=yes" in command
        assert command[-3:] == ["NSBOX_IN_SCOPE=1", "nsbox", "serve"]


def test_without_systemd_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "cgroup", lambda: Here("/x", False, ()))
    monkeypatch.setattr(cgroups.shutil, "which", lambda name: None)
    assert cgroups.scope_command(["x"], {}, Systemd()) is None  # type: ignore[arg-type]


def test_prepare_moves_to_a_leaf_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cgroup with processes cannot give controllers to its children."""
    order: list[str] = []
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    monkeypatch.setattr(facts, "cgroup", lambda: Here(str(tmp_path), True, ("cpu", "pids")))

    def create(self: Cgroup) -> None:
        os.mkdir(self.path)
        Path(self.path, "cgroup.procs").write_text("")
        Path(self.path, "cgroup.controllers").write_text("cpu pids\n")

    monkeypatch.setattr(Cgroup, "create", create)
    monkeypatch.setattr(
        Cgroup,
        "enable",
        lambda self, names: order.append(f"{os.path.relpath(self.path, tmp_path)} {names[0]}"),
    )
    got = cgroups.prepare()
    own = f"nsbox-{os.getpid()}"
    assert got.cgroup is not None
    assert os.path.relpath(got.cgroup.path, tmp_path) == own
    assert got.controllers == ("cpu", "pids")
    assert (tmp_path / own / "daemon/cgroup.procs").read_text().strip() == str(os.getpid())
    assert order == [". cpu", ". pids", f"{own} cpu", f"{own} pids"]


def test_nothing_is_delegated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "cgroup", lambda: Here(None, False, ()))
    assert cgroups.prepare() == Delegation(None, ())
