from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nsbox.cli import contexts
from nsbox.cli.contexts import Context, Contexts, chosen, file_of, load, save
from nsbox.model.errors import HostProblem

KEY = "nsbox_the-key-of-somebody"
KNOWN = Contexts("home", {"home": Context("http://h:1", KEY), "work": Context("https://w", KEY)})


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    made = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    save(file_of(made), KNOWN)
    return made


def test_where_it_is() -> None:
    assert file_of({"HOME": "/h"}) == "/h/.config/nsbox/contexts.json"
    assert file_of({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == "/c/nsbox/contexts.json"


def test_what_is_kept_is_for_nobody_else(environment: dict[str, str]) -> None:
    path = file_of(environment)
    assert load(path) == KNOWN
    old = os.umask(0)
    try:
        save(path, KNOWN)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) & 0o077 == 0
    assert os.listdir(os.path.dirname(path)) == ["contexts.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_file_that_others_can_get_at_is_refused(environment: dict[str, str], mode: int) -> None:
    path = file_of(environment)
    os.chmod(path, mode)
    with pytest.raises(HostProblem, match="others may read it") as told:
        chosen(environment)
    assert f"chmod 600 {path}" in str(told.value)


def test_a_file_of_somebody_else_is_refused(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(HostProblem, match="belongs to somebody else"):
        load(file_of(environment))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(HostProblem, match="is no file"):
            load(str(path))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"contexts": {"a": {"url": "nsbox_the-key-of-somebody"}}}', b"\xff"]
)
def test_a_damaged_file_is_told_without_what_is_in_it(environment: dict[str, str], data: bytes) -> None:
    path = Path(file_of(environment))
    path.write_bytes(data)
    with pytest.raises(HostProblem, match="is damaged") as told:
        chosen(environment)
    assert KEY not in repr(told.value) + str(told.value)


def test_a_home_that_is_not_ours_has_no_contexts_for_us(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the service user with root's HOME."""

    def refused(*unused: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    assert contexts.named(environment) is None


def test_which_one_is_meant(environment: dict[str, str]) -> None:
    assert chosen(environment) == KNOWN.contexts["home"]
    assert chosen(environment, "work") == KNOWN.contexts["work"]
    assert chosen({**environment, "NSBOX_CONTEXT": "work"}) == KNOWN.contexts["work"]
    told = {**environment, "NSBOX_URL": "http://e", "NSBOX_API_KEY": "k"}
    assert chosen(told) == Context("http://e", "k")
    assert chosen({**told, "NSBOX_CONTEXT": "work"}) == Context("http://e", "k")
    assert chosen(told, "work") == KNOWN.contexts["work"]
    with pytest.raises(HostProblem, match="no context 'other'"):
        chosen(environment, "other")


@pytest.mark.parametrize("half", [{"NSBOX_URL": "http://other"}, {"NSBOX_API_KEY": "k"}])
def test_half_a_pair_is_never_made_whole(environment: dict[str, str], half: dict[str, str]) -> None:
    with pytest.raises(HostProblem, match="is set and"):
        chosen({**environment, **half})


def test_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(HostProblem, match="no daemon is named") as told:
        chosen({"XDG_CONFIG_HOME": str(tmp_path)})
    assert "nsbox context add" in str(told.value)


@pytest.mark.parametrize(
    "made", [Context("h:1", KEY), Context("http://u:p@h", KEY), Context("http://h", "a b")]
)
def test_what_cannot_be_used_is_told_without_the_key(made: Context) -> None:
    with pytest.raises(HostProblem) as told:
        contexts.checked(made)
    assert made.key not in str(told.value)
    assert KEY not in repr(Contexts(None, {"a": Context("http://h", KEY)}))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(HostProblem, match="cannot be written"):
        save(str(tmp_path / "f" / "contexts.json"), KNOWN)
