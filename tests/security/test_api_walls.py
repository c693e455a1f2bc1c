"""Whoever takes api over: what is tried from its place, behind the walls it puts up, and without them.

The probe is a process of the daemon's account that does what api does at its start, and then what api never
does. It is the walls that refuse: each attempt is also made without them, and works.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsbox.host import walls
from nsbox.kernel import landlock
from tests.e2e.account import CHECKOUT, Runner, runner
from tests.e2e.daemon import Daemon, descendants

#: argv: the state folder, a folder outside, the cgroup's stand-in, a pid to signal, and whether behind walls.
_PROBE = r"""
import ctypes, json, mmap, os, resource, signal, socket, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
state, outside, cgroup, other, on = sys.argv[2:7]
import prctl, sqlite3, trio
from nsbox.host import walls
prctl.set_no_new_privs(1)
if on == "on":
    named = outside + "/named/file"
    places = walls.Places(state_dir=state, cgroup=cgroup, reading=(named,), ports=range(40_000, 40_002))
    walls.put_up(places, 1024, {})
libc = ctypes.CDLL(None, use_errno=True)

def write(path):
    with open(path, "w") as file:
        file.write("x")

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0 and ctypes.get_errno() in (1, 13, 38):
        raise OSError(ctypes.get_errno(), "refused")

def listen(port):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))

def abstract():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + os.path.basename(outside))

def work():
    found = []
    thread = threading.Thread(target=lambda: found.append(1))
    thread.start()
    thread.join()
    database = sqlite3.connect(state + "/test.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE IF NOT EXISTS t (x)")
    database.execute("INSERT INTO t VALUES (1)")
    database.commit()
    os.makedirs(state + "/a/b", exist_ok=True)
    write(state + "/a/file")
    os.rename(state + "/a/file", state + "/a/b/file")
    os.unlink(state + "/a/b/file")
    for folder in ("/a/b", "/a"):
        os.rmdir(state + folder)
    socket.getaddrinfo("localhost", 80)
    import decimal, xml.etree.ElementTree  # modules are still found
    async def main():
        await trio.to_thread.run_sync(os.getpid)
    trio.run(main)
    read(outside + "/named/file")
    os.close(os.open(cgroup + "/there", os.O_WRONLY))
    listen(40_001)

tries = {
    "write outside": lambda: write(outside + "/new"),
    "overwrite outside": lambda: write(outside + "/there"),
    "truncate outside": lambda: os.truncate(outside + "/there", 0),
    "read outside": lambda: read(outside + "/there"),
    "list outside": lambda: os.listdir(outside),
    "remove outside": lambda: os.unlink(outside + "/old"),
    "rename to outside": lambda: (write(state + "/mine"), os.rename(state + "/mine", outside + "/mine")),
    "link outside": lambda: os.symlink("/", state + "/link"),
    "socket file": lambda: socket.socket(socket.AF_UNIX).bind(state + "/sock"),
    "new in the cgroup": lambda: os.mkdir(cgroup + "/new"),
    "run a program": lambda: subprocess.run(["/bin/true"], check=True),
    "fork": lambda: os.waitpid(os.fork() or os._exit(0), 0),
    "signal another": lambda: os.kill(int(other), 0),
    "another's limits": lambda: resource.prlimit(int(other), resource.RLIMIT_CORE),
    "another's environment": lambda: read("/proc/" + other + "/environ"),
    "abstract socket": abstract,
    "listen elsewhere": lambda: listen(40_010),
    "namespace": lambda: call(272, 0x10000000),
    "ptrace": lambda: call(101, 0, 0, 0, 0),
    "io_uring": lambda: call(425, 0, 0),
    "keyring": lambda: call(250, 0, -3, 0),
    "perf": lambda: call(298, 0, 0, -1, -1, 0),
    "AF_ALG": lambda: socket.socket(38, socket.SOCK_SEQPACKET),
    "memory to be written and run": lambda: mmap.mmap(-1, 4096, prot=7),
    "more memory": lambda: bytearray(2 << 30) and None,
    "dumpable again": lambda: call(157, 4, 1, 0, 0, 0),
}
result = {}
try:
    work()
    result["work"] = ""
except BaseException as error:
    result["work"] = repr(error)
for name, attempt in tries.items():
    try:
        attempt()
        result[name] = ""
    except BaseException as error:
        result[name] = repr(error)
print(json.dumps(result))
"""

#: Needs Landlock; and, of those, what came with later versions of it.
_BY_LANDLOCK = {
    "write outside": 2,
    "overwrite outside": 2,
    "truncate outside": 3,
    "read outside": 2,
    "list outside": 2,
    "remove outside": 2,
    "rename to outside": 2,
    "socket file": 2,
    "new in the cgroup": 2,
    "another's environment": 2,
    "abstract socket": 6,
    "listen elsewhere": 4,
}
#: On some hosts the kernel refuses these to every ordinary user, walls or not.
_REFUSED_ANYWAY = {"namespace", "io_uring", "keyring", "perf", "AF_ALG"}


@pytest.fixture(scope="module")
def who() -> Runner:
    if os.uname().machine != "x86_64":
        pytest.skip("the probe has the numbers of x86_64")
    return runner()


@pytest.fixture
def folders(who: Runner) -> Iterator[dict[str, Path]]:
    """Three folders of the account's, with things in them."""
    top = Path(tempfile.mkdtemp(prefix="nsbox-walls-", dir="/var/tmp"))
    made = {name: top / name for name in ("state", "outside", "outside/named", "cgroup")}
    for folder in made.values():
        folder.mkdir(exist_ok=True)
    for name in ("outside/there", "outside/old", "outside/named/file", "cgroup/there"):
        (top / name).write_text("something")
    for path in (top, *top.rglob("*")):
        os.chown(path, who.uid, who.gid)
    yield made
    shutil.rmtree(top)


def probe(who: Runner, folders: dict[str, Path], mode: str) -> dict[str, str]:
    """What became of each attempt: nothing, or the error."""
    other = subprocess.Popen(["sleep", "60"], **who.identity)
    name = "\0outside"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen(4)
        try:
            places = [str(folders[one]) for one in ("state", "outside", "cgroup")]
            done = subprocess.run(
                [who.python, "-I", "-c", _PROBE, str(CHECKOUT), *places, str(other.pid), mode],
                capture_output=True, text=True, check=False, timeout=60, cwd="/", **who.identity,
            )  # fmt: skip
        finally:
            other.kill()
            other.wait()
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_behind_the_walls(who: Runner, folders: dict[str, Path]) -> None:
    abi = landlock.version()
    found = probe(who, folders, "on")
    assert found.pop("work") == ""
    passed = {name for name, error in found.items() if not error}
    may = {name for name, since in _BY_LANDLOCK.items() if walls.expected(1024).landlock < since}
    assert passed <= may, found
    print(f"walls of api: Landlock ABI {abi}; {len(found)} tried, {len(passed)} passed: {sorted(passed)}")
    if not may:
        assert (folders["outside"] / "there").read_text() == "something"
        assert (folders["outside"] / "old").exists()


def test_without_them_all_of_it_works(who: Runner, folders: dict[str, Path]) -> None:
    found = probe(who, folders, "off")
    failed = {name: error for name, error in found.items() if error and name not in _REFUSED_ANYWAY}
    assert not failed


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def test_the_real_api_stands_behind_them(daemon: Daemon) -> None:
    (api,) = [one for one in descendants(daemon.pid) if one.name == "nsbox-api"]
    told: dict[str, Any] = _status(api.pid)
    assert told["NoNewPrivs"].strip() == "1"
    assert told["Seccomp"].strip() == "2"
    with open(f"/proc/{api.pid}/limits", encoding="ascii") as file:
        limits = {line[:25].strip(): line[26:46].strip() for line in file}
    assert limits["Max core file size"] == "0"
    assert limits["Max data size"] == str(4096 << 20)
    assert os.stat(f"/proc/{api.pid}/environ").st_uid == 0  # not dumpable: nobody's but root's
    assert f"around api: {walls.expected(4096)}" in daemon.log()
