from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

import nsbox
from nsbox.host import account
from nsbox.host.account import Account, self_command, service_environment
from nsbox.model.errors import HostProblem

ANN = Account(name="ann", uid=77, gid=78, home="/home/ann", sub_uids=(), sub_gids=())


def test_find(tmp_path):
    me = pwd.getpwuid(os.getuid())
    (tmp_path / "subuid").write_text(f"{me.pw_name}:100000:65536\n")
    (tmp_path / "subgid").write_text(f"{me.pw_uid}:100000:65535\n")
    found = account.find(me.pw_name, str(tmp_path))
    assert found is not None
    assert (found.uid, found.home, found.has_ids) == (me.pw_uid, me.pw_dir, False)
    (tmp_path / "subgid").write_text(f"{me.pw_uid}:100000:65536\n")
    assert account.find(me.pw_name, str(tmp_path)).has_ids
    assert account.find("nosuchuser") is None


def test_roots_environment_is_left_behind(tmp_path):
    environment = {
        "AWS_SECRET_ACCESS_KEY": "s",
        "HOME": "/root",
        "PYTHONPATH": "/root/x",
        "LD_PRELOAD": "/root/y",
        "NSBOX_PORT": "1",
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm",
        "HTTPS_PROXY": "http://p",
        "XDG_RUNTIME_DIR": "/run/user/0",
    }
    kept = service_environment(ANN, environment, run=str(tmp_path))
    assert kept == {
        "NSBOX_PORT": "1",
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm",
        "HTTPS_PROXY": "http://p",
        "PATH": kept["PATH"],
        "HOME": "/home/ann",
        "USER": "ann",
        "LOGNAME": "ann",
        "SHELL": "/bin/sh",
    }
    (tmp_path / "user" / "77").mkdir(parents=True)
    assert (
        service_environment(ANN, environment, run=str(tmp_path))["XDG_RUNTIME_DIR"] == f"{tmp_path}/user/77"
    )


def test_the_same_nsbox_starts_again_from_anywhere(tmp_path):
    """Also where the current folder has another package of that name."""
    (tmp_path / "nsbox").mkdir()
    (tmp_path / "nsbox" / "__init__.py").write_text("")
    (tmp_path / "nsbox" / "__main__.py").write_text("print('an impostor')")
    command, environment = self_command(["--version"], {"PATH": os.environ["PATH"]})
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"nsbox, version {nsbox.__version__}\n"


def test_nobody_to_drop_to(monkeypatch):
    with pytest.raises(HostProblem) as caught:
        account.drop_to("nosuchuser", [])
    assert caught.value.remedy == "sudo nsbox setup"
    with pytest.raises(HostProblem, match="does not run as root"):
        account.drop_to("root", [])
    monkeypatch.setattr(account, "find", lambda name: ANN)
    with pytest.raises(HostProblem, match="subordinate ids"):
        account.drop_to("ann", [])


_DROP = """
import os, sys
os.chdir("/")
from nsbox.host import account
account.self_command = lambda arguments, environment: (
    [sys.executable, "-I", "-c", sys.argv[2], *arguments], dict(environment))
account.drop_to(sys.argv[1], ["a", "b"], {"NSBOX_STATE_DIR": "/d", "NSBOX_X": "default"})
"""
_SHOW = """
import os, sys
status = open("/proc/self/status").read()
groups = [line for line in status.splitlines() if line.startswith(("Uid", "Gid", "Groups", "CapPrm"))]
names = ("NSBOX_STATE_DIR", "NSBOX_X", "HOME")
print(sys.argv[1:], *(os.environ[name] for name in names), oct(os.umask(0)))
print(open("/proc/self/comm").read().strip() != "", os.stat("/proc/self/environ").st_uid == os.getuid())
print(*groups, sep="|")
"""


def test_the_drop_is_whole():
    user = os.environ.get("NSBOX_TEST_USER")
    if os.geteuid() != 0 or not user:
        pytest.skip("needs root, and an account named in NSBOX_TEST_USER")
    entry = pwd.getpwnam(user)
    done = subprocess.run(
        [sys.executable, "-c", _DROP, user, _SHOW],
        env={
            **os.environ,
            "NSBOX_X": "given",
            "PYTHONPATH": os.path.dirname(os.path.dirname(nsbox.__file__)),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    words, dumpable, ids = done.stdout.splitlines()
    assert words == f"['a', 'b'] /d given {entry.pw_dir} 0o77"
    assert dumpable == "True True"
    uid, gid = entry.pw_uid, entry.pw_gid
    groups = " ".join(map(str, sorted(os.getgrouplist(user, gid))))
    assert ids.split("|")[:2] == [f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}", f"Gid:\t{gid}\t{gid}\t{gid}\t{gid}"]
    assert ids.split("|")[2].split() == ["Groups:", *groups.split()]
    assert ids.split("|")[3].split() == ["CapPrm:", "0" * 16]
