"""One run: a machine is made, nsbox installed in it, the suites run, the results brought back."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.host import image, install, places, suites, supplies
from tests.host.machine import Machine, save_journal
from tests.host.words import say


class Wishes(NamedTuple):
    """What the command line asked for. ``only``: names of suites, all if empty."""

    only: tuple[str, ...]
    options: tuple[str, ...]
    short: bool
    limit_s: float
    results: Path


def run(wishes: Wishes) -> int:
    """The exit status: 0 when every suite passed. Nothing of the machine is left, however this ends."""
    deadline = time.monotonic() + wishes.limit_s
    places.need_tools()
    machine = Machine(f"run-{time.time_ns() // 1_000_000 % 10**10}")
    shutil.rmtree(wishes.results, ignore_errors=True)
    wishes.results.mkdir(parents=True)
    try:
        furnish(machine, dies_with_us=True)
        verdicts = [*_run_all(machine, wishes, deadline)]
        save_journal(machine, wishes.results / "journal.txt")
    finally:
        machine.remove()
    say(f"results are in {wishes.results}")
    for line in suites.summary(verdicts):
        print(line, flush=True)
    return 1 if any(one.failed for one in verdicts) else 0


def furnish(machine: Machine, *, dies_with_us: bool) -> None:
    """Boot it and install nsbox there, both ways."""
    disk = image.get()
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


def _run_all(machine: Machine, wishes: Wishes, deadline: float) -> Sequence[suites.Verdict]:
    statuses = []
    for suite in suites.SUITES:
        if (wishes.only and suite.name not in wishes.only) or not suites.is_here(suite):
            say(f"suite {suite.name}: left out")
            continue
        left = deadline - time.monotonic()
        if left < 1:
            statuses.append((suite, suites.TIMED_OUT))
            continue
        status = suites.run(machine, suite, wishes.options, short=wishes.short, limit=left)
        statuses.append((suite, status))
    machine.root.get(suites.RESULTS, wishes.results)
    return [suites.verdict(suite, wishes.results, status) for suite, status in statuses]
