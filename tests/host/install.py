"""nsbox installed in the machine by the commands that README.md gives, as a service and for one user."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from tests.host.machine import Machine
from tests.host.recipe import USER
from tests.host.words import RigError, say

#: Where everything that is carried in lies.
SUPPLIES = "/opt/supplies"
CHECKOUT = f"{SUPPLIES}/checkout"
SERVICE_PYTHON = "/opt/tests/service/bin/python"
USER_PYTHON = "/opt/tests/user/bin/python"
_SERVICE_SITE = "/opt/pipx/venvs/nsbox/lib/python3.11/site-packages"
USER_SITE = f"/home/{USER}/.local/pipx/venvs/nsbox/lib/python3.11/site-packages"

#: README.md, "Install": as a system service. The packages are in the image.
AS_SERVICE = (
    f"sudo PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install {SUPPLIES}/dist/nsbox-*.whl",
    "sudo nsbox setup --service --dry-run",
    "sudo nsbox setup --service",
    "sudo systemctl enable --now nsbox",
)
#: README.md, "Install": for yourself alone.
FOR_ONE_USER = (f"pipx install {SUPPLIES}/dist/nsbox-*.whl", f"/home/{USER}/.local/bin/nsbox doctor")


def carry(machine: Machine, supplies: Path) -> None:
    machine.root.put(supplies, SUPPLIES)
    # Where pip.conf of the machine looks for packages.
    machine.root.check(f"mv {SUPPLIES}/wheels /opt/wheels && chmod -R a+rX /opt")


def add_xfs(machine: Machine) -> None:
    """The other file system with project quotas, beside the machine's own ext4."""
    machine.root.check(
        "truncate -s 2G /var/lib/xfs && mkfs.xfs -q /var/lib/xfs && mkdir -p /scratch && "
        "mount -o loop,prjquota /var/lib/xfs /scratch && chmod 1777 /scratch"
    )


def as_service(machine: Machine) -> None:
    _follow(machine, AS_SERVICE)
    _environment(machine, SERVICE_PYTHON, _SERVICE_SITE)


def for_one_user(machine: Machine) -> None:
    _follow(machine, FOR_ONE_USER)
    _environment(machine, USER_PYTHON, USER_SITE)


def _follow(machine: Machine, commands: tuple[str, ...]) -> None:
    """A person's session: every command must succeed, and what it prints is shown."""
    for command in commands:
        begun = time.monotonic()
        say(f"$ {command}")
        for line in machine.user.check(command, limit=900).splitlines():
            say(f"  {line}")
        say(f"  ({time.monotonic() - begun:.0f} s)")


def _environment(machine: Machine, python: str, site: str) -> None:
    """An interpreter that sees the installed nsbox and the tests' tools, and changes neither."""
    folder = Path(python).parents[1]
    paths = shlex.quote(f"{site}\n{SUPPLIES}/tools\n{CHECKOUT}\n")
    machine.root.check(
        f"test -d {site} && python3 -m venv --without-pip {folder} && "
        f"printf %s {paths} >{folder}/lib/python3.11/site-packages/tests.pth"
    )
    if "supplies" in (found := machine.user.check(f"{python} -c 'import nsbox; print(nsbox.__file__)'")):
        raise RigError(f"the tests would test {found.strip()} and not what pipx installed")
