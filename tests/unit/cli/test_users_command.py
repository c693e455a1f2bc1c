from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nsbox.cli import keys as keys_command
from nsbox.cli import record
from nsbox.cli import users as users_command
from nsbox.model.account import Scope
from nsbox.store.keyring import KeyRing
from nsbox.store.keys import KeyTable


@pytest.fixture(autouse=True)
def no_choice_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NSBOX_CONFIG", raising=False)
    monkeypatch.setenv("NSBOX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(record, "SYSTEM_STATE_DIR", str(tmp_path / "no such service"))


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(str(tmp_path / "state"))


def users(*arguments: str) -> Result:
    return CliRunner().invoke(users_command.users, arguments)


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(keys_command.keys, arguments)


def out(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_a_plan_that_nobody_knows_is_refused(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = out(users("create", "ann"))
    for command in (("set", "ann", "--plan", "gold"), ("create", "bob", "--plan", "gold")):
        told = users(*command)
        assert told.exit_code != 0
        assert "no plan 'gold'" in told.output
        assert "free, pro, unlimited" in told.output
        assert "NSBOX_CONFIG" in told.output
    assert ring.plan_of(ann) == ""
    assert "bob" not in out(users("list"))
    config = tmp_path / "nsbox.toml"
    config.write_text("[plans.gold]\nsandboxes = 3\n")
    monkeypatch.setenv("NSBOX_CONFIG", str(config))
    out(users("set", "ann", "--plan", "gold"))
    assert ring.plan_of(ann) == "gold"


def test_a_users_life(ring: KeyRing) -> None:
    ann = out(users("create", "ann"))
    assert ann.startswith("us_")
    key = out(keys("create", "laptop", "--user", "ann", "--scope", "files", "--scope", "read-only"))
    found = ring.find(key)
    assert found is not None
    assert (found.user.id, found.key.scopes) == (ann, (Scope.FILES, Scope.READ_ONLY))
    assert "ann" in out(users("list"))
    shown = out(users("show", ann))
    assert "1 in force" in shown
    assert "0 alive" in shown
    out(users("set", "ann", "--role", "admin", "--plan", "pro", "--name", "anna"))
    user = ring.user(ann)
    assert user is not None
    assert (user.name, user.role, user.plan) == ("anna", "admin", "pro")
    assert ring.plan_of(ann) == "pro"
    out(users("set", "anna", "--plan", ""))
    assert (ring.plan_of(ann), ring.plan_of("us_none")) == ("", "")
    out(users("disable", "anna"))
    assert ring.find(key) is None
    out(users("enable", ann))
    assert ring.find(key) is not None
    out(users("remove", ann))
    assert ring.find(key) is None
    assert ring.user(ann) is None
    ring.close()


def test_who_does_not_exist() -> None:
    for result in (
        users("show", "nobody"),
        users("remove", "nobody"),
        keys("create", "x", "--user", "nobody"),
        keys("list", "--user", "nobody"),
        keys("revoke", "--user", "nobody"),
    ):
        assert result.exit_code == 1
        assert "no user is called nobody" in result.stderr
        assert "nsbox users create" in result.stderr
    assert "KEY" in out(keys("list"))


def test_a_name_is_taken() -> None:
    out(users("create", "ann"))
    assert "called ann already" in users("create", "ann").stderr
    out(users("create", "bob"))
    assert "called ann already" in users("set", "bob", "--name", "ann").stderr
    assert "printable" in users("create", "").stderr


def test_who_has_something_is_not_removed(tmp_path: Path) -> None:
    ann = out(users("create", "ann"))
    with KeyTable(str(tmp_path / "state")) as table:
        table.connection.execute("INSERT INTO snapshots VALUES ('sn_1', ?, 1, x'00')", (ann,))
    result = users("remove", "ann")
    assert result.exit_code == 1
    assert "1 snapshots" in result.stderr
    assert ann in out(users("list"))


def test_expiry_and_scopes_are_listed(ring: KeyRing) -> None:
    key = out(keys("create", "short", "--expires", "30d", "--scope", "sandboxes"))
    found = ring.find(key)
    ring.close()
    assert found is not None
    assert found.key.expires_at is not None
    assert found.key.expires_at - found.key.created_at == pytest.approx(30 * 86_400, abs=5)
    out(keys("create", "dated", "--expires", "2999-01-31T12:00Z"))
    listed = out(keys("list"))
    assert "2999-01-31 12:00:00Z" in listed
    assert "sandboxes,files,images,admin" in listed
    for wrong in ("soon", "30", "2001-01-01", "1y"):
        assert keys("create", "x", "--expires", wrong).exit_code == 2
    assert keys("create", "x", "--scope", "all").exit_code == 2
    out(users("create", "ann"))
    assert "administrators" in keys("create", "x", "--user", "ann", "--scope", "admin").stderr


def test_all_keys_of_a_user_are_revoked(ring: KeyRing) -> None:
    out(users("create", "ann"))
    hers = [out(keys("create", name, "--user", "ann")) for name in ("a", "b")]
    mine = out(keys("create", "mine"))
    told = out(keys("revoke", "--user", "ann"))
    assert len(told.splitlines()) == 2
    assert [ring.find(key) for key in hers] == [None, None]
    assert ring.find(mine) is not None
    assert keys("revoke").exit_code == 2
    listed = out(keys("list", "--user", "ann"))
    assert "mine" not in listed
    ring.close()
