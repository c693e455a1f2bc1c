from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api.problems import TABLE
from nsbox.host.box import Refusal
from nsbox.model.errors import Code, Problem
from nsbox.service import refusals
from nsbox.wire.messages import Refused, Stage

STAGES = [stage.value for stage in Stage]
ERRNOS = sorted(errno.errorcode)


def refused(stage: str, number: int, detail: str = "why") -> Refusal:
    return Refusal(Refused("k", stage, number, detail))


@pytest.mark.parametrize("stage", STAGES)
def test_every_refusal_has_a_code_and_a_sentence(stage: str) -> None:
    for number in (0, *ERRNOS):
        for problem in (
            refusals.of_file(refused(stage, number), "/f"),
            refusals.of_command(refused(stage, number)),
        ):
            assert problem.code in TABLE
            assert TABLE[problem.code].status < 500
            assert problem.detail


@given(st.text(max_size=20), st.integers(-(1 << 63), 1 << 62), st.text(max_size=50))
def test_whatever_a_sandbox_makes_up(stage: str, number: int, detail: str) -> None:
    for make in (
        lambda: refusals.of_file(refused(stage, number, detail), "/f"),
        lambda: refusals.of_command(refused(stage, number, detail)),
    ):
        assert isinstance(make(), Problem)


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        ("path", errno.ENOENT, Code.FILE_NOT_FOUND),
        ("path", errno.ENOTDIR, Code.NOT_A_DIRECTORY),
        ("type", errno.EISDIR, Code.IS_A_DIRECTORY),
        ("type", errno.EINVAL, Code.NOT_A_REGULAR_FILE),
        ("path", errno.EINVAL, Code.INVALID_FIELD),
        ("path", errno.ENAMETOOLONG, Code.INVALID_FIELD),
        ("path", errno.ENOTEMPTY, Code.DIRECTORY_NOT_EMPTY),
        ("path", errno.EACCES, Code.PERMISSION_DENIED),
        ("path", errno.EPERM, Code.PERMISSION_DENIED),
        ("path", errno.EROFS, Code.READ_ONLY),
        ("path", errno.ENOSPC, Code.NO_SPACE),
        ("path", errno.EDQUOT, Code.NO_SPACE),
        ("path", errno.ELOOP, Code.TOO_MANY_LINKS),
        ("fork", errno.EAGAIN, Code.SANDBOX_EXHAUSTED),
    ],
)
def test_files(stage: str, number: int, code: Code) -> None:
    assert refusals.of_file(refused(stage, number), "/f").code is code


@pytest.mark.parametrize(
    ("stage", "code", "field"),
    [
        ("user", Code.INVALID_FIELD, "user"),
        ("cwd", Code.INVALID_FIELD, "cwd"),
        ("fork", Code.SANDBOX_EXHAUSTED, None),
        ("made up", Code.SANDBOX_EXHAUSTED, None),
    ],
)
def test_commands(stage: str, code: Code, field: str | None) -> None:
    problem = refusals.of_command(refused(stage, 1))
    assert (problem.code, problem.field) == (code, field)


def test_errors_that_say_nothing_of_the_kind_of_file() -> None:
    """A client that asked for a regular file is told that it is none."""
    codes = {
        refusals.of_file(refused("path", number), "/f").code
        for number in (errno.EIO, errno.EMFILE, errno.ENOMEM)
    }
    assert Code.NOT_A_REGULAR_FILE not in codes


def check(make: Callable[[Refusal], Problem]) -> None:
    assert make(refused("cwd", 2)).remedy


def test_a_missing_folder_has_a_remedy() -> None:
    check(refusals.of_command)
