"""What pipx installed is all there."""

from __future__ import annotations

import os
from pathlib import Path

from tests.service.machine import USER, as_user, sh

SITES = (
    Path("/opt/pipx/venvs/nsbox/lib/python3.11/site-packages"),
    Path(f"/home/{USER}/.local/pipx/venvs/nsbox/lib/python3.11/site-packages"),
)


def test_the_wheel_carries_what_setup_and_the_template_need() -> None:
    for site in SITES:
        assert (site / "nsbox/_unit/nsbox.service").is_file()
        assert (site / "nsbox/_images/default.toml").is_file()
    assert "profile nsbox" in sh(
        "/opt/pipx/venvs/nsbox/bin/python -c 'from nsbox.cli.setup import PROFILE; print(PROFILE)'"
    )


def test_the_command_of_the_readme_is_on_the_path() -> None:
    assert sh("command -v nsbox").strip() == "/usr/local/bin/nsbox"
    assert as_user("nsbox --version").stdout.startswith("nsbox")
    assert not os.path.exists("/opt/pipx/venvs/nsbox/bin/pytest"), "the tests' tools are not in it"


def test_one_command_without_a_daemon() -> None:
    done = as_user("nsbox run -- sh -c 'echo in; exit 7'")
    assert (done.returncode, done.stdout) == (7, "in\n"), done.stderr
