from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.oci.challenge import Challenge, chosen, parse
from nsbox.oci.credentials import Credentials, from_files, from_setting


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def written(folder: Path, content: Any, name: str = "auth.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_as_docker_writes_it(tmp_path: Path) -> None:
    auths = {
        "https://index.docker.io/v1/": {"auth": b64("ann:hub")},
        "ghcr.io": {"auth": b64("ann:p:w")},
        "https://old.example/v2/": {"username": "bob", "password": "x"},
        "azure.example": {"auth": b64("0000:"), "identitytoken": "t"},
        "empty.example": {},
        "broken.example": {"auth": "%%"},
    }
    path = written(tmp_path, {"auths": auths, "HttpHeaders": {"X": "y"}})

    def found(registry: str) -> Credentials | None:
        return from_files([path], registry, "a/b")

    assert found("docker.io") == Credentials("ann", "hub")
    assert found("ghcr.io") == Credentials("ann", "p:w")
    assert found("old.example") == Credentials("bob", "x")
    token = found("azure.example")
    assert token is not None
    assert token.identity_token == "t"
    for none in ("empty.example", "broken.example", "other.example", "evil-ghcr.io", "ghcr.io.evil"):
        assert found(none) is None, none


def test_as_podman_writes_it(tmp_path: Path) -> None:
    """The longest name wins, by whole parts of the path."""
    names = {"r.example": "all", "r.example/a": "a", "r.example/a/b": "ab"}
    path = written(tmp_path, {"auths": {name: {"auth": b64(f"u:{pw}")} for name, pw in names.items()}})
    for repository, password in (("a/b", "ab"), ("a/c", "a"), ("a", "a"), ("ab", "all"), ("c", "all")):
        found = from_files([path], "r.example", repository)
        assert found is not None
        assert found.password == password


def test_the_first_file_that_knows(tmp_path: Path) -> None:
    first = written(tmp_path, {"auths": {"a.example": {"auth": b64("u:1")}}}, "1")
    second = written(tmp_path, {"auths": {"a.example": {"auth": b64("u:2")}, "b": {"auth": b64("u:2")}}}, "2")
    paths = [str(tmp_path / "none"), first, second]
    assert from_files(paths, "a.example", "x") == Credentials("u", "1")
    assert from_files(paths, "b", "x") == Credentials("u", "2")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"auths": 5}', '{"auths": {"a": []}}', "s3cret"])
def test_a_file_that_is_none_is_told_without_its_contents(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert from_files([written(tmp_path, content)], "a", "b") is None
    assert "no" in caplog.text
    assert "s3cret" not in caplog.text


def test_helpers_are_not_started(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, {"credsStore": "desktop", "credHelpers": {"a.example": "gcr"}})
    with caplog.at_level(logging.WARNING):
        assert from_files([path], "a.example", "b") is None
    assert "helper" in caplog.text


def test_a_password_in_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, "p w\n")
    assert from_setting("ann", path) == Credentials("ann", "p w")
    assert from_setting("", path) is None
    assert from_setting("ann", str(tmp_path / "none")) is None


# ---- challenges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a:pull"',
            [Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull"})],
        ),
        ("Basic realm=x", [Challenge("basic", {"realm": "x"})]),
        ('Basic realm="a \\"b\\" c"', [Challenge("basic", {"realm": 'a "b" c'})]),
        ('BEARER Realm = "x"', [Challenge("bearer", {"realm": "x"})]),
        (
            'Basic realm="x", Bearer realm="y", service=z',
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y", "service": "z"})],
        ),
        ("Negotiate", [Challenge("negotiate", {})]),
        ("", []),
        ('"', []),
    ],
)
def test_challenges(header: str, expected: list[Challenge]) -> None:
    assert parse(header) == expected


def test_a_token_rather_than_the_password() -> None:
    found = chosen(['Basic realm="x"', 'Bearer realm="y"'])
    assert found is not None
    assert found.scheme == "bearer"
    assert chosen(["Negotiate"]) is None
    assert chosen([]) is None


@given(st.text(max_size=60))
def test_any_header_is_read(text: str) -> None:
    for one in parse(text):
        assert one.scheme == one.scheme.lower()


@given(st.text(alphabet='aB=",\\ \t', max_size=40))
def test_near_misses(text: str) -> None:
    parse(text)
