# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""The walls as a command inside meets them: who it is, what it has, what it sees, what it is refused."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from nsbox.host import facts
from tests.acceptance.plugin import Say
from tests.e2e.account import CHECKOUT
from tests.e2e.client import Sandbox
from tests.e2e.daemon import Daemon, descendants, wait_until

ELEVEN = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_CHROOT",
)  # fmt: skip
#: capability.h: the numbers of the eleven.
NUMBERS = (0, 1, 3, 4, 5, 10, 31, 6, 8, 7, 18)
MASK = sum(1 << number for number in NUMBERS)
MACHINE = platform.machine()


@pytest.fixture(scope="module")
def inside(daemon: Daemon) -> Iterator[Sandbox]:
    """One sandbox for all the looking."""
    with daemon.api() as api:
        made = api.sandbox(envVars={"GIVEN": "value"})
        yield made
        api.kill(made.id)


def status(sandbox: Sandbox, **more: Any) -> dict[str, str]:
    text = sandbox.out(["cat", "/proc/self/status"], **more)
    return {line.split(":")[0]: line.split(":", 1)[1].strip() for line in text.splitlines()}


def script(sandbox: Sandbox, source: str, **more: Any) -> Any:
    """What a Python program inside prints as JSON."""
    return json.loads(sandbox.out(["python3", "-c", source], **more))


# ---- identity


def test_root_inside_is_a_subordinate_id_outside(daemon: Daemon, inside: Sandbox) -> None:
    assert inside.out(["id", "-u"]) == "0\n"
    assert inside.out(["cat", "/proc/self/uid_map"]).split() == ["0", "1", "65536"]
    assert inside.out(["cat", "/proc/self/gid_map"]).split() == ["0", "1", "65536"]
    ranges = facts.sub_ids("/etc/subuid", daemon.who.name, daemon.who.uid)
    started = inside.request("POST", "/processes", {"command": ["sleep", "8101"]})
    assert started.status == 201, started
    uids: set[int] = set()

    def seen() -> set[int]:
        for one in descendants(daemon.pid):
            with contextlib.suppress(OSError), open(f"/proc/{one.pid}/cmdline", "rb") as file:
                if b"8101" in file.read():
                    uids.add(os.stat(f"/proc/{one.pid}").st_uid)
        return uids

    # Not one look: /proc is no snapshot, and who changes parents meanwhile is missed.
    wait_until(seen, what="the command is seen from outside")
    (uid,) = uids
    assert any(one.start <= uid <= one.last for one in ranges), uid
    assert uid not in (0, daemon.who.uid)


def test_exactly_the_eleven_capabilities(inside: Sandbox) -> None:
    told = status(inside)
    assert {name: int(told[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == dict.fromkeys(
        ("CapPrm", "CapEff", "CapBnd"), MASK
    )
    assert (int(told["CapInh"], 16), int(told["CapAmb"], 16)) == (0, 0)
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
    assert told["Groups"] == ""
    assert len(ELEVEN) == len(NUMBERS) == MASK.bit_count() == 11


def test_an_ordinary_user_has_none(inside: Sandbox) -> None:
    told = status(inside, user="1000:1000", cwd="/")
    assert {int(told[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    assert (told["Uid"].split(), told["NoNewPrivs"], told["Seccomp"]) == (["1000"] * 4, "1", "2")
    assert (
        inside.run("cat /root/x; touch /usr/x; chroot / true; chown 0 /tmp", user="1000:1000", cwd="/")[
            "exitCode"
        ]
        != 0
    )


def test_process_1_is_walled_in_too(inside: Sandbox) -> None:
    told = dict(line.split(":", 1) for line in inside.out(["cat", "/proc/1/status"]).splitlines())
    assert int(told["CapEff"], 16) & ~MASK == 0
    assert int(told["CapBnd"], 16) & ~MASK == 0
    assert (told["NoNewPrivs"].strip(), told["Seccomp"].strip()) == ("1", "2")


# ---- what a command is given


@pytest.mark.parametrize("command", [["ls", "-l", "/proc/self/fd"], "ls -l /proc/self/fd"])
def test_three_descriptors(inside: Sandbox, command: str | list[str], figure: Say) -> None:
    rows = [line.split(" -> ") for line in inside.out(command).splitlines()[1:]]
    found = {int(row[0].split()[-1]): row[1] for row in rows}
    own = [number for number, target in found.items() if target.startswith("/proc/")]  # ls reads the folder
    assert sorted(set(found) - set(own)) == [0, 1, 2], found
    assert all(found[number].startswith("pipe:") for number in (0, 1, 2))
    figure(3, tried=len(found))


def test_three_descriptors_in_the_background_too(inside: Sandbox, figure: Say) -> None:
    inside.request("POST", "/processes", {"command": ["sleep", "8102"]})
    found = inside.out("for p in $(pgrep -f '^sleep 8102'); do ls /proc/$p/fd; done")
    assert found.split() == ["0", "1", "2"]
    figure(3, tried=1)


def test_the_environment_is_what_it_should_be(inside: Sandbox, figure: Say) -> None:
    found = dict(pair.split("=", 1) for pair in inside.out(["env", "-0"]).split("\0") if pair)
    assert found.pop("GIVEN") == "value"
    assert set(found) <= {
        "PATH", "HOME", "LANG", "PIP_ROOT_USER_ACTION", "PIP_DISABLE_PIP_VERSION_CHECK", "NPM_CONFIG_UPDATE_NOTIFIER",
    }, found  # fmt: skip
    assert (found["HOME"], found["LANG"]) == ("/root", "C.UTF-8")
    everything = inside.out("cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; true")
    canaries = ("NSBOX", "host-environment-canary", "HOST_SECRET", "NOTIFY_SOCKET", "PYTHON")
    figure(3, tried=len(canaries), bad=sum(leak in everything for leak in canaries))


def test_no_signal_is_ignored_or_blocked(inside: Sandbox) -> None:
    """An ignored signal stays ignored across exec: a server that reloads on HUP would never hear it."""
    told = status(inside)
    of_glibc = 1 << 31 | 1 << 32  # 32 and 33, which its posix_spawn ignores and its pthreads set anew
    assert int(told["SigIgn"], 16) & ~of_glibc == 0, told["SigIgn"]
    assert (int(told["SigBlk"], 16), int(told["SigPnd"], 16)) == (0, 0)


def test_limits_and_session(inside: Sandbox) -> None:
    assert inside.out("ulimit -Hc; ulimit -Sc") == "0\n0\n"
    source = "import os, json, signal; print(json.dumps([os.getsid(0) == os.getpid(), os.umask(0), [int(s) for s in signal.Signals if signal.getsignal(s) == signal.SIG_IGN]]))"
    own_session, umask, ignored = script(inside, source)
    assert (own_session, umask) == (True, 0o022)
    assert ignored == [13, 25]  # PIPE and XFSZ, by this Python itself


# ---- /proc and /sys


def test_process_1_shows_nothing(inside: Sandbox, figure: Say) -> None:
    refused = inside.run(
        "for f in environ maps mem auxv stack syscall; do cat /proc/1/$f && echo LEAK; done; for f in exe cwd root; do readlink /proc/1/$f && echo LEAK; done; ls /proc/1/fd && echo LEAK; ls /proc/1/map_files && echo LEAK; true"
    )
    assert "LEAK" not in refused["stdout"], refused
    cmdline = inside.out("tr '\\0' ' ' </proc/1/cmdline").strip()
    assert cmdline in ("", "nsbox", "nsbox-init"), cmdline
    figure(3, tried=11)


def test_nsboxs_own_processes_show_nothing(daemon: Daemon, inside: Sandbox, figure: Say) -> None:
    """File agents and what starts commands: forks of init, of keeper's program."""
    inside.write("/tmp/x", "x")
    table = script(inside, """
import json, os
found = {}
for pid in os.listdir("/proc"):
    if pid.isdigit() and int(pid) != os.getpid():
        row = {}
        for name in ("cmdline", "environ", "maps", "mem"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file: row[name] = file.read(4096).decode("latin-1")
            except OSError as error: row[name] = -error.errno
        for name in ("exe", "cwd", "root"):
            try: row[name] = os.readlink(f"/proc/{pid}/{name}")
            except OSError as error: row[name] = -error.errno
        try: row["fd"] = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError as error: row["fd"] = -error.errno
        found[pid] = row
print(json.dumps(found))
""")  # fmt: skip
    ours = {pid: row for pid, row in table.items() if "nsbox" in str(row["cmdline"])}
    assert ours, table
    for pid, row in ours.items():
        readable = {
            name: value for name, value in row.items() if name != "cmdline" and not isinstance(value, int)
        }
        assert readable == {}, (pid, readable)
        assert daemon.state_dir not in row["cmdline"]
    figure(3, tried=len(ours))


@pytest.mark.parametrize(
    "path",
    [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/latency_stats",
        "/proc/interrupts",
        "/proc/cmdline",
        "/proc/swaps",
        "/proc/diskstats",
        "/proc/partitions",
    ],
)
def test_masked_files_are_empty(inside: Sandbox, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"this kernel has no {path}")
    assert inside.out(f"head -c 100 {path} | wc -c").strip() == "0"


@pytest.mark.parametrize(
    "path", ["/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap"]
)
def test_masked_folders_are_empty(inside: Sandbox, path: str) -> None:
    if not os.path.isdir(path):
        pytest.skip(f"this kernel has no {path}")
    assert inside.out(["ls", "-A", path]) == ""


def test_the_kernel_is_not_written(inside: Sandbox) -> None:
    tried = [
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/user/max_user_namespaces", "/proc/sysrq-trigger", "/proc/sys/fs/binfmt_misc/register", "/proc/irq/0/smp_affinity",
        "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/class/net/lo/mtu", "/sys/power/state", "/sys/fs/cgroup/cgroup.procs",
        "/proc/1/oom_score_adj", "/proc/1/uid_map", "/proc/self/uid_map",
    ]  # fmt: skip
    source = "import json, os, sys\nout = {}\nfor p in sys.argv[1:]:\n    try:\n        fd = os.open(p, os.O_WRONLY); os.write(fd, b'1'); out[p] = 'written'\n    except OSError as e: out[p] = e.errno\nprint(json.dumps(out))"
    found = json.loads(inside.out(["python3", "-c", source, *tried]))
    assert [path for path, result in found.items() if result == "written"] == [], found
    print(f"kernel files: {len(tried)} tried, 0 written")


def test_mounts_are_of_the_sandbox_alone(daemon: Daemon, inside: Sandbox) -> None:
    rows = [line.split(" - ") for line in inside.out(["cat", "/proc/self/mountinfo"]).splitlines()]
    options = {row[0].split()[4]: row[0].split()[5] for row in rows}
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options["/sys"].split(","))
    assert {"nosuid", "nodev", "noexec"} <= set(options["/proc"].split(","))
    assert "ro" in options["/proc/sys"].split(",")
    assert {"nosuid", "noexec"} <= set(options["/dev"].split(","))
    whole = json.dumps(rows)
    for leak in (daemon.state_dir, str(CHECKOUT), "/home", "/dev/vd", "/dev/sd", "/dev/nvme"):
        assert leak not in whole, leak


def test_dev_has_what_it_must_and_no_more(inside: Sandbox) -> None:
    found = set(inside.out(["ls", "-A", "/dev"]).split())
    assert found == {
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr",
    }  # fmt: skip
    assert inside.out(
        "head -c 4 /dev/zero | od -An -tx1; echo x >/dev/null; head -c 8 /dev/urandom | wc -c"
    ).split() == ["00"] * 4 + ["8"]


# ---- ways out


CALLS = """
import ctypes, json, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
numbers, out = json.loads(sys.argv[1]), {}
def call(label, name, *arguments):
    ctypes.set_errno(0)
    converted = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(numbers[name]), *converted)
    out[label] = "done" if result >= 0 else ctypes.get_errno()
own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
call("mount tmpfs", "mount", b"none", b"/mnt", b"tmpfs", 0, None)
call("mount proc", "mount", b"proc", b"/tmp", b"proc", 0, None)
call("bind mount", "mount", b"/etc", b"/tmp", None, 4096, None)
call("remount proc/sys rw", "mount", None, b"/proc/sys", None, 4096 | 32, None)
call("mount overlay", "mount", b"o", b"/tmp", b"overlay", 0, b"lowerdir=/etc:/usr")
call("umount /proc/sys", "umount2", b"/proc/sys", 2)
call("umount /dev", "umount2", b"/dev", 2)
call("pivot_root", "pivot_root", b"/tmp", b"/tmp")
call("fsopen", "fsopen", b"tmpfs", 0)
call("open_tree", "open_tree", -100, b"/", 1)
call("move_mount", "move_mount", -100, b"/etc", -100, b"/tmp", 0)
call("mount_setattr", "mount_setattr", -100, b"/", 0, None, 0)
for name, flag in (("user", 0x10000000), ("mnt", 0x20000), ("pid", 0x20000000), ("net", 0x40000000), ("ipc", 0x8000000),
                   ("uts", 0x4000000), ("cgroup", 0x2000000), ("time", 0x80)):
    call("unshare " + name, "unshare", flag)
call("setns", "setns", own, 0)
for name, flag in (("user", 0x10000000), ("mnt", 0x20000), ("pid", 0x20000000)):
    call("clone " + name, "clone", flag | 17, 0, 0, 0, 0)
call("clone3", "clone3", ctypes.create_string_buffer(88), 88)
call("ptrace init", "ptrace", 0x4206, 1, 0, 0)
here, there = ctypes.create_string_buffer(8), ctypes.create_string_buffer(b"\\0" * 2 + b"\\x40" + b"\\0" * 5 + b"\\x08" + b"\\0" * 7, 16)
local = (ctypes.c_long * 2)(ctypes.addressof(here), 8)
call("process_vm_readv init", "process_vm_readv", 1, local, 1, there, 1, 0)
call("bpf", "bpf", 0, None, 0)
call("perf_event_open", "perf_event_open", None, 0, -1, -1, 0)
call("keyctl", "keyctl", 0, -3, 0)
call("add_key", "add_key", b"user", b"a", b"b", 1, -3)
call("io_uring_setup", "io_uring_setup", 1, ctypes.create_string_buffer(120))
call("userfaultfd", "userfaultfd", 0)
call("kexec_load", "kexec_load", 0, 0, None, 0)
call("init_module", "init_module", None, 0, b"")
call("reboot", "reboot", 0xfee1dead, 672274793, 0, None)
call("swapon", "swapon", b"/tmp/x", 0)
call("open_by_handle_at", "open_by_handle_at", -100, ctypes.create_string_buffer(64), 0)
call("name_to_handle_at", "name_to_handle_at", -100, b"/", ctypes.create_string_buffer(64), ctypes.create_string_buffer(8), 0)
call("mknod disk", "mknodat", -100, b"/tmp/disk", 0o60666, 0xfe00)
call("mknod mem", "mknodat", -100, b"/tmp/mem", 0o20666, 0x101)
call("sethostname", "sethostname", b"x", 1)
call("settimeofday", "settimeofday", ctypes.create_string_buffer(16), None)
call("syslog", "syslog", 3, ctypes.create_string_buffer(64), 64)
call("acct", "acct", b"/tmp/x")
call("quotactl", "quotactl", 0, None, 0, None)
call("iopl or none", "personality", 0x0400000 | 8)
print(json.dumps(out))
"""
X86_64 = {
    "mount": 165, "umount2": 166, "pivot_root": 155, "fsopen": 430, "open_tree": 428, "move_mount": 429, "mount_setattr": 442,
    "unshare": 272, "setns": 308, "clone": 56, "clone3": 435, "ptrace": 101, "process_vm_readv": 310, "bpf": 321,
    "perf_event_open": 298, "keyctl": 250, "add_key": 248, "io_uring_setup": 425, "userfaultfd": 323, "kexec_load": 246,
    "init_module": 175, "reboot": 169, "swapon": 167, "open_by_handle_at": 304, "name_to_handle_at": 303, "mknodat": 259,
    "sethostname": 170, "settimeofday": 164, "syslog": 103, "acct": 163, "quotactl": 179, "personality": 135,
}  # fmt: skip
AARCH64 = {
    "mount": 40, "umount2": 39, "pivot_root": 41, "fsopen": 430, "open_tree": 428, "move_mount": 429, "mount_setattr": 442,
    "unshare": 97, "setns": 268, "clone": 220, "clone3": 435, "ptrace": 117, "process_vm_readv": 270, "bpf": 280,
    "perf_event_open": 241, "keyctl": 219, "add_key": 217, "io_uring_setup": 425, "userfaultfd": 282, "kexec_load": 104,
    "init_module": 105, "reboot": 142, "swapon": 224, "open_by_handle_at": 265, "name_to_handle_at": 264, "mknodat": 33,
    "sethostname": 161, "settimeofday": 170, "syslog": 116, "acct": 89, "quotactl": 60, "personality": 92,
}  # fmt: skip


@cache
def numbers() -> dict[str, int]:
    if MACHINE not in ("x86_64", "aarch64"):
        pytest.skip(f"no system call numbers for {MACHINE} here")
    return X86_64 if MACHINE == "x86_64" else AARCH64


@pytest.mark.parametrize("user", ["root", "1000:1000"])
def test_ways_out_are_refused(inside: Sandbox, user: str, figure: Say) -> None:
    result = json.loads(inside.out(["python3", "-c", CALLS, json.dumps(numbers())], user=user, cwd="/"))
    done = {name for name, answer in result.items() if answer == "done"}
    # READ_IMPLIES_EXEC and name_to_handle_at change nothing for anybody else; opening by handle is what matters.
    harmless = {"name_to_handle_at"}
    denied = {name: answer for name, answer in result.items() if answer != "done"}
    print(f"system calls as {user}: {len(denied)} of {len(result)} denied")
    assert done - harmless == set(), done
    for name, answer in denied.items():
        expected = (
            {errno.ENOSYS}
            if name == "clone3"
            else {errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EFAULT, errno.ENOSPC}
        )
        if name == "process_vm_readv init":
            expected = {errno.EPERM}  # EFAULT would mean that only the address was wrong
        if name in ("kexec_load", "acct", "quotactl", "swapon"):
            expected |= {errno.ENOENT, errno.ENODEV}
        assert answer in expected, (name, errno.errorcode.get(answer, answer))
    assert (
        inside.out("ls /tmp/disk /tmp/mem 2>/dev/null; mountpoint -q /proc/sys && echo mounted")
        == "mounted\n"
    )
    figure(7, tried=len(denied))


def test_programs_for_namespaces_fail(inside: Sandbox) -> None:
    for command in (
        "unshare -U true",
        "unshare -Ur id",
        "unshare -m true",
        "nsenter -t 1 -m true",
        "mount -t tmpfs none /mnt",
        "umount -l /proc",
    ):
        assert inside.run(command)["exitCode"] != 0, command


def test_chroot_does_not_lead_out(daemon: Daemon, inside: Sandbox) -> None:
    """The classic: chroot below, climb by a descriptor kept from before. It ends at the sandbox's own root."""
    found = script(inside, f"""
import json, os
os.makedirs("/tmp/jail", exist_ok=True)
keep = os.open("/", os.O_RDONLY)
os.chroot("/tmp/jail"); os.fchdir(keep)
for _ in range(100): os.chdir("..")
os.chroot(".")
print(json.dumps([sorted(os.listdir("/")), os.path.exists({daemon.state_dir!r}), os.path.exists({str(CHECKOUT)!r})]))
""")  # fmt: skip
    assert found == [sorted(inside.out(["ls", "-A", "/"]).split()), False, False]


def test_nothing_of_the_host_is_there(daemon: Daemon, inside: Sandbox, figure: Say) -> None:
    for path in (
        daemon.state_dir,
        str(CHECKOUT),
        "/var/lib/nsbox",
        "/etc/subuid",
        "/var/log/dpkg.log",
        "/sys/fs/cgroup/unified",
    ):
        shown = inside.run(["ls", "-A", path])
        assert shown["exitCode"] != 0 or shown["stdout"] == "", (path, shown)
    accounts = inside.out("cat /etc/passwd /etc/shadow /etc/group 2>/dev/null; true")
    assert daemon.who.name not in accounts.replace("root", "")
    assert "$" not in accounts  # no password of anybody
    hostname = inside.out(["hostname"]).strip()
    assert hostname == inside.id.replace("_", "-")[:12]
    assert hostname != platform.node()
    figure(3, tried=6)


def test_a_setuid_program_gains_nothing(inside: Sandbox) -> None:
    inside.out("cp /usr/bin/id /tmp/id; chmod 6755 /tmp/id; chmod 755 /tmp")
    assert inside.out(["/tmp/id", "-u"], user="1000:1000", cwd="/") == "1000\n"


# ---- other sandboxes


@pytest.fixture
def pair(daemon: Daemon) -> Iterator[tuple[Sandbox, Sandbox]]:
    with daemon.api() as api:
        both = api.sandbox(), api.sandbox()
        yield both
        for one in both:
            api.kill(one.id)


def test_pid_spaces_are_apart(pair: tuple[Sandbox, Sandbox]) -> None:
    one, other = pair
    one.request("POST", "/processes", {"command": ["sleep", "8201"]})
    seen = other.out("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "8201" not in seen
    assert int(other.out("ls -d /proc/[0-9]* | wc -l")) < 15
    assert other.out("kill -9 -1; true") == ""
    assert "8201" in one.out("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


def test_networks_are_apart(pair: tuple[Sandbox, Sandbox]) -> None:
    one, other = pair
    listen = """
import socket, time
made = []
for family, address in ((socket.AF_INET, ("0.0.0.0", 7777)), (socket.AF_UNIX, "\\0nsbox-abstract")):
    sock = socket.socket(family); sock.bind(address); sock.listen(); made.append(sock)
open("/tmp/listening", "w").close(); time.sleep(600)
"""
    one.request("POST", "/processes", {"command": ["python3", "-c", listen]})
    connect = """
import json, socket
out = []
for family, address in ((socket.AF_INET, ("127.0.0.1", 7777)), (socket.AF_UNIX, "\\0nsbox-abstract")):
    sock = socket.socket(family)
    try: sock.connect(address); out.append("connected")
    except OSError as error: out.append(error.errno)
print(json.dumps(out))
"""
    one.out("while [ ! -e /tmp/listening ]; do sleep 0.02; done")
    assert script(one, connect) == ["connected", "connected"]  # there is something to reach
    assert script(other, connect) == [errno.ECONNREFUSED, errno.ECONNREFUSED]


def test_the_hosts_loopback_is_not_reached(daemon: Daemon, inside: Sandbox) -> None:
    port = int(daemon.url.rsplit(":", 1)[1])
    for address in ("127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1"):
        source = f"import socket; s = socket.socket(socket.AF_INET6 if ':' in {address!r} else socket.AF_INET); s.settimeout(3); s.connect(({address!r}, {port}))"
        assert inside.run(["python3", "-c", source])["exitCode"] != 0, address
    interfaces = inside.out(["ls", "/sys/class/net"]).split()
    assert interfaces[:1] == ["lo"] or "lo" in interfaces
    print("interfaces inside:", interfaces)


def test_sysv_ipc_is_apart(pair: tuple[Sandbox, Sandbox]) -> None:
    one, other = pair
    get = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); print(libc.shmget(0x4e534258, 4096, {flags}), ctypes.get_errno())"
    made = one.out(["python3", "-c", get.format(flags="0o1666")]).split()
    assert int(made[0]) >= 0, made
    assert one.out(["python3", "-c", get.format(flags="0")]).split()[0] == made[0]
    assert other.out(["python3", "-c", get.format(flags="0")]).split() == ["-1", str(errno.ENOENT)]
    one.out("echo x >/dev/shm/mine")
    assert other.out(["ls", "-A", "/dev/shm"]) == ""


# ---- the template


def _hashes(daemon: Daemon) -> dict[str, str]:
    found: dict[str, str] = {}
    layers = os.path.join(daemon.state_dir, "layers")
    for layer in os.listdir(layers):
        for path in (
            "etc/passwd",
            "usr/bin/env",
            "usr/bin/sh",
            "bin/sh",
            "etc/ssl/certs/ca-certificates.crt",
            "etc/os-release",
        ):
            with contextlib.suppress(OSError), open(os.path.join(layers, layer, path), "rb") as file:
                found[f"{layer}/{path}"] = hashlib.sha256(file.read()).hexdigest()
        found[layer] = (
            " ".join(sorted(os.listdir(os.path.join(layers, layer))))
            if os.path.isdir(os.path.join(layers, layer))
            else ""
        )
    return found


def test_the_template_is_never_changed(daemon: Daemon, pair: tuple[Sandbox, Sandbox]) -> None:
    one, other = pair
    before = _hashes(daemon)
    assert len(before) >= 3, before
    one.out(
        "echo evil >>/etc/passwd && rm -rf /usr/bin/env /bin/ls /etc/ssl && echo '#!/bin/sh' >/usr/bin/env && mkdir -p /usr/lib/new/pkg "
        "&& touch /usr/lib/new/pkg/__init__.py /usr/local/bin/tool && chmod 777 /usr /etc && mv /usr/share /usr/shared && touch -d @0 /usr/bin/*"
    )
    assert one.write("/usr/bin/cat", "broken", mode="755").status == 200
    assert one.remove("/etc", recursive="true").status == 200
    assert _hashes(daemon) == before
    assert other.out("cat /etc/passwd | grep -c evil || true; ls -d /usr/share /etc/ssl; env true && stat -c %a /usr").split() == [
        "0", "/etc/ssl", "/usr/share", "755",
    ]  # fmt: skip
    print(f"{len(before)} entries of layers hashed before and after: the same")


def test_installing_works_as_on_any_system(inside: Sandbox) -> None:
    """What pip and apt do: write below /usr, replace files, link, set modes, owners and times."""
    inside.out(
        "mkdir -p /tmp/pkg/thing && echo 'NAME = 7' >/tmp/pkg/thing/__init__.py && "
        "printf \"from setuptools import setup\\nsetup(name='thing', version='1', packages=['thing'])\" >/tmp/pkg/setup.py"
    )
    folder = inside.out(["python3", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    inside.out(f"mkdir -p {folder} && cp -r /tmp/pkg/thing {folder}/ && chown -R 0:0 {folder}/thing")
    assert inside.out(["python3", "-c", "import thing; print(thing.NAME)"]) == "7\n"
    inside.out(
        "echo x >/usr/bin/new && chmod 755 /usr/bin/new && ln -f /usr/bin/new /usr/bin/hard && mv /usr/bin/new /usr/bin/newer && chown 5:5 /usr/bin/newer"
    )
    assert inside.out("stat -c '%u %a %h' /usr/bin/newer") == "5 755 2\n"
