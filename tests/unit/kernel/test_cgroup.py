"""cgroup v2 on a plain folder: what is written where, and how what the kernel would write is read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nsbox.kernel.cgroup import CONTROLLERS, CPU_PERIOD_US, Cgroup


@pytest.fixture
def cgroup(tmp_path: Path) -> Cgroup:
    for name, content in {
        "cgroup.controllers": "cpuset cpu io memory pids\n",
        "cgroup.subtree_control": "",
        "cgroup.procs": "12\n345\n",
        "cgroup.threads": "",
        "cgroup.events": "populated 1\nfrozen 0\n",
        "cgroup.freeze": "0\n",
        "cgroup.kill": "",
        "cgroup.max.descendants": "max\n",
        "cpu.max": "max 100000\n",
        "cpu.stat": "usage_usec 5\nuser_usec 3\n",
        "memory.max": "max\n",
        "memory.swap.max": "0\n",
        "memory.current": "4096\n",
        "memory.events": "low 0\noom_kill 2\n",
        "pids.max": "max\n",
        "pids.current": "7\n",
    }.items():
        (tmp_path / name).write_text(content)
    return Cgroup(str(tmp_path))


def text(cgroup: Cgroup, name: str) -> str:
    with open(os.path.join(cgroup.path, name), encoding="ascii") as file:
        return file.read().strip()


def test_what_is_read(cgroup: Cgroup) -> None:
    files = cgroup.files
    assert list(files.controllers) == ["cpuset", "cpu", "io", "memory", "pids"]
    assert list(files.processes) == [12, 345]
    assert (files.cpu_max, files.memory_max, files.pids_max, files.max_descendants) == (None,) * 4
    assert (files.memory_swap_max, files.memory_current, files.pids_current) == (0, 4096, 7)
    assert files.cpu_stat["usage_usec"] == 5
    assert files.memory_events["oom_kill"] == 2


@pytest.mark.parametrize("name", ["memory_max", "memory_swap_max", "pids_max", "max_descendants"])
@pytest.mark.parametrize(("value", "written"), [(None, "max"), (0, "0"), (1 << 40, "1099511627776")])
def test_limits(cgroup: Cgroup, name: str, value: int | None, written: str) -> None:
    setattr(cgroup.files, name, value)
    path = {"max_descendants": "cgroup.max.descendants", "memory_swap_max": "memory.swap.max"}
    assert text(cgroup, path.get(name, name.replace("_", "."))) == written
    assert getattr(cgroup.files, name) == value


@pytest.mark.parametrize(("value", "written"), [(None, "max"), (250_000, "250000")])
def test_processor_time(cgroup: Cgroup, value: int | None, written: str) -> None:
    cgroup.files.cpu_max = value
    assert text(cgroup, "cpu.max") == f"{written} {CPU_PERIOD_US}"
    assert cgroup.files.cpu_max == value


def test_freeze(cgroup: Cgroup) -> None:
    cgroup.files.freeze = True
    assert text(cgroup, "cgroup.freeze") == "1"
    assert cgroup.files.freeze
    cgroup.files.freeze = False
    assert text(cgroup, "cgroup.freeze") == "0"


@pytest.mark.parametrize("name", ["events", "cpu_stat", "memory_current", "memory_events", "pids_current"])
def test_what_cannot_be_written(cgroup: Cgroup, name: str) -> None:
    with pytest.raises(RuntimeError):
        setattr(cgroup.files, name, 1)


def test_populated(cgroup: Cgroup, tmp_path: Path) -> None:
    assert cgroup.populated()
    (tmp_path / "cgroup.events").write_text("populated 0\nfrozen 1\n")
    assert not cgroup.populated()
    assert not cgroup.child("gone").populated()


def test_kill_and_one_that_is_gone(cgroup: Cgroup) -> None:
    cgroup.kill()
    assert text(cgroup, "cgroup.kill") == "1"


def test_create_open_and_again(cgroup: Cgroup) -> None:
    child = cgroup.child("box-1")
    child.create()
    child.create()
    descriptor = child.open()
    try:
        assert not os.get_inheritable(descriptor)
        assert os.path.samestat(os.fstat(descriptor), os.stat(child.path))
    finally:
        os.close(descriptor)


def test_controllers_are_enabled_one_by_one(cgroup: Cgroup, tmp_path: Path) -> None:
    """One write each: the kernel takes all of a write or nothing."""
    os.unlink(tmp_path / "cgroup.subtree_control")
    os.mkfifo(tmp_path / "cgroup.subtree_control")
    reader = os.open(tmp_path / "cgroup.subtree_control", os.O_RDONLY | os.O_NONBLOCK)
    try:
        cgroup.enable(["cpu", "pids"])
        assert os.read(reader, 100) == b"+cpu+pids"
    finally:
        os.close(reader)


def test_delegation_gives_three_files_and_the_folder(cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(
        os, "chown", lambda path, uid, gid: given.append((os.path.relpath(path, cgroup.path), uid, gid))
    )
    cgroup.delegate(5, 6)
    names = {".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}
    assert given == [
        (name, 5, 6) for name in (".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control")
    ]
    assert {name for name, _, _ in given} == names  # the limits stay their owner's


def test_remove_takes_children_first(tmp_path: Path) -> None:
    for path in ("box/a/b", "box/c"):
        (tmp_path / path).mkdir(parents=True)
    assert Cgroup(str(tmp_path / "box")).remove()
    assert os.listdir(tmp_path) == []
    assert Cgroup(str(tmp_path / "box")).remove()


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM])
def test_remove_waits_for_the_last_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "box").mkdir()

    def busy(path: str) -> None:
        raise OSError(number, "x")

    monkeypatch.setattr(os, "rmdir", busy)
    if number == errno.EBUSY:
        assert not Cgroup(str(tmp_path / "box")).remove()
    else:
        with pytest.raises(OSError):
            Cgroup(str(tmp_path / "box")).remove()


def test_the_limits_have_controllers() -> None:
    assert CONTROLLERS == {"vcpus": "cpu", "memoryMb": "memory", "pids": "pids"}
