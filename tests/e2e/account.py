"""The account that the tested daemon runs as, and the interpreter it is started with."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import nsbox
from nsbox.host import facts

CHECKOUT = Path(nsbox.__file__).resolve().parents[1]
_DEFAULT = "nsbox-test"


class Runner(NamedTuple):
    """Who runs the daemon, and how to start a process as that account."""

    name: str
    uid: int
    gid: int
    python: str

    @property
    def as_root(self) -> bool:
        """Whether the tests are root, and the daemon therefore gives root up by itself."""
        return os.geteuid() == 0

    @property
    def identity(self) -> dict[str, Any]:
        """Arguments for subprocess that make a process of this account."""
        if not self.as_root:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@cache
def runner() -> Runner:
    """Skips the test when the account cannot run nsbox here."""
    python = os.environ.get("NSBOX_TEST_PYTHON") or sys.executable
    name = os.environ.get("NSBOX_TEST_USER") or ""
    if os.geteuid() == 0:
        name = name or _DEFAULT
        _make_account(name, python)
    else:
        name = pwd.getpwuid(os.geteuid()).pw_name
    entry = pwd.getpwnam(name)
    found = Runner(name, entry.pw_uid, entry.pw_gid, python)
    for path in ("/etc/subuid", "/etc/subgid"):
        if facts.widest(facts.sub_ids(path, name, entry.pw_uid)) < facts.IDS_NEEDED:
            pytest.skip(f"{name} has no range of subordinate ids in {path}")
    _check_readable(found)
    return found


def _make_account(name: str, python: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        home = f"/var/lib/{name}"
        add = ["useradd", "--system", "--create-home", "--home-dir", home, "--shell", "/usr/sbin/nologin"]
        subprocess.run([*add, name], check=True, capture_output=True)
    uid = pwd.getpwnam(name).pw_uid
    if facts.widest(facts.sub_ids("/etc/subuid", name, uid)) < facts.IDS_NEEDED:
        subprocess.run(
            [python, "-m", "nsbox", "setup", "--user", name, "--ids-only"],
            check=True, capture_output=True, cwd=CHECKOUT,
        )  # fmt: skip


def _check_readable(who: Runner) -> None:
    script = "import trio, prctl, cgroupspy, hypercorn, nsbox.supervisor"
    done = _python(who, subprocess.run)(
        [who.python, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, **who.identity
    )
    if done.returncode:
        pytest.skip(f"{who.name} cannot run {who.python} with nsbox: {done.stderr.strip()[-300:]}")


def _python(who: Runner, run: Callable[..., Any]) -> Callable[..., Any]:
    """subprocess.run, with an error to start (a folder that cannot be entered, say) told as a result."""

    def tried(command: list[str], **options: Any) -> Any:
        try:
            return run(command, **options)
        except OSError as error:
            return subprocess.CompletedProcess(command, 1, "", str(error))

    return tried
