"""api is killed at every step of every use case, and its clients ask again: nothing is lost, nothing happens
twice, nothing is left over.

The steps are api's own system calls, counted from outside by strace, which kills at the one that is wanted:
no hook for it ships. By default some of each case's steps are tried, spread over all of them; with
NSBOX_TEST_ALL_STEPS=1 each one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import DaemonFactory
from tests.e2e.client import Answer, Api, Sandbox
from tests.e2e.daemon import Daemon, settle, wait_until
from tests.registries import tools

#: What changes something outside of api: files, sockets, pipes.
_CALLS = (
    "sendmsg,sendto,write,writev,pwrite64,splice,openat,rename,renameat2,unlink,unlinkat,mkdir,rmdir,ftruncate,"
    "fallocate,fsync,fdatasync,recvmsg"
)
_SOME = 6
_LOST = (OSError, http.client.HTTPException)


@contextlib.contextmanager
def traced(daemon: Daemon, *options: str) -> Iterator[None]:
    """strace on all threads of api, from when it is attached until the block ends or api does."""
    command = ["strace", "-f", "-p", str(daemon.api_pid), "-e", f"trace={_CALLS}", *options]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    try:
        first = tracer.stderr.readline()
        if b"attached" not in first:
            pytest.skip(f"api cannot be traced here: {first.decode().strip()}")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)  # it lets go of api, if there still is one
        tracer.communicate(timeout=30)


def steps(daemon: Daemon, work: Callable[[], object]) -> int:
    """How many of those calls the thread makes that makes most of them."""
    with tempfile.NamedTemporaryFile() as log:
        with traced(daemon, "-o", log.name):
            work()
        counts = Counter(line.split()[0] for line in log.read().splitlines())
    return max(counts.values(), default=0)


def chosen(count: int) -> list[int]:
    assert count > 5, "nothing was traced"
    if os.environ.get("NSBOX_TEST_ALL_STEPS") or count <= _SOME:
        return list(range(1, count + 1))
    return sorted({1 + round(number * (count - 1) / (_SOME - 1)) for number in range(_SOME)})


class Case:
    """A use case: asked once and killed, asked again until it is answered, and what must be so then."""

    def __init__(self, daemon: Daemon, api: Api) -> None:
        self.daemon, self.api = daemon, api
        self.serial = 0

    def prepare(self) -> None:
        """Before api is traced."""
        self.serial += 1

    def ask(self, api: Api) -> Answer:
        raise NotImplementedError

    def look(self) -> None:
        """What must be so after api was killed, whatever has been done by then."""

    def check(self, answer: Answer) -> None:
        """What must be so after the last asking was answered."""
        raise NotImplementedError

    def finish(self) -> None:
        """Leave nothing that this case made."""

    def ask_alone(self) -> Answer | None:
        """On a connection of its own; None where it was lost."""
        with contextlib.suppress(*_LOST), self.daemon.api() as other:
            return self.ask(other)
        return None


class InOne(Case):
    """In one sandbox for all."""

    def __init__(self, daemon: Daemon, api: Api) -> None:
        super().__init__(daemon, api)
        self.sandbox: Sandbox = api.sandbox(timeoutMs=3_600_000)

    def below(self, path: str = "") -> str:
        return f"/sandboxes/{self.sandbox.id}{path}"

    @property
    def key(self) -> dict[str, str]:
        return {"Idempotency-Key": f"{type(self).__name__} {self.serial}"}

    def finish(self) -> None:
        assert self.sandbox.out("echo well") == "well\n"
        self.api.kill(self.sandbox.id)


class Creating(Case):
    def ask(self, api: Api) -> Answer:
        return api.request("POST", "/sandboxes", {}, headers={"Idempotency-Key": f"create {self.serial}"})

    def check(self, answer: Answer) -> None:
        assert answer.status == 201, answer
        alive = [one["id"] for one in self.api.request("GET", "/sandboxes").json]
        assert alive == [answer.json["id"]]
        assert Sandbox(self.api, alive[0]).out("echo well") == "well\n"
        assert self.api.kill(alive[0]).status == 200


class Killing(Case):
    def prepare(self) -> None:
        super().prepare()
        self.id = self.api.create()

    def ask(self, api: Api) -> Answer:
        return api.kill(self.id)

    def check(self, answer: Answer) -> None:
        assert answer.status == 200, answer
        assert self.api.get(self.id)["status"] == "stopped"
        assert self.api.request("GET", "/sandboxes").json == []


class Running(InOne):
    def ask(self, api: Api) -> Answer:
        wish = {"command": f"echo x >>/tmp/runs-{self.serial}; echo out; exit 3"}
        return api.request("POST", self.below("/exec"), wish, headers=self.key)

    def check(self, answer: Answer) -> None:
        assert answer.status == 200, answer
        assert (answer.json["stdout"], answer.json["exitCode"]) == ("out\n", 3)
        assert self.sandbox.read(f"/tmp/runs-{self.serial}").json["content"] == "x\n"


class Starting(InOne):
    def ask(self, api: Api) -> Answer:
        wish = {"command": f"echo x >>/tmp/starts-{self.serial}; exec sleep 3600"}
        return api.request("POST", self.below("/processes"), wish, headers=self.key)

    def check(self, answer: Answer) -> None:
        assert answer.status == 201, answer
        running = self.sandbox.request("GET", "/processes").json
        assert [one["id"] for one in running] == [answer.json["id"]]
        path = f"/tmp/starts-{self.serial}"
        wait_until(lambda: self.sandbox.read(path).status == 200, what="it has begun")
        assert self.sandbox.read(path).json["content"] == "x\n"
        assert self.sandbox.request("DELETE", f"/processes/{answer.json['id']}").json["signal"] == "KILL"


class Writing(InOne):
    #: More than one packet of the file agent.
    _LENGTH = 200_000

    def ask(self, api: Api) -> Answer:
        return Sandbox(api, self.sandbox.id).write("/tmp/file", f"{self.serial:06}" * (self._LENGTH // 6))

    def look(self) -> None:
        read = self.sandbox.read("/tmp/file")
        if read.status == 200:
            files = {f"{n:06}" * (self._LENGTH // 6) for n in (self.serial - 1, self.serial)}
            assert read.json["content"] in files, "the old one or the new one, and whole"

    def check(self, answer: Answer) -> None:
        assert answer.status == 200, answer
        assert self.sandbox.out("ls -A /tmp") == "file\n"


class Pausing(InOne):
    def ask(self, api: Api) -> Answer:
        return api.request("POST", self.below("/pause"))

    def check(self, answer: Answer) -> None:
        if answer.status == 503:
            pytest.skip("no cgroup is delegated here, so nothing is paused")
        assert (answer.status, answer.json["status"]) == (200, "paused"), answer
        assert self.api.request("POST", self.below("/resume")).json["status"] == "running"


class Resuming(Pausing):
    def prepare(self) -> None:
        super().prepare()
        paused = self.api.request("POST", self.below("/pause"))
        if paused.status == 503:
            pytest.skip("no cgroup is delegated here, so nothing is paused")

    def ask(self, api: Api) -> Answer:
        return api.request("POST", self.below("/resume"))

    def check(self, answer: Answer) -> None:
        assert (answer.status, answer.json["status"]) == (200, "running"), answer
        assert self.sandbox.out("echo on") == "on\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Creating, Killing, Running, Starting, Writing, Pausing, Resuming])
def test_api_killed_at_every_step(daemon_factory: DaemonFactory, kind: type[Case]) -> None:
    tools.need("strace")
    if os.geteuid() != 0:
        pytest.skip("api is not dumpable: only root may trace it")
    daemon = daemon_factory()
    with daemon.api() as api:
        Sandbox(api, api.create()).run("true")  # what happens once in an api's life is over
        for one in api.request("GET", "/sandboxes").json:
            api.kill(one["id"])
        api.close()
        before = settle(daemon)
        case = kind(daemon, api)
        case.prepare()
        answers: list[Answer] = []
        count = steps(daemon, lambda: answers.append(case.ask(api)))
        case.check(answers[0])
        killed = 0
        for number in chosen(count):
            killed += _killed_at(daemon, case, number)
        case.finish()
        api.close()
        wait_until(lambda: daemon.residue() == before, 20, "nothing is left")
    print(f"{kind.__name__}: {count} steps, api killed at {killed} of those tried: lost 0, doubled 0, left 0")
    assert killed


def _killed_at(daemon: Daemon, case: Case, number: int) -> bool:
    case.prepare()
    case.api.close()
    victim = daemon.api_pid
    with traced(daemon, "-e", f"inject={_CALLS}:signal=KILL:when={number}", "-o", "/dev/null"):
        answer = case.ask_alone()
        killed = answer is None or not _runs(victim)
    if killed:
        daemon.wait_ready(30)
        case.look()
    if answer is None:
        answer = case.ask(case.api)
    case.check(answer)
    return killed


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
