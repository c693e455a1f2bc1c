from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.inside import processes
from nsbox.inside.processes import Row, tree


def test_a_tree_has_its_descendants_and_their_sessions() -> None:
    table = [
        Row(10, 1, 10),
        Row(11, 10, 10),
        Row(12, 11, 12),  # left the session, still a descendant
        Row(13, 1, 12),  # orphaned, in the session that 12 leads
        Row(14, 13, 14),
        Row(20, 1, 20),  # somebody else's
        Row(21, 20, 20),
        Row(30, 1, 0),  # of no session here, as init's own children are
    ]
    assert tree(10, table) == {10, 11, 12, 13, 14}
    assert tree(20, table) == {20, 21}


def test_a_leader_that_is_gone_still_names_its_session() -> None:
    assert tree(10, [Row(11, 1, 10), Row(12, 11, 12), Row(20, 1, 20)]) == {10, 11, 12}


def test_a_loop_in_the_table_ends() -> None:
    """/proc is read while it changes: a pid may be reused between two rows."""
    assert tree(10, [Row(10, 11, 10), Row(11, 10, 11)]) == {10, 11}


@pytest.mark.parametrize(
    ("argv", "shown", "same"),
    [
        (("true",), ("true",), True),
        (("sh", "-c", "x y"), ("sh", "-c", "x y"), True),
        (("tool", "a"), ("/bin/sh", "/usr/bin/tool", "a"), True),  # a script, by PATH
        (("./tool",), ("/usr/bin/env", "python3", "/srv/tool"), True),
        (("true",), ("false",), False),
        (("sh", "-c", "x"), ("sh", "-c", "y"), False),
        (("sh", "-c", "x"), ("-c", "x"), False),
        (("true",), (), False),
    ],
)
def test_a_command_line_is_known_again(
    argv: tuple[str, ...], shown: tuple[str, ...], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only among init's own children that lead a session and that nobody has named."""
    lines = {7: shown, 8: argv, 9: argv, 10: argv}
    table = [Row(7, 1, 7), Row(8, 1, 3), Row(9, 7, 9), Row(10, 1, 10)]
    monkeypatch.setattr(processes, "rows", lambda: table)
    monkeypatch.setattr(
        processes, "_arguments", lambda pid: [os.fsencode(one) for one in lines.get(pid, ("nsbox",))]
    )
    assert processes.heir(argv, {10}, {}) == (7 if same else 0)
    assert processes.heir(argv, {7, 10}, {}) == 0
    assert processes.heir(("nsbox-as-it-is",), set(), {}) == 0


@pytest.mark.parametrize(
    ("dead", "expected"),
    [
        ({}, 0),
        ({5: b"sh"}, 5),
        ({5: b"bash"}, 0),
        ({5: b"sh", 6: b"sh"}, 0),  # whose is which?
        ({5: b"sh", 6: b"python3"}, 5),
    ],
)
def test_a_dead_command_is_known_by_its_name_alone(
    dead: dict[int, bytes], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "rows", list)
    assert processes.heir(("/bin/sh", "-c", "true"), set(), dead) == expected


def test_a_living_and_a_dead_one_that_fit_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "rows", lambda: [Row(7, 1, 7)])
    monkeypatch.setattr(processes, "_arguments", lambda pid: [b"sh"] if pid == 7 else [b"nsbox"])
    assert processes.heir(("sh",), set(), {}) == 7
    assert processes.heir(("sh",), set(), {5: b"sh"}) == 0


def test_one_that_has_not_executed_its_program_yet_shows_our_own_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "rows", lambda: [Row(7, 1, 7)])
    monkeypatch.setattr(processes, "_arguments", lambda pid: [b"nsbox"])
    assert processes.heir(("true",), set(), {}) == 7


def test_the_name_of_a_zombie_can_be_read() -> None:
    leader = os.posix_spawn("/bin/true", ["true"], {}, setsid=True)
    member = os.posix_spawn("/bin/true", ["true"], {})
    for pid in (leader, member):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert (processes.led_session(leader), processes.led_session(member)) == (b"true", b"")
    for pid in (leader, member):
        os.waitpid(pid, 0)
    assert processes.led_session(leader) == b""


numbers = st.integers(2, 12)


@given(numbers, st.lists(st.builds(Row, numbers, st.integers(0, 12), st.integers(0, 12)), max_size=20))
def test_a_tree_is_closed_and_every_member_has_a_reason(leader: int, table: list[Row]) -> None:
    members = tree(leader, table)
    assert leader in members
    for row in table:
        if row.parent in members or row.session in members:
            assert row.pid in members
    for pid in members - {leader}:
        others = members - {pid}
        assert any(row.pid == pid and (row.parent in others or row.session in members) for row in table)


def test_a_name_with_parentheses_and_spaces_is_no_trap() -> None:
    """Fields are counted from the last parenthesis: a process may name itself ``) R 1 1 1``."""
    script = "import prctl, sys; prctl.set_name(') R 9 9 9 ('); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = {row.pid: row for row in processes.rows()}[child.pid]
        assert found[:3] == (child.pid, os.getpid(), child.pid)
        with open(f"/proc/{child.pid}/statm", encoding="ascii") as file:
            # The kernel adds up what each processor has counted only now and then.
            assert abs(found.pages - int(file.read().split()[1])) < 512
            assert found.pages > 100
        assert child.stdin is not None
        child.stdin.close()


def test_a_tree_is_ended_with_what_left_the_session() -> None:
    script = "setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & echo started; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"started\n"
        processes.kill_tree(child.pid)
        assert child.wait(5) == -signal.SIGKILL
        assert child.stdout.read() == b""  # everybody who could write to it is dead


def test_a_process_that_is_gone_is_no_error() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    processes.kill_tree(child.pid)
