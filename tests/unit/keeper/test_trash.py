from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsbox.keeper import layout, trash
from nsbox.keeper.trash import Sweeper


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in layout.FOLDERS:
        os.mkdir(folder)
    return tmp_path


@pytest.fixture
def sweeper() -> Iterator[Sweeper]:
    """One whose child the test does not start."""
    made = Sweeper()
    reader, made._wake = os.pipe2(os.O_NONBLOCK)
    yield made
    assert os.read(reader, 100)  # it was woken
    os.close(reader)
    os.close(made._wake)


def make(name: str) -> str:
    os.makedirs(f"sandboxes/{name}/upper")
    return f"sandboxes/{name}"


def test_out_of_the_way_at_once(state: Path, sweeper: Sweeper) -> None:
    sweeper.discard(make("sb_1"))
    sweeper.discard(make("sb_1"))  # a second of that name
    sweeper.discard("sandboxes/never")
    assert os.listdir("sandboxes") == []
    assert len(os.listdir("trash")) == 2


def test_a_full_disk_ends_nothing_and_is_tried_again(
    state: Path, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """keeper's end would be that of every sandbox."""
    real = os.rename

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(trash.os, "rename", full)
        sweeper.discard(make("sb_1"))
        sweeper.discard(make("sb_2"))
    assert "cannot move sandboxes/sb_1 away" in capfd.readouterr().err
    assert os.rename is real
    sweeper.discard(make("sb_3"))
    assert os.listdir("sandboxes") == []
    assert len(os.listdir("trash")) == 3


def test_what_cannot_be_deleted_does_not_stop_the_rest(state: Path, capfd: Any) -> None:
    (state / "trash/a").mkdir()
    descriptor = os.open("trash", os.O_RDONLY)
    try:
        trash._remove(descriptor, "missing")
        trash._remove(descriptor, "a")
    finally:
        os.close(descriptor)
    assert "cannot delete trash/missing" in capfd.readouterr().err
    assert os.listdir("trash") == []
