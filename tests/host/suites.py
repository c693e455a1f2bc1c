"""The tests that are run in the machine, by whom, and what came of them."""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tests.acceptance.rows import named
from tests.acceptance.table import PROPERTY, Figure, Outcome, table
from tests.host import install, qemu
from tests.host.login import TIMED_OUT
from tests.host.machine import Machine
from tests.host.supplies import CHECKOUT
from tests.host.words import say

RESULTS = "/var/tmp/results"


class Account(StrEnum):
    """Who runs a suite."""

    ROOT = "root"  # against the service, with the service's installation
    USER = "user"  # with an installation of its own


class Suite(NamedTuple):
    """A run of pytest. In CI it has the files of ``short``, all if there are none, and not the tests that
    ``slow`` names, by the beginning of their ids.

    ``scope``: in a cgroup that it owns, as tests want that make cgroups themselves. Not for tests that start
    daemons: each of those gets a scope of its own, and a cgroup with processes could give them nothing.
    ``figures``: what its tests print are measurements, which the summary repeats. ``tests``: these, and not
    all of ``path``.
    """

    name: str
    account: Account
    path: str
    slow: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    scope: bool = False
    figures: bool = False
    tests: tuple[str, ...] = ()


#: In the order in which they are run: the last one breaks the machine on purpose.
SUITES = (
    Suite("kernel", Account.USER, "tests/kernel", ("tests/kernel/test_embed_worker.py",), scope=True),
    Suite(
        "limits",
        Account.USER,
        "tests/limits",
        # Judged by milliseconds.
        slow=(
            "tests/limits/test_neighbours.py",
            # No controller, quota or systemd holds these: they run outside of the machine on every change.
            "tests/limits/test_watched.py",
            "tests/limits/test_reserve.py",
        ),
        figures=True,
    ),
    # Emulated, these take minutes; they run outside of the machine on every change.
    Suite(
        "e2e",
        Account.USER,
        "tests/e2e",
        # What test_life shows, tests/service shows of the service itself.
        short=("tests/e2e/test_sandboxes.py",),
        slow=(
            # To the second; it runs outside of the machine on every change.
            "tests/e2e/test_sandboxes.py::test_it_is_killed_on_time",
            "tests/e2e/test_life.py::test_a_hundred",
            "tests/e2e/test_soak.py::test_nothing_is_left_of_many",
            "tests/e2e/test_model.py::test_a_daemon_and_its_model",
            "tests/e2e/test_life.py::test_api_killed_at_random_under_load",
            "tests/e2e/test_files.py::test_twenty_thousand_entries",
            "tests/e2e/test_files.py::test_a_tree_that_is_too_deep_for_any_path",
            "tests/e2e/test_durable.py::test_a_flood",
            "tests/e2e/test_exec.py::test_endless_output_leaves_memory_flat",
        ),
    ),
    Suite(
        "service",
        Account.ROOT,
        "tests/service",
        slow=(
            # Whole periods of watchdogs, in seconds that an emulated machine may not have.
            "tests/service/test_unit.py::test_a_service_that_works_is_not_bitten",
            "tests/service/test_unit.py::test_a_keeper_that_hangs_is_what_the_watchdog_is_for",
            "tests/service/test_unit.py::test_an_api_that_hangs_is_replaced",
            "tests/service/test_upgrade.py::test_installing_another_wheel",
            "tests/service/test_doctor.py::test_a_host_that_has_not",
            "tests/service/test_doctor.py::test_a_controller_that_is_not_delegated[io",
            "tests/service/test_doctor.py::test_no_manager_of_ones_own",
        ),
    ),
)


#: Of the acceptance list, what only root can try: test hosts in network namespaces, api under ptrace, its
#: memory by /proc, layers that belong to sandboxes' ids.
_BY_ROOT = (
    "tests/security/test_reach.py",
    "tests/security/test_hostile_layers.py",
    "tests/security/test_unpack_bombs.py",
    "tests/e2e/test_soak.py",
    "tests/e2e/test_fault_points.py",
    "tests/e2e/test_injected_errors.py",
)


def _listed(account: Account, *, kernel: bool = False) -> tuple[str, ...]:
    return tuple(
        one
        for one in named()
        if one.startswith("tests/kernel/") is kernel and one.startswith(_BY_ROOT) is (account is Account.ROOT)
    )


#: The acceptance list and nothing else, on the product as it is installed here.
ACCEPTANCE = (
    Suite(
        "list-kernel",
        Account.USER,
        "tests/kernel",
        scope=True,
        tests=_listed(Account.USER, kernel=True),
    ),
    Suite("list", Account.USER, "tests", tests=_listed(Account.USER)),
    Suite("list-root", Account.ROOT, "tests", tests=_listed(Account.ROOT)),
)


class Verdict(NamedTuple):
    """What one suite said."""

    suite: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: tuple[str, ...] = ()
    skips: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()  # of its tests, for the acceptance list
    flaked: tuple[str, ...] = ()  # failed, and passed when they were tried once more


def run(machine: Machine, suite: Suite, options: Sequence[str], *, short: bool, limit: float) -> int:
    """Run a suite with its output to ours; pytest's status. The results stay in the machine."""
    login = machine.root if suite.account is Account.ROOT else machine.user
    python = install.SERVICE_PYTHON if suite.account is Account.ROOT else install.USER_PYTHON
    left_out = suite.slow if short else ()
    slowness = 1 if qemu.kvm_works() else 10
    delegated = ["systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes"]
    words = [
        *(delegated if suite.scope else ()),
        *(
            "env",
            "NSBOX_HOST=1",
            f"NSBOX_TEST_SLOWNESS={slowness}",
            "PYTHONDONTWRITEBYTECODE=1",
            "HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis",
        ),
        *(f"NSBOX_TEST_PYTHON={python}", python, "-m", "pytest", "-v", "--tb=short", "--durations=10"),
        # A test that hangs shows where, before the time limit ends everything.
        *(
            "-o",
            "faulthandler_timeout=300",
            "-o",
            "junit_logging=system-out",
            f"--junit-xml={RESULTS}/{suite.name}.xml",
        ),
        *(f"--deselect={name}" for name in left_out),
        *(options or (short and suite.short) or suite.tests or [suite.path]),
    ]
    say(f"suite {suite.name}, as {suite.account}, for at most {limit / 60:.0f} minutes")
    return login.run(f"cd {install.CHECKOUT} && {shlex.join(words)}", limit=limit)


def retry(machine: Machine, suite: Suite, found: Verdict, results: Path, *, limit: float) -> Verdict:
    """Try the tests that failed once more: an emulated machine stalls now and then, and what is broken fails
    twice. What passes then is told as flaked, and not forgotten."""
    names = [_id(name) for name in found.failures]
    again = suite._replace(name=f"{suite.name}-again")
    say(f"suite {suite.name}: {len(names)} failed; once more:")
    status = run(machine, again, names, short=False, limit=limit)
    machine.root.get(RESULTS, results)
    second = verdict(again, results, status)
    still = set(second.failures)
    flaked = tuple(name for name in found.failures if name not in still)
    if len(found.failures) != second.passed + second.failed:
        return found  # not all of them told anything
    return found._replace(
        outcomes=(*(one for one in found.outcomes if one.result != "failed"), *second.outcomes),
        passed=found.passed + len(flaked),
        failed=found.failed - len(flaked),
        failures=tuple(name for name in found.failures if name in still),
        flaked=flaked,
    )


def is_here(suite: Suite) -> bool:
    return bool(suite.tests) or any((CHECKOUT / suite.path).glob("test_*.py"))


def verdict(suite: Suite, results: Path, status: int) -> Verdict:
    """From the file that pytest wrote, or from its absence."""
    file = results / f"{suite.name}.xml"
    if not file.exists():
        why = "ran out of time" if status == TIMED_OUT else f"pytest ended with status {status}"
        return Verdict(suite.name, failed=1, failures=(f"{suite.name}: no results: {why}",))
    found = Verdict(suite.name)
    for case in ET.parse(file).getroot().iter("testcase"):
        found = _with(found, case)
        if suite.figures:
            found = found._replace(figures=(*found.figures, *_figures(case)))
    if status not in (0, 1) or (status == 1 and not found.failed) or not found.passed + found.skipped:
        why = f"{suite.name}: pytest ended with status {status}"
        found = found._replace(failed=found.failed + 1, failures=(*found.failures, why))
    return found


def _id(name: str) -> str:
    """pytest's own name of a test, from the one in its results."""
    module, _, test = name.partition("::")
    return f"{module.replace('.', '/')}.py::{test}"


def _figures(case: ET.Element) -> Iterator[str]:
    """What a test printed, without the headings that pytest puts between."""
    for line in (case.findtext("system-out") or "").splitlines():
        if line.strip() and not line.startswith("---"):
            yield f"{case.get('name')}: {line}"


def _with(so_far: Verdict, case: ET.Element) -> Verdict:
    name = f"{case.get('classname')}::{case.get('name')}"
    so_far = so_far._replace(seconds=so_far.seconds + float(case.get("time") or 0))
    skip = case.find("skipped")
    so_far = so_far._replace(outcomes=(*so_far.outcomes, _outcome(case, name)))
    if case.find("failure") is not None or case.find("error") is not None:
        return so_far._replace(failed=so_far.failed + 1, failures=(*so_far.failures, name))
    if skip is not None:
        return so_far._replace(
            skipped=so_far.skipped + 1, skips=(*so_far.skips, f"{name}: {skip.get('message')}")
        )
    return so_far._replace(passed=so_far.passed + 1)


def _outcome(case: ET.Element, name: str) -> Outcome:
    said = [one.get("value", "") for one in case.iter("property") if one.get("name") == PROPERTY]
    skip = case.find("skipped")
    result = "skipped" if skip is not None else "passed"
    if case.find("failure") is not None or case.find("error") is not None:
        result = "failed"
    why = "" if skip is None else (skip.get("message") or "").removeprefix("Skipped: ")
    return Outcome(_id(name).partition("[")[0], result, why, tuple(map(Figure.of_text, said)))


def summary(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Lines for a person; the last is for a program, too."""
    for one in verdicts:
        yield (
            f"{one.suite}: {one.passed} passed, {one.failed} failed, {one.skipped} skipped "
            f"in {one.seconds / 60:.1f} minutes"
        )
        yield from (f"  skipped {reason}" for reason in one.skips)
        yield from (f"  figure {line}" for line in one.figures)
    yield from table(outcome for one in verdicts for outcome in one.outcomes)
    for one in verdicts:
        yield from (f"flaked {name}: failed, and passed when it was tried again" for name in one.flaked)
    for one in verdicts:
        yield from (f"FAILED {name}" for name in one.failures)
    passed, failed, skipped = (sum(one[column] for one in verdicts) for column in (1, 2, 3))
    flaked = sum(len(one.flaked) for one in verdicts)
    yield f"{passed} passed, {failed} failed, {skipped} skipped" + (f", {flaked} flaked" if flaked else "")
