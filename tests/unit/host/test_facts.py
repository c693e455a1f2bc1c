"""The probes, on folders that look like /proc and its kin; the live ones on this host."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.host import facts
from nsbox.host.facts import Attempt, Cgroup, IdRange, Mapper, free_range

ranges = st.builds(IdRange, st.integers(0, 2**31), st.integers(1, 200_000))


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-13-amd64\n", (6, 1)), ("6.18.44-x", (6, 18)), ("5.15", (5, 15)), ("odd", (0, 0)), ("", (0, 0))],
)
def test_kernel(tmp_path, release, version):
    assert facts.kernel(write(tmp_path, {"sys/kernel/osrelease": release})).version == version


def test_nothing_there_is_an_answer_too(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    assert facts.kernel(nowhere).version == (0, 0)
    assert facts.user_namespaces(nowhere) == facts.UserNamespaces(
        limit=None, debian_switch=None, apparmor_restricts=None, profile=None
    )
    assert facts.cgroup(nowhere) == Cgroup()
    assert facts.sub_ids(nowhere, "ann", 1) == ()
    assert not facts.no_new_privs(nowhere)
    assert not facts.swap(nowhere)
    assert not facts.seccomp_filter(nowhere)
    assert not facts.landlock(nowhere)
    assert not facts.overlayfs(nowhere, nowhere)
    assert facts.filesystem_type("/x", nowhere) is None
    assert facts.boot_id(nowhere) == ""


def test_user_namespaces(tmp_path):
    proc = write(
        tmp_path,
        {
            "sys/user/max_user_namespaces": "15000\n",
            "sys/kernel/unprivileged_userns_clone": "0\n",
            "sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
            "self/attr/current": "nsbox (unconfined)\n\0",
        },
    )
    assert facts.user_namespaces(proc) == facts.UserNamespaces(
        limit=15000, debian_switch=False, apparmor_restricts=True, profile="nsbox (unconfined)"
    )


@pytest.mark.parametrize(("line", "found"), [("NoNewPrivs:\t1", True), ("NoNewPrivs:\t0", False)])
def test_no_new_privs(tmp_path, line, found):
    proc = write(tmp_path, {"self/status": f"Name:\tx\n{line}\nSeccomp:\t1\n"})
    assert facts.no_new_privs(proc) is found


def test_sub_ids_by_name_and_by_number(tmp_path):
    path = tmp_path / "subuid"
    path.write_text("ann:100000:65536\nbob:1:2\n1000:300000:10\n\nann:bad:1\nann:1_0:5\nann:-5:5\n#ann:1:1\n")
    assert facts.sub_ids(str(path), "ann", 1000) == (IdRange(100000, 65536), IdRange(300000, 10))
    assert facts.sub_ids(str(path), "an", 100) == ()
    assert len(facts.all_sub_ids(str(path))) == 4
    assert facts.widest(facts.sub_ids(str(path), "ann", 1000)) == 65536
    assert facts.widest(()) == 0


@given(st.lists(ranges))
def test_a_free_range_touches_no_other(taken):
    found = free_range(taken)
    assert found is not None
    assert found.count == 65536
    assert found.start >= 100_000
    assert all(found.last < one.start or one.last < found.start for one in taken)


def test_the_lowest_gap_is_taken():
    assert free_range([]) == IdRange(100_000, 65536)
    assert free_range([IdRange(165_536, 5), IdRange(0, 1000)]) == IdRange(100_000, 65536)
    assert free_range([IdRange(165_535, 5)]) == IdRange(165_540, 65536)


def test_no_range_is_left():
    assert free_range([IdRange(100_000, 2**32 - 100_000 - 65536)]) is None


def test_mapper(tmp_path):
    program = tmp_path / "newuidmap"
    assert facts.mapper("newuidmap", str(tmp_path)) is Mapper.MISSING
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert facts.mapper("newuidmap", str(tmp_path)) is Mapper.UNPRIVILEGED


def test_a_setuid_mapper(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can make a file that is setuid root")
    program = tmp_path / "newuidmap"
    program.write_text("")
    program.chmod(0o4755)
    assert facts.mapper("newuidmap", str(tmp_path)) is Mapper.READY


MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 22 0:30 / /home rw - nfs4 server:/home rw
32 22 0:31 / /home/with\\040blank rw - xfs /dev/x rw
33 22 0:32 / /home rw - btrfs /dev/y rw
"""


@pytest.mark.parametrize(
    ("path", "fstype"),
    [
        ("/", "ext4"),
        ("/homes/x", "ext4"),
        ("/home", "btrfs"),
        ("/home/ann", "btrfs"),
        ("/home/with blank/x", "xfs"),
    ],
)
def test_the_longest_and_latest_mount_counts(tmp_path, path, fstype):
    assert facts.filesystem_type(path, write(tmp_path, {"self/mountinfo": MOUNTINFO})) == fstype


def cgroup_host(root: Path, place: str, *folders: str) -> str:
    for folder in folders:
        write(
            root / "cgroup" / folder,
            {"cgroup.procs": "", "cgroup.subtree_control": "", "cgroup.controllers": "cpu memory pids\n"},
        )
    mountinfo = f"30 22 0:26 / {root}/cgroup rw - cgroup2 cgroup2 rw\n"
    return write(root / "proc", {"self/mountinfo": mountinfo, "self/cgroup": f"4:cpu:/v1\n0::{place}\n"})


def test_the_own_cgroup(tmp_path):
    proc = cgroup_host(tmp_path, "/a/b", "a/b")
    assert facts.own_cgroup(proc) == "/a/b"
    assert facts.cgroup(proc) == Cgroup(
        mount=f"{tmp_path}/cgroup",
        folder=f"{tmp_path}/cgroup/a/b",
        delegated=True,
        controllers=("cpu", "memory", "pids"),
    )


def test_without_delegation_the_users_manager_is_asked(tmp_path):
    manager = "user.slice/user-7.slice/user@7.service"
    proc = cgroup_host(tmp_path, "/session", manager)
    assert not facts.cgroup(proc).delegated
    assert facts.cgroup(proc).controllers == ()
    found = facts.cgroup(proc, user_manager_of=7)
    assert (found.folder, found.delegated) == (f"{tmp_path}/cgroup/{manager}", True)
    assert not facts.cgroup(proc, user_manager_of=8).delegated


@pytest.mark.parametrize("name", ["cgroup.procs", "cgroup.subtree_control"])
def test_delegation_is_all_three(tmp_path, name):
    proc = cgroup_host(tmp_path, "/a", "a")
    (tmp_path / "cgroup" / "a" / name).unlink()
    assert not facts.cgroup(proc).delegated


def test_systemd(tmp_path):
    run = str(tmp_path)
    assert facts.systemd({}, 7, run) == facts.Systemd(running=False, user_manager=False)
    (tmp_path / "systemd" / "system").mkdir(parents=True)
    write(tmp_path / "user" / "7", {"bus": ""})
    assert facts.systemd({}, 7, run) == facts.Systemd(running=True, user_manager=True)
    write(tmp_path / "mine" / "systemd", {"private": ""})
    assert facts.systemd({"XDG_RUNTIME_DIR": f"{run}/mine"}, 8, run).user_manager
    assert not facts.systemd({"XDG_RUNTIME_DIR": f"{run}/none"}, 7, run).user_manager


def test_kernel_features(tmp_path):
    proc = write(
        tmp_path,
        {
            "swaps": "Filename Type\n/swapfile file\n",
            "filesystems": "nodev\tsysfs\nnodev\toverlay\n",
            "sys/kernel/seccomp/actions_avail": "kill_process errno allow\n",
            "sys/kernel/random/boot_id": "abc\n",
            "kernel/security/lsm": "capability,landlock,apparmor",
        },
    )
    assert facts.swap(proc)
    assert facts.overlayfs(proc)
    assert facts.seccomp_filter(proc)
    assert facts.landlock(proc)
    assert facts.boot_id(proc) == "abc"


def test_overlayfs_as_a_module(tmp_path):
    proc = write(tmp_path, {"sys/kernel/osrelease": "6.1\n", "filesystems": "\text4\n"})
    assert not facts.overlayfs(proc, str(tmp_path))
    write(tmp_path, {"6.1/modules.dep": "kernel/fs/overlayfs/overlay.ko.xz:\n"})
    assert facts.overlayfs(proc, str(tmp_path))


def test_the_state_folder_need_not_be_there(tmp_path):
    disk = facts.state_disk(str(tmp_path / "a" / "b"))
    assert (disk.folder, disk.writable) == (str(tmp_path / "a" / "b"), True)
    assert disk.free_bytes > 0
    assert disk.fstype
    assert facts.nearest_existing(str(tmp_path / "a" / "b")) == str(tmp_path)


def test_attempts_keep_what_was_said():
    assert facts.attempt(["true"]) == Attempt(True)
    assert facts.attempt(["sh", "-c", "echo one >&2; echo two >&2; exit 3"]) == Attempt(False, "two")
    assert facts.attempt(["sh", "-c", "exit 3"]) == Attempt(False, "sh ended with status 3")
    assert not facts.attempt(["/nonexistent/program"]).works


def test_boot_time_goes_forward():
    first = facts.boot_time()
    assert facts.boot_time() >= first > 0


def test_the_overlay_probe_leaves_nothing_behind(tmp_path):
    tried = facts.try_overlay(str(tmp_path))
    assert os.listdir(tmp_path) == []
    if not facts.try_namespaces().works:
        assert not tried.works
        pytest.skip("this user cannot make namespaces")
    assert tried == Attempt(True)


def test_everything_together(tmp_path):
    found = facts.gather("ann", os.getuid(), str(tmp_path), os.environ)
    assert found.kernel.version > (0, 0)
    assert found.state.folder == str(tmp_path)


def test_what_a_probe_leaves_behind_is_ended_and_not_waited_for():
    begun = time.monotonic()
    seconds = f"7654.{os.getpid()}"  # known again among all processes of the host
    tried = facts.attempt(["sh", "-c", f"sleep {seconds} & echo refused >&2; exit 3"])
    assert (tried.works, tried.answer) == (False, "refused")
    assert time.monotonic() - begun < 10
    while _runs(f"sleep\0{seconds}".encode()):
        assert time.monotonic() - begun < 20, "it is still there"


def _runs(command_line: bytes) -> bool:
    texts = [facts.read(f"/proc/{name}/cmdline") or "" for name in os.listdir("/proc") if name.isdigit()]
    return any(command_line in text.encode() for text in texts)
