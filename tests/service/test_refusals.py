"""`nsbox serve` on hosts that lack something: one message, its remedy, a status, and nothing half-started."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.daemon import wait_until
from tests.service.machine import USER, Service, as_user, sh, tried
from tests.service.test_doctor import small_disk

Mend = Callable[[str], None]
STATE = "/var/tmp/refused"


@pytest.fixture(autouse=True)
def clean(mend: Mend) -> Iterator[None]:
    mend(f"rm -rf {STATE}")
    yield
    wait_until(lambda: not running(), 30, "no process of nsbox is left")


def running() -> str:
    """Processes of the user's that belong to a daemon."""
    return sh(f"pgrep --uid {USER} --list-full 'nsbox|python' | grep -v pgrep", check=False)


def refused(done: subprocess.CompletedProcess[str], *words: str, remedy: str, folder: str = STATE) -> None:
    """The shape that every refusal has."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert remedy in done.stderr, done.stderr
    assert "nsbox ready" not in done.stdout
    assert not running()
    assert sh(f"ls -A {folder}/sandboxes {folder}/run 2>/dev/null | grep -v :", check=False).strip() == ""
    assert f" {folder}/" not in sh("cat /proc/self/mountinfo")


def serve(arguments: str = "", *, user: str = USER) -> subprocess.CompletedProcess[str]:
    return as_user(f"timeout 120 nsbox serve --port 0 --state-dir {STATE} {arguments}", user=user)


def test_no_delegation(mend: Mend) -> None:
    done = as_user(f"env XDG_RUNTIME_DIR=/nowhere timeout 120 nsbox serve --port 0 --state-dir {STATE}")
    refused(done, "cannot enforce vcpus, memoryMb, pids", remedy="nsbox doctor")


def test_no_subordinate_ids(mend: Mend) -> None:
    mend("mv /etc/subuid.kept /etc/subuid")
    sh(f"cp /etc/subuid /etc/subuid.kept && sed -i '/^{USER}:/d' /etc/subuid")
    refused(
        serve(), f"{USER} has no range of 65536 ids in /etc/subuid", remedy=f"sudo nsbox setup --user {USER}"
    )


def test_no_user_namespaces(mend: Mend) -> None:
    before = sh("sysctl -n user.max_user_namespaces").strip()
    mend(f"sysctl -w user.max_user_namespaces={before}")
    sh("sysctl -w user.max_user_namespaces=0")
    refused(serve(), "user namespaces", remedy="sudo sysctl -w user.max_user_namespaces=")


def test_no_newuidmap(mend: Mend) -> None:
    mend("mv /root/newuidmap /usr/bin/newuidmap")
    sh("mv /usr/bin/newuidmap /root/newuidmap")
    refused(serve(), "newuidmap is not installed", remedy="sudo apt-get install uidmap")


def test_a_full_disk(mend: Mend) -> None:
    folder = small_disk(mend, full=True)
    done = as_user(f"timeout 120 nsbox serve --port 0 --state-dir {folder}/state")
    refused(done, "no space", remedy="--state-dir", folder=f"{folder}/state")


def test_a_disk_too_small_for_the_default_template(mend: Mend) -> None:
    """It fills while the template is made, which is well after the start."""
    folder = small_disk(mend, full=False)
    done = as_user(f"timeout 120 nsbox serve --port 0 --state-dir {folder}/state")
    refused(done, "no space", remedy="--state-dir", folder=f"{folder}/state")


def test_another_daemon_on_the_port(service: Service) -> None:
    done = as_user(f"timeout 120 nsbox serve --state-dir {STATE}")
    refused(done, "cannot listen on 127.0.0.1:8080", "in use", remedy="choose another with --port")
    assert service.health()["status"] == "ok"


def test_another_daemon_on_the_state_folder(service: Service) -> None:
    done = tried("nsbox serve --port 0")
    assert done.returncode == 1, done.stdout
    assert "another nsbox uses /var/lib/nsbox" in done.stderr
    assert "remedy: stop it, or give another --state-dir" in done.stderr
    assert service.health()["status"] == "ok"
    assert "nsbox ready" not in done.stdout


def test_a_unit_whose_host_lacks_something_says_so_in_its_journal(service: Service, mend: Mend) -> None:
    mend("systemctl reset-failed nsbox; systemctl restart nsbox")
    mend("mv /etc/subuid.kept /etc/subuid")
    sh("cp /etc/subuid /etc/subuid.kept && sed -i '/^nsbox:/d' /etc/subuid")
    assert tried("systemctl restart nsbox").returncode != 0
    sh("systemctl stop nsbox")
    errors = [str(one["MESSAGE"]) for one in service.journal("--priority=err")]
    assert any("nsbox has no range of 65536 ids in /etc/subuid" in one for one in errors), errors
    assert any("remedy: sudo nsbox setup --user nsbox" in one for one in errors)
