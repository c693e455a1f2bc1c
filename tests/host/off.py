"""Each defence taken out of the installed nsbox in turn, and its tests run: they must fail."""

from __future__ import annotations

import shlex
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tests.host import install, suites
from tests.host.defences import DEFENCES, Defence
from tests.host.machine import Machine
from tests.host.words import say

ALL = "all"
#: For the tests of one defence. Without a limit some run until a time-out of their own.
_LIMIT_S = 600.0
#: Replaces a line of a file once; its status says when the line is not there.
_REPLACE = (
    "import sys; path, old, new = sys.argv[1:]; text = open(path).read(); "
    "assert text.count(old) == 1; open(path, 'w').write(text.replace(old, new))"
)


class Outcome(StrEnum):
    """What one test said to a defence that was off."""

    FAILED = "failed"
    PASSED = "passed"
    SKIPPED = "was skipped"
    BROKE = "broke before it could tell"


class Verdict(StrEnum):
    """What that says of the tests of one defence."""

    NOTICED = "noticed"
    NOT_NOTICED = "NOT NOTICED"
    NOT_TRIED = "not tried: this machine can run none of its tests"


class Bite(NamedTuple):
    """What became of one defence's tests."""

    name: str
    tests: tuple[tuple[str, Outcome], ...]

    @property
    def verdict(self) -> Verdict:
        """One test at least must fail, and none may pass. One that is skipped says nothing."""
        said = {outcome for _, outcome in self.tests}
        if said == {Outcome.SKIPPED}:
            return Verdict.NOT_TRIED
        noticed = Outcome.FAILED in said and not said & {Outcome.PASSED, Outcome.BROKE}
        return Verdict.NOTICED if noticed else Verdict.NOT_NOTICED


def chosen(names: Sequence[str]) -> Sequence[Defence]:
    return [one for one in DEFENCES if ALL in names or one.name in names]


def run_each(machine: Machine, names: Sequence[str], results: Path, deadline: float) -> Iterator[Bite]:
    """In the ordinary user's installation, which is the one that tests of limits use."""
    (suite,) = (one for one in suites.SUITES if one.name == "limits")
    for defence in chosen(names):
        left = deadline - time.monotonic()
        if left < 1:
            yield Bite(defence.name, ())
            continue
        path = f"{install.USER_SITE}/nsbox/{defence.file}"
        kept = "/tmp/defence-kept"
        words = shlex.join([path, defence.old, defence.new])
        machine.user.check(f"cp {path} {kept} && {install.USER_PYTHON} -c {shlex.quote(_REPLACE)} {words}")
        named = suite._replace(name=f"off-{defence.name}")
        say(f"without {defence.name}, these must fail:")
        try:
            suites.run(machine, named, defence.tests, short=False, limit=min(left, _LIMIT_S))
        finally:
            machine.user.check(f"mv {kept} {path}")
        machine.root.get(suites.RESULTS, results)
        yield Bite(defence.name, tuple(_outcomes(results / f"{named.name}.xml")))


def _outcomes(file: Path) -> Iterator[tuple[str, Outcome]]:
    if not file.exists():
        return
    for case in ET.parse(file).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None:
            yield name, Outcome.FAILED
        elif case.find("error") is not None:
            yield name, Outcome.BROKE
        elif case.find("skipped") is not None:
            yield name, Outcome.SKIPPED
        else:
            yield name, Outcome.PASSED


def summary(bites: Sequence[Bite]) -> Iterator[str]:
    """Lines for a person; the last is for a program, too."""
    for one in bites:
        yield f"without {one.name}: {one.verdict}"
        yield from (f"  {outcome}: {name}" for name, outcome in one.tests)
    noticed, missed, untried = (sum(one.verdict is verdict for one in bites) for verdict in Verdict)
    yield f"{len(bites)} defences off: {noticed} noticed, {missed} not noticed, {untried} not tried"
