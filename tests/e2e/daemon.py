"""A real daemon for tests: started as an operator would, watched from outside, always ended by its pid."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from tests.e2e.account import CHECKOUT, Runner, runner
from tests.e2e.client import Api

#: How many times slower than usual this machine is: an emulated one says so, and bounds are stretched.
SLOWNESS = float(os.environ.get("NSBOX_TEST_SLOWNESS") or 1)
#: The first start builds the default template: a few seconds on a slow disk.
START = 90.0
_READY = re.compile(r"nsbox ready: (http://\S+)")
#: Where daemons keep their state: a path every account can walk to, on a disk.
_STATES = "/var/tmp"


def wait_until(condition: Callable[[], object], patience: float = 10.0, what: str = "it") -> float:
    """Seconds until ``condition`` holds. For what the kernel gives no event for outside, such as /proc."""
    begun = time.monotonic()
    patience *= SLOWNESS
    while not condition():
        if time.monotonic() - begun > patience:
            raise AssertionError(f"not after {patience} s: {what}")
        time.sleep(0.01)
    return time.monotonic() - begun


def open_files(pid: int) -> list[str]:
    """What a process has open, by what its descriptors lead to."""
    folder, found = f"/proc/{pid}/fd", []
    for one in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"{folder}/{one}"))
    return sorted(found)


class Process(NamedTuple):
    """A process as /proc shows it. ``name`` is comm."""

    pid: int
    parent: int
    name: str
    state: str


def processes() -> list[Process]:
    """Every process of the host that can be seen."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b") ")
            fields = tail.split()
            name = head.partition(b" (")[2].decode("utf-8", "replace")
            found.append(Process(int(entry), int(fields[1]), name, fields[0].decode()))
    return found


def descendants(top: int) -> list[Process]:
    """All that descends from a process, zombies too."""
    table = processes()
    members = {top}
    while True:
        more = {one.pid for one in table if one.parent in members} - members
        if not more:
            return [one for one in table if one.pid in members and one.pid != top]
        members |= more


def zombies(top: int) -> list[Process]:
    """Children of ours that nobody has reaped: of init, keeper and the others, whose names begin so. What a
    tenant's program does not wait for is that program's own, until init inherits it."""
    table = descendants(top)
    ours = {one.pid for one in table if one.name.startswith("nsbox")} | {top}
    return [one for one in table if one.state == "Z" and one.parent in ours]


def no_zombies(top: int) -> None:
    """None stays one for longer than a second."""
    seen = {one.pid for one in zombies(top)}
    if seen:
        wait_until(lambda: not seen & {one.pid for one in zombies(top)}, 1.0, f"zombies: {zombies(top)}")


class Residue(NamedTuple):
    """What sandboxes leave on a host, counted; -1 where the tests may not look."""

    api_fds: int
    keeper_fds: int
    keeper_mounts: int
    processes: int
    sandboxes: int
    trash: int
    sockets: int
    cgroups: int


#: A shell starts what runs in the background with SIGQUIT ignored. No command in a sandbox may feel it.
_AS_A_JOB = ("sh", "-c", "trap '' QUIT USR1 ALRM; exec \"$@\"", "sh")


class Daemon:
    """``nsbox serve`` with a state folder of its own. ``sources``: a folder with another nsbox than this,
    which the account starts by itself: root's daemon forgets where it came from when it gives root up."""

    #: Those that were started and not stopped.
    running: ClassVar[list[Daemon]] = []

    def __init__(
        self,
        *,
        key: str | None,
        settings: dict[str, str] | None = None,
        state_dir: str | None = None,
        who: Runner | None = None,
        sources: str = "",
    ) -> None:
        self.sources = sources
        self.who = who or runner()
        self.key = key
        self.settings = settings or {}
        self.owns_state = state_dir is None
        self.state_dir = state_dir or self._make_state_dir()
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.printed: list[str] = []
        self.url = ""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroups: set[str] = set()

    def _make_state_dir(self) -> str:
        path = tempfile.mkdtemp(prefix="nsbox-test-", dir=_STATES)
        if self.who.as_root:
            os.chown(path, self.who.uid, self.who.gid)
        return path

    # ---- start and stop

    def command(self, *more: str) -> list[str]:
        by_root = self.who.as_root and not self.sources
        as_account = ["--service-user", self.who.name] if by_root else []
        state = ["--state-dir", self.state_dir]
        arguments = ["--port", "0", "--limits", "best-effort", *as_account, *state, *more]
        return [self.who.python, "-m", "nsbox", "serve", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NSBOX_")}
        if self.who.as_root:
            kept["NSBOX_SERVICE_USER"] = self.who.name
        if self.key is not None:
            kept["NSBOX_BOOTSTRAP_KEY"] = self.key
        if self.sources:
            kept |= {"PYTHONPATH": self.sources, "PYTHONDONTWRITEBYTECODE": "1"}
        return {**kept, **self.settings, "HOST_SECRET_CANARY": "host-environment-canary"}

    def start(self) -> Daemon:
        """Returns when sandboxes can be made."""
        self.lines = queue.Queue()  # the last one ends with the word that its writer is gone
        self._process = subprocess.Popen(
            [*_AS_A_JOB, *self.command()],
            env=self.environment,
            cwd=self.sources or CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            **(self.who.identity if self.sources else {}),
        )
        threading.Thread(target=self._read, args=[self._process, self.lines], daemon=True).start()
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        self._cgroups |= self._given_cgroups()
        Daemon.running.append(self)
        return self

    @staticmethod
    def _read(process: subprocess.Popen[bytes], lines: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.decode())
        lines.put(None)

    def wait_ready(self, patience: float = START) -> str:
        """Wait for the line that says so, at the start or after api was replaced."""
        deadline = time.monotonic() + patience * SLOWNESS
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"the daemon did not get ready in {patience} s\n{self.log()}") from None
            if line is None:
                raise AssertionError(f"the daemon ended instead of getting ready\n{self.log()}")
            self.printed.append(line)
            if match := _READY.search(line):
                self.url = match[1]
                return self.url

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None
        return self._process.pid

    def check_zombies(self) -> None:
        """None of its children stays one. Nothing to see where it has ended."""
        if self._process is not None and self._process.poll() is None:
            no_zombies(self.pid)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, patience: float) -> int:
        """The exit status."""
        assert self._process is not None
        return self._process.wait(patience * SLOWNESS)

    def stop(self) -> None:
        """End it, kindly and then not. What it started dies with it, by the kernel's doing."""
        process, self._process = self._process, None
        if process is None:
            return
        if self in Daemon.running:
            Daemon.running.remove(self)
        family = [one.pid for one in descendants(process.pid)]
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in family:
            with contextlib.suppress(AssertionError):
                wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), 5)  # type: ignore[misc]
        if process.stdout is not None:
            process.stdout.close()
        self._remove_cgroups()

    def close(self) -> None:
        """Stop, and remove every trace."""
        self.stop()
        self._log.close()
        if self.owns_state:
            self._remove_state()

    def _remove_state(self) -> None:
        """The files of layers and sandboxes belong to subordinate ids, which an ordinary user can remove only
        from within a namespace that maps them."""
        if not self.who.as_root and shutil.which("unshare"):
            mapped = ["unshare", "--user", "--map-auto", "--map-root-user", "rm", "-rf", self.state_dir]
            subprocess.run(mapped, check=False, capture_output=True)
        shutil.rmtree(self.state_dir, ignore_errors=True)

    def _given_cgroups(self) -> set[str]:
        """The cgroup that the daemon got when it gave root up: nobody else would remove it."""
        found = set()
        for pid in (self.pid, *(one.pid for one in descendants(self.pid))):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
                for line in file:
                    if line.startswith("0::") and f"/nsbox-{self.who.name}-" in line:
                        top = line.strip().split("::")[1]
                        parts = top.split("/")
                        index = next(i for i, part in enumerate(parts) if part.startswith("nsbox-"))
                        found.add("/".join(parts[: index + 1]))
        return found

    def _remove_cgroups(self) -> None:
        if not self.who.as_root:
            return
        for mount in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
            for given in self._cgroups:
                for folder, _, _ in os.walk(mount + given, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)

    # ---- look

    def api(self, key: str | None = None) -> Api:
        return Api(self.url, key or self.key)

    def log(self) -> str:
        """Standard error so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode("utf-8", "replace")

    def _children(self) -> list[int]:
        return sorted(one.pid for one in processes() if one.parent == self.pid and one.state != "Z")

    @property
    def api_pid(self) -> int:
        """0 while there is none."""
        return next((pid for pid in self._children() if b"nsbox.daemon" in _command_line(pid)), 0)

    @property
    def keeper_pid(self) -> int:
        """The supervisor's other child."""
        return next((pid for pid in self._children() if b"nsbox.daemon" not in _command_line(pid)), 0)

    def kill(self, pid: int, number: int) -> None:
        """Signal a process that has been looked up; 0 would be the tests themselves."""
        assert pid > 1, "there is no such process at the moment"
        os.kill(pid, number)

    def rss_kib(self) -> int:
        with open(f"/proc/{self.api_pid}/status", encoding="ascii") as file:
            return int(next(line for line in file if line.startswith("VmRSS:")).split()[1])

    def nsbox(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line, as the account that owns the state."""
        return subprocess.run(
            [self.who.python, "-m", "nsbox", *arguments], cwd=CHECKOUT, capture_output=True, text=True,
            check=False, timeout=60, **self.who.identity,
        )  # fmt: skip

    def nsbox_on_state(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line of whoever owns the state, who names neither address nor key."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NSBOX_")}
        return subprocess.run(
            [self.who.python, "-m", "nsbox", *arguments], cwd=CHECKOUT, capture_output=True, text=True,
            check=False, timeout=120, env={**kept, "NSBOX_STATE_DIR": self.state_dir}, **self.who.identity,
        )  # fmt: skip

    def residue(self) -> Residue:
        keeper = self.keeper_pid
        family = descendants(self.pid)
        # Two processes and a socket for a minute after a snapshot: kept on purpose, and never more.
        spares = [one for one in family if one.name == "nsbox-spare"]
        assert len(spares) <= 2, spares
        return Residue(
            api_fds=_entries(f"/proc/{self.api_pid}/fd"),
            keeper_fds=_entries(f"/proc/{keeper}/fd") - bool(spares),
            keeper_mounts=_lines(f"/proc/{keeper}/mountinfo"),
            processes=len(family) - len(spares),
            sandboxes=_entries(f"{self.state_dir}/sandboxes"),
            trash=_entries(f"{self.state_dir}/trash"),
            sockets=_entries(f"{self.state_dir}/run"),
            cgroups=self._count_cgroups(keeper),
        )

    def _count_cgroups(self, keeper: int) -> int:
        try:
            with open(f"/proc/{keeper}/cgroup", encoding="ascii") as file:
                own = next((line.strip()[3:] for line in file if line.startswith("0::")), "/")
        except OSError:
            return -1
        if "nsbox-" not in own:
            return -1
        for mount in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
            # keeper stands in a leaf; the boxes are its neighbours.
            if os.path.isdir(above := os.path.dirname(mount + own)):
                return sum(1 for _ in os.walk(above))
        return -1


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _entries(path: str) -> int:
    try:
        return len(os.listdir(path))
    except OSError:
        return -1


def _lines(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return len(file.readlines())
    except OSError:
        return -1


def settle(daemon: Daemon, patience: float = 15.0) -> Residue:
    """The residue once blanks are made and trash is emptied: the same three times in a row."""
    seen: list[Residue] = []

    def steady() -> bool:
        seen.append(daemon.residue())
        time.sleep(0.15)  # what is waited for is that nothing happens
        return len(seen) >= 4 and seen[-1] == seen[-2] == seen[-3] == seen[-4] and seen[-1].trash <= 0

    wait_until(steady, patience, f"a steady state; last seen {seen[-1:]}")
    return seen[-1]
