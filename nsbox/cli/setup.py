"""``sudo nsbox setup``: the account nsbox runs as, its subordinate ids, its state folder, the unit.

Every step says whether it is already done and which command does it, so that ``--dry-run`` prints exactly
what would be run, and a second run changes nothing.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Sequence
from typing import Protocol

import click

from nsbox import settings
from nsbox.cli.output import paint
from nsbox.cli.setup_quota import QuotaPool
from nsbox.host import account, facts
from nsbox.host.facts import IDS_NEEDED, IdRange, widest
from nsbox.model.errors import HostProblem

UNIT_PATH = "/etc/systemd/system/nsbox.service"
PROFILE_PATH = "/etc/apparmor.d/nsbox"
#: A profile with a name and no path: by the path of python it would free every Python program on the host.
PROFILE = """\
abi <abi/4.0>,
include <tunables/global>

profile nsbox flags=(unconfined) {
  userns,
  include if exists <local/nsbox>
}
"""
_UNDO = """
To undo everything (this deletes images, records and all sandboxes):

\b
  systemctl disable --now nsbox; rm -f /etc/systemd/system/nsbox.service
  apparmor_parser -R /etc/apparmor.d/nsbox; rm -f /etc/apparmor.d/nsbox
  userdel nsbox        # takes its lines in /etc/subuid and /etc/subgid along
  rm -rf /var/lib/nsbox
"""


class Step(Protocol):
    """One change to the host."""

    @property
    def title(self) -> str: ...

    def is_done(self) -> bool: ...

    def commands(self) -> Sequence[str]:
        """What to type for the same effect."""

    def apply(self) -> None: ...


def run(argv: Sequence[str]) -> None:
    """A system tool, whose complaint becomes ours."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise HostProblem(f"{argv[0]} cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        raise HostProblem(f"`{shlex.join(argv)}` failed: {(done.stderr or done.stdout).strip()}")


class MakeUser:
    """A system user with a group of its own, without a shell and without a password."""

    def __init__(self, user: str, home: str) -> None:
        self.user = user
        self.home = home
        self.title = f"the user {user}"

    def _argv(self) -> list[str]:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", self.home]
        return ["useradd", *options, "--shell", "/usr/sbin/nologin", self.user]

    def is_done(self) -> bool:
        return account.find(self.user) is not None

    def commands(self) -> Sequence[str]:
        return [shlex.join(self._argv())]

    def apply(self) -> None:
        run(self._argv())


class GiveIds:
    """A range in /etc/subuid and the same in /etc/subgid: useradd gives none to system users."""

    def __init__(self, user: str, etc: str = "/etc") -> None:
        self.user = user
        self.etc = etc
        self.title = f"{IDS_NEEDED} subordinate uids and gids for {user}"

    def _owned(self, kind: str) -> tuple[IdRange, ...]:
        try:
            uid = pwd.getpwnam(self.user).pw_uid
        except KeyError:
            uid = -1
        return facts.sub_ids(f"{self.etc}/sub{kind}", self.user, uid)

    def _missing(self) -> list[str]:
        return [kind for kind in ("uid", "gid") if widest(self._owned(kind)) < IDS_NEEDED]

    def is_done(self) -> bool:
        return not self._missing()

    def argv(self) -> list[str]:
        chosen = facts.free_sub_ids(self.etc)
        if chosen is None:
            raise HostProblem(
                f"no {IDS_NEEDED} subordinate ids in one piece are free in /etc/subuid and subgid"
            )
        options = [f"--add-sub{kind}s={chosen.start}-{chosen.last}" for kind in self._missing()]
        return ["usermod", *options, self.user]

    def commands(self) -> Sequence[str]:
        return [shlex.join(self.argv())]

    def apply(self) -> None:
        run(self.argv())


class MakeFolder:
    """The state folder, closed to everybody else: a sandbox's files belong to subordinate ids, and the way to
    them leads through here."""

    def __init__(self, folder: str, user: str) -> None:
        self.folder = folder
        self.user = user
        self.title = f"the state folder {folder}"

    def is_done(self) -> bool:
        owner = account.find(self.user)
        try:
            status = os.lstat(self.folder)
        except OSError:
            return False
        return (
            owner is not None
            and stat.S_ISDIR(status.st_mode)
            and status.st_uid == owner.uid
            and stat.S_IMODE(status.st_mode) == 0o700
        )

    def _argv(self) -> list[str]:
        return ["install", "-d", "-m", "0700", "-o", self.user, "-g", self.user, self.folder]

    def commands(self) -> Sequence[str]:
        return [shlex.join(self._argv())]

    def apply(self) -> None:
        if os.path.islink(self.folder):
            raise HostProblem(
                f"{self.folder} is a symbolic link; setup does not follow it",
                remedy="set state_dir to where it points",
            )
        run(self._argv())


class WriteFile:
    """A file of root's with a known content, and what makes it count."""

    def __init__(self, title: str, path: str, content: str, *after: Sequence[str]) -> None:
        self.title = title
        self.path = path
        self.content = content
        self.after = after

    def is_done(self) -> bool:
        return facts.read(self.path) == self.content

    def commands(self) -> Sequence[str]:
        return [f"write {self.path}", *(shlex.join(argv) for argv in self.after)]

    def apply(self) -> None:
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open(self.path, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(self.content)
        except OSError as error:
            raise HostProblem(f"{self.path} cannot be written: {error.strerror}") from error
        for argv in self.after:
            run(argv)


def profile_step() -> Step:
    return WriteFile(
        "the AppArmor profile nsbox", PROFILE_PATH, PROFILE, ["apparmor_parser", "--replace", PROFILE_PATH]
    )


def unit_step(user: str, state_dir: str) -> Step:
    return WriteFile(
        "the systemd unit", UNIT_PATH, unit_text(user, state_dir), ["systemctl", "daemon-reload"]
    )


def unit_text(user: str, state_dir: str) -> str:
    """nsbox.service as shipped, with this installation's command, user and folder in it."""
    ours = {
        "ExecStart=": f"{sys.executable} -P -m nsbox serve",
        "User=": user,
        "Environment=NSBOX_STATE_DIR=": state_dir,
    }
    text = _shipped_unit()
    for setting, value in ours.items():
        text = re.sub(
            f"^{re.escape(setting)}.*$", f"{setting}{value}".replace("\\", r"\\"), text, flags=re.MULTILINE
        )
    return text


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_INSTALLED_UNIT = f"{_PACKAGE}/_unit/nsbox.service"


def check_installed(unit: str = _INSTALLED_UNIT) -> None:
    """A service must not depend on a checkout, nor on the copies that the scripts make of it and remove."""
    if not os.path.exists(unit):
        raise HostProblem(
            "this nsbox runs from its sources; the service needs one that is installed and stays",
            remedy=f"sudo PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install "
            f"{os.path.dirname(_PACKAGE)} && sudo nsbox setup --service",
        )


def _shipped_unit() -> str:
    # In a wheel beside the package's modules, in a checkout beside the package.
    for path in (_INSTALLED_UNIT, f"{os.path.dirname(_PACKAGE)}/nsbox.service"):
        text = facts.read(path)
        if text is not None:
            return text
    raise HostProblem("this installation has no nsbox.service", remedy="install nsbox again")


def plan(
    user: str, state_dir: str, *, ids_only: bool, profile_only: bool, service: bool, restricted: bool
) -> list[Step]:
    """The steps that this host needs, in order."""
    if profile_only:
        return [profile_step()]
    if ids_only:
        return [GiveIds(user)]
    steps: list[Step] = [MakeUser(user, state_dir), GiveIds(user), MakeFolder(state_dir, user)]
    if restricted:
        steps.append(profile_step())
    if service:
        steps.append(unit_step(user, state_dir))
    return steps


class Undoable(Step, Protocol):
    """A change that setup itself can take back."""

    def is_undone(self) -> bool: ...

    def undo_commands(self) -> Sequence[str]:
        """What to type for the same effect."""

    def undo(self) -> None: ...


def revert(steps: Sequence[Undoable], *, dry_run: bool) -> None:
    """Take steps back, the last one first."""
    for step in reversed(steps):
        if step.is_undone():
            click.echo(f"{paint('ok     ', 'green')} {step.title}: not there")
            continue
        commands = list(step.undo_commands())
        if not dry_run:
            step.undo()
        click.echo(f"{paint('would undo' if dry_run else 'undone ', 'yellow')} {step.title}")
        for command in commands:
            click.echo(f"          {command}")


def execute(steps: Sequence[Step], *, dry_run: bool) -> None:
    for step in steps:
        if step.is_done():
            click.echo(f"{paint('ok     ', 'green')} {step.title}")
            continue
        word = "would do" if dry_run else "change "
        commands = list(step.commands())
        if not dry_run:
            step.apply()
        click.echo(f"{paint(word, 'yellow')} {step.title}")
        for command in commands:
            click.echo(f"          {command}")


@click.command(epilog=_UNDO)
@click.option("--user", help="The account to prepare.  [default: nsbox]", metavar="NAME")
@click.option("--state-dir", help="Its state folder and home.  [default: /var/lib/nsbox]", metavar="DIR")
@click.option("--service", is_flag=True, help=f"Also write {UNIT_PATH}.")
@click.option("--ids-only", is_flag=True, help="Only give the account subordinate ids (it must exist).")
@click.option("--profile-only", is_flag=True, help="Only load the AppArmor profile that Ubuntu asks for.")
@click.option("--quota-only", is_flag=True, help="Only limit a pool of project quotas for the state folder.")
@click.option("--undo", is_flag=True, help="With --quota-only: take the limits away again.")
@click.option("--dry-run", is_flag=True, help="Print what would be changed, change nothing.")
def setup(
    user: str | None,
    state_dir: str | None,
    service: bool,
    ids_only: bool,
    profile_only: bool,
    quota_only: bool,
    undo: bool,
    dry_run: bool,
) -> None:
    """Prepare this host, as root: a system user without a shell, a range of subordinate ids for it, a state
    folder that only it can enter and, where its file system has project quotas, a pool of them that holds
    storageMb. What is already there stays as it is."""
    if os.geteuid() != 0 and not dry_run:
        raise HostProblem("setup changes the host and needs root", remedy="sudo nsbox setup (or --dry-run)")
    chosen = settings.load(
        os.environ, {"state_dir": state_dir or settings.SYSTEM_STATE_DIR, "service_user": user}
    )
    if ids_only and account.find(chosen.service_user) is None:
        raise HostProblem(f"there is no user {chosen.service_user}", remedy="sudo nsbox setup --user NAME")
    if undo:
        if not quota_only:
            raise click.UsageError("--undo goes with --quota-only; nsbox setup --help ends with the rest")
        revert([QuotaPool(chosen.service_user, chosen)], dry_run=dry_run)
        return
    if quota_only:
        execute([QuotaPool(chosen.service_user, chosen)], dry_run=dry_run)
        return
    if service and not dry_run:
        check_installed()
    restricted = facts.user_namespaces().apparmor_restricts is True
    steps = plan(
        chosen.service_user,
        chosen.state_dir,
        ids_only=ids_only,
        profile_only=profile_only,
        service=service,
        restricted=restricted,
    )
    if not (ids_only or profile_only) and facts.project_quota(chosen.state_dir):
        steps.append(QuotaPool(chosen.service_user, chosen))
    execute(steps, dry_run=dry_run)
    if service and not dry_run:
        click.echo("start it with: systemctl enable --now nsbox")
