"""nsbox for one user: in the foreground, and as a unit of the user's own manager."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.client import Api
from tests.e2e.daemon import wait_until
from tests.service.machine import PATIENCE, URL, USER, as_user
from tests.service.test_unit import counting_sandbox, still_counts

UNIT = f"/home/{USER}/.config/systemd/user/nsbox.service"
STATE = f"/home/{USER}/.local/state/nsbox"


def done(line: str) -> str:
    """What a line of the user's that must succeed printed."""
    said = as_user(line)
    assert said.returncode == 0, (line, said.stdout, said.stderr)
    return said.stdout


@pytest.fixture(scope="module")
def unit() -> Iterator[None]:
    as_user("sudo systemctl stop nsbox")
    assert f"write {UNIT}" in done("nsbox setup --user-service --dry-run")
    assert not os.path.exists(UNIT)
    assert "systemctl --user enable --now nsbox" in done("nsbox setup --user-service")
    assert "change" not in done("nsbox setup --user-service")
    done("systemctl --user enable --now nsbox")
    yield
    done("nsbox setup --user-service --undo")
    assert not os.path.exists(UNIT)
    assert as_user("systemctl --user is-active nsbox").returncode != 0
    as_user("sudo systemctl start nsbox")


@pytest.fixture
def api(unit: None) -> Iterator[Api]:
    with Api(URL, done("nsbox keys create test").strip()) as client:
        yield client


def show(name: str) -> str:
    return done(f"systemctl --user show --value --property={name} nsbox").strip()


def test_it_is_ready_when_it_is_started_and_limits_hold(api: Api) -> None:
    assert show("ActiveState") == "active"
    record = api.get(api.create())
    assert {"vcpus", "memoryMb", "pids"} <= set(record["limits"]["enforced"])
    assert os.stat(f"{STATE}/first-key").st_mode & 0o777 == 0o600


def test_a_reload_keeps_sandboxes(api: Api) -> None:
    sandbox = counting_sandbox(api)
    main = show("MainPID")
    before = done(f"pgrep --parent {main} --exact nsbox-api").strip()
    done("systemctl --user reload nsbox")
    wait_until(
        lambda: as_user(f"pgrep --parent {main} --exact nsbox-api").stdout.strip() not in ("", before),
        PATIENCE,
        "another API process",
    )
    wait_until(lambda: as_user(f"curl -sf {URL}/healthz").returncode == 0, PATIENCE, "it serves")
    assert show("MainPID") == main
    still_counts(sandbox)


def test_it_is_watched(api: Api) -> None:
    assert show("WatchdogUSec") == "3min"
    assert show("Restart") == "on-failure"


def test_root_does_not_set_up_a_users_service() -> None:
    refused = as_user("sudo /usr/local/bin/nsbox setup --user-service")
    assert refused.returncode == 1
    assert "by that user" in refused.stderr
