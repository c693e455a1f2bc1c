"""One run: a machine is made, nsbox installed in it, the suites run, the results brought back."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.host import image, install, off, places, recipe, suites, supplies
from tests.host.machine import Machine, save_journal
from tests.host.words import RigError, say


class Wishes(NamedTuple):
    """What the command line asked for. ``only``: names of suites, all if empty. ``listed``: acceptance
    instead. ``off``: defences to be taken out instead. ``retry``: tests that failed are tried once more."""

    only: tuple[str, ...]
    listed: bool
    options: tuple[str, ...]
    short: bool
    retry: bool
    off: tuple[str, ...]
    kernel: recipe.Kernel
    limit_s: float
    results: Path


def run(wishes: Wishes) -> int:
    """The exit status: 0 when every suite passed, or every test noticed that its defence was off.

    Nothing of the machine is left, however this ends."""
    deadline = time.monotonic() + wishes.limit_s
    places.need_tools()
    machine = Machine(f"run-{time.time_ns() // 1_000_000 % 10**10}")
    shutil.rmtree(wishes.results, ignore_errors=True)
    wishes.results.mkdir(parents=True)
    try:
        _furnish_patiently(machine, wishes, deadline)
        if wishes.off:
            bites = [*off.run_each(machine, wishes.off, wishes.results, deadline)]
            failed = any(one.verdict is off.Verdict.NOT_NOTICED for one in bites)
            lines = [*off.summary(bites)]
        else:
            verdicts = [*_run_all(machine, wishes, deadline)]
            failed, lines = any(one.failed for one in verdicts), [*suites.summary(verdicts)]
        save_journal(machine, wishes.results / "journal.txt")
    finally:
        machine.remove()
    say(f"results are in {wishes.results}")
    for line in lines:
        print(line, flush=True)
    return 1 if failed else 0


def _furnish_patiently(machine: Machine, wishes: Wishes, deadline: float) -> None:
    """With ``retry``, a second machine where the first came to nothing in less than half of the time."""
    try:
        furnish(machine, wishes.kernel, dies_with_us=True)
    except RigError as error:
        machine.kill()
        if not wishes.retry or deadline - time.monotonic() < wishes.limit_s / 2:
            raise
        say(f"{error}\nonce more, from the beginning")
        furnish(machine, wishes.kernel, dies_with_us=True)


def furnish(machine: Machine, kernel: recipe.Kernel, *, dies_with_us: bool) -> None:
    """Boot it and install nsbox there, both ways."""
    disk = image.get(kernel)
    with tempfile.TemporaryDirectory(prefix="carry-", dir=places.cache()) as folder:
        supplies.prepare(Path(folder))
        machine.boot(disk, dies_with_us=dies_with_us)
        begun = time.monotonic()
        install.carry(machine, Path(folder))
    install.add_xfs(machine)
    install.as_service(machine)
    install.for_one_user(machine)
    machine.root.check(f"install -d -m 1777 {suites.RESULTS}")
    say(f"nsbox is installed, after {time.monotonic() - begun:.0f} s")


#: Of one suite. More failures than that are no accident.
_FEW = 3


def _run_all(machine: Machine, wishes: Wishes, deadline: float) -> Iterator[suites.Verdict]:
    for suite in suites.ACCEPTANCE if wishes.listed else suites.SUITES:
        if (wishes.only and suite.name not in wishes.only) or not suites.is_here(suite):
            say(f"suite {suite.name}: left out")
            continue
        left = deadline - time.monotonic()
        if left < 1:
            yield suites.verdict(suite, wishes.results, suites.TIMED_OUT)
            continue
        status = suites.run(machine, suite, wishes.options, short=wishes.short, limit=left)
        machine.root.get(suites.RESULTS, wishes.results)
        found = suites.verdict(suite, wishes.results, status)
        left = deadline - time.monotonic()
        if wishes.retry and status == 1 and 0 < found.failed <= _FEW and left > 1:
            found = suites.retry(machine, suite, found, wishes.results, limit=left)
        yield found
