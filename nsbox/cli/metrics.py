"""``nsbox metrics``: what a sandbox uses now."""

from __future__ import annotations

import click

from nsbox.cli import output, remote
from nsbox.client.routes import sandboxes
from nsbox.client.types import Sample


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
        ("memory", output.size(now.memory.bytes)),
        ("memory, most", output.size(now.memory.peak_bytes)),
        ("processes", "-" if now.processes is None else str(now.processes)),
        ("read", output.size(now.io.read_bytes)),
        ("written", output.size(now.io.written_bytes)),
    ]
    if now.network is not None:
        rows += [
            ("received", output.size(now.network.received_bytes)),
            ("sent", output.size(now.network.sent_bytes)),
        ]
    if now.disk is not None:
        rows.append(("disk", output.size(now.disk.bytes)))
    return rows
