from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nsbox.cli import keys as command
from nsbox.cli import record
from nsbox.store.keyring import KeyRing


@pytest.fixture(autouse=True)
def no_choice_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NSBOX_STATE_DIR", "NSBOX_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(record, "SYSTEM_STATE_DIR", str(tmp_path / "no such service"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command.keys, arguments)


def test_a_key_works_until_it_is_revoked(tmp_path: Path) -> None:
    state_dir = str(tmp_path / "state")
    made = run("create", "laptop", "--state-dir", state_dir)
    assert made.exit_code == 0
    plaintext = made.stdout.strip()
    assert made.stdout == plaintext + "\n", "the key alone is on stdout"
    ring = KeyRing(state_dir)
    caller = ring.find(plaintext)
    assert caller is not None
    assert caller.user.name == "admin"
    listed = run("list", "--state-dir", state_dir).stdout
    assert caller.key.id in listed
    assert "laptop" in listed
    assert plaintext not in listed
    assert run("revoke", caller.key.id, "--state-dir", state_dir).exit_code == 0
    assert ring.find(plaintext) is None
    ring.close()


def test_owner(tmp_path: Path) -> None:
    state_dir = str(tmp_path)
    plaintext = run("create", "x", "--owner", "bob", "--state-dir", state_dir).stdout.strip()
    ring = KeyRing(state_dir)
    caller = ring.find(plaintext)
    ring.close()
    assert caller is not None
    assert (caller.user.name, caller.user.role) == ("bob", "user")


def test_unknown_key(tmp_path: Path) -> None:
    result = run("revoke", "key_none", "--state-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "no key has the id key_none" in result.stderr


def test_bad_name(tmp_path: Path) -> None:
    result = run("create", "", "--state-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "1 to 64" in result.stderr


def test_the_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 12_345)
    result = run("create", "x", "--state-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "belongs to the user" in result.stderr
    assert "sudo -u" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_installed_service_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = tmp_path / "service"
    service.mkdir()
    monkeypatch.setattr(record, "SYSTEM_STATE_DIR", str(service))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    assert run("create", "x").exit_code == 0
    assert (service / "nsbox.db").exists()
    monkeypatch.setenv("NSBOX_STATE_DIR", str(tmp_path / "chosen"))
    assert run("create", "x").exit_code == 0
    assert (tmp_path / "chosen" / "nsbox.db").exists()
