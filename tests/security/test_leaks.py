# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""What a command can see, searched for what is the host's: row 3 of the acceptance list.

The kernel itself is shared, and tells of the machine: its version, its memory, load and uptime, processors, the
id of its boot. That is said in docs/security.md and not counted here.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.plugin import Say
from tests.e2e.account import CHECKOUT
from tests.e2e.client import Sandbox
from tests.e2e.daemon import Daemon

#: Everything that can be read without leaving /proc, /dev and a few folders, by place. One process, since what
#: is looked at is also what a command gets: descriptors, environment, folder, limits, signals.
_LOOK = r"""
import json, os, socket, stat
seen = {}
def look(place, work):
    try: seen[place] = work()
    except OSError as error: seen[place] = -error.errno
def read(path, most=1 << 18):
    with open(path, "rb") as file: return file.read(most).decode("latin-1")
look("cwd", os.getcwd)
look("environment", lambda: dict(os.environ))
look("hostname", socket.gethostname)
look("uname", lambda: list(os.uname()))
look("groups", os.getgroups)
for number in range(1024):
    try: os.fstat(number)
    except OSError: continue
    look(f"descriptor {number}", lambda: os.readlink(f"/proc/self/fd/{number}"))
own = {"self", "thread-self", str(os.getpid())}
for pid in sorted(name for name in os.listdir("/proc") if name.isdigit() and name not in own) + ["self"]:
    for name in ("cmdline", "environ", "maps", "smaps", "auxv", "stack", "syscall", "wchan", "status", "stat", "limits",
                 "cgroup", "mounts", "mountinfo", "mountstats", "uid_map", "sched", "io", "personality", "timers"):
        look(f"/proc/{pid}/{name}", lambda: read(f"/proc/{pid}/{name}"))
    for name in ("exe", "cwd", "root"):
        look(f"/proc/{pid}/{name}", lambda: os.readlink(f"/proc/{pid}/{name}"))
    if pid != "self":
        look(f"/proc/{pid}/exe, to write", lambda: os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY)))
        look(f"/proc/{pid}/mem", lambda: os.pread(os.open(f"/proc/{pid}/mem", os.O_RDONLY), 8, 0x400000).hex())
    for folder in ("fd", "map_files"):
        look(f"/proc/{pid}/{folder}", lambda: [os.readlink(f"/proc/{pid}/{folder}/{name}")
             for name in os.listdir(f"/proc/{pid}/{folder}") if os.path.islink(f"/proc/{pid}/{folder}/{name}")])
for kind in sorted(os.listdir("/proc/self/ns")):
    look(f"namespace {kind}", lambda: os.readlink(f"/proc/self/ns/{kind}"))
for base, folders, names in os.walk("/proc"):
    folders[:] = [name for name in folders if not name.isdigit() and name not in ("self", "thread-self", "task")]
    for name in names:
        path = os.path.join(base, name)
        if path in ("/proc/kmsg", "/proc/self", "/proc/thread-self") or not os.access(path, os.R_OK): continue
        if stat.S_IFMT(os.lstat(path).st_mode) not in (stat.S_IFREG, stat.S_IFCHR): continue  # a mask is /dev/null
        look(path, lambda: read(path, 1 << 16))
for path in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/machine-id", "/etc/passwd", "/etc/mtab", "/etc/fstab"):
    look(path, lambda: read(path))
for folder in ("/", "/root", "/home", "/tmp", "/var", "/var/lib", "/var/log", "/run", "/dev", "/dev/pts", "/dev/shm",
               "/dev/mqueue", "/sys/class/net", "/sys/fs/cgroup", "/sys/firmware", "/srv", "/mnt", "/opt"):
    look(f"{folder}/", lambda: sorted(os.listdir(folder)))
look("addresses of symbols", lambda: sorted({line.split()[0] for line in read("/proc/kallsyms").splitlines()})[:4])
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def pair(daemon: Daemon) -> Iterator[tuple[Sandbox, Sandbox]]:
    with daemon.api() as api:
        both = api.sandbox(envVars={"GIVEN": "value"}), api.sandbox()
        yield both
        for one in both:
            api.kill(one.id)


@pytest.fixture(scope="module")
def seen(pair: tuple[Sandbox, Sandbox]) -> dict[str, Any]:
    one, other = pair
    other.request(
        "POST", "/processes", {"command": ["sleep", "81011"], "envVars": {"NEIGHBOUR": "neighbours-canary"}}
    )
    one.write("/tmp/x", "x")  # a file agent is there, too
    found: dict[str, Any] = json.loads(one.out(["python3", "-c", _LOOK], timeoutMs=60_000))
    return found


def canaries(daemon: Daemon, other: Sandbox) -> dict[str, str]:
    """What must not be found anywhere, by what it is."""
    found = {
        "the state folder": daemon.state_dir,
        "the program's folder": str(CHECKOUT),
        "the daemon's environment": "host-environment-canary",
        "a name of the daemon's environment": "HOST_SECRET",
        "the API key": str(daemon.key),
        "the daemon's arguments": "--state-dir",
        "a neighbour's id": other.id,
        "a neighbour's command": "81011",
        "a neighbour's environment": "neighbours-canary",
    }
    if len(platform.node()) > 5:  # "vm" would be found anywhere
        found["the host's name"] = platform.node()
    for what, path in (
        ("the host's machine-id", "/etc/machine-id"),
        ("the host's kernel command line", "/proc/cmdline"),
    ):
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read().strip()
        except OSError:
            continue
        if len(text) >= 12:  # a shorter one would be found by chance
            found[what] = text
    # Above the sandbox's own cgroup, which is the root in its namespace. A very short path is no canary.
    with open(f"/proc/{daemon.pid}/cgroup", encoding="ascii") as file:
        path = next((line.split(":", 2)[2].strip() for line in file if line.startswith("0::")), "")
    if len(path) > 8:
        found["the daemon's cgroup"] = path
    sources = subprocess.run(
        ["findmnt", "-rno", "SOURCE", "/"], capture_output=True, text=True, check=False
    ).stdout
    if sources.startswith("/dev/"):
        found["the host's disk"] = sources.strip()
    return found


def test_nothing_that_is_the_hosts_is_seen(
    daemon: Daemon, pair: tuple[Sandbox, Sandbox], seen: dict[str, Any], figure: Say
) -> None:
    looked_for = canaries(daemon, pair[1])
    leaks = [
        (place, what)
        for place, value in seen.items()
        for what, canary in looked_for.items()
        if canary in (value if isinstance(value, str) else json.dumps(value))
    ]
    readable = sum(not isinstance(value, int) for value in seen.values())
    figure(3, tried=len(seen), bad=len(leaks), readable=readable, looked_for=len(looked_for))
    assert len(seen) > 200


def test_what_a_command_is_given_is_its_own(
    seen: dict[str, Any], pair: tuple[Sandbox, Sandbox], figure: Say
) -> None:
    descriptors = {place: value for place, value in seen.items() if place.startswith("descriptor ")}
    assert set(descriptors) == {"descriptor 0", "descriptor 1", "descriptor 2"}, descriptors
    assert all(str(value).startswith("pipe:") for value in descriptors.values())
    assert seen["cwd"] == "/root"
    assert seen["groups"] in ([], [0])
    assert seen["hostname"] == pair[0].id.replace("_", "-")[:12]
    assert {path: seen[path] for path in ("/proc/cmdline", "/proc/swaps")} == {
        "/proc/cmdline": "",
        "/proc/swaps": "",
    }
    assert seen["addresses of symbols"] in (["0000000000000000"], []) or seen["addresses of symbols"] < 0
    assert all(
        path.split(":", 2)[2].startswith("/") and "box-" not in path
        for path in seen["/proc/self/cgroup"].split()
    )
    # Its own links, and no bridge, card or address of the host's.
    assert {"lo"} <= set(seen["/sys/class/net/"]) <= {"lo", "eth0"}, seen["/sys/class/net/"]
    # Where everything comes from: of the host's tree nothing is left, hidden below or above its own.
    points = [line.split()[4] for line in seen["/proc/self/mountinfo"].splitlines()]
    outside = [point for point in points if point != "/" and not point.startswith(("/dev", "/proc", "/sys"))]
    assert (outside, points.count("/")) == ([], 1), points
    figure(3, tried=len(descriptors) + 8)


def test_all_namespaces_are_its_own(pair: tuple[Sandbox, Sandbox], seen: dict[str, Any], figure: Say) -> None:
    """Seven kinds, each another one than the host's and than the neighbour's."""
    kinds = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
    own = {kind: seen[f"namespace {kind}"] for kind in kinds}
    hosts = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    others = dict(zip(kinds, pair[1].out([
        "sh", "-c", "for kind in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$kind; done",
    ]).split(), strict=True))  # fmt: skip
    shared = {kind for kind in kinds if own[kind] in (hosts[kind], others[kind])}
    figure(3, tried=len(kinds), bad=len(shared))
    assert shared == set()


def test_processes_of_nsbox_show_and_take_nothing(seen: dict[str, Any], figure: Say) -> None:
    """Not memory, environment or descriptors, and their program is not opened for writing (CVE-2019-5736)."""
    ours = {
        place.split("/")[2] for place, value in seen.items()
        if place.endswith("/status") and isinstance(value, str) and value.startswith("Name:\tnsbox")
    }  # fmt: skip
    assert len(ours) >= 2, ours  # init, and a spawner or an agent
    private = ("environ", "maps", "smaps", "auxv", "stack", "syscall", "exe", "cwd", "root", "fd", "map_files", "mem", "io",
               "personality", "timers", "exe, to write")  # fmt: skip
    shown = [
        place for pid in ours for name in private
        if not isinstance(seen[place := f"/proc/{pid}/{name}"], int) and seen[place]
    ]  # fmt: skip
    figure(3, tried=len(ours) * len(private), bad=len(shown))
    assert shown == []
