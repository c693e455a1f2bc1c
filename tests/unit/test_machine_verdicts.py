"""What the test host makes of the results that come out of its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host import off, suites
from tests.host.off import Outcome, Verdict
from tests.host.suites import Suite

SUITE = Suite("limits", suites.Account.USER, "tests/limits")


def results(folder: Path, name: str, **cases: str) -> Path:
    """A file as pytest writes it; a case's value is the element in it, or nothing."""
    head = '<testcase classname="tests.limits.test_x" time="1"'
    inner = "".join(
        f'{head} name="{case}">{f"<{what}/>" if what else ""}</testcase>' for case, what in cases.items()
    )
    (folder / f"{name}.xml").write_text(f"<testsuites><testsuite>{inner}</testsuite></testsuites>")
    return folder


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([Outcome.FAILED, Outcome.FAILED], Verdict.NOTICED),
        ([Outcome.FAILED, Outcome.SKIPPED], Verdict.NOTICED),
        ([Outcome.FAILED, Outcome.PASSED], Verdict.NOT_NOTICED),
        ([Outcome.FAILED, Outcome.BROKE], Verdict.NOT_NOTICED),
        ([Outcome.SKIPPED], Verdict.NOT_TRIED),
        ([], Verdict.NOT_NOTICED),  # out of time, or pytest did not start
    ],
)
def test_a_defence_is_noticed_by_failures_alone(outcomes: list[Outcome], verdict: Verdict) -> None:
    assert off.Bite("x", tuple((f"{n}", one) for n, one in enumerate(outcomes))).verdict is verdict


def test_results_that_are_missing_are_a_failure(tmp_path: Path) -> None:
    assert suites.verdict(SUITE, tmp_path, 0).failed == 1


def test_figures_are_repeated(tmp_path: Path) -> None:
    text = "--------------- Captured Out ---------------\n64 MiB: 63.98 MiB could be written\n"
    (tmp_path / "limits.xml").write_text(
        f'<testsuite><testcase name="test_it"><system-out>{text}</system-out></testcase></testsuite>'
    )
    found = suites.verdict(SUITE._replace(figures=True), tmp_path, 0)
    assert "  figure test_it: 64 MiB: 63.98 MiB could be written" in [*suites.summary([found])]
    assert suites.verdict(SUITE, tmp_path, 0).figures == ()


def test_the_machines_part_of_the_acceptance_list_is_printed(tmp_path: Path) -> None:
    """From what the fixture wrote into the results, as pytest writes it; the last line stays the last."""
    said = "[10, &quot;fork bomb&quot;, 509, 0, {}]"
    where = 'classname="tests.limits.test_processes" name="test_processes_end_at_the_limit"'
    (tmp_path / "limits.xml").write_text(
        f'<testsuite><testcase {where}><properties><property name="acceptance" value="{said}"/></properties>'
        "</testcase></testsuite>"
    )
    *told, last = suites.summary([suites.verdict(SUITE, tmp_path, 0)])
    (row,) = [one for one in told if "fork bomb" in one]
    assert "509 processes, left = 0" in row
    assert "held in part: 1 of 2 tests were not run" in row
    assert last == "1 passed, 0 failed, 0 skipped"


def test_a_status_that_no_test_explains_is_a_failure(tmp_path: Path) -> None:
    found = suites.verdict(SUITE, results(tmp_path, "limits", one=""), 3)
    assert (found.passed, found.failed) == (1, 1)


class Machine:
    """Runs nothing: each ``run`` of a suite puts the next results where ``get`` would."""

    def __init__(self, folder: Path, **cases: str) -> None:
        self.folder, self.cases = folder, cases
        self.lines: list[str] = []
        self.root = self.user = self

    def run(self, line: str, *, limit: float) -> int:
        self.lines.append(line)
        return 1 if "failure" in self.cases.values() else 0

    def get(self, source: str, target: Path) -> None:
        results(target, "limits-again", **self.cases)


def once_more(folder: Path, **cases: str) -> tuple[suites.Verdict, str]:
    found = suites.verdict(SUITE, results(folder, "limits", one="failure", two="failure", three=""), 1)
    assert (found.passed, found.failed) == (1, 2)
    machine = Machine(folder, **cases)
    after = suites.retry(machine, SUITE, found, folder, limit=10)  # type: ignore[arg-type]
    return after, machine.lines[0]


def test_what_passes_at_the_second_try_is_told(tmp_path: Path) -> None:
    found, line = once_more(tmp_path, one="", two="failure")
    assert "tests/limits/test_x.py::one tests/limits/test_x.py::two" in line
    assert (found.passed, found.failed) == (2, 1)
    assert found.flaked == ("tests.limits.test_x::one",)
    said = [*suites.summary([found])]
    assert said[-1] == "2 passed, 1 failed, 0 skipped, 1 flaked"
    assert any(line.startswith("flaked tests.limits.test_x::one") for line in said)
    assert "FAILED tests.limits.test_x::two" in said


def test_a_second_try_that_loses_a_test_changes_nothing(tmp_path: Path) -> None:
    found, _ = once_more(tmp_path, one="")
    assert (found.failed, found.flaked) == (2, ())


def test_a_test_that_is_skipped_then_has_not_passed(tmp_path: Path) -> None:
    found, _ = once_more(tmp_path, one="", two="skipped")
    assert (found.failed, found.flaked) == (2, ())
