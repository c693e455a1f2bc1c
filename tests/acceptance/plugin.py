"""The fixture ``figure``, and the table at the end of a run. ``tests/conftest.py`` takes both in."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, Protocol

import pytest

from tests.acceptance.rows import parts_of
from tests.acceptance.table import PROPERTY, Figure, Outcome, table

_OUTCOMES: Final = pytest.StashKey[list[Outcome]]()


class Say(Protocol):
    """Give a figure of a row; a bad one fails the test. ``part`` where the row has several. What is
    ``measured`` is named with its unit: ``seconds=1.5``."""

    def __call__(self, row: int, part: str = "", *, tried: int, bad: int = 0, **measured: float) -> None: ...


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Say:
    mine = parts_of(_plain(request.node.nodeid))

    def say(row: int, part: str = "", *, tried: int, bad: int = 0, **measured: float) -> None:
        assert (row, part) in mine, f"tests/acceptance/rows.py does not name this test for {(row, part)}"
        one = Figure(row, part, tried, bad, {name: round(value, 3) for name, value in measured.items()})
        request.node.user_properties.append((PROPERTY, one.as_text()))
        print(f"acceptance row {row}{f', {part}' if part else ''}: tried {tried}, bad {bad} {measured or ''}")
        assert tried > 0, f"row {row}: nothing was tried"
        assert bad == 0, f"row {row}: {bad} of {tried} are bad"

    return say


def _plain(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def _figures(report: pytest.TestReport) -> tuple[Figure, ...]:
    return tuple(Figure.of_text(str(value)) for name, value in report.user_properties if name == PROPERTY)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test of the list that gave no figure has failed: nobody could tell that it looked at anything."""
    report = yield
    said = {(one.row, one.part) for one in _figures(report)}
    missing = parts_of(_plain(item.nodeid)) - said
    if report.when == "call" and report.passed and missing:
        report.outcome = "failed"
        report.longrepr = f"tests/acceptance/rows.py wants a figure of this test for {sorted(missing)}"
    outcomes = item.config.stash.setdefault(_OUTCOMES, [])
    if parts_of(_plain(item.nodeid)) and (report.when == "call" or not report.passed):
        outcomes.append(Outcome(_plain(item.nodeid), report.outcome, _why(report), _figures(report)))
    return report


def _why(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return ""


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    shown = list(table(config.stash.get(_OUTCOMES, [])))
    if shown:
        terminalreporter.section("acceptance list")
        for line in shown:
            terminalreporter.line(line)
