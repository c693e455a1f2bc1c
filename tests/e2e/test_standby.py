"""Sandboxes that pause by themselves, and go on when somebody needs them: over HTTP, with real processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import DaemonFactory
from tests.e2e.client import JSON, Api, Sandbox
from tests.e2e.daemon import Daemon, wait_until
from tests.e2e.test_pause import counting, frozen
from tests.e2e.visitor import expose

#: Far more than an idle second and a look.
PATIENCE = 20


def made(api: Api, **wish: JSON) -> Sandbox:
    answer = api.request("POST", "/sandboxes", wish)
    if answer.status == 503 and answer.code == "host_lacks":
        pytest.skip("no cgroup is delegated here, and pausing needs one")
    assert answer.status == 201, answer
    assert {name: answer.json[name] for name in wish} == wish
    return Sandbox(api, answer.json["id"])


def sleeps(sandbox: Sandbox) -> None:
    wait_until(lambda: status(sandbox) == "paused", PATIENCE, "it is paused by itself")


def status(sandbox: Sandbox) -> str:
    return str(sandbox.api.get(sandbox.id)["status"])


IDLE = {"idleMs": 1_000, "ignoreProcesses": False}


def test_it_sleeps_and_every_kind_of_request_wakes_it(daemon: Daemon, api: Api) -> None:
    one = made(api, autoPause=IDLE, autoResume=True)
    before = frozen(daemon)
    try:
        for ask in (
            lambda: one.out("echo works") == "works\n",
            lambda: one.write("/tmp/x", "x").status == 200,
            lambda: one.read("/tmp/x").json["content"] == "x",
            lambda: one.listing("/tmp")["files"] == ["x"],
            lambda: one.upload("/tmp/y", b"y" * 300_000).status == 200,
            lambda: one.request("POST", "/processes", {"command": "true"}).status == 201,
        ):
            sleeps(one)
            assert frozen(daemon) > before - 1
            assert ask()
    finally:
        api.kill(one.id)


def test_looking_at_it_wakes_nothing(api: Api) -> None:
    one = made(api, autoPause=IDLE, autoResume=True)
    try:
        sleeps(one)
        assert one.request("GET", "").status == 200
        assert one.request("GET", "/ports").status == 200
        assert one.request("GET", "/processes?all=true").status == 200
        assert status(one) == "paused"
    finally:
        api.kill(one.id)


def test_a_process_keeps_it_awake_and_its_own_time_stands_still(api: Api) -> None:
    one = made(api, autoPause=IDLE, autoResume=True)
    try:
        started = one.request("POST", "/processes", {"command": "sleep 600"}).json
        time.sleep(3)  # what is waited for is that nothing happens
        assert status(one) == "running"
        answer = one.request("PUT", "/lifecycle", {"autoPause": {"idleMs": 1000, "ignoreProcesses": True}})
        assert answer.json == {
            "id": one.id,
            "status": "running",
            "autoPause": {"idleMs": 1000, "ignoreProcesses": True},
            "onExpiry": "kill",
            "autoResume": False,
        }
        sleeps(one)
        refused = one.exec("true")
        assert (refused.status, refused.code) == (409, "wrong_state")
        assert one.request("PUT", "/lifecycle", {"autoResume": True}).json["status"] == "paused"
        assert "sleep 600" in one.out("ps -eo args")
        assert one.request("GET", f"/processes/{started['id']}").json["status"] == "running"
    finally:
        api.kill(one.id)


def test_a_visitor_wakes_it_and_many_at_once_do(daemon: Daemon, api: Api) -> None:
    one = made(api, autoPause={"idleMs": 1_000, "ignoreProcesses": True}, autoResume=True)
    try:
        server = ["python3", "-m", "http.server", "8000", "--directory", "/etc"]
        assert one.request("POST", "/processes", {"command": server}).status == 201
        preview = expose(one, 8000)
        for _ in range(2):
            sleeps(one)
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: preview.ask("/hostname").status, range(8)))
            assert answers == [200] * 8
    finally:
        api.kill(one.id)


def test_a_visitor_who_may_not_come_in_wakes_nobody(api: Api) -> None:
    one = made(api, autoPause=IDLE, autoResume=True)
    try:
        preview = expose(one, 8000, public=False, waitMs=0)
        sleeps(one)
        assert preview.ask().status in (401, 403)
        assert status(one) == "paused"
    finally:
        api.kill(one.id)


def test_at_its_end_it_is_paused_and_has_its_whole_time_again(api: Api) -> None:
    one = made(api, timeoutMs=1_500, onExpiry="pause", autoResume=True)
    try:
        counting(one)
        sleeps(one)
        assert api.get(one.id)["remainingMs"] == 1_500
        assert one.out("echo works") == "works\n"
        sleeps(one)  # its time goes by though a process runs
        assert one.request("PUT", "/lifecycle", {}).json["onExpiry"] == "kill"
        assert one.request("POST", "/resume").status == 200
        wait_until(lambda: status(one) == "stopped", PATIENCE, "its time is over")
        assert api.get(one.id)["endReason"] == "expired"
    finally:
        api.kill(one.id)


def test_api_is_replaced_while_it_sleeps(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        one = made(api, autoPause=IDLE, autoResume=True)
        assert one.write("/tmp/x", "x").status == 200
        sleeps(one)
        daemon.kill(daemon.api_pid, signal.SIGKILL)
        daemon.wait_ready(15)
        with daemon.api() as again:
            two = Sandbox(again, one.id)
            assert status(two) == "paused"
            assert two.read("/tmp/x").json["content"] == "x"
            sleeps(two)
            assert again.get(one.id)["autoPause"] == IDLE


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"autoPause": {"idleMs": 999}}, "autoPause.idleMs"),
        ({"autoPause": {"idleMs": 86_400_001}}, "autoPause.idleMs"),
        ({"autoPause": {}}, "autoPause.idleMs"),
        ({"autoPause": {"idleMs": 1000, "hard": True}}, "autoPause.hard"),
        ({"autoPause": True}, "autoPause"),
        ({"onExpiry": "sleep"}, "onExpiry"),
        ({"autoResume": "yes"}, "autoResume"),
    ],
)
def test_what_is_wrong_is_named(api: Api, sandbox: Sandbox, wish: JSON, field: str) -> None:
    for answer in (api.request("POST", "/sandboxes", wish), sandbox.request("PUT", "/lifecycle", wish)):
        assert (answer.status, answer.json["field"]) == (422, field), answer


def test_never_refused_while_it_falls_asleep(api: Api) -> None:
    """Requests that come just when it is being paused, again and again."""
    one = made(api, autoPause=IDLE, autoResume=True)

    def client(number: int) -> set[int]:
        with Api(api.url, api.key) as mine:
            mine_one = Sandbox(mine, one.id)
            found = set()
            for step in range(6):
                # Idle for as long as it takes to be paused, a little less, a little more.
                time.sleep(1.0 + 0.15 * (number + step % 4))
                found.add(mine_one.exec("true").status if step % 2 else mine_one.read("/etc/hostname").status)
            return found

    acts: list[Callable[[], set[int]]] = [lambda number=number: client(number) for number in range(2)]  # type: ignore[misc]
    try:
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(act) for act in acts]:
                assert future.result(120) == {200}
    finally:
        api.kill(one.id)
