"""The outer namespace, as keeper gets it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from typing import Any

import pytest

from nsbox.host import outer
from nsbox.kernel.namespaces import SANDBOX_IDS, IdRange
from tests.e2e.account import runner
from tests.kernel import outer as starting

pytestmark = pytest.mark.namespaces


@pytest.fixture(scope="module")
def said() -> list[dict[str, Any]]:
    return starting.run({"do": "identity"})


def find(said: list[dict[str, Any]], name: str) -> Any:
    return next(one[name] for one in said if name in one)


def test_it_is_root_there_and_of_no_group(said: list[dict[str, Any]]) -> None:
    assert find(said, "ids") == [[0, 0, 0], [0, 0, 0], []]
    assert find(said, "pid") == 1


def test_the_maps(said: list[dict[str, Any]]) -> None:
    """0 is the daemon's user, the rest its subordinate range; nothing else exists in there."""
    who = runner()
    uids, gids = find(said, "starts")
    assert find(said, "uid_map") == [[0, who.uid, 1], [1, uids, SANDBOX_IDS]]
    assert find(said, "gid_map") == [[0, who.gid, 1], [1, gids, SANDBOX_IDS]]


def test_its_environment_is_ours_alone(said: list[dict[str, Any]]) -> None:
    environment = find(said, "environment")
    environment.pop("LC_CTYPE", None)  # Python's own doing
    assert environment == dict(outer.ENVIRONMENT)


def test_only_what_is_passed_on_is_open(said: list[dict[str, Any]]) -> None:
    assert find(said, "kept") == find(said, "inode")
    # One is that of the listing itself.
    assert len(find(said, "fds")) <= 2


def test_its_namespaces_are_new_but_the_network(said: list[dict[str, Any]]) -> None:
    for name, link in find(said, "namespaces").items():
        assert (link == os.readlink(f"/proc/self/ns/{name}")) is (name == "net")


def test_its_death_is_everybodys() -> None:
    """However keeper ends: it is process 1 of a pid namespace."""
    who = runner()
    order = {"do": "wait", "processes": 6}
    with subprocess.Popen(
        starting.command(who, order), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", **who.identity
    ) as started:
        assert started.stdout is not None
        said: dict[str, Any] = {}
        while "ready" not in said:
            line = started.stdout.readline()
            assert line, started.communicate()
            said |= json.loads(line)
        pid = said["outside"]
        watched = [os.pidfd_open(one) for one in descendants(pid)]
        os.kill(pid, signal.SIGKILL)  # before anything that can fail: this test leaves nobody behind
        for pidfd in watched:
            ready, _, _ = select.select([pidfd], [], [], 5)
            os.close(pidfd)
            assert ready, "somebody outlived process 1"
        assert len(watched) == 6
        started.wait(5)


def descendants(pid: int) -> list[int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh}
        found |= fresh
    return sorted(found)


def test_ids_that_are_not_ours_are_refused() -> None:
    """newuidmap looks them up; what it says is passed on, and no process is left."""
    who = runner()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from nsbox.host import outer\nfrom nsbox.kernel.namespaces import IdRange\n"
        "from nsbox.model.errors import HostProblem\nimport os\n"
        "strange = IdRange(4_000_000, 65_536)\n"
        "try:\n    outer.start('tests.kernel.probes', '{}', strange, strange, ())\n"
        "except HostProblem as problem:\n    print(problem)\n"
        "try:\n    os.waitpid(-1, 0)\nexcept ChildProcessError:\n    print('no child')\n"
    )
    done = subprocess.run(
        [who.python, "-c", script, str(starting.CHECKOUT)],
        capture_output=True,
        text=True,
        cwd="/",
        **who.identity,
    )
    assert "newuidmap" in done.stdout
    assert "remedy: nsbox doctor" in done.stdout
    assert "no child" in done.stdout


def test_a_range_is_what_it_says() -> None:
    assert IdRange(5, 6) == (5, 6)
