"""Starting something in the outer namespace from a test, by a process of the ordinary account."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.account import CHECKOUT, Runner, runner

_START = """
import json, os, signal, sys
sys.path.insert(0, {home!r})
from nsbox.host import outer
from nsbox.kernel.namespaces import SANDBOX_IDS, IdRange
from nsbox import supervisor
uids, gids = supervisor.subordinate_ids()
kept = os.memfd_create("kept")
lost = os.memfd_create("lost")
order = json.loads(sys.argv[1])
order["descriptor"] = kept
print(json.dumps({{"inode": os.fstat(kept).st_ino, "starts": [uids.start, gids.start]}}), flush=True)
pid = outer.start("tests.kernel.probes", json.dumps(order), uids, gids, (kept,))
print(json.dumps({{"outside": pid}}), flush=True)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)
"""


def command(who: Runner, order: dict[str, Any]) -> list[str]:
    """A command line for ``subprocess`` with ``**who.identity``."""
    return [who.python, "-c", _START.format(home=str(CHECKOUT)), json.dumps(order)]


def run(order: dict[str, Any]) -> list[dict[str, Any]]:
    """What was printed outside and in the outer namespace. Skips where a host cannot."""
    who = runner()
    # A daemon's user is in groups of its own, whose rights must not go along.
    identity = who.identity | ({"extra_groups": [who.gid, 4, 27]} if who.as_root else {})
    environment = {"PATH": os.environ["PATH"], "HOME": "/", "SECRET": "s3cret", "PYTHONPATH": "/nowhere"}
    done = subprocess.run(
        command(who, order),
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
        env=environment,
        **identity,
    )
    if "refuses user namespaces" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def folder_of(who: Runner) -> Iterator[str]:
    """A folder that the account owns, for an overlay."""
    path = tempfile.mkdtemp(prefix="nsbox-kernel-", dir="/var/tmp")
    try:
        os.chown(path, who.uid, who.gid)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
