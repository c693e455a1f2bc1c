from __future__ import annotations

import re

from nsbox.model.errors import Code, HostProblem, Problem


def test_codes_are_stable_names() -> None:
    for code in Code:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code.value)
        assert code.name == code.value.upper()


def test_a_problem_keeps_its_parts() -> None:
    problem = Problem(Code.NO_SPACE, "full", field="path", remedy="delete something", limit=5)
    assert (problem.code, problem.detail, problem.field, problem.remedy) == (
        Code.NO_SPACE, "full", "path", "delete something",
    )  # fmt: skip
    assert problem.facts == {"limit": 5}
    assert str(problem) == "full"


def test_a_host_problem_shows_its_remedy() -> None:
    assert str(HostProblem("no", remedy="apt-get install x")) == "no\n  remedy: apt-get install x"
    assert str(HostProblem("no")) == "no"
