"""System calls of api and of keeper that fail as on a host that runs short: of memory, of space, of
descriptors, of a disk that works. Whoever asked is told whose fault it is, nothing half-made stays, and the
next request works.

strace makes them fail, from outside: no hook for it ships. Each use case is asked once while nothing fails,
to learn which calls are made for it; then once for each of them, or for some by default, with that one
failing. NSBOX_TEST_ALL_STEPS=1 tries all.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.acceptance.plugin import Say
from tests.conftest import DaemonFactory
from tests.e2e.client import Answer, Api, Sandbox
from tests.e2e.daemon import Daemon, Residue, settle, wait_until
from tests.registries import tools

#: How each call fails on a host that lacks something.
ERRORS = {
    "openat": "EMFILE", "pipe2": "EMFILE", "socketpair": "EMFILE", "socket": "ENFILE", "dup": "EMFILE",
    "fcntl": "EMFILE", "mkdir": "ENOSPC", "mkdirat": "ENOSPC", "write": "ENOSPC", "pwrite64": "EIO",
    "fallocate": "ENOSPC", "ftruncate": "EIO", "fdatasync": "EIO", "fsync": "EIO", "rename": "ENOSPC",
    "renameat2": "EIO", "sendmsg": "ENOBUFS", "clone3": "ENOMEM", "clone": "EAGAIN", "fork": "EAGAIN",
    "fsopen": "ENOMEM", "fsconfig": "ENOMEM", "fsmount": "ENOMEM", "open_tree": "ENOMEM", "splice": "EIO",
    "pread64": "EIO", "mmap": "ENOMEM", "pidfd_open": "EMFILE", "bind": "ENOSPC", "statfs": "EIO",
}  # fmt: skip
_LOST = (OSError, http.client.HTTPException)
#: What tells that the host, and not the client, is at fault.
_OURS = {"create_failed", "host_lacks", "host_full", "sandbox_unresponsive", "sandbox_gone"}
_SOME = 7


class Injection(NamedTuple):
    """The ``number``-th call of a kind, in any thread, fails."""

    call: str
    number: int

    @property
    def option(self) -> str:
        return f"inject={self.call}:error={ERRORS[self.call]}:when={self.number}"


class Case:
    """A use case: asked while something fails, and what must be so whether or not it was carried out."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def ask(self) -> Answer:
        raise NotImplementedError

    def check(self, answer: Answer | None) -> None:
        """Undoes what was done. ``None``: the connection was lost."""
        raise NotImplementedError

    def finish(self) -> None:
        """Leave nothing."""


class Create(Case):
    def ask(self) -> Answer:
        return self.api.request("POST", "/sandboxes", {})

    def check(self, answer: Answer | None) -> None:
        alive = [one["id"] for one in self.api.request("GET", "/sandboxes").json]
        assert alive == ([answer.json["id"]] if answer is not None and answer.status == 201 else [])
        for one in alive:
            assert Sandbox(self.api, one).out("echo well") == "well\n"
            assert self.api.kill(one).status == 200


class InOne(Case):
    def __init__(self, api: Api) -> None:
        super().__init__(api)
        self.sandbox = api.sandbox(timeoutMs=3_600_000)
        self.sandbox.write("/srv/kept", "kept")

    def check(self, answer: Answer | None) -> None:
        assert self.sandbox.out("cat /srv/kept") == "kept"
        assert self.api.request("GET", f"/sandboxes/{self.sandbox.id}/processes").json == []

    def finish(self) -> None:
        assert self.api.kill(self.sandbox.id).status == 200


class Exec(InOne):
    def ask(self) -> Answer:
        return self.sandbox.exec("echo out; echo err >&2; exit 3")

    def check(self, answer: Answer | None) -> None:
        if answer is not None and answer.status == 200:
            told = answer.json
            assert told["exitCode"] == 3
            # A disk that takes no output costs output, and says so.
            assert (told["stdout"], told["stderr"]) == ("out\n", "err\n") or told["truncated"], told
        super().check(answer)


class Pause(InOne):
    def ask(self) -> Answer:
        return self.sandbox.request("POST", "/pause")

    def check(self, answer: Answer | None) -> None:
        status = self.api.get(self.sandbox.id)["status"]
        if answer is not None:
            # Where keeper's answer was lost nobody knows whether it runs: it stays paused.
            unknown = answer.status >= 400 and answer.code == "sandbox_unresponsive"
            assert unknown or status == ("paused" if answer.status == 200 else "running"), answer
        assert self.sandbox.request("POST", "/resume").status == 200
        super().check(answer)


class Snapshot(InOne):
    def ask(self) -> Answer:
        return self.sandbox.request("POST", "/snapshots", {})

    def check(self, answer: Answer | None) -> None:
        kept = [one["id"] for one in self.api.request("GET", "/snapshots").json]
        assert kept == ([answer.json["id"]] if answer is not None and answer.status == 201 else [])
        for one in kept:
            copy = self.api.sandbox(snapshot=one)
            assert copy.out("cat /srv/kept") == "kept"
            self.api.kill(copy.id)
            assert self.api.request("DELETE", f"/snapshots/{one}").status == 200
        super().check(answer)


@contextlib.contextmanager
def traced(pid: int, *options: str) -> Iterator[None]:
    """strace on all threads of a process, and on those that it forks, until the block ends."""
    command = ["strace", "-f", "-p", str(pid), "-e", f"trace={','.join(ERRORS)}", *options]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    try:
        first = tracer.stderr.readline()
        if b"attached" not in first:
            pytest.skip(f"the daemon cannot be traced here: {first.decode().strip()}")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=30)


def calls(pid: int, case: Case) -> list[Injection]:
    """What the threads and processes do for one asking: of each kind of call, as many as the one does that
    does most of them."""
    with tempfile.NamedTemporaryFile("r") as log:
        with traced(pid, "-o", log.name):
            answer = case.ask()
        case.check(answer)
        made = Counter(re.findall(r"^(\d+) +(\w+)\(", log.read(), re.MULTILINE))
    most: Counter[str] = Counter()
    for (_, call), count in made.items():
        most[call] = max(most[call], count)
    return [Injection(call, number + 1) for call in sorted(most) for number in range(most[call])]


def chosen(found: list[Injection]) -> list[Injection]:
    """All, or some, spread over all."""
    if os.environ.get("NSBOX_TEST_ALL_STEPS") or len(found) <= _SOME:
        return found
    return [found[round(number * (len(found) - 1) / (_SOME - 1))] for number in range(_SOME)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "whose"),
    [
        (Create, "api"), (Exec, "api"), (Pause, "api"), (Snapshot, "api"),
        (Create, "keeper"), (Pause, "keeper"), (Snapshot, "keeper"),
    ],
)  # fmt: skip
def test_a_call_that_fails(daemon_factory: DaemonFactory, kind: type[Case], whose: str, figure: Say) -> None:
    tools.need("strace")
    if os.geteuid() != 0:
        pytest.skip("neither is dumpable: only root may trace them")
    daemon = daemon_factory()
    with daemon.api() as api:
        Sandbox(api, api.create()).run("true")
        for one in api.request("GET", "/sandboxes").json:
            api.kill(one["id"])
        api.close()
        before = settle(daemon)
        case = kind(api)
        if isinstance(case, Pause) and case.ask().status == 503:
            pytest.skip("no cgroup is delegated here, so nothing is paused")
        case.check(None)
        keeper = daemon.keeper_pid
        pid = daemon.api_pid if whose == "api" else keeper
        told: Counter[str] = Counter()
        tried = chosen(calls(pid, case))
        assert tried, "nothing was traced"
        for injection in tried:
            told[_asked(daemon, case, whose, injection)] += 1
            assert daemon.keeper_pid == keeper, f"{injection}: keeper has not outlived it"
        case.finish()
        _nothing_is_left(daemon, api, before)
    print(f"{kind.__name__}, in {whose}: {len(tried)} errors, answers {dict(told)}: left 0")
    figure(14, tried=len(tried))


def _asked(daemon: Daemon, case: Case, whose: str, injection: Injection) -> str:
    """Ask while a call fails; how that was answered."""
    case.api.close()
    before = daemon.api_pid
    answer: Answer | None = None
    pid = before if whose == "api" else daemon.keeper_pid
    with traced(pid, "-e", injection.option, "-o", "/dev/null"), contextlib.suppress(*_LOST):
        answer = case.ask()
    case.api.close()
    if answer is None or (answer.status >= 400 and answer.code == "sandbox_unresponsive"):
        # keeper may have hung up on api, which ends then and is started again.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: daemon.api_pid != before, 2)
    if daemon.api_pid != before:
        daemon.wait_ready(30)
    try:
        case.check(answer)
    except Exception as error:
        raise AssertionError(f"{injection.option}: {answer}: {error!r}") from error
    if answer is None:
        return "lost"
    if answer.status < 400:
        return str(answer.status)
    assert answer.code in _OURS, f"{injection.option}: {answer} blames the client"
    assert daemon.state_dir not in answer.body.decode()
    return answer.code


def _nothing_is_left(daemon: Daemon, api: Api, before: Residue) -> None:
    api.close()

    def difference() -> dict[str, tuple[int, int]]:
        now = daemon.residue()
        pairs = {name: (getattr(before, name), getattr(now, name)) for name in Residue._fields}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    try:
        wait_until(lambda: not difference(), 20)
    except AssertionError:
        raise AssertionError(f"before and after differ: {difference()}") from None
