"""``nsbox usage``: what sandboxes have cost.

Asks the daemon that ``NSBOX_URL`` and ``NSBOX_API_KEY`` name, else that of this host's state folder.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from nsbox.cli.local import client_of_this_host
from nsbox.cli.output import report
from nsbox.model.errors import HostProblem

#: What a line is named by, in the API's words, and above the column.
_COLUMNS = {"day": ("day", "DAY"), "sandbox": ("sandboxId", "SANDBOX"), "key": ("keyId", "KEY")}


@click.command()
@click.option(
    "--from", "begin", metavar="DAY", help="The first day, as 2026-11-01.  [default: of this month]"
)
@click.option(
    "--to", "end", metavar="DAY", help="The day after the last.  [default: the month after this one]"
)
@click.option("--by", type=click.Choice(["day", "sandbox", "key", "total"]), default="day", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print what the API answered.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
def usage(begin: str | None, end: str | None, by: str, as_json: bool, as_csv: bool) -> None:
    """Show how many compute seconds sandboxes have run, in whole days (UTC). Paused time is free."""
    if as_json and as_csv:
        raise click.UsageError("give --json or --csv, not both")
    query = {"by": by} | {name: day for name, day in (("from", begin), ("to", end)) if day is not None}
    try:
        with client_of_this_host(os.environ) as client:
            if as_csv:
                client.download("/usage", {**query, "format": "csv"}, sys.stdout.buffer.write)
                return
            answer = client.request("GET", "/usage", query=query)
            if not answer.ok:
                raise HostProblem(answer.explain())
            found = answer.body
    except HostProblem as problem:
        report(problem)
        sys.exit(1)
    click.echo(json.dumps(found, indent=2) if as_json else _table(found))


def _table(found: dict[str, Any]) -> str:
    """The lines, and under them all together."""
    rows = []
    if found["by"] in _COLUMNS:
        member, head = _COLUMNS[found["by"]]
        rows = [(head, "SECONDS")]
        rows += [(line[member] or "(none)", str(line["computeSeconds"])) for line in found["usage"]]
    rows.append(("total", str(found["computeSeconds"])))
    name, seconds = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{left.ljust(name)}  {right.rjust(seconds)}" for left, right in rows)
