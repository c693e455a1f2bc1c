"""``nsbox keys``: make, list and revoke API keys, straight in the record."""

from __future__ import annotations

import re
import time
from datetime import datetime

import click

from nsbox.cli.record import print_table, shown_time, with_table
from nsbox.model.account import KeyRecord, Scope
from nsbox.store import users
from nsbox.store.keys import KeyTable

_SPAN = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.argument("name")
@click.option(
    "--user", "which", metavar="USER", help="Whose key: a name or an id. Default: the administrator."
)
@click.option("--owner", hidden=True, help="As before there were users: one of this name, made if need be.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What it opens; may be repeated. Default: sandboxes and files; for an administrator all.",
)
@click.option("--expires", metavar="WHEN", help="A span (12h, 30d) or a time (2027-01-31T12:00Z).")
@with_table
def create(
    table: KeyTable,
    name: str,
    which: str | None,
    owner: str | None,
    scopes: tuple[str, ...],
    expires: str | None,
) -> None:
    """Make a key called NAME and print it, this once."""
    expires_at = None if expires is None else _moment(expires)
    with table.transaction() as connection:
        if which is not None:
            user = users.find(connection, which)
        elif owner is not None:
            user = users.called(connection, owner)
        else:
            user = users.first_admin(connection)
        chosen = [Scope(scope) for scope in scopes] or None
        record, plaintext = table.create(name, user, chosen, expires_at)
    # The key alone goes to stdout, so that `KEY=$(nsbox keys create laptop)` works.
    click.echo(f"{record.id} for {user.name}; the key is shown only now:", err=True)
    click.echo(plaintext)


@keys.command("list")
@click.option("--user", "which", metavar="USER", help="Only those of one user.")
@with_table
def list_keys(table: KeyTable, which: str | None) -> None:
    """List all keys, revoked ones too."""
    with table.transaction() as connection:
        names = {user.id: user.name for user in users.everybody(connection)}
        found = table.list(None if which is None else users.find(connection, which).id)
    head = ("ID", "NAME", "USER", "SCOPES", "KEY", "CREATED", "EXPIRES", "LAST USED", "REVOKED")
    print_table(head, [_row(record, names[record.owner]) for record in found])


@keys.command()
@click.argument("key", metavar="ID", required=False)
@click.option("--user", "which", metavar="USER", help="All keys of this user.")
@with_table
def revoke(table: KeyTable, key: str | None, which: str | None) -> None:
    """Revoke the key with this ID (or the start of the key that `list` shows)."""
    if (key is None) is (which is None):
        raise click.UsageError("give the ID of a key, or --user")
    with table.transaction() as connection:
        if key is not None:
            gone = [table.revoke(key)]
        else:
            user = users.find(connection, which or "")
            gone = [table.revoke(one.id) for one in table.list(user.id) if one.revoked_at is None]
    for record in gone:
        click.echo(f"{record.id} ({record.name}) is revoked.")


def _row(record: KeyRecord, user: str) -> tuple[str, ...]:
    times = (record.created_at, record.expires_at, record.last_used_at, record.revoked_at)
    scopes = ",".join(record.scopes)
    return (record.id, record.name, user, scopes, record.prefix + "…", *map(shown_time, times))


def _moment(text: str) -> float:
    """Wall-clock seconds, to the millisecond."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        at = time.time() + int(span[1]) * _SECONDS[span[2]]
    else:
        try:
            moment = datetime.fromisoformat(text)
            at = moment.astimezone().timestamp()  # without a zone: that of whoever types it
        except (ValueError, OverflowError) as error:
            raise click.BadParameter(
                "a span such as 12h or 30d, or a time such as 2027-01-31T12:00Z", param_hint="--expires"
            ) from error
    if at <= time.time():
        raise click.BadParameter("that is in the past", param_hint="--expires")
    return round(at * 1000) / 1000
