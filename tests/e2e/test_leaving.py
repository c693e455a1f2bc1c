"""A client that leaves kills nothing, unless it asked for that: then its command ends, and nothing else."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.client import BASE, PATIENCE, Sandbox
from tests.e2e.daemon import SLOWNESS, Daemon, wait_until
from tests.e2e.sse import Stream
from tests.e2e.websocket import Socket

#: What ends must end with all that it has started.
_COMMAND = "echo begun >>/tmp/begun; sleep 7300 & exec sleep 7301"
_KILL = "onDisconnect=kill"
Leave = Callable[[], None]


def plain(sandbox: Sandbox, wish: str) -> Leave:
    """An exec that waits for the end."""
    connection = http.client.HTTPConnection(sandbox.api.host, sandbox.api.port, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {sandbox.api.key}", "Content-Type": "application/json"}
    body = json.dumps({"command": _COMMAND, "timeoutMs": 600_000})
    connection.request("POST", f"{BASE}/sandboxes/{sandbox.id}/exec?{wish}", body, headers)
    return connection.close


def streamed(sandbox: Sandbox, wish: str) -> Leave:
    """An exec whose output is followed."""
    body = {"command": _COMMAND, "timeoutMs": 600_000}
    return Stream(sandbox.api, "POST", f"/sandboxes/{sandbox.id}/exec?stream=true&{wish}", body).close


def followed(sandbox: Sandbox, wish: str) -> Leave:
    """A process whose log somebody follows."""
    key = sandbox.request("POST", "/processes", {"command": _COMMAND}).json["id"]
    path = f"/sandboxes/{sandbox.id}/processes/{key}/logs?follow=true&{wish}"
    stream = Stream(sandbox.api, "GET", path)
    assert stream.status == 200
    return stream.close


def attached(sandbox: Sandbox, wish: str) -> Leave:
    """A terminal."""
    order = {"command": _COMMAND, "terminal": {"rows": 24, "columns": 80}}
    key = sandbox.request("POST", "/processes", order).json["id"]
    url = f"http://{sandbox.api.host}:{sandbox.api.port}{BASE}"
    path = f"/sandboxes/{sandbox.id}/processes/{key}/attach?{wish}"
    return Socket(url, path, [("Authorization", f"Bearer {sandbox.api.key}")], PATIENCE).close


def sleepers(sandbox: Sandbox) -> int:
    return int(sandbox.out("ps -eo args | grep -c '^sleep 730[01]' || true"))


def begun(sandbox: Sandbox) -> None:
    wait_until(lambda: sandbox.read("/tmp/begun").status == 200, what="it has begun")
    wait_until(lambda: sleepers(sandbox) == 2, what="it runs")


@pytest.mark.parametrize("way", [plain, streamed, followed, attached])
def test_who_asked_for_it_takes_the_command_along(
    sandbox: Sandbox, way: Callable[[Sandbox, str], Leave]
) -> None:
    other = sandbox.request("POST", "/processes", {"command": "sleep 7400"}).json["id"]
    leave = way(sandbox, _KILL)
    begun(sandbox)
    left = time.monotonic()
    leave()
    wait_until(lambda: sleepers(sandbox) == 0, what="it is killed")
    took = time.monotonic() - left
    print(f"{way.__name__}: killed, and seen to be, {took * 1000:.0f} ms after its client had left")
    assert took < 2 * SLOWNESS
    assert [one["id"] for one in sandbox.request("GET", "/processes").json] == [other]
    for one in sandbox.request("GET", "/processes?all=true").json:
        if one["id"] != other:
            assert (one["outcome"], one["signal"]) == ("signaled", "KILL")


@pytest.mark.parametrize("way", [plain, streamed, followed, attached])
def test_who_did_not_leaves_it_running(sandbox: Sandbox, way: Callable[[Sandbox, str], Leave]) -> None:
    """Seen when a client that came and left later, and did ask, has had its command killed."""
    leave = way(sandbox, "onDisconnect=continue")
    begun(sandbox)
    leave()
    body = {"command": "exec sleep 7500", "timeoutMs": 600_000}
    path = f"/sandboxes/{sandbox.id}/exec?stream=true&{_KILL}"
    with Stream(sandbox.api, "POST", path, body) as stream:
        key = next(iter(stream)).data["id"]
    wait_until(lambda: sandbox.request("GET", f"/processes/{key}").json["status"] == "exited")
    assert sleepers(sandbox) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda one: one.name)
@pytest.mark.parametrize("way", [plain, streamed, attached])
def test_a_new_api_process_is_no_leaving(
    own_daemon: Daemon, way: Callable[[Sandbox, str], Leave], number: signal.Signals
) -> None:
    """Whether it was killed or is being replaced: the connection is lost, and the client has not left."""
    with own_daemon.api() as api:
        sandbox = api.sandbox(timeoutMs=600_000)
        leave = way(sandbox, _KILL)
        begun(sandbox)
        before = own_daemon.api_pid
        own_daemon.kill(own_daemon.pid if number is signal.SIGHUP else before, number)
        wait_until(lambda: own_daemon.api_pid not in (0, before), 60, "another api")
        own_daemon.wait_ready(30)
        api.close()
        assert sleepers(sandbox) == 2
        leave()
        assert api.kill(sandbox.id).status == 200


def test_in_a_paused_sandbox_it_ends_when_that_goes_on(sandbox: Sandbox) -> None:
    with Stream(
        sandbox.api, "POST", f"/sandboxes/{sandbox.id}/exec?stream=true&{_KILL}", {"command": _COMMAND}
    ):
        begun(sandbox)
        if sandbox.request("POST", "/pause").status == 503:
            pytest.skip("no cgroup is delegated here, and pausing needs one")
    assert sandbox.api.get(sandbox.id)["status"] == "paused"
    assert sandbox.request("POST", "/resume").status == 200
    wait_until(lambda: sleepers(sandbox) == 0, what="it is killed")


def test_what_the_wish_may_be(sandbox: Sandbox) -> None:
    key = sandbox.request("POST", "/processes", {"command": "sleep 60"}).json["id"]
    for method, path, body in (
        ("POST", "/exec?onDisconnect=stop", {"command": "true"}),
        ("GET", f"/processes/{key}/logs?onDisconnect=kill", None),
    ):
        answer = sandbox.request(method, path, body)
        assert (answer.status, answer.code, answer.json["field"]) == (422, "invalid_field", "onDisconnect")
