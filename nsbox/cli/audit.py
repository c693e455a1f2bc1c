"""``nsbox audit``: who did what. By the API, as ``nsbox image`` does it."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from nsbox.cli.local import client_of_this_host
from nsbox.cli.output import report
from nsbox.model.errors import HostProblem

_PAGE = 1_000
_HEAD = ("TIME", "ACTION", "USER", "KEY", "SANDBOX", "FROM", "OUTCOME")


@click.command()
@click.option(
    "--limit", default=50, type=click.IntRange(1), help="So many events at most.", show_default=True
)
@click.option("--sandbox", default="", help="Only what was done to this sandbox.")
@click.option("--user", default="", help="Only what this user did.")
@click.option("--action", default="", help="Only this operation, such as create_sandbox.")
@click.option("--json", "as_json", is_flag=True, help="As the API gives it, one event a line.")
def audit(limit: int, sandbox: str, user: str, action: str, as_json: bool) -> None:
    """Show the newest events of the audit log, the newest first."""
    chosen = {"sandboxId": sandbox, "userId": user, "action": action}
    try:
        found = _events({name: value for name, value in chosen.items() if value}, limit)
    except HostProblem as problem:
        report(problem)
        sys.exit(1)
    if as_json:
        for one in found:
            click.echo(json.dumps(one))
        return
    rows = [_HEAD, *(_row(one) for one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _events(chosen: dict[str, str], limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before: int | None = None
    with client_of_this_host(os.environ) as client:
        while len(found) < limit:
            asked = {**chosen, "limit": str(min(_PAGE, limit - len(found)))}
            if before is not None:
                asked["before"] = str(before)
            answer = client.request("GET", "/audit", query=asked)
            if not answer.ok:
                raise HostProblem(answer.explain())
            found += answer.body["events"]
            before = answer.body["next"]
            if before is None:
                break
    return found


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    action = one["action"] if one["count"] == 1 else f"{one['action']} ({one['count']} times)"
    outcome = f"{one['outcome']} {one['status']}" if one["status"] else one["outcome"]
    who = (one["userId"] or "-", one["keyId"] or "-", one["sandboxId"] or "-")
    return (one["at"], action, *who, one["from"], outcome)
