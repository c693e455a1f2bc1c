"""The seccomp policy in the running kernel: what it refuses, what breaks without it, what works under it."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import prctl
import pytest

from nsbox.kernel import libc, seccomp, syscalls
from tests.acceptance.plugin import Say

MACHINE = os.uname().machine
try:
    NUMBERS = syscalls.numbers(MACHINE)
except ValueError as unknown:
    pytest.skip(str(unknown), allow_module_level=True)

pytestmark = pytest.mark.namespaces

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

REFUSED = [name for name, _, verdict in seccomp.table(MACHINE) if verdict == "EPERM"]
#: A pointer, a descriptor and a set of flags that the kernel refuses everywhere, should it ever see them.
NONSENSE = (-1,) * 6


class Died(Exception):
    """The child was ended by this signal."""


def in_child(action: Callable[[], Any], *programs: bytes) -> Any:
    """What ``action`` returns (as JSON) in a forked child under these filters."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()  # no terminal of ours is within reach
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            prctl.set_no_new_privs(1)
            for program in programs:
                libc.seccomp_filter(program)
            answer = {"result": action()}
        except BaseException as error:
            answer = {"error": repr(error)}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as reader:
        text = reader.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise Died(signal.Signals(os.WTERMSIG(status)))
    answer = json.loads(text)
    assert "error" not in answer, answer
    return answer["result"]


def policy(*without: str) -> bytes:
    return seccomp.compile_policy(MACHINE, without=set(without))


def call(name: str | int, *arguments: int) -> tuple[int, int]:
    """Result and errno of a raw system call."""
    number = NUMBERS[name] if isinstance(name, str) else name
    ctypes.set_errno(0)
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments))
    return result, ctypes.get_errno()


def errno_of(name: str | int, *arguments: int) -> int:
    return call(name, *arguments)[1]


def errors(*attempts: tuple[str | int, *tuple[int, ...]]) -> Callable[[], list[int]]:
    return lambda: [errno_of(*attempt) for attempt in attempts]


# ------------------------------------------------------------------------------------- refused outright


def test_every_refused_call_says_eperm(figure: Say) -> None:
    answers = in_child(lambda: {name: errno_of(name, *NONSENSE) for name in REFUSED}, policy())
    other = {name: number for name, number in answers.items() if number != errno.EPERM}
    figure(7, tried=len(answers), bad=len(other))
    assert len(answers) > 60


def test_each_refusal_bites() -> None:
    """Left out one by one, each refusal gives way to what the kernel itself answers."""
    unfiltered = in_child(lambda: {name: errno_of(name, *NONSENSE) for name in REFUSED})
    telling = {name for name, number in unfiltered.items() if number != errno.EPERM}
    answers = {name: in_child(lambda: errno_of(name, *NONSENSE), policy(name)) for name in telling}  # noqa: B023
    assert answers == {name: unfiltered[name] for name in telling}
    # These need no privilege to be seen at work, so an ordinary user's run proves something as well.
    assert telling >= {"io_uring_enter", "keyctl", "add_key", "setns", "name_to_handle_at", "move_pages"}
    if os.geteuid() == 0:
        assert telling >= {"mount", "bpf", "pivot_root", "init_module", "kexec_load", "reboot", "fsopen"}


def test_calls_that_do_not_exist(figure: Say) -> None:
    newest = max(NUMBERS.values())
    numbers = ["clone3", newest + 1, 500, 600, 0x4000_0000 | 39, 0x7FFF_FFFF]
    assert in_child(errors(*((number,) for number in numbers)), policy()) == [errno.ENOSYS] * len(numbers)
    figure(7, tried=len(numbers))


def test_clone3_is_there_without_the_rule() -> None:
    assert in_child(errors(("clone3", 0, 0)), policy("clone3")) == [errno.EINVAL]


def test_commands_lose_the_clone3_that_init_has() -> None:
    init, guard = seccomp.init_policy(MACHINE), seccomp.clone3_guard(MACHINE)

    def start_one() -> int:
        pid = libc.clone3()
        if pid == 0:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert in_child(start_one, init) == 7
    attempts = errors(("clone3", 0, 0), ("mount", *NONSENSE), ("getpid",))
    assert in_child(attempts, init, guard) == [errno.ENOSYS, errno.EPERM, 0]


# ------------------------------------------------------------------------------------- by their arguments


FAMILIES = {"AF_ALG": 38, "AF_VSOCK": 40, "AF_PACKET": 17, "AF_KEY": 15, "AF_TIPC": 30, "AF_BLUETOOTH": 31}


def test_socket_families(figure: Say) -> None:
    attempts = [("socket", family, kind, 0) for family in FAMILIES.values() for kind in (1, 2, 3, 5)]
    wide = [("socket", family | 0x7_0000_0000, 1, 0) for family in FAMILIES.values()]
    pairs = [("socketpair", family, 1, 0, 0) for family in (*FAMILIES.values(), 2, 10)]
    answers = in_child(errors(*attempts, *wide, *pairs), policy())
    assert answers == [errno.EAFNOSUPPORT] * (len(attempts) + len(wide) + len(pairs))
    figure(7, tried=len(answers))


def test_socket_families_bite() -> None:
    families = {name: ("socket", family, 3, 0) for name, family in FAMILIES.items()}
    unfiltered = dict(zip(families, in_child(errors(*families.values())), strict=True))
    present = [name for name, number in unfiltered.items() if number != errno.EAFNOSUPPORT]
    if not present:
        pytest.skip("this kernel has none of the families that the policy refuses")
    answers = in_child(errors(*(families[name] for name in present)), policy("socket"))
    assert answers == [unfiltered[name] for name in present]


def test_socket_protocols(figure: Say) -> None:
    """SCTP, DCCP, UDP-Lite, MPTCP and the raw ones; netlink's crypto, audit, netfilter, generic and xfrm."""
    internet = [("socket", family, kind, number) for family in (2, 10) for kind, number in PROTOCOLS]
    netlink = [("socket", 16, 3, number) for number in (21, 9, 12, 16, 6)]
    answers = in_child(errors(*internet, *netlink), policy())
    assert answers == [errno.EPROTONOSUPPORT] * (len(internet) + len(netlink))
    figure(7, tried=len(answers))


PROTOCOLS = [(1, 132), (6, 33), (2, 136), (1, 262), (3, 255), (2, 115)]


def test_socket_protocols_bite() -> None:
    raw = ("socket", 2, 3, 255)
    unfiltered = in_child(errors(raw))
    assert unfiltered[0] in (0, errno.EPERM)
    assert in_child(errors(raw), policy("socket")) == unfiltered


def on_a_terminal(action: Callable[[int], Any]) -> Callable[[], Any]:
    """Give ``action`` a terminal of its own, as its controlling one."""

    def run() -> Any:
        _, terminal = os.openpty()
        errno_of("ioctl", terminal, 0x540E, 0)  # TIOCSCTTY
        return action(terminal)

    return run


TIOCSTI, TIOCLINUX, TIOCSETD, TIOCGWINSZ = 0x5412, 0x541C, 0x5423, 0x5413
UPPER_HALVES = (0, 1 << 32, 0x7FFF_FFFF << 32, -1 << 32)


def terminal_tricks(terminal: int) -> list[int]:
    byte = ctypes.create_string_buffer(8)  # a newline to type, or N_TTY: nothing of harm
    address = ctypes.addressof(byte)
    requests = [TIOCSTI, TIOCLINUX, TIOCSETD]
    return [
        errno_of("ioctl", terminal, half | request, address) for request in requests for half in UPPER_HALVES
    ]


def test_terminal_tricks_are_refused_whatever_the_upper_half_says(figure: Say) -> None:
    assert in_child(on_a_terminal(terminal_tricks), policy()) == [errno.EPERM] * 12
    figure(7, tried=12)


def test_terminal_tricks_bite() -> None:
    unfiltered = in_child(on_a_terminal(terminal_tricks))
    assert errno.EPERM not in unfiltered
    assert in_child(on_a_terminal(terminal_tricks), policy("ioctl")) == unfiltered


def test_other_terminal_requests_work() -> None:
    size = ctypes.create_string_buffer(8)
    action = on_a_terminal(lambda terminal: errno_of("ioctl", terminal, TIOCGWINSZ, ctypes.addressof(size)))
    assert in_child(action, policy()) == 0


NEW_NAMESPACES = {
    "mnt": 0x2_0000,
    "cgroup": 0x200_0000,
    "uts": 0x400_0000,
    "ipc": 0x800_0000,
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "net": 0x4000_0000,
}


def clone(flags: int) -> int:
    """fork(2) with these flags: its errno."""
    result, number = call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    if result > 0:
        os.waitpid(result, 0)
    return number


def test_no_new_namespaces(figure: Say) -> None:
    def attempt() -> list[int]:
        flags = [*NEW_NAMESPACES.values(), sum(NEW_NAMESPACES.values())]
        return [clone(flag) for flag in flags] + [errno_of("unshare", flag) for flag in (*flags, 0x80)]

    assert in_child(attempt, policy()) == [errno.EPERM] * 17
    figure(7, tried=17)


def test_no_new_namespaces_bites() -> None:
    user = NEW_NAMESPACES["user"]
    unfiltered = in_child(lambda: [clone(user), errno_of("unshare", user)])
    if unfiltered != [0, 0]:
        pytest.skip("this host lets nobody make user namespaces")
    assert in_child(lambda: [clone(user), errno_of("unshare", user)], policy("clone")) == [0, errno.EPERM]
    assert in_child(lambda: [clone(user), errno_of("unshare", user)], policy("unshare")) == [errno.EPERM, 0]


def test_processes_and_harmless_unsharing_work() -> None:
    def attempt() -> list[int]:
        vfork = 0x4000  # without CLONE_VM: the child would run on this stack
        return [clone(0), clone(vfork), errno_of("unshare", 0x600), errno_of("unshare", 0)]

    assert in_child(attempt, policy()) == [0, 0, 0, 0]


def test_personalities() -> None:
    query, read_implies_exec, no_randomize, bsd = 0xFFFF_FFFF, 0x40_0000, 0x4_0000, 0x6
    attempts = errors(
        ("personality", read_implies_exec),
        ("personality", read_implies_exec | 1 << 32),
        ("personality", bsd),
        ("personality", no_randomize),
        ("personality", 0),
        ("personality", query),
    )
    assert in_child(attempts, policy()) == [errno.EPERM] * 3 + [0] * 3
    assert in_child(attempts, policy("personality")) == [0] * 6


def i386_getpid() -> int:
    """getpid through the 32-bit entry: mov eax, 20; int 0x80; ret."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


@pytest.mark.skipif(MACHINE != "x86_64", reason="the 32-bit entry of x86")
def test_the_32_bit_entry_kills_and_bites(figure: Say) -> None:
    try:
        assert in_child(lambda: i386_getpid() == os.getpid())
    except (Died, AssertionError) as without_emulation:
        pytest.skip(f"this kernel has no 32-bit entry: {without_emulation!r}")
    with pytest.raises(Died) as death:
        in_child(i386_getpid, policy())
    assert death.value.args == (signal.SIGSYS,)
    assert in_child(lambda: i386_getpid() == os.getpid(), policy(seccomp.FOREIGN))
    figure(7, tried=1)


# -------------------------------------------------------------------------------------- what goes on working


def load_policy() -> None:
    prctl.set_no_new_privs(1)
    libc.seccomp_filter(policy())


def under_the_policy(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, preexec_fn=load_policy, capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )


def python(program: str) -> None:
    done = under_the_policy(sys.executable, "-I", "-W", "error", "-c", textwrap.dedent(program))
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_commands_are_under_the_filter() -> None:
    python("""
        with open("/proc/self/status") as file:
            status = file.read()
        assert "Seccomp:\\t2" in status and "NoNewPrivs:\\t1" in status, status
        print("fine")
    """)


def test_a_shell_works() -> None:
    script = (
        'set -e; cd "$(mktemp -d)"; for i in 3 1 2; do echo $i; done | sort > out; (sleep 0 & wait); cat out'
    )
    done = under_the_policy("sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n2\n3\n", "")


def test_threads_and_processes_work() -> None:
    python("""
        import concurrent.futures, subprocess, threading
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(len, ["ab"] * 100)) == 200
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
        assert subprocess.check_output(["echo", "x"]) == b"x\\n"
        assert subprocess.check_output("echo x | cat", shell=True) == b"x\\n"
        print("fine")
    """)


def test_sockets_work() -> None:
    python("""
        import asyncio, socket

        async def echo(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        async def main():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\\n")
            assert await reader.read() == b"hello\\n"
            writer.close()
            server.close()
            await asyncio.to_thread(socket.getaddrinfo, "localhost", 80)

        asyncio.run(main())
        left, right = socket.socketpair()
        left.send(b"x"), right.recv(1), left.close(), right.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as routes:
            routes.bind((0, 0))
        if socket.has_ipv6:
            socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
        print("fine")
    """)


def test_files_memory_and_time_work() -> None:
    python("""
        import fcntl, mmap, os, select, shutil, signal, sqlite3, tempfile, time
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "f")
            with open(path, "w+b") as file:
                file.write(b"x" * 5000)
                file.flush()
                fcntl.flock(file, fcntl.LOCK_EX)
                mmap.mmap(file.fileno(), 0).close()
                os.fsync(file.fileno())
                os.posix_fallocate(file.fileno(), 0, 9000)
            shutil.copytree(folder, folder + "2")
            shutil.rmtree(folder + "2")
            os.mkfifo(path + "fifo")
            os.symlink("f", path + "link")
            os.chmod(path, 0o600)
            with sqlite3.connect(path + "db") as database:
                database.execute("create table t (x)")
            database.close()
        signal.setitimer(signal.ITIMER_REAL, 0)
        select.epoll().close()
        time.sleep(0.001)
        os.close(os.memfd_create("m"))
        os.nice(1)
        os.sched_setaffinity(0, os.sched_getaffinity(0))
        print("fine")
    """)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_strace_works_and_shows_libc_falling_back_to_clone() -> None:
    program = "import threading; t = threading.Thread(target=print, args=('fine',)); t.start(); t.join()"
    filters = ("strace", "-f", "-e", "trace=clone,clone3", "-e", "signal=none")
    done = under_the_policy(*filters, sys.executable, "-I", "-c", program)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
    if "clone3(" not in done.stderr:
        pytest.skip("this libc does not use clone3")
    tried, _, then = done.stderr.partition("ENOSYS")
    assert tried.splitlines()[-1].count("clone3(") == 1
    assert "clone(" in then
    assert "CLONE_THREAD" in then


def test_a_filter_inside_the_filter_works() -> None:
    """Browsers and build tools bring their own; it adds to this one and cannot take from it."""
    allow_all = b"\x06\x00\x00\x00\x00\x00\xff\x7f"

    def attempt() -> list[int]:
        libc.seccomp_filter(allow_all)
        return [errno_of("mount", *NONSENSE), errno_of("getpid")]

    assert in_child(attempt, policy()) == [errno.EPERM, 0]


def test_sockets_of_python_get_the_errno_as_an_error() -> None:
    def attempt() -> int | None:
        try:
            socket.socket(40, socket.SOCK_STREAM)
        except OSError as error:
            return error.errno
        return None

    assert in_child(attempt, policy()) == errno.EAFNOSUPPORT
