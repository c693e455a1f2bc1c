"""Sandboxes that stand still: their processes, their clocks, and what happens to those who ask meanwhile."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from tests.conftest import DaemonFactory
from tests.e2e.client import JSON, Answer, Api, Sandbox
from tests.e2e.daemon import Daemon, descendants, processes, wait_until
from tests.e2e.visitor import Preview, expose, serve

#: Counts, and notes the longest time that it did not come to it.
COUNTER = """
import time
last, longest, count = time.monotonic(), 0.0, 0
while True:
    now = time.monotonic()
    longest, last, count = max(longest, now - last), now, count + 1
    with open("/tmp/count.new", "w") as file:
        file.write(f"{count} {longest}")
    import os
    os.rename("/tmp/count.new", "/tmp/count")
    time.sleep(0.01)
"""


def pause(sandbox: Sandbox) -> JSON:
    answer = sandbox.request("POST", "/pause")
    if answer.status == 503 and answer.code == "host_lacks":
        pytest.skip("no cgroup is delegated here, and pausing needs one")
    assert answer.status == 200, answer
    assert answer.json["status"] == "paused"
    return answer.json


def resume(sandbox: Sandbox) -> JSON:
    answer = sandbox.request("POST", "/resume")
    assert answer.status == 200, answer
    assert answer.json["status"] == "running"
    return answer.json


def frozen(daemon: Daemon) -> int:
    """How many boxes stand still, by the kernel's word."""
    with open(f"/proc/{daemon.keeper_pid}/cgroup", encoding="ascii") as file:
        own = next(line.strip()[3:] for line in file if line.startswith("0::"))
    for mount in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        above = os.path.dirname(mount + own)
        if os.path.isdir(above):
            boxes = [f"{above}/{name}" for name in os.listdir(above) if name.startswith("box-")]
            return sum("frozen 1" in _read(f"{box}/cgroup.events") for box in boxes)
    raise AssertionError("keeper's cgroup is not to be found")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def count(sandbox: Sandbox) -> tuple[int, float]:
    number, longest = str(sandbox.read("/tmp/count").json["content"]).split()
    return int(number), float(longest)


def counting(sandbox: Sandbox) -> None:
    started = sandbox.request("POST", "/processes", {"command": ["python3", "-c", COUNTER]})
    assert started.status == 201, started
    wait_until(lambda: sandbox.read("/tmp/count").status == 200, what="the counter counts")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    made = ThreadPoolExecutor(16)
    yield made
    made.shutdown(wait=False, cancel_futures=True)


# ---- what stands still


def test_processes_stand_still_and_go_on(daemon: Daemon, sandbox: Sandbox) -> None:
    counting(sandbox)
    before = frozen(daemon)
    answer = pause(sandbox)
    assert answer == {"id": sandbox.id, "status": "paused", "reclaimedBytes": answer["reclaimedBytes"]}
    assert frozen(daemon) == before + 1
    shown = sandbox.api.get(sandbox.id)
    assert (shown["status"], shown["expiresAt"]) == ("paused", None)
    assert 0 < shown["remainingMs"] <= shown["timeoutMs"]
    (listed,) = [
        one for one in sandbox.api.request("GET", "/sandboxes?status=paused").json if one["id"] == sandbox.id
    ]
    assert listed == sandbox.api.get(sandbox.id)
    time.sleep(2)  # the standstill itself
    resumed = resume(sandbox)
    assert resumed["expiresAt"] == sandbox.api.get(sandbox.id)["expiresAt"]
    assert frozen(daemon) == before
    # It says how long it stood when it next counts, and that may be after we look.
    wait_until(lambda: count(sandbox)[1] > 1.9, what="it has stood still all the time")
    number = count(sandbox)[0]
    wait_until(lambda: count(sandbox)[0] > number, what="it counts on")
    assert sandbox.out("echo works") == "works\n"


def test_twice_is_no_error(daemon: Daemon, sandbox: Sandbox) -> None:
    before = frozen(daemon)
    resume(sandbox)
    for _ in range(2):
        pause(sandbox)
        assert frozen(daemon) == before + 1
    for _ in range(2):
        resume(sandbox)
        assert frozen(daemon) == before


def test_what_is_asked_of_a_paused_one(sandbox: Sandbox) -> None:
    pause(sandbox)
    for answer in (
        sandbox.exec("true"),
        sandbox.request("POST", "/processes", {"command": "true"}),
        sandbox.request("DELETE", "/processes"),
        sandbox.read("/etc/passwd"),
        sandbox.files("GET", "/", list="true"),
        sandbox.write("/tmp/x", "x"),
        sandbox.upload("/tmp/x", b"x"),
        sandbox.download("/etc/passwd"),
        sandbox.remove("/tmp/x"),
    ):
        assert (answer.status, answer.code) == (409, "wrong_state"), answer
        assert answer.json["remedy"] == "resume it first"
    assert sandbox.request("GET", "/processes").json == []  # to look changes nothing
    resume(sandbox)
    assert sandbox.write("/tmp/x", "x").status == 200


def test_requests_with_something_in_them(sandbox: Sandbox) -> None:
    for below in ("/pause", "/resume"):
        assert sandbox.request("POST", below, {"hard": True}).code == "invalid_field"
        assert sandbox.request("POST", below, {}).status == 200


# ---- clocks


def running(sandbox: Sandbox, pool: ThreadPoolExecutor, command: str, timeout_ms: int) -> Future[JSON]:
    """A command that is waited for, seen to have begun."""
    line = f"touch /tmp/begun; {command}"
    future: Future[JSON] = pool.submit(
        lambda: Sandbox(sandbox.api, sandbox.id).run(line, timeoutMs=timeout_ms)
    )
    wait_until(lambda: sandbox.read("/tmp/begun").status == 200, what="the command runs")
    return future


def test_a_commands_time_stands_still(sandbox: Sandbox, pool: ThreadPoolExecutor) -> None:
    begun = time.monotonic()
    waiting = running(sandbox, pool, "until test -e /tmp/stop; do sleep 0.05; done; echo done", 4_000)
    pause(sandbox)
    time.sleep(4.5)
    assert not waiting.done()
    resume(sandbox)
    assert sandbox.write("/tmp/stop", "").status == 200
    result = waiting.result(20)
    took = (time.monotonic() - begun) * 1000
    assert (result["exitCode"], result["stdout"], result["timedOut"]) == (0, "done\n", False)
    assert result["durationMs"] < took - 4_400  # nor does the standstill count as time it took


def test_a_commands_time_is_over_after_the_resume(sandbox: Sandbox, pool: ThreadPoolExecutor) -> None:
    waiting = running(sandbox, pool, "sleep 600", 2_000)
    pause(sandbox)
    time.sleep(2.5)
    assert not waiting.done()
    resume(sandbox)
    result = waiting.result(20)
    assert (result["timedOut"], result["signal"]) == (True, "KILL")
    assert sandbox.run("ps -eo args | grep -c '[s]leep 600'")["stdout"] == "0\n"


def test_its_own_time_stands_still(api: Api) -> None:
    made = api.sandbox(timeoutMs=3_000)
    pause(made)
    left = api.get(made.id)["remainingMs"]
    time.sleep(3.5)
    assert (api.get(made.id)["status"], api.get(made.id)["remainingMs"]) == ("paused", left)
    resume(made)
    assert api.get(made.id)["status"] == "running"
    wait_until(lambda: api.get(made.id)["status"] == "stopped", 10, "its time is over")
    assert api.get(made.id)["endReason"] == "expired"


def test_time_is_given_and_taken(api: Api) -> None:
    made = api.sandbox(timeoutMs=600_000)

    def timeout(milliseconds: object) -> Answer:
        return made.request("POST", "/timeout", {"timeoutMs": milliseconds})

    assert timeout(3_600_000).json["timeoutMs"] == 3_600_000
    for wrong in (0, 999, 86_400_001, -1):
        assert (timeout(wrong).status, timeout(wrong).json["field"]) == (422, "timeoutMs")
    for wrong in ("1000", None, 1.5):
        assert timeout(wrong).status == 422
    assert made.request("POST", "/timeout").status == 422
    pause(made)
    answer = timeout(1_000).json
    assert (answer["remainingMs"], answer["expiresAt"], answer["status"]) == (1_000, None, "paused")
    time.sleep(1.5)
    assert api.get(made.id)["status"] == "paused"
    resume(made)
    wait_until(lambda: api.get(made.id)["status"] == "stopped", 10, "its time is over")
    assert (timeout(1_000).status, timeout(1_000).code) == (409, "wrong_state")
    other = api.sandbox(timeoutMs=600_000)
    assert other.request("POST", "/timeout", {"timeoutMs": 1_000}).status == 200
    wait_until(lambda: api.get(other.id)["status"] == "stopped", 10, "the shorter time is over")


# ---- what is under way


def test_an_upload_waits_for_the_resume(sandbox: Sandbox, pool: ThreadPoolExecutor) -> None:
    data = os.urandom(1_000_000)
    connection = http.client.HTTPConnection(sandbox.api.host, sandbox.api.port, timeout=60)
    connection.putrequest("PUT", f"/api/v1/sandboxes/{sandbox.id}/files?path=/tmp/up")
    connection.putheader("Authorization", f"Bearer {sandbox.api.key}")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders()
    connection.send(data[:500_000])
    wait_until(lambda: len(sandbox.out("ls -A /tmp").split()) > 0, what="the upload has begun")
    pause(sandbox)
    connection.send(data[500_000:])
    answer = pool.submit(connection.getresponse)
    time.sleep(0.5)
    assert not answer.done()
    resume(sandbox)
    assert answer.result(20).status == 200
    connection.close()
    assert sandbox.download("/tmp/up").body == data


# ---- visitors of its ports

#: Half of an answer at once, the rest (of /slow) after two seconds; and what it is sent comes back.
SLOW = """
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"begun")
        self.wfile.flush()
        if self.path == "/slow":
            time.sleep(2)
        self.wfile.write(b" done")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""


ECHO = """
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
socketserver.ThreadingTCPServer(("127.0.0.1", 5432), Handler).serve_forever()
"""


@pytest.fixture
def slow(sandbox: Sandbox) -> Preview:
    serve(sandbox, "slow.py", SLOW)
    return expose(sandbox, 8080)


def test_visitors_of_a_paused_one_are_told_so(sandbox: Sandbox, slow: Preview) -> None:
    """At once, on a new connection and on one that was kept; and nobody is told of what is not exposed."""
    kept = slow.connect()
    assert _get(kept, slow) == (200, b"begun done")
    pause(sandbox)
    told = slow.ask()
    assert (told.status, told.code, told.headers["Retry-After"]) == (503, "sandbox_paused", "10")
    assert told.headers["Content-Type"] == "application/problem+json"
    page = slow.ask(headers={"Accept": "text/html"})
    assert (page.status, page.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
    assert b"<h1>The sandbox is paused</h1>" in page.body
    assert b'http-equiv="refresh" content="10"' in page.body
    status, body = _get(kept, slow)
    assert (status, b"sandbox_paused" in body) == (503, True)
    kept.close()
    other = slow.ask(headers={"Host": slow.netloc.replace("-8080.", "-8081.")})
    assert (other.status, other.code) == (404, "port_not_exposed")
    resume(sandbox)
    assert (slow.ask().status, slow.ask().body) == (200, b"begun done")


def _get(connection: http.client.HTTPConnection, preview: Preview, path: str = "/") -> tuple[int, bytes]:
    connection.request("GET", path, headers={"Host": preview.netloc})
    response = connection.getresponse()
    return response.status, response.read()


def test_an_answer_that_has_begun_goes_on_after_the_resume(sandbox: Sandbox, slow: Preview) -> None:
    with slow.raw() as sock:
        sock.sendall(f"GET /slow HTTP/1.1\r\nHost: {slow.netloc}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"begun"):
            answer += sock.recv(4_096)
        asked = time.monotonic()
        pause(sandbox)
        in_time = time.monotonic() - asked < 1.5  # else it may have come already, on a host that is this slow
        came = _until_silent(sock)
        assert not (in_time and came)
        resume(sandbox)
        while b" done" not in came:
            piece = sock.recv(4_096)
            assert piece, "the connection was kept"
            came += piece
        assert came == b" done"
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {slow.netloc}\r\n\r\n".encode())
        assert sock.recv(4_096).startswith(b"HTTP/1.1 200")


def _until_silent(sock: socket.socket) -> bytes:
    sock.settimeout(3)
    came = b""
    try:
        while piece := sock.recv(4_096):
            came += piece
        raise AssertionError("the connection was closed")
    except TimeoutError:
        return came
    finally:
        sock.settimeout(60)


def test_a_body_that_is_on_its_way_waits_for_the_resume(
    sandbox: Sandbox, slow: Preview, pool: ThreadPoolExecutor
) -> None:
    """More than the kernel holds for somebody who does not read: the visitor waits, and nothing is lost."""
    body = os.urandom(32 << 20)
    with slow.raw() as sock:
        sock.sendall(
            f"POST / HTTP/1.1\r\nHost: {slow.netloc}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        sock.sendall(body[:1_000])
        pause(sandbox)
        sent = pool.submit(sock.sendall, body[1_000:])
        time.sleep(1)  # the standstill itself
        assert not sent.done()
        resume(sandbox)
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.read() == body
        sent.result(20)


def test_tcp_to_a_paused_one(daemon_factory: DaemonFactory) -> None:
    """There is no page in TCP: who comes is turned away, and who is connected waits."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    with daemon_factory(settings={"tcp_ports": f"{number}-{number}"}).api() as api:
        made = api.sandbox()
        serve(made, "echo.py", ECHO)
        wish = {"port": 5432, "protocol": "tcp", "waitMs": 30_000}
        place = ("127.0.0.1", made.request("POST", "/ports", wish).json["hostPort"])
        with socket.create_connection(place, 60) as sock:
            sock.sendall(b"before")
            assert sock.recv(100) == b"before"
            pause(made)
            with socket.create_connection(place, 60) as late:
                assert late.recv(100) == b""
            sock.sendall(b"meanwhile")
            assert _until_silent(sock) == b""
            resume(made)
            assert sock.recv(100) == b"meanwhile"
        api.kill(made.id)


def test_kill_of_a_paused_one(daemon_factory: DaemonFactory, pool: ThreadPoolExecutor) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        made = api.sandbox()
        waiting = running(made, pool, "sleep 4711", 60_000)
        assert _named(daemon, "sleep") != []
        pause(made)
        assert api.kill(made.id).json == {"id": made.id, "status": "stopped"}
        assert waiting.result(20)["outcome"] == "sandboxGone"
        wait_until(lambda: _named(daemon, "sleep") == [], 5, "its processes are gone")
        wait_until(lambda: frozen(daemon) == 0, 5, "its cgroup is gone")
        for below in ("/pause", "/resume"):
            answer = made.request("POST", below)
            assert (answer.status, answer.code) == (409, "wrong_state")
            assert answer.json["remedy"] == "create a new sandbox"


def _named(daemon: Daemon, name: str) -> list[int]:
    return [one.pid for one in descendants(daemon.pid) if one.name == name and one.state != "Z"]


# ---- when processes of nsbox die


def test_api_is_replaced_while_one_is_paused(daemon_factory: DaemonFactory) -> None:
    """It stays paused, its time stands still, and what it was at goes on when it is resumed."""
    daemon = daemon_factory()
    with daemon.api() as api:
        made, other = api.sandbox(timeoutMs=20_000), api.sandbox()
        counting(made)
        pause(made)
        left = api.get(made.id)["remainingMs"]
        begun = time.monotonic()
        for _ in range(2):
            daemon.kill(daemon.api_pid, signal.SIGKILL)
            daemon.wait_ready(15)
            api.close()
            assert (api.get(made.id)["status"], api.get(made.id)["remainingMs"]) == ("paused", left)
            assert frozen(daemon) == 1
            assert other.out("echo runs") == "runs\n"
        stood = time.monotonic() - begun
        resume(made)
        # It says how long it stood when it next counts, and that may be after we look.
        wait_until(lambda: count(made)[1] > stood * 0.9, what="it has stood still all the time")
        number = count(made)[0]
        wait_until(lambda: count(made)[0] > number, what="it counts on")
        (process,) = made.request("GET", "/processes").json
        assert process["command"][0] == "python3"
        assert made.out("echo works") == "works\n"
        pause(made)
        resume(made)
        assert made.request("DELETE", "/processes").status == 200


def test_what_a_paused_one_has_done_is_known_after_api_was_replaced(
    daemon_factory: DaemonFactory, pool: ThreadPoolExecutor
) -> None:
    """Nobody can ask its init, and it is not asked: what is on disk is told."""
    daemon = daemon_factory()
    with daemon.api() as api:
        made = api.sandbox()
        ended = made.request("POST", "/processes", {"command": "echo ended; exit 3"}).json["id"]
        wait_until(
            lambda: made.request("GET", f"/processes/{ended}").json["status"] == "exited", what="it ends"
        )
        line = "echo before; until test -e /tmp/go; do sleep 0.05; done; echo after; sleep 0.2; exit 4"
        runs = made.request("POST", "/processes", {"command": line}).json["id"]
        other = made.request("POST", "/processes", {"command": "sleep 600"}).json["id"]

        def logs(key: str) -> str:
            return made.request("GET", f"/processes/{key}/logs?raw=true").body.decode()

        wait_until(lambda: logs(runs) == "before\n", what="it has written")
        pause(made)
        daemon.kill(daemon.api_pid, signal.SIGKILL)
        daemon.wait_ready(15)
        api.close()
        assert {one["id"] for one in made.request("GET", "/processes").json} == {runs, other}
        everything = {one["id"]: one for one in made.request("GET", "/processes?all=true").json}
        assert everything[ended]["exitCode"] == 3
        shown = made.request("GET", f"/processes/{runs}").json
        assert (shown["status"], shown["command"], shown["pid"]) == ("running", line, None)
        assert (logs(runs), logs(ended)) == ("before\n", "ended\n")
        # Who follows it now, or waits for its end, gets what comes after the resume.
        following = pool.submit(lambda: made.request("GET", f"/processes/{runs}/logs?raw=true&follow=true"))
        waiting = pool.submit(lambda: made.request("GET", f"/processes/{runs}/wait"))
        time.sleep(0.5)
        assert not following.done()
        resume(made)
        assert made.request("GET", f"/processes/{runs}").json["pid"] > 0
        assert made.write("/tmp/go", "").status == 200
        assert following.result(20).body == b"before\nafter\n"
        assert waiting.result(20).json["exitCode"] == 4
        # One that is ended while it is paused takes its commands with it.
        pause(made)
        daemon.kill(daemon.api_pid, signal.SIGKILL)
        daemon.wait_ready(15)
        api.close()
        waiting = pool.submit(lambda: made.request("GET", f"/processes/{other}/wait"))
        time.sleep(0.3)
        assert not waiting.done()
        assert api.kill(made.id).status == 200
        assert waiting.result(20).json["outcome"] == "sandboxGone"


def test_api_dies_between_the_row_and_the_kernel(daemon_factory: DaemonFactory) -> None:
    """Killed at any moment of pauses and resumes: afterwards the record and the kernel agree."""
    daemon = daemon_factory()
    with daemon.api() as api:
        made = api.sandbox()
        pause(made)
        resume(made)
        done = threading.Event()

        def toggle() -> None:
            with daemon.api() as mine:
                one = Sandbox(mine, made.id)
                while not done.is_set():
                    try:
                        one.request("POST", "/pause")
                        one.request("POST", "/resume")
                    except OSError:
                        mine.close()
                        time.sleep(0.01)

        for round_ in range(4):
            done.clear()
            thread = threading.Thread(target=toggle)
            thread.start()
            time.sleep(0.1 + random.random() / 10)  # at some moment, not at a chosen one
            daemon.kill(daemon.api_pid, signal.SIGKILL)
            done.set()
            daemon.wait_ready(15)
            thread.join()
            api.close()
            status = api.get(made.id)["status"]
            print(f"round {round_}: {status}")
            assert frozen(daemon) == (status == "paused")
            resume(made)
            assert made.out("echo works") == "works\n"


@pytest.mark.parametrize("victim", ["keeper", "supervisor", "SIGTERM"])
def test_nothing_is_left_when_the_daemon_ends(daemon_factory: DaemonFactory, victim: str) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        made = api.sandbox()
        counting(made)
        pause(made)
        family = [one.pid for one in descendants(daemon.pid)]
        if victim == "SIGTERM":
            daemon.signal(signal.SIGTERM)
            assert daemon.wait(20) == 0
        else:
            daemon.kill(daemon.keeper_pid if victim == "keeper" else daemon.pid, signal.SIGKILL)
            daemon.wait(20)
        wait_until(partial(_gone, family), 10, "every process is gone")
    daemon.stop()
    with daemon.start().api() as api:
        assert api.get(made.id)["status"] == ("stopped" if victim == "SIGTERM" else "lost")


def _gone(pids: list[int]) -> bool:
    table = {one.pid: one.state for one in processes()}
    return all(table.get(pid, "Z") == "Z" for pid in pids)


# ---- many at once


def test_everything_at_once(daemon_factory: DaemonFactory, pool: ThreadPoolExecutor) -> None:
    """One effect each, no request that hangs, and never a sandbox that stands still and is said to run."""
    daemon = daemon_factory()
    with daemon.api() as api:
        made = api.sandbox()
        counting(made)
        pause(made)
        resume(made)

        def client(kind: int) -> set[int]:
            chance = random.Random(kind)
            with daemon.api() as mine:
                one = Sandbox(mine, made.id)
                acts: list[Callable[[], Answer]] = [
                    lambda: one.request("POST", "/pause"),
                    lambda: one.request("POST", "/resume"),
                    lambda: one.request("POST", "/timeout", {"timeoutMs": 600_000}),
                    lambda: one.exec("true", timeoutMs=20_000),
                    lambda: one.read("/etc/passwd"),
                ]
                return {chance.choice(acts)().status for _ in range(25)}

        # Whoever waits for a command in a sandbox that stays paused would wait for ever: one resumes.
        ended = threading.Event()

        def resumer() -> None:
            with daemon.api() as mine:
                while not ended.wait(0.05):
                    Sandbox(mine, made.id).request("POST", "/resume")

        helper = pool.submit(resumer)
        statuses = set().union(*(one.result(120) for one in [pool.submit(client, kind) for kind in range(8)]))
        ended.set()
        helper.result(20)
        assert statuses <= {200, 409}, statuses
        pause(made)
        assert frozen(daemon) == 1
        resume(made)
        assert frozen(daemon) == 0
        # And all that while it is killed.
        acts = ["/pause", "/resume", "/pause", "/resume", "", "/pause", "", "/resume"]
        answers = [pool.submit(_act, daemon, made.id, below) for below in acts]
        assert {one.result(60) for one in answers} <= {200, 409}
        assert api.get(made.id)["status"] == "stopped"
        wait_until(lambda: frozen(daemon) == 0, 5, "nothing stands still")
        assert daemon.log().count("Traceback") == 0


def _act(daemon: Daemon, sandbox_id: str, below: str) -> int:
    with daemon.api() as mine:
        return Sandbox(mine, sandbox_id).request("POST" if below else "DELETE", below).status
