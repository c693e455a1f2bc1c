"""Dropping capabilities in a real user namespace: all five sets, across exec and across a change of user."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import prctl
import pytest

from nsbox.kernel import capabilities, libc
from tests.e2e.daemon import SLOWNESS

pytestmark = pytest.mark.namespaces

PODMANS_ELEVEN = 0x8004_05FB  # CapBnd of a process in a container that Podman starts with its defaults

PR_SET_SECUREBITS, PR_GET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 28, 27, 47, 2
CHOWN = 0

Sets = dict[str, int]


def sets_of(status: str) -> Sets:
    """The capability lines of a /proc/PID/status."""
    lines = (line.split() for line in status.splitlines() if line.startswith("Cap"))
    return {name.removeprefix("Cap").rstrip(":"): int(value, 16) for name, value in lines}


def own_sets() -> Sets:
    with open("/proc/self/status", encoding="ascii") as file:
        return sets_of(file.read())


def sets_after_exec() -> Sets:
    """Of a program that this process starts."""
    return sets_of(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout)


def expected(prm: int, eff: int, bnd: int = PODMANS_ELEVEN) -> Sets:
    return {"Inh": 0, "Prm": prm, "Eff": eff, "Bnd": bnd, "Amb": 0}


def map_ids(pid: int) -> None:
    """0..65535 of the namespace onto ids that are not the caller's own (root), or its subordinate ones."""
    if os.geteuid() == 0:
        for kind in ("gid", "uid"):
            with open(f"/proc/{pid}/{kind}_map", "w", encoding="ascii") as file:
                file.write("0 100000 65536\n")
        return
    for tool in ("newgidmap", "newuidmap"):
        first, count = subordinate(tool)
        own = os.getgid() if tool == "newgidmap" else os.getuid()
        numbers = [0, own, 1, 1, first, count - 1]
        subprocess.run([tool, str(pid), *map(str, numbers)], check=True)


def subordinate(tool: str) -> tuple[int, int]:
    path = "/etc/subgid" if tool == "newgidmap" else "/etc/subuid"
    names = (os.environ.get("USER", ""), str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name)
    if shutil.which(tool) and os.path.exists(path):
        with open(path, encoding="ascii") as file:
            for line in file:
                name, first, count = line.strip().split(":")
                if name in names:
                    return int(first), int(count)
    pytest.skip(f"no {tool}, or no range in {path}")


def as_root_of_a_namespace(action: Callable[[], Any]) -> Any:
    """What ``action`` returns (as JSON), run by root of a new user namespace with full capabilities."""
    ready, mapped, answer = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            libc.unshare(libc.CLONE_NEWUSER)
            os.write(ready[1], b"x")
            os.close(mapped[1])
            if os.read(mapped[0], 1) != b"x":
                os._exit(1)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.setgroups([])
            said = {"result": action()}
        except BaseException as error:
            said = {"error": repr(error)}
        os.write(answer[1], json.dumps(said).encode())
        os._exit(0)
    for _, write in (ready, answer):
        os.close(write)
    try:
        if os.read(ready[0], 1) == b"x":
            map_ids(pid)
            os.write(mapped[1], b"x")
    finally:
        os.close(mapped[1])
        with os.fdopen(answer[0], "rb") as reader:
            text = reader.read()
        for read in (ready[0], mapped[0]):
            os.close(read)
        os.waitpid(pid, 0)
    said = json.loads(text)
    if "unshare" in said.get("error", ""):
        pytest.skip(f"this host lets nobody make user namespaces: {said['error']}")
    assert "error" not in said, said
    return said["result"]


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def full_set() -> int:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return (1 << (int(file.read()) + 1)) - 1


def test_the_kept_are_podmans_eleven() -> None:
    assert sum(1 << capability for capability in capabilities.KEPT) == PODMANS_ELEVEN
    assert len(capabilities.KEPT) == 11


def test_the_namespace_of_these_tests_starts_with_everything() -> None:
    """Otherwise the tests below would prove nothing."""
    everything = full_set()
    assert as_root_of_a_namespace(own_sets) == expected(everything, everything, everything)


def test_all_five_sets_and_the_same_after_exec() -> None:
    def action() -> list[Sets]:
        capabilities.drop_to()
        return [own_sets(), sets_after_exec()]

    assert as_root_of_a_namespace(action) == [expected(PODMANS_ELEVEN, PODMANS_ELEVEN)] * 2


def test_an_ordinary_user_has_none_before_and_after_exec() -> None:
    def action() -> list[Sets]:
        capabilities.drop_to()
        become(1000)
        return [own_sets(), sets_after_exec()]

    assert as_root_of_a_namespace(action) == [expected(0, 0)] * 2


def test_no_new_privs_leaves_roots_capabilities_alone() -> None:
    def action() -> Sets:
        capabilities.drop_to()
        prctl.set_no_new_privs(1)
        return sets_after_exec()

    assert as_root_of_a_namespace(action) == expected(PODMANS_ELEVEN, PODMANS_ELEVEN)


def fill_inheritable_and_ambient() -> None:
    everything = list(range(full_set().bit_length()))
    prctl._prctl.set_caps([], [], everything, [], [], [])
    for capability in everything:
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def test_full_inheritable_and_ambient_sets_are_emptied() -> None:
    def action() -> list[Sets]:
        fill_inheritable_and_ambient()
        before = own_sets()
        capabilities.drop_to()
        return [before, own_sets(), sets_after_exec()]

    before, *after = as_root_of_a_namespace(action)
    assert before == dict.fromkeys(before, full_set())
    assert after == [expected(PODMANS_ELEVEN, PODMANS_ELEVEN)] * 2


def test_emptying_them_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    """With securebits as they were, an ambient set that is not cleared outlives both exec and uid 0."""
    monkeypatch.setattr(capabilities, "release", lambda gone: None)
    monkeypatch.setattr(capabilities, "SECUREBITS", 0)
    monkeypatch.setattr(capabilities, "_PR_CAP_AMBIENT", PR_GET_SECUREBITS)  # something without effect

    def action() -> Sets:
        fill_inheritable_and_ambient()
        capabilities.drop_to()
        os.setresuid(0, 0, 0)
        return own_sets()

    assert as_root_of_a_namespace(action)["Amb"] == full_set()


def test_what_prctl_has_no_name_for_goes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """PERFMON, BPF and CHECKPOINT_RESTORE (38 to 40) are younger than python-prctl's list."""

    def action() -> Sets:
        capabilities.drop_to()
        return own_sets()

    newest = full_set() & ~((1 << 38) - 1)
    if not newest:
        pytest.skip("this kernel has no capability from 38 on")
    assert all(value & newest == 0 for value in as_root_of_a_namespace(action).values())

    monkeypatch.setattr(capabilities, "_HIGHEST_POSSIBLE", 37)  # the list as it was in 2018
    left = as_root_of_a_namespace(action)
    assert [left[name] & newest for name in ("Prm", "Eff", "Bnd")] == [newest] * 3


def test_another_selection() -> None:
    def action() -> Sets:
        capabilities.drop_to({CHOWN})
        return own_sets()

    assert as_root_of_a_namespace(action) == expected(1, 1, 1)


def test_nothing_at_all() -> None:
    def action() -> list[Sets]:
        capabilities.drop_to(())
        return [own_sets(), sets_after_exec()]

    assert as_root_of_a_namespace(action) == [expected(0, 0, 0)] * 2


def refused(option: int, *arguments: int) -> bool:
    try:
        libc.prctl(option, *arguments)
    except PermissionError:
        return True
    return False


def test_securebits_are_locked() -> None:
    def action() -> list[bool | int]:
        capabilities.drop_to()
        bits = libc.prctl(PR_GET_SECUREBITS)
        noroot, no_fixup, no_ambient = (refused(PR_SET_SECUREBITS, bits ^ bit) for bit in (1, 4, 0x40))
        unlocked = refused(PR_SET_SECUREBITS, 0)
        return [bits, noroot, no_fixup, no_ambient, unlocked]

    assert as_root_of_a_namespace(action) == [0xCA, True, True, True, True]


def raise_ambient() -> bool:
    """Whether the kernel refused to raise a capability that is permitted and inheritable."""
    prctl._prctl.set_caps([], [], [CHOWN], [], [], [])
    return refused(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CHOWN)


def test_ambient_stays_off_and_that_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    def action() -> bool:
        capabilities.drop_to()
        return raise_ambient()

    assert as_root_of_a_namespace(action) is True
    monkeypatch.setattr(capabilities, "SECUREBITS", 0)
    assert as_root_of_a_namespace(action) is False


def test_daemons_may_keep_capabilities_until_the_next_exec() -> None:
    def action() -> list[Sets]:
        capabilities.drop_to()
        prctl.set_keepcaps(True)
        become(1000)
        return [own_sets(), sets_after_exec()]

    assert as_root_of_a_namespace(action) == [expected(PODMANS_ELEVEN, 0), expected(0, 0)]


def test_repeating_it_is_harmless_and_it_is_quick() -> None:
    def action() -> list[Any]:
        capabilities.drop_to()  # the first run pays for the pages that a fork has to copy
        took = []
        for _ in range(5):
            start = time.perf_counter()
            capabilities.drop_to()
            took.append(time.perf_counter() - start)
        return [own_sets(), min(took)]

    sets, took = as_root_of_a_namespace(action)
    assert sets == expected(PODMANS_ELEVEN, PODMANS_ELEVEN)
    assert took < 0.001 * SLOWNESS
