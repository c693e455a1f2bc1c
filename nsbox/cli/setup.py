"""``sudo nsbox setup``: the account nsbox runs as, its subordinate ids, its state folder, the unit.

Every step says whether it is already done and which command does it, so that ``--dry-run`` prints exactly
what would be run, and a second run changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from nsbox import settings
from nsbox.cli.output import paint
from nsbox.cli.setup_network import InstallPasta, MakeTun
from nsbox.cli.setup_quota import QuotaPool
from nsbox.cli.setup_steps import (
    AllowNamespaces,
    Dispensable,
    GiveIds,
    MakeFolder,
    MakeUser,
    Step,
    Undoable,
    WriteFile,
)
from nsbox.cli.setup_units import check_installed, unit_text, user_unit_text
from nsbox.host import account, facts
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


def profile_step() -> Undoable:
    return WriteFile(
        "the AppArmor profile nsbox",
        PROFILE_PATH,
        PROFILE,
        ["apparmor_parser", "--replace", PROFILE_PATH],
        before_undo=[["apparmor_parser", "--remove", PROFILE_PATH]],
    )


def unit_step(user: str, state_dir: str) -> Undoable:
    return WriteFile(
        "the systemd unit",
        UNIT_PATH,
        unit_text(user, state_dir),
        ["systemctl", "daemon-reload"],
        before_undo=[["systemctl", "disable", "--now", "nsbox.service"]],
        after_undo=[["systemctl", "daemon-reload"]],
    )


def user_unit_step(config_home: str) -> Undoable:
    """The unit of a user's own manager, in the user's own folder: nothing of it needs root."""
    return WriteFile(
        "the systemd user unit",
        os.path.join(config_home, "systemd", "user", "nsbox.service"),
        user_unit_text(),
        ["systemctl", "--user", "daemon-reload"],
        before_undo=[["systemctl", "--user", "disable", "--now", "nsbox.service"]],
        after_undo=[["systemctl", "--user", "daemon-reload"]],
    )


def plan(
    user: str,
    state_dir: str,
    *,
    ids_only: bool,
    profile_only: bool,
    service: bool,
    restricted: bool,
    switches: AllowNamespaces | None = None,
    network: bool = False,
) -> list[Step]:
    """The steps that this host needs, in order."""
    if profile_only:
        return [profile_step()]
    if ids_only:
        return [GiveIds(user)]
    steps: list[Step] = [MakeUser(user, state_dir), GiveIds(user), MakeFolder(state_dir, user)]
    if switches is not None and switches.concerns:
        steps.append(switches)
    if network:
        steps += [InstallPasta(), MakeTun()]
    if restricted:
        steps.append(profile_step())
    if service:
        steps.append(unit_step(user, state_dir))
    return steps


def revert(steps: Sequence[Undoable], *, dry_run: bool) -> None:
    """Take steps back, the last one first."""
    for step in reversed(steps):
        if step.is_undone():
            click.echo(f"{paint('ok     ', 'green')} {step.title}: not there")
            continue
        click.echo(f"{paint('would undo' if dry_run else 'undoing', 'yellow')} {step.title}")
        for command in step.undo_commands():
            click.echo(f"          {command}")
        if not dry_run:
            step.undo()


def execute(steps: Sequence[Step], *, dry_run: bool) -> None:
    for step in steps:
        if step.is_done():
            click.echo(f"{paint('ok     ', 'green')} {step.title}")
            continue
        # Said before it is done: whoever interrupts or sees it fail knows which change it was.
        click.echo(f"{paint('would do' if dry_run else 'change ', 'yellow')} {step.title}")
        for command in step.commands():
            click.echo(f"          {command}")
        if not dry_run:
            _apply(step)


def _apply(step: Step) -> None:
    try:
        step.apply()
    except HostProblem as problem:
        if not isinstance(step, Dispensable):
            raise
        click.echo(f"{paint('failed ', 'yellow')} {step.title}: {problem}")
        click.echo(f"          {step.without}")


@click.command()
@click.option("--user", help="The account to prepare.  [default: nsbox]", metavar="NAME")
@click.option("--state-dir", help="Its state folder and home.  [default: /var/lib/nsbox]", metavar="DIR")
@click.option("--service", is_flag=True, help=f"Also write {UNIT_PATH}.")
@click.option("--user-service", is_flag=True, help="Only write a unit of your own; needs no root.")
@click.option("--ids-only", is_flag=True, help="Only give the account subordinate ids (it must exist).")
@click.option("--profile-only", is_flag=True, help="Only load the AppArmor profile that Ubuntu asks for.")
@click.option("--quota-only", is_flag=True, help="Only limit a pool of project quotas for the state folder.")
@click.option("--undo", is_flag=True, help="Take back what setup does: service, images, records, sandboxes.")
@click.option("--dry-run", is_flag=True, help="Print what would be changed, change nothing.")
def setup(
    user: str | None,
    state_dir: str | None,
    service: bool,
    user_service: bool,
    ids_only: bool,
    profile_only: bool,
    quota_only: bool,
    undo: bool,
    dry_run: bool,
) -> None:
    """Prepare this host, as root: a system user without a shell, a range of subordinate ids for it, a state
    folder that only it can enter, pasta (by apt) for the sandboxes' way to the internet and, where the state
    folder's file system has project quotas, a pool of them that holds storageMb. What is already there stays
    as it is."""
    if user_service:
        _set_up_user_service(undo=undo, dry_run=dry_run)
        return
    if os.geteuid() != 0 and not dry_run:
        raise HostProblem("setup changes the host and needs root", remedy="sudo nsbox setup (or --dry-run)")
    chosen = settings.load(
        os.environ, {"state_dir": state_dir or settings.SYSTEM_STATE_DIR, "service_user": user}
    )
    if ids_only and undo:
        raise HostProblem(
            "which ranges the account had before is not known",
            remedy="sudo usermod --del-subuids FIRST-LAST NAME",
        )
    if ids_only and account.find(chosen.service_user) is None:
        raise HostProblem(f"there is no user {chosen.service_user}", remedy="sudo nsbox setup --user NAME")
    if quota_only and account.find(chosen.service_user) is None:
        raise HostProblem(f"there is no user {chosen.service_user}", remedy="sudo nsbox setup --user NAME")
    if quota_only:
        pool = QuotaPool(chosen.service_user, chosen)
        if undo:
            revert([pool], dry_run=dry_run)
        else:
            execute([pool], dry_run=dry_run)
        return
    if service and not (dry_run or undo):
        check_installed()
    steps = plan(
        chosen.service_user,
        chosen.state_dir,
        ids_only=ids_only,
        profile_only=profile_only,
        service=service or undo,
        restricted=facts.user_namespaces().apparmor_restricts is True
        or (undo and os.path.exists(PROFILE_PATH)),
        switches=AllowNamespaces(),
        network=chosen.network is settings.NetworkUse.ON,
    )
    if not (ids_only or profile_only) and facts.project_quota(chosen.state_dir):
        steps.append(QuotaPool(chosen.service_user, chosen))
    if undo:
        # userdel takes the account's ids along. An account that stays keeps them: nobody wrote down which of
        # its ranges setup gave.
        revert([one for one in steps if isinstance(one, Undoable)], dry_run=dry_run)
        return
    execute(steps, dry_run=dry_run)
    if service and not dry_run:
        click.echo("start it with: systemctl enable --now nsbox")


def _set_up_user_service(*, undo: bool, dry_run: bool) -> None:
    if os.geteuid() == 0:
        raise HostProblem(
            "a user's service is set up by that user, not by root",
            remedy="run it without sudo; for all users: sudo nsbox setup --service",
        )
    if not (undo or dry_run):
        check_installed(remedy="pipx install nsbox && nsbox setup --user-service")
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    step = user_unit_step(home)
    if undo:
        revert([step], dry_run=dry_run)
        return
    execute([step], dry_run=dry_run)
    if not dry_run:
        click.echo("start it with: systemctl --user enable --now nsbox")
        click.echo("and let it run while you are not logged in: sudo loginctl enable-linger $USER")
