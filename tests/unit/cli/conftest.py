"""A fake `nsbox serve` for the commands that start a daemon of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from nsbox.cli import private


class FakeServe:
    """What the fake was asked, in order."""

    def __init__(self, log: Path, state_dir: Path) -> None:
        self._log = log
        self.state_dir = state_dir

    @property
    def lines(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def fake_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], FakeServe]:
    """``fake_serve(mode)``: from now on a private daemon is the fake in that mode."""

    def command(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        program = str(Path(__file__).with_name("fake_daemon.py"))
        return [sys.executable, "-I", program, *arguments], dict(environment)

    def use(mode: str) -> FakeServe:
        monkeypatch.setenv("FAKE_MODE", mode)
        monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
        monkeypatch.setenv("NSBOX_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.delenv("NSBOX_URL", raising=False)
        monkeypatch.delenv("NSBOX_API_KEY", raising=False)
        monkeypatch.setattr(private, "self_command", command)
        return FakeServe(tmp_path / "log", tmp_path / "state")

    return use
