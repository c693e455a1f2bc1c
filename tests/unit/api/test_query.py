from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote_from_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api import query
from nsbox.model.errors import Code, Problem

KNOWN = frozenset({"path", "list"})


@given(st.binary())
def test_any_bytes_survive_percent_encoding(value: bytes) -> None:
    assert query.parse(b"path=" + quote_from_bytes(value, safe="/").encode(), KNOWN) == {"path": value}


@given(st.text(st.characters(codec="utf-8")))
def test_forms_are_read_as_browsers_write_them(text: str) -> None:
    assert query.parse(urlencode({"path": text}).encode(), KNOWN) == {"path": text.encode()}


@given(st.binary())
def test_any_query_is_read_or_refused(raw: bytes) -> None:
    with suppress(Problem):  # anything else escapes
        assert set(query.parse(raw, KNOWN)) <= KNOWN


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"path=/a&path=/b", "path"),
        (b"path=/a&%70ath=/b", "path"),
        (b"paths=/a", "paths"),
        (b"=x", ""),
        (b"path=%", "path"),
        (b"path=%zz", "path"),
        (b"path=%4", "path"),
        (b"%ff=1", "\ufffd"),
    ],
)
def test_bad_queries(raw: bytes, field: str) -> None:
    with pytest.raises(Problem) as caught:
        query.parse(raw, KNOWN)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_REQUEST, field)


def test_empty_pairs_are_nothing() -> None:
    assert query.parse(b"&&path=%2Fa%2Bb+c&", KNOWN) == {"path": b"/a+b c"}
    assert query.parse(b"", KNOWN) == {}
    assert query.parse(b"list", KNOWN) == {"list": b""}


@pytest.mark.parametrize("path", [b"/", b"/a/../b", b"/\xff", b"/" + b"a" * 255, b"/a" * 2047 + b"/"])
def test_good_paths(path: bytes) -> None:
    assert query.path_of({"path": path}) == path


@pytest.mark.parametrize(
    "path", [b"", b"a", b"./a", b"~", b"/a\0", b"\0", b"/" + b"a" * 256, b"/a" * 2048, b"/" * 4096]
)
def test_bad_paths(path: bytes) -> None:
    with pytest.raises(Problem) as caught:
        query.path_of({"path": path})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "path")


def test_no_path() -> None:
    with pytest.raises(Problem, match="missing"):
        query.path_of({})


def test_flags() -> None:
    assert [query.flag(q, "list") for q in ({}, {"list": b"true"}, {"list": b"false"})] == [
        False,
        True,
        False,
    ]
    for value in (b"", b"1", b"TRUE", b"yes"):
        with pytest.raises(Problem, match="true or false"):
            query.flag({"list": value}, "list")


@pytest.mark.parametrize(("text", "number"), [("0644", 0o644), ("755", 0o755), ("0", 0), ("4755", 0o4755)])
def test_modes(text: str, number: int) -> None:
    assert query.mode(text) == number


@pytest.mark.parametrize("text", ["", "0o644", "899", "-1", "077777", " 644", "rw-r--r--", "٦٤٤"])
def test_bad_modes(text: str) -> None:
    with pytest.raises(Problem, match="octal"):
        query.mode(text)
