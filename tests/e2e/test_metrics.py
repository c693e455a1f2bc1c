"""What sandboxes use, what Prometheus is told, and whether /healthz says what is so."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.conftest import DaemonFactory
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon, wait_until
from tests.exposition import Parsed, parse


def scrape(api: Api, query: str = "") -> Parsed:
    answer = api.request("GET", f"//metrics{query}")
    assert answer.status == 200, answer
    return parse(answer.body.decode())


def metrics(sandbox: Sandbox) -> dict[str, dict[str, int | None]]:
    answer = sandbox.request("GET", "/metrics?history=false")
    assert answer.status == 200, answer
    found: dict[str, dict[str, int | None]] = answer.json["now"]
    return found


def test_what_a_sandbox_uses(sandbox: Sandbox) -> None:
    before = metrics(sandbox)
    if before["cpu"]["usedMs"] is None:
        pytest.skip("no cgroup is delegated here: nothing is known of a sandbox")
    sandbox.out("python3 -c 'import time\nwhile time.process_time() < 0.5: pass'")
    after = metrics(sandbox)
    assert after["cpu"]["usedMs"] is not None
    assert after["cpu"]["usedMs"] - (before["cpu"]["usedMs"] or 0) >= 450
    enforced = sandbox.api.get(sandbox.id)["limits"]["enforced"]
    assert (after["memory"]["bytes"] is not None) is ("memoryMb" in enforced)
    assert (after["processes"] is not None) is ("pids" in enforced)


def test_its_network_is_its_own(sandbox: Sandbox) -> None:
    before = metrics(sandbox)["network"]
    if before["sentBytes"] is None:
        pytest.skip("no cgroup is delegated here, or no network")
    # To a name server that does not answer, and to itself: the one counts, the other not.
    send = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for _ in range(20):\n"
        "  try: s.sendto(b'x' * 1000, ('192.0.2.1', 9))\n"
        "  except OSError: pass\n"
        "for _ in range(900): s.sendto(b'x' * 1000, ('127.0.0.1', 9))\n"
    )
    sandbox.run(["python3", "-c", send])
    after = metrics(sandbox)["network"]
    assert after["sentBytes"] is not None
    if "eth0" not in sandbox.out("cat /proc/net/dev"):
        pytest.skip("sandboxes have no link here")
    assert 0 < after["sentBytes"] - before["sentBytes"] < 400_000


def test_its_disk(sandbox: Sandbox) -> None:
    sandbox.out("head -c 5000000 /dev/urandom > /root/five")

    def written() -> bool:
        return (metrics(sandbox)["disk"]["bytes"] or 0) >= 5_000_000

    wait_until(written, 20, "what it has written is told")
    assert (metrics(sandbox)["disk"]["inodes"] or 0) >= 1
    sandbox.out("rm /root/five")
    wait_until(lambda: not written(), 20, "what it has removed is told")


def test_an_hour_begins_with_a_sample(own_daemon: Daemon) -> None:
    with own_daemon.api() as api:
        one = api.sandbox()
        assert one.request("GET", "/metrics").json["history"] == []
        assert api.kill(one.id).status == 200
        assert one.request("GET", "/metrics").code == "wrong_state"


def test_what_prometheus_is_told(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        before = scrape(api)
        one = api.sandbox()
        assert one.out("echo x") == "x\n"
        assert one.exec("exit 3").status == 200
        assert one.request("POST", "/processes", {"command": "sleep 600"}).status == 201
        assert api.request("POST", "/sandboxes", {"image": "no.such.registry.invalid/x:1"}).status >= 400
        found = scrape(api)
        assert before.value("nsbox_sandboxes", state="running") == 0
        assert found.value("nsbox_sandboxes", state="running") == 1
        assert found.value("nsbox_creates_total", result="made") == 1
        assert found.value("nsbox_execs_total", outcome="exited") == 2
        assert found.value("nsbox_commands_total", kind="exec") == 2
        assert found.value("nsbox_commands_total", kind="process") == 1
        assert found.value("nsbox_create_seconds_count") == 1
        assert found.value("nsbox_exec_seconds_count") == 2
        assert found.value("nsbox_image_bytes") >= 0
        assert found.value("process_resident_memory_bytes") > 20e6
        assert found.value("process_open_fds") > 10
        assert not any("sandbox" in dict(labels) for _, labels in found.samples)
        wait_until(lambda: scrape(api).value("nsbox_pool_blanks") > 0, 20, "there are blanks")
        alone = scrape(api, "?sandboxes=true")
        if ("nsbox_sandbox_cpu_seconds_total", (("sandbox", one.id),)) not in alone.samples:
            assert api.get(one.id)["limits"]["enforced"] == ["storageMb"]
        assert api.kill(one.id).status == 200
        assert scrape(api).value("nsbox_ends_total", reason="killed") == 1
        with Api(daemon.url, None) as stranger:
            assert stranger.request("GET", "//metrics").status == 401


# ---- health


def health(api: Api) -> tuple[int, str, list[str]]:
    answer = api.request("GET", "//healthz")
    return answer.status, answer.json["status"], answer.json["reasons"]


def test_a_disk_that_is_nearly_full_is_told(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(settings={"reserve_mb": str(1 << 30)})
    with daemon.api() as api:
        status, word, reasons = health(api)
        assert (status, word) == (503, "unavailable")
        assert "disk_reserve_reached" in reasons
        assert api.request("POST", "/sandboxes").status >= 500
        assert scrape(api).value("nsbox_healthy") == 0


def test_a_keeper_that_hangs_is_told(own_daemon: Daemon) -> None:
    daemon = own_daemon
    with daemon.api() as api:
        assert health(api)[0] == 200
        keeper = daemon.keeper_pid
        # In its loop: SIGSTOP does not reach a process 1 from inside, and does from outside.
        daemon.kill(keeper, signal.SIGSTOP)
        try:
            wait_until(lambda: health(api)[0] == 503, 30, "it is told")
            assert "keeper_away" in health(api)[2]
        finally:
            os.kill(keeper, signal.SIGCONT)
        wait_until(lambda: health(api)[0] == 200, 30, "it is well again")


def test_a_network_that_is_off_is_no_fault(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(settings={"network": "off"})
    with daemon.api() as api:
        assert health(api) == (200, "ok", [])


def test_it_is_cheap(daemon: Daemon) -> None:
    """Asked by eight at once, a thousand times, it holds nobody up and nothing grows."""
    with daemon.api() as api:
        descriptors = len(os.listdir(f"/proc/{daemon.api_pid}/fd"))
        threads = [threading.Thread(target=lambda: [health(api) for _ in range(125)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wait_until(
        lambda: len(os.listdir(f"/proc/{daemon.api_pid}/fd")) <= descriptors + 2, 10, "nothing is left open"
    )
