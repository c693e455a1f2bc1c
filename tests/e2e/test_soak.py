"""Thousands of create → exec → delete: afterwards everything is as it was before.

``NSBOX_SOAK`` says how many; 2,000 take about two minutes on two idle processors. What is kept on purpose is
in the database: a record for each sandbox that was.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.acceptance.plugin import Say
from tests.conftest import DaemonFactory
from tests.e2e.client import Api
from tests.e2e.daemon import SLOWNESS, Daemon, Residue, descendants, settle

COUNT = int(os.environ.get("NSBOX_SOAK") or (400 if SLOWNESS == 1 else 60))
#: Until caches are full and every path was taken once.
WARM_UP = 100
#: Resident memory may grow by so much for each sandbox, in KiB; and by some pages in all.
_KIB_EACH, _KIB_ALL = 1.0, 4096


def _memory(pid: int) -> int:
    """Its anonymous memory, in KiB. Not what is its alone: pages that keeper shares with its forks become its
    own one by one as it writes to them, which is no growth."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous:"))


def _rounds(api: Api, count: int) -> None:
    for _ in range(count):
        made = api.sandbox()
        assert made.out("echo x; echo y > /tmp/y") == "x\n"
        assert api.kill(made.id).status == 200


def _zombies(daemon: Daemon) -> list[str]:
    return [one.name for one in descendants(daemon.pid) if one.state == "Z"]


@pytest.mark.slow
def test_nothing_is_left_of_many(daemon_factory: DaemonFactory, figure: Say) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        _rounds(api, WARM_UP)
        before = settle(daemon, 30)
        api_before, keeper_before = _memory(daemon.api_pid), _memory(daemon.keeper_pid)
        begun = time.monotonic()
        _rounds(api, COUNT)
        took = time.monotonic() - begun
        after = settle(daemon, 30)
        api_grown = _memory(daemon.api_pid) - api_before
        keeper_grown = _memory(daemon.keeper_pid) - keeper_before
        print(f"{COUNT} in {took:.0f} s; api {api_grown:+} KiB, keeper {keeper_grown:+} KiB; {after}")
        delta = Residue(*(late - early for early, late in zip(before, after, strict=True)))
        # A worker thread or a connection more or less is no leak; one for each sandbox would be.
        assert abs(delta.api_fds) <= 4
        assert abs(delta.keeper_fds) <= 4
        assert max(delta[2:]) <= 0, delta  # fewer than before were the first round's, not yet gone
        assert _zombies(daemon) == []
        assert os.listdir(f"{daemon.state_dir}/logs") == []
        assert api_grown <= _KIB_ALL + _KIB_EACH * COUNT
        assert keeper_grown <= _KIB_ALL / 4 + _KIB_EACH / 4 * COUNT
        assert api.request("GET", "/sandboxes").json == []
        left = sum(one for one in delta[2:] if one > 0)
        figure(9, tried=COUNT, bad=left, api_KiB=api_grown, keeper_KiB=keeper_grown)
