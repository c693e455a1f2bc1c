"""A create that fails at any step leaves nothing; what the host takes away and gives back does no harm."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.plugin import Say
from tests.e2e.client import Answer, Api
from tests.e2e.daemon import Daemon, Residue, descendants, settle, wait_until


@contextlib.contextmanager
def away(daemon: Daemon, name: str) -> Iterator[None]:
    """A folder of the state, out of reach for a while."""
    path = os.path.join(daemon.state_dir, name)
    os.rename(path, path + ".away")
    try:
        yield
    finally:
        if os.path.isdir(path) and not os.listdir(path):
            os.rmdir(path)
        os.rename(path + ".away", path)


def layer(daemon: Daemon) -> str:
    """The default template's one layer."""
    (name,) = os.listdir(os.path.join(daemon.state_dir, "layers"))
    return f"layers/{name}"


def works(api: Api) -> bool:
    answer = api.request("POST", "/sandboxes")
    if answer.status != 201:
        return False
    assert (
        api.request("POST", f"/sandboxes/{answer.json['id']}/exec", {"command": "true"}).json["exitCode"] == 0
    )
    return api.kill(answer.json["id"]).status == 200


def check_told(answers: list[Answer], daemon: Daemon) -> None:
    for answer in answers:
        assert (answer.status, answer.code) == (503, "create_failed"), answer
        assert daemon.state_dir not in answer.body.decode(), "a path of the host is no tenant's business"


def baseline(daemon: Daemon, api: Api) -> Residue:
    """What there is when nothing is going on, without our own connections."""
    api.close()
    return settle(daemon)


def back_to(daemon: Daemon, api: Api, before: Residue, *, ignoring_sockets: bool = False) -> None:
    """Nothing more and nothing less than before; the stock of blanks may take a moment. Sockets in ``run/``
    are not counted where we took that folder away while they should have been removed."""
    api.close()

    def difference() -> dict[str, tuple[int, int]]:
        now = daemon.residue()
        return {
            name: (getattr(before, name), getattr(now, name))
            for name in Residue._fields
            if getattr(now, name) != getattr(before, name) and not (ignoring_sockets and name == "sockets")
        }

    try:
        wait_until(lambda: not difference(), 10)
    except AssertionError:
        raise AssertionError(f"before and after differ: {difference()}") from None


@pytest.mark.parametrize("step", ["layer", "layers", "sandboxes", "run"])
def test_a_create_that_fails_leaves_nothing(own_daemon: Daemon, step: str, figure: Say) -> None:
    """Without its layer or all layers the overlay fails; without ``sandboxes`` the folder; without ``run``
    the socket. Ten times one by one, then ten at once."""
    name = layer(own_daemon) if step == "layer" else step
    with own_daemon.api() as api:
        assert works(api)
        before = baseline(own_daemon, api)
        records = len(api.request("GET", "/sandboxes?status=failed").json)
        with away(own_daemon, name):
            begun = time.monotonic()
            answers = [api.request("POST", "/sandboxes") for _ in range(10)]
            with ThreadPoolExecutor(10) as pool:
                answers += list(pool.map(lambda _: api.request("POST", "/sandboxes"), range(10)))
            took = time.monotonic() - begun
        check_told(answers, own_daemon)
        assert api.request("GET", "/sandboxes").json == []
        failed = api.request("GET", "/sandboxes?status=failed").json
        assert len(failed) == records + 20
        assert {one["endReason"] for one in failed} == {"failed"}
        wait_until(lambda: works(api), 10, "creating works again")
        back_to(own_daemon, api, before, ignoring_sockets=step == "run")
    print(f"create without {step}: 20 failures in {took * 1000:.0f} ms; nothing left of them: {before}")
    figure(15, "failing creates", tried=len(answers))


def test_blanks_that_are_killed_are_replaced(own_daemon: Daemon) -> None:
    """Somebody on the host, the OOM killer for one, ends every blank in stock."""
    with own_daemon.api() as api:
        assert works(api)
        before = baseline(own_daemon, api)
        daemons = {own_daemon.api_pid, own_daemon.keeper_pid}
        outer = os.stat(f"/proc/{own_daemon.keeper_pid}").st_uid
        killed = 0
        for one in descendants(own_daemon.pid):
            with contextlib.suppress(OSError):
                if one.pid not in daemons and os.stat(f"/proc/{one.pid}").st_uid not in (
                    0,
                    outer,
                    own_daemon.who.uid,
                ):
                    own_daemon.kill(one.pid, signal.SIGKILL)
                    killed += 1
        assert killed > 0
        answers = [api.request("POST", "/sandboxes") for _ in range(5)]
        assert {answer.status for answer in answers} <= {201, 503}, answers
        for answer in answers:
            if answer.status == 201:
                assert api.kill(answer.json["id"]).status == 200
        wait_until(lambda: works(api), 10, "creating works again")
        back_to(own_daemon, api, before)
    print(f"{killed} blanks killed; the next creates: {[answer.status for answer in answers]}")


def test_an_init_that_is_killed_is_recorded(own_daemon: Daemon) -> None:
    """A sandbox whose process 1 dies by itself: its commands' clients hear of it, and the record does."""
    with own_daemon.api() as api:
        before = baseline(own_daemon, api)
        sandbox = api.sandbox()
        sandbox.request("POST", "/processes", {"command": ["sleep", "9101"]})
        # vfork(2)'s parent goes on before the kernel has the new program's arguments in place.
        wait_until(lambda: _init_of(own_daemon, "9101"), what="the command shows its arguments")
        top = _init_of(own_daemon, "9101")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(sandbox.exec, "sleep 30")
            wait_until(lambda: "sleep 30" in sandbox.out("ps -eo args"), what="the command runs")
            begun = time.monotonic()
            own_daemon.kill(top, signal.SIGKILL)
            answer = waiting.result(20)
        took = time.monotonic() - begun
        print(f"init killed: the client of a command heard of it after {took * 1000:.0f} ms")
        assert (answer.status, answer.json["outcome"], answer.json["exitCode"]) == (200, "sandboxGone", None)
        wait_until(lambda: api.get(sandbox.id)["status"] == "stopped", what="it is recorded")
        assert api.get(sandbox.id)["endReason"] == "crashed"
        assert sandbox.exec("true").status == 409
        assert api.kill(sandbox.id).status == 200
        back_to(own_daemon, api, before)


def _init_of(daemon: Daemon, marker: str) -> int:
    """The process 1 of the sandbox in which a command with this argument runs: the topmost ancestor of it
    that is in the same pid namespace. 0 where there is none."""
    table = {one.pid: one.parent for one in descendants(daemon.pid)}
    for pid in table:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if marker.encode() in file.read():
                space = os.readlink(f"/proc/{pid}/ns/pid")
                while table.get(pid) and os.readlink(f"/proc/{table[pid]}/ns/pid") == space:
                    pid = table[pid]
                return pid
    return 0


def test_too_many_are_refused(small_daemon: Daemon) -> None:
    with small_daemon.api() as api:
        made = [api.create() for _ in range(2)]
        answer = api.request("POST", "/sandboxes")
        assert (answer.status, answer.code) == (429, "too_many_sandboxes"), answer
        assert answer.headers["retry-after"]
        api.kill(made[0])
        assert works(api)
        sandbox = api.sandbox()
        started = [sandbox.request("POST", "/processes", {"command": "sleep 9201"}).status for _ in range(4)]
        assert started == [201, 201, 201, 429]
        refused = sandbox.exec("true")
        assert (refused.status, refused.code) == (429, "too_many_commands")
        assert sandbox.request("DELETE", "/processes").status == 200
        wait_until(lambda: sandbox.exec("true").status == 200, what="there is room again")
        assert sandbox.out("echo again") == "again\n"


@pytest.fixture
def small_daemon() -> Iterator[Daemon]:
    """A daemon that allows two sandboxes, and three commands in each."""
    settings = {"NSBOX_MAX_SANDBOXES": "2", "NSBOX_MAX_COMMANDS": "3", "NSBOX_POOL_SIZE": "0"}
    one = Daemon(key="a-key-of-enough-length", settings=settings)
    try:
        yield one.start()
    finally:
        one.close()
