# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""Commands outlive every connection and every api process: no byte of theirs is lost or comes twice."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.plugin import Say
from tests.conftest import DaemonFactory
from tests.e2e.client import BASE, Api, Sandbox
from tests.e2e.daemon import SLOWNESS, Daemon, wait_until
from tests.e2e.sse import Event, Stream

#: Writes numbered lines to stdout, every tenth to stderr as well, and never the same twice.
COUNT = "i=0; while [ $i -lt {n} ]; do echo o$i; [ $((i % 10)) = 0 ] && echo e$i >&2; i=$((i+1)); {rest}; done; exit 7"


class Collected:
    """What a client has seen of one command, across as many connections as it took."""

    def __init__(self) -> None:
        self.out, self.err = bytearray(), bytearray()
        self.id = ""
        self.last = 0
        self.exit: Event | None = None
        self.dropped = 0

    def take(self, event: Event, encoding: str) -> None:
        if event.kind == "started":
            assert self.id in ("", event.data["id"])
            self.id = event.data["id"]
        elif event.kind in ("stdout", "stderr"):
            text = event.data["data"]
            data = base64.b64decode(text) if encoding == "base64" else text.encode()
            assert event.data["offset"] == self.last, "a byte is lost or comes twice"
            assert event.id == self.last + len(data)
            (self.out if event.kind == "stdout" else self.err).extend(data)
            self.last = event.id
        elif event.kind == "dropped":
            assert event.data["offset"] == self.last
            self.dropped += event.data["until"] - event.data["offset"]
            self.last = event.id
        elif event.kind == "exit":
            self.exit = event
        else:
            raise AssertionError(event)


def logs(sandbox: Sandbox, key: str, more: str = "") -> str:
    return f"/sandboxes/{sandbox.id}/processes/{key}/logs?follow=true{more}"


def exec_stream(sandbox: Sandbox, command: str, **more: object) -> Stream:
    path = f"/sandboxes/{sandbox.id}/exec?stream=true"
    return Stream(sandbox.api, "POST", path, {"command": command, **more})


def test_a_stream_as_it_comes(sandbox: Sandbox) -> None:
    seen = Collected()
    with exec_stream(
        sandbox, "echo one; echo two >&2; read x; printf 'gr\\303\\274n %s' $x; exit 3", stdin="in\n"
    ) as stream:
        assert stream.status == 200
        kinds = []
        for event in stream:
            kinds.append(event.kind)
            seen.take(event, "utf8")
    assert kinds[0] == "started"
    assert kinds[-1] == "exit"
    assert (seen.out.decode(), seen.err.decode()) == ("one\ngrün in", "two\n")
    assert seen.exit is not None
    told = seen.exit.data
    assert (told["exitCode"], told["outcome"], told["status"], told["kind"]) == (
        3,
        "exited",
        "exited",
        "stream",
    )
    assert (told["logStart"], told["logEnd"]) == (0, seen.last)
    again = sandbox.request("GET", f"/processes/{seen.id}")
    assert again.json == told


def test_output_comes_while_the_command_runs(sandbox: Sandbox) -> None:
    with exec_stream(sandbox, "echo now; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo then") as stream:
        events = iter(stream)
        assert [next(events).kind, next(events).data["data"]] == ["started", "now\n"]
        sandbox.write("/tmp/go", "")
        assert "".join(event.data.get("data", "") for event in events) == "then\n"


def test_a_client_that_leaves_and_comes_back(sandbox: Sandbox) -> None:
    """At random places, among them the middle of an event."""
    chance, seen = random.Random(4), Collected()
    connections = 1
    with exec_stream(sandbox, COUNT.format(n=4000, rest=":"), encoding="base64") as stream:
        for event in stream:
            seen.take(event, "base64")
            if event.kind == "stdout":
                break
    while seen.exit is None:
        connections += 1
        with Stream(sandbox.api, "GET", logs(sandbox, seen.id, "&encoding=base64"), last=seen.last) as stream:
            for number, event in enumerate(stream):
                seen.take(event, "base64")
                if number > chance.randrange(12):
                    break
    _check_count(seen, 4000)
    print(f"a client that came {connections} times: {seen.last} bytes, lost 0, doubled 0")


def _check_count(seen: Collected, n: int) -> None:
    assert seen.dropped == 0
    assert seen.out.decode() == "".join(f"o{i}\n" for i in range(n))
    assert seen.err.decode() == "".join(f"e{i}\n" for i in range(0, n, 10))
    assert seen.exit is not None
    assert (seen.exit.data["exitCode"], seen.exit.data["outcome"]) == (7, "exited")


def test_kill_9_of_api_in_the_middle_of_a_stream(daemon_factory: DaemonFactory) -> None:
    """Again and again, while the command writes without a rest. The client knows one thing only: the number of
    the last event that it has seen whole."""
    daemon = daemon_factory()
    seen, kills, chance = Collected(), 0, random.Random(9)
    with daemon.api() as api:
        sandbox = api.sandbox()
        wish = {"command": COUNT.format(n=300_000, rest=":"), "encoding": "base64", "timeoutMs": 300_000}
        stream = Stream(api, "POST", f"/sandboxes/{sandbox.id}/exec?stream=true", wish)
        while seen.exit is None:
            until = time.monotonic() + chance.uniform(0.05, 0.6) if kills < 8 else None
            killed = False
            try:
                with contextlib.closing(stream):
                    for event in stream:
                        seen.take(event, "base64")
                        if until is not None and not killed and seen.id and time.monotonic() > until:
                            daemon.kill(daemon.api_pid, signal.SIGKILL)
                            killed, kills = True, kills + 1
            except (OSError, http.client.HTTPException):
                assert killed
            if seen.exit is None:
                daemon.wait_ready(15)
                stream = Stream(api, "GET", logs(sandbox, seen.id, "&encoding=base64"), last=seen.last)
                assert stream.status == 200
        _check_count(seen, 300_000)
        assert kills >= 3, "the command was over too soon for the test to mean anything"
        print(f"api killed {kills} times under a stream of {seen.last} bytes: lost 0, doubled 0")
        # It is as good as any other command afterwards.
        assert sandbox.request("GET", f"/processes/{seen.id}").json["exitCode"] == 7
        assert sandbox.out("echo well") == "well\n"


def test_a_command_that_ends_while_there_is_no_api(daemon_factory: DaemonFactory) -> None:
    """Its last words are in the pipes, and its status with init: the next api has both."""
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        sandbox.run("mkfifo /tmp/fifo")
        process = sandbox.request("POST", "/processes", {"command": "read x </tmp/fifo; echo late; exit 9"})
        key = process.json["id"]
        opener = sandbox.request(
            "POST", "/processes", {"command": "exec 3>/tmp/fifo; sleep 0.3; echo go >&3; sleep 60"}
        )
        assert opener.status == 201
        os.kill(daemon.pid, signal.SIGSTOP)  # no new api until we say so
        try:
            daemon.kill(daemon.api_pid, signal.SIGKILL)
            wait_until(lambda: not _runs(daemon, b"read x </tmp/fifo"), 10, "the command has ended")
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        daemon.wait_ready(15)
        with Stream(api, "GET", logs(sandbox, key)) as stream:
            events = list(stream)
        assert [event.kind for event in events] == ["started", "stdout", "exit"]
        assert events[1].data["data"] == "late\n"
        assert (events[-1].data["exitCode"], events[-1].data["outcome"]) == (9, "exited")


def _runs(daemon: Daemon, argument: bytes) -> bool:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
                if argument in file.read():
                    return True
    return False


def test_an_exec_is_asked_for_again_after_api_was_killed(daemon_factory: DaemonFactory) -> None:
    """With its Idempotency-Key it gets the answer that the first would have got, and nothing runs twice."""
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        wish = {
            "command": "echo x >>/tmp/runs; echo before; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo after; exit 4"
        }
        headers = {"Idempotency-Key": "one of a kind"}

        answers = []

        def ask() -> None:
            """As clients do: a connection that was lost is opened anew, and the request sent once more."""
            with daemon.api() as other:
                answers.append(other.request("POST", f"/sandboxes/{sandbox.id}/exec", wish, headers=headers))

        first = threading.Thread(target=ask)
        first.start()
        wait_until(lambda: sandbox.read("/tmp/runs").status == 200, what="the command runs")
        daemon.kill(daemon.api_pid, signal.SIGKILL)
        daemon.wait_ready(15)
        api.close()
        second = threading.Thread(target=ask)
        second.start()
        assert sandbox.write("/tmp/go", "").status == 200
        for thread in (first, second):
            thread.join()
        ask()
        assert {answer.body for answer in answers} == {answers[0].body}
        assert len(answers) == 3
        assert (answers[0].json["stdout"], answers[0].json["exitCode"]) == ("before\nafter\n", 4)
        assert sandbox.read("/tmp/runs").json["content"] == "x\n"
        other = sandbox.request("POST", "/exec", {"command": "true"}, headers=headers)
        assert (other.status, other.code) == (422, "idempotency_mismatch")


def test_a_create_is_asked_for_again_after_api_was_killed(daemon_factory: DaemonFactory) -> None:
    """At any moment of it: there is one sandbox in the end, and it runs."""
    daemon = daemon_factory()
    with daemon.api() as api:
        for attempt in range(6):
            headers = {"Idempotency-Key": f"create {attempt}"}

            def ask(sent: dict[str, str] = headers) -> None:
                with contextlib.suppress(OSError, http.client.HTTPException), daemon.api() as other:
                    other.request("POST", "/sandboxes", {}, headers=sent)

            thread = threading.Thread(target=ask)
            thread.start()
            time.sleep(attempt * 0.002)  # at one moment of the create or another
            daemon.kill(daemon.api_pid, signal.SIGKILL)
            daemon.wait_ready(15)
            thread.join()
            api.close()
            answers = [api.request("POST", "/sandboxes", {}, headers=headers) for _ in range(2)]
            assert [answer.status for answer in answers] == [201, 201], answers
            assert answers[0].json["id"] == answers[1].json["id"]
            alive = [one["id"] for one in api.request("GET", "/sandboxes").json]
            assert alive == [answers[0].json["id"]], f"attempt {attempt}"
            assert Sandbox(api, alive[0]).out("echo well") == "well\n"
            refused = api.request("POST", "/sandboxes", {"vcpus": 2}, headers=headers)
            assert (refused.status, refused.code) == (422, "idempotency_mismatch")
            api.kill(alive[0])


def test_time_outs_hold_across_a_kill(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        with exec_stream(sandbox, "echo $$; sleep 600", timeoutMs=4_000) as stream:
            events = iter(stream)
            key = next(events).data["id"]
            assert next(events).kind == "stdout"
            daemon.kill(daemon.api_pid, signal.SIGKILL)
        daemon.wait_ready(15)
        api.close()
        with Stream(api, "GET", logs(sandbox, key)) as stream:
            told = list(stream)[-1].data
        assert (told["outcome"], told["timedOut"], told["signal"]) == ("timedOut", True, "KILL")
        assert 4_000 <= told["durationMs"] < 20_000 * SLOWNESS


# ---- one process


def programs(sandbox: Sandbox) -> set[str]:
    """The command lines of all processes."""
    return set(sandbox.out("ps -eo args").splitlines())


def test_waiting_for_one(sandbox: Sandbox) -> None:
    key = sandbox.request(
        "POST", "/processes", {"command": "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 6"}
    ).json["id"]
    early = sandbox.request("GET", f"/processes/{key}/wait?timeoutMs=50").json
    assert (early["status"], early["id"]) == ("running", key)
    sandbox.write("/tmp/go", "")
    late = sandbox.request("GET", f"/processes/{key}/wait").json
    assert (late["status"], late["exitCode"]) == ("exited", 6)


def test_until_one_is_ready(sandbox: Sandbox) -> None:
    wish = {
        "command": "sleep 0.2; echo half; printf 'server is '; sleep 0.2; echo up; sleep 60",
        "readyWhen": {"line": "is up"},
    }
    said = sandbox.request("POST", "/processes", wish).json
    assert (said["ready"], said["status"]) == (True, "running")
    command = "sleep 0.3; exec python3 -m http.server 8123"
    listens = sandbox.request("POST", "/processes", {"command": command, "readyWhen": {"port": 8123}}).json
    assert (listens["ready"], listens["status"]) == (True, "running")
    for when in ({"line": "never"}, {"port": 8124}):
        ended = sandbox.request("POST", "/processes", {"command": "echo no; exit 3", "readyWhen": when}).json
        assert (ended["ready"], ended["status"], ended["exitCode"]) == (False, "exited", 3)
        late = sandbox.request(
            "POST", "/processes", {"command": "sleep 60", "readyWhen": {**when, "timeoutMs": 100}}
        )
        assert (late.json["ready"], late.json["status"]) == (False, "running")


def test_signals_reach_the_group_and_nobody_else(sandbox: Sandbox) -> None:
    other = sandbox.request("POST", "/processes", {"command": "sleep 60"}).json["id"]
    command = "trap 'echo usr1' USR1; sleep 70 & echo ready; while :; do wait; done"
    key = sandbox.request("POST", "/processes", {"command": command}).json["id"]
    wait_until(lambda: sandbox.request("GET", f"/processes/{key}/logs").json["chunks"], what="it listens")
    assert sandbox.request("POST", f"/processes/{key}/signal", {"signal": "USR1"}).json["status"] == "running"
    wait_until(
        lambda: b"usr1" in sandbox.request("GET", f"/processes/{key}/logs?raw=true").body, what="it was told"
    )
    wait_until(lambda: "sleep 70" not in programs(sandbox), what="its child was told as well")
    assert "sleep 60" in programs(sandbox)
    assert sandbox.request("POST", f"/processes/{key}/signal", {"signal": "KILL"}).status == 200
    ended = sandbox.request("GET", f"/processes/{key}/wait").json
    assert (ended["outcome"], ended["signal"], ended["exitCode"]) == ("signaled", "KILL", None)
    late = sandbox.request("POST", f"/processes/{key}/signal", {"signal": "TERM"})
    assert (late.status, late.code) == (409, "process_ended")
    assert [one["id"] for one in sandbox.request("GET", "/processes").json] == [other]


def test_ending_one_with_all_it_started(sandbox: Sandbox) -> None:
    other = sandbox.request("POST", "/processes", {"command": "sleep 61"}).json["id"]
    key = sandbox.request("POST", "/processes", {"command": "trap '' TERM; sleep 71 & sleep 72"}).json["id"]
    wait_until(lambda: {"sleep 71", "sleep 72"} <= programs(sandbox), what="it runs")
    ended = sandbox.request("DELETE", f"/processes/{key}").json
    assert (ended["status"], ended["signal"]) == ("exited", "KILL")
    assert sandbox.request("GET", f"/processes/{key}").code == "process_not_found"
    assert [one["id"] for one in sandbox.request("GET", "/processes?all=true").json] == [other]
    wait_until(lambda: not {"sleep 71", "sleep 72"} & programs(sandbox), what="nothing of it is left")
    done = sandbox.request("POST", "/processes", {"command": "true"}).json["id"]
    sandbox.request("GET", f"/processes/{done}/wait")
    assert sandbox.request("DELETE", f"/processes/{done}").json["exitCode"] == 0
    assert sandbox.request("DELETE", f"/processes/{done}").code == "process_not_found"


# ---- the log


def test_logs_as_json_and_as_bytes(sandbox: Sandbox) -> None:
    key = sandbox.request("POST", "/processes", {"command": "echo one; echo two >&2; echo three"}).json["id"]
    wait_until(lambda: sandbox.request("GET", f"/processes/{key}").json["status"] == "exited")
    told = sandbox.request("GET", f"/processes/{key}/logs").json
    assert (told["offset"], told["nextOffset"], told["dropped"], told["encoding"]) == (0, 14, 0, "utf8")
    assert "".join(one["data"] for one in told["chunks"] if one["stream"] == "stdout") == "one\nthree\n"
    part = sandbox.request("GET", f"/processes/{key}/logs?offset=4&limit=1&encoding=base64").json
    assert base64.b64decode(part["chunks"][0]["data"])
    assert sandbox.request("GET", f"/processes/{key}/logs?offset=14").json["chunks"] == []
    raw = sandbox.request("GET", f"/processes/{key}/logs?raw=true&stream=stderr")
    assert (raw.body, raw.headers["X-Log-Offset"]) == (b"two\n", "0")
    assert sorted(sandbox.request("GET", f"/processes/{key}/logs?raw=true").body.split()) == [
        b"one",
        b"three",
        b"two",
    ]
    assert sandbox.request("GET", f"/processes/{key}/logs?offset=15").code == "range_not_satisfiable"
    for bad in (
        "offset=-1",
        "offset=x",
        "limit=0",
        "encoding=rot13",
        "stream=stdout",
        "raw=1",
        "raw=true&stream=x",
    ):
        assert sandbox.request("GET", f"/processes/{key}/logs?{bad}").status in (400, 422), bad
    assert sandbox.request("GET", "/processes/cmd_none/logs").code == "process_not_found"
    assert sandbox.request("GET", "/processes/cmd_none").code == "process_not_found"


def test_a_silent_process_is_followed_from_the_start(sandbox: Sandbox) -> None:
    """Its log has nothing yet, and the answer has begun: clients give up on heads that do not come."""
    sleeper = sandbox.request("POST", "/processes", {"command": "sleep 3600"}).json["id"]
    connection = http.client.HTTPConnection(sandbox.api.host, sandbox.api.port, timeout=15)
    path = f"{BASE}/sandboxes/{sandbox.id}/processes/{sleeper}/logs?raw=true&follow=true"
    connection.request("GET", path, headers={"Authorization": f"Bearer {sandbox.api.key}"})
    response = connection.getresponse()
    assert (response.status, response.headers["X-Log-Offset"]) == (200, "0")
    assert sandbox.request("DELETE", f"/processes/{sleeper}").status == 200
    assert response.read() == b""
    connection.close()


def test_two_hundred_at_once(sandbox: Sandbox) -> None:
    """Each is answered with its own output and its own status, and leaves no process behind."""
    # An init that has not answered for 10 s counts as broken, and emulated processors made some of 200 wait
    # longer.
    count = 200 if SLOWNESS <= 1 else 40
    with ThreadPoolExecutor(count) as pool:
        told = list(pool.map(lambda n: sandbox.run(f"echo {n}; exit {n}"), range(count)))
    assert [(one["stdout"], one["exitCode"]) for one in told] == [(f"{n}\n", n) for n in range(count)]
    wait_until(lambda: states(sandbox) <= {"S"}, what="no zombie and no command")


def states(sandbox: Sandbox) -> set[str]:
    """Of every process but the one that looks: S is a spawner that waits, Z a zombie."""
    script = "for one in /proc/[0-9]*; do [ $one = /proc/1 ] || [ $one = /proc/$$ ] || cut -d')' -f2 $one/stat 2>/dev/null | cut -c2; done"
    return set(sandbox.run(["sh", "-c", script])["stdout"].split())


def test_a_flood_is_bounded_and_every_byte_accounted_for(daemon_factory: DaemonFactory, figure: Say) -> None:
    """1 GB of numbered lines in the background, while a client comes and goes: what it is not given is declared
    dropped, and neither the daemon's memory nor its disk grows with it."""
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox(timeoutMs=600_000)
        megabytes = 1000 if SLOWNESS <= 1 else 100
        command = [
            "python3",
            "-c",
            f"import sys\nw = sys.stdout.buffer.write\nfor n in range({megabytes}): w(b''.join(b'%015d\\n' % i for i in range(n * 62500, (n + 1) * 62500)))",
        ]
        begun = time.monotonic()
        key = sandbox.request("POST", "/processes", {"command": command}).json["id"]
        seen, received, rss, blocks = Collected(), 0, 0, 0
        folder = f"{daemon.state_dir}/logs/{sandbox.id}"
        while seen.exit is None:
            with Stream(api, "GET", logs(sandbox, key, "&encoding=base64"), last=seen.last) as stream:
                for number, event in enumerate(stream):
                    seen.take(event, "base64")
                    if event.kind == "stdout":
                        data = base64.b64decode(event.data["data"])
                        _check_lines(event.data["offset"], data)
                        received += len(data)
                        seen.out.clear()
                    if number % 50 == 0:
                        rss = max(rss, daemon.rss_kib())
                        blocks = max(blocks, _disk(folder))
                    if number > 400:
                        break
        took = time.monotonic() - begun
        assert seen.last == received + seen.dropped == megabytes * 1_000_000
        assert seen.exit.data["exitCode"] == 0
        print(
            f"{megabytes} MB in {took:.1f} s ({megabytes / took:.0f} MB/s): {received} bytes given, {seen.dropped} declared dropped, "
            f"0 unaccounted; api at most {rss / 1024:.0f} MiB, its logs {blocks / 1e6:.0f} MB of disk"
        )
        assert blocks < 64 << 20
        assert rss < 300 * 1024
        figure(10, "output flood", tried=megabytes, api_MiB=rss / 1024, disk_MB=blocks / 1e6, seconds=took)


def _check_lines(offset: int, data: bytes) -> None:
    """Numbered lines tell where they belong: looked at, at both ends."""
    for at in (0, max(0, len(data) - 32)):
        start = -(-(offset + at) // 16) * 16
        line = data[start - offset : start - offset + 16]
        if len(line) == 16:
            assert line == b"%015d\n" % (start // 16)


def _disk(folder: str) -> int:
    return sum(os.stat(os.path.join(folder, name)).st_blocks * 512 for name in os.listdir(folder))


@pytest.fixture
def small(daemon_factory: DaemonFactory) -> Iterator[tuple[Daemon, Api]]:
    daemon = daemon_factory(settings={"log_bytes": "65536", "logs_bytes": "1048576", "keep_ended": "3"})
    with daemon.api() as api:
        yield daemon, api


def test_all_logs_of_a_sandbox_together_are_bounded(small: tuple[Daemon, Api]) -> None:
    """A sandbox must not fill the host's disk through many commands that write, or have written, much."""
    daemon, api = small
    sandbox = api.sandbox()
    keys = [
        sandbox.request(
            "POST",
            "/processes",
            {"command": "head -c 8000000 /dev/zero; head -c 8000000 /dev/zero >&2; sleep 60"},
        ).json["id"]
        for _ in range(20)
    ]
    whole = [sandbox.request("POST", "/processes", {"command": "sleep 60"}).json["id"] for _ in range(3)]

    def written() -> bool:
        return all(sandbox.request("GET", f"/processes/{key}").json["logEnd"] == 16_000_000 for key in keys)

    wait_until(written, 60, "all is written")
    taken = _disk(f"{daemon.state_dir}/logs/{sandbox.id}")
    print(f"20 commands wrote 320 MB: their logs take {taken / 1e6:.1f} MB")
    # The bound, and what each may be beyond it before it is looked at again.
    assert taken <= (1 << 20) + 23 * (1 << 20)
    assert sandbox.request("DELETE", "/processes").status == 200
    wait_until(lambda: sandbox.request("GET", "/processes").json == [], what="all have ended")
    kept = [one["id"] for one in sandbox.request("GET", "/processes?all=true").json]
    assert len(kept) == 3
    assert set(kept) <= set(keys) | set(whole)
    assert len(os.listdir(f"{daemon.state_dir}/logs/{sandbox.id}")) == 9
    api.kill(sandbox.id)
    wait_until(lambda: not os.listdir(f"{daemon.state_dir}/logs"), what="the logs have gone with the sandbox")


def test_what_is_left_of_sandboxes_that_are_no_more(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        sandbox.request("POST", "/processes", {"command": "echo x; sleep 600"})
        assert os.listdir(f"{daemon.state_dir}/logs") == [sandbox.id]
    daemon.signal(signal.SIGKILL)
    daemon.wait(20)
    daemon.stop()
    daemon.start()
    wait_until(lambda: not os.listdir(f"{daemon.state_dir}/logs"), what="they are cleared away")


def test_somebody_elses(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    other = daemon.nsbox_on_state("keys", "create", "--owner", "eve", "hers")
    key = next((word for word in other.stdout.split() if word.startswith("nsbox_")), "")
    assert key, other
    with daemon.api() as api, daemon.api(key) as hers:
        sandbox = api.sandbox()
        mine = sandbox.request("POST", "/processes", {"command": "sleep 60"}).json["id"]
        for path in (f"/processes/{mine}", f"/processes/{mine}/logs", "/processes?all=true"):
            answer = hers.request("GET", f"/sandboxes/{sandbox.id}{path}")
            assert (answer.status, answer.code) == (404, "sandbox_not_found"), path
        second = hers.sandbox()
        assert second.request("GET", f"/processes/{mine}").code == "process_not_found"
