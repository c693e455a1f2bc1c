"""``nsbox usage`` and ``nsbox metrics``: what was used, and what is used now."""

from __future__ import annotations

import click

from nsbox.cli import remote
from nsbox.client.routes import accounts, sandboxes
from nsbox.client.types import Sample, UsageRow


@click.command()
@click.option("--from", "begin", metavar="DAY", help="From this day on, as 2026-11-01.")
@click.option("--to", "end", metavar="DAY", help="Until then.")
@click.option("--by", type=click.Choice(["day", "sandbox", "key", "total"]), default="day", show_default=True)
@click.option("--csv", "as_csv", is_flag=True, help="As CSV.")
@remote.options
def usage(
    begin: str | None, end: str | None, by: str, as_csv: bool, context: str | None, as_json: bool
) -> None:
    """Show the compute seconds you have used."""
    with remote.connected(context) as nsbox:
        if as_csv:
            click.echo(nsbox.usage_csv(from_=begin, to=end, by=by), nl=False)
            return
        call = accounts.usage("", from_=begin, to=end, by=by)
        data = nsbox.raw(call)
    if as_json:
        remote.echo_json(data)
        return
    found = call.parse(data)
    rows = [(_what(row), str(row.compute_seconds)) for row in found.usage]
    remote.table((by.upper(), "SECONDS"), [*rows, ("all", str(found.compute_seconds))])


def _what(row: UsageRow) -> str:
    return row.day or row.sandbox_id or row.key_id or row.user_id or "-"


@click.command()
@remote.sandbox_argument
@remote.options
def metrics(sandbox: str, context: str | None, as_json: bool) -> None:
    """Show what SANDBOX uses now."""
    with remote.told():
        call = sandboxes.metrics(sandboxes.at(sandbox), history=as_json)
    with remote.connected(context) as nsbox:
        data = nsbox.raw(call)
    if as_json:
        remote.echo_json(data)
        return
    remote.table(("WHAT", "NOW"), _rows(call.parse(data).now))


def _rows(now: Sample) -> list[tuple[str, str]]:
    percent = "-" if now.cpu.percent is None else f"{now.cpu.percent:.1f} %"
    used = "-" if now.cpu.used_ms is None else f"{now.cpu.used_ms / 1000:.1f} s"
    rows = [
        ("cpu", percent),
        ("cpu time", used),
        ("memory", remote.size(now.memory.bytes)),
        ("memory, most", remote.size(now.memory.peak_bytes)),
        ("processes", "-" if now.processes is None else str(now.processes)),
        ("read", remote.size(now.io.read_bytes)),
        ("written", remote.size(now.io.written_bytes)),
    ]
    if now.network is not None:
        rows += [
            ("received", remote.size(now.network.received_bytes)),
            ("sent", remote.size(now.network.sent_bytes)),
        ]
    if now.disk is not None:
        rows.append(("disk", remote.size(now.disk.bytes)))
    return rows
