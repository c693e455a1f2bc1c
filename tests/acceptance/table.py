"""What came of the acceptance list, as a table. Standard library only: ``tests/host`` prints it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from tests.acceptance.rows import ROWS, Part, Row, parts_of

#: The name under which figures stand among a test's properties, in memory and in its XML.
PROPERTY: Final = "acceptance"


class Verdict(StrEnum):
    """What is known of a part of the list. ``PARTLY``: what ran held; the rest was skipped or left out."""

    HELD = "held"
    PARTLY = "held in part"
    FAILED = "FAILED"
    SKIPPED = "skipped"
    NOT_RUN = "not run"


class Figure(NamedTuple):
    """What one test says of a part: how much was tried, how much of it was bad, and what else it measured.
    Of several tests' measures the highest counts."""

    row: int
    part: str
    tried: int
    bad: int
    measured: Mapping[str, float]

    def as_text(self) -> str:
        return json.dumps([self.row, self.part, self.tried, self.bad, dict(self.measured)])

    @classmethod
    def of_text(cls, text: str) -> Figure:
        return cls(*json.loads(text))


class Outcome(NamedTuple):
    """One test: its id, ``passed``, ``failed`` or ``skipped``, why it was skipped, and what it said."""

    test: str
    result: str
    why: str = ""
    figures: tuple[Figure, ...] = ()


class Line(NamedTuple):
    row: Row
    part: Part
    figure: str
    verdict: Verdict
    why: str = ""


def lines(outcomes: Iterable[Outcome]) -> Iterator[Line]:
    """One for each part of each row, whether something of it was run or not."""
    found = list(outcomes)
    for row in ROWS:
        for part in row.parts:
            ours = [one for one in found if (row.number, part.name) in parts_of(one.test)]
            said = [
                figure
                for one in ours
                for figure in one.figures
                if (figure.row, figure.part) == (row.number, part.name)
            ]
            verdict, why = _verdict(part, ours, said)
            yield Line(row, part, _figure(part, said), verdict, why)


def _verdict(part: Part, ours: list[Outcome], said: list[Figure]) -> tuple[Verdict, str]:
    if any(one.result == "failed" for one in ours) or any(figure.bad for figure in said):
        return Verdict.FAILED, ""
    reasons = ", ".join(dict.fromkeys(one.why for one in ours if one.result == "skipped"))
    passed = {one.test.partition("[")[0] for one in ours if one.result == "passed"}
    if not passed:
        return (Verdict.SKIPPED, reasons) if reasons else (Verdict.NOT_RUN, "")
    missing = len(set(part.tests) - passed)
    if missing or reasons:
        return Verdict.PARTLY, reasons or f"{missing} of {len(part.tests)} tests were not run"
    return Verdict.HELD, ""


def _figure(part: Part, said: list[Figure]) -> str:
    if not said:
        return ""
    measured: dict[str, float] = {}
    for figure in said:
        for name, value in figure.measured.items():
            measured[name] = max(value, measured.get(name, value))
    shown = [f"{name.replace('_', ' ')} {value:,.10g}" for name, value in measured.items()]
    tried, bad = sum(one.tried for one in said), sum(one.bad for one in said)
    return ", ".join([f"{tried:,} {part.tried}", f"{part.bad} = {bad}", *shown])


def table(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Lines of text for a person; nothing if no test of the list was chosen."""
    rows = list(lines(outcomes))
    if all(one.verdict is Verdict.NOT_RUN for one in rows):
        return
    names = [one.row.name + (f": {one.part.name}" if one.part.name else "") for one in rows]
    wide, figures = max(map(len, names)), max(len(one.figure) for one in rows)
    yield f"{'row':>3}  {'tried':{wide}}  {'figure':{figures}}  verdict"
    for name, one in zip(names, rows, strict=True):
        why = f": {one.why}" if one.why else ""
        yield f"{one.row.number:3}  {name:{wide}}  {one.figure:{figures}}  {one.verdict}{why}"
    counted = [sum(one.verdict is verdict for one in rows) for verdict in Verdict]
    yield ", ".join(f"{count} {verdict}" for count, verdict in zip(counted, Verdict, strict=True) if count)
