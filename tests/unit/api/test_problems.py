from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api import problems
from nsbox.api.problems import TABLE, tell
from nsbox.model.errors import Code, HostProblem, Problem

DOCS = Path(__file__).parents[3] / "docs" / "errors.md"


def test_the_table_is_total() -> None:
    assert set(TABLE) == set(Code)
    assert all(400 <= row.status < 600 for row in TABLE.values())


def test_the_page_is_the_table() -> None:
    assert DOCS.read_text() == problems.page(), "run: python -m nsbox.api.problems > docs/errors.md"


@pytest.mark.parametrize("code", Code)
def test_every_code_is_told(code: Code) -> None:
    told = tell(Problem(code, "what", field="vcpus", remedy="do", minimum=1, status="a fact of that name"))
    assert told.status == TABLE[code].status
    document = json.loads(told.body)
    assert document == {
        "type": f"urn:nsbox:problem:{code.value}",
        "title": TABLE[code].title,
        "status": told.status,
        "detail": "what",
        "code": code.value,
        "field": "vcpus",
        "remedy": "do",
        "minimum": 1,
    }
    assert dict(told.headers)[b"content-type"] == b"application/problem+json"


def test_headers_that_a_status_needs() -> None:
    assert dict(tell(Problem(Code.MISSING_KEY, "")).headers)[b"www-authenticate"] == b'Bearer realm="nsbox"'
    assert b"invalid_token" in dict(tell(Problem(Code.INVALID_KEY, "")).headers)[b"www-authenticate"]
    assert dict(tell(Problem(Code.METHOD_NOT_ALLOWED, "", allowed=["GET"])).headers)[b"allow"] == b"GET"
    assert (
        dict(tell(Problem(Code.RANGE_NOT_SATISFIABLE, "", size=3)).headers)[b"content-range"] == b"bytes */3"
    )


def test_the_unforeseen_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        told = tell(RuntimeError("the secret"))
    assert told.status == 500
    assert b"secret" not in told.body
    incident = json.loads(told.body)["incident"]
    assert incident in caplog.text
    assert "the secret" in caplog.text


def test_what_the_host_lacks_is_for_the_operator(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        told = tell(HostProblem("no space in /var/lib/nsbox"))
    assert told.status == 503
    assert b"/var/lib" not in told.body
    assert "/var/lib" in caplog.text


def test_a_problem_inside_groups_is_found() -> None:
    error = ExceptionGroup("a", [ValueError(), ExceptionGroup("b", [Problem(Code.FILE_NOT_FOUND, "x")])])
    assert tell(error).status == 404


@given(st.text(st.characters(), max_size=50))
def test_any_sentence_can_be_told(text: str) -> None:
    told = tell(Problem(Code.FILE_NOT_FOUND, text + "\ud800" * 3, field=text, remedy=text, path=text))
    assert json.loads(told.body)["code"] == "file_not_found"


def test_a_long_sentence_is_cut() -> None:
    assert len(tell(Problem(Code.FILE_NOT_FOUND, "x" * 100_000)).body) < 2_000


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EMFILE, "too many"), Code.HOST_LACKS),
        (OSError(errno.ENOSPC, "full"), Code.HOST_LACKS),
        (ExceptionGroup("", [ValueError(), OSError(errno.EIO, "broken")]), Code.HOST_LACKS),
        (MemoryError(), Code.HOST_LACKS),
        (OSError(errno.ENOENT, "gone"), Code.INTERNAL),
        (ValueError(), Code.INTERNAL),
    ],
    ids=repr,
)
def test_what_the_host_is_short_of_is_no_fault_of_ours(error: Exception, code: Code) -> None:
    told = tell(error)
    assert json.loads(told.body)["code"] == code.value
    assert b"too many" not in told.body
