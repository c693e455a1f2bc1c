"""Compute seconds, counted and used up: over HTTP, with real sandboxes, real crashes and a real clock."""

from __future__ import annotations

import json
import math
import signal
import time

import pytest

from tests.conftest import DaemonFactory
from tests.e2e.client import JSON, Api, Sandbox
from tests.e2e.daemon import Daemon, wait_until
from tests.e2e.test_pause import counting, frozen, pause, resume

_PATIENCE = 30


def usage(api: Api, by: str = "total") -> JSON:
    answer = api.request("GET", f"/usage?by={by}")
    assert answer.status == 200, answer
    return answer.json


def spent(api: Api) -> int:
    return int(usage(api)["computeSeconds"])


def status(api: Api, sandbox: Sandbox) -> str:
    return str(api.get(sandbox.id)["status"])


def plans(**members: JSON) -> dict[str, str]:
    return {"PLANS": json.dumps({"tiny": members}), "DEFAULT_PLAN": "tiny"}


class Stretch:
    """How long a sandbox has run, as its client can know it: between two bounds."""

    def __init__(self) -> None:
        self.least = self.most = 0.0

    def begin(self, asked: float) -> None:
        self._asked, self._told = asked, time.monotonic()

    def end(self, asking: float) -> None:
        self.least += asking - self._told
        self.most += time.monotonic() - self._asked

    def agrees(self, seconds: int) -> bool:
        return math.floor(self.least) <= seconds <= math.ceil(self.most)


def test_the_bill_is_the_time_it_ran_whatever_becomes_of_api(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        stretch, asked = Stretch(), time.monotonic()
        one = api.sandbox()
        stretch.begin(asked)
        asking = time.monotonic()
        pause(one)
        stretch.end(asking)
        first = spent(api)
        assert stretch.agrees(first)
        time.sleep(2.5)  # what is seen is that paused time costs nothing
        assert spent(api) == first
        asked = time.monotonic()
        resume(one)
        stretch.begin(asked)
        time.sleep(1.2)
    daemon.kill(daemon.api_pid, signal.SIGKILL)
    daemon.wait_ready()
    with daemon.api() as api:
        time.sleep(1.2)
        asking = time.monotonic()
        api.kill(one.id)
        stretch.end(asking)
        seconds = spent(api)
        assert stretch.agrees(seconds), (stretch.least, seconds, stretch.most)
        by_sandbox, by_key, by_day = (usage(api, by) for by in ("sandbox", "key", "day"))
        assert by_sandbox["usage"] == [{"sandboxId": one.id, "computeSeconds": seconds}]
        assert [line["computeSeconds"] for line in by_key["usage"]] == [seconds]
        assert str(by_key["usage"][0]["keyId"]).startswith("key_")
        assert sum(line["computeSeconds"] for line in by_day["usage"]) == seconds
        time.sleep(1.1)
        assert spent(api) == seconds
        assert spent_of_command_line(daemon) == seconds


def spent_of_command_line(daemon: Daemon) -> int:
    told = daemon.nsbox_on_state("usage", "--json")
    assert told.returncode == 0, told
    table = daemon.nsbox_on_state("usage", "--by", "sandbox")
    assert table.stdout.splitlines()[0].split() == ["SANDBOX", "SECONDS"], table
    csv = daemon.nsbox_on_state("usage", "--by", "total", "--csv")
    assert csv.stdout.split()[0] == "computeSeconds", csv
    found = json.loads(told.stdout)["computeSeconds"]
    assert table.stdout.split()[-1] == csv.stdout.split()[-1] == str(found)
    return int(found)


def test_what_is_used_up_is_paused_and_nothing_is_lost(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(settings=plans(compute_seconds=10))
    with daemon.api() as api:
        one = api.sandbox(autoResume=True)
        counting(one)
        assert one.write("/tmp/mine", "x").status == 200
        need_a_freezer(one)
        daemon.kill(daemon.api_pid, signal.SIGKILL)
        daemon.wait_ready()
    with daemon.api() as api:
        one = Sandbox(api, one.id)
        wait_until(lambda: status(api, one) == "paused", _PATIENCE, "it is paused for want of seconds")
        assert frozen(daemon) == 1
        seconds = spent(api)
        assert 10 <= seconds <= 15  # ten, where this host takes no more than 50 ms to pause
        for refused in (
            api.request("POST", "/sandboxes"),
            one.request("POST", "/resume"),
            one.exec("true"),  # autoResume
            one.request("POST", "/fork", {"count": 2}),
        ):
            assert (refused.status, refused.code) == (402, "quota_exhausted"), refused
            assert refused.json["renewsAt"].endswith("-01T00:00:00.000Z")
            assert refused.json["computeSecondsLimit"] == 10
        changed = one.request("GET", "/diff?limit=1000")
        assert changed.status == 200, changed
        assert "/tmp/mine" in json.dumps(changed.json)
        assert spent(api) == seconds
        daemon.kill(daemon.api_pid, signal.SIGKILL)
        daemon.wait_ready()
    with daemon.api() as api:
        assert status(api, one) == "paused"
        assert api.request("POST", f"/sandboxes/{one.id}/resume").status == 402
        assert spent(api) == seconds
        assert api.kill(one.id).status == 200


def need_a_freezer(sandbox: Sandbox) -> None:
    pause(sandbox)
    resume(sandbox)


def test_caps_of_a_plan(daemon_factory: DaemonFactory) -> None:
    tiny = plans(vcpus=2, memory_mb=512, storage_mb=512, timeout_ms=60_000, sandboxes=2)
    daemon = daemon_factory(settings=tiny)
    with daemon.api() as api:
        one = api.sandbox()
        record = api.get(one.id)
        assert (record["storageMb"], record["timeoutMs"]) == (512, 60_000)
        for path, wish, field in (
            ("/sandboxes", {"vcpus": 3}, "vcpus"),
            ("/sandboxes", {"memoryMb": 1024}, "memoryMb"),
            ("/sandboxes", {"storageMb": 513}, "storageMb"),
            ("/sandboxes", {"timeoutMs": 60_001}, "timeoutMs"),
            (f"/sandboxes/{one.id}/timeout", {"timeoutMs": 60_001}, "timeoutMs"),
            (f"/sandboxes/{one.id}/fork", {"count": 2}, "sandboxes"),
            (f"/sandboxes/{one.id}/fork", {"vcpus": 4}, "vcpus"),
        ):
            answer = api.request("POST", path, wish)
            assert (answer.status, answer.code, answer.json["field"]) == (403, "plan_limit", field)
        two = api.sandbox()
        refused = api.request("POST", "/sandboxes")
        assert (refused.status, refused.json["field"]) == (403, "sandboxes")
        api.kill(one.id)
        taken = two.request("POST", "/snapshots", {})
        assert taken.status == 201, taken
        refused = api.request("POST", "/sandboxes", {"snapshot": taken.json["id"], "vcpus": 3})
        assert (refused.status, refused.json["field"]) == (403, "vcpus")
        assert api.request("POST", "/sandboxes", {"snapshot": taken.json["id"]}).status == 201


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_keeper_dies_or_the_daemon_ends(daemon_factory: DaemonFactory, stop: signal.Signals) -> None:
    """What is billed of a sandbox that is lost: until it was last known alive, which is looked at every 2 s;
    and nothing of the time in which there was no daemon."""
    daemon = daemon_factory()
    with daemon.api() as api:
        stretch, asked = Stretch(), time.monotonic()
        one = api.sandbox()
        stretch.begin(asked)
        time.sleep(4.5)
        before = spent(api)
        asking = time.monotonic()
        if stop is signal.SIGKILL:
            daemon.kill(daemon.keeper_pid, stop)
        else:
            daemon.signal(stop)
        daemon.wait(_PATIENCE)
        stretch.end(asking)
        daemon.stop()
    time.sleep(1.5)
    daemon.start()
    with daemon.api() as api:
        assert status(api, one) == ("lost" if stop is signal.SIGKILL else "stopped")
        seconds = spent(api)
        slack = 5 if stop is signal.SIGKILL else 0  # two looks, on a busy host
        assert before - slack <= seconds <= math.ceil(stretch.most), (before, seconds, stretch.most)
        assert seconds > 0


def test_another_plan_and_the_sandboxes_go_on(daemon_factory: DaemonFactory) -> None:
    """A user on a plan of her own, who runs out, and is given a larger one while the daemon runs."""
    settings = {"PLANS": json.dumps({"tiny": {"compute_seconds": 5}})}
    daemon = daemon_factory(settings=settings)
    with daemon.api() as boss:
        none = boss.request("POST", "/users", {"name": "ann", "plan": "gold"})
        assert (none.status, none.json["field"]) == (422, "plan")
        user = boss.request("POST", "/users", {"name": "ann", "plan": "tiny"}).json
        acting = {"Nsbox-User": user["id"]}
        key = boss.request("POST", "/keys", {"name": "hers"}, headers=acting).json
        mine = boss.sandbox()
        with daemon.api(key["key"]) as hers:
            one = hers.sandbox(autoResume=True)
            assert one.write("/tmp/mine", "x").status == 200
            need_a_freezer(one)
            wait_until(lambda: status(hers, one) == "paused", _PATIENCE, "it is paused")
            assert hers.request("POST", "/sandboxes").status == 402
            assert status(boss, mine) == "running"
            me = hers.request("GET", "/me").json
            assert (me["plan"]["name"], me["plan"]["computeSecondsPerMonth"]) == ("tiny", 5)
            assert me["usage"]["computeSecondsLimit"] == 5
            assert me["usage"]["computeSeconds"] == spent(hers) >= 5
            assert usage(hers, "key")["usage"] == [{"keyId": key["id"], "computeSeconds": spent(hers)}]
            assert one.exec("true").status == 402
            assert boss.request("PATCH", f"/users/{user['id']}", {"plan": "pro"}).status == 200
            assert one.out("cat /tmp/mine") == "x"  # autoResume
            assert one.request("POST", "/resume").json["status"] == "running"
            told = boss.request("GET", "/usage?by=key", headers=acting).json
            assert [line["keyId"] for line in told["usage"]] == [key["id"]]
            assert hers.kill(one.id).status == 200
