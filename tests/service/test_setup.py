"""`nsbox setup` on a real host: what it says, what it changes, and that it takes it back."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.service.machine import Service, sh, tried

UNIT = "/etc/systemd/system/nsbox.service"


def test_a_second_run_changes_nothing(service: Service) -> None:
    before = sh(f"stat -c '%i %Y' {UNIT} /etc/subuid /etc/passwd /var/lib/nsbox")
    said = sh("nsbox setup --service")
    assert "change" not in said
    assert said.count("ok ") >= 4
    assert sh(f"stat -c '%i %Y' {UNIT} /etc/subuid /etc/passwd /var/lib/nsbox") == before


def test_a_dry_run_says_and_does_nothing(mend: Callable[[str], None]) -> None:
    mend(f"mv /root/nsbox.service {UNIT} && systemctl daemon-reload")
    sh(f"mv {UNIT} /root/nsbox.service")
    said = sh("nsbox setup --service --dry-run")
    assert "would do the systemd unit" in said
    assert f"write {UNIT}" in said
    assert not os.path.exists(UNIT)


def test_switches_are_turned_for_this_boot_and_the_next(mend: Callable[[str], None]) -> None:
    switch, file = "kernel.unprivileged_userns_clone", "/etc/sysctl.d/60-nsbox.conf"
    mend(f"rm -f {file}; sysctl -qw {switch}=1")
    sh(f"sysctl -w {switch}=0")
    assert f"write {file}: {switch} = 1" in sh("nsbox setup --dry-run")
    assert sh(f"sysctl -n {switch}") == "0\n"
    assert "change  user namespaces" in sh("nsbox setup")
    assert sh(f"sysctl -n {switch}; cat {file}") == f"1\n{switch} = 1\n"
    assert "change" not in sh("nsbox setup")
    assert f"rm {file}" in sh("nsbox setup --undo --dry-run")


def test_the_unit_is_one_that_systemd_understands() -> None:
    assert sh(f"systemd-analyze verify {UNIT} 2>&1").strip() == ""


def test_a_change_is_said_before_it_fails(mend: Callable[[str], None]) -> None:
    mend(f"chattr -i {UNIT}; nsbox setup --service")
    sh(f"echo '# changed by hand' >>{UNIT}; chattr +i {UNIT}")
    done = tried("nsbox setup --service")
    assert done.returncode == 1
    assert f"write {UNIT}" in done.stdout
    assert f"nsbox: {UNIT} cannot be written" in done.stderr


def test_an_ordinary_user_is_told_to_use_sudo() -> None:
    done = tried("runuser -u dev -- /usr/local/bin/nsbox setup")
    assert done.returncode == 1
    assert "remedy: sudo nsbox setup" in done.stderr


def test_everything_is_taken_back_and_done_again(service: Service) -> None:
    planned = sh("nsbox setup --undo --dry-run")
    for change in ("systemctl disable --now nsbox.service", f"rm {UNIT}", "userdel nsbox", "/var/lib/nsbox"):
        assert change in planned, planned
    assert service.health()["status"] == "ok"
    said = sh("nsbox setup --undo")
    assert "userdel nsbox" in said
    assert not os.path.exists(UNIT)
    assert not os.path.exists("/var/lib/nsbox")
    assert tried("id nsbox").returncode != 0
    assert sh("grep -c ^nsbox: /etc/subuid /etc/subgid", check=False).split() == [
        "/etc/subuid:0",
        "/etc/subgid:0",
    ]
    assert "not there" in sh("nsbox setup --undo")

    assert "change" in sh("nsbox setup --service")
    sh("systemctl enable --now nsbox")
    assert service.health()["status"] == "ok"


def test_an_account_that_setup_did_not_make_is_left_alone(mend: Callable[[str], None]) -> None:
    assert "userdel" not in sh("nsbox setup --user dev --state-dir /home/dev --undo --dry-run")
