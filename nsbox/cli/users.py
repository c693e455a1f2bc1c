"""``nsbox users``: make, look at, change, disable and remove users, straight in the record."""

from __future__ import annotations

import os
import time

import click
import msgspec

from nsbox.cli.record import print_table, shown_time, with_table
from nsbox.model.account import Role, User
from nsbox.model.errors import HostProblem
from nsbox.settings import load
from nsbox.store import keys as key_rows
from nsbox.store import users as rows
from nsbox.store.keys import KeyTable

_ROLES = click.Choice([role.value for role in Role])
_HEAD = ("ID", "NAME", "ROLE", "PLAN", "CREATED", "DISABLED")


@click.group()
def users() -> None:
    """Make, list, change, disable and remove users. USER is an id or a name."""


@users.command()
@click.argument("name")
@click.option("--role", type=_ROLES, default=Role.USER.value, show_default=True)
@click.option("--plan", default="", help="Default: the plan of the settings.")
@with_table
def create(table: KeyTable, name: str, role: str, plan: str) -> None:
    """Make a user called NAME and print the id. Keys: `nsbox keys create --user NAME`."""
    _check_plan(plan)
    with table.transaction() as connection:
        user = rows.insert(connection, name, Role(role), plan)
    click.echo(user.id)


@users.command("list")
@with_table
def list_users(table: KeyTable) -> None:
    """List all users."""
    with table.transaction() as connection:
        found = rows.everybody(connection)
    print_table(_HEAD, [_row(user) for user in found])


@users.command()
@click.argument("user", metavar="USER")
@with_table
def show(table: KeyTable, user: str) -> None:
    """Show a user, and what the user has."""
    with table.transaction() as connection:
        found = rows.find(connection, user)
        held = rows.holdings(connection, found.id)
        in_force = sum(one.in_force(time.time()) for one in key_rows.of_user(connection, found.id))
    for name, value in zip(_HEAD, _row(found), strict=True):
        click.echo(f"{name.lower():10}{value}")
    click.echo(f"{'keys':10}{in_force} in force")
    click.echo(f"{'sandboxes':10}{held.sandboxes} alive")
    click.echo(f"{'snapshots':10}{held.snapshots}")


@users.command("set")
@click.argument("user", metavar="USER")
@click.option("--name")
@click.option("--role", type=_ROLES)
@click.option("--plan", help="Empty: the plan of the settings.")
@with_table
def set_user(table: KeyTable, user: str, name: str | None, role: str | None, plan: str | None) -> None:
    """Change a user's name, role or plan."""
    _check_plan(plan or "")
    given = {"name": name, "role": None if role is None else Role(role), "plan": plan}
    _change(table, user, {member: value for member, value in given.items() if value is not None})


@users.command()
@click.argument("user", metavar="USER")
@with_table
def disable(table: KeyTable, user: str) -> None:
    """Refuse all keys of a user from now on. Sandboxes run on until their time is over."""
    _change(table, user, {"disabled_at": time.time()})


@users.command()
@click.argument("user", metavar="USER")
@with_table
def enable(table: KeyTable, user: str) -> None:
    """Let the keys of a user in again."""
    _change(table, user, {"disabled_at": None})


@users.command()
@click.argument("user", metavar="USER")
@with_table
def remove(table: KeyTable, user: str) -> None:
    """Remove a user who has neither sandboxes nor snapshots, with all keys."""
    with table.transaction() as connection:
        found = rows.find(connection, user)
        held = rows.holdings(connection, found.id)
        if any(held):
            raise HostProblem(
                f"{found.name} has {held.sandboxes} sandboxes alive and keeps {held.snapshots} snapshots",
                remedy=f"nsbox users disable {found.id}, and end and remove those with an administrator's key"
                f" and the header Nsbox-User: {found.id}",
            )
        key_rows.remove_all(connection, found.id)
        rows.remove(connection, found.id)
    click.echo(f"{found.id} ({found.name}) is removed.")


def _check_plan(name: str) -> None:
    """A user with a plan that nobody knows could make nothing, and would learn so only then."""
    try:
        if name:
            load(os.environ).plan(name)
    except HostProblem as problem:
        remedy = "choose one of these; plans of your own are in the file that NSBOX_CONFIG names"
        raise HostProblem(problem.detail, remedy=remedy) from problem


def _change(table: KeyTable, which: str, members: dict[str, object]) -> None:
    with table.transaction() as connection:
        changed = msgspec.structs.replace(rows.find(connection, which), **members)
        rows.replace(connection, changed)
    print_table(_HEAD, [_row(changed)])


def _row(user: User) -> tuple[str, ...]:
    times = (shown_time(user.created_at), shown_time(user.disabled_at))
    return (user.id, user.name, user.role.value, user.plan or "-", *times)
