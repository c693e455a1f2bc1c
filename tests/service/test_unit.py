"""nsbox.service, by systemctl and journalctl."""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Callable
from pathlib import Path

from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import wait_until
from tests.service.machine import PATIENCE, Service, sh, tried

DOCS = Path(__file__).parents[2] / "docs"
COUNTING = "while :; do date +%s%N >/tmp/alive; sleep 0.2; done"


def beat(sandbox: Sandbox) -> str:
    """What the sandbox's background command wrote last."""
    return str(sandbox.out("cat /tmp/alive"))


def still_counts(sandbox: Sandbox) -> None:
    before = beat(sandbox)
    wait_until(lambda: beat(sandbox) != before, PATIENCE, "the command goes on")


def counting_sandbox(api: Api) -> Sandbox:
    sandbox = api.sandbox()
    assert sandbox.request("POST", "/processes", {"command": COUNTING}).status == 201
    wait_until(lambda: sandbox.run("cat /tmp/alive")["exitCode"] == 0, PATIENCE, "the command runs")
    return sandbox


def test_started_means_that_sandboxes_can_be_made(service: Service) -> None:
    sh("systemctl restart nsbox")  # returns when the unit says that it is ready
    with service.api() as api:
        record = api.get(api.create())
    assert record["status"] == "running"
    assert {"vcpus", "memoryMb", "pids"} <= set(record["limits"]["enforced"])


def test_the_service_is_not_root(service: Service) -> None:
    uid = Path(f"/proc/{service.main_pid}").stat().st_uid
    assert uid != 0
    for name in ("nsbox-api", "nsbox-keeper"):
        assert service.process(name), name
    assert stat.S_IMODE(os.stat("/var/lib/nsbox").st_mode) == 0o700
    assert os.stat("/var/lib/nsbox").st_uid == uid


def test_a_reload_keeps_sandboxes_and_their_commands(service: Service, api: Api) -> None:
    sandbox = counting_sandbox(api)
    main, keeper, before = service.main_pid, service.process("nsbox-keeper"), service.process("nsbox-api")
    sh("systemctl reload nsbox")
    service.wait_for_another_api(before)
    assert (service.main_pid, service.process("nsbox-keeper")) == (main, keeper)
    still_counts(sandbox)
    assert api.kill(sandbox.id).status == 200


def test_an_api_that_is_killed_is_replaced_and_the_journal_warns(service: Service, api: Api) -> None:
    sandbox = counting_sandbox(api)
    restarts, before = service.show("NRestarts"), service.process("nsbox-api")
    os.kill(before, signal.SIGKILL)
    service.wait_for_another_api(before)
    still_counts(sandbox)
    assert service.show("NRestarts") == restarts
    warnings = [one["MESSAGE"] for one in service.journal("--priority=warning")]
    assert f"nsbox: api ended with status {-signal.SIGKILL}; starting it again" in warnings
    assert not [one for one in service.journal() if re.match(r"<\d>", str(one["MESSAGE"]))]
    assert api.kill(sandbox.id).status == 200


def test_a_keeper_that_is_killed_is_an_end_and_a_new_start(service: Service, api: Api) -> None:
    sandbox = api.sandbox()
    restarts = int(service.show("NRestarts"))
    os.kill(service.process("nsbox-keeper"), signal.SIGKILL)
    wait_until(lambda: int(service.show("NRestarts")) > restarts, PATIENCE, "systemd starts it again")
    wait_until(lambda: service.health().get("status") == "ok", PATIENCE, "it serves again")
    assert api.get(sandbox.id)["status"] in ("lost", "stopped")
    assert api.kill(api.create()).status == 200
    errors = [one["MESSAGE"] for one in service.journal("--priority=err")]
    assert "nsbox: keeper died, and every sandbox with it" in errors


def test_an_api_that_hangs_is_replaced(service: Service, drop_in: Callable[[str], None]) -> None:
    drop_in("[Service]\nEnvironment=NSBOX_HANG_TIMEOUT_S=20\n")
    api = service.api()
    sandbox = counting_sandbox(api)
    before, main = service.process("nsbox-api"), service.main_pid
    os.kill(before, signal.SIGSTOP)
    service.wait_for_another_api(before)
    assert service.main_pid == main
    still_counts(sandbox)


def test_a_keeper_that_hangs_is_what_the_watchdog_is_for(
    service: Service, drop_in: Callable[[str], None]
) -> None:
    drop_in("[Service]\nWatchdogSec=45\n")
    restarts = int(service.show("NRestarts"))
    os.kill(service.process("nsbox-keeper"), signal.SIGSTOP)
    wait_until(lambda: int(service.show("NRestarts")) > restarts, PATIENCE, "the watchdog bites")
    wait_until(lambda: service.health().get("status") == "ok", PATIENCE, "it serves again")
    said = sh("journalctl --boot --unit=nsbox --grep='[Ww]atchdog timeout' --output=cat")
    assert "atchdog timeout" in said
    with service.api() as api:
        assert api.kill(api.create()).status == 200


def test_a_service_that_works_is_not_bitten(service: Service, drop_in: Callable[[str], None]) -> None:
    drop_in("[Service]\nWatchdogSec=20\n")
    api = service.api()
    sandbox = counting_sandbox(api)
    bound = service.show("WatchdogTimestampMonotonic")
    # Two whole periods, in which nobody asks it for anything.
    wait_until(
        lambda: int(service.show("WatchdogTimestampMonotonic")) - int(bound) > 40_000_000,
        PATIENCE,
        "it feeds the watchdog by itself",
    )
    still_counts(sandbox)


def test_a_stop_ends_everything_and_says_so(service: Service, api: Api) -> None:
    sandbox = counting_sandbox(api)
    group = "/sys/fs/cgroup" + service.show("ControlGroup")
    assert os.path.isdir(group)
    sh("systemctl stop nsbox")
    assert service.show("Result") == "success"
    assert not os.path.exists(group)
    assert tried("pgrep --uid nsbox").stdout == ""
    sh("systemctl start nsbox")
    record = api.get(sandbox.id)
    assert (record["status"], record["endReason"]) == ("stopped", "shutdown")


def test_what_systemd_analyze_says_is_in_the_documentation(service: Service) -> None:
    said = sh("systemd-analyze security --no-pager nsbox.service")
    found = re.search(r"Overall exposure level for nsbox.service: ([\d.]+)", said)
    assert found is not None, said
    assert f"**{found[1]}**" in (DOCS / "operations.md").read_text(), said
