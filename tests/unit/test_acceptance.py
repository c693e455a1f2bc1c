"""The acceptance list is whole: its rows, their tests and defences; and its table tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.page import PAGE, PROMISES, written
from tests.acceptance.rows import ROWS, Row, named
from tests.acceptance.table import Figure, Outcome, Verdict, lines, table
from tests.host.defences import DEFENCES as OF_MACHINE
from tests.security.defences import DEFENCES, listed

TOP = Path(__file__).parents[2]
NEIGHBOURS = "tests/limits/test_neighbours.py::test_another_waits_no_more_than_twice_as_long"


def test_all_rows_are_there() -> None:
    assert [row.number for row in ROWS] == list(range(1, 19))


@pytest.mark.parametrize("test", named())
def test_each_test_is_there_and_says_a_figure(test: str) -> None:
    file, _, name = test.partition("::")
    found = re.search(rf"^(?:async )?def {name}\((.*?)\n(?=\S|\Z)", _text(file), re.MULTILINE | re.DOTALL)
    assert found, test
    assert "figure: Say" in found[1]


def _text(file: str) -> str:
    return (TOP / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_each_row_has_a_defence_that_a_test_of_it_misses(row: Row) -> None:
    """That what they take out is there: ``test_defences.py`` and ``test_machine_defences.py``."""
    assert row.defences
    known = {one.name: one.tests for one in DEFENCES} | {f"host:{one.name}": one.tests for one in OF_MACHINE}
    mine = [one for part in row.parts for one in part.tests]
    for name in row.defences:
        noticing = [one.partition("[")[0] for one in known[name]]
        assert any(test.startswith(one) for one in noticing for test in mine), name


def test_the_list_of_defences_has_all_of_them() -> None:
    told = "\n".join(listed())
    assert all(one.name.replace("'", "'\"'\"'") in told or one.name in told for one in DEFENCES)


def _of(test: str, result: str, why: str = "", *figures: Figure) -> Outcome:
    return Outcome(test, result, why, figures)


def _verdicts(*outcomes: Outcome) -> dict[tuple[int, str], tuple[Verdict, str]]:
    return {(one.row.number, one.part.name): (one.verdict, one.why) for one in lines(outcomes)}


def test_what_was_not_run_is_no_success() -> None:
    assert set(_verdicts().values()) == {(Verdict.NOT_RUN, "")}
    assert list(table([])) == []


def test_verdicts() -> None:
    soak = "tests/e2e/test_soak.py::test_nothing_is_left_of_many"
    assert _verdicts(_of(soak, "passed", "", Figure(9, "", 400, 0, {})))[9, ""] == (Verdict.HELD, "")
    assert _verdicts(_of(soak, "failed"))[9, ""][0] is Verdict.FAILED
    assert _verdicts(_of(soak, "passed", "", Figure(9, "", 400, 1, {})))[9, ""][0] is Verdict.FAILED
    assert _verdicts(_of(NEIGHBOURS, "skipped", "no controllers"))[10, "neighbours"] == (
        Verdict.SKIPPED, "no controllers",
    )  # fmt: skip
    forks = "tests/e2e/test_exec.py::test_a_fork_bomb_is_bounded"
    some = _verdicts(_of(forks, "passed", "", Figure(10, "fork bomb", 300, 0, {})))
    assert some[10, "fork bomb"] == (Verdict.PARTLY, "1 of 2 tests were not run")


def test_figures_of_several_tests_are_summed_and_the_worst_measure_counts() -> None:
    bombs = "tests/security/test_unpack_bombs.py::test_within_the_caps"
    found = [
        _of(bombs, "passed", "", Figure.of_text(Figure(16, "", 1, 0, {"peak_MiB": peak}).as_text()))
        for peak in (31.5, 90.0, 40.0)
    ]
    told = next(one for one in table(found) if one.startswith(" 16"))
    assert "3 archives, beyond the caps = 0, peak MiB 90" in told


def test_the_page_of_promises_is_what_the_list_says() -> None:
    assert set(PROMISES) == {row.number for row in ROWS}
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "remedy: sh scripts/acceptance --page"


@pytest.mark.parametrize("page", ["docs/promises.md", "docs/security.md"])
def test_each_test_that_a_page_names_is_there(page: str) -> None:
    named_there = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", _text(page))
    assert len(named_there) > 30
    for file, name in named_there:
        assert not name or re.search(rf"^(?:async )?def {name}\(", _text(file), re.MULTILINE), (file, name)
