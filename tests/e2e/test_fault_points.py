"""api is killed at every step of every use case, and its clients ask again: nothing is lost, nothing happens
twice, nothing is left over.

The steps are api's own system calls, counted from outside by strace, which kills at the one that is wanted:
no hook for it ships. By default some of each case's steps are tried, spread over all of them; with
NSBOX_TEST_ALL_STEPS=1 each one.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import signal
import subprocess
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.plugin import Say
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
#: Of the cases that wait for something each time.
_FEW = 4
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


def chosen(count: int, some: int) -> list[int]:
    assert count > 5, "nothing was traced"
    if os.environ.get("NSBOX_TEST_ALL_STEPS") or count <= some:
        return list(range(1, count + 1))
    return sorted({1 + round(number * (count - 1) / (some - 1)) for number in range(some)})


class Case:
    """A use case: asked once and killed, asked again until it is answered, and what must be so then."""

    some = _SOME

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
    @staticmethod
    def _content(serial: int) -> str:
        """More than one packet of the file agent."""
        return f"{serial:06}" * 33_333

    def ask(self, api: Api) -> Answer:
        return Sandbox(api, self.sandbox.id).write("/tmp/file", self._content(self.serial))

    def look(self) -> None:
        read = self.sandbox.read("/tmp/file")
        if read.status == 200:
            files = [self._content(one) for one in (self.serial - 1, self.serial)]
            assert read.json["content"] in files, "the old one or the new one, and whole"

    def check(self, answer: Answer) -> None:
        assert answer.status == 200, answer
        assert self.sandbox.out("ls -A /tmp") == "file\n"


class Pausing(InOne):
    def __init__(self, daemon: Daemon, api: Api) -> None:
        super().__init__(daemon, api)
        if api.request("POST", self.below("/pause")).status == 503:
            pytest.skip("no cgroup is delegated here, so nothing is paused")
        api.request("POST", self.below("/resume"))

    def ask(self, api: Api) -> Answer:
        return api.request("POST", self.below("/pause"))

    def check(self, answer: Answer) -> None:
        assert (answer.status, answer.json["status"]) == (200, "paused"), answer
        assert self.api.request("POST", self.below("/resume")).json["status"] == "running"


class Resuming(Pausing):
    def prepare(self) -> None:
        super().prepare()
        self.api.request("POST", self.below("/pause"))

    def ask(self, api: Api) -> Answer:
        return api.request("POST", self.below("/resume"))

    def check(self, answer: Answer) -> None:
        assert (answer.status, answer.json["status"]) == (200, "running"), answer
        assert self.sandbox.out("echo on") == "on\n"


class Snapshotting(InOne):
    some = _FEW

    def __init__(self, daemon: Daemon, api: Api) -> None:
        super().__init__(daemon, api)
        self.sandbox.write("/srv/kept", "x" * 5_000)

    def ask(self, api: Api) -> Answer:
        return api.request("POST", self.below("/snapshots"), {}, headers=self.key)

    def look(self) -> None:
        assert self.sandbox.out("echo on") == "on\n", "it does not stand still"

    def check(self, answer: Answer) -> None:
        assert answer.status == 201, answer
        kept = [one["id"] for one in self.api.request("GET", "/snapshots").json]
        assert kept == [answer.json["id"]]
        if self.serial == 1:
            copy = self.api.sandbox(snapshot=kept[0])
            assert copy.read("/srv/kept").json["content"] == "x" * 5_000
            self.api.kill(copy.id)
        assert self.api.request("DELETE", f"/snapshots/{kept[0]}").status == 200
        self.no_layers()

    def no_layers(self) -> None:
        """Neither whole nor half."""

        def left() -> list[str]:
            return [one for one in os.listdir(f"{self.daemon.state_dir}/layers") if one.startswith("s-")]

        wait_until(lambda: not left(), 30, "no layer of a snapshot is left")


class Forking(Snapshotting):
    def ask(self, api: Api) -> Answer:
        return api.request("POST", self.below("/fork"), {"count": 2}, headers=self.key)

    def check(self, answer: Answer) -> None:
        assert answer.status == 201, answer
        made = [one["id"] for one in answer.json["sandboxes"]]
        alive = [one["id"] for one in self.api.request("GET", "/sandboxes").json]
        assert sorted(alive) == sorted([self.sandbox.id, *made])
        assert len(set(made)) == 2
        for one in made:
            assert Sandbox(self.api, one).read("/srv/kept").status == 200
            assert self.api.kill(one).status == 200
        self.no_layers()


class Exporting(Snapshotting):
    """Of a snapshot: an answer is whole, or seen not to be."""

    def __init__(self, daemon: Daemon, api: Api) -> None:
        super().__init__(daemon, api)
        self.id = api.request("POST", self.below("/snapshots"), {}).json["id"]

    def ask(self, api: Api) -> Answer:
        return api.request("GET", f"/snapshots/{self.id}/export?format=tar")

    def check(self, answer: Answer) -> None:
        assert answer.status == 200, answer.status
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
            kept = archive.extractfile("srv/kept")
            assert kept is not None
            assert kept.read() == b"x" * 5_000

    def finish(self) -> None:
        assert self.api.request("DELETE", f"/snapshots/{self.id}").status == 200
        super().finish()
        self.no_layers()


class Dozing(Pausing):
    """Paused because nobody uses it, and woken by a command, which is there once."""

    some = _FEW

    def ask(self, api: Api) -> Answer:
        wish = {"autoPause": {"idleMs": 1_000}, "autoResume": True}
        told = api.request("PUT", self.below("/lifecycle"), wish)
        assert told.status == 200, told
        until = time.monotonic() + 60
        while api.request("GET", self.below()).json["status"] != "paused":
            assert time.monotonic() < until, "it does not go to sleep"
            time.sleep(0.2)
        run = {"command": f"echo x >>/tmp/woken-{self.serial}; echo on"}
        return api.request("POST", self.below("/exec"), run, headers=self.key)

    def check(self, answer: Answer) -> None:
        assert (answer.status, answer.json.get("stdout")) == (200, "on\n"), answer
        assert self.sandbox.read(f"/tmp/woken-{self.serial}").json["content"] == "x\n"
        awake = self.api.request("PUT", self.below("/lifecycle"), {})
        assert awake.status == 200, awake
        self.api.request("POST", self.below("/resume"))


class Expiring(Case):
    """Its time is over while api lives, is dead, or is being started: neither early nor never."""

    some = _FEW

    def prepare(self) -> None:
        super().prepare()
        self.sandbox = self.api.sandbox(timeoutMs=2_000)

    def ask(self, api: Api) -> Answer:
        until = time.monotonic() + 60
        while (answer := api.request("GET", f"/sandboxes/{self.sandbox.id}")).json["status"] != "stopped":
            assert time.monotonic() < until, "it does not end"
            time.sleep(0.2)
        return answer

    def check(self, answer: Answer) -> None:
        record = answer.json
        assert (record["status"], record["endReason"]) == ("stopped", "expired")
        # Both as ISO 8601 with milliseconds, in UTC: they sort as text.
        assert record["endedAt"] >= record["expiresAt"], record
        assert self.api.request("GET", "/sandboxes").json == []


class TimingOut(InOne):
    """A command whose time is over."""

    some = _FEW

    def ask(self, api: Api) -> Answer:
        wish = {"command": f"echo x >>/tmp/timed-{self.serial}; sleep 7600", "timeoutMs": 500}
        return api.request("POST", self.below("/exec"), wish, headers=self.key)

    def check(self, answer: Answer) -> None:
        assert answer.status == 200, answer
        assert (answer.json["outcome"], answer.json["timedOut"]) == ("timedOut", True)
        assert self.sandbox.read(f"/tmp/timed-{self.serial}").json["content"] == "x\n"
        assert self.sandbox.out("ps -eo args | grep -c '^sleep 760' || true") == "0\n"


class Extending(InOne):
    """More time, given once or again, is the same time."""

    some = _FEW

    def ask(self, api: Api) -> Answer:
        return api.request("POST", self.below("/timeout"), {"timeoutMs": 1_000_000 + self.serial})

    def check(self, answer: Answer) -> None:
        assert answer.status == 200, answer
        assert self.api.get(self.sandbox.id)["timeoutMs"] == 1_000_000 + self.serial


_KINDS = [
    Creating, Killing, Running, Starting, Writing, Pausing, Resuming,
    Snapshotting, Forking, Exporting, Dozing, Expiring, TimingOut, Extending,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", _KINDS)
def test_api_killed_at_every_step(daemon_factory: DaemonFactory, kind: type[Case], figure: Say) -> None:
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
        for number in chosen(count, kind.some):
            killed += _killed_at(daemon, case, number)
        case.finish()
        api.close()
        wait_until(lambda: daemon.residue() == before, 20, "nothing is left")
    print(f"{kind.__name__}: {count} steps, api killed at {killed} of those tried: lost 0, doubled 0, left 0")
    figure(4, "at its steps", tried=killed)


def _killed_at(daemon: Daemon, case: Case, number: int) -> bool:
    case.prepare()
    case.api.close()
    victim = daemon.api_pid
    with traced(daemon, "-e", f"inject={_CALLS}:signal=KILL:when={number}", "-o", "/dev/null"):
        answer = case.ask_alone()
        killed = answer is None or daemon.api_pid != victim
    if killed:
        daemon.wait_ready(30)
        case.look()
    if answer is None:
        answer = case.ask(case.api)
    case.check(answer)
    return killed
